/* What the kernel's rules decide, one subject a subcommand: `memory anonymous`. Freestanding, so
 * that the program is the same whatever the C library is. */
#include "calls.h"

static char zeros[40 * PAGE];
static char data[6 * PAGE] = {1};
static const char constants[24 * PAGE] = {1};

/* The zero page, first writes after reads, and what madvise gives back. */
static int anonymous(void)
{
    char *at = map(0, 64, R | W, PRIVATE | ANON, -1, 0);
    look(at, 32, 3);
    touch(at, 64, 5);
    call3(MADVISE, at + 10 * PAGE, 20 * PAGE, 4); /* MADV_DONTNEED */
    look(at + 10 * PAGE, 20, 2);
    char *populated = map(0, 9, R | W, PRIVATE | ANON | POPULATE, -1, 0);
    touch(populated, 9, 2);
    map(0, 5, R, PRIVATE | ANON | POPULATE, -1, 0);
    return 0;
}

/* The heap beside the program's bss, whose first page is that of the data. */
static int heap(void)
{
    touch(zeros, 40, 7);
    long end = call3(BRK, 0, 0, 0);
    call3(BRK, end + 30 * PAGE + 100, 0, 0);
    touch((char *)end, 30, 4);
    call3(BRK, end + 11 * PAGE, 0, 0);
    call3(BRK, end + 25 * PAGE, 0, 0);
    return look((char *)end, 25, 1);
}

/* Fault-around, private and shared mappings of a file, and its data segment. */
static int files(const char *self)
{
    long fd = call3(OPEN, self, 0, 0);
    char *shared = map(0, 12, R, SHARED, fd, 0), *copied = map(0, 12, R | W, PRIVATE, fd, 0);
    look(shared + 3 * PAGE, 1, 1);
    touch(copied + 5 * PAGE, 2, 1);
    look(copied, 12, 4);
    touch(data, 6, 4);
    return look((char *)constants, 24, 11) + look(map(0, 3, R | X, PRIVATE, fd, PAGE), 1, 1);
}

/* VMAs that are split and merged again. */
static int split(void)
{
    char *at = map(0, 40, R | W, PRIVATE | ANON, -1, 0);
    touch(at, 40, 1);
    call3(MPROTECT, at + 10 * PAGE, 10 * PAGE, R);
    call3(MPROTECT, at + 15 * PAGE, 10 * PAGE, 0);
    call3(MPROTECT, at + 10 * PAGE, 5 * PAGE, R | W);
    touch(at + 8 * PAGE, 7, 1);
    call3(MUNMAP, at + 30 * PAGE, 2 * PAGE, 0);
    map((long)(at + 30 * PAGE), 2, R | W, PRIVATE | ANON | FIXED, -1, 0);
    call3(MUNMAP, at + 36 * PAGE, PAGE, 0);
    return look(at + 28 * PAGE, 8, 1);
}

/* mremap: in place, elsewhere, and shrunk. */
static int remap(void)
{
    char *at = map(0, 16, R | W, PRIVATE | ANON, -1, 0);
    map((long)at - 2 * PAGE, 2, R, PRIVATE | ANON | FIXED, -1, 0);
    touch(at, 16, 2);
    char *moved = (char *)call6(MREMAP, (long)at, 16 * PAGE, 64 * PAGE, 1, 0, 0);
    touch(moved, 64, 3);
    call6(MREMAP, (long)moved, 64 * PAGE, 20 * PAGE, 0, 0, 0);
    return look(moved, 20, 1);
}

/* Copy-on-write over two generations, shared memory, and a page that only one still has. */
static int forks(void)
{
    char *own = map(0, 24, R | W, PRIVATE | ANON, -1, 0);
    char *shared = map(0, 24, R | W, SHARED | ANON, -1, 0);
    touch(own, 24, 1);
    for (int child = 0; child < 3; child++)
        if (!call3(FORK, 0, 0, 0)) {
            touch(own + child * PAGE, 8, 2);
            touch(shared + child * 4 * PAGE, 6, 1);
            if (child == 1 && !call3(FORK, 0, 0, 0)) {
                touch(own, 24, 3);
                leave(0);
            }
            wait_for_all();
            leave(child);
        }
    wait_for_all();
    touch(own, 24, 5);
    return look(shared, 24, 1);
}

/* The stack grows by faults, and by as much as it has to. */
static NOINLINE int deeper(int depth)
{
    volatile char frame[3000];
    frame[0] = depth;
    return depth ? deeper(depth - 1) + frame[0] - depth : 0;
}
static int stack(void) { return deeper(60); }

/* A signal frame holds the CPU's registers: its size is the CPU's. */
struct action { void (*handler)(int); word flags; void (*restorer)(void); word mask; };
__attribute__((naked)) static void restore(void)
{
    __asm__("mov $15, %eax\n\tsyscall");
}
static volatile int caught;
static void handle(int number) { caught = number; }
static int signals(void)
{
    struct action action = {handle, 0x04000000, restore, 0};
    call6(SIGACTION, 10, (long)&action, 0, 8, 0, 0);
    call3(KILL, call3(GETPID, 0, 0, 0), 10, 0);
    return caught - 10;
}

/* A child that borrows the memory, and becomes this program again. */
static int vforks(char *self, char **env)
{
    char *arguments[] = {self, "split", 0};
    touch(data, 6, 1);
    if (!call3(VFORK, 0, 0, 0)) {
        call3(EXECVE, self, arguments, env);
        leave(1);
    }
    wait_for_all();
    return look(zeros, 40, 10);
}

/* Mappings that the kernel places: hints, holes, and lengths that want to be aligned. */
static int places(void)
{
    char *first = map(0, 600, R | W, PRIVATE | ANON | NORESERVE, -1, 0);
    char *second = map(0, 3, R | W, PRIVATE | ANON, -1, 0);
    call3(MUNMAP, first + 100 * PAGE, 8 * PAGE, 0);
    touch(map(0, 6, R | W, PRIVATE | ANON, -1, 0), 6, 5);
    look(map((long)second - 64 * PAGE, 2, R, PRIVATE | ANON, -1, 0), 2, 1);
    touch(map(0x10000000, 2, R | W, PRIVATE | ANON, -1, 0), 2, 1);
    touch(second, 3, 2);
    return look(first, 100, 33);
}

static int same(const char *left, const char *right)
{
    while (*left && *left == *right)
        left++, right++;
    return *left == *right;
}

__attribute__((used)) static void begin(word *sp)
{
    char **argv = (char **)(sp + 1), **env = argv + sp[0] + 1, *what = argv[1];
    int status = 99;
    if (same(what, "anonymous")) status = anonymous();
    if (same(what, "heap")) status = heap();
    if (same(what, "files")) status = files(argv[0]);
    if (same(what, "split")) status = split();
    if (same(what, "remap")) status = remap();
    if (same(what, "forks")) status = forks();
    if (same(what, "stack")) status = stack();
    if (same(what, "signals")) status = signals();
    if (same(what, "vforks")) status = vforks(argv[0], env);
    if (same(what, "places")) status = places();
    leave(status);
}

__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin");
