/* Threads: pthreads, futexes, thread-local storage, and how threads end. */
#include "oracle.h"
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static __thread int local = 5;
static int shared;

static void *add_many(void *argument) {
    (void)argument;
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&mutex);
        shared++;
        pthread_mutex_unlock(&mutex);
    }
    return (void *)7;
}

TEST(create_and_join) {
    pthread_t threads[8];
    void *result;
    for (int i = 0; i < 8; i++)
        SHOW(pthread_create(&threads[i], NULL, add_many, NULL));
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], &result);
    printf("%d %ld\n", shared, (long)result);
}

static void *set_local(void *argument) {
    local += (long)argument;
    printf("local %d\n", local);
    return &local;
}

TEST(thread_local_storage_is_per_thread) {
    pthread_t thread;
    void *other;
    for (long i = 1; i < 4; i++) {
        pthread_create(&thread, NULL, set_local, (void *)i);
        pthread_join(thread, &other);
        printf("mine %d, another place %d\n", local, other != &local);
    }
}

static int turn;
static void *other_player(void *argument) {
    (void)argument;
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != 1)
            pthread_cond_wait(&condition, &mutex);
        turn = 0;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

TEST(condition_variables_pass_turns) {
    pthread_t thread;
    pthread_create(&thread, NULL, other_player, NULL);
    for (int i = 0; i < 50; i++) {
        pthread_mutex_lock(&mutex);
        while (turn != 0)
            pthread_cond_wait(&condition, &mutex);
        turn = 1;
        pthread_cond_signal(&condition);
        pthread_mutex_unlock(&mutex);
    }
    pthread_join(thread, NULL);
    printf("turn %d\n", turn);
}

TEST(timed_waits_time_out) {
    struct timespec when;
    clock_gettime(CLOCK_REALTIME, &when);
    when.tv_nsec += 20000000;
    if (when.tv_nsec >= 1000000000)
        when.tv_sec++, when.tv_nsec -= 1000000000;
    pthread_mutex_lock(&mutex);
    SHOW(pthread_cond_timedwait(&condition, &mutex, &when));
    SHOW(pthread_mutex_timedlock(&mutex, &when));
    sem_t semaphore;
    sem_init(&semaphore, 0, 1);
    SHOW(sem_timedwait(&semaphore, &when));
    SHOW(sem_timedwait(&semaphore, &when));
    int word = 3;
    struct timespec some = {0, 10000000}, bad = {0, 2000000000};
    SHOW(syscall(SYS_futex, &word, FUTEX_WAIT, 3, &some, NULL, 0));
    SHOW(syscall(SYS_futex, &word, FUTEX_WAIT, 4, &some, NULL, 0));
    SHOW(syscall(SYS_futex, &word, FUTEX_WAIT, 3, &bad, NULL, 0));
    SHOW(syscall(SYS_futex, (char *)&word + 1, FUTEX_WAIT, 3, &some, NULL, 0));
    SHOW(syscall(SYS_futex, 8L, FUTEX_WAIT, 3, &some, NULL, 0));
    SHOW(syscall(SYS_futex, &word, FUTEX_WAKE, 1, NULL, NULL, 0));
    SHOW(syscall(SYS_futex, &word, 99, 1, NULL, NULL, 0));
    SHOW(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET, 3, NULL, NULL, 0));
}

static void *wait_for_ever(void *argument) {
    pthread_barrier_wait(argument);
    for (;;)
        pause();
    return NULL;
}

TEST(exit_group_ends_all_threads) {
    pthread_barrier_t barrier;
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, wait_for_ever, &barrier);
    pthread_barrier_wait(&barrier);
    exit(4);
}

static void *exit_now(void *argument) {
    exit((long)argument);
}

TEST(exit_from_a_thread_ends_the_process) {
    pthread_t thread;
    pthread_create(&thread, NULL, exit_now, (void *)9);
    for (;;)
        pause();
}

static void *outlive(void *argument) {
    (void)argument;
    pause_ms(30);
    printf("still here\n");
    return NULL;
}

TEST(main_thread_may_exit_first) {
    CHILD(
        pthread_t thread;
        pthread_create(&thread, NULL, outlive, NULL);
        pthread_exit(NULL));
}

static void *exec_now(void *argument) {
    execl("/bin/echo", "echo", "from exec", NULL);
    return argument;
}

