/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * As much of the kernel as kmod/patch.c and kmod/splice.c need, in a process:
 * included before each of them, and their own #includes find empty files.
 *
 * Addresses are the kernel's: nothing here or there goes to them but through
 * copy_from_kernel_nofault() and vmap(), which splice-run.c has. A page is
 * named by its address in place of a pointer.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <linux/types.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define __percpu
#define __weak			__attribute__((weak))

struct kref { int count; };
struct mutex { int locked; };
struct hlist_head;
struct vm_area_struct;
struct page;

#define min(a, b)		((a) < (b) ? (a) : (b))
#define max(a, b)		((a) > (b) ? (a) : (b))
#define DIV_ROUND_UP(n, d)	(((n) + (d) - 1) / (d))
#define check_add_overflow	__builtin_add_overflow

#define PAGE_SHIFT		12
#define PAGE_SIZE		(1ul << PAGE_SHIFT)
#define PAGE_MASK		(~(PAGE_SIZE - 1))
#define offset_in_page(addr)	((unsigned long)(addr) & ~PAGE_MASK)

#define INT3_INSN_OPCODE	0xcc
#define JMP32_INSN_OPCODE	0xe9
#define JMP32_INSN_SIZE		5
#define JMP8_INSN_OPCODE	0xeb
#define JMP8_INSN_SIZE		2

#define GFP_KERNEL		0
#define GFP_KERNEL_ACCOUNT	0
#define kvmalloc(bytes, gfp)	malloc(bytes)
#define kvzalloc(bytes, gfp)	calloc(1, bytes)
#define kvcalloc(n, size, gfp)	calloc(n, size)
#define kvmalloc_array(n, size, gfp) reallocarray(NULL, n, size)
#define kvfree			free
#define cond_resched()		((void)0)

#define VM_MAP			0
#define PAGE_KERNEL		0
#define page_at(addr)		((struct page *)((unsigned long)(addr) & PAGE_MASK))
#define vmalloc_to_page		page_at
#define __pa_symbol(addr)	(addr)
#define pfn_to_page(pfn)	page_at((unsigned long)(pfn) << PAGE_SHIFT)
void *vmap(struct page **page, unsigned int count, int flags, int protection);
void vunmap(const void *alias);

long copy_from_kernel_nofault(void *to, const void *from, size_t size);

#endif
