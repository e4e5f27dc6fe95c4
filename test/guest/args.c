// SPDX-License-Identifier: GPL-2.0-only
/*
 * args SEED COUNT: so many calls of mmap() that fail at once, on CPU 0, with
 * six arguments that follow from the seed (test/guest/programs.test.ts makes
 * the same ones). The kernel's ksys_mmap_pgoff() gets them as they are, but for
 * the last, which is divided by the size of a page. The fifth, a descriptor
 * that nobody has, is one that no other caller's is like: MARK in its high bits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MARK		(0x5a5a5aull << 40)
#define ANONYMOUS	0x20ull

static uint64_t seed;

static uint64_t word(void)
{
	uint64_t x;

	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	x = seed;
	switch (x & 7) {
	case 0: return (x >> 8) % 10;
	case 1: return -((x >> 8) % 10);
	case 2: return 1ull << (x >> 8 & 63);
	case 3: return (x >> 8) % 100000;
	case 4: return x >> (x >> 8 & 63);
	default: return x;
	}
}

int main(int argc, char **argv)
{
	cpu_set_t one;
	long count;

	if (argc != 3)
		return 64;
	seed = strtoull(argv[1], NULL, 0);
	count = atol(argv[2]);
	CPU_ZERO(&one);
	CPU_SET(0, &one);
	if (sched_setaffinity(0, sizeof(one), &one))
		return 1;
	while (count--) {
		uint64_t a = word(), b = word(), c = word(), d = word() & ~ANONYMOUS;
		uint64_t e = MARK | 0x70000000 | (word() & 0xffffff), f = word() & ~0xfffull;

		if (syscall(SYS_mmap, a, b, c, d, e, f) != -1 || errno != EBADF) {
			perror("args: mmap");
			return 1;
		}
	}
	return 0;
}
