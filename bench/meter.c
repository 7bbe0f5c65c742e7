/* meter PROGRAM ARGUMENTS... : runs a program and writes `seconds peak-KiB exit-code` to
 * descriptor 3.
 *
 * A program of its own, and a small one, because the peak that the kernel reports for a child
 * starts at the memory of the process that forked it: a Python would show itself. */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 125;
    double start = now();
    pid_t child = vfork();
    if (child == 0) {
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    int status;
    struct rusage usage;
    if (child < 0 || wait4(child, &status, 0, &usage) < 0)
        return 125;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    dprintf(3, "%.6f %ld %d\n", now() - start, usage.ru_maxrss, code);
    return 0;
}
