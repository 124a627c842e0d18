/* Sending, blocking, catching and waiting for signals. */
#include "oracle.h"

TEST(the_queue_of_signals_has_a_limit) {
    sigset_t set;
    siginfo_t info = {0};
    int seen = 0;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    struct rlimit limit = {0, 0};
    SHOW(setrlimit(RLIMIT_SIGPENDING, &limit));
    SHOW(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGRTMIN));
    SHOW(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR2));
    SHOW(sigqueue(getpid(), SIGRTMIN, (union sigval){5}));
    SHOW(sigqueue(getpid(), SIGHUP, (union sigval){5}));
    SHOW(kill(getpid(), SIGRTMIN + 1));
    SHOW(kill(getpid(), SIGUSR1));
    struct timespec none = {0, 0};
    int got;
    while ((got = sigtimedwait(&set, &info, &none)) > 0)
        printf("%d code %d from %d value %d\n", got, info.si_code, info.si_pid == getpid(),
               info.si_value.sival_int);
}
#include <pthread.h>
#include <setjmp.h>
#include <ucontext.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>

static volatile sig_atomic_t count;
static void counter(int signal) { (void)signal; count++; }
static void teller(int signal) { printf("handler SIG%s\n", sigabbrev_np(signal)); }
static void info_teller(int signal, siginfo_t *info, void *context) {
    (void)context;
    printf("SIG%s code %d pid %d uid %d value %d\n", sigabbrev_np(signal), info->si_code,
           info->si_pid == getpid(), info->si_uid == getuid(),
           info->si_code == SI_QUEUE ? info->si_value.sival_int : 0);
}

TEST(handler_runs_and_returns) {
    handle(SIGUSR1, teller, 0);
    raise(SIGUSR1);
    printf("after\n");
    raise(SIGUSR1);
}

TEST(default_actions) {
    for (int signal = 1; signal < 32; signal++) {
        if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU)
            continue;
        CHILD(raise(signal); printf("SIG%s did nothing\n", sigabbrev_np(signal)));
    }
    CHILD(raise(SIGRTMIN));
}

TEST(siginfo_of_kill_and_sigqueue) {
    handle_info(SIGUSR1, info_teller, 0);
    handle_info(SIGRTMIN, info_teller, 0);
    kill(getpid(), SIGUSR1);
    raise(SIGUSR1);
    sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 77});
    sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 78});
}

TEST(standard_signals_pend_once_and_realtime_ones_queue) {
    sigset_t set, pending;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle_info(SIGUSR1, info_teller, 0);
    handle_info(SIGRTMIN + 1, info_teller, 0);
    for (int i = 0; i < 3; i++) {
        kill(getpid(), SIGUSR1);
        sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i});
    }
    sigpending(&pending);
    printf("pending %d %d %d\n", sigismember(&pending, SIGUSR1),
           sigismember(&pending, SIGRTMIN + 1), sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("done\n");
}

TEST(signals_are_delivered_lowest_first) {
    sigset_t all, old;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old);
    int order[] = {SIGTERM, SIGUSR2, SIGHUP, SIGUSR1, SIGINT};
    for (int i = 0; i < 5; i++) {
        handle(order[i], teller, 0);
        raise(order[i]);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
}

TEST(handler_blocks_its_signal_and_its_mask) {
    void nested(int signal) {
        sigset_t now;
        sigprocmask(SIG_BLOCK, NULL, &now);
        printf("in SIG%s: USR1 %d USR2 %d HUP %d\n", sigabbrev_np(signal),
               sigismember(&now, SIGUSR1), sigismember(&now, SIGUSR2), sigismember(&now, SIGHUP));
        if (signal == SIGUSR1) {
            raise(SIGUSR2);
            raise(SIGHUP);
            printf("SIGUSR1 ends\n");
        }
    }
    struct sigaction action = {.sa_handler = nested};
    sigaddset(&action.sa_mask, SIGUSR2);
    sigaction(SIGUSR1, &action, NULL);
    handle(SIGUSR2, nested, SA_NODEFER);
    handle(SIGHUP, nested, 0);
    raise(SIGUSR1);
    raise(SIGUSR2);
}

TEST(resethand_restores_the_default) {
    handle(SIGUSR1, teller, SA_RESETHAND);
    raise(SIGUSR1);
    CHILD(raise(SIGUSR1));
}

