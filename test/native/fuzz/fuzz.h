/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the fuzz targets share: libFuzzer's entry points, chance from a seed,
 * and how a broken promise ends the run, so that libFuzzer keeps the input.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room,
			       unsigned int seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size,
				 const uint8_t *other, size_t other_size,
				 uint8_t *out, size_t room, unsigned int seed);
/* libFuzzer's own: changes bytes without knowing what they are. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t room);

#define PROMISE(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, \
				__LINE__, #condition); \
			abort(); \
		} \
	} while (0)

static uint64_t chance = 1;

static inline void set_chance(uint64_t seed)
{
	chance = (seed + 1) * 0x9e3779b97f4a7c15ull | 1;
}

/* A number below @limit, which is not 0. */
static inline uint32_t below(uint32_t limit)
{
	/* Marsaglia's xorshift64*. */
	chance ^= chance >> 12;
	chance ^= chance << 25;
	chance ^= chance >> 27;
	return (uint32_t)((chance * 0x2545f4914f6cdd1dull) >> 32) % limit;
}

static inline int one_in(uint32_t n)
{
	return !below(n);
}

#endif
