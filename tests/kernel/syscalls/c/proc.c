/* /proc/self: what is read of it, in which pieces, and under which names. */
#include "oracle.h"

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
