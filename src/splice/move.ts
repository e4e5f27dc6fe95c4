// Moves one instruction out of the kernel's text into a patch, or says why that cannot be done; and says which of an
// instruction's bytes differ in the running kernel (fields.ts).
//
//   next, jmp *op    the same bytes, with fixups for what depends on place or slide
//   ret              the same bytes
//   jmp rel          e9 rel32
//   jcc rel          0f 8x rel32
//   loop, jrcxz      the same with displacement 2; jmp +5; jmp rel32: they have no long form
//   call *op         push $back; jmp *op: the natural return address, so that the callee and whoever walks the stack see
//                    what they always see; an operand on the stack lies 8 bytes further up then
//   call rel         not moved: its own displacement is changed instead
//
// Segment prefixes of direct transfers mean nothing (2e and 3e are hints where they are not padding, as in front of the
// calls of retpoline thunks), and are dropped. In 6.1 and 6.12 (Debian, cloud): 21 and 22 jmp with 2e; 418 and 461 call
// with 2e, to thunks; 2 jcc with REX in data that looks like code (6.12), refused; none with 3e, 66, 67 or f2.

import { FLOW } from '../code/instructions.js'
import type { Image } from '../image/image.js'
import type { Rva } from '../image/rva.js'
import type { CodeBuffer } from './code.js'
import { FieldReader } from './fields.js'
import type { RefusalCode } from './refusal.js'
import { FIXUP_KIND, RELOC_KIND } from './tables.js'

/** An instruction as it is in the image, and how it differs in the running kernel. */
export class Original {
  readonly relocKind: number //   RELOC_KIND
  readonly relocOffset: number // of the 32-bit field, 0 for none
  readonly #region: Uint8Array
  readonly #at: number
  readonly #length: number

  constructor({ bytes, at }: FieldReader, length: number, relocKind: number, relocOffset: number) {
    this.relocKind = relocKind
    this.relocOffset = relocOffset
    this.#region = bytes
    this.#at = at
    this.#length = length
  }

  // A view costs more than all the rest, and is rarely wanted.
  get bytes(): Uint8Array {
    return this.#region.subarray(this.#at, this.#at + this.#length)
  }
}

const JMP_RM = 4 << 3 // in ModRM
const CALL_RM = 2 << 3
const CR3_RM = 3 << 3
const REG_MASK = 7 << 3

const RSP = 4 // as base in a SIB byte, and as a register, without REX.B
const REX_B = 1

/** How much further up the stack's contents lie after a push. */
const PUSHED = 8

const readers = new WeakMap<Image, FieldReader>()

// A plan asks about one image, millions of times.
let lastReader: FieldReader | undefined

const readerOf = (image: Image): FieldReader => {
  if (lastReader !== undefined && lastReader.image === image) return lastReader
  let reader = readers.get(image)
  if (reader === undefined) readers.set(image, (reader = new FieldReader(image)))
  lastReader = reader
  return reader
}

/** Where the opcode of a direct transfer is, behind prefixes that mean nothing to it. */
const skipHints = (bytes: Uint8Array, at: number): number => {
  while (bytes[at] === 0x2e || bytes[at] === 0x3e) at++
  return at
}

/** The instruction's bytes as the running kernel has them, but for the slide. */
export const originalOf = (image: Image, rva: Rva, length: number): Original | RefusalCode => {
  const fields = readerOf(image)
  const why = fields.read(rva, length)
  if (why !== '') return why
  if (fields.perCpu) return new Original(fields, length, RELOC_KIND.sub, fields.ripOffset)
  if (fields.absOffset >= 0) return new Original(fields, length, RELOC_KIND.add, fields.absOffset)
  return new Original(fields, length, RELOC_KIND.none, 0)
}

const branchMoves = (bytes: Uint8Array, start: number, length: number): boolean => {
  let at = skipHints(bytes, start)
  const left = start + length - at
  if (bytes[at] === 0x0f) return left === 6 && (bytes[at + 1]! & 0xf0) === 0x80
  if ((bytes[at]! & 0xf0) === 0x70) return left === 2
  // loop and jrcxz; with 67 they use ecx
  if (bytes[at] === 0x67) at++
  return (bytes[at]! & 0xfc) === 0xe0 && start + length - at === 2
}

const jumpMoves = (bytes: Uint8Array, start: number, length: number): boolean => {
  const at = skipHints(bytes, start)
  const left = start + length - at
  return (bytes[at] === 0xe9 && left === 5) || (bytes[at] === 0xeb && left === 2)
}

