/* /proc/self: what is read of it, in which pieces, and under which names. */
#include "oracle.h"

TEST(files_of_records_are_read_a_page_at_a_time) {
    char *p = mmap(NULL, 400 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 400; i += 2)
        mprotect(p + i * PAGE, PAGE, PROT_NONE);
    static char buffer[1 << 17], whole[1 << 20], again[1 << 20];
    char *names[] = {"/proc/self/maps", "/proc/self/smaps"};
    for (int i = 0; i < 2; i++) {
        int fd = open(names[i], O_RDONLY);
        long total = 0, n, long_reads = 0, cut_lines = 0, reads = 0;
        while ((n = read(fd, buffer, sizeof buffer)) > 0) {
            memcpy(whole + total, buffer, n);
            total += n;
            reads++;
            long_reads += n >= PAGE;
            cut_lines += buffer[n - 1] != '\n';
        }
        printf("%s: many reads %d, long %ld, cut %ld\n", names[i], reads > 3, long_reads, cut_lines);
        /* Less than a record, and from the middle of one. */
        long at = 0;
        lseek(fd, 0, SEEK_SET);
        while (at < 500)
            at += read(fd, again + at, 37);
        printf("%d\n", memcmp(whole, again, at));
        printf("%ld %d\n", (long)pread(fd, buffer, 50, 5001), memcmp(whole + 5001, buffer, 50));
        SHOW(pread(fd, buffer, 50, 1L << 30));
        close(fd);
    }
    /* A file of one record comes at once. */
    int fd = open("/proc/self/status", O_RDONLY);
    SHOW(read(fd, buffer, sizeof buffer) > 500);
    SHOW(read(fd, buffer, sizeof buffer));
}

TEST(maps_go_on_where_the_reader_was) {
    char *p = mmap(NULL, 600 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 600; i += 2)
        mprotect(p + i * PAGE, PAGE, PROT_NONE);
    static char text[1 << 20];
    int fd = open("/proc/self/maps", O_RDONLY);
    long total = read(fd, text, sizeof text), n;
    munmap(p, 600 * PAGE);
    while ((n = read(fd, text + total, sizeof text - total)) > 0)
        total += n;
    text[total] = 0;
    char start[40];
    sprintf(start, "%lx-", (long)p + 598 * PAGE);
    printf("unmapped meanwhile: %d, the stack: %d\n", !!strstr(text, start), !!strstr(text, "[stack]"));
}

static void show_name(char *address) {
    static char line[4096];
    unsigned long start, end;
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= (long)address && (long)address < end)
            printf("%s", strchr(line, '/') ? strrchr(line, '/') : "no name\n");
    fclose(maps);
}

TEST(maps_tell_what_a_file_is_called_by_now) {
    char directory[] = "/tmp/oracle-XXXXXX";
    chdir(mkdtemp(directory));
    int fd = open("first", O_RDWR | O_CREAT, 0600);
    ftruncate(fd, PAGE);
    char *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    rename("first", "second");
    show_name(p);
    unlink("second");
    show_name(p);
    rmdir(directory);
}

TEST(a_program_that_was_removed_still_knows_itself) {
    char copy[] = "/tmp/oracle-copy-XXXXXX", text[300] = {0};
    close(mkstemp(copy));
    char command[400];
    sprintf(command, "cp /bin/cat %s; chmod 700 %s", copy, copy);
    system(command);
    int out[2], in[2];
    pipe(in), pipe(out);
    pid_t child = fork();
    if (!child) {
        dup2(in[0], 0), dup2(out[1], 1);
        close(in[1]);
        execl(copy, "cat", NULL);
        _exit(1);
    }
    close(in[0]);
    write(in[1], "x", 1);
    read(out[0], text, 1);
    unlink(copy);
    char path[50];
    sprintf(path, "/proc/%d/exe", child);
    readlink(path, text, 299);
    printf("%s\n", text + sizeof copy - 1);
    struct stat st;
    SHOW(stat(path, &st));
    SHOW(st.st_nlink);
    sprintf(path, "/proc/%d/maps", child);
    FILE *maps = fopen(path, "r");
    int named = 0;
    while (fgets(command, sizeof command, maps))
        named += strstr(command, "(deleted)") != NULL;
    printf("mappings of it: some %d\n", named > 3);
    close(in[1]);
    show_end(child);
}
