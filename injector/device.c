// SPDX-License-Identifier: GPL-2.0-only
/*
 * device: a request in, the module's answer out; a refusal becomes one line
 * that says what, where and what to do, with the exit code that belongs to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "device.h"
#include "fail.h"
#include "site.h"
#include "text.h"

const char *device_open_problem(int *ret, int *code)
{
	*ret = open(KERNINST_DEVICE, O_RDONLY | O_CLOEXEC);
	*code = 0;
	if (*ret >= 0)
		return NULL;
	if (errno == EACCES || errno == EPERM) {
		*code = EXIT_REFUSED;
		return KERNINST_DEVICE ": permission denied: run as root";
	}
	if (errno == ENOENT || errno == ENXIO || errno == ENODEV) {
		*code = EXIT_MISMATCH;
		return access("/sys/module/kerninst", F_OK) ?
			"no " KERNINST_DEVICE ": load kerninst.ko first" :
			"kerninst.ko is loaded, but there is no " KERNINST_DEVICE ": mount devtmpfs on /dev";
	}
	*code = EXIT_IO;
	return strerror(errno);
}

int device_open(int *ret)
{
	int code;
	const char *problem = device_open_problem(ret, &code);

	return problem ? fail(code, "%s", problem) : 0;
}

int device_ask_status(int device, struct kerninst_status *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ioctl(device, KERNINST_IOC_STATUS, ret))
		return errno;
	return ret->version == KERNINST_VERSION ? 0 : ENOTTY;
}

int device_status(int device, struct kerninst_status *ret)
{
	int error = device_ask_status(device, ret);

	if (error == ENOTTY)
		return fail(EXIT_MISMATCH, DEVICE_OTHER_VERSION);
	if (error)
		return fail(EXIT_IO, "%s: status: %s", KERNINST_DEVICE,
			    strerror(error));
	return 0;
}

/* Room for the line of a problem; the last piece that does not fit is cut. */
struct line {
	char *at;
	size_t room;
};

