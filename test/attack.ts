// Tries hostile inputs (hostile.ts) on all that reads an image, in a process of its own, so that what hangs or takes
// all memory is seen too. The rule: a KerninstError of one line, with an exit code for bad input, is all that may be
// thrown by loadImage, within a time and a memory; what it accepts, buildGraph and solveLiveness must get through; and
// whole inputs load as before.
// In: a seed number, seconds. Out: how many were tried, refused and accepted, the slowest, the most memory, and the
// first input that broke the rule, which is kept.
// Left out: making the input smaller.

import { spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setImmediate } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { buildGraph } from '../src/cfg/graph.js'
import { EXIT, KerninstError } from '../src/error.js'
import { loadImage } from '../src/image/image.js'
import { solveLiveness } from '../src/liveness/live.js'
import { Random, damage, makeSeeds, type Seed } from './hostile.js'

export interface Limits {
  readonly maxSeconds: number // for one input
  readonly maxMb: number // of the whole process, decoders and compiled code included
}

/** A real kernel takes some 5 s and 450 MB, one of these a hundredth of a second. The machine may be busy. */
const LIMITS: Limits = { maxSeconds: 10, maxMb: 1000 }
const MAX_HEAP_MB = 700
const MAX_MESSAGE = 4096
/** Inputs between two loads of the whole ones. */
const BETWEEN_CHECKS = 400
const POLL_MS = 250

/** Breaks of the rule that a test plants, to see that they are noticed. */
export const PLANTS = ['error', 'exit', 'lines', 'late', 'hang', 'memory', 'spoilt'] as const
export type Plant = (typeof PLANTS)[number]

export interface KindFigures {
  tried: number
  refused: number
  accepted: number
  slowestMs: number
}

export interface Figures {
  readonly kinds: Record<string, KindFigures>
  peakMb: number
}

export interface Attack {
  readonly figures: Figures
  /** What broke the rule, and where the input that did is kept. */
  readonly finding: { readonly what: string; readonly kind: string; readonly files: readonly string[] } | undefined
}

const EXITS: readonly number[] = [EXIT.data, EXIT.noInput, EXIT.io, EXIT.mismatch]

// ---- In the process that may break ---------------------------------------------------------------------------------

const STDOUT = 1

/** A line each, from that process to the one that watches. */
type Message = { kind: string } | { figures: Figures } | { finding: string } | { ready: true }

const broken = (error: unknown): string | undefined => {
  if (!(error instanceof KerninstError)) return error instanceof Error ? error.stack ?? error.message : String(error)
  if (!EXITS.includes(error.exit)) return `exit code ${error.exit}: ${error.message}`
  if (/[\x00-\x1f\x7f-\x9f]/.test(error.message)) return `control characters in: ${JSON.stringify(error.message)}`
  if (error.message.length > MAX_MESSAGE) return `a message of ${error.message.length} characters`
  return undefined
}

const PLANTED_AT = 20

/** Stands for a bug. */
const plantIn = (plant: Plant, { maxSeconds, maxMb }: Limits): void => {
  if (plant === 'error') throw new TypeError('planted')
  if (plant === 'exit') throw new KerninstError(EXIT.internal, 'planted')
  if (plant === 'lines') throw Object.assign(new KerninstError(EXIT.data, ''), { message: 'planted\nline' })
  const start = Date.now()
  while (plant === 'hang' || (plant === 'late' && Date.now() < start + maxSeconds * 1100));
  if (plant === 'memory') new Uint8Array(maxMb * 1_000_000).fill(1)
}