TEST(exec_from_a_thread_keeps_the_pid) {
    int fds[2];
    pipe(fds);
    pid_t child = fork();
    if (!child) {
        pthread_t thread;
        pthread_create(&thread, NULL, exec_now, NULL);
        for (;;)
            pause();
    }
    show_end(child);
}

TEST(cancellation) {
    pthread_barrier_t barrier;
    pthread_t thread;
    void *result;
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_create(&thread, NULL, wait_for_ever, &barrier);
    pthread_barrier_wait(&barrier);
    SHOW(pthread_cancel(thread));
    SHOW(pthread_join(thread, &result));
    printf("%d\n", result == PTHREAD_CANCELED);
}

static pthread_t receiver;
static volatile int noted;
static void note(int signal) {
    printf("SIG%s in the receiver: %d\n", sigabbrev_np(signal), pthread_self() == receiver);
    noted = 1;
}

TEST(pthread_kill_reaches_one_thread) {
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, 2);
    handle(SIGUSR1, note, 0);
    pthread_create(&receiver, NULL, wait_for_ever, &barrier);
    pthread_barrier_wait(&barrier);
    pthread_kill(receiver, SIGUSR1);
    while (!noted)
        pause_ms(1);
}

TEST(process_signal_goes_to_a_thread_that_does_not_block_it) {
    pthread_barrier_t barrier;
    sigset_t set;
    pthread_barrier_init(&barrier, NULL, 2);
    handle(SIGUSR1, note, 0);
    pthread_create(&receiver, NULL, wait_for_ever, &barrier);
    pthread_barrier_wait(&barrier);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    kill(getpid(), SIGUSR1);
    while (!noted)
        pause_ms(1);
}

static pthread_mutex_t *robust;
static void *die_with_lock(void *argument) {
    (void)argument;
    pthread_mutex_lock(robust);
    return NULL;
}

TEST(robust_mutexes_report_a_dead_owner) {
    pthread_mutexattr_t attributes;
    pthread_t thread;
    robust = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(robust, &attributes);
    pthread_create(&thread, NULL, die_with_lock, NULL);
    pthread_join(thread, NULL);
    SHOW(pthread_mutex_lock(robust) == EOWNERDEAD);
    SHOW(pthread_mutex_consistent(robust));
    SHOW(pthread_mutex_unlock(robust));
    CHILD(pthread_mutex_lock(robust); raise(SIGKILL));
    SHOW(pthread_mutex_lock(robust) == EOWNERDEAD);
    SHOW(pthread_mutex_consistent(robust));
    SHOW(pthread_mutex_unlock(robust));
    CHILD(SHOW(pthread_mutex_lock(robust)));
    SHOW(pthread_mutex_lock(robust) == EOWNERDEAD);
    pthread_mutex_unlock(robust);
    SHOW(pthread_mutex_lock(robust) == ENOTRECOVERABLE);
}

static int tids[3];
static void *sleep_in_futex(void *argument) {
    tids[(long)argument] = syscall(SYS_gettid);
    syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, turn, NULL, NULL, 0);
    return NULL;
}

static char state_of(int tid) {
    char path[64], state = '?';
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
    FILE *file = fopen(path, "r");
    if (file && fscanf(file, "%*d %*s %c", &state) != 1)
        state = '!';
    fclose(file);
    return state;
}

TEST(each_thread_has_its_own_state) {
    pthread_t thread;
    for (long i = 0; i < 3; i++) {
        pthread_create(&thread, NULL, sleep_in_futex, (void *)i);
        pause_ms(20);
    }
    printf("%c%c%c %c\n", state_of(tids[0]), state_of(tids[1]), state_of(tids[2]),
           state_of(getpid()));
}

TEST(futexes_work_between_processes) {
    int *word = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t child = fork();
    if (!child) {
        while (!*(volatile int *)word)
            syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);
        _exit(8);
    }
    pause_ms(10);
    *word = 1;
    SHOW(syscall(SYS_futex, word, FUTEX_WAKE, 10, NULL, NULL, 0));
    show_end(child);
}