/** ret, rep ret, ret $n */
const returnMoves = (bytes: Uint8Array, at: number, length: number): boolean =>
  (length === 1 && bytes[at] === 0xc3) || (length === 2 && bytes[at] === 0xf3 && bytes[at + 1] === 0xc3) ||
  (length === 3 && bytes[at] === 0xc2)

/** Where the ff of a call through a register or memory is; -1 where other prefixes than segments and REX precede it. */
const callAt = (bytes: Uint8Array, start: number): number => {
  let at = start
  for (; bytes[at] !== 0xff; at++) {
    const byte = bytes[at]!
    const isRex = (byte & 0xf0) === 0x40
    if (isRex ? bytes[at + 1] !== 0xff : byte !== 0x2e && byte !== 0x3e && byte !== 0x64 && byte !== 0x65) return -1
  }
  return (bytes[at + 1]! & REG_MASK) === CALL_RM ? at : -1
}

/** Whether the memory operand behind an opcode at `at` has rsp as its base. */
const isOnStack = (bytes: Uint8Array, at: number, start: number): boolean => {
  const modrm = bytes[at + 1]!
  if (modrm >= 0xc0 || (modrm & 7) !== 4 || (bytes[at + 2]! & 7) !== RSP) return false
  return !hasRexB(bytes, at, start)
}

const hasRexB = (bytes: Uint8Array, at: number, start: number): boolean =>
  at > start && (bytes[at - 1]! & 0xf0) === 0x40 && (bytes[at - 1]! & REX_B) !== 0

/** The displacement of an operand with a SIB byte and a base. */
const displacementOf = (bytes: Uint8Array, at: number): number => {
  const mod = bytes[at + 1]! >>> 6
  if (mod === 0) return 0
  if (mod === 1) return (bytes[at + 3]! << 24) >> 24
  return bytes[at + 3]! | (bytes[at + 4]! << 8) | (bytes[at + 5]! << 16) | (bytes[at + 6]! << 24)
}

const whyCallStays = (fields: FieldReader, rva: Rva, length: number): RefusalCode | '' => {
  const why = fields.read(rva, length)
  if (why !== '') return why
  const { bytes, at: start } = fields
  const at = callAt(bytes, start)
  if (at < 0 || fields.perCpu) return 'cannot-move'
  // call *%rsp
  if (bytes[at + 1] === (0xc0 | CALL_RM | RSP) && !hasRexB(bytes, at, start)) return 'cannot-move'
  if (isOnStack(bytes, at, start)) {
    const displacement = displacementOf(bytes, at)
    // Below the stack pointer lies what the push overwrites.
    if (fields.absOffset >= 0 || displacement < 0 || displacement + PUSHED > 0x7fffffff) return 'cannot-move'
  }
  return whyOutOfRange(fields)
}

/** Whether what a rip-relative operand names can be named by a fixup. */
const whyOutOfRange = (fields: FieldReader): RefusalCode | '' => {
  if (fields.ripOffset < 0) return ''
  const { ripTarget } = fields
  if (fields.perCpu) {
    const address = fields.base + ripTarget
    return (address | 0) === address ? '' : 'out-of-range'
  }
  return ripTarget >= 0 && ripTarget < fields.image.imageBytes ? '' : 'out-of-range'
}

// ENDBR says that an indirect branch may arrive where it lies, and the processor holds everyone to it (IBT; 6.12): what is
// written over it has none. And behind a mov to %cr3 the patch may not be mapped, or before one of another kernel's
// (restore_registers in hibernate_asm_64.S, 6.1 and 6.12; asm_acpi_mp_play_dead, 6.12).
const whyPlaceMatters = ({ bytes, at }: FieldReader, length: number): RefusalCode | '' => {
  if (length > 4) return ''
  if (length === 4 && bytes[at] === 0xf3 && bytes[at + 1] === 0x0f && bytes[at + 2] === 0x1e && (bytes[at + 3]! & 0xfe) === 0xfa) {
    return 'endbr'
  }
  const opcodeAt = at + length - 3
  return length >= 3 && bytes[opcodeAt] === 0x0f && bytes[opcodeAt + 1] === 0x22 && (bytes[opcodeAt + 2]! & REG_MASK) === CR3_RM
    ? 'cannot-move' : ''
}

