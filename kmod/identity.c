// SPDX-License-Identifier: GPL-2.0-only
/*
 * identity: a checked payload in, the slide of this kernel out; or a refusal,
 * where the payload was made for another kernel.
 *
 * Two independent witnesses: three exported symbols must give one slide, and
 * the build id must lie where the payload says that this kernel holds it.
 */
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <linux/sched/task.h>
#include <linux/stop_machine.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include "kerninst.h"

/* KASLR moves the image by CONFIG_PHYSICAL_ALIGN (arch/x86, 6.1 and 6.12). */
#define SLIDE_ALIGN	CONFIG_PHYSICAL_ALIGN

/**
 * kerninst_identity_check - is the payload for this kernel, and where is it?
 * @req: takes slide, or the reason; with KERNINST_E_BUILD_ID, live is the
 *       running kernel's build id, zeros where it could not be read
 * @view: the payload
 *
 * Context: may sleep.
 * Return: 0, or the errno of the reason.
 */
int kerninst_identity_check(struct kerninst_request *req,
			    const struct kerninst_view *view)
{
	const struct kerninst_payload *head = view->head;
	const unsigned long anchor[] = {
		(unsigned long)&stop_machine,
		(unsigned long)&vmap,
		(unsigned long)&init_task,
	};
	unsigned long slide, base, limit;
	int i;

	/* payload.c: link_base is in the kernel's 2 GiB, the image inside it. */
	slide = anchor[0] - head->link_base - head->anchor_rva[0];
	for (i = 1; i < ARRAY_SIZE(anchor); i++)
		if (anchor[i] - head->link_base - head->anchor_rva[i] != slide)
			return kerninst_refuse(req, KERNINST_E_SLIDE);
	base = head->link_base + slide;
	limit = __START_KERNEL_map + KERNEL_IMAGE_SIZE;
	if (slide % SLIDE_ALIGN || base < __START_KERNEL_map || base >= limit ||
	    head->image_bytes > limit - base)
		return kerninst_refuse(req, KERNINST_E_SLIDE);

	if (copy_from_kernel_nofault(req->live,
				     (void *)(base + head->build_id_rva),
				     sizeof(head->build_id)) ||
	    memcmp(req->live, head->build_id, sizeof(head->build_id)))
		return kerninst_refuse(req, KERNINST_E_BUILD_ID);
	memset(req->live, 0, sizeof(req->live));
	req->slide = slide;
	return 0;
}
