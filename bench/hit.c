// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: the name of a cheap system call. Out: what one such call costs, in ticks
 * of rdtsc, and how many were made:
 *
 *	hit getpgid	-> "ticks 312.000 calls 60000"
 *
 * Under QEMU's -icount shift=0 a tick is an instruction. Many short batches are
 * timed and the cheapest is taken: most are free of timer interrupts, and all
 * that are cost the same. Left out: what the loop itself costs, which is the
 * same in every run and goes away in differences.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>

#define BATCHES	300
#define CALLS	200	/* in a batch */

static const struct {
	const char *name;
	long number;
} calls[] = {
	{ "getpgid", SYS_getpgid },
	{ "getpriority", SYS_getpriority },
};

int main(int argc, char **argv)
{
	unsigned long long best = ~0ull;

	for (unsigned int i = 0; argc == 2 && i < sizeof(calls) / sizeof(*calls); i++) {
		if (strcmp(argv[1], calls[i].name))
			continue;
		for (int batch = 0; batch < BATCHES; batch++) {
			unsigned long long start = __rdtsc(), ticks;

			for (int call = 0; call < CALLS; call++)
				syscall(calls[i].number, 0, 0);
			ticks = __rdtsc() - start;
			if (ticks < best)
				best = ticks;
		}
		printf("ticks %.3f calls %d\n", (double)best / CALLS, BATCHES * CALLS);
		return 0;
	}
	fprintf(stderr, "usage: hit getpgid|getpriority\n");
	return 64;
}
