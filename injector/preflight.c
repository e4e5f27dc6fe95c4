// SPDX-License-Identifier: GPL-2.0-only
/*
 * preflight: a bundle in, and this machine; a list of what was looked at out,
 * each with a verdict. The module's own check decides; what /proc and /sys say
 * explains it, and tells what apply does not ask but an operator would. Where
 * the module cannot be asked, or refuses, all the rest is said nevertheless.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include "cms.h"
#include "fail.h"
#include "list.h"
#include "machine.h"
#include "misfit.h"
#include "neighbours.h"
#include "preflight.h"
#include "site.h"
#include "text.h"

#define MAX_SHOWN	20	/* misfits in the text */

struct preflight {
	const struct bundle *bundle;
	struct list list;
	struct utsname names;
	uint8_t running[20];		/* build id */
	int has_running;
	struct cms_signer signer;
	/* What the module said; zeros where it could not be asked. */
	int answer;			/* exit code: what apply would end with */
	int has_slide;
	struct kerninst_request request;
	struct kerninst_misfit *misfits;
	uint32_t listed;		/* of the misfits */
	struct neighbours *neighbours;	/* where there are misfits */
};

/* ---- what is looked at --------------------------------------------------- */

static void look_at_kernel(struct preflight *all)
{
	const uint8_t *planned_id = all->bundle->head.build_id;
	char planned[41], found[41], text[300];

	if (uname(&all->names))
		strcpy(all->names.release, "unknown");
	text_id(planned_id, planned);
	all->has_running = !machine_running_build_id(all->running);
	if (!all->has_running) {
		list_add(&all->list, "kernel", NOTE, "%s; its build id is unknown, the bundle is for %s",
			 all->names.release, planned);
	} else if (!memcmp(all->running, planned_id, sizeof(all->running))) {
		list_add(&all->list, "kernel", FINE, "%s, build id %s",
			 all->names.release, planned);
	} else {
		snprintf(text, sizeof(text), "%s has build id %s, the bundle is for %s: plan for this kernel's image",
			 all->names.release, text_id(all->running, found),
			 planned);
		list_refuse(&all->list, "kernel", EXIT_MISMATCH, text);
	}
}

/* A row of one of machine.c's answers; @normal is the one that is not worth a note. */
static void look_at(struct preflight *all, const char *name,
		    enum known (*ask)(char ret[MACHINE_TEXT]),
		    enum known normal)
{
	char text[MACHINE_TEXT];
	enum known answer = ask(text);

	list_add(&all->list, name, answer == normal ? FINE : NOTE, "%s", text);
}

static void look_at_rules(struct preflight *all)
{
	look_at(all, "lockdown", machine_lockdown, NO);
	look_at(all, "secure boot", machine_secure_boot, NO);
	look_at(all, "module signatures", machine_enforces_signatures, NO);
}

static void look_at_signature(struct preflight *all,
			      const struct kerninst_status *status)
{
	const struct bytes *bytes = &all->bundle->signature;
	static const char *const trusts[] = {
		[KERNINST_TRUST_NONE] = "not known to be trusted",
		[KERNINST_TRUST_BUILTIN] = "trusted by kerninst.ko itself",
		[KERNINST_TRUST_KERNEL] = "trusted by the kernel's keyrings",
	};
	uint32_t trust = all->request.trust;
	const char *by;

	if (!bytes->size && status && status->unsigned_ok) {
		list_add(&all->list, "signature", NOTE, "none, and this kerninst.ko takes that: the kernel will be tainted");
		return;
	}
	if (!bytes->size) {
		list_refuse(&all->list, "signature", EXIT_REFUSED,
			    "none: plan with --key and --cert");
		return;
	}
	cms_signer(bytes->at, bytes->size, &all->signer);
	if (trust >= sizeof(trusts) / sizeof(*trusts))
		trust = KERNINST_TRUST_NONE;
	by = status ? trusts[trust] : "whether it is trusted, the module says";
	list_add(&all->list, "signature", trust ? FINE : NOTE,
		 "by \"%s\", serial number %s: %s", all->signer.issuer,
		 all->signer.serial, by);
}

