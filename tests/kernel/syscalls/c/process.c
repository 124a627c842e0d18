/* fork, vfork, clone, exit and wait. */
#include "oracle.h"
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <grp.h>
#include <sys/uio.h>

TEST(fork_returns_twice) {
    CHILD(printf("child\n"); _exit(7));
    printf("parent\n");
}

TEST(wait_reports_exit_codes_and_signals) {
    CHILD(_exit(0));
    CHILD(_exit(255));
    CHILD(_exit(256));
    CHILD(raise(SIGTERM));
    CHILD(raise(SIGKILL));
    CHILD(abort());
    CHILD(exit(3));
}

TEST(wait_without_children_fails) {
    SHOW(wait(NULL));
    SHOW(waitpid(1, NULL, 0));
    SHOW(waitpid(-1, NULL, WNOHANG));
    SHOW(waitpid(-1, NULL, 0x1000));
    SHOW(waitid(P_ALL, 0, NULL, 0));
}

TEST(wait_nohang_returns_zero_while_the_child_runs) {
    int fds[2];
    pipe(fds);
    pid_t child = fork();
    if (!child) {
        char c;
        close(fds[1]);
        read(fds[0], &c, 1);
        _exit(4);
    }
    SHOW(waitpid(child, NULL, WNOHANG));
    close(fds[1]);
    show_end(child);
}

TEST(wait_checks_what_it_is_given) {
    CHILD(_exit(0));
    SHOW(waitpid(INT_MIN, NULL, 0));
    SHOW(waitpid(INT_MIN + 1, NULL, 0));
    SHOW(kill(INT_MIN, 0));
    SHOW(waitid(P_PID, 0, NULL, WEXITED));
    SHOW(waitid(P_PID, -1, NULL, WEXITED));
    SHOW(waitid(P_PGID, -1, NULL, WEXITED));
    SHOW(waitid(P_PGID, 0, NULL, WEXITED));
    SHOW(waitid(P_ALL, -5, NULL, WEXITED));
    SHOW(waitid(3 /* P_PIDFD */, -1, NULL, WEXITED));
    SHOW(waitid(3 /* P_PIDFD */, 99, NULL, WEXITED));
    SHOW(waitid(3 /* P_PIDFD */, 1, NULL, WEXITED));
    SHOW(waitid(4, 1, NULL, WEXITED));
    SHOW(waitid(P_ALL, 0, NULL, WEXITED | 0x10));
    SHOW(waitid(P_ALL, 0, NULL, WNOHANG));
}

static void use_much(void) {
    char *p = mmap(NULL, 64 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < 64 << 20; i += PAGE)
        p[i] = 1;
}

TEST(usage_of_children_counts_those_that_were_waited_for) {
    struct rusage usage;
    for (int way = 0; way < 3; way++) {
        signal(SIGCHLD, way == 1 ? SIG_IGN : SIG_DFL);
        pid_t child = fork();
        if (!child) {
            if (way == 2) {  /* the child's child */
                CHILD(use_much());
                _exit(0);
            }
            use_much();
            _exit(0);
        }
        memset(&usage, 0, sizeof usage);
        SHOW(wait4(child, NULL, 0, &usage) == child);
        printf("waited for: %d %d\n", usage.ru_maxrss > 32 << 10, usage.ru_minflt > 10000);
        getrusage(RUSAGE_CHILDREN, &usage);
        printf("children: %d %d\n", usage.ru_maxrss > 32 << 10, (int)(usage.ru_minflt / 16000));
    }
}

