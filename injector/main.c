// SPDX-License-Identifier: GPL-2.0-only
/*
 * kerninst-inject: what runs on the target: a bundle in, a patched kernel;
 * later the counters out. The kernel module decides everything; what is
 * checked here is checked for the clearer message. stdout is data, stderr is
 * talk, and scripts may depend on the exit codes (fail.h).
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "bundle.h"
#include "device.h"
#include "dump.h"
#include "fail.h"
#include "file.h"
#include "preflight.h"
#include "text.h"
#include "wait.h"

#define NS_PER_MS	1000000ull
#define MAX_STOP_MS	60000	/* longer than any machine may stand */
#define MAX_DUMPS	100000

/* What was typed behind a command. */
struct options {
	const char *bundle;
	const char *output;
	uint64_t max_stop_ns;	/* 0: no limit */
	uint64_t for_ns;	/* 0: until somebody removes it */
	uint64_t every_ns;	/* 0: once */
	uint64_t count;		/* 0: without end */
	int json;
};

/* A bundle, read; its bytes are to be freed. */
static int open_bundle(const char *path, struct bundle *ret, uint8_t **bytes)
{
	const char *problem;
	size_t size, at;
	int code;

	code = file_read(path, BUNDLE_MAX_BYTES, bytes, &size);
	if (code)
		return code;
	problem = bundle_problem(*bytes, size, &at, ret);
	if (!problem)
		return 0;
	free(*bytes);
	return fail(EXIT_DATA, "%s: offset %zu: %s: copy or plan it again",
		    path, at, problem);
}

static int command_check(const struct options *options)
{
	struct bundle bundle;
	uint8_t *bytes;
	int code = open_bundle(options->bundle, &bundle, &bytes);

	if (code)
		return code;
	code = preflight(&bundle, options->max_stop_ns, options->json);
	free(bytes);
	return code;
}

static void print_stops(const char *what, const struct kerninst_request *request)
{
	printf("%s, machine stopped for %" PRIu64 " us", what,
	       (uint64_t)request->stop_ns / 1000);
	if (request->stops > 1)
		printf(" at most, %u times", request->stops);
	putchar('\n');
	fflush(stdout);
}

static int apply(int device, const struct bundle *bundle,
		 const struct options *options, uint32_t flags)
{
	struct kerninst_request request = {
		.max_stop_ns = options->max_stop_ns,
		.flags = flags,
	};
	char what[40];
	int code = device_do(device, KERNINST_IOC_APPLY, bundle, &request);

	snprintf(what, sizeof(what), "applied %u sites", bundle->head.site_count);
	if (!code)
		print_stops(what, &request);
	return code;
}

static int remove_all(int device, const struct options *options)
{
	struct kerninst_request request = {
		.max_stop_ns = options->max_stop_ns,
	};
	int code = device_do(device, KERNINST_IOC_REMOVE, NULL, &request);

	if (!code)
		print_stops("removed", &request);
	return code;
}

/*
 * Apply, wait, remove, dump. A signal ends the waiting alone; if we are killed,
 * the module removes, since the bundle is tied to our open file.
 */
static int apply_for(int device, const struct bundle *bundle,
		     const struct options *options)
{
	uint64_t until;
	uint32_t next = 1;
	int code, removed;

	wait_begin();
	code = apply(device, bundle, options, KERNINST_TIED);
	if (code)
		return code;
	until = wait_now() + options->for_ns;
	if (options->every_ns)
		code = dump_series(device, options->output,
				   options->max_stop_ns, options->every_ns, 0,
				   until, "counting, ", &next);
	if (!code)
		wait_until(until, "counting, ");
	/* First, so that the dump tells what was counted until the end. */
	removed = remove_all(device, options);
	if (!code)
		code = dump_write(device, options->output,
				  options->max_stop_ns);
	return removed ? removed : code;
}

