/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Runs instructions where they lie and where they were moved to, from the same
 * random registers, flags and memory, and compares what they leave behind.
 *
 * Standard input: struct head, the image, the moved code, then `cases` times
 * struct job. The image is mapped at IMAGE, the code at CODE, both ready to run.
 * The image's first three words are for this program: behind an instruction lies
 * a jmp through the first one; where branches go, one through the second; gates
 * end in one through the third. Calls, returns and jumps through registers and
 * memory go to gates: registers in `points` lead to the first one, with FILL each
 * word of memory to its own.
 *
 * Registers in `base` get addresses in the buffer (with PERCPU: such that GS
 * makes them so), those in `index` small multiples of 16, with COUNT rcx gets
 * what loops end at; a register in `both`, times `factor`, is an address in the
 * buffer. rsp points into the buffer.
 *
 * Prints for each case WORD WAYS: same, differs, or faults (when it never ran),
 * and a set of where it went: 1 behind it, 2 the branch's target, 4 a gate.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "faults.h"
#include "machine.h"

#define IMAGE		0x30000000ul
#define CODE		0x50000000ul
#define BUFFER		0x32000000ul
#define BUFFER_BYTES	4096
#define SLACK		16384	/* for what saves a processor's whole state */
#define MIDDLE		1536	/* of the buffer: where operands lie, apart from */
#define STACK		512	/* what is pushed */
#define PERCPU_START	0x3000	/* GS:this is the buffer */
#define ROUNDS		6
#define COUNT_ROUNDS	48	/* of what may go either way */
#define ATTEMPTS	60	/* division rarely succeeds */
#define REPEATS		4	/* of what differs */
#define GATES		0x34000000ul
#define GATE_BYTES	32
#define WENT		0x34010000ul	/* u64: the way, and << 8 the gate's number */
#define RCX		1
#define RSP		4

#define FILL	1
#define PERCPU	2
#define COUNT	4

struct head {
	uint32_t image_bytes, code_bytes, cases;
};

struct job {
	uint32_t at, patch, base, index, both, factor, points, flags;
};

void *code_pointer;
uint8_t fx_clean[512] __attribute__((aligned(16)));
uint8_t fx_in[512] __attribute__((aligned(16)));
uint8_t fx_out[512] __attribute__((aligned(16)));

/* The stack is the instruction's until its outcome has been saved. */
void run(void);
void behind(void);
void taken(void);
void away(void);
asm(".globl run, behind, taken, away\n"
    "run:\n"
    KEEP
    "	fxrstor fx_in(%rip)\n"
    LOAD_LOW
    LOAD_RSP
    LOAD_HIGH
    "	jmp *code_pointer(%rip)\n"
    "behind:	movq $1, 0x34010000; jmp away\n"
    "taken:	movq $2, 0x34010000; jmp away\n"
    "away:\n"
    SAVE
    "	mov saved_rsp(%rip), %rsp\n"
    SAVE_FLAGS
    "	cld\n"
    "	fxsave fx_out(%rip)\n"
    "	fxrstor fx_clean(%rip)\n"
    GIVE_BACK);

static uint8_t *const buffer = (uint8_t *)BUFFER;
static uint8_t original[BUFFER_BYTES];

/* Registers, flags, where it went, x87 and vector registers, memory: in words. */
#define MACHINE_WORDS	(16 + 1 + 1 + 64)
#define WORDS		(MACHINE_WORDS + BUFFER_BYTES / 8)

struct outcome {
	int faulted;
	uint64_t word[WORDS];
};

static void once(unsigned long at, struct outcome *o)
{
	memset(o, 0, sizeof(*o));
	memcpy(buffer, original, BUFFER_BYTES);
	if (sigsetjmp(fault, 0)) {
		asm volatile("cld; fxrstor %0" : : "m"(fx_clean));
		o->faulted = 1;
		return;
	}
	code_pointer = (void *)at;
	run();
	memcpy(o->word, out.gpr, sizeof(out.gpr));
	o->word[16] = out.flags & ARITHMETIC;
	o->word[17] = *(uint64_t *)WENT;
	/* Where the last x87 instruction lay, and its operand. */
	memset(fx_out + 8, 0, 16);
	memcpy(o->word + 18, fx_out, 416); /* behind it: what a process may use as it likes */
	memcpy(o->word + MACHINE_WORDS, buffer, BUFFER_BYTES);
}

