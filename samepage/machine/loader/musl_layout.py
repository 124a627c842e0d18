"""Where musl's libc.so has the state of its loader: struct offsets, and addresses by build.

Offsets are those of musl 1.2.3 on x86-64. The variables have no names in the file, so their
addresses are known by build-id.
"""

from dataclasses import dataclass

DSO_SIZE = 384
PTHREAD_SIZE = 200
BUILTIN_TLS_SIZE = 336
MIN_TLS_ALIGN = 8
JOINABLE = 2
"""`DT_JOINABLE` of `struct pthread`'s `detach_state`."""


class Thread:
    """Offsets in `struct pthread`."""

    SELF, DTV, PREV, NEXT = 0, 8, 16, 24
    TID = 48
    DETACH_STATE = 56
    ROBUST_HEAD = 136
    LOCALE = 168


class Dso:
    """Offsets in `struct dso`."""

    BASE, NAME, DYNV, NEXT, PREV, PHDR, PHNUM, PHENTSIZE = range(0, 64, 8)
    SYMS, HASHTAB, GHASHTAB, VERSYM, STRINGS, SYMS_NEXT = range(64, 112, 8)
    MAP, MAP_LEN, DEV, INO = range(136, 168, 8)
    RELOCATED, KERNEL_MAPPED = 168, 170
    DEPS, NEEDED_BY, NDEPS_DIRECT, NEXT_DEP = range(176, 208, 8)
    RPATH_ORIG = 216
    TLS = 232
    TLS_ID = 280
    RELRO_START, RELRO_END = 288, 296
    SHORTNAME = 336
    GOT = 360


@dataclass(frozen=True, slots=True)
class Build:
    """Addresses in the file of variables, by their names in the source."""

    libc: int
    thread_list_lock: int
    builtin_tls: int
    app: int
    vdso: int
    ldso: int
    debug: int
    no_deps: int
    head: int
    tail: int
    syms_tail: int
    main_ctor_queue: int
    tls_tail: int
    tls_cnt: int
    tls_offset: int
    tls_align: int
    static_tls_cnt: int
    page_size: int
    runtime: int
    malloc_replaced: int
    aligned_alloc_replaced: int
    env_path: int


class Libc:
    """Offsets in `struct __libc`."""

    CAN_DO_THREADS = 0
    AUXV, TLS_HEAD, TLS_SIZE, TLS_ALIGN, TLS_CNT, PAGE_SIZE, GLOBAL_LOCALE = range(8, 64, 8)


BUILDS = {
    # Debian 12, musl 1.2.3-1
    "54d00df44fce62f541ca62b56bdef5bf31ff077c": Build(
        libc=0xAC780,
        thread_list_lock=0xAEE70,
        builtin_tls=0xAE980,
        app=0xAE560,
        vdso=0xAE3E0,
        ldso=0xAE800,
        debug=0xAE780,
        no_deps=0xA8178,
        head=0xAEE50,
        tail=0xAEE48,
        syms_tail=0xAEE38,
        main_ctor_queue=0xAEDE8,
        tls_tail=0xAEE08,
        tls_cnt=0xAEE00,
        tls_offset=0xAEDF8,
        tls_align=0xAC3E0,
        static_tls_cnt=0xAEDF0,
        page_size=0xAC7B0,
        runtime=0xAEF34,
        malloc_replaced=0xAEEA4,
        aligned_alloc_replaced=0xAEEA0,
        env_path=0xAEE28,
    ),
}
