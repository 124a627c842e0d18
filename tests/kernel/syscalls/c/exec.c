/* execve: what the new program finds. */
#include "oracle.h"
#include <elf.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/sendfile.h>

TEST(show_exec_state) {
    /* Run by the others below: prints what a program finds when it starts. */
    for (char **e = environ; *e; e++)
        printf("env %s\n", *e);
    char comm[20] = "", exe[300] = "";
    int fd = open("/proc/self/comm", O_RDONLY);
    read(fd, comm, 19);
    readlink("/proc/self/exe", exe, 299);
    printf("comm %sexe %s\n", comm, strrchr(exe, '/'));
    for (fd = 3; fd < 10; fd++)
        if (fcntl(fd, F_GETFD) >= 0 && fd != 3)
            printf("fd %d is open\n", fd);
}

static char *state[] = {(char *)"behaviours", (char *)"show_exec_state", NULL};

TEST(exec_passes_arguments_and_environment) {
    char *env[] = {(char *)"A=1", (char *)"B=two words", (char *)"", NULL};
    SHOW(dup2(0, 7));
    SHOW(fcntl(0, F_DUPFD_CLOEXEC, 8));
    execve(self, state, env);
}

TEST(exec_without_environment) {
    execve(self, state, NULL);
}

TEST(exec_with_empty_argv_gets_an_empty_name) {
    char *none[] = {NULL};
    CHILD(execve("/bin/true", none, NULL); printf("%s\n", strerrorname_np(errno)));
}

TEST(exec_errors) {
    SHOW(execl("/no/such", "x", NULL));
    SHOW(execl("/etc/passwd", "x", NULL));
    SHOW(execl("/etc", "x", NULL));
    SHOW(execl("/etc/passwd/x", "x", NULL));
    SHOW(execl("", "x", NULL));
    SHOW(execv((char *)8, state));
    SHOW(syscall(SYS_execve, "/bin/true", 8L, NULL));
    char *bad[] = {(char *)8, NULL};
    SHOW(execv("/bin/true", bad));
    static char long_name[5000];
    memset(long_name, 'x', 4999);
    SHOW(execl(long_name, "x", NULL));
}

TEST(exec_of_too_many_or_too_long_arguments) {
    static char *many[300000];
    char *big = malloc(200000);
    memset(big, 'x', 199999);
    big[199999] = 0;
    SHOW(execl("/bin/true", "true", big, NULL));
    big[131071] = 0;
    CHILD(execl("/bin/true", "true", big, NULL));
    for (int i = 0; i < 299999; i++)
        many[i] = (char *)"0123456789";
    SHOW(execv("/bin/true", many));
    many[1000] = NULL;
    CHILD(execv("/bin/true", many));
}

static void script(const char *name, const char *text, int mode) {
    int fd = open(name, O_CREAT | O_TRUNC | O_WRONLY, 0700);
    write(fd, text, strlen(text));
    fchmod(fd, mode);
    close(fd);
}

TEST(scripts) {
    char place[] = "/tmp/oracle-dir-XXXXXX", *two[] = {(char *)"a", (char *)"b c", NULL}, command[100];
    mkdtemp(place);
    chdir(place);
    script("one", "#!/bin/echo\n", 0700);
    CHILD(execv("./one", two));
    script("two", "#!/bin/echo  with argument \nrest\n", 0700);
    CHILD(execv("./two", two));
    script("three", "#! ./two\n", 0700);
    CHILD(execv("./three", two));
    script("none", "#!\n", 0700);
    CHILD(SHOW(execv("./none", two)));
    script("lost", "#!/no/such/interpreter\n", 0700);
    CHILD(SHOW(execv("./lost", two)));
    script("loop", "#!./loop\n", 0700);
    CHILD(SHOW(execv("./loop", two)));
    script("closed", "#!/bin/echo\n", 0600);
    CHILD(SHOW(execv("./closed", two)));
    script("unended", "#!/bin/echo", 0700);
    CHILD(SHOW(execv("./unended", two)));
    script("empty", "", 0700);
    CHILD(SHOW(execv("./empty", two)));
    script("shell", "echo no interpreter line\n", 0700);
    CHILD(SHOW(execv("./shell", two)));
    script("sh", "#!/bin/sh\necho \"$0\" \"$@\"; cat /proc/$$/comm\n", 0700);
    CHILD(execv("./sh", two));
    char long_line[400];
    memset(long_line, 'x', 399);
    memcpy(long_line, "#!/bin/echo ", 12);
    long_line[398] = '\n';
    long_line[399] = 0;
    script("long", long_line, 0700);
    CHILD(SHOW(execv("./long", two)));
    memset(long_line + 2, '/', 390);
    script("longer", long_line, 0700);
    CHILD(SHOW(execv("./longer", two)));
    int fd = open("./sh", O_RDONLY);
    CHILD(SHOW(syscall(SYS_execveat, fd, "", two, NULL, 0x1000)));
    CHILD(SHOW(syscall(SYS_execveat, AT_FDCWD, "./one", two, NULL, 0x100)));
    CHILD(SHOW(syscall(SYS_execveat, fd, "", two, NULL, 0)));
    fd = open("./sh", O_RDONLY | O_CLOEXEC);
    CHILD(SHOW(syscall(SYS_execveat, fd, "", two, NULL, 0x1000)));
    snprintf(command, 100, "rm -r %s", place);
    system(command);
}

