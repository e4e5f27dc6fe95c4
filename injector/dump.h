/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DUMP_H
#define DUMP_H

#include <stdint.h>

/*
 * Copy all counters at one moment and write them to @path, whole or not at
 * all; no stop of the machine longer than @max_stop_ns (0: any). An exit code.
 */
int dump_write(int device, const char *path, uint64_t max_stop_ns);

/* When a series is to be written; all times are wait_now()'s, in ns. */
struct dump_times {
	uint64_t first;
	uint64_t every;
	uint64_t count;		/* how many; 0: without end */
	uint64_t until;		/* none then or later; 0: without end */
};

/*
 * The same, to @path.0001, @path.0002, ... until all are written, a signal
 * comes, or one fails. @left is what wait_until() shows. An exit code.
 */
int dump_series(int device, const char *path, uint64_t max_stop_ns,
		const struct dump_times *times, const char *left);

#endif
