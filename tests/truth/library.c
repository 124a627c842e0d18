/* What a C library adds: ld.so's work, a heap that grows, threads, children of fork. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int by_value(const void *left, const void *right)
{
    return *(const int *)left - *(const int *)right;
}

static int heap(void)
{
    char *kept[40];
    for (int i = 0; i < 40; i++)
        kept[i] = memset(malloc(i * 700 + 1), i, i * 700 + 1);
    for (int i = 0; i < 40; i += 2)
        free(kept[i]);
    kept[0] = realloc(kept[39], 300000);
    int *numbers = malloc(5000 * sizeof(int));
    for (int i = 0; i < 5000; i++)
        numbers[i] = i * 7919 % 5000;
    qsort(numbers, 5000, sizeof(int), by_value);
    printf("%d %s\n", numbers[17], kept[1] ? "kept" : "");
    return numbers[17] != 17;
}

static int children(void)
{
    char *page = calloc(20, 4096);
    for (int i = 0; i < 3; i++)
        if (!fork()) {
            page[i * 8192] = 1;
            setenv("CHILD", "yes", 1);
            exit(0);
        }
    while (wait(NULL) > 0)
        ;
    page[0] = 1;
    return 0;
}

static void *work(void *pointer)
{
    char buffer[9000];
    memset(buffer, 1, sizeof(buffer));
    return memcpy(malloc(9000), buffer, 9000) ? pointer : NULL;
}

static int threads(void)
{
    pthread_t thread;
    void *result;
    int argument;
    for (int i = 0; i < 2; i++) {
        pthread_create(&thread, NULL, work, &argument);
        pthread_join(thread, &result);
    }
    return result != &argument;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "heap"))
        return heap();
    if (argc == 2 && !strcmp(argv[1], "children"))
        return children();
    if (argc == 2 && !strcmp(argv[1], "threads"))
        return threads();
    return argc > 1;
}
