// The plan checker: an independent look at a finished plan, before anything is signed. It shares the tables with the
// planner, and no code that chooses or encodes. It decodes every original and every patch anew, with both decoders, and
// accepts a patch only if it is, instruction by instruction, what the sites and counters ask for:
//
//   each original instruction, moved, with the counting code of patchreader.ts before those that are counted; where the
//   taken side of a branch is counted, the branch goes to its counter, which goes on to the original target; a jump
//   back to the first byte behind the site, where control goes on there; or, where the splice changes a displacement
//   alone, the counter and a jump to the original target; and the same again without counters, where a window needs it
//
// and if no register or flag that is live there is changed. It also holds every site against the image: what it
// expects, what must not be touched, that nothing jumps into the middle of what is overwritten, and that springboards
// lie where nobody runs. Anything else is a bug of the planner: it throws.

import type { KernelGraph } from '../cfg/graph.js'
import { Decoder, DecoderOptions, Mnemonic, OpKind, Register } from '../code/iced.js'
import { FLOW } from '../code/instructions.js'
import type { SecondDecoder } from '../code/second.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { indexOf, lowerBound } from '../image/search.js'
import type { Encoded } from './encode.js'
import { PIECE_SLOTS } from '../probe/aggregates.js'
import { Mistake } from './mistake.js'
import { Opinions, type Opinion } from './opinion.js'
import { PatchReader } from './patchreader.js'
import { codeNumber } from './refusal.js'
import { EXPECTED_BYTES, FIXUP_KIND, FORM_KIND, RELOC_KIND, SITE_FLAG, SITE_KIND, type PatchTables } from './tables.js'
import type { SlotRange } from './verify.js'

/** What a checked plan comes to. */
export interface Checked {
  readonly sites: number
  readonly instructions: number // in patches
}

const JUMP = 5
const SHORT = 2

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

/** Where control, or a pointer, is known to lead: one byte per byte of .text. */
const findLandings = ({ image, insns }: KernelGraph): Uint8Array => {
  const { textStart, textEnd, tables, functions } = image
  const landing = new Uint8Array(textEnd - textStart)
  const land = (rva: Rva): void => {
    if (rva >= textStart && rva < textEnd) landing[rva - textStart] = 1
  }
  for (let i = 0; i < insns.count; i++) {
    const target = insns.target[i]!
    if (target !== NONE) land(target)
  }
  for (const list of [tables.exTable.fixup, tables.staticKeys.target, tables.exports, image.codePointers]) list.forEach(land)
  for (const list of [tables.exTable.insn, tables.bugs, tables.ftrace, tables.returnSites, tables.staticCalls]) list.forEach(land)
  functions.start.forEach(land)
  return landing
}

/** What is known of the image, whatever the plan. */
interface Known {
  readonly graph: KernelGraph
  readonly reserved: Uint8Array
  readonly opinions: Opinions
  readonly landing: Uint8Array
}

/** One site under the checker's eyes. */
interface Site {
  readonly index: number
  readonly rva: Rva
  readonly original: Uint8Array
}

class Checking {
  readonly #image: Image
  readonly #graph: KernelGraph
  readonly #plan: Encoded
  readonly #tables: PatchTables
  readonly #reserved: Uint8Array
  readonly #opinions: Opinions
  readonly #reader: PatchReader
  readonly #landing: Uint8Array
  #slot = 0 // the next one to be counted: slots ascend with the patches that count them
  #hook = 0 // the next one: likewise
  readonly #aggregates: readonly SlotRange[]
  site = 0

  constructor(known: Known, plan: Encoded) {
    this.#graph = known.graph
    this.#image = known.graph.image
    this.#plan = plan
    this.#tables = plan.tables
    this.#reserved = known.reserved
    this.#opinions = known.opinions
    this.#reader = new PatchReader(plan.tables, known.opinions)
    this.#landing = known.landing
    const { missed, first, size } = plan.layout
    this.#aggregates = [...missed === NONE ? [] : [{ first: missed, count: 1 }], ...Array.from(first, (slot, a) => ({ first: slot, count: size[a]! }))]
  }

