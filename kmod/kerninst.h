/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the module's files know of each other. The order is that of a request:
 * signature, payload, identity, all three asked by parcel, then splice (live
 * bytes), kprobe (who else is there), heap, patch, optimizer (who shall not
 * come), then course, which takes stops while trap listens;
 * counters takes those that copy or zero the heap. state drives them and
 * main.c is the device.
 *
 * Every refusal goes through kerninst_refuse(): a KERNINST_E_* reason in the
 * request, the errno that belongs to it as the return value.
 */
#ifndef KERNINST_H
#define KERNINST_H

#include <linux/kref.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include "area.h"
#include "fault.h"
#include "payload.h"

/* e9 rel32: a window's splice; int3s follow. */
#define KERNINST_JMP_BYTES	5

/* What a spot's bytes are, as far as we know: who else writes text does not say. */
enum kerninst_spot_state {
	SPOT_ORIGINAL,		/* old[] */
	SPOT_TRAPPED,		/* int3, then old[]: a window that is to be left */
	SPOT_APPLIED,		/* fresh[], which leads to the patch */
	SPOT_BYPASSED,		/* fresh[], which leads to the bypass */
};

/* What a stop writes to a spot. */
enum kerninst_spot_write {
	WRITE_NOTHING,
	WRITE_INT3,		/* one byte, the first */
	WRITE_OLD,
	WRITE_FRESH,
};

/* One site of the bundle that is applied, or about to be. */
struct kerninst_spot {
	unsigned long addr;	/* of the site in the running kernel */
	unsigned long patch;	/* where the splice leads: patch or springboard */
	unsigned long bypass;	/* of a window, in the patch area */
	u8 *alias;		/* addr, writable; NULL unless text is mapped */
	u8 old[16];		/* the bytes that were found */
	u8 fresh[16];		/* the splice, then int3s */
	u16 hosted;		/* of a window: bit i: byte i is a springboard's */
	u8 length;		/* of the site */
	u8 kind;		/* KERNINST_JMP, ... */
	u8 flags;		/* KERNINST_WINDOW, ... */
	u8 from;		/* the first byte that the splice changes: to the end */
	u8 state;		/* SPOT_*; changes only while the machine is stopped */
	bool inside;		/* a springboard in the window before it */
	bool trap;		/* an int3 at addr may be ours; trap.c asks */
	bool probed;		/* a kprobe is registered at it: it must stay */
	/* In one stop: */
	u8 write;		/* WRITE_* */
	u8 start, end;		/* to which bytes */
	bool split;		/* not in one store: int3 goes first */
};

struct kerninst_spots {
	u32 count;
	u32 windows, boards;	/* how many of them are which */
	struct kerninst_spot *spot;	/* ascending by addr, apart but for boards */
	struct page **page;		/* while mapped: the pages of the sites */
	void *alias;
	struct mutex *kprobe_mutex;	/* of the kernel; NULL: no kprobes */
	struct hlist_head *kprobe_table;
	u64 max_stop_ns;		/* of one stop; 0: no limit */
};

/* The sites that do not suit, for a request that has room for them. */
struct kerninst_misfits {
	struct kerninst_misfit *list;	/* room of them; NULL: none are wanted */
	u32 room;
	u32 count;			/* also of those that did not fit */
	u32 reason;			/* of the first */
};

/* What a stop does; stop.c has the table. */
enum kerninst_phase {
	PHASE_TRAP,
	PHASE_APPLY,
	PHASE_RETRACT,
	PHASE_RESTORE,
	PHASE_REHEARSE,
};

/* Which spots: springboards must be whole before a hop leads to them. */
enum kerninst_part {
	PART_ALL,		/* both, in this order: in one stop */
	PART_BOARDS,
	PART_REST,
};

/* What a course of stops came to. */
struct kerninst_outcome {
	u32 next;		/* of the phase: the first spot not done yet */
	u32 left;		/* of the phase: spots that do not hold what they should */
	u32 first;		/* the first of them */
	u8 live[16];		/* what it holds */
	bool retracted;		/* remove: no splice leads to a patch any more */
	u64 retracted_ns;	/* CLOCK_REALTIME of that */
	u32 standing;		/* apply: spots that could not be taken back */
	u32 stops;		/* how often the machine was stopped */
	u64 ns;			/* for how long, at most */
	u64 needed_ns;		/* what one stop takes at least, where that is too long */
};

/* The counters: per-CPU memory, and the page that describes it. */
struct kheap {
	struct kref ref;
	struct kerninst_heap *head;	/* one page */
	void __percpu **chunk;		/* slot / KHEAP_CHUNK_SLOTS -> memory */
	u32 chunks;
	u32 directories;
	struct kerninst_directory **directory;	/* the list's pages */
	u64 *frames;			/* the frame words; NULL: none */
	u64 bytes;			/* of the user mapping */
	u64 memory;			/* all that it takes */
};

/* A request's payload, checked as far as it needs no state. */
struct kerninst_parcel {
	u8 *payload;
	u8 *signature;
	struct kerninst_view view;
	u8 sha256[32];		/* of the payload, as it came */
};

