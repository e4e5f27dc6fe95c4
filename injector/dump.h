/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DUMP_H
#define DUMP_H

#include <stdint.h>

/*
 * Copy all counters at one moment and write them to @path, whole or not at
 * all; no stop of the machine longer than @max_stop_ns (0: any). An exit code.
 */
int dump_write(int device, const char *path, uint64_t max_stop_ns);

/*
 * The same, every @every_ns, to @path.0001, @path.0002, ... until @count are
 * written (0: without end), @until comes (wait_now(); 0: never) or a signal.
 * *@next is the number of the first, and of the one after the last. @left is
 * what wait_until() shows. An exit code.
 */
int dump_series(int device, const char *path, uint64_t max_stop_ns,
		uint64_t every_ns, uint64_t count, uint64_t until,
		const char *left, uint32_t *next);

#endif
