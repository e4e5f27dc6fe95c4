/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What /proc and /sys say of the running kernel. Whatever cannot be read is
 * "unknown": these are for people; the module decides.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>

#define MACHINE_TEXT	200

/* From ELF notes (/sys/kernel/notes): the GNU build id. Returns 0 or -1. */
int machine_build_id(const uint8_t *notes, size_t size, uint8_t ret[20]);

/* The running kernel's. Returns 0 or -1. */
int machine_running_build_id(uint8_t ret[20]);

/* The word in brackets of "none [integrity] confidentiality", or of "a (b)". */
int machine_chosen(const char *line, char open, char close, char *ret,
		   size_t room);

void machine_lockdown(char ret[MACHINE_TEXT]);
void machine_preemption(char ret[MACHINE_TEXT]);

/* Are all modules to be signed? 1, 0, or -1: unknown. */
int machine_enforces_signatures(void);

/* Is the module loaded, as one that is not signed? 1, 0, or -1: unknown. */
int machine_module_unsigned(void);

/* Does the kernel write the padding before functions (retbleed=stuff)? */
int machine_call_depth_tracking(void);

/* A module or setting that is known to object to changed text, or "". */
void machine_monitors(char ret[MACHINE_TEXT]);

/* kB of memory that can be had; 0: unknown. */
uint64_t machine_available_kb(void);

/* Lines of a file that are not comments; -1: cannot be read. */
long machine_lines(const char *path);

/* Folders in a folder; -1: cannot be read. */
long machine_folders(const char *path);

#endif
