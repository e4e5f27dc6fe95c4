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
 * Neither do reboot and panic: nothing outlives the kernel that was patched,
 * and a crash kernel brings text of its own.
 */
#include <linux/ktime.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <crypto/sha2.h>
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
} now = { .state = KERNINST_IDLE };

/* A request's payload, checked as far as it needs no state. */
struct parcel {
	u8 *payload;
	u8 *signature;
	struct kerninst_view view;
	u8 sha256[SHA256_DIGEST_SIZE];
};

static void parcel_free(struct parcel *parcel)
{
	kvfree(parcel->signature);
	kvfree(parcel->payload);
}

/* Copy, verify that copy, parse that copy, compare it with this kernel. */
static int parcel_open(struct kerninst_request *req, struct parcel *parcel)
{
	u32 reason;
	int err;

	memset(parcel, 0, sizeof(*parcel));
	if (req->payload_bytes > KERNINST_MAX_PAYLOAD ||
	    req->signature_bytes > KERNINST_MAX_SIGNATURE)
		return kerninst_refuse(req, KERNINST_E_TOO_LARGE);
	if (req->payload_bytes < sizeof(struct kerninst_payload))
		return kerninst_refuse(req, KERNINST_E_MALFORMED);
	parcel->payload = kvmalloc(req->payload_bytes, GFP_KERNEL_ACCOUNT);
	parcel->signature = kvmalloc(req->signature_bytes + 1,
				     GFP_KERNEL_ACCOUNT);
	err = kerninst_refuse(req, KERNINST_E_MEMORY);
	if (!parcel->payload || !parcel->signature)
		goto fail;
	err = -EFAULT;
	req->reason = KERNINST_OK;
	if (copy_from_user(parcel->payload, u64_to_user_ptr(req->payload),
			   req->payload_bytes) ||
	    copy_from_user(parcel->signature, u64_to_user_ptr(req->signature),
			   req->signature_bytes))
		goto fail;

	err = kerninst_signature_check(req, parcel->payload,
				       parcel->signature);
	if (err)
		goto fail;
	reason = kerninst_payload_parse(parcel->payload, req->payload_bytes,
					&parcel->view, &req->index);
	err = kerninst_refuse(req, reason);
	if (err)
		goto fail;
	err = kerninst_identity_check(req, &parcel->view);
	if (err)
		goto fail;
	/* Before the code in it is completed. */
	sha256(parcel->payload, req->payload_bytes, parcel->sha256);
	return 0;

fail:
	parcel_free(parcel);
	return err;
}

/* The first of the spots that were left, and how many. */
static void show_left(struct kerninst_request *req,
		      const struct kerninst_outcome *outcome)
{
	req->index = outcome->first;
	memcpy(req->live, outcome->live, sizeof(outcome->live));
}

/* Nothing could be done, or not all. */
static int refuse_stop(struct kerninst_request *req,
		       const struct kerninst_outcome *outcome, int err)
{
	return kerninst_refuse(req, err == -ENOMEM && !outcome->ns ?
			       KERNINST_E_MEMORY : KERNINST_E_STOP);
}

