/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * For programs that run instructions which may fault: memory at an address of
 * their own, and a way back from a fault.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mman.h>

static sigjmp_buf fault;

static void caught(int number)
{
	(void)number;
	siglongjmp(fault, 1);
}

/* From now on a fault goes to where `fault` was set, on a stack of its own. */
static void catch_faults(void)
{
	static char signal_stack[65536];
	const stack_t stack = { .ss_sp = signal_stack, .ss_size = sizeof(signal_stack) };
	const struct sigaction action = { .sa_handler = caught, .sa_flags = SA_ONSTACK | SA_NODEFER };
	static const int signals[] = { SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP };

	sigaltstack(&stack, NULL);
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		sigaction(signals[i], &action, NULL);
}

static int map(unsigned long at, size_t bytes, int protection)
{
	return mmap((void *)at, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == (void *)at;
}

#endif
