// SPDX-License-Identifier: GPL-2.0-only
/*
 * preflight: a bundle in, and this machine; a list of what was looked at out,
 * each with a verdict. The module's own check decides; what /proc and /sys say
 * explains it, and tells what apply does not ask but an operator would.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "cms.h"
#include "device.h"
#include "fail.h"
#include "machine.h"
#include "misfit.h"
#include "preflight.h"
#include "text.h"

#define MAX_ROWS	24
#define MAX_NAMED	100	/* misfits that are explained; the others are listed */
#define MAX_SHOWN	20	/* misfits in the text */
#define SITE_TEXT	400

enum verdict { FINE, NOTE, REFUSES };

struct row {
	const char *name;
	enum verdict verdict;
	char text[DEVICE_PROBLEM_BYTES];
};

struct list {
	const struct bundle *bundle;
	struct row rows[MAX_ROWS];
	size_t count;
	int code;			/* of the first row that refuses */
	struct kerninst_request request;
	struct kerninst_misfit *misfits;
	struct place places[MAX_NAMED];
	uint32_t listed;		/* misfits that were written */
};

static void add(struct list *list, const char *name, enum verdict verdict,
		const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static void add(struct list *list, const char *name, enum verdict verdict,
		const char *format, ...)
{
	struct row *row = &list->rows[list->count];
	va_list args;

	if (list->count == MAX_ROWS)
		return;
	list->count++;
	row->name = name;
	row->verdict = verdict;
	va_start(args, format);
	vsnprintf(row->text, sizeof(row->text), format, args);
	va_end(args);
}

/* A row that refuses, and what apply would end with. */
static void refuse(struct list *list, const char *name, int code,
		   const char *text)
{
	add(list, name, REFUSES, "%s", text);
	if (!list->code)
		list->code = code;
}

static const char *known(int yes, const char *one, const char *zero)
{
	return yes < 0 ? "unknown" : yes ? one : zero;
}

static void look_at_kernel(struct list *list)
{
	char planned[41], found[41], text[200];
	uint8_t running[20];
	struct utsname names;

	if (uname(&names))
		strcpy(names.release, "unknown");
	text_id(list->bundle->head.build_id, planned);
	if (machine_running_build_id(running)) {
		add(list, "kernel", NOTE, "%s; its build id cannot be read, the bundle is for %s",
		    names.release, planned);
		return;
	}
	if (!memcmp(running, list->bundle->head.build_id, sizeof(running))) {
		add(list, "kernel", FINE, "%s, build id %s", names.release,
		    planned);
		return;
	}
	snprintf(text, sizeof(text), "%s has build id %s, the bundle is for %s: plan for this kernel's image",
		 names.release, text_id(running, found), planned);
	refuse(list, "kernel", EXIT_MISMATCH, text);
}

static void look_at_rules(struct list *list)
{
	char text[MACHINE_TEXT];
	int enforces = machine_enforces_signatures();

	machine_lockdown(text);
	add(list, "lockdown", strcmp(text, "none") && strcmp(text, "unknown") ?
	    NOTE : FINE, "%s", text);
	add(list, "module signatures", enforces > 0 ? NOTE : FINE, "%s",
	    known(enforces, "enforced", "not enforced"));
}

static void look_at_signature(struct list *list,
			      const struct kerninst_status *status)
{
	const struct bytes *bytes = &list->bundle->signature;
	static const char *const trusts[] = {
		[KERNINST_TRUST_NONE] = "not known to be trusted",
		[KERNINST_TRUST_BUILTIN] = "trusted by kerninst.ko itself",
		[KERNINST_TRUST_KERNEL] = "trusted by the kernel's keyrings",
	};
	uint32_t trust = list->request.trust;
	struct cms_signer signer;

	if (!bytes->size && status && status->unsigned_ok) {
		add(list, "signature", NOTE, "none, and this kerninst.ko takes that: the kernel will be tainted");
		return;
	}
	if (!bytes->size) {
		refuse(list, "signature", EXIT_REFUSED, "none: plan with --key and --cert");
		return;
	}
	cms_signer(bytes->at, bytes->size, &signer);
	add(list, "signature", trust ? FINE : NOTE,
	    "by \"%s\", serial number %s: %s", signer.issuer, signer.serial,
	    trust < sizeof(trusts) / sizeof(*trusts) ? trusts[trust] : "?");
}

static void look_at_module(struct list *list,
			   const struct kerninst_status *status)
{
	static const char *const states[] = {
		[KERNINST_IDLE] = "nothing",
		[KERNINST_APPLIED] = "a bundle",
		[KERNINST_REMOVED] = "nothing; the counters of the last bundle are there, and apply discards them",
		[KERNINST_PARTIAL] = "parts of a bundle",
	};
	int is_unsigned = machine_module_unsigned();
	int busy = status->state == KERNINST_APPLIED ||
		   status->state == KERNINST_PARTIAL;

	add(list, "module", is_unsigned > 0 ? NOTE : FINE, "version %u, %s",
	    status->version, known(is_unsigned, "not signed", "signed"));
	add(list, "unsigned bundles", status->unsigned_ok ? NOTE : FINE, "%s",
	    status->unsigned_ok ? "taken: kerninst.ko was built so" : "refused");
	if (busy)
		refuse(list, "applied", EXIT_REFUSED,
		       "a bundle is applied already: remove it first");
	else
		add(list, "applied", FINE, "%s", status->state <
		    sizeof(states) / sizeof(*states) ? states[status->state] :
		    "unknown");
}

static void look_at_machine(struct list *list)
{
	char text[MACHINE_TEXT];
	long kprobes, traced, patches;

	machine_preemption(text);
	add(list, "preemption", FINE, "%s", text);
	add(list, "processors", FINE, "%ld online of %ld",
	    sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_NPROCESSORS_CONF));
	if (machine_call_depth_tracking())
		add(list, "call depth", NOTE, "tracked (retbleed=stuff): the kernel uses the padding before functions, and calls go through it");
	else
		add(list, "call depth", FINE, "not tracked");
	machine_monitors(text);
	add(list, "monitors", text[0] ? NOTE : FINE, "%s",
	    text[0] ? text : "none known to object to changed kernel text");
	kprobes = machine_lines("/sys/kernel/debug/kprobes/list");
	traced = machine_lines("/sys/kernel/tracing/enabled_functions");
	patches = machine_folders("/sys/kernel/livepatch");
	if (kprobes < 0 || traced < 0)
		add(list, "others", NOTE, "unknown: debugfs or tracefs is not mounted");
	else
		add(list, "others", FINE, "kprobes %ld, traced functions %ld, livepatches %ld",
		    kprobes, traced, patches < 0 ? 0 : patches);
}

