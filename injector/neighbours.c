// SPDX-License-Identifier: GPL-2.0-only
/*
 * neighbours: lists of the kernel's in, who is at an address out. Formats as of
 * Linux 5.10 to 6.12:
 *
 *	/proc/kallsyms		ffffffff81000000 T _stext [module]
 *	/proc/modules		name size uses users state 0xffffffffc0000000 (OE)
 *	kprobes/list		ffffffff81000000  k  vfs_read+0x0    [DISABLED]
 *	enabled_functions	vfs_read (1) R I 	->...
 *	livepatch/PATCH/vmlinux/FUNCTION,1
 *
 * Addresses are zero where the kernel hides them: such lines are left out.
 */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "neighbours.h"

#define KPROBES		"/sys/kernel/debug/kprobes/list"
#define TRACED		"/sys/kernel/tracing/enabled_functions"
#define LIVEPATCHES	"/sys/kernel/livepatch"

/* The kernel's own lines are shorter. */
#define LINE_BYTES	1024

/* Of each list; what is beyond is not looked at. */
#define MAX_ENTRIES	(4u << 20)
#define MAX_NAME_BYTES	(256u << 20)

#define MAX_NAME	100		/* of a symbol that is shown */
#define MAX_FUNCTION	(1u << 20)	/* further behind a symbol is elsewhere */

/* A growing array. */
struct array {
	void *at;
	size_t count, room;
};

struct named {
	uint64_t at;		/* address; of a function that is replaced: unused */
	size_t name;		/* in the names */
	size_t other;		/* in the names: the livepatch */
};

struct neighbours {
	struct array names;	/* char: NUL-terminated, one behind the other */
	struct array symbols;	/* struct named, sorted by address */
	struct array modules;	/* struct module */
	struct array kprobes;	/* struct kprobe, sorted by address */
	struct array traced;	/* struct named, sorted by name */
	struct array replaced;	/* struct named */
	int failed;		/* there was no memory for all */
};

/* Room for @count more, at the end; NULL: there is none. */
static void *grow(struct neighbours *all, struct array *array, size_t size,
		  size_t count, size_t most)
{
	size_t room = array->room ? array->room : 1024;
	void *at;

	if (count > most || array->count > most - count)
		return NULL;
	while (room < array->count + count)
		room *= 2;
	if (room > array->room) {
		at = realloc(array->at, room * size);
		if (!at) {
			all->failed = 1;
			return NULL;
		}
		array->at = at;
		array->room = room;
	}
	at = (char *)array->at + array->count * size;
	array->count += count;
	return at;
}

#define ADD(all, array, type) \
	((type *)grow(all, &(all)->array, sizeof(type), 1, MAX_ENTRIES))

static const char *name_of(const struct neighbours *all, size_t name)
{
	return (const char *)all->names.at + name;
}

/* Keep a name; where it is kept is *@ret. Returns 0 or -1. */
static int keep_name(struct neighbours *all, const char *text, size_t size,
		     size_t *ret)
{
	char *at;

	*ret = all->names.count;
	at = grow(all, &all->names, 1, size + 1, MAX_NAME_BYTES);
	if (!at)
		return -1;
	memcpy(at, text, size);
	at[size] = 0;
	return 0;
}

int kprobe_parse(const char *line, struct kprobe *ret)
{
	char kind;

	if (sscanf(line, "%16" SCNx64 " %c", &ret->at, &kind) != 2 ||
	    !ret->at || strstr(line, "[GONE]"))
		return -1;
	ret->disabled = strstr(line, "[DISABLED]") != NULL;
	ret->optimized = strstr(line, "[OPTIMIZED]") != NULL;
	ret->traced = strstr(line, "[FTRACE]") != NULL;
	return 0;
}

int module_parse(const char *line, struct module *ret)
{
	return sscanf(line, "%63s %" SCNu64 " %*s %*s %*s 0x%16" SCNx64,
		      ret->name, &ret->size, &ret->base) == 3 && ret->base ?
		0 : -1;
}

