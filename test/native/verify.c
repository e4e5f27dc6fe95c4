/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Runs probe programs that the verifier has accepted, and holds the processor
 * against what it claims to know of each at its end. Random registers, flags,
 * slots and frame words; its own stack between pages that nobody may touch; slots at the
 * borders of such pages, and others beside them that must stay.
 *
 * Standard input: u32 count of ranges, {u32 first, u32 count} of each; then
 * for each program struct claims and its code, without an end: control must
 * run out of it. Prints a line per failure, with the program's index, and "N
 * programs, M failures" at the end. Programs run in a child, and after a signal
 * in another one from the next program on.
 *
 * Arguments: seed, rounds a program.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "machine.h"

#define PAGE 4096ul

/* Where everything lies: test/verify.test.ts has the same. */
#define GS_BASE 0x100000000000ul
#define CURRENT 0x1ff8ul	/* at the end of a page */
#define CPU 0x3000ul		/* at the start of one */
#define HEAP 0x10000ul		/* four pages: the first and third are there */
#define TASK 0x110000000000ul	/* one page; pid and tgid are its last words */
#define STACK 0x120000000000ul
#define CODE 0x130000000000ul
#define FRAMES 0x140000000000ul	/* one page */

#define SLOTS 512
#define PUSHED 256		/* bytes that may be pushed */
#define RETURN_AT 8		/* from rsp: the highest word that may be read */
#define MAX_CODE 65536
#define MAX_RANGES 64

struct claims {
	uint32_t length;	/* of the code */
	uint32_t flags;		/* that are what they were: bit 16.. CF PF AF ZF SF OF */
	uint32_t bits;		/* registers whose low byte is 0 or 1 */
	uint32_t reserved;
	uint8_t origin[16];	/* the register that a register was at first, or 255 */
	uint32_t kept[16];	/* flags that lie in a register's second byte; OF in its first */
	uint64_t low[16];
	uint64_t high[16];
};

struct range {
	uint32_t first, count;
};

struct progress {
	volatile long next;	/* program to be run */
	volatile long failures;
};

void *code_pointer;

void run(void);
void back(void);
asm(".globl run, back\n"
    "run:\n"
    KEEP
    LOAD_RSP
    LOAD_LOW
    LOAD_HIGH
    "	jmp *code_pointer(%rip)\n"
    "back:\n"
    SAVE
    "	mov saved_rsp(%rip), %rsp\n"
    SAVE_FLAGS
    GIVE_BACK);

static const int flag_bit[6] = { 0, 2, 4, 6, 7, 11 };

static struct range ranges[MAX_RANGES];
static uint32_t range_count;
static uint64_t shadow[4 * SLOTS];
static uint64_t *const heap = (uint64_t *)(GS_BASE + HEAP);
static uint64_t *const frames = (uint64_t *)FRAMES;

static void map(unsigned long at, unsigned long bytes, int prot)
{
	if (mmap((void *)at, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) != (void *)at) {
		perror("mmap");
		exit(2);
	}
}

/* Numbers that programs tell apart: small ones, those around powers of two, any. */
static uint64_t number(void)
{
	uint64_t r = random64();

	switch (r & 7) {
	case 0:
		return (r >> 8) & 15;
	case 1:
		return (r >> 8) & 1023;
	case 2:
	case 3:
		return (1ul << ((r >> 8) & 63)) + (r >> 20 & 3) - 1;
	case 4:
		return -((r >> 8) & 255);
	case 5:
		return random64() >> ((r >> 8) & 63);
	case 6:
		return (uint32_t)random64();
	default:
		return random64();
	}
}

static const char *judge(const struct claims *claims)
{
	if (out.gpr[4] != in.gpr[4])
		return "rsp";
	for (int i = 0; i < 16; i++) {
		uint64_t value = out.gpr[i];

		if (i == 4)
			continue;
		if (claims->origin[i] < 16 && value != in.gpr[claims->origin[i]])
			return "a register is not what it was";
		if (value < claims->low[i] || value > claims->high[i])
			return "a register is outside its interval";
		if ((claims->bits >> i & 1) && (value & 0xff) > 1)
			return "a low byte is not 0 or 1";
		for (int f = 0; f < 6; f++) {
			int was = in.flags >> flag_bit[f] & 1;
			int is = f == 5 ? (value & 0xff) == 1 : value >> (8 + flag_bit[f]) & 1;

			if ((claims->kept[i] >> (16 + f) & 1) && was != is)
				return "a flag is not in its word";
		}
	}
	for (int f = 0; f < 6; f++)
		if ((claims->flags >> (16 + f) & 1) && ((in.flags ^ out.flags) >> flag_bit[f] & 1))
			return "a flag is not what it was";
	if ((in.flags ^ out.flags) & ~ARITHMETIC)
		return "another flag";
	return NULL;
}

