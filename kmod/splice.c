// SPDX-License-Identifier: GPL-2.0-only
/*
 * splice: a payload's sites in, spots out: for each site what the running
 * kernel holds there, checked against what it should hold, and the bytes that
 * shall replace it. Also the writable mapping of the text around them.
 *
 * Changes nothing but the tails in the payload's own code. The bytes may
 * change again until the machine is stopped; stop.c compares once more.
 */
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <asm/text-patching.h>
#include "kerninst.h"

#define JMP_BYTES	JMP32_INSN_SIZE
#define HOP_BYTES	JMP8_INSN_SIZE

/* @field += or -= the slide, as the kernel's own relocation did. */
static void relocate(u8 *field, u8 kind, u64 slide)
{
	u32 value;

	memcpy(&value, field, sizeof(value));
	value += kind == KERNINST_RELOC_ADD ? (u32)slide : -(u32)slide;
	memcpy(field, &value, sizeof(value));
}

/* Do the live bytes equal expected[], moved by the slide? */
static bool match_literal(const struct kerninst_site *site, u64 slide,
			  const u8 *live)
{
	u8 expected[sizeof(site->expected)];

	memcpy(expected, site->expected, sizeof(expected));
	if (site->reloc_kind != KERNINST_RELOC_NONE)
		relocate(expected + site->reloc_offset, site->reloc_kind,
			 slide);
	return !memcmp(live, expected, site->length);
}

/* e9 rel32 at @addr to @to. Both lie in the top 2 GiB: it always reaches. */
static void put_jmp(u8 *bytes, unsigned long addr, unsigned long to)
{
	s32 rel = to - (addr + JMP_BYTES);

	bytes[0] = JMP32_INSN_OPCODE;
	memcpy(bytes + 1, &rel, sizeof(rel));
}

/* The five bytes of a form at @addr. */
static void put_form(u8 *bytes, const struct kerninst_form *form,
		     unsigned long base, unsigned long addr)
{
	if (form->kind == KERNINST_FORM_JMP)
		put_jmp(bytes, addr, base + form->target);
	else
		memcpy(bytes, form->bytes, JMP_BYTES);
}

/* Exactly one form of the site's class must be there; it makes the tail. */
static bool match_form(const struct kerninst_view *view,
		       const struct kerninst_site *site, unsigned long base,
		       const u8 *live)
{
	const struct kerninst_form *form, *found = NULL;
	u8 bytes[JMP_BYTES];
	u32 i;

	for (i = 0; i < view->head->form_count; i++) {
		form = &view->forms[i];
		if (form->form_class != site->form_class)
			continue;
		put_form(bytes, form, base, base + site->rva);
		if (memcmp(live, bytes, JMP_BYTES))
			continue;
		if (found)
			return false;
		found = form;
	}
	if (!found)
		return false;
	put_form(view->code + site->tail, found, base,
		 kerninst_patch_address(site->tail));
	return true;
}

/*
 * The splice: which bytes change, and to what. False: out of reach.
 *
 * Nobody runs what lies behind a jump that is shorter than its site. As int3s
 * it stays in step for whoever decodes the function, and takes no kprobe: on
 * one there nobody would ever run, or its jump would reach over where the
 * patch comes back to.
 */
static bool make_fresh(struct kerninst_spot *spot)
{
	u8 opcode = spot->kind == KERNINST_JCC ? 2 : 1;
	long rel;
	s32 value;

	memset(spot->fresh, INT3_INSN_OPCODE, sizeof(spot->fresh));
	if (spot->kind == KERNINST_HOP) {
		/* payload.c: it reaches. */
		spot->from = 0;
		spot->fresh[0] = JMP8_INSN_OPCODE;
		spot->fresh[1] = spot->patch - (spot->addr + HOP_BYTES);
		return true;
	}
	rel = spot->patch - (spot->addr + opcode + sizeof(s32));
	value = rel;
	if (value != rel)
		return false;
	spot->from = spot->kind == KERNINST_JMP ? 0 : opcode;
	memcpy(spot->fresh, spot->old, opcode);
	if (spot->kind == KERNINST_JMP)
		spot->fresh[0] = JMP32_INSN_OPCODE;
	memcpy(spot->fresh + opcode, &value, sizeof(value));
	return true;
}

/* A springboard: note it in @window, the last one, if it lies in there. */
static void note_hosted(struct kerninst_spot *board,
			struct kerninst_spot *window)
{
	unsigned long at;

	if (!window || board->addr >= window->addr + window->length)
		return;
	board->inside = true;
	at = board->addr - window->addr;
	window->hosted |= ((1u << board->length) - 1) << at;
}

/**
 * kerninst_misfit_note - a site does not suit
 * @req: the first one's index and bytes are shown in it
 * @misfits: all that there is room for are listed
 * @site: which
 * @reason: KERNINST_E_*
 * @other: address of what is in the way; 0: none
 * @live: 16 bytes
 */
void kerninst_misfit_note(struct kerninst_request *req,
			  struct kerninst_misfits *misfits, u32 site,
			  u32 reason, unsigned long other, const u8 *live)
{
	struct kerninst_misfit *misfit;

	if (!misfits->count) {
		misfits->reason = reason;
		req->index = site;
		memcpy(req->live, live, sizeof(misfit->live));
	}
	if (misfits->count < misfits->room) {
		misfit = &misfits->list[misfits->count];
		misfit->site = site;
		misfit->reason = reason;
		misfit->other = other;
		memcpy(misfit->live, live, sizeof(misfit->live));
	}
	misfits->count++;
}

/**
 * kerninst_spots_make - where every site is, and what kind
 * @req: gives the slide and max_stop_ns; takes the reason
 * @view: the payload
 * @ret: out: as many spots as sites, neither compared nor mapped
 *
 * Context: may sleep. Return: 0, or the errno of KERNINST_E_MEMORY.
 */
