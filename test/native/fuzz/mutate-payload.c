// SPDX-License-Identifier: GPL-2.0-only
/*
 * mutate-payload: a payload in, one that differs out: libFuzzer's mutations
 * for what is behind the header's checks. The bytes are taken apart into
 * tables (whatever they are: what is missing is zero, what is too much is
 * left out), tables are changed entry by entry, and put together again with
 * the sizes, offsets and orders that belong to them. So a change is judged by
 * the field that it is in. Now and then something is left wrong at the end,
 * and now and then the bytes are changed as any bytes are.
 */
#include <stdbool.h>
#include <string.h>
#include "fuzz.h"
#include "uapi/kerninst.h"

#define MAX_SITES	96
#define MAX_FORMS	24
#define MAX_FIXUPS	128
#define MAX_CODE	4096

#define LENGTH(array)	(sizeof(array) / sizeof(*(array)))

struct tables {
	struct kerninst_payload head;
	struct kerninst_site site[MAX_SITES];
	struct kerninst_form form[MAX_FORMS];
	struct kerninst_fixup fixup[MAX_FIXUPS];
	uint8_t code[MAX_CODE];
};

static struct tables tables, second;

static size_t align(size_t at, size_t to)
{
	return (at + to - 1) / to * to;
}

/* At most @most entries from @at; returns how many there were. */
static uint32_t read_table(const uint8_t *data, size_t size, uint32_t at,
			   uint32_t count, uint32_t most, size_t each, void *to)
{
	if (at > size)
		return 0;
	if (count > most)
		count = most;
	if (count > (size - at) / each)
		count = (uint32_t)((size - at) / each);
	memcpy(to, data + at, count * each);
	return count;
}

static void take_apart(const uint8_t *data, size_t size, struct tables *of)
{
	struct kerninst_payload *head = &of->head;

	memset(of, 0, sizeof(*of));
	memcpy(head, data, size < sizeof(*head) ? size : sizeof(*head));
	head->site_count = read_table(data, size, head->site_offset,
				      head->site_count, MAX_SITES,
				      sizeof(*of->site), of->site);
	head->form_count = read_table(data, size, head->form_offset,
				      head->form_count, MAX_FORMS,
				      sizeof(*of->form), of->form);
	head->fixup_count = read_table(data, size, head->fixup_offset,
				       head->fixup_count, MAX_FIXUPS,
				       sizeof(*of->fixup), of->fixup);
	head->code_bytes = read_table(data, size, head->code_offset,
				      head->code_bytes, MAX_CODE, 1, of->code);
}

/* Returns the size, or 0 where @room does not suffice. */
static size_t put_together(struct tables *of, uint8_t *out, size_t room)
{
	struct kerninst_payload *head = &of->head;
	size_t site = sizeof(*head);
	size_t form = site + head->site_count * sizeof(*of->site);
	size_t fixup = form + head->form_count * sizeof(*of->form);
	size_t end = fixup + head->fixup_count * sizeof(*of->fixup);
	size_t code = align(end, 16), size = code + head->code_bytes;

	if (size > room)
		return 0;
	memcpy(head->magic, KERNINST_PAYLOAD_MAGIC, sizeof(head->magic));
	head->version = KERNINST_VERSION;
	head->header_bytes = sizeof(*head);
	head->payload_bytes = size;
	head->site_offset = (uint32_t)site;
	head->form_offset = (uint32_t)form;
	head->fixup_offset = (uint32_t)fixup;
	head->code_offset = (uint32_t)code;
	memcpy(out, head, sizeof(*head));
	memcpy(out + site, of->site, form - site);
	memcpy(out + form, of->form, fixup - form);
	memcpy(out + fixup, of->fixup, end - fixup);
	memset(out + end, 0, code - end);
	memcpy(out + code, of->code, head->code_bytes);
	return size;
}

/* ---- values ---- */