static const char *try(const struct claims *claims, int round)
{
	static uint64_t above[PAGE / 8];
	uint64_t rsp = STACK + PAGE + (round & 1 ? PAGE - RETURN_AT - 8 : PUSHED);
	size_t kept = (STACK + 2 * PAGE - rsp) / 8;
	uint64_t since, scale;
	const char *why;

	for (int i = 0; i < 16; i++)
		in.gpr[i] = number();
	if (round & 2)
		in.gpr[number() & 15] = in.gpr[number() & 15];
	in.gpr[4] = rsp;
	in.flags = 0x202 | (random64() & ARITHMETIC);
	for (uint32_t r = 0; r < range_count; r++)
		for (uint32_t s = 0; s < ranges[r].count; s++)
			heap[ranges[r].first + s] = number();
	for (size_t i = 0; i < kept; i++)
		((uint64_t *)rsp)[i] = above[i] = random64();
	for (int i = 0; i < SLOTS; i++)
		frames[i] = number();
	since = frames[0];
	scale = frames[1];
	*(uint32_t *)(GS_BASE + CPU) = random64() & 8191;
	*(uint64_t *)(TASK + PAGE - 8) = random64();
	run();
	why = judge(claims);
	if (why)
		return why;
	if (memcmp(above, (void *)rsp, 8 * kept))
		return "the stack";
	if (frames[0] != since || frames[1] != scale)
		return "a frame word of the module's";
	for (uint32_t r = 0; r < range_count; r++)
		memcpy(shadow + ranges[r].first, heap + ranges[r].first, 8 * ranges[r].count);
	if (memcmp(shadow, heap, PAGE) || memcmp(shadow + 2 * SLOTS, heap + 2 * SLOTS, PAGE))
		return "a slot of another";
	return NULL;
}

static void report(struct progress *progress, long index, const char *why)
{
	printf("program %ld: %s\n", index, why);
	fflush(stdout);
	progress->failures++;
}

int main(int argc, char **argv)
{
	static const uint8_t jump[6] = { 0xff, 0x25 };
	struct progress *progress = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int rounds = argc > 2 ? atoi(argv[2]) : 8;
	uint64_t first_seed = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 1;
	uint8_t *input = NULL, *at, *end;
	size_t size = 0, room = 0;
	long count = 0;
	void *target = back;

	for (;;) {
		ssize_t got;

		if (size == room) {
			room = room ? 2 * room : 1 << 20;
			input = realloc(input, room);
			if (!input)
				return 2;
		}
		got = read(0, input + size, room - size);
		if (got < 0)
			return 2;
		if (got == 0)
			break;
		size += got;
	}
	at = input;
	end = input + size;
	memcpy(&range_count, at, 4);
	if (range_count > MAX_RANGES || size < 4 + 8 * (size_t)range_count)
		return 2;
	memcpy(ranges, at + 4, 8 * range_count);
	at += 4 + 8 * range_count;

	map(GS_BASE + CURRENT / PAGE * PAGE, PAGE, PROT_READ | PROT_WRITE);
	map(GS_BASE + CPU, PAGE, PROT_READ | PROT_WRITE);
	map(GS_BASE + HEAP, PAGE, PROT_READ | PROT_WRITE);
	map(GS_BASE + HEAP + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	map(TASK, PAGE, PROT_READ | PROT_WRITE);
	map(STACK + PAGE, PAGE, PROT_READ | PROT_WRITE);
	map(FRAMES, PAGE, PROT_READ | PROT_WRITE);
	map(CODE, MAX_CODE + PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	code_pointer = (void *)CODE;
	*(uint64_t *)(GS_BASE + CURRENT) = TASK;
	seed = first_seed;
	for (int i = 0; i < SLOTS; i++) {
		shadow[i] = heap[i] = random64();
		shadow[2 * SLOTS + i] = heap[2 * SLOTS + i] = random64();
	}

	while (at < end) {
		pid_t child = fork();
		int status;

		if (child < 0)
			return 2;
		if (child == 0) {
			if (syscall(SYS_arch_prctl, ARCH_SET_GS, GS_BASE))
				_exit(2);
			for (long index = 0; at < end; index++) {
				struct claims claims;

				memcpy(&claims, at, sizeof(claims));
				at += sizeof(claims);
				if (claims.length > MAX_CODE || claims.length > (size_t)(end - at))
					_exit(2);
				if (index >= progress->next) {
					if (index % 256 == 0 || index == progress->next)
						alarm(60);
					progress->next = index;
					seed = (first_seed ^ (index + 1) * 0x9e3779b97f4a7c15ul) | 1;
					memcpy((void *)CODE, at, claims.length);
					memcpy((uint8_t *)CODE + claims.length, jump, sizeof(jump));
					memcpy((uint8_t *)CODE + claims.length + sizeof(jump), &target, sizeof(target));
					for (int round = 0; round < rounds; round++) {
						const char *why = try(&claims, round);

						if (why) {
							report(progress, index, why);
							/* Nothing here is to be relied on now. */
							progress->next = index + 1;
							_exit(1);
						}
					}
				}
				at += claims.length;
			}
			_exit(0);
		}
		if (waitpid(child, &status, 0) != child)
			return 2;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
			break;
		if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
			return 2;
		if (WIFSIGNALED(status)) {
			char why[32];

			snprintf(why, sizeof(why), "signal %d", WTERMSIG(status));
			report(progress, progress->next, why);
			progress->next++;
		}
		if (progress->failures > 100)
			break;
	}
	for (at = input + 4 + 8 * range_count; at < end; count++) {
		uint32_t length;

		memcpy(&length, at, 4);
		at += sizeof(struct claims) + length;
	}
	printf("%ld programs, %ld failures\n", count, progress->failures);
	return progress->failures != 0;
}