static void look_at_module(struct preflight *all,
			   const struct kerninst_status *status)
{
	char is_signed[MACHINE_TEXT];
	enum known answer = machine_module_signed(is_signed);

	list_add(&all->list, "module", answer == YES ? FINE : NOTE,
		 "version %u, %s", status->version, is_signed);
	list_add(&all->list, "unsigned bundles",
		 status->unsigned_ok ? NOTE : FINE, "%s",
		 status->unsigned_ok ? "taken: kerninst.ko was built so" :
		 "refused");
	switch (status->state) {
	case KERNINST_APPLIED:
		list_refuse(&all->list, "applied", EXIT_REFUSED,
			    "a bundle is applied already: remove it first");
		break;
	case KERNINST_PARTIAL:
		list_refuse(&all->list, "applied", EXIT_REFUSED,
			    "parts of a bundle are applied already, which could not be removed: remove again");
		break;
	case KERNINST_REMOVED:
		list_add(&all->list, "applied", NOTE, "nothing; apply discards the counters of the bundle before: dump them first");
		break;
	default:
		list_add(&all->list, "applied", FINE, "nothing");
	}
}

static void look_at_memory(struct preflight *all)
{
	uint64_t needed = (all->request.memory_bytes + 1023) / 1024;
	uint64_t available = machine_available_kb();

	if (!needed)
		return;
	if (!available)
		list_add(&all->list, "memory", NOTE, "%" PRIu64 " kB while it is applied; what is available is unknown",
			 needed);
	else if (needed > available / 2)
		list_add(&all->list, "memory", NOTE, "%" PRIu64 " kB while it is applied; only %" PRIu64 " kB are available: apply may fail, or push others out: plan fewer points",
			 needed, available);
	else
		list_add(&all->list, "memory", FINE, "%" PRIu64 " kB while it is applied; %" PRIu64 " kB are available",
			 needed, available);
}

/* How long one stop of the machine may take, and whether that can be kept. */
static void look_at_limit(struct preflight *all)
{
	const struct kerninst_request *request = &all->request;

	if (!request->max_stop_ns)
		list_add(&all->list, "stop limit", FINE, "none: the machine stops for as long as writing takes (--max-stop-ms)");
	else
		list_add(&all->list, "stop limit", FINE, "%.3f ms holds: a trial took %.3f",
			 (double)request->max_stop_ns / 1e6,
			 (double)request->stop_ns / 1e6);
}

/* Sites were compared, and do not suit. */
static void look_at_misfits(struct preflight *all, const char *problem)
{
	char text[80];

	if (!all->request.misfit_count) {	/* a fixup does not reach */
		list_refuse(&all->list, "sites", all->answer, problem);
		return;
	}
	snprintf(text, sizeof(text), "%u of %u cannot be spliced",
		 all->request.misfit_count, all->bundle->head.site_count);
	list_refuse(&all->list, "sites", all->answer, text);
	all->listed = all->request.misfit_count < all->request.misfit_room ?
		all->request.misfit_count : all->request.misfit_room;
	all->neighbours = neighbours_read();
}

static void look_at_slide(struct preflight *all)
{
	all->has_slide = 1;
	list_add(&all->list, "slide", FINE, "0x%" PRIx64,
		 (uint64_t)all->request.slide);
}

static void not_compared(struct preflight *all)
{
	list_add(&all->list, "sites", NOTE, "%u, not compared: the module does that for bundles that it takes, and when nothing is applied",
		 all->bundle->head.site_count);
}

