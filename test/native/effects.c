/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Holds what is claimed of instructions against the processor: single ones, or
 * blocks of them. A claim is three sets: what they may read, what they certainly
 * overwrite (kills), what they may write. It is wrong when
 *
 *	something outside `writes` has changed,
 *	something outside `reads` is changed beforehand, and the outcome differs
 *	elsewhere, or
 *	something in `kills` but not in `reads` is changed beforehand, and one
 *	sees it afterwards.
 *
 * A case on standard input is struct claim, then `length` bytes of code, which
 * goes on to what is behind it. Bit i (0..15) of a set is the general
 * register i, bit 16.. the flags CF PF AF ZF SF OF. Registers in `base` are
 * given addresses in a buffer of random bytes, whose place the first argument
 * asks for ("where" prints it); those in `index` small multiples of 16. What is
 * in `unsteady` is not looked at afterwards (flags that are left undefined, what
 * rdrand leaves), nor what differs between two runs from the same state.
 *
 * Prints "CASE WORD" for each case that is not as claimed or could not be run,
 * WORD being reads, kills, writes or faults; then "N ran, M runs".
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "faults.h"
#include "machine.h"

#define BUFFER		0x20000000ul	/* an address that fits every form of operand */
#define BUFFER_BYTES	4096
#define SLACK		16384		/* for what saves a processor's whole state */
#define CODE		0x20100000ul
#define RETURN_SLOT	(CODE + 4096 - 8)
#define ROUNDS		6
#define ATTEMPTS	60	/* division rarely succeeds */
#define REPEATS		4	/* of what is not as claimed */
#define MAX_LENGTH	512		/* a block of assembly that users write */
#define NAMES		22
#define RSP		4

struct claim {
	uint32_t reads, kills, writes, unsteady, base, index, length;
};

void *code_pointer = (void *)CODE;
uint8_t clean[512] __attribute__((aligned(16)));

/* The stack is the instruction's until its outcome has been saved. */
void run(void);
void after(void);
asm(".globl run, after\n"
    "run:\n"
    KEEP
    "	fxrstor clean(%rip)\n"
    LOAD_LOW
    LOAD_RSP
    LOAD_HIGH
    "	jmp *code_pointer(%rip)\n"
    "after:\n"
    SAVE
    "	mov saved_rsp(%rip), %rsp\n"
    SAVE_FLAGS
    "	cld\n"
    GIVE_BACK);

static const int flag_bit[6] = { 0, 2, 4, 6, 7, 11 };
static uint8_t *const buffer = (uint8_t *)BUFFER;
static uint8_t original[BUFFER_BYTES];
static long runs;

/* What a run leaves behind: 16 registers, 6 flags, the memory. */
struct outcome {
	uint64_t value[NAMES];
	uint8_t memory[BUFFER_BYTES];
};

/* 0 when the instruction faults. */
static int once(struct outcome *o)
{
	memcpy(buffer, original, BUFFER_BYTES);
	if (sigsetjmp(fault, 0))
		return 0;
	runs++;
	run();
	memcpy(o->value, out.gpr, sizeof(out.gpr));
	for (int i = 0; i < 6; i++)
		o->value[16 + i] = out.flags >> flag_bit[i] & 1;
	memcpy(o->memory, buffer, BUFFER_BYTES);
	return 1;
}

static uint64_t value_before(int name)
{
	return name < 16 ? in.gpr[name] : in.flags >> flag_bit[name - 16] & 1;
}

static uint64_t fresh(const struct claim *c, int name)
{
	if (c->base >> name & 1)
		return BUFFER + 1024 + (random64() & 0x3c0);
	if (c->index >> name & 1)
		return (random64() & 7) * 16;
	/* Small numbers make division and the ends of ranges likely. */
	return random64() & 3 ? random64() : random64() & 0xff;
}

/* Makes something else of a register or flag. */
static void change(const struct claim *c, int name)
{
	if (name >= 16) {
		in.flags ^= 1ull << flag_bit[name - 16];
	} else {
		uint64_t old = in.gpr[name];

		while (in.gpr[name] == old)
			in.gpr[name] = fresh(c, name);
	}
}

