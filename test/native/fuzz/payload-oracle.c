// SPDX-License-Identifier: GPL-2.0-only
/*
 * payload-oracle: bytes in; out, whether they are a payload as uapi/kerninst.h says.
 *
 * The second opinion on kmod/payload.c, written from the header's prose, and
 * in another way where there is one: a map of who owns each byte instead of
 * offsets that follow from each other, every pair of sites instead of one
 * walk, hops that are followed to their end. For small payloads: it is
 * quadratic. Of a wrong payload it says only that it is wrong.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "payload-oracle.h"
#include "uapi/kerninst.h"

struct parts {
	const struct kerninst_payload *head;
	const struct kerninst_site *site;
	const struct kerninst_form *form;
	const struct kerninst_fixup *fixup;
};

#define TOP_2_GIB	0xffffffff80000000ull
#define PAGE		4096

static bool any(const uint8_t *bytes, size_t from, size_t to)
{
	while (from < to)
		if (bytes[from++])
			return true;
	return false;
}

/* Mark [from, from + bytes) of @map; false: not there, or taken. */
static bool own(uint8_t *map, size_t size, uint64_t from, uint64_t bytes)
{
	uint64_t i;

	if (from > size || bytes > size - from)
		return false;
	for (i = from; i < from + bytes; i++)
		if (map[i]++)
			return false;
	return true;
}

static const char *head_objection(const struct kerninst_payload *head,
				  size_t size)
{
	unsigned int i;

	if (memcmp(head->magic, KERNINST_PAYLOAD_MAGIC, 8) ||
	    head->version != KERNINST_VERSION ||
	    head->header_bytes != sizeof(*head) || head->payload_bytes != size)
		return "the header says what it is";
	if (head->link_base % PAGE || head->link_base < TOP_2_GIB)
		return "link_base is page-aligned and in the top 2 GiB";
	/* An rva below image_bytes is one of an address that there is. */
	if (!head->image_bytes ||
	    (__uint128_t)head->link_base + head->image_bytes >
	    (__uint128_t)1 << 64)
		return "the image ends in the address space";
	if (head->text_start >= head->text_end ||
	    head->text_end > head->image_bytes)
		return "the text is in the image";
	if ((uint64_t)head->build_id_rva + 20 > head->image_bytes)
		return "the build id is in the image";
	for (i = 0; i < 3; i++)
		if (head->anchor_rva[i] >= head->image_bytes)
			return "every rva named is below image_bytes";
	if (head->kprobe_rva[0] != KERNINST_NONE ||
	    head->kprobe_rva[1] != KERNINST_NONE)
		for (i = 0; i < 2; i++)
			if (head->kprobe_rva[i] >= head->image_bytes ||
			    head->kprobe_rva[i] & 7)
				return "mutex and table are in the image";
	if (head->frame_words == 1 || head->frame_words == 2)
		return "frame words are none, or more than two";
	if (!head->site_count || !head->code_bytes || !head->slot_count)
		return "there is a site, a slot and a byte of code";
	if (head->site_count > KERNINST_MAX_SITES ||
	    head->form_count > KERNINST_MAX_FORMS ||
	    head->fixup_count > KERNINST_MAX_FIXUPS ||
	    head->code_bytes > KERNINST_MAX_CODE ||
	    head->slot_count > KERNINST_MAX_SLOTS ||
	    head->frame_words > KERNINST_MAX_FRAME_WORDS)
		return "the limits";
	return NULL;
}

/* Each byte belongs to one table, or is a zero that only alignment explains. */
static const char *layout_objection(const struct kerninst_payload *head,
				    const uint8_t *bytes, size_t size)
{
	const struct { uint64_t at, bytes, align; } table[] = {
		{ 0, sizeof(*head), 8 },
		{ head->site_offset, 40ull * head->site_count, 8 },
		{ head->form_offset, 16ull * head->form_count, 8 },
		{ head->fixup_offset, 12ull * head->fixup_count, 8 },
		{ head->code_offset, head->code_bytes, 16 },
	};
	const char *objection = NULL;
	uint64_t end = 0;
	uint8_t *owner = calloc(1, size);
	size_t i;

	if (!owner)
		abort();
	for (i = 0; i < 5 && !objection; i++) {
		if (table[i].at % table[i].align || table[i].at < end ||
		    table[i].at - end >= table[i].align ||
		    !own(owner, size, table[i].at, table[i].bytes))
			objection = "tables follow in order, as near as may be";
		end = table[i].at + table[i].bytes;
	}
	if (!objection && end != size)
		objection = "the payload ends with the code";
	for (i = 0; i < size && !objection; i++)
		if (!owner[i] && bytes[i])
			objection = "every byte is a field or a checked zero";
	free(owner);
	return objection;
}