/* A number that something may be compared with, or near one. */
static uint32_t edge(const struct tables *of, uint32_t old)
{
	const struct kerninst_payload *head = &of->head;
	const struct kerninst_site *site =
		&of->site[below(head->site_count + 1) % MAX_SITES];
	const uint32_t values[] = {
		old, old, 0, KERNINST_NONE, 0x7fffffff, 0x80000000,
		head->image_bytes, head->text_start, head->text_end,
		head->code_bytes, head->code_bytes - 5, head->slot_count,
		head->frame_words,
		head->site_count, below(head->site_count + 1),
		below(head->code_bytes + 1), 1u << below(32),
		site->rva, site->rva + 2, site->rva + 5,
		site->rva + site->length,
		/* As far as a hop reaches, to either side. */
		site->rva - 129, site->rva - 126, site->rva + 126,
		site->rva + 129,
		(uint32_t)chance,
	};

	return values[below(LENGTH(values))] + below(5) - 2;
}

static void change_head(struct tables *of)
{
	struct kerninst_payload *head = &of->head;
	uint32_t *const field[] = {
		&head->image_bytes, &head->text_start, &head->text_end,
		&head->build_id_rva, &head->anchor_rva[below(3)],
		&head->kprobe_rva[below(2)], &head->slot_count,
		&head->frame_words, &head->code_bytes,
	};
	uint32_t *chosen = field[below(LENGTH(field))];

	if (one_in(8)) {
		head->link_base = one_in(2) ? head->link_base + edge(of, 0) :
			0xffffffff00000000ull | edge(of, 0x81000000);
		return;
	}
	*chosen = edge(of, *chosen);
	if (head->code_bytes > MAX_CODE)
		head->code_bytes = below(MAX_CODE);
}

static void change_site(struct tables *of, struct kerninst_site *site)
{
	uint32_t step = one_in(2) ? 1 : UINT32_MAX;

	switch (below(16)) {
	case 0:
		site->rva = edge(of, site->rva);
		break;
	case 1:
		site->patch = edge(of, site->patch);
		break;
	case 2:
		site->tail = edge(of, site->tail);
		break;
	case 3:
		site->length = (uint8_t)below(19);
		break;
	case 4:
		site->kind = (uint8_t)below(5);
		break;
	case 5:
		site->flags = (uint8_t)below(4);
		break;
	case 6:
		site->form_class = !of->head.form_count || one_in(3) ?
			(uint8_t)below(256) :
			of->form[below(of->head.form_count)].form_class;
		break;
	case 7:
		site->reloc_kind = (uint8_t)below(4);
		break;
	case 8:
		site->reloc_offset = (uint8_t)below(16);
		break;
	case 9:
		site->expected[below(16)] = (uint8_t)below(256);
		break;
	case 10:
		site->reserved[below(6)] = (uint8_t)below(2);
		break;
	case 11:
	case 12:
		site->rva += step;
		break;
	case 13:
		site->patch += step;
		break;
	case 14:
		site->tail += step;
		break;
	default:
		((uint8_t *)site)[below(sizeof(*site))] ^=
			(uint8_t)(1u << below(8));
	}
}

static void change_form(struct tables *of, struct kerninst_form *form)
{
	switch (below(5)) {
	case 0:
		form->form_class = (uint8_t)below(one_in(2) ? 4 : 256);
		break;
	case 1:
		form->kind = (uint8_t)below(3);
		break;
	case 2:
		form->target = edge(of, form->target);
		break;
	case 3:
		form->bytes[below(6)] = (uint8_t)below(256);
		break;
	default:
		form->reserved = one_in(2);
	}
}

static void change_fixup(struct tables *of, struct kerninst_fixup *fixup)
{
	switch (below(5)) {
	case 0:
		fixup->offset = edge(of, fixup->offset);
		break;
	case 1:
		fixup->value = edge(of, fixup->value);
		break;
	case 2:
		fixup->kind = (uint8_t)below(5);
		break;
	case 3:
		fixup->trail = (uint8_t)below(13);
		break;
	default:
		fixup->reserved = (uint16_t)below(2);
	}
}

/* ---- entries as they should be, so that what follows them is seen too ---- */

