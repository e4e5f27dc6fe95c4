// SPDX-License-Identifier: GPL-2.0-only
/*
 * state: what is applied, and the requests that change it.
 *
 *	IDLE -> APPLIED -> REMOVED -> APPLIED ...
 *	           |          ^
 *	           +-> PARTIAL+	others had changed some sites; remove retries
 *
 * A request that fails leaves everything as it was, but for a remove that
 * restores some sites and not others, and an apply with windows that cannot
 * take back what its first stop wrote: both end in PARTIAL. In APPLIED and PARTIAL the
 * module holds a reference to itself, so it cannot be unloaded while text
 * leads into its patch area. The heap of a removed bundle stays until the
 * next apply or the unloading of the module.
 *
 * Suspend needs nothing: text, patch area and per-CPU memory of all possible
 * CPUs are plain memory, kept (or saved with the hibernation image) together,
 * and a CPU that comes online again starts with no stale instructions.
 * Neither do reboot, kexec and panic: nothing outlives the kernel that was
 * patched, and the next one brings text of its own. A module that is unloaded
 * by force restores everything first, however long that takes.
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include "compat.h"
#include "kerninst.h"

/* Held for a whole change of state. Never taken inside the mmap lock. */
static DEFINE_MUTEX(state_lock);

/* Guards the pointer alone: mmap comes with the mmap lock held. */
static DEFINE_MUTEX(heap_lock);

static struct {
	u32 state;			/* KERNINST_IDLE, ... */
	u32 foreign;			/* spots that remove had to leave */
	u32 code_bytes;
	struct kerninst_spots spots;	/* in APPLIED and PARTIAL */
	struct kheap *heap;		/* but for IDLE */
	struct kerninst_opened *owner;	/* remove when it is closed; or NULL */
} now = { .state = KERNINST_IDLE };

/* The first of the spots that were left, and how many. */
static void show_left(struct kerninst_request *req,
		      const struct kerninst_outcome *outcome)
{
	req->index = outcome->first;
	memcpy(req->live, outcome->live, sizeof(outcome->live));
}

/* What the stops took. */
static void show_stops(struct kerninst_request *req,
		       const struct kerninst_outcome *outcome)
{
	req->stop_ns = outcome->ns;
	req->stops = outcome->stops;
}

/* Nothing could be done, or not all: a stop's or a course's errno. */
static int refuse_stop(struct kerninst_request *req,
		       const struct kerninst_outcome *outcome, int err)
{
	if (err == -ETIME) {
		req->value = outcome->needed_ns;
		return kerninst_refuse(req, KERNINST_E_STOP_LIMIT);
	}
	return kerninst_refuse(req, err == -ENOMEM && !outcome->stops ?
			       KERNINST_E_MEMORY : KERNINST_E_STOP);
}

/* Copying or zeroing all counters takes @ns: does the limit hold? */
static int check_limit(const struct kerninst_request *req, u64 ns,
		       struct kerninst_outcome *outcome)
{
	if (!req->max_stop_ns || ns <= req->max_stop_ns)
		return 0;
	outcome->needed_ns = ns;
	return -ETIME;
}

/* Are all sites written? */
static int apply_outcome(struct kerninst_request *req,
			 const struct kerninst_outcome *outcome, int err)
{
	if (outcome->standing) {
		show_left(req, outcome);
		req->value = outcome->standing;
		return kerninst_refuse(req, KERNINST_E_FOREIGN);
	}
	if (err)
		return refuse_stop(req, outcome, err);
	if (outcome->left) {
		show_left(req, outcome);
		return kerninst_refuse(req, KERNINST_E_SITE_BYTES);
	}
	return 0;
}

/* The heap is the current one from here on. Takes over the reference. */
static void heap_publish(struct kheap *heap)
{
	struct kheap *old;

	mutex_lock(&heap_lock);
	old = now.heap;
	now.heap = heap;
	mutex_unlock(&heap_lock);
	kheap_put(old);
}

/* Who a heap belongs to, also if the machine dies while it is applied. */
static void head_name(struct kerninst_heap *head, const struct kerninst_parcel *parcel,
		      const struct kerninst_request *req)
{
	const struct kerninst_payload *from = parcel->view.head;

	memcpy(head->build_id, from->build_id, sizeof(head->build_id));
	memcpy(head->payload_sha256, parcel->sha256,
	       sizeof(head->payload_sha256));
	head->slide = req->slide;
	head->site_count = from->site_count;
}

/* What the bundle takes while it is applied, but for its counters. */
static u64 splices_memory(u32 sites, u32 code_bytes)
{
	return (u64)sites * sizeof(struct kerninst_spot) + code_bytes;
}