TEST(waitid_fills_siginfo) {
    pid_t child = fork();
    if (!child)
        _exit(9);
    siginfo_t info;
    SHOW(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    printf("%d %d %d %d\n", info.si_signo, info.si_code, info.si_status, info.si_pid == child);
    memset(&info, 1, sizeof info);
    SHOW(waitid(P_ALL, 0, &info, WEXITED));
    printf("%d %d %d %d\n", info.si_signo, info.si_code, info.si_status, info.si_pid == child);
    SHOW(waitid(P_ALL, 0, &info, WEXITED));
}

TEST(waitid_nohang_clears_pid) {
    pid_t child = fork();
    if (!child) {
        pause();
        _exit(0);
    }
    siginfo_t info;
    memset(&info, 1, sizeof info);
    SHOW(waitid(P_PID, child, &info, WEXITED | WNOHANG));
    printf("pid %d signo %d\n", info.si_pid, info.si_signo);
    kill(child, SIGKILL);
    SHOW(waitid(P_PID, child, &info, WEXITED));
    printf("%d %d\n", info.si_code, info.si_status);
}

TEST(stop_and_continue_are_reported) {
    pid_t child = fork();
    int status;
    if (!child) {
        raise(SIGSTOP);
        pause_ms(50);
        _exit(5);
    }
    waitpid(child, &status, WUNTRACED);
    show_status(status);
    kill(child, SIGCONT);
    waitpid(child, &status, WCONTINUED);
    show_status(status);
    show_end(child);
}

TEST(orphans_get_a_new_parent) {
    int fds[2];
    pipe(fds);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t me = getpid();
    CHILD(
        pid_t middle = getpid();
        if (!fork()) {
            while (getppid() == middle)
                pause_ms(1);
            int adopted = getppid() == me;
            write(fds[1], &adopted, sizeof adopted);
            _exit(6);
        });
    int adopted = 9;
    read(fds[0], &adopted, sizeof adopted);
    printf("adopted by the subreaper: %d\n", adopted);
    int status;
    wait(&status);
    show_status(status);
}

TEST(vfork_child_shares_memory_until_exec) {
    static volatile int value = 1;
    pid_t child = vfork();
    if (!child) {
        value = 2;
        execl("/bin/true", "true", NULL);
        _exit(99);
    }
    printf("value %d\n", value);
    show_end(child);
}

TEST(vfork_exec_failure_reaches_the_child) {
    static volatile int seen;
    pid_t child = vfork();
    if (!child) {
        execl("/no/such/program", "x", NULL);
        seen = errno;
        _exit(127);
    }
    printf("%s\n", strerrorname_np(seen));
    show_end(child);
}

TEST(exit_handlers_run_once_per_process) {
    void bye(void) { printf("bye\n"); }
    atexit(bye);
    CHILD(_exit(1));
    CHILD(exit(2));
}

TEST(private_memory_is_copied_on_write_after_fork) {
    int *shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int *private = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *shared = *private = 1;
    CHILD(*shared = 2; *private = 2; printf("child %d %d\n", *shared, *private));
    printf("parent %d %d\n", *shared, *private);
    *private = 3;
    CHILD(printf("child %d %d\n", *shared, *private));
}

TEST(clone_vm_without_thread_shares_memory) {
    static char stack[65536] __attribute__((aligned(16)));
    static volatile int value = 1;
    int entry(void *argument) {
        value = *(int *)argument;
        return 11;
    }
    int argument = 42;
    pid_t child = clone(entry, stack + sizeof stack, CLONE_VM | SIGCHLD, &argument);
    show_end(child);
    printf("value %d\n", value);
}

TEST(clone_files_and_fs_are_shared) {
    static char stack[65536] __attribute__((aligned(16)));
    int entry(void *argument) {
        (void)argument;
        close(STDERR_FILENO);
        chdir("/usr");
        return 0;
    }
    int before = fcntl(2, F_GETFD);
    show_end(clone(entry, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, NULL));
    char where[100];
    printf("%d %d %s\n", before, fcntl(2, F_GETFD), getcwd(where, sizeof where));
}

TEST(clone_refuses_bad_flags) {
    SHOW(syscall(SYS_clone, CLONE_THREAD | SIGCHLD, 0, 0, 0, 0));
    SHOW(syscall(SYS_clone, CLONE_SIGHAND | SIGCHLD, 0, 0, 0, 0));
    SHOW(syscall(SYS_clone, CLONE_FS | CLONE_NEWNS | SIGCHLD, 0, 0, 0, 0));
    SHOW(syscall(SYS_clone3, NULL, 64));
    SHOW(syscall(SYS_clone3, "", 10));
    SHOW(syscall(SYS_clone3, "", 100000));
}

TEST(clone3_with_pidfd) {
    int pidfd = -1;
    struct clone_args args = {
        .flags = CLONE_PIDFD, .pidfd = (uintptr_t)&pidfd, .exit_signal = SIGCHLD};
    pid_t child = syscall(SYS_clone3, &args, sizeof args);
    if (!child) {
        pause();
        _exit(0);
    }
    printf("cloexec %d\n", fcntl(pidfd, F_GETFD));
    struct pollfd poller = {pidfd, POLLIN, 0};
    SHOW(poll(&poller, 1, 0));
    SHOW(syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0));
    SHOW(poll(&poller, 1, 1000));
    printf("revents %x\n", poller.revents);
    siginfo_t info;
    SHOW(waitid(P_PIDFD, pidfd, &info, WEXITED));
    printf("%d %d\n", info.si_code, info.si_status);
    SHOW(syscall(SYS_pidfd_send_signal, pidfd, SIGTERM, NULL, 0));
}

