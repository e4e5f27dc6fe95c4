// SPDX-License-Identifier: GPL-2.0-only
/*
 * dump: the device's counter heap in, a file out: struct kerninst_dump, then
 * the mapping verbatim. The file appears whole, under its name, or not at
 * all: it is written beside its place, synced and renamed. The heap is only
 * read, so a dump that fails can be taken again.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#include "device.h"
#include "dump.h"
#include "fail.h"
#include "wait.h"

/*
 * Counters are copied in pieces: a write() straight from the mapping fails
 * where it has to pin the source's pages (O_DIRECT and some file systems).
 */
#define PIECE	(256u << 10)

#define PAGE_BYTES	4096u

static int write_all(int file, const void *bytes, size_t size)
{
	const uint8_t *at = bytes;
	ssize_t wrote;

	while (size) {
		wrote = write(file, at, size);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			return -1;
		at += wrote;
		size -= (size_t)wrote;
	}
	return 0;
}

static void head_fill(struct kerninst_dump *head, uint64_t heap_bytes)
{
	struct utsname names;
	struct timespec now;

	memset(head, 0, sizeof(*head));
	memcpy(head->magic, KERNINST_DUMP_MAGIC, sizeof(head->magic));
	head->version = KERNINST_VERSION;
	head->header_bytes = sizeof(*head);
	head->heap_bytes = heap_bytes;
	clock_gettime(CLOCK_REALTIME, &now);
	head->dumped_ns = (uint64_t)now.tv_sec * 1000000000u +
			  (uint64_t)now.tv_nsec;
	if (uname(&names))
		return;
	snprintf((char *)head->host, sizeof(head->host), "%s", names.nodename);
	snprintf((char *)head->release, sizeof(head->release), "%s",
		 names.release);
}

static int write_dump(int file, const struct kerninst_dump *head,
		      const uint8_t *heap)
{
	static uint8_t piece[PIECE];
	uint64_t at, size;

	if (write_all(file, head, sizeof(*head)))
		return -1;
	for (at = 0; at < head->heap_bytes; at += size) {
		size = head->heap_bytes - at;
		if (size > PIECE)
			size = PIECE;
		memcpy(piece, heap + at, size);
		if (write_all(file, piece, size))
			return -1;
	}
	return fsync(file);
}

/* Make the new name durable too; its contents already are. */
static void sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder = slash ? strndup(path, (size_t)(slash - path + 1)) :
			       strdup(".");
	int file;

	if (!folder)
		return;
	file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(folder);
	if (file < 0)
		return;
	/* Some file systems cannot; the dump is complete all the same. */
	(void)!fsync(file);
	close(file);
}

static int write_file(const char *path, const struct kerninst_dump *head,
		      const uint8_t *heap)
{
	char *beside;
	int file, code = 0;

	if (asprintf(&beside, "%s.%ld.tmp", path, (long)getpid()) < 0)
		return fail(EXIT_IO, "out of memory");
	file = open(beside, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (file < 0) {
		code = fail(EXIT_CANNOT_CREATE, "%s: cannot create: %s", beside,
			    strerror(errno));
		goto free_name;
	}
	if (write_dump(file, head, heap)) {
		code = fail(EXIT_IO,
			    "%s: %s: nothing was kept; the counters are still in the kernel: dump to a place with %" PRIu64
			    " bytes free",
			    beside, strerror(errno),
			    (uint64_t)(sizeof(*head) + head->heap_bytes));
		close(file);
		goto remove;
	}
	if (close(file)) {
		code = fail(EXIT_IO, "%s: %s: nothing was kept; the counters are still in the kernel: dump again",
			    beside, strerror(errno));
		goto remove;
	}
	if (rename(beside, path)) {
		code = fail(EXIT_CANNOT_CREATE, "%s: cannot create: %s", path,
			    strerror(errno));
		goto remove;
	}
	sync_folder(path);
	goto free_name;

remove:
	unlink(beside);
free_name:
	free(beside);
	return code;
}

int dump_write(int device, const char *path, uint64_t max_stop_ns)
{
	struct kerninst_request request = { .max_stop_ns = max_stop_ns };
	struct kerninst_status status;
	struct kerninst_dump head;
	void *heap;
	int code;

	code = device_status(device, &status);
	if (code)
		return code;
	if (!status.heap_bytes)
		return fail(EXIT_REFUSED,
			    "there are no counters: apply a bundle first");
	code = device_do(device, KERNINST_IOC_SNAPSHOT, NULL, &request);
	if (code)
		return code;
	heap = mmap(NULL, status.heap_bytes, PROT_READ, MAP_SHARED, device, 0);
	if (heap == MAP_FAILED)
		return fail(EXIT_IO, "%s: cannot map the counters: %s: dump again",
			    KERNINST_DEVICE, strerror(errno));
	if (((struct kerninst_heap *)heap)->page_count !=
	    status.heap_bytes / PAGE_BYTES) {
		munmap(heap, status.heap_bytes);
		return fail(EXIT_REFUSED, "another bundle was applied meanwhile: dump again");
	}
	head_fill(&head, status.heap_bytes);
	code = write_file(path, &head, heap);
	munmap(heap, status.heap_bytes);
	return code;
}

int dump_series(int device, const char *path, uint64_t max_stop_ns,
		const struct dump_times *times, const char *left)
{
	uint64_t due = times->first, now;
	uint32_t number = 1;
	char *name;
	int code = 0;

	while (!code && (!times->count || number <= times->count)) {
		if (times->until && due >= times->until)
			return 0;
		if (wait_until(due, left))
			return 0;
		if (asprintf(&name, "%s.%04u", path, number) < 0)
			return fail(EXIT_IO, "out of memory");
		code = dump_write(device, name, max_stop_ns);
		free(name);
		number++;
		/* Where writing takes longer than that, some are left out. */
		now = wait_now();
		do {
			due += times->every;
		} while (due <= now);
	}
	return code;
}
