// SPDX-License-Identifier: GPL-2.0-only
/*
 * device: a request in, the module's answer out; a refusal becomes one line
 * that says what, where and what to do, with the exit code that belongs to it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "device.h"
#include "fail.h"

/* Room for "xx " of each of 16 bytes. */
#define HEX_BYTES	(3 * 16 + 1)

static const char *hex(const uint8_t *bytes, size_t size, char ret[HEX_BYTES])
{
	size_t i;

	ret[0] = 0;
	for (i = 0; i < size && i < 16; i++)
		sprintf(ret + 3 * i, "%02x ", bytes[i]);
	if (i)
		ret[3 * i - 1] = 0;
	return ret;
}

/* A build id, as file and readelf print it. */
static const char *id(const uint8_t bytes[20], char ret[41])
{
	size_t i;

	for (i = 0; i < 20; i++)
		sprintf(ret + 2 * i, "%02x", bytes[i]);
	return ret;
}

int device_open(int *ret)
{
	*ret = open(KERNINST_DEVICE, O_RDONLY | O_CLOEXEC);
	if (*ret >= 0)
		return 0;
	if (errno == EACCES || errno == EPERM)
		return fail(EXIT_REFUSED, "%s: permission denied: run as root",
			    KERNINST_DEVICE);
	if (errno == ENOENT || errno == ENXIO || errno == ENODEV)
		return fail(EXIT_MISMATCH,
			    "no %s: load kerninst.ko first", KERNINST_DEVICE);
	return fail(EXIT_IO, "%s: %s", KERNINST_DEVICE, strerror(errno));
}

int device_status(int device, struct kerninst_status *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ioctl(device, KERNINST_IOC_STATUS, ret))
		return fail(EXIT_IO, "%s: status: %s", KERNINST_DEVICE,
			    strerror(errno));
	if (ret->version != KERNINST_VERSION)
		return fail(EXIT_MISMATCH,
			    "kerninst.ko is of version %u, this program of %u: use a matching pair",
			    ret->version, KERNINST_VERSION);
	return 0;
}

/* The address of an rva in the running kernel. */
static uint64_t address(const struct bundle *bundle, uint64_t slide,
			uint32_t rva)
{
	return bundle->head.link_base + slide + rva;
}

/* What a site should hold: at most a few of its forms, or its bytes. */
static void describe_expected(const struct bundle *bundle, uint64_t slide,
			      const struct kerninst_site *site, char *ret,
			      size_t room)
{
	struct kerninst_form form;
	uint8_t bytes[16];
	char text[HEX_BYTES];
	uint32_t value, i;
	size_t used = 0;

	ret[0] = 0;
	if (!site->form_class) {
		memcpy(bytes, site->expected, sizeof(bytes));
		if (site->reloc_kind && site->reloc_offset <= 12) {
			memcpy(&value, bytes + site->reloc_offset, 4);
			value += site->reloc_kind == KERNINST_RELOC_ADD ?
				(uint32_t)slide : -(uint32_t)slide;
			memcpy(bytes + site->reloc_offset, &value, 4);
		}
		snprintf(ret, room, "%s", hex(bytes, site->length, text));
		return;
	}
	for (i = 0; bundle_form(bundle, i, &form) && used < room; i++) {
		if (form.form_class != site->form_class)
			continue;
		memcpy(bytes, form.bytes, 5);
		if (form.kind == KERNINST_FORM_JMP) {
			value = form.target - (site->rva + 5);
			bytes[0] = 0xe9;
			memcpy(bytes + 1, &value, 4);
		}
		used += (size_t)snprintf(ret + used, room - used, "%s%s",
					 used ? " or " : "",
					 hex(bytes, 5, text));
	}
}

