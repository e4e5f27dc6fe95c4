// SPDX-License-Identifier: GPL-2.0-only
/*
 * splice-run: an accepted payload in; the module's own kmod/splice.c and
 * kmod/patch.c run on it, and what they make is held against the prose of
 * uapi/kerninst.h: where every splice leads, what every field of the code
 * holds, which pages are mapped, what lies in the patch area.
 *
 * The running kernel is a made one: for every site its bytes, right for a
 * slide that is drawn, or, in one run of four, not all of them right.
 * Allocations fail in turn, one run in eight.
 */
#include "kernel.h"
#include "fuzz.h"
#include "kerninst.h"
#include "splice-run.h"

#define MAX_RUN_SITES	256
#define MAX_MISFITS	4

#define KERNEL_FROM	0xffffffff80000000ul	/* __START_KERNEL_map */
#define KERNEL_BYTES	(1ul << 30)		/* KERNEL_IMAGE_SIZE */
#define SLIDE_STEP	(2ul << 20)
#define HEAP_AT		0x60000000000ul
#define FRAMES_AT	0x70000000000ul

/* Defined when this is linked: an address in the kernel's module space. */
extern u8 kerninst_area[];

static u8 area[KERNINST_AREA_BYTES];	/* what is at kerninst_area */

static struct {
	const struct kerninst_view *view;
	unsigned long base;
	u8 live[MAX_RUN_SITES][16];
	bool unreadable[MAX_RUN_SITES];
	bool same[MAX_RUN_SITES];	/* what the module should find */
	u32 fail_in;			/* allocations until one fails; 0: none */
	struct page **page;		/* of the last vmap of text */
	unsigned int pages;
} world;

/* ---- what the module calls ---- */

bool kerninst_fault(void)
{
	return world.fail_in && !--world.fail_in;
}

u64 kheap_slot(const struct kheap *heap, u32 slot)
{
	(void)heap;
	return HEAP_AT + 8ull * slot;
}

u64 kheap_frame(const struct kheap *heap, u32 word)
{
	(void)heap;
	return FRAMES_AT + 8ull * word;
}

long copy_from_kernel_nofault(void *to, const void *from, size_t size)
{
	u32 rva = (u32)((unsigned long)from - world.base), i;

	for (i = 0; i < world.view->head->site_count; i++) {
		if (world.view->sites[i].rva != rva)
			continue;
		PROMISE(size == world.view->sites[i].length);
		if (world.unreadable[i])
			return -EFAULT;
		memcpy(to, world.live[i], size);
		return 0;
	}
	PROMISE(!"only sites are read");
	return -EFAULT;
}

/* The patch area is memory; of text nothing is but which pages were asked for. */
void *vmap(struct page **page, unsigned int count, int flags, int protection)
{
	unsigned long offset = (unsigned long)page[0] -
		(unsigned long)kerninst_area;
	unsigned int i;

	(void)flags;
	(void)protection;
	if (offset < KERNINST_AREA_BYTES) {
		for (i = 0; i < count; i++)
			PROMISE((unsigned long)page[i] ==
				(unsigned long)page[0] + i * PAGE_SIZE);
		PROMISE(offset + count * PAGE_SIZE <= KERNINST_AREA_BYTES);
		return area + offset;
	}
	PROMISE(!world.page);
	world.page = reallocarray(NULL, count, sizeof(*page));
	PROMISE(world.page);
	memcpy(world.page, page, count * sizeof(*page));
	world.pages = count;
	return (void *)HEAP_AT;
}

void vunmap(const void *alias)
{
	if (alias == (void *)HEAP_AT) {
		free(world.page);
		world.page = NULL;
	}
}

/* ---- the running kernel ---- */

static void add32(u8 *field, u32 value)
{
	u32 had = field[0] | field[1] << 8 | field[2] << 16 |
		(u32)field[3] << 24;

	had += value;
	field[0] = (u8)had;
	field[1] = (u8)(had >> 8);
	field[2] = (u8)(had >> 16);
	field[3] = (u8)(had >> 24);
}

static void form_bytes(const struct kerninst_form *form, unsigned long addr,
		       u8 *ret)
{
	memcpy(ret, form->bytes, 5);
	if (form->kind == KERNINST_FORM_JMP) {
		ret[0] = 0xe9;
		add32(ret + 1, (u32)(world.base + form->target - addr - 5));
	}
}

