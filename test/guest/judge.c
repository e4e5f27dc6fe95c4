// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a list of functions with the slots that count their entries and returns,
 * and a command. Out: for each function, how often the kernel's own kprobe and
 * kretprobe events counted it while the command ran, and how often we did.
 *
 *	judge compare POINTS COMMAND...	both, over the command
 *	judge read POINTS		only ours, as they stand
 *
 * POINTS has one line a function: NAME ENTRIES RETURNS, where ENTRIES and
 * RETURNS are comma-separated slots or "-". Output: one line a function,
 * NAME then entry (kernel's, ours, missed) and return (kernel's, ours, missed);
 * "read" prints NAME, entries, returns. With no slots at all the device is not
 * opened: then the kernel's counts stand alone.
 *
 * How two counters that are read one after the other compare exactly: both are
 * attached before the first snapshot and until after the last, so every call
 * between two snapshots is counted by both. A snapshot is ours, the kernel's,
 * ours again. Reading the kernel's own profile calls some of the functions,
 * the same number of times whenever nothing else runs meanwhile; the second
 * reading of ours says whether anything did. A snapshot is accepted when the
 * difference of its two readings is what it was in the others: then the
 * kernel's counts were read the same number of calls after ours in both, and
 * the differences over the command must be equal, call for call. Where the
 * kernel says that its own probe missed a hit (an interrupt within a probe),
 * the command is run again.
 * Left out: judging whether they are; and functions in which tasks sleep when
 * the probes are attached, whose returns only one side sees (choose others).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kerninst.h"

#define TRACING		"/sys/kernel/tracing/"
#define MAX_FUNCTIONS	256
#define MAX_SLOTS	16
#define MAX_PROFILE	(1 << 17)
#define MAX_ACTIVE	256	/* calls of one function in flight at once */
#define AGREEING	4	/* snapshots that must agree before the command */
#define ATTEMPTS	2000
#define RUNS		5	/* of the command, when the kernel's probes missed hits */

struct place {
	unsigned int count;
	unsigned int slots[MAX_SLOTS];
};

struct function {
	char name[96];
	struct place place[2];		/* entry, return */
};

struct reading {
	unsigned long long ours[MAX_FUNCTIONS][2];
};

struct snapshot {
	struct reading first, second;
	unsigned long long hits[MAX_FUNCTIONS][2];
	unsigned long long missed[MAX_FUNCTIONS][2];
};

static struct function functions[MAX_FUNCTIONS];
static unsigned int function_count;
static const struct kerninst_heap *heap;
static char profile[MAX_PROFILE];
static int profile_fd = -1;

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
	__builtin_va_list arguments;

	__builtin_va_start(arguments, format);
	fprintf(stderr, "judge: ");
	vfprintf(stderr, format, arguments);
	fprintf(stderr, "\n");
	exit(1);
}

static void parse_slots(const char *text, struct place *ret)
{
	if (!strcmp(text, "-"))
		return;
	while (*text) {
		char *end;

		if (ret->count == MAX_SLOTS)
			fail("more than %d slots for one place", MAX_SLOTS);
		ret->slots[ret->count++] = strtoul(text, &end, 10);
		if (end == text || (*end && *end != ','))
			fail("bad slot list: %s", text);
		text = *end ? end + 1 : end;
	}
}

/* Returns whether any slot is named. */
static int read_points(const char *path)
{
	static char entries[512], returns[512];
	FILE *file = fopen(path, "r");
	int slots = 0, got;

	if (!file)
		fail("%s: %s", path, strerror(errno));
	while ((got = fscanf(file, "%95s %511s %511s", functions[function_count].name, entries, returns)) == 3) {
		struct function *one = &functions[function_count];

		parse_slots(entries, &one->place[0]);
		parse_slots(returns, &one->place[1]);
		slots |= one->place[0].count || one->place[1].count;
		if (++function_count == MAX_FUNCTIONS)
			fail("more than %d functions", MAX_FUNCTIONS - 1);
	}
	if (got != EOF || !function_count)
		fail("%s: bad line %u", path, function_count + 1);
	fclose(file);
	return slots;
}

static void map_heap(void)
{
	struct kerninst_status status;
	int fd = open(KERNINST_DEVICE, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		fail("%s: %s", KERNINST_DEVICE, strerror(errno));
	if (ioctl(fd, KERNINST_IOC_STATUS, &status))
		fail("status: %s", strerror(errno));
	heap = mmap(NULL, status.heap_bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (heap == MAP_FAILED)
		fail("mmap of %llu bytes: %s", (unsigned long long)status.heap_bytes, strerror(errno));
	if (memcmp(heap->magic, KERNINST_HEAP_MAGIC, sizeof(heap->magic)))
		fail("the heap has no magic");
	for (unsigned int i = 0; i < function_count; i++)
		for (int side = 0; side < 2; side++)
			for (unsigned int j = 0; j < functions[i].place[side].count; j++)
				if (functions[i].place[side].slots[j] >= heap->slot_count)
					fail("%s: slot beyond the heap", functions[i].name);
}

static void read_ours(struct reading *ret)
{
	for (unsigned int i = 0; i < function_count; i++) {
		for (int side = 0; side < 2; side++) {
			const struct place *place = &functions[i].place[side];
			unsigned long long sum = 0;

			for (unsigned int j = 0; j < place->count; j++)
				for (unsigned int cpu = 0; cpu < heap->cpu_count; cpu++)
					sum += *(volatile const __u64 *)((const char *)heap + heap->header_bytes +
						cpu * heap->cpu_stride + 8ull * place->slots[j]);
			ret->ours[i][side] = sum;
		}
	}
}

static void put(const char *path, const char *text, int flags)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | flags);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		fail("%s <- %s: %s", path, text, strerror(errno));
	close(fd);
}

