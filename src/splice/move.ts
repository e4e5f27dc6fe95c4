// Moves one instruction out of the kernel's text into a patch: the same bytes, with fixups for what depends on place or
// slide. What cannot be moved is refused. Also says which of the instruction's bytes differ in the running kernel.
//
// KASLR (arch/x86/boot/compressed/misc.c, handle_relocations; 6.1 and 6.12) adds the slide to 32-bit absolute fields and
// subtracts it from rip-relative fields that name per-CPU variables, since the per-CPU area does not move.

import { Decoder, DecoderOptions, Mnemonic, OpKind, Register, type Instruction } from '../code/iced.js'
import { FLOW } from '../code/instructions.js'
import { bytesAt, type Image } from '../image/image.js'
import type { Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import type { CodeBuffer, Fixup } from './code.js'
import type { RefusalCode } from './refusal.js'
import { FIXUP_KIND, RELOC_KIND } from './tables.js'

/** An instruction as it is in the image, and how it differs in the running kernel. */
export interface Original {
  bytes: Uint8Array
  relocKind: number //   RELOC_KIND
  relocOffset: number // of the 32-bit field, 0 for none
}

export interface Moved {
  bytes: Uint8Array
  fixups: Fixup[]
}

interface Fields {
  /** Offset of a rip-relative displacement, or -1. */
  ripOffset: number
  /** The link-time address that it names. */
  ripTarget: bigint
  /** Whether a per-CPU variable is named: the segment is GS. */
  perCpu: boolean
  /** Offset of a sign-extended 32-bit absolute field that KASLR changes, or -1. */
  absOffset: number
}

// Instructions that take an address as an immediate; logic on one does not occur.
const ADDRESS_USERS = new Set<Mnemonic>([Mnemonic.Mov, Mnemonic.Cmp, Mnemonic.Add, Mnemonic.Sub, Mnemonic.Push])

// A constant in a longer form than it needs: the assembler did not know it, so it was filled in at link time, and may be
// something that moves (the distance of the image from its link-time address, which is 0 in the file).
const isOddlyLong = (insn: Instruction, value: bigint): boolean =>
  insn.mnemonic === Mnemonic.Mov ? value >= 0n : value >= -128n && value <= 127n

// The same for movabs: a value that a shorter mov could have loaded (a physical address of the image, say).
const fits32 = (value: bigint): boolean =>
  BigInt.asUintN(32, value) === value || BigInt.asUintN(64, BigInt.asIntN(32, value)) === value

const anyIn = (sorted: Uint32Array, start: Rva, end: Rva): number => {
  const i = lowerBound(sorted, start)
  return i < sorted.length && sorted[i]! < end ? sorted[i]! : -1
}

const fieldsOf = (image: Image, rva: Rva, bytes: Uint8Array): Fields | RefusalCode => {
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  decoder.ip = image.base + BigInt(rva)
  const insn = decoder.decode()
  const offsets = decoder.getConstantOffsets(insn)
  try {
    return readFields(image, rva, insn, offsets)
  } finally {
    offsets.free()
    insn.free()
    decoder.free()
  }
}

type Offsets = ReturnType<Decoder['getConstantOffsets']>

const readFields = (image: Image, rva: Rva, insn: Instruction, offsets: Offsets): Fields | RefusalCode => {
  const fields: Fields = { ripOffset: -1, ripTarget: 0n, perCpu: false, absOffset: -1 }
  const end = rva + insn.length
  if (insn.isIpRelMemoryOperand) {
    if (offsets.displacementSize !== 4 || insn.ipRelMemoryAddress === undefined) return 'cannot-move'
    fields.ripOffset = offsets.displacementOffset
    fields.ripTarget = BigInt.asUintN(64, insn.ipRelMemoryAddress)
    fields.perCpu = insn.memorySegment === Register.GS
    if (insn.memorySegment === Register.FS) return 'cannot-move'
  }
  const inImage = (value: bigint): boolean => {
    const offset = BigInt.asUintN(64, value) - image.base
    return offset >= 0n && offset <= BigInt(image.imageBytes)
  }
  const { relocs } = image
  if (relocs.known) {
    if (anyIn(relocs.relocAbs64, rva, end) >= 0) return 'cannot-move'
    const abs = anyIn(relocs.relocAbs32, rva, end)
    if (abs >= 0) {
      fields.absOffset = abs - rva
      if (anyIn(relocs.relocAbs32, abs + 1, end) >= 0) return 'cannot-move' // one field is all that a site can carry
      const field = fields.absOffset
      const plain =
        (offsets.displacementSize === 4 && field === offsets.displacementOffset && field !== fields.ripOffset) ||
        (offsets.immediateSize === 4 && field === offsets.immediateOffset)
      if (!plain) return 'cannot-move'
    }
    const perCpu = anyIn(relocs.relocPcpu32, rva, end)
    if (perCpu >= 0 !== fields.perCpu || (fields.perCpu && perCpu - rva !== fields.ripOffset)) return 'cannot-move'
  } else {
    // A heuristic: the image does not say which fields KASLR changes, so a sign-extended field whose value lies in the
    // image is taken for an address; where it might be something else, the instruction is refused. Held against the
    // true list, it was wrong nowhere in the 557,741 (6.1) and 648,718 (6.12) instructions of 5 bytes or more outside
    // reserved text. Were it wrong, the site's bytes would not be the expected ones, and the bundle would be refused on
    // the target before anything is written.
    const candidates: number[] = []
    for (let op = 0; op < insn.opCount; op++) {
      const kind = insn.opKind(op)
      if (kind === OpKind.Immediate64 && (inImage(insn.immediate64) || fits32(insn.immediate64))) return 'cannot-move'
      // A 32-bit constant of that size may be an address's low half, or an ioctl number: it cannot be told.
      if (kind === OpKind.Immediate32 && inImage(BigInt.asIntN(32, BigInt(insn.immediate32)))) return 'cannot-move'
      if (kind === OpKind.Immediate32to64) {
        const value = insn.immediate32to64
        if (inImage(value)) {
          // Masks look like addresses, and the base itself is a constant of the kernel's as well.
          if (!ADDRESS_USERS.has(insn.mnemonic) || BigInt.asUintN(64, value) === image.base) return 'cannot-move'
          candidates.push(offsets.immediateOffset)
        } else if (insn.op0Kind === OpKind.Register && isOddlyLong(insn, value)) return 'cannot-move'
      }
      if (kind === OpKind.Memory && !insn.isIpRelMemoryOperand && offsets.displacementSize === 4 &&
          inImage(BigInt.asIntN(32, insn.memoryDisplacement))) candidates.push(offsets.displacementOffset)
    }
    if (candidates.length > 1) return 'cannot-move'
    fields.absOffset = candidates[0] ?? -1
  }
  if (fields.absOffset >= 0 && fields.perCpu) return 'cannot-move'
  return fields
}

/** The instruction's bytes as the running kernel has them, but for the slide. */
export const originalOf = (image: Image, rva: Rva, length: number): Original | RefusalCode => {
  const bytes = bytesAt(image, rva, length)
  const fields = fieldsOf(image, rva, bytes)
  if (typeof fields === 'string') return fields
  if (fields.perCpu) return { bytes, relocKind: RELOC_KIND.sub, relocOffset: fields.ripOffset }
  if (fields.absOffset >= 0) return { bytes, relocKind: RELOC_KIND.add, relocOffset: fields.absOffset }
  return { bytes, relocKind: RELOC_KIND.none, relocOffset: 0 }
}

/**
 * Moves an instruction of flow `next`, `branch` or `indirectJump`.
 * @param target where a branch goes (rva)
 */
export const move = (image: Image, rva: Rva, length: number, flow: number, target: Rva): Moved | RefusalCode => {
  const bytes = bytesAt(image, rva, length).slice() // not a view: it is changed below
  if (flow === FLOW.branch) {
    // Only the plain near form: loop and jrcxz are short, and prefixed ones do not occur.
    if (length !== 6 || bytes[0] !== 0x0f || (bytes[1]! & 0xf0) !== 0x80) return 'cannot-move'
    if (target >= image.imageBytes) return 'out-of-range'
    bytes.fill(0, 2)
    return { bytes, fixups: [{ offset: 2, kind: FIXUP_KIND.rel32, value: target, trail: 0 }] }
  }
  if (flow === FLOW.indirectCall) return 'calls-through-pointer'
  if (flow !== FLOW.next && flow !== FLOW.indirectJump) return 'cannot-move'
  const fields = fieldsOf(image, rva, bytes)
  if (typeof fields === 'string') return fields
  const fixups: Fixup[] = []
  if (fields.ripOffset >= 0) {
    const offset = fields.ripOffset
    const trail = length - offset - 4
    if (fields.perCpu) {
      if (BigInt.asUintN(64, BigInt.asIntN(32, fields.ripTarget)) !== fields.ripTarget) return 'out-of-range'
      fixups.push({ offset, kind: FIXUP_KIND.pcpu32, value: Number(fields.ripTarget & 0xffffffffn), trail })
    } else {
      const value = fields.ripTarget - image.base
      if (value < 0n || value >= BigInt(image.imageBytes)) return 'out-of-range'
      fixups.push({ offset, kind: FIXUP_KIND.rel32, value: Number(value), trail })
    }
    bytes.fill(0, offset, offset + 4)
  }
  if (fields.absOffset >= 0) {
    fixups.push({ offset: fields.absOffset, kind: FIXUP_KIND.abs32, value: 0, trail: 0 })
  }
  fixups.sort((a, b) => a.offset - b.offset)
  return { bytes, fixups }
}
export const movable = (image: Image, rva: Rva, length: number, flow: number, target: Rva): RefusalCode | '' => {
  if (flow === FLOW.branch || flow === FLOW.jump) return target >= image.imageBytes ? 'out-of-range' : ''
  if (flow === FLOW.return) return ''
  const m = move(image, rva, length, flow, target)
  return typeof m === 'string' ? m : ''
}

export const appendMoved = (code: CodeBuffer, image: Image, rva: Rva, length: number, flow: number, target: Rva): boolean => {
  const bytes = bytesAt(image, rva, length)
  if (flow === FLOW.branch) {
    let at = 0
    while (bytes[at] === 0x67 || bytes[at] === 0x2e || bytes[at] === 0x3e) at++
    const op = bytes[at]!
    if (op >= 0xe0 && op <= 0xe3) code.append(Uint8Array.of(...bytes.subarray(0, length - 1), 2, 0xeb, 5, 0xe9, 0, 0, 0, 0), [{ offset: length + 3, kind: FIXUP_KIND.rel32, value: target, trail: 0 }])
    else code.append(Uint8Array.of(0x0f, 0x80 + ((op === 0x0f ? bytes[at + 1]! : op) & 15), 0, 0, 0, 0), [{ offset: 2, kind: FIXUP_KIND.rel32, value: target, trail: 0 }])
    return true
  }
  if (flow === FLOW.jump) {
    code.jumpTo(target)
    return false
  }
  if (flow === FLOW.return) {
    code.append(bytes)
    return false
  }
  const m = move(image, rva, length, flow, target)
  if (typeof m === 'string') throw new Error(m)
  code.append(m.bytes, m.fixups)
  return flow === FLOW.next
}
