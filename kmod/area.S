/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The patch area: executable room without contents, so it costs nothing in
 * kerninst.ko. The module loader places it with the module's text, which
 * x86-64 keeps within rel32 reach of the kernel's own text.
 *
 * It is assembled by itself and added when the .ko is linked, after objtool
 * has run: objtool (6.1, 6.12) crashes on an executable nobits section.
 */
#include "area.h"

	.section .kerninst.area, "ax", @nobits
	.balign	4096
	.globl	kerninst_area
	.type	kerninst_area, @object
kerninst_area:
	.skip	KERNINST_AREA_BYTES
	.size	kerninst_area, . - kerninst_area

	.section .note.GNU-stack, "", @progbits