/* Event names carry the function's index and side: kj/e12, kj/r12. */
static void attach(void)
{
	char line[160];

	put(TRACING "tracing_on", "0", 0);
	for (unsigned int i = 0; i < function_count; i++) {
		snprintf(line, sizeof(line), "p:kj/e%u %s\n", i, functions[i].name);
		put(TRACING "kprobe_events", line, O_APPEND);
		snprintf(line, sizeof(line), "r%d:kj/r%u %s\n", MAX_ACTIVE, i, functions[i].name);
		put(TRACING "kprobe_events", line, O_APPEND);
	}
	put(TRACING "events/kj/enable", "1", 0);
	profile_fd = open(TRACING "kprobe_profile", O_RDONLY | O_CLOEXEC);
	if (profile_fd < 0)
		fail("kprobe_profile: %s", strerror(errno));
}

static void detach(void)
{
	close(profile_fd);
	put(TRACING "events/kj/enable", "0", 0);
	put(TRACING "kprobe_events", "", O_TRUNC);
}

static void take(struct snapshot *ret)
{
	size_t length = 0;
	ssize_t got;

	memset(ret, 0, sizeof(*ret));
	if (heap)
		read_ours(&ret->first);
	if (lseek(profile_fd, 0, SEEK_SET) != 0)
		fail("kprobe_profile: %s", strerror(errno));
	while ((got = read(profile_fd, profile + length, sizeof(profile) - 1 - length)) > 0)
		length += got;
	if (heap)
		read_ours(&ret->second);
	if (got < 0 || length == sizeof(profile) - 1)
		fail("kprobe_profile cannot be read whole");
	profile[length] = 0;

	unsigned int lines = 0;

	for (char *line = strtok(profile, "\n"); line; line = strtok(NULL, "\n")) {
		unsigned long long hits, missed;
		unsigned int index;
		char side;

		if (sscanf(line, " %c%u %llu %llu", &side, &index, &hits, &missed) != 4 || index >= function_count ||
		    (side != 'e' && side != 'r'))
			fail("kprobe_profile: %s", line);
		ret->hits[index][side == 'r'] = hits;
		ret->missed[index][side == 'r'] = missed;
		lines++;
	}
	if (lines != 2 * function_count)
		fail("kprobe_profile has %u lines, not %u", lines, 2 * function_count);
}

/* Whether the same happened within both snapshots. */
static int agree(const struct snapshot *a, const struct snapshot *b)
{
	for (unsigned int i = 0; i < function_count; i++)
		for (int side = 0; side < 2; side++)
			if (a->second.ours[i][side] - a->first.ours[i][side] !=
			    b->second.ours[i][side] - b->first.ours[i][side])
				return 0;
	return 1;
}

static void run(char **command)
{
	int status;
	pid_t child = fork();

	if (child < 0)
		fail("fork: %s", strerror(errno));
	if (child == 0) {
		cpu_set_t all;

		memset(&all, 0xff, sizeof(all));
		sched_setaffinity(0, sizeof(all), &all);
		execvp(command[0], command);
		_exit(127);
	}
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status))
		fail("%s failed (wait status 0x%x)", command[0], status);
}

/* Snapshots around the command; both agree. */
static void measure(char **command, struct snapshot *before, struct snapshot *after)
{
	unsigned int agreeing = 0, attempts = 0;

	/* The first reading grows seq_file's buffer, which later ones do not. */
	take(before);
	while (agreeing < AGREEING) {
		take(after);
		agreeing = agree(before, after) ? agreeing + 1 : 0;
		*before = *after;
		if (++attempts == ATTEMPTS)
			fail("no %d of %d snapshots agree before the command", AGREEING, ATTEMPTS);
	}
	run(command);
	for (attempts = 0; attempts < ATTEMPTS; attempts++) {
		take(after);
		if (agree(before, after))
			return;
	}
	fail("no snapshot after the command agrees with the one before it");
}

static int missed_any(const struct snapshot *before, const struct snapshot *after)
{
	return memcmp(before->missed, after->missed, sizeof(before->missed));
}

static void compare(char **command)
{
	static struct snapshot before, after;
	cpu_set_t here;

	CPU_ZERO(&here);
	CPU_SET(0, &here);
	if (sched_setaffinity(0, sizeof(here), &here))
		fail("sched_setaffinity: %s", strerror(errno));
	for (int runs = 0; runs < RUNS; runs++) {
		measure(command, &before, &after);
		if (!missed_any(&before, &after))
			break;
		fprintf(stderr, "judge: the kernel's probes missed hits in run %d\n", runs + 1);
	}
	for (unsigned int i = 0; i < function_count; i++) {
		printf("%s", functions[i].name);
		for (int side = 0; side < 2; side++)
			printf(" %llu %llu %llu", after.hits[i][side] - before.hits[i][side],
			       after.first.ours[i][side] - before.first.ours[i][side],
			       after.missed[i][side] - before.missed[i][side]);
		printf("\n");
	}
}

int main(int argc, char **argv)
{
	int comparing = argc >= 4 && !strcmp(argv[1], "compare");

	if (!comparing && (argc != 3 || strcmp(argv[1], "read"))) {
		fprintf(stderr, "usage: judge compare POINTS COMMAND... | judge read POINTS\n");
		return 64;
	}
	if (read_points(argv[2]))
		map_heap();
	if (comparing) {
		attach();
		compare(argv + 3);
		detach();
		return 0;
	}
	static struct reading reading;

	if (!heap)
		fail("%s names no slot", argv[2]);
	read_ours(&reading);
	for (unsigned int i = 0; i < function_count; i++)
		printf("%s %llu %llu\n", functions[i].name, reading.ours[i][0], reading.ours[i][1]);
	return 0;
}
