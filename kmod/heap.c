// SPDX-License-Identifier: GPL-2.0-only
/*
 * heap: a number of slots in, counters out: per-CPU memory that a patch
 * increments with one instruction on the CPU that it runs on, exact without
 * a lock prefix also where the kernel preempts. With them come the frame
 * words, which all CPUs share and nobody maps.
 *
 * The kernel gives per-CPU memory in pieces of at most PCPU_MIN_UNIT_SIZE
 * (32 KiB), whole pages of their own; the user mapping puts a CPU's pieces
 * side by side behind one header page, and a list of page frames (the page
 * directory) says where they all are to whoever has nothing but the machine's
 * memory. Reference-counted: the state holds one
 * reference from apply to the next apply or unload, every mapping one; so the
 * memory outlives both every patch that can reach it and every reader.
 */
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include <asm/msr.h>
#include <asm/tsc.h>
#include "compat.h"
#include "kerninst.h"

#define CHUNK_SLOTS	KERNINST_PIECE_SLOTS
#define CHUNK_BYTES	(CHUNK_SLOTS * sizeof(u64))
#define CHUNK_PAGES	(CHUNK_BYTES / PAGE_SIZE)
static_assert(CHUNK_BYTES <= PCPU_MIN_UNIT_SIZE);

#define HEAD_PAGES	1

static void heap_free(struct kheap *heap)
{
	u32 i;

	/* Nobody shall find it in a memory image any more. */
	if (heap->head)
		memset(heap->head, 0, sizeof(*heap->head));
	if (heap->directory)
		for (i = 0; i < heap->directories; i++)
			free_page((unsigned long)heap->directory[i]);
	kvfree(heap->directory);
	if (heap->chunk)
		for (i = 0; i < heap->chunks; i++)
			free_percpu(heap->chunk[i]);
	kvfree(heap->chunk);
	kvfree(heap->frames);
	free_page((unsigned long)heap->head);
	kfree(heap);
}

static void heap_release(struct kref *ref)
{
	heap_free(container_of(ref, struct kheap, ref));
}

/* Bytes of one CPU's area: whole pages. */
static u64 stride_of(u32 slots)
{
	return PAGE_ALIGN((u64)slots * sizeof(u64));
}

/* The page of the mapping at @index (in pages), which the caller checked. */
static struct page *heap_page(const struct kheap *heap, u64 index)
{
	u64 stride = heap->head->cpu_stride / PAGE_SIZE;
	void *addr;
	u32 cpu;

	if (index < HEAD_PAGES)
		return virt_to_page(heap->head);
	cpu = (index - HEAD_PAGES) / stride;
	index = (index - HEAD_PAGES) % stride;
	addr = per_cpu_ptr(heap->chunk[index / CHUNK_PAGES], cpu);
	addr += index % CHUNK_PAGES * PAGE_SIZE;
	/* Boot-time per-CPU units lie in the direct map, later ones do not. */
	return is_vmalloc_addr(addr) ? vmalloc_to_page(addr) :
				       virt_to_page(addr);
}

static u64 pfn_of(const void *page)
{
	return page_to_pfn(virt_to_page(page));
}

/* Write down where all pages are. False: no memory. */
static bool fill_directory(struct kheap *heap)
{
	u64 pages = heap->head->page_count, page = 0;
	struct kerninst_directory *list;
	u32 i, j;

	heap->directories = DIV_ROUND_UP(pages, KERNINST_DIRECTORY_PFNS);
	heap->directory = MAY_FAIL(kvcalloc(heap->directories,
					    sizeof(*heap->directory),
					    GFP_KERNEL));
	if (!heap->directory)
		return false;
	for (i = 0; i < heap->directories; i++) {
		list = MAY_FAIL((void *)get_zeroed_page(GFP_KERNEL));
		if (!list)
			return false;
		heap->directory[i] = list;
		if (i)
			heap->directory[i - 1]->next_pfn = pfn_of(list);
		for (j = 0; j < KERNINST_DIRECTORY_PFNS && page < pages; j++)
			list->pfn[j] = page_to_pfn(heap_page(heap, page++));
		cond_resched();
	}
	heap->head->directory_pfn = pfn_of(heap->directory[0]);
	return true;
}

/* What a heap of so many slots and frame words takes, in bytes. */
u64 kheap_memory(u32 slots, u32 frame_words)
{
	u64 pages = HEAD_PAGES + stride_of(slots) / PAGE_SIZE * nr_cpu_ids;

	pages += DIV_ROUND_UP(pages, KERNINST_DIRECTORY_PFNS);
	/* Whole chunks are taken. */
	return pages * PAGE_SIZE + (u64)frame_words * sizeof(u64) + nr_cpu_ids *
		(round_up(stride_of(slots), CHUNK_BYTES) - stride_of(slots));
}

/**
 * kheap_alloc - make a heap of zero counters
 * @slots: 1..KERNINST_MAX_SLOTS
 * @frame_words: 0, or more than KERNINST_FRAME_HEAD; tsc_khz is known then
 *
 * The header is filled but for what apply alone knows.
 * Context: may sleep.
 * Return: a heap with one reference, or NULL: no memory.
 */
struct kheap *kheap_alloc(u32 slots, u32 frame_words)
{
	struct kheap *heap = MAY_FAIL(kzalloc(sizeof(*heap), GFP_KERNEL));
	u32 i;