  run(): Checked {
    const { siteCount, siteFlags, sitePatch, siteKind } = this.#tables
    this.#checkPlaces()
    this.#checkSlots()
    const patch = new Float64Array(siteCount) // start of a patch * siteCount + its site
    let patches = 0
    for (this.site = 0; this.site < siteCount; this.site++) {
      if (siteFlags[this.site]! & SITE_FLAG.springboard) {
        this.#checkSpringboard(this.site)
        continue
      }
      this.#checkOriginal(this.site)
      const start = siteKind[this.site] === SITE_KIND.hop ? this.#viaSpringboard(this.site) : sitePatch[this.site]!
      patch[patches++] = start * siteCount + this.site
    }
    // The code is read from its start to its end, whatever the layout: nothing is left out, nothing read twice.
    for (const key of patch.subarray(0, patches).sort()) {
      this.site = key % siteCount
      this.#reader.skipTo(Math.floor(key / siteCount))
      this.#checkPatch(this.site)
    }
    this.#reader.finish()
    if (this.#slot !== this.#plan.counterCount) throw new Mistake('a slot is never counted')
    if (this.#hook !== this.#plan.hooks.count) throw new Mistake('a program never runs')
    return { sites: siteCount, instructions: this.#reader.instructions }
  }

  // ---- slots

  /** Counters, counts of programs and aggregates are apart, and each aggregate in one piece of the heap. */
  #checkSlots(): void {
    const { hooks, counterCount } = this.#plan
    const { slotCount } = this.#tables
    let next = counterCount
    const take = (first: number, count: number): void => {
      if (first < next || first + count > slotCount) throw new Mistake('slots overlap')
      next = first + count
    }
    for (let h = 0; h < hooks.count; h++) take(hooks.firstSlot[h]!, hooks.slotCount[h]!)
    for (const { first, count } of this.#aggregates) {
      take(first, count)
      if (count === 0 || Math.floor(first / PIECE_SLOTS) !== Math.floor((first + count - 1) / PIECE_SLOTS)) throw new Mistake('an aggregate in two pieces')
    }
  }

  // ---- sites

  /** Sites lie apart in .text, but for springboards in windows, and hold what the image holds. */
  #checkPlaces(): void {
    const { siteCount, siteRva, siteLength, siteFlags, siteExpected } = this.#tables
    const { textStart, textEnd } = this.#image
    const forbidden = forbiddenText(this.#image)
    let span = 0 // the first one that does not end before the site
    let end = textStart
    let window = NONE // the last one
    for (this.site = 0; this.site < siteCount; this.site++) {
      const rva = siteRva[this.site]!
      const length = siteLength[this.site]!
      const flags = siteFlags[this.site]!
      const inWindow = flags === SITE_FLAG.springboard && window !== NONE && rva + length <= siteRva[window]! + siteLength[window]!
      if (rva < end && !inWindow) throw new Mistake('sites overlap or lie outside .text')
      if (rva + length > textEnd) throw new Mistake('sites overlap or lie outside .text')
      if (flags === SITE_FLAG.window) {
        window = this.site
        // Springboards may follow behind the jump.
        end = rva + JUMP
      } else {
        if (inWindow && rva < end) throw new Mistake('springboards overlap')
        if (!inWindow && window !== NONE && rva < siteRva[window]! + siteLength[window]!) throw new Mistake('a site inside a window')
        end = rva + length
      }
      const original = bytesAt(this.#image, rva, length)
      const expected = siteExpected.subarray(this.site * EXPECTED_BYTES, (this.site + 1) * EXPECTED_BYTES)
      if (original.some((byte, i) => byte !== expected[i]) || expected.subarray(length).some((b) => b !== 0)) {
        throw new Mistake('the expected bytes are not the image\'s')
      }
      while (span < forbidden.length && forbidden[span]!.end <= rva) span++
      if (span < forbidden.length && rva + length > forbidden[span]!.start) throw new Mistake('in text that must not be touched')
    }
  }

  /** What is overwritten may be, and nothing comes to its middle. */
  #checkOriginal(site: number): void {
    const { siteRva, siteLength, siteFormClass, siteFlags, siteTail } = this.#tables
    const start = siteRva[site]! - this.#image.textStart
    const length = siteLength[site]!
    const allowed = siteFormClass[site] !== 0 ? codeNumber('return-site') : 0
    for (let i = 0; i < length; i++) {
      if (this.#reserved[start + i] !== allowed) throw new Mistake('a reserved byte would be overwritten')
      if (i > 0 && (this.#landing[start + i] || this.#graph.targets.has(siteRva[site]! + i))) {
        throw new Mistake('something leads into the middle of what is overwritten')
      }
    }
    this.#checkReloc(site)
    if (siteFormClass[site] === 0 && (siteTail[site] !== NONE) !== (siteFlags[site] === SITE_FLAG.window)) throw new Mistake('a tail without need')
  }

  /** The field that KASLR changes: the one that the image's own list names, where there is one. */
  #checkReloc(site: number): void {
    const { siteRva, siteLength, siteRelocKind, siteRelocOffset } = this.#tables
    const { relocs } = this.#image
    const start = siteRva[site]!
    const end = start + siteLength[site]!
    const kind = siteRelocKind[site]!
    const field = start + siteRelocOffset[site]!
    if (kind !== RELOC_KIND.none && field + 4 > end) throw new Mistake('relocated field outside the site')
    if (!relocs.known) return
    for (const [list, wanted] of [[relocs.relocAbs32, RELOC_KIND.add], [relocs.relocPcpu32, RELOC_KIND.sub]] as const) {
      let count = 0
      for (let i = lowerBound(list, start); i < list.length && list[i]! < end; i++, count++) {
        if (kind !== wanted || list[i] !== field) throw new Mistake('KASLR changes a field that the site does not name')
      }
      if (kind === wanted && count !== 1) throw new Mistake('KASLR does not change the field that the site names')
    }
  }

  /** The patch of a site that goes through a springboard. */
  #viaSpringboard(site: number): number {
    const { siteRva, sitePatch, siteFlags, siteKind, siteLength } = this.#tables
    const board = sitePatch[site]!
    if (!(siteFlags[board]! & SITE_FLAG.springboard) || siteKind[board] !== SITE_KIND.jmp) throw new Mistake('no springboard')
    const distance = siteRva[board]! - (siteRva[site]! + SHORT)
    if (distance < -128 || distance > 127) throw new Mistake('a springboard out of reach')
    if (siteLength[site]! < SHORT) throw new Mistake('the instruction is too short for a short jump')
    return sitePatch[board]!
  }

  /** A springboard lies in what a window leaves, or in padding that nothing runs into. */
  #checkSpringboard(site: number): void {
    const { siteRva, siteLength, siteFlags, siteKind, siteFormClass, siteRelocKind, siteRelocOffset, siteTail } = this.#tables
    if (siteKind[site] !== SITE_KIND.jmp || siteLength[site] !== JUMP || siteFormClass[site] !== 0 || siteTail[site] !== NONE ||
        siteRelocKind[site] !== RELOC_KIND.none) throw new Mistake('a springboard is not as it must be')
    const start = siteRva[site]!
    const end = start + JUMP
    let window = site - 1
    while (window >= 0 && siteFlags[window] === SITE_FLAG.springboard) window--
    if (window >= 0 && siteFlags[window] === SITE_FLAG.window && end <= siteRva[window]! + siteLength[window]!) {
      const from = siteRva[window]!
      const field = siteRelocKind[window] === RELOC_KIND.none ? NONE : from + siteRelocOffset[window]!
      if (start < from + JUMP) throw new Mistake('a springboard in a window\'s jump')
      if (field !== NONE && field < end && field + 4 > start) throw new Mistake('a springboard over a relocated field')
      return
    }
    for (let i = start; i < end; i++) {
      if (this.#reserved[i - this.#image.textStart] !== 0) throw new Mistake('a reserved byte would be overwritten')
      if (this.#landing[i - this.#image.textStart] || this.#graph.targets.has(i)) throw new Mistake('something leads into a springboard')
    }
    this.#checkPadding(start, end)
  }

  // From the last place that a function starts at: everything up to the padding is decoded, which ends in a jump or a
  // return, and then come nops and int3 alone.
  #checkPadding(start: Rva, end: Rva): void {
    const { functions } = this.#image
    const f = lowerBound(functions.start, start + 1) - 1
    if (f < 0) throw new Mistake('a springboard before all functions')
    const low = functions.start[f]!
    const bytes = bytesAt(this.#image, low, Math.min(end + 15, this.#image.textEnd) - low)
    let flow: number = FLOW.system // of the last instruction that is no padding
    for (let rva = low; rva < end;) {
      const length = this.#lengthAt(rva, bytes, rva - low)
      const opinion = length === 0 ? undefined : this.#opinions.of(bytes, rva - low, length)
      if (opinion?.mnemonic !== Mnemonic.Nop && opinion?.mnemonic !== Mnemonic.Int3) flow = opinion?.flow ?? FLOW.system
      rva += Math.max(1, length)
      if (rva <= start) continue
      const padding = opinion?.mnemonic === Mnemonic.Nop || opinion?.mnemonic === Mnemonic.Int3
      if (!padding || (flow !== FLOW.jump && flow !== FLOW.return && flow !== FLOW.indirectJump)) throw new Mistake('a springboard where control may go')
    }
  }

  #lengthAt(rva: Rva, bytes: Uint8Array, at: number): number {
    const i = this.#graph.index.at(rva)
    return i === NONE ? this.#opinions.lengthAt(bytes, at) : this.#graph.insns.length[i]!
  }

  // ---- patches

  #checkPatch(site: number): void {
    const { siteRva, siteLength, siteKind, siteFormClass, siteFlags, siteTail } = this.#tables
    const reader = this.#reader
    const rva = siteRva[site]!
    const original = bytesAt(this.#image, rva, siteLength[site]!)
    const here: Site = { index: site, rva, original }
    if (siteFormClass[site] !== 0) return this.#checkReturn(here)
    const first = this.#instruction(here, 0)
    switch (siteKind[site]) {
      case SITE_KIND.call:
        if (original.length !== 5 || original[0] !== 0xe8) throw new Mistake('not a near call')
        return this.#checkRetarget(here, first, 0)
      case SITE_KIND.jcc:
        if (original.length !== 6 || original[0] !== 0x0f || (original[1]! & 0xf0) !== 0x80) throw new Mistake('not a near branch')
        return this.#checkRetarget(here, first, 1)
    }
    if (siteKind[site] === SITE_KIND.jmp && original.length < JUMP) throw new Mistake('too short for a jump')
    if (original.length === 5 && original[0] === 0xe9) return this.#checkRetarget(here, first, 0)
    const bypass = this.#checkMoved(here, true)
    if (!siteFlags[site]) return
    if (siteTail[site] === bypass) return
    if (siteTail[site] !== reader.at) throw new Mistake('a window\'s bypass is not where it must be')
    this.#checkMoved(here, false)
  }

  /** The original instruction at an offset of a site. */
  #instruction({ rva, original }: Site, offset: number): Opinion {
    const length = this.#lengthAt(rva + offset, original, offset)
    const opinion = offset + length > original.length ? undefined : this.#opinions.of(original, offset, length)
    if (opinion === undefined) throw new Mistake(`no instruction at +${offset} that both decoders see`)
    if (opinion.mnemonic === Mnemonic.Endbr64 || opinion.mnemonic === Mnemonic.Endbr32) throw new Mistake('an ENDBR would be overwritten')
    return opinion
  }

  /** Where a direct transfer of the original goes. */
  #target({ rva, original }: Site, offset: number, { length, jumpAt, jumpSize }: Opinion): Rva {
    const view = new DataView(original.buffer, original.byteOffset + offset + jumpAt, jumpSize)
    const distance = jumpSize === 4 ? view.getInt32(0, true) : view.getInt8(0)
    const target = rva + offset + length + distance
    if (jumpSize === 2 || target < 0 || target >= this.#image.imageBytes) throw new Mistake('a target outside the image')
    return target
  }

  /** Whether the next counter is this one; then it is read. */
  #takesCounter(site: number, rva: Rva, takes: number): boolean {
    const { slotSite, slotRva, slotTakes, slotLive } = this.#plan
    const slot = this.#slot
    if (slot >= this.#plan.counterCount || slotSite[slot] !== site || slotRva[slot] !== rva || slotTakes[slot] !== takes) return false
    this.#slot++
    this.#reader.count(slot, slotLive[slot]!)
    return true
  }

  /** Whether programs come next that run there; then they are read. */
  #takesPrograms(site: number, rva: Rva, takes: number): boolean {
    const { hooks, task } = this.#plan
    const h = this.#hook
    if (h >= hooks.count || hooks.site[h] !== site || hooks.rva[h] !== rva || hooks.takes[h] !== takes) return false
    this.#hook++
    if (hooks.start[h] !== this.#reader.at) throw new Mistake('a program is not where it must be')
    const slots = hooks.slotCount[h]! > 0 ? [{ first: hooks.firstSlot[h]!, count: hooks.slotCount[h]! }, ...this.#aggregates] : this.#aggregates
    this.#reader.programs(hooks.end[h]!, {
      live: hooks.live[h]!, slots, frameWords: this.#tables.frameWords, task, returnAddress: this.#returnAddress(site, rva, takes),
      asm: hooks.asm.subarray(hooks.asmStart[h], hooks.asmStart[h + 1]),
    })
    return true
  }

