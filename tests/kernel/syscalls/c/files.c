/* Files and directories. */
#include "oracle.h"
#include <dirent.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/sendfile.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <sys/xattr.h>

static char place[] = "/tmp/oracle-dir-XXXXXX";
static void enter(void) { mkdtemp(place); chdir(place); }
static void leave(void) { chdir("/"); char c[100]; snprintf(c, 100, "rm -r %s", place); system(c); }

#define IN_PLACE(name)                                                        \
    static void in_##name(void);                                              \
    TEST(name) { enter(); in_##name(); leave(); }                             \
    static void in_##name(void)

IN_PLACE(open_flags) {
    int fd = open("f", O_CREAT | O_EXCL | O_WRONLY, 0640);
    struct stat st;
    fstat(fd, &st);
    printf("%o %ld\n", st.st_mode, (long)st.st_nlink);
    SHOW(open("f", O_CREAT | O_EXCL, 0600));
    SHOW(open("f", O_DIRECTORY));
    SHOW(open("f/x", O_RDONLY));
    SHOW(open("no/x", O_CREAT, 0600));
    SHOW(open(".", O_WRONLY));
    SHOW(open("", O_RDONLY));
    SHOW(write(fd, "hello", 5));
    char c;
    SHOW(read(fd, &c, 1));
    fd = open("f", O_RDWR | O_APPEND);
    SHOW(lseek(fd, 0, SEEK_SET));
    SHOW(write(fd, "X", 1));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(pwrite(fd, "Y", 1, 0));
    fd = open("f", O_RDWR | O_TRUNC);
    fstat(fd, &st);
    printf("%ld\n", (long)st.st_size);
    symlink("f", "link");
    SHOW(open("link", O_NOFOLLOW));
    SHOW(open("link", O_PATH | O_NOFOLLOW) >= 0);
    symlink("loop", "loop");
    SHOW(open("loop", O_RDONLY));
    symlink("target", "dangling");
    SHOW(open("dangling", O_CREAT | O_EXCL, 0600));
    SHOW(open("dangling", O_CREAT | O_WRONLY, 0600) >= 0);
    SHOW(access("target", F_OK));
}

IN_PLACE(tmpfile_has_no_name_until_linked) {
    int fd = open(".", O_TMPFILE | O_RDWR, 0600);
    struct stat st;
    char path[50];
    fstat(fd, &st);
    printf("%o %ld\n", st.st_mode, (long)st.st_nlink);
    write(fd, "data", 4);
    snprintf(path, 50, "/proc/self/fd/%d", fd);
    SHOW(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW));
    fstat(fd, &st);
    printf("%ld\n", (long)st.st_nlink);
    SHOW(stat("named", &st));
    printf("%ld\n", (long)st.st_size);
    SHOW(open("named", O_TMPFILE | O_RDWR, 0600));
    SHOW(open(".", O_TMPFILE | O_RDONLY, 0600));
}

IN_PLACE(rename_rules) {
    struct stat a, b;
    close(open("a", O_CREAT, 0600));
    close(open("b", O_CREAT, 0600));
    mkdir("d", 0700);
    mkdir("e", 0700);
    close(open("e/x", O_CREAT, 0600));
    stat("a", &a);
    SHOW(rename("a", "b"));
    stat("b", &b);
    printf("%d\n", a.st_ino == b.st_ino);
    SHOW(rename("a", "c"));
    SHOW(rename("b", "d"));
    SHOW(rename("d", "b"));
    SHOW(rename("d", "e"));
    SHOW(rename("e", "d"));
    SHOW(rename("d", "d/sub"));
    SHOW(rename("d/x", "y"));
    SHOW(link("y", "z"));
    SHOW(rename("y", "z"));
    SHOW(access("y", F_OK));
    SHOW(renameat2(AT_FDCWD, "y", AT_FDCWD, "b", RENAME_NOREPLACE));
    SHOW(renameat2(AT_FDCWD, "y", AT_FDCWD, "d", RENAME_EXCHANGE));
    SHOW(stat("d", &a));
    printf("%d\n", S_ISREG(a.st_mode));
    SHOW(renameat2(AT_FDCWD, "y", AT_FDCWD, "b", 64));
}

