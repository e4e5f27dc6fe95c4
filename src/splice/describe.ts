// In: a plan. Out: its manifest. And, from what a payload holds, instructions and patches as text.

import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from '../code/iced.js'
import { bytesAt, type Image } from '../image/image.js'
import { hex, NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import type { AggregateTable } from '../probe/aggregates.js'
import { KINDS } from '../probe/program.js'
import type { SlotLayout } from './hooks.js'
import type { AskedTable, Manifest, PlaceTable } from './manifest.js'
import type { PointTable } from './points.js'
import { CODES, REFUSALS, type RefusalCode } from './refusal.js'
import { instrumentableBytes } from './reserved.js'
import { EXPECTED_BYTES, FIXUP_KIND, SITE_KIND, type PatchTables } from './tables.js'
import { TACTIC_NAMES } from './tactics.js'

const INT3 = 0xcc
const MAX_HOPS = 2

/** Writes instructions as text, in AT&T syntax. */
export class Lister {
  readonly #formatter = new Formatter(FormatterSyntax.Gas)

  constructor() {
    this.#formatter.spaceAfterOperandSeparator = false
    this.#formatter.branchLeadingZeros = false
    this.#formatter.uppercaseHex = false
    this.#formatter.hexPrefix = '0x'
    this.#formatter.hexSuffix = ''
  }

  /** One instruction of the kernel, at its link-time address. */
  instruction(image: Image, rva: Rva, length: number): string {
    return this.instructions(bytesAt(image, rva, length), image.base + BigInt(rva))
  }

  /** The instructions of some bytes, with '; ' between them. */
  instructions(bytes: Uint8Array, address: bigint): string {
    const decoder = new Decoder(64, bytes, DecoderOptions.None)
    decoder.ip = address
    const texts: string[] = []
    while (decoder.canDecode) {
      const insn = decoder.decode()
      texts.push(this.#formatter.format(insn))
      insn.free()
    }
    decoder.free()
    return texts.join('; ')
  }

  /** What a site holds before it is spliced. */
  site({ siteRva, siteLength, siteExpected }: PatchTables, base: bigint, site: number): string {
    const at = site * EXPECTED_BYTES
    return this.instructions(siteExpected.subarray(at, at + siteLength[site]!), base + BigInt(siteRva[site]!))
  }

  /**
   * A patch: the code from `start` to `end`, what is completed on the target as a comment.
   * @param name names places
   */
  patch(tables: PatchTables, start: number, end: number, tail: boolean, name: (rva: Rva) => string): string[] {
    const { code, fixupOffset, fixupKind, fixupValue, fixupCount } = tables
    const lines: string[] = []
    const decoder = new Decoder(64, code.subarray(start, end), DecoderOptions.None)
    let fixup = lowerBound(fixupOffset, start)
    for (let at = start; at < end && code[at] !== INT3; ) {
      decoder.position = at - start
      decoder.ip = BigInt(at)
      const insn = decoder.decode()
      let text = this.#formatter.format(insn)
      let comment = ''
      for (; fixup < fixupCount && fixupOffset[fixup]! < at + insn.length; fixup++) {
        const value = fixupValue[fixup]!
        if (fixupKind[fixup] === FIXUP_KIND.slot64) text = text.replace('$0,', `$slot${value},`)
        else if (fixupKind[fixup] === FIXUP_KIND.frame64) text = text.replace('$0,', `$frame${value},`)
        else if (fixupKind[fixup] === FIXUP_KIND.rel32 && insn.nearBranchTarget !== 0n) {
          text = text.replace(/\S+$/, () => name(value))
        } else if (fixupKind[fixup] === FIXUP_KIND.rel32) comment = name(value)
        else if (fixupKind[fixup] === FIXUP_KIND.abs32) comment = '+ slide'
        else comment = `per-CPU ${hex(value)}`
      }
      lines.push(comment === '' ? text : `${text}  # ${comment}`)
      at += insn.length
      insn.free()
    }
    decoder.free()
    if (tail) lines.push('ret  # as the running kernel has it')
    return lines
  }

  free(): void {
    this.#formatter.free()
  }
}

/** Where patches start in the code, ascending, and which of them a site leads to. */
export class Patches {
  readonly #tables: PatchTables
  readonly #starts: Uint32Array

  constructor(tables: PatchTables) {
    this.#tables = tables
    const starts: number[] = []
    for (let s = 0; s < tables.siteCount; s++) {
      if (tables.siteKind[s] !== SITE_KIND.hop) starts.push(tables.sitePatch[s]!)
      // A window's bypass is code of its own; a return site's tail is the end of its patch.
      if (tables.siteTail[s] !== NONE && tables.siteFormClass[s] === 0) starts.push(tables.siteTail[s]!)
    }
    this.#starts = Uint32Array.from(starts).sort()
  }

  /** The listing of the patch that a site leads to. */
  list(lister: Lister, site: number, name: (rva: Rva) => string): string[] {
    const { siteKind, sitePatch, siteTail, siteFormClass, code } = this.#tables
    let to = site
    for (let hops = 0; siteKind[to] === SITE_KIND.hop && hops < MAX_HOPS; hops++) to = sitePatch[to]!
    if (siteKind[to] === undefined || siteKind[to] === SITE_KIND.hop) return []
    const start = sitePatch[to]!
    const end = this.#starts[lowerBound(this.#starts, start + 1)] ?? code.length
    return lister.patch(this.#tables, start, end, siteFormClass[to] !== 0 && siteTail[to] !== NONE, name)
  }
}

/** Texts, each once. */
class Names {
  readonly texts: string[] = []
  readonly #index = new Map<string, number>()

  add(text: string): number {
    let index = this.#index.get(text)
    if (index === undefined) {
      index = this.texts.length
      this.texts.push(text)
      this.#index.set(text, index)
    }
    return index
  }
}

/** The functions of some rvas: a plan has millions, in some ten thousand stretches of functions. */
const placesOf = ({ functions }: Image, lists: readonly Uint32Array[], names: Names): PlaceTable => {
  const least = new Uint32Array(functions.stretches).fill(NONE) // stretch -> its first rva that occurs
  for (const list of lists) {
    let stretch = 0
    for (let i = 0; i < list.length; i++) {
      const rva = list[i]!
      if (rva === NONE) continue
      // The one before will mostly do.
      if (!functions.isIn(stretch, rva)) stretch = functions.stretchAt(rva)
      if (rva < least[stretch]!) least[stretch] = rva
    }
  }
  const from: number[] = []
  const start: number[] = []
  const name: number[] = []
  let last = -1
  for (let stretch = 0; stretch < least.length; stretch++) {
    if (least[stretch] === NONE) continue
    const fn = functions.functionOf(stretch)
    if (fn === last) continue
    last = fn
    from.push(least[stretch]!)
    start.push(fn === NONE ? NONE : functions.start[fn]!)
    name.push(names.add(fn === NONE ? '' : functions.nameOf(fn)))
  }
  return { from: Uint32Array.from(from), start: Uint32Array.from(start), name: Uint32Array.from(name) }
}

const askedTable = ({ functions }: Image, asked: PointTable['asked'], names: Names): AskedTable => {
  const count = asked.length
  const table = {
    kind: new Uint8Array(count), name: new Uint32Array(count), start: new Uint32Array(count), end: new Uint32Array(count),
    offset: new Uint32Array(count), title: new Uint32Array(count), aggregate: new Uint32Array(count),
    always: new Uint8Array(count),
  }
  asked.forEach(({ name, kind, fn, functionName, offset, aggregate, program }, a) => {
    table.kind[a] = KINDS.indexOf(kind)
    table.name[a] = names.add(functionName)
    table.start[a] = fn === NONE ? NONE : functions.start[fn]!
    table.end[a] = fn === NONE ? NONE : functions.end[fn]!
    table.offset[a] = kind === 'insn' ? offset : 0
    table.aggregate[a] = names.add(aggregate)
    table.always[a] = program < 0 ? 1 : 0
    if (name !== `${kind}:${functionName}${kind === 'insn' ? `+${hex(offset)}` : ''}`) table.title[a] = 1 + names.add(name)
  })
  return table
}

/** What a manifest is made of. */
export interface Described {
  readonly encoded: {
    readonly tables: PatchTables
    readonly siteTactic: Uint8Array // site -> TACTIC
    readonly slotSite: Uint32Array //  slot -> site
    readonly layout: SlotLayout
  }
  readonly points: PointTable
  readonly reserved: Uint8Array
}

/** Builds the manifest of a plan. */
export const describePlan = (
  image: Image, { encoded: { tables, siteTactic, slotSite, layout }, points, reserved }: Described, programs: readonly string[],
  tool: Manifest['tool'], aggregates: readonly AggregateTable[] = [],
): Manifest => {
  const names = new Names()
  const { asked, ...columns } = points
  const jumps = tables.fixupValue.slice()
  for (let f = 0; f < jumps.length; f++) if (tables.fixupKind[f] !== FIXUP_KIND.rel32) jumps[f] = NONE
  const places = placesOf(image, [points.rva, points.to, points.nearest, points.termRva, tables.siteRva, jumps], names)
  const askedColumns = askedTable(image, asked, names)
  // Codes that occur get numbers of their own, so that a bundle can be read when there are others.
  const occurs = new Uint8Array(256)
  for (let p = 0; p < points.count; p++) occurs[points.refusal[p]!] = 1
  const number = new Uint8Array(256)
  const refusals: Manifest['refusals'][number][] = []
  for (let code = 1; code < CODES.length; code++) {
    if (!occurs[code]) continue
    refusals.push({ code: CODES[code]!, reason: REFUSALS[CODES[code] as RefusalCode] })
    number[code] = refusals.length
  }
  return {
    tool,
    image: {
      kind: image.kind,
      release: image.release,
      buildId: Buffer.from(image.buildId).toString('hex'),
      base: hex(image.base),
      textSha256: image.textSha256,
      symbols: [...image.symbolSources],
    },
    programs: [...programs],
    text: { bytes: image.textEnd - image.textStart, instrumentableBytes: instrumentableBytes(image, reserved) },
    names: names.texts,
    places,
    asked: askedColumns,
    points: { ...columns, refusal: points.refusal.map((code) => number[code]!) },
    refusals,
    tactics: [...TACTIC_NAMES],
    siteTactic,
    slotSite,
    aggregates: aggregates.map(({ name, kind, signed, unit, keyKind, keys, width, range }, a) => ({
      name, kind, signed: signed ? 1 : 0, unit, keyKind, keys, width, first: layout.first[a]!,
      range: range === undefined ? [] : [range.low, range.high, range.step].map(String),
    })),
    missed: layout.missed,
  }
}
