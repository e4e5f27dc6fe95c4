// SPDX-License-Identifier: GPL-2.0-only
/*
 * misfit: a site that does not suit in, and who else is there; why, out.
 *
 * What is in the kernel's lists is said as it is. What is not is guessed from
 * the bytes: the kernel writes few shapes over its own text.
 *
 *	static key	0f 1f 44 00 00 or 66 90 <-> e9 rel32 or eb rel8
 *	static call	e8 or e9 rel32 with another target
 *	alternative	anything, nops at its end
 *
 * Such a guess fails where somebody else writes the same shapes; and none of
 * these places is a site, unless the plan knew the kernel's tables badly.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "misfit.h"

/* Bytes from a kprobe on that its jump, and its copies, may take. */
#define KPROBE_REACH	20

/* ftrace's call is one of a function's first instructions. */
#define ENTRY_BYTES	16

#define INT3		0xcc
#define JMP8		0xeb
#define JMP32		0xe9
#define CALL32		0xe8

static const uint8_t nop5[] = { 0x0f, 0x1f, 0x44, 0x00, 0x00 };
static const uint8_t nop2[] = { 0x66, 0x90 };
static const uint8_t nop[] = { 0x0f, 0x1f };	/* 3 bytes or more */

/* How far into its function a symbol says that it is. */
static uint64_t offset_of(const char *symbol)
{
	const char *plus = strchr(symbol, '+');

	return plus ? strtoull(plus + 1, NULL, 16) : UINT64_MAX;
}

static int starts(const uint8_t *bytes, const uint8_t *with, size_t size)
{
	return !memcmp(bytes, with, size);
}

/* One of the two is a nop and the other a jump of the same length. */
static int is_flip(const struct misfit *misfit)
{
	const uint8_t *old = misfit->expected, *new = misfit->live;

	return (misfit->length == 5 &&
		((starts(old, nop5, 5) && new[0] == JMP32) ||
		 (starts(new, nop5, 5) && old[0] == JMP32))) ||
	       (misfit->length == 2 &&
		((starts(old, nop2, 2) && new[0] == JMP8) ||
		 (starts(new, nop2, 2) && old[0] == JMP8)));
}

static int has_nop(const uint8_t *bytes, uint8_t length)
{
	return bytes[length - 1] == 0x90 || memmem(bytes, length, nop, 2);
}

__attribute__((format(printf, 2, 3)))
static void say(char ret[MISFIT_TEXT], const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(ret, MISFIT_TEXT, format, args);
	va_end(args);
}

static void say_kprobe(const struct misfit *misfit, const struct kprobe *kprobe,
		       const struct neighbours *all, char ret[MISFIT_TEXT])
{
	char symbol[SYMBOL_TEXT];

	neighbours_symbol(all, kprobe->at, symbol);
	say(ret, "%s kprobe%s at 0x%" PRIx64 " %.100s%s: unregister it",
	    kprobe->disabled ? "a disabled" : "a",
	    kprobe->optimized ? ", optimized to a jump," : "", kprobe->at,
	    symbol, kprobe->at < misfit->address ?
	    ", which may reach the site when it is optimized" : "");
}

/* The kprobe that is in the way, as the kernel lists it. */
static const struct kprobe *find_kprobe(const struct misfit *misfit,
					const struct neighbours *all)
{
	uint64_t end = misfit->address + misfit->length;
	uint64_t from = misfit->address - KPROBE_REACH + 1;
	const struct kprobe *kprobe, *last = NULL;

	if (misfit->other)
		return neighbours_kprobe(all, misfit->other,
					 misfit->other + 1);
	/* The nearest; one on an ftrace site writes nothing behind it. */
	while ((kprobe = neighbours_kprobe(all, from, end))) {
		if (!kprobe->traced || kprobe->at >= misfit->address)
			last = kprobe;
		from = kprobe->at + 1;
	}
	return last;
}

/* Where a new jump or call leads. Returns 0: it is none, or that tells nothing. */
static int say_target(const struct misfit *misfit,
		      const struct neighbours *all, char ret[MISFIT_TEXT])
{
	const struct module *module;
	char symbol[SYMBOL_TEXT];
	uint64_t target;
	int32_t disp;

	if ((misfit->live[0] != JMP32 && misfit->live[0] != CALL32) ||
	    misfit->length < 5 || !memcmp(misfit->live, misfit->expected, 5))
		return 0;
	memcpy(&disp, misfit->live + 1, sizeof(disp));
	target = misfit->address + 5 + (uint64_t)(int64_t)disp;
	module = neighbours_module(all, target);
	if (module) {
		say(ret, "the module %.60s has redirected it: remove what that module does here",
		    module->name);
		return 1;
	}
	/* Where symbols are hidden, all addresses look alike. */
	if (!misfit->symbol[0])
		return 0;
	neighbours_symbol(all, target, symbol);
	if (!symbol[0])
		say(ret, "it leads to 0x%" PRIx64 ", which is neither in the kernel nor in a module: looks like a trampoline of ftrace, BPF or a kprobe",
		    target);
	else if (misfit->live[0] != misfit->expected[0])
		return 0;
	else if (!offset_of(symbol))
		say(ret, "it leads to %.100s now: looks like a static call",
		    symbol);
	else
		say(ret, "it leads to %.100s now: other text than planned for",
		    symbol);
	return 1;
}

/* From the bytes alone. */
static const char *guess(const struct misfit *misfit)
{
	const uint8_t *old = misfit->expected, *new = misfit->live;

	if (new[0] == INT3 && old[0] != INT3)
		return "an int3 that is in no list of kprobes: looks like a debugger, or text that is being written";
	if (is_flip(misfit))
		return "looks like a static key that was flipped";
	if (misfit->length >= 5 && old[0] == new[0] &&
	    (new[0] == CALL32 || new[0] == JMP32))
		return "looks like a static call with another target";
	if (!old[0])
		return "another return than the plan knows: looks like a return thunk of some other mitigation";
	if (new[0] == JMP32 && old[0] != JMP32)
		return "a jump that nobody is known to have written: looks like a static key, or another patcher of kernel text";
	if (has_nop(new, misfit->length) && !has_nop(old, misfit->length))
		return "looks like an alternative that the kernel chose for this processor";
	return "other text than planned for";
}

void misfit_why(const struct misfit *misfit, const struct neighbours *all,
		char ret[MISFIT_TEXT])
{
	const struct kprobe *kprobe = all ? find_kprobe(misfit, all) : NULL;
	const char *patch;

	if (misfit->reason == KERNINST_E_REACH) {
		say(ret, "the patch area is too far away on this boot: reboot, or plan again");
		return;
	}
	if (kprobe) {
		say_kprobe(misfit, kprobe, all, ret);
		return;
	}
	if (misfit->reason == KERNINST_E_KPROBE) {
		say(ret, "a kprobe at 0x%" PRIx64 ", enabled or not: unregister it",
		    misfit->other);
		return;
	}
	patch = all ? neighbours_livepatch(all, misfit->symbol) : NULL;
	if (patch && offset_of(misfit->symbol) < ENTRY_BYTES)
		say(ret, "the livepatch %.60s replaces this function", patch);
	else if (all && offset_of(misfit->symbol) < ENTRY_BYTES &&
		 neighbours_traced(all, misfit->symbol))
		say(ret, "ftrace calls somebody from this function's entry");
	else if (!all || !say_target(misfit, all, ret))
		say(ret, "%s%s%.60s", guess(misfit),
		    patch ? "; its function is replaced by the livepatch " : "",
		    patch ? patch : "");
}
