"""The linker in its own process: `dlopen` of libraries beside those that ld.so loaded."""
