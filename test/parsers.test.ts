// The C parsers, against the second opinions in test/native/fuzz: the module's own of a payload, and what it makes of
// one; the injector's of a bundle and of a signature. First what was kept of long runs, then some seconds of new inputs;
// `npm run fuzz` goes on for longer. That a bug would be found is shown on copies of the sources with one each.

import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { ROOT } from './guest/artefacts.js'
import { TARGETS, buildTargets, fuzz, unpackKept, type Target } from './libfuzzer.js'

const SECONDS = 7
/** The kept inputs alone find some of these, the others take seconds. */
const PLANT_SECONDS = 120

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-parsers-'))
t.teardown(() => rmSync(scratch, { recursive: true, force: true }))

const seed = Number(process.env['KERNINST_SEED'] ?? Date.now() % 0x7fffffff) | 1
t.comment(`KERNINST_SEED=${seed}`)

const kept = new Map(TARGETS.map((target) => [target, unpackKept(target, join(scratch, 'kept'))]))

t.test('nothing is broken', async (t) => {
  const programs = buildTargets(join(scratch, 'build'))
  for (const target of TARGETS) {
    const from = kept.get(target)!
    const replayed = await fuzz(target, programs, { from, seconds: 0, seed })
    t.equal(replayed.finding, undefined, `${target}: by the ${readdirSync(from).length} inputs that were kept`)
    t.ok(replayed.tried > readdirSync(from).length, `${target}: all of them were tried`)
    const { tried, edges, features, finding } = await fuzz(target, programs, { from, seconds: SECONDS, seed })
    t.equal(finding, undefined, `${target}: by ${tried} new ones, which reached ${edges} edges, ${features} features`)
    t.ok(features >= replayed.features, `${target}: what was kept is where they began`)
  }
})

const PLANTS: readonly (readonly [target: Target, file: string, from: string, to: string])[] = [
  ['payload', 'kmod/payload.c', 'fixup->value >= head->slot_count', 'fixup->value > head->slot_count'],
  ['payload', 'kmod/splice.c', 'spot->patch - (spot->addr + HOP_BYTES)', 'spot->patch - spot->addr'],
  ['bundle', 'injector/bundle.c', 'width == 2 && size < 1u << 8', 'width == 2 && size < 1u << 7'],
  ['cms', 'injector/cms.c', 'size > 21', 'size > 22'],
]

for (const [target, path, from, to] of PLANTS) {
  t.test(`a bug in ${path} is found`, async (t) => {
    const [folder, file] = path.split('/') as [string, string]
    const copy = mkdtempSync(join(scratch, 'plant-'))
    cpSync(join(ROOT, folder), copy, { recursive: true })
    const source = readFileSync(join(copy, file), 'utf8')
    t.equal(source.split(from).length, 2, 'the place is there')
    writeFileSync(join(copy, file), source.replace(from, to))
    const programs = buildTargets(join(copy, 'build'), [target], [`${folder === 'kmod' ? 'KMOD' : 'INJECTOR'}=${copy}`])
    const { finding, tried } = await fuzz(target, programs, { from: kept.get(target)!, seconds: PLANT_SECONDS, seed })
    t.match(finding?.what, /the oracle|broken/, `by ${tried} inputs`)
    if (finding !== undefined) {
      t.ok(readFileSync(finding.file).length > 0, 'and the input is kept')
      rmSync(join(finding.file, '..'), { recursive: true })
    }
  })
}