TEST(ignored_signals_do_nothing) {
    signal(SIGUSR1, SIG_IGN);
    SHOW(raise(SIGUSR1));
    sigset_t pending, set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    sigpending(&pending);
    printf("pending %d\n", sigismember(&pending, SIGUSR1));
    signal(SIGUSR1, SIG_DFL);
    sigpending(&pending);
    printf("pending %d\n", sigismember(&pending, SIGUSR1));
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    printf("alive\n");
}

TEST(kill_and_stop_cannot_be_caught) {
    struct sigaction action = {.sa_handler = SIG_IGN};
    SHOW(sigaction(SIGKILL, &action, NULL));
    SHOW(sigaction(SIGSTOP, &action, NULL));
    SHOW(sigaction(SIGKILL, NULL, &action));
    SHOW(sigaction(65, &action, NULL));
    sigset_t all;
    sigfillset(&all);
    SHOW(sigprocmask(SIG_SETMASK, &all, NULL));
    sigprocmask(SIG_SETMASK, NULL, &all);
    printf("%d %d\n", sigismember(&all, SIGKILL), sigismember(&all, SIGSTOP));
    SHOW(syscall(SYS_rt_sigprocmask, 17, &all, NULL, 8));
    SHOW(syscall(SYS_rt_sigprocmask, 0, &all, NULL, 9));
}

TEST(kill_checks_its_arguments) {
    SHOW(kill(getpid(), 0));
    SHOW(kill(getpid(), 65));
    SHOW(kill(getpid(), -1));
    SHOW(kill(999999999, 0));
    SHOW(kill(-999999999, SIGTERM));
    SHOW(syscall(SYS_tgkill, getpid(), 999999999, 0));
    SHOW(syscall(SYS_tgkill, -1, getpid(), 0));
    SHOW(syscall(SYS_tkill, getpid(), 0));
    SHOW(syscall(SYS_tkill, 0, 0));
    siginfo_t info = {.si_code = SI_USER};
    pid_t child = fork();
    if (!child)
        pause();
    SHOW(syscall(SYS_rt_sigqueueinfo, child, SIGUSR1, &info));
    info.si_code = SI_QUEUE;
    SHOW(syscall(SYS_rt_tgsigqueueinfo, child, child, SIGUSR1, &info));
    show_end(child);
}

static int interrupted_read(int flags) {
    int fds[2];
    pipe(fds);
    count = 0;
    handle(SIGALRM, counter, flags);
    pid_t child = fork();
    if (!child) {
        close(fds[0]);
        while (!kill(getppid(), 0) && 1) {
            pause_ms(30);
            kill(getppid(), SIGALRM);
            pause_ms(30);
            write(fds[1], "x", 1);
            _exit(0);
        }
    }
    char c;
    errno = 0;
    int result = read(fds[0], &c, 1);
    printf("read %d %s, handled %d\n", result, result < 0 ? strerrorname_np(errno) : "", count);
    show_end(child);
    close(fds[0]);
    close(fds[1]);
    return 0;
}

TEST(read_is_restarted_with_sa_restart) { interrupted_read(SA_RESTART); }
TEST(read_fails_with_eintr_without_sa_restart) { interrupted_read(0); }

TEST(sleep_is_never_restarted) {
    handle(SIGALRM, counter, SA_RESTART);
    struct itimerval timer = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    struct timespec wait = {1, 0}, left;
    SHOW(nanosleep(&wait, &left));
    printf("left %d\n", left.tv_sec == 0 && left.tv_nsec > 500000000);
    setitimer(ITIMER_REAL, &timer, NULL);
    SHOW(poll(NULL, 0, 1000));
    setitimer(ITIMER_REAL, &timer, NULL);
    SHOW(pause());
    setitimer(ITIMER_REAL, &timer, NULL);
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, &left));
    printf("%d\n", count);
}

TEST(wait_is_restarted_only_with_sa_restart) {
    for (int restart = 0; restart < 2; restart++) {
        handle(SIGALRM, counter, restart ? SA_RESTART : 0);
        pid_t child = fork();
        if (!child) {
            pause_ms(60);
            _exit(3);
        }
        struct itimerval timer = {{0, 0}, {0, 20000}};
        setitimer(ITIMER_REAL, &timer, NULL);
        int status;
        SHOW(waitpid(child, &status, 0) == child);
        if (!restart)
            waitpid(child, &status, 0);
        show_status(status);
    }
}