/* How many forms of the site's class its live bytes are. */
static u32 forms_there(const struct kerninst_site *site, const u8 *live,
		       const struct kerninst_form **ret)
{
	const struct kerninst_form *form = world.view->forms;
	u32 i, count = 0;
	u8 bytes[5];

	for (i = 0; i < world.view->head->form_count; i++, form++) {
		if (form->form_class != site->form_class)
			continue;
		form_bytes(form, world.base + site->rva, bytes);
		if (memcmp(bytes, live, 5))
			continue;
		count++;
		*ret = form;
	}
	return count;
}

static void make_site(u32 index, u64 slide, bool wrongs)
{
	const struct kerninst_site *site = &world.view->sites[index];
	const struct kerninst_form *form = world.view->forms;
	u8 *live = world.live[index];
	u32 i, drawn = below(256);

	memset(live, 0xa5, 16);
	if (site->form_class) {
		/* One of its class, by chance. */
		for (i = 0; i < world.view->head->form_count; i++)
			if (form[(i + drawn) % world.view->head->form_count]
			    .form_class == site->form_class)
				break;
		form += (i + drawn) % world.view->head->form_count;
		form_bytes(form, world.base + site->rva, live);
	} else {
		memcpy(live, site->expected, site->length);
		if (site->reloc_kind == KERNINST_RELOC_ADD)
			add32(live + site->reloc_offset, (u32)slide);
		if (site->reloc_kind == KERNINST_RELOC_SUB)
			add32(live + site->reloc_offset, -(u32)slide);
	}
	world.same[index] = true;
	world.unreadable[index] = wrongs && one_in(16);
	if (world.unreadable[index]) {
		world.same[index] = false;
	} else if (wrongs && one_in(4)) {
		live[below(site->length)] ^= (u8)(1 + below(255));
		world.same[index] = false;
	}
	if (site->form_class && !world.unreadable[index])
		world.same[index] = forms_there(site, live, &form) == 1;
}

/* False: no slide puts this image where a kernel is. */
static bool make_world(const struct kerninst_view *view, u64 seed, u64 *slide)
{
	const struct kerninst_payload *head = view->head;
	unsigned long first, room;
	bool wrongs;
	u32 i;

	set_chance(seed);
	if (head->image_bytes > KERNEL_BYTES ||
	    head->site_count > MAX_RUN_SITES)
		return false;
	/* The places that a multiple of 2 MiB leads to. */
	first = KERNEL_FROM + head->link_base % SLIDE_STEP;
	if (first + head->image_bytes > KERNEL_FROM + KERNEL_BYTES)
		return false;
	room = (KERNEL_FROM + KERNEL_BYTES - first - head->image_bytes) /
		SLIDE_STEP;
	world.view = view;
	world.base = first + SLIDE_STEP *
		(one_in(4) ? 0 : one_in(3) ? room : below((u32)room + 1));
	world.fail_in = one_in(8) ? 1 + below(4) : 0;
	*slide = world.base - head->link_base;
	wrongs = one_in(4);
	for (i = 0; i < head->site_count; i++)
		make_site(i, *slide, wrongs);
	return true;
}

/* ---- what the module has made ---- */

/* Where e8, e9, 0f 8x or eb at @addr leads. */
static unsigned long leads_to(const u8 *bytes, unsigned long addr, u32 *length)
{
	u32 opcode = bytes[0] == 0x0f ? 2 : 1;
	s32 rel32;

	if (bytes[0] == 0xeb) {
		*length = 2;
		return addr + 2 + (unsigned long)(long)(int8_t)bytes[1];
	}
	PROMISE(bytes[0] == 0xe8 || bytes[0] == 0xe9 ||
		(bytes[0] == 0x0f && bytes[1] >> 4 == 8));
	memcpy(&rel32, bytes + opcode, sizeof(rel32));
	*length = opcode + 4;
	return addr + *length + (unsigned long)(long)rel32;
}

/* The stretch as the splice leaves it: an instruction of the kind, to the patch. */
static void check_spot(const struct kerninst_spot *spot, u32 index)
{
	static const u8 opcode[] = { 0xe9, 0xe8, 0x0f, 0xeb };
	const struct kerninst_site *site = &world.view->sites[index];
	unsigned long to;
	u8 after[16];
	u32 length, i;

	PROMISE(!memcmp(spot->old, world.live[index], site->length));
	memcpy(after, spot->old, 16);
	PROMISE(spot->from < site->length);
	memcpy(after + spot->from, spot->fresh + spot->from,
	       (size_t)(site->length - spot->from));
	/* fresh[] holds the whole splice: stop.c writes from its start, too. */
	PROMISE(!memcmp(after, spot->fresh, site->length));
	to = leads_to(after, world.base + site->rva, &length);
	for (i = length; i < site->length; i++)
		PROMISE(after[i] == 0xcc);
	PROMISE(after[0] == opcode[site->kind]);
	if (site->kind == KERNINST_JCC)
		PROMISE(after[1] == world.live[index][1]);
	if (site->kind == KERNINST_HOP)
		PROMISE(to == world.base + world.view->sites[site->patch].rva);
	else
		PROMISE(to == (unsigned long)kerninst_area + site->patch);
}

