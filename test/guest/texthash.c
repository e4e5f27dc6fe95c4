// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a kernel whose /proc/kcore and /proc/kallsyms root may read. Out: its
 * text as it is in memory, written to a file, or compared byte for byte with
 * such a file of the same boot.
 *
 *	texthash save FILE	writes [_stext, _etext), behind both addresses (8 bytes
 *				each), and prints its size and FNV-1a
 *	texthash diff FILE	prints every differing range as function+0xoffset
 *				and exits 1 when there is any
 *
 * kallsyms takes seconds to read in an emulator, so the file says where the
 * text is, and names are looked up only for what differs.
 *
 * Invariant: all of the text is read or the program fails; what may not change
 * is decided by the caller. The text segment of kcore covers _text to _end
 * (fs/proc/kcore.c, proc_kcore_text_init; 6.1 and 6.12).
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_TEXT	(64ul << 20)
#define MAX_HEADERS	64
#define MAX_RANGES	40	/* printed; the rest is only counted */
#define STRIDE		4096	/* compared at once */

static unsigned long long text_start, text_end;

static void fail(const char *what)
{
	fprintf(stderr, "texthash: %s: %s\n", what, errno ? strerror(errno) : "not as expected");
	exit(2);
}

static FILE *symbols(void)
{
	FILE *file = fopen("/proc/kallsyms", "r");

	if (!file)
		fail("/proc/kallsyms");
	return file;
}

static void find_text(void)
{
	FILE *file = symbols();
	unsigned long long address;
	char name[512];

	while (fscanf(file, "%llx %*c %511s%*[^\n]", &address, name) == 2) {
		if (!strcmp(name, "_stext"))
			text_start = address;
		if (!strcmp(name, "_etext"))
			text_end = address;
	}
	fclose(file);
}

static void check_text(const char *source)
{
	errno = 0;
	if (!text_start || text_end <= text_start || text_end - text_start > MAX_TEXT)
		fail(source);
}

/* The text symbol at or below an address. */
static void name_of(unsigned long long address, char ret[560])
{
	FILE *file = symbols();
	unsigned long long at, best = 0;
	char name[512], type;

	strcpy(ret, "?");
	while (fscanf(file, "%llx %c %511s%*[^\n]", &at, &type, name) == 3)
		if (at <= address && at > best && strchr("tTwW", type)) {
			best = at;
			snprintf(ret, 560, "%s+0x%llx", name, address - at);
		}
	fclose(file);
}

static unsigned char *read_text(size_t *ret)
{
	int fd = open("/proc/kcore", O_RDONLY);
	Elf64_Ehdr header;
	size_t size = text_end - text_start;
	unsigned char *text = malloc(size);

	if (fd < 0 || !text)
		fail("/proc/kcore");
	if (pread(fd, &header, sizeof(header), 0) != sizeof(header) || memcmp(header.e_ident, ELFMAG, SELFMAG))
		fail("the header of /proc/kcore");
	for (int i = 0; i < header.e_phnum && i < MAX_HEADERS; i++) {
		Elf64_Phdr segment;
		size_t done = 0;

		if (pread(fd, &segment, sizeof(segment), header.e_phoff + i * sizeof(segment)) != sizeof(segment))
			fail("the program headers of /proc/kcore");
		if (segment.p_type != PT_LOAD || segment.p_vaddr > text_start ||
		    segment.p_vaddr + segment.p_memsz < text_end)
			continue;
		while (done < size) {
			ssize_t got = pread(fd, text + done, size - done, segment.p_offset + (text_start - segment.p_vaddr) + done);

			if (got <= 0)
				fail("the text in /proc/kcore");
			done += got;
		}
		close(fd);
		*ret = size;
		return text;
	}
	errno = 0;
	fail("no segment of /proc/kcore holds the text");
	return NULL;
}

static void report(const unsigned char *then, const unsigned char *now, size_t from, size_t to)
{
	char name[560];

	name_of(text_start + from, name);
	printf("%s:", name);
	for (size_t i = from; i < to && i < from + 16; i++)
		printf(" %02x", then[i]);
	printf(" ->");
	for (size_t i = from; i < to && i < from + 16; i++)
		printf(" %02x", now[i]);
	printf("\n");
}

static int save(const char *path)
{
	unsigned long long hash = 0xcbf29ce484222325ull;
	unsigned char *now;
	size_t size;
	FILE *file;

	find_text();
	check_text("_stext and _etext of /proc/kallsyms");
	now = read_text(&size);
	file = fopen(path, "w");
	if (!file || fwrite(&text_start, 8, 1, file) != 1 || fwrite(&text_end, 8, 1, file) != 1 ||
	    fwrite(now, 1, size, file) != size || fclose(file))
		fail(path);
	for (size_t i = 0; i < size; i++)
		hash = (hash ^ now[i]) * 0x100000001b3ull;
	printf("text: %zu bytes, %016llx\n", size, hash);
	return 0;
}

static int diff(const char *path)
{
	size_t size, ranges = 0, bytes = 0;
	unsigned char *now, *then;
	FILE *file = fopen(path, "r");

	if (!file || fread(&text_start, 8, 1, file) != 1 || fread(&text_end, 8, 1, file) != 1)
		fail(path);
	check_text(path);
	now = read_text(&size);
	then = malloc(size);
	if (!then || fread(then, 1, size, file) != size || fgetc(file) != EOF)
		fail(path);
	for (size_t i = 0; i < size; i++) {
		size_t end;

		while (i % STRIDE == 0 && i + STRIDE <= size && !memcmp(then + i, now + i, STRIDE))
			i += STRIDE;
		if (i == size || then[i] == now[i])
			continue;
		/* Bytes of one change that happen to be equal do not split it. */
		end = i;
		for (size_t j = i; j < size && j < end + 8; j++)
			if (then[j] != now[j])
				end = j + 1;
		if (ranges++ < MAX_RANGES)
			report(then, now, i, end);
		bytes += end - i;
		i = end;
	}
	printf("text: %zu ranges, %zu bytes differ of %zu\n", ranges, bytes, size);
	return ranges ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "save"))
		return save(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "diff"))
		return diff(argv[2]);
	fprintf(stderr, "usage: texthash save|diff FILE\n");
	return 64;
}
