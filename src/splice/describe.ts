// A plan for people: the manifest, with every site's instruction and the listing of its patch.

import { Decoder, DecoderOptions, Formatter, FormatterSyntax } from '../code/iced.js'
import { bytesAt, type Image } from '../image/image.js'
import { hex, NONE, type Rva } from '../image/rva.js'
import type { Manifest, ManifestPart } from './manifest.js'
import { placeOf, type Plan, type ServedPart } from './plan.js'
import { instrumentableBytes } from './reserved.js'
import { FIXUP_KIND } from './tables.js'

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
    const { code, fixupOffset, fixupKind, fixupValue, fixupCount } = plan.tables
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

/** Builds the manifest of a plan. */
export const describePlan = (
  image: Image, plan: Plan, programs: readonly string[], tool: Manifest['tool'],
): Manifest => {
  const { tables } = plan
  const lister = new Lister()
  const sites: Manifest['sites'] = []
  let fixup = 0
  for (let s = 0; s < tables.siteCount; s++) {
    const start = tables.sitePatch[s]!
    const end = s + 1 < tables.siteCount ? tables.sitePatch[s + 1]! : tables.code.length
    const rva = tables.siteRva[s]!
    while (fixup < tables.fixupCount && tables.fixupOffset[fixup]! < start) fixup++
    sites.push({
      rva,
      at: placeOf(image, rva),
      tactic: plan.tactics[s]!,
      instruction: lister.instruction(image, rva, tables.siteLength[s]!),
      listing: lister.patch(image, plan, start, end, tables.siteTail[s]!, fixup),
    })
  }
  lister.free()
  const place = ({ rva, site }: ServedPart): ManifestPart => ({ at: placeOf(image, rva), slot: site, site })
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
    points: plan.served.map(({ point, name, at, derived, parts, less }) => ({
      point: name,
      aggregate: point.aggregate,
      at: placeOf(image, at),
      derived,
      parts: parts.map(place),
      less: less.map(place),
    })),
    refusals: plan.refused.map(({ name, code, reason, nearest }) => ({ point: name, code, reason, nearest })),
    sites,
    slots: tables.slotCount,
    text: { bytes: image.textEnd - image.textStart, instrumentableBytes: instrumentableBytes(image, plan.reserved) },
  }
}
