/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A bundle, parsed: pointers into its bytes. What it looks like is said in
 * kmod/uapi/kerninst.h.
 */
#ifndef BUNDLE_H
#define BUNDLE_H

#include <stddef.h>
#include <stdint.h>
#include "kerninst.h"

/* Manifests are for people; one of this size is no plan's. */
#define BUNDLE_MAX_MANIFEST	(256u << 20)
#define BUNDLE_MAX_BYTES \
	((size_t)KERNINST_MAX_PAYLOAD + BUNDLE_MAX_MANIFEST + \
	 KERNINST_MAX_SIGNATURE + 256)

struct bytes {
	const uint8_t *at;
	size_t size;
};

struct bundle {
	struct bytes manifest;
	struct bytes payload;
	struct bytes signature;		/* empty: unsigned */
	struct kerninst_payload head;	/* copied: the payload is unaligned */
};

/*
 * NULL and *@ret, or what is wrong with @bytes and in *@at the offset where.
 * Afterwards the frame, the signature's shape, the payload's header and the
 * manifest's digest are right; the tables and the signature itself are the
 * kernel's to check.
 */
const char *bundle_problem(const uint8_t *bytes, size_t size, size_t *at,
			   struct bundle *ret);

/* Site @index of the payload; 0 if there is none whole. */
int bundle_site(const struct bundle *bundle, uint32_t index,
		struct kerninst_site *ret);

/* Form @index of the payload; 0 if there is none whole. */
int bundle_form(const struct bundle *bundle, uint32_t index,
		struct kerninst_form *ret);

#endif
