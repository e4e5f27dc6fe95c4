// The payload: what the kernel reads. In: the target's identity and the patch tables. Out: the flat bytes of
// kmod/uapi/kerninst.h, and back. Invariant: encodePayload() writes exactly what decodePayload() takes, byte for byte,
// and every byte of it is a checked field, code, or a checked zero; the module enforces the same rules again, since it
// trusts nobody. Left out: what the code does (splice/ has its own checker), and whether the target is the right one.
//
// The rules, beside the limits of layout.ts:
//   header  link_base is page aligned, in the top 2 GiB, and image_bytes above it do not wrap; text is in the image,
//           not empty; anchors and the 20 bytes of the build id are in the image
//   tables  no site, no code, no slot is no plan; frame words are none, or more than the two that the module fills;
//           each at the first aligned offset after the one before it, zeros between them, the code last
//   sites   ascending, inside the text, apart, but that springboards may lie in the window before them, past its first 5
//           bytes, apart from each other; 5..15 bytes, a hop 2..15, a window 5..16, a springboard 5, or 2 where it is a
//           hop; a call is e8 rel32, a jcc is 0f 8x rel32, whole; patch below code_bytes, but of a hop, which names a
//           springboard within reach, and where it is a springboard itself, one that is a jmp; windows and springboards
//           are jmp, or a springboard a hop; an adjusted field lies inside, behind the first byte but in a springboard,
//           and never in a call or jcc
//   a site with a form class: jmp, 5 bytes, no flag, nothing adjusted, a tail of 5 bytes inside the code, its class not
//           empty; a window: a tail inside the code; any other: no tail
//   forms   a literal has no target; a jmp has zero bytes and a target in the image
//   fixups  ascending; fields inside the code, apart from each other and from every tail; rel32 names an rva of the
//           image, slot64 a slot, frame64 a frame word, abs32 nothing; only rel32 and pcpu32 have a trail, of at most 10 bytes

import { EXIT, KerninstError, assert } from '../error.js'
import { NONE } from '../image/rva.js'
import { EXPECTED_BYTES, FIXUP_KIND, fixupBytes, FORM_BYTES, FORM_KIND, FRAME, MAX_FRAME_WORDS, RELOC_KIND, SITE_FLAG, SITE_KIND } from '../splice/tables.js'
import type { PatchTables, TargetIdentity } from '../splice/tables.js'
import {
  CODE_ALIGN,
  FIXUP,
  FORM,
  LENGTH,
  MAX,
  PAYLOAD,
  PAYLOAD_MAGIC,
  SITE,
  SIZE,
  TABLE_ALIGN,
  VERSION,
  alignUp,
} from './layout.js'

export interface Payload {
  readonly target: TargetIdentity
  readonly tables: PatchTables
  /** 32 bytes: of the manifest that goes with it. */
  readonly manifestSha256: Uint8Array
}

const SPLICE_BYTES = 5
const HOP_BYTES = 2
const MAX_INSTRUCTION = 15
const MAX_WINDOW = 16
const PAGE = 4096n
/** Where x86-64 kernels live: __START_KERNEL_map and up (arch/x86/include/asm/page_64_types.h, 6.1 and 6.12). */
const LOWEST_BASE = 0xffffffff80000000n
/** An opcode byte, the field's 4 bytes, then at most this much of an instruction of 15 bytes. */
const MAX_TRAIL = MAX_INSTRUCTION - 1 - 4

/** Where the tables lie: a function of their counts alone. */
interface Places {
  readonly sites: number
  readonly forms: number
  readonly fixups: number
  readonly code: number
  readonly end: number
}

const placesOf = (siteCount: number, formCount: number, fixupCount: number, codeBytes: number): Places => {
  const sites = alignUp(SIZE.payload, TABLE_ALIGN)
  const forms = alignUp(sites + siteCount * SIZE.site, TABLE_ALIGN)
  const fixups = alignUp(forms + formCount * SIZE.form, TABLE_ALIGN)
  const code = alignUp(fixups + fixupCount * SIZE.fixup, CODE_ALIGN)
  return { sites, forms, fixups, code, end: code + codeBytes }
}

