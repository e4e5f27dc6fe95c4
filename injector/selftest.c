// SPDX-License-Identifier: GPL-2.0-only
/*
 * selftest: the parsers against a sample bundle made here, every truncation
 * of it, and every single bit of it flipped; under the address and undefined
 * behaviour sanitizers (make check). A flipped bit must be refused, except
 * where the kernel's verification is what notices it: in the payload behind
 * what the injector reads, and in the free values of the CMS. Each part is
 * copied to memory of exactly its size, so that a byte too far is seen.
 *
 * selftest-texts.c has what people type and what the kernel's files say.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "bundle.h"
#include "cms.h"
#include "device.h"
#include "fail.h"
#include "selftest.h"
#include "sha256.h"

#define SIGNATURE_BYTES	384

static unsigned int failures, checks;

void expect(int ok, const char *what, size_t where)
{
	checks++;
	if (ok)
		return;
	if (++failures <= 20)
		fprintf(stderr, "not ok: %s (%zu)\n", what, where);
}

void put(struct out *out, const void *bytes, size_t size)
{
	if (size > sizeof(out->at) - out->size)
		abort();
	memcpy(out->at + out->size, bytes, size);
	out->size += size;
}

/* One DER element. */
static void der(struct out *out, uint8_t tag, const void *bytes, size_t size)
{
	uint8_t head[4] = { tag, 0x82, (uint8_t)(size >> 8), (uint8_t)size };

	if (size < 0x80) {
		head[1] = (uint8_t)size;
		put(out, head, 2);
	} else if (size < 0x100) {
		head[1] = 0x81;
		head[2] = (uint8_t)size;
		put(out, head, 3);
	} else {
		put(out, head, 4);
	}
	put(out, bytes, size);
}

static void der_of(struct out *out, uint8_t tag, const struct out *inner)
{
	der(out, tag, inner->at, inner->size);
}

static void algorithm(struct out *out, const char *oid, int with_null)
{
	struct out inner = { .size = 0 };

	der(&inner, 0x06, oid, 9);
	if (with_null)
		der(&inner, 0x05, "", 0);
	der_of(out, 0x30, &inner);
}

#define OID_SIGNED_DATA	"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"
#define OID_DATA	"\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01"
#define OID_SHA256	"\x60\x86\x48\x01\x65\x03\x04\x02\x01"
#define OID_RSA		"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"

/* A CMS of the accepted shape; its signature value is no signature. */
static void make_cms(struct out *out, int with_null)
{
	struct out name = { .size = 0 }, set = { .size = 0 };
	struct out names = { .size = 0 }, id = { .size = 0 };
	struct out signer = { .size = 0 }, signers = { .size = 0 };
	struct out digests = { .size = 0 }, content = { .size = 0 };
	struct out data = { .size = 0 }, wrapped = { .size = 0 };
	struct out info = { .size = 0 };
	uint8_t value[SIGNATURE_BYTES];
	size_t i;

	for (i = 0; i < sizeof(value); i++)
		value[i] = (uint8_t)(7 * i + 1);
	der(&name, 0x06, "\x55\x04\x03", 3);
	der(&name, 0x0c, "selftest", 8);
	der_of(&set, 0x30, &name);
	der_of(&names, 0x31, &set);
	der_of(&id, 0x30, &names);
	der(&id, 0x02, "\x12\x34\x56\x78", 4);

	der(&signer, 0x02, "\x01", 1);
	der_of(&signer, 0x30, &id);
	algorithm(&signer, OID_SHA256, with_null);
	algorithm(&signer, OID_RSA, 1);
	der(&signer, 0x04, value, sizeof(value));
	der_of(&signers, 0x30, &signer);

	algorithm(&digests, OID_SHA256, with_null);
	der(&content, 0x06, OID_DATA, 9);
	der(&data, 0x02, "\x01", 1);
	der_of(&data, 0x31, &digests);
	der_of(&data, 0x30, &content);
	der_of(&data, 0x31, &signers);
	der_of(&wrapped, 0x30, &data);
	der(&info, 0x06, OID_SIGNED_DATA, 9);
	der_of(&info, 0xa0, &wrapped);
	der_of(out, 0x30, &info);
}

static void text(struct out *out, const char *value)
{
	uint8_t head = (uint8_t)(0xa0 | strlen(value));

	put(out, &head, 1);
	put(out, value, strlen(value));
}

static void bin(struct out *out, const void *bytes, size_t size)
{
	uint8_t head[3] = { 0xc5, (uint8_t)(size >> 8), (uint8_t)size };

	if (size < 0x100) {
		head[0] = 0xc4;
		head[1] = (uint8_t)size;
	}
	put(out, head, size < 0x100 ? 2 : 3);
	put(out, bytes, size);
}

