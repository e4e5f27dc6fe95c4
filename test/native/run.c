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
#include "machine.h"

void *code_pointer;

void run(void);
asm(".globl run\n"
    "run:\n"
    KEEP
    LOAD_LOW
    LOAD_HIGH
    "	call *code_pointer(%rip)\n"
    SAVE
    SAVE_FLAGS
    "	mov saved_rsp(%rip), %rsp\n"
    GIVE_BACK);

static const int flag_bit[6] = { 0, 2, 4, 6, 7, 11 };

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
