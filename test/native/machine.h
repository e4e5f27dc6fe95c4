/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the programs here share that run single instructions or generated code:
 * a processor's state before and after, the assembly that loads and saves it,
 * what comes in and goes out, and chance. For one source file a program.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

struct state {
	uint64_t gpr[16];
	uint64_t flags;
};

struct state in, out;
uint64_t saved_rsp;

/* Flags that may be set at will: CF PF AF ZF SF OF. */
#define ARITHMETIC 0x8d5ull

/* What a function must keep; then where the stack is. */
#define KEEP \
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n" \
	"	mov %rsp, saved_rsp(%rip)\n"
#define GIVE_BACK \
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n" \
	"	ret\n"

/* Flags, then registers, between which a program may set rsp. */
#define LOAD_LOW \
	"	pushq in+128(%rip); popfq\n" \
	"	mov in+0(%rip), %rax; mov in+8(%rip), %rcx; mov in+16(%rip), %rdx; mov in+24(%rip), %rbx\n"
#define LOAD_RSP \
	"	mov in+32(%rip), %rsp\n"
#define LOAD_HIGH \
	"	mov in+40(%rip), %rbp; mov in+48(%rip), %rsi; mov in+56(%rip), %rdi\n" \
	"	mov in+64(%rip), %r8; mov in+72(%rip), %r9; mov in+80(%rip), %r10; mov in+88(%rip), %r11\n" \
	"	mov in+96(%rip), %r12; mov in+104(%rip), %r13; mov in+112(%rip), %r14; mov in+120(%rip), %r15\n"

/* Registers; flags need a stack, so each program says when. */
#define SAVE \
	"	mov %rax, out+0(%rip); mov %rcx, out+8(%rip); mov %rdx, out+16(%rip); mov %rbx, out+24(%rip)\n" \
	"	mov %rsp, out+32(%rip)\n" \
	"	mov %rbp, out+40(%rip); mov %rsi, out+48(%rip); mov %rdi, out+56(%rip)\n" \
	"	mov %r8, out+64(%rip); mov %r9, out+72(%rip); mov %r10, out+80(%rip); mov %r11, out+88(%rip)\n" \
	"	mov %r12, out+96(%rip); mov %r13, out+104(%rip); mov %r14, out+112(%rip); mov %r15, out+120(%rip)\n"
#define SAVE_FLAGS \
	"	pushfq; popq out+128(%rip)\n"

/* From standard input, all or nothing; no bytes are always there. */
static inline int take(void *to, size_t bytes)
{
	return !bytes || fread(to, bytes, 1, stdin) == 1;
}

/* To standard output. */
static inline void give(const void *from, size_t bytes)
{
	if (bytes && fwrite(from, bytes, 1, stdout) != 1)
		exit(2);
}

static uint64_t seed;

static inline uint64_t random64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

#endif
