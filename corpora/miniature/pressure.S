# Registers: what is free where, with calls that read all and returns that keep all.
# SPDX-License-Identifier: GPL-2.0-only
#
# Before a call to assembly everything is live; before one to a traced function r10, r11 and the flags are not.
# expect insn:pressure+0x5         retarget-call pressure+0xc [no free register; flags live]
# expect insn:pressure+0x11        retarget-call pressure+0x18 [free: r10 r11; flags free]
# expect return:pressure           return pressure+0x1d [free: rcx rsi rdi r8 r9 r10 r11; flags free]
# expect return:keeps_all          jump-over keeps_all+0x0 [free: rax; flags live]
# Where the code behind a call of a traced function reads a register that the convention gives up, the code is believed:
# the register is live at the call, and in what is called.
# expect insn:keeper+0x5           retarget-call keeper+0xc [free: r10; flags free]
# expect return:kept_in            return kept_in+0xc [free: rcx rsi rdi r8 r9 r10; flags free]
# expect insn:carry+0x5            jump-over carry+0x5 [free: rcx r8 r9 r10 r11; flags free]
	.include "kernel.inc"

	FUNCTION assembly
	ret
	END	assembly

	TRACED	traced
	RETURN
	END	traced

	TRACED	pressure
	lea	0x12345678(%rdi), %rdi	# 7 bytes at 0x5: reads and writes rdi
	call	assembly		# at 0xc
	lea	0x12345678(%rdi), %rdi	# 7 bytes at 0x11
	call	traced			# at 0x18
	RETURN				# at 0x1d
	END	pressure

	FUNCTION keeps_all
	lea	0x12345678(%rdi), %rax	# 7 bytes
	RETURN				# at 0x7
	END	keeps_all

	TRACED	keeper
	lea	0x12345678(%r11), %r11	# 7 bytes at 0x5
	call	kept_in
	lea	(%rax,%r11), %rax
	RETURN
	END	keeper

	TRACED	kept_in
	lea	0x12345678(%rdi), %rax	# 7 bytes at 0x5
	RETURN
	END	kept_in

# The carry is read behind the long instruction, and inc leaves it alone: nothing has to be saved.
	TRACED	carry
	lea	0x12345678(%rdi), %rdi	# at 0x5
	adc	%rsi, %rdi		# at 0xc reads CF
	ret
	END	carry