/** What is wrong with the counts, in words, or ''. */
const countProblem = (sites: number, forms: number, fixups: number, code: number, slots: number, frameWords: number): string => {
  if (sites > MAX.sites) return `${sites} sites, more than ${MAX.sites}`
  if (forms > MAX.forms) return `${forms} forms, more than ${MAX.forms}`
  if (fixups > MAX.fixups) return `${fixups} fixups, more than ${MAX.fixups}`
  if (code > MAX.code) return `${code} bytes of code, more than ${MAX.code}`
  if (slots > MAX.slots) return `${slots} slots, more than ${MAX.slots}`
  if (frameWords > MAX_FRAME_WORDS) return `${frameWords} frame words, more than ${MAX_FRAME_WORDS}`
  if (frameWords > 0 && frameWords <= FRAME.head) return `${frameWords} frame words`
  if (sites === 0 || code === 0 || slots === 0) return 'nothing to apply: no site, no code or no slot'
  const { end } = placesOf(sites, forms, fixups, code)
  return end > MAX.payload ? `${end} bytes, more than ${MAX.payload}` : ''
}

const targetProblem = (target: TargetIdentity): string => {
  const { base, imageBytes, textStart, textEnd, buildIdRva, anchors, kprobes } = target
  if (base < LOWEST_BASE || base >= 2n ** 64n || base % PAGE !== 0n) return 'link_base is no kernel text address'
  if (imageBytes === 0 || base + BigInt(imageBytes) > 2n ** 64n) return 'image_bytes reaches past the address space'
  if (textStart >= textEnd || textEnd > imageBytes) return 'the text does not lie in the image'
  if (buildIdRva + LENGTH.buildId > imageBytes) return 'build_id_rva lies outside the image'
  for (const anchor of anchors) if (anchor >= imageBytes) return 'anchor_rva lies outside the image'
  const [mutex, table] = kprobes
  if (mutex === NONE && table === NONE) return ''
  if (mutex % 8 !== 0 || table % 8 !== 0) return 'kprobe_rva is not aligned'
  if (mutex >= imageBytes || table >= imageBytes) return 'kprobe_rva lies outside the image'
  return ''
}

/** Offsets of all forms' tails, ascending. */
const tailsOf = (tables: PatchTables): Uint32Array =>
  tables.siteTail.subarray(0, tables.siteCount).filter((_, site) => tables.siteFormClass[site] !== 0).sort()

/** What is wrong with where sites lie to each other, in words, or ''. */
const orderProblem = (tables: PatchTables): string => {
  let end = 0 //  of the last site that is in no window
  let room = 0 // [room, roomEnd): what is left for springboards of the last site, where it is a window
  let roomEnd = 0
  for (let site = 0; site < tables.siteCount; site++) {
    const rva = tables.siteRva[site]!
    const siteEnd = rva + tables.siteLength[site]!
    const flag = tables.siteFlags[site]!
    if (flag === SITE_FLAG.springboard && rva >= room && siteEnd <= roomEnd) {
      room = siteEnd
      continue
    }
    if (rva < end) return `site ${site}: overlaps the site before it, or is out of order`
    end = siteEnd
    room = flag === SITE_FLAG.window ? rva + SPLICE_BYTES : 0
    roomEnd = flag === SITE_FLAG.window ? end : 0
  }
  return ''
}

const lengthFits = (length: number, kind: number, flag: number): boolean => {
  const least = kind === SITE_KIND.hop ? HOP_BYTES : SPLICE_BYTES
  if (flag === SITE_FLAG.springboard) return length === least
  return length >= least && length <= (flag === SITE_FLAG.window ? MAX_WINDOW : MAX_INSTRUCTION)
}

