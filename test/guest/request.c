// SPDX-License-Identifier: GPL-2.0-only
/*
 * request: what an injector asks the module, one ioctl at a time, and things
 * that no injector would ask. Everything goes through one open file, which is
 * opened when it is first needed.
 *
 *	request PAYLOAD SIGNATURE COMMAND...
 *
 *	check, apply, tied, remove, reset, snapshot   the request; with :NS, with
 *	                        that limit on the stops. Prints reason and figures
 *	status, map             what the module says; what the mapping holds
 *	sleep:SECONDS
 *	open                    nothing but that
 *	nobody                  from here on as user and group 65534
 *	drop                    from here on without CAP_SYS_MODULE
 *	mutate:COUNT            so many damaged payloads are checked, and of those
 *	                        that pass one in 50 applied and removed. For a
 *	                        module that takes unsigned bundles, and sites that
 *	                        nobody runs
 *
 * Ends with 1 where the last request failed, 2 where something went wrong
 * that must not.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "kerninst.h"

#define MISFITS		64
#define REASONS		(KERNINST_E_CLOCK + 1)
#define APPLY_EVERY	50

static int device = -1;
static struct kerninst_misfit misfits[MISFITS];

struct file {
	__u8 *bytes;
	__u32 size;
};

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static struct file read_file(const char *path)
{
	struct file ret;
	struct stat info;
	int file = open(path, O_RDONLY);

	if (file < 0 || fstat(file, &info))
		die(path);
	ret.size = (__u32)info.st_size;
	ret.bytes = malloc(ret.size + 1);
	if (!ret.bytes || read(file, ret.bytes, ret.size) != (ssize_t)ret.size)
		die(path);
	close(file);
	return ret;
}

static void open_device(void)
{
	if (device >= 0)
		return;
	device = open(KERNINST_DEVICE, O_RDONLY);
	if (device < 0)
		die(KERNINST_DEVICE);
}

static void become_nobody(void)
{
	if (setgid(65534) || setuid(65534))
		die("nobody");
}

static void drop_capability(void)
{
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	const __u32 bit = 1u << CAP_SYS_MODULE;

	if (syscall(SYS_capget, &head, data))
		die("capget");
	data[0].effective &= ~bit;
	data[0].permitted &= ~bit;
	data[0].inheritable &= ~bit;
	if (syscall(SYS_capset, &head, data))
		die("capset");
}

/* One request. Return: 0 or the errno. */
static int ask(unsigned long command, struct kerninst_request *req)
{
	open_device();
	return ioctl(device, command, req) ? errno : 0;
}

static struct kerninst_request bundle(const struct file *payload,
				      const struct file *signature)
{
	struct kerninst_request req = {
		.payload = (__u64)(unsigned long)payload->bytes,
		.payload_bytes = payload->size,
		.signature = (__u64)(unsigned long)signature->bytes,
		.signature_bytes = signature->size,
		.misfits = (__u64)(unsigned long)misfits,
		.misfit_room = MISFITS,
	};

	return req;
}

static struct kerninst_status status(void)
{
	struct kerninst_status ret;

	open_device();
	if (ioctl(device, KERNINST_IOC_STATUS, &ret))
		die("status");
	return ret;
}

static void print_map(void)
{
	struct kerninst_status now = status();
	const struct kerninst_heap *head;
	const __u64 *area;
	__u64 sum = 0;
	__u32 cpu, slot;

	if (!now.heap_bytes) {
		puts("map nothing");
		return;
	}
	head = mmap(NULL, now.heap_bytes, PROT_READ, MAP_SHARED, device, 0);
	if (head == MAP_FAILED)
		die("mmap");
	for (cpu = 0; cpu < head->cpu_count; cpu++) {
		area = (const __u64 *)((const __u8 *)head + head->header_bytes +
				       cpu * head->cpu_stride);
		for (slot = 0; slot < head->slot_count; slot++)
			sum += area[slot];
	}
	printf("map %s state %u sum %llu\n", head->snapshot_ns ? "copy" : "live",
	       head->state, sum);
	munmap((void *)head, now.heap_bytes);
}

/* ---- damaged payloads ------------------------------------------------------ */

static __u64 seed = 88172645463325252ull;

static __u32 below(__u32 limit)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (__u32)(seed >> 32) % limit;
}

