# One function, one block: the plainest case, and the tactics that do not need a graph.
# SPDX-License-Identifier: GPL-2.0-only
#
# Each "expect" line is a point, and the tactic and site that must serve each of its parts, or "refused" and the code.
# Where a whole function is one block, its return is the cheapest site for every instruction in it.
#
# expect entry:straight            return straight+0x13
# expect return:straight           return straight+0x13
# expect insn:straight+0xc         return straight+0x13
# expect insn:straight+0x6         refused no-instruction
# expect call:straight             refused no-calls
# expect entry:untraced            jump-over untraced+0x0
# expect entry:short               short-jump short+0x5
# expect return:short              short-jump short+0x5
# expect entry:rip                 jump-over rip+0x5
# expect entry:__fentry__          refused copied-text
	.include "kernel.inc"

	TRACED	straight
	mov	$0x12345678, %rax	# 7 bytes at 0x5
	mov	$0x1234567, %r10	# 7 bytes at 0xc
	RETURN				# at 0x13
	END	straight

	FUNCTION untraced
	mov	$1, %eax
	RETURN
	END	untraced

	TRACED	short
	xor	%eax, %eax
	ret
	END	short

	TRACED	rip
	mov	init_task(%rip), %rax	# 7 bytes at 0x5
	ret				# not a return site: cannot be spliced
	END	rip