static void draw(const struct job *job)
{
	const uint64_t shift = job->flags & PERCPU ? BUFFER - PERCPU_START : 0;

	for (int i = 0; i < 16; i++) {
		/* Small numbers make division and the ends of ranges likely. */
		in.gpr[i] = random64() & 3 ? random64() : random64() & 0xff;
		if (job->index >> i & 1)
			in.gpr[i] = (random64() & 7) * 16;
		if (job->base >> i & 1)
			in.gpr[i] = BUFFER + MIDDLE + (random64() & 0x3c0) - shift;
		if (job->both >> i & 1)
			in.gpr[i] = (BUFFER + MIDDLE + (random64() & 0x3c0) - shift) / job->factor & ~63ul;
		if (job->points >> i & 1)
			in.gpr[i] = GATES;
	}
	if (job->flags & COUNT)
		in.gpr[RCX] = random64() % 3 + (random64() & 1 ? random64() << 32 : 0);
	if (!(job->points >> RSP & 1))
		in.gpr[RSP] = BUFFER + STACK + (random64() & 0x1c0);
	in.flags = 0x202 | (random64() & ARITHMETIC);
	for (int i = 0; i < BUFFER_BYTES; i += 8) {
		uint64_t bytes = job->flags & FILL ? GATES + i / 8 * GATE_BYTES : random64();

		memcpy(original + i, &bytes, 8);
	}
	for (int i = 160; i < 416; i += 8) {
		uint64_t bytes = random64();

		memcpy(fx_in + i, &bytes, 8);
	}
}

/* Chance (rdtsc) and what the kernel does in between make two equal runs differ. */
static int differs(const struct job *job, struct outcome *first)
{
	static struct outcome again, moved;

	once(IMAGE + job->at, first);
	once(CODE + job->patch, &moved);
	once(IMAGE + job->at, &again);
	if (first->faulted != moved.faulted)
		return 1;
	for (int i = 0; i < WORDS; i++)
		if (first->word[i] != moved.word[i] && first->word[i] == again.word[i])
			return 1;
	return 0;
}

static const char *judge(const struct job *job, uint64_t *ways)
{
	static struct outcome first;
	int rounds = job->flags & COUNT ? COUNT_ROUNDS : ROUNDS, round = 0;

	for (int attempt = 0; attempt < ATTEMPTS && round < rounds; attempt++) {
		int repeat = 0;

		draw(job);
		while (differs(job, &first))
			if (++repeat == REPEATS)
				return "differs";
		if (!first.faulted) {
			*ways |= first.word[17] & 0xff;
			round++;
		}
	}
	return round ? "same" : "faults";
}

/* Each says that it was gone through: movq $4 + (number << 8), WENT; jmp *IMAGE+16. */
static void build_gates(void)
{
	for (uint32_t i = 0; i < BUFFER_BYTES / 8; i++) {
		uint8_t *gate = (uint8_t *)GATES + i * GATE_BYTES;
		const uint32_t words[2] = { WENT, 4 + (i << 8) }, out_of_here = IMAGE + 16;

		memcpy(gate, "\x48\xc7\x04\x25", 4);
		memcpy(gate + 4, words, 8);
		memcpy(gate + 12, "\xff\x24\x25", 3);
		memcpy(gate + 15, &out_of_here, 4);
	}
}

int main(int argc, char **argv)
{
	void (*const exits[3])(void) = { behind, taken, away };
	const int all = PROT_READ | PROT_WRITE | PROT_EXEC;
	struct head head;
	struct job job;

	seed = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	alarm(600);
	if (fread(&head, sizeof(head), 1, stdin) != 1 || !map(IMAGE, head.image_bytes, all) ||
	    !map(CODE, head.code_bytes, all) || !map(BUFFER, BUFFER_BYTES + SLACK, PROT_READ | PROT_WRITE) ||
	    !map(GATES, WENT + 8 - GATES, all) ||
	    syscall(SYS_arch_prctl, ARCH_SET_GS, BUFFER - PERCPU_START)) {
		perror("setup");
		return 2;
	}
	if (fread((void *)IMAGE, 1, head.image_bytes, stdin) != head.image_bytes ||
	    fread((void *)CODE, 1, head.code_bytes, stdin) != head.code_bytes) {
		fprintf(stderr, "too short\n");
		return 2;
	}
	memcpy((void *)IMAGE, exits, sizeof(exits));
	build_gates();
	catch_faults();
	asm volatile("fxsave %0" : "=m"(fx_clean));
	memcpy(fx_in, fx_clean, sizeof(fx_in));
	while (head.cases-- > 0) {
		const char *word;
		uint64_t ways = 0;

		if (fread(&job, sizeof(job), 1, stdin) != 1) {
			fprintf(stderr, "too few cases\n");
			return 2;
		}
		word = judge(&job, &ways);
		printf("%s %d\n", word, (int)ways);
	}
	return 0;
}
