/* meter PROGRAM ARGUMENTS... : runs a program and writes
 * `seconds processor-seconds peak-KiB exit-code` to descriptor 3.
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
    double seconds = now() - start;
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    dprintf(3, "%.6f %.6f %ld %d\n", seconds, cpu, usage.ru_maxrss, code);
    return 0;
}