const hopProblem = (tables: PatchTables, site: number): string => {
  const board = tables.sitePatch[site]!
  if (board >= tables.siteCount || tables.siteFlags[board] !== SITE_FLAG.springboard) return 'hops to no springboard'
  const kind = tables.siteKind[board]!
  const chained = tables.siteFlags[site] === SITE_FLAG.springboard
  if (kind !== SITE_KIND.jmp && (kind !== SITE_KIND.hop || chained)) return 'hops too often'
  const distance = tables.siteRva[board]! - tables.siteRva[site]! - HOP_BYTES
  return distance < -128 || distance > 127 ? 'hops too far' : ''
}

const siteProblem = (target: TargetIdentity, tables: PatchTables, site: number, hasClass: Uint8Array): string => {
  const rva = tables.siteRva[site]!
  const length = tables.siteLength[site]!
  const kind = tables.siteKind[site]!
  const relocKind = tables.siteRelocKind[site]!
  const relocOffset = tables.siteRelocOffset[site]!
  const formClass = tables.siteFormClass[site]!
  const tail = tables.siteTail[site]!
  const expected = tables.siteExpected
  const first = site * EXPECTED_BYTES // of its bytes
  const flag = tables.siteFlags[site]!
  if (flag > SITE_FLAG.springboard) return `unknown flags ${flag}`
  if (!lengthFits(length, kind, flag)) return `a length of ${length}`
  if (rva < target.textStart || rva + length > target.textEnd) return 'lies outside the text'
  if (kind === SITE_KIND.hop) {
    const problem = hopProblem(tables, site)
    if (problem !== '') return problem
  } else if (tables.sitePatch[site]! >= tables.code.length) return 'its patch lies outside the code'
  for (let i = first + length; i < first + EXPECTED_BYTES; i++) if (expected[i] !== 0) return 'bytes after its expected ones'
  if (kind > SITE_KIND.hop) return `an unknown kind ${kind}`
  if (relocKind > RELOC_KIND.sub) return `an unknown reloc_kind ${relocKind}`
  if (relocKind === RELOC_KIND.none) {
    if (relocOffset !== 0) return 'a reloc_offset without a reloc_kind'
  } else if ((relocOffset === 0 && flag !== SITE_FLAG.springboard) || relocOffset + 4 > length) {
    return 'its adjusted field lies outside the instruction'
  }
  if (flag !== 0 && kind !== SITE_KIND.jmp && (kind !== SITE_KIND.hop || flag !== SITE_FLAG.springboard)) {
    return 'flags on a kind of site that has none'
  }
  if ((kind === SITE_KIND.call || kind === SITE_KIND.jcc) && relocKind !== RELOC_KIND.none) return 'a direct call or jump with an adjusted field'
  if (formClass !== 0) {
    if (kind !== SITE_KIND.jmp || flag !== 0 || length !== SPLICE_BYTES || relocKind !== RELOC_KIND.none) {
      return 'a form class on another kind of site'
    }
    if (hasClass[formClass] === 0) return `no form of its class ${formClass}`
    if (tail === NONE || tail + SPLICE_BYTES > tables.code.length) return 'its tail lies outside the code'
  } else {
    if (flag === SITE_FLAG.window) {
      if (tail >= tables.code.length) return 'its bypass lies outside the code'
    } else if (tail !== NONE) return 'a tail without a form class'
    if (kind === SITE_KIND.call && (length !== 5 || expected[first] !== 0xe8)) return 'no direct call in its expected bytes'
    if (kind === SITE_KIND.jcc && (length !== 6 || expected[first] !== 0x0f || (expected[first + 1]! & 0xf0) !== 0x80)) {
      return 'no direct conditional jump in its expected bytes'
    }
  }
  return ''
}

