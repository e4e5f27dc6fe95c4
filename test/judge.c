// SPDX-License-Identifier: GPL-2.0-only
/*
 * The C side's opinion, for test/bundle.test.ts and test/report.test.ts: what
 * C structs of uapi/kerninst.h see in bytes that TypeScript wrote, and bytes
 * written through these structs for TypeScript to read.
 *
 *	judge fields < payload     every field, as "name value" lines
 *	judge parse < records      u32 length, payload, ...: the module's own
 *	                           parser; one line "reason offset" for each
 *	judge dump CPUS SLOTS      a dump; slot s of CPU c counts 1000 * c + s
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "payload.h"

static __u8 *bytes; /* standard input, all of it; lives until the end */

static __u8 *read_all(size_t *size)
{
	size_t room = 1 << 20, have = 0, got;

	bytes = malloc(room);
	while (bytes && (got = fread(bytes + have, 1, room - have, stdin)) > 0) {
		have += got;
		if (have == room)
			bytes = realloc(bytes, room *= 2);
	}
	if (!bytes)
		exit(70);
	*size = have;
	return bytes;
}

static void hex(const char *name, const __u8 *from, size_t count)
{
	printf("%s ", name);
	while (count--)
		printf("%02x", *from++);
	printf("\n");
}

#define U(name, value) printf("%s %llu\n", name, (unsigned long long)(value))

static int fields(void)
{
	size_t size;
	const struct kerninst_payload *head = (void *)read_all(&size);
	__u32 i;

	if (size < sizeof(*head))
		return 65;
	hex("magic", head->magic, 8);
	U("version", head->version);
	U("headerBytes", head->header_bytes);
	U("payloadBytes", head->payload_bytes);
	U("linkBase", head->link_base);
	U("imageBytes", head->image_bytes);
	U("textStart", head->text_start);
	U("textEnd", head->text_end);
	U("buildIdRva", head->build_id_rva);
	hex("buildId", head->build_id, 20);
	for (i = 0; i < 3; i++)
		U("anchor", head->anchor_rva[i]);
	for (i = 0; i < 2; i++)
		U("kprobe", head->kprobe_rva[i]);
	hex("manifestSha256", head->manifest_sha256, 32);
	U("slotCount", head->slot_count);
	U("frameWords", head->frame_words);
	for (i = 0; i < head->site_count; i++) {
		const struct kerninst_site *site = (void *)(bytes + head->site_offset);

		site += i;
		printf("site %u %u %u %u %u %u %u %u %u\n", site->rva, site->patch,
		       site->length, site->kind, site->form_class,
		       site->reloc_kind, site->tail, site->reloc_offset,
		       site->flags);
		hex("expected", site->expected, 16);
	}
	for (i = 0; i < head->form_count; i++) {
		const struct kerninst_form *form = (void *)(bytes + head->form_offset);

		form += i;
		printf("form %u %u %u\n", form->form_class, form->kind, form->target);
		hex("bytes", form->bytes, 6);
	}
	for (i = 0; i < head->fixup_count; i++) {
		const struct kerninst_fixup *fixup = (void *)(bytes + head->fixup_offset);

		fixup += i;
		printf("fixup %u %u %u %u\n", fixup->offset, fixup->value,
		       fixup->kind, fixup->trail);
	}
	hex("code", bytes + head->code_offset, head->code_bytes);
	return 0;
}

static int parse(void)
{
	struct kerninst_view view;
	size_t size, at = 0;
	__u8 *copy;
	__u32 length, bad, reason;

	read_all(&size);
	while (at + 4 <= size) {
		memcpy(&length, bytes + at, 4);
		at += 4;
		if (length > size - at)
			return 65;
		copy = malloc(length ? length : 1); /* of its own: aligned, and bounds are seen */
		if (!copy)
			return 70;
		memcpy(copy, bytes + at, length);
		reason = kerninst_payload_parse(copy, length, &view, &bad);
		printf("%u %u\n", reason, bad);
		free(copy);
		at += length;
	}
	return at == size ? 0 : 65;
}

static int dump(__u32 cpus, __u32 slots)
{
	struct kerninst_dump head = {
		.version = KERNINST_VERSION,
		.header_bytes = sizeof(head),
		.dumped_ns = 1700000003123456789ull,
		.host = "target-7",
		.release = "6.1.0-test-amd64",
	};
	struct kerninst_heap heap = {
		.version = KERNINST_VERSION,
		.header_bytes = 4096,
		.state = KERNINST_HEAP_REMOVED,
		.slide = 0x1c200000,
		.slot_count = slots,
		.cpu_count = cpus,
		.cpu_stride = (slots * 8ull + 4095) / 4096 * 4096,
		.applied_ns = 1700000000000000000ull,
		.removed_ns = 1700000002500000000ull,
		.stop_ns = 123456,
		.site_count = 4,
		.resets = 2,
		.reset_ns = 1700000001000000000ull,
		.snapshot_ns = 1700000003000000000ull,
	};
	static __u8 page[4096];
	__u64 *area = calloc(1, heap.cpu_stride);
	__u32 cpu, slot;

	if (!area)
		return 70;
	head.heap_bytes = 4096 + cpus * heap.cpu_stride;
	heap.page_count = head.heap_bytes / 4096;
	memcpy(head.magic, KERNINST_DUMP_MAGIC, 8);
	memcpy(heap.magic, KERNINST_HEAP_MAGIC, 8);
	memset(heap.build_id, 0xb1, sizeof(heap.build_id));
	memset(heap.payload_sha256, 0x5d, sizeof(heap.payload_sha256));
	memcpy(page, &heap, sizeof(heap));
	fwrite(&head, sizeof(head), 1, stdout);
	fwrite(page, sizeof(page), 1, stdout);
	for (cpu = 0; cpu < cpus; cpu++) {
		for (slot = 0; slot < slots; slot++)
			area[slot] = 1000ull * cpu + slot;
		fwrite(area, heap.cpu_stride, 1, stdout);
	}
	free(area);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "fields"))
		return fields();
	if (argc == 2 && !strcmp(argv[1], "parse"))
		return parse();
	if (argc == 4 && !strcmp(argv[1], "dump"))
		return dump(atoi(argv[2]), atoi(argv[3]));
	return 64;
}
