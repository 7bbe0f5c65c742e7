/* A disk that fails to take what is written: preloaded into a program, write(2) and writev(2) to
 * regular files below $FAULT_DIR answer EIO. Nothing else is touched: not pipes, not terminals, and
 * not the eventfds that wake a program's threads, which no kernel fails (a lost wake-up is a program
 * that hangs, whatever it does about disks).
 *
 *   FAULT_FIRST   the how-many-eth write of the process fails, counted from 1
 *   FAULT_ON      set: all after it fail as well
 *   FAULT_TRACE   a file that gets a line for each failure
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long seen;

static int fails(int fd)
{
	const char *dir = getenv("FAULT_DIR"), *first = getenv("FAULT_FIRST"), *trace = getenv("FAULT_TRACE");
	char link[32], path[PATH_MAX + 1];
	struct stat stat;
	ssize_t length;
	long number;
	int out;

	if (!dir || !first || fstat(fd, &stat) || !S_ISREG(stat.st_mode))
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	length = readlink(link, path, PATH_MAX);
	if (length < 0 || strncmp(path, dir, strlen(dir)))
		return 0;
	path[length] = '\n';
	number = atomic_fetch_add(&seen, 1) + 1;
	if (number < atol(first) || (number > atol(first) && !getenv("FAULT_ON")))
		return 0;
	if (trace && (out = open(trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) >= 0) {
		syscall(SYS_write, out, path, (size_t)length + 1);
		close(out);
	}
	errno = EIO;
	return 1;
}

ssize_t write(int fd, const void *data, size_t size)
{
	int before = errno;

	if (fails(fd))
		return -1;
	errno = before;
	return syscall(SYS_write, fd, data, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
	int before = errno;

	if (fails(fd))
		return -1;
	errno = before;
	return syscall(SYS_writev, fd, parts, count);
}