static int fail_site(const struct bundle *bundle,
		     const struct kerninst_request *request)
{
	struct kerninst_site site;
	char expected[400], live[HEX_BYTES];

	if (!bundle_site(bundle, request->index, &site))
		return fail(EXIT_INTERNAL, "the module names site %u, which is not in the bundle",
			    request->index);
	describe_expected(bundle, request->slide, &site, expected,
			  sizeof(expected));
	return fail(EXIT_MISMATCH,
		    "site %u at 0x%" PRIx64 " (link-time 0x%" PRIx64
		    "): expected %s, found %s: other text than planned for; remove what changed it, or plan without it",
		    request->index,
		    address(bundle, request->slide, site.rva),
		    address(bundle, 0, site.rva), expected,
		    hex(request->live, site.length, live));
}

static int fail_request(const struct bundle *bundle,
			const struct kerninst_request *request, int error)
{
	char planned[41], live[41];

	switch (request->reason) {
	case KERNINST_E_TOO_LARGE:
		return fail(EXIT_DATA, "the payload is beyond the module's limits: plan fewer points");
	case KERNINST_E_MALFORMED:
		return fail(EXIT_DATA, "the payload is malformed at offset %u: plan again, with the kerninst that the module is from",
			    request->index);
	case KERNINST_E_UNSIGNED:
		return fail(EXIT_REFUSED, "the bundle is not signed, and this kerninst.ko takes none such: plan with --key and --cert");
	case KERNINST_E_NO_KEY:
		return fail(EXIT_REFUSED, "the bundle is signed with a key that this machine does not trust: build kerninst.ko with its certificate (CERT=)");
	case KERNINST_E_BAD_SIGNATURE:
		return fail(EXIT_REFUSED, "the signature is not of this payload: the bundle was altered or damaged; copy it again");
	case KERNINST_E_BUILD_ID:
		return fail(EXIT_MISMATCH, "the bundle is for another kernel: build id expected %s, found %s: plan for the running kernel's image",
			    id(bundle->head.build_id, planned),
			    id(request->live, live));
	case KERNINST_E_SLIDE:
		return fail(EXIT_MISMATCH, "the bundle is for another kernel: its symbols do not lie where it says: plan for the running kernel's image");
	case KERNINST_E_SITE_BYTES:
		return fail_site(bundle, request);
	case KERNINST_E_BUSY:
		return fail(EXIT_REFUSED, "a bundle is applied already: remove it first");
	case KERNINST_E_NOT_APPLIED:
		return fail(EXIT_REFUSED, "nothing is applied, so there is nothing to remove");
	case KERNINST_E_SPACE:
		return fail(EXIT_REFUSED, "the code of %u bytes is larger than the patch area of %" PRIu64 ": plan fewer points",
			    bundle->head.code_bytes, (uint64_t)request->value);
	case KERNINST_E_MEMORY:
		return fail(EXIT_IO, "not enough memory in the kernel: plan fewer points, or free some");
	case KERNINST_E_REACH:
		return fail(EXIT_MISMATCH, "entry %u of the plan does not reach from the patch area on this boot: reboot, or plan again",
			    request->index);
	case KERNINST_E_FOREIGN:
		return fail(EXIT_REFUSED, "%" PRIu64 " sites were changed by others since, the first is site %u: they stay; remove what changed them (kprobes, tracers), then remove again",
			    (uint64_t)request->value, request->index);
	case KERNINST_E_STOP:
		return fail(EXIT_IO, "the machine could not be stopped: %s: try again",
			    strerror(error));
	default:
		return fail(EXIT_IO, "%s: %s", KERNINST_DEVICE,
			    strerror(error));
	}
}

int device_send(int device, const struct bundle *bundle, int apply,
		struct kerninst_request *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->payload = (uintptr_t)bundle->payload.at;
	ret->payload_bytes = (uint32_t)bundle->payload.size;
	ret->signature = (uintptr_t)bundle->signature.at;
	ret->signature_bytes = (uint32_t)bundle->signature.size;
	if (ioctl(device, apply ? KERNINST_IOC_APPLY : KERNINST_IOC_CHECK,
		  ret))
		return fail_request(bundle, ret, errno);
	return 0;
}

int device_remove(int device, struct kerninst_request *ret)
{
	static const struct bundle none;

	memset(ret, 0, sizeof(*ret));
	if (ioctl(device, KERNINST_IOC_REMOVE, ret))
		return fail_request(&none, ret, errno);
	return 0;
}