  /** Bytes from %rsp to the function's return address in a patch. */
  #returnAddress(site: number, rva: Rva, takes: number): number {
    const i = this.#graph.index.at(rva)
    const at = takes ? (i === NONE ? NONE : this.#graph.insns.target[i]!) : rva
    const offset = at === NONE ? -1 : this.#image.orc.returnAddressAt(at)
    return offset < 0 || this.#tables.siteKind[site] !== SITE_KIND.call ? offset : offset + 8
  }

  /** Whether something is done there: counting, programs, or both. */
  #takes(site: number, rva: Rva, takes: number): boolean {
    const counts = this.#takesCounter(site, rva, takes)
    return this.#takesPrograms(site, rva, takes) || counts
  }

  #checkRetarget(site: Site, insn: Opinion, takes: number): void {
    if (!this.#takes(site.index, site.rva, takes)) throw new Mistake('no counter where there is a splice')
    this.#reader.jump(this.#target(site, 0, insn))
  }

  #checkReturn({ index, rva, original }: Site): void {
    const { tables, reader } = { tables: this.#tables, reader: this.#reader }
    if (!this.#takes(index, rva, 0)) throw new Mistake('no counter where there is a splice')
    if (tables.siteKind[index] !== SITE_KIND.jmp || original.length !== 5 || tables.siteTail[index] !== reader.at || tables.siteFlags[index]) {
      throw new Mistake('a return site is not as it must be')
    }
    if (indexOf(this.#image.tables.returnSites, rva) < 0) throw new Mistake('not a return site')
    for (let f = 0; f < tables.formCount; f++) {
      const literal = tables.formKind[f] === FORM_KIND.literal
      if (literal !== (tables.formTarget[f] === NONE)) throw new Mistake('a form is malformed')
    }
    reader.skipTo(reader.at + 5)
  }

  /**
   * The instructions of a site, moved, with or without their counters.
   * @returns where the code begins that does the same without counting, if there is such a place; else -1
   */
  #checkMoved(site: Site, counted: boolean): number {
    const reader = this.#reader
    const { original, rva } = site
    const taken: { from: number; rva: Rva; target: Rva }[] = [] // from: the end of the branch in the patch
    let bypass = reader.at
    let goesOn = true
    for (let at = 0; at < original.length;) {
      if (!goesOn) throw new Mistake('a window goes on behind an instruction that does not')
      const insn = this.#instruction(site, at)
      if (counted && this.#takes(site.index, rva + at, 0)) bypass = at === 0 ? reader.at : -1
      if (insn.flow === FLOW.branch) {
        const target = this.#target(site, at, insn)
        const end = this.#checkBranch(original, at, insn)
        if (reader.fixupBefore(end) >= 0) {
          if (reader.takeFixup(FIXUP_KIND.rel32, end - 4, end) !== target) throw new Mistake('a moved branch goes elsewhere')
          if (reader.field(end - 4) !== 0) throw new Mistake('a field that is filled in later is not empty')
        } else if (counted) taken.push({ from: end, rva: rva + at, target })
        else throw new Mistake('a moved branch has no fixup')
      } else if (insn.flow === FLOW.jump) {
        reader.jump(this.#target(site, at, insn))
        goesOn = false
      } else if (insn.flow === FLOW.indirectCall) {
        if (at > 0 || insn.length !== original.length) throw new Mistake('a call among several instructions')
        this.#checkCall(site, insn)
        goesOn = false
      } else {
        if (insn.flow !== FLOW.next && insn.flow !== FLOW.return && insn.flow !== FLOW.indirectJump) throw new Mistake('an instruction was moved that cannot be')
        this.#checkCopy(site, at, insn)
        goesOn = insn.flow === FLOW.next
      }
      at += insn.length
    }
    if (goesOn) reader.jump(rva + original.length)
    for (const stub of taken) {
      if (stub.from + reader.field(stub.from - 4) !== reader.at) throw new Mistake('a moved branch does not lead to its counter')
      if (!this.#takes(site.index, stub.rva, 1)) throw new Mistake('no counter where a branch leads to one')
      reader.jump(stub.target)
      bypass = -1
    }
    return bypass
  }

  /** A branch in its long form; returns where it ends, its target being its last four bytes. */
  #checkBranch(original: Uint8Array, at: number, insn: Opinion): number {
    const reader = this.#reader
    const opcode = original[at + insn.jumpAt - 1]!
    if (opcode >= 0xe0 && opcode <= 0xe3) {
      // loop and jrcxz have no long form: over a jump that is passed by where they do not go.
      for (let i = 0; i < insn.jumpAt; i++) if (reader.peek(i) !== original[at + i]) throw new Mistake('a moved loop differs')
      if (reader.peek(insn.jumpAt) !== SHORT) throw new Mistake('a moved loop goes elsewhere')
      reader.take(insn.length)
      reader.expect(Mnemonic.Jmp, 0xeb, JUMP)
      if (reader.peek() !== 0xe9) throw new Mistake('a moved loop goes elsewhere')
      reader.take(JUMP)
      return reader.at
    }
    const condition = insn.jumpSize === 1 ? opcode - 0x70 : opcode - 0x80
    if (condition < 0 || condition > 0xf || reader.peek() !== 0x0f || reader.peek(1) !== 0x80 + condition) throw new Mistake('a moved branch is another one')
    if (reader.take(6).flow !== FLOW.branch) throw new Mistake('a moved branch is none')
    return reader.at
  }

  // The original's bytes but in fields with fixups, which must name what the original names.
  #checkCopy({ index, rva, original }: Site, at: number, insn: Opinion): void {
    const reader = this.#reader
    const { siteRelocKind, siteRelocOffset } = this.#tables
    const changed = siteRelocOffset[index]! - at
    const absAt = siteRelocKind[index] === RELOC_KIND.add && changed >= 0 && changed < insn.length ? changed : -1
    let absDone = absAt < 0
    const start = reader.at
    const moved = reader.take(insn.length)
    if (moved.mnemonic !== insn.mnemonic || moved.ripAt !== insn.ripAt || moved.flow !== insn.flow) throw new Mistake('the moved instruction is another one')
    let ripDone = insn.ripAt < 0
    for (let field = reader.fixupBefore(reader.at); field >= 0; field = reader.fixupBefore(reader.at)) {
      if (field - start === insn.ripAt) {
        const view = new DataView(original.buffer, original.byteOffset + at + insn.ripAt, 4)
        const address = this.#image.base + BigInt(rva + at + insn.length) + BigInt(view.getInt32(0, true))
        const kind = insn.isGs ? FIXUP_KIND.pcpu32 : FIXUP_KIND.rel32
        const value = Number(BigInt.asUintN(32, insn.isGs ? address : address - this.#image.base))
        if (reader.takeFixup(kind, field, reader.at) !== value) throw new Mistake('the moved instruction names another address')
        if (reader.field(field) !== 0) throw new Mistake('a field that is filled in later is not empty')
        ripDone = true
      } else {
        if (field - start !== absAt) throw new Mistake('a field is adjusted that KASLR does not change')
        if (reader.takeFixup(FIXUP_KIND.abs32, field, reader.at) !== 0) throw new Mistake('the moved instruction names another address')
        absDone = true
      }
    }
    if (!ripDone) throw new Mistake('a rip-relative operand has no fixup')
    if (!absDone) throw new Mistake('a field that KASLR changes has no fixup')
    for (let i = 0; i < insn.length; i++) {
      if (insn.ripAt >= 0 && i >= insn.ripAt && i < insn.ripAt + 4) continue
      if (original[at + i] !== reader.code[start + i]) throw new Mistake('the moved instruction differs')
    }
  }

  // A call through a register or memory: its natural return address is pushed, and a jump goes where it would have gone.
  #checkCall({ rva, original }: Site, insn: Opinion): void {
    const reader = this.#reader
    const start = reader.at
    if (reader.take(5).mnemonic !== Mnemonic.Push || reader.code[start] !== 0x68) throw new Mistake('a moved call pushes nothing')
    const back = Number(BigInt.asIntN(32, this.#image.base + BigInt(rva + insn.length)))
    if (reader.field(start + 1) !== back) throw new Mistake('a moved call returns elsewhere')
    if (reader.takeFixup(FIXUP_KIND.abs32, start + 1, reader.at) !== 0) throw new Mistake('a moved call returns elsewhere')
    const length = this.#opinions.lengthAt(reader.code, reader.at)
    const from = reader.at
    const jump = reader.take(length)
    if (jump.flow !== FLOW.indirectJump) throw new Mistake('a moved call jumps nowhere')
    if (insn.ripAt >= 0) {
      const view = new DataView(original.buffer, original.byteOffset + insn.ripAt, 4)
      if (jump.ripAt < 0 || reader.takeFixup(FIXUP_KIND.rel32, from + jump.ripAt, reader.at) !== rva + insn.length + view.getInt32(0, true)) {
        throw new Mistake('a moved call goes elsewhere')
      }
    } else if (reader.fixupBefore(reader.at) >= 0) reader.takeFixup(FIXUP_KIND.abs32, reader.fixupBefore(reader.at), reader.at)
    const was = operandOf(original)
    const is = operandOf(reader.code.slice(from, reader.at))
    // The push has moved the stack by one word.
    if (was.base === Register.RSP) was.displacement += 8n
    if (insn.ripAt >= 0) was.displacement = is.displacement
    if (Object.keys(was).some((key) => was[key as keyof Operand] !== is[key as keyof Operand])) throw new Mistake('a moved call goes elsewhere')
  }
}

interface Operand {
  kind: number
  register: number
  base: number
  index: number
  scale: number
  segment: number
  displacement: bigint
}

const operandOf = (bytes: Uint8Array): Operand => {
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  const insn = decoder.decode()
  const memory = insn.op0Kind === OpKind.Memory
  const operand: Operand = {
    kind: insn.op0Kind,
    register: memory ? 0 : insn.op0Register,
    base: memory ? insn.memoryBase : 0,
    index: memory ? insn.memoryIndex : 0,
    scale: memory ? insn.memoryIndexScale : 0,
    segment: memory ? insn.memorySegment : 0,
    displacement: memory ? BigInt.asIntN(64, insn.memoryDisplacement) : 0n,
  }
  insn.free()
  decoder.free()
  return operand
}

/** Checks finished plans for one image. */
export class PlanChecker {
  readonly #known: Known

  constructor(graph: KernelGraph, reserved: Uint8Array, second: SecondDecoder) {
    this.#known = { graph, reserved, opinions: new Opinions(second), landing: findLandings(graph) }
  }

  /** @throws Error where the plan is wrong: a bug of ours, and no bundle may be written */
  check(plan: Encoded): Checked {
    const checking = new Checking(this.#known, plan)
    try {
      return checking.run()
    } catch (error) {
      if (!(error instanceof Mistake)) throw error
      throw new Error(`plan checker: site ${checking.site} at rva 0x${plan.tables.siteRva[checking.site]?.toString(16)}: ${error.message}`)
    }
  }
}

/** Checks one finished plan. @throws as PlanChecker.check */
export const checkPlan = (graph: KernelGraph, plan: Encoded, reserved: Uint8Array, second: SecondDecoder): Checked =>
  new PlanChecker(graph, reserved, second).check(plan)
