/* Small programs, one per behaviour, that print what the kernel does.
 *
 * TEST(name) { ... } defines one; `behaviours name` runs it. The same binary runs natively
 * and on the model, and must print the same and end with the same status. So nothing is
 * printed that differs from run to run: no pids, no times, no random bytes.
 */
#ifndef ORACLE_H
#define ORACLE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

void add_test(const char *name, void (*run)(void));

#define TEST(name)                                                            \
    static void test_##name(void);                                            \
    __attribute__((constructor)) static void register_##name(void) {          \
        add_test(#name, test_##name);                                         \
    }                                                                         \
    static void test_##name(void)

/* Print an expression with its value, or with the errno that it set. */
#define SHOW(expr)                                                            \
    do {                                                                      \
        errno = 0;                                                            \
        long value_ = (long)(expr);                                           \
        if (value_ == -1 && errno)                                            \
            printf("%s = -1 %s\n", #expr, strerrorname_np(errno));            \
        else                                                                  \
            printf("%s = %ld\n", #expr, value_);                              \
    } while (0)

/* Run the block that follows in a child, and print how the child ended. */
#define CHILD(...)                                                            \
    do {                                                                      \
        pid_t child_ = fork();                                                \
        if (!child_) {                                                        \
            __VA_ARGS__;                                                      \
            _exit(0);                                                         \
        }                                                                     \
        show_end(child_);                                                     \
    } while (0)

void show_status(int status);
void show_end(pid_t child);
void handle(int signal, void (*handler)(int), int flags);
void handle_info(int signal, void (*handler)(int, siginfo_t *, void *), int flags);
void pause_ms(int ms);
extern char **environ;
extern const char *self;

#endif
