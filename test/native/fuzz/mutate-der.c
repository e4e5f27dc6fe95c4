// SPDX-License-Identifier: GPL-2.0-only
/*
 * mutate-der: DER in, DER that differs in its elements out: one is changed,
 * doubled, moved, left out or put in, and all lengths around it follow; now
 * and then a length is written in another form, or wrong. What is no DER is
 * changed as any bytes are.
 */
#include <stdbool.h>
#include <string.h>
#include "der.h"
#include "fuzz.h"

#define MAX_NODES	256
#define MAX_DEPTH	16
#define NONE		(-1)

struct node {
	int child, next;	/* of the first child; of who has the same parent */
	uint8_t tag;
	uint8_t form;		/* 0: the shortest length; else of so many bytes */
	uint8_t wrong;		/* added to the length that is written */
	const uint8_t *at;	/* contents, where there is no child */
	size_t size;
};

static struct node node[MAX_NODES];
static int nodes;
static uint8_t scratch[1 << 16];	/* contents that were changed */
static size_t scratched;

static int new_node(uint8_t tag, const uint8_t *at, size_t size)
{
	if (nodes == MAX_NODES)
		return NONE;
	node[nodes] = (struct node) {
		.child = NONE, .next = NONE, .tag = tag, .at = at, .size = size,
	};
	return nodes++;
}

/* The first of the elements in these bytes; NONE: none, or no DER. */
static int parse(const uint8_t *at, const uint8_t *end, int depth, bool *bad)
{
	int first = NONE, last = NONE, now;
	size_t length, width;
	uint8_t tag;

	while (at != end && !*bad) {
		if (depth == MAX_DEPTH || end - at < 2)
			goto bad;
		tag = *at++;
		length = *at++;
		if (length & 0x80) {
			width = length & 0x7f;
			if (width > 4 || width > (size_t)(end - at))
				goto bad;
			for (length = 0; width; width--)
				length = length << 8 | *at++;
		}
		if (length > (size_t)(end - at))
			goto bad;
		now = new_node(tag, at, length);
		if (now == NONE)
			goto bad;
		if (tag & 0x20)
			node[now].child = parse(at, at + length, depth + 1, bad);
		if (first == NONE)
			first = now;
		else
			node[last].next = now;
		last = now;
		at += length;
	}
	return first;
bad:
	*bad = true;
	return NONE;
}

/* Where the tree is written: from the end to the start. */
struct out {
	uint8_t *start, *at;
	bool full;
};

static void put(struct out *out, const uint8_t *bytes, size_t size)
{
	if (size > (size_t)(out->at - out->start)) {
		out->full = true;
		return;
	}
	out->at -= size;
	memcpy(out->at, bytes, size);
}

static void put_length(struct out *out, size_t length, unsigned int form)
{
	uint8_t bytes[5];
	unsigned int i;

	if (!form && length >= 0x80)
		form = length < 0x100 ? 1 : length < 0x10000 ? 2 : 3;
	bytes[0] = form ? (uint8_t)(0x80 | form) : (uint8_t)length;
	for (i = 0; i < form; i++)
		bytes[1 + i] = (uint8_t)(length >> 8 * (form - 1 - i));
	put(out, bytes, 1 + form);
}

static void write(struct out *out, int index)
{
	const uint8_t *end = out->at;

	if (index == NONE || out->full)
		return;
	write(out, node[index].next);
	end = out->at;
	if (node[index].child != NONE)
		write(out, node[index].child);
	else if (!(node[index].tag & 0x20))
		put(out, node[index].at, node[index].size);
	put_length(out, (size_t)(end - out->at) + node[index].wrong,
		   node[index].form);
	put(out, &node[index].tag, 1);
}

/* The link to some element but the first; NULL: there is no other. */
static int *some_link(void)
{
	int *links[2 * MAX_NODES], count = 0, i;

	for (i = 0; i < nodes; i++) {
		if (node[i].child != NONE)
			links[count++] = &node[i].child;
		if (node[i].next != NONE)
			links[count++] = &node[i].next;
	}
	return count ? links[below((uint32_t)count)] : NULL;
}