/*
 * Holds a claim against runs from one state: `in` and `original`, which are as
 * before afterwards. NULL when all is as claimed.
 */
static const char *compare(const struct claim *c, int *ran)
{
	static struct outcome first, again, other;
	const struct state start = in;
	uint32_t unsteady = c->unsteady;
	const char *word = NULL;
	int memory_unsteady;

	if (!once(&first) || !once(&again))
		return NULL;
	*ran = 1;
	memory_unsteady = memcmp(first.memory, again.memory, BUFFER_BYTES);
	for (int i = 0; i < NAMES; i++) {
		if (first.value[i] != again.value[i])
			unsteady |= 1u << i;
		if (!(c->writes >> i & 1) && first.value[i] != value_before(i))
			return "writes";
	}
	for (int i = 0; i < NAMES && word == NULL; i++) {
		if (c->reads >> i & 1)
			continue;
		change(c, i);
		if (!once(&other))
			word = "reads";
		for (int j = 0; j < NAMES && word == NULL; j++)
			if (j != i && !(unsteady >> j & 1) && other.value[j] != first.value[j])
				word = "reads";
		if (word == NULL && !memory_unsteady && memcmp(other.memory, first.memory, BUFFER_BYTES))
			word = "reads";
		if (word == NULL && (c->kills >> i & 1) && !(unsteady >> i & 1) && other.value[i] != first.value[i])
			word = "kills";
		in = start;
	}
	return word;
}

/*
 * NULL when all is as claimed. What is not must be so again and again from the
 * same state with the same changes: between two runs the kernel may have come
 * in between, and xgetbv for one sees that.
 */
static const char *judge(const struct claim *c, int *ran)
{
	for (int attempt = 0, round = 0; attempt < ATTEMPTS && round < ROUNDS; attempt++) {
		const char *word = NULL;
		uint64_t draws;
		int repeat = 0, ran_now = 0;

		for (int i = 0; i < 16; i++)
			in.gpr[i] = fresh(c, i);
		in.flags = 0x202 | (random64() & ARITHMETIC);
		for (int i = 0; i < BUFFER_BYTES; i += 8) {
			uint64_t bytes = random64();

			memcpy(original + i, &bytes, 8);
		}
		draws = seed;
		do {
			seed = draws;
			word = compare(c, &ran_now);
		} while (word != NULL && ++repeat < REPEATS);
		if (word != NULL)
			return word;
		*ran |= ran_now;
		round += ran_now;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	uint8_t *code = (uint8_t *)CODE;
	void (*back)(void) = after;
	struct claim claim;
	long ran_cases = 0;

	if (argc > 1 && !strcmp(argv[1], "where")) {
		printf("%lu %lu\n", BUFFER + 1024, CODE);
		return 0;
	}
	seed = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	if (!map(BUFFER, BUFFER_BYTES + SLACK, PROT_READ | PROT_WRITE) ||
	    !map(CODE, 4096, PROT_READ | PROT_WRITE | PROT_EXEC)) {
		perror("setup");
		return 2;
	}
	catch_faults();
	asm volatile("fxsave %0" : "=m"(clean));
	memcpy((void *)RETURN_SLOT, &back, sizeof(back));
	for (long number = 0; fread(&claim, sizeof(claim), 1, stdin) == 1; number++) {
		const uint32_t slot = RETURN_SLOT;
		const char *word;
		int ran = 0;

		if (claim.length > MAX_LENGTH || fread(code, 1, claim.length, stdin) != claim.length) {
			fprintf(stderr, "bad case\n");
			return 2;
		}
		/* jmp *slot */
		memcpy(code + claim.length, "\xff\x24\x25", 3);
		memcpy(code + claim.length + 3, &slot, 4);
		word = judge(&claim, &ran);
		ran_cases += ran;
		if (word == NULL && !ran)
			word = "faults";
		if (word != NULL)
			printf("%ld %s\n", number, word);
	}
	printf("%ld ran, %ld runs\n", ran_cases, runs);
	return 0;
}
