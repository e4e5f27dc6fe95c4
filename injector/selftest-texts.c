// SPDX-License-Identifier: GPL-2.0-only
/*
 * selftest-texts: what people type and what the kernel's files say, from
 * tables of lines, each with what it must come to, and from noise.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fail.h"
#include "machine.h"
#include "misfit.h"
#include "neighbours.h"
#include "options.h"
#include "selftest.h"
#include "text.h"

#define NONE		UINT64_MAX	/* of a number that must be refused */

static void test_numbers(void)
{
	static const struct {
		const char *text;
		uint64_t ns;
	} times[] = {
		{ "1ms", 1000000 }, { "500ms", 500000000 },
		{ "10s", 10000000000 }, { "5m", 300000000000 },
		{ "2h", 7200000000000 }, { "007s", 7000000000 },
		{ "8784h", 8784ull * 3600 * 1000000000 }, { "8785h", NONE },
		{ "", NONE }, { "s", NONE }, { "0s", NONE }, { "1", NONE },
		{ "1d", NONE }, { "-1s", NONE }, { "+1s", NONE },
		{ " 1s", NONE }, { "1s ", NONE }, { "1.5s", NONE },
		{ "1sm", NONE }, { "1 s", NONE }, { "1S", NONE },
		{ "18446744073709551617s", NONE }, { "99999h", NONE },
		{ "18446744073709551615ms", NONE }, { "99999999999999999999ms", NONE },
	}, numbers[] = {
		{ "1", 1 }, { "60000", 60000 }, { "0060000", 60000 },
		{ "60001", NONE }, { "0", NONE }, { "", NONE }, { "1x", NONE },
		{ "-1", NONE }, { "0x10", NONE },
		{ "18446744073709551617", NONE },
	};
	uint64_t got;
	size_t i;

	for (i = 0; i < COUNT(times); i++)
		expect((text_duration(times[i].text, &got) ? NONE : got) ==
		       times[i].ns, "a time", i);
	for (i = 0; i < COUNT(numbers); i++)
		expect((text_number(numbers[i].text, 60000, &got) ? NONE : got)
		       == numbers[i].ns, "a number", i);
}

static void test_words(void)
{
	static const struct {
		const char *line, *word;
	} chosen[] = {
		{ "none [integrity] confidentiality", "integrity" },
		{ "[none] integrity confidentiality", "none" },
		{ "[]", "" }, { "none", NULL }, { "[none", NULL }, { "", NULL },
		{ "]none[", NULL }, { "[longer than there is room for]", NULL },
	}, parameters[] = {
		{ "quiet preempt=full", "full" }, { "preempt=none", "none" },
		{ "preempt=none a preempt=voluntary", "voluntary" },
		{ "  preempt=full  ", "full" }, { "preempt", NULL },
		{ "preempt=", NULL }, { "xpreempt=full", NULL }, { "", NULL },
		{ "preempt=longer-than-there-is-room", NULL },
	};
	static const struct {
		const char *list;
		long count;
	} cpus[] = {
		{ "0", 1 }, { "0-3", 4 }, { "0-3,8", 5 }, { "0,2,4-5", 4 },
		{ "0-8191", 8192 }, { "0-8192", -1 }, { "", -1 }, { "3-1", -1 },
		{ "0,0", -1 }, { "0-", -1 }, { "0,", -1 }, { "a", -1 },
		{ "1 2", -1 }, { "4294967296", -1 },
		{ "99999999999999999999", -1 },
	};
	char word[16];
	size_t i;

	for (i = 0; i < COUNT(chosen); i++)
		expect(machine_chosen(chosen[i].line, '[', ']', word,
				      sizeof(word)) ? !chosen[i].word :
		       chosen[i].word && !strcmp(word, chosen[i].word),
		       "what is chosen", i);
	for (i = 0; i < COUNT(parameters); i++)
		expect(machine_parameter(parameters[i].line, "preempt", word,
					 sizeof(word)) ? !parameters[i].word :
		       parameters[i].word &&
		       !strcmp(word, parameters[i].word), "a parameter", i);
	for (i = 0; i < COUNT(cpus); i++)
		expect(machine_count_cpus(cpus[i].list) == cpus[i].count,
		       "a list of CPUs", i);
}

