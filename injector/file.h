/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef FILE_H
#define FILE_H

#include <stddef.h>
#include <stdint.h>

/*
 * The whole of a regular file of at most @limit bytes; the caller frees it.
 * Returns 0, or what fail() returned.
 */
int file_read(const char *path, size_t limit, uint8_t **ret, size_t *size);

/*
 * The beginning of a file of the kernel's (/proc, /sys), whose length is not
 * known before: at most @room - 1 bytes and a NUL. Returns how many, or -1.
 */
long file_peek(const char *path, char *ret, size_t room);

/* The same, but only the first line, without its end. Returns 0 or -1. */
int file_line(const char *path, char *ret, size_t room);

#endif
