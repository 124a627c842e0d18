"""Where glibc's ld.so has its variables: struct offsets, and addresses by build.

libc and ld.so are one program in two files: libc reads `_rtld_global` and `_rtld_global_ro`
directly, by offsets that were compiled into both. These offsets belong to one version of
glibc (x86-64, 2.36, from the types in its debug information). Variables that ld.so does
not export have addresses that belong to one build; they are listed by its build-id.
"""

from dataclasses import dataclass

VERSION = "2.36"
RTLD_GLOBAL_SIZE = 4336
RTLD_GLOBAL_RO_SIZE = 896


class Global:
    """`struct rtld_global`; the first namespace (`_dl_ns[0]`) is at its start."""

    LOADED = 0
    NLOADED = 8
    MAIN_SEARCHLIST = 16
    LIBC_MAP = 32
    NNS = 2560
    LOAD_ADDS = 2688
    ALL_DIRS = 2728
    RTLD_MAP = 2736
    STACK_FLAGS = 4192
    TLS_MAX_DTV = 4200
    TLS_SLOTINFO = 4208
    TLS_STATIC_NELEM = 4216
    TLS_STATIC_USED = 4224
    TLS_STATIC_OPTIONAL = 4232
    INITIAL_DTV = 4240
    TLS_GENERATION = 4248
    STACK_USED = 4264
    STACK_USER = 4280
    STACK_CACHE = 4296


class GlobalRo:
    """`struct rtld_global_ro`."""

    PLATFORM = 8
    PLATFORM_LENGTH = 16
    PAGESIZE = 24
    MINSIGSTACKSIZE = 32
    INITIAL_SEARCHLIST = 48
    CLKTCK = 64
    LAZY = 76
    HWCAP = 96
    AUXV = 104
    TLS_STATIC_SIZE = 672
    TLS_STATIC_ALIGN = 680
    TLS_STATIC_SURPLUS = 688
    INIT_ALL_DIRS = 712
    SYSINFO_DSO = 720
    SYSINFO_MAP = 728
    VDSO = 736
    HWCAP2 = 776
    DSO_SORT_ALGO = 784
    FIND_OBJECT = 864


VDSO_FUNCTIONS = (
    "__vdso_clock_gettime",
    "__vdso_gettimeofday",
    "__vdso_time",
    "__vdso_getcpu",
    "__vdso_clock_getres",
)
"""What the words from `GlobalRo.VDSO` on address, in order."""


class Map:
    """`struct link_map`."""

    SIZE = 1192
    ADDR, NAME, LD, NEXT, PREV, REAL = 0, 8, 16, 24, 32, 40
    LIBNAME = 56
    INFO = 64
    PHDR, ENTRY, PHNUM, LDNUM = 704, 712, 720, 722
    SEARCHLIST, SYMBOLIC_SEARCHLIST = 728, 744
    LOADER = 760
    VERSIONS, NVERSIONS = 768, 776
    NBUCKETS, BITMASK_IDXBITS, GNU_SHIFT = 780, 784, 788
    BITMASK, BUCKETS, CHAIN_ZERO = 792, 800, 808
    DIRECT_OPENCOUNT = 816
    FLAG_BITS = 820
    RPATH_DIRS = 840
    VERSYMS = 864
    ORIGIN = 872
    MAP_START, MAP_END, TEXT_END = 880, 888, 896
    SCOPE_MEM, SCOPE_MAX, SCOPE = 904, 936, 944
    LOCAL_SCOPE = 952
    FILE_ID = 968
    RUNPATH_DIRS = 984
    INITFINI = 1000
    USED = 1028
    FLAGS_1, FLAGS = 1036, 1040
    TLS_INITIMAGE, TLS_INITIMAGE_SIZE, TLS_BLOCKSIZE, TLS_ALIGN = 1104, 1112, 1120, 1128
    TLS_FIRSTBYTE, TLS_OFFSET, TLS_MODID = 1136, 1144, 1152
    RELRO_ADDR, RELRO_SIZE = 1168, 1176
    SERIAL = 1184


class Flag:
    """Bits of the word at `Map.FLAG_BITS`."""

    LIBRARY = 1
    RELOCATED = 1 << 3
    INIT_CALLED = 1 << 4
    GLOBAL = 1 << 5
    VISITED = 1 << 9
    CONTIGUOUS = 1 << 19
    LD_READONLY = 1 << 21
    FIND_OBJECT_PROCESSED = 1 << 22


class Thread:
    """`struct pthread`."""

    DTV = 8
    LIST = 704
    TID = 720
    ROBUST_PREV = 728
    ROBUST_HEAD = 736
    ROBUST_OFFSET = 744
    SPECIFIC_FIRST = 784
    SPECIFIC = 1296
    USER_STACK = 1554
    STACKBLOCK_SIZE = 1688
    RSEQ = 2336


@dataclass(frozen=True, slots=True)
class Private:
    """Addresses in the file of variables that ld.so does not export."""

    malloc: int
    calloc: int
    free: int
    realloc: int
    mutex_lock: int
    mutex_unlock: int
    random: int
    pointer_guard: int
    argc: int
    environ: int
    current_break: int
    libname: int
    search_dirs: int
    env_path_list: int
    max_dirname_length: int
    capability_strings: int
    capability_count: int
    max_capability_length: int
    find_object_main: int
    find_object_nodelete: int
    find_object_nodelete_size: int
    find_object_nodelete_end: int
    stack_protection: int
    fini: int
    find_object: int


BUILDS = {
    # Debian 12, glibc 2.36-9+deb12u14
    "7ebc65e52f2bbea498b4040fa92f7238377aaba9": Private(
        malloc=0x32A28,
        calloc=0x32A38,
        free=0x32A30,
        realloc=0x32A20,
        mutex_lock=0x32A48,
        mutex_unlock=0x32A40,
        random=0x32A50,
        pointer_guard=0x32A90,
        argc=0x32AA0,
        environ=0x342D0,
        current_break=0x34298,
        libname=0x34280,
        search_dirs=0x31980,
        env_path_list=0x319B0,
        max_dirname_length=0x34170,
        capability_strings=0x319A0,
        capability_count=0x31998,
        max_capability_length=0x31990,
        find_object_main=0x31960,
        find_object_nodelete=0x31940,
        find_object_nodelete_size=0x31948,
        find_object_nodelete_end=0x31950,
        stack_protection=0x319C0,
        fini=0x46D0,
        find_object=0x3B30,
    ),
}
