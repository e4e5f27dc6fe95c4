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
#include <unistd.h>
#include "bundle.h"
#include "device.h"
#include "dump.h"
#include "fail.h"
#include "file.h"
#include "options.h"
#include "preflight.h"
#include "status.h"
#include "wait.h"

/* What is shown on a terminal before how long there is left. */
#define COUNTING	"counting, "

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
 * the module removes, since the bundle is tied to our open file. A dump of the
 * series that fails ends the series, and neither the counting nor the last
 * dump. The first failure is what we end with.
 */
static int apply_for(int device, const struct bundle *bundle,
		     const struct options *options)
{
	struct dump_times times = { .every = options->every_ns };
	uint64_t now;
	int code, removed, dumped;

	wait_begin();
	code = apply(device, bundle, options, KERNINST_TIED);
	if (code)
		return code;
	now = wait_now();
	times.first = now + options->every_ns;
	times.until = now + options->for_ns;
	if (options->every_ns)
		code = dump_series(device, options->output,
				   options->max_stop_ns, &times, COUNTING);
	wait_until(times.until, COUNTING);
	/* First, so that the dump tells what was counted until the end. */
	removed = remove_all(device, options);
	dumped = dump_write(device, options->output, options->max_stop_ns);
	return code ? code : removed ? removed : dumped;
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

static int command_status(const struct options *options)
{
	int device, code = device_open(&device);

	if (code)
		return code;
	code = status_print(device, options->json);
	close(device);
	return code;
}

static int command_dump(const struct options *options)
{
	struct dump_times times = {
		.every = options->every_ns,
		.count = options->count,
	};
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
		times.first = wait_now();
		code = dump_series(device, options->output,
				   options->max_stop_ns, &times, NULL);
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

static const struct command {
	const char *name;
	const char *takes;
	const char *arguments;
	int (*run)(const struct options *options);
	const char *help;	/* lines */
} commands[] = {
	{ "check", "Bsj", "[--json] [--max-stop-ms N] BUNDLE", command_check,
	  "say whether it can be applied, and what is in the way" },
	{ "apply", "Bsofe",
	  "[--max-stop-ms N] [--for TIME -o FILE [--every TIME]] BUNDLE",
	  command_apply,
	  "write all sites into the running kernel, or none\n"
	  "--for: remove them after that time, or when this program ends,\n"
	  "and dump to FILE; --every: and to FILE.0001, ... until then" },
	{ "status", "j", "[--json]", command_status,
	  "what is applied, since when, and how much it has counted" },
	{ "dump", "oecs",
	  "[--max-stop-ms N] -o FILE [--every TIME [--count N]]", command_dump,
	  "copy all counters, of one moment, to FILE; they go on counting\n"
	  "--every: to FILE.0001, FILE.0002, ..., until N are written or ^C" },
	{ "reset", "s", "[--max-stop-ms N]", command_reset,
	  "set all counters to zero, at one moment" },
	{ "remove", "s", "[--max-stop-ms N]", command_remove,
	  "restore the kernel; the counters stay readable" },
};

#define COMMANDS (sizeof(commands) / sizeof(*commands))

static void print_usage(void)
{
	const char *line;
	int length;
	size_t i;

	puts("usage: kerninst-inject COMMAND\n");
	for (i = 0; i < COMMANDS; i++) {
		printf("  %-8s %s\n", commands[i].name, commands[i].arguments);
		for (line = commands[i].help; *line; line += *line == '\n') {
			length = (int)strcspn(line, "\n");
			printf("             %.*s\n", length, line);
			line += length;
		}
	}
	puts("  help     this\n"
	     "\n"
	     "  --max-stop-ms N   never stop the machine for longer at a time, or change nothing\n"
	     "  --json            one JSON object\n"
	     "  TIME              a number with ms, s, m or h: 500ms, 10s\n"
	     "\n"
	     "exit code: 0 done, 64 usage, 65 bad bundle, 66 no such file, 70 a bug of ours,\n"
	     "73 cannot create a file, 74 I/O, 76 not for this machine, 77 refused");
}

static int is_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-h");
}

static int run(int argc, char **argv)
{
	struct options options;
	size_t i;
	int code;

	if (argc < 2)
		return fail(EXIT_USAGE, "a command is missing: see kerninst-inject help");
	if (is_help(argv[argc - 1]) || !strcmp(argv[1], "help")) {
		print_usage();
		return 0;
	}
	if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("kerninst-inject, for bundles and modules of version %u\n",
		       KERNINST_VERSION);
		return 0;
	}
	for (i = 0; i < COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		code = options_read(commands[i].name, commands[i].takes,
				    commands[i].arguments,
				    (const char *const *)argv + 2, &options);
		return code ? code : commands[i].run(&options);
	}
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
