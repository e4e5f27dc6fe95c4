# Ways out: several returns, tail calls of each kind, a .cold part, a call that does not come back.
# SPDX-License-Identifier: GPL-2.0-only
#
# expect return:several            return several+0xf, return several+0x19
# expect return:tail               retarget-jump tail+0x8
# expect return:conditional        retarget-branch conditional+0x8 taken, return conditional+0x10
# expect return:cold_too           return cold_too+0xe
# expect call:conditional          refused no-calls
# expect call:calls                retarget-call calls+0x5
# expect entry:calls               retarget-call calls+0x5
# expect return:calls              refused never-returns
# expect return:through_register   refused jump-table
	.include "kernel.inc"

	TRACED	several
	test	%edi, %edi		# at 0x5
	FAR_JE	1f			# at 0x7
	xor	%eax, %eax		# at 0xd
	RETURN				# at 0xf
1:	mov	$1, %eax		# at 0x14
	RETURN				# at 0x19
	END	several

	TRACED	tail
	mov	%rsi, %rdi		# at 0x5
	FAR_JMP	several			# at 0x8
	END	tail

	TRACED	conditional
	cmp	$5, %edi		# at 0x5
	FAR_JE	several			# at 0x8: the taken edge leaves
	xor	%eax, %eax
	RETURN
	END	conditional

	TRACED	cold_too
	test	%rdi, %rdi		# at 0x5
	FAR_JE	cold_too.cold		# at 0x8
2:	RETURN				# at 0xe
	END	cold_too

	.section .text.unlikely, "ax"
	.type	cold_too.cold, @function
cold_too.cold:
	mov	$-22, %eax
	FAR_JMP	2b
	.size	cold_too.cold, . - cold_too.cold

	TRACED	calls
	call	several			# at 0x5
	ud2
	END	calls

	TRACED	through_register
	jmp	*%rax
	END	through_register