/* refusal.c */
int kerninst_refuse(struct kerninst_request *req, u32 reason);

/* signature.c */
int kerninst_signature_init(void);
void kerninst_signature_exit(void);
int kerninst_signature_check(struct kerninst_request *req, const void *payload,
			     const void *signature);

/* identity.c */
int kerninst_identity_check(struct kerninst_request *req,
			    const struct kerninst_view *view);

/* heap.c */
struct kheap *kheap_alloc(u32 slots, u32 frame_words);
struct kheap *kheap_get(struct kheap *heap);
void kheap_put(struct kheap *heap);
u64 kheap_slot(const struct kheap *heap, u32 slot);
u64 kheap_frame(const struct kheap *heap, u32 word);
void kheap_begin(const struct kheap *heap);
void *kheap_piece(const struct kheap *heap, u32 cpu, u32 chunk, u64 *bytes);
int kheap_mmap(struct kheap *heap, struct vm_area_struct *vma);
u64 kheap_memory(u32 slots, u32 frame_words);

/* counters.c */
u64 kerninst_counters_estimate(const struct kheap *heap, void *scratch);
int kerninst_counters_copy(const struct kheap *heap, void *to,
			   struct kerninst_outcome *outcome, u64 *when);
int kerninst_counters_zero(const struct kheap *heap,
			   struct kerninst_outcome *outcome, u64 *when);
void kerninst_counters_read(const struct kheap *heap, void *to);
void kerninst_counters_put(const struct kheap *heap, const void *from);

/* kprobe.c */
int kerninst_kprobe_find(struct kerninst_request *req,
			 const struct kerninst_view *view,
			 struct kerninst_spots *spots);
void kerninst_kprobe_lock(const struct kerninst_spots *spots);
void kerninst_kprobe_unlock(const struct kerninst_spots *spots);
void kerninst_kprobe_check(struct kerninst_request *req,
			   struct kerninst_spots *spots,
			   struct kerninst_misfits *misfits);
void kerninst_kprobe_mark(struct kerninst_spots *spots);

/* parcel.c */
int kerninst_parcel_open(struct kerninst_request *req,
			 struct kerninst_parcel *parcel);
void kerninst_parcel_free(struct kerninst_parcel *parcel);

/* optimizer.c */
int kerninst_optimizer_hold(struct kerninst_request *req);
void kerninst_optimizer_release(void);

/* patch.c */
unsigned long kerninst_patch_address(u32 offset);
int kerninst_patch_complete(struct kerninst_request *req,
			    const struct kerninst_view *view,
			    const struct kheap *heap);
int kerninst_patch_write(const u8 *code, u32 bytes);

/* splice.c */
int kerninst_spots_make(struct kerninst_request *req,
			const struct kerninst_view *view,
			struct kerninst_spots *ret);
void kerninst_spots_compare(struct kerninst_request *req,
			    const struct kerninst_view *view,
			    struct kerninst_spots *spots,
			    struct kerninst_misfits *misfits);
void kerninst_misfit_note(struct kerninst_request *req,
			  struct kerninst_misfits *misfits, u32 site,
			  u32 reason, unsigned long other, const u8 *live);
u32 kerninst_spots_standing(const struct kerninst_spots *spots);
void kerninst_spots_free(struct kerninst_spots *spots);
int kerninst_spots_map(struct kerninst_spots *spots);
void kerninst_spots_unmap(struct kerninst_spots *spots);

/* trap.c */
int kerninst_trap_init(void);
void kerninst_trap_exit(void);
void kerninst_trap_watch(const struct kerninst_spots *spots);
void kerninst_trap_forget(void);

/* stop.c */
int kerninst_stop(struct kerninst_spots *spots, enum kerninst_phase phase,
		  enum kerninst_part part, struct kerninst_outcome *outcome);

/* course.c */
int kerninst_course_rehearse(struct kerninst_spots *spots,
			     struct kerninst_outcome *outcome);
int kerninst_course_apply(struct kerninst_spots *spots,
			  struct kerninst_outcome *outcome);
int kerninst_course_remove(struct kerninst_spots *spots,
			   struct kerninst_outcome *outcome);

/* One open file of the device. */
struct kerninst_opened {
	struct mutex lock;	/* guards the copy; taken inside the mmap lock */
	void *copy;		/* of the heap, made by KERNINST_IOC_SNAPSHOT */
};

/* state.c */
int kerninst_request_apply(struct kerninst_request *req,
			   struct kerninst_opened *by, bool dry);
int kerninst_request_remove(struct kerninst_request *req);
int kerninst_request_reset(struct kerninst_request *req);
int kerninst_request_snapshot(struct kerninst_request *req,
			      struct kerninst_opened *by);
void kerninst_request_status(struct kerninst_status *status);
int kerninst_request_mmap(struct vm_area_struct *vma,
			  struct kerninst_opened *by);
void kerninst_state_closed(struct kerninst_opened *opened);
void kerninst_state_exit(void);

#endif