TEST(pidfd_open) {
    pid_t child = fork();
    if (!child)
        pause();
    int pidfd = syscall(SYS_pidfd_open, child, 0);
    printf("ok %d\n", pidfd >= 0);
    SHOW(syscall(SYS_pidfd_open, 0, 0));
    SHOW(syscall(SYS_pidfd_open, 999999999, 0));
    SHOW(syscall(SYS_pidfd_open, child, 12345));
    SHOW(syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0));
    SHOW(syscall(SYS_pidfd_send_signal, 0, 0, NULL, 0));
    SHOW(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0));
    show_end(child);
    SHOW(syscall(SYS_pidfd_send_signal, pidfd, 0, NULL, 0));
}

TEST(process_groups_and_sessions) {
    SHOW(getpgid(0) == getpgrp());
    SHOW(setpgid(0, -1));
    SHOW(getpgid(999999999));
    SHOW(getsid(999999999));
    CHILD(
        SHOW(setpgid(0, 0));
        SHOW(getpgrp() == getpid());
        SHOW(setsid()));
    CHILD(
        SHOW(setsid() == getpid());
        SHOW(getsid(0) == getpid());
        SHOW(setpgid(0, 0)));
    pid_t child = fork();
    if (!child)
        pause();
    SHOW(setpgid(child, child));
    SHOW(getpgid(child) == child);
    SHOW(waitpid(-getpgrp(), NULL, WNOHANG));
    SHOW(kill(-child, SIGUSR1));
    int status;
    SHOW(waitpid(-child, &status, 0) == child);
    show_status(status);
}

static void print_signal(int signal, siginfo_t *info, void *context) {
    (void)context;
    printf("signal %d code %d pid %d\n", signal, info->si_code, info->si_pid);
}

/* A child that is stopped, in a process group of its own. */
static pid_t stopped_job(int to_ignore) {
    pid_t job = fork();
    if (!job) {
        setpgid(0, 0);
        handle_info(SIGHUP, print_signal, 0);
        handle_info(SIGCONT, print_signal, 0);
        if (to_ignore)
            signal(SIGHUP, SIG_IGN);
        raise(SIGSTOP);
        printf("job continues\n");
        _exit(7);
    }
    int status;
    waitpid(job, &status, WUNTRACED);
    show_status(status);
    return job;
}

TEST(orphaned_process_group_with_stopped_jobs_gets_sighup_and_sigcont) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (int to_ignore = 0; to_ignore < 2; to_ignore++) {
        pid_t leader = fork();
        if (!leader) {
            setsid();
            stopped_job(to_ignore);
            _exit(0);
        }
        int first, second; /* of the leader and the job; only the job prints */
        wait(&first);
        wait(&second);
        SHOW(WEXITSTATUS(first) + WEXITSTATUS(second));
    }
}

TEST(process_group_that_keeps_a_parent_outside_stays_stopped) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t job = 0;
    int fds[2];
    pipe(fds);
    pid_t parent = fork();
    if (!parent) {
        job = stopped_job(0);
        write(fds[1], &job, sizeof job);
        _exit(0);
    }
    show_end(parent);
    read(fds[0], &job, sizeof job);
    SHOW(waitpid(job, NULL, WNOHANG)); /* now a child of ours, in another group of our session */
    kill(job, SIGKILL);
    show_end(job);
}

