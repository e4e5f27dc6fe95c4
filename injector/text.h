/* SPDX-License-Identifier: GPL-2.0-only */
/* Texts: what people type, and what programs read. */
#ifndef TEXT_H
#define TEXT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Room for "xx " of each of 16 bytes. */
#define TEXT_HEX_BYTES	(3 * 16 + 1)

/* At most 16 bytes as "xx xx xx". */
const char *text_hex(const uint8_t *bytes, size_t size,
		     char ret[TEXT_HEX_BYTES]);

/* A build id, as file and readelf print it. */
const char *text_id(const uint8_t bytes[20], char ret[41]);

/*
 * A duration: digits and ms, s, m or h. Returns 0, or -1 where it is none, zero
 * or longer than a year.
 */
int text_duration(const char *text, uint64_t *ns);

/* Digits alone, 1..@most. Returns 0 or -1. */
int text_number(const char *text, uint64_t most, uint64_t *ret);

/*
 * A JSON string, quoted, or null for NULL. Bytes that are not ASCII come out
 * as \u00xx: what comes from outside need not be UTF-8.
 */
void text_json(FILE *to, const char *text);

/* The same for a terminal: control characters and all above become '?'. */
void text_print(FILE *to, const char *text);

#endif