static int say(struct line *line, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static int say(struct line *line, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(line->at, line->room, format, args);
	va_end(args);
	return code;
}

static int say_site(struct line *line, const struct bundle *bundle,
		    const struct kerninst_request *request)
{
	char expected[SITE_TEXT], live[TEXT_HEX_BYTES];
	struct kerninst_site site;
	uint64_t at, linked;

	if (!bundle || !bundle_site(bundle, request->index, &site))
		return say(line, EXIT_INTERNAL, "the module names site %u, which is not in the bundle",
			   request->index);
	at = site_address(bundle, request->slide, &site);
	linked = site_address(bundle, 0, &site);
	if (request->reason == KERNINST_E_KPROBE)
		return say(line, EXIT_REFUSED,
			   "site %u at 0x%" PRIx64 " (link-time 0x%" PRIx64
			   "): a kprobe is registered there, enabled or not, or could reach it: unregister it (kerninst-inject check says which), or plan without this point",
			   request->index, at, linked);
	site_expected(bundle, request->slide, &site, expected);
	return say(line, EXIT_MISMATCH,
		   "site %u at 0x%" PRIx64 " (link-time 0x%" PRIx64
		   "): expected %s, found %s: other text than planned for; remove what changed it (kerninst-inject check says more), or plan without it",
		   request->index, at, linked, expected,
		   text_hex(request->live, site_length(&site), live));
}

/* Which field of which entry is too short on this boot. */
static int say_reach(struct line *line, const struct bundle *bundle,
		     const struct kerninst_request *request)
{
	struct kerninst_site site;

	if (!request->misfit_count || !bundle ||
	    !bundle_site(bundle, request->index, &site))
		return say(line, EXIT_MISMATCH, "fixup %u of the plan does not reach from the patch area on this boot: reboot, or plan again",
			   request->index);
	return say(line, EXIT_MISMATCH, "site %u at 0x%" PRIx64 " (link-time 0x%" PRIx64
		   ") does not reach the patch area on this boot: reboot, or plan again",
		   request->index, site_address(bundle, request->slide, &site),
		   site_address(bundle, 0, &site));
}

/* Sites that had to be left; which bundle they are of nobody has told us. */
static int say_foreign(struct line *line,
		       const struct kerninst_request *request)
{
	char live[TEXT_HEX_BYTES];

	return say(line, EXIT_REFUSED,
		   "%" PRIu64 " sites were changed by others since, or have got a kprobe; the first is site %u (kerninst show), found %s: they stay, and so does what they lead to; remove what changed them (kprobes, tracers), then remove again",
		   (uint64_t)request->value, request->index,
		   text_hex(request->live, 16, live));
}

static int say_build_id(struct line *line, const struct bundle *bundle,
			const struct kerninst_request *request)
{
	char planned[41], live[41];

	return say(line, EXIT_MISMATCH, "the bundle is for another kernel: build id expected %s, found %s: plan for the running kernel's image",
		   text_id(bundle->head.build_id, planned),
		   text_id(request->live, live));
}

int device_problem(const struct bundle *bundle,
		   const struct kerninst_request *request, int error,
		   char ret[DEVICE_PROBLEM_BYTES])
{
	struct line line = { ret, DEVICE_PROBLEM_BYTES };

	switch (request->reason) {
	case KERNINST_E_TOO_LARGE:
		return say(&line, EXIT_DATA, "the payload is beyond the module's limits: plan fewer points");
	case KERNINST_E_MALFORMED:
		return say(&line, EXIT_DATA, "the payload is malformed at offset %u: plan again, with the kerninst that the module is from",
			   request->index);
	case KERNINST_E_UNSIGNED:
		return say(&line, EXIT_REFUSED, "the bundle is not signed, and this kerninst.ko takes none such: plan with --key and --cert");
	case KERNINST_E_NO_KEY:
		return say(&line, EXIT_REFUSED, "the bundle is signed with a key that this machine does not trust: build kerninst.ko with its certificate (CERT=)");
	case KERNINST_E_BAD_SIGNATURE:
		return say(&line, EXIT_REFUSED, "the signature is not of this payload: the bundle was altered or damaged; copy it again");
	case KERNINST_E_BUILD_ID:
		return say_build_id(&line, bundle, request);
	case KERNINST_E_SLIDE:
		return say(&line, EXIT_MISMATCH, "the bundle is for another kernel: its symbols do not lie where it says: plan for the running kernel's image");
	case KERNINST_E_SITE_BYTES:
	case KERNINST_E_KPROBE:
		return say_site(&line, bundle, request);
	case KERNINST_E_BUSY:
		return say(&line, EXIT_REFUSED, "a bundle is applied already: remove it first");
	case KERNINST_E_NOT_APPLIED:
		return say(&line, EXIT_REFUSED, "nothing is applied: apply a bundle first");
	case KERNINST_E_SPACE:
		return say(&line, EXIT_REFUSED, "the code of %u bytes is larger than the patch area of %" PRIu64 ": plan fewer points",
			   bundle->head.code_bytes, (uint64_t)request->value);
	case KERNINST_E_MEMORY:
		return say(&line, EXIT_IO, "not enough memory in the kernel: plan fewer points, or free some");
	case KERNINST_E_REACH:
		return say_reach(&line, bundle, request);
	case KERNINST_E_FOREIGN:
		return say_foreign(&line, request);
	case KERNINST_E_STOP:
		return say(&line, EXIT_IO, "the machine could not be stopped: %s: try again",
			   strerror(error));
	case KERNINST_E_OPTIMIZER:
		return say(&line, EXIT_REFUSED, "new kprobes cannot be kept from becoming jumps, for which the function tracer is needed: %s: switch it on (sysctl kernel.ftrace_enabled=1)",
			   strerror((int)request->value));
	case KERNINST_E_CLOCK:
		return say(&line, EXIT_REFUSED, "the bundle measures time, and this kernel does not know how fast its time-stamp counter runs: plan without spans");
	case KERNINST_E_STOP_LIMIT:
		return say(&line, EXIT_REFUSED, "a stop of the machine would take %.3f ms, and %.3f are allowed: nothing was done; allow more (--max-stop-ms), or plan fewer points",
			   (double)request->value / 1e6,
			   (double)request->max_stop_ns / 1e6);
	default:
		if (error == ENOTTY)
			return say(&line, EXIT_MISMATCH, DEVICE_OTHER_VERSION);
		return say(&line, error == EPERM ? EXIT_REFUSED : EXIT_IO,
			   "%s: %s", KERNINST_DEVICE, strerror(error));
	}
}

int device_ask(int device, unsigned long command, const struct bundle *bundle,
	       struct kerninst_request *request)
{
	if (bundle) {
		request->payload = (uintptr_t)bundle->payload.at;
		request->payload_bytes = (uint32_t)bundle->payload.size;
		request->signature = (uintptr_t)bundle->signature.at;
		request->signature_bytes = (uint32_t)bundle->signature.size;
	}
	return ioctl(device, command, request) ? errno : 0;
}

int device_do(int device, unsigned long command, const struct bundle *bundle,
	      struct kerninst_request *request)
{
	char problem[DEVICE_PROBLEM_BYTES];
	int error = device_ask(device, command, bundle, request);

	return error ? fail(device_problem(bundle, request, error, problem),
			    "%s", problem) : 0;
}
