/* What instructions do that the CPU cannot or may not execute, and code that programs write. */
#include "oracle.h"
#include <fenv.h>
#include <sched.h>
#include <setjmp.h>
#include <ucontext.h>

static sigjmp_buf jump;
static char *expected;

static void teller(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    long at = (char *)info->si_addr - expected;
    printf("SIG%s code %d trap %lld", sigabbrev_np(signal), info->si_code,
           (long long)u->uc_mcontext.gregs[REG_TRAPNO]);
    if (info->si_addr)
        printf(" at %s", at >= 0 && at < 64 ? "the instruction" : "elsewhere");
    printf("\n");
    siglongjmp(jump, 1);
}

static void catch_all(void) {
    int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};
    for (int i = 0; i < 5; i++)
        handle_info(signals[i], teller, 0);
}

/* Code that the program writes itself. */
static char *code(const void *bytes, size_t size) {
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, bytes, size);
    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    return expected = page;
}
#define RUN(...)                                                              \
    do {                                                                      \
        unsigned char bytes_[] = {__VA_ARGS__, 0xc3};                         \
        char *page_ = code(bytes_, sizeof bytes_);                            \
        printf("%s: ", #__VA_ARGS__);                                         \
        if (!sigsetjmp(jump, 1)) {                                            \
            ((void (*)(void))page_)();                                        \
            printf("done\n");                                                 \
        }                                                                     \
    } while (0)

TEST(exceptions_become_signals) {
    catch_all();
    RUN(0x0f, 0x0b);                                     /* ud2 */
    RUN(0xcc);                                           /* int3 */
    RUN(0xcd, 0x03);                                     /* int 3 */
    RUN(0x31, 0xc9, 0x31, 0xd2, 0xf7, 0xf1);             /* div ecx = 0 */
    RUN(0xb8, 0, 0, 0, 0x80, 0x99, 0xb9, 0xff, 0xff, 0xff, 0xff, 0xf7, 0xf9); /* idiv overflow */
    RUN(0xf4);                                           /* hlt */
    RUN(0xfa);                                           /* cli */
    RUN(0x0f, 0x20, 0xc0);                               /* mov rax, cr0 */
    RUN(0x0f, 0x32);                                     /* rdmsr */
    RUN(0xe4, 0x80);                                     /* in al, 0x80 */
    RUN(0x0f, 0x00, 0xd8);                               /* ltr ax */
    RUN(0x0f, 0x01, 0x10);                               /* lgdt [rax] */
    RUN(0x0f, 0x01, 0xf8);                               /* swapgs */
    RUN(0x48, 0xcf);                                     /* iretq: bad frame */
    RUN(0xcd, 0x42);                                     /* int 0x42 */
    RUN(0x06);                                           /* push es */
    RUN(0x0f, 0xff, 0xc0);                               /* ud0 */
    RUN(0x0f, 0xb9, 0xc0);                               /* ud1 */
    RUN(0xf0, 0x90);                                     /* lock nop */
}

TEST(ordinary_instructions_work) {
    unsigned long low, high;
    RUN(0x0f, 0x31);                                     /* rdtsc */
    RUN(0xf3, 0x90);                                     /* pause */
    RUN(0x0f, 0xae, 0xe8);                               /* lfence */
    RUN(0xf3, 0x0f, 0x1e, 0xfa);                         /* endbr64 */
    asm volatile("mul %2" : "=a"(low), "=d"(high) : "r"(-1UL), "a"(-1UL));
    printf("%lx %lx\n", low, high);
}

TEST(code_may_be_rewritten) {
    unsigned char mov[] = {0xb8, 1, 0, 0, 0, 0xc3};
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, mov, sizeof mov);
    for (int i = 0; i < 5; i++) {
        page[1] = i;
        printf("%d ", ((int (*)(void))page)());
    }
    for (int i = 5; i < 10; i++) {
        mprotect(page, PAGE, PROT_READ | PROT_WRITE);
        page[1] = i;
        mprotect(page, PAGE, PROT_READ | PROT_EXEC);
        printf("%d ", ((int (*)(void))page)());
    }
    printf("\n");
}

TEST(code_may_rewrite_what_follows_in_its_block) {
    unsigned char self_modifying[] = {
        0x48, 0x8d, 0x05, 0x05, 0, 0, 0,                 /* lea rax, [rip + 5] */
        0xc6, 0x40, 0x01, 0x2a,                          /* mov byte [rax + 1], 42 */
        0x90,                                            /* nop */
        0xb8, 1, 0, 0, 0, 0xc3};                         /* mov eax, 1; ret */
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, self_modifying, sizeof self_modifying);
    printf("%d\n", ((int (*)(void))page)());
}

TEST(code_through_two_mappings_of_one_page) {
    char name[] = "/tmp/oracle-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    ftruncate(fd, PAGE);
    char *w = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *x = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    unsigned char mov[] = {0xb8, 1, 0, 0, 0, 0xc3};
    memcpy(w, mov, sizeof mov);
    for (int i = 1; i < 6; i++) {
        w[1] = i;
        printf("%d ", ((int (*)(void))x)());
    }
    for (char i = 6; i < 10; i++) {
        pwrite(fd, &i, 1, 1);
        printf("%d ", ((int (*)(void))x)());
    }
    printf("\n");
}