IN_PLACE(hard_links_count) {
    struct stat st;
    int fd = open("a", O_CREAT | O_RDWR, 0600);
    SHOW(link("a", "b"));
    fstat(fd, &st);
    printf("%ld\n", (long)st.st_nlink);
    SHOW(unlink("a"));
    SHOW(unlink("a"));
    SHOW(unlink("b"));
    fstat(fd, &st);
    printf("%ld\n", (long)st.st_nlink);
    SHOW(write(fd, "still", 5));
    mkdir("d", 0700);
    SHOW(link("d", "e"));
    SHOW(unlink("d"));
    SHOW(rmdir("d"));
    SHOW(rmdir("d"));
    close(open("f", O_CREAT, 0600));
    SHOW(rmdir("f"));
    SHOW(rmdir("."));
    SHOW(unlinkat(AT_FDCWD, "f", AT_REMOVEDIR));
}

IN_PLACE(seeking_over_holes) {
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    char c = 9;
    SHOW(pwrite(fd, "x", 1, 1 << 20));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(pread(fd, &c, 1, 1000));
    printf("%d\n", c);
    SHOW(lseek(fd, 1 << 20, SEEK_HOLE));
    SHOW(lseek(fd, 2 << 20, SEEK_DATA));
    SHOW(lseek(fd, -1, SEEK_SET));
    SHOW(lseek(fd, 0, 77));
    SHOW(lseek(99, 0, SEEK_SET));
    SHOW(ftruncate(fd, -1));
    SHOW(ftruncate(fd, 10));
    SHOW(truncate("f", 20));
    SHOW(truncate("no", 20));
    SHOW(fallocate(fd, 0, 0, 100));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 10000));
    SHOW(lseek(fd, 0, SEEK_END));
    SHOW(pread(fd, &c, 1, 1000));
}

IN_PLACE(directories_list_what_is_in_them) {
    struct dirent **names;
    for (char n = 'a'; n < 'f'; n++) {
        char name[] = {n, 0};
        close(open(name, O_CREAT, 0600));
    }
    mkdir("sub", 0700);
    symlink("a", "sym");
    unlink("c");
    int n = scandir(".", &names, NULL, alphasort);
    for (int i = 0; i < n; i++)
        printf("%s %d\n", names[i]->d_name, names[i]->d_type);
    struct stat st;
    stat(".", &st);
    printf("%ld\n", (long)st.st_nlink);
    char small[10];
    SHOW(syscall(SYS_getdents64, open(".", O_RDONLY), small, 10));
    SHOW(syscall(SYS_getdents64, open("a", O_RDONLY), small, 10));
}

IN_PLACE(record_locks_between_processes) {
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    struct flock lock = {.l_type = F_WRLCK, .l_start = 10, .l_len = 10};
    SHOW(fcntl(fd, F_SETLK, &lock));
    CHILD(
        struct flock l = {.l_type = F_WRLCK};
        SHOW(fcntl(fd, F_GETLK, &l));
        printf("%d %ld %ld %d\n", l.l_type, (long)l.l_start, (long)l.l_len, l.l_pid == getppid());
        l = (struct flock){.l_type = F_RDLCK, .l_start = 15, .l_len = 1};
        SHOW(fcntl(fd, F_SETLK, &l));
        l.l_start = 30;
        SHOW(fcntl(fd, F_SETLK, &l)));
    pid_t child = fork();
    if (!child) {
        struct flock l = {.l_type = F_WRLCK};
        SHOW(fcntl(fd, F_SETLKW, &l));
        _exit(0);
    }
    pause_ms(20);
    printf("unlocking\n");
    lock.l_type = F_UNLCK;
    SHOW(fcntl(fd, F_SETLK, &lock));
    show_end(child);
    SHOW(flock(fd, LOCK_EX));
    int other = open("f", O_RDWR);
    SHOW(flock(other, LOCK_EX | LOCK_NB));
    SHOW(flock(fd, LOCK_UN));
    SHOW(flock(other, LOCK_SH | LOCK_NB));
    SHOW(flock(other, 77));
}

