// SPDX-License-Identifier: GPL-2.0-only
/*
 * fuzz-payload: kmod/payload.c against payload-oracle.c; and of what it takes,
 * what kmod/splice.c and kmod/patch.c make (splice-run.c). Each input is
 * copied to memory of its own size, so that a byte too far is seen.
 */
#include <string.h>
#include "fuzz.h"
#include "payload.h"
#include "payload-oracle.h"
#include "splice-run.h"

/* FNV-1a; of the input, so that an input is one run. */
static uint64_t sum(const uint8_t *bytes, size_t size)
{
	uint64_t hash = 0xcbf29ce484222325ull;

	while (size--)
		hash = (hash ^ *bytes++) * 0x100000001b3ull;
	return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1);
	__u32 bad = KERNINST_NONE, reason;
	struct kerninst_view view;
	const char *objection;

	if (!bytes)
		abort();
	memcpy(bytes, data, size);
	reason = kerninst_payload_parse(bytes, (__u32)size, &view, &bad);
	PROMISE(!memcmp(bytes, data, size));
	objection = payload_objection(bytes, size);
	if (!reason != !objection) {
		fprintf(stderr, "the parser: %u at %u; the oracle: %s\n",
			reason, bad, objection ? objection : "a payload");
		abort();
	}
	if (reason == KERNINST_E_MALFORMED)
		PROMISE(bad < size || !bad);
	else
		PROMISE(!reason || reason == KERNINST_E_TOO_LARGE);
	if (!reason)
		splice_run(&view, sum(data, size));
	free(bytes);
	return 0;
}
