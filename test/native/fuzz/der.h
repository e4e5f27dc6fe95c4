/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DER_H
#define DER_H

#include <stddef.h>
#include <stdint.h>

struct cms_signer;

/*
 * NULL if @bytes are a signature of the one shape that injector/cms.c names,
 * else why not.
 */
const char *cms_objection(const uint8_t *bytes, size_t size);

/* Breaks a promise where it is not who signed; @bytes are right. */
void cms_check_signer(const uint8_t *bytes, size_t size,
		      const struct cms_signer *signer);

/* Changes DER as a tree; @room is what @data has. Returns the new size. */
size_t der_mutate(uint8_t *data, size_t size, size_t room, unsigned int seed);

#endif
