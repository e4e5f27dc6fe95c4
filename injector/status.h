/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef STATUS_H
#define STATUS_H

/*
 * Say on stdout what is applied: lines of a key and a value, which scripts may
 * read, or with @json one JSON object (kerninst.status/1). An exit code.
 */
int status_print(int device, int json);

#endif
