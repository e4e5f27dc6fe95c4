// SPDX-License-Identifier: GPL-2.0-only
/* site: an entry of a payload, unchecked, in; where and what it is, out. */
#include <stdio.h>
#include <string.h>
#include "site.h"
#include "text.h"

#define JMP32		0xe9
#define FORM_BYTES	5

uint64_t site_address(const struct bundle *bundle, uint64_t slide,
		      const struct kerninst_site *site)
{
	return bundle->head.link_base + slide + site->rva;
}

size_t site_length(const struct kerninst_site *site)
{
	size_t most = sizeof(site->expected);

	return !site->length ? 1 : site->length < most ? site->length : most;
}

int site_bytes(const struct kerninst_site *site, uint64_t slide,
	       uint8_t ret[16])
{
	uint32_t value;

	if (site->form_class) {
		memset(ret, 0, 16);
		return -1;
	}
	memcpy(ret, site->expected, 16);
	if (site->reloc_kind && site->reloc_offset <= 16 - sizeof(value)) {
		memcpy(&value, ret + site->reloc_offset, sizeof(value));
		value += site->reloc_kind == KERNINST_RELOC_ADD ?
			(uint32_t)slide : -(uint32_t)slide;
		memcpy(ret + site->reloc_offset, &value, sizeof(value));
	}
	return 0;
}

/* One of the forms of a return, as it would stand at @site. */
static void form_bytes(const struct kerninst_form *form,
		       const struct kerninst_site *site,
		       uint8_t ret[FORM_BYTES])
{
	uint32_t disp = form->target - (site->rva + FORM_BYTES);

	memcpy(ret, form->bytes, FORM_BYTES);
	if (form->kind != KERNINST_FORM_JMP)
		return;
	ret[0] = JMP32;
	memcpy(ret + 1, &disp, sizeof(disp));
}

void site_expected(const struct bundle *bundle, uint64_t slide,
		   const struct kerninst_site *site, char ret[SITE_TEXT])
{
	static const char or[] = " or ";
	char text[TEXT_HEX_BYTES];
	struct kerninst_form form;
	uint8_t bytes[16];
	size_t used = 0;
	uint32_t i;

	ret[0] = 0;
	if (!site_bytes(site, slide, bytes)) {
		strcpy(ret, text_hex(bytes, site_length(site), text));
		return;
	}
	for (i = 0; i < KERNINST_MAX_FORMS && bundle_form(bundle, i, &form);
	     i++) {
		if (form.form_class != site->form_class)
			continue;
		form_bytes(&form, site, bytes);
		text_hex(bytes, FORM_BYTES, text);
		if (used + sizeof(or) + strlen(text) >= SITE_TEXT)
			return;
		used += (size_t)sprintf(ret + used, "%s%s", used ? or : "",
					text);
	}
}