static const char *form_objection(const struct parts *of,
				  const struct kerninst_form *form)
{
	bool jump = form->kind == KERNINST_FORM_JMP;

	if (!form->form_class || form->kind > KERNINST_FORM_JMP ||
	    form->reserved || form->bytes[5])
		return "a form has a class, a kind and zeros";
	if (jump && any(form->bytes, 0, 5))
		return "a jmp form has zero bytes";
	if (jump ? form->target >= of->head->image_bytes :
		   form->target != KERNINST_NONE)
		return "a jmp form has a target, a literal none";
	return NULL;
}

static const char *fixup_objection(const struct parts *of,
				   const struct kerninst_fixup *fixup,
				   uint8_t *owner)
{
	bool pointer = fixup->kind == KERNINST_FIX_SLOT64 ||
		       fixup->kind == KERNINST_FIX_FRAME64;
	uint64_t width = pointer ? 8 : 4;

	if (fixup->kind > KERNINST_FIX_FRAME64 || fixup->reserved)
		return "a fixup has a kind and zeros";
	if (fixup->trail > 10 ||
	    (fixup->trail && (fixup->kind == KERNINST_FIX_ABS32 || pointer)))
		return "a trail is at most 10, and not everywhere";
	if (fixup->kind == KERNINST_FIX_ABS32 && fixup->value)
		return "the value of an ABS32 fixup is zero";
	if (fixup->kind == KERNINST_FIX_REL32 &&
	    fixup->value >= of->head->image_bytes)
		return "every rva named is below image_bytes";
	if (fixup->kind == KERNINST_FIX_SLOT64 &&
	    fixup->value >= of->head->slot_count)
		return "a slot is one of slot_count";
	if (fixup->kind == KERNINST_FIX_FRAME64 &&
	    fixup->value >= of->head->frame_words)
		return "a frame word is one of frame_words";
	if (fixup->offset + width + fixup->trail > of->head->code_bytes)
		return "the field's instruction ends in the code";
	if (!own(owner, of->head->code_bytes, fixup->offset, width))
		return "fixups do not overlap";
	return NULL;
}

/* How many hops to the code: 0 for what is none; 3 stands for no way. */
static int hops_from(const struct parts *of, uint32_t index)
{
	const struct kerninst_site *site = &of->site[index], *board;
	int hops = 0;
	int64_t way;

	while (site->kind == KERNINST_HOP) {
		if (++hops == 3 || site->patch >= of->head->site_count)
			return 3;
		board = &of->site[site->patch];
		way = (int64_t)board->rva - ((int64_t)site->rva + 2);
		if (board->flags != KERNINST_SPRINGBOARD ||
		    way != (int8_t)way)
			return 3;
		site = board;
	}
	return hops;
}

static const char *form_site_objection(const struct parts *of,
				       const struct kerninst_site *site,
				       uint8_t *owner)
{
	uint32_t i;

	if (site->kind != KERNINST_JMP || site->length != 5 || site->flags)
		return "a site with a class is a jmp of five bytes, no more";
	if (site->reloc_kind)
		return "an adjusted field is in an instruction";
	if (!own(owner, of->head->code_bytes, site->tail, 5))
		return "a tail has five bytes of the code for itself";
	for (i = 0; i < of->head->form_count; i++)
		if (of->form[i].form_class == site->form_class)
			return NULL;
	return "a class has forms";
}

static const char *length_objection(const struct kerninst_site *site)
{
	bool hop = site->kind == KERNINST_HOP;

	switch (site->flags) {
	case 0:
		return site->length >= (hop ? 2 : 5) && site->length <= 15 ?
			NULL : "an instruction has 5..15 bytes, under a hop 2..15";
	case KERNINST_WINDOW:
		return site->kind == KERNINST_JMP && site->length >= 5 &&
			site->length <= 16 ?
			NULL : "a window is a jmp of 5..16 bytes";
	case KERNINST_SPRINGBOARD:
		return (site->kind == KERNINST_JMP && site->length == 5) ||
			(hop && site->length == 2) ?
			NULL : "a springboard is a jmp of 5 or a hop of 2 bytes";
	default:
		return "at most one flag";
	}
}