static int command_apply(const struct options *options)
{
	struct bundle bundle;
	uint8_t *bytes;
	int device, code;

	if (!options->for_ns != !options->output)
		return fail(EXIT_USAGE, "--for and -o go together: how long to count, and where the dump goes");
	if (options->every_ns && !options->for_ns)
		return fail(EXIT_USAGE, "--every goes with --for");
	code = open_bundle(options->bundle, &bundle, &bytes);
	if (code)
		return code;
	code = device_open(&device);
	if (code)
		goto free_bytes;
	code = options->for_ns ? apply_for(device, &bundle, options) :
		apply(device, &bundle, options, 0);
	close(device);
free_bytes:
	free(bytes);
	return code;
}

/* The sum of all counters, as they are now. */
static uint64_t sum_hits(int device, const struct kerninst_status *status)
{
	const struct kerninst_heap *head;
	const uint64_t *area;
	uint64_t sum = 0;
	uint32_t cpu, slot;
	void *map;

	map = mmap(NULL, status->heap_bytes, PROT_READ, MAP_SHARED, device, 0);
	if (map == MAP_FAILED)
		return 0;
	head = map;
	for (cpu = 0; cpu < head->cpu_count; cpu++) {
		area = (const void *)((const uint8_t *)map +
			head->header_bytes + cpu * head->cpu_stride);
		for (slot = 0; slot < head->slot_count; slot++)
			sum += area[slot];
	}
	munmap(map, status->heap_bytes);
	return sum;
}

static uint64_t real_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Seconds of counting, since it began or was reset. */
static double counted_seconds(const struct kerninst_status *status)
{
	uint64_t from = status->reset_ns ? status->reset_ns :
		status->applied_ns;
	uint64_t to = status->removed_ns ? status->removed_ns : real_ns();

	return to > from ? (double)(to - from) / 1e9 : 0;
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
	time_t seconds = (time_t)(ns / 1000000000u);
	struct tm utc;
	char text[32];

	if (!ns || !gmtime_r(&seconds, &utc))
		return;
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
	printf("%s %s.%03uZ\n", name, text,
	       (unsigned int)(ns / 1000000u % 1000u));
}

static void print_status(const struct kerninst_status *status, uint64_t hits)
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
	printf("hits %" PRIu64 "\n", hits);
	printf("heap-bytes %" PRIu64 "\n", (uint64_t)status->heap_bytes);
	printf("memory-bytes %" PRIu64 "\n", (uint64_t)status->memory_bytes);
	printf("slide 0x%" PRIx64 "\n", (uint64_t)status->slide);
	printf("payload-sha256 ");
	print_sha256(status->payload_sha256);
	putchar('\n');
	print_time("applied", status->applied_ns);
	print_time("reset", status->reset_ns);
	print_time("removed", status->removed_ns);
	printf("counted-seconds %.3f\n", counted_seconds(status));
	printf("tied %s\n", status->tied ? "yes" : "no");
	printf("stopped-us %" PRIu64 "\n", (uint64_t)status->stop_ns / 1000);
}

static void print_status_json(const struct kerninst_status *status,
			      uint64_t hits)
{
	printf("{\"schema\":\"kerninst.status/1\",\"state\":\"%s\",\"unsignedBundles\":%s,\"sites\":%u,\"foreignSites\":%u,\"slots\":%u,\"hits\":\"%" PRIu64 "\",",
	       state_name(status->state), status->unsigned_ok ? "true" : "false",
	       status->site_count, status->foreign_sites, status->slot_count,
	       hits);
	printf("\"memoryBytes\":%" PRIu64 ",\"heapBytes\":%" PRIu64 ",\"codeBytes\":%" PRIu64 ",\"payloadSha256\":\"",
	       (uint64_t)status->memory_bytes, (uint64_t)status->heap_bytes,
	       (uint64_t)status->code_bytes);
	print_sha256(status->payload_sha256);
	printf("\",\"appliedNs\":\"%" PRIu64 "\",\"resetNs\":\"%" PRIu64 "\",\"removedNs\":\"%" PRIu64 "\",\"resets\":%u,\"tied\":%s,\"stopNs\":\"%" PRIu64 "\",\"countedSeconds\":%.3f}\n",
	       (uint64_t)status->applied_ns, (uint64_t)status->reset_ns,
	       (uint64_t)status->removed_ns, status->resets,
	       status->tied ? "true" : "false", (uint64_t)status->stop_ns,
	       status->heap_bytes ? counted_seconds(status) : 0);
}