const formProblem = (target: TargetIdentity, tables: PatchTables, form: number): string => {
  const bytes = tables.formBytes.subarray(form * FORM_BYTES, (form + 1) * FORM_BYTES)
  const rva = tables.formTarget[form]!
  if (tables.formClass[form] === 0) return 'a class of 0'
  switch (tables.formKind[form]) {
    case FORM_KIND.literal:
      if (rva !== NONE) return 'a literal with a target'
      return bytes[FORM_BYTES - 1] !== 0 ? 'a sixth byte' : ''
    case FORM_KIND.jmp:
      if (rva >= target.imageBytes) return 'its target lies outside the image'
      return bytes.some((b) => b !== 0) ? 'a jmp with bytes' : ''
    default:
      return `an unknown kind ${tables.formKind[form]}`
  }
}

const fixupProblem = (target: TargetIdentity, tables: PatchTables, fixup: number): string => {
  const offset = tables.fixupOffset[fixup]!
  const value = tables.fixupValue[fixup]!
  const kind = tables.fixupKind[fixup]!
  const trail = tables.fixupTrail[fixup]!
  if (kind > FIXUP_KIND.frame64) return `an unknown kind ${kind}`
  if (offset + fixupBytes(kind) + trail > tables.code.length) return 'lies outside the code'
  if (fixup > 0 && tables.fixupOffset[fixup - 1]! + fixupBytes(tables.fixupKind[fixup - 1]!) > offset) {
    return 'overlaps the fixup before it, or is out of order'
  }
  const relative = kind === FIXUP_KIND.rel32 || kind === FIXUP_KIND.pcpu32
  if (relative ? trail > MAX_TRAIL : trail !== 0) return `a trail of ${trail}`
  if (kind === FIXUP_KIND.rel32 && value >= target.imageBytes) return 'its rva lies outside the image'
  if (kind === FIXUP_KIND.abs32 && value !== 0) return 'an abs32 with a value'
  if (kind === FIXUP_KIND.slot64 && value >= tables.slotCount) return `no slot ${value}`
  if (kind === FIXUP_KIND.frame64 && value >= tables.frameWords) return `no frame word ${value}`
  return ''
}

/** The first rule above that the tables break, in words, or ''. Counts are within the limits. */
const problemOf = (target: TargetIdentity, tables: PatchTables): string => {
  const about = (what: string, problem: string): string => (problem === '' ? '' : `${what}: ${problem}`)
  let problem = about('header', targetProblem(target))
  const hasClass = new Uint8Array(256) // form class -> 1 where it has a form
  for (let form = 0; form < tables.formCount && problem === ''; form++) {
    hasClass[tables.formClass[form]!] = 1
    problem = about(`form ${form}`, formProblem(target, tables, form))
  }
  for (let site = 0; site < tables.siteCount && problem === ''; site++) {
    const text = siteProblem(target, tables, site, hasClass)
    if (text !== '') problem = `site ${site}: ${text}`
  }
  if (problem === '') problem = orderProblem(tables)
  const tails = tailsOf(tables)
  for (let i = 1; i < tails.length && problem === ''; i++) {
    if (tails[i - 1]! + SPLICE_BYTES > tails[i]!) problem = `sites: two tails overlap at code offset ${tails[i]}`
  }
  let tail = 0 // the first one that does not end before the fixup
  for (let fixup = 0; fixup < tables.fixupCount && problem === ''; fixup++) {
    const text = fixupProblem(target, tables, fixup)
    if (text !== '') problem = `fixup ${fixup}: ${text}`
    const offset = tables.fixupOffset[fixup]!
    while (tail < tails.length && tails[tail]! + SPLICE_BYTES <= offset) tail++
    if (problem === '' && tail < tails.length && tails[tail]! < offset + fixupBytes(tables.fixupKind[fixup]!)) {
      problem = `fixup ${fixup}: overlaps the tail at code offset ${tails[tail]}`
    }
  }
  return problem
}

