/* A server that forks two workers, each of which writes to what it shares, by functions whose
 * pages are known: alpha pages 0-99 of an anonymous area, beta 50-149 (400 ms later), table_writer
 * 8 pages of the program's own .data, kernel_reader (read(2)) pages 200-219. Prints "ready" and
 * waits for a line if it has an argument; prints "done" when all have written, and stays. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 400
#define WORKERS 2

static volatile char *area;
static char table[16 * PAGE] __attribute__((aligned(PAGE))) = {1};

__attribute__((noinline)) static void alpha(void)
{
	for (int i = 0; i < 100; i++)
		area[i * PAGE] = 2;
}

__attribute__((noinline)) static void beta(void)
{
	for (int i = 50; i < 150; i++)
		area[i * PAGE + 64] = 3;
}

__attribute__((noinline)) static void table_writer(void)
{
	for (int i = 4; i < 12; i++)
		((volatile char *)table)[i * PAGE] = 4;
}

__attribute__((noinline)) static void kernel_reader(void)
{
	int fd = open("/dev/zero", O_RDONLY);
	if (read(fd, (void *)(area + 200 * PAGE), 20 * PAGE) != 20 * PAGE)
		_exit(1);
	close(fd);
}

int main(int argc, char **argv)
{
	int go[2], done[2];
	char byte;

	(void)argv;
	area = mmap(0, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	madvise((void *)area, PAGES * PAGE, MADV_NOHUGEPAGE);
	for (int i = 0; i < PAGES; i++)
		area[i * PAGE] = 1;
	if (pipe(go) || pipe(done))
		return 1;
	for (int worker = 0; worker < WORKERS; worker++) {
		if (fork() == 0) {
			if (read(go[0], &byte, 1) != 1)
				_exit(1);
			alpha();
			table_writer();
			kernel_reader();
			usleep(400000);
			beta();
			if (write(done[1], "x", 1) != 1)
				_exit(1);
			pause();
		}
	}
	printf("ready\n");
	fflush(stdout);
	if (argc > 1)
		getchar();
	for (int worker = 0; worker < WORKERS; worker++)
		if (write(go[1], "g", 1) != 1)
			return 1;
	for (int worker = 0; worker < WORKERS; worker++)
		if (read(done[0], &byte, 1) != 1)
			return 1;
	printf("done\n");
	fflush(stdout);
	pause();
}
