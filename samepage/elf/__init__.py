"""The tables of ELF files, checked where they are read.

A file is mapped once, and its tables are NumPy views of that map: an operation works on a whole
column, and no symbol or relocation becomes an object of its own. `object.DynamicObject` is
everything that a dynamic linker uses of one file; `header` is the little that a kernel's `execve`
needs, and does without NumPy. Whatever a file claims about itself is checked against its size
before it is used: a damaged file is an `ElfError`.
"""
