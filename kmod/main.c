// SPDX-License-Identifier: GPL-2.0-only
/*
 * kerninst: counters at instructions of the running kernel, planned elsewhere
 * (see uapi/kerninst.h). This file is the device: who may open it, and which
 * request is which.
 */
#include <linux/capability.h>
#include <linux/cpumask.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "kerninst.h"

static_assert(sizeof(struct kerninst_heap) == 192);
static_assert(sizeof(struct kerninst_request) == 128);
static_assert(sizeof(struct kerninst_status) == 144);

/* Who may apply a bundle changes the kernel, as who may load a module. */
static int device_open(struct inode *inode, struct file *file)
{
	struct kerninst_opened *opened;

	if (!capable(CAP_SYS_MODULE))
		return -EPERM;
	opened = MAY_FAIL(kzalloc(sizeof(*opened), GFP_KERNEL));
	if (!opened)
		return -ENOMEM;
	mutex_init(&opened->lock);
	file->private_data = opened;
	return nonseekable_open(inode, file);
}

/* The last user of the open file is gone: closed it, or was killed. */
static int device_release(struct inode *inode, struct file *file)
{
	kerninst_state_closed(file->private_data);
	return 0;
}

static long device_ioctl(struct file *file, unsigned int command,
			 unsigned long arg)
{
	void __user *user = (void __user *)arg;
	struct kerninst_request req;
	struct kerninst_status status;
	long err;

	switch (command) {
	case KERNINST_IOC_CHECK:
	case KERNINST_IOC_APPLY:
	case KERNINST_IOC_REMOVE:
	case KERNINST_IOC_RESET:
	case KERNINST_IOC_SNAPSHOT:
		break;
	case KERNINST_IOC_STATUS:
		kerninst_request_status(&status);
		return copy_to_user(user, &status, sizeof(status)) ? -EFAULT :
								     0;
	default:
		return -ENOTTY;
	}

	if (copy_from_user(&req, user, sizeof(req)))
		return -EFAULT;
	req.reason = KERNINST_OK;
	req.index = 0;
	req.value = 0;
	req.slide = 0;
	req.stop_ns = 0;
	req.misfit_count = 0;
	req.trust = KERNINST_TRUST_NONE;
	req.stops = 0;
	req.memory_bytes = 0;
	memset(req.live, 0, sizeof(req.live));
	if (req.flags & ~KERNINST_TIED || req.reserved)
		return -EINVAL;
	switch (command) {
	case KERNINST_IOC_REMOVE:
		err = kerninst_request_remove(&req);
		break;
	case KERNINST_IOC_RESET:
		err = kerninst_request_reset(&req);
		break;
	case KERNINST_IOC_SNAPSHOT:
		err = kerninst_request_snapshot(&req, file->private_data);
		break;
	default:
		err = kerninst_request_apply(&req, file->private_data,
					     command == KERNINST_IOC_CHECK);
	}
	if (copy_to_user(user, &req, sizeof(req)))
		return -EFAULT;
	return err;
}

static int device_mmap(struct file *file, struct vm_area_struct *vma)
{
	return kerninst_request_mmap(vma, file->private_data);
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,	/* open files and mappings keep the module */
	.open = device_open,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
	.mmap = device_mmap,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kerninst",
	.mode = 0600,
	.fops = &device_fops,
};

static int __init kerninst_init(void)
{
	int err;

	/* The heap's areas are numbered by CPU; x86 numbers them densely. */
	if (num_possible_cpus() != nr_cpu_ids)
		return -EOPNOTSUPP;
	err = kerninst_patch_write(NULL, 0);
	if (err)
		return err;
	err = kerninst_signature_init();
	if (err)
		return err;
	err = kerninst_trap_init();
	if (err)
		goto exit_signature;
	err = MAY_ERR(-ENOMEM, misc_register(&device));
	if (err)
		goto exit_trap;
	return 0;

exit_trap:
	kerninst_trap_exit();
exit_signature:
	kerninst_signature_exit();
	return err;
}

static void __exit kerninst_exit(void)
{
	misc_deregister(&device);
	kerninst_state_exit();
	kerninst_trap_exit();
	kerninst_signature_exit();
}

module_init(kerninst_init);
module_exit(kerninst_exit);

MODULE_DESCRIPTION("kerninst: counters at instructions of the running kernel");
MODULE_LICENSE("GPL");
