// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a number, and perhaps a CPU. Out: that many calls of ioprio_get(), a
 * system call that nobody else in the guest makes, on that CPU.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long calls = argc > 1 ? atol(argv[1]) : 0;
	cpu_set_t one;

	if (calls < 1 || argc > 3) {
		fprintf(stderr, "usage: calls NUMBER [CPU]\n");
		return 64;
	}
	if (argc == 3) {
		CPU_ZERO(&one);
		CPU_SET(atoi(argv[2]), &one);
		if (sched_setaffinity(0, sizeof(one), &one)) {
			perror("calls: sched_setaffinity");
			return 1;
		}
	}
	while (calls--)
		syscall(SYS_ioprio_get, 1, 0);
	return 0;
}