TEST(fexecve_shows_the_descriptor_in_its_name) {
    int fd = open("/bin/cat", O_RDONLY);
    char *args[] = {(char *)"cat", (char *)"/proc/self/comm", NULL}, *env[] = {NULL};
    CHILD(fexecve(fd, args, env));
}

TEST(auxiliary_vector) {
    unsigned long kinds[] = {AT_PAGESZ, AT_CLKTCK, AT_PHENT, AT_FLAGS, AT_SECURE, AT_HWCAP2 + 1000};
    for (int i = 0; i < 6; i++)
        printf("%lu: %lu\n", kinds[i], getauxval(kinds[i]));
    printf("%d %d %d %d\n", getauxval(AT_UID) == getuid(), getauxval(AT_EUID) == geteuid(),
           getauxval(AT_GID) == getgid(), getauxval(AT_EGID) == getegid());
    printf("%s %d\n", (char *)getauxval(AT_PLATFORM), !strcmp((char *)getauxval(AT_EXECFN), self));
    ElfW(Phdr) *headers = (void *)getauxval(AT_PHDR);
    printf("%d %lu\n", headers[0].p_type == PT_PHDR, getauxval(AT_PHNUM));
    unsigned long aux[200];
    int fd = open("/proc/self/auxv", O_RDONLY);
    int n = read(fd, aux, sizeof aux);
    for (int i = 0; i < n / 8; i += 2)
        printf("%lu ", aux[i]);
    printf("\n%d\n", getauxval(AT_RANDOM) != 0);
    extern char **environ;
    char **end = environ;
    while (*end)
        end++;
    printf("%d\n", ((unsigned long *)(end + 1))[0] == aux[0]);
}

TEST(files_about_memory_end_with_it_at_exec) {
    char *names[] = {"environ", "auxv", "maps", "smaps", "smaps_rollup", "cmdline", "comm"}, path[50];
    for (int i = 0; i < sizeof names / sizeof *names; i++) {
        printf("%s\n", names[i]);
        fflush(stdout);
        CHILD(
            snprintf(path, sizeof path, "/proc/self/%s", names[i]);
            dup2(open(path, O_RDONLY), 0);
            execl("/usr/bin/wc", "wc", "-c", NULL));
    }
}

static int memory_with_this_program(void) {
    int fd = memfd_create("program", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int self = open("/proc/self/exe", O_RDONLY);
    while (sendfile(fd, self, NULL, 1 << 20) > 0)
        ;
    close(self);
    return fd;
}

TEST(a_memfd_is_executed_while_its_first_descriptor_may_write) {
    char *env[] = {(char *)"A=1", NULL};
    SHOW(fcntl(memory_with_this_program(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW));
    CHILD(fexecve(memory_with_this_program(), state, env); printf("%s\n", strerrorname_np(errno)));
}

TEST(a_memfd_that_was_opened_to_write_is_busy) {
    char path[40];
    int fd = memory_with_this_program();
    sprintf(path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR);
    CHILD(fexecve(fd, state, environ); printf("%s\n", strerrorname_np(errno)));
    close(again);
    CHILD(fexecve(fd, state, environ); printf("%s\n", strerrorname_np(errno)));
}