/* Make now.spots: all of them may be applied, or none is. Locked. */
static int make_spots(struct kerninst_request *req, const struct kerninst_parcel *parcel,
		      struct kerninst_misfits *misfits)
{
	const struct kerninst_payload *head = parcel->view.head;

	req->memory_bytes = kheap_memory(head->slot_count, head->frame_words) +
		splices_memory(head->site_count, head->code_bytes);
	kerninst_kprobe_check(req, &now.spots, misfits);
	kerninst_spots_compare(req, &parcel->view, &now.spots, misfits);
	req->misfit_count = misfits->count;
	return kerninst_refuse(req, misfits->count ? misfits->reason :
						     KERNINST_OK);
}

/* Does the limit on the stops hold? Nothing is changed. @heap: its counters are zero. */
static int try_limit(const struct kerninst_request *req,
		     const struct kheap *heap, struct kerninst_outcome *outcome)
{
	u64 when;
	int err = kerninst_counters_zero(heap, outcome, &when);

	/* Half as much again in reserve. */
	err = err ?: check_limit(req, outcome->ns + outcome->ns / 2, outcome);
	return err ?: kerninst_course_rehearse(&now.spots, outcome);
}

/*
 * All sites, or none; with a limit on the stops, all counters begin afterwards,
 * at one moment.
 */
static int write_sites(const struct kerninst_request *req,
		       const struct kheap *heap,
		       struct kerninst_outcome *outcome, u64 *when)
{
	struct kerninst_outcome back = {};
	int err = kerninst_course_apply(&now.spots, outcome);

	*when = ktime_get_real_ns();
	if (err || outcome->left || !req->max_stop_ns)
		return err;
	err = kerninst_counters_zero(heap, outcome, when);
	if (!err)
		return 0;
	kerninst_course_remove(&now.spots, &back);
	outcome->standing = kerninst_spots_standing(&now.spots);
	return err;
}

/* Context: state_lock and the kprobes' lock held. */
static int apply_spots(struct kerninst_request *req, struct kerninst_parcel *parcel,
		       struct kerninst_opened *by,
		       struct kerninst_misfits *misfits, bool dry)
{
	const struct kerninst_payload *head = parcel->view.head;
	struct kerninst_outcome outcome = {};
	struct kheap *heap = NULL;
	u64 when;
	int err;

	err = make_spots(req, parcel, misfits);
	if (err)
		return err;
	if (head->frame_words && !tsc_khz)
		return kerninst_refuse(req, KERNINST_E_CLOCK);
	if (!dry || req->max_stop_ns) {
		heap = kheap_alloc(head->slot_count, head->frame_words);
		if (!heap)
			return kerninst_refuse(req, KERNINST_E_MEMORY);
		head_name(heap->head, parcel, req);
	}
	err = kerninst_patch_complete(req, &parcel->view, heap);
	if (err)
		goto put_heap;
	if (req->max_stop_ns) {
		err = try_limit(req, heap, &outcome);
		show_stops(req, &outcome);
		if (err)
			err = refuse_stop(req, &outcome, err);
	}
	/* Last, since it is what takes long to take back. */
	err = err ?: kerninst_optimizer_hold(req);
	if (err)
		goto put_heap;
	if (dry)
		goto release;
	if (kerninst_patch_write(parcel->view.code, head->code_bytes)) {
		err = kerninst_refuse(req, KERNINST_E_MEMORY);
		goto release;
	}

	__module_get(THIS_MODULE);
	err = write_sites(req, heap, &outcome, &when);
	show_stops(req, &outcome);
	err = apply_outcome(req, &outcome, err);
	if (err && !outcome.standing)
		goto put_module;

	heap->head->applied_ns = when;
	heap->head->stop_ns = outcome.ns;
	WRITE_ONCE(heap->head->state, KERNINST_HEAP_APPLIED);
	heap_publish(heap);
	now.code_bytes = head->code_bytes;
	now.foreign = outcome.standing;
	now.state = err ? KERNINST_PARTIAL : KERNINST_APPLIED;
	now.owner = !err && req->flags & KERNINST_TIED ? by : NULL;
	if (err)
		pr_warn("kerninst: %u sites could not be taken back\n",
			outcome.standing);
	else
		pr_info("kerninst: applied %u sites\n", now.spots.count);
	return err;

put_module:
	module_put(THIS_MODULE);
	/* No text leads to a patch, and no CPU is in one any more. */
	kerninst_patch_write(NULL, 0);
release:
	kerninst_optimizer_release();
put_heap:
	kheap_put(heap);
	return err;
}