int kerninst_spots_make(struct kerninst_request *req,
			const struct kerninst_view *view,
			struct kerninst_spots *ret)
{
	unsigned long base = view->head->link_base + req->slide;
	struct kerninst_spot *spot, *window = NULL;
	const struct kerninst_site *site;
	u32 i;

	memset(ret, 0, sizeof(*ret));
	ret->spot = MAY_FAIL(kvcalloc(view->head->site_count,
				      sizeof(*ret->spot), GFP_KERNEL_ACCOUNT));
	if (!ret->spot)
		return kerninst_refuse(req, KERNINST_E_MEMORY);
	ret->count = view->head->site_count;
	ret->max_stop_ns = req->max_stop_ns;

	for (i = 0; i < ret->count; i++) {
		site = &view->sites[i];
		spot = &ret->spot[i];
		spot->addr = base + site->rva;
		spot->patch = site->kind == KERNINST_HOP ?
			base + view->sites[site->patch].rva :
			kerninst_patch_address(site->patch);
		spot->length = site->length;
		spot->kind = site->kind;
		spot->flags = site->flags;
		if (spot->flags == KERNINST_WINDOW) {
			spot->bypass = kerninst_patch_address(site->tail);
			window = spot;
			ret->windows++;
		} else if (spot->flags == KERNINST_SPRINGBOARD) {
			note_hosted(spot, window);
			ret->boards++;
		}
	}
	return 0;
}

/**
 * kerninst_spots_compare - look at every site
 * @req: takes the first misfit
 * @view: the payload; the tails in its code are written
 * @spots: take the live bytes and the splices; those with a kprobe are passed
 *         over
 * @misfits: takes all sites that do not suit
 *
 * Context: may sleep.
 */
void kerninst_spots_compare(struct kerninst_request *req,
			    const struct kerninst_view *view,
			    struct kerninst_spots *spots,
			    struct kerninst_misfits *misfits)
{
	unsigned long base = view->head->link_base + req->slide;
	const struct kerninst_site *site;
	struct kerninst_spot *spot;
	u32 i, reason;
	bool same;

	for (i = 0; i < spots->count; i++) {
		if (!(i % 4096))
			cond_resched();
		site = &view->sites[i];
		spot = &spots->spot[i];
		if (spot->probed)
			continue;
		if (copy_from_kernel_nofault(spot->old, (void *)spot->addr,
					     spot->length))
			same = false;
		else if (site->form_class)
			same = match_form(view, site, base, spot->old);
		else
			same = match_literal(site, req->slide, spot->old);
		reason = !same ? KERNINST_E_SITE_BYTES :
			 !make_fresh(spot) ? KERNINST_E_REACH : KERNINST_OK;
		if (reason)
			kerninst_misfit_note(req, misfits, i, reason, 0,
					     spot->old);
	}
}

/* How many spots are not as they were found? */
u32 kerninst_spots_standing(const struct kerninst_spots *spots)
{
	u32 i, count = 0;

	for (i = 0; i < spots->count; i++)
		count += spots->spot[i].state != SPOT_ORIGINAL;
	return count;
}

/* Context: may sleep; no CPU can look the spots up any more. */
void kerninst_spots_free(struct kerninst_spots *spots)
{
	kvfree(spots->spot);
	memset(spots, 0, sizeof(*spots));
}

/**
 * kerninst_spots_map - map the text of all spots writable
 * @spots: each gets its alias
 *
 * Sites ascend, so each page is new or one of the last two (a springboard may
 * lie before the end of its window), and the second page of a site that
 * crosses follows its first: one virtual range, with only the pages that are
 * written.
 *
 * Context: may sleep.
 * Return: 0 or -ENOMEM.
 */
int kerninst_spots_map(struct kerninst_spots *spots)
{
	unsigned long first, last, now, seen = 0;
	u32 i, pages = 0;

	spots->page = MAY_FAIL(kvmalloc_array(2 * (size_t)spots->count,
					      sizeof(*spots->page),
					      GFP_KERNEL));
	if (!spots->page)
		return -ENOMEM;
	for (i = 0; i < spots->count; i++) {
		first = spots->spot[i].addr & PAGE_MASK;
		last = (spots->spot[i].addr + spots->spot[i].length - 1) &
			PAGE_MASK;
		for (now = first; now <= last; now += PAGE_SIZE) {
			if (now <= seen)
				continue;
			seen = now;
			spots->page[pages++] =
				pfn_to_page(__pa_symbol(now) >> PAGE_SHIFT);
		}
		/*
		 * For now the place of the first page, which is the last one
		 * seen or the one before; the address follows below.
		 */
		spots->spot[i].alias = (u8 *)(unsigned long)
			(pages - 1 - (seen - first) / PAGE_SIZE);
	}
	spots->alias = MAY_FAIL(vmap(spots->page, pages, VM_MAP, PAGE_KERNEL));
	for (i = 0; i < spots->count; i++) {
		now = (unsigned long)spots->spot[i].alias;
		spots->spot[i].alias = !spots->alias ? NULL :
			(u8 *)spots->alias + now * PAGE_SIZE +
			offset_in_page(spots->spot[i].addr);
	}
	if (!spots->alias) {
		kerninst_spots_unmap(spots);
		return -ENOMEM;
	}
	return 0;
}

/* Context: may sleep; the machine runs. Nothing to do if not mapped. */
void kerninst_spots_unmap(struct kerninst_spots *spots)
{
	vunmap(spots->alias);
	kvfree(spots->page);
	spots->alias = NULL;
	spots->page = NULL;
}
