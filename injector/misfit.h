/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Why a site does not suit, in words. The module says what it found, the
 * kernel's lists (neighbours.h) who that may be. What is only guessed from the
 * bytes says so: "looks like".
 */
#ifndef MISFIT_H
#define MISFIT_H

#include <stdint.h>
#include "bundle.h"
#include "neighbours.h"

#define MISFIT_TEXT	320

struct misfit {
	uint32_t reason;	/* KERNINST_E_SITE_BYTES, _KPROBE or _REACH */
	uint64_t address;	/* of the site */
	uint64_t other;		/* of the kprobe; 0: none */
	uint8_t length;		/* 2..16 */
	uint8_t expected[16];	/* zeros: it has several forms, it is a return */
	uint8_t live[16];
	const char *symbol;	/* where it is, or "" */
};

/* @all may be NULL: nothing is known of others. */
void misfit_why(const struct misfit *misfit, const struct neighbours *all,
		char ret[MISFIT_TEXT]);

#endif
