/* Guard pages, memory that may be dropped, sealed mappings, advice about another process. */
#include "oracle.h"
#include <setjmp.h>
#include <sys/uio.h>

#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#define MAP_DROPPABLE 0x08
#define SYS_process_madvise 440
#define SYS_mseal 462
#define RW (PROT_READ | PROT_WRITE)

static char *anonymous(size_t pages, int prot) {
    return mmap(NULL, pages * PAGE, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static int zeros(size_t pages) {
    char name[] = "/tmp/oracle-XXXXXX";
    int fd = mkstemp(name);
    unlink(name);
    char block[PAGE] = {0};
    for (size_t i = 0; i < pages; i++)
        write(fd, block, PAGE);
    return fd;
}

static sigjmp_buf back;
static int code;

static void caught(int signal, siginfo_t *info, void *context) {
    code = info->si_code;
    siglongjmp(back, 1);
}

/* What touching each page does: its first byte, or the si_code of the signal. */
static void touch(const char *when, char *p, int pages, int writing) {
    handle_info(SIGSEGV, caught, SA_NODEFER);
    printf("%s:", when);
    for (int i = 0; i < pages; i++)
        if (sigsetjmp(back, 1))
            printf(" code %d", code);
        else {
            if (writing)
                p[i * PAGE] = 9;
            printf(" %d", p[i * PAGE]);
        }
    putchar('\n');
}

/* The entries of pagemap: present, guard, file. */
static void show_entries(char *p, int pages) {
    int fd = open("/proc/self/pagemap", O_RDONLY);
    for (int i = 0; i < pages; i++) {
        uint64_t entry = 0;
        pread(fd, &entry, 8, ((uintptr_t)p / PAGE + i) * 8);
        printf("%d%d%d ", (int)(entry >> 63), (int)(entry >> 58 & 1), (int)(entry >> 61 & 1));
    }
    putchar('\n');
    close(fd);
}

/* A line of smaps about the mapping that holds an address. */
static void show_smaps(char *address, const char *key) {
    char line[512];
    unsigned long start, end, inside = 0;
    FILE *file = fopen("/proc/self/smaps", "r");
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && !strncmp(line, key, strlen(key)))
            printf("%s", line);
    fclose(file);
}

TEST(guard_pages_fault_until_they_are_removed) {
    char *p = anonymous(6, RW);
    memset(p, 5, 6 * PAGE);
    SHOW(madvise(p + PAGE, 2 * PAGE, MADV_GUARD_INSTALL));
    SHOW(madvise(p + 4 * PAGE, PAGE, MADV_GUARD_INSTALL));
    touch("read", p, 6, 0);
    touch("write", p, 6, 1);
    show_entries(p, 6);
    show_smaps(p, "Rss");
    unsigned char there[6];
    SHOW(mincore(p, 6 * PAGE, there));
    printf("%d %d %d\n", there[0], there[1], there[5]);
    SHOW(write(open("/dev/zero", O_WRONLY), p + PAGE, 1));
    int zero = open("/dev/zero", O_RDONLY);
    SHOW(read(zero, p + PAGE, PAGE));
    SHOW(madvise(p, 6 * PAGE, MADV_DONTNEED));
    touch("after DONTNEED", p, 6, 0);
    SHOW(madvise(p, 6 * PAGE, MADV_FREE));
    SHOW(madvise(p, 6 * PAGE, MADV_POPULATE_WRITE));
    SHOW(madvise(p, 6 * PAGE, MADV_POPULATE_READ));
    SHOW(mprotect(p, 3 * PAGE, PROT_READ));
    SHOW(mprotect(p, 3 * PAGE, RW));
    touch("after mprotect", p, 3, 1);
    SHOW(madvise(p, 3 * PAGE, MADV_GUARD_REMOVE));
    touch("after REMOVE", p, 6, 0);
    SHOW(munmap(p + 4 * PAGE, PAGE));
    SHOW(mmap(p + 4 * PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 4 * PAGE);
    touch("mapped anew", p, 6, 1);
}

TEST(guard_pages_in_files_and_where_they_are_refused) {
    int fd = zeros(20);
    char *p = mmap(NULL, 20 * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    SHOW(madvise(p + PAGE, PAGE, MADV_GUARD_INSTALL));
    touch("private", p, 4, 0);
    show_entries(p + PAGE, 1);
    SHOW(madvise(p + PAGE, PAGE, MADV_GUARD_REMOVE));
    touch("private", p, 4, 0);
    char *q = mmap(NULL, 20 * PAGE, RW, MAP_SHARED, fd, 0);
    SHOW(madvise(q, PAGE, MADV_GUARD_INSTALL));
    ftruncate(fd, 2 * PAGE);
    ftruncate(fd, 20 * PAGE);
    touch("shared", q, 3, 1);
    char *locked = anonymous(2, RW);
    mlock(locked, PAGE);
    SHOW(madvise(locked, PAGE, MADV_GUARD_INSTALL));
    SHOW(madvise(locked, PAGE, MADV_GUARD_REMOVE));
    SHOW(madvise(locked + PAGE, PAGE, MADV_GUARD_INSTALL));
    SHOW(mlock(locked, 2 * PAGE));
    char *hole = anonymous(3, RW);
    munmap(hole + PAGE, PAGE);
    SHOW(madvise(hole, 3 * PAGE, MADV_GUARD_INSTALL));
    touch("around a hole", hole + 2 * PAGE, 1, 0);
    SHOW(madvise(hole + 1, PAGE, MADV_GUARD_INSTALL));
    SHOW(madvise(hole, 0, MADV_GUARD_INSTALL));
}

TEST(guard_pages_move_and_are_inherited) {
    char *p = anonymous(4, RW);
    p[0] = 1;
    madvise(p + PAGE, PAGE, MADV_GUARD_INSTALL);
    madvise(p + 3 * PAGE, PAGE, MADV_GUARD_INSTALL);
    CHILD(touch("child", p, 4, 1));
    touch("parent", p, 4, 0);
    char *q = anonymous(8, PROT_NONE);
    SHOW(mremap(p, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, q) == q);
    touch("moved", q, 4, 0);
    SHOW(mmap(p, 4 * PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p);
    touch("the old place", p, 4, 0);
    SHOW(madvise(q, 4 * PAGE, MADV_WIPEONFORK));
    CHILD(touch("wiped child", q, 4, 0));
    char *shared = mmap(NULL, 2 * PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    madvise(shared, PAGE, MADV_GUARD_INSTALL);
    CHILD(touch("shared, child", shared, 2, 0));
}

TEST(droppable_memory) {
    char *p = mmap(NULL, 2 * PAGE, RW, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    printf("%d\n", p != MAP_FAILED);
    touch("first", p, 2, 1);
    show_smaps(p, "VmFlags");
    CHILD(printf("child %d\n", p[0]));
    SHOW(madvise(p, PAGE, MADV_KEEPONFORK));
    SHOW(madvise(p, PAGE, MADV_DODUMP));
    SHOW(madvise(p, PAGE, MADV_WIPEONFORK));
    SHOW(mlock(p, PAGE));
    show_smaps(p, "Locked");
    SHOW(mmap(NULL, PAGE, RW, MAP_DROPPABLE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0));
    SHOW(mmap(NULL, PAGE, RW, MAP_DROPPABLE | MAP_ANONYMOUS | MAP_GROWSDOWN, -1, 0));
    SHOW(mmap(NULL, PAGE, PROT_READ, MAP_DROPPABLE, zeros(1), 0));
}

TEST(sealed_mappings_stay_as_they_are) {
    char *p = anonymous(6, RW), *q = anonymous(4, PROT_READ);
    memset(p, 3, 6 * PAGE);
    SHOW(syscall(SYS_mseal, p + PAGE, 2 * PAGE, 0));
    SHOW(syscall(SYS_mseal, q, 2 * PAGE, 0));
    SHOW(syscall(SYS_mseal, p + PAGE, 2 * PAGE, 1));
    SHOW(syscall(SYS_mseal, p + 1, PAGE, 0));
    SHOW(syscall(SYS_mseal, p, 0, 0));
    SHOW(syscall(SYS_mseal, p, -1UL, 0));
    SHOW(syscall(SYS_mseal, p, 1UL << 40, 0));
    show_smaps(p + PAGE, "VmFlags");
    SHOW(munmap(p, 6 * PAGE));
    SHOW(munmap(p + 2 * PAGE, PAGE));
    SHOW(mprotect(p, 6 * PAGE, PROT_READ));
    SHOW(mprotect(p + PAGE, PAGE, RW));
    SHOW(mmap(p + PAGE, PAGE, RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    SHOW(mremap(p + PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE));
    SHOW(mremap(p + PAGE, 2 * PAGE, PAGE, 0));
    SHOW(mremap(p + PAGE, PAGE, PAGE, 0) == p + PAGE);
    SHOW(mremap(p + 3 * PAGE, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, p + 2 * PAGE));
    SHOW(madvise(p + PAGE, PAGE, MADV_DONTNEED));
    SHOW(madvise(q, PAGE, MADV_DONTNEED));
    SHOW(madvise(q, 4 * PAGE, MADV_FREE));
    SHOW(madvise(q, PAGE, MADV_GUARD_INSTALL));
    SHOW(madvise(q, PAGE, MADV_DONTFORK));
    SHOW(madvise(q, PAGE, MADV_WIPEONFORK));
    SHOW(madvise(q, PAGE, MADV_RANDOM));
    SHOW(madvise(q, PAGE, MADV_COLD));
    char *shared = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, zeros(1), 0);
    SHOW(syscall(SYS_mseal, shared, PAGE, 0));
    SHOW(madvise(shared, PAGE, MADV_DONTNEED));
    char *file = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, zeros(1), 0);
    SHOW(syscall(SYS_mseal, file, PAGE, 0));
    SHOW(madvise(file, PAGE, MADV_DONTNEED));
    printf("%d %d\n", p[0], p[PAGE]);
    CHILD(SHOW(munmap(p + PAGE, PAGE)));
}

TEST(advice_for_a_process) {
    char *p = anonymous(4, RW), *q = anonymous(4, RW);
    memset(p, 1, 4 * PAGE);
    memset(q, 1, 4 * PAGE);
    int me = syscall(SYS_pidfd_open, getpid(), 0);
    struct iovec parts[] = {{p, PAGE}, {p + 2 * PAGE, PAGE}, {q, 2 * PAGE}};
    SHOW(syscall(SYS_process_madvise, me, parts, 3, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, me, parts, 3, MADV_DONTNEED, 0));
    printf("%d %d %d %d\n", p[0], p[PAGE], q[0], q[2 * PAGE]);
    SHOW(syscall(SYS_process_madvise, me, parts, 3, 77, 0));
    SHOW(syscall(SYS_process_madvise, me, parts, 3, MADV_COLD, 1));
    SHOW(syscall(SYS_process_madvise, 0, parts, 3, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, 99, parts, 3, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, me, parts, 2000, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, me, NULL, 1, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, me, NULL, 0, MADV_COLD, 0));
    munmap(p + 2 * PAGE, PAGE);
    SHOW(syscall(SYS_process_madvise, me, parts, 3, MADV_DONTNEED, 0));
    SHOW(syscall(SYS_process_madvise, me, parts + 1, 2, MADV_DONTNEED, 0));
    parts[0].iov_base = p + 1;
    SHOW(syscall(SYS_process_madvise, me, parts, 1, MADV_COLD, 0));
    int ends[2];
    pipe(ends);
    pid_t child = fork();
    if (!child) {
        char c;
        close(ends[1]);
        read(ends[0], &c, 1);
        _exit(0);
    }
    close(ends[0]);
    int other = syscall(SYS_pidfd_open, child, 0);
    struct iovec one = {q, 2 * PAGE};
    SHOW(syscall(SYS_process_madvise, other, &one, 1, MADV_COLD, 0));
    SHOW(syscall(SYS_process_madvise, other, &one, 1, MADV_WILLNEED, 0));
    SHOW(syscall(SYS_process_madvise, other, &one, 1, MADV_DONTNEED, 0));
    close(ends[1]);
    show_end(child);
    SHOW(syscall(SYS_process_madvise, other, &one, 1, MADV_COLD, 0));
}