static void note(struct out *out, uint32_t type, const char *name,
		 const void *bytes, uint32_t size)
{
	static const uint8_t zeros[4];
	uint32_t head[3] = { (uint32_t)strlen(name) + 1, size, type };

	put(out, head, sizeof(head));
	put(out, name, head[0]);
	put(out, zeros, -head[0] & 3);
	put(out, bytes, size);
	put(out, zeros, -size & 3);
}

/* A copy that ends where its memory ends. */
static int find_id(const uint8_t *bytes, size_t size, uint8_t ret[20])
{
	uint8_t *copy = malloc(size ? size : 1);
	int code;

	if (!copy)
		abort();
	memcpy(copy, bytes, size);
	code = machine_build_id(copy, size, ret);
	free(copy);
	return code;
}

static void test_notes(void)
{
	static const uint8_t wanted[21] = "the running build id";
	struct out notes = { .size = 0 };
	size_t i, end;
	uint8_t id[20];
	int bit;

	note(&notes, 6, "Xen", "2.6", 4);
	note(&notes, 3, "GNU", "another length", 14);
	note(&notes, 3, "GNUs", wanted, 20);
	note(&notes, 3, "GNU", wanted, 20);
	end = notes.size;
	note(&notes, 257, "Linux", "", 1);
	expect(!find_id(notes.at, notes.size, id) && !memcmp(id, wanted, 20),
	       "a build id", 0);
	for (i = 0; i < notes.size; i++)
		expect(!find_id(notes.at, i, id) == (i >= end),
		       "a build id that is cut off", i);
	for (i = 0; i < 8 * notes.size; i++) {
		bit = 1 << i % 8;
		notes.at[i / 8] ^= (uint8_t)bit;
		find_id(notes.at, notes.size, id);
		notes.at[i / 8] ^= (uint8_t)bit;
	}
}

static void test_lines(void)
{
	static const struct {
		const char *line;
		uint64_t at;
		int disabled, optimized, traced;
	} kprobes[] = {
		{ "ffffffff812f4a10  k  vfs_read+0x0    [DISABLED][FTRACE]\n",
		  0xffffffff812f4a10, 1, 0, 1 },
		{ "ffffffff812f4a1a  r  vfs_read+0xa    [OPTIMIZED]\n",
		  0xffffffff812f4a1a, 0, 1, 0 },
		{ "ffffffffc0001000  k  f+0x0  module \n", 0xffffffffc0001000,
		  0, 0, 0 },
		{ "0000000000000000  k  vfs_read+0x0\n", 0, 0, 0, 0 },
		{ "ffffffff812f4a10  k  vfs_read+0x0  [GONE]\n", 0, 0, 0, 0 },
		{ "ffffffff812f4a10", 0, 0, 0, 0 }, { "", 0, 0, 0, 0 },
		{ "none", 0, 0, 0, 0 },
	};
	static const struct {
		const char *line;
		uint64_t at, size;
		const char *name;
	} modules[] = {
		{ "kerninst 8523776 0 - Live 0xffffffffc0208000 (OE)\n",
		  0xffffffffc0208000, 8523776, "kerninst" },
		{ "ext4 983040 1 jbd2,mbcache, Live 0xffffffffc0000000\n",
		  0xffffffffc0000000, 983040, "ext4" },
		{ "ext4 983040 1 - Live 0x0000000000000000\n", 0, 0, NULL },
		{ "ext4 983040 1", 0, 0, NULL }, { "", 0, 0, NULL },
	}, symbols[] = {
		{ "ffffffff812f4a10 T vfs_read\n", 0xffffffff812f4a10, 0, "vfs_read\n" },
		{ "ffffffffc0208000 t init\t[kerninst]\n", 0xffffffffc0208000, 0, "init\t[kerninst]\n" },
		{ "ffffffff82a00000 D jiffies\n", 0, 0, NULL },
		{ "0000000000000000 T vfs_read\n", 0, 0, NULL },
		{ "ffffffff812f4a10 T ", 0, 0, NULL }, { "", 0, 0, NULL },
	};
	struct neighbours *all = neighbours_read();
	char text[SYMBOL_TEXT];
	struct kprobe kprobe;
	struct module module;
	struct symbol symbol;
	size_t i;

	for (i = 0; i < COUNT(kprobes); i++)
		expect(kprobe_parse(kprobes[i].line, &kprobe) ?
		       !kprobes[i].at : kprobe.at == kprobes[i].at &&
		       kprobe.disabled == kprobes[i].disabled &&
		       kprobe.optimized == kprobes[i].optimized &&
		       kprobe.traced == kprobes[i].traced, "a kprobe", i);
	for (i = 0; i < COUNT(modules); i++)
		expect(module_parse(modules[i].line, &module) ?
		       !modules[i].at : module.base == modules[i].at &&
		       module.size == modules[i].size &&
		       !strcmp(module.name, modules[i].name), "a module", i);
	for (i = 0; i < COUNT(symbols); i++)
		expect(symbol_parse(symbols[i].line, &symbol) ?
		       !symbols[i].at : symbol.at == symbols[i].at &&
		       !strcmp(symbols[i].line + symbol.name,
			       symbols[i].name), "a symbol", i);
	/* Whatever this machine has. */
	expect(all != NULL, "the neighbours are read", 0);
	if (all) {
		neighbours_symbol(all, 0xffffffff81000010, text);
		neighbours_symbol(all, 0, text);
		expect(!text[0], "nothing is at 0", 0);
		neighbours_symbol(all, UINT64_MAX, text);
		neighbours_traced(all, text);
		neighbours_traced(all, "vfs_read+0x0");
		neighbours_livepatch(all, "");
	}
	neighbours_free(all);
}