IN_PLACE(permissions_and_times) {
    struct stat st;
    int fd = open("f", O_CREAT | O_RDWR, 0666);
    fstat(fd, &st);
    printf("%o\n", st.st_mode);
    SHOW(umask(077));
    close(open("g", O_CREAT, 0666));
    stat("g", &st);
    printf("%o\n", st.st_mode);
    SHOW(chmod("f", 04755));
    SHOW(fchmod(fd, 0644));
    SHOW(fchmodat(AT_FDCWD, "no", 0644, 0));
    struct timespec times[2] = {{1000, 5}, {2000, 7}};
    SHOW(utimensat(AT_FDCWD, "f", times, 0));
    stat("f", &st);
    printf("%ld.%ld %ld.%ld\n", st.st_atim.tv_sec, st.st_atim.tv_nsec, st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
    times[0].tv_nsec = UTIME_OMIT;
    SHOW(futimens(fd, times));
    times[0].tv_nsec = 2000000000;
    SHOW(futimens(fd, times));
    SHOW(chown("f", 1234, 2345));
    stat("f", &st);
    printf("%d %d\n", st.st_uid, st.st_gid);
}

IN_PLACE(statx_fields) {
    struct statx stx;
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    write(fd, "abc", 3);
    SHOW(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS, &stx));
    printf("%d %o %ld %d\n", (stx.stx_mask & STATX_BASIC_STATS) == STATX_BASIC_STATS, stx.stx_mode,
           (long)stx.stx_size, stx.stx_nlink);
    SHOW(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &stx));
    printf("%ld\n", (long)stx.stx_size);
    SHOW(statx(fd, "", 0, STATX_SIZE, &stx));
    SHOW(statx(AT_FDCWD, "no", 0, STATX_SIZE, &stx));
    SHOW(statx(AT_FDCWD, "f", 0x100000, STATX_SIZE, &stx));
    SHOW(statx(AT_FDCWD, "f", 0, 0x80000000, &stx));
    SHOW(statx(AT_FDCWD, "f", AT_STATX_FORCE_SYNC | AT_STATX_DONT_SYNC, STATX_SIZE, &stx));
    int p[2];
    pipe(p);
    SHOW(statx(p[0], "", AT_EMPTY_PATH, STATX_TYPE, &stx));
    printf("%o\n", stx.stx_mode & S_IFMT);
    SHOW(statx(p[0], NULL, AT_EMPTY_PATH, STATX_TYPE, &stx));
}

IN_PLACE(descriptor_calls) {
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    SHOW(dup(fd) == fd + 1);
    SHOW(dup2(fd, 50));
    SHOW(dup2(fd, fd) == fd);
    SHOW(dup2(99, 5));
    SHOW(dup2(fd, -1));
    SHOW(dup3(fd, fd, 0));
    SHOW(dup3(fd, 51, O_CLOEXEC));
    SHOW(fcntl(51, F_GETFD));
    SHOW(fcntl(fd, F_DUPFD, 100));
    SHOW(fcntl(fd, F_DUPFD_CLOEXEC, 100));
    SHOW(fcntl(fd, F_DUPFD, -1));
    SHOW(fcntl(fd, F_DUPFD, 1 << 30));
    SHOW(fcntl(fd, F_GETFL) & O_ACCMODE);
    SHOW(fcntl(fd, F_SETFL, O_APPEND | O_NONBLOCK));
    SHOW(fcntl(50, F_GETFL) & (O_APPEND | O_NONBLOCK));
    SHOW(fcntl(fd, 12345));
    SHOW(close_range(100, 200, 0));
    SHOW(fcntl(100, F_GETFD));
    SHOW(close_range(50, 51, CLOSE_RANGE_CLOEXEC));
    SHOW(fcntl(50, F_GETFD));
    SHOW(close_range(5, 4, 0));
    SHOW(close_range(5, 6, 99));
    SHOW(close(77));
    struct rlimit limit = {20, 20};
    SHOW(setrlimit(RLIMIT_NOFILE, &limit));
    int last = 0, n = 0;
    while ((last = dup(0)) >= 0)
        n++;
    SHOW(dup(0));
    SHOW(open("f", O_RDONLY));
    int p[2];
    SHOW(pipe(p));
}

IN_PLACE(working_directory) {
    char here[200];
    mkdir("d", 0700);
    SHOW(chdir("d"));
    SHOW(strcmp(strrchr(getcwd(here, 200), '/'), "/d"));
    SHOW(rmdir("../d"));
    SHOW(getcwd(here, 200) == NULL);
    SHOW(chdir(".."));
    SHOW(chdir("no"));
    SHOW(syscall(SYS_getcwd, here, 2));
    int fd = open("/usr", O_RDONLY | O_DIRECTORY);
    SHOW(fchdir(fd));
    printf("%s\n", getcwd(here, 200));
    SHOW(openat(fd, "bin", O_RDONLY) >= 0);
    SHOW(openat(99, "bin", O_RDONLY));
    SHOW(faccessat(fd, "bin", R_OK, 0));
    SHOW(access("/etc/passwd", 8));
}

