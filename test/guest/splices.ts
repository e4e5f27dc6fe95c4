// Bundles of splices that a test has chosen itself. For tests alone: no program makes them, and they pass no plan checker.
//
// In: what is known of the image, and splices. Out: a signed bundle with one point for each, named by its place.

import { writeFileSync } from 'node:fs'
import { writeBundle } from '../../src/bundle/bundle.js'
import { readCertificateDer, readKey } from '../../src/bundle/keys.js'
import type { SecondDecoder } from '../../src/code/second.js'
import { hex, type Rva } from '../../src/image/rva.js'
import type { KernelLiveness } from '../../src/liveness/live.js'
import { identify } from '../../src/pipeline.js'
import type { Point } from '../../src/probe/points.js'
import { describePlan, type Described } from '../../src/splice/describe.js'
import { encodeSites, type EmitProbe } from '../../src/splice/encode.js'
import { PointCollector } from '../../src/splice/points.js'
import { findReserved } from '../../src/splice/reserved.js'
import { siteRva, type Ground, type Splice } from '../../src/splice/site.js'
import type { Key } from './artefacts.js'

export const groundOf = (live: KernelLiveness, second: SecondDecoder): Ground =>
  ({ image: live.graph.image, live, reserved: findReserved(live.graph.image), second })

/** Where a point of such a bundle is, from its name. */
export const placeOf = (point: string): Rva => Number(point.slice(point.lastIndexOf('#') + 1))

/**
 * Writes a bundle of these splices, in any order, each at an instruction of its own.
 * @param emitProbe what each patch does first; counting where it is not given
 */
export const writeSplices = (
  ground: Ground, splices: readonly Splice[], emitProbe: EmitProbe | undefined, key: Key, path: string,
): void => {
  const { image } = ground
  const sites = [...new Map(splices.map((splice) => [siteRva(splice), splice])).values()].sort((a, b) => siteRva(a) - siteRva(b))
  const asked = sites.map((splice): Point => {
    const { name, start } = splice.fn.graph
    const rva = siteRva(splice)
    return { name: `insn:${name}+${hex(rva - start)}#${hex(rva)}`, kind: 'insn', fn: splice.fn.index, functionName: name, offset: rva - start, aggregate: 'count' }
  })
  const points = new PointCollector(asked)
  sites.forEach((splice, site) => {
    points.serve(site, siteRva(splice))
    points.term(site, siteRva(splice))
  })
  const tables = encodeSites(image, sites, emitProbe)
  const slotSite = Uint32Array.from(sites, (_, site) => site)
  const plan: Described = {
    encoded: { tables, siteTactic: new Uint8Array(sites.length), slotSite }, points: points.table(slotSite), reserved: ground.reserved,
  }
  const manifest = describePlan(image, plan, ['chosen by a test'], { name: 'kerninst', version: 'test' })
  writeFileSync(path, writeBundle({ manifest, target: identify(image), tables, key: readKey(key.key), cert: readCertificateDer(key.cert) }))
}
