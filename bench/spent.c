// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a command. Out: the processor time that it and its children took, in the
 * kernel and outside, in microseconds:
 *
 *	spent workload 2	-> "spent 1234567"
 *
 * The scheduler's account, by the clock that rdtsc feeds (6.1 and 6.12,
 * kernel/sched/cputime.c: user and system time add up to sum_exec_runtime).
 * Under QEMU's -icount shift=0 a microsecond is a thousand instructions, and
 * idle time, which is not counted, is none of them.
 */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static long long micros(const struct timeval *time)
{
	return time->tv_sec * 1000000ll + time->tv_usec;
}

int main(int argc, char **argv)
{
	struct rusage usage;
	int status;

	if (argc < 2) {
		fprintf(stderr, "usage: spent COMMAND [ARGUMENT...]\n");
		return 64;
	}
	if (fork() == 0) {
		execvp(argv[1], argv + 1);
		_exit(127);
	}
	if (wait(&status) < 0 || !WIFEXITED(status) || WEXITSTATUS(status) != 0 ||
	    getrusage(RUSAGE_CHILDREN, &usage) != 0) {
		fprintf(stderr, "spent: %s failed\n", argv[1]);
		return 1;
	}
	printf("spent %lld\n", micros(&usage.ru_utime) + micros(&usage.ru_stime));
	return 0;
}