/* Everything that the module said of the bundle. */
static void look_at_answer(struct preflight *all, int error)
{
	char problem[DEVICE_PROBLEM_BYTES];

	if (error)
		all->answer = device_problem(all->bundle, &all->request, error,
					     problem);
	switch (error ? all->request.reason : KERNINST_OK) {
	case KERNINST_E_SITE_BYTES:
	case KERNINST_E_KPROBE:
	case KERNINST_E_REACH:
		look_at_slide(all);
		look_at_misfits(all, problem);
		return;
	case KERNINST_E_STOP_LIMIT:
		look_at_slide(all);
		list_add(&all->list, "sites", FINE, "%u can be spliced",
			 all->bundle->head.site_count);
		list_refuse(&all->list, "stop limit", all->answer, problem);
		return;
	case KERNINST_OK:
		if (!error) {
			look_at_slide(all);
			list_add(&all->list, "sites", FINE, "%u can be spliced",
				 all->bundle->head.site_count);
			look_at_limit(all);
			return;
		}
		list_refuse(&all->list, "device", all->answer, problem);
		break;
	case KERNINST_E_BUSY:		/* the row "applied" says so */
	case KERNINST_E_UNSIGNED:	/* "signature" */
		break;
	case KERNINST_E_BUILD_ID:	/* "kernel", where it can be read */
		if (!all->has_running)
			list_refuse(&all->list, "bundle", all->answer, problem);
		break;
	case KERNINST_E_NO_KEY:
	case KERNINST_E_BAD_SIGNATURE:
		list_refuse(&all->list, "key", all->answer, problem);
		break;
	case KERNINST_E_OPTIMIZER:
		list_refuse(&all->list, "function tracer", all->answer, problem);
		break;
	case KERNINST_E_CLOCK:
		list_refuse(&all->list, "clock", all->answer, problem);
		break;
	case KERNINST_E_SPACE:
		list_refuse(&all->list, "patch area", all->answer, problem);
		break;
	default:
		list_refuse(&all->list, "bundle", all->answer, problem);
	}
	not_compared(all);
}

/* Everything that the module can be asked. */
static void ask_module(struct preflight *all, int device, uint64_t max_stop_ns)
{
	struct kerninst_status status;
	int error = device_ask_status(device, &status);

	if (error) {
		list_refuse(&all->list, "module",
			    error == ENOTTY ? EXIT_MISMATCH : EXIT_IO,
			    error == ENOTTY ? DEVICE_OTHER_VERSION :
			    strerror(error));
		look_at_signature(all, NULL);
		not_compared(all);
		return;
	}
	look_at_module(all, &status);
	all->request.max_stop_ns = max_stop_ns;
	all->request.misfits = (uintptr_t)all->misfits;
	all->request.misfit_room = all->misfits ?
		all->bundle->head.site_count : 0;
	error = device_ask(device, KERNINST_IOC_CHECK, all->bundle,
			   &all->request);
	look_at_signature(all, &status);
	look_at_answer(all, error);
	look_at_memory(all);
}

static void look_at_module_and_sites(struct preflight *all,
				     uint64_t max_stop_ns)
{
	const char *problem;
	int device, code;

	problem = device_open_problem(&device, &code);
	if (!problem) {
		ask_module(all, device, max_stop_ns);
		close(device);
		return;
	}
	all->answer = code;
	list_refuse(&all->list, "module", code, problem);
	look_at_signature(all, NULL);
	list_add(&all->list, "sites", NOTE, "%u, not compared: the module does that",
		 all->bundle->head.site_count);
}

static void look_at_processors(struct preflight *all)
{
	long online = machine_cpus("online"), possible = machine_cpus("possible");

	if (online < 0 || possible < 0)
		list_add(&all->list, "processors", NOTE, "unknown: sysfs is not mounted");
	else
		list_add(&all->list, "processors", FINE, "%ld online, %ld possible",
			 online, possible);
	switch (machine_call_depth_tracking()) {
	case YES:
		list_add(&all->list, "call depth", NOTE, "tracked (retbleed=stuff): the kernel has changed its calls, and uses the padding before functions");
		break;
	case NO:
		list_add(&all->list, "call depth", FINE, "not tracked");
		break;
	default:
		list_add(&all->list, "call depth", NOTE, "unknown: sysfs is not mounted");
	}
}

/* A count, or that it is unknown. */
static const char *number(long value, char ret[24])
{
	if (value < 0)
		return "unknown";
	snprintf(ret, 24, "%ld", value);
	return ret;
}