IN_PLACE(extended_attributes_and_unusual_calls) {
    char value[20] = "";
    close(open("f", O_CREAT, 0600));
    SHOW(setxattr("f", "user.a", "v", 1, 0));
    SHOW(getxattr("f", "user.a", value, 20));
    SHOW(getxattr("f", "user.b", value, 20));
    SHOW(listxattr("f", value, 20));
    SHOW(removexattr("f", "user.a"));
    SHOW(removexattr("f", "user.a"));
    struct statfs sfs;
    SHOW(statfs(".", &sfs));
    SHOW(statfs("no", &sfs));
    SHOW(syscall(SYS_name_to_handle_at, AT_FDCWD, "no", value, value, 0));
    SHOW(mknod("fifo", S_IFIFO | 0600, 0));
    SHOW(mknod("reg", S_IFREG | 0600, 0));
    SHOW(mknod("bad", 0770000, 0));
}

IN_PLACE(copying_calls) {
    int a = open("a", O_CREAT | O_RDWR, 0600), b = open("b", O_CREAT | O_RDWR, 0600), p[2];
    char text[30] = "";
    write(a, "hello world", 11);
    off_t offset = 6;
    SHOW(sendfile(b, a, &offset, 100));
    SHOW(offset);
    loff_t in = 0;
    SHOW(copy_file_range(a, &in, b, NULL, 5, 0));
    SHOW(pread(b, text, 29, 0));
    printf("%s\n", text);
    pipe(p);
    in = 0;
    SHOW(splice(a, &in, p[1], NULL, 5, 0));
    SHOW(read(p[0], text, 29));
    SHOW(copy_file_range(a, NULL, p[1], NULL, 5, 0));
    SHOW(copy_file_range(a, NULL, b, NULL, 5, 1));
    SHOW(posix_fadvise(a, 0, 0, POSIX_FADV_SEQUENTIAL));
    SHOW(posix_fadvise(p[0], 0, 0, POSIX_FADV_SEQUENTIAL));
    SHOW(fsync(a));
    SHOW(fsync(p[0]));
    SHOW(fdatasync(99));
}

static void show_map(int fd) {
    off_t end = lseek(fd, 0, SEEK_END), at = 0;
    for (;;) {
        off_t data = lseek(fd, at, SEEK_DATA);
        if (data < 0)
            break;
        at = lseek(fd, data, SEEK_HOLE);
        printf(" %ld-%ld", (long)data, (long)at);
    }
    printf(" of %ld\n", (long)end);
}

IN_PLACE(holes_stay_holes_when_they_are_read) {
    int fd = open("f", O_CREAT | O_RDWR, 0600);
    static char data[PAGE];
    ftruncate(fd, 20 * PAGE);
    show_map(fd);
    pread(fd, data, PAGE, 3 * PAGE);
    char *map = mmap(NULL, 20 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    printf("%d\n", map[5 * PAGE]);
    show_map(fd);
    SHOW(lseek(fd, 0, SEEK_DATA));
    SHOW(lseek(fd, 5 * PAGE + 7, SEEK_HOLE));
    pwrite(fd, "x", 1, 7 * PAGE + 100);
    map[9 * PAGE] = 1;
    map[10 * PAGE] = 1;
    msync(map, 20 * PAGE, MS_SYNC);
    show_map(fd);
    SHOW(lseek(fd, 7 * PAGE + 7, SEEK_DATA) - 7 * PAGE);
    SHOW(lseek(fd, 7 * PAGE + 7, SEEK_HOLE) - 7 * PAGE);
    SHOW(lseek(fd, 20 * PAGE, SEEK_HOLE));
    SHOW(lseek(fd, -1, SEEK_DATA));
    SHOW(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 9 * PAGE, PAGE));
    show_map(fd);
    ftruncate(fd, 8 * PAGE - 10);
    show_map(fd);
    ftruncate(fd, 12 * PAGE);
    show_map(fd);
    int memory = memfd_create("m", 0);
    ftruncate(memory, 8 * PAGE);
    pread(memory, data, PAGE, 3 * PAGE);
    pwrite(memory, "x", 1, 5 * PAGE);
    show_map(memory);
}

