// The plan checker: an independent look at a finished plan, before anything is signed. It shares the tables with the
// planner, and no code that chooses or encodes. It decodes every original and every patch anew, with both decoders, and
// accepts a patch only if it is, instruction by instruction:
//
//   [push r]… [lahf [seto %al]]  (movabs $slot,%r; incq %gs:(%r))+  [[add $0x7f,%al] sahf] [pop r]…  then what the
//   splice's kind asks for: the original instruction and a jump back, or a jump to the original target, or a live form
//
// and if no register or flag that is live there is changed. Anything else is a bug of the planner: it throws.

import { Decoder, DecoderOptions, Mnemonic, OpKind, Register, type Instruction } from '../code/iced.js'
import { AF, CF, OF, PF, RAX, SF, ZF, type RegisterSet } from '../code/registers.js'
import type { SecondDecoder } from '../code/second.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { codeNumber } from './refusal.js'
import { EXPECTED_BYTES, FIXUP_KIND, FORM_KIND, RELOC_KIND, SITE_KIND, type PatchTables } from './tables.js'

const INC_FLAGS: RegisterSet = PF | AF | ZF | SF | OF
const LAHF_FLAGS: RegisterSet = CF | PF | AF | ZF | SF

/** What a checked plan says that it counts where; for the caller to hold against what was asked. */
export interface Checked {
  readonly sites: number
  readonly instructions: number // in patches
}

class Mistake extends Error {}

// iced numbers the 64-bit registers RAX..R15 in encoding order.
const gpr64 = (register: Register): number => register >= Register.RAX && register <= Register.R15 ? register - Register.RAX : -1

class PatchReader {
  readonly #tables: PatchTables
  readonly #second: SecondDecoder
  #decoder: Decoder
  #fixup: number
  at: number
  instructions = 0

  constructor(tables: PatchTables, second: SecondDecoder) {
    this.#tables = tables
    this.#second = second
    this.#decoder = new Decoder(64, tables.code, DecoderOptions.None)
    this.#fixup = 0
    this.at = 0
  }

