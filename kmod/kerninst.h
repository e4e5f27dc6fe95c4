/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the module's files know of each other. The order is that of a request:
 * signature, payload, identity, splice (live bytes), heap, patch, stop; state
 * drives them and main.c is the device.
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

/* The splice itself: an opcode of one or two bytes and a rel32. */
#define KERNINST_MAX_SPLICE	6

/* One site of the bundle that is applied, or about to be. */
struct kerninst_spot {
	unsigned long addr;	/* of the site in the running kernel */
	unsigned long patch;	/* address in the patch area */
	u8 *alias;		/* addr, writable; NULL unless text is mapped */
	u8 old[16];		/* the instruction, as it was found */
	u8 fresh[8];		/* the splice, KERNINST_MAX_SPLICE bytes at most */
	u8 length;		/* of the instruction */
	u8 kind;		/* KERNINST_JMP, ... */
	u8 from, to;		/* the bytes of it that change: [from, to) */
	bool split;		/* they cross an aligned word: int3 goes first */
	bool ours;		/* the splice is in the text */
	bool chosen;		/* remove: to be restored in this stop */
};

struct kerninst_spots {
	u32 count;
	struct kerninst_spot *spot;	/* ascending by addr, apart */
	struct page **page;		/* while mapped: the pages of the sites */
	void *alias;
};

/* What a stop came to. */
struct kerninst_outcome {
	bool entered;		/* false: the machine was not stopped */
	u32 left;		/* spots that do not hold what they should */
	u32 first;		/* the first of them */
	u8 live[16];		/* what it holds */
	u64 ns;			/* how long the machine was stopped */
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

/* stop.c */
int kerninst_stop_init(void);
void kerninst_stop_exit(void);
int kerninst_stop_apply(struct kerninst_spots *spots,
			struct kerninst_outcome *outcome);
int kerninst_stop_remove(struct kerninst_spots *spots,
			 struct kerninst_outcome *outcome);

/* state.c */
int kerninst_request_apply(struct kerninst_request *req, bool dry);
int kerninst_request_remove(struct kerninst_request *req);
void kerninst_request_status(struct kerninst_status *status);
int kerninst_request_mmap(struct vm_area_struct *vma);
void kerninst_state_exit(void);

#endif