/* Are all sites written? */
static int apply_outcome(struct kerninst_request *req,
			 const struct kerninst_outcome *outcome, int err)
{
	req->stop_ns = outcome->ns;
	if (outcome->standing) {
		show_left(req, outcome);
		req->value = outcome->standing;
		return kerninst_refuse(req, KERNINST_E_FOREIGN);
	}
	if (err || !outcome->entered)
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

static void head_fill(struct kerninst_heap *head, const struct parcel *parcel,
		      const struct kerninst_request *req, u64 applied_ns)
{
	const struct kerninst_payload *from = parcel->view.head;

	memcpy(head->build_id, from->build_id, sizeof(head->build_id));
	memcpy(head->payload_sha256, parcel->sha256,
	       sizeof(head->payload_sha256));
	head->slide = req->slide;
	head->site_count = from->site_count;
	head->applied_ns = applied_ns;
	head->stop_ns = req->stop_ns;
	WRITE_ONCE(head->state, KERNINST_HEAP_APPLIED);
}

/* Context: state_lock held. */
static int apply_locked(struct kerninst_request *req, struct parcel *parcel,
			bool dry)
{
	const struct kerninst_payload *head = parcel->view.head;
	struct kerninst_outcome outcome;
	struct kheap *heap = NULL;
	int err;

	if (now.state == KERNINST_APPLIED || now.state == KERNINST_PARTIAL)
		return kerninst_refuse(req, KERNINST_E_BUSY);
	err = kerninst_spots_make(req, &parcel->view, &now.spots);
	if (err)
		return err;
	if (!dry) {
		heap = kheap_alloc(head->slot_count);
		if (!heap) {
			err = kerninst_refuse(req, KERNINST_E_MEMORY);
			goto free_spots;
		}
	}
	err = kerninst_patch_complete(req, &parcel->view, heap);
	if (err || dry)
		goto put_heap;
	if (kerninst_patch_write(parcel->view.code, head->code_bytes)) {
		err = kerninst_refuse(req, KERNINST_E_MEMORY);
		goto put_heap;
	}

	__module_get(THIS_MODULE);
	err = kerninst_course_apply(&now.spots, &outcome);
	err = apply_outcome(req, &outcome, err);
	if (err && !outcome.standing)
		goto put_module;

	head_fill(heap->head, parcel, req, ktime_get_real_ns());
	heap_publish(heap);
	now.code_bytes = head->code_bytes;
	now.foreign = outcome.standing;
	now.state = err ? KERNINST_PARTIAL : KERNINST_APPLIED;
	if (err)
		pr_warn("kerninst: %u int3 could not be taken back\n",
			outcome.standing);
	else
		pr_info("kerninst: applied %u sites\n", now.spots.count);
	return err;

put_module:
	module_put(THIS_MODULE);
	/* No text leads to a patch, and no CPU is in one any more. */
	kerninst_patch_write(NULL, 0);
put_heap:
	kheap_put(heap);
free_spots:
	kerninst_spots_free(&now.spots);
	return err;
}

/**
 * kerninst_request_apply - KERNINST_IOC_APPLY, or with @dry _CHECK
 * @req: in and out, as the contract says
 * @dry: do everything but write
 *
 * Context: ioctl; may sleep.
 * Return: 0 or the errno of the reason; -EFAULT for bad user pointers.
 */
int kerninst_request_apply(struct kerninst_request *req, bool dry)
{
	struct parcel parcel;
	int err;

	err = parcel_open(req, &parcel);
	if (err)
		return err;
	mutex_lock(&state_lock);
	err = apply_locked(req, &parcel, dry);
	mutex_unlock(&state_lock);
	parcel_free(&parcel);
	return err;
}

/* Context: state_lock held. */
static int remove_locked(struct kerninst_request *req)
{
	struct kerninst_heap *head;
	struct kerninst_outcome outcome;
	int err;

	if (now.state != KERNINST_APPLIED && now.state != KERNINST_PARTIAL)
		return kerninst_refuse(req, KERNINST_E_NOT_APPLIED);
	head = now.heap->head;
	req->slide = head->slide;
	err = kerninst_course_remove(&now.spots, &outcome);
	req->stop_ns = outcome.ns;
	if (outcome.retracted && !head->removed_ns) {
		head->removed_ns = outcome.retracted_ns;
		WRITE_ONCE(head->state, KERNINST_HEAP_REMOVED);
	}
	if (outcome.left || outcome.retracted)
		now.foreign = outcome.left;
	if (outcome.left || (outcome.retracted && err))
		now.state = KERNINST_PARTIAL;
	if (outcome.left) {
		show_left(req, &outcome);
		req->value = outcome.left;
		return kerninst_refuse(req, KERNINST_E_FOREIGN);
	}
	if (err || !outcome.entered)
		return refuse_stop(req, &outcome, err);

	/* If there is no memory for that now, the next apply does it. */
	kerninst_patch_write(NULL, 0);
	kerninst_spots_free(&now.spots);
	now.state = KERNINST_REMOVED;
	now.code_bytes = 0;
	pr_info("kerninst: removed %u sites\n", head->site_count);
	module_put(THIS_MODULE);
	return 0;
}

/**
 * kerninst_request_remove - KERNINST_IOC_REMOVE
 * @req: out
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
	}
	mutex_unlock(&state_lock);
}

/* Context: mmap lock held. Return: 0 or an errno; -ENODATA: no heap. */
int kerninst_request_mmap(struct vm_area_struct *vma)
{
	int err = -ENODATA;

	mutex_lock(&heap_lock);
	if (now.heap)
		err = kheap_mmap(now.heap, vma);
	mutex_unlock(&heap_lock);
	return err;
}

/* Context: module unload, so nothing is applied and nothing mapped. */
void kerninst_state_exit(void)
{
	kheap_put(now.heap);
}
