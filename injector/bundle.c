// SPDX-License-Identifier: GPL-2.0-only
/*
 * bundle: a file's bytes in, the parts of a bundle out, or what is wrong.
 *
 * Reads exactly the documented MessagePack map, keys in their order, every
 * length in its shortest form, and nothing behind it: so no bit of the frame
 * is free. Of the payload it reads the header, for the manifest's digest.
 */
#include <stdbool.h>
#include <string.h>
#include "bundle.h"
#include "cms.h"
#include "sha256.h"

#define MAP_OF_5	0x85
#define FIXSTR		0xa0	/* | length below 32 */
#define BIN8		0xc4
#define BIN16		0xc5
#define BIN32		0xc6

struct reader {
	const uint8_t *at;
	const uint8_t *end;
};

static bool take_byte(struct reader *from, uint8_t *ret)
{
	if (from->at == from->end)
		return false;
	*ret = *from->at++;
	return true;
}

/* A short string that must be @text. */
static bool take_text(struct reader *from, const char *text)
{
	size_t size = strlen(text);

	if ((size_t)(from->end - from->at) < 1 + size ||
	    from->at[0] != (FIXSTR | size) ||
	    memcmp(from->at + 1, text, size))
		return false;
	from->at += 1 + size;
	return true;
}

/* A byte string; its length in the shortest form. */
static bool take_bin(struct reader *from, struct bytes *ret)
{
	uint32_t size = 0;
	uint8_t tag, byte;
	int i, width;

	if (!take_byte(from, &tag))
		return false;
	width = tag == BIN8 ? 1 : tag == BIN16 ? 2 : tag == BIN32 ? 4 : 0;
	if (!width)
		return false;
	for (i = 0; i < width; i++) {
		if (!take_byte(from, &byte))
			return false;
		size = size << 8 | byte;
	}
	if ((width == 2 && size < 1u << 8) || (width == 4 && size < 1u << 16))
		return false;
	if (size > (size_t)(from->end - from->at))
		return false;
	ret->at = from->at;
	ret->size = size;
	from->at += size;
	return true;
}

static const char *read_frame(struct reader *from, struct bundle *ret)
{
	uint8_t byte;

	if (!take_byte(from, &byte) || byte != MAP_OF_5 ||
	    !take_text(from, "format") || !take_text(from, "kerninst-bundle"))
		return "this is not a kerninst bundle";
	if (!take_text(from, "version") || !take_byte(from, &byte))
		return "the bundle is damaged";
	if (byte != KERNINST_VERSION)
		return "the bundle is of another version";
	if (!take_text(from, "manifest") || !take_bin(from, &ret->manifest) ||
	    !take_text(from, "payload") || !take_bin(from, &ret->payload) ||
	    !take_text(from, "signature") || !take_bin(from, &ret->signature))
		return "the bundle is damaged or cut short";
	if (from->at != from->end)
		return "something follows the bundle";
	return NULL;
}

static const char *check_payload(struct bundle *ret)
{
	const struct kerninst_payload *head = &ret->head;
	uint8_t digest[SHA256_BYTES];

	if (ret->payload.size < sizeof(*head))
		return "the payload is shorter than its header";
	memcpy(&ret->head, ret->payload.at, sizeof(*head));
	if (memcmp(head->magic, KERNINST_PAYLOAD_MAGIC, sizeof(head->magic)))
		return "this is not a payload";
	if (head->version != KERNINST_VERSION ||
	    head->header_bytes != sizeof(*head))
		return "the payload is of another version";
	if (head->payload_bytes != ret->payload.size)
		return "the payload does not have the length that it says";
	sha256(ret->manifest.at, ret->manifest.size, digest);
	if (memcmp(digest, head->manifest_sha256, sizeof(digest)))
		return "the manifest is not the one that the payload was made with";
	return NULL;
}

const char *bundle_problem(const uint8_t *bytes, size_t size, size_t *at,
			   struct bundle *ret)
{
	struct reader from = { bytes, bytes + size };
	const char *problem;

	memset(ret, 0, sizeof(*ret));
	problem = read_frame(&from, ret);
	*at = (size_t)(from.at - bytes);
	if (problem)
		return problem;
	*at = (size_t)(ret->payload.at - bytes);
	if (ret->manifest.size > BUNDLE_MAX_MANIFEST ||
	    ret->payload.size > KERNINST_MAX_PAYLOAD ||
	    ret->signature.size > KERNINST_MAX_SIGNATURE)
		return "a part of the bundle is too large";
	problem = check_payload(ret);
	if (problem || !ret->signature.size)
		return problem;
	problem = cms_problem(ret->signature.at, ret->signature.size, at);
	*at += (size_t)(ret->signature.at - bytes);
	return problem;
}

/* Entry @index of a table in the payload that is not checked otherwise. */
static int copy_entry(const struct bundle *bundle, uint32_t offset,
		      uint32_t count, uint32_t index, size_t size, void *ret)
{
	uint64_t from = offset + (uint64_t)index * size;

	if (index >= count || from + size > bundle->payload.size)
		return 0;
	memcpy(ret, bundle->payload.at + from, size);
	return 1;
}

int bundle_site(const struct bundle *bundle, uint32_t index,
		struct kerninst_site *ret)
{
	return copy_entry(bundle, bundle->head.site_offset,
			  bundle->head.site_count, index, sizeof(*ret), ret);
}

int bundle_form(const struct bundle *bundle, uint32_t index,
		struct kerninst_form *ret)
{
	return copy_entry(bundle, bundle->head.form_offset,
			  bundle->head.form_count, index, sizeof(*ret), ret);
}
