// SPDX-License-Identifier: GPL-2.0-only
/*
 * cms-oracle: bytes in; out, whether they are a signature as injector/cms.c
 * accepts it. The second opinion on it, made in another way: any DER is
 * printed as text, 30(06:2a8648 05:), and one regular expression says which
 * texts are right. Lengths of what the expression leaves open are counted.
 */
#include <regex.h>
#include <stdbool.h>
#include <string.h>
#include "cms.h"
#include "der.h"
#include "fuzz.h"

#define MAX_DEPTH	16

#define HEX		"([0-9a-f][0-9a-f])"
#define SHA256		"30\\(06:608648016503040201 (05: )?\\) "
#define NAME \
	"30\\((31\\((30\\(06:" HEX "+ (0c|13|14|16|1e):" HEX "* \\) )+\\) )*\\) "
#define SIGNER \
	"30\\(02:01 30\\(" NAME "02:" HEX "+ \\) " SHA256 \
	"30\\(06:2a864886f70d010101 05: \\) 04:" HEX "* \\) "
#define SIGNED_DATA \
	"30\\(02:01 31\\(" SHA256 "\\) 30\\(06:2a864886f70d010701 \\) " \
	"31\\(" SIGNER "\\) \\) "
#define CMS \
	"^30\\(06:2a864886f70d010702 a0\\(" SIGNED_DATA "\\) \\) $"

struct text {
	char *at;
	size_t used, room;
};

static void put(struct text *text, const char *format, unsigned int value)
{
	int done = snprintf(text->at + text->used, text->room - text->used,
			    format, value);

	if (done < 0 || (size_t)done >= text->room - text->used)
		abort();
	text->used += (size_t)done;
}

/* Elements one after the other; false: it is not DER of less than 64 KiB. */
static bool print(struct text *text, const uint8_t *at, const uint8_t *end,
		  int depth)
{
	size_t length;
	uint8_t tag;

	if (depth == MAX_DEPTH)
		return false;
	while (at != end) {
		if (end - at < 2)
			return false;
		tag = *at++;
		length = *at++;
		if (length == 0x81) {
			if (end - at < 1 || at[0] < 0x80)
				return false;
			length = *at++;
		} else if (length == 0x82) {
			if (end - at < 2 || !at[0])
				return false;
			length = (size_t)at[0] << 8 | at[1];
			at += 2;
		} else if (length >= 0x80) {
			return false;
		}
		if (length > (size_t)(end - at))
			return false;
		if (tag & 0x20) {
			put(text, "%02x(", tag);
			if (!print(text, at, at + length, depth + 1))
				return false;
			put(text, ") ", 0);
			at += length;
			continue;
		}
		put(text, "%02x:", tag);
		for (; length; length--)
			put(text, "%02x", *at++);
		put(text, " ", 0);
	}
	return true;
}

/* Digits behind the last @before. */
static size_t digits(const char *text, const char *before, const char **first)
{
	const char *at = NULL, *next;

	for (next = text; (next = strstr(next, before)); next++)
		at = next;
	if (!at)
		return 0;
	*first = at + strlen(before);
	return strspn(*first, "0123456789abcdef");
}

static const char *values_objection(const char *text)
{
	size_t signature, serial;
	const char *first;

	/* Of the last element, whose tag no other primitive has behind it. */
	signature = digits(text, " 04:", &first) / 2;
	if (signature != 256 && signature != 384 && signature != 512)
		return "the signature has 256, 384 or 512 bytes";
	/* A name ends just before, or is empty. */
	serial = digits(text, ") 02:", &first) / 2;
	if (serial > 21)
		return "a serial number has 20 bytes and a sign";
	if (serial > 1 &&
	    ((!strncmp(first, "00", 2) && first[2] < '8') ||
	     (!strncmp(first, "ff", 2) && first[2] >= '8')))
		return "an integer has no byte more than it needs";
	return NULL;
}

/* The text of any bytes; false: they are no DER. The caller frees it. */
static bool text_of(const uint8_t *bytes, size_t size, char **ret)
{
	struct text text = { .room = 16 * size + 16 };

	text.at = malloc(text.room);
	if (!text.at)
		abort();
	*text.at = 0;
	*ret = text.at;
	return print(&text, bytes, bytes + size, 0);
}

const char *cms_objection(const uint8_t *bytes, size_t size)
{
	static regex_t cms;
	static bool ready;
	const char *objection;
	char *text;

	if (!ready && regcomp(&cms, CMS, REG_EXTENDED | REG_NOSUB))
		abort();
	ready = true;
	if (!text_of(bytes, size, &text))
		objection = "it is DER";
	else if (regexec(&cms, text, 0, NULL, 0))
		objection = "it has the one shape";
	else
		objection = values_objection(text);
	free(text);
	return objection;
}

void cms_check_signer(const uint8_t *bytes, size_t size,
		      const struct cms_signer *signer)
{
	size_t length, room = sizeof(signer->issuer) - 1, i;
	const char *first;
	char *text, byte[3];

	PROMISE(text_of(bytes, size, &text));
	length = digits(text, ") 02:", &first);
	PROMISE(strlen(signer->serial) == length &&
		!memcmp(signer->serial, first, length));
	/* The last common name: behind its OID, a tag of two digits and ':'. */
	length = digits(text, "(06:550403 ", &first);
	if (length) {
		first += 3;
		length = strspn(first, "0123456789abcdef") / 2;
	}
	if (length > room)
		length = room;
	for (i = 0; i < length; i++) {
		sprintf(byte, "%02x", (uint8_t)signer->issuer[i]);
		PROMISE(!memcmp(byte, first + 2 * i, 2));
	}
	PROMISE(!signer->issuer[length]);
	free(text);
}
