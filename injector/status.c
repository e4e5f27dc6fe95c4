// SPDX-License-Identifier: GPL-2.0-only
/*
 * status: the module's answer in, lines or JSON out. Hits are the sum of all
 * counters while they go on counting: no snapshot, no stop of the machine.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include "device.h"
#include "fail.h"
#include "status.h"

#define PAGE_BYTES	4096u
#define NS_PER_S	1000000000u

struct hits {
	int known;
	uint64_t sum;
};

/* Do all counters lie in what is mapped? */
static int is_whole(const struct kerninst_heap *head, uint64_t bytes)
{
	return head->header_bytes <= bytes && head->cpu_count &&
	       head->page_count == bytes / PAGE_BYTES &&
	       (uint64_t)head->slot_count * sizeof(uint64_t) <=
	       head->cpu_stride &&
	       head->cpu_stride <= (bytes - head->header_bytes) /
	       head->cpu_count;
}

/* Unknown where another bundle was applied since we asked for the status. */
static void sum_hits(int device, const struct kerninst_status *status,
		     struct hits *ret)
{
	const struct kerninst_heap *head;
	const volatile uint64_t *area;
	uint32_t cpu, slot;
	void *heap;

	heap = mmap(NULL, status->heap_bytes, PROT_READ, MAP_SHARED, device, 0);
	if (heap == MAP_FAILED)
		return;
	head = heap;
	ret->known = is_whole(head, status->heap_bytes);
	for (cpu = 0; ret->known && cpu < head->cpu_count; cpu++) {
		area = (const volatile uint64_t *)((const uint8_t *)heap +
			head->header_bytes + cpu * head->cpu_stride);
		for (slot = 0; slot < head->slot_count; slot++)
			ret->sum += area[slot];
	}
	munmap(heap, status->heap_bytes);
}

static uint64_t real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* Seconds of counting, since it began or was reset. */
static double counted_seconds(const struct kerninst_status *status)
{
	uint64_t from = status->reset_ns ? status->reset_ns :
		status->applied_ns;
	uint64_t to = status->removed_ns ? status->removed_ns : real_ns();

	return status->heap_bytes && to > from ? (double)(to - from) / 1e9 : 0;
}

static const char *state_name(uint32_t state)
{
	static const char *const states[] = {
		[KERNINST_IDLE] = "idle",
		[KERNINST_APPLIED] = "applied",
		[KERNINST_REMOVED] = "removed",
		[KERNINST_PARTIAL] = "partly removed",
	};

	return state < sizeof(states) / sizeof(*states) ? states[state] : NULL;
}

static void print_sha256(const uint8_t sha256[32])
{
	size_t i;

	for (i = 0; i < 32; i++)
		printf("%02x", sha256[i]);
}

static void print_time(const char *name, uint64_t ns)
{
	time_t seconds = (time_t)(ns / NS_PER_S);
	struct tm utc;
	char text[32];

	if (!ns || !gmtime_r(&seconds, &utc))
		return;
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	printf("%s %s.%03uZ\n", name, text,
	       (unsigned int)(ns / 1000000u % 1000u));
}

static void print_text(const struct kerninst_status *status,
		       const struct hits *hits)
{
	printf("state %s\n", state_name(status->state));
	printf("unsigned-bundles %s\n", status->unsigned_ok ? "taken" : "refused");
	printf("patch-area-bytes %" PRIu64 "\n",
	       (uint64_t)status->patch_area_bytes);
	if (!status->heap_bytes)
		return;
	printf("code-bytes %" PRIu64 "\n", (uint64_t)status->code_bytes);
	printf("sites %u\n", status->site_count);
	printf("foreign-sites %u\n", status->foreign_sites);
	printf("slots %u\n", status->slot_count);
	if (hits->known)
		printf("hits %" PRIu64 "\n", hits->sum);
	else
		printf("hits unknown\n");
	printf("heap-bytes %" PRIu64 "\n", (uint64_t)status->heap_bytes);
	printf("memory-bytes %" PRIu64 "\n", (uint64_t)status->memory_bytes);
	printf("slide 0x%" PRIx64 "\n", (uint64_t)status->slide);
	printf("payload-sha256 ");
	print_sha256(status->payload_sha256);
	putchar('\n');
	print_time("applied", status->applied_ns);
	print_time("reset", status->reset_ns);
	print_time("removed", status->removed_ns);
	printf("resets %u\n", status->resets);
	printf("counted-seconds %.3f\n", counted_seconds(status));
	printf("tied %s\n", status->tied ? "yes" : "no");
	printf("stopped-us %" PRIu64 "\n", (uint64_t)status->stop_ns / 1000);
}

static void json_time(const char *name, uint64_t ns)
{
	if (ns)
		printf(",\"%s\":\"%" PRIu64 "\"", name, ns);
	else
		printf(",\"%s\":null", name);
}

static void print_json(const struct kerninst_status *status,
		       const struct hits *hits)
{
	printf("{\"schema\":\"kerninst.status/1\",\"version\":%u,\"state\":\"%s\",\"unsignedBundles\":%s,\"patchAreaBytes\":%" PRIu64,
	       status->version, state_name(status->state),
	       status->unsigned_ok ? "true" : "false",
	       (uint64_t)status->patch_area_bytes);
	printf(",\"sites\":%u,\"foreignSites\":%u,\"slots\":%u,\"hits\":",
	       status->site_count, status->foreign_sites, status->slot_count);
	if (hits->known)
		printf("\"%" PRIu64 "\"", hits->sum);
	else
		printf("null");
	printf(",\"memoryBytes\":%" PRIu64 ",\"heapBytes\":%" PRIu64 ",\"codeBytes\":%" PRIu64 ",\"payloadSha256\":",
	       (uint64_t)status->memory_bytes, (uint64_t)status->heap_bytes,
	       (uint64_t)status->code_bytes);
	if (status->heap_bytes) {
		putchar('"');
		print_sha256(status->payload_sha256);
		putchar('"');
	} else {
		printf("null");
	}
	json_time("appliedNs", status->applied_ns);
	json_time("resetNs", status->reset_ns);
	json_time("removedNs", status->removed_ns);
	printf(",\"resets\":%u,\"tied\":%s,\"stopNs\":\"%" PRIu64 "\",\"countedSeconds\":%.3f}\n",
	       status->resets, status->tied ? "true" : "false",
	       (uint64_t)status->stop_ns, counted_seconds(status));
}

int status_print(int device, int json)
{
	struct hits hits = { .known = 0 };
	struct kerninst_status status;
	int code = device_status(device, &status);

	if (code)
		return code;
	if (!state_name(status.state))
		return fail(EXIT_INTERNAL, "the module is in the unknown state %u",
			    status.state);
	if (status.heap_bytes)
		sum_hits(device, &status, &hits);
	if (json)
		print_json(&status, &hits);
	else
		print_text(&status, &hits);
	return 0;
}
