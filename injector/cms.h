/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef CMS_H
#define CMS_H

#include <stddef.h>
#include <stdint.h>

/*
 * NULL if @bytes are a detached CMS signature of the one shape that kerninst
 * writes (cms.c), else what is wrong, and in *@at the offset where.
 */
const char *cms_problem(const uint8_t *bytes, size_t size, size_t *at);

#endif
