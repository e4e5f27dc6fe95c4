/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Runs the code of a span as the kernel would: what is at the entry, at a way
 * out, and at a switch from one thread to another.
 *
 * On standard input, struct head, then the three pieces of code, which end in
 * ret, then `events` times struct event. On standard output, for each of them
 * struct result, then all slots. An event runs a piece of code, with the stack
 * where it says and a state that it gives; EVENT_BEGIN runs none: the slots
 * become zero and the frame word `since` is now.
 *
 * With `threads`, there are no events: so many threads call at once, `calls`
 * times each, from stacks of their own, recursively and as somebody whose
 * thread is switched out in between. Then all slots of all of them together.
 *
 * A CPU's arena is that of probes.c; frame words are at FRAMES, between pages
 * that nobody may touch. A fault ends it all.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <x86intrin.h>
#include "machine.h"

#define CURRENT		8
#define SLOTS		4096
#define MAX_SLOTS	8192
#define MAX_CODE	65536
#define PIECES		3

#define STACKS		0x100000000000ul
#define STACK_BYTES	0x10000ul
#define FRAMES		0x200000001000ul
#define TASKS		0x300000000000ul
#define TASK_BYTES	0x2000ul

#define SINCE		0
#define SCALE		1
#define EVENT_BEGIN	PIECES
#define DEPTH		6

struct head {
	uint32_t length[PIECES], frame_words, slots, events, threads, calls;
	uint32_t distance[2];	/* from the stack to the return address, at entry and way out */
	uint64_t scale;
};

struct event {
	uint32_t what, task;
	struct state state;
};

struct result {
	uint64_t before, after;	/* ticks */
	struct state state;
};

static struct head head;
static uint64_t *frames;
static uint8_t *code[PIECES];
static uint8_t *arenas[16];

void *code_pointer;

void run(void);
asm(".globl run\n"
    "run:\n"
    KEEP
    LOAD_LOW
    LOAD_RSP
    LOAD_HIGH
    "	call *code_pointer(%rip)\n"
    SAVE
    SAVE_FLAGS
    "	mov saved_rsp(%rip), %rsp\n"
    GIVE_BACK);

/* So many bytes that start at `at`, or end there, between pages that nobody may touch. */
static uint8_t *memory(uint64_t at, size_t bytes, int protection)
{
	size_t pages = (bytes + 4095) & ~4095ul;
	uint8_t *all = mmap((void *)(at ? at - 4096 : 0), pages + 8192, PROT_NONE,
			    MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	if (all == MAP_FAILED || mprotect(all + 4096, pages, protection)) {
		perror("mmap");
		exit(2);
	}
	return all + 4096;
}

static void set_task(uint8_t *arena, uint32_t task)
{
	uint64_t current = TASKS + task * TASK_BYTES;

	memcpy(arena + CURRENT, &current, sizeof(current));
}

static void play(void)
{
	uint64_t *slots = (uint64_t *)(arenas[0] + SLOTS);
	struct event event;
	uint32_t i;

	if (syscall(SYS_arch_prctl, ARCH_SET_GS, arenas[0]))
		exit(2);
	for (i = 0; i < head.events; i++) {
		struct result result;

		if (!take(&event, sizeof(event)))
			exit(2);
		set_task(arenas[0], event.task);
		in = event.state;
		result.before = __rdtsc();
		if (event.what == EVENT_BEGIN) {
			memset(slots, 0, MAX_SLOTS * 8);
			frames[SINCE] = __rdtsc();
			out = in;
		} else {
			code_pointer = code[event.what];
			run();
		}
		result.after = __rdtsc();
		result.state = out;
		give(&result, sizeof(result));
		give(slots, head.slots * 8);
	}
}

/* Code that may use all registers, with the stack here. */
static void run_at(void *piece, uint64_t stack, uint64_t rdi, uint64_t rsi)
{
	asm volatile("push %%rbp; push %%rbx\n"
		     "	mov %%rsp, 8(%%rcx)\n"
		     "	mov %%rcx, %%rsp\n"
		     "	call *%%rax\n"
		     "	mov 8(%%rsp), %%rsp\n"
		     "	pop %%rbx; pop %%rbp\n"
		     : "+a" (piece), "+c" (stack), "+D" (rdi), "+S" (rsi)
		     :: "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}

/* One call, and calls in it; the thread is switched out in some of them. */
static void call(uint32_t number, uint64_t address, unsigned int *chance, int depth)
{
	uint64_t task = TASKS + number * TASK_BYTES, other = TASKS + (100 + number) * TASK_BYTES;

	run_at(code[0], address - head.distance[0] + 8, number, depth);
	if (depth && rand_r(chance) % 2)
		call(number, address - 0x400 + rand_r(chance) % 8 * 8, chance, depth - 1);
	if (rand_r(chance) % 4 == 0) {
		run_at(code[2], address - 0x300, task, other);
		if (rand_r(chance) % 8 == 0)
			sched_yield();
		run_at(code[2], address - 0x300, other, task);
	}
	run_at(code[1], address - head.distance[1] + 8, 0, 0);
}

static void *many(void *argument)
{
	uint32_t number = (uint32_t)(uintptr_t)argument, i;
	uint64_t stack = STACKS + (number + 1) * STACK_BYTES;
	unsigned int chance = number + 1;

	if (syscall(SYS_arch_prctl, ARCH_SET_GS, arenas[number]))
		exit(2);
	set_task(arenas[number], number);
	for (i = 0; i < head.calls; i++)
		call(number, stack - 0x800, &chance, DEPTH);
	return NULL;
}

int main(void)
{
	pthread_t thread[16];
	uint32_t i, j;

	if (!take(&head, sizeof(head)) || head.slots > MAX_SLOTS || head.threads > 16)
		return 2;
	for (i = 0; i < PIECES; i++) {
		code[i] = memory(0, MAX_CODE, PROT_READ | PROT_WRITE | PROT_EXEC);
		if (head.length[i] > MAX_CODE || !take(code[i], head.length[i]))
			return 2;
	}
	memory(STACKS, 17 * STACK_BYTES, PROT_READ | PROT_WRITE);
	memory(TASKS, 200 * TASK_BYTES, PROT_READ);
	frames = (uint64_t *)memory(FRAMES, head.frame_words * 8, PROT_READ | PROT_WRITE);
	frames[SINCE] = 1;
	frames[SCALE] = head.scale;
	for (i = 0; i < 16; i++)
		arenas[i] = memory(0, SLOTS + MAX_SLOTS * 8, PROT_READ | PROT_WRITE);
	if (!head.threads) {
		play();
		return 0;
	}
	for (i = 0; i < head.threads; i++)
		if (pthread_create(&thread[i], NULL, many, (void *)(uintptr_t)i))
			return 2;
	for (i = 0; i < head.threads; i++)
		pthread_join(thread[i], NULL);
	for (j = 0; j < head.slots; j++) {
		uint64_t sum = 0;

		for (i = 0; i < head.threads; i++)
			sum += ((uint64_t *)(arenas[i] + SLOTS))[j];
		give(&sum, sizeof(sum));
	}
	give(frames, head.frame_words * 8);
	return 0;
}
