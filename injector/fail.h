/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a command fails: one line on stderr, and an exit code of sysexits.h,
 * the same that the planner uses (src/error.ts).
 */
#ifndef FAIL_H
#define FAIL_H

#define EXIT_USAGE	64
#define EXIT_DATA	65	/* input that is not what it should be */
#define EXIT_NO_INPUT	66
#define EXIT_INTERNAL	70
#define EXIT_CANNOT_CREATE	73
#define EXIT_IO		74
#define EXIT_MISMATCH	76	/* the bundle is not for this target */
#define EXIT_REFUSED	77	/* signature, permission, state */

/* Prints the line, returns @code, so that callers can return it in turn. */
int fail(int code, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

#endif
