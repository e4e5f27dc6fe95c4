// SPDX-License-Identifier: GPL-2.0-only
/*
 * parcel: a request's user pointers in; the payload out, in a copy that nobody
 * else can change, checked as far as it needs neither state nor sites.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <crypto/sha2.h>
#include "kerninst.h"

/* Context: may sleep. */
void kerninst_parcel_free(struct kerninst_parcel *parcel)
{
	kvfree(parcel->signature);
	kvfree(parcel->payload);
}

/**
 * kerninst_parcel_open - copy, verify that copy, parse that copy, compare it
 *			  with this kernel
 * @req: in: the payload and its signature; takes the reason and the slide
 * @parcel: out: to be freed, unless it is refused
 *
 * Context: may sleep.
 * Return: 0 or the errno of the reason; -EFAULT for bad user pointers.
 */
int kerninst_parcel_open(struct kerninst_request *req,
			 struct kerninst_parcel *parcel)
{
	u32 reason;
	int err;

	memset(parcel, 0, sizeof(*parcel));
	if (req->payload_bytes > KERNINST_MAX_PAYLOAD ||
	    req->signature_bytes > KERNINST_MAX_SIGNATURE)
		return kerninst_refuse(req, KERNINST_E_TOO_LARGE);
	if (req->payload_bytes < sizeof(struct kerninst_payload))
		return kerninst_refuse(req, KERNINST_E_MALFORMED);
	parcel->payload = MAY_FAIL(kvmalloc(req->payload_bytes,
					    GFP_KERNEL_ACCOUNT));
	parcel->signature = MAY_FAIL(kvmalloc(req->signature_bytes + 1,
					      GFP_KERNEL_ACCOUNT));
	err = kerninst_refuse(req, KERNINST_E_MEMORY);
	if (!parcel->payload || !parcel->signature)
		goto fail;
	err = -EFAULT;
	req->reason = KERNINST_OK;
	if (copy_from_user(parcel->payload, u64_to_user_ptr(req->payload),
			   req->payload_bytes) ||
	    copy_from_user(parcel->signature, u64_to_user_ptr(req->signature),
			   req->signature_bytes))
		goto fail;

	err = kerninst_signature_check(req, parcel->payload,
				       parcel->signature);
	if (err)
		goto fail;
	reason = kerninst_payload_parse(parcel->payload, req->payload_bytes,
					&parcel->view, &req->index);
	err = kerninst_refuse(req, reason);
	if (err)
		goto fail;
	err = kerninst_identity_check(req, &parcel->view);
	if (err)
		goto fail;
	/* Before the code in it is completed. */
	sha256(parcel->payload, req->payload_bytes, parcel->sha256);
	return 0;

fail:
	kerninst_parcel_free(parcel);
	return err;
}
