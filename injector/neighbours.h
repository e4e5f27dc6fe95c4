/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who else has to do with the kernel's text: symbols, modules, kprobes, traced
 * and livepatched functions, as /proc, debugfs and tracefs list them. Read
 * once; what cannot be read is empty. A list that changes meanwhile is as old
 * as it was when it was read: these are for people; the module decides.
 */
#ifndef NEIGHBOURS_H
#define NEIGHBOURS_H

#include <stddef.h>
#include <stdint.h>

#define SYMBOL_TEXT	160	/* "vfs_read+0x13 [module]"; longer names are cut */

struct neighbours;

struct kprobe {
	uint64_t at;
	int disabled, optimized;
	int traced;	/* on an ftrace site: it writes nothing itself */
};

/* One line of the list of kprobes. Returns 0, or -1: there is none in it. */
int kprobe_parse(const char *line, struct kprobe *ret);

struct module {
	uint64_t base, size;
	char name[64];
};

/* One line of /proc/modules. Returns 0, or -1. */
int module_parse(const char *line, struct module *ret);

struct symbol {
	uint64_t at;
	size_t name;		/* where it starts in the line */
};

/* One line of /proc/kallsyms that is about code. Returns 0, or -1. */
int symbol_parse(const char *line, struct symbol *ret);

/* NULL: out of memory. */
struct neighbours *neighbours_read(void);
void neighbours_free(struct neighbours *all);

/* The function at @address, and how far into it; "" if that is unknown. */
void neighbours_symbol(const struct neighbours *all, uint64_t address,
		       char ret[SYMBOL_TEXT]);

/* The module that @address is in, or NULL. */
const struct module *neighbours_module(const struct neighbours *all,
				       uint64_t address);

/* The first kprobe at @from or behind it, and before @to, or NULL. */
const struct kprobe *neighbours_kprobe(const struct neighbours *all,
				       uint64_t from, uint64_t to);

/* Does ftrace call somebody from the function of that symbol? */
int neighbours_traced(const struct neighbours *all, const char *symbol);

/* The livepatch that replaces the function of that symbol, or NULL. */
const char *neighbours_livepatch(const struct neighbours *all,
				 const char *symbol);

#endif
