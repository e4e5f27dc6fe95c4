# Loops and joins: where another instruction may stand in for a point, and where it may not.
# SPDX-License-Identifier: GPL-2.0-only
#
# The loop's head is the first instruction after the ftrace site: counting there would count rounds. But who came in has
# gone out, if the loop ends.
# expect entry:head                entry:head+0x0 = + head+0x9
# expect entry:spins               refused too-short
# A block that every run passes once, behind a branch, stands in for the entry.
# expect entry:diamond             return diamond+0x12
# Not where one side may not come back.
# expect entry:leaky               short-jump leaky+0x5
# Inside the loop, an instruction of the same block does.
# expect insn:body+0xa             jump-over body+0xd
# expect return:body               return body+0x16
# All blocks: what leaves is what came; the rounds of a loop are counted in it, once more than its edge is taken.
# expect block:body              block:body+0x0 = + body+0x16, block:body+0x5 = + body+0x16, jump-over body+0xd, return body+0x16
# expect edge:body               edge:body+0x0->0x5 = + body+0x16, edge:body+0x5->0xa = + body+0x16, edge:body+0xa->0x16 = + body+0x16, edge:body+0xa->0xa = + body+0xd - body+0x16
# expect block:diamond           block:diamond+0x0 = + diamond+0x12, block:diamond+0x5 = + diamond+0x12, block:diamond+0x9 = + diamond+0x12 - diamond+0x7 taken, return diamond+0x12
# expect block:head              block:head+0x0 = + head+0x9, block:head+0x5 = + head+0x9 + head+0x7 taken, return head+0x9
# expect block:spins             refused ftrace, short-jump spins+0x7
	.include "kernel.inc"

	TRACED	head
1:	dec	%edi			# at 0x5, a jump target
	jne	1b			# at 0x7
	RETURN				# at 0x9
	END	head

	TRACED	spins
1:	dec	%edi
	jmp	1b
	END	spins

	TRACED	diamond
	test	%edi, %edi		# at 0x5
	je	1f			# at 0x7
	inc	%esi			# at 0x9
	jmp	1f			# at 0xb
1:	mov	$7, %eax		# at 0xd
	RETURN				# at 0x12
	END	diamond

	TRACED	leaky
	test	%edi, %edi
	je	1f
	call	*%rsi
1:	mov	$7, %eax
	RETURN
	END	leaky

	TRACED	body
	mov	$10, %ecx		# at 0x5
1:	add	%rsi, %rax		# at 0xa: the loop's head
	mov	$3, %edx		# at 0xd
	dec	%ecx			# at 0x12
	jne	1b			# at 0x14
	RETURN				# at 0x16
	END	body