TEST(sigsuspend_waits_with_another_mask) {
    sigset_t set, old, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, &old);
    handle(SIGUSR1, teller, 0);
    raise(SIGUSR1);
    printf("blocked\n");
    SHOW(sigsuspend(&none));
    sigprocmask(SIG_BLOCK, NULL, &set);
    printf("blocked again %d\n", sigismember(&set, SIGUSR1));
}

TEST(sigwait_takes_pending_signals) {
    sigset_t set;
    siginfo_t info;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGUSR1);
    SHOW(sigwait(&set, &signal));
    printf("%d\n", signal);
    struct timespec zero = {0, 0}, some = {0, 20000000}, bad = {0, -1};
    SHOW(sigtimedwait(&set, &info, &zero));
    SHOW(sigtimedwait(&set, &info, &some));
    SHOW(sigtimedwait(&set, &info, &bad));
    pid_t child = fork();
    if (!child)
        _exit(13);
    SHOW(sigwaitinfo(&set, &info));
    printf("%d %d %d\n", info.si_code, info.si_status, info.si_pid == child);
    show_end(child);
}

TEST(sigchld_reports_how_a_child_ended) {
    void teller_of_child(int signal, siginfo_t *info, void *context) {
        (void)signal, (void)context;
        printf("SIGCHLD code %d status %d\n", info->si_code, info->si_status);
    }
    handle_info(SIGCHLD, teller_of_child, 0);
    CHILD(_exit(5));
    CHILD(raise(SIGKILL));
    pid_t child = fork();
    if (!child) {
        raise(SIGSTOP);
        pause_ms(50);
        _exit(0);
    }
    int status;
    while (waitpid(child, &status, WUNTRACED) < 0)
        ;
    show_status(status);
    kill(child, SIGCONT);
    show_end(child);
    handle_info(SIGCHLD, teller_of_child, SA_NOCLDSTOP);
    child = fork();
    if (!child) {
        raise(SIGSTOP);
        pause_ms(50);
        _exit(0);
    }
    while (waitpid(child, &status, WUNTRACED) < 0)
        ;
    kill(child, SIGCONT);
    show_end(child);
}

TEST(ignored_sigchld_leaves_no_zombies) {
    signal(SIGCHLD, SIG_IGN);
    if (!fork())
        _exit(1);
    SHOW(wait(NULL));
    handle(SIGCHLD, counter, SA_NOCLDWAIT);
    if (!fork())
        _exit(1);
    SHOW(waitpid(-1, NULL, 0));
    while (!count)
        pause_ms(1);
    SHOW(wait(NULL));
}

TEST(kill_reaches_a_process_group) {
    int fds[2];
    pipe(fds);
    pid_t leader = 0, children[3];
    for (int i = 0; i < 3; i++) {
        pid_t child = children[i] = fork();
        if (!child) {
            setpgid(0, leader);
            write(fds[1], "r", 1);
            for (;;)
                pause();
        }
        if (!i)
            leader = child;
        char c;
        read(fds[0], &c, 1);
    }
    SHOW(kill(-leader, SIGTERM));
    for (int i = 0; i < 3; i++)
        show_end(children[i]);
    SHOW(kill(-leader, 0));
}

TEST(alternate_stack) {
    static char stack[65536];
    stack_t new = {.ss_sp = stack, .ss_size = sizeof stack}, old;
    void on_stack(int signal) {
        char local;
        stack_t now;
        sigaltstack(NULL, &now);
        printf("SIG%s on it %d, flags %d\n", sigabbrev_np(signal),
               &local >= stack && &local < stack + sizeof stack, now.ss_flags);
        SHOW(sigaltstack(&new, NULL));
    }
    SHOW(sigaltstack(NULL, &old));
    printf("flags %d\n", old.ss_flags);
    SHOW(sigaltstack(&new, NULL));
    handle(SIGUSR1, on_stack, SA_ONSTACK);
    handle(SIGUSR2, on_stack, 0);
    raise(SIGUSR1);
    raise(SIGUSR2);
    CHILD(sigaltstack(NULL, &old); printf("child flags %d\n", old.ss_flags));
    new.ss_size = 100;
    SHOW(sigaltstack(&new, NULL));
    new.ss_flags = 17;
    SHOW(sigaltstack(&new, NULL));
    new.ss_flags = SS_DISABLE;
    SHOW(sigaltstack(&new, NULL));
    raise(SIGUSR1);
}