/* Context: state_lock held. */
static int apply_locked(struct kerninst_request *req, struct kerninst_parcel *parcel,
			struct kerninst_opened *by,
			struct kerninst_misfits *misfits, bool dry)
{
	int err;

	if (now.state == KERNINST_APPLIED || now.state == KERNINST_PARTIAL)
		return kerninst_refuse(req, KERNINST_E_BUSY);
	err = kerninst_spots_make(req, &parcel->view, &now.spots);
	err = err ?: kerninst_kprobe_find(req, &parcel->view, &now.spots);
	if (!err) {
		kerninst_kprobe_lock(&now.spots);
		err = apply_spots(req, parcel, by, misfits, dry);
		kerninst_kprobe_unlock(&now.spots);
	}
	if (now.state != KERNINST_APPLIED && now.state != KERNINST_PARTIAL)
		kerninst_spots_free(&now.spots);
	return err;
}

static int misfits_alloc(struct kerninst_request *req, u32 sites,
			 struct kerninst_misfits *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->room = min(req->misfit_room, sites);
	if (!ret->room)
		return 0;
	ret->list = MAY_FAIL(kvcalloc(ret->room, sizeof(*ret->list),
				      GFP_KERNEL_ACCOUNT));
	return ret->list ? 0 : kerninst_refuse(req, KERNINST_E_MEMORY);
}

/* The list goes to the user; @err, or -EFAULT. */
static int misfits_show(const struct kerninst_request *req,
			const struct kerninst_misfits *misfits, int err)
{
	u32 count = min(misfits->room, misfits->count);

	if (copy_to_user(u64_to_user_ptr(req->misfits), misfits->list,
			 count * sizeof(*misfits->list)))
		return -EFAULT;
	return err;
}

/**
 * kerninst_request_apply - KERNINST_IOC_APPLY, or with @dry _CHECK
 * @req: in and out, as the contract says
 * @by: the open file that it came through
 * @dry: do everything but write
 *
 * Context: ioctl; may sleep.
 * Return: 0 or the errno of the reason; -EFAULT for bad user pointers.
 */
int kerninst_request_apply(struct kerninst_request *req,
			   struct kerninst_opened *by, bool dry)
{
	struct kerninst_misfits misfits;
	struct kerninst_parcel parcel;
	int err;

	err = kerninst_parcel_open(req, &parcel);
	if (err)
		return err;
	err = misfits_alloc(req, parcel.view.head->site_count, &misfits);
	if (err)
		goto free_parcel;
	mutex_lock(&state_lock);
	err = apply_locked(req, &parcel, by, &misfits, dry);
	mutex_unlock(&state_lock);
	if (misfits.count)
		err = misfits_show(req, &misfits, err);
	kvfree(misfits.list);
free_parcel:
	kerninst_parcel_free(&parcel);
	return err;
}

static bool is_applied(void)
{
	return now.state == KERNINST_APPLIED || now.state == KERNINST_PARTIAL;
}

/*
 * With a limit on the stops, sites are restored one after the other: so all
 * counters are copied at one moment before, and that is what they were at the
 * end. @frozen: out: the copy; to be freed.
 */
static int freeze(const struct kerninst_request *req, void **frozen,
		  struct kerninst_outcome *outcome, u64 *when)
{
	int err;

	*frozen = NULL;
	if (!req->max_stop_ns)
		return 0;
	*frozen = MAY_FAIL(vmalloc(now.heap->bytes));
	if (!*frozen)
		return -ENOMEM;
	err = check_limit(req, kerninst_counters_estimate(now.heap, *frozen),
			  outcome);
	return err ?: kerninst_counters_copy(now.heap, *frozen, outcome, when);
}

/* All counting has ended. */
static void finish_heap(const void *frozen, u64 when)
{
	struct kerninst_heap *head = now.heap->head;

	if (head->removed_ns)
		return;
	if (frozen)
		kerninst_counters_put(now.heap, frozen);
	head->removed_ns = when;
	WRITE_ONCE(head->state, KERNINST_HEAP_REMOVED);
}

/* Nothing is left of it in the text, and nobody in its patches. */
static void finish_removal(void)
{
	u32 count = now.spots.count;

	/* If there is no memory for that now, the next apply does it. */
	kerninst_patch_write(NULL, 0);
	kerninst_optimizer_release();
	kerninst_spots_free(&now.spots);
	now.state = KERNINST_REMOVED;
	now.code_bytes = 0;
	now.foreign = 0;
	now.owner = NULL;
	pr_info("kerninst: removed %u sites\n", count);
	module_put(THIS_MODULE);
}

