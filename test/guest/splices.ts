// Bundles of counters that a test has placed itself. For tests alone: no program makes them, and they pass no plan
// checker.
//
// In: a draft with counters in it. Out: a signed bundle with one point for each counter, named by its place.

import { writeFileSync } from 'node:fs'
import { writeBundle } from '../../src/bundle/bundle.js'
import { readCertificateDer, readKey } from '../../src/bundle/keys.js'
import { hex, NONE, type Rva } from '../../src/image/rva.js'
import { identify } from '../../src/pipeline.js'
import type { Point } from '../../src/probe/points.js'
import { describePlan } from '../../src/splice/describe.js'
import type { Draft } from '../../src/splice/draft.js'
import { encodeDraft, type EmitProbe } from '../../src/splice/encode.js'
import { PointCollector } from '../../src/splice/points.js'
import type { Key } from './artefacts.js'

/** Where a point of such a bundle is, from its name. */
export const placeOf = (point: string): Rva => Number(point.slice(point.lastIndexOf('#') + 1))

/** Whether it counts the taken side of a branch. */
export const isTaken = (point: string): boolean => point.startsWith('edge:')

/**
 * Writes a bundle of all counters of a draft.
 * @param emitProbe what each patch does where a counter is; counting where it is not given
 */
export const writeDraft = (draft: Draft, emitProbe: EmitProbe | undefined, key: Key, path: string): void => {
  const { ground: { image, reserved } } = draft
  const { slotOf, ...encoded } = encodeDraft(draft, emitProbe && { emitProbe })
  const asked = draft.slotInsn.map((insn, slot): Point => {
    const rva = draft.ground.start(insn)
    const fn = image.functions.functionAt(rva)
    const name = fn === NONE ? '?' : image.functions.nameOf(fn)
    const offset = fn === NONE ? 0 : rva - image.functions.start[fn]!
    const kind = draft.slotTakes[slot] ? 'edge' : 'insn'
    return { name: `${kind}:${name}+${hex(offset)}#${hex(rva)}`, kind: 'insn', fn, functionName: name, offset, aggregate: 'count', program: -1 }
  })
  const collector = new PointCollector(asked)
  draft.slotInsn.forEach((insn, slot) => {
    collector.serve(slot, draft.ground.start(insn))
    collector.term(slot, draft.ground.start(insn))
  })
  const plan = { encoded, points: collector.table(slotOf), reserved }
  const manifest = describePlan(image, plan, ['chosen by a test'], { name: 'kerninst', version: 'test' })
  writeFileSync(path, writeBundle({
    manifest, target: identify(image), tables: encoded.tables, key: readKey(key.key), cert: readCertificateDer(key.cert),
  }))
}
