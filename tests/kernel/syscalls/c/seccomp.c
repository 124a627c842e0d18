/* seccomp: filters and what they answer. */
#include "oracle.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/prctl.h>

#define FIELD(name) (offsetof(struct seccomp_data, name))
#define LOAD(name) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, FIELD(name))
#define ANSWER(value) BPF_STMT(BPF_RET | BPF_K, value)
/* The next instruction only for one system call. */
#define FOR_CALL(number) LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1)
#define INSTALL(...)                                                          \
    ({                                                                        \
        struct sock_filter code[] = {__VA_ARGS__};                            \
        install(code, sizeof code / sizeof *code, 0);                         \
    })

static int install(struct sock_filter *code, int length, int flags) {
    struct sock_fprog program = {length, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int answer(int number, unsigned value) {
    return INSTALL(FOR_CALL(number), ANSWER(value), ANSWER(SECCOMP_RET_ALLOW));
}

TEST(seccomp_arguments_are_checked) {
    unsigned actions[] = {SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_KILL_THREAD, SECCOMP_RET_TRAP,
                          SECCOMP_RET_ERRNO, SECCOMP_RET_TRACE, SECCOMP_RET_LOG,
                          SECCOMP_RET_ALLOW, 0x1234, SECCOMP_RET_ERRNO | 1};
    for (int i = 0; i < sizeof actions / sizeof *actions; i++)
        SHOW(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &actions[i]));
    SHOW(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 1, actions));
    SHOW(syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, NULL));
    SHOW(syscall(SYS_seccomp, 99, 0, NULL));
    SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 1, NULL));
    SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, actions));
    SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL));
    SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0x100, actions));
    SHOW(prctl(PR_GET_SECCOMP));
    SHOW(prctl(PR_SET_SECCOMP, 0, 0));
    SHOW(prctl(PR_SET_SECCOMP, 2, 0));
    struct sock_fprog program = {1, NULL};
    SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
    CHILD(struct sock_filter allow = ANSWER(SECCOMP_RET_ALLOW);
          struct sock_fprog whole = {1, &allow};
          setuid(1000);
          SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole));
          prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
          SHOW(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &whole));
          SHOW(prctl(PR_GET_SECCOMP)));
}

TEST(seccomp_refuses_filters_that_are_not_safe) {
    struct sock_filter end = ANSWER(SECCOMP_RET_ALLOW);
    struct sock_filter bad[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 0),  BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 64), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 60),
        BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0),  BPF_STMT(BPF_LD | BPF_MEM, 3),
        BPF_STMT(BPF_LD | BPF_MEM, 16),         BPF_STMT(BPF_ST, 15),
        BPF_STMT(BPF_ST, 16),                   BPF_STMT(BPF_STX, 3),
        BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 1),
        BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), BPF_STMT(BPF_ALU | BPF_LSH | BPF_K, 32),
        BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 31), BPF_STMT(BPF_JMP | BPF_JA, 0),
        BPF_STMT(BPF_JMP | BPF_JA, 1),          BPF_STMT(BPF_JMP | BPF_JA, -1),
        BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 0, 1),   BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 0, 0),   BPF_STMT(BPF_ALU | BPF_NEG | BPF_X, 0),
        BPF_STMT(BPF_LD | BPF_LEN, 0),          BPF_STMT(BPF_LDX | BPF_LEN, 0),
        BPF_STMT(BPF_LDX | BPF_MSH | BPF_B, 0), BPF_STMT(0xFFFF, 0),
    };
    for (int i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sock_filter code[] = {bad[i], end};
        printf("%d: ", i);
        SHOW(install(code, 2, 0));
    }
    SHOW(install(&bad[0], 0, 0));
    SHOW(install(&bad[11], 1, 0));
    SHOW(INSTALL(BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 0, 1), BPF_STMT(BPF_ST, 2),
                 BPF_STMT(BPF_LD | BPF_MEM, 2), end));
    SHOW(INSTALL(BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 0, 1), BPF_STMT(BPF_ST, 2),
                 BPF_STMT(BPF_ST, 2), BPF_STMT(BPF_LD | BPF_MEM, 2), end));
    SHOW(INSTALL(BPF_JUMP(BPF_JMP | BPF_JEQ, 1, 0, 1), BPF_STMT(BPF_ST, 2),
                 BPF_STMT(BPF_STX, 2), BPF_STMT(BPF_LD | BPF_MEM, 2), end));
}

TEST(seccomp_filters_compute) {
    int operations[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_OR,  BPF_AND,
                        BPF_LSH, BPF_RSH, BPF_XOR};
    unsigned values[][2] = {{7, 3}, {3, 7}, {0x80000001, 33}, {0xFFFFFFFF, 0xFFFFFFFF}, {9, 0}};
    for (int i = 0; i < 9; i++)
        for (int j = 0; j < 5; j++) {
            fflush(stdout);
            /* The result's low and middle bits come back as an errno. */
            CHILD(SHOW(INSTALL(
                      LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 1, 0),
                      ANSWER(SECCOMP_RET_ALLOW), LOAD(args[1]), BPF_STMT(BPF_MISC | BPF_TAX, 0),
                      LOAD(args[0]), BPF_STMT(BPF_ALU | operations[i] | BPF_X, 0),
                      BPF_STMT(BPF_ST, 5), BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 12),
                      BPF_STMT(BPF_LDX | BPF_MEM, 5), BPF_STMT(BPF_ALU | BPF_XOR | BPF_X, 0),
                      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x7FF),
                      BPF_STMT(BPF_ALU | BPF_ADD | BPF_K, 1),
                      BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO),
                      BPF_STMT(BPF_RET | BPF_A, 0)));
                  errno = 0;
                  syscall(SYS_getpgid, values[j][0], values[j][1]);
                  printf("%d %d: %d\n", i, j, errno));
        }
}

