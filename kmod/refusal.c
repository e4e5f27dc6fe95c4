// SPDX-License-Identifier: GPL-2.0-only
/*
 * refusal: a KERNINST_E_* reason in, noted in the request; its errno out. One
 * errno may stand for several reasons; the request tells them apart.
 */
#include <linux/errno.h>
#include "kerninst.h"

/* Note the reason; return its errno, as listed in the contract. */
int kerninst_refuse(struct kerninst_request *req, u32 reason)
{
	req->reason = reason;
	switch (reason) {
	case KERNINST_OK:
		return 0;
	case KERNINST_E_TOO_LARGE:
		return -E2BIG;
	case KERNINST_E_MALFORMED:
		return -EINVAL;
	case KERNINST_E_NO_KEY:
		return -ENOKEY;
	case KERNINST_E_UNSIGNED:
	case KERNINST_E_BAD_SIGNATURE:
		return -EKEYREJECTED;
	case KERNINST_E_BUILD_ID:
	case KERNINST_E_SLIDE:
	case KERNINST_E_SITE_BYTES:
		return -ESTALE;
	case KERNINST_E_BUSY:
	case KERNINST_E_FOREIGN:
	case KERNINST_E_KPROBE:
	case KERNINST_E_OPTIMIZER:
		return -EBUSY;
	case KERNINST_E_STOP_LIMIT:
		return -ETIME;
	case KERNINST_E_NOT_APPLIED:
		return -ENOENT;
	case KERNINST_E_SPACE:
		return -ENOSPC;
	case KERNINST_E_MEMORY:
		return -ENOMEM;
	case KERNINST_E_REACH:
		return -ERANGE;
	case KERNINST_E_CLOCK:
		return -EOPNOTSUPP;
	default:
		return -EIO;	/* KERNINST_E_STOP */
	}
}