/* Why, where the bytes alone say. */
static void test_misfits(void)
{
	static const struct {
		uint32_t reason;
		uint8_t length, expected[16], live[16];
		const char *says;
	} cases[] = {
		{ KERNINST_E_SITE_BYTES, 5, { 0x0f, 0x1f, 0x44 },
		  { 0xe9, 1, 2, 3, 4 }, "static key" },
		{ KERNINST_E_SITE_BYTES, 2, { 0xeb, 0x10 }, { 0x66, 0x90 },
		  "static key" },
		{ KERNINST_E_SITE_BYTES, 5, { 0xe8, 1 }, { 0xe8, 2 },
		  "static call" },
		{ KERNINST_E_SITE_BYTES, 7, { 0x48, 1 }, { 0xcc, 1 }, "an int3" },
		{ KERNINST_E_SITE_BYTES, 7, { 0x48, 1 }, { 0xe9, 1 },
		  "another patcher" },
		{ KERNINST_E_SITE_BYTES, 3, { 0x48, 1, 2 }, { 0x0f, 0x1f, 0 },
		  "an alternative" },
		{ KERNINST_E_SITE_BYTES, 5, { 0 }, { 0xe9, 1, 2 },
		  "a return thunk" },
		{ KERNINST_E_SITE_BYTES, 3, { 0x48, 1, 2 }, { 0x48, 1, 3 },
		  "other text" },
		{ KERNINST_E_KPROBE, 5, { 0x48 }, { 0x48 }, "a kprobe" },
		{ KERNINST_E_REACH, 5, { 0x48 }, { 0x48 }, "too far" },
	};
	char why[MISFIT_TEXT];
	size_t i;

	for (i = 0; i < COUNT(cases); i++) {
		struct misfit misfit = {
			.reason = cases[i].reason,
			.address = 0xffffffff81000000,
			.length = cases[i].length,
			.symbol = "",
		};

		memcpy(misfit.expected, cases[i].expected, 16);
		memcpy(misfit.live, cases[i].live, 16);
		misfit_why(&misfit, NULL, why);
		expect(strstr(why, cases[i].says) != NULL, why, i);
	}
}

/* What is printed of @text, by one of text.c's functions. */
static int prints(void (*print)(FILE *to, const char *text), const char *text,
		  const char *wanted)
{
	char *got = NULL;
	size_t size;
	FILE *to = open_memstream(&got, &size);
	int same;

	if (!to)
		abort();
	print(to, text);
	fclose(to);
	same = !strcmp(got, wanted);
	free(got);
	return same;
}

