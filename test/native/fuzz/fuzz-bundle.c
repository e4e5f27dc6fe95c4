// SPDX-License-Identifier: GPL-2.0-only
/*
 * fuzz-bundle: injector/bundle.c, with cms.c and sha256.c.
 *
 * The second opinion: a bundle has one encoding. Input is read with no check
 * but for the ends (wherever map, keys and lengths are said to be something
 * else, too), written again as it should be, and compared. So a bundle is
 * taken if both are the same, its header names itself, the digest is that of
 * the manifest, and the signature is nothing or cms_objection() has none.
 *
 * Mutations change one part, write the others again, and make sizes and digest
 * fit; now and then the frame is changed as any bytes are.
 */
#include <stdbool.h>
#include <string.h>
#include "bundle.h"
#include "der.h"
#include "fuzz.h"
#include "sha256.h"

#define MAX_BYTES	(1u << 16)

static const char *const key[5] = {
	"format", "version", "manifest", "payload", "signature",
};

struct frame {
	uint8_t version;
	struct bytes part[3];	/* manifest, payload, signature */
	int longer;		/* of which part the length is too long; 0: of none */
};

/* ---- reading what need not be right, writing what is ---- */

static bool skip(const uint8_t **at, const uint8_t *end, size_t size)
{
	if ((size_t)(end - *at) < size)
		return false;
	*at += size;
	return true;
}

static bool read_bin(const uint8_t **at, const uint8_t *end, struct bytes *ret)
{
	size_t size = 0, width;

	if (*at == end || **at < 0xc4 || **at > 0xc6)
		return false;
	width = (size_t)1 << (*(*at)++ - 0xc4);
	if ((size_t)(end - *at) < width)
		return false;
	for (; width; width--)
		size = size << 8 | *(*at)++;
	ret->at = *at;
	ret->size = size;
	return skip(at, end, size);
}

/* Map and keys are skipped over, whatever they say. */
static bool read_frame(const uint8_t *at, size_t size, struct frame *ret)
{
	const uint8_t *end = at + size;
	int i;

	if (!skip(&at, end, 1 + 7 + 16 + 8) || at == end)
		return false;
	ret->longer = 0;
	ret->version = *at++;
	for (i = 0; i < 3; i++)
		if (!skip(&at, end, 1 + strlen(key[2 + i])) ||
		    !read_bin(&at, end, &ret->part[i]))
			return false;
	return true;
}

static uint8_t *put(uint8_t *out, const void *bytes, size_t size)
{
	memcpy(out, bytes, size);
	return out + size;
}

static uint8_t *put_text(uint8_t *out, const char *text)
{
	*out++ = (uint8_t)(0xa0 + strlen(text));
	return put(out, text, strlen(text));
}

/* The size that write_frame() has at most. */
static size_t frame_room(const struct frame *of)
{
	return 128 + of->part[0].size + of->part[1].size + of->part[2].size;
}

static size_t write_frame(uint8_t *out, const struct frame *of)
{
	uint8_t *at = out;
	int i, width;

	*at++ = 0x85;
	at = put_text(put_text(at, key[0]), "kerninst-bundle");
	at = put_text(at, key[1]);
	*at++ = of->version;
	for (i = 0; i < 3; i++) {
		at = put_text(at, key[2 + i]);
		width = of->part[i].size < 0x100 ? 1 :
			of->part[i].size < 0x10000 ? 2 : 4;
		if (of->longer == i + 1 && width < 4)
			width *= 2;
		*at++ = width == 1 ? 0xc4 : width == 2 ? 0xc5 : 0xc6;
		while (width--)
			*at++ = (uint8_t)(of->part[i].size >> 8 * width);
		at = put(at, of->part[i].at, of->part[i].size);
	}
	return (size_t)(at - out);
}

/* ---- the second opinion ---- */

static const char *parts_objection(const struct frame *of)
{
	uint8_t digest[SHA256_BYTES];
	struct kerninst_payload head;

	if (of->version != KERNINST_VERSION)
		return "the version is ours";
	if (of->part[1].size < sizeof(head))
		return "a payload has a header";
	memcpy(&head, of->part[1].at, sizeof(head));
	if (memcmp(head.magic, KERNINST_PAYLOAD_MAGIC, 8) ||
	    head.version != KERNINST_VERSION ||
	    head.header_bytes != sizeof(head) ||
	    head.payload_bytes != of->part[1].size)
		return "the payload's header says what it is";
	sha256(of->part[0].at, of->part[0].size, digest);
	if (memcmp(digest, head.manifest_sha256, sizeof(digest)))
		return "the payload has the manifest's digest";
	if (of->part[2].size > KERNINST_MAX_SIGNATURE)
		return "a signature has a limit";
	return of->part[2].size ?
		cms_objection(of->part[2].at, of->part[2].size) : NULL;
}

