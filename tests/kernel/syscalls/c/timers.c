/* Clocks, sleeping and timers. */
#include "oracle.h"

static volatile sig_atomic_t ticks;
static void tick(int signal) { (void)signal; ticks++; }

TEST(sleeping_takes_at_least_its_time) {
    struct timespec a, b, bad = {0, 1000000000};
    clock_gettime(CLOCK_MONOTONIC, &a);
    SHOW(usleep(20000));
    clock_gettime(CLOCK_MONOTONIC, &b);
    long ns = (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
    printf("%d\n", ns >= 20000000);
    SHOW(nanosleep(&bad, NULL));
    SHOW(clock_nanosleep(77, 0, &a, NULL));
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &a, NULL));
    SHOW(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &a, NULL));
    b.tv_nsec += 5000000;
    if (b.tv_nsec > 999999999)
        b.tv_sec++, b.tv_nsec -= 1000000000;
    SHOW(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &b, NULL));
}

TEST(clocks_exist) {
    struct timespec t;
    for (int clock = 0; clock < 8; clock++)
        SHOW(clock_gettime(clock, &t));
    SHOW(clock_gettime(77, &t));
    SHOW(gettimeofday(NULL, NULL));
}

TEST(alarm_sends_sigalrm) {
    handle(SIGALRM, tick, 0);
    SHOW(alarm(10));
    SHOW(alarm(0));
    SHOW(alarm(0));
    ualarm(10000, 0);
    SHOW(pause());
    printf("%d\n", ticks);
    CHILD(signal(SIGALRM, SIG_DFL); ualarm(10000, 0); pause());
}

TEST(interval_timer_repeats) {
    struct itimerval timer = {{0, 10000}, {0, 10000}}, old;
    handle(SIGALRM, tick, 0);
    SHOW(setitimer(ITIMER_REAL, &timer, NULL));
    while (ticks < 5)
        pause();
    timer.it_value.tv_usec = 0;
    SHOW(setitimer(ITIMER_REAL, &timer, &old));
    printf("%ld\n", old.it_interval.tv_usec);
    SHOW(getitimer(ITIMER_REAL, &old));
    printf("%ld %ld\n", old.it_value.tv_usec, old.it_interval.tv_usec);
    timer.it_value.tv_usec = 2000000;
    SHOW(setitimer(ITIMER_REAL, &timer, NULL));
    SHOW(setitimer(5, &timer, NULL));
    CHILD(getitimer(ITIMER_REAL, &old); printf("child %ld\n", old.it_value.tv_usec));
}

TEST(posix_timers) {
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1, .sigev_value.sival_int = 55};
    struct itimerspec when = {{0, 0}, {0, 10000000}}, left;
    void teller(int s, siginfo_t *i, void *c) {
        (void)c;
        printf("SIG%s code %d value %d\n", sigabbrev_np(s), i->si_code, i->si_value.sival_int);
    }
    handle_info(SIGUSR1, teller, 0);
    SHOW(timer_create(CLOCK_MONOTONIC, &event, &timer));
    SHOW(timer_settime(timer, 0, &when, NULL));
    SHOW(pause());
    SHOW(timer_gettime(timer, &left));
    printf("%ld\n", left.it_value.tv_nsec);
    SHOW(timer_getoverrun(timer));
    SHOW(timer_delete(timer));
    SHOW(timer_create(77, &event, &timer));
}

TEST(cpu_time_advances_with_work) {
    struct timespec now;
    long ns = 0;
    while (ns < 1000000) {
        for (volatile int i = 0; i < 100000; i++)
            ;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        ns = now.tv_sec * 1000000000 + now.tv_nsec;
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    printf("%d\n", now.tv_sec > 0 || now.tv_nsec >= 1000000);
}

TEST(virtual_timer_counts_cpu_time) {
    struct itimerval timer = {{0, 0}, {0, 10000}};
    handle(SIGVTALRM, tick, 0);
    handle(SIGPROF, tick, 0);
    SHOW(setitimer(ITIMER_VIRTUAL, &timer, NULL));
    while (!ticks)
        ;
    SHOW(setitimer(ITIMER_PROF, &timer, NULL));
    while (ticks < 2)
        ;
    printf("%d\n", ticks);
}

TEST(alarm_interrupts_a_pure_loop) {
    handle(SIGALRM, tick, 0);
    ualarm(20000, 0);
    while (!ticks)
        ;
    printf("interrupted\n");
}