TEST(calls_refuse_descriptors_that_they_cannot_use) {
    char name[] = "/tmp/oracle-XXXXXX", b[4096];
    int ends[2], plain = mkstemp(name), epoll = epoll_create1(0), null = open("/dev/null", O_RDWR);
    unlink(name);
    pipe(ends);
    int fds[] = {open("/etc/passwd", O_PATH), open("/etc", O_PATH), open("/etc/passwd", O_RDONLY),
                 plain, null, open("/dev/full", O_RDWR), open("/etc", O_RDONLY), ends[1], 9999};
    struct iovec bad = {(void *)8, 1}, huge = {b, -1};
    struct stat st;
    struct statfs sfs;
    struct flock lock = {.l_type = F_RDLCK};
    struct epoll_event event = {.events = EPOLLIN};
    for (int i = 0; i < sizeof fds / sizeof *fds; i++) {
        int f = fds[i];
        printf("descriptor %d\n", i);
        SHOW(read(f, b, 1));
        SHOW(write(f, "x", 1));
        SHOW(write(f, (void *)8, 1));
        SHOW(write(f, (void *)-8, 1));
        SHOW(writev(f, &bad, 1));
        SHOW(writev(f, &huge, 1));
        SHOW(pread(f, b, 1, -1));
        SHOW(pwrite(f, "x", 1, -1));
        SHOW(lseek(f, 0, 7));
        SHOW(lseek(f, -1, SEEK_SET));
        SHOW(ftruncate(f, -1));
        SHOW(fallocate(f, 0, 0, 5));
        SHOW(fallocate(f, 0, 0, 0));
        SHOW(fallocate(f, 0x1000, 0, 5));
        SHOW(fsync(f));
        SHOW(flock(f, LOCK_SH));
        SHOW(fchdir(f));
        SHOW(fstat(f, &st));
        SHOW(fstatfs(f, &sfs));
        SHOW(fgetxattr(f, "user.x", b, 9));
        SHOW(fcntl(f, F_GETFL));
        SHOW(fcntl(f, F_GETFD));
        SHOW(fcntl(f, F_SETFL, 0));
        SHOW(fcntl(f, F_SETLK, &lock));
        SHOW(fcntl(f, F_GETOWN));
        SHOW(fcntl(f, F_GETLEASE));
        SHOW(fcntl(f, 999));
        SHOW(posix_fadvise(f, 0, 0, 0));
        SHOW(posix_fadvise(f, 0, 0, 99));
        SHOW(readahead(f, 0, 10));
        SHOW(copy_file_range(fds[2], 0, f, 0, 1, 0));
        SHOW(readlinkat(f, "", b, 10));
        SHOW(epoll_ctl(epoll, EPOLL_CTL_ADD, f, &event));
        SHOW(futimens(f, NULL) == 0 || errno == EBADF);
        SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, f, 0) == MAP_FAILED);
        SHOW(dup2(f, 50));
        struct pollfd poll_one = {f, POLLIN};
        SHOW(poll(&poll_one, 1, 0));
        printf("%x\n", poll_one.revents);
    }
    SHOW(openat(fds[1], "passwd", O_RDONLY) > 0);
}

TEST(writing_to_null_touches_nothing) {
    struct rusage before, after;
    char *p = mmap(NULL, 4 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int null = open("/dev/null", O_WRONLY), zero = open("/dev/zero", O_WRONLY);
    getrusage(RUSAGE_SELF, &before);
    write(null, p, 4 * PAGE);
    write(zero, p, 4 * PAGE);
    getrusage(RUSAGE_SELF, &after);
    printf("faults %ld\n", after.ru_minflt - before.ru_minflt);
}

/* Two pages of memory, of which the second cannot be used. */
static char *half_there(void) {
    char *p = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(p, 'm', PAGE);
    mprotect(p + PAGE, PAGE, PROT_NONE);
    return p;
}

IN_PLACE(buffers_that_are_half_there) {
    char *p = half_there(), *end = p + PAGE, b[100];
    int fd = open("f", O_CREAT | O_RDWR, 0600), zero = open("/dev/zero", O_RDONLY);
    struct iovec parts[] = {{b, 10}, {end - 6, 20}, {b, 10}};
    for (int i = 0; i < 300; i++) write(fd, "0123456789abcdef0123456789abcdef", 32);
    lseek(fd, 5, SEEK_SET);
    SHOW(read(fd, end - 7, 100));
    printf("%.7s\n", end - 7);
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(read(fd, p, 2 * PAGE));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(read(fd, end, 10));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(pread(fd, end - 3, 10, 2));
    SHOW(preadv(fd, parts, 3, 1));
    SHOW(readv(fd, parts, 3));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(read(zero, end - 9, 100));
    SHOW(read(zero, end, 100));
    SHOW(readv(zero, parts, 3));
    SHOW(lseek(fd, 0, SEEK_SET));
    memset(p, 'm', PAGE);
    SHOW(write(fd, end - 7, 100));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(write(fd, end, 100));
    SHOW(pwrite(fd, end - 5, 10, 40));
    SHOW(pwritev(fd, parts, 3, 60));
    SHOW(writev(fd, parts, 3));
    SHOW(lseek(fd, 0, SEEK_CUR));
    SHOW(pread(fd, b, 99, 0));
    printf("%.50s\n", b);
    SHOW(lseek(fd, 0, SEEK_END));
}
