// SPDX-License-Identifier: GPL-2.0-only
/*
 * patch: a payload's code in, complete patches in the patch area out.
 *
 * The area is read-only and executable; it is written through a second,
 * writable mapping that exists only meanwhile. Whatever in it is not a patch
 * is int3. Nothing here is reachable for a CPU before splice.c and stop.c
 * have written the sites, and nothing may be written here while one still
 * may be in a patch: state.c waits for that.
 */
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/text-patching.h>
#include "kerninst.h"

/* Defined in area.S, which is added when the .ko is linked. */
extern u8 kerninst_area[KERNINST_AREA_BYTES] __weak;

/* Bytes from the area's start that may hold something else than int3. */
static u32 dirty = KERNINST_AREA_BYTES;

/* The address of an offset in the code, once it is written. */
unsigned long kerninst_patch_address(u32 offset)
{
	return (unsigned long)kerninst_area + offset;
}

/* @to - @end as a rel32 at @field; false: it does not reach. */
static bool put_rel32(u8 *field, unsigned long to, unsigned long end)
{
	long rel = to - end;
	s32 value = rel;

	if (value != rel)
		return false;
	memcpy(field, &value, sizeof(value));
	return true;
}

static bool fix(u8 *field, const struct kerninst_fixup *fixup, u64 slide,
		unsigned long base, const struct kheap *heap)
{
	unsigned long end =
		kerninst_patch_address(fixup->offset) + 4 + fixup->trail;
	u64 pointer = 0;
	s32 value;

	switch (fixup->kind) {
	case KERNINST_FIX_REL32:
		return put_rel32(field, base + fixup->value, end);
	case KERNINST_FIX_PCPU32:
		return put_rel32(field, (long)(s32)fixup->value, end);
	case KERNINST_FIX_ABS32:
		memcpy(&value, field, sizeof(value));
		if (check_add_overflow(value, (s64)slide, &value))
			return false;
		memcpy(field, &value, sizeof(value));
		return true;
	case KERNINST_FIX_SLOT64:
		if (heap)
			pointer = kheap_slot(heap, fixup->value);
		break;
	default: /* KERNINST_FIX_FRAME64; payload.c lets no other pass */
		if (heap)
			pointer = kheap_frame(heap, fixup->value);
	}
	memcpy(field, &pointer, sizeof(pointer));
	return true;
}

/**
 * kerninst_patch_complete - apply the fixups to the payload's own code
 * @req: gives the slide; takes the reason, with the fixup's index
 * @view: the payload; its code is changed in place
 * @heap: whose slots and frame words the code uses; NULL only checks
 *
 * Context: may sleep.
 * Return: 0, or the errno of KERNINST_E_SPACE or KERNINST_E_REACH.
 */
int kerninst_patch_complete(struct kerninst_request *req,
			    const struct kerninst_view *view,
			    const struct kheap *heap)
{
	const struct kerninst_payload *head = view->head;
	unsigned long base = head->link_base + req->slide;
	u32 i;

	if (head->code_bytes > KERNINST_AREA_BYTES) {
		req->value = KERNINST_AREA_BYTES;
		return kerninst_refuse(req, KERNINST_E_SPACE);
	}
	for (i = 0; i < head->fixup_count; i++) {
		if (!fix(view->code + view->fixups[i].offset, &view->fixups[i],
			 req->slide, base, heap)) {
			req->index = i;
			return kerninst_refuse(req, KERNINST_E_REACH);
		}
	}
	return 0;
}

/**
 * kerninst_patch_write - fill the area: @code, then int3
 * @code: complete; NULL with @bytes == 0 makes the area all int3
 * @bytes: at most KERNINST_AREA_BYTES
 *
 * Context: may sleep; no CPU can be in a patch.
 * Return: 0, or -ENOMEM, and then nothing was written.
 */
int kerninst_patch_write(const u8 *code, u32 bytes)
{
	u32 end = max(bytes, dirty), count = DIV_ROUND_UP(end, PAGE_SIZE), i;
	struct page **page;
	u8 *alias;

	if (!count)
		return 0;
	page = MAY_FAIL(kvmalloc_array(count, sizeof(*page), GFP_KERNEL));
	if (!page)
		return -ENOMEM;
	for (i = 0; i < count; i++)
		page[i] = vmalloc_to_page(kerninst_area + i * PAGE_SIZE);
	alias = MAY_FAIL(vmap(page, count, VM_MAP, PAGE_KERNEL));
	kvfree(page);
	if (!alias)
		return -ENOMEM;
	if (bytes)
		memcpy(alias, code, bytes);
	memset(alias + bytes, INT3_INSN_OPCODE, end - bytes);
	vunmap(alias);
	dirty = bytes;
	return 0;
}
