// SPDX-License-Identifier: GPL-2.0-only
/* misfit: a site that does not suit in, and the kernel's lists; why, out. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "misfit.h"

#define KPROBES		"/sys/kernel/debug/kprobes/list"
#define TRACED		"/sys/kernel/tracing/enabled_functions"

/* Bytes from a kprobe on that its jump and its copies may take. */
#define KPROBE_REACH	20

/* The kernel's own lines are shorter. */
#define LINE_BYTES	512

#define INT3		0xcc
#define JMP8		0xeb
#define JMP32		0xe9
#define CALL32		0xe8

void misfit_name(struct place *places, size_t count)
{
	FILE *file = fopen("/proc/kallsyms", "re");
	char line[LINE_BYTES], name[100], type;
	uint64_t address;
	size_t i;

	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%" SCNx64 " %c %99s", &address, &type,
			   name) != 3 || !address || !strchr("tTwW", type))
			continue;
		for (i = 0; i < count; i++) {
			if (address > places[i].address ||
			    address <= places[i].base)
				continue;
			places[i].base = address;
			snprintf(places[i].symbol, sizeof(places[i].symbol),
				 "%s+0x%" PRIx64, name,
				 places[i].address - address);
		}
	}
	if (file)
		fclose(file);
}

int misfit_kprobe_line(const char *line, uint64_t *address, int *disabled,
		       int *optimized)
{
	char kind;

	if (sscanf(line, "%" SCNx64 " %c", address, &kind) != 2 || !*address)
		return -1;
	*disabled = strstr(line, "[DISABLED]") != NULL;
	*optimized = strstr(line, "[OPTIMIZED]") != NULL;
	return 0;
}

/* The kprobe that is at @address, or reaches [address, address + length). */
static int find_kprobe(uint64_t address, uint8_t length, char *ret)
{
	FILE *file = fopen(KPROBES, "re");
	int disabled, optimized, found = 0;
	char line[LINE_BYTES];
	uint64_t at;

	while (file && !found && fgets(line, sizeof(line), file)) {
		if (misfit_kprobe_line(line, &at, &disabled, &optimized) ||
		    at >= address + length || at + KPROBE_REACH <= address)
			continue;
		found = 1;
		snprintf(ret, MISFIT_TEXT, "%s kprobe at 0x%" PRIx64 "%s",
			 disabled ? "a disabled" : optimized ? "an optimized" :
			 "a", at, at < address ?
			 ", whose jump could reach the site" : "");
	}
	if (file)
		fclose(file);
	return found;
}

/* Is the function that the place is in traced or livepatched? */
static int is_traced(const struct place *place)
{
	size_t length = strcspn(place->symbol, "+");
	FILE *file = fopen(TRACED, "re");
	char line[LINE_BYTES];
	int found = 0;

	while (file && length && !found && fgets(line, sizeof(line), file))
		found = !strncmp(line, place->symbol, length) &&
			line[length] == ' ';
	if (file)
		fclose(file);
	return found;
}

void misfit_why(const struct kerninst_misfit *misfit,
		const struct kerninst_site *site, const struct place *place,
		char ret[MISFIT_TEXT])
{
	const uint8_t *live = misfit->live;

	if (misfit->reason == KERNINST_E_REACH) {
		strcpy(ret, "the patch area of this boot is too far away");
		return;
	}
	if (find_kprobe(place->address, site->length, ret))
		return;
	if (misfit->reason == KERNINST_E_KPROBE) {
		snprintf(ret, MISFIT_TEXT, "a kprobe at 0x%" PRIx64 ", enabled or not",
			 (uint64_t)misfit->other);
		return;
	}
	if (live[0] == INT3)
		strcpy(ret, "an int3: a kprobe or a debugger");
	else if (is_traced(place))
		strcpy(ret, "its function is traced or livepatched: perhaps that");
	else if (live[0] == JMP32 || live[0] == JMP8)
		strcpy(ret, "a jump that was not there: an optimized kprobe, a static key, or another patcher");
	else if (live[0] == CALL32)
		strcpy(ret, "another call: perhaps a static call or a tracer");
	else if (live[0] == 0x0f || live[0] == 0x66 || live[0] == 0x90)
		strcpy(ret, "perhaps a static key that flipped, or an alternative");
	else
		strcpy(ret, "other text than planned for");
}
