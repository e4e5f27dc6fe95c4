/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The certificate whose key may sign bundles, as it was given to make
 * (CERT=FILE, DER X.509); empty when none was.
 */
	.section .rodata, "a", @progbits
	.globl	kerninst_certificate
	.type	kerninst_certificate, @object
kerninst_certificate:
	.incbin	KERNINST_TRUSTED
	.size	kerninst_certificate, . - kerninst_certificate
	.globl	kerninst_certificate_end
	.type	kerninst_certificate_end, @object
kerninst_certificate_end:
	.byte	0
	.size	kerninst_certificate_end, 1

	.section .note.GNU-stack, "", @progbits
