// SPDX-License-Identifier: GPL-2.0-only
/*
 * payload: bytes in, a view of the tables in them out, or the offset of the
 * first field that is not as uapi/kerninst.h says.
 *
 * Afterwards every offset, index and count in the tables may be used without
 * another check, sites ascend and do not overlap but for springboards inside
 * windows, every hop comes to the code, and no two fields that the target
 * completes (fixups and tails of forms) share a byte of code.
 *
 * It knows nothing of the running kernel: whether the addresses are this
 * kernel's is identity.c's and splice.c's business, and whether a result fits
 * its field is patch.c's. Needs no kernel but for one allocation.
 */
#include "payload.h"

#ifdef __KERNEL__
#include <linux/mm.h>
#include <linux/stddef.h>
#include <linux/string.h>
#include "fault.h"
#define claim_alloc(bytes)	MAY_FAIL(kvzalloc(bytes, GFP_KERNEL))
#define claim_free(claim)	kvfree(claim)
#else
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#define claim_alloc(bytes)	calloc(1, bytes)
#define claim_free(claim)	free(claim)
#endif

_Static_assert(sizeof(struct kerninst_payload) == 160, "contract");
_Static_assert(sizeof(struct kerninst_site) == 40, "contract");
_Static_assert(sizeof(struct kerninst_form) == 16, "contract");
_Static_assert(sizeof(struct kerninst_fixup) == 12, "contract");

#define ALIGN_UP(x, a)	(((x) + (a) - 1) & ~(__u64)((a) - 1))

/* __START_KERNEL_map: below it x86-64 maps no kernel image. */
#define LOWEST_BASE	0xffffffff80000000ull

/* Bytes of an instruction behind a field of 4: 15, less it and an opcode. */
#define MAX_TRAIL	10

/* e9 rel32: what most splices write; a tail of a site with forms, too. */
#define JMP_BYTES	5

/* eb rel8. */
#define HOP_BYTES	2

#define MAX_INSTRUCTION	15
#define MAX_WINDOW	16

static bool all_zero(const __u8 *bytes, __u32 from, __u32 to, __u32 *at)
{
	__u32 i;

	for (i = from; i < to; i++) {
		if (bytes[i]) {
			*at = i;
			return false;
		}
	}
	return true;
}

/* Bits of the code's bytes that a fixup or a tail has taken. */
static bool claim(__u8 *claimed, __u32 from, __u32 bytes)
{
	__u32 i;

	for (i = from; i < from + bytes; i++) {
		if (claimed[i / 8] & 1u << i % 8)
			return false;
		claimed[i / 8] |= 1u << i % 8;
	}
	return true;
}

#define BAD(field) (*bad = offsetof(struct kerninst_payload, field), \
		    KERNINST_E_MALFORMED)