TEST(alternate_stack_autodisarm) {
    static char stack[65536];
    stack_t new = {.ss_sp = stack, .ss_size = sizeof stack, .ss_flags = (int)(1U << 31)}, now;
    void on_stack(int signal) {
        (void)signal;
        sigaltstack(NULL, &now);
        printf("inside flags %x\n", now.ss_flags);
    }
    SHOW(sigaltstack(&new, NULL));
    handle(SIGUSR1, on_stack, SA_ONSTACK);
    raise(SIGUSR1);
    sigaltstack(NULL, &now);
    printf("after %x %d\n", now.ss_flags, now.ss_sp == stack);
}

static sigjmp_buf jump;

TEST(siglongjmp_out_of_a_handler) {
    void leave(int signal) { siglongjmp(jump, signal); }
    handle(SIGSEGV, leave, 0);
    for (volatile int i = 0; i < 3; i++) {
        int got = sigsetjmp(jump, 1);
        if (!got)
            *(volatile int *)8 = 1;
        printf("got %d\n", got);
    }
}

static char *expected;
static void fault_teller(int signal, siginfo_t *info, void *context) {
    ucontext_t *u = context;
    long offset = (char *)info->si_addr - expected;
    printf("SIG%s code %d errno %d page %ld trap %lld err %lld cr2 %d\n", sigabbrev_np(signal),
           info->si_code, info->si_errno, offset >> 12,
           (long long)u->uc_mcontext.gregs[REG_TRAPNO], (long long)u->uc_mcontext.gregs[REG_ERR],
           ((char *)u->uc_mcontext.gregs[REG_CR2] - expected) >> 12 == offset >> 12);
    siglongjmp(jump, 1);
}

TEST(sigsegv_reports_code_and_page) {
    handle_info(SIGSEGV, fault_teller, 0);
    char *page = expected = mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!sigsetjmp(jump, 1))
        page[0] = 1;
    if (!sigsetjmp(jump, 1))
        page[2 * PAGE + 5] = page[2 * PAGE] + 1;
    mprotect(page, PAGE, PROT_NONE);
    if (!sigsetjmp(jump, 1))
        printf("%d\n", page[3]);
    munmap(page + PAGE, PAGE);
    if (!sigsetjmp(jump, 1))
        printf("%d\n", page[PAGE + 100]);
    if (!sigsetjmp(jump, 1))
        ((void (*)(void))(page + 2 * PAGE))();
    if (!sigsetjmp(jump, 1))
        page[PAGE] = 1;
    expected = (char *)0;
    if (!sigsetjmp(jump, 1))
        printf("%d\n", *(volatile int *)0x123);
    if (!sigsetjmp(jump, 1))
        ((void (*)(void))0)();
}

TEST(sigsegv_reports_the_address_of_each_kind_of_operand) {
    void print_address(int signal, siginfo_t *info, void *context) {
        ucontext_t *at = context;
        printf("SIG%s code %d address %lx %llx error %llx\n", sigabbrev_np(signal), info->si_code,
               (long)info->si_addr, at->uc_mcontext.gregs[REG_CR2], at->uc_mcontext.gregs[REG_ERR]);
        siglongjmp(jump, 1);
    }
    char *map(long address, int pages, int prot) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        return mmap((void *)address, pages * PAGE, prot, flags, -1, 0);
    }
    handle_info(SIGSEGV, print_address, 0);
    char *nothing = map(0x10000000, 4, PROT_NONE), *constant = map(0x10100000, 4, PROT_READ);
    char *end = map(0x10200000, 1, PROT_READ | PROT_WRITE) + PAGE;