static void look_at_others(struct preflight *all)
{
	long kprobes = machine_lines("/sys/kernel/debug/kprobes/list");
	long traced = machine_lines("/sys/kernel/tracing/enabled_functions");
	long patches = machine_folders("/sys/kernel/livepatch");
	char a[24], b[24], c[24];

	/* Without livepatching in the kernel there is no such folder. */
	if (patches < 0 && !access("/sys/kernel", F_OK))
		patches = 0;
	list_add(&all->list, "others", patches > 0 || kprobes < 0 || traced < 0 ?
		 NOTE : FINE, "kprobes %s, traced functions %s, livepatches %s%s%s",
		 number(kprobes, a), number(traced, b), number(patches, c),
		 patches > 0 ? ": functions that these replace no longer run, and count nothing" : "",
		 kprobes < 0 || traced < 0 ? " (debugfs or tracefs cannot be read)" : "");
}

static void look_at_machine(struct preflight *all)
{
	look_at(all, "preemption", machine_preemption, YES);
	look_at_processors(all);
	look_at(all, "monitors", machine_monitors, NO);
	look_at(all, "debugger", machine_debugger, NO);
	look_at_others(all);
}

/* ---- out ----------------------------------------------------------------- */

/* Of a misfit: what it is, for both kinds of output. */
struct shown {
	uint64_t address, linked;
	char symbol[SYMBOL_TEXT], expected[SITE_TEXT], live[TEXT_HEX_BYTES];
	char why[MISFIT_TEXT];
};

static int show(const struct preflight *all, uint32_t i, struct shown *ret)
{
	const struct kerninst_misfit *from = &all->misfits[i];
	struct kerninst_site site;
	struct misfit misfit;

	if (!bundle_site(all->bundle, from->site, &site))
		return -1;
	ret->linked = site_address(all->bundle, 0, &site);
	ret->address = site_address(all->bundle, all->request.slide, &site);
	ret->symbol[0] = 0;
	if (all->neighbours)
		neighbours_symbol(all->neighbours, ret->address, ret->symbol);
	site_expected(all->bundle, all->request.slide, &site, ret->expected);
	text_hex(from->live, site_length(&site), ret->live);

	misfit = (struct misfit){
		.reason = from->reason,
		.address = ret->address,
		.other = from->other,
		.length = (uint8_t)site_length(&site),
		.symbol = ret->symbol,
	};
	site_bytes(&site, all->request.slide, misfit.expected);
	memcpy(misfit.live, from->live, sizeof(misfit.live));
	misfit_why(&misfit, all->neighbours, ret->why);
	return 0;
}

static void print_misfits(const struct preflight *all)
{
	struct shown shown;
	uint32_t i;

	for (i = 0; i < all->listed && i < MAX_SHOWN; i++) {
		if (show(all, i, &shown))
			continue;
		printf("  0x%" PRIx64 " ", shown.address);
		text_print(stdout, shown.symbol[0] ? shown.symbol :
			   "(symbol unknown)");
		printf(", link-time 0x%" PRIx64 "\n    expected  %s\n    found     %s\n    ",
		       shown.linked, shown.expected, shown.live);
		text_print(stdout, shown.why);
		putchar('\n');
	}
	if (i < all->request.misfit_count)
		printf("  and %u more; check --json lists them\n",
		       all->request.misfit_count - i);
}

static void print_text(const struct preflight *all, int code)
{
	size_t i;

	for (i = 0; i < all->list.count; i++) {
		list_print(&all->list.rows[i], stdout);
		if (!strcmp(all->list.rows[i].name, "sites"))
			print_misfits(all);
	}
	printf("%s\n", code ? "The bundle cannot be applied here." :
	       "The bundle can be applied here.");
}

