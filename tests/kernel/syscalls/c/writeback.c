/* Dirty pages of file mappings and what makes them clean; which faults are major. */
#include "oracle.h"
#include <sys/shm.h>

#define PAGES 4

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

/* The line of smaps for the mapping that starts at `address`. */
static void show_dirty(const char *when, void *address) {
    char line[512], start[32];
    snprintf(start, sizeof start, "%lx-", (unsigned long)address);
    FILE *file = fopen("/proc/self/smaps", "r");
    int inside = 0;
    printf("%s:", when);
    while (fgets(line, sizeof line, file)) {
        long kb;
        char name[64];
        if (sscanf(line, "%63s %ld kB", name, &kb) != 2)
            inside = !strncmp(line, start, strlen(start));
        else if (inside && (strstr(name, "_Dirty") || strstr(name, "_Clean")))
            printf(" %s %ld", name, kb);
    }
    fclose(file);
    putchar('\n');
}

static char *map_new_file(int *fd, int flags) {
    char name[] = "/tmp/writeback-XXXXXX";
    *fd = mkstemp(name);
    unlink(name);
    ftruncate(*fd, PAGES * PAGE);
    return mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, flags, *fd, 0);
}

static void write_all(char *map, char c) {
    for (int page = 0; page < PAGES; page++)
        map[page * PAGE] = c;
}

TEST(msync_makes_pages_clean) {
    int fd;
    char *map = map_new_file(&fd, MAP_SHARED);
    write_all(map, 'a');
    show_dirty("written", map);
    SHOW(msync(map, PAGE, MS_ASYNC));
    show_dirty("MS_ASYNC", map);
    SHOW(msync(map + PAGE, 2 * PAGE, MS_SYNC));
    show_dirty("MS_SYNC of two pages", map);
    long before = faults();
    map[0] = 'b';
    printf("%ld faults of a dirty page\n", faults() - before);
    before = faults();
    map[PAGE] = 'b';
    printf("%ld faults of a clean page\n", faults() - before);
    before = faults();
    map[PAGE] = 'c';
    printf("%ld faults of a page that is dirty again\n", faults() - before);
    show_dirty("written again", map);
    SHOW(msync(map, PAGES * PAGE, MS_SYNC));
    show_dirty("MS_SYNC", map);
    char c;
    pread(fd, &c, 1, PAGE);
    printf("%c %c\n", c, map[PAGE]);
    SHOW(msync(map, 100 * PAGE, MS_SYNC));
}

TEST(fsync_makes_all_mappings_of_a_file_clean) {
    int (*calls[])(int) = {fsync, fdatasync, syncfs};
    int fd;
    char *map = map_new_file(&fd, MAP_SHARED);
    char *other = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, fd, PAGE);
    char *private = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE);
    for (int i = 0; i < 3; i++) {
        write_all(map, 'a');
        CHILD(show_dirty("a child, not touched", map); map[2 * PAGE] = 1;
              show_dirty("a child", map));
        private[0] = other[0];
        show_dirty("written", map);
        show_dirty("seen", other);
        SHOW(calls[i](fd));
        show_dirty("synchronized", map);
        show_dirty("seen", other);
        show_dirty("a private copy", private);
    }
    SHOW(pwrite(fd, "x", 1, 2 * PAGE));
    show_dirty("pwrite", map);
    SHOW(sync_file_range(fd, 0, 0, 7));
    show_dirty("sync_file_range", map);
    SHOW(sync_file_range(fd, 0, 0, 8));
    SHOW(sync_file_range(fd, -1, 0, 7));
    int fds[2];
    pipe(fds);
    SHOW(sync_file_range(fds[0], 0, 0, 7));
    SHOW(fsync(fds[0]));
}

TEST(synchronous_writes_leave_pages_clean) {
    int flags[] = {0, O_DSYNC, O_SYNC}, fd;
    for (int i = 0; i < 3; i++) {
        char name[64], *map = map_new_file(&fd, MAP_SHARED);
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        write_all(map, 'a');
        SHOW(pwrite(open(name, O_WRONLY | flags[i]), "xyz", 3, PAGE - 2));
        show_dirty("written", map);
    }
}

TEST(memory_is_never_clean) {
    int fd = memfd_create("m", 0);
    ftruncate(fd, PAGES * PAGE);
    char *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    write_all(map, 'a');
    SHOW(msync(map, PAGES * PAGE, MS_SYNC));
    SHOW(fsync(fd));
    long before = faults();
    write_all(map, 'b');
    printf("%ld faults\n", faults() - before);
    show_dirty("memfd", map);
}

TEST(a_hole_is_in_no_cache_until_it_is_read) {
    for (int how = 0; how < 4; how++) {
        char name[] = "/tmp/oracle-XXXXXX", c;
        int fd = mkstemp(name);
        unlink(name);
        ftruncate(fd, PAGE);
        if (how == 3)
            pread(fd, &c, 1, 7);
        char *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, how == 2 ? MAP_PRIVATE : MAP_SHARED, fd, 0);
        unsigned char before, after;
        mincore(p, PAGE, &before);
        struct rusage old, new;
        getrusage(RUSAGE_SELF, &old);
        if (how == 0)
            c = *(volatile char *)p;
        else
            *(volatile char *)p = 1;
        getrusage(RUSAGE_SELF, &new);
        mincore(p, PAGE, &after);
        printf("minor %ld, major %ld, cached %d, then %d\n", new.ru_minflt - old.ru_minflt,
               new.ru_majflt - old.ru_majflt, before & 1, after & 1);
    }
}

TEST(a_system_v_segment_has_no_fault_around) {
    int id = shmget(IPC_PRIVATE, 64 * PAGE, IPC_CREAT | 0600);
    volatile char *p = shmat(id, NULL, 0), c;
    shmctl(id, IPC_RMID, NULL);
    CHILD(for (int i = 0; i < 64; i++) p[i * PAGE] = 1);
    long before = faults();
    for (int i = 0; i < 64; i++)
        c = p[i * PAGE];
    printf("%ld\n", faults() - before);
}