/* One to four fields, most of them in the tables and the header. */
static void damage(__u8 *bytes, const struct kerninst_payload *head)
{
	static const __u32 odd[] = { 0, 1, 2, 5, 0x7f, 0x80, 0xff, 0xffff,
		0x10000, 0x7fffffff, 0x80000000, 0xfffffff0, 0xffffffff };
	__u32 rounds = 1 + below(4), at, value;
	__u8 width;

	while (rounds--) {
		at = below(8) ? sizeof(*head) +
			below(head->code_offset - sizeof(*head)) :
			below(sizeof(*head));
		width = 1u << below(3);
		if (at + width > head->code_offset)
			continue;
		memcpy(&value, bytes + at, width);
		switch (below(3)) {
		case 0:
			value ^= 1u << below(8 * width);
			break;
		case 1:
			value += below(33) - 16;
			break;
		default:
			value = odd[below(sizeof(odd) / sizeof(*odd))];
		}
		memcpy(bytes + at, &value, width);
	}
}

static void mutate(const struct file *payload, __u32 count)
{
	struct file copy = { malloc(payload->size), payload->size };
	const struct file none = { copy.bytes, 0 };
	__u64 of[REASONS] = { 0 }, applied = 0;
	struct kerninst_payload head;
	struct kerninst_request req;
	int error;
	__u32 i;

	memcpy(&head, payload->bytes, sizeof(head));
	for (i = 0; i < count; i++) {
		memcpy(copy.bytes, payload->bytes, copy.size);
		damage(copy.bytes, &head);
		req = bundle(&copy, &none);
		error = ask(KERNINST_IOC_CHECK, &req);
		if (req.reason >= REASONS || !error != !req.reason) {
			fprintf(stderr, "payload %u: errno %d, reason %u\n", i,
				error, req.reason);
			exit(2);
		}
		of[req.reason]++;
		if (error || of[0] % APPLY_EVERY)
			continue;
		req = bundle(&copy, &none);
		if (ask(KERNINST_IOC_APPLY, &req) ||
		    ask(KERNINST_IOC_REMOVE, &req))
			die("what check takes is applied and removed");
		applied++;
	}
	printf("mutated %u, applied %llu, by reason", count, applied);
	for (i = 0; i < REASONS; i++)
		printf(" %llu", of[i]);
	putchar('\n');
}

/* ---- commands -------------------------------------------------------------- */

static const struct {
	const char *name;
	unsigned long command;
	__u32 flags;
} requests[] = {
	{ "check", KERNINST_IOC_CHECK, 0 },
	{ "apply", KERNINST_IOC_APPLY, 0 },
	{ "tied", KERNINST_IOC_APPLY, KERNINST_TIED },
	{ "remove", KERNINST_IOC_REMOVE, 0 },
	{ "reset", KERNINST_IOC_RESET, 0 },
	{ "snapshot", KERNINST_IOC_SNAPSHOT, 0 },
};

#define REQUESTS (sizeof(requests) / sizeof(*requests))

int main(int argc, char **argv)
{
	struct kerninst_request req;
	struct kerninst_status now;
	struct file payload, signature;
	unsigned long long number;
	int i, error = 0;
	char *colon;
	size_t j;

	if (argc < 3)
		return 64;
	payload = read_file(argv[1]);
	signature = read_file(argv[2]);
	for (i = 3; i < argc; i++) {
		colon = strchr(argv[i], ':');
		number = colon ? strtoull(colon + 1, NULL, 0) : 0;
		if (colon)
			*colon = 0;
		for (j = 0; j < REQUESTS && strcmp(argv[i], requests[j].name); j++)
			;
		if (j < REQUESTS) {
			req = bundle(&payload, &signature);
			req.flags = requests[j].flags;
			req.max_stop_ns = number;
			error = ask(requests[j].command, &req);
			printf("%s errno %d reason %u index %u value %llu stop_ns %llu stops %u misfits %u trust %u memory %llu\n",
			       argv[i], error, req.reason, req.index, req.value,
			       req.stop_ns, req.stops, req.misfit_count,
			       req.trust, req.memory_bytes);
		} else if (!strcmp(argv[i], "status")) {
			now = status();
			printf("status state %u foreign %u resets %u tied %u code %llu memory %llu\n",
			       now.state, now.foreign_sites, now.resets,
			       now.tied, now.code_bytes, now.memory_bytes);
		} else if (!strcmp(argv[i], "map")) {
			print_map();
		} else if (!strcmp(argv[i], "open")) {
			open_device();
		} else if (!strcmp(argv[i], "nobody")) {
			become_nobody();
		} else if (!strcmp(argv[i], "drop")) {
			drop_capability();
		} else if (!strcmp(argv[i], "sleep")) {
			sleep((unsigned int)number);
		} else if (!strcmp(argv[i], "mutate")) {
			mutate(&payload, (__u32)number);
		} else {
			return 64;
		}
		fflush(stdout);
	}
	return !!error;
}
