// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: a kernel, an initramfs and a command line. Out: they run instead of this
 * kernel. Nothing is shut down before.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int kernel, initramfs;

	if (argc != 4) {
		fprintf(stderr, "usage: kexec KERNEL INITRAMFS COMMAND-LINE\n");
		return 64;
	}
	kernel = open(argv[1], O_RDONLY | O_CLOEXEC);
	initramfs = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (kernel < 0 || initramfs < 0 ||
	    syscall(SYS_kexec_file_load, kernel, initramfs, strlen(argv[3]) + 1, argv[3], 0)) {
		perror("kexec: kexec_file_load");
		return 1;
	}
	syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, NULL);
	perror("kexec: reboot");
	return 1;
}
