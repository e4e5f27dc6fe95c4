/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Waiting that SIGINT, SIGTERM and SIGHUP end, unless they were ignored when
 * we were started (nohup). From wait_begin() on they end nothing else: what is
 * being written or removed comes to its end first.
 */
#ifndef WAIT_H
#define WAIT_H

#include <stdint.h>

void wait_begin(void);

/* CLOCK_MONOTONIC, in ns. */
uint64_t wait_now(void);

/*
 * Until that time. With @left, seconds left are shown on a terminal. Returns 1
 * where a signal came, then or before; else 0.
 */
int wait_until(uint64_t ns, const char *left);

#endif