TEST(seccomp_filters_compare) {
    int comparisons[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
    unsigned values[] = {0, 5, 6, 7, 8, 0xFFFFFFFF};
    for (int i = 0; i < 4; i++)
        CHILD(INSTALL(LOAD(nr), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 1, 0),
                      ANSWER(SECCOMP_RET_ALLOW), LOAD(args[0]),
                      BPF_STMT(BPF_LDX | BPF_IMM, 6),
                      BPF_JUMP(BPF_JMP | comparisons[i] | BPF_X, 0, 2, 0),
                      BPF_JUMP(BPF_JMP | comparisons[i] | BPF_K, 5, 0, 2),
                      ANSWER(SECCOMP_RET_ERRNO | 1), ANSWER(SECCOMP_RET_ERRNO | 2),
                      BPF_STMT(BPF_LD | BPF_LEN, 0), BPF_STMT(BPF_ALU | BPF_NEG, 0),
                      BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xFFF),
                      BPF_STMT(BPF_ALU | BPF_OR | BPF_K, SECCOMP_RET_ERRNO),
                      BPF_STMT(BPF_RET | BPF_A, 0));
              for (int j = 0; j < 6; j++) {
                  errno = 0;
                  syscall(SYS_getpgid, values[j]);
                  printf("%d %x: %d\n", i, values[j], errno);
              });
}

static void print_call(int signal, siginfo_t *info, void *context) {
    printf("signal %d code %d errno %d call %d arch %x\n", signal, info->si_code,
           info->si_errno, info->si_syscall, info->si_arch);
}

TEST(seccomp_answers) {
    CHILD(SHOW(answer(SYS_getpgid, SECCOMP_RET_ERRNO | 42)); SHOW(getpgid(0)));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_ERRNO); SHOW(getpgid(0)));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_ERRNO | 85); SHOW(syscall(SYS_getpgid, 0)));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_ERRNO | 5000); SHOW(syscall(SYS_getpgid, 0)));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_TRACE | 1); SHOW(getpgid(0)));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_LOG); printf("%d\n", getpgid(0) > 0));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_KILL_PROCESS); getpgid(0));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_KILL_THREAD); getpgid(0));
    CHILD(answer(SYS_getpgid, 0x00010000); getpgid(0));
    CHILD(answer(SYS_getpgid, SECCOMP_RET_TRAP); getpgid(0));
    CHILD(signal(SIGSYS, SIG_IGN); answer(SYS_getpgid, SECCOMP_RET_TRAP); getpgid(0));
    CHILD(handle_info(SIGSYS, print_call, 0); answer(SYS_getpgid, SECCOMP_RET_TRAP | 77);
          SHOW(syscall(SYS_getpgid, 0)));
    CHILD(handle_info(SIGSYS, print_call, 0); answer(SYS_getpgid, SECCOMP_RET_KILL_PROCESS);
          getpgid(0));
}

TEST(seccomp_strictest_answer_counts) {
    CHILD(answer(SYS_getpgid, SECCOMP_RET_ERRNO | 1); answer(SYS_getpgid, SECCOMP_RET_ERRNO | 2);
          SHOW(getpgid(0)); answer(SYS_getpgid, SECCOMP_RET_ALLOW); SHOW(getpgid(0));
          answer(SYS_getpgid, SECCOMP_RET_TRACE); SHOW(getpgid(0));
          SHOW(prctl(PR_GET_SECCOMP));
          system("grep -E '^(NoNew|Seccomp)' /proc/self/status");
          CHILD(SHOW(getpgid(0)));
          answer(SYS_getpgid, SECCOMP_RET_KILL_THREAD);
          answer(SYS_getpgid, SECCOMP_RET_KILL_PROCESS); getpgid(0));
}

TEST(seccomp_strict_mode_leaves_four_calls) {
    CHILD(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT); write(1, "written\n", 8);
          syscall(SYS_exit, 3));
    CHILD(syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, NULL); write(1, "a\n", 2);
          getpgid(0); write(1, "b\n", 2));
    CHILD(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT); _exit(0));
}

static void *wait_then_call(void *pipe) {
    char c;
    read(*(int *)pipe, &c, 1);
    SHOW(syscall(SYS_getpgid, 0) > 0);
    return NULL;
}

static void *call(void *unused) {
    getpgid(0);
    return NULL;
}

TEST(seccomp_is_a_thread_s_own_unless_synchronized) {
    for (int flags = 0; flags < 2; flags++) {
        int fds[2];
        pthread_t thread;
        pipe(fds);
        fflush(stdout);
        CHILD(pthread_create(&thread, NULL, wait_then_call, &fds[0]);
              struct sock_filter code[] = {FOR_CALL(SYS_getpgid), ANSWER(SECCOMP_RET_ERRNO | 9),
                                           ANSWER(SECCOMP_RET_ALLOW)};
              SHOW(install(code, 4, flags ? SECCOMP_FILTER_FLAG_TSYNC : 0));
              SHOW(getpgid(0)); write(fds[1], "x", 1); pthread_join(thread, NULL));
    }
    CHILD(pthread_t thread; answer(SYS_getpgid, SECCOMP_RET_KILL_THREAD);
          pthread_create(&thread, NULL, call, NULL); pthread_join(thread, NULL);
          printf("the thread is gone\n"));
}