/* A copy, without what follows it. */
static int copy(int of, int depth)
{
	int new = new_node(node[of].tag, node[of].at, node[of].size), *link, i;

	if (new == NONE || depth == MAX_DEPTH)
		return new;
	node[new].form = node[of].form;
	link = &node[new].child;
	for (i = node[of].child; i != NONE; i = node[i].next) {
		*link = copy(i, depth + 1);
		if (*link == NONE)
			break;
		link = &node[*link].next;
	}
	return new;
}

static void change_contents(struct node *of)
{
	static const uint16_t sizes[] = {
		0, 1, 2, 20, 21, 22, 127, 128, 255, 256, 257, 383, 384, 512, 513,
	};
	static const uint8_t firsts[] = { 0x00, 0x01, 0x7f, 0x80, 0xff };
	size_t room = sizeof(scratch) - scratched, size = of->size;

	if (of->child != NONE || size + 600 > room)
		return;
	memcpy(scratch + scratched, of->at, size);
	if (size && one_in(4)) {
		/* What an integer may not begin with, or must. */
		scratch[scratched + below(size > 1 ? 2 : 1)] =
			firsts[below(sizeof(firsts))];
	} else if (one_in(3)) {
		of->size = sizes[below(sizeof(sizes) / sizeof(*sizes))];
		if (of->size > size)
			memset(scratch + scratched + size, (int)below(256),
			       of->size - size);
	} else {
		of->size = LLVMFuzzerMutate(scratch + scratched, size,
					    size + 8);
	}
	of->at = scratch + scratched;
	scratched += of->size;
}

static void change(void)
{
	static const uint8_t tags[] = {
		0x02, 0x04, 0x05, 0x06, 0x0c, 0x13, 0x14, 0x16, 0x1e, 0x30,
		0x31, 0xa0, 0xa1, 0x80, 0x10, 0x03, 0x17,
	};
	struct node *of = &node[below((uint32_t)nodes)];
	int *link = some_link(), *other = some_link(), taken;

	switch (below(9)) {
	case 0:
		of->tag = one_in(4) ? (uint8_t)below(256) :
			tags[below(sizeof(tags))];
		break;
	case 1:
	case 2:
		change_contents(of);
		break;
	case 3:
		of->form = (uint8_t)below(5);
		break;
	case 4:
		of->wrong = (uint8_t)(1 + below(255));
		break;
	case 5:	/* left out */
		if (link)
			*link = node[*link].next;
		break;
	case 6:	/* doubled */
		if (!link)
			break;
		taken = copy(*link, 0);
		if (taken == NONE)
			break;
		node[taken].next = *link;
		*link = taken;
		break;
	case 7:	/* put in somewhere else */
		if (!link)
			break;
		taken = copy(*other, 0);
		if (taken == NONE)
			break;
		node[taken].next = *link;
		*link = taken;
		break;
	default: /* a new one */
		if (!link)
			break;
		taken = new_node(tags[below(sizeof(tags))], scratch, 0);
		if (taken == NONE)
			break;
		node[taken].next = *link;
		*link = taken;
	}
}

size_t der_mutate(uint8_t *data, size_t size, size_t room, unsigned int seed)
{
	static uint8_t written[1 << 16];
	struct out out = { written, written + sizeof(written), false };
	uint8_t *had = NULL;
	size_t changed;
	uint32_t changes;
	bool bad = false;
	int first;

	set_chance(seed);
	nodes = 0;
	scratched = 0;
	if (size) {
		had = malloc(size);
		if (!had)
			abort();
		memcpy(had, data, size);
	}
	first = size ? parse(had, had + size, 0, &bad) : NONE;
	if (first == NONE || bad || one_in(16)) {
		free(had);
		return LLVMFuzzerMutate(data, size, room);
	}
	for (changes = 1 + below(2); changes; changes--)
		change();
	write(&out, first);
	free(had);
	changed = (size_t)(written + sizeof(written) - out.at);
	if (out.full || changed > room)
		return LLVMFuzzerMutate(data, size, room);
	memcpy(data, out.at, changed);
	return one_in(32) ? below((uint32_t)changed + 1) : changed;
}
