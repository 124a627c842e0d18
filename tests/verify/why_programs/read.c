/* The kernel writes for a child: read(2) into shared pages, and into a table of the program. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096

static char table[8 * PAGE] = {1};

int main(void)
{
	char *area = malloc(40 * PAGE);

	memset(area, 1, 40 * PAGE);
	if (fork() == 0) {
		int fd = open("/dev/zero", O_RDONLY);
		if (read(fd, area + PAGE, 20 * PAGE) < 0 || read(fd, table + 2 * PAGE, 3 * PAGE) < 0)
			_exit(1);
		memset(area, 2, 40 * PAGE);
		_exit(0);
	}
	wait(0);
	return 0;
}