#define FAULT(text)                                                                      \
    if (!sigsetjmp(jump, 1))                                                             \
    asm volatile(text ::"D"(nothing), "S"(constant), "b"(end), "c"(16L), "a"(0x21L),     \
                 "d"(0x10L)                                                              \
                 : "memory", "r8", "r9", "r12", "r13", "xmm0", "cc")
    FAULT("add $9,%%rdi; push %%rcx; pop %%rcx; rep stosb");
    FAULT("add $7,%%rsi; rep movsb");
    FAULT("rep movsq");
    FAULT("add $3,%%rdi; scasb");
    FAULT("xchg %%rsi,%%rdi; lodsl; xchg %%rsi,%%rdi; add $0x55,%%rdi; cmpsb");
    FAULT("sub $3,%%rbx; movq (%%rbx),%%rax");
    FAULT("sub $4,%%rbx; movq %%rax,(%%rbx)");
    FAULT("sub $8,%%rbx; movups (%%rbx),%%xmm0");
    FAULT("movups %%xmm0,0x20(%%rsi)");
    FAULT("movdqu 0x35(%%rdi),%%xmm0");
    FAULT("movq %%xmm0,0x31(%%rdi)");
    FAULT("pshufb %%xmm0,%%xmm0; punpcklbw 0x40(%%rdi),%%xmm0");
    FAULT("lock incl 0x10(%%rsi)");
    FAULT("xchg %%rax,0x18(%%rsi)");
    FAULT("cmpxchg %%rax,0x28(%%rsi)");
    FAULT("lock cmpxchg16b 0x30(%%rsi)");
    FAULT("addl $0x12345678,0x38(%%rsi)");
    FAULT("testl $1,0x3c(%%rdi)");
    FAULT("testb $1,0x3d(%%rdi)");
    FAULT("notl 0x41(%%rsi)");
    FAULT("imul $100,0x44(%%rdi),%%eax");
    FAULT("imul $100000,0x48(%%rdi),%%eax");
    FAULT("shll $3,0x4c(%%rsi)");
    FAULT("sete 0x50(%%rsi)");
    FAULT("fldl 0x58(%%rdi)");
    FAULT("fld1; fstpl 0x60(%%rsi)");
    FAULT("fldcw 0x63(%%rdi)");
    FAULT("stmxcsr 0x68(%%rsi)");
    FAULT("movzbl 0x71(%%rdi),%%eax");
    FAULT("movslq 0x74(%%rdi),%%rax");
    FAULT("cmovzl 0x78(%%rdi),%%eax");
    FAULT("btl $3,0x7c(%%rdi)");
    FAULT("xlat");
    FAULT("xchg %%rdi,%%rbx; add $0x100,%%rbx; xlat");
    FAULT("pushq 0x88(%%rdi)");
    FAULT("popq 0x90(%%rsi)");
    FAULT("callq *0x98(%%rdi)");
    FAULT("jmpq *0xa0(%%rdi)");
    FAULT("addr32 movl %%eax,0xa8(%%esi)");
    FAULT("movnti %%eax,0xb0(%%rsi)");
    FAULT("cvtsi2sdl 0xb4(%%rdi),%%xmm0");
    FAULT("pinsrw $1,0xb6(%%rdi),%%xmm0");
    FAULT("pextrw $1,%%xmm0,%%eax; shufps $1,0xc0(%%rdi),%%xmm0");
    FAULT("bsfl 0xd1(%%rdi),%%eax");
    FAULT("xadd %%eax,0xd4(%%rsi)");
    FAULT("movw $1,0xd8(%%rsi)");
    FAULT("movw $0x1234,0xda(%%rsi)");
    FAULT("movq $-1,0xdc(%%rsi)");
    FAULT("lea 0x300(%%rdi),%%rbp; leave");
    FAULT("movb $1,%%fs:-0x10000000");
    FAULT("movl %%eax,(%%rdi,%%rdx,4)");
    FAULT("movb %%al,0x10000010");
    FAULT("movb %%al,0x10000010(,%%rdx,2)");
    FAULT("mov %%rdi,%%r12; mov 8(%%r12),%%eax");
    FAULT("mov %%rdi,%%r13; movb $7,(%%r13)");
    FAULT("mov %%rdi,%%r13; mov %%rdx,%%r12; movw $0x1234,3(%%r13,%%r12,1)");
    FAULT("movabs 0x10000033,%%al");
    FAULT("movabs %%rax,0x10000044");
    char *code = map(0x10300000, 3, PROT_READ | PROT_WRITE | PROT_EXEC);
    mprotect(code + PAGE, PAGE, PROT_NONE);
    struct { int size; char *bytes; } relative[] = {
        {10, "\x81\x05\x10\x10\0\0\x78\x56\x34\x12"}, // addl $0x12345678, 0x1010(%rip)
        {9, "\x66\x81\x05\x10\x10\0\0\x78\x56"},      // addw $0x5678, 0x1010(%rip)
        {7, "\x80\x05\x10\x10\0\0\x78"},               // addb $0x78, 0x1010(%rip)
        {7, "\x48\x8b\x05\x10\x10\0\0"},               // mov 0x1010(%rip), %rax
        {10, "\xf7\x05\x10\x10\0\0\x78\x56\x34\x12"}, // testl $0x12345678, 0x1010(%rip)
        {6, "\xf7\x1d\x10\x10\0\0"},                   // negl 0x1010(%rip)
    };
    for (int i = 0; i < sizeof relative / sizeof *relative; i++) {
        memcpy(code, relative[i].bytes, relative[i].size);
        if (!sigsetjmp(jump, 1))
            ((void (*)(void))code)();
    }
    code[PAGE - 1] = 0x81;
    if (!sigsetjmp(jump, 1))
        ((void (*)(void))(code + PAGE - 1))();
    long beyond[] = {0x7ffffffff008, 0x7fffffffeffc, 0xffffffffff600007, 0xffff888000000033, 0x900000000000};
    for (int i = 0; i < 5; i++)
        if (!sigsetjmp(jump, 1))
            printf("%ld\n", *(volatile long *)beyond[i]);
}

