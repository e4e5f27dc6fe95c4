// SPDX-License-Identifier: GPL-2.0-only
/*
 * machine: files of /proc and /sys in, facts out. Paths and formats as of
 * Linux 5.10 to 6.12; a file that is not there is no failure. Left out: who
 * else writes the kernel's text, that is neighbours.c.
 */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "file.h"
#include "machine.h"

#define NOTE_GNU_BUILD_ID	3
#define BUILD_ID_BYTES		20

/* Longer files of the kernel's are read in part. */
#define PEEK_BYTES		(64u << 10)
#define LINE_BYTES		4096

#define MAX_CPU			8191	/* CONFIG_NR_CPUS goes to 8192 */

/* Attributes, then the variable's one byte; UEFI 2.10, 3.3. */
#define SECURE_BOOT	"/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
#define EFI_ATTRIBUTES	4

int machine_build_id(const uint8_t *notes, size_t size, uint8_t ret[20])
{
	size_t at = 0, name, desc;
	uint32_t head[3];	/* lengths of name and description, type */

	while (size - at >= sizeof(head)) {
		memcpy(head, notes + at, sizeof(head));
		name = at + sizeof(head);
		if (head[0] > size || head[1] > size)
			return -1;
		desc = name + (head[0] + 3u) / 4 * 4;
		if (desc > size || head[1] > size - desc)
			return -1;
		if (head[2] == NOTE_GNU_BUILD_ID && head[0] == 4 &&
		    !memcmp(notes + name, "GNU", 4) &&
		    head[1] == BUILD_ID_BYTES) {
			memcpy(ret, notes + desc, BUILD_ID_BYTES);
			return 0;
		}
		at = desc + (head[1] + 3u) / 4 * 4;
		/* The last one's padding may be missing. */
		if (at > size)
			return -1;
	}
	return -1;
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

/* A CPU's number; where its digits end, or NULL. */
static const char *cpu_number(const char *text, long *ret)
{
	const char *at = text;

	for (*ret = 0; *at >= '0' && *at <= '9'; at++) {
		*ret = *ret * 10 + (*at - '0');
		if (*ret > MAX_CPU)
			return NULL;
	}
	return at == text ? NULL : at;
}

long machine_count_cpus(const char *list)
{
	long from, to, next = 0, count = 0;
	const char *at = list;

	for (;;) {
		at = cpu_number(at, &from);
		to = from;
		if (at && *at == '-')
			at = cpu_number(at + 1, &to);
		/* Ascending, as the kernel prints them. */
		if (!at || from < next || to < from)
			return -1;
		count += to - from + 1;
		next = to + 1;
		if (*at != ',')
			return *at ? -1 : count;
		at++;
	}
}

int machine_parameter(const char *line, const char *name, char *ret,
		      size_t room)
{
	size_t length = strlen(name), size;
	const char *at = line;
	int found = -1;

	while (*at) {
		at += strspn(at, " ");
		size = strcspn(at, " ");
		if (size > length + 1 && !strncmp(at, name, length) &&
		    at[length] == '=' && size - length <= room) {
			memcpy(ret, at + length + 1, size - length - 1);
			ret[size - length - 1] = 0;
			found = 0;
		}
		at += size;
	}
	return found;
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

/* An answer, and its words. */
static enum known say(char *ret, enum known answer, const char *text)
{
	snprintf(ret, MACHINE_TEXT, "%s", text);
	return answer;
}

enum known machine_lockdown(char ret[MACHINE_TEXT])
{
	char line[MACHINE_TEXT];

	if (!file_line("/sys/kernel/security/lockdown", line, sizeof(line)) &&
	    !machine_chosen(line, '[', ']', ret, MACHINE_TEXT))
		return strcmp(ret, "none") ? YES : NO;
	/* Every kernel that has security modules has this one. */
	if (!access("/sys/kernel/security/lsm", F_OK))
		return say(ret, NO, "not built in");
	return say(ret, UNKNOWN, "unknown: securityfs is not mounted");
}

enum known machine_secure_boot(char ret[MACHINE_TEXT])
{
	char value[EFI_ATTRIBUTES + 2];

	if (access("/sys/firmware", F_OK))
		return say(ret, UNKNOWN, "unknown: sysfs is not mounted");
	if (access("/sys/firmware/efi", F_OK))
		return say(ret, NO, "off: not booted by EFI");
	if (file_peek(SECURE_BOOT, value, sizeof(value)) != EFI_ATTRIBUTES + 1)
		return say(ret, UNKNOWN, "unknown: efivarfs does not tell");
	return value[EFI_ATTRIBUTES] ? say(ret, YES, "on") :
		say(ret, NO, "off");
}

enum known machine_enforces_signatures(char ret[MACHINE_TEXT])
{
	char line[MACHINE_TEXT];

	if (access("/sys/module", F_OK))
		return say(ret, UNKNOWN, "unknown: sysfs is not mounted");
	if (machine_lockdown(line) == YES)
		return say(ret, YES, "enforced by the lockdown: kerninst.ko must be signed for this kernel");
	if (file_line("/sys/module/module/parameters/sig_enforce", line,
		      sizeof(line)))
		return say(ret, NO, "not checked by this kernel");
	return line[0] == 'Y' ?
		say(ret, YES, "enforced: kerninst.ko must be signed for this kernel") :
		say(ret, NO, "not enforced");
}

enum known machine_module_signed(char ret[MACHINE_TEXT])
{
	char line[MACHINE_TEXT], enforced[MACHINE_TEXT];

	if (file_line("/sys/module/kerninst/taint", line, sizeof(line)))
		return say(ret, UNKNOWN, "unknown whether it is signed");
	if (strchr(line, 'E'))
		return say(ret, NO, "not signed with a key that this kernel trusts");
	/* A kernel that checks no signature taints for none either. */
	if (access("/sys/module/module/parameters/sig_enforce", F_OK))
		return say(ret, UNKNOWN, machine_enforces_signatures(enforced) ==
			   UNKNOWN ? "unknown whether it is signed" :
			   "signed or not: this kernel does not check");
	return say(ret, YES, "signed");
}

enum known machine_preemption(char ret[MACHINE_TEXT])
{
	char line[LINE_BYTES];
	struct utsname names;

	if (!file_line("/sys/kernel/debug/sched/preempt", line, sizeof(line)) &&
	    !machine_chosen(line, '(', ')', ret, MACHINE_TEXT))
		return YES;
	if (uname(&names))
		return say(ret, UNKNOWN, "unknown");
	if (strstr(names.version, "PREEMPT_RT"))
		return say(ret, YES, "full (PREEMPT_RT)");
	if (!strstr(names.version, "PREEMPT_DYNAMIC"))
		return say(ret, YES, strstr(names.version, "PREEMPT") ?
			   "full" : "none or voluntary");
	if (!file_line("/proc/cmdline", line, sizeof(line)) &&
	    !machine_parameter(line, "preempt", ret, MACHINE_TEXT))
		return YES;
	return say(ret, UNKNOWN, "any (PREEMPT_DYNAMIC): which one, debugfs does not tell");
}

enum known machine_call_depth_tracking(void)
{
	char line[MACHINE_TEXT];

	if (access("/sys/devices/system/cpu", F_OK))
		return UNKNOWN;
	return !file_line("/sys/devices/system/cpu/vulnerabilities/retbleed",
			  line, sizeof(line)) && strstr(line, "tuffing") ?
		YES : NO;
}

/* Is one of these modules in /proc/modules? */
static enum known has_module(const char *one, const char *other)
{
	FILE *file = fopen("/proc/modules", "re");
	char line[LINE_BYTES], name[64];
	enum known found = file ? NO : UNKNOWN;

	while (file && found == NO && fgets(line, sizeof(line), file))
		if (sscanf(line, "%63s", name) == 1 &&
		    (!strcmp(name, one) || !strcmp(name, other)))
			found = YES;
	if (file)
		fclose(file);
	return found;
}

/* One of LKRG's settings, or @otherwise. */
static int lkrg_setting(const char *name, int otherwise)
{
	char path[64], line[MACHINE_TEXT];

	snprintf(path, sizeof(path), "/proc/sys/lkrg/%s", name);
	return file_line(path, line, sizeof(line)) ? otherwise : atoi(line);
}

/*
 * The Linux Kernel Runtime Guard compares the text of kernel and modules with
 * what it was. Its README names the settings and their defaults: kint_validate
 * 0 never, 1 when asked to, 2 and 3 from time to time (3); kint_enforce 0 logs
 * and takes the new text for good, 1 logs, 2 panics (2). It may hide from
 * /proc/modules; its settings stay. Nothing else is known to look at text: IMA
 * and EVM look at files.
 */
enum known machine_monitors(char ret[MACHINE_TEXT])
{
	static const char *const does[] = { "logs it", "logs it each time",
					    "PANICS THE MACHINE" };
	enum known loaded = has_module("lkrg", "p_lkrg");
	int validate, enforce;

	if (!access("/proc/sys/lkrg", F_OK))
		loaded = YES;
	if (loaded == UNKNOWN && !access("/proc/self", F_OK))
		loaded = NO;	/* a kernel without modules */
	if (loaded == UNKNOWN)
		return say(ret, UNKNOWN, "unknown: procfs is not mounted");
	if (loaded == NO)
		return say(ret, NO, "none known to object to changed kernel text");
	validate = lkrg_setting("kint_validate", 3);
	enforce = lkrg_setting("kint_enforce", 2);
	if (enforce < 0 || enforce > 2)
		enforce = 2;
	if (!validate)
		return say(ret, YES, "LKRG is loaded, but does not look at kernel text (lkrg.kint_validate=0)");
	snprintf(ret, MACHINE_TEXT,
		 "LKRG takes changed kernel text for an attack and %s (lkrg.kint_validate=%d, lkrg.kint_enforce=%d): set lkrg.kint_validate=0 before applying, until it is removed",
		 does[enforce], validate, enforce);
	return YES;
}

enum known machine_debugger(char ret[MACHINE_TEXT])
{
	char line[MACHINE_TEXT];

	if (access("/sys/module", F_OK))
		return say(ret, UNKNOWN, "unknown: sysfs is not mounted");
	if (file_line("/sys/module/kgdboc/parameters/kgdboc", line,
		      sizeof(line)) || !line[0])
		return say(ret, NO, "none attached");
	snprintf(ret, MACHINE_TEXT, "kgdb is attached (%.60s), and may write breakpoints",
		 line);
	return YES;
}

long machine_cpus(const char *name)
{
	char path[64], line[LINE_BYTES];

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/%s", name);
	return file_line(path, line, sizeof(line)) ? -1 :
		machine_count_cpus(line);
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