static int command_status(const struct options *options)
{
	struct kerninst_status status;
	uint64_t hits = 0;
	int device, code;

	code = device_open(&device);
	if (code)
		return code;
	code = device_status(device, &status);
	if (!code && status.heap_bytes)
		hits = sum_hits(device, &status);
	close(device);
	if (code)
		return code;
	if (!state_name(status.state))
		return fail(EXIT_INTERNAL, "the module is in the unknown state %u",
			    status.state);
	if (options->json)
		print_status_json(&status, hits);
	else
		print_status(&status, hits);
	return 0;
}

static int command_dump(const struct options *options)
{
	uint32_t next = 1;
	int device, code;

	if (!options->output)
		return fail(EXIT_USAGE, "dump needs -o FILE");
	if (options->count && !options->every_ns)
		return fail(EXIT_USAGE, "--count goes with --every");
	code = device_open(&device);
	if (code)
		return code;
	if (options->every_ns) {
		wait_begin();
		code = dump_series(device, options->output,
				   options->max_stop_ns, options->every_ns,
				   options->count, 0, NULL, &next);
	} else {
		code = dump_write(device, options->output,
				  options->max_stop_ns);
	}
	close(device);
	return code;
}

static int command_reset(const struct options *options)
{
	struct kerninst_request request = {
		.max_stop_ns = options->max_stop_ns,
	};
	int device, code;

	code = device_open(&device);
	if (code)
		return code;
	code = device_do(device, KERNINST_IOC_RESET, NULL, &request);
	if (!code)
		print_stops("reset", &request);
	close(device);
	return code;
}

static int command_remove(const struct options *options)
{
	int device, code;

	code = device_open(&device);
	if (code)
		return code;
	code = remove_all(device, options);
	close(device);
	return code;
}

/* Options by letter; which a command takes is a string of them. */
enum { BUNDLE = 'B', OUTPUT = 'o', STOP = 's', FOR = 'f', EVERY = 'e',
       COUNT = 'c', JSON = 'j' };

static const struct command {
	const char *name;
	const char *takes;
	const char *arguments;
	int (*run)(const struct options *options);
	const char *help;
} commands[] = {
	{ "check", "Bsj", "[--json] [--max-stop-ms N] BUNDLE", command_check,
	  "say whether it can be applied, and what is in the way" },
	{ "apply", "Bsofe",
	  "[--max-stop-ms N] [--for TIME -o FILE [--every TIME]] BUNDLE",
	  command_apply,
	  "write all sites into the running kernel, or none; with --for, remove them after that time, or when this program ends, and dump to FILE" },
	{ "status", "j", "[--json]", command_status, "what is applied" },
	{ "dump", "oecs",
	  "[--max-stop-ms N] -o FILE [--every TIME [--count N]]", command_dump,
	  "copy the counters to FILE; with --every, to FILE.0001, FILE.0002, ..." },
	{ "reset", "s", "[--max-stop-ms N]", command_reset,
	  "set all counters to zero" },
	{ "remove", "s", "[--max-stop-ms N]", command_remove,
	  "restore the kernel; the counters stay readable" },
};

#define COMMANDS (sizeof(commands) / sizeof(*commands))

static const struct {
	const char *name;
	char letter;
	int has_value;
} option_names[] = {
	{ "-o", OUTPUT, 1 },
	{ "--max-stop-ms", STOP, 1 },
	{ "--for", FOR, 1 },
	{ "--every", EVERY, 1 },
	{ "--count", COUNT, 1 },
	{ "--json", JSON, 0 },
};