static void json_misfit(const struct preflight *all, uint32_t i)
{
	static const char *const reasons[] = {
		[KERNINST_E_SITE_BYTES] = "site-bytes",
		[KERNINST_E_REACH] = "reach",
		[KERNINST_E_KPROBE] = "kprobe",
	};
	const struct kerninst_misfit *misfit = &all->misfits[i];
	const char *reason = misfit->reason <
		sizeof(reasons) / sizeof(*reasons) && reasons[misfit->reason] ?
		reasons[misfit->reason] : "unknown";
	struct shown shown;

	if (show(all, i, &shown))
		return;
	printf("%s{\"site\":%u,\"address\":\"0x%" PRIx64 "\",\"linkTime\":\"0x%"
	       PRIx64 "\",\"symbol\":", i ? "," : "", misfit->site,
	       shown.address, shown.linked);
	text_json(stdout, shown.symbol);
	printf(",\"reason\":\"%s\",\"expected\":\"%s\",\"found\":\"%s\",\"why\":",
	       reason, shown.expected, shown.live);
	text_json(stdout, shown.why);
	putchar('}');
}

static void json_kernel(const struct preflight *all)
{
	char id[41];

	printf("\"kernel\":{\"release\":");
	text_json(stdout, all->names.release);
	printf(",\"buildId\":");
	text_json(stdout, all->has_running ? text_id(all->running, id) : NULL);
	printf(",\"plannedFor\":\"%s\"},",
	       text_id(all->bundle->head.build_id, id));
}

static void json_signature(const struct preflight *all)
{
	static const char *const trusts[] = {
		[KERNINST_TRUST_NONE] = "none",
		[KERNINST_TRUST_BUILTIN] = "module",
		[KERNINST_TRUST_KERNEL] = "kernel",
	};
	uint32_t trust = all->request.trust;
	int has_one = all->bundle->signature.size != 0;

	printf("\"signature\":{\"issuer\":");
	text_json(stdout, has_one ? all->signer.issuer : NULL);
	printf(",\"serial\":");
	text_json(stdout, has_one ? all->signer.serial : NULL);
	printf(",\"trustedBy\":\"%s\"},", trust < sizeof(trusts) /
	       sizeof(*trusts) ? trusts[trust] : trusts[0]);
}

static void print_json(const struct preflight *all, int code)
{
	const struct kerninst_request *request = &all->request;
	uint32_t i;

	printf("{\"schema\":\"kerninst.check/1\",\"fits\":%s,\"exit\":%d,",
	       code ? "false" : "true", code);
	json_kernel(all);
	json_signature(all);
	printf("\"checks\":");
	list_json(&all->list, stdout);
	printf(",\"sites\":%u,\"misfitCount\":%u,\"misfits\":[",
	       all->bundle->head.site_count, request->misfit_count);
	for (i = 0; i < all->listed; i++)
		json_misfit(all, i);
	printf("],\"slide\":");
	if (all->has_slide)
		printf("\"0x%" PRIx64 "\"", (uint64_t)request->slide);
	else
		printf("null");
	printf(",\"memoryBytes\":%" PRIu64 ",\"maxStopNs\":\"%" PRIu64
	       "\",\"stopNs\":\"%" PRIu64 "\"}\n",
	       (uint64_t)request->memory_bytes, (uint64_t)request->max_stop_ns,
	       (uint64_t)request->stop_ns);
}

int preflight(const struct bundle *bundle, uint64_t max_stop_ns, int json)
{
	struct preflight *all = calloc(1, sizeof(*all));
	int code;

	if (!all)
		return fail(EXIT_IO, "out of memory");
	all->bundle = bundle;
	/* Without room for them, misfits are only counted. */
	if (bundle->head.site_count <= KERNINST_MAX_SITES)
		all->misfits = calloc(bundle->head.site_count,
				      sizeof(*all->misfits));
	look_at_kernel(all);
	look_at_rules(all);
	look_at_module_and_sites(all, max_stop_ns);
	look_at_machine(all);
	/* What stops apply first decides, not what is listed first. */
	code = all->answer ? all->answer : all->list.code;
	if (json)
		print_json(all, code);
	else
		print_text(all, code);
	neighbours_free(all->neighbours);
	free(all->misfits);
	free(all);
	return code;
}
