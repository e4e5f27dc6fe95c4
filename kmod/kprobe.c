// SPDX-License-Identifier: GPL-2.0-only
/*
 * kprobe: who else has an eye on our sites: the kernel's table of kprobes in,
 * the sites that must be left alone out.
 *
 * A kprobe that is registered keeps a copy of the instruction under it, also
 * while it is disabled and the text shows nothing. When it is armed, it runs
 * that copy in place of what is there; when it is disarmed, it writes the
 * copy's first byte back (arch/x86/kernel/kprobes/core.c, arch_arm_kprobe()
 * and arch_disarm_kprobe(); 6.1 and 6.12). If it was registered before us,
 * that byte would go over our splice, with the rest of the splice behind it.
 * If it was registered while we were applied, its copy is our jump, and leads
 * to a patch that is gone. So neither may be: a site with a kprobe is refused,
 * and one that has got a kprobe stays as it is until that is gone.
 *
 * An optimized kprobe overwrites five bytes, and its detour has copies of all
 * instructions that these touch: up to MAX_OPTIMIZED_LENGTH bytes. Whether it
 * is one is not to be seen while it waits to be optimized, so each is taken
 * for one, but those on ftrace sites. After us none can reach into a site: it
 * copies no jump and no call (can_boost(), same file).
 *
 * The table and its mutex are not exported; the bundle knows where they are.
 * The mutex is what registering, arming, disarming and optimizing hold. We do
 * from before we look until the last byte is written, as the kernel's own
 * optimizer does over synchronize_rcu_tasks() and text_mutex (kernel/kprobes.c,
 * kprobe_optimizer()). Within it: cpus_read_lock(), in stop_machine().
 */
#include <linux/kprobes.h>
#include <linux/mutex.h>
#include <linux/uaccess.h>
#include "kerninst.h"

#ifdef CONFIG_KPROBES

/* KPROBE_HASH_BITS of kernel/kprobes.c, 5.10 to 6.12: a static table. */
#define TABLE_SIZE	(1u << 6)

/* Bytes from a kprobe on that its detour may hold copies of. */
#ifdef CONFIG_OPTPROBES
#define REACH		MAX_OPTIMIZED_LENGTH
#else
#define REACH		1
#endif

/**
 * kerninst_kprobe_find - where are the kernel's table and its lock?
 * @req: gives the slide; takes the reason
 * @view: the payload
 * @spots: takes both
 *
 * Context: any. Return: 0, or the errno of KERNINST_E_MALFORMED: this kernel
 * has kprobes, and the payload does not say where.
 */
int kerninst_kprobe_find(struct kerninst_request *req,
			 const struct kerninst_view *view,
			 struct kerninst_spots *spots)
{
	const struct kerninst_payload *head = view->head;
	unsigned long base = head->link_base + req->slide;

	if (head->kprobe_rva[0] == KERNINST_NONE) {
		req->index = offsetof(struct kerninst_payload, kprobe_rva);
		return kerninst_refuse(req, KERNINST_E_MALFORMED);
	}
	spots->kprobe_mutex = (void *)(base + head->kprobe_rva[0]);
	spots->kprobe_table = (void *)(base + head->kprobe_rva[1]);
	return 0;
}

/* Nobody registers, arms or removes a kprobe from here on. May sleep. */
void kerninst_kprobe_lock(const struct kerninst_spots *spots)
{
	mutex_lock(spots->kprobe_mutex);
}

void kerninst_kprobe_unlock(const struct kerninst_spots *spots)
{
	mutex_unlock(spots->kprobe_mutex);
}

/* The first spot that may hold @addr or lie behind it, or spots->count. */
static u32 first_near(const struct kerninst_spots *spots, unsigned long addr)
{
	u32 low = 0, high = spots->count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (spots->spot[middle].addr + sizeof(spots->spot->old) <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/* Spot @i is in the way of the kprobe at @addr, or the other way round. */
static void note(struct kerninst_request *req, struct kerninst_misfits *misfits,
		 u32 i, const struct kerninst_spot *spot, unsigned long addr)
{
	u8 live[sizeof(spot->old)] = {};

	copy_from_kernel_nofault(live, (void *)spot->addr, spot->length);
	kerninst_misfit_note(req, misfits, i, KERNINST_E_KPROBE, addr, live);
}

/* The spots that a kprobe touches: each is marked, or noted as a misfit. */
static void look(struct kerninst_spots *spots, struct kerninst_request *req,
		 struct kerninst_misfits *misfits)
{
	struct kerninst_spot *spot;
	unsigned long addr, end;
	struct kprobe *p;
	u32 bucket, i;

	for (bucket = 0; bucket < TABLE_SIZE; bucket++) {
		hlist_for_each_entry(p, &spots->kprobe_table[bucket], hlist) {
			if (p->flags & KPROBE_FLAG_GONE)
				continue;
			addr = (unsigned long)p->addr;
			end = addr + 1;
			if (misfits && !(p->flags & KPROBE_FLAG_FTRACE))
				end = addr + REACH;
			for (i = first_near(spots, addr);
			     i < spots->count && spots->spot[i].addr < end;
			     i++) {
				spot = &spots->spot[i];
				if (spot->addr + spot->length <= addr)
					continue;
				if (misfits && !spot->probed)
					note(req, misfits, i, spot, addr);
				spot->probed = true;
			}
		}
	}
}

/**
 * kerninst_kprobe_check - may these sites be applied?
 * @req: takes the first misfit
 * @spots: not applied; locked; those that may not are marked
 * @misfits: takes all of them
 *
 * Context: may sleep.
 */
void kerninst_kprobe_check(struct kerninst_request *req,
			   struct kerninst_spots *spots,
			   struct kerninst_misfits *misfits)
{
	look(spots, req, misfits);
}

/* Which applied sites must stay? Context: may sleep; locked. */
void kerninst_kprobe_mark(struct kerninst_spots *spots)
{
	u32 i;

	for (i = 0; i < spots->count; i++)
		spots->spot[i].probed = false;
	look(spots, NULL, NULL);
}

#else /* no kprobes */

int kerninst_kprobe_find(struct kerninst_request *req,
			 const struct kerninst_view *view,
			 struct kerninst_spots *spots)
{
	return 0;
}

void kerninst_kprobe_lock(const struct kerninst_spots *spots)
{
}

void kerninst_kprobe_unlock(const struct kerninst_spots *spots)
{
}

void kerninst_kprobe_check(struct kerninst_request *req,
			   struct kerninst_spots *spots,
			   struct kerninst_misfits *misfits)
{
}

void kerninst_kprobe_mark(struct kerninst_spots *spots)
{
}

#endif