/* A fresh stretch of code, or one that may be taken. */
static uint32_t some_code(struct tables *of, uint32_t bytes)
{
	uint32_t at = of->head.code_bytes, i;

	if (at + bytes > MAX_CODE || one_in(3))
		return below(at + 1);
	for (i = 0; i < bytes; i++)
		of->code[at + i] = (uint8_t)below(256);
	of->head.code_bytes += bytes;
	return at;
}

static void good_site(struct tables *of, struct kerninst_site *site,
		      uint32_t rva)
{
	uint32_t i, way;

	memset(site, 0, sizeof(*site));
	site->rva = rva;
	site->tail = KERNINST_NONE;
	site->length = 5;
	for (i = 0; i < 16; i++)
		site->expected[i] = (uint8_t)below(256);
	switch (below(7)) {
	case 0:
		site->length = (uint8_t)(5 + below(11));
		break;
	case 1:
		site->kind = KERNINST_CALL;
		site->expected[0] = 0xe8;
		break;
	case 2:
		site->kind = KERNINST_JCC;
		site->length = 6;
		site->expected[0] = 0x0f;
		site->expected[1] = (uint8_t)(0x80 | below(16));
		break;
	case 3:
		site->flags = KERNINST_WINDOW;
		site->length = (uint8_t)(5 + below(12));
		site->tail = some_code(of, 8);
		break;
	case 4:
		site->flags = KERNINST_SPRINGBOARD;
		break;
	case 5:
		if (!of->head.form_count)
			break;
		site->form_class =
			of->form[below(of->head.form_count)].form_class;
		site->tail = some_code(of, 5);
		break;
	default:
		/* A hop to a springboard that is near, if there is one. */
		for (i = 0; i < of->head.site_count; i++) {
			way = of->site[i].rva - rva - 2 + 128;
			if (of->site[i].flags == KERNINST_SPRINGBOARD &&
			    way < 258)
				break;
		}
		if (i == of->head.site_count)
			break;
		site->kind = KERNINST_HOP;
		site->patch = i;
		site->length = (uint8_t)(2 + below(14));
		if (one_in(3)) {
			site->flags = KERNINST_SPRINGBOARD;
			site->length = 2;
		}
	}
	if (site->kind != KERNINST_HOP)
		site->patch = some_code(of, 8 + below(16));
	if (!site->form_class && site->length > 4 && one_in(4)) {
		site->reloc_kind = (uint8_t)(1 + below(2));
		site->reloc_offset = (uint8_t)below(site->length - 3u);
	}
	memset(site->expected + site->length, 0, 16u - site->length);
}

static void add_site(struct tables *of)
{
	struct kerninst_payload *head = &of->head;
	struct kerninst_site *near;
	uint32_t rva = head->text_start;

	if (head->site_count == MAX_SITES)
		return;
	if (head->site_count) {
		near = &of->site[below(head->site_count)];
		/* Beside it, in it, or where a hop reaches it. */
		rva = near->rva + (one_in(2) ? near->length :
				   one_in(2) ? below(16) : below(264) - 132);
	}
	good_site(of, &of->site[head->site_count], rva);
	head->site_count++;
}

static void add_form(struct tables *of)
{
	struct kerninst_form *form = &of->form[of->head.form_count];
	uint32_t i;

	if (of->head.form_count == MAX_FORMS)
		return;
	memset(form, 0, sizeof(*form));
	form->form_class = (uint8_t)(1 + below(3));
	form->target = KERNINST_NONE;
	if (one_in(2)) {
		form->kind = KERNINST_FORM_JMP;
		form->target = below(of->head.image_bytes + !of->head.image_bytes);
	} else {
		for (i = 0; i < 5; i++)
			form->bytes[i] = (uint8_t)below(256);
	}
	of->head.form_count++;
}

static void add_fixup(struct tables *of)
{
	struct kerninst_fixup *fixup = &of->fixup[of->head.fixup_count];

	if (of->head.fixup_count == MAX_FIXUPS)
		return;
	memset(fixup, 0, sizeof(*fixup));
	fixup->kind = (uint8_t)below(5);
	fixup->offset = some_code(of, 8);
	if (fixup->kind == KERNINST_FIX_SLOT64)
		fixup->value = below(of->head.slot_count + !of->head.slot_count);
	else if (fixup->kind == KERNINST_FIX_FRAME64)
		fixup->value = below(of->head.frame_words + !of->head.frame_words);
	else if (fixup->kind != KERNINST_FIX_ABS32)
		fixup->value = edge(of, of->head.image_bytes / 2);
	of->head.fixup_count++;
}

