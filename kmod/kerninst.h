/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the module's files know of each other. The order is that of a request:
 * signature, payload, identity, splice (live bytes), heap, patch, then course,
 * which takes stops while trap listens; state drives them and main.c is the
 * device.
 *
 * Every refusal goes through kerninst_refuse(): a KERNINST_E_* reason in the
 * request, the errno that belongs to it as the return value.
 */
#ifndef KERNINST_H
#define KERNINST_H

#include <linux/kref.h>
#include <linux/types.h>
#include "area.h"
#include "payload.h"

/* The longest splice: an opcode of two bytes and a rel32. */
#define KERNINST_MAX_SPLICE	6

/* e9 rel32: all that a window's splice changes. */
#define KERNINST_JMP_BYTES	5

/* What a spot's bytes are, as far as we know: who else writes text does not say. */
enum kerninst_spot_state {
	SPOT_ORIGINAL,		/* old[] */
	SPOT_TRAPPED,		/* int3, then old[]: a window that is to be left */
	SPOT_APPLIED,		/* fresh[], which leads to the patch, then old[] */
	SPOT_BYPASSED,		/* fresh[], which leads to the bypass, then old[] */
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
	u8 fresh[8];		/* the splice, KERNINST_MAX_SPLICE bytes at most */
	u16 hosted;		/* of a window: bit i: byte i is a springboard's */
	u8 length;		/* of the site */
	u8 kind;		/* KERNINST_JMP, ... */
	u8 flags;		/* KERNINST_WINDOW, ... */
	u8 from, to;		/* the bytes of it that the splice changes: [from, to) */
	u8 state;		/* SPOT_*; changes only while the machine is stopped */
	bool inside;		/* a springboard in the window before it */
	bool trap;		/* an int3 at addr may be ours; trap.c asks */
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
};

/* What a stop does; stop.c has the table. */
enum kerninst_phase {
	PHASE_TRAP,
	PHASE_APPLY,
	PHASE_RETRACT,
	PHASE_RESTORE,
};

/* What a stop came to, or a course of several. */
struct kerninst_outcome {
	bool entered;		/* false: the machine was not stopped */
	bool retracted;		/* remove: no splice leads to a patch any more */
	u32 left;		/* spots that do not hold what they should */
	u32 first;		/* the first of them */
	u8 live[16];		/* what it holds */
	u32 standing;		/* windows whose int3 still stands */
	u64 ns;			/* how long the machine was stopped, at most */
	u64 retracted_ns;	/* CLOCK_REALTIME of that */
};

/* The counters: per-CPU memory, and the page that describes it. */
struct kheap {
	struct kref ref;
	struct kerninst_heap *head;	/* one page */
	void __percpu **chunk;		/* slot / KHEAP_CHUNK_SLOTS -> memory */
	u32 chunks;
	u64 bytes;			/* of the user mapping */
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
struct kheap *kheap_alloc(u32 slots);
struct kheap *kheap_get(struct kheap *heap);
void kheap_put(struct kheap *heap);
u64 kheap_slot(const struct kheap *heap, u32 slot);
int kheap_mmap(struct kheap *heap, struct vm_area_struct *vma);

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
		  struct kerninst_outcome *outcome);

/* course.c */
int kerninst_course_apply(struct kerninst_spots *spots,
			  struct kerninst_outcome *outcome);
int kerninst_course_remove(struct kerninst_spots *spots,
			   struct kerninst_outcome *outcome);

/* state.c */
int kerninst_request_apply(struct kerninst_request *req, bool dry);
int kerninst_request_remove(struct kerninst_request *req);
void kerninst_request_status(struct kerninst_status *status);
int kerninst_request_mmap(struct vm_area_struct *vma);
void kerninst_state_exit(void);

#endif
