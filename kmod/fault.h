/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Failures on demand, for tests alone (make FAULT=1): everything that may fail
 * asks kerninst_fault() first, and the one whose turn it is fails. The module
 * parameter fault_at says which, counted from 1 (0: none), and is 0 again
 * afterwards; so a test goes on with 1, 2, 3, ... until nothing fails.
 */
#ifndef KERNINST_FAULT_H
#define KERNINST_FAULT_H

#include <linux/types.h>

#ifdef KERNINST_FAULT
bool kerninst_fault(void);
#else
static inline bool kerninst_fault(void)
{
	return false;
}
#endif

/* An allocation, or a step that returns 0 or an errno. */
#define MAY_FAIL(alloc)		(kerninst_fault() ? NULL : (alloc))
#define MAY_ERR(err, step)	(kerninst_fault() ? (err) : (step))

#endif