static __u32 parse_head(const __u8 *bytes, __u32 size,
			const struct kerninst_payload *head, __u32 *bad)
{
	__u64 end;

	if (memcmp(head->magic, KERNINST_PAYLOAD_MAGIC, sizeof(head->magic)))
		return BAD(magic);
	if (head->version != KERNINST_VERSION)
		return BAD(version);
	if (head->header_bytes != sizeof(*head))
		return BAD(header_bytes);
	if (head->payload_bytes != size)
		return BAD(payload_bytes);
	if (head->link_base < LOWEST_BASE || head->link_base & 0xfff)
		return BAD(link_base);
	if (!head->image_bytes || -head->link_base < head->image_bytes)
		return BAD(image_bytes);
	if (head->text_start >= head->text_end)
		return BAD(text_start);
	if (head->text_end > head->image_bytes)
		return BAD(text_end);
	if (head->build_id_rva > head->image_bytes ||
	    head->image_bytes - head->build_id_rva < sizeof(head->build_id))
		return BAD(build_id_rva);
	for (end = 0; end < 3; end++)
		if (head->anchor_rva[end] >= head->image_bytes)
			return BAD(anchor_rva);
	if (head->kprobe_rva[0] != KERNINST_NONE ||
	    head->kprobe_rva[1] != KERNINST_NONE)
		for (end = 0; end < 2; end++)
			if (head->kprobe_rva[end] >= head->image_bytes ||
			    head->kprobe_rva[end] % 8)
				return BAD(kprobe_rva);
	if (head->frame_words && head->frame_words <= KERNINST_FRAME_HEAD)
		return BAD(frame_words);

	if (!head->site_count)
		return BAD(site_count);
	if (!head->code_bytes)
		return BAD(code_bytes);
	if (!head->slot_count)
		return BAD(slot_count);
	if (head->site_count > KERNINST_MAX_SITES ||
	    head->form_count > KERNINST_MAX_FORMS ||
	    head->fixup_count > KERNINST_MAX_FIXUPS ||
	    head->code_bytes > KERNINST_MAX_CODE ||
	    head->slot_count > KERNINST_MAX_SLOTS ||
	    head->frame_words > KERNINST_MAX_FRAME_WORDS)
		return KERNINST_E_TOO_LARGE;

	/* Each table at the first boundary after the one before; zeros between. */
	end = sizeof(*head);
	if (head->site_offset != ALIGN_UP(end, 8))
		return BAD(site_offset);
	end = head->site_offset +
		(__u64)head->site_count * sizeof(struct kerninst_site);
	if (head->form_offset != ALIGN_UP(end, 8))
		return BAD(form_offset);
	end = head->form_offset +
		(__u64)head->form_count * sizeof(struct kerninst_form);
	if (head->fixup_offset != ALIGN_UP(end, 8))
		return BAD(fixup_offset);
	end = head->fixup_offset +
		(__u64)head->fixup_count * sizeof(struct kerninst_fixup);
	if (head->code_offset != ALIGN_UP(end, 16))
		return BAD(code_offset);
	if ((__u64)head->code_offset + head->code_bytes != size)
		return BAD(code_bytes);
	/* Sites and forms are multiples of 8 bytes: only fixups leave a gap. */
	if (!all_zero(bytes, (__u32)end, head->code_offset, bad))
		return KERNINST_E_MALFORMED;
	return KERNINST_OK;
}

#undef BAD
#define BAD(field) (*bad = at + offsetof(struct kerninst_form, field), \
		    KERNINST_E_MALFORMED)

static __u32 parse_forms(const __u8 *bytes, const struct kerninst_view *view,
			 bool *classes, __u32 *bad)
{
	const struct kerninst_form *form;
	__u32 at, i;

	for (i = 0; i < view->head->form_count; i++) {
		form = &view->forms[i];
		at = view->head->form_offset + i * sizeof(*form);
		if (!form->form_class)
			return BAD(form_class);
		switch (form->kind) {
		case KERNINST_FORM_LITERAL:
			if (form->target != KERNINST_NONE)
				return BAD(target);
			if (form->bytes[5])
				return BAD(bytes[5]);
			break;
		case KERNINST_FORM_JMP:
			if (form->target >= view->head->image_bytes)
				return BAD(target);
			if (!all_zero(bytes,
				      at + offsetof(struct kerninst_form, bytes),
				      at + offsetof(struct kerninst_form, target),
				      bad))
				return KERNINST_E_MALFORMED;
			break;
		default:
			return BAD(kind);
		}
		if (form->reserved)
			return BAD(reserved);
		classes[form->form_class] = true;
	}
	return KERNINST_OK;
}

#undef BAD
#define BAD(field) (*bad = at + offsetof(struct kerninst_fixup, field), \
		    KERNINST_E_MALFORMED)

static __u32 parse_fixups(const struct kerninst_view *view, __u8 *claimed,
			  __u32 *bad)
{
	const struct kerninst_payload *head = view->head;
	const struct kerninst_fixup *fixup;
	__u32 at, i, width;
	bool relative;

	for (i = 0; i < head->fixup_count; i++) {
		fixup = &view->fixups[i];
		at = head->fixup_offset + i * sizeof(*fixup);
		width = 4;
		relative = fixup->kind == KERNINST_FIX_REL32 ||
			   fixup->kind == KERNINST_FIX_PCPU32;
		switch (fixup->kind) {
		case KERNINST_FIX_REL32:
			if (fixup->value >= head->image_bytes)
				return BAD(value);
			break;
		case KERNINST_FIX_PCPU32:
			break;
		case KERNINST_FIX_ABS32:
			if (fixup->value)
				return BAD(value);
			break;
		case KERNINST_FIX_SLOT64:
			width = 8;
			if (fixup->value >= head->slot_count)
				return BAD(value);
			break;
		case KERNINST_FIX_FRAME64:
			width = 8;
			if (fixup->value >= head->frame_words)
				return BAD(value);
			break;
		default:
			return BAD(kind);
		}
		if (fixup->offset > head->code_bytes ||
		    head->code_bytes - fixup->offset < width + fixup->trail)
			return BAD(offset);
		if (i && fixup->offset <= fixup[-1].offset)
			return BAD(offset);
		if (!claim(claimed, fixup->offset, width))
			return BAD(offset);
		if (fixup->trail > (relative ? MAX_TRAIL : 0))
			return BAD(trail);
		if (fixup->reserved)
			return BAD(reserved);
	}
	return KERNINST_OK;
}

