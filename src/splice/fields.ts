// Which 32-bit fields of an instruction depend on where it lies, or on the slide of the running kernel.
//
// KASLR (arch/x86/boot/compressed/misc.c, handle_relocations; 6.1 and 6.12) adds the slide to 32-bit absolute fields and
// subtracts it from rip-relative fields that name per-CPU variables, since the per-CPU area does not move.
//
// A plan of a whole kernel asks a million times, so iced is asked once for each form of instruction (code/key.ts): where
// displacement and immediate lie, and of which kind they are. Values and segment prefixes are read from the bytes.

import { Decoder, DecoderOptions, Mnemonic, OpKind, Register, type Instruction } from '../code/iced.js'
import { KeyReader } from '../code/key.js'
import { assert } from '../error.js'
import type { Image, Region } from '../image/image.js'
import { hex, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import type { RefusalCode } from './refusal.js'

// A form: 32 bits, never 0. Places count from the opcode on; all of them are 1 or more there.
const LENGTH_MASK = 15 //            bits 0-3 bytes from the opcode to the end
const DISPLACEMENT_SHIFT = 4 //      bits 4-7 place of the displacement
const IMMEDIATE_SHIFT = 8 //         bits 8-11 place of the immediate
const PLACE_MASK = 15
const DISPLACEMENT32 = 1 << 12 //    it has 4 bytes
const IMMEDIATE32 = 1 << 13 //       it has 4 bytes
const RIP = 1 << 14 //               the memory operand is rip-relative
const ODD = 1 << 15 //               eip-relative
const MEMORY32 = 1 << 16 //          a memory operand with a 4-byte displacement, not rip-relative
const QUAD = 1 << 17 //              the immediate has 8 bytes,
const PLAIN = 1 << 18 //             or 4 that are not extended,
const EXTENDED = 1 << 19 //          or 4 that are sign-extended to 8
const ADDRESS_USER = 1 << 20
const MOV = 1 << 21
const TO_REGISTER = 1 << 22

/** More forms than any kernel has (some 35 thousand); only a file made for it would need more room. */
const MAX_FORMS = 1 << 16

const FS = 0x64
const GS = 0x65

// Instructions that take an address as an immediate; logic on one does not occur.
const ADDRESS_USERS = new Set<Mnemonic>([Mnemonic.Mov, Mnemonic.Cmp, Mnemonic.Add, Mnemonic.Sub, Mnemonic.Push])

const flagsOf = (insn: Instruction, displacementSize: number): number => {
  let flags = 0
  if (insn.isIpRelMemoryOperand) flags |= displacementSize === 4 && insn.memoryBase === Register.RIP ? RIP : ODD
  for (let op = 0; op < insn.opCount; op++) {
    const kind = insn.opKind(op)
    if (kind === OpKind.Immediate64) flags |= QUAD
    if (kind === OpKind.Immediate32) flags |= PLAIN
    if (kind === OpKind.Immediate32to64) flags |= EXTENDED
    if (kind === OpKind.Memory && !insn.isIpRelMemoryOperand && displacementSize === 4) flags |= MEMORY32
  }
  if (ADDRESS_USERS.has(insn.mnemonic)) flags |= ADDRESS_USER
  if (insn.mnemonic === Mnemonic.Mov) flags |= MOV
  if (insn.opCount > 0 && insn.op0Kind === OpKind.Register) flags |= TO_REGISTER
  return flags
}

/** The form of what fills bytes[at, end), its places counted from `opcodeAt`; 0 where that is not one instruction. */
const askIced = (bytes: Uint8Array, at: number, end: number, opcodeAt: number): number => {
  const decoder = new Decoder(64, bytes.subarray(at, end), DecoderOptions.None)
  const insn = decoder.decode()
  const offsets = decoder.getConstantOffsets(insn)
  let form = 0
  if (!insn.isInvalid && insn.length === end - at) {
    const { displacementOffset, displacementSize, immediateOffset, immediateSize } = offsets
    form = (end - opcodeAt) | flagsOf(insn, displacementSize)
    if (displacementSize > 0) form |= (displacementOffset - (opcodeAt - at)) << DISPLACEMENT_SHIFT
    if (immediateSize > 0) form |= (immediateOffset - (opcodeAt - at)) << IMMEDIATE_SHIFT
    if (displacementSize === 4) form |= DISPLACEMENT32
    if (immediateSize === 4) form |= IMMEDIATE32
  }
  offsets.free()
  insn.free()
  decoder.free()
  return form
}

/** Whether bits [from, to) hold a 1; they are few. */
const anyBit = (bits: Uint32Array, from: number, to: number): boolean => {
  for (let at = from; at < to; at++) if ((bits[at >>> 5]! >>> (at & 31)) & 1) return true
  return false
}

const firstIn = (sorted: Uint32Array, start: Rva, end: Rva): number => {
  const i = lowerBound(sorted, start)
  return i < sorted.length && sorted[i]! < end ? sorted[i]! : -1
}

const signed32 = (bytes: Uint8Array, at: number): number =>
  bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)