static const char *site_objection(const struct parts *of, uint32_t index,
				  uint8_t *owner)
{
	const struct kerninst_site *site = &of->site[index];
	const uint8_t *expected = site->expected;
	const char *objection;

	if (site->kind > KERNINST_HOP || any(site->reserved, 0, 6))
		return "a site has a kind and zeros";
	objection = length_objection(site);
	if (objection)
		return objection;
	if (any(expected, site->length, 16))
		return "bytes past length are zero";
	if (site->rva < of->head->text_start ||
	    (uint64_t)site->rva + site->length > of->head->text_end)
		return "sites lie in the text";
	if (site->kind != KERNINST_HOP && site->patch >= of->head->code_bytes)
		return "a patch is in the code";
	if (site->kind == KERNINST_CALL &&
	    (site->length != 5 || expected[0] != 0xe8))
		return "a call is e8 with five bytes";
	if (site->kind == KERNINST_JCC &&
	    (site->length != 6 || expected[0] != 0x0f || expected[1] >> 4 != 8))
		return "a jcc is 0f 8x with six bytes";
	if (hops_from(of, index) >
	    (site->flags == KERNINST_SPRINGBOARD ? 1 : 2))
		return "no way is longer than hop, hop, jmp";
	if (site->reloc_kind > KERNINST_RELOC_SUB ||
	    (!site->reloc_kind && site->reloc_offset))
		return "a field is adjusted in a known way";
	if (site->reloc_kind) {
		if (site->kind == KERNINST_CALL || site->kind == KERNINST_JCC)
			return "no field of a call or jcc is adjusted";
		if (site->reloc_offset + 4 > site->length)
			return "an adjusted field is in the site";
		if (!site->reloc_offset && site->flags != KERNINST_SPRINGBOARD)
			return "an adjusted field is behind an opcode";
	}
	if (site->form_class)
		return form_site_objection(of, site, owner);
	if (site->flags == KERNINST_WINDOW ?
	    site->tail >= of->head->code_bytes : site->tail != KERNINST_NONE)
		return "a window has a bypass, and nothing else has";
	return NULL;
}

/* Site @before comes first in the table; may @after follow it? */
static bool may_follow(const struct kerninst_site *before,
		       const struct kerninst_site *after)
{
	if (after->rva <= before->rva)
		return false;
	if (after->rva >= before->rva + before->length)
		return true;
	return before->flags == KERNINST_WINDOW &&
		after->flags == KERNINST_SPRINGBOARD &&
		after->rva >= before->rva + 5 &&
		after->rva + after->length <= before->rva + before->length;
}

static const char *tables_objection(const struct parts *of, uint8_t *owner)
{
	const struct kerninst_payload *head = of->head;
	const char *objection = NULL;
	uint32_t i, j;

	for (i = 0; i < head->form_count && !objection; i++)
		objection = form_objection(of, &of->form[i]);
	for (i = 0; i < head->fixup_count && !objection; i++) {
		objection = fixup_objection(of, &of->fixup[i], owner);
		if (i && of->fixup[i].offset <= of->fixup[i - 1].offset)
			objection = "fixups are sorted";
	}
	for (i = 0; i < head->site_count && !objection; i++) {
		objection = site_objection(of, i, owner);
		for (j = 0; j < i && !objection; j++)
			if (!may_follow(&of->site[j], &of->site[i]))
				objection = "sites ascend and do not overlap";
	}
	return objection;
}

const char *payload_objection(const uint8_t *bytes, size_t size)
{
	struct parts of = { .head = (const void *)bytes };
	const char *objection;
	uint8_t *owner;

	if (size < sizeof(*of.head) || size > KERNINST_MAX_PAYLOAD)
		return "a payload has a header, and a limit";
	objection = head_objection(of.head, size);
	if (!objection)
		objection = layout_objection(of.head, bytes, size);
	if (objection)
		return objection;
	of.site = (const void *)(bytes + of.head->site_offset);
	of.form = (const void *)(bytes + of.head->form_offset);
	of.fixup = (const void *)(bytes + of.head->fixup_offset);
	owner = calloc(1, of.head->code_bytes);
	if (!owner)
		abort();
	objection = tables_objection(&of, owner);
	free(owner);
	return objection;
}
