/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Runs generated code for real: for each case on standard input, loads every
 * register and flag with random values, calls the code with GS pointing at a
 * page of counters, and looks at what has changed.
 *
 * A case is u32 live, u32 slots, u32 length, then `length` bytes of code that
 * end in ret. live: bit i (0..15) is the general register i, bit 16.. the flags
 * CF PF AF ZF SF OF. The code adds one to each of the first `slots` u64 at GS.
 * Prints one line per failure, and "N cases, M failures" at the end.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct state {
	uint64_t gpr[16];
	uint64_t flags;
};

struct state in, out;
void *code_pointer;
uint64_t saved_rsp;

/* Flags that may be set at will: CF PF AF ZF SF OF. */
#define ARITHMETIC 0x8d5ull

void run(void);
asm(".globl run\n"
    "run:\n"
    "	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    "	mov %rsp, saved_rsp(%rip)\n"
    "	pushq in+128(%rip); popfq\n"
    "	mov in+0(%rip), %rax; mov in+8(%rip), %rcx; mov in+16(%rip), %rdx; mov in+24(%rip), %rbx\n"
    "	mov in+40(%rip), %rbp; mov in+48(%rip), %rsi; mov in+56(%rip), %rdi\n"
    "	mov in+64(%rip), %r8; mov in+72(%rip), %r9; mov in+80(%rip), %r10; mov in+88(%rip), %r11\n"
    "	mov in+96(%rip), %r12; mov in+104(%rip), %r13; mov in+112(%rip), %r14; mov in+120(%rip), %r15\n"
    "	call *code_pointer(%rip)\n"
    "	mov %rax, out+0(%rip); mov %rcx, out+8(%rip); mov %rdx, out+16(%rip); mov %rbx, out+24(%rip)\n"
    "	mov %rsp, out+32(%rip)\n"
    "	mov %rbp, out+40(%rip); mov %rsi, out+48(%rip); mov %rdi, out+56(%rip)\n"
    "	mov %r8, out+64(%rip); mov %r9, out+72(%rip); mov %r10, out+80(%rip); mov %r11, out+88(%rip)\n"
    "	mov %r12, out+96(%rip); mov %r13, out+104(%rip); mov %r14, out+112(%rip); mov %r15, out+120(%rip)\n"
    "	pushfq; popq out+128(%rip)\n"
    "	mov saved_rsp(%rip), %rsp\n"
    "	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "	ret\n");

static const int flag_bit[6] = { 0, 2, 4, 6, 7, 11 };

static uint64_t seed;

static uint64_t random64(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

int main(int argc, char **argv)
{
	uint64_t *counters = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *code = mmap(NULL, 65536, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t head[3];
	long cases = 0, failures = 0;

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	if (counters == MAP_FAILED || code == MAP_FAILED || syscall(SYS_arch_prctl, ARCH_SET_GS, counters)) {
		perror("setup");
		return 2;
	}
	while (fread(head, sizeof(head), 1, stdin) == 1) {
		uint32_t live = head[0], slots = head[1], length = head[2];

		if (length > 65536 || slots > 512 || fread(code, 1, length, stdin) != length) {
			fprintf(stderr, "bad case\n");
			return 2;
		}
		code_pointer = code;
		for (int round = 0; round < 8; round++, cases++) {
			int bad = 0;

			for (int i = 0; i < 16; i++)
				in.gpr[i] = random64();
			in.flags = 0x202 | (random64() & ARITHMETIC);
			memset(counters, 0, 4096);
			run();
			for (int i = 0; i < 16; i++)
				if (i != 4 && (live >> i & 1) && in.gpr[i] != out.gpr[i])
					bad = 1;
			if (out.gpr[4] != saved_rsp)
				bad = 1;
			for (int i = 0; i < 6; i++)
				if ((live >> (16 + i) & 1) && ((in.flags ^ out.flags) >> flag_bit[i] & 1))
					bad = 1;
			for (uint32_t i = 0; i < 512; i++)
				if (counters[i] != (i < slots))
					bad = 1;
			if (bad) {
				failures++;
				printf("live %#x slots %u: harmed\n", live, slots);
			}
		}
	}
	printf("%ld cases, %ld failures\n", cases, failures);
	return failures != 0;
}