#undef BAD
#define BAD(field) (*bad = at + offsetof(struct kerninst_site, field), \
		    KERNINST_E_MALFORMED)

/* How long a site may be, by what it is; @site's flags are known ones. */
static bool good_length(const struct kerninst_site *site)
{
	__u32 least = site->kind == KERNINST_HOP ? HOP_BYTES : JMP_BYTES;

	if (site->flags == KERNINST_SPRINGBOARD)
		return site->length == least;
	return site->length >= least &&
	       site->length <= (site->flags == KERNINST_WINDOW ?
				MAX_WINDOW : MAX_INSTRUCTION);
}

/* Does the hop lead to a springboard, near enough, and soon to the code? */
static bool good_hop(const struct kerninst_view *view,
		     const struct kerninst_site *site)
{
	const struct kerninst_site *board;
	__s64 distance;

	if (site->patch >= view->head->site_count)
		return false;
	board = &view->sites[site->patch];
	if (board->flags != KERNINST_SPRINGBOARD ||
	    (board->kind != KERNINST_JMP &&
	     (board->kind != KERNINST_HOP ||
	      site->flags == KERNINST_SPRINGBOARD)))
		return false;
	distance = (__s64)board->rva - site->rva - HOP_BYTES;
	return distance >= -128 && distance <= 127;
}

/* A site whose live bytes are expected[]: does it suit the splice's kind? */
static __u32 parse_literal_site(const struct kerninst_view *view,
				const struct kerninst_site *site, __u32 at,
				__u32 *bad)
{
	if (site->flags == KERNINST_WINDOW ?
	    site->tail >= view->head->code_bytes :
	    site->tail != KERNINST_NONE)
		return BAD(tail);
	if (site->flags && site->kind != KERNINST_JMP &&
	    (site->flags != KERNINST_SPRINGBOARD || site->kind != KERNINST_HOP))
		return BAD(kind);
	switch (site->kind) {
	case KERNINST_JMP:
		break;
	case KERNINST_CALL:
		if (site->length != 5)
			return BAD(length);
		if (site->expected[0] != 0xe8)
			return BAD(expected);
		break;
	case KERNINST_JCC:
		if (site->length != 6)
			return BAD(length);
		if (site->expected[0] != 0x0f ||
		    (site->expected[1] & 0xf0) != 0x80)
			return BAD(expected);
		break;
	case KERNINST_HOP:
		if (!good_hop(view, site))
			return BAD(patch);
		break;
	default:
		return BAD(kind);
	}
	if (site->kind != KERNINST_HOP && site->patch >= view->head->code_bytes)
		return BAD(patch);
	switch (site->reloc_kind) {
	case KERNINST_RELOC_NONE:
		if (site->reloc_offset)
			return BAD(reloc_offset);
		break;
	case KERNINST_RELOC_ADD:
	case KERNINST_RELOC_SUB:
		/* Distances between two places in the kernel do not move. */
		if (site->kind == KERNINST_CALL || site->kind == KERNINST_JCC)
			return BAD(reloc_kind);
		/* An instruction starts with an opcode; a springboard need not. */
		if ((!site->reloc_offset &&
		     site->flags != KERNINST_SPRINGBOARD) ||
		    site->reloc_offset + 4 > site->length)
			return BAD(reloc_offset);
		break;
	default:
		return BAD(reloc_kind);
	}
	return KERNINST_OK;
}