static void look_at_memory(struct list *list)
{
	uint64_t available = machine_available_kb();
	uint64_t needed = (list->request.memory_bytes + 1023) / 1024;

	if (!needed)
		return;
	add(list, "memory", available && needed > available / 2 ? NOTE : FINE,
	    "%" PRIu64 " kB while it is applied; %" PRIu64 " kB are available",
	    needed, available);
}

static uint64_t link_time(const struct bundle *bundle, uint32_t rva)
{
	return bundle->head.link_base + rva;
}

/* Site and place of a misfit. */
static void place_misfits(struct list *list)
{
	struct kerninst_site site;
	uint32_t i, count = list->listed < MAX_NAMED ? list->listed : MAX_NAMED;

	for (i = 0; i < count; i++)
		if (bundle_site(list->bundle, list->misfits[i].site, &site))
			list->places[i].address = list->request.slide +
				link_time(list->bundle, site.rva);
	misfit_name(list->places, count);
}

static void look_at_sites(struct list *list, int error)
{
	const struct kerninst_request *request = &list->request;
	uint32_t sites = list->bundle->head.site_count;
	char problem[DEVICE_PROBLEM_BYTES];
	int code;

	list->listed = request->misfit_count < request->misfit_room ?
		request->misfit_count : request->misfit_room;
	if (!error) {
		add(list, "slide", FINE, "0x%" PRIx64, (uint64_t)request->slide);
		add(list, "sites", FINE, "%u can be spliced", sites);
		if (request->max_stop_ns)
			add(list, "stop limit", FINE, "%.3f ms holds: a trial took %.3f",
			    (double)request->max_stop_ns / 1e6,
			    (double)request->stop_ns / 1e6);
		return;
	}
	code = device_problem(list->bundle, request, error, problem);
	switch (request->reason) {
	case KERNINST_E_SITE_BYTES:
	case KERNINST_E_KPROBE:
	case KERNINST_E_REACH:
		add(list, "slide", FINE, "0x%" PRIx64, (uint64_t)request->slide);
		place_misfits(list);
		snprintf(problem, sizeof(problem), "%u of %u cannot be spliced",
			 request->misfit_count, sites);
		refuse(list, "sites", code, problem);
		break;
	case KERNINST_E_STOP_LIMIT:
		add(list, "sites", FINE, "%u can be spliced", sites);
		refuse(list, "stop limit", code, problem);
		break;
	case KERNINST_E_BUSY:	/* the row "applied" says so */
		break;
	case KERNINST_E_UNSIGNED:	/* the row "signature" */
		break;
	default:
		refuse(list, request->reason == KERNINST_E_NO_KEY ||
		       request->reason == KERNINST_E_BAD_SIGNATURE ? "key" :
		       request->reason == KERNINST_E_SPACE ? "patch area" :
		       "bundle", code, problem);
	}
}

