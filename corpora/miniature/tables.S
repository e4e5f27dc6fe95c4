# Jump tables: those that are proven, and what must not count as proof.
# SPDX-License-Identifier: GPL-2.0-only
#
# expect return:compared           return compared+0x18
# expect return:thunked            return thunked+0x1e
# expect return:masked             return masked+0x11
# expect return:loaded             return loaded+0x15
# expect return:stretched          return stretched+0x14
# expect return:unbounded          refused jump-table
# expect return:signed             refused jump-table
# expect return:half               refused jump-table
# expect return:entered            refused jump-table
# expect return:changed            refused jump-table
# expect return:too_far            refused jump-table
# expect return:writable           refused jump-table
	.include "kernel.inc"

	.text
	.globl	__x86_indirect_thunk_rdx
	.type	__x86_indirect_thunk_rdx, @function
__x86_indirect_thunk_rdx:
	jmp	*%rdx
	.size	__x86_indirect_thunk_rdx, . - __x86_indirect_thunk_rdx

# A table of \count entries, all of which lead to the last return of the function but for the first two.
	.macro	TABLE name, count, section=.rodata
	.pushsection \section, "a"
	.balign	8
\name\()_table:
	.quad	.L\name\()_one, .L\name\()_end
	.rept	\count - 2
	.quad	.L\name\()_end
	.endr
	.popsection
	.endm

	.macro	CASES name
.L\name\()_one:
	xor	%eax, %eax
.L\name\()_end:
	RETURN
	END	\name
	.endm

	TRACED	compared
	cmp	$3, %edi
	ja	.Lcompared_end
	mov	%edi, %eax
	mov	%rsi, %rcx		# between, and in no one's way
	jmp	*compared_table(, %rax, 8)
	CASES	compared
	TABLE	compared, 4

	TRACED	thunked
	cmpb	$3, %dil
	ja	.Lthunked_end
	movzbl	%dil, %eax
	mov	thunked_table(, %rax, 8), %rdx
	.byte	0xe9
	.long	__x86_indirect_thunk_rdx - 1f
1:
	CASES	thunked
	TABLE	thunked, 4

	TRACED	masked
	and	$7, %edi
	jmp	*masked_table(, %rdi, 8)
	CASES	masked
	TABLE	masked, 8

	TRACED	loaded
	mov	(%rdi), %eax		# clears the upper half
	cmp	$3, %eax
	ja	.Lloaded_end
	jmp	*loaded_table(, %rax, 8)
	CASES	loaded
	TABLE	loaded, 4

	TRACED	stretched
	cmp	$3, %rdi		# all of it
	ja	.Lstretched_end
	jmp	*stretched_table(, %rdi, 8)
	CASES	stretched
	TABLE	stretched, 4

	TRACED	unbounded
	jmp	*unbounded_table(, %rdi, 8)
	CASES	unbounded
	TABLE	unbounded, 4

	TRACED	signed
	cmp	$3, %edi
	jg	.Lsigned_end
	mov	%edi, %eax
	jmp	*signed_table(, %rax, 8)
	CASES	signed
	TABLE	signed, 4

	TRACED	half
	cmp	$3, %edi		# the upper half may hold anything
	ja	.Lhalf_end
	jmp	*half_table(, %rdi, 8)
	CASES	half
	TABLE	half, 4

	TRACED	entered
	test	%rsi, %rsi
	je	1f
	cmp	$3, %edi
	ja	.Lentered_end
1:	mov	%edi, %eax
	jmp	*entered_table(, %rax, 8)
	CASES	entered
	TABLE	entered, 4

	TRACED	changed
	cmp	$3, %edi
	ja	.Lchanged_end
	add	%esi, %edi
	mov	%edi, %eax
	jmp	*changed_table(, %rax, 8)
	CASES	changed
	TABLE	changed, 4

	TRACED	too_far			# the compare allows one more than there is
	cmp	$4, %edi
	ja	.Ltoo_far_end
	mov	%edi, %eax
	jmp	*too_far_table(, %rax, 8)
	CASES	too_far
	TABLE	too_far, 4
	.section .rodata
	.quad	several_else
	.text

	TRACED	elsewhere
several_else:
	RETURN
	END	elsewhere

	TRACED	writable
	cmp	$3, %edi
	ja	.Lwritable_end
	mov	%edi, %eax
	jmp	*writable_table(, %rax, 8)
	CASES	writable
	TABLE	writable, 4, .tables
