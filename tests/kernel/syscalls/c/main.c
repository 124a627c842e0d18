#include "oracle.h"

static struct { const char *name; void (*run)(void); } tests[512];
static int n_tests;
const char *self;

void add_test(const char *name, void (*run)(void)) {
    tests[n_tests].name = name;
    tests[n_tests++].run = run;
}

void show_status(int status) {
    if (WIFEXITED(status))
        printf("exited %d\n", WEXITSTATUS(status));
    else if (WIFSIGNALED(status))
        printf("killed by SIG%s\n", sigabbrev_np(WTERMSIG(status)));
    else if (WIFSTOPPED(status))
        printf("stopped by SIG%s\n", sigabbrev_np(WSTOPSIG(status)));
    else if (WIFCONTINUED(status))
        printf("continued\n");
    else
        printf("status %x\n", status);
}

void show_end(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) {
            printf("waitpid: %s\n", strerrorname_np(errno));
            return;
        }
    show_status(status);
}

void handle(int signal, void (*handler)(int), int flags) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
    sigaction(signal, &action, NULL);
}

void handle_info(int signal, void (*handler)(int, siginfo_t *, void *), int flags) {
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = flags | SA_SIGINFO};
    sigaction(signal, &action, NULL);
}

void pause_ms(int ms) {
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&wait, &wait) < 0)
        ;
}

int main(int argc, char **argv) {
    self = argv[0];
    setvbuf(stdout, NULL, _IONBF, 0);
    for (int i = 0; i < n_tests && argc > 1; i++)
        if (!strcmp(tests[i].name, argv[1])) {
            tests[i].run();
            return 0;
        }
    fprintf(stderr, "no such test\n");
    return 99;
}