/* Places, flags, and which bytes of a window springboards have. */
static void check_places(const struct kerninst_spots *spots)
{
	const struct kerninst_site *site = world.view->sites;
	u32 i, j, windows = 0, boards = 0;

	PROMISE(spots->count == world.view->head->site_count);
	for (i = 0; i < spots->count; i++) {
		const struct kerninst_spot *spot = &spots->spot[i];
		bool inside = false;
		u32 hosted = 0, byte;

		for (j = 0; j < spots->count; j++) {
			if (site[j].flags == KERNINST_WINDOW &&
			    site[i].flags == KERNINST_SPRINGBOARD &&
			    site[i].rva > site[j].rva &&
			    site[i].rva < site[j].rva + site[j].length)
				inside = true;
			if (site[i].flags != KERNINST_WINDOW ||
			    site[j].flags != KERNINST_SPRINGBOARD)
				continue;
			for (byte = 0; byte < site[i].length; byte++)
				if (site[i].rva + byte >= site[j].rva &&
				    site[i].rva + byte <
				    site[j].rva + site[j].length)
					hosted |= 1u << byte;
		}
		windows += site[i].flags == KERNINST_WINDOW;
		boards += site[i].flags == KERNINST_SPRINGBOARD;
		PROMISE(spot->addr == world.base + site[i].rva);
		PROMISE(spot->inside == inside && spot->hosted == hosted);
		PROMISE(spot->state == SPOT_ORIGINAL && !spot->trap);
		if (site[i].flags == KERNINST_WINDOW)
			PROMISE(spot->bypass == (unsigned long)kerninst_area +
						site[i].tail);
	}
	PROMISE(spots->windows == windows && spots->boards == boards);
}

static void check_misfits(const struct kerninst_request *req,
			  const struct kerninst_misfits *misfits)
{
	u32 i, count = 0;

	for (i = 0; i < world.view->head->site_count; i++) {
		if (world.same[i])
			continue;
		if (!count)
			PROMISE(req->index == i);
		if (count < misfits->room)
			PROMISE(misfits->list[count].site == i &&
				misfits->list[count].reason ==
				KERNINST_E_SITE_BYTES);
		count++;
	}
	PROMISE(misfits->count == count);
}

/* One field of the code; false: its value does not fit, so there is none. */
static bool check_fixup(const struct kerninst_fixup *fixup, const u8 *before,
			u64 slide)
{
	const u8 *after = world.view->code;
	__int128 end = (__int128)(unsigned long)kerninst_area + fixup->offset +
		4 + fixup->trail, value;
	s32 field, had;
	u64 pointer;

	memcpy(&field, after + fixup->offset, sizeof(field));
	memcpy(&had, before + fixup->offset, sizeof(had));
	switch (fixup->kind) {
	case KERNINST_FIX_REL32:
		value = (__int128)world.base + fixup->value - end;
		break;
	case KERNINST_FIX_PCPU32:
		/* Sums of addresses wrap, as the processor's do. */
		value = (s64)(u64)((s32)fixup->value - end);
		break;
	case KERNINST_FIX_ABS32:
		value = (__int128)had + (s64)slide;
		break;
	default:
		memcpy(&pointer, after + fixup->offset, sizeof(pointer));
		PROMISE(pointer == 8ull * fixup->value +
			(fixup->kind == KERNINST_FIX_SLOT64 ? HEAP_AT : FRAMES_AT));
		return true;
	}
	if (value != (s32)value)
		return false;
	PROMISE(field == value);
	return true;
}

/* The tail of a site with forms does at its place what the form did at its. */
static void check_tail(const struct kerninst_site *site, u32 index)
{
	const u8 *tail = world.view->code + site->tail;
	unsigned long at = (unsigned long)kerninst_area + site->tail;
	const struct kerninst_form *form = NULL;
	u32 length;

	PROMISE(forms_there(site, world.live[index], &form) == 1);
	if (form->kind == KERNINST_FORM_LITERAL)
		PROMISE(!memcmp(tail, form->bytes, 5));
	else
		PROMISE(tail[0] == 0xe9 &&
			leads_to(tail, at, &length) ==
			world.base + form->target);
}