static const char *objection_to(const uint8_t *bytes, size_t size,
				struct frame *ret)
{
	const char *objection = NULL;
	uint8_t *again;

	if (!read_frame(bytes, size, ret))
		return "it has an end";
	again = malloc(frame_room(ret));
	if (!again)
		abort();
	if (write_frame(again, ret) != size || memcmp(again, bytes, size))
		objection = "a bundle has one encoding";
	free(again);
	return objection ? objection : parts_objection(ret);
}

/* Any entry may be asked for, whatever the header says of the tables. */
static void ask_for_entries(const struct bundle *bundle)
{
	const uint32_t last[] = {
		0, 1, 2, bundle->head.site_count - 1, bundle->head.site_count,
		bundle->head.form_count - 1, 0x7fffffff, UINT32_MAX,
	};
	struct kerninst_site site;
	struct kerninst_form form;
	size_t i;

	for (i = 0; i < sizeof(last) / sizeof(*last); i++) {
		if (bundle_site(bundle, last[i], &site))
			PROMISE(last[i] < bundle->head.site_count);
		if (bundle_form(bundle, last[i], &form))
			PROMISE(last[i] < bundle->head.form_count);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1);
	const char *problem, *objection;
	struct bundle bundle;
	struct frame frame;
	size_t at = SIZE_MAX;

	if (!bytes)
		abort();
	memcpy(bytes, data, size);
	problem = bundle_problem(bytes, size, &at, &bundle);
	PROMISE(at <= size);
	objection = objection_to(bytes, size, &frame);
	if (!problem != !objection) {
		fprintf(stderr, "the parser: %s at %zu; the oracle: %s\n",
			problem ? problem : "taken", at,
			objection ? objection : "taken");
		abort();
	}
	if (!problem) {
		PROMISE(!memcmp(&bundle, frame.part, sizeof(frame.part)));
		PROMISE(!memcmp(&bundle.head, frame.part[1].at,
				sizeof(bundle.head)));
		ask_for_entries(&bundle);
	}
	free(bytes);
	return 0;
}

/* ---- mutation ---- */

static size_t mutate_part(const struct frame *of, int which, uint8_t *part,
			  size_t room)
{
	size_t size = of->part[which].size;

	if (size)
		memcpy(part, of->part[which].at, size);
	if (which == 2 && !one_in(8))
		return der_mutate(part, size, room, below(UINT32_MAX));
	return LLVMFuzzerMutate(part, size, room);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room,
			       unsigned int seed)
{
	static uint8_t part[MAX_BYTES], payload[MAX_BYTES], out[4 * MAX_BYTES];
	static const uint8_t chosen[] = { 0, 1, 1, 2, 2, 2 };
	struct kerninst_payload head;
	struct frame frame;
	size_t done;
	int which;

	set_chance(seed);
	if (!read_frame(data, size, &frame) || room > MAX_BYTES || one_in(6))
		return LLVMFuzzerMutate(data, size, room);
	which = chosen[below(sizeof(chosen))];
	frame.part[which].size = mutate_part(&frame, which, part, room);
	frame.part[which].at = part;
	frame.version = KERNINST_VERSION;
	if (frame.part[1].size >= sizeof(head)) {
		memcpy(payload, frame.part[1].at, frame.part[1].size);
		memcpy(&head, payload, sizeof(head));
		memcpy(head.magic, KERNINST_PAYLOAD_MAGIC, sizeof(head.magic));
		head.version = KERNINST_VERSION;
		head.header_bytes = sizeof(head);
		head.payload_bytes = frame.part[1].size;
		sha256(frame.part[0].at, frame.part[0].size,
		       head.manifest_sha256);
		memcpy(payload, &head, sizeof(head));
		if (one_in(16))
			payload[below(sizeof(head))] ^=
				(uint8_t)(1u << below(8));
		frame.part[1].at = payload;
	}
	if (one_in(16))
		frame.longer = 1 + (int)below(3);
	done = write_frame(out, &frame);
	if (done > room)
		return LLVMFuzzerMutate(data, size, room);
	memcpy(data, out, done);
	return done;
}
