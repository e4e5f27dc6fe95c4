// SPDX-License-Identifier: GPL-2.0-only
/*
 * kerninst-inject: what runs on the target: a bundle in, a patched kernel;
 * later the counters out. The kernel module decides everything; what is
 * checked here is checked for the clearer message. stdout is data, stderr is
 * talk, and scripts may depend on the exit codes (fail.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "bundle.h"
#include "device.h"
#include "dump.h"
#include "fail.h"

/* Read a whole regular file of at most BUNDLE_MAX_BYTES; caller frees. */
static int read_file(const char *path, uint8_t **ret, size_t *size)
{
	size_t used = 0, room;
	struct stat info;
	uint8_t *bytes;
	ssize_t got = 1;
	int file, code;

	*ret = NULL;
	*size = 0;
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0 || fstat(file, &info)) {
		code = fail(EXIT_NO_INPUT, "%s: %s", path, strerror(errno));
		goto close;
	}
	if (!S_ISREG(info.st_mode)) {
		code = fail(EXIT_NO_INPUT, "%s: not a file", path);
		goto close;
	}
	if ((uint64_t)info.st_size > BUNDLE_MAX_BYTES) {
		code = fail(EXIT_DATA, "%s: %" PRIu64 " bytes are more than a bundle has",
			    path, (uint64_t)info.st_size);
		goto close;
	}
	room = (size_t)info.st_size;
	bytes = malloc(room + 1);
	if (!bytes) {
		code = fail(EXIT_IO, "%s: no memory for %zu bytes", path, room);
		goto close;
	}
	while (used < room && got) {
		got = read(file, bytes + used, room - used);
		if (got < 0 && errno != EINTR) {
			code = fail(EXIT_IO, "%s: %s", path, strerror(errno));
			free(bytes);
			goto close;
		}
		used += got > 0 ? (size_t)got : 0;
	}
	*ret = bytes;
	*size = used;
	code = 0;
close:
	if (file >= 0)
		close(file);
	return code;
}

static int send_bundle(const char *path, int apply)
{
	struct kerninst_request request;
	struct bundle bundle;
	const char *problem;
	uint8_t *bytes;
	size_t size, at;
	int device, code;

	code = read_file(path, &bytes, &size);
	if (code)
		return code;
	problem = bundle_problem(bytes, size, &at, &bundle);
	if (problem) {
		code = fail(EXIT_DATA, "%s: offset %zu: %s: copy or plan it again",
			    path, at, problem);
		goto free_bytes;
	}
	code = device_open(&device);
	if (code)
		goto free_bytes;
	code = device_send(device, &bundle, apply, &request);
	if (!code && apply)
		printf("applied %u sites, machine stopped for %" PRIu64 " us\n",
		       bundle.head.site_count,
		       (uint64_t)request.stop_ns / 1000);
	else if (!code)
		printf("%u sites can be applied\n", bundle.head.site_count);
	close(device);
free_bytes:
	free(bytes);
	return code;
}

static int command_check(char **args)
{
	return send_bundle(args[0], 0);
}

static int command_apply(char **args)
{
	return send_bundle(args[0], 1);
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

static int command_status(char **args)
{
	static const char *const states[] = {
		[KERNINST_IDLE] = "idle",
		[KERNINST_APPLIED] = "applied",
		[KERNINST_REMOVED] = "removed",
		[KERNINST_PARTIAL] = "partly removed",
	};
	struct kerninst_status status;
	int device, code;
	size_t i;

	(void)args;
	code = device_open(&device);
	if (code)
		return code;
	code = device_status(device, &status);
	close(device);
	if (code)
		return code;
	if (status.state >= sizeof(states) / sizeof(*states))
		return fail(EXIT_INTERNAL, "the module is in the unknown state %u",
			    status.state);
	printf("state %s\n", states[status.state]);
	printf("unsigned-bundles %s\n", status.unsigned_ok ? "taken" : "refused");
	printf("patch-area-bytes %" PRIu64 "\n",
	       (uint64_t)status.patch_area_bytes);
	if (!status.heap_bytes)
		return 0;
	printf("code-bytes %" PRIu64 "\n", (uint64_t)status.code_bytes);
	printf("sites %u\n", status.site_count);
	printf("foreign-sites %u\n", status.foreign_sites);
	printf("slots %u\n", status.slot_count);
	printf("heap-bytes %" PRIu64 "\n", (uint64_t)status.heap_bytes);
	printf("slide 0x%" PRIx64 "\n", (uint64_t)status.slide);
	printf("payload-sha256 ");
	for (i = 0; i < sizeof(status.payload_sha256); i++)
		printf("%02x", status.payload_sha256[i]);
	putchar('\n');
	print_time("applied", status.applied_ns);
	print_time("removed", status.removed_ns);
	printf("stopped-us %" PRIu64 "\n", (uint64_t)status.stop_ns / 1000);
	return 0;
}

static int command_dump(char **args)
{
	int device, code;

	if (strcmp(args[0], "-o"))
		return fail(EXIT_USAGE, "dump takes -o FILE, not %s", args[0]);
	code = device_open(&device);
	if (code)
		return code;
	code = dump_write(device, args[1]);
	close(device);
	return code;
}

static int command_remove(char **args)
{
	struct kerninst_request request;
	int device, code;

	(void)args;
	code = device_open(&device);
	if (code)
		return code;
	code = device_remove(device, &request);
	if (!code)
		printf("removed, machine stopped for %" PRIu64 " us\n",
		       (uint64_t)request.stop_ns / 1000);
	close(device);
	return code;
}

static const struct command {
	const char *name;
	const char *arguments;
	int count;
	int (*run)(char **args);
	const char *help;
} commands[] = {
	{ "check", "BUNDLE", 1, command_check,
	  "do everything but write to the kernel" },
	{ "apply", "BUNDLE", 1, command_apply,
	  "write all sites into the running kernel, or none" },
	{ "status", "", 0, command_status, "what is applied" },
	{ "dump", "-o FILE", 2, command_dump, "copy the counters to a file" },
	{ "remove", "", 0, command_remove,
	  "restore the kernel; the counters stay readable" },
};

#define COMMANDS (sizeof(commands) / sizeof(*commands))

static void print_usage(FILE *to)
{
	size_t i;

	fputs("usage: kerninst-inject COMMAND\n", to);
	for (i = 0; i < COMMANDS; i++)
		fprintf(to, "  %-6s %-8s %s\n", commands[i].name,
			commands[i].arguments, commands[i].help);
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
	if (argc < 2)
		return fail(EXIT_USAGE, "a command is missing: see kerninst-inject help");
	for (i = 0; i < COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name))
			continue;
		if (argc - 2 != commands[i].count)
			return fail(EXIT_USAGE, "%s takes %s", argv[1],
				    commands[i].count ? commands[i].arguments :
							"no arguments");
		return commands[i].run(argv + 2);
	}
	return fail(EXIT_USAGE, "there is no command %s: see kerninst-inject help",
		    argv[1]);
}

int main(int argc, char **argv)
{
	int code = run(argc, argv);

	if (fflush(stdout) || ferror(stdout))
		return fail(EXIT_IO, "stdout: %s", strerror(errno));
	return code;
}
