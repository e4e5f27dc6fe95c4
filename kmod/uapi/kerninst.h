/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * kerninst: the one contract between the planner (TypeScript), the injector
 * (user-space C) and the kernel module.
 *
 * A bundle is a MessagePack map of exactly five keys, in this order:
 *
 *	format     str   "kerninst-bundle"
 *	version    uint  KERNINST_VERSION
 *	manifest   bin   MessagePack for people and reports; the kernel never sees it
 *	payload    bin   the flat tables below; all that the kernel reads
 *	signature  bin   detached CMS over the payload, or empty
 *
 * The payload is little-endian and starts with struct kerninst_payload. It
 * holds the SHA-256 of the manifest, so the signature covers both. Tables
 * follow the header in the order sites, forms, fixups, code; each starts at
 * its *_offset, 8-byte aligned (code 16-byte aligned), padding is zero, and
 * the payload ends with the code: every byte is either a field or a checked zero.
 *
 * Addresses are rvas: unsigned 32-bit offsets from link_base, the link-time
 * virtual address of the kernel's _text. The running kernel lies `slide` bytes
 * higher (KASLR; a multiple of 2 MiB). An "address of rva X" is
 * link_base + slide + X.
 *
 * A *site* is a stretch of text that is overwritten. The splice writes, at the
 * site's first byte, an opcode that depends on `kind`, followed by a
 * displacement to where `patch` says:
 *
 *	KERNINST_JMP   5 bytes or more                        e9 rel32
 *	KERNINST_CALL  a direct call, 5 bytes, e8             e8 rel32
 *	KERNINST_JCC   a direct conditional jump, 6 bytes     0f 8x rel32, x kept
 *	KERNINST_HOP   2 bytes or more                        eb rel8
 *
 * `patch` is the code offset of the site's *patch*, but for a hop, which does
 * not reach the code: there it is the index of another site, which must be a
 * springboard, and rel8 leads from the hop to that site's first byte. The rest
 * of the site, which nobody runs, becomes int3s, but for springboards in it.
 *
 * What the stretch is, `flags` say:
 *
 *   0 - one instruction, of 5..15 bytes, under a hop of 2..15.
 *   KERNINST_SPRINGBOARD - bytes that nobody runs while the bundle is applied
 *	but who hops there: padding between functions, or the rest of a
 *	window. A KERNINST_JMP of exactly 5 bytes; or, as a link between two, a
 *	KERNINST_HOP of exactly 2, whose `patch` names a springboard that is a
 *	KERNINST_JMP: no way is longer than hop, hop, jmp.
 *   KERNINST_WINDOW - several instructions, a KERNINST_JMP of 5..16 bytes in
 *	all. `tail` is the code offset of its *bypass*, code that does what
 *	the instructions do, counts nothing, and goes on behind them. The
 *	planner answers for what the kernel cannot see: that nothing jumps
 *	into the window past its first byte, that no call in it returns into
 *	it, and that no instruction in it can sleep in a fault.
 *
 * Sites ascend by rva and do not overlap, except that springboards may lie in
 * the window before them, past its first five bytes, apart from each other.
 *
 * Before anything is written, the live bytes of every site must be the
 * expected ones:
 *
 *   - form_class == 0: `expected[0..length)`, in which the 32-bit field at
 *     reloc_offset is first adjusted by the slide (reloc_kind);
 *   - form_class != 0: exactly one form of that class must match the first
 *     five live bytes (a return site: the kernel rewrites it at boot). The
 *     same form is then written, re-encoded for its new place, over the five
 *     bytes at code offset `tail`.
 *
 * A *fixup* changes one field of the code when it is copied to the patch area:
 *
 *	KERNINST_FIX_REL32   s32 = address of rva `value` - end of instruction
 *	KERNINST_FIX_ABS32   s32 += slide
 *	KERNINST_FIX_PCPU32  s32 = sign-extended `value` - end of instruction
 *	                     (a %gs:disp(%rip) operand: does not move with KASLR)
 *	KERNINST_FIX_SLOT64  u64 = per-CPU pointer of slot `value`, what
 *	                     incq %gs:(%reg) takes in %reg
 *	KERNINST_FIX_FRAME64 u64 = address of frame word `value`
 *
 * where "end of instruction" is the address of the field + 4 + `trail`.
 * A result that does not fit its field refuses the bundle. Fixups are sorted
 * by offset and do not overlap each other or a tail.
 *
 * Also: link_base is page-aligned and in the top 2 GiB; each table starts at
 * the first aligned offset after the one before; there is at least one site,
 * one slot and one byte of code. A site with a form_class is KERNINST_JMP,
 * five bytes, with a tail and without flags; a window has a tail; any other
 * has none. An adjusted field lies behind the first byte of a site that is an
 * instruction or a window, anywhere in a springboard, and in no call and no
 * jcc. A jmp form has zero bytes. The value of an ABS32 fixup is zero; a trail
 * is at most 10, and zero for ABS32, SLOT64 and FRAME64. frame_words is zero,
 * or more than KERNINST_FRAME_HEAD.
 *
 * The kernel does all of: verify the signature over exactly the bytes it then
 * uses, check every field, the build id, the slide and every expected byte,
 * build all patches, and only then stop the machine and write all sites, or
 * none.
 *
 * Without windows that is one stop. With windows it is two, since a thread may
 * have been preempted inside one: the first puts int3 on the first byte of
 * each window, and whoever runs into one is sent to its bypass; when nobody
 * can be inside any more, some tenths of a second later, the second compares
 * all sites again and writes them. So all counting starts at one moment. Where
 * the second finds that a site has changed, a third takes the int3s back.
 *
 * Remove restores every instruction in one stop, in which windows are turned
 * to their bypasses: all counting ends. Springboards and windows are restored
 * in another, when nobody can be on the way between a hop and its patch.
 *
 * With max_stop_ns, no stop of the machine takes longer than that. Where all
 * sites cannot be written in one, they are written in several, and then the
 * counters are zeroed in another one: so all counting still starts at one
 * moment. Removal copies all counters in one stop, restores the sites in
 * several, and puts the copy in the counters' place. A limit that not even
 * those single stops hold is refused before anything is written
 * (KERNINST_E_STOP_LIMIT); whether they do is tried first, also by a check: the
 * first sites are written over themselves.
 *
 * Kprobes. A kprobe that is registered keeps a copy of the instruction under
 * it, also while it is disabled, and puts that copy's first byte back when it
 * is disarmed. So a site at which one is registered, or which the jump of an
 * optimized one may reach, is refused (KERNINST_E_KPROBE), and remove leaves a
 * site at which one was registered since. The module looks at the kernel's
 * table of kprobes, where kprobe_rva says, and holds the kernel's lock of it
 * while it looks and writes. A kprobe that is registered while a bundle is
 * applied is not optimized, since the kernel would not see all jumps into its
 * reach; where that cannot be had, nothing is applied (KERNINST_E_OPTIMIZER).
 *
 * A request that fails leaves everything as it was, but for sites that others
 * have changed since: those are left as they are, and what they may lead to
 * is kept, until a remove succeeds (KERNINST_E_FOREIGN, KERNINST_PARTIAL).
 *
 * The *counter heap* is per CPU and made of u64 slots. Mapped read-only from
 * the device it is: one page with struct kerninst_heap, then for each CPU an
 * area of cpu_stride bytes, in which slot s is the u64 at 8*s. The per-CPU
 * pointers of KERNINST_PIECE_SLOTS slots, from a multiple of that on, follow
 * each other in steps of 8; code may reach all of them from one. It is alive
 * from apply until the next apply or the unloading of the module; remove
 * leaves it readable. KERNINST_IOC_SNAPSHOT copies it, all counters at one
 * moment, for this open file: what is mapped from the file afterwards is the
 * copy, which does not say where the kernel lies. KERNINST_IOC_RESET zeroes all counters at one moment.
 *
 * The *frame words* are u64s that all CPUs share, for code that must remember
 * something of a call until it returns. They are zero but for the first two:
 *
 *	KERNINST_FRAME_SINCE  the time-stamp counter when the counters were last
 *	                      zeroed; 1 before: what began earlier was not seen
 *	KERNINST_FRAME_SCALE  nanoseconds of 2^32 ticks of it
 *
 * Nobody but the patches sees them; they last as long as the heap. A bundle with
 * frame words is refused where the kernel does not know how fast the
 * time-stamp counter runs (KERNINST_E_CLOCK).
 *
 * In a memory image of the machine (a vmcore) the heap is found by itself: the
 * header starts a page, and directory_pfn is the first page of a list that
 * names all pages of the mapping in order, the header's own first.
 *
 * A *dump* file is struct kerninst_dump, then heap_bytes bytes: the mapping
 * above, verbatim.
 */