static void make_bundle(struct out *out, const struct out *cms)
{
	static const char manifest[] = "a manifest of more than sixty-four bytes, so that its digest takes two blocks";
	struct kerninst_payload head = {
		.version = KERNINST_VERSION,
		.header_bytes = sizeof(head),
		.payload_bytes = sizeof(head) + 300,
		.site_offset = sizeof(head),
		.site_count = 2,
	};
	struct out payload = { .size = 0 };
	uint8_t tables[300] = { 1, 2, 3 };
	uint8_t byte = 0x85;

	memcpy(head.magic, KERNINST_PAYLOAD_MAGIC, sizeof(head.magic));
	sha256((const uint8_t *)manifest, sizeof(manifest),
	       head.manifest_sha256);
	put(&payload, &head, sizeof(head));
	put(&payload, tables, sizeof(tables));

	put(out, &byte, 1);
	text(out, "format");
	text(out, "kerninst-bundle");
	text(out, "version");
	byte = KERNINST_VERSION;
	put(out, &byte, 1);
	text(out, "manifest");
	bin(out, manifest, sizeof(manifest));
	text(out, "payload");
	bin(out, payload.at, payload.size);
	text(out, "signature");
	bin(out, cms->at, cms->size);
}

/* Parse a copy that ends where its memory ends. */
static const char *parse(const uint8_t *bytes, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct kerninst_site site;
	struct kerninst_form form;
	struct bundle bundle;
	const char *problem;
	size_t at = 0;

	if (!copy)
		abort();
	memcpy(copy, bytes, size);
	problem = bundle_problem(copy, size, &at, &bundle);
	expect(at <= size, "the offset of a problem is in the file", size);
	if (!problem) {
		bundle_site(&bundle, 1, &site);
		bundle_site(&bundle, UINT32_MAX, &site);
		bundle_form(&bundle, 0, &form);
	}
	free(copy);
	return problem;
}

/* May this bit of the sample differ without the injector's notice? */
static int is_free(const struct out *sample, const struct out *cms, size_t at)
{
	struct bundle bundle;
	size_t ignored, from, cms_at = sample->size - cms->size;
	static const uint8_t cn[] = { 0x06, 0x03, 0x55, 0x04, 0x03 };
	const uint8_t *name;

	bundle_problem(sample->at, sample->size, &ignored, &bundle);
	from = (size_t)(bundle.payload.at - sample->at);
	if (at >= from && at < from + bundle.payload.size) {
		at -= from;
		/* The header's fields that bundle.c reads are not free. */
		return !(at < offsetof(struct kerninst_payload, link_base) ||
			 (at >= offsetof(struct kerninst_payload,
					 manifest_sha256) &&
			  at < offsetof(struct kerninst_payload,
					site_offset)));
	}
	if (at < cms_at)
		return 0;
	if (at >= sample->size - SIGNATURE_BYTES)
		return 1;
	/* OID and string of the issuer, their tags too, then the serial. */
	name = memmem(cms->at, cms->size, cn, sizeof(cn));
	from = cms_at + (size_t)(name - cms->at);
	return (at >= from + 2 && at < from + 5) ||	/* the OID's value */
		at == from + 5 ||			/* the string's tag */
		(at >= from + 7 && at < from + 15) ||	/* its value */
		(at >= from + 17 && at < from + 21);	/* the serial */
}

static void test_flips_and_cuts(int with_null)
{
	struct out cms = { .size = 0 }, sample = { .size = 0 };
	size_t i, free_bytes = 0;
	int bit;

	make_cms(&cms, with_null);
	make_bundle(&sample, &cms);
	expect(!parse(sample.at, sample.size), "the sample is taken", 0);
	for (i = 0; i < sample.size; i++)
		expect(parse(sample.at, i) != NULL, "a truncation is refused",
		       i);
	expect(parse(sample.at, sample.size + 1) != NULL,
	       "a byte behind the end is refused", sample.size);
	for (i = 0; i < sample.size; i++) {
		free_bytes += (size_t)is_free(&sample, &cms, i);
		for (bit = 0; bit < 8; bit++) {
			sample.at[i] ^= (uint8_t)(1 << bit);
			if (parse(sample.at, sample.size))
				checks++;
			else {
				sample.at[i] ^= (uint8_t)(1 << bit);
				expect(is_free(&sample, &cms, i),
				       "a flipped bit is refused",
				       8 * i + (size_t)bit);
				sample.at[i] ^= (uint8_t)(1 << bit);
			}
			sample.at[i] ^= (uint8_t)(1 << bit);
		}
	}
	/* What is left to the kernel is what was meant, and no more. */
	expect(free_bytes == 300 + (160 - 24 - 32) + SIGNATURE_BYTES + 16,
	       "the free bytes are the known ones", free_bytes);
}