/** Reads fields; what it found of the instruction that was read last stays in it. */
export class FieldReader {
  readonly image: Image
  /** Link-time address of rva 0, as a signed number: it lies in the top 2 GiB. */
  readonly base: number
  readonly #key = new KeyReader()
  readonly #forms = new Map<number, number>() // key -> form
  readonly #listed: Uint32Array | undefined //   rva / 32 -> bit: a field that KASLR changes; where the image lists them
  #region: Region

  /** The bytes of the region that the instruction lies in, and where in them it starts. */
  bytes: Uint8Array
  at = 0
  /** Offset of a rip-relative displacement, or -1. */
  ripOffset = -1
  /** What it names, as an rva: below 0 for per-CPU variables. */
  ripTarget = 0
  /** Whether that is a per-CPU variable: the segment is GS. */
  perCpu = false
  /** Offset of a sign-extended 32-bit absolute field that KASLR changes, or -1. */
  absOffset = -1

  constructor(image: Image) {
    this.image = image
    this.base = Number(BigInt.asIntN(64, image.base))
    this.#region = image.regions[0]!
    this.bytes = this.#region.bytes
    const { relocAbs32, relocAbs64, relocPcpu32, known } = image.relocs
    if (!known) return
    const bits = new Uint32Array((image.regions.at(-1)!.end >>> 5) + 1)
    for (const list of [relocAbs32, relocAbs64, relocPcpu32]) {
      for (let i = 0; i < list.length; i++) bits[list[i]! >>> 5]! |= 1 << (list[i]! & 31)
    }
    this.#listed = bits
  }

  /** Sets `bytes` and `at`. */
  find(rva: Rva, length: number): void {
    if (rva < this.#region.start || rva + length > this.#region.end) {
      const region = this.image.regions.find(({ start, end }) => rva >= start && rva + length <= end)
      assert(region !== undefined, `no code at rva ${hex(rva)}, length ${length}`)
      this.#region = region
      this.bytes = region.bytes
    }
    this.at = rva - this.#region.start
  }

