/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A list of what was looked at: a name, a verdict and a text each. Texts may
 * have bytes from anywhere in them; they are made safe when they are printed.
 */
#ifndef LIST_H
#define LIST_H

#include <stddef.h>
#include <stdio.h>
#include "device.h"

#define LIST_ROWS	40

enum verdict { FINE, NOTE, REFUSES };

struct list {
	struct row {
		const char *name;
		enum verdict verdict;
		char text[DEVICE_PROBLEM_BYTES];
	} rows[LIST_ROWS];
	size_t count;
	int code;			/* exit code of the first that refuses */
};

void list_add(struct list *list, const char *name, enum verdict verdict,
	      const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* One that refuses, and what apply would end with. */
void list_refuse(struct list *list, const char *name, int code,
		 const char *text);

/* One line, aligned with the others. */
void list_print(const struct row *row, FILE *to);

/* All as a JSON array of {"check","verdict","text"}. */
void list_json(const struct list *list, FILE *to);

#endif