static void test_sha256(void)
{
	/* FIPS 180-2, appendix B: "abc", two blocks; and a million times a. */
	static const struct {
		const char *text;
		size_t repeat;
		uint8_t first[8];
	} vectors[] = {
		{ "", 1, { 0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14 } },
		{ "abc", 1, { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea } },
		{ "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
		  1, { 0x24, 0x8d, 0x6a, 0x61, 0xd2, 0x06, 0x38, 0xb8 } },
		{ "a", 1000000,
		  { 0xcd, 0xc7, 0x6e, 0x5c, 0x99, 0x14, 0xfb, 0x92 } },
	};
	uint8_t digest[SHA256_BYTES], *bytes;
	size_t i, j, size;

	for (i = 0; i < sizeof(vectors) / sizeof(*vectors); i++) {
		size = strlen(vectors[i].text);
		bytes = malloc(size * vectors[i].repeat + 1);
		if (!bytes)
			abort();
		for (j = 0; j < vectors[i].repeat; j++)
			memcpy(bytes + j * size, vectors[i].text, size);
		sha256(bytes, size * vectors[i].repeat, digest);
		expect(!memcmp(digest, vectors[i].first, 8), "SHA-256", i);
		free(bytes);
	}
}

/* Lengths that are right but not the shortest are refused. */
static void test_long_forms(void)
{
	static const struct {
		uint8_t bytes[8];
		size_t size;
	} wrong[] = {
		{ { 0x30, 0x81, 0x02, 0x05, 0x00 }, 5 },
		{ { 0x30, 0x80, 0x00, 0x00 }, 4 },
		{ { 0x30, 0x82, 0x00, 0x02, 0x05, 0x00 }, 6 },
		{ { 0x30, 0x84, 0xff, 0xff, 0xff, 0xff }, 6 },
		{ { 0x30, 0xff }, 2 },
		{ { 0x30 }, 1 },
	};
	static const char head[] = "\x85\xa6" "format\xaf" "kerninst-bundle"
		"\xa7version\x04\xa8manifest";
	const char *problem;
	struct out out;
	size_t i, at;

	for (i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
		expect(cms_problem(wrong[i].bytes, wrong[i].size, &at) != NULL,
		       "a length that is not DER is refused", i);
	/* The same with bin 8 and with bin 16: read on, and refused at once. */
	for (i = 0; i < 2; i++) {
		out.size = 0;
		put(&out, head, sizeof(head) - 1);
		put(&out, i ? "\xc5\x00\x01m" : "\xc4\x01m", 3 + i);
		text(&out, "payload");
		bin(&out, "", 0);
		text(&out, "signature");
		bin(&out, "", 0);
		problem = parse(out.at, out.size);
		expect(problem && !strcmp(problem, i ?
			"the bundle is damaged or cut short" :
			"the payload is shorter than its header"),
		       "a bin in a longer form than needed is refused", i);
	}
	out.size = 0;
	put(&out, head, sizeof(head) - 1);
	put(&out, "\xc6\xff\xff\xff\xff", 5);
	expect(parse(out.at, out.size) != NULL,
	       "a bin longer than the file is refused", 0);
}

/* Every refusal is one line, with an exit code that is documented. */
static void test_refusals(void)
{
	struct out cms = { .size = 0 }, sample = { .size = 0 };
	struct kerninst_request request = { .slide = 1u << 21 };
	static const int errors[] = { EINVAL, EPERM, ENOTTY };
	char problem[DEVICE_PROBLEM_BYTES];
	struct bundle bundle;
	size_t at, i;
	int code;

	make_cms(&cms, 1);
	make_bundle(&sample, &cms);
	expect(!bundle_problem(sample.at, sample.size, &at, &bundle),
	       "the sample is taken", 0);
	for (i = 0; i < 3 * (KERNINST_E_CLOCK + 2); i++) {
		request.reason = (uint32_t)(i / 3);
		request.index = i % 3 == 1;
		code = device_problem(i % 3 == 2 && request.reason >=
				      KERNINST_E_FOREIGN ? NULL : &bundle,
				      &request, errors[i % 3], problem);
		expect(code >= EXIT_DATA && code <= EXIT_REFUSED &&
		       strlen(problem) > 10 && !strchr(problem, '\n'),
		       "a refusal", i);
	}
}

/* Bytes at random, from a seed that is printed; only crashes count. */
static void test_noise(void)
{
	unsigned int seed = 20240229;
	struct out cms = { .size = 0 }, sample = { .size = 0 }, copy;
	int round, i;

	printf("# seed %u\n", seed);
	srand(seed);
	make_cms(&cms, 1);
	make_bundle(&sample, &cms);
	for (round = 0; round < 20000; round++) {
		copy = sample;
		for (i = rand() % 8; i >= 0; i--)
			copy.at[(size_t)rand() % copy.size] = (uint8_t)rand();
		parse(copy.at, (size_t)rand() % (copy.size + 1));
		texts_noise(copy.at + copy.size / 2, (size_t)rand() % 200);
	}
}

int main(void)
{
	test_sha256();
	test_flips_and_cuts(0);
	test_flips_and_cuts(1);
	test_long_forms();
	test_texts();
	test_refusals();
	test_noise();
	printf("%u checks, %u failures\n", checks, failures);
	return failures != 0;
}