const attackHere = async (
  folder: string, number: number, seconds: number, limits: Limits, plant: Plant | undefined,
): Promise<void> => {
  const { maxSeconds, maxMb } = limits
  // Written at once, so that it has been when the process breaks.
  const send = (message: Message): void => {
    writeSync(STDOUT, `${JSON.stringify(message)}\n`)
  }
  const seedFolder = join(folder, 'seeds')
  mkdirSync(seedFolder)
  const seeds = makeSeeds(seedFolder)
  const random = new Random(number)
  const input = join(folder, 'input')
  const spoilt = plant === 'spoilt' ? ' planted' : ''
  const load = (seed: Seed, bytes: Buffer): ReturnType<typeof loadImage> => {
    writeFileSync(input, bytes)
    return seed.image === undefined ? loadImage(input) : loadImage(seed.image, { kallsyms: input })
  }
  const whole = (seed: Seed): string => {
    const { textSha256, functions, symbols } = load(seed, seed.bytes)
    return `${textSha256} ${functions.count} ${symbols.count}`
  }
  const before = seeds.map(whole)
  const figures: Figures = { kinds: {}, peakMb: 0 }
  for (const { kind } of seeds) figures.kinds[kind] = { tried: 0, refused: 0, accepted: 0, slowestMs: 0 }
  send({ ready: true })
  const end = Date.now() + seconds * 1000
  for (let n = 1; Date.now() < end; n++) {
    const seed = seeds[n % seeds.length]!
    const of = figures.kinds[seed.kind]!
    const bytes = damage(seed, random, seeds)
    send({ kind: seed.kind })
    if (n % seeds.length === 0) {
      send({ figures })
      await setImmediate() // lets go of the memory of unpackZstd's instances, which promises hold
    }
    const start = process.hrtime.bigint()
    of.tried++
    let image: ReturnType<typeof loadImage> | undefined
    let what: string | undefined
    try {
      if (n === PLANTED_AT && plant !== undefined) plantIn(plant, limits)
      image = load(seed, bytes)
      of.accepted++
    } catch (error) {
      what = broken(error)
      of.refused++
    }
    try {
      if (image !== undefined) solveLiveness(buildGraph(image))
    } catch (error) {
      what = `accepted, and then: ${error instanceof Error ? error.stack : String(error)}`
    }
    const ms = Number(process.hrtime.bigint() - start) / 1e6
    of.slowestMs = Math.max(of.slowestMs, ms)
    figures.peakMb = process.resourceUsage().maxRSS / 1024
    if (figures.peakMb > maxMb) what ??= `took ${figures.peakMb.toFixed(0)} MB; ${maxMb} are allowed`
    if (ms > maxSeconds * 1000) what ??= `took ${(ms / 1000).toFixed(1)} s; ${maxSeconds} s are allowed`
    if (what === undefined && n % BETWEEN_CHECKS === 0) {
      const spoiled = seeds.findIndex((one, i) => whole(one) + spoilt !== before[i])
      if (spoiled >= 0) what = `afterwards, the whole ${seeds[spoiled]!.kind} loads otherwise than before`
    }
    if (what === undefined) continue
    writeFileSync(input, bytes)
    send({ finding: what })
    break
  }
  send({ figures })
}

// ---- In the process that watches -----------------------------------------------------------------------------------

export interface AttackOptions {
  readonly number: number
  readonly seconds: number
  readonly limits?: Limits
  readonly plant?: Plant
  readonly onFigures?: (figures: Figures) => void
}

/** Keeps what broke the rule where it outlives the run. */
const keep = (folder: string, image: string | undefined): string[] => {
  const kept = mkdtempSync(join(tmpdir(), 'kerninst-finding-'))
  const files: string[] = []
  for (const [from, name] of [[join(folder, 'input'), 'input'], [image, 'image']] as const) {
    if (from === undefined || !existsSync(from)) continue
    copyFileSync(from, join(kept, name))
    files.push(join(kept, name))
  }
  return files
}

const IMAGES: Readonly<Record<string, string>> = { 'kallsyms file': 'plain', 'kallsyms file for names': 'bare' }

/** Runs for so many seconds, or until something breaks the rule. */
export const attack = ({ number, seconds, limits = LIMITS, plant, onFigures }: AttackOptions): Promise<Attack> => {
  const folder = mkdtempSync(join(tmpdir(), 'kerninst-hostile-'))
  const input = join(folder, 'input')
  const numbers = [number, seconds, limits.maxSeconds, limits.maxMb].map(String)
  const child = spawn(
    process.execPath,
    [`--max-old-space-size=${MAX_HEAP_MB}`, fileURLToPath(import.meta.url), folder, ...numbers, plant ?? ''],
    { stdio: ['ignore', 'pipe', 'pipe'] })
  let figures: Figures = { kinds: {}, peakMb: 0 }
  let what: string | undefined
  let kind = ''
  let said = ''
  let ready = false
  child.stderr.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-2000)))
  createInterface({ input: child.stdout }).on('line', (line) => {
    const message = JSON.parse(line) as Message
    if ('ready' in message) ready = true
    else if ('kind' in message) kind = message.kind
    else if ('finding' in message) what = message.finding
    else {
      figures = message.figures
      onFigures?.(figures)
    }
  })
  const watch = setInterval(() => {
    if (!ready) return
    const since = (Date.now() - (statSync(input, { throwIfNoEntry: false })?.mtimeMs ?? Date.now())) / 1000
    if (since < limits.maxSeconds * 2) return
    what ??= `did not end within ${since.toFixed(0)} s`
    child.kill('SIGKILL')
  }, POLL_MS)
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status, signal) => {
      clearInterval(watch)
      if (status !== 0) what ??= `the process ended: ${signal ?? `status ${status}`}: ${said}`
      const image = IMAGES[kind]
      const files = what === undefined ? [] : keep(folder, image && join(folder, 'seeds', image))
      rmSync(folder, { recursive: true })
      resolve({ figures, finding: what === undefined ? undefined : { what, kind, files } })
    })
  })
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [folder, number, seconds, maxSeconds, maxMb, plant] = process.argv.slice(2)
  const limits = { maxSeconds: Number(maxSeconds), maxMb: Number(maxMb) }
  await attackHere(folder!, Number(number), Number(seconds), limits, PLANTS.find((one) => one === plant))
}