static int words[2];
static void *wait_on_first(void *argument) {
    while (!*(volatile int *)&words[0])
        syscall(SYS_futex, &words[0], FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return argument;
}

TEST(futex_requeue_and_wake_op) {
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, wait_on_first, NULL);
    pause_ms(20);
    SHOW(syscall(SYS_futex, &words[0], FUTEX_CMP_REQUEUE_PRIVATE, 0, 2L, &words[1], 5));
    SHOW(syscall(SYS_futex, &words[0], FUTEX_CMP_REQUEUE_PRIVATE, 0, 2L, &words[1], 0));
    words[0] = 1;
    SHOW(syscall(SYS_futex, &words[1], FUTEX_WAKE_PRIVATE, 10, NULL, NULL, 0));
    SHOW(syscall(SYS_futex, &words[1], FUTEX_WAKE_OP_PRIVATE, 1, 10L, &words[0],
                 FUTEX_OP(FUTEX_OP_ADD, 4, FUTEX_OP_CMP_EQ, 1)));
    printf("%d\n", words[0]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
}

#define FUTEX(word, operation, value, value2, other, value3)                                   \
    SHOW(syscall(SYS_futex, word, operation, (long)(value), (long)(value2), other, (long)(value3)))

TEST(futex_calls_check_what_they_are_given) {
    struct timespec soon = {0, 1000000};
    int *none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int *ro = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int *file = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/proc/self/exe", O_RDONLY), 0);
    int w[2] = {0, 0}, *high = (int *)(1L << 60), first = *file;
    int *places[] = {w, w + 1, none, ro, file, high, NULL};
    for (int i = 0; i < 7; i++)
        for (int private = 0; private <= FUTEX_PRIVATE_FLAG; private += FUTEX_PRIVATE_FLAG) {
            printf("place %d %d\n", i, private);
            FUTEX(places[i], FUTEX_WAKE | private, 1, 0, NULL, 0);
            FUTEX(places[i], FUTEX_WAKE_BITSET | private, 1, 0, NULL, 0);
            FUTEX(places[i], FUTEX_WAIT | private, 0, &soon, NULL, 0);
            FUTEX(places[i], FUTEX_WAIT | private, first, &soon, NULL, 0);
            FUTEX(w, FUTEX_REQUEUE | private, 1, 1, places[i], 0);
            FUTEX(places[i], FUTEX_REQUEUE | private, 1, 1, w, 0);
            FUTEX(places[i], FUTEX_CMP_REQUEUE | private, 1, 1, w, 0);
            FUTEX(w, FUTEX_CMP_REQUEUE | private, 1, 1, places[i], 1);
            FUTEX(w, FUTEX_WAKE_OP | private, 1, 1, places[i],
                  FUTEX_OP(FUTEX_OP_OR, 0, FUTEX_OP_CMP_EQ, 0));
            FUTEX(places[i], FUTEX_WAKE_OP | private, 1, 1, w + 1,
                  FUTEX_OP(FUTEX_OP_ADD, -3, FUTEX_OP_CMP_LT, -5));
            FUTEX(places[i], FUTEX_UNLOCK_PI | private, 0, 0, NULL, 0);
        }
    printf("%d %d\n", w[0], w[1]);
    FUTEX(w, FUTEX_CMP_REQUEUE, -1, 0, w + 1, 0);
    FUTEX(w, FUTEX_CMP_REQUEUE, 0, -1, w + 1, 0);
    FUTEX(w, FUTEX_REQUEUE, -1, 0, none, 0);
    FUTEX(w, FUTEX_REQUEUE, 1, 1, (char *)w + 2, 0);
    FUTEX(w, FUTEX_WAKE_OP, 1, 1, w + 1, FUTEX_OP(7, 1, FUTEX_OP_CMP_EQ, 0));
    FUTEX(w, FUTEX_WAKE_OP, 1, 1, w + 1, FUTEX_OP(FUTEX_OP_SET, 9, 9, 0));
    printf("%d %d\n", w[0], w[1]);
    FUTEX(w, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 1, &soon, NULL, 0);
    FUTEX(w, FUTEX_WAKE | FUTEX_CLOCK_REALTIME, 1, 0, NULL, 0);
    FUTEX(w, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &soon, NULL, -1);
}

static void *wait_shared(void *argument) {
    syscall(SYS_futex, argument, FUTEX_WAIT, 0, NULL, NULL, 0);
    return argument;
}

static void *wait_private(void *argument) {
    syscall(SYS_futex, argument, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return argument;
}

TEST(private_and_shared_futexes_are_not_the_same) {
    static int word;
    pthread_t threads[5];
    for (int i = 0; i < 5; i++)
        pthread_create(&threads[i], NULL, i < 2 ? wait_shared : wait_private, &word);
    pause_ms(20);
    FUTEX(&word, FUTEX_WAKE_PRIVATE, 0, 0, NULL, 0);
    FUTEX(&word, FUTEX_WAKE_PRIVATE, -1, 0, NULL, 0);
    FUTEX(&word, FUTEX_WAKE, 10, 0, NULL, 0);
    FUTEX(&word, FUTEX_WAKE_PRIVATE, 10, 0, NULL, 0);
    for (int i = 0; i < 5; i++)
        pthread_join(threads[i], NULL);
}

struct waitv {
    uint64_t value, address;
    uint32_t flags, reserved;
};

static uint32_t many[4];
static void *wait_for_one_of(void *argument) {
    struct waitv v[4];
    (void)argument;
    for (int i = 0; i < 4; i++)
        v[i] = (struct waitv){0, (uintptr_t)&many[i], 2 | (i & 1) << 7, 0};
    return (void *)syscall(449, v, 4, 0, NULL, 0);
}

TEST(futex_waitv_waits_for_one_of_several) {
    struct timespec when = {0, 0}, bad = {0, 2000000000};
    uint32_t word = 1;
    struct waitv v = {2, (uintptr_t)&word, 2 | 128, 0};
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    v.value = 1;
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_REALTIME));
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_BOOTTIME));
    SHOW(syscall(449, &v, 1, 0, NULL + 8, CLOCK_REALTIME));
    SHOW(syscall(449, &v, 1, 0, &bad, CLOCK_REALTIME));
    SHOW(syscall(449, &v, 0, 0, &when, CLOCK_MONOTONIC));
    SHOW(syscall(449, &v, 129, 0, &when, CLOCK_MONOTONIC));
    SHOW(syscall(449, NULL, 1, 0, &when, CLOCK_MONOTONIC));
    SHOW(syscall(449, 8L, 1, 0, &when, CLOCK_MONOTONIC));
    SHOW(syscall(449, &v, 1, 1, &when, CLOCK_MONOTONIC));
    uint32_t flags[] = {0, 1, 2, 3, 128, 130, 131, 256 | 2, 64 | 2};
    for (int i = 0; i < sizeof flags / sizeof *flags; i++) {
        v.flags = flags[i];
        SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    }
    v = (struct waitv){1, (uintptr_t)&word, 2, 1};
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    v = (struct waitv){1L << 32 | 1, (uintptr_t)&word, 2, 0};
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    v = (struct waitv){1, (uintptr_t)&word + 1, 2, 0};
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    v = (struct waitv){1, 8, 2, 0};
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    v.flags = 130;
    SHOW(syscall(449, &v, 1, 0, &when, CLOCK_MONOTONIC));
    for (int i = 0; i < 4; i++) {
        pthread_t thread;
        void *which;
        pthread_create(&thread, NULL, wait_for_one_of, NULL);
        pause_ms(20);
        FUTEX(&many[i], FUTEX_WAKE | (~i & 1) << 7, 9, 0, NULL, 0);
        FUTEX(&many[i], FUTEX_WAKE | (i & 1) << 7, 9, 0, NULL, 0);
        pthread_join(thread, &which);
        printf("woken by %ld\n", (long)which);
    }
}

