"""The linker in its own process: `dlopen` of libraries beside those that ld.so loaded.

Libraries that the process has already are taken over as they are (`process`); what is new is
mapped and relocated by our linker with real system calls. Constructors run as ld.so runs them,
`dlclose` unloads what is no longer used, and `resident` shows which pages became copies.
"""