/**
 * The payload's bytes.
 * @param manifestSha256 32 bytes
 * @throws KerninstError (65) where the plan is empty, or larger than the kernel takes; another broken rule is our bug
 */
export const encodePayload = (target: TargetIdentity, tables: PatchTables, manifestSha256: Uint8Array): Uint8Array => {
  const { siteCount, formCount, fixupCount, code, slotCount, frameWords } = tables
  const counts = countProblem(siteCount, formCount, fixupCount, code.length, slotCount, frameWords)
  if (counts !== '') throw new KerninstError(EXIT.data, `no bundle can be made of this plan: ${counts}`)
  assert(manifestSha256.length === LENGTH.sha256, 'payload: digest of the manifest')
  assert(target.buildId.length === LENGTH.buildId, 'payload: build id')
  const problem = problemOf(target, tables)
  assert(problem === '', `payload: ${problem}`)

  const places = placesOf(siteCount, formCount, fixupCount, code.length)
  const out = new Uint8Array(places.end)
  const view = new DataView(out.buffer)
  const u32 = (offset: number, value: number): void => {
    assert(Number.isInteger(value) && value >= 0 && value <= 0xffffffff, 'payload: a field of more than 32 bits')
    view.setUint32(offset, value, true)
  }
  out.set(Buffer.from(PAYLOAD_MAGIC, 'latin1'), PAYLOAD.magic)
  u32(PAYLOAD.version, VERSION)
  u32(PAYLOAD.headerBytes, SIZE.payload)
  view.setBigUint64(PAYLOAD.payloadBytes, BigInt(places.end), true)
  view.setBigUint64(PAYLOAD.linkBase, target.base, true)
  u32(PAYLOAD.imageBytes, target.imageBytes)
  u32(PAYLOAD.textStart, target.textStart)
  u32(PAYLOAD.textEnd, target.textEnd)
  u32(PAYLOAD.buildIdRva, target.buildIdRva)
  out.set(target.buildId, PAYLOAD.buildId)
  target.anchors.forEach((anchor, i) => u32(PAYLOAD.anchorRva + 4 * i, anchor))
  target.kprobes.forEach((rva, i) => u32(PAYLOAD.kprobeRva + 4 * i, rva))
  out.set(manifestSha256, PAYLOAD.manifestSha256)
  u32(PAYLOAD.siteOffset, places.sites)
  u32(PAYLOAD.siteCount, siteCount)
  u32(PAYLOAD.formOffset, places.forms)
  u32(PAYLOAD.formCount, formCount)
  u32(PAYLOAD.fixupOffset, places.fixups)
  u32(PAYLOAD.fixupCount, fixupCount)
  u32(PAYLOAD.codeOffset, places.code)
  u32(PAYLOAD.codeBytes, code.length)
  u32(PAYLOAD.slotCount, slotCount)
  u32(PAYLOAD.frameWords, frameWords)

  for (let site = 0, at = places.sites; site < siteCount; site++, at += SIZE.site) {
    u32(at + SITE.rva, tables.siteRva[site]!)
    u32(at + SITE.patch, tables.sitePatch[site]!)
    out[at + SITE.length] = tables.siteLength[site]!
    out[at + SITE.kind] = tables.siteKind[site]!
    out[at + SITE.formClass] = tables.siteFormClass[site]!
    out[at + SITE.relocKind] = tables.siteRelocKind[site]!
    u32(at + SITE.tail, tables.siteTail[site]!)
    for (let i = 0; i < EXPECTED_BYTES; i++) out[at + SITE.expected + i] = tables.siteExpected[site * EXPECTED_BYTES + i]!
    out[at + SITE.relocOffset] = tables.siteRelocOffset[site]!
    out[at + SITE.flags] = tables.siteFlags[site]!
  }
  for (let form = 0, at = places.forms; form < formCount; form++, at += SIZE.form) {
    out[at + FORM.formClass] = tables.formClass[form]!
    out[at + FORM.kind] = tables.formKind[form]!
    out.set(tables.formBytes.subarray(form * FORM_BYTES, (form + 1) * FORM_BYTES), at + FORM.bytes)
    u32(at + FORM.target, tables.formTarget[form]!)
  }
  for (let fixup = 0, at = places.fixups; fixup < fixupCount; fixup++, at += SIZE.fixup) {
    u32(at + FIXUP.offset, tables.fixupOffset[fixup]!)
    u32(at + FIXUP.value, tables.fixupValue[fixup]!)
    out[at + FIXUP.kind] = tables.fixupKind[fixup]!
    out[at + FIXUP.trail] = tables.fixupTrail[fixup]!
  }
  out.set(code, places.code)
  return out
}

