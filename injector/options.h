/* SPDX-License-Identifier: GPL-2.0-only */
/* What was typed behind a command. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdint.h>

struct options {
	const char *bundle;
	const char *output;
	uint64_t max_stop_ns;	/* 0: no limit */
	uint64_t for_ns;	/* 0: until somebody removes it */
	uint64_t every_ns;	/* 0: once */
	uint64_t count;		/* 0: without end */
	int json;
};

/* Options by letter; which a command takes is a string of them. */
enum { TAKES_BUNDLE = 'B', TAKES_OUTPUT = 'o', TAKES_STOP = 's',
       TAKES_FOR = 'f', TAKES_EVERY = 'e', TAKES_COUNT = 'c', TAKES_JSON = 'j' };

/*
 * Read @words, which NULL ends, as what @command takes. Each at most once, a
 * value as a word of its own. Returns 0, or what fail() returned.
 */
int options_read(const char *command, const char *takes,
		 const char *arguments, const char *const *words,
		 struct options *ret);

#endif
