// SPDX-License-Identifier: GPL-2.0-only
#include <stdarg.h>
#include <stdio.h>
#include "fail.h"

int fail(int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fputs("kerninst-inject: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
	return code;
}
