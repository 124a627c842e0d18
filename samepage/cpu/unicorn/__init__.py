"""The engine that emulates: Unicorn, with our page tables behind its TLB.

It runs anywhere, needs no rights, and counts instructions. What is here to work around Unicorn's
own behaviour is here only; what reaches into its private parts is in `private`.

    engine      the `Engine`: TLB fills, code frames, stops
    emulator    Unicorn's C functions, called directly
    private     fields of Unicorn's state that no function serves
    library     how the shared library is found and loaded, beside the imports
    registers   our numbers of registers and Unicorn's
    fxsave      the FPU's registers as one area
    operands    where an instruction's operands are: the address of a page fault
    rmw         which instructions write back what they read
    features    what the emulated CPU has, and has not
    sandbox     single functions without a kernel (Unicorn's Python binding)
"""
