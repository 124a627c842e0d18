/* A child that executes another program: what it wrote before is gone. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	char *area = malloc(20 * 4096);

	memset(area, 1, 20 * 4096);
	if (fork() == 0) {
		memset(area, 2, 20 * 4096);
		execl("/bin/true", "true", (char *)0);
		_exit(1);
	}
	wait(0);
	memset(area, 3, 20 * 4096);
	return 0;
}