/* Everything that the module can be asked. */
static void look_with(struct list *list, int device, uint64_t max_stop_ns)
{
	struct kerninst_status status;
	int error;

	memset(&status, 0, sizeof(status));
	if (ioctl(device, KERNINST_IOC_STATUS, &status) ||
	    status.version != KERNINST_VERSION) {
		refuse(list, "module", EXIT_MISMATCH, "kerninst.ko is of another version than this program: use a matching pair");
		look_at_signature(list, NULL);
		return;
	}
	look_at_module(list, &status);
	list->request.max_stop_ns = max_stop_ns;
	list->request.misfits = (uintptr_t)list->misfits;
	list->request.misfit_room = list->misfits ?
		list->bundle->head.site_count : 0;
	error = device_ask(device, KERNINST_IOC_CHECK, list->bundle,
			   &list->request);
	look_at_signature(list, &status);
	look_at_sites(list, error);
	look_at_memory(list);
}

/* ---- out ----------------------------------------------------------------- */

static const char *const verdicts[] = { "ok", "note", "refuses" };

/* Of a misfit: what it is, for both kinds of output. */
struct shown {
	struct kerninst_site site;
	char expected[SITE_TEXT], live[TEXT_HEX_BYTES], why[MISFIT_TEXT];
	uint64_t address, linked;
	const char *symbol;
};

static int show(struct list *list, uint32_t i, struct shown *ret)
{
	static const struct place nowhere;
	const struct kerninst_misfit *misfit = &list->misfits[i];
	const struct place *place = i < MAX_NAMED ? &list->places[i] : &nowhere;

	if (!bundle_site(list->bundle, misfit->site, &ret->site))
		return -1;
	ret->linked = link_time(list->bundle, ret->site.rva);
	ret->address = ret->linked + list->request.slide;
	ret->symbol = place->symbol;
	device_expected(list->bundle, list->request.slide, &ret->site,
			ret->expected, sizeof(ret->expected));
	text_hex(misfit->live, ret->site.length, ret->live);
	ret->why[0] = 0;
	if (i < MAX_NAMED)
		misfit_why(misfit, &ret->site, place, ret->why);
	return 0;
}