#ifndef KERNINST_UAPI_H
#define KERNINST_UAPI_H

#include <linux/types.h>
#include <linux/ioctl.h>

#define KERNINST_VERSION	4
#define KERNINST_DEVICE		"/dev/kerninst"

#define KERNINST_PAYLOAD_MAGIC	"KINSTPLD"	/* 8 bytes, no NUL */
#define KERNINST_HEAP_MAGIC	"KINSTHEA"
#define KERNINST_DUMP_MAGIC	"KINSTDMP"

/* Limits on what comes from outside. */
#define KERNINST_MAX_PAYLOAD	(256u << 20)
#define KERNINST_MAX_SIGNATURE	(64u << 10)
#define KERNINST_MAX_SITES	(1u << 20)
#define KERNINST_MAX_FORMS	256u
#define KERNINST_MAX_FIXUPS	(8u << 20)
#define KERNINST_MAX_CODE	(64u << 20)	/* the module's patch area may be smaller */
#define KERNINST_MAX_SLOTS	(1u << 20)
#define KERNINST_MAX_FRAME_WORDS	(8u << 20)

#define KERNINST_PIECE_SLOTS	4096u

#define KERNINST_FRAME_SINCE	0u
#define KERNINST_FRAME_SCALE	1u
#define KERNINST_FRAME_HEAD	2u