/**
 * The tables that the bytes hold; nothing in them is shared with the input.
 * @throws KerninstError (65) naming the first field that is not as it must be
 */
export const decodePayload = (bytes: Uint8Array): Payload => {
  const refuse = (what: string): never => {
    throw new KerninstError(EXIT.data, `payload: ${what}`)
  }
  if (bytes.length < SIZE.payload) refuse(`${bytes.length} bytes, cut off in the header`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const u32 = (offset: number): number => view.getUint32(offset, true)
  const copy = (offset: number, length: number): Uint8Array => new Uint8Array(bytes.subarray(offset, offset + length))
  const zero = (from: number, to: number): void => {
    for (let i = from; i < to; i++) if (bytes[i] !== 0) refuse(`byte ${i} must be zero`)
  }

  const magic = Buffer.from(copy(PAYLOAD.magic, LENGTH.magic)).toString('latin1')
  if (magic !== PAYLOAD_MAGIC) refuse('no kerninst payload (magic)')
  if (u32(PAYLOAD.version) !== VERSION) refuse(`version ${u32(PAYLOAD.version)}, this program reads ${VERSION}`)
  if (u32(PAYLOAD.headerBytes) !== SIZE.payload) refuse('header_bytes is not the size of the header')
  const payloadBytes = view.getBigUint64(PAYLOAD.payloadBytes, true)
  if (payloadBytes !== BigInt(bytes.length)) refuse(`payload_bytes is ${payloadBytes}, but ${bytes.length} are there`)
  const siteCount = u32(PAYLOAD.siteCount)
  const formCount = u32(PAYLOAD.formCount)
  const fixupCount = u32(PAYLOAD.fixupCount)
  const codeBytes = u32(PAYLOAD.codeBytes)
  const slotCount = u32(PAYLOAD.slotCount)
  const frameWords = u32(PAYLOAD.frameWords)
  const counts = countProblem(siteCount, formCount, fixupCount, codeBytes, slotCount, frameWords)
  if (counts !== '') refuse(counts)
  const places = placesOf(siteCount, formCount, fixupCount, codeBytes)
  const expectPlace = (field: number, name: string, place: number): void => {
    if (u32(field) !== place) refuse(`${name} is ${u32(field)}, not ${place}`)
  }
  expectPlace(PAYLOAD.siteOffset, 'site_offset', places.sites)
  expectPlace(PAYLOAD.formOffset, 'form_offset', places.forms)
  expectPlace(PAYLOAD.fixupOffset, 'fixup_offset', places.fixups)
  expectPlace(PAYLOAD.codeOffset, 'code_offset', places.code)
  if (places.end !== bytes.length) refuse(`its tables take ${places.end} bytes, it has ${bytes.length}`)
  zero(places.sites + siteCount * SIZE.site, places.forms)
  zero(places.forms + formCount * SIZE.form, places.fixups)
  zero(places.fixups + fixupCount * SIZE.fixup, places.code)

  const anchor = (i: number): number => u32(PAYLOAD.anchorRva + 4 * i)
  const target: TargetIdentity = {
    base: view.getBigUint64(PAYLOAD.linkBase, true),
    imageBytes: u32(PAYLOAD.imageBytes),
    textStart: u32(PAYLOAD.textStart),
    textEnd: u32(PAYLOAD.textEnd),
    buildId: copy(PAYLOAD.buildId, LENGTH.buildId),
    buildIdRva: u32(PAYLOAD.buildIdRva),
    anchors: [anchor(0), anchor(1), anchor(2)],
    kprobes: [u32(PAYLOAD.kprobeRva), u32(PAYLOAD.kprobeRva + 4)],
  }
  const tables: PatchTables = {
    siteCount,
    siteRva: new Uint32Array(siteCount),
    sitePatch: new Uint32Array(siteCount),
    siteLength: new Uint8Array(siteCount),
    siteKind: new Uint8Array(siteCount),
    siteFormClass: new Uint8Array(siteCount),
    siteFlags: new Uint8Array(siteCount),
    siteRelocKind: new Uint8Array(siteCount),
    siteRelocOffset: new Uint8Array(siteCount),
    siteTail: new Uint32Array(siteCount),
    siteExpected: new Uint8Array(siteCount * EXPECTED_BYTES),
    formCount,
    formClass: new Uint8Array(formCount),
    formKind: new Uint8Array(formCount),
    formBytes: new Uint8Array(formCount * FORM_BYTES),
    formTarget: new Uint32Array(formCount),
    fixupCount,
    fixupOffset: new Uint32Array(fixupCount),
    fixupValue: new Uint32Array(fixupCount),
    fixupKind: new Uint8Array(fixupCount),
    fixupTrail: new Uint8Array(fixupCount),
    code: copy(places.code, codeBytes),
    slotCount,
    frameWords,
  }
  for (let site = 0, at = places.sites; site < siteCount; site++, at += SIZE.site) {
    tables.siteRva[site] = u32(at + SITE.rva)
    tables.sitePatch[site] = u32(at + SITE.patch)
    tables.siteLength[site] = bytes[at + SITE.length]!
    tables.siteKind[site] = bytes[at + SITE.kind]!
    tables.siteFormClass[site] = bytes[at + SITE.formClass]!
    tables.siteRelocKind[site] = bytes[at + SITE.relocKind]!
    tables.siteRelocOffset[site] = bytes[at + SITE.relocOffset]!
    tables.siteFlags[site] = bytes[at + SITE.flags]!
    tables.siteTail[site] = u32(at + SITE.tail)
    const expected = at + SITE.expected
    tables.siteExpected.set(bytes.subarray(expected, expected + EXPECTED_BYTES), site * EXPECTED_BYTES)
    zero(at + SITE.reserved, at + SIZE.site)
  }
  for (let form = 0, at = places.forms; form < formCount; form++, at += SIZE.form) {
    tables.formClass[form] = bytes[at + FORM.formClass]!
    tables.formKind[form] = bytes[at + FORM.kind]!
    tables.formBytes.set(bytes.subarray(at + FORM.bytes, at + FORM.bytes + FORM_BYTES), form * FORM_BYTES)
    tables.formTarget[form] = u32(at + FORM.target)
    zero(at + FORM.reserved, at + SIZE.form)
  }
  for (let fixup = 0, at = places.fixups; fixup < fixupCount; fixup++, at += SIZE.fixup) {
    tables.fixupOffset[fixup] = u32(at + FIXUP.offset)
    tables.fixupValue[fixup] = u32(at + FIXUP.value)
    tables.fixupKind[fixup] = bytes[at + FIXUP.kind]!
    tables.fixupTrail[fixup] = bytes[at + FIXUP.trail]!
    zero(at + FIXUP.reserved, at + SIZE.fixup)
  }
  const problem = problemOf(target, tables)
  if (problem !== '') refuse(problem)
  return { target, tables, manifestSha256: copy(PAYLOAD.manifestSha256, LENGTH.sha256) }
}
