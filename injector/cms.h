/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CMS_H
#define CMS_H

#include <stddef.h>
#include <stdint.h>

/*
 * NULL if @bytes are a detached CMS signature of the one shape that kerninst
 * writes (cms.c), else what is wrong, and in *@at the offset where.
 */
const char *cms_problem(const uint8_t *bytes, size_t size, size_t *at);

/* Who signed: as much as fits of the issuer's common name, and the serial. */
struct cms_signer {
	char issuer[80];	/* bytes of the certificate: not safe to print */
	char serial[2 * 21 + 1];	/* hex */
};

/* Of bytes in which cms_problem() has found none. */
void cms_signer(const uint8_t *bytes, size_t size, struct cms_signer *ret);

#endif
