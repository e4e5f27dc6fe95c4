// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a counter heap, while bundles come and go. Out: whether what was mapped
 * stays what it was: the same bundle's header, no counter that goes back,
 * none that moves after the removal. Ends when the file named exists.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kerninst.h"

static int fail(const char *what)
{
	fprintf(stderr, "reader: %s: %s\n", what, errno ? strerror(errno) : "not as it should be");
	return 1;
}

int main(int argc, char **argv)
{
	int fd = open(KERNINST_DEVICE, O_RDONLY | O_CLOEXEC);
	struct kerninst_status status;
	struct kerninst_heap first;
	const struct kerninst_heap *heap;
	unsigned long long *seen, sums = 0, frozen = 0;
	unsigned long count, passes = 0;

	if (argc != 2) {
		fprintf(stderr, "usage: reader FILE\n");
		return 64;
	}
	if (fd < 0 || ioctl(fd, KERNINST_IOC_STATUS, &status))
		return fail(KERNINST_DEVICE);
	heap = mmap(NULL, status.heap_bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (heap == MAP_FAILED)
		return fail("mmap");
	if (mmap(NULL, status.heap_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
		return fail("a writable mapping");
	close(fd); /* the mapping alone keeps the heap */
	first = *heap;
	count = heap->cpu_count * (heap->cpu_stride / 8);
	seen = calloc(count, sizeof(*seen));
	if (!seen)
		return fail("calloc");
	errno = 0;
	do {
		int removed = *(volatile const __u32 *)&heap->state == KERNINST_HEAP_REMOVED;
		const volatile __u64 *counters = (const void *)((const char *)heap + heap->header_bytes);

		if (memcmp(heap->payload_sha256, first.payload_sha256, sizeof(first.payload_sha256)) ||
		    heap->applied_ns != first.applied_ns || heap->slot_count != first.slot_count)
			return fail("the header");
		sums = 0;
		for (unsigned long i = 0; i < count; i++) {
			unsigned long long now = counters[i];

			if (now < seen[i])
				return fail("a counter that goes back");
			seen[i] = now;
			sums += now;
		}
		/* The state is set once no splice leads to a patch; the last thread may still be in one. */
		if (removed && ++frozen > 50 && passes && sums != passes)
			return fail("a counter that moves after the removal");
		passes = removed && frozen > 50 ? sums : 0;
		usleep(1000);
	} while (access(argv[1], F_OK));
	printf("reader: %llu runs, %s\n", sums, frozen ? "removed" : "applied");
	return 0;
}
