// SPDX-License-Identifier: GPL-2.0-only
/* fuzz-cms: injector/cms.c against cms-oracle.c. */
#include <string.h>
#include "cms.h"
#include "der.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1);
	const char *problem, *objection;
	struct cms_signer signer;
	size_t at = SIZE_MAX;

	if (!bytes)
		abort();
	memcpy(bytes, data, size);
	problem = cms_problem(bytes, size, &at);
	PROMISE(at <= size);
	objection = cms_objection(bytes, size);
	if (!problem != !objection) {
		fprintf(stderr, "the parser: %s at %zu; the oracle: %s\n",
			problem ? problem : "taken", at,
			objection ? objection : "taken");
		abort();
	}
	if (!problem) {
		cms_signer(bytes, size, &signer);
		cms_check_signer(bytes, size, &signer);
	}
	free(bytes);
	return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room,
			       unsigned int seed)
{
	return der_mutate(data, size, room, seed);
}
