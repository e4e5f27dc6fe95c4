/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Why a site does not suit, in words: the module says what it found, the
 * kernel's lists of kprobes, tracers and livepatches who that may be.
 */
#ifndef MISFIT_H
#define MISFIT_H

#include "bundle.h"

#define MISFIT_TEXT	256

/* What the kernel's files say of one address. */
struct place {
	uint64_t address;
	char symbol[128];	/* "vfs_read+0x13", or "" */
	uint64_t base;		/* of that symbol */
};

/* The symbols of @count places, from /proc/kallsyms. */
void misfit_name(struct place *places, size_t count);

/* One line of the kernel's list of kprobes. Returns 0, or -1: it is none. */
int misfit_kprobe_line(const char *line, uint64_t *address, int *disabled,
		       int *optimized);

/* Why: a text for people. */
void misfit_why(const struct kerninst_misfit *misfit,
		const struct kerninst_site *site, const struct place *place,
		char ret[MISFIT_TEXT]);

#endif