#define KERNINST_NONE		0xffffffffu

struct kerninst_payload {		/* 160 bytes */
	__u8	magic[8];
	__u32	version;
	__u32	header_bytes;		/* sizeof(struct kerninst_payload) */
	__u64	payload_bytes;		/* the whole payload */
	__u64	link_base;
	__u32	image_bytes;		/* every rva named here is below this */
	__u32	text_start;		/* rva; sites lie in [text_start, text_end) */
	__u32	text_end;
	__u32	build_id_rva;		/* where the running kernel holds build_id */
	__u8	build_id[20];
	__u32	anchor_rva[3];		/* stop_machine, vmap, init_task: give the slide */
	__u8	manifest_sha256[32];
	__u32	site_offset;
	__u32	site_count;
	__u32	form_offset;
	__u32	form_count;
	__u32	fixup_offset;
	__u32	fixup_count;
	__u32	code_offset;
	__u32	code_bytes;
	__u32	slot_count;
	__u32	kprobe_rva[2];		/* kprobe_mutex, kprobe_table; both KERNINST_NONE: no kprobes */
	__u32	frame_words;
};

#define KERNINST_JMP		0
#define KERNINST_CALL		1
#define KERNINST_JCC		2
#define KERNINST_HOP		3

#define KERNINST_WINDOW		1	/* flags: at most one of them */
#define KERNINST_SPRINGBOARD	2

#define KERNINST_RELOC_NONE	0
#define KERNINST_RELOC_ADD	1	/* the field grows by the slide */
#define KERNINST_RELOC_SUB	2	/* the field shrinks by the slide */

struct kerninst_site {			/* 40 bytes, sorted by rva */
	__u32	rva;
	__u32	patch;			/* code offset; of a hop: a springboard's index */
	__u8	length;			/* of the instruction or stretch, 2..16 */
	__u8	kind;			/* KERNINST_JMP, ... */
	__u8	form_class;		/* 0: expected[]; else a class of forms */
	__u8	reloc_kind;		/* KERNINST_RELOC_* */
	__u32	tail;			/* code offset, or KERNINST_NONE */
	__u8	expected[16];		/* bytes past length are zero */
	__u8	reloc_offset;		/* of the adjusted field in expected[] */
	__u8	flags;			/* KERNINST_WINDOW, ... */
	__u8	reserved[6];		/* zero */
};

#define KERNINST_FORM_LITERAL	0	/* bytes[0..5) */
#define KERNINST_FORM_JMP	1	/* e9 rel32 to rva target */

