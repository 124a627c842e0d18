/* The parent fills the allocator with blocks and frees every other one; the child allocates in what
 * it shares, and so writes to the allocator's own data. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define BLOCKS 20000

static void *blocks[BLOCKS];

int main(void)
{
	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = malloc(64 + i % 7 * 16);
	for (int i = 0; i < BLOCKS; i += 2)
		free(blocks[i]);
	if (fork() == 0) {
		for (int i = 1; i < BLOCKS; i += 2)
			free(blocks[i]);
		for (int i = 0; i < BLOCKS; i++)
			blocks[i] = malloc(64);
		puts("done");
		fflush(stdout);
	}
	pause();
}
