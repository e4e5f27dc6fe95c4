// SPDX-License-Identifier: GPL-2.0-only
/*
 * cms: signature bytes in, their first deviation from the one accepted shape
 * out. The kernel checks what it uses, and skips over the rest; this walk
 * knows every tag, length, version and OID, so a bit that flips anywhere is
 * noticed either here or, where the value is free (issuer, serial number,
 * signature), by the kernel.
 *
 *	SEQUENCE				ContentInfo (RFC 5652)
 *	  OID signedData
 *	  [0] SEQUENCE				SignedData
 *	    INTEGER 1
 *	    SET SEQUENCE OID sha256 [NULL]
 *	    SEQUENCE OID data			detached: no content
 *	    SET SEQUENCE			one SignerInfo, no certificates
 *	      INTEGER 1
 *	      SEQUENCE				issuerAndSerialNumber
 *	        SEQUENCE of SET of SEQUENCE OID string
 *	        INTEGER
 *	      SEQUENCE OID sha256 [NULL]	no signed attributes follow
 *	      SEQUENCE OID rsaEncryption NULL
 *	      OCTET STRING			RSA of 2048, 3072 or 4096 bits
 *
 * The parameters of sha256 may be NULL or absent (RFC 5754), those of
 * rsaEncryption are NULL (RFC 3370). Lengths are DER's: the shortest form.
 */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include "cms.h"

#define TAG_INTEGER	0x02
#define TAG_OCTETS	0x04
#define TAG_NULL	0x05
#define TAG_OID		0x06
#define TAG_UTF8	0x0c
#define TAG_PRINTABLE	0x13
#define TAG_T61		0x14
#define TAG_IA5		0x16
#define TAG_BMP		0x1e
#define TAG_SEQUENCE	0x30
#define TAG_SET		0x31
#define TAG_CONTEXT_0	0xa0

static const uint8_t oid_signed_data[] = {
	0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02 };
static const uint8_t oid_data[] = {
	0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01 };
static const uint8_t oid_sha256[] = {
	0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01 };
static const uint8_t oid_rsa[] = {
	0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01 };
static const uint8_t oid_common_name[] = { 0x55, 0x04, 0x03 };
static const uint8_t one[] = { 1 };

/* A range of the bytes that is still to be read. */
struct der {
	const uint8_t *at;
	const uint8_t *end;
};

/* The first deviation; set once. */
struct walk {
	const char *problem;
	const uint8_t *where;
	struct cms_signer signer;
};

static bool wrong(struct walk *walk, const uint8_t *where, const char *problem)
{
	if (!walk->problem) {
		walk->problem = problem;
		walk->where = where;
	}
	return false;
}

/* Take one element with @tag off @from; its contents are *@ret. */
static bool take(struct walk *walk, struct der *from, uint8_t tag,
		 const char *name, struct der *ret)
{
	const uint8_t *at = from->at;
	size_t left = (size_t)(from->end - at), length, width, i;

	if (left < 2)
		return wrong(walk, at, "the signature ends early");
	if (at[0] != tag)
		return wrong(walk, at, name);
	length = at[1];
	at += 2;
	left -= 2;
	if (length & 0x80) {
		width = length & 0x7f;
		/* No element here has 64 KiB. */
		if (width < 1 || width > 2 || width > left)
			return wrong(walk, at - 1, "a length is not DER");
		for (length = 0, i = 0; i < width; i++)
			length = length << 8 | at[i];
		if (length < (width == 1 ? 0x80u : 0x100u))
			return wrong(walk, at - 1, "a length is not DER");
		at += width;
		left -= width;
	}
	if (length > left)
		return wrong(walk, at - 1, "the signature ends early");
	ret->at = at;
	ret->end = at + length;
	from->at = at + length;
	return true;
}

/* Nothing may be left of @of. */
static bool done(struct walk *walk, const struct der *of)
{
	return of->at == of->end ||
		wrong(walk, of->at, "the signature has something more in it");
}

/* Take one element that must have exactly these contents. */
static bool take_exactly(struct walk *walk, struct der *from, uint8_t tag,
			 const uint8_t *bytes, size_t size, const char *name)
{
	struct der got;

	if (!take(walk, from, tag, name, &got))
		return false;
	if ((size_t)(got.end - got.at) != size ||
	    (size && memcmp(got.at, bytes, size)))
		return wrong(walk, got.at, name);
	return true;
}

#define TAKE_OID(walk, from, oid, name) \
	take_exactly(walk, from, TAG_OID, oid, sizeof(oid), name)

/* AlgorithmIdentifier of @oid. */
static bool take_algorithm(struct walk *walk, struct der *from,
			   const uint8_t *oid, size_t size, bool may_omit,
			   const char *name)
{
	struct der sequence;

	if (!take(walk, from, TAG_SEQUENCE, name, &sequence) ||
	    !take_exactly(walk, &sequence, TAG_OID, oid, size, name))
		return false;
	if (may_omit && sequence.at == sequence.end)
		return true;
	return take_exactly(walk, &sequence, TAG_NULL, NULL, 0, name) &&
		done(walk, &sequence);
}

static bool is_string(uint8_t tag)
{
	return tag == TAG_UTF8 || tag == TAG_PRINTABLE || tag == TAG_T61 ||
		tag == TAG_IA5 || tag == TAG_BMP;
}

static size_t size_of(const struct der *of)
{
	return (size_t)(of->end - of->at);
}

