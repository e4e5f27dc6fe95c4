/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DUMP_H
#define DUMP_H

/* Write the counter heap to @path, whole or not at all; an exit code. */
int dump_write(int device, const char *path);

#endif
