/* mmap and its family, brk, the stack, and the coherence of mappings with read and write. */
#include "oracle.h"

static char *anonymous(size_t pages, int prot) {
    return mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int temporary(size_t size) {
    char name[] = "/tmp/oracle-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    char block[PAGE];
    for (size_t at = 0; at < size; at += PAGE) {
        memset(block, 'a' + at / PAGE, PAGE);
        write(fd, block, size - at < PAGE ? size - at : PAGE);
    }
    return fd;
}

#define RW (PROT_READ | PROT_WRITE)

TEST(mmap_refuses_bad_arguments) {
    int fd = temporary(PAGE);
    SHOW(mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, -1, 0));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 100));
    SHOW(mmap((void *)100, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    SHOW(mmap(NULL, 1UL << 47, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SHOW(mmap(NULL, -PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    SHOW(mmap((void *)(1UL << 47), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open("/dev", O_RDONLY), 0));
    SHOW(mmap(NULL, PAGE, RW, MAP_SHARED, open("/etc/passwd", O_RDONLY), 0));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, open("/tmp", O_RDWR | O_TMPFILE, 0600), 0) != MAP_FAILED);
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, open("/dev/null", O_WRONLY), 0));
    SHOW(munmap((void *)100, PAGE));
    SHOW(munmap((void *)PAGE, 0));
    SHOW(munmap((void *)(1UL << 40), PAGE));
}

TEST(only_root_maps_the_lowest_pages) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    for (int i = 0; i < 2; i++) {
        SHOW(mmap(0, 2 * PAGE, RW | PROT_EXEC, flags, -1, 0));
        SHOW(mmap((void *)(4 * PAGE), PAGE, RW, flags | MAP_FIXED_NOREPLACE, -1, 0));
        SHOW(mmap((void *)PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        SHOW(munmap(0, 17 * PAGE));
        setuid(65534);
    }
}

TEST(address_zero_is_like_any_other) {
    char *volatile zero = 0;
    if (mmap(0, PAGE, RW | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
        printf("not allowed\n");
        return;
    }
    printf("%d\n", zero[8]);
    zero[8] = 3;
    CHILD(zero[8]++; printf("child %d\n", zero[8]));
    printf("parent %d\n", zero[8]);
    munmap(0, PAGE);
    CHILD(zero[1] = 5);
}

TEST(fixed_noreplace_and_hints) {
    char *p = anonymous(4, RW);
    p[PAGE] = 3;
    SHOW(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    char *q = mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    printf("hint in use: elsewhere %d\n", q != p);
    munmap(p, 4 * PAGE);
    SHOW(mmap(p + PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p + PAGE);
    SHOW(mmap(p + 2 * PAGE + 5, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == p + 2 * PAGE);
    SHOW(mmap(p, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == p);
    p[PAGE] = 4;
    SHOW(mmap(p, 2 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
    printf("%d\n", p[PAGE]);
}

TEST(private_mappings_hide_writes_and_shared_ones_show_them) {
    int fd = temporary(2 * PAGE);
    char *a = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    char *b = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    char c;
    printf("%c %c\n", a[0], b[PAGE]);
    a[0] = 'X';
    b[PAGE] = 'Y';
    pread(fd, &c, 1, 0);
    printf("%c %c %c\n", c, b[0], a[PAGE]);
    pwrite(fd, "Z", 1, 1);
    pwrite(fd, "W", 1, PAGE + 1);
    printf("%c %c %c\n", a[1], b[1], b[PAGE + 1]);
    SHOW(msync(a, 2 * PAGE, MS_SYNC));
    SHOW(msync(a, 2 * PAGE, MS_SYNC | MS_ASYNC));
    SHOW(msync(a + 1, PAGE, MS_SYNC));
    munmap(a, PAGE);
    SHOW(msync(a, 2 * PAGE, MS_ASYNC));
}

TEST(offsets_select_pages_of_the_file) {
    int fd = temporary(5 * PAGE);
    char *p = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, 3 * PAGE);
    printf("%c %c\n", p[0], p[PAGE]);
    p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 1L << 40);
    CHILD(printf("%c\n", p[0]));
}

TEST(tail_of_the_last_page_reads_as_zeros) {
    int fd = temporary(PAGE + 100);
    char *p = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    printf("%d %d %d\n", p[PAGE + 99], p[PAGE + 100], p[2 * PAGE - 1]);
    p[PAGE + 200] = 5;
    struct stat st;
    fstat(fd, &st);
    printf("%ld\n", (long)st.st_size);
    ftruncate(fd, PAGE + 300);
    printf("%d\n", p[PAGE + 200]);
}

TEST(truncate_takes_pages_from_mappings) {
    int fd = temporary(3 * PAGE);
    char *p = mmap(NULL, 3 * PAGE, RW, MAP_SHARED, fd, 0);
    char *q = mmap(NULL, 3 * PAGE, RW, MAP_PRIVATE, fd, 0);
    p[2 * PAGE] = q[2 * PAGE] = 'q';
    ftruncate(fd, PAGE + 10);
    printf("%d %d\n", p[PAGE + 9], p[PAGE + 10]);
    CHILD(printf("%d\n", p[2 * PAGE]));
    CHILD(printf("%d\n", q[2 * PAGE]));
    ftruncate(fd, 3 * PAGE);
    printf("%d %d %d\n", p[PAGE + 10], p[2 * PAGE], q[2 * PAGE]);
}

TEST(mprotect_takes_and_gives_rights) {
    char *p = anonymous(3, RW);
    p[0] = 1;
    SHOW(mprotect(p, PAGE, PROT_READ));
    CHILD(p[0] = 2);
    CHILD(printf("%d\n", p[0]));
    SHOW(mprotect(p, PAGE, PROT_NONE));
    CHILD(printf("%d\n", p[0]));
    SHOW(mprotect(p, 3 * PAGE, RW));
    p[0]++;
    printf("%d\n", p[0]);
    SHOW(mprotect(p + 1, PAGE, RW));
    SHOW(mprotect(p, 0, RW));
    SHOW(mprotect(p, PAGE, 0x1000));
    munmap(p + PAGE, PAGE);
    SHOW(mprotect(p, 3 * PAGE, PROT_READ));
    CHILD(p[0] = 1);
    CHILD(p[2 * PAGE] = 1);
    int fd = open("/etc/passwd", O_RDONLY);
    char *q = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
    SHOW(mprotect(q, PAGE, RW));
}

TEST(mremap_grows_moves_and_shrinks) {
    char *p = anonymous(4, RW);
    for (int i = 0; i < 4; i++)
        p[i * PAGE] = i + 1;
    SHOW(mremap(p, 4 * PAGE, 2 * PAGE, 0) == p);
    CHILD(printf("%d\n", p[2 * PAGE]));
    SHOW(mremap(p, 2 * PAGE, 4 * PAGE, 0) == p);
    mmap(p + 4 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    SHOW(mremap(p, 4 * PAGE, 4 * PAGE, 0) == p);
    SHOW(mremap(p + 1, PAGE, PAGE, 0));
    SHOW(mremap(p, PAGE, 0, 0));
    SHOW(mremap(p, PAGE, 2 * PAGE, 64));
    char *q = mremap(p, PAGE, 2 * PAGE, 0);
    printf("%d\n", q == MAP_FAILED);
    q = mremap(p, PAGE, 3 * PAGE, MREMAP_MAYMOVE);
    printf("moved %d: %d %d\n", q != p, q[0], q[2 * PAGE]);
    CHILD(printf("%d\n", p[0]));
    char *room = anonymous(2, RW);
    SHOW(mremap(q, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    printf("%d\n", room[0]);
    SHOW(mremap(room, PAGE, PAGE, MREMAP_FIXED, q));
    SHOW(mremap((void *)(1UL << 40), PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    char *r = mremap(room, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP);
    printf("dontunmap %d: %d %d\n", r != MAP_FAILED, r[0], room[0]);
}

TEST(madvise_drops_pages) {
    int fd = temporary(2 * PAGE);
    char *p = anonymous(2, RW), *q = mmap(NULL, 2 * PAGE, RW, MAP_PRIVATE, fd, 0);
    p[0] = q[0] = 'z';
    SHOW(madvise(p, 2 * PAGE, MADV_DONTNEED));
    SHOW(madvise(q, 2 * PAGE, MADV_DONTNEED));
    printf("%d %c\n", p[0], q[0]);
    SHOW(madvise(p + 1, PAGE, MADV_DONTNEED));
    SHOW(madvise(p, PAGE, 9999));
    SHOW(madvise(p, 0, MADV_DONTNEED));
    SHOW(madvise(p, PAGE, MADV_WILLNEED));
    SHOW(madvise(p, PAGE, MADV_SEQUENTIAL));
    SHOW(madvise(p, PAGE, MADV_DONTFORK));
    CHILD(printf("%d\n", p[0]));
    SHOW(madvise(p, PAGE, MADV_DOFORK));
    p[0] = 'w';
    SHOW(madvise(p, PAGE, MADV_WIPEONFORK));
    CHILD(printf("child %d\n", p[0]));
    SHOW(madvise(q, PAGE, MADV_WIPEONFORK));
    SHOW(madvise(p, PAGE, MADV_FREE));
    SHOW(madvise(q, PAGE, MADV_FREE));
    SHOW(madvise(p, 2 * PAGE, MADV_POPULATE_WRITE));
    SHOW(madvise(p, PAGE, MADV_COLD));
    SHOW(madvise(p, PAGE, MADV_PAGEOUT));
    munmap(p + PAGE, PAGE);
    SHOW(madvise(p, 2 * PAGE, MADV_DONTNEED));
    char *s = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    SHOW(madvise(s, PAGE, MADV_REMOVE));
    printf("%d %c\n", s[0], s[PAGE]);
}

TEST(mincore_reports_resident_pages) {
    unsigned char where[4] = {9, 9, 9, 9};
    char *p = anonymous(4, RW);
    p[0] = p[2 * PAGE] = 1;
    SHOW(mincore(p, 4 * PAGE, where));
    printf("%d %d %d %d\n", where[0] & 1, where[1] & 1, where[2] & 1, where[3] & 1);
    SHOW(mincore(p + 1, PAGE, where));
    SHOW(mincore(p, PAGE, (void *)8));
    munmap(p + PAGE, PAGE);
    SHOW(mincore(p, 2 * PAGE, where));
}

TEST(mlock_brings_pages_in) {
    unsigned char where[2];
    char *p = anonymous(2, RW);
    SHOW(mlock(p, 2 * PAGE));
    mincore(p, 2 * PAGE, where);
    printf("%d %d\n", where[0] & 1, where[1] & 1);
    SHOW(munlock(p, PAGE));
    munmap(p, PAGE);
    SHOW(mlock(p, 2 * PAGE));
    SHOW(munlock(p, 2 * PAGE));
    SHOW(mlock2(p + PAGE, PAGE, MLOCK_ONFAULT));
    SHOW(mlock2(p + PAGE, PAGE, 8));
    SHOW(mlockall(0));
    SHOW(mlockall(MCL_CURRENT));
    SHOW(munlockall());
}

TEST(brk_grows_and_shrinks) {
    char *start = sbrk(0);
    SHOW(brk(start + 3 * PAGE));
    start[2 * PAGE] = 5;
    printf("%d\n", start[2 * PAGE]);
    SHOW(brk(start + PAGE));
    SHOW(brk(start + 3 * PAGE));
    printf("%d\n", start[2 * PAGE]);
    SHOW(syscall(SYS_brk, 0) == (long)(start + 3 * PAGE));
    SHOW(syscall(SYS_brk, 1) == (long)(start + 3 * PAGE));
    SHOW(brk((void *)(1UL << 46)));
}

TEST(stack_grows_on_demand) {
    int deep(int n) {
        volatile char block[10000];
        block[0] = n;
        return n ? deep(n - 1) + block[0] : 0;
    }
    printf("%d\n", deep(100));
}

TEST(shared_anonymous_memory_outlives_fork) {
    int *p = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHILD(p[0] = 1; CHILD(p[1] = 2));
    printf("%d %d\n", p[0], p[1]);
}

TEST(dev_zero_maps_anonymous_memory) {
    int fd = open("/dev/zero", O_RDWR);
    char *p = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
    char *q = mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0);
    p[1] = q[1] = 3;
    CHILD(q[1]++);
    printf("%d %d %d\n", p[0], p[1], q[1]);
}

TEST(memfd) {
    int fd = memfd_create("name", MFD_CLOEXEC);
    SHOW(ftruncate(fd, 2 * PAGE));
    char *p = mmap(NULL, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    p[5] = 'm';
    char c = 0, link[100] = "", path[50];
    SHOW(pread(fd, &c, 1, 5));
    printf("%c cloexec %d\n", c, fcntl(fd, F_GETFD));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    readlink(path, link, 99);
    printf("%s\n", link);
    struct stat st;
    fstat(fd, &st);
    printf("%o %ld %ld\n", st.st_mode, (long)st.st_size, (long)st.st_nlink);
    SHOW(fcntl(fd, F_GET_SEALS));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    fd = memfd_create("x", MFD_ALLOW_SEALING);
    SHOW(ftruncate(fd, PAGE));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK));
    SHOW(fcntl(fd, F_GET_SEALS));
    SHOW(ftruncate(fd, 2 * PAGE));
    SHOW(ftruncate(fd, 0));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
    SHOW(write(fd, "x", 1));
    SHOW(mmap(NULL, PAGE, RW, MAP_SHARED, fd, 0));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    SHOW(memfd_create("x", 0x800));
    SHOW(memfd_create(NULL, 0));
}

TEST(mmap_of_files_and_which_error_wins) {
    char name[] = "/tmp/behaviours-XXXXXX";
    int rw = mkstemp(name), w = open(name, O_WRONLY), r = open(name, O_RDONLY);
    int zero = open("/dev/zero", O_RDONLY), folder = open("/tmp", O_RDONLY), fds[2];
    int files[] = {rw, w, r, zero, folder, -1};
    const char *names[] = {"rw", "w", "r", "zero", "folder", "none"};
    int kinds[] = {MAP_SHARED, MAP_PRIVATE, MAP_SHARED_VALIDATE, 0, 4};
    ftruncate(rw, PAGE);
    unlink(name);
    for (int f = 0; f < 6; f++)
        for (int k = 0; k < 5; k++)
            for (int prot = PROT_READ; prot <= RW; prot += PROT_WRITE) {
                printf("%s %d %d\n", names[f], kinds[k], prot);
                SHOW(mmap(NULL, 0, prot, kinds[k], files[f], 0) == MAP_FAILED ? -1 : 0);
                SHOW(mmap(NULL, -1, prot, kinds[k], files[f], 0) == MAP_FAILED ? -1 : 0);
                SHOW(mmap(NULL, PAGE, prot, kinds[k], files[f], 1) == MAP_FAILED ? -1 : 0);
                SHOW(mmap(NULL, PAGE, prot, kinds[k], files[f], 0) == MAP_FAILED ? -1 : 0);
                SHOW(mmap(NULL, PAGE, prot, kinds[k] | MAP_GROWSDOWN, files[f], 0) == MAP_FAILED
                         ? -1 : 0);
            }
    for (int bit = 0; bit < 32; bit++) {
        int flag = 1 << bit;
        if (flag & (0xf | MAP_FIXED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE))
            continue;
        printf("flag %x\n", flag);
        SHOW(mmap(NULL, PAGE, RW, MAP_SHARED_VALIDATE | flag, rw, 0) == MAP_FAILED ? -1 : 0);
        if (flag != MAP_SYNC)  /* each file system has its own answer to that */
            SHOW(mmap(NULL, PAGE, RW, MAP_SHARED | flag, rw, 0) == MAP_FAILED ? -1 : 0);
    }
    char *place = mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(place, PAGE);
    SHOW(mmap(place, PAGE, RW, MAP_SHARED_VALIDATE | MAP_FIXED_NOREPLACE, rw, 0) == MAP_FAILED
             ? -1 : 0);
    pipe(fds);
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fds[0], 0) == MAP_FAILED ? -1 : 0);
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fds[1], 0) == MAP_FAILED ? -1 : 0);
}

TEST(mappings_of_dev_zero) {
    char line[300];
    int r = open("/dev/zero", O_RDONLY), rw = open("/dev/zero", O_RDWR);
    char *a = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, r, 0);
    char *b = mmap(NULL, PAGE, RW, MAP_SHARED, rw, 0);
    char *c = mmap(NULL, PAGE, RW, MAP_PRIVATE, r, 0);
    SHOW(mprotect(a, PAGE, RW));
    SHOW(mprotect(b, PAGE, PROT_READ));
    SHOW(mprotect(c, PAGE, PROT_READ));
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (strstr(line, "/dev/zero"))
            printf("%.4s %s", strchr(line, ' ') + 1, strchr(line, '/'));
}

TEST(remap_file_pages_maps_other_pages_of_the_same_file) {
    int fd = memfd_create("x", 0);
    ftruncate(fd, 8 * PAGE);
    char *p = mmap(NULL, 4 * PAGE, RW, MAP_SHARED, fd, 0), line[300];
    for (int i = 0; i < 8; i++)
        pwrite(fd, &(char){'a' + i}, 1, i * PAGE);
    SHOW(remap_file_pages(p, PAGE, 0, 2, 0));
    SHOW(remap_file_pages(p + PAGE, 2 * PAGE + 7, 0, 6, MAP_NONBLOCK));
    printf("%c%c%c%c\n", p[0], p[PAGE], p[2 * PAGE], p[3 * PAGE]);
    SHOW(remap_file_pages(p, PAGE, PROT_READ, 2, 0));
    SHOW(remap_file_pages(p, 0, 0, 2, 0));
    SHOW(remap_file_pages(p, PAGE - 1, 0, 2, 0));
    SHOW(remap_file_pages(p, -1L, 0, 2, 0));
    SHOW(remap_file_pages(p, PAGE, 0, -1L, 0));
    SHOW(remap_file_pages(p + 1, PAGE, 0, 5, 0));
    printf("%c\n", p[0]);
    SHOW(remap_file_pages(p, 4 * PAGE, 0, 1, 0));
    SHOW(remap_file_pages(p, 5 * PAGE, 0, 1, 0));
    printf("%c%c%c%c\n", p[0], p[PAGE], p[2 * PAGE], p[3 * PAGE]);
    mprotect(p + PAGE, PAGE, PROT_READ);
    SHOW(remap_file_pages(p, 2 * PAGE, 0, 1, 0));
    SHOW(remap_file_pages(p + PAGE, PAGE, 0, 4, 0));
    CHILD(p[PAGE] = 1);
    p = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    SHOW(remap_file_pages(p, PAGE, 0, 0, 0));
    p = mmap(NULL, PAGE, RW, MAP_PRIVATE, fd, 0);
    SHOW(remap_file_pages(p, PAGE, 0, 0, 0));
    munmap(p, PAGE);
    SHOW(remap_file_pages(p, PAGE, 0, 0, 0));
}

TEST(files_of_a_tmpfs_are_sealed_against_seals) {
    int fd = open("/dev/shm/behaviours-seals", O_RDWR | O_CREAT, 0600);
    SHOW(unlink("/dev/shm/behaviours-seals"));
    SHOW(fcntl(fd, F_GET_SEALS));
    SHOW(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
    SHOW(fcntl(open("/etc/passwd", O_RDONLY), F_GET_SEALS));
}

TEST(maps_shows_split_and_merged_areas) {
    char *p = anonymous(6, RW), line[300];
    unsigned long start, end;
    mprotect(p + 2 * PAGE, PAGE, PROT_READ);
    mprotect(p + 4 * PAGE, PAGE, PROT_READ);
    mprotect(p + 4 * PAGE, PAGE, RW);
    FILE *maps = fopen("/proc/self/maps", "r");
    char perms[5];
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx %4s", &start, &end, perms) == 3 && end > (unsigned long)p &&
            start < (unsigned long)p + 6 * PAGE)
            printf("%ld %ld %s\n", ((long)start - (long)p) / PAGE, ((long)end - (long)p) / PAGE, perms);
}

TEST(process_vm_readv_reads_another_process) {
    static int value = 1;
    pid_t child = fork();
    if (!child) {
        value = 2;
        raise(SIGSTOP);
        _exit(value);
    }
    int status, got = 0;
    waitpid(child, &status, WUNTRACED);
    struct { void *base; size_t size; } mine = {&got, sizeof got}, theirs = {&value, sizeof value};
    SHOW(syscall(SYS_process_vm_readv, child, &mine, 1, &theirs, 1, 0));
    printf("%d\n", got);
    got = 33;
    SHOW(syscall(SYS_process_vm_writev, child, &mine, 1, &theirs, 1, 0));
    kill(child, SIGCONT);
    show_end(child);
    SHOW(syscall(SYS_process_vm_readv, 999999999, &mine, 1, &theirs, 1, 0));
}

TEST(system_v_shared_memory) {
    #include <sys/ipc.h>
    #include <sys/shm.h>
    int id = shmget(IPC_PRIVATE, 5000, IPC_CREAT | 0600);
    printf("%d\n", id >= 0);
    char *p = shmat(id, NULL, 0), *q = shmat(id, NULL, SHM_RDONLY);
    p[4999] = 'S';
    printf("%c %d\n", q[4999], p != q);
    CHILD(p[0] = 'c');
    CHILD(q[0] = 'c');
    struct shmid_ds info;
    SHOW(shmctl(id, IPC_STAT, &info));
    printf("%c %ld %ld %o\n", p[0], (long)info.shm_segsz, (long)info.shm_nattch, info.shm_perm.mode);
    SHOW(shmdt(q));
    SHOW(shmdt(q));
    SHOW(shmctl(id, IPC_RMID, NULL));
    SHOW(shmctl(id, IPC_STAT, &info));
    printf("%lo\n", (long)info.shm_perm.mode);
    printf("%c\n", p[0]);
    SHOW(shmdt(p));
    SHOW(shmctl(id, IPC_STAT, &info));
    SHOW(shmget(0x12345678, 100, 0));
    SHOW(shmget(IPC_PRIVATE, 0, 0600));
}

TEST(lengths_that_wrap_are_none) {
    char *p = mmap(NULL, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (long length = -1; length > -3 * PAGE; length -= PAGE - 1) {
        SHOW(msync(p, length, MS_SYNC));
        SHOW(mlock(p, length));
        SHOW(munlock(p, length));
        SHOW(mprotect(p, length, RW));
        SHOW(madvise(p, length, MADV_NORMAL));
        SHOW(munmap(p, length));
        SHOW(mremap(p, PAGE, length, MREMAP_MAYMOVE));
        SHOW(mincore(p, length, (unsigned char *)p));
        SHOW(mmap(NULL, length, RW, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    }
}

TEST(huge_pages_are_refused_by_an_empty_pool) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, fd = temporary(PAGE);
    SHOW(mmap(NULL, PAGE, RW, flags, -1, 0));
    SHOW(mmap(NULL, 0, RW, flags, -1, 0));
    SHOW(mmap(NULL, 2 << 20, RW, flags | 21 << 26, -1, 0));
    SHOW(mmap(NULL, 2 << 20, RW, flags | 22 << 26, -1, 0));
    SHOW(mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_HUGETLB, fd, 0));
    SHOW(mmap(NULL, PAGE, RW, MAP_PRIVATE | MAP_HUGETLB, -1, 0));
}

static long kilobytes(const char *path, const char *name, void *of) {
    char line[300];
    unsigned long start, end;
    long found = -1;
    int inside = of == NULL;
    FILE *file = fopen(path, "r");
    while (fgets(line, sizeof line, file)) {
        if (of && sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (unsigned long)of && (unsigned long)of < end;
        if (inside && !strncmp(line, name, strlen(name)))
            found = atol(line + strlen(name));
    }
    fclose(file);
    return found;
}

TEST(smaps_shows_pages_of_madv_free) {
    // The newest pages are in a batch of the CPU's, which it does not find.
    char *p = anonymous(1000, RW);
    memset(p, 1, 1000 * PAGE);
    printf("%ld\n", kilobytes("/proc/self/smaps", "LazyFree:", p));
    madvise(p, 800 * PAGE, MADV_FREE);
    p[0] = 2;
    printf("%ld\n", kilobytes("/proc/self/smaps", "LazyFree:", p) / 1000);
    madvise(p, 400 * PAGE, MADV_DONTNEED);
    printf("%ld\n", kilobytes("/proc/self/smaps", "LazyFree:", p) / 1000);
    memset(p, 1, 1000 * PAGE);
    printf("%ld\n", kilobytes("/proc/self/smaps", "LazyFree:", p));
}

TEST(moving_memory_does_not_raise_the_peak) {
    char *status = "/proc/self/status";
    kilobytes(status, "VmPeak:", NULL); // the buffer of a file is not to be new
    char *p = anonymous(1000, RW);
    mmap(p + 1000 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    p = mremap(p, 1000 * PAGE, 2000 * PAGE, MREMAP_MAYMOVE);
    printf("%d\n", kilobytes(status, "VmPeak:", NULL) == kilobytes(status, "VmSize:", NULL));
    munmap(p, 500 * PAGE);
    printf("%ld\n", kilobytes(status, "VmPeak:", NULL) - kilobytes(status, "VmSize:", NULL));
}