/* The same again: a form for good, a site behind its first. */
static void add_again(struct tables *of)
{
	struct kerninst_payload *head = &of->head;
	struct kerninst_site *site;

	if (one_in(2) && head->form_count && head->form_count < MAX_FORMS) {
		of->form[head->form_count] = of->form[below(head->form_count)];
		head->form_count++;
	} else if (head->site_count && head->site_count < MAX_SITES) {
		site = &of->site[head->site_count];
		*site = of->site[below(head->site_count)];
		site->rva += site->length;
		head->site_count++;
	}
}

/* Take entry @index out of a table of @count. */
#define TAKE_OUT(entry, index, count) \
	memmove(&(entry)[index], &(entry)[(index) + 1], \
		(--(count) - (index)) * sizeof(*(entry)))

static void take_out(struct tables *of)
{
	struct kerninst_payload *head = &of->head;
	uint32_t index;

	switch (below(3)) {
	case 0:
		if (!head->site_count)
			return;
		index = below(head->site_count);
		TAKE_OUT(of->site, index, head->site_count);
		break;
	case 1:
		if (!head->form_count)
			return;
		index = below(head->form_count);
		TAKE_OUT(of->form, index, head->form_count);
		break;
	default:
		if (!head->fixup_count)
			return;
		index = below(head->fixup_count);
		TAKE_OUT(of->fixup, index, head->fixup_count);
	}
}

static void change(struct tables *of)
{
	const struct kerninst_payload *head = &of->head;

	switch (below(13)) {
	case 0:
		change_head(of);
		break;
	case 1:
	case 2:
	case 3:
		if (head->site_count)
			change_site(of, &of->site[below(head->site_count)]);
		break;
	case 4:
		if (head->form_count)
			change_form(of, &of->form[below(head->form_count)]);
		break;
	case 5:
	case 6:
		if (head->fixup_count)
			change_fixup(of, &of->fixup[below(head->fixup_count)]);
		break;
	case 7:
	case 8:
		add_site(of);
		break;
	case 9:
		add_form(of);
		break;
	case 10:
		add_fixup(of);
		break;
	case 11:
		add_again(of);
		break;
	default:
		take_out(of);
	}
}

/* ---- orders ---- */

/* By insertion, since hops name sites by their place. */
static void sort_sites(struct tables *of)
{
	uint32_t count = of->head.site_count, place[MAX_SITES], i, j;
	struct kerninst_site sorted[MAX_SITES];
	uint32_t order[MAX_SITES];

	for (i = 0; i < count; i++) {
		for (j = i; j && of->site[order[j - 1]].rva > of->site[i].rva;
		     j--)
			order[j] = order[j - 1];
		order[j] = i;
	}
	for (i = 0; i < count; i++) {
		sorted[i] = of->site[order[i]];
		place[order[i]] = i;
	}
	for (i = 0; i < count; i++)
		if (sorted[i].kind == KERNINST_HOP && sorted[i].patch < count)
			sorted[i].patch = place[sorted[i].patch];
	memcpy(of->site, sorted, count * sizeof(*sorted));
}

/* Leaves out what lies on the one before. */
static void part_sites(struct tables *of)
{
	struct kerninst_site *site = of->site;
	uint32_t i, from = 0, to = 0, end = 0;

	for (i = 0; i < of->head.site_count;) {
		if (site[i].rva >= end) {
			end = site[i].rva + site[i].length;
			from = to = end;
			if (site[i].flags == KERNINST_WINDOW)
				from = site[i].rva + 5;
		} else if (site[i].flags == KERNINST_SPRINGBOARD &&
			   site[i].rva >= from &&
			   site[i].rva + site[i].length <= to) {
			from = site[i].rva + site[i].length;
		} else {
			TAKE_OUT(site, i, of->head.site_count);
			/* Hops past it now name the next; so be it. */
			continue;
		}
		i++;
	}
}

