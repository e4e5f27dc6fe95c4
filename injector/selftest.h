/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTEST_H
#define SELFTEST_H

#include <stddef.h>
#include <stdint.h>

#define COUNT(array)	(sizeof(array) / sizeof(*(array)))

/* A growing buffer; large enough for the sample. */
struct out {
	uint8_t at[4096];
	size_t size;
};

void put(struct out *out, const void *bytes, size_t size);

/* One check; @where tells it from others of that name. */
void expect(int ok, const char *what, size_t where);

/* Tables of texts, each with what it must come to. */
void test_texts(void);

/* The same parsers, on bytes that mean nothing. */
void texts_noise(const uint8_t *bytes, size_t size);

#endif