/* The common name, as much of it as fits; the last one says most. */
static void note_name(struct walk *walk, const struct der *oid,
		      const struct der *value)
{
	size_t size = size_of(value);

	if (size_of(oid) != sizeof(oid_common_name) ||
	    memcmp(oid->at, oid_common_name, sizeof(oid_common_name)))
		return;
	if (size > sizeof(walk->signer.issuer) - 1)
		size = sizeof(walk->signer.issuer) - 1;
	memcpy(walk->signer.issuer, value->at, size);
	walk->signer.issuer[size] = 0;
}

/* A Name: any attributes, but well-formed; the kernel compares the bytes. */
static bool take_name(struct walk *walk, struct der *from)
{
	static const char name[] = "the issuer is not a name";
	struct der names, set, pair, oid, value;

	if (!take(walk, from, TAG_SEQUENCE, name, &names))
		return false;
	while (names.at != names.end) {
		if (!take(walk, &names, TAG_SET, name, &set))
			return false;
		do {
			if (!take(walk, &set, TAG_SEQUENCE, name, &pair) ||
			    !take(walk, &pair, TAG_OID, name, &oid))
				return false;
			if (oid.at == oid.end || pair.at == pair.end ||
			    !is_string(*pair.at))
				return wrong(walk, pair.at, name);
			if (!take(walk, &pair, *pair.at, name, &value) ||
			    !done(walk, &pair))
				return false;
			note_name(walk, &oid, &value);
		} while (set.at != set.end);
	}
	return true;
}

static bool take_serial(struct walk *walk, struct der *from)
{
	static const char name[] = "the serial number is not DER";
	struct der serial;
	size_t size;

	if (!take(walk, from, TAG_INTEGER, name, &serial))
		return false;
	size = (size_t)(serial.end - serial.at);
	/* RFC 5280: 20 bytes at most; one more holds a sign. */
	if (size < 1 || size > 21 ||
	    (size > 1 && serial.at[0] == 0x00 && !(serial.at[1] & 0x80)) ||
	    (size > 1 && serial.at[0] == 0xff && serial.at[1] & 0x80))
		return wrong(walk, serial.at, name);
	for (; serial.at < serial.end; serial.at++)
		sprintf(walk->signer.serial + strlen(walk->signer.serial),
			"%02x", *serial.at);
	return true;
}

static bool take_signer(struct walk *walk, struct der *from)
{
	struct der signer, id, signature;
	size_t size;

	if (!take(walk, from, TAG_SEQUENCE, "no signer", &signer) ||
	    !take_exactly(walk, &signer, TAG_INTEGER, one, sizeof(one),
			  "the signer's version is not 1") ||
	    !take(walk, &signer, TAG_SEQUENCE, "no issuer and serial number",
		  &id) ||
	    !take_name(walk, &id) || !take_serial(walk, &id) ||
	    !done(walk, &id) ||
	    !take_algorithm(walk, &signer, oid_sha256, sizeof(oid_sha256),
			    true, "the signer's digest is not SHA-256") ||
	    !take_algorithm(walk, &signer, oid_rsa, sizeof(oid_rsa), false,
			    "the signature algorithm is not RSA, or has attributes before it") ||
	    !take(walk, &signer, TAG_OCTETS, "no signature value", &signature) ||
	    !done(walk, &signer))
		return false;
	size = (size_t)(signature.end - signature.at);
	if (size != 256 && size != 384 && size != 512)
		return wrong(walk, signature.at,
			     "the signature is not RSA of 2048, 3072 or 4096 bits");
	return true;
}

static void walk_all(struct walk *walk, struct der *all)
{
	struct der info, wrapped, signed_data, digests, content, signers;

	if (!take(walk, all, TAG_SEQUENCE, "this is not CMS", &info) ||
	    !done(walk, all) ||
	    !TAKE_OID(walk, &info, oid_signed_data, "this is not SignedData") ||
	    !take(walk, &info, TAG_CONTEXT_0, "no SignedData", &wrapped) ||
	    !done(walk, &info) ||
	    !take(walk, &wrapped, TAG_SEQUENCE, "no SignedData",
		  &signed_data) ||
	    !done(walk, &wrapped) ||
	    !take_exactly(walk, &signed_data, TAG_INTEGER, one, sizeof(one),
			  "the version is not 1") ||
	    !take(walk, &signed_data, TAG_SET, "no digest algorithms",
		  &digests) ||
	    !take_algorithm(walk, &digests, oid_sha256, sizeof(oid_sha256),
			    true, "the digest is not SHA-256") ||
	    !done(walk, &digests) ||
	    !take(walk, &signed_data, TAG_SEQUENCE, "no content type",
		  &content) ||
	    !TAKE_OID(walk, &content, oid_data, "the content is not data") ||
	    !done(walk, &content) ||
	    !take(walk, &signed_data, TAG_SET,
		  "no signers, or certificates before them", &signers) ||
	    !take_signer(walk, &signers) || !done(walk, &signers))
		return;
	done(walk, &signed_data);
}

const char *cms_problem(const uint8_t *bytes, size_t size, size_t *at)
{
	struct der all = { bytes, bytes + size };
	struct walk walk = { .where = bytes };

	walk_all(&walk, &all);
	*at = (size_t)(walk.where - bytes);
	return walk.problem;
}

void cms_signer(const uint8_t *bytes, size_t size, struct cms_signer *ret)
{
	struct der all = { bytes, bytes + size };
	struct walk walk = { .where = bytes };

	walk_all(&walk, &all);
	*ret = walk.signer;
}