/* A site whose live bytes are one form of a class. */
static __u32 parse_form_site(const struct kerninst_view *view,
			     const struct kerninst_site *site, __u32 at,
			     const bool *classes, __u8 *claimed, __u32 *bad)
{
	if (!classes[site->form_class])
		return BAD(form_class);
	if (site->kind != KERNINST_JMP)
		return BAD(kind);
	if (site->flags)
		return BAD(flags);
	if (site->length != JMP_BYTES)
		return BAD(length);
	if (site->patch >= view->head->code_bytes)
		return BAD(patch);
	if (site->reloc_kind != KERNINST_RELOC_NONE)
		return BAD(reloc_kind);
	if (site->reloc_offset)
		return BAD(reloc_offset);
	if (site->tail > view->head->code_bytes ||
	    view->head->code_bytes - site->tail < JMP_BYTES ||
	    !claim(claimed, site->tail, JMP_BYTES))
		return BAD(tail);
	return KERNINST_OK;
}

static __u32 parse_sites(const __u8 *bytes, const struct kerninst_view *view,
			 const bool *classes, __u8 *claimed, __u32 *bad)
{
	const struct kerninst_payload *head = view->head;
	const struct kerninst_site *site;
	__u32 at, i, reason, free_from = head->text_start;
	__u32 room_from = 0, room_to = 0;	/* for springboards, in a window */

	for (i = 0; i < head->site_count; i++) {
		site = &view->sites[i];
		at = head->site_offset + i * sizeof(*site);
		if (site->flags > KERNINST_SPRINGBOARD)
			return BAD(flags);
		if (!good_length(site))
			return BAD(length);
		/* text_end <= image_bytes < 2^32, so the sum cannot wrap. */
		if (site->rva >= head->text_end ||
		    head->text_end - site->rva < site->length)
			return BAD(rva);
		if (site->flags == KERNINST_SPRINGBOARD &&
		    site->rva >= room_from &&
		    site->rva + site->length <= room_to) {
			room_from = site->rva + site->length;
		} else {
			if (site->rva < free_from)
				return BAD(rva);
			free_from = site->rva + site->length;
			room_from = room_to = 0;
			if (site->flags == KERNINST_WINDOW) {
				room_from = site->rva + JMP_BYTES;
				room_to = free_from;
			}
		}
		if (site->form_class)
			reason = parse_form_site(view, site, at, classes,
						 claimed, bad);
		else
			reason = parse_literal_site(view, site, at, bad);
		if (reason)
			return reason;
		at += offsetof(struct kerninst_site, expected);
		if (!all_zero(bytes, at + site->length,
			      at + sizeof(site->expected), bad))
			return KERNINST_E_MALFORMED;
		at += offsetof(struct kerninst_site, reserved) -
			offsetof(struct kerninst_site, expected);
		if (!all_zero(bytes, at, at + sizeof(site->reserved), bad))
			return KERNINST_E_MALFORMED;
	}
	return KERNINST_OK;
}

#undef BAD

/**
 * kerninst_payload_parse - check every field of a payload
 * @bytes: the payload, 8-byte aligned; not changed
 * @size: its length, at most KERNINST_MAX_PAYLOAD
 * @view: out: where its tables are
 * @bad: out: with KERNINST_E_MALFORMED, the bad field's offset in @bytes
 *
 * Context: may sleep (it allocates a bit per byte of code).
 * Return: KERNINST_OK or a KERNINST_E_* reason.
 */
__u32 kerninst_payload_parse(void *bytes, __u32 size,
			     struct kerninst_view *view, __u32 *bad)
{
	const struct kerninst_payload *head = bytes;
	bool classes[256] = { false };
	__u8 *claimed;
	__u32 reason;

	*bad = 0;
	if (size > KERNINST_MAX_PAYLOAD)
		return KERNINST_E_TOO_LARGE;
	if (size < sizeof(*head))
		return KERNINST_E_MALFORMED;
	reason = parse_head(bytes, size, head, bad);
	if (reason)
		return reason;

	view->head = head;
	view->sites = (void *)((__u8 *)bytes + head->site_offset);
	view->forms = (void *)((__u8 *)bytes + head->form_offset);
	view->fixups = (void *)((__u8 *)bytes + head->fixup_offset);
	view->code = (__u8 *)bytes + head->code_offset;

	claimed = claim_alloc(head->code_bytes / 8 + 1);
	if (!claimed)
		return KERNINST_E_MEMORY;
	reason = parse_forms(bytes, view, classes, bad);
	if (!reason)
		reason = parse_fixups(view, claimed, bad);
	if (!reason)
		reason = parse_sites(bytes, view, classes, claimed, bad);
	claim_free(claimed);
	return reason;
}