  /** The next instruction; both decoders must agree on it. */
  next(): Instruction {
    const { code } = this.#tables
    this.#decoder.position = this.at
    this.#decoder.ip = BigInt(this.at)
    if (!this.#decoder.canDecode) throw new Mistake('the code ends inside a patch')
    const insn = this.#decoder.decode()
    if (insn.isInvalid) throw new Mistake('an instruction of the patch does not decode')
    const second = this.#second.decode(this.at, code.subarray(this.at, this.at + 15))
    if (second.length !== insn.length) throw new Mistake('the decoders disagree on the patch')
    this.at += insn.length
    this.instructions++
    return insn
  }

  /** Takes the fixup whose field is `size` bytes at `offset`; it must be the next one, of this kind. */
  takeFixup(kind: number, offset: number, size: number, end: number): number {
    const f = this.#fixup++
    const { fixupCount, fixupOffset, fixupKind, fixupTrail, fixupValue } = this.#tables
    const relative = kind === FIXUP_KIND.rel32 || kind === FIXUP_KIND.pcpu32
    const trail = relative ? end - offset - size : 0
    if (f >= fixupCount || fixupOffset[f] !== offset || fixupKind[f] !== kind || fixupTrail[f] !== trail) {
      throw new Mistake(`the fixup at code+${offset} is missing or wrong`)
    }
    return fixupValue[f]!
  }

  /** Whether a fixup's field lies in [start, end). */
  hasFixup(start: number, end: number): boolean {
    const offset = this.#tables.fixupOffset[this.#fixup]
    return this.#fixup < this.#tables.fixupCount && offset! >= start && offset! < end
  }

  codeByte(offset: number): number {
    return this.#tables.code[offset]!
  }

  fixupOffset(): number {
    return this.#tables.fixupOffset[this.#fixup]!
  }

  finish(): void {
    if (this.#fixup !== this.#tables.fixupCount) throw new Mistake('fixups are left over')
    for (let i = this.at; i < this.#tables.code.length; i++) if (this.#tables.code[i] !== 0xcc) throw new Mistake('code is left over')
    this.#decoder.free()
  }
}

// The one encoding of each instruction of counting code that is accepted. Others may decode to the same and do less: a
// prefix that is ignored, an operand of another width.
const wanted = (insn: Instruction, r: number): number[] => {
  const short = (opcode: number): number[] => (r < 8 ? [opcode + r] : [0x41, opcode + r - 8])
  switch (insn.mnemonic) {
    case Mnemonic.Push: return short(0x50)
    case Mnemonic.Pop: return short(0x58)
    case Mnemonic.Lahf: return [0x9f]
    case Mnemonic.Sahf: return [0x9e]
    case Mnemonic.Seto: return [0x0f, 0x90, 0xc0]
    case Mnemonic.Add: return [0x04, 0x7f]
    case Mnemonic.Mov: return r < 8 ? [0x48, 0xb8 + r] : [0x49, 0xb8 + r - 8]
    default: return r < 8 ? [0x65, 0x48, 0xff, r] : [0x65, 0x49, 0xff, r - 8]
  }
}

/** Reads the counting code at the reader; returns the slots counted, and leaves the reader behind it. */
const checkCounters = (reader: PatchReader, live: RegisterSet): number[] => {
  const slots: number[] = []
  const saved: number[] = []
  let changed: RegisterSet = 0 // registers changed and not yet restored
  let flagsSaved: RegisterSet = 0
  let flagsChanged: RegisterSet = 0
  let pointer = -1
  for (;;) {
    const start = reader.at
    const insn = reader.next()
    const r = insn.opCount > 0 && insn.op0Kind === OpKind.Register ? gpr64(insn.op0Register) : -1
    const plain = (each: Instruction, register: number, at: number): void => {
      if (wanted(each, register).some((byte, i) => byte !== reader.codeByte(at + i))) throw new Mistake('an unusual encoding')
    }
    switch (insn.mnemonic) {
      case Mnemonic.Push:
        if (r < 0 || r === 4 || slots.length > 0) break
        if (changed & (1 << r)) throw new Mistake('a register is saved after it was changed')
        saved.push(r)
        plain(insn, r, start)
        continue
      case Mnemonic.Lahf:
        if (flagsChanged || flagsSaved || slots.length) throw new Mistake('lahf after the flags changed')
        changed |= RAX
        flagsSaved = LAHF_FLAGS
        plain(insn, 0, start)
        continue
      case Mnemonic.Seto:
        if (flagsSaved !== LAHF_FLAGS || slots.length || insn.op0Register !== Register.AL) throw new Mistake('unexpected seto')
        flagsSaved |= OF
        plain(insn, 0, start)
        continue
      case Mnemonic.Mov: {
        if (insn.op1Kind !== OpKind.Immediate64 || r < 0 || !reader.hasFixup(start, reader.at)) break
        if (flagsSaved && r === 0) throw new Mistake('the pointer overwrites the saved flags')
        const slot = reader.takeFixup(FIXUP_KIND.slot64, start + 2, 8, reader.at)
        slots.push(slot)
        changed |= 1 << r
        pointer = r
        const inc = reader.next()
        if (inc.mnemonic !== Mnemonic.Inc || inc.op0Kind !== OpKind.Memory || inc.memorySegment !== Register.GS ||
            gpr64(inc.memoryBase) !== pointer || inc.memoryIndex !== Register.None || inc.memoryDisplacement !== 0n ||
            inc.length !== 4 || inc.hasLockPrefix) throw new Mistake('the pointer is not followed by its increment')
        plain(insn, r, start)
        plain(inc, r, start + 10)
        flagsChanged |= INC_FLAGS
        continue
      }
      case Mnemonic.Add:
        if (!(flagsSaved & OF) || insn.op0Register !== Register.AL || insn.immediate8 !== 0x7f) break
        flagsChanged |= LAHF_FLAGS
        flagsChanged &= ~OF
        plain(insn, 0, start)
        continue
      case Mnemonic.Sahf:
        if (!flagsSaved || flagsSaved & OF && flagsChanged & OF) break
        flagsChanged &= ~LAHF_FLAGS
        flagsSaved = 0
        plain(insn, 0, start)
        continue
      case Mnemonic.Pop: {
        if (saved.length === 0) break
        if (r !== saved.pop()) throw new Mistake('registers are not restored in reverse')
        if (flagsSaved) throw new Mistake('flags are restored after the register that holds them')
        changed &= ~(1 << r)
        plain(insn, r, start)
        continue
      }
    }
    // Not counting code any more: the reader goes back before this instruction.
    reader.at = start
    reader.instructions--
    break
  }
  if (saved.length > 0) throw new Mistake('a saved register is not restored')
  if (flagsSaved) throw new Mistake('saved flags are not restored')
  if (slots.length === 0) throw new Mistake('nothing is counted')
  const harmed = (changed | flagsChanged) & live
  if (harmed !== 0) throw new Mistake(`the patch changes what is live (set ${harmed.toString(16)})`)
  return slots
}

const checkJump = (reader: PatchReader, target: Rva): void => {
  const start = reader.at
  const insn = reader.next()
  if (!insn.isJmpNear || insn.length !== 5) throw new Mistake('a jump is missing at the end of the patch')
  if (reader.takeFixup(FIXUP_KIND.rel32, start + 1, 4, reader.at) !== target) throw new Mistake('the patch jumps to a wrong place')
}

// The moved instruction: the original's bytes but in fields with fixups, which must name what the original names.
const checkMoved = (image: Image, reader: PatchReader, rva: Rva, original: Uint8Array): Instruction => {
  const decoder = new Decoder(64, original, DecoderOptions.None)
  decoder.ip = image.base + BigInt(rva)
  const before = decoder.decode()
  const offsets = decoder.getConstantOffsets(before)
  const start = reader.at
  const after = reader.next()
  if (after.length !== before.length || after.code !== before.code) throw new Mistake('the moved instruction is another one')
  const free = new Uint8Array(original.length) // bytes that may differ
  while (reader.hasFixup(start, reader.at)) {
    const offset = reader.fixupOffset() - start
    let kind: number
    let value: number
    if (before.isIpRelMemoryOperand && offset === offsets.displacementOffset) {
      kind = before.memorySegment === Register.GS ? FIXUP_KIND.pcpu32 : FIXUP_KIND.rel32
      const address = BigInt.asUintN(64, before.ipRelMemoryAddress)
      value = Number(BigInt.asUintN(32, kind === FIXUP_KIND.rel32 ? address - image.base : address))
    } else if (before.isJccNear && offset === offsets.immediateOffset) {
      kind = FIXUP_KIND.rel32
      value = Number(before.nearBranchTarget - image.base)
    } else {
      kind = FIXUP_KIND.abs32
      value = 0
    }
    if (reader.takeFixup(kind, start + offset, 4, start + original.length) !== value) throw new Mistake('the moved instruction names another address')
    if (kind !== FIXUP_KIND.abs32) free.fill(1, offset, offset + 4)
  }
  if (before.isIpRelMemoryOperand && !free[offsets.displacementOffset]) throw new Mistake('a rip-relative operand has no fixup')
  if (before.isJccNear && !free[offsets.immediateOffset]) throw new Mistake('a moved branch has no fixup')
  if (before.isCallNear || before.isCallNearIndirect || before.isJmpShortOrNear || before.isJccShort || before.isLoop ||
      before.isLoopcc || before.isJcxShort) throw new Mistake('an instruction was moved that cannot be')
  original.forEach((byte, i) => {
    if (!free[i] && byte !== reader.codeByte(start + i)) throw new Mistake('the moved instruction differs')
  })
  offsets.free()
  decoder.free()
  return before
}

interface Span {
  readonly start: Rva
  end: Rva
}

/** Text that no site may touch, whatever the reserved bytes say: ascending and apart. */
const forbiddenText = (image: Image): readonly Span[] => {
  const { ranges, kprobeBlacklist, staticCallTrampolines } = image.tables
  const spans: Span[] = ranges.filter((r) => r.end > r.start).map(({ start, end }) => ({ start, end }))
  for (const { start, end } of [kprobeBlacklist, staticCallTrampolines]) {
    start.forEach((from, i) => spans.push({ start: from, end: end[i]! }))
  }
  const apart: Span[] = []
  for (const span of spans.sort((a, b) => a.start - b.start)) {
    const last = apart.at(-1)
    if (last !== undefined && span.start <= last.end) last.end = Math.max(last.end, span.end)
    else apart.push(span)
  }
  return apart
}

/**
 * Checks a finished plan.
 * @param live site -> register set that its patch must leave alone
 * @throws Error where the plan is wrong: a bug of ours, and no bundle may be written
 */
export const checkPlan = (
  image: Image, tables: PatchTables, live: Uint32Array, reserved: Uint8Array, second: SecondDecoder,
): Checked => {
  const reader = new PatchReader(tables, second)
  const forbidden = forbiddenText(image)
  let span = 0 // the first one that does not end before the site
  const counted = new Uint8Array(tables.slotCount)
  let site = 0
  try {
    let previousEnd = image.textStart
    for (; site < tables.siteCount; site++) {
      const rva = tables.siteRva[site]!
      const length = tables.siteLength[site]!
      if (rva < previousEnd || rva + length > image.textEnd) throw new Mistake('sites overlap or lie outside .text')
      previousEnd = rva + length
      const original = bytesAt(image, rva, length)
      const expected = tables.siteExpected.subarray(site * EXPECTED_BYTES, (site + 1) * EXPECTED_BYTES)
      if (original.some((byte, i) => byte !== expected[i]) || expected.subarray(length).some((b) => b !== 0)) {
        throw new Mistake('the expected bytes are not the image\'s')
      }
      const allowed = tables.siteFormClass[site] !== 0 ? codeNumber('return-site') : 0
      for (let i = 0; i < length; i++) {
        if (reserved[rva + i - image.textStart] !== allowed) throw new Mistake('a reserved byte would be overwritten')
      }
      while (span < forbidden.length && forbidden[span]!.end <= rva) span++
      if (span < forbidden.length && rva + length > forbidden[span]!.start) throw new Mistake('in text that must not be touched')
      while (reader.at < tables.sitePatch[site]!) {
        if (tables.code[reader.at] !== 0xcc) throw new Mistake('there is code between patches')
        reader.at++
      }
      if (reader.at !== tables.sitePatch[site]) throw new Mistake('patches overlap')
      for (const slot of checkCounters(reader, live[site]!)) {
        if (slot >= tables.slotCount) throw new Mistake('a slot does not exist')
        counted[slot] = 1
      }
      checkEnd(image, tables, reader, site, original)
    }
    reader.finish()
    if (counted.some((c) => c === 0)) throw new Mistake('a slot is never counted')
  } catch (error) {
    if (error instanceof Mistake) {
      throw new Error(`plan checker: site ${site} at rva 0x${tables.siteRva[site]?.toString(16)}: ${error.message}`)
    }
    throw error
  }
  return { sites: tables.siteCount, instructions: reader.instructions }
}

const checkEnd = (image: Image, tables: PatchTables, reader: PatchReader, site: number, original: Uint8Array): void => {
  const rva = tables.siteRva[site]!
  const length = original.length
  const kind = tables.siteKind[site]
  const displacement = (at: number): number => new DataView(original.buffer, original.byteOffset).getInt32(at, true)
  if (tables.siteFormClass[site] !== 0) {
    if (kind !== SITE_KIND.jmp || length !== 5 || tables.siteTail[site] !== reader.at) throw new Mistake('a return site is not as it must be')
    if (indexOf(image.tables.returnSites, rva) < 0) throw new Mistake('not a return site')
    for (let f = 0; f < tables.formCount; f++) {
      const literal = tables.formKind[f] === FORM_KIND.literal
      if (literal !== (tables.formTarget[f] === NONE)) throw new Mistake('a form is malformed')
    }
    for (let i = 0; i < 5; i++) if (tables.code[reader.at + i] !== 0xcc) throw new Mistake('the tail is not empty')
    reader.at += 5
    return
  }
  if (tables.siteTail[site] !== NONE) throw new Mistake('a tail without a form')
  if (tables.siteRelocKind[site] !== RELOC_KIND.none && tables.siteRelocOffset[site]! + 4 > length) throw new Mistake('relocated field outside the instruction')
  if (kind === SITE_KIND.call) {
    if (length !== 5 || original[0] !== 0xe8) throw new Mistake('not a near call')
    checkJump(reader, rva + 5 + displacement(1))
  } else if (kind === SITE_KIND.jcc) {
    if (length !== 6 || original[0] !== 0x0f || (original[1]! & 0xf0) !== 0x80) throw new Mistake('not a near branch')
    checkJump(reader, rva + 6 + displacement(2))
  } else if (original[0] === 0xe9 && length === 5) {
    checkJump(reader, rva + 5 + displacement(1))
  } else {
    if (length < 5) throw new Mistake('the instruction is too short for a jump')
    const insn = checkMoved(image, reader, rva, original)
    if (!insn.isJmpNearIndirect) checkJump(reader, rva + length)
  }
}
