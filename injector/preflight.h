/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef PREFLIGHT_H
#define PREFLIGHT_H

#include "bundle.h"

/*
 * Say on stdout whether the bundle can be applied here, and everything that
 * could be in the way; with @json as one JSON object (kerninst.check/1).
 * Nothing is written to the kernel but, with @max_stop_ns, bytes over
 * themselves, to see how long that takes. Returns 0, or the exit code that
 * apply would end with.
 */
int preflight(const struct bundle *bundle, uint64_t max_stop_ns, int json);

#endif
