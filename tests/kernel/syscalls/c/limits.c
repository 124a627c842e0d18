/* Resource limits, randomness, and what the machine reports of itself. */
#include "oracle.h"
#include <grp.h>
#include <sys/fsuid.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sched.h>

TEST(rlimit_rules) {
    struct rlimit limit;
    for (int i = 0; i < 17; i++)
        SHOW(getrlimit(i, &limit));
    limit = (struct rlimit){20, 10};
    SHOW(setrlimit(RLIMIT_NOFILE, &limit));
    limit = (struct rlimit){10, 20};
    SHOW(setrlimit(RLIMIT_NOFILE, &limit));
    SHOW(getrlimit(RLIMIT_NOFILE, &limit));
    printf("%ld %ld\n", (long)limit.rlim_cur, (long)limit.rlim_max);
    SHOW(prlimit(999999999, RLIMIT_NOFILE, NULL, &limit));
    SHOW(prlimit(getpid(), RLIMIT_NOFILE, NULL, &limit));
    SHOW(prlimit(0, 99, NULL, &limit));
    SHOW(prlimit(0, RLIMIT_NOFILE, (void *)8, NULL));
    limit = (struct rlimit){RLIM_INFINITY, RLIM_INFINITY};
    SHOW(setrlimit(RLIMIT_NOFILE, &limit));
    CHILD(getrlimit(RLIMIT_NOFILE, &limit); printf("%ld\n", (long)limit.rlim_cur));
}

TEST(address_space_limit) {
    struct rlimit limit = {64 << 20, 64 << 20};
    SHOW(setrlimit(RLIMIT_AS, &limit));
    SHOW(mmap(NULL, 128 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SHOW(mmap(NULL, 16 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    SHOW(malloc(100 << 20) == NULL);
}

TEST(data_limit) {
    struct rlimit limit = {16 << 20, 16 << 20};
    SHOW(setrlimit(RLIMIT_DATA, &limit));
    SHOW(sbrk(32 << 20));
    SHOW(mmap(NULL, 32 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SHOW(mmap(NULL, 32 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
}

TEST(file_size_limit_sends_sigxfsz) {
    struct rlimit limit = {1000, 1000};
    char name[] = "/tmp/oracle-XXXXXX", data[2000] = "";
    int fd = mkstemp(name);
    unlink(name);
    SHOW(setrlimit(RLIMIT_FSIZE, &limit));
    SHOW(write(fd, data, 2000));
    CHILD(write(fd, data, 1));
    signal(SIGXFSZ, SIG_IGN);
    SHOW(write(fd, data, 1));
    SHOW(ftruncate(fd, 2000));
    SHOW(ftruncate(fd, 500));
}


TEST(process_limit_makes_fork_fail) {
    CHILD(
        struct rlimit limit = {0, 0};
        setuid(12345);
        setrlimit(RLIMIT_NPROC, &limit);
        SHOW(fork()));
}

TEST(getrandom_gives_what_is_asked_for) {
    unsigned char data[300];
    memset(data, 0, sizeof data);
    SHOW(getrandom(data, 300, 0));
    int zeros = 0;
    for (int i = 0; i < 300; i++)
        zeros += !data[i];
    printf("%d\n", zeros < 20);
    SHOW(getrandom(data, 10, GRND_NONBLOCK | GRND_RANDOM));
    SHOW(getrandom(data, 10, 77));
    SHOW(getrandom((void *)8, 10, 0));
    SHOW(getentropy(data, 256));
    SHOW(getentropy(data, 257));
}

TEST(machine_facts) {
    struct utsname u;
    struct sysinfo s;
    uname(&u);
    printf("%s %s\n", u.sysname, u.machine);
    SHOW(sysinfo(&s));
    printf("%d %d\n", s.mem_unit, s.totalram > 0);
    printf("%ld\n", sysconf(_SC_PAGESIZE));
    unsigned cpu = 99, node = 99;
    SHOW(getcpu(&cpu, &node));
    printf("%d\n", node);
    SHOW(syscall(SYS_getcpu, NULL, NULL, NULL));
    SHOW(syscall(12345));
    SHOW(syscall(-1));
}

TEST(ids_of_users) {
    uid_t r, e, s;
    CHILD(
        SHOW(setuid(1000));
        SHOW(getuid());
        SHOW(geteuid());
        SHOW(setuid(0));
        SHOW(getresuid(&r, &e, &s));
        printf("%d %d %d\n", r, e, s);
        SHOW(open("/etc/shadow", O_RDONLY));
        SHOW(kill(getppid(), 0)));
    CHILD(SHOW(seteuid(1000)); SHOW(seteuid(0)); SHOW(geteuid()));
    CHILD(SHOW(setresuid(1, 2, 3)); SHOW(setresuid(-1, 3, -1)); SHOW(setresuid(-1, 7, -1)));
    CHILD(SHOW(setgid(100)); SHOW(getgid()); SHOW(setregid(5, 6)); SHOW(getegid()));
    gid_t groups[3] = {1, 2, 3};
    CHILD(SHOW(setgroups(3, groups)); SHOW(getgroups(0, NULL)); SHOW(getgroups(1, groups)));
    CHILD(SHOW(setfsuid(5)); SHOW(setfsuid(-1)));
}