struct kerninst_form {			/* 16 bytes */
	__u8	form_class;		/* 1..255 */
	__u8	kind;
	__u8	bytes[6];		/* bytes[5] is zero */
	__u32	target;			/* rva, or KERNINST_NONE */
	__u32	reserved;		/* zero */
};

#define KERNINST_FIX_REL32	0
#define KERNINST_FIX_ABS32	1
#define KERNINST_FIX_PCPU32	2
#define KERNINST_FIX_SLOT64	3
#define KERNINST_FIX_FRAME64	4

struct kerninst_fixup {			/* 12 bytes */
	__u32	offset;			/* of the field, in the code */
	__u32	value;
	__u8	kind;
	__u8	trail;			/* bytes between the field and the instruction's end */
	__u16	reserved;		/* zero */
};

#define KERNINST_HEAP_APPLIED	1	/* counting */
#define KERNINST_HEAP_REMOVED	2	/* final */

struct kerninst_heap {			/* 192 bytes, at the start of the heap's first page */
	__u8	magic[8];
	__u32	version;
	__u32	header_bytes;		/* offset of CPU 0's area: one page */
	__u8	build_id[20];
	__u32	state;			/* KERNINST_HEAP_* */
	__u8	payload_sha256[32];
	__u64	slide;			/* 0 in a copy */
	__u32	slot_count;
	__u32	cpu_count;
	__u64	cpu_stride;		/* bytes between two CPUs' areas */
	__u64	applied_ns;		/* CLOCK_REALTIME when counting had started */
	__u64	removed_ns;		/* when it had ended; 0 before */
	__u64	stop_ns;		/* the longest stop of the machine in apply */
	__u32	site_count;
	__u32	resets;			/* how often the counters were zeroed since */
	__u64	reset_ns;		/* CLOCK_REALTIME of the last time; 0: never */
	__u64	snapshot_ns;		/* when this copy was made; 0: no copy, the counters themselves */
	__u64	directory_pfn;		/* page frame of the page directory; 0 in a copy */
	__u64	page_count;		/* of the mapping, this one included */
	__u64	reserved[4];		/* zero */
};

/* One page of the page directory; see above. */
#define KERNINST_DIRECTORY_PFNS	511

struct kerninst_directory {		/* 4096 bytes */
	__u64	next_pfn;		/* 0: the last */
	__u64	pfn[KERNINST_DIRECTORY_PFNS];	/* of the mapping's pages, in order; 0 past the end */
};

struct kerninst_dump {			/* 256 bytes */
	__u8	magic[8];
	__u32	version;
	__u32	header_bytes;		/* sizeof(struct kerninst_dump) */
	__u64	heap_bytes;
	__u64	dumped_ns;		/* CLOCK_REALTIME */
	__u8	host[65];		/* NUL-terminated and NUL-padded, uname's nodename */
	__u8	release[65];		/* the same, uname's release */
	__u8	reserved[94];		/* zero */
};

/* Why a request was refused; kerninst_request.reason. */
#define KERNINST_OK			0
#define KERNINST_E_TOO_LARGE		1	/* E2BIG: a limit above */
#define KERNINST_E_MALFORMED		2	/* EINVAL: index = offset of the bad field in the payload */
#define KERNINST_E_UNSIGNED		3	/* EKEYREJECTED: no signature */
#define KERNINST_E_NO_KEY		4	/* ENOKEY: signed with a key that is not trusted */
#define KERNINST_E_BAD_SIGNATURE	5	/* EKEYREJECTED: the payload or signature was altered */
#define KERNINST_E_BUILD_ID		6	/* ESTALE: another kernel; live = its build id */
#define KERNINST_E_SLIDE		7	/* ESTALE: the anchors do not agree on a slide */
#define KERNINST_E_SITE_BYTES		8	/* ESTALE: index = site, live = its bytes */
#define KERNINST_E_BUSY			9	/* EBUSY: a bundle is applied already */
#define KERNINST_E_NOT_APPLIED		10	/* ENOENT: nothing to remove */
#define KERNINST_E_SPACE		11	/* ENOSPC: code larger than the patch area (value) */
#define KERNINST_E_MEMORY		12	/* ENOMEM */
#define KERNINST_E_REACH		13	/* ERANGE: index = fixup or site whose field overflows */
#define KERNINST_E_FOREIGN		14	/* EBUSY: `value` sites were left that others have changed; index = the first */
#define KERNINST_E_STOP			15	/* the machine could not be stopped */
#define KERNINST_E_STOP_LIMIT		16	/* ETIME: max_stop_ns is too short; value: ns that one stop takes at least */
#define KERNINST_E_KPROBE		17	/* EBUSY: index = site that a kprobe is registered at, or may reach */
#define KERNINST_E_OPTIMIZER		18	/* EBUSY: new kprobes cannot be kept from being optimized; value: the kernel's errno */
#define KERNINST_E_CLOCK		19	/* EOPNOTSUPP: how fast the time-stamp counter runs is not known */

