/* Two children, one after the other, write to what they share with their parent by functions of
 * their own; then the parent writes to all of it, which is its own again where none has. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

char table[16 * PAGE] = {1};

__attribute__((noinline)) static void alpha(volatile char *area)
{
	for (int i = 0; i < 50; i++)
		area[i * PAGE] = 2;
}

__attribute__((noinline)) static void beta(volatile char *area)
{
	for (int i = 40; i < 70; i++)
		area[i * PAGE] = 3;
	((volatile char *)table)[8 * PAGE] = 3;
}

int main(void)
{
	char *area = malloc(100 * PAGE);

	memset(area, 1, 100 * PAGE);
	for (int child = 0; child < 2; child++) {
		if (fork() == 0) {
			alpha(area);
			beta(area);
			_exit(0);
		}
		wait(0);
	}
	for (int i = 0; i < 100; i++)
		((volatile char *)area)[i * PAGE] = 4;
	return 0;
}