#define OPTIONS (sizeof(option_names) / sizeof(*option_names))

static void print_usage(FILE *to)
{
	size_t i;

	fputs("usage: kerninst-inject COMMAND\n\n", to);
	for (i = 0; i < COMMANDS; i++)
		fprintf(to, "  %s %s\n      %s\n", commands[i].name,
			commands[i].arguments, commands[i].help);
	fputs("\nTIME is a number with ms, s, m or h. --max-stop-ms: never stop the machine for longer at a time.\n",
	      to);
}

static int set_option(struct options *options, char letter, const char *name,
		      const char *value)
{
	uint64_t number;

	switch (letter) {
	case JSON:
		options->json = 1;
		return 0;
	case OUTPUT:
		options->output = value;
		return 0;
	case STOP:
		if (text_number(value, MAX_STOP_MS, &number))
			return fail(EXIT_USAGE, "%s takes 1 to %d, not %s",
				    name, MAX_STOP_MS, value);
		options->max_stop_ns = number * NS_PER_MS;
		return 0;
	case COUNT:
		if (text_number(value, MAX_DUMPS, &options->count))
			return fail(EXIT_USAGE, "%s takes 1 to %d, not %s",
				    name, MAX_DUMPS, value);
		return 0;
	default:
		if (text_duration(value, letter == FOR ? &options->for_ns :
				  &options->every_ns))
			return fail(EXIT_USAGE, "%s takes a time such as 500ms, 10s, 5m or 2h, not %s",
				    name, value);
		return 0;
	}
}

/* One word behind the command, with the one after it. Returns an exit code. */
static int take_word(const struct command *command, struct options *options,
		     char **args, int *used)
{
	const char *word = args[0];
	size_t i;

	*used = 1;
	for (i = 0; i < OPTIONS; i++) {
		if (strcmp(word, option_names[i].name))
			continue;
		if (!strchr(command->takes, option_names[i].letter))
			return fail(EXIT_USAGE, "%s takes no %s", command->name,
				    word);
		if (option_names[i].has_value && !args[1])
			return fail(EXIT_USAGE, "%s needs a value", word);
		*used += option_names[i].has_value;
		return set_option(options, option_names[i].letter, word,
				  args[1]);
	}
	if (word[0] == '-' && word[1])
		return fail(EXIT_USAGE, "there is no option %s: see kerninst-inject help",
			    word);
	if (!strchr(command->takes, BUNDLE) || options->bundle)
		return fail(EXIT_USAGE, "%s takes %s", command->name,
			    command->arguments);
	options->bundle = word;
	return 0;
}

static int run_command(const struct command *command, char **args)
{
	struct options options = { 0 };
	int code, used;

	while (*args) {
		code = take_word(command, &options, args, &used);
		if (code)
			return code;
		args += used;
	}
	if (strchr(command->takes, BUNDLE) && !options.bundle)
		return fail(EXIT_USAGE, "%s takes %s", command->name,
			    command->arguments);
	return command->run(&options);
}

static int run(int argc, char **argv)
{
	size_t i;

	if (argc == 2 && (!strcmp(argv[1], "help") ||
			  !strcmp(argv[1], "--help") ||
			  !strcmp(argv[1], "-h"))) {
		print_usage(stdout);
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("kerninst-inject, for bundles and modules of version %u\n",
		       KERNINST_VERSION);
		return 0;
	}
	if (argc < 2)
		return fail(EXIT_USAGE, "a command is missing: see kerninst-inject help");
	for (i = 0; i < COMMANDS; i++)
		if (!strcmp(argv[1], commands[i].name))
			return run_command(&commands[i], argv + 2);
	return fail(EXIT_USAGE, "there is no command %s: see kerninst-inject help",
		    argv[1]);
}

int main(int argc, char **argv)
{
	int code = run(argc, argv);

	if (fflush(stdout) || ferror(stdout))
		return code ? code : fail(EXIT_IO, "stdout: %s", strerror(errno));
	return code;
}
