// A plan for people: the manifest, with every site's instruction and the listing of its patch.

import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from '../code/iced.js'
import { bytesAt, type Image } from '../image/image.js'
import { hex, NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import type { Manifest, ManifestPart } from './manifest.js'
import { placeOf, type Plan } from './plan.js'
import type { PointTable } from './points.js'
import { CODES, REFUSALS, type RefusalCode } from './refusal.js'
import { instrumentableBytes } from './reserved.js'
import { FIXUP_KIND, SITE_KIND } from './tables.js'
import { TACTIC_NAMES } from './tactics.js'

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
    const decoder = new Decoder(64, bytesAt(image, rva, length), DecoderOptions.None)
    decoder.ip = image.base + BigInt(rva)
    const insn = decoder.decode()
    const text = this.#formatter.format(insn)
    insn.free()
    decoder.free()
    return text
  }

  /** A patch: the code from `start` to `end`, what is completed on the target as a comment. */
  patch(image: Image, plan: Plan, start: number, end: number, tail: number, firstFixup: number): string[] {
    const { code, fixupOffset, fixupKind, fixupValue, fixupCount } = plan.encoded.tables
    const lines: string[] = []
    const decoder = new Decoder(64, code.subarray(start, end), DecoderOptions.None)
    let fixup = firstFixup
    for (let at = start; at < end && code[at] !== 0xcc; ) {
      decoder.position = at - start
      decoder.ip = BigInt(at)
      const insn = decoder.decode()
      let text = this.#formatter.format(insn)
      let comment = ''
      for (; fixup < fixupCount && fixupOffset[fixup]! < at + insn.length; fixup++) {
        const value = fixupValue[fixup]!
        if (fixupKind[fixup] === FIXUP_KIND.slot64) text = text.replace('$0,', `$slot${value},`)
        else if (fixupKind[fixup] === FIXUP_KIND.rel32 && insn.nearBranchTarget !== 0n) {
          text = text.replace(/\S+$/, placeOf(image, value))
        } else if (fixupKind[fixup] === FIXUP_KIND.rel32) comment = placeOf(image, value)
        else if (fixupKind[fixup] === FIXUP_KIND.abs32) comment = '+ slide'
        else comment = `per-CPU ${hex(value)}`
      }
      lines.push(comment === '' ? text : `${text}  # ${comment}`)
      at += insn.length
      insn.free()
    }
    decoder.free()
    if (tail !== NONE) lines.push('ret  # as the running kernel has it')
    return lines
  }

  free(): void {
    this.#formatter.free()
  }
}

/** The name of a point, with its place where one that is asked for is several. */
const nameOf = (image: Image, points: PointTable, p: number): string => {
  const point = points.asked[points.of[p]!]!
  const rva = points.rva[p]!
  if (rva === NONE || (point.kind !== 'block' && point.kind !== 'edge' && point.kind !== 'call')) return point.name
  const { start, end } = { start: image.functions.start[point.fn]!, end: image.functions.end[point.fn]! }
  const at = (place: Rva): string => (place >= start && place < end ? `${point.functionName}+${hex(place - start)}` : placeOf(image, place))
  const to = points.to[p]!
  if (point.kind !== 'edge') return `${point.kind}:${at(rva)}`
  return `edge:${at(rva)}->${to >= start && to < end ? hex(to - start) : at(to)}`
}

/** Builds the manifest of a plan. */
export const describePlan = (
  image: Image, plan: Plan, programs: readonly string[], tool: Manifest['tool'],
): Manifest => {
  const { encoded: { tables, siteTactic, slotSite }, points } = plan
  const lister = new Lister()
  const sites: Manifest['sites'] = []
  let fixup = 0
  const starts = [...tables.sitePatch].filter((_, s) => tables.siteKind[s] !== SITE_KIND.hop).sort((a, b) => a - b)
  for (let s = 0; s < tables.siteCount; s++) {
    const hop = tables.siteKind[s] === SITE_KIND.hop
    const start = hop ? tables.sitePatch[tables.sitePatch[s]!]! : tables.sitePatch[s]!
    const end = starts[lowerBound(Uint32Array.from(starts), start) + 1] ?? tables.code.length
    const rva = tables.siteRva[s]!
    fixup = lowerBound(tables.fixupOffset, start)
    sites.push({
      rva,
      at: placeOf(image, rva),
      tactic: TACTIC_NAMES[siteTactic[s]!]!,
      instruction: lister.instruction(image, rva, tables.siteLength[s]!),
      listing: lister.patch(image, plan, start, end, tables.siteFormClass[s] ? tables.siteTail[s]! : NONE, fixup),
    })
  }
  lister.free()
  const described: Manifest['points'] = []
  const refusals: Manifest['refusals'] = []
  for (let p = 0; p < points.count; p++) {
    const name = nameOf(image, points, p)
    const { aggregate } = points.asked[points.of[p]!]!
    if (points.refusal[p] !== 0) {
      const code = CODES[points.refusal[p]!] as RefusalCode
      const nearest = points.nearest[p]!
      refusals.push({ point: name, code, reason: REFUSALS[code], nearest: nearest === NONE ? '' : `insn:${placeOf(image, nearest)}` })
      continue
    }
    const parts: ManifestPart[] = []
    const less: ManifestPart[] = []
    for (let t = points.termStart[p]!; t < points.termStart[p + 1]!; t++) {
      const slot = points.term[t]! >>> 1
      ;(points.term[t]! & 1 ? less : parts).push({ at: placeOf(image, points.termRva[t]!), slot, site: slotSite[slot]! })
    }
    const derived = points.derived[p] === 1
    described.push({
      point: name, aggregate, derived, parts, less,
      at: placeOf(image, derived ? points.rva[p]! : tables.siteRva[parts[0]!.site]!),
    })
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
    points: described,
    refusals,
    sites,
    slots: tables.slotCount,
    text: { bytes: image.textEnd - image.textStart, instrumentableBytes: instrumentableBytes(image, plan.reserved) },
  }
}