static int by_offset(const void *one, const void *other)
{
	uint32_t left = ((const struct kerninst_fixup *)one)->offset;
	uint32_t right = ((const struct kerninst_fixup *)other)->offset;

	return left < right ? -1 : left > right;
}

static void part_fixups(struct tables *of)
{
	uint32_t i, end = 0;

	for (i = 0; i < of->head.fixup_count;) {
		if (of->fixup[i].offset < end) {
			TAKE_OUT(of->fixup, i, of->head.fixup_count);
			continue;
		}
		end = of->fixup[i].offset +
			(of->fixup[i].kind >= KERNINST_FIX_SLOT64 ? 8 : 4);
		i++;
	}
}

/* ---- libFuzzer's ---- */

static size_t finish(struct tables *of, uint8_t *data, size_t size, size_t room)
{
	static const uint8_t offsets[] = {
		offsetof(struct kerninst_payload, version),
		offsetof(struct kerninst_payload, header_bytes),
		offsetof(struct kerninst_payload, payload_bytes),
		offsetof(struct kerninst_payload, site_offset),
		offsetof(struct kerninst_payload, site_count),
		offsetof(struct kerninst_payload, form_offset),
		offsetof(struct kerninst_payload, form_count),
		offsetof(struct kerninst_payload, fixup_offset),
		offsetof(struct kerninst_payload, fixup_count),
		offsetof(struct kerninst_payload, code_offset),
		offsetof(struct kerninst_payload, code_bytes),
	};
	struct kerninst_site site;
	uint32_t value, one, other;
	size_t done, at;

	if (!one_in(8)) {
		sort_sites(of);
		qsort(of->fixup, of->head.fixup_count, sizeof(*of->fixup),
		      by_offset);
		if (!one_in(4)) {
			part_sites(of);
			part_fixups(of);
		}
	}
	if (of->head.site_count && one_in(12)) {
		one = below(of->head.site_count);
		other = below(of->head.site_count);
		site = of->site[one];
		of->site[one] = of->site[other];
		of->site[other] = site;
	}
	done = put_together(of, data, room);
	if (!done)
		return size;
	if (one_in(24)) {
		at = offsets[below(sizeof(offsets))];
		memcpy(&value, data + at, sizeof(value));
		value = one_in(2) ? edge(of, value) :
			value + (below(9) - 4) * (one_in(2) ? 1 : 4);
		memcpy(data + at, &value, sizeof(value));
	}
	if (one_in(24))
		done = one_in(2) ? below((uint32_t)done + 1) :
			done + (done < room);
	return done;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t room,
			       unsigned int seed)
{
	uint32_t changes;

	set_chance(seed);
	if (one_in(16))
		return LLVMFuzzerMutate(data, size, room);
	take_apart(data, size, &tables);
	for (changes = 1 + below(4); changes; changes--)
		change(&tables);
	return finish(&tables, data, size, room);
}

/* Some tables of one, the others of the other. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *one, size_t one_size,
				 const uint8_t *other, size_t other_size,
				 uint8_t *out, size_t room, unsigned int seed)
{
	set_chance(seed);
	take_apart(one, one_size, &tables);
	take_apart(other, other_size, &second);
	if (one_in(2)) {
		memcpy(tables.site, second.site, sizeof(tables.site));
		tables.head.site_count = second.head.site_count;
	}
	if (one_in(2)) {
		memcpy(tables.form, second.form, sizeof(tables.form));
		tables.head.form_count = second.head.form_count;
	}
	if (one_in(2)) {
		memcpy(tables.fixup, second.fixup, sizeof(tables.fixup));
		tables.head.fixup_count = second.head.fixup_count;
	}
	if (tables.head.code_bytes < second.head.code_bytes) {
		memcpy(tables.code, second.code, sizeof(tables.code));
		tables.head.code_bytes = second.head.code_bytes;
	}
	return finish(&tables, out, 0, room);
}
