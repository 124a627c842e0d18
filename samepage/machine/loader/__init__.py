"""A program's start with our linker in ld.so's place (`samepage run --loader builtin`).

The kernel's `execve` maps the program and its interpreter, as always. Then the linker does
what the interpreter would do, as code of the process: by the kernel's system calls on the
process's behalf, and by loads and stores in its memory, which fault as any program's do.
Code of the program's own files runs on the model's CPU: IFUNC resolvers while it links,
constructors once `Machine.run` is called.

    user_side   system calls, loads and stores, calls of functions, for one thread
    memory      the linker's `Memory` protocol on top of that
    code        the machine code that we add to a process: start, exit, PLT resolver
    lazy        lazy binding by a table that the resolver reads
    tls         the first thread's static TLS block and control block
    ldso        what glibc's libc expects of ld.so's variables
    musl        what musl's libc expects of its own loader
    start       all of it in order
"""
