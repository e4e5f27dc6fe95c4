/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A payload, parsed: pointers into the bytes that were checked. Compiles in
 * the kernel and, so that it can be fuzzed, in user space.
 */
#ifndef KERNINST_PAYLOAD_H
#define KERNINST_PAYLOAD_H

#include <linux/types.h>
#include "uapi/kerninst.h"

struct kerninst_view {
	const struct kerninst_payload *head;
	const struct kerninst_site *sites;
	const struct kerninst_form *forms;
	const struct kerninst_fixup *fixups;
	__u8 *code;
};

__u32 kerninst_payload_parse(void *bytes, __u32 size,
			     struct kerninst_view *view, __u32 *bad);

#endif
