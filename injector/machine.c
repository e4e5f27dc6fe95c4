// SPDX-License-Identifier: GPL-2.0-only
/* machine: files of /proc and /sys in, facts out. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include "file.h"
#include "machine.h"

#define NOTE_GNU_BUILD_ID	3
#define BUILD_ID_BYTES		20

/* Longer files of the kernel's are read in part. */
#define PEEK_BYTES		(64u << 10)

int machine_build_id(const uint8_t *notes, size_t size, uint8_t ret[20])
{
	size_t at = 0, name, desc;
	uint32_t head[3];	/* lengths of name and description, type */

	while (size - at >= sizeof(head)) {
		memcpy(head, notes + at, sizeof(head));
		at += sizeof(head);
		if (head[0] > size || head[1] > size)
			return -1;
		name = at;
		desc = name + (head[0] + 3u) / 4 * 4;
		at = desc + (head[1] + 3u) / 4 * 4;
		if (at > size)
			return -1;
		if (head[2] == NOTE_GNU_BUILD_ID && head[0] == 4 &&
		    !memcmp(notes + name, "GNU", 4) &&
		    head[1] == BUILD_ID_BYTES) {
			memcpy(ret, notes + desc, BUILD_ID_BYTES);
			return 0;
		}
	}
	return -1;
}

int machine_running_build_id(uint8_t ret[20])
{
	char *notes = malloc(PEEK_BYTES);
	long size;
	int code = -1;

	if (!notes)
		return -1;
	size = file_peek("/sys/kernel/notes", notes, PEEK_BYTES);
	if (size > 0)
		code = machine_build_id((const uint8_t *)notes, (size_t)size,
					ret);
	free(notes);
	return code;
}

int machine_chosen(const char *line, char open, char close, char *ret,
		   size_t room)
{
	const char *from = strchr(line, open), *to;

	to = from ? strchr(from, close) : NULL;
	if (!to || (size_t)(to - from) > room)
		return -1;
	memcpy(ret, from + 1, (size_t)(to - from) - 1);
	ret[to - from - 1] = 0;
	return 0;
}

void machine_lockdown(char ret[MACHINE_TEXT])
{
	char line[MACHINE_TEXT];

	if (file_line("/sys/kernel/security/lockdown", line, sizeof(line)) ||
	    machine_chosen(line, '[', ']', ret, MACHINE_TEXT))
		strcpy(ret, "unknown");
}

void machine_preemption(char ret[MACHINE_TEXT])
{
	static const char *const models[] = {
		"PREEMPT_RT", "PREEMPT_DYNAMIC", "PREEMPT" };
	char line[MACHINE_TEXT];
	struct utsname names;
	size_t i;

	if (!file_line("/sys/kernel/debug/sched/preempt", line, sizeof(line)) &&
	    !machine_chosen(line, '(', ')', ret, MACHINE_TEXT))
		return;
	strcpy(ret, "unknown");
	if (uname(&names))
		return;
	strcpy(ret, "none or voluntary");
	for (i = 0; i < sizeof(models) / sizeof(*models); i++) {
		if (strstr(names.version, models[i])) {
			snprintf(ret, MACHINE_TEXT, "%s", models[i]);
			return;
		}
	}
}

int machine_enforces_signatures(void)
{
	char line[MACHINE_TEXT];

	if (file_line("/sys/module/module/parameters/sig_enforce", line,
		      sizeof(line)))
		return -1;
	return line[0] == 'Y';
}

int machine_module_unsigned(void)
{
	char line[MACHINE_TEXT];

	if (file_line("/sys/module/kerninst/taint", line, sizeof(line)))
		return -1;
	return strchr(line, 'E') != NULL;
}

int machine_call_depth_tracking(void)
{
	char line[MACHINE_TEXT];

	return !file_line("/sys/devices/system/cpu/vulnerabilities/retbleed",
			  line, sizeof(line)) && strstr(line, "tuffing");
}

void machine_monitors(char ret[MACHINE_TEXT])
{
	char *modules = malloc(PEEK_BYTES), line[MACHINE_TEXT];
	const char *at;

	ret[0] = 0;
	/* The Linux Kernel Runtime Guard hashes the kernel's text. */
	if (modules && file_peek("/proc/modules", modules, PEEK_BYTES) > 0) {
		for (at = modules; at; at = strchr(at, '\n')) {
			at += *at == '\n';
			if (!strncmp(at, "lkrg ", 5) ||
			    !strncmp(at, "p_lkrg ", 7))
				strcpy(ret, "LKRG is loaded, and takes changes of kernel text for an attack");
		}
	}
	free(modules);
	if (!ret[0] && !file_line("/sys/module/kgdboc/parameters/kgdboc", line,
				  sizeof(line)) && line[0])
		strcpy(ret, "kgdb is attached, and may write breakpoints");
}

uint64_t machine_available_kb(void)
{
	char text[4096];
	const char *at;

	if (file_peek("/proc/meminfo", text, sizeof(text)) < 0)
		return 0;
	at = strstr(text, "MemAvailable:");
	return at ? strtoull(at + strlen("MemAvailable:"), NULL, 10) : 0;
}

long machine_lines(const char *path)
{
	FILE *file = fopen(path, "re");
	int byte, last = '\n';
	long lines = 0;

	if (!file)
		return -1;
	while ((byte = getc(file)) != EOF) {
		if (last == '\n' && byte != '#' && byte != '\n')
			lines++;
		last = byte;
	}
	fclose(file);
	return lines;
}

long machine_folders(const char *path)
{
	DIR *folder = opendir(path);
	struct dirent *entry;
	long count = 0;

	if (!folder)
		return -1;
	while ((entry = readdir(folder)))
		count += entry->d_name[0] != '.';
	closedir(folder);
	return count;
}
