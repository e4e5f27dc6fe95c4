// SPDX-License-Identifier: GPL-2.0-only
/* text: what people typed in, numbers out; bytes in, texts that are safe to print out. */
#include <string.h>
#include "text.h"

#define NS_PER_MS	1000000ull
#define YEAR_NS		(366ull * 24 * 3600 * 1000 * NS_PER_MS)

const char *text_hex(const uint8_t *bytes, size_t size,
		     char ret[TEXT_HEX_BYTES])
{
	size_t i;

	ret[0] = 0;
	for (i = 0; i < size && i < 16; i++)
		sprintf(ret + 3 * i, "%02x ", bytes[i]);
	if (i)
		ret[3 * i - 1] = 0;
	return ret;
}

const char *text_id(const uint8_t bytes[20], char ret[41])
{
	size_t i;

	for (i = 0; i < 20; i++)
		sprintf(ret + 2 * i, "%02x", bytes[i]);
	return ret;
}

/* Digits at the start of @text, at most @most; where they end, or NULL. */
static const char *digits(const char *text, uint64_t most, uint64_t *ret)
{
	const char *at = text;

	*ret = 0;
	for (; *at >= '0' && *at <= '9'; at++) {
		if (*ret > most / 10)
			return NULL;
		*ret = *ret * 10 + (uint64_t)(*at - '0');
	}
	return at == text || *ret > most ? NULL : at;
}

int text_duration(const char *text, uint64_t *ns)
{
	static const struct {
		const char *name;
		uint64_t ns;
	} units[] = {
		{ "ms", NS_PER_MS },
		{ "s", 1000 * NS_PER_MS },
		{ "m", 60 * 1000 * NS_PER_MS },
		{ "h", 3600 * 1000 * NS_PER_MS },
	};
	const char *unit = digits(text, YEAR_NS, ns);
	size_t i;

	for (i = 0; unit && i < sizeof(units) / sizeof(*units); i++) {
		if (strcmp(unit, units[i].name))
			continue;
		if (!*ns || *ns > YEAR_NS / units[i].ns)
			return -1;
		*ns *= units[i].ns;
		return 0;
	}
	return -1;
}

int text_number(const char *text, uint64_t most, uint64_t *ret)
{
	const char *end = digits(text, most, ret);

	return end && !*end && *ret ? 0 : -1;
}

void text_json(FILE *to, const char *text)
{
	unsigned char byte;

	if (!text) {
		fputs("null", to);
		return;
	}
	putc('"', to);
	for (; (byte = (unsigned char)*text); text++) {
		if (byte == '"' || byte == '\\')
			fprintf(to, "\\%c", byte);
		else if (byte < 0x20 || byte > 0x7e)
			fprintf(to, "\\u%04x", byte);
		else
			putc(byte, to);
	}
	putc('"', to);
}

void text_print(FILE *to, const char *text)
{
	for (; *text; text++)
		putc(*text < 0x20 || *text > 0x7e ? '?' : *text, to);
}