static void check_code(const u8 *before, u64 slide, int err, u32 failed)
{
	const struct kerninst_payload *head = world.view->head;
	u8 *touched = calloc(1, head->code_bytes);
	u32 i, end;

	PROMISE(touched);
	end = err ? failed : head->fixup_count;
	for (i = 0; i < end; i++) {
		const struct kerninst_fixup *fixup = &world.view->fixups[i];

		PROMISE(check_fixup(fixup, before, slide));
		memset(touched + fixup->offset, 1,
		       fixup->kind >= KERNINST_FIX_SLOT64 ? 8 : 4);
	}
	if (err)
		PROMISE(!check_fixup(&world.view->fixups[failed], before,
				     slide));
	for (i = 0; i < head->site_count; i++) {
		if (!world.view->sites[i].form_class)
			continue;
		check_tail(&world.view->sites[i], i);
		memset(touched + world.view->sites[i].tail, 1, 5);
	}
	for (i = 0; i < head->code_bytes; i++)
		PROMISE(touched[i] || before[i] == world.view->code[i]);
	free(touched);
}

/* Each site has its page in the mapping, and the next one behind it. */
static void check_map(const struct kerninst_spots *spots)
{
	unsigned long at, addr;
	u32 i, byte;

	PROMISE(world.page && spots->alias == (void *)HEAP_AT);
	for (i = 0; i < spots->count; i++) {
		for (byte = 0; byte < spots->spot[i].length; byte++) {
			at = (unsigned long)spots->spot[i].alias + byte -
				HEAP_AT;
			addr = spots->spot[i].addr + byte;
			PROMISE(at / PAGE_SIZE < world.pages);
			PROMISE((unsigned long)world.page[at / PAGE_SIZE] +
				at % PAGE_SIZE == addr);
		}
	}
	for (i = 1; i < world.pages; i++)
		PROMISE(world.page[i - 1] < world.page[i]);
}

static void check_area(const u8 *code, u32 bytes)
{
	static u32 most;
	u32 i;

	PROMISE(!memcmp(area, code, bytes));
	most = max(most, bytes);
	for (i = bytes; i < most; i++)
		PROMISE(area[i] == 0xcc);
}

/* ---- in the order of kmod/state.c ---- */

static int complete_and_write(struct kerninst_request *req,
			      const struct kerninst_view *view,
			      const struct kerninst_spots *spots,
			      const u8 *before)
{
	struct kheap heap = { 0 };
	u32 i;
	int err;

	for (i = 0; i < spots->count; i++)
		check_spot(&spots->spot[i], i);
	err = kerninst_patch_complete(req, view, &heap);
	PROMISE(!err || err == -ERANGE || err == -ENOSPC);
	if (err == -ENOSPC)
		return err;
	check_code(before, req->slide, err, req->index);
	if (err)
		return err;
	if (kerninst_patch_write(view->code, view->head->code_bytes))
		return -ENOMEM;
	check_area(view->code, view->head->code_bytes);
	return 0;
}

void splice_run(const struct kerninst_view *view, __u64 seed)
{
	struct kerninst_misfit list[MAX_MISFITS];
	struct kerninst_misfits misfits = { .list = list, .room = MAX_MISFITS };
	struct kerninst_request req = { 0 };
	struct kerninst_spots spots;
	u8 *before;

	if (!make_world(view, seed, (u64 *)&req.slide))
		return;
	before = malloc(view->head->code_bytes);
	PROMISE(before);
	memcpy(before, view->code, view->head->code_bytes);
	if (kerninst_spots_make(&req, view, &spots)) {
		PROMISE(req.reason == KERNINST_E_MEMORY);
		goto free_before;
	}
	check_places(&spots);
	kerninst_spots_compare(&req, view, &spots, &misfits);
	check_misfits(&req, &misfits);
	if (misfits.count)
		goto free_spots;
	if (complete_and_write(&req, view, &spots, before))
		goto free_spots;
	if (!kerninst_spots_map(&spots))
		check_map(&spots);
	kerninst_spots_unmap(&spots);
	PROMISE(!world.page);
free_spots:
	kerninst_spots_free(&spots);
free_before:
	free(before);
}