static void test_printing(void)
{
	char text[256], bytes[17 * 3 + 1], wanted[2048], *at = wanted;
	int i;

	for (i = 1; i < 256; i++)
		text[i - 1] = (char)i;
	text[255] = 0;
	*at++ = '"';
	for (i = 1; i < 256; i++)
		at += i == '"' || i == '\\' ? sprintf(at, "\\%c", i) :
		      i < 0x20 || i > 0x7e ? sprintf(at, "\\u%04x", i) :
		      sprintf(at, "%c", i);
	strcpy(at, "\"");
	expect(prints(text_json, text, wanted), "every byte in JSON", 0);
	expect(prints(text_json, "", "\"\""), "nothing in JSON", 0);
	expect(prints(text_json, NULL, "null"), "null in JSON", 0);
	for (i = 1; i < 256; i++)
		wanted[i - 1] = i < 0x20 || i > 0x7e ? '?' : (char)i;
	wanted[255] = 0;
	expect(prints(text_print, text, wanted), "every byte for people", 0);
	expect(!strcmp(text_hex((const uint8_t *)text, 3, bytes), "01 02 03"),
	       "bytes in hex", 0);
	expect(strlen(text_hex((const uint8_t *)text, 200, bytes)) == 16 * 3 - 1,
	       "no more than sixteen bytes in hex", 0);
	expect(!*text_hex(NULL, 0, bytes), "no bytes in hex", 0);
}

/* stderr goes nowhere, until it is given back. */
static int hush(int saved)
{
	int to = saved >= 0 ? saved : open("/dev/null", O_WRONLY | O_CLOEXEC);

	fflush(stderr);
	saved = dup(STDERR_FILENO);
	dup2(to, STDERR_FILENO);
	close(to);
	return saved;
}

static void test_options(void)
{
	static const struct {
		const char *takes;
		const char *words[6];
		int code;
	} cases[] = {
		{ "", { NULL }, 0 },
		{ "Bsofe", { "-o", "d", "b", "--for", "1s" }, 0 },
		{ "oecs", { "--every", "5s", "--count", "3" }, 0 },
		{ "Bsj", { "--json", "--max-stop-ms", "20", "b" }, 0 },
		{ "", { "b" }, EXIT_USAGE }, { "B", { NULL }, EXIT_USAGE },
		{ "B", { "b", "b" }, EXIT_USAGE },
		{ "Bj", { "b", "--json", "--json" }, EXIT_USAGE },
		{ "o", { "-o" }, EXIT_USAGE }, { "o", { "-o", "" }, EXIT_USAGE },
		{ "oe", { "-o", "--every", "1s" }, EXIT_USAGE },
		{ "o", { "-o", "a", "-o", "b" }, EXIT_USAGE },
		{ "o", { "--json" }, EXIT_USAGE }, { "B", { "-" }, EXIT_USAGE },
		{ "s", { "--max-stop-ms", "0" }, EXIT_USAGE },
		{ "s", { "--max-stop-ms", "60001" }, EXIT_USAGE },
		{ "s", { "--max-stop-ms=5" }, EXIT_USAGE },
		{ "f", { "--for", "1x" }, EXIT_USAGE },
		{ "B", { "" }, 0 },
	};
	struct options options;
	int code, quiet;
	size_t i;

	for (i = 0; i < COUNT(cases); i++) {
		quiet = hush(-1);
		code = options_read("test", cases[i].takes, "X",
				    cases[i].words, &options);
		hush(quiet);
		expect(code == cases[i].code, "options", i);
	}
	options_read("dump", "oecs", "", cases[2].words, &options);
	expect(options.every_ns == 5000000000 && options.count == 3 &&
	       !options.output && !options.json, "what options say", 0);
	options_read("check", "Bsj", "", cases[3].words, &options);
	expect(options.json && options.max_stop_ns == 20000000 &&
	       !strcmp(options.bundle, "b"), "what options say", 1);
}

void texts_noise(const uint8_t *bytes, size_t size)
{
	static const char letters[] = "0123456789abcdefx-,[]() =smh\n\tkTD";
	char line[200], word[16];
	struct kprobe kprobe;
	struct module module;
	struct symbol symbol;
	uint64_t number;
	uint8_t id[20];
	size_t i;

	for (i = 0; i < size && i < sizeof(line) - 1; i++)
		line[i] = letters[bytes[i] % (sizeof(letters) - 1)];
	line[i] = 0;
	find_id(bytes, size, id);
	kprobe_parse(line, &kprobe);
	module_parse(line, &module);
	if (!symbol_parse(line, &symbol))
		expect(symbol.name < i, "a name is in its line", i);
	machine_count_cpus(line);
	machine_chosen(line, '[', ']', word, sizeof(word));
	machine_parameter(line, "a", word, sizeof(word));
	text_duration(line, &number);
}

void test_texts(void)
{
	test_numbers();
	test_words();
	test_notes();
	test_lines();
	test_misfits();
	test_printing();
	test_options();
}
