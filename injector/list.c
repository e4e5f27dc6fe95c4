// SPDX-License-Identifier: GPL-2.0-only
/* list: rows in, lines or JSON out. */
#include <stdarg.h>
#include "list.h"
#include "text.h"

static const char *const verdicts[] = {
	[FINE] = "ok",
	[NOTE] = "note",
	[REFUSES] = "refuses",
};

void list_add(struct list *list, const char *name, enum verdict verdict,
	      const char *format, ...)
{
	struct row *row = &list->rows[list->count];
	va_list args;

	if (list->count == LIST_ROWS)
		return;
	list->count++;
	row->name = name;
	row->verdict = verdict;
	va_start(args, format);
	vsnprintf(row->text, sizeof(row->text), format, args);
	va_end(args);
}

void list_refuse(struct list *list, const char *name, int code,
		 const char *text)
{
	list_add(list, name, REFUSES, "%s", text);
	if (!list->code)
		list->code = code;
}

void list_print(const struct row *row, FILE *to)
{
	fprintf(to, "%-18s %-8s ", row->name, verdicts[row->verdict]);
	text_print(to, row->text);
	putc('\n', to);
}

void list_json(const struct list *list, FILE *to)
{
	const struct row *row;
	size_t i;

	putc('[', to);
	for (i = 0; i < list->count; i++) {
		row = &list->rows[i];
		fprintf(to, "%s{\"check\":\"%s\",\"verdict\":\"%s\",\"text\":",
			i ? "," : "", row->name, verdicts[row->verdict]);
		text_json(to, row->text);
		putc('}', to);
	}
	putc(']', to);
}
