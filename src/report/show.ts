// What a bundle holds, without a dump. In: a bundle. Out: text for people, or JSON of schema kerninst.show/1, in pieces.
// Invariant: the JSON has all points, refusals and sites; the text escapes all that comes from the bundle. Instructions
// and listings are not in the manifest: they are read from the payload, which is what the kernel will get.
// Left out: the tables of the payload beyond their sizes.

import type { Bundle } from '../bundle/bundle.js'
import { Lister, Patches } from '../splice/describe.js'
import {
  placeName, pointText, pointsWhere, refusalText, summarize, type ManifestAggregate, type ManifestPoint, type ManifestRefusal,
  type ManifestSite,
} from '../splice/manifest.js'
import { signerText } from './numbers.js'
import { jsonList, jsonText, printable } from './printable.js'

const sizes = ({ payload, decoded }: Bundle) => ({
  bytes: payload.length,
  sites: decoded.tables.siteCount,
  slots: decoded.tables.slotCount,
  codeBytes: decoded.tables.code.length,
  frameWords: decoded.tables.frameWords,
  fixups: decoded.tables.fixupCount,
  forms: decoded.tables.formCount,
})

function* pointsOf({ manifest, decoded }: Bundle): Generator<ManifestPoint, void> {
  for (const p of pointsWhere(manifest, true)) yield pointText(manifest, decoded.tables.siteRva, p)
}

function* refusalsOf({ manifest }: Bundle): Generator<ManifestRefusal, void> {
  for (const p of pointsWhere(manifest, false)) yield refusalText(manifest, p)
}

/** Every site, with the instruction that was there and its patch. */
export function* sitesOf({ manifest, decoded: { tables, target } }: Bundle): Generator<ManifestSite, void> {
  const lister = new Lister()
  const patches = new Patches(tables)
  const name = (rva: number): string => placeName(manifest, rva)
  try {
    for (let s = 0; s < tables.siteCount; s++) {
      const rva = tables.siteRva[s]!
      yield {
        rva, at: name(rva), tactic: manifest.tactics[manifest.siteTactic[s]!]!,
        instruction: lister.site(tables, target.base, s), listing: patches.list(lister, s, name),
      }
    }
  } finally {
    lister.free()
  }
}

export function* showJson(bundle: Bundle): Generator<string, void> {
  const { manifest, decoded, signature } = bundle
  const { tool, image, programs, text } = manifest
  yield `{"schema":"kerninst.show/1","manifest":${jsonText({ tool, image, programs }).slice(0, -1)},"points":`
  yield* jsonList(pointsOf(bundle))
  yield ',"refusals":'
  yield* jsonList(refusalsOf(bundle))
  yield ',"sites":'
  yield* jsonList(sitesOf(bundle))
  yield `,${jsonText({ aggregates: manifest.aggregates, slots: decoded.tables.slotCount, text }).slice(1)}`
  yield `,${jsonText({ payload: sizes(bundle), signed: signature.length > 0 }).slice(1)}\n`
}

const pointLines = (bundle: Bundle, point: ManifestPoint): string[] => {
  const { manifest, decoded: { tables } } = bundle
  const name = point.aggregate === '' ? '@' : `@${printable(point.aggregate)}`
  return [
    `  ${printable(point.point)}  ${name}${point.derived ? '  derived' : ''}`,
    ...[...point.parts, ...point.less].map((part, i) => {
      const tactic = manifest.tactics[manifest.siteTactic[part.site]!]!
      const by = `, ${printable(tactic)} at ${printable(placeName(manifest, tables.siteRva[part.site]!))}`
      const sign = !point.derived ? '' : i < point.parts.length ? '+ ' : '- '
      return `    ${sign}${printable(part.at)}: slot ${part.slot}${by}`
    }),
  ]
}

/** '@low: sum, 8 keys, slots 66 to 73'. */
const aggregateLine = ({ name, kind, keyKind, keys, width, first }: ManifestAggregate): string => {
  const of = keyKind === 'none' ? '' : keyKind === 'cpu' ? ', by CPU' : `, ${keys} keys`
  const last = first + keys * width - 1
  return `  @${printable(name)}: ${kind}${of}, slot${last > first ? `s ${first} to ${last}` : ` ${first}`}`
}

const siteLines = (site: ManifestSite, index: number): string[] => [
  `  site ${index}  ${printable(site.at)}  ${printable(site.tactic)}: ${printable(site.instruction)}`,
  ...site.listing.map((line) => `    ${printable(line)}`),
]

function* textLines(bundle: Bundle): Generator<string, void> {
  const { manifest } = bundle
  const signer = signerText(bundle)
  const { image, tool, text } = manifest
  const { bytes, codeBytes, fixups, forms, frameWords, sites, slots } = sizes(bundle)
  const { points, served } = summarize(manifest)
  const share = text.bytes > 0 ? ` (${((100 * text.instrumentableBytes) / text.bytes).toFixed(1)} %)` : ''
  yield* [
    `kernel    ${printable(image.release)}`,
    `build     ${image.buildId}`,
    `base      ${image.base}`,
    `symbols   ${image.symbols.map(printable).join(', ')}`,
    `text      ${text.bytes} bytes, instrumentable ${text.instrumentableBytes}${share}`,
    `planned   by ${tool.name} ${printable(tool.version)}`,
    `payload   ${bytes} bytes: ${sites} sites, ${slots} slots, ${frameWords > 0 ? `${frameWords} frame words, ` : ''}${codeBytes} bytes of code, ` +
      `${fixups} fixups, ${forms} forms`,
    `signed    ${signer === undefined ? 'no' : `in the name of ${printable(signer)} (kerninst verify checks it)`}`,
    ...manifest.programs.map((program) => `program   ${printable(program)}`),
    '',
    `points (${served})`,
  ]
  for (const point of pointsOf(bundle)) yield* pointLines(bundle, point)
  if (manifest.aggregates.length > 0) yield* ['', `aggregates (${manifest.aggregates.length})`, ...manifest.aggregates.map(aggregateLine)]
  yield* ['', `patches (${sites})`]
  let index = 0
  for (const site of sitesOf(bundle)) yield* siteLines(site, index++)
  yield* ['', `refused (${points - served})`]
  for (const each of refusalsOf(bundle)) {
    const nearest = each.nearest === '' ? '' : `; try ${printable(each.nearest)}`
    yield `  ${printable(each.point)}: ${printable(each.code)}: ${printable(each.reason)}${nearest}`
  }
}

export function* showText(bundle: Bundle): Generator<string, void> {
  for (const line of textLines(bundle)) yield `${line}\n`
}