static void *fork_here(void *argument) {
    CHILD(printf("child has its local %d\n", local); _exit(local));
    return argument;
}

TEST(fork_from_a_thread) {
    pthread_t thread;
    local = 6;
    pthread_create(&thread, NULL, fork_here, NULL);
    pthread_join(thread, NULL);
}

static void *crash(void *argument) {
    *(volatile int *)argument = 1;
    return NULL;
}

TEST(fault_in_a_thread_kills_the_process) {
    CHILD(
        pthread_t thread;
        pthread_create(&thread, NULL, crash, NULL);
        pthread_join(thread, NULL));
}

static void *spin(void *argument) {
    while (!*(volatile int *)argument)
        ;
    return NULL;
}

TEST(a_spinning_thread_does_not_stop_the_others) {
    pthread_t thread;
    int stop = 0;
    pthread_create(&thread, NULL, spin, &stop);
    for (int i = 0; i < 3; i++)
        pause_ms(1);
    *(volatile int *)&stop = 1;
    pthread_join(thread, NULL);
    printf("joined\n");
}

TEST(reader_writer_locks_and_once) {
    static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    void print_once(void) { printf("once\n"); }
    SHOW(pthread_rwlock_rdlock(&lock));
    SHOW(pthread_rwlock_tryrdlock(&lock));
    SHOW(pthread_rwlock_trywrlock(&lock) == EBUSY);
    pthread_once(&once, print_once);
    pthread_once(&once, print_once);
}

