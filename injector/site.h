/* SPDX-License-Identifier: GPL-2.0-only */
/* What a site of a bundle should hold in a kernel that lies @slide higher. */
#ifndef SITE_H
#define SITE_H

#include "bundle.h"

/* Room for a few forms in hex. */
#define SITE_TEXT	400

/* Where it is: with @slide 0, at link time. */
uint64_t site_address(const struct bundle *bundle, uint64_t slide,
		      const struct kerninst_site *site);

/* Its length, as much as there is room for anywhere: 1..16. */
size_t site_length(const struct kerninst_site *site);

/* Its bytes. Returns 0, or -1 and zeros: it has several forms, it is a return. */
int site_bytes(const struct kerninst_site *site, uint64_t slide,
	       uint8_t ret[16]);

/* The same in hex, all forms of it; those that do not fit are left out. */
void site_expected(const struct bundle *bundle, uint64_t slide,
		   const struct kerninst_site *site, char ret[SITE_TEXT]);

#endif
