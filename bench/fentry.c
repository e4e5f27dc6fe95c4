// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: entry or exit, a kernel function, and a command. Out: the command runs
 * while a BPF program (fentry or fexit) adds one to a per-CPU array at each
 * call; then "bpf COUNT" is printed.
 *
 *	fentry entry|exit FUNCTION COMMAND...
 *
 * The program is what a tracing tool's count() comes to: look up element 0 of
 * the per-CPU array, add one. It is assembled by hand and loaded by bpf(2), so
 * that the guest needs no library; the function's BTF id is looked up in
 * /sys/kernel/btf/vmlinux (format: Documentation/bpf/btf.rst, 6.1 and 6.12).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_BTF		(64u << 20)
#define MAX_CPUS	64

static void fail(const char *what)
{
	fprintf(stderr, "fentry: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int bpf(int command, union bpf_attr *attributes)
{
	return syscall(SYS_bpf, command, attributes, sizeof(*attributes));
}

/* Bytes that follow struct btf_type, by kind. */
static size_t extra_bytes(const struct btf_type *type)
{
	size_t count = BTF_INFO_VLEN(type->info);

	switch (BTF_INFO_KIND(type->info)) {
	case BTF_KIND_INT:
	case BTF_KIND_VAR:
	case BTF_KIND_DECL_TAG:
		return 4;
	case BTF_KIND_ARRAY:
		return sizeof(struct btf_array);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return count * sizeof(struct btf_member);
	case BTF_KIND_ENUM:
		return count * sizeof(struct btf_enum);
	case BTF_KIND_ENUM64:
		return count * sizeof(struct btf_enum64);
	case BTF_KIND_FUNC_PROTO:
		return count * sizeof(struct btf_param);
	case BTF_KIND_DATASEC:
		return count * sizeof(struct btf_var_secinfo);
	default:
		return 0;
	}
}

static unsigned int find_function(const char *name)
{
	int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY);
	const struct btf_header *header;
	struct stat info;
	size_t size, at = 0;
	char *bytes;

	if (fd < 0 || fstat(fd, &info) || info.st_size < (off_t)sizeof(*header) || info.st_size > MAX_BTF)
		fail("/sys/kernel/btf/vmlinux");
	size = info.st_size;
	bytes = malloc(size + 1);
	if (!bytes)
		fail("memory");
	while (at < size) {
		ssize_t got = read(fd, bytes + at, size - at);

		if (got <= 0)
			fail("/sys/kernel/btf/vmlinux");
		at += got;
	}
	bytes[size] = 0;
	close(fd);
	header = (const struct btf_header *)bytes;
	if (header->magic != BTF_MAGIC || header->hdr_len > size ||
	    (size_t)header->type_off + header->type_len > size - header->hdr_len ||
	    (size_t)header->str_off + header->str_len > size - header->hdr_len)
		fail("the header of /sys/kernel/btf/vmlinux");

	const char *types = bytes + header->hdr_len + header->type_off;
	const char *names = bytes + header->hdr_len + header->str_off;

	at = 0;
	for (unsigned int id = 1; at + sizeof(struct btf_type) <= header->type_len; id++) {
		const struct btf_type *type = (const struct btf_type *)(types + at);

		if (BTF_INFO_KIND(type->info) == BTF_KIND_FUNC && type->name_off < header->str_len &&
		    !strcmp(names + type->name_off, name))
			return id;
		at += sizeof(*type) + extra_bytes(type);
	}
	errno = ENOENT;
	fail(name);
	return 0;
}

#define INSN(c, d, s, o, i) { .code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i) }

int main(int argc, char **argv)
{
	int at_exit = argc > 1 && !strcmp(argv[1], "exit");
	union bpf_attr attributes;
	unsigned long long values[MAX_CPUS] = { 0 }, sum = 0;
	unsigned int key = 0;
	static char log[1 << 16];
	int map, program, link, status;

	if (argc < 4 || (!at_exit && strcmp(argv[1], "entry"))) {
		fprintf(stderr, "usage: fentry entry|exit FUNCTION COMMAND...\n");
		return 64;
	}
	memset(&attributes, 0, sizeof(attributes));
	attributes.map_type = BPF_MAP_TYPE_PERCPU_ARRAY;
	attributes.key_size = 4;
	attributes.value_size = 8;
	attributes.max_entries = 1;
	map = bpf(BPF_MAP_CREATE, &attributes);
	if (map < 0)
		fail("BPF_MAP_CREATE");

	const struct bpf_insn code[] = {
		INSN(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, 0),		/* key = 0 */
		INSN(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_2, BPF_REG_10, 0, 0),
		INSN(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4),
		INSN(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map),
		INSN(0, 0, 0, 0, 0),
		INSN(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem),
		INSN(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, 3, 0),
		INSN(BPF_LDX | BPF_MEM | BPF_DW, BPF_REG_1, BPF_REG_0, 0, 0),
		INSN(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_1, 0, 0, 1),
		INSN(BPF_STX | BPF_MEM | BPF_DW, BPF_REG_0, BPF_REG_1, 0, 0),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0),
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};

	memset(&attributes, 0, sizeof(attributes));
	attributes.prog_type = BPF_PROG_TYPE_TRACING;
	attributes.expected_attach_type = at_exit ? BPF_TRACE_FEXIT : BPF_TRACE_FENTRY;
	attributes.insns = (unsigned long)code;
	attributes.insn_cnt = sizeof(code) / sizeof(*code);
	attributes.license = (unsigned long)"GPL";
	attributes.attach_btf_id = find_function(argv[2]);
	attributes.log_buf = (unsigned long)log;
	attributes.log_size = sizeof(log);
	attributes.log_level = 1;
	program = bpf(BPF_PROG_LOAD, &attributes);
	if (program < 0) {
		fputs(log, stderr);
		fail("BPF_PROG_LOAD");
	}
	memset(&attributes, 0, sizeof(attributes));
	attributes.raw_tracepoint.prog_fd = program;
	link = bpf(BPF_RAW_TRACEPOINT_OPEN, &attributes);
	if (link < 0)
		fail("BPF_RAW_TRACEPOINT_OPEN");

	pid_t child = fork();

	if (child == 0) {
		execvp(argv[3], argv + 3);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
		fail(argv[3]);
	memset(&attributes, 0, sizeof(attributes));
	attributes.map_fd = map;
	attributes.key = (unsigned long)&key;
	attributes.value = (unsigned long)values;
	if (bpf(BPF_MAP_LOOKUP_ELEM, &attributes))
		fail("BPF_MAP_LOOKUP_ELEM");
	for (int cpu = 0; cpu < MAX_CPUS; cpu++)
		sum += values[cpu];
	close(link);
	printf("bpf %llu\n", sum);
	return 0;
}