static int *word;

static long pi(int operation, struct timespec *timeout) {
    return syscall(SYS_futex, word, operation, 0, timeout, NULL, 0);
}

static void show_word(void) {
    int tid = *word & FUTEX_TID_MASK;
    printf("%s%s owner %s\n", *word & FUTEX_WAITERS ? "waiters " : "",
           *word & FUTEX_OWNER_DIED ? "died" : "", !tid ? "none" : tid == gettid() ? "me" : "other");
}

TEST(priority_inheriting_futex_without_contention) {
    word = &shared;
    struct timespec past = {1, 0}, wrong = {0, -1};
    SHOW(pi(FUTEX_UNLOCK_PI, NULL));
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    show_word();
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    SHOW(pi(FUTEX_TRYLOCK_PI, NULL));
    SHOW(pi(FUTEX_LOCK_PI, &wrong));
    SHOW(pi(FUTEX_UNLOCK_PI, NULL));
    show_word();
    SHOW(pi(FUTEX_TRYLOCK_PI, NULL));
    show_word();
    SHOW(pi(FUTEX_UNLOCK_PI, NULL));
    *word = 0x3FFFFFF0;
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    printf("%x\n", *word);
    *word = FUTEX_OWNER_DIED;
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    show_word();
    SHOW(pi(FUTEX_UNLOCK_PI, NULL));
    *word = FUTEX_WAITERS;
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    show_word();
    CHILD(*word = getppid(); SHOW(pi(FUTEX_TRYLOCK_PI, NULL)); show_word();
          SHOW(pi(FUTEX_LOCK_PI, &past)); show_word(); SHOW(pi(FUTEX_UNLOCK_PI, NULL)));
    word = (int *)((char *)word + 1);
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    word = (int *)8;
    SHOW(pi(FUTEX_LOCK_PI, NULL));
}

static void *lock_and_leave(void *unlocks) {
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    show_word();
    if (unlocks)
        SHOW(pi(FUTEX_UNLOCK_PI, NULL));
    return NULL;
}

static void *lock_first(void *unused) {
    lock_and_leave(NULL);
    pause_ms(100);
    return NULL;
}

TEST(priority_inheriting_futex_is_handed_over) {
    pthread_t thread;
    word = &shared;
    pi(FUTEX_LOCK_PI, NULL);
    pthread_create(&thread, NULL, lock_and_leave, &thread);
    while (!(*(volatile int *)word & FUTEX_WAITERS))
        pause_ms(1);
    pause_ms(20);
    int unlocked = pi(FUTEX_UNLOCK_PI, NULL);
    pthread_join(thread, NULL);  // it prints as soon as it has the lock
    SHOW(unlocked);
    show_word();
    *word = 0;
    pthread_create(&thread, NULL, lock_first, NULL);
    pause_ms(50);
    SHOW(pi(FUTEX_LOCK_PI, NULL));
    show_word();
    pthread_join(thread, NULL);
}

static void nothing(int signal) {
}

TEST(priority_inheriting_mutexes_work) {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    SHOW(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT));
    SHOW(pthread_mutex_init(&mutex, &attributes));
    pthread_t threads[8];
    handle(SIGALRM, nothing, 0);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &often, NULL);
    shared = 0;
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, add_many, NULL);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    printf("%d\n", shared);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    robust = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    SHOW(pthread_mutex_init(robust, &attributes));
    CHILD(pthread_mutex_lock(robust));
    SHOW(pthread_mutex_lock(robust) == EOWNERDEAD);
    SHOW(pthread_mutex_consistent(robust));
    SHOW(pthread_mutex_unlock(robust));
}
