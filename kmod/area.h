/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The size of the patch area: read by the C sources and by area.S, so it
 * holds nothing but the number.
 */
#ifndef KERNINST_AREA_H
#define KERNINST_AREA_H

#define KERNINST_AREA_BYTES	0x2000000	/* 32 MiB; a multiple of the page size */

#endif
