/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Runs compiled probes as the kernel would: with GS pointing at an arena that
 * holds what a CPU has of its own, from given states, and tells what they left.
 *
 * A case on standard input is struct head, `length` bytes of code that end in
 * ret, and `rounds` times struct round. All slots are zero when it begins. On
 * standard output: for each round struct state, as the code left it; then a
 * u32 count and so many struct slot, those that are not zero. Before all
 * cases, the u64 address that the code returns to.
 *
 * The arena: a pointer to the current task at CURRENT, this CPU's number at
 * CPU, slots from SLOTS on; in the task, two numbers. A fault ends it all.
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

#define CURRENT		8
#define CPU		16
#define TASK		1024
#define PID		(TASK + 20)
#define TGID		(TASK + 24)
#define SLOTS		4096
#define MAX_SLOTS	4096
#define MAX_CODE	65536

struct head {
	uint32_t length, slots, rounds;
};

struct round {
	struct state state;	/* its rsp is not used */
	uint32_t cpu, pid, tgid, pad;
};

struct slot {
	uint64_t index, value;
};

void *code_pointer;

void run(void);
extern char after_call[];
asm(".globl run\n"
    "run:\n"
    KEEP
    LOAD_LOW
    LOAD_HIGH
    "	call *code_pointer(%rip)\n"
    ".globl after_call\n"
    "after_call:\n"
    SAVE
    SAVE_FLAGS
    "	mov saved_rsp(%rip), %rsp\n"
    GIVE_BACK);

/* So many bytes between pages that nobody may touch. */
static uint8_t *guarded(size_t bytes, int protection)
{
	uint8_t *all = mmap(NULL, bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (all == MAP_FAILED || mprotect(all + 4096, bytes, protection)) {
		perror("mmap");
		exit(2);
	}
	return all + 4096;
}

int main(void)
{
	uint8_t *arena = guarded(SLOTS + MAX_SLOTS * 8, PROT_READ | PROT_WRITE);
	uint8_t *code = guarded(MAX_CODE, PROT_READ | PROT_WRITE | PROT_EXEC);
	uint64_t *slots = (uint64_t *)(arena + SLOTS);
	uint64_t returns = (uint64_t)after_call, task = (uint64_t)(arena + TASK);
	struct head head;

	if (syscall(SYS_arch_prctl, ARCH_SET_GS, arena)) {
		perror("arch_prctl");
		return 2;
	}
	code_pointer = code;
	memcpy(arena + CURRENT, &task, sizeof(task));
	give(&returns, sizeof(returns));
	while (take(&head, sizeof(head))) {
		uint32_t count = 0;

		if (head.length > MAX_CODE || head.slots > MAX_SLOTS || !take(code, head.length)) {
			fprintf(stderr, "bad case\n");
			return 2;
		}
		memset(slots, 0, MAX_SLOTS * 8);
		for (uint32_t i = 0; i < head.rounds; i++) {
			struct round round;
			uint64_t rsp;

			if (!take(&round, sizeof(round)))
				return 2;
			in = round.state;
			memcpy(arena + CPU, &round.cpu, 4);
			memcpy(arena + PID, &round.pid, 4);
			memcpy(arena + TGID, &round.tgid, 4);
			run();
			/* As ret leaves it. */
			rsp = saved_rsp;
			if (out.gpr[4] != rsp) {
				fprintf(stderr, "the stack is not where it was\n");
				return 2;
			}
			give(&out, sizeof(out));
		}
		for (uint32_t i = 0; i < MAX_SLOTS; i++)
			count += slots[i] != 0;
		give(&count, sizeof(count));
		for (uint32_t i = 0; i < MAX_SLOTS; i++) {
			const struct slot one = { i, slots[i] };

			if (slots[i])
				give(&one, sizeof(one));
		}
	}
	return 0;
}