/* Context: state_lock held. */
static int remove_locked(struct kerninst_request *req)
{
	struct kerninst_outcome outcome = {};
	void *frozen;
	u32 standing;
	u64 when;
	int err;

	if (!is_applied())
		return kerninst_refuse(req, KERNINST_E_NOT_APPLIED);
	req->slide = now.heap->head->slide;
	now.spots.max_stop_ns = req->max_stop_ns;
	err = freeze(req, &frozen, &outcome, &when);
	if (!err) {
		kerninst_kprobe_lock(&now.spots);
		kerninst_kprobe_mark(&now.spots);
		err = kerninst_course_remove(&now.spots, &outcome);
		kerninst_kprobe_unlock(&now.spots);
	}
	show_stops(req, &outcome);
	if (outcome.retracted)
		finish_heap(frozen, frozen ? when : outcome.retracted_ns);
	vfree(frozen);

	standing = kerninst_spots_standing(&now.spots);
	if (outcome.left || (err && standing < now.spots.count)) {
		now.state = KERNINST_PARTIAL;
		now.foreign = outcome.left;
	}
	if (outcome.left) {
		show_left(req, &outcome);
		req->value = outcome.left;
		return kerninst_refuse(req, KERNINST_E_FOREIGN);
	}
	if (err)
		return refuse_stop(req, &outcome, err);
	finish_removal();
	return 0;
}

/**
 * kerninst_request_remove - KERNINST_IOC_REMOVE
 * @req: in and out, as the contract says
 *
 * Context: ioctl; may sleep, for as long as the slowest task takes to leave.
 * Return: 0 or the errno of the reason.
 */
int kerninst_request_remove(struct kerninst_request *req)
{
	int err;

	mutex_lock(&state_lock);
	err = remove_locked(req);
	mutex_unlock(&state_lock);
	return err;
}

/**
 * kerninst_request_reset - KERNINST_IOC_RESET: zero all counters at one moment
 * @req: in and out
 *
 * Context: ioctl; may sleep. Return: 0 or the errno of the reason.
 */
int kerninst_request_reset(struct kerninst_request *req)
{
	struct kerninst_outcome outcome = {};
	struct kerninst_heap *head;
	void *scratch = NULL;
	u64 when;
	int err = 0;

	mutex_lock(&state_lock);
	if (now.state != KERNINST_APPLIED) {
		err = kerninst_refuse(req, KERNINST_E_NOT_APPLIED);
		goto unlock;
	}
	if (req->max_stop_ns) {
		scratch = MAY_FAIL(vmalloc(now.heap->bytes));
		err = !scratch ? -ENOMEM :
			check_limit(req, kerninst_counters_estimate(now.heap,
								    scratch),
				    &outcome);
		vfree(scratch);
	}
	err = err ?: kerninst_counters_zero(now.heap, &outcome, &when);
	show_stops(req, &outcome);
	if (err) {
		err = refuse_stop(req, &outcome, err);
		goto unlock;
	}
	head = now.heap->head;
	head->reset_ns = when;
	head->resets++;
unlock:
	mutex_unlock(&state_lock);
	return err;
}

/* Make a copy of the heap. Context: state_lock held; there is a heap. */
static int copy_heap(const struct kerninst_request *req, void **ret,
		     struct kerninst_outcome *outcome)
{
	struct kerninst_heap *head;
	u64 when = ktime_get_real_ns();
	int err;

	*ret = MAY_FAIL(vmalloc_user(now.heap->bytes));
	if (!*ret)
		return -ENOMEM;
	if (is_applied()) {
		err = !req->max_stop_ns ? 0 :
			check_limit(req, kerninst_counters_estimate(now.heap,
								    *ret),
				    outcome);
		err = err ?: kerninst_counters_copy(now.heap, *ret, outcome,
						    &when);
		if (err) {
			vfree(*ret);
			return err;
		}
	} else {
		kerninst_counters_read(now.heap, *ret);
	}
	head = *ret;
	*head = *now.heap->head;
	head->snapshot_ns = when;
	/* A dump goes to people who need not know where this kernel lies. */
	head->slide = 0;
	head->directory_pfn = 0;
	return 0;
}

/**
 * kerninst_request_snapshot - KERNINST_IOC_SNAPSHOT
 * @req: in and out
 * @by: gets the copy, in place of one that it has
 *
 * Context: ioctl; may sleep. Return: 0 or the errno of the reason.
 */
