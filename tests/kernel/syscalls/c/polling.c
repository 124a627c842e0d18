/* poll, select, epoll, eventfd, timerfd, signalfd, inotify. */
#include "oracle.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

TEST(poll_reports_ready_files) {
    int fds[2];
    pipe(fds);
    struct pollfd p[4] = {{fds[0], POLLIN, 0}, {fds[1], POLLOUT, 0}, {-1, POLLIN, 9}, {99, POLLIN, 0}};
    SHOW(poll(p, 4, 0));
    printf("%x %x %x %x\n", p[0].revents, p[1].revents, p[2].revents, p[3].revents);
    SHOW(poll(p, 1, 10));
    write(fds[1], "x", 1);
    SHOW(poll(p, 2, -1));
    printf("%x\n", p[0].revents);
    close(fds[1]);
    SHOW(poll(p, 1, -1));
    printf("%x\n", p[0].revents);
    char c;
    read(fds[0], &c, 1);
    SHOW(poll(p, 1, -1));
    printf("%x\n", p[0].revents);
    SHOW(poll((void *)8, 1, 0));
    SHOW(poll(p, 0, 5));
}

TEST(poll_waits_for_another_process) {
    int fds[2];
    pipe(fds);
    pid_t child = fork();
    if (!child) {
        pause_ms(20);
        write(fds[1], "x", 1);
        _exit(0);
    }
    struct pollfd p = {fds[0], POLLIN, 0};
    SHOW(poll(&p, 1, 5000));
    show_end(child);
}

TEST(select_reports_ready_files) {
    int fds[2];
    pipe(fds);
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(fds[0], &in);
    FD_SET(fds[1], &out);
    struct timeval zero = {0, 0}, bad = {-1, 0};
    SHOW(select(fds[1] + 1, &in, &out, NULL, &zero));
    printf("%d %d\n", FD_ISSET(fds[0], &in), FD_ISSET(fds[1], &out));
    FD_SET(fds[0], &in);
    struct timeval some = {0, 10000};
    SHOW(select(fds[0] + 1, &in, NULL, NULL, &some));
    printf("left %ld %ld\n", some.tv_sec, some.tv_usec);
    SHOW(select(-1, NULL, NULL, NULL, &zero));
    SHOW(select(0, NULL, NULL, NULL, &bad));
    SHOW(pselect(0, NULL, NULL, NULL, &(struct timespec){0, 1000000}, NULL));
}

TEST(ppoll_unblocks_signals_while_it_waits) {
    void teller(int s) { printf("SIG%s\n", sigabbrev_np(s)); }
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, NULL);
    handle(SIGUSR1, teller, SA_RESTART);
    raise(SIGUSR1);
    SHOW(ppoll(NULL, 0, &(struct timespec){1, 0}, &none));
    SHOW(ppoll(NULL, 0, &(struct timespec){0, 1000000}, &none));
    sigprocmask(SIG_BLOCK, NULL, &set);
    printf("blocked %d\n", sigismember(&set, SIGUSR1));
    raise(SIGUSR1);
    printf("still blocked\n");
    SHOW(pselect(0, NULL, NULL, NULL, NULL, &none));
}

TEST(epoll_level_edge_and_oneshot) {
    int fds[2], ep = epoll_create1(EPOLL_CLOEXEC);
    pipe(fds);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = 7}, out[4];
    SHOW(fcntl(ep, F_GETFD));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e));
    SHOW(epoll_wait(ep, out, 4, 0));
    write(fds[1], "x", 1);
    SHOW(epoll_wait(ep, out, 4, -1));
    printf("%x %d\n", out[0].events, out[0].data.u32);
    SHOW(epoll_wait(ep, out, 4, 0));
    e.events = EPOLLIN | EPOLLET;
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, fds[0], &e));
    SHOW(epoll_wait(ep, out, 4, 0));
    SHOW(epoll_wait(ep, out, 4, 0));
    write(fds[1], "y", 1);
    SHOW(epoll_wait(ep, out, 4, 0));
    SHOW(epoll_wait(ep, out, 4, 0));
    e.events = EPOLLIN | EPOLLONESHOT;
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, fds[0], &e));
    SHOW(epoll_wait(ep, out, 4, 0));
    write(fds[1], "z", 1);
    SHOW(epoll_wait(ep, out, 4, 0));
    SHOW(epoll_ctl(ep, EPOLL_CTL_MOD, fds[0], &e));
    SHOW(epoll_wait(ep, out, 4, 0));
    SHOW(epoll_ctl(ep, EPOLL_CTL_DEL, fds[0], NULL));
    SHOW(epoll_ctl(ep, EPOLL_CTL_DEL, fds[0], NULL));
    SHOW(epoll_wait(ep, out, 4, 0));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, 99, &e));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, open("/etc/passwd", O_RDONLY), &e));
    SHOW(epoll_ctl(ep, 9, fds[0], &e));
    SHOW(epoll_ctl(0, EPOLL_CTL_ADD, fds[0], &e));
    SHOW(epoll_wait(ep, out, 0, 0));
    SHOW(epoll_wait(0, out, 1, 0));
    SHOW(epoll_create(0));
    SHOW(epoll_create1(5));
}

TEST(epoll_takes_only_files_that_can_be_polled) {
    const char *paths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom",
                           "/etc/passwd", "/etc", "/proc", "/proc/meminfo", "/proc/mounts",
                           "/proc/sys/kernel/hostname", "/sys/devices/system/cpu/online"};
    int ep = epoll_create1(0);
    for (int i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct epoll_event e = {.events = EPOLLIN};
        int fd = open(paths[i], O_RDONLY);
        printf("%s\n", paths[i]);
        SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e));
        close(fd);
    }
}