TEST(segv_of_noncanonical_addresses) {
    void teller_of_code(int signal, siginfo_t *info, void *context) {
        (void)context;
        printf("SIG%s code %d address %lx\n", sigabbrev_np(signal), info->si_code, (long)info->si_addr);
        siglongjmp(jump, 1);
    }
    handle_info(SIGSEGV, teller_of_code, 0);
    if (!sigsetjmp(jump, 1))
        printf("%d\n", *(volatile char *)0x8000000000000000);
    if (!sigsetjmp(jump, 1))
        printf("%d\n", *(volatile char *)0x0000900000000000);
}

TEST(segv_blocked_or_ignored_kills) {
    CHILD(signal(SIGSEGV, SIG_IGN); *(volatile int *)0 = 1);
    CHILD(
        sigset_t all;
        sigfillset(&all);
        sigprocmask(SIG_SETMASK, &all, NULL);
        handle(SIGSEGV, teller, 0);
        *(volatile int *)0 = 1);
    CHILD(signal(SIGSEGV, SIG_IGN); raise(SIGSEGV); printf("raised only\n"));
}

TEST(bus_error_beyond_the_end_of_a_file) {
    handle_info(SIGBUS, fault_teller, 0);
    char name[] = "/tmp/oracle-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    ftruncate(fd, 100);
    char *p = expected = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    p[50] = 1;
    p[PAGE - 1] = 5;
    if (!sigsetjmp(jump, 1))
        printf("%d\n", p[PAGE]);
    if (!sigsetjmp(jump, 1))
        p[2 * PAGE] = 1;
    ftruncate(fd, 0);
    if (!sigsetjmp(jump, 1))
        p[0] = 1;
}