int kerninst_request_snapshot(struct kerninst_request *req,
			      struct kerninst_opened *by)
{
	struct kerninst_outcome outcome = {};
	void *copy;
	int err;

	mutex_lock(&state_lock);
	if (now.heap) {
		err = copy_heap(req, &copy, &outcome);
		show_stops(req, &outcome);
		if (err)
			err = refuse_stop(req, &outcome, err);
	} else {
		err = kerninst_refuse(req, KERNINST_E_NOT_APPLIED);
	}
	mutex_unlock(&state_lock);
	if (err)
		return err;
	mutex_lock(&by->lock);
	swap(copy, by->copy);
	mutex_unlock(&by->lock);
	/* What is mapped of it stays until it is unmapped. */
	vfree(copy);
	return 0;
}

/* KERNINST_IOC_STATUS. Context: ioctl; may sleep. */
void kerninst_request_status(struct kerninst_status *status)
{
	const struct kerninst_heap *head;

	memset(status, 0, sizeof(*status));
	status->version = KERNINST_VERSION;
	status->patch_area_bytes = KERNINST_AREA_BYTES;
	status->unsigned_ok = IS_ENABLED(KERNINST_UNSIGNED);
	mutex_lock(&state_lock);
	status->state = now.state;
	status->code_bytes = now.code_bytes;
	status->foreign_sites = now.foreign;
	if (now.heap) {
		head = now.heap->head;
		status->heap_bytes = now.heap->bytes;
		status->slide = head->slide;
		status->applied_ns = head->applied_ns;
		status->removed_ns = head->removed_ns;
		status->stop_ns = head->stop_ns;
		status->site_count = head->site_count;
		status->slot_count = head->slot_count;
		memcpy(status->payload_sha256, head->payload_sha256,
		       sizeof(status->payload_sha256));
		status->reset_ns = head->reset_ns;
		status->resets = head->resets;
		status->tied = !!now.owner;
		status->memory_bytes = now.heap->memory +
			splices_memory(now.spots.count, now.code_bytes);
	}
	mutex_unlock(&state_lock);
}

/* The copy that the file has, whole or its beginning; read-only. */
static int copy_mmap(void *copy, struct vm_area_struct *vma)
{
	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EPERM;
	kerninst_vm_flags_mod(vma, 0, VM_MAYWRITE | VM_MAYEXEC);
	return remap_vmalloc_range(vma, copy, vma->vm_pgoff);
}

/* Context: mmap lock held. Return: 0 or an errno; -ENODATA: no heap. */
int kerninst_request_mmap(struct vm_area_struct *vma,
			  struct kerninst_opened *by)
{
	int err = -ENODATA;
	bool has_copy;

	mutex_lock(&by->lock);
	has_copy = by->copy;
	if (has_copy)
		err = copy_mmap(by->copy, vma);
	mutex_unlock(&by->lock);
	if (has_copy)
		return err;
	mutex_lock(&heap_lock);
	if (now.heap)
		err = kheap_mmap(now.heap, vma);
	mutex_unlock(&heap_lock);
	return err;
}

/* Whatever it takes but for what others have changed. state_lock held. */
static int remove_anyhow(void)
{
	struct kerninst_request req = { .max_stop_ns = now.spots.max_stop_ns };

	if (remove_locked(&req) && req.max_stop_ns &&
	    req.reason != KERNINST_E_FOREIGN) {
		memset(&req, 0, sizeof(req));
		remove_locked(&req);
	}
	return req.reason;
}

/* An open file goes, and what is tied to it. Context: may sleep. */
void kerninst_state_closed(struct kerninst_opened *opened)
{
	u32 reason;

	mutex_lock(&state_lock);
	if (now.owner == opened) {
		reason = remove_anyhow();
		if (reason)
			pr_warn("kerninst: whoever applied is gone, but not all could be removed (%u): remove it by hand\n",
				reason);
		now.owner = NULL;
	}
	mutex_unlock(&state_lock);
	vfree(opened->copy);
	kfree(opened);
}

/*
 * Context: module unload; may sleep. Unless the module is unloaded by force,
 * nothing is applied, and no file is open. By force, it waits for both: what
 * led into the module's memory would crash the machine.
 */
void kerninst_state_exit(void)
{
	mutex_lock(&state_lock);
	while (is_applied()) {
		if (!remove_anyhow())
			break;
		pr_warn_ratelimited("kerninst: waiting for sites that others have changed\n");
		msleep(1000);
	}
	mutex_unlock(&state_lock);
	while (module_refcount(THIS_MODULE) > 0)
		msleep(100);
	kheap_put(now.heap);
}