int symbol_parse(const char *line, struct symbol *ret)
{
	int name = 0;
	char type;

	if (sscanf(line, "%16" SCNx64 " %c %n", &ret->at, &type, &name) != 2 ||
	    !name || !ret->at || !strchr("tTwW", type) || !line[name])
		return -1;
	ret->name = (size_t)name;
	return 0;
}

static void read_symbol(struct neighbours *all, const char *line)
{
	struct symbol symbol;
	struct named *entry;
	size_t name;

	if (symbol_parse(line, &symbol) ||
	    keep_name(all, line + symbol.name,
		      strcspn(line + symbol.name, "\n"), &name))
		return;
	entry = ADD(all, symbols, struct named);
	if (entry)
		*entry = (struct named){ symbol.at, name, 0 };
}

static void read_module(struct neighbours *all, const char *line)
{
	struct module module, *entry;

	if (module_parse(line, &module))
		return;
	entry = ADD(all, modules, struct module);
	if (entry)
		*entry = module;
}

static void read_kprobe(struct neighbours *all, const char *line)
{
	struct kprobe kprobe, *entry;

	if (kprobe_parse(line, &kprobe))
		return;
	entry = ADD(all, kprobes, struct kprobe);
	if (entry)
		*entry = kprobe;
}

static void read_traced(struct neighbours *all, const char *line)
{
	size_t size = strcspn(line, " \n"), name;
	struct named *entry;

	if (!size || line[0] == '#' || keep_name(all, line, size, &name))
		return;
	entry = ADD(all, traced, struct named);
	if (entry)
		*entry = (struct named){ 0, name, 0 };
}

static void read_lines(struct neighbours *all, const char *path,
		       void (*take)(struct neighbours *all, const char *line))
{
	FILE *file = fopen(path, "re");
	char line[LINE_BYTES];

	while (file && !all->failed && fgets(line, sizeof(line), file))
		take(all, line);
	if (file)
		fclose(file);
}

/* What one livepatch replaces in the kernel's own image. */
static void read_livepatch(struct neighbours *all, const char *patch)
{
	char path[LINE_BYTES];
	struct dirent *entry;
	struct named *named;
	size_t name, other;
	DIR *folder;

	snprintf(path, sizeof(path), LIVEPATCHES "/%s/vmlinux", patch);
	folder = opendir(path);
	if (!folder)
		return;
	while ((entry = readdir(folder))) {
		if (!strchr(entry->d_name, ',') ||
		    keep_name(all, entry->d_name, strcspn(entry->d_name, ","),
			      &name) ||
		    keep_name(all, patch, strlen(patch), &other))
			continue;
		named = ADD(all, replaced, struct named);
		if (named)
			*named = (struct named){ 0, name, other };
	}
	closedir(folder);
}

static void read_livepatches(struct neighbours *all)
{
	DIR *folder = opendir(LIVEPATCHES);
	struct dirent *entry;

	if (!folder)
		return;
	while ((entry = readdir(folder)))
		if (entry->d_name[0] != '.')
			read_livepatch(all, entry->d_name);
	closedir(folder);
}

/* Of symbols at one address, the first in the list comes first. */
static int by_address(const void *left, const void *right)
{
	const struct named *a = left, *b = right;

	if (a->at != b->at)
		return a->at < b->at ? -1 : 1;
	return a->name < b->name ? -1 : a->name > b->name;
}

static int by_place(const void *left, const void *right)
{
	const struct kprobe *a = left, *b = right;

	return a->at < b->at ? -1 : a->at > b->at;
}

static int by_name(const void *left, const void *right, void *names)
{
	const struct named *a = left, *b = right;

	return strcmp((const char *)names + a->name,
		      (const char *)names + b->name);
}

struct neighbours *neighbours_read(void)
{
	struct neighbours *all = calloc(1, sizeof(*all));

