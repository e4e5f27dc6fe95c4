/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SPLICE_RUN_H
#define SPLICE_RUN_H

#include "payload.h"

/*
 * What the module does with a payload that was accepted, up to the first write
 * to text, on a kernel that suits it or nearly does; and whether it is right.
 * @seed says how nearly. The code in @view is completed.
 */
void splice_run(const struct kerninst_view *view, __u64 seed);

#endif
