// SPDX-License-Identifier: GPL-2.0-only
/*
 * signature: payload and signature bytes in, trusted or a reason out.
 *
 * Trusted are the certificate that was built into the module, in a keyring
 * that nobody else reaches, and the keys that the kernel itself trusts for
 * its modules (builtin and secondary keyrings). The CMS must cover exactly
 * the payload bytes, with no signed attributes; its shape beyond what the
 * kernel's parser looks at is the injector's business (injector/cms.c).
 */
#include <linux/cred.h>
#include <linux/err.h>
#include <linux/key.h>
#include <linux/panic.h>
#include <linux/printk.h>
#include <linux/verification.h>
#include "kerninst.h"

extern const u8 kerninst_certificate[], kerninst_certificate_end[];

static struct key *keyring;

/**
 * kerninst_signature_init - make the keyring and put the certificate in it
 *
 * Context: module load; may sleep.
 * Return: 0, or an errno; a certificate that the kernel cannot read fails the
 * load, since every bundle would be refused later with a less clear message.
 */
int kerninst_signature_init(void)
{
	size_t bytes = kerninst_certificate_end - kerninst_certificate;
	key_perm_t perm = KEY_POS_ALL & ~KEY_POS_SETATTR;
	key_ref_t key;

	keyring = MAY_ERR(ERR_PTR(-ENOMEM),
			  keyring_alloc(".kerninst", GLOBAL_ROOT_UID,
					GLOBAL_ROOT_GID, current_cred(),
					perm | KEY_USR_VIEW,
					KEY_ALLOC_NOT_IN_QUOTA, NULL, NULL));
	if (IS_ERR(keyring))
		return PTR_ERR(keyring);
	if (!bytes)
		return 0;
	key = MAY_ERR(ERR_PTR(-ENOMEM),
		      key_create_or_update(make_key_ref(keyring, true),
					   "asymmetric", NULL,
					   kerninst_certificate, bytes,
					   KEY_POS_SEARCH | KEY_POS_VIEW |
					   KEY_USR_VIEW,
					   KEY_ALLOC_NOT_IN_QUOTA |
					   KEY_ALLOC_BUILT_IN |
					   KEY_ALLOC_BYPASS_RESTRICTION));
	if (IS_ERR(key)) {
		pr_err("kerninst: the built-in certificate cannot be used (%ld)\n",
		       PTR_ERR(key));
		key_put(keyring);
		return PTR_ERR(key);
	}
	key_ref_put(key);
	return 0;
}

/* Context: module unload; may sleep. */
void kerninst_signature_exit(void)
{
	key_put(keyring);
}

static int verify(const struct kerninst_request *req, const void *payload,
		  const void *signature, struct key *trusted)
{
	/* The usage of kernel modules: plain data, no signed attributes. */
	return MAY_ERR(-ENOMEM,
		       verify_pkcs7_signature(payload, req->payload_bytes,
					      signature, req->signature_bytes,
					      trusted,
					      VERIFYING_MODULE_SIGNATURE,
					      NULL, NULL));
}

/**
 * kerninst_signature_check - may these bytes be applied?
 * @req: gives both lengths; takes the reason
 * @payload: kernel memory that is used as it is from here on
 * @signature: kernel memory
 *
 * Context: may sleep.
 * Return: 0, or the errno of the reason noted in @req.
 */
int kerninst_signature_check(struct kerninst_request *req, const void *payload,
			     const void *signature)
{
	int err;

	if (!req->signature_bytes) {
#ifdef KERNINST_UNSIGNED
		req->trust = KERNINST_TRUST_NONE;
		pr_warn("kerninst: taking an unsigned bundle; the kernel is tainted\n");
		add_taint(TAINT_USER, LOCKDEP_STILL_OK);
		return 0;
#else
		return kerninst_refuse(req, KERNINST_E_UNSIGNED);
#endif
	}
	req->trust = KERNINST_TRUST_BUILTIN;
	err = verify(req, payload, signature, keyring);
	if (err == -ENOKEY) {
		req->trust = KERNINST_TRUST_KERNEL;
		err = verify(req, payload, signature,
			     VERIFY_USE_SECONDARY_KEYRING);
	}
	if (err)
		req->trust = KERNINST_TRUST_NONE;
	switch (err) {
	case 0:
		return 0;
	case -ENOKEY:
		return kerninst_refuse(req, KERNINST_E_NO_KEY);
	case -ENOMEM:
		return kerninst_refuse(req, KERNINST_E_MEMORY);
	default:
		/* EKEYREJECTED, EBADMSG, ENOPKG, EPERM (revoked), ... */
		return kerninst_refuse(req, KERNINST_E_BAD_SIGNATURE);
	}
}