	if (!all)
		return NULL;
	read_lines(all, "/proc/kallsyms", read_symbol);
	read_lines(all, "/proc/modules", read_module);
	read_lines(all, KPROBES, read_kprobe);
	read_lines(all, TRACED, read_traced);
	read_livepatches(all);
	if (all->failed) {
		neighbours_free(all);
		return NULL;
	}
	if (all->symbols.count)
		qsort(all->symbols.at, all->symbols.count,
		      sizeof(struct named), by_address);
	if (all->kprobes.count)
		qsort(all->kprobes.at, all->kprobes.count,
		      sizeof(struct kprobe), by_place);
	if (all->traced.count)
		qsort_r(all->traced.at, all->traced.count,
			sizeof(struct named), by_name, all->names.at);
	return all;
}

void neighbours_free(struct neighbours *all)
{
	if (!all)
		return;
	free(all->names.at);
	free(all->symbols.at);
	free(all->modules.at);
	free(all->kprobes.at);
	free(all->traced.at);
	free(all->replaced.at);
	free(all);
}

void neighbours_symbol(const struct neighbours *all, uint64_t address,
		       char ret[SYMBOL_TEXT])
{
	const struct named *symbols = all->symbols.at, *found;
	size_t low = 0, high = all->symbols.count, middle, name;
	const char *text;

	ret[0] = 0;
	while (low < high) {
		middle = low + (high - low) / 2;
		if (symbols[middle].at <= address)
			low = middle + 1;
		else
			high = middle;
	}
	if (!low || address - symbols[low - 1].at > MAX_FUNCTION)
		return;
	found = &symbols[low - 1];
	while (found > symbols && found[-1].at == found->at)
		found--;
	text = name_of(all, found->name);
	name = strcspn(text, "\t ");
	snprintf(ret, SYMBOL_TEXT, "%.*s+0x%" PRIx64 "%s%.40s",
		 (int)(name < MAX_NAME ? name : MAX_NAME), text,
		 address - found->at, text[name] ? " " : "",
		 text[name] ? text + name + 1 : "");
}

const struct module *neighbours_module(const struct neighbours *all,
				       uint64_t address)
{
	const struct module *modules = all->modules.at;
	size_t i;

	for (i = 0; i < all->modules.count; i++)
		if (address - modules[i].base < modules[i].size)
			return &modules[i];
	return NULL;
}

const struct kprobe *neighbours_kprobe(const struct neighbours *all,
				       uint64_t from, uint64_t to)
{
	const struct kprobe *kprobes = all->kprobes.at;
	size_t low = 0, high = all->kprobes.count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (kprobes[middle].at < from)
			low = middle + 1;
		else
			high = middle;
	}
	return low < all->kprobes.count && kprobes[low].at < to ?
		&kprobes[low] : NULL;
}

/* Is the function of @symbol ("vfs_read+0x13") the one called @name? */
static int is_function(const char *symbol, const char *name)
{
	size_t size = strcspn(symbol, "+");

	return size && !strncmp(symbol, name, size) && !name[size];
}

int neighbours_traced(const struct neighbours *all, const char *symbol)
{
	const struct named *traced = all->traced.at;
	size_t low = 0, high = all->traced.count, middle;
	size_t size = strcspn(symbol, "+");
	const char *name;
	int order;

	while (size && low < high) {
		middle = low + (high - low) / 2;
		name = name_of(all, traced[middle].name);
		order = strncmp(name, symbol, size);
		if (!order && !name[size])
			return 1;
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return 0;
}

const char *neighbours_livepatch(const struct neighbours *all,
				 const char *symbol)
{
	const struct named *replaced = all->replaced.at;
	size_t i;

	for (i = 0; i < all->replaced.count; i++)
		if (is_function(symbol, name_of(all, replaced[i].name)))
			return name_of(all, replaced[i].other);
	return NULL;
}
