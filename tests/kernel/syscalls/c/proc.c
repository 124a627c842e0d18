/* /proc/self: what is read of it, in which pieces, and under which names. */
#include "oracle.h"
#include <dirent.h>

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

TEST(maps_shows_the_new_name_of_a_renamed_file) {
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

/* Lines of a file of /proc that start with one of the names, or how many do. */
static void show_lines(const char *path, char *names[], int count_only) {
    static char line[4096];
    FILE *file = fopen(path, "r");
    int found = 0;
    while (fgets(line, sizeof line, file))
        for (int i = 0; names[i]; i++)
            if (!strncmp(line, names[i], strlen(names[i])) && ++found && !count_only)
                printf("%s", line);
    if (count_only)
        printf("%d lines of %s...\n", found, names[0]);
    fclose(file);
}

static void show_entries(const char *path) {
    int count = 0;
    DIR *directory = opendir(path);
    while (readdir(directory))
        count++;
    closedir(directory);
    printf("%s: %d entries\n", strrchr(path, '/'), count);
}

TEST(a_zombie_in_proc) {
    char *memory[] = {"auxv", "environ", "pagemap", "smaps_rollup", "mounts", "mountinfo",
                      "maps", "smaps", "cmdline", "comm", "statm", "wchan"};
    char *links[] = {"exe", "cwd", "root", "fd/0", "fd/1"};
    char *all[] = {"Vm", "Rss", "HugetlbPages", "CoreDumping", "THP_", "untag_mask", NULL};
    char *some[] = {"Name", "Umask", "State", "FDSize", "Threads", NULL};
    char path[64], text[4096];
    struct stat status;
    pid_t child = fork();
    if (!child) {
        char *p = mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        memset(p, 1, 64 * PAGE);
        _exit(3);
    }
    siginfo_t info;
    SHOW(waitid(P_PID, child, &info, WEXITED | WNOWAIT));
    for (int i = 0; i < sizeof memory / sizeof *memory; i++) {
        sprintf(path, "/proc/%d/%s", child, memory[i]);
        int fd = open(path, O_RDONLY);
        printf("%s: ", memory[i]);
        if (fd < 0) {
            printf("open %s\n", strerrorname_np(errno));
            continue;
        }
        long n = read(fd, text, sizeof text - 1);
        text[n < 0 ? 0 : n] = 0;
        printf("read %ld %s\n", n, text);
        close(fd);
    }
    for (int i = 0; i < sizeof links / sizeof *links; i++) {
        sprintf(path, "/proc/%d/%s", child, links[i]);
        printf("%s\n", links[i]);
        SHOW(readlink(path, text, sizeof text));
        SHOW(stat(path, &status));
    }
    sprintf(path, "/proc/%d/status", child);
    show_lines(path, some, 0);
    show_lines(path, all, 1);
    sprintf(path, "/proc/%d/stat", child);
    FILE *file = fopen(path, "r");
    fgets(text, sizeof text, file);
    fclose(file);
    char *word = strtok(strrchr(text, ')') + 2, " ");
    for (int field = 3; word; field++, word = strtok(NULL, " "))
        if (field == 10)
            printf("minor faults: %d\n", atol(word) >= 64);
        else if (field == 3 || field == 20 || field == 23 || field == 24 || field >= 26 && field <= 30 ||
                 field >= 45)
            printf("%d: %s\n", field, word);
    sprintf(path, "/proc/%d/task", child);
    show_entries(path);
    sprintf(path, "/proc/%d/fd", child);
    show_entries(path);
    show_end(child);
    SHOW(stat(path, &status));
}

TEST(faults_of_children_in_proc_stat) {
    char text[4096];
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen("/proc/self/stat", "r");
        fgets(text, sizeof text, file);
        fclose(file);
        char *word = strtok(strrchr(text, ')') + 2, " ");
        for (int field = 3; field < 11; field++)
            word = strtok(NULL, " ");
        printf("%s\n", atol(word) > 300 ? "many" : atol(word) ? "some" : "none");
        CHILD({
            char *p = mmap(NULL, 300 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            memset(p, 1, 300 * PAGE);
        });
    }
}
