/* SPDX-License-Identifier: GPL-2.0-only */
/* Requests to the module; each returns an exit code, 0 or after fail(). */
#ifndef DEVICE_H
#define DEVICE_H

#include "bundle.h"

int device_open(int *ret);
int device_status(int device, struct kerninst_status *ret);
int device_send(int device, const struct bundle *bundle, int apply,
		struct kerninst_request *ret);
int device_remove(int device, struct kerninst_request *ret);

#endif