	if (!heap)
		return NULL;
	kref_init(&heap->ref);
	heap->chunks = DIV_ROUND_UP(slots, CHUNK_SLOTS);
	heap->head = MAY_FAIL((void *)get_zeroed_page(GFP_KERNEL));
	heap->chunk = MAY_FAIL(kvcalloc(heap->chunks, sizeof(*heap->chunk),
					GFP_KERNEL));
	if (!heap->head || !heap->chunk)
		goto fail;
	for (i = 0; i < heap->chunks; i++) {
		heap->chunk[i] = MAY_FAIL(__alloc_percpu_gfp(CHUNK_BYTES,
					PAGE_SIZE, GFP_KERNEL | __GFP_NOWARN));
		if (!heap->chunk[i])
			goto fail;
		cond_resched();
	}
	if (frame_words) {
		heap->frames = MAY_FAIL(kvcalloc(frame_words, sizeof(u64),
						 GFP_KERNEL));
		if (!heap->frames)
			goto fail;
		heap->frames[KERNINST_FRAME_SINCE] = 1;
		heap->frames[KERNINST_FRAME_SCALE] =
			div_u64((u64)NSEC_PER_MSEC << 32, tsc_khz);
	}

	memcpy(heap->head->magic, KERNINST_HEAP_MAGIC, 8);
	heap->head->version = KERNINST_VERSION;
	heap->head->header_bytes = PAGE_SIZE;
	heap->head->slot_count = slots;
	heap->head->cpu_count = nr_cpu_ids;
	heap->head->cpu_stride = stride_of(slots);
	heap->bytes = HEAD_PAGES * PAGE_SIZE +
		heap->head->cpu_stride * nr_cpu_ids;
	heap->head->page_count = heap->bytes / PAGE_SIZE;
	heap->memory = kheap_memory(slots, frame_words);
	if (!fill_directory(heap))
		goto fail;
	return heap;

fail:
	heap_free(heap);
	return NULL;
}

/* Context: any; the caller has a reference, or the state's mutex. */
struct kheap *kheap_get(struct kheap *heap)
{
	kref_get(&heap->ref);
	return heap;
}

/* Context: may sleep. @heap may be NULL. */
void kheap_put(struct kheap *heap)
{
	if (heap)
		kref_put(&heap->ref, heap_release);
}

/**
 * kheap_slot - the per-CPU pointer of a slot, as incq %gs:(%reg) takes it
 * @heap: the heap
 * @slot: below its slot_count
 *
 * this_cpu_inc(*p) puts p itself in the register: on x86-64 the base of %gs
 * is the CPU's per-CPU offset.
 */
u64 kheap_slot(const struct kheap *heap, u32 slot)
{
	unsigned long chunk =
		(__force unsigned long)heap->chunk[slot / CHUNK_SLOTS];

	return chunk + slot % CHUNK_SLOTS * sizeof(u64);
}

/* The address of a frame word; there is such a one. */
u64 kheap_frame(const struct kheap *heap, u32 word)
{
	return (unsigned long)&heap->frames[word];
}

/*
 * What began before now was not seen. Context: any; the counters are being
 * zeroed.
 */
void kheap_begin(const struct kheap *heap)
{
	if (heap->frames)
		WRITE_ONCE(heap->frames[KERNINST_FRAME_SINCE], rdtsc_ordered());
}

/**
 * kheap_piece - the counters of one CPU, chunk by chunk
 * @heap: the heap
 * @cpu: below nr_cpu_ids, online or not
 * @chunk: which
 * @bytes: out: how many follow, a multiple of 8
 *
 * Context: any. Return: where; NULL past the end.
 */
void *kheap_piece(const struct kheap *heap, u32 cpu, u32 chunk, u64 *bytes)
{
	u64 at = (u64)chunk * CHUNK_BYTES;

	if (chunk >= heap->chunks)
		return NULL;
	*bytes = min_t(u64, CHUNK_BYTES, heap->head->cpu_stride - at);
	return per_cpu_ptr(heap->chunk[chunk], cpu);
}

/* Context: page fault, mmap lock held for reading. */
static vm_fault_t heap_fault(struct vm_fault *vmf)
{
	struct kheap *heap = vmf->vma->vm_private_data;

	if (vmf->pgoff >= heap->bytes / PAGE_SIZE)
		return VM_FAULT_SIGBUS;
	return vmf_insert_pfn(vmf->vma, vmf->address,
			      page_to_pfn(heap_page(heap, vmf->pgoff)));
}

/* Context: fork or split, mmap lock held for writing. */
static void heap_open(struct vm_area_struct *vma)
{
	kheap_get(vma->vm_private_data);
}

/* Context: unmap, mmap lock held. */
static void heap_close(struct vm_area_struct *vma)
{
	kheap_put(vma->vm_private_data);
}

static const struct vm_operations_struct heap_vm_ops = {
	.open = heap_open,
	.close = heap_close,
	.fault = heap_fault,
};

/**
 * kheap_mmap - let user space read the heap
 * @heap: the heap; the mapping takes a reference of its own
 * @vma: all of the heap or its beginning; never writable
 *
 * Context: mmap lock held for writing.
 * Return: 0; -EPERM for a writable mapping, -EINVAL for one past the end.
 */
int kheap_mmap(struct kheap *heap, struct vm_area_struct *vma)
{
	unsigned long end;

	if (vma->vm_flags & (VM_WRITE | VM_EXEC))
		return -EPERM;
	if (check_add_overflow(vma->vm_pgoff, vma_pages(vma), &end) ||
	    end > heap->bytes / PAGE_SIZE)
		return -EINVAL;
	kerninst_vm_flags_mod(vma, VM_PFNMAP | VM_DONTEXPAND | VM_DONTDUMP |
			      VM_IO, VM_MAYWRITE | VM_MAYEXEC);
	vma->vm_private_data = kheap_get(heap);
	vma->vm_ops = &heap_vm_ops;
	return 0;
}
