/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef PAYLOAD_ORACLE_H
#define PAYLOAD_ORACLE_H

#include <stddef.h>
#include <stdint.h>

/*
 * NULL if @bytes, 8-byte aligned, are a payload as the prose of
 * uapi/kerninst.h has it, else the sentence that they break.
 */
const char *payload_objection(const uint8_t *bytes, size_t size);

#endif