TEST(faults_of_system_calls_are_efault) {
    int fds[2];
    pipe(fds);
    char *page = mmap(NULL, 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(page + PAGE, PAGE);
    write(fds[1], "abc", 3);
    SHOW(read(fds[0], page, 3));
    SHOW(read(fds[0], (void *)8, 3));
    SHOW(write(fds[1], page + PAGE, 1));
    SHOW(write(fds[1], (void *)-8, 1));
    SHOW(open((char *)0x10, O_RDONLY));
    SHOW(stat("/", (void *)page));
    SHOW(pipe((int *)page));
    SHOW(syscall(SYS_rt_sigaction, SIGUSR1, 8L, 0, 8));
    SHOW(nanosleep((void *)8, NULL));
}

TEST(signal_context_can_be_changed) {
    void skip(int signal, siginfo_t *info, void *context) {
        (void)signal, (void)info;
        ucontext_t *u = context;
        u->uc_mcontext.gregs[REG_RIP] += 2;
        u->uc_mcontext.gregs[REG_RAX] = 77;
        sigaddset(&u->uc_sigmask, SIGUSR2);
    }
    handle_info(SIGILL, skip, 0);
    long value = 0;
    asm volatile("xor %%eax, %%eax; ud2" : "=a"(value));
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    printf("%ld %d\n", value, sigismember(&now, SIGUSR2));
}

TEST(signals_between_processes_ping_pong) {
    sigset_t set;
    int signal;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pid_t parent = getpid(), child = fork();
    for (int i = 0; i < 20; i++) {
        if (child)
            kill(child, SIGUSR1);
        sigwait(&set, &signal);
        if (!child)
            kill(parent, SIGUSR1);
    }
    if (!child)
        _exit(0);
    show_end(child);
}

TEST(stack_overflow_is_caught_on_the_alternate_stack) {
    static char stack[65536];
    stack_t new = {.ss_sp = stack, .ss_size = sizeof stack};
    void leave(int signal) { siglongjmp(jump, signal); }
    int recurse(int n) {
        volatile char block[4096];
        block[0] = n;
        return n > 1000000 ? 0 : recurse(n + 1) + block[0];
    }
    struct rlimit limit = {512 << 10, RLIM_INFINITY};
    setrlimit(RLIMIT_STACK, &limit);
    sigaltstack(&new, NULL);
    handle(SIGSEGV, leave, SA_ONSTACK);
    int got = sigsetjmp(jump, 1);
    if (!got)
        recurse(0);
    printf("got %d\n", got);
    CHILD(handle(SIGSEGV, leave, 0); recurse(0));
    CHILD(signal(SIGSEGV, SIG_DFL); recurse(0));
}

TEST(signal_mask_and_handlers_over_fork_and_exec) {
    handle(SIGUSR1, teller, 0);
    signal(SIGUSR2, SIG_IGN);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    raise(SIGHUP);
    CHILD(sigset_t p; sigpending(&p); printf("child pending %d\n", sigismember(&p, SIGHUP));
          raise(SIGUSR1));
    execl("/bin/grep", "grep", "-E", "^(SigBlk|SigIgn|SigCgt)", "/proc/self/status", NULL);
}

static void *pending_in_a_thread(void *unused) {
    pthread_kill(pthread_self(), SIGUSR2);
    system("grep -hE '^(Pid|Sig|Shd)' /proc/$PPID/task/*/status | grep -v -e Pid -e SigQ");
    return NULL;
}

TEST(pending_signals_of_a_thread_and_of_its_process) {
    sigset_t set;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    pthread_t thread;
    kill(getpid(), SIGUSR1);
    pthread_kill(pthread_self(), SIGHUP);
    pthread_create(&thread, NULL, pending_in_a_thread, NULL);
    pthread_join(thread, NULL);
}

enum { READ, NANOSLEEP, NANOSLEEP_UNTIL, POLL, SELECT, PAUSE, SIGSUSPEND, EPOLL_WAIT, SIGTIMEDWAIT, FUTEX_WAIT,
       FUTEX_WAIT_FOREVER, WAIT, N_CALLS };

static void nothing(int signal) {
}

static int futex_word;

static long wait_in(int call, int fd) {
    struct timespec length = {0, 150000000}, until;
    struct timeval length_us = {0, 150000};
    struct pollfd poll_fd = {.fd = -1};
    struct epoll_event event;
    siginfo_t info;
    sigset_t none, hup;
    char byte;
    sigemptyset(&none);
    sigemptyset(&hup);
    sigaddset(&hup, SIGHUP);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += 150000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    switch (call) {
    case READ: return read(fd, &byte, 1);
    case NANOSLEEP: return nanosleep(&length, NULL);
    case NANOSLEEP_UNTIL: return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    case POLL: return poll(&poll_fd, 1, 150);
    case SELECT: return select(0, NULL, NULL, NULL, &length_us);
    case PAUSE: return pause();
    case SIGSUSPEND: return sigsuspend(&none);
    case EPOLL_WAIT: return epoll_wait(epoll_create1(0), &event, 1, 5000);
    case SIGTIMEDWAIT: sigprocmask(SIG_BLOCK, &hup, NULL); length.tv_sec = 5; return sigtimedwait(&hup, &info, &length);
    case FUTEX_WAIT: return syscall(SYS_futex, &futex_word, 0, 0, &length, 0, 0);
    case FUTEX_WAIT_FOREVER: return syscall(SYS_futex, &futex_word, 0, 0, NULL, 0, 0);
    case WAIT:
        if (!fork()) {
            pause_ms(150);
            _exit(0);
        }
        return wait(NULL) > 0;
    }
    return -2;
}

/* Wait until a process is asleep in a call, however busy the machine is. */
static void until_asleep(pid_t pid) {
    char path[40], text[400], *end;
    sprintf(path, "/proc/%d/stat", pid);
    for (int i = 0; i < 5000; i++) {
        int fd = open(path, O_RDONLY);
        ssize_t length = read(fd, text, sizeof text - 1);
        close(fd);
        text[length > 0 ? length : 0] = 0;
        end = strrchr(text, ')');
        if (end && end[2] == 'S')
            return;
        pause_ms(1);
    }
}

/* What each call does whose thread is stopped in it, and continued: few end with EINTR. */
TEST(calls_that_a_stop_interrupts) {
    /* Both run after SIGCONT: only the parent prints, so that the order is one. */
    struct { long result, ms; int error; } *seen =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (int call = 0; call < N_CALLS; call++) {
        int ends[2], leave[2], status;
        char byte;
        pipe(ends);
        pipe(leave);
        pid_t child = fork();
        if (!child) {
            struct timespec before, after;
            handle(SIGUSR1, nothing, 0);
            clock_gettime(CLOCK_MONOTONIC, &before);
            errno = 0;
            seen->result = wait_in(call, ends[0]);
            seen->error = errno;
            clock_gettime(CLOCK_MONOTONIC, &after);
            seen->ms = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
            while (read(leave[0], &byte, 1) != 1)
                ;
            _exit(0);
        }
        printf("call %d\n", call);
        until_asleep(child);
        kill(child, SIGSTOP);
        waitpid(child, &status, WUNTRACED);
        show_status(status);
        pause_ms(10);
        kill(child, SIGCONT);
        waitpid(child, &status, WCONTINUED);
        show_status(status);
        pause_ms(10);
        if (call == READ)
            write(ends[1], "x", 1);
        if (call == PAUSE || call == SIGSUSPEND || call == FUTEX_WAIT_FOREVER)
            kill(child, SIGUSR1);
        write(leave[1], "x", 1);
        show_end(child);
        const char *error = seen->error ? strerrorname_np(seen->error) : "";
        printf("  %ld %s, too late: %d\n", seen->result, error, seen->ms > 3000);
    }
}

/* The handler of SIGCONT runs, and decides as any other handler. */
TEST(a_handler_of_sigcont_ends_the_call) {
    int flags[] = {0, SA_RESTART};
    for (int i = 0; i < 2; i++) {
        int ends[2], status;
        pipe(ends);
        pid_t child = fork();
        if (!child) {
            char byte;
            handle(SIGCONT, nothing, flags[i]);
            SHOW(read(ends[0], &byte, 1));
            _exit(0);
        }
        until_asleep(child);
        kill(child, SIGSTOP);
        waitpid(child, &status, WUNTRACED);
        show_status(status);
        kill(child, SIGCONT);
        pause_ms(20);
        write(ends[1], "x", 1);
        show_end(child);
    }
}

static void *sleep_in_thread(void *fd) {
    char byte;
    long result = read(*(int *)fd, &byte, 1);
    printf("the other thread: %ld\n", result);
    return NULL;
}

TEST(a_stop_leaves_all_threads_in_their_calls) {
    int ends[2], status;
    pipe(ends);
    pid_t child = fork();
    if (!child) {
        pthread_t thread;
        pthread_create(&thread, NULL, sleep_in_thread, &ends[0]);
        SHOW(pthread_join(thread, NULL));
        _exit(0);
    }
    pause_ms(30);
    kill(child, SIGSTOP);
    waitpid(child, &status, WUNTRACED);
    show_status(status);
    char path[64], line[256];
    sprintf(path, "/proc/%d/status", child);
    FILE *file = fopen(path, "r");
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "State", 5))
            printf("%s", line);
    fclose(file);
    write(ends[1], "x", 1);
    pause_ms(10);
    kill(child, SIGCONT);
    show_end(child);
}

/* SIGTSTP and its like stop nothing where no shell could continue it. */
TEST(job_control_in_an_orphaned_group) {
    int signals[] = {SIGTSTP, SIGTTIN, SIGTTOU, SIGSTOP};
    for (int alone = 0; alone < 2; alone++)
        for (int i = 0; i < 4; i++) {
            int status, ends[2];
            char byte;
            pipe(ends);
            pid_t child = fork();
            if (!child) {
                if (alone)
                    setsid();
                else
                    setpgid(0, 0);
                write(ends[1], "x", 1);
                pause_ms(60);
                _exit(1);
            }
            read(ends[0], &byte, 1);
            pause_ms(10);
            kill(child, signals[i]);
            waitpid(child, &status, WUNTRACED);
            show_status(status);
            if (WIFSTOPPED(status)) {
                kill(child, SIGCONT);
                show_end(child);
            }
        }
}
