/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DEVICE_H
#define DEVICE_H

#include <stddef.h>
#include "bundle.h"

/* What a problem's line has room for. */
#define DEVICE_PROBLEM_BYTES	1024

/* Requests have their size in them: a module of another version knows them not. */
#define DEVICE_OTHER_VERSION \
	"kerninst.ko is of another version than this program: use a matching pair"

/* Open the device; prints why not. Returns 0 or an exit code. */
int device_open(int *ret);

/* The same without printing: NULL, or why not, and the exit code for that. */
const char *device_open_problem(int *ret, int *code);

/* KERNINST_IOC_STATUS. Returns 0 or an errno; ENOTTY: of another version. */
int device_ask_status(int device, struct kerninst_status *ret);

/* The same, but the line is printed. Returns 0 or an exit code. */
int device_status(int device, struct kerninst_status *ret);

/*
 * One request. @request's max_stop_ns, flags and misfits are the caller's;
 * @bundle may be NULL where the command takes none. Returns 0 or an errno, and
 * then device_problem() says more.
 */
int device_ask(int device, unsigned long command, const struct bundle *bundle,
	       struct kerninst_request *request);

/* Why a request was refused: one line, and its exit code. */
int device_problem(const struct bundle *bundle,
		   const struct kerninst_request *request, int error,
		   char ret[DEVICE_PROBLEM_BYTES]);

/* The same, but the line is printed where there is a problem. */
int device_do(int device, unsigned long command, const struct bundle *bundle,
	      struct kerninst_request *request);

#endif