/**
 * Why an instruction cannot be moved, or ''.
 * @param flow FLOW
 * @param target where a direct transfer goes
 */
export const movable = (image: Image, rva: Rva, length: number, flow: number, target: Rva): RefusalCode | '' => {
  const fields = readerOf(image)
  if (flow === FLOW.next || flow === FLOW.indirectJump) {
    const why = fields.read(rva, length)
    return why !== '' ? why : whyPlaceMatters(fields, length) || whyOutOfRange(fields)
  }
  if (flow === FLOW.indirectCall) return whyCallStays(fields, rva, length)
  fields.find(rva, length)
  const { bytes, at } = fields
  if (flow === FLOW.return) return returnMoves(bytes, at, length) ? '' : 'cannot-move'
  if (flow === FLOW.branch ? !branchMoves(bytes, at, length) : flow !== FLOW.jump || !jumpMoves(bytes, at, length)) {
    return 'cannot-move'
  }
  return target < image.imageBytes ? '' : 'out-of-range'
}

const appendBranch = (code: CodeBuffer, bytes: Uint8Array, start: number, length: number, target: Rva): void => {
  const at = skipHints(bytes, start)
  if (bytes[at] === 0x0f || (bytes[at]! & 0xf0) === 0x70) {
    code.byte(0x0f)
    code.byte(0x80 | ((bytes[at] === 0x0f ? bytes[at + 1]! : bytes[at]!) & 15))
    code.field(FIXUP_KIND.rel32, target, 0)
    return
  }
  code.copy(bytes, start, start + length - 1)
  code.byte(2) //    to the last jmp
  code.byte(0xeb) // over it
  code.byte(5)
  code.jumpTo(target)
}

/** Appends bytes[from, end) of the instruction that the reader has read, with its fixups; it starts at `fields.at`. */
const appendOperand = (code: CodeBuffer, fields: FieldReader, from: number, end: number): void => {
  const { bytes, at, ripOffset, absOffset } = fields
  // The other one is not there, or it is an immediate, which lies behind.
  const rip = at + ripOffset
  if (ripOffset >= 0) {
    code.copy(bytes, from, rip)
    const trail = end - rip - 4
    if (fields.perCpu) code.field(FIXUP_KIND.pcpu32, fields.base + fields.ripTarget, trail)
    else code.field(FIXUP_KIND.rel32, fields.ripTarget, trail)
    from = rip + 4
  }
  if (absOffset >= 0) code.fixup(code.length + at + absOffset - from, FIXUP_KIND.abs32, 0, 0)
  code.copy(bytes, from, end)
}

const appendCall = (code: CodeBuffer, fields: FieldReader, rva: Rva, length: number): void => {
  fields.read(rva, length)
  const { bytes, at: start } = fields
  const end = start + length
  const at = callAt(bytes, start)
  code.byte(0x68)
  code.fixup(code.length, FIXUP_KIND.abs32, 0, 0)
  code.word(fields.base + rva + length)
  code.copy(bytes, start, at + 1)
  const modrm = (bytes[at + 1]! & ~REG_MASK) | JMP_RM
  if (!isOnStack(bytes, at, start)) {
    code.byte(modrm)
    appendOperand(code, fields, at + 2, end)
    return
  }
  const displacement = displacementOf(bytes, at) + PUSHED
  const short = displacement <= 127
  code.byte((modrm & 0x3f) | (short ? 0x40 : 0x80))
  code.byte(bytes[at + 2]!)
  if (short) code.byte(displacement)
  else code.word(displacement)
}

/**
 * Appends an instruction that can be moved (movable). Where it is a branch, its target is the last four bytes.
 * @returns whether control goes on behind it
 */
export const appendMoved = (code: CodeBuffer, image: Image, rva: Rva, length: number, flow: number, target: Rva): boolean => {
  const fields = readerOf(image)
  if (flow === FLOW.next || flow === FLOW.indirectJump) {
    fields.read(rva, length)
    appendOperand(code, fields, fields.at, fields.at + length)
    return flow === FLOW.next
  }
  if (flow === FLOW.indirectCall) {
    appendCall(code, fields, rva, length)
    return false
  }
  if (flow === FLOW.jump) {
    code.jumpTo(target)
    return false
  }
  fields.find(rva, length)
  if (flow === FLOW.branch) {
    appendBranch(code, fields.bytes, fields.at, length, target)
    return true
  }
  code.copy(fields.bytes, fields.at, fields.at + length)
  return false
}