TEST(code_read_from_a_file_into_old_memory) {
    unsigned char mov[] = {0xb8, 1, 0, 0, 0, 0xc3};
    int fds[2];
    pipe(fds);
    for (int i = 0; i < 5; i++) {
        char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mov[1] = i;
        write(fds[1], mov, sizeof mov);
        read(fds[0], page, sizeof mov);
        printf("%d ", ((int (*)(void))page)());
        munmap(page, PAGE);
    }
    printf("\n");
}

TEST(code_is_private_after_fork) {
    unsigned char mov[] = {0xb8, 1, 0, 0, 0, 0xc3};
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, mov, sizeof mov);
    ((int (*)(void))page)();
    CHILD(page[1] = 9; printf("child %d\n", ((int (*)(void))page)()));
    printf("parent %d\n", ((int (*)(void))page)());
    page[1] = 7;
    CHILD(printf("child %d\n", ((int (*)(void))page)()));
}

static void print_registers(int signal, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    printf("SIG%s at +%ld, rbx %lld\n", sigabbrev_np(signal),
           (long)((char *)registers[REG_RIP] - expected), (long long)registers[REG_RBX]);
    siglongjmp(jump, 1);
}

TEST(nothing_after_a_port_access_is_executed) {
    handle_info(SIGSEGV, print_registers, 0);
    static long word;
    unsigned char bytes[] = {0x31, 0xdb, 0xe4, 0x80,     /* xor ebx, ebx; in al, 0x80 */
                             0x48, 0xff, 0xc3,           /* inc rbx */
                             0x48, 0xff, 0x07, 0xc3};    /* inc qword [rdi]; ret */
    char *page = code(bytes, sizeof bytes);
    if (!sigsetjmp(jump, 1))
        ((void (*)(long *))page)(&word);
    printf("word %ld\n", word);
}

TEST(data_is_not_executable) {
    catch_all();
    static unsigned char ret[] = {0xc3};
    expected = (char *)ret;
    if (!sigsetjmp(jump, 1)) {
        ((void (*)(void))ret)();
        printf("executed\n");
    }
}

TEST(floating_point_state_survives_signals_and_switches) {
    static volatile sig_atomic_t seen;
    void clobber(int signal) {
        (void)signal;
        asm volatile("fninit; fldpi; fldz; pxor %%xmm7, %%xmm7" : : : "xmm7");
        seen++;
    }
    handle(SIGUSR1, clobber, 0);
    double in = 1.5, out = 0;
    long double x = 2.25L, y;
    pid_t child = fork();
    if (!child) {
        asm volatile("movq %0, %%xmm7; fldz; fldz" : : "r"(123L) : "xmm7");
        for (int i = 0; i < 20; i++)
            sched_yield();
        _exit(0);
    }
    asm volatile("movsd %1, %%xmm7\n fldt %2\n"
                 "mov %3, %%edi\n mov %4, %%esi\n mov $62, %%eax\n syscall\n"
                 "mov $24, %%eax\n syscall\n mov $24, %%eax\n syscall\n"
                 "movsd %%xmm7, %0\n"
                 "fstpt %5\n"
                 : "=m"(out) : "m"(in), "m"(x), "r"(getpid()), "i"(SIGUSR1), "m"(y)
                 : "rdi", "rsi", "rax", "rcx", "r11", "xmm7", "memory");
    printf("%g %Lg seen %d\n", out, y, seen);
    show_end(child);
}

TEST(rounding_mode) {
    volatile double one = 1, three = 3, zero = 0;
    fesetround(FE_UPWARD);
    printf("%.17g\n", one / three);
    CHILD(printf("child %d\n", fegetround() == FE_UPWARD));
    fesetround(FE_TONEAREST);
    printf("%.17g %g\n", one / three, one / zero);
}

TEST(flags_survive_signals) {
    static volatile sig_atomic_t seen;
    void handler(int signal) { (void)signal; seen++; asm volatile("cld; clc"); }
    handle(SIGUSR1, handler, 0);
    unsigned char carry;
    asm volatile("mov %1, %%edi\n mov %2, %%esi\n mov $62, %%eax\n stc\n syscall\n setc %0\n"
                 : "=r"(carry) : "r"(getpid()), "i"(SIGUSR1) : "rdi", "rsi", "rax", "rcx", "r11", "memory");
    printf("carry %d seen %d\n", carry, seen);
}

TEST(code_of_a_private_file_page_is_rewritten) {
    unsigned char code[PAGE] = {0xb8, 1, 0, 0, 0, 0xc3}; /* mov $1, %eax; ret */
    int fd = memfd_create("code", 0);
    write(fd, code, PAGE);
    volatile unsigned char *page =
        mmap(0, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, fd, 0);
    int (*call)(void) = (int (*)(void))page;
    int results[4] = {call()}; /* from the page cache's frame; the write copies it */
    page[1] = 2;
    results[1] = call();
    page[1] = 3;
    results[2] = call();
    for (int i = 0; i < 1000; i++)
        results[3] += call();
    printf("%d %d %d %d\n", results[0], results[1], results[2], results[3]);
    pread(fd, code, 2, 0);
    printf("the file has %d\n", code[1]);
}
