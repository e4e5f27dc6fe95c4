// What a bundle holds, without a dump. In: a bundle. Out: text for people, or JSON of schema kerninst.show/1.
// Invariant: the JSON has the whole manifest under its own names; the text escapes all that comes from the bundle.
// Left out: the tables of the payload beyond their sizes.

import type { Bundle } from '../bundle/bundle.js'
import type { ManifestPoint, ManifestSite } from '../splice/manifest.js'
import { jsonLine, printable } from './printable.js'

const sizes = ({ payload, decoded }: Bundle) => ({
  bytes: payload.length,
  sites: decoded.tables.siteCount,
  slots: decoded.tables.slotCount,
  codeBytes: decoded.tables.code.length,
  fixups: decoded.tables.fixupCount,
  forms: decoded.tables.formCount,
})

export const showJson = (bundle: Bundle): string => {
  const { manifest, signature } = bundle
  return jsonLine({ schema: 'kerninst.show/1', manifest, payload: sizes(bundle), signed: signature.length > 0 })
}

const pointLines = (point: ManifestPoint, sites: readonly ManifestSite[]): string[] => {
  const name = point.aggregate === '' ? '@' : `@${printable(point.aggregate)}`
  return [
    `  ${printable(point.point)}  ${name}${point.derived ? '  derived' : ''}`,
    ...[...point.parts, ...point.less].map((part, i) => {
      const site = sites[part.site]
      const by = site === undefined ? '' : `, ${printable(site.tactic)} at ${printable(site.at)}`
      const sign = !point.derived ? '' : i < point.parts.length ? '+ ' : '- '
      return `    ${sign}${printable(part.at)}: slot ${part.slot}${by}`
    }),
  ]
}

const siteLines = (site: ManifestSite, index: number): string[] => [
  `  site ${index}  ${printable(site.at)}  ${printable(site.tactic)}: ${printable(site.instruction)}`,
  ...site.listing.map((line) => `    ${printable(line)}`),
]

export const showText = (bundle: Bundle): string => {
  const { manifest, signature } = bundle
  const { image, tool, text, points, sites, refusals } = manifest
  const { bytes, codeBytes, fixups, forms } = sizes(bundle)
  const share = text.bytes > 0 ? ` (${((100 * text.instrumentableBytes) / text.bytes).toFixed(1)} %)` : ''
  const lines = [
    `kernel    ${printable(image.release)}`,
    `build     ${image.buildId}`,
    `base      ${image.base}`,
    `symbols   ${image.symbols.map(printable).join(', ')}`,
    `text      ${text.bytes} bytes, instrumentable ${text.instrumentableBytes}${share}`,
    `planned   by ${tool.name} ${printable(tool.version)}`,
    `payload   ${bytes} bytes: ${sites.length} sites, ${manifest.slots} slots, ${codeBytes} bytes of code, ` +
      `${fixups} fixups, ${forms} forms`,
    `signed    ${signature.length > 0 ? 'yes (kerninst verify says by whom)' : 'no'}`,
    ...manifest.programs.map((program) => `program   ${printable(program)}`),
    '',
    `points (${points.length})`,
    ...points.flatMap((point) => pointLines(point, sites)),
    '',
    `patches (${sites.length})`,
    ...sites.flatMap(siteLines),
    '',
    `refused (${refusals.length})`,
    ...refusals.map((each) => {
      const nearest = each.nearest === '' ? '' : `; try ${printable(each.nearest)}`
      return `  ${printable(each.point)}: ${printable(each.code)}: ${printable(each.reason)}${nearest}`
    }),
  ]
  return lines.join('\n') + '\n'
}