/* Flags of a request. */
#define KERNINST_TIED		1	/* apply: remove when this open file is closed */

#define KERNINST_TRUST_NONE	0	/* unsigned */
#define KERNINST_TRUST_BUILTIN	1	/* the module's own certificate */
#define KERNINST_TRUST_KERNEL	2	/* the kernel's keyrings */

/* One site that does not suit, for check and apply. */
struct kerninst_misfit {		/* 32 bytes */
	__u32	site;
	__u32	reason;			/* KERNINST_E_SITE_BYTES, _KPROBE or _REACH */
	__u64	other;			/* address of the kprobe */
	__u8	live[16];		/* the site's bytes */
};

struct kerninst_request {		/* 128 bytes */
	__u64	payload;		/* in: user pointers and lengths */
	__u64	signature;
	__u32	payload_bytes;
	__u32	signature_bytes;
	__u32	reason;			/* out, also when the ioctl fails */
	__u32	index;			/* out */
	__u64	value;			/* out */
	__u64	slide;			/* out */
	__u64	stop_ns;		/* out: the longest stop of the machine */
	__u8	live[24];		/* out */
	__u64	max_stop_ns;		/* in: no stop may take longer; 0: no limit */
	__u64	misfits;		/* in: user pointer to room for misfit_room of them */
	__u32	misfit_room;		/* in: at most KERNINST_MAX_SITES */
	__u32	misfit_count;		/* out: all there are; the first misfit_room are written */
	__u32	flags;			/* in: KERNINST_TIED */
	__u32	trust;			/* out: KERNINST_TRUST_* */
	__u32	stops;			/* out: how often the machine was stopped */
	__u32	reserved;		/* in: zero */
	__u64	memory_bytes;		/* out: what the bundle takes while it is applied */
};

#define KERNINST_IDLE		0
#define KERNINST_APPLIED	1
#define KERNINST_REMOVED	2	/* the heap is still there */
#define KERNINST_PARTIAL	3	/* removed, or not applied, but for sites that others changed */

struct kerninst_status {		/* 144 bytes */
	__u32	state;
	__u32	version;		/* KERNINST_VERSION of the module */
	__u64	heap_bytes;		/* what to map; 0: no heap */
	__u64	patch_area_bytes;
	__u64	code_bytes;		/* used of it */
	__u64	slide;
	__u64	applied_ns;
	__u64	removed_ns;
	__u64	stop_ns;
	__u32	site_count;
	__u32	slot_count;
	__u32	foreign_sites;
	__u32	unsigned_ok;		/* 1: this module was built to take unsigned bundles */
	__u8	payload_sha256[32];
	__u64	reset_ns;
	__u64	memory_bytes;		/* taken now: counters, sites, code */
	__u32	resets;
	__u32	tied;			/* 1: removed when the file that applied it is closed */
	__u64	reserved;
};

#define KERNINST_IOC_CHECK	_IOWR('K', 1, struct kerninst_request)
#define KERNINST_IOC_APPLY	_IOWR('K', 2, struct kerninst_request)
#define KERNINST_IOC_REMOVE	_IOWR('K', 3, struct kerninst_request)
#define KERNINST_IOC_STATUS	_IOR('K', 4, struct kerninst_status)
#define KERNINST_IOC_RESET	_IOWR('K', 5, struct kerninst_request)
#define KERNINST_IOC_SNAPSHOT	_IOWR('K', 6, struct kerninst_request)

#endif
