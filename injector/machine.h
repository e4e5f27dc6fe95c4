/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What /proc and /sys say of the running kernel. Whatever cannot be read is
 * "unknown", -1 or 0: these are for people; the module decides.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>

#define MACHINE_TEXT	256

/* What a file says: it is so, it is not, or nothing. */
enum known { UNKNOWN = -1, NO, YES };

/* ---- parsers ------------------------------------------------------------- */

/* From ELF notes (/sys/kernel/notes): the GNU build id. Returns 0 or -1. */
int machine_build_id(const uint8_t *notes, size_t size, uint8_t ret[20]);

/* The word in brackets of "none [integrity] confidentiality", or of "a (b)". */
int machine_chosen(const char *line, char open, char close, char *ret,
		   size_t room);

/* How many CPUs a list such as "0-3,8" names; -1: it is no list. */
long machine_count_cpus(const char *list);

/* The last NAME=VALUE on a kernel's command line. Returns 0 or -1: none. */
int machine_parameter(const char *line, const char *name, char *ret,
		      size_t room);

/* ---- files --------------------------------------------------------------- */

/* The running kernel's. Returns 0 or -1. */
int machine_running_build_id(uint8_t ret[20]);

/* Is the kernel locked down? In @ret how. */
enum known machine_lockdown(char ret[MACHINE_TEXT]);

/* Did the firmware check what was booted? In @ret in words. */
enum known machine_secure_boot(char ret[MACHINE_TEXT]);

/* Are all modules to be signed? In @ret in words. */
enum known machine_enforces_signatures(char ret[MACHINE_TEXT]);

/* Was the module that is loaded signed by whom the kernel trusts? In words too. */
enum known machine_module_signed(char ret[MACHINE_TEXT]);

/* Which preemption model; UNKNOWN where that is not certain. */
enum known machine_preemption(char ret[MACHINE_TEXT]);

/* Does the kernel write the padding before functions (retbleed=stuff)? */
enum known machine_call_depth_tracking(void);

/*
 * Is there something that takes changed kernel text for an attack? In @ret
 * what, and what it does then.
 */
enum known machine_monitors(char ret[MACHINE_TEXT]);

/* May a debugger write breakpoints into the kernel? In @ret which. */
enum known machine_debugger(char ret[MACHINE_TEXT]);

/* CPUs in /sys/devices/system/cpu/@name ("online", "possible"); -1: unknown. */
long machine_cpus(const char *name);

/* kB of memory that can be had; 0: unknown. */
uint64_t machine_available_kb(void);

/* Lines of a file that are not comments; -1: cannot be read. */
long machine_lines(const char *path);

/* Folders in a folder; -1: cannot be read. */
long machine_folders(const char *path);

#endif
