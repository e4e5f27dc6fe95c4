/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES	32

/* SHA-256 (FIPS 180-4) of @bytes. */
void sha256(const uint8_t *bytes, size_t size, uint8_t ret[SHA256_BYTES]);

#endif