TEST(exit_of_the_last_link_orphans_a_process_group) {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t leader = fork();
    if (!leader) {
        setsid();
        pid_t link = fork();
        if (!link) {
            setpgid(0, 0);
            pid_t job = fork();
            if (!job) {
                handle_info(SIGHUP, print_signal, 0);
                handle_info(SIGCONT, print_signal, 0);
                raise(SIGSTOP);
                printf("job continues\n");
                _exit(7);
            }
            int status;
            waitpid(job, &status, WUNTRACED);
            show_status(status);
            _exit(0);
        }
        waitpid(link, NULL, 0);
        _exit(0);
    }
    int first, second;
    wait(&first);
    wait(&second);
    SHOW(WEXITSTATUS(first) + WEXITSTATUS(second));
}

TEST(rusage_of_children_is_inherited) {
    struct rusage usage;
    CHILD(static volatile char memory[1 << 20]; for (int i = 0; i < 1 << 20; i += PAGE) memory[i] = 1);
    SHOW(getrusage(RUSAGE_CHILDREN, &usage));
    printf("faults %d maxrss %d\n", usage.ru_minflt > 256, usage.ru_maxrss > 1000);
    SHOW(getrusage(RUSAGE_THREAD, &usage));
    SHOW(getrusage(5, &usage));
}