  /** @returns why the instruction cannot be taken apart, or '' */
  read(rva: Rva, length: number): RefusalCode | '' {
    this.find(rva, length)
    this.ripOffset = -1
    this.perCpu = false
    this.absOffset = -1
    const { bytes, at } = this
    const end = at + length
    let opcodeAt = this.#key.read(bytes, at, end)
    let form = 0
    if (opcodeAt < 0) {
      opcodeAt = at
      form = askIced(bytes, at, end, at)
    } else {
      const { key } = this.#key
      form = this.#forms.get(key) ?? 0
      if (form === 0) {
        form = askIced(bytes, at, end, opcodeAt)
        if (this.#forms.size === MAX_FORMS) this.#forms.clear()
        if (form !== 0) this.#forms.set(key, form)
      }
    }
    if (opcodeAt + (form & LENGTH_MASK) !== end) return 'cannot-move' // not one instruction
    const head = opcodeAt - at
    if (form & ODD) return 'cannot-move'
    if (form & RIP) {
      this.ripOffset = head + ((form >>> DISPLACEMENT_SHIFT) & PLACE_MASK)
      this.ripTarget = rva + length + signed32(bytes, at + this.ripOffset)
      if (head > 0) {
        // Of FS and GS the last one counts.
        let segment = 0
        for (let p = at; p < opcodeAt; p++) if (bytes[p] === FS || bytes[p] === GS) segment = bytes[p]!
        if (segment === FS) return 'cannot-move'
        this.perCpu = segment === GS
      }
    }
    return this.#listed === undefined ? this.#guess(form, opcodeAt) : this.#lookUp(form, head, rva, rva + length)
  }

  // The image says which fields KASLR changes.
  #lookUp(form: number, head: number, rva: Rva, end: Rva): RefusalCode | '' {
    if (!anyBit(this.#listed!, rva, end)) return this.perCpu ? 'cannot-move' : ''
    const { relocAbs32, relocAbs64, relocPcpu32 } = this.image.relocs
    if (firstIn(relocAbs64, rva, end) >= 0) return 'cannot-move'
    const abs = firstIn(relocAbs32, rva, end)
    if (abs >= 0) {
      const field = abs - rva
      if (firstIn(relocAbs32, abs + 1, end) >= 0) return 'cannot-move' // one field is all that a site can carry
      const displacement = form & DISPLACEMENT32 ? head + ((form >>> DISPLACEMENT_SHIFT) & PLACE_MASK) : -1
      const immediate = form & IMMEDIATE32 ? head + ((form >>> IMMEDIATE_SHIFT) & PLACE_MASK) : -1
      if ((field !== displacement || field === this.ripOffset) && field !== immediate) return 'cannot-move'
      this.absOffset = field
    }
    const perCpu = firstIn(relocPcpu32, rva, end)
    if (perCpu >= 0 !== this.perCpu || (this.perCpu && perCpu - rva !== this.ripOffset)) return 'cannot-move'
    return this.absOffset >= 0 && this.perCpu ? 'cannot-move' : ''
  }

  // A heuristic: the image does not say which fields KASLR changes, so a sign-extended field whose value lies in the
  // image is taken for an address; where it might be something else, the instruction is refused. Held against the true
  // list, it was wrong nowhere in the 557,741 (6.1) and 648,718 (6.12) instructions of 5 bytes or more outside reserved
  // text. Were it wrong, the site's bytes would not be the expected ones, and the bundle would be refused on the target
  // before anything is written.
  #guess(form: number, opcodeAt: number): RefusalCode | '' {
    const { bytes, at } = this
    const immediateAt = opcodeAt + ((form >>> IMMEDIATE_SHIFT) & PLACE_MASK)
    if (form & QUAD) {
      // A value that a shorter mov could have loaded was filled in at link time: an address, or a physical one.
      const high = signed32(bytes, immediateAt + 4)
      if (high === 0 || (high === -1 && signed32(bytes, immediateAt) < 0)) return 'cannot-move'
    } else if (form & (PLAIN | EXTENDED)) {
      const value = signed32(bytes, immediateAt)
      if (this.#isInImage(value)) {
        // A constant that is not extended may be an address's low half, or an ioctl number: it cannot be told. Masks
        // look like addresses, and the base itself is a constant of the kernel's as well.
        if (!(form & EXTENDED) || !(form & ADDRESS_USER) || value === this.base) return 'cannot-move'
        this.absOffset = immediateAt - at
      } else if ((form & EXTENDED) && (form & TO_REGISTER)) {
        // A constant in a longer form than it needs: the assembler did not know it, so it was filled in at link time,
        // and may be something that moves (the distance of the image from its link-time address, 0 in the file).
        if (form & MOV ? value >= 0 : value >= -128 && value <= 127) return 'cannot-move'
      }
    }
    if (form & MEMORY32) {
      const displacementAt = opcodeAt + ((form >>> DISPLACEMENT_SHIFT) & PLACE_MASK)
      if (this.#isInImage(signed32(bytes, displacementAt))) {
        if (this.absOffset >= 0) return 'cannot-move' // one field is all that a site can carry
        this.absOffset = displacementAt - at
      }
    }
    return this.absOffset >= 0 && this.perCpu ? 'cannot-move' : ''
  }

  /** Whether a sign-extended value is an address of the image, or its end. */
  #isInImage(value: number): boolean {
    const offset = value - this.base
    return value < 0 && offset >= 0 && offset <= this.image.imageBytes
  }
}