static void print_text(struct list *list)
{
	struct shown shown;
	uint32_t j;
	size_t i;

	for (i = 0; i < list->count; i++) {
		printf("%-18s %-8s ", list->rows[i].name,
		       verdicts[list->rows[i].verdict]);
		text_print(stdout, list->rows[i].text);
		putchar('\n');
		if (strcmp(list->rows[i].name, "sites"))
			continue;
		for (j = 0; j < list->listed && j < MAX_SHOWN; j++) {
			if (show(list, j, &shown))
				continue;
			printf("  0x%" PRIx64 " %s (link-time 0x%" PRIx64 "): ",
			       shown.address, shown.symbol, shown.linked);
			text_print(stdout, shown.why);
			printf("\n    expected %s\n    found    %s\n",
			       shown.expected, shown.live);
		}
		if (j < list->request.misfit_count)
			printf("  and %u more; check --json lists them\n",
			       list->request.misfit_count - j);
	}
	printf("%s\n", list->code ? "The bundle cannot be applied here." :
	       "The bundle can be applied here.");
}

static void print_misfit(struct list *list, uint32_t i, const char *before)
{
	static const char *const reasons[] = {
		[KERNINST_E_SITE_BYTES] = "site-bytes",
		[KERNINST_E_REACH] = "reach",
		[KERNINST_E_KPROBE] = "kprobe",
	};
	const struct kerninst_misfit *misfit = &list->misfits[i];
	struct shown shown;
	const char *reason = misfit->reason <
		sizeof(reasons) / sizeof(*reasons) && reasons[misfit->reason] ?
		reasons[misfit->reason] : "unknown";

	if (show(list, i, &shown))
		return;
	printf("%s{\"site\":%u,\"address\":\"0x%" PRIx64 "\",\"linkTime\":\"0x%"
	       PRIx64 "\",\"symbol\":", before, misfit->site, shown.address,
	       shown.linked);
	text_json(stdout, shown.symbol);
	printf(",\"reason\":\"%s\",\"expected\":\"%s\",\"found\":\"%s\",\"why\":",
	       reason, shown.expected, shown.live);
	text_json(stdout, shown.why);
	putchar('}');
}

static void print_json(struct list *list)
{
	uint32_t j;
	size_t i;

	printf("{\"schema\":\"kerninst.check/1\",\"fits\":%s,\"exit\":%d,\"checks\":[",
	       list->code ? "false" : "true", list->code);
	for (i = 0; i < list->count; i++) {
		printf("%s{\"check\":\"%s\",\"verdict\":\"%s\",\"text\":",
		       i ? "," : "", list->rows[i].name,
		       verdicts[list->rows[i].verdict]);
		text_json(stdout, list->rows[i].text);
		putchar('}');
	}
	printf("],\"sites\":%u,\"misfits\":[", list->bundle->head.site_count);
	for (j = 0; j < list->listed; j++)
		print_misfit(list, j, j ? "," : "");
	printf("],\"memoryBytes\":%" PRIu64 "}\n",
	       (uint64_t)list->request.memory_bytes);
}

int preflight(const struct bundle *bundle, uint64_t max_stop_ns, int json)
{
	struct list *list = calloc(1, sizeof(*list));
	const char *problem;
	int device, code;

	if (!list)
		return fail(EXIT_IO, "out of memory");
	list->bundle = bundle;
	/* Without room for them, misfits are only counted. */
	if (bundle->head.site_count <= KERNINST_MAX_SITES)
		list->misfits = calloc(bundle->head.site_count,
				       sizeof(*list->misfits));
	look_at_kernel(list);
	look_at_rules(list);
	problem = device_open_problem(&device, &code);
	if (problem) {
		refuse(list, "module", code, problem);
		look_at_signature(list, NULL);
	} else {
		look_with(list, device, max_stop_ns);
		close(device);
	}
	look_at_machine(list);
	if (json)
		print_json(list);
	else
		print_text(list);
	code = list->code;
	free(list->misfits);
	free(list);
	return code;
}