TEST(prctl_options) {
    char name[20] = "";
    SHOW(prctl(PR_SET_NAME, "a name that is too long"));
    SHOW(prctl(PR_GET_NAME, name));
    printf("%s\n", name);
    SHOW(prctl(PR_GET_DUMPABLE));
    SHOW(prctl(PR_SET_DUMPABLE, 0));
    SHOW(prctl(PR_GET_DUMPABLE));
    SHOW(prctl(PR_SET_DUMPABLE, 7));
    int value = -1;
    SHOW(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    SHOW(prctl(PR_GET_PDEATHSIG, &value));
    printf("%d\n", value);
    SHOW(prctl(PR_SET_PDEATHSIG, 100));
    SHOW(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SHOW(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    SHOW(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SHOW(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0));
    SHOW(prctl(12345));
}

TEST(parent_death_signal) {
    int fds[2];
    pipe(fds);
    CHILD(
        if (!fork()) {
            void handler(int s) { (void)s; write(fds[1], "got it\n", 7); _exit(0); }
            handle(SIGUSR1, handler, 0);
            prctl(PR_SET_PDEATHSIG, SIGUSR1);
            write(fds[1], "r", 1);
            for (;;)
                pause();
        }
        char c;
        read(fds[0], &c, 1));
    close(fds[1]);
    char text[20] = "";
    read(fds[0], text, 19);
    printf("%s", text);
}

TEST(scheduling_calls) {
    cpu_set_t set;
    struct sched_param param = {0};
    struct timespec interval;
    SHOW(sched_getscheduler(0));
    SHOW(sched_getparam(0, &param));
    SHOW(sched_get_priority_max(SCHED_FIFO));
    SHOW(sched_get_priority_min(SCHED_RR));
    SHOW(sched_get_priority_max(SCHED_OTHER));
    SHOW(sched_get_priority_max(77));
    SHOW(sched_setscheduler(0, SCHED_OTHER, &param));
    SHOW(sched_setscheduler(0, 77, &param));
    param.sched_priority = 5;
    SHOW(sched_setscheduler(0, SCHED_OTHER, &param));
    SHOW(sched_setparam(0, &param));
    SHOW(sched_rr_get_interval(0, &interval));
    SHOW(sched_yield());
    SHOW(sched_getaffinity(0, sizeof set, &set));
    SHOW(sched_getaffinity(999999999, sizeof set, &set));
    SHOW(syscall(SYS_sched_getaffinity, 0, 3, &set));
    SHOW(getpriority(PRIO_PROCESS, 0));
    SHOW(setpriority(PRIO_PROCESS, 0, 5));
    SHOW(getpriority(PRIO_PROCESS, 0));
    SHOW(nice(2));
    SHOW(setpriority(PRIO_PROCESS, 0, 100));
    SHOW(getpriority(PRIO_PROCESS, 0));
    SHOW(getpriority(77, 0));
    SHOW(getpriority(PRIO_PROCESS, 999999999));
}

TEST(kcmp_and_ids) {
    SHOW(getpid() == syscall(SYS_gettid));
    SHOW(getppid() != getpid());
    SHOW(syscall(SYS_set_tid_address, NULL) == getpid());
    SHOW(syscall(SYS_set_robust_list, NULL, 3));
    SHOW(syscall(SYS_personality, 0xffffffff));
}

static void show_ids(void) {
    uid_t r, e, s;
    getresuid(&r, &e, &s);
    printf("uid %d %d %d fs %d, ", r, e, s, syscall(SYS_setfsuid, -1));
    getresgid(&r, &e, &s);
    printf("gid %d %d %d fs %d\n", r, e, s, syscall(SYS_setfsgid, -1));
}

TEST(ids_follow_each_other) {
    show_ids();
    SHOW(syscall(SYS_setresgid, 10, 20, 30));
    show_ids();
    SHOW(syscall(SYS_setregid, -1, 20));
    SHOW(syscall(SYS_setregid, -1, 10));
    show_ids();
    SHOW(syscall(SYS_setresgid, 10, 20, 30));
    SHOW(syscall(SYS_setregid, 5, -1));
    show_ids();
    SHOW(syscall(SYS_setfsgid, 77));
    show_ids();
    SHOW(syscall(SYS_setresuid, 0, 1, 2));
    show_ids();
    SHOW(syscall(SYS_setfsuid, 2));
    SHOW(syscall(SYS_setfsuid, 3));
    show_ids();
    SHOW(syscall(SYS_setreuid, 2, -1));
    SHOW(syscall(SYS_setreuid, 3, -1));
    SHOW(syscall(SYS_setreuid, -1, 2));
    show_ids();
    SHOW(syscall(SYS_setuid, 1));
    SHOW(syscall(SYS_setuid, 0));
    show_ids();
}

TEST(ids_of_root_are_given_up_for_good) {
    SHOW(syscall(SYS_setuid, -1));
    SHOW(syscall(SYS_setgid, 7));
    SHOW(syscall(SYS_setuid, 6));
    show_ids();
    SHOW(syscall(SYS_setuid, 0));
    SHOW(syscall(SYS_setgid, 0));
    SHOW(syscall(SYS_setresuid, -1, -1, -1));
    SHOW(syscall(SYS_setgroups, 0, NULL));
}

TEST(process_vm_copies_what_both_sides_have) {
    char a[16] = "abcdefgh", b[16] = "";
    struct iovec theirs[] = {{a, 3}, {a + 4, 2}}, mine[] = {{b, 1}, {b + 2, 0}, {b + 3, 9}};
    SHOW(process_vm_readv(getpid(), mine, 3, theirs, 2, 0));
    for (int i = 0; i < 10; i++)
        putchar(b[i] ? b[i] : '.');
    putchar('\n');
    SHOW(process_vm_writev(getpid(), theirs, 1, mine, 3, 0));
    printf("%s\n", a);
    char *map = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(map + PAGE, PAGE);
    struct iovec across = {map + PAGE - 5, 10}, whole = {a, 16};
    SHOW(process_vm_readv(getpid(), &whole, 1, &across, 1, 0));
    SHOW(process_vm_writev(getpid(), &whole, 1, &across, 1, 0));
    struct iovec bad = {map + PAGE, 4};
    SHOW(process_vm_readv(getpid(), &whole, 1, &bad, 1, 0));
    SHOW(process_vm_readv(getpid(), &bad, 1, &whole, 1, 0));
    SHOW(process_vm_readv(getpid(), &whole, 1, &across, 1, 1));
    SHOW(process_vm_readv(getpid(), NULL, 0, &across, 1, 0));
}