TEST(epoll_forgets_closed_files_and_sees_hangups) {
    int fds[2], ep = epoll_create1(0);
    pipe(fds);
    struct epoll_event e = {.events = EPOLLIN}, out[4];
    epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e);
    close(fds[1]);
    SHOW(epoll_wait(ep, out, 4, -1));
    printf("%x\n", out[0].events);
    close(fds[0]);
    SHOW(epoll_wait(ep, out, 4, 0));
    pipe(fds);
    int outer = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e);
    SHOW(epoll_ctl(outer, EPOLL_CTL_ADD, ep, &e));
    SHOW(epoll_wait(outer, out, 4, 0));
    write(fds[1], "x", 1);
    SHOW(epoll_wait(outer, out, 4, 0));
    struct pollfd p = {ep, POLLIN, 0};
    SHOW(poll(&p, 1, 0));
    SHOW(epoll_ctl(ep, EPOLL_CTL_ADD, outer, &e));
}

TEST(epoll_waits_for_another_process) {
    int fds[2], ep = epoll_create1(0);
    pipe(fds);
    struct epoll_event e = {.events = EPOLLIN | EPOLLET, .data.fd = fds[0]}, out[4];
    epoll_ctl(ep, EPOLL_CTL_ADD, fds[0], &e);
    pid_t child = fork();
    if (!child) {
        for (int i = 0; i < 3; i++) {
            pause_ms(15);
            write(fds[1], "x", 1);
        }
        _exit(0);
    }
    for (int i = 0; i < 3; i++)
        SHOW(epoll_wait(ep, out, 4, 5000));
    SHOW(epoll_pwait(ep, out, 4, 1, NULL));
    show_end(child);
}

TEST(eventfd_counts) {
    int fd = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC);
    uint64_t value = 0;
    SHOW(read(fd, &value, 8));
    printf("%lu\n", value);
    SHOW(read(fd, &value, 8));
    value = 5;
    SHOW(write(fd, &value, 8));
    SHOW(write(fd, &value, 8));
    SHOW(read(fd, &value, 4));
    SHOW(read(fd, &value, 8));
    printf("%lu\n", value);
    value = -1;
    SHOW(write(fd, &value, 8));
    value = -2;
    SHOW(write(fd, &value, 8));
    SHOW(write(fd, &value, 8));
    struct pollfd p = {fd, POLLIN | POLLOUT, 0};
    SHOW(poll(&p, 1, 0));
    printf("%x\n", p.revents);
    fd = eventfd(2, EFD_SEMAPHORE);
    SHOW(read(fd, &value, 8));
    printf("%lu\n", value);
    CHILD(pause_ms(10); value = 1; write(fd, &value, 8));
    SHOW(read(fd, &value, 8));
    SHOW(read(fd, &value, 8));
    SHOW(eventfd(0, 77));
}

TEST(timerfd_expires) {
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    uint64_t ticks;
    struct itimerspec when = {{0, 0}, {0, 20000000}}, left;
    SHOW(read(fd, &ticks, 8));
    SHOW(timerfd_settime(fd, 0, &when, NULL));
    SHOW(timerfd_gettime(fd, &left));
    printf("%d\n", left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 20000000);
    SHOW(read(fd, &ticks, 8));
    struct pollfd p = {fd, POLLIN, 0};
    SHOW(poll(&p, 1, 1000));
    SHOW(read(fd, &ticks, 8));
    printf("%lu\n", ticks);
    SHOW(timerfd_gettime(fd, &left));
    printf("%ld\n", left.it_value.tv_nsec);
    fcntl(fd, F_SETFL, 0);
    when.it_interval.tv_nsec = 10000000;
    timerfd_settime(fd, 0, &when, NULL);
    SHOW(read(fd, &ticks, 8));
    SHOW(read(fd, &ticks, 8));
    clock_gettime(CLOCK_MONOTONIC, &when.it_value);
    when.it_interval.tv_nsec = 0;
    SHOW(timerfd_settime(fd, TFD_TIMER_ABSTIME, &when, NULL));
    SHOW(read(fd, &ticks, 8));
    when.it_value.tv_nsec = -1;
    SHOW(timerfd_settime(fd, 0, &when, NULL));
    SHOW(timerfd_settime(0, 0, &when, NULL));
    SHOW(timerfd_create(77, 0));
    SHOW(timerfd_create(CLOCK_REALTIME, 77));
    SHOW(write(fd, &ticks, 8));
}

TEST(signalfd_reads_signals) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_NONBLOCK);
    struct signalfd_siginfo info;
    SHOW(read(fd, &info, sizeof info));
    raise(SIGUSR1);
    struct pollfd p = {fd, POLLIN, 0};
    SHOW(poll(&p, 1, 0));
    SHOW(read(fd, &info, sizeof info));
    printf("%d %d %d\n", info.ssi_signo, info.ssi_code, (int)info.ssi_pid == getpid());
    SHOW(read(fd, &info, 10));
    fcntl(fd, F_SETFL, 0);
    pid_t child = fork();
    if (!child)
        _exit(6);
    SHOW(read(fd, &info, sizeof info));
    printf("%d %d %d\n", info.ssi_signo, info.ssi_code, info.ssi_status);
    show_end(child);
    SHOW(signalfd(0, &set, 0));
    SHOW(signalfd(-1, &set, 77));
}
