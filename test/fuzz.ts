// `npm run fuzz`: hostile input for as long as one likes. Half of the time for all that reads an image (attack.ts), half
// for the C parsers (libfuzzer.ts), half of that for the one that runs in the kernel.
// In: minutes, as an argument or in KERNINST_FUZZ_MINUTES, 60 where nothing is said; KERNINST_SEED to repeat a run.
// Out: progress on stderr, figures on stdout; exit code 1 where an input broke a rule, and that input in a file. Inputs
// that reached something new in the C parsers are left in a folder, which keep.ts takes. Too long for `npm test`, which
// has a short one.

import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { attack, type Figures } from './attack.js'
import { TARGETS, buildTargets, fuzz, unpackKept, type Fuzzed, type Target } from './libfuzzer.js'

const DEFAULT_MINUTES = 60
/** Of the time: what is left is attack.ts's. */
const SHARES: Readonly<Record<Target, number>> = { payload: 0.25, bundle: 0.125, cms: 0.125 }
/** A process lives so long: leaks would show, and a finding costs no more than that of the run. */
const ROUND_SECONDS = 300
const PROGRESS_MS = 30_000

const EXIT_FOUND = 1
const EXIT_USAGE = 64

const minutes = Number(process.argv[2] ?? process.env['KERNINST_FUZZ_MINUTES'] ?? DEFAULT_MINUTES)
if (!(minutes > 0)) {
  process.stderr.write('usage: fuzz.js [MINUTES]\n')
  process.exit(EXIT_USAGE)
}

const total: Figures = { kinds: {}, peakMb: 0 }
const add = (figures: Figures): void => {
  total.peakMb = Math.max(total.peakMb, figures.peakMb)
  for (const [kind, { tried, refused, accepted, slowestMs }] of Object.entries(figures.kinds)) {
    const of = (total.kinds[kind] ??= { tried: 0, refused: 0, accepted: 0, slowestMs: 0 })
    of.tried += tried
    of.refused += refused
    of.accepted += accepted
    of.slowestMs = Math.max(of.slowestMs, slowestMs)
  }
}

const count = (figures: Figures): number => Object.values(figures.kinds).reduce((sum, { tried }) => sum + tried, 0)

const start = Date.now()
const end = start + minutes * 60_000
let number = Number(process.env['KERNINST_SEED'] ?? start % 0x7fffffff) | 1
let said = start

// ---- The C parsers ----

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-fuzz-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const programs = buildTargets(join(scratch, 'build'))
const fresh = mkdtempSync(join(tmpdir(), 'kerninst-fresh-'))
const parsers = new Map<Target, Fuzzed>()
for (const target of TARGETS) {
  const from = unpackKept(target, join(scratch, 'kept'))
  const seconds = Math.max(1, Math.round(minutes * 60 * SHARES[target]))
  process.stderr.write(`fuzz: the C parser of a ${target}: KERNINST_SEED=${number}, ${seconds} s\n`)
  mkdirSync(join(fresh, target))
  const fuzzed = await fuzz(target, programs, { from, seconds, seed: number, fresh: join(fresh, target) })
  parsers.set(target, fuzzed)
  if (fuzzed.finding === undefined) continue
  process.stderr.write(`fuzz: ${target}: ${fuzzed.finding.what}\nfuzz: kept as ${fuzzed.finding.file}\n`)
  process.exitCode = EXIT_FOUND
}
if (TARGETS.some((target) => readdirSync(join(fresh, target)).length > 0)) {
  process.stderr.write(`fuzz: what reached something new: ${fresh}; \`node build/test/keep.js ${fresh}\` keeps it\n`)
} else {
  rmSync(fresh, { recursive: true })
}

// ---- All that reads an image ----

for (; Date.now() < end && process.exitCode === undefined; number += 2) {
  const seconds = Math.max(1, Math.min(ROUND_SECONDS, (end - Date.now()) / 1000))
  process.stderr.write(`fuzz: KERNINST_SEED=${number}, ${seconds.toFixed(0)} s\n`)
  const { figures, finding } = await attack({
    number, seconds,
    onFigures: (now) => {
      if (Date.now() < said + PROGRESS_MS) return
      said = Date.now()
      const passed = ((said - start) / 60_000).toFixed(1)
      process.stderr.write(`fuzz: ${passed} min: ${count(total) + count(now)} inputs, ${now.peakMb.toFixed(0)} MB\n`)
    },
  })
  add(figures)
  if (finding === undefined) continue
  process.stderr.write(`fuzz: ${finding.kind}: ${finding.what}\nfuzz: kept as ${finding.files.join(' and ')}\n`)
  process.exitCode = EXIT_FOUND
}

const row = (kind: string, columns: readonly unknown[]): void => {
  process.stdout.write(`${kind.padEnd(90)}${columns.map((column) => `${column}`.padStart(10)).join('')}\n`)
}
row('kind', ['tried', 'refused', 'accepted', 'slowest'])
for (const [kind, { tried, refused, accepted, slowestMs }] of Object.entries(total.kinds)) {
  row(kind, [tried, refused, accepted, `${slowestMs.toFixed(0)} ms`])
}
for (const [target, { tried, edges, features }] of parsers) {
  process.stdout.write(`the C parser of a ${target}: ${tried} inputs, ${edges} edges, ${features} features\n`)
}
process.stdout.write(`${count(total)} inputs of images in ${((Date.now() - start) / 60_000).toFixed(1)} min with those, ` +
  `at most ${total.peakMb.toFixed(0)} MB\n`)
