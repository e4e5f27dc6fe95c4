// Liveness against two judges: brute force on small programs drawn by lot, and on whole kernels the checker, which shares
// no code with the solver (src/liveness/check.ts). And the checker against claims that are false.

import t from 'tap'
import { buildGraph } from '../src/cfg/graph.js'
import { ALL, namesOf } from '../src/code/registers.js'
import { loadImage, type Image } from '../src/image/image.js'
import { hex } from '../src/image/rva.js'
import { checkClaims } from '../src/liveness/check.js'
import type { Claims } from '../src/liveness/claims.js'
import { claimsOf, solveLiveness } from '../src/liveness/live.js'
import { kernel, mustKerninst } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { BruteForce, TooLong, drawProgram, imageOf, listing } from './programs.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const PROGRAMS = Number(process.env['KERNINST_PROGRAMS'] ?? 10_000)
const BROKEN = 4000 // claims of each kind

/** One of the bits that are set in a word, drawn by lot; 0 if there is none. */
const oneBit = (word: number, random: (bound: number) => number): number => {
  const bits = Array.from({ length: 22 }, (_, i) => 1 << i).filter((bit) => word & bit)
  return bits.length === 0 ? 0 : bits[random(bits.length)]!
}

t.test('small programs: the solver and brute force agree, and the checker accepts just that', (t) => {
  t.comment(seedNote)
  let tooLong = 0
  let places = 0
  let broken = 0
  for (let n = 0; n < PROGRAMS; n++) {
    const random = lottery(seed + n)
    const program = drawProgram(random)
    const image = imageOf(program)
    const claims = claimsOf(solveLiveness(buildGraph(image)))
    const wrong: string[] = []
    try {
      const brute = new BruteForce(program)
      program.steps.forEach((_, i) => {
        const [ours, theirs] = [claims.live[i]!, brute.liveAt(i)]
        if (ours !== theirs) wrong.push(`${i}: ${namesOf(ours & ~theirs)} only the solver, ${namesOf(theirs & ~ours)} only brute force`)
      })
    } catch (error) {
      if (!(error instanceof TooLong)) throw error
      tooLong++
    }
    places += program.steps.length
    for (const { rva, what } of checkClaims(image, claims).findings) wrong.push(`${hex(rva)}: ${what}`)
    const i = random(claims.live.length)
    const bit = oneBit(claims.live[i]!, random)
    if (bit !== 0) {
      broken++
      const live = claims.live.slice()
      live[i]! &= ~bit
      if (checkClaims(image, { ...claims, live }).findings.length === 0) wrong.push(`${i}: ${namesOf(bit)} is not missed`)
    }
    if (wrong.length === 0) continue
    t.fail(`program ${seed + n}:\n${listing(program)}\n${wrong.join('\n')}`)
    break
  }
  t.ok(tooLong < PROGRAMS / 20, `${places} places in ${PROGRAMS} programs, ${tooLong} of them too long to walk`)
  t.ok(broken > PROGRAMS / 2, `${broken} claims too few noticed`)
  t.end()
})

type Column = 'live' | 'reads' | 'defines' | 'exit' | 'returning' | 'own'

/** A claim made false: the word at a place of a column. */
interface Break {
  readonly place: number
  readonly word: number
}

/** Draws claims to break, no place twice. */
const drawBreaks = (
  words: Claims[Column], random: (bound: number) => number, breaks: (word: number, place: number) => number | undefined,
): Break[] => {
  const drawn = new Map<number, Break>()
  for (let n = 0; n < BROKEN; n++) {
    const place = random(words.length)
    const word = breaks(words[place]!, place)
    if (word !== undefined) drawn.set(place, { place, word })
  }
  return [...drawn.values()]
}

/** Those false claims that the checker does not name. */
const missed = (image: Image, claims: Claims, column: Column, breaks: readonly Break[]): Break[] => {
  const words = claims[column].slice()
  for (const { place, word } of breaks) words[place] = word
  const named = new Set(checkClaims(image, { ...claims, [column]: words }).findings.map(({ rva }) => rva))
  return breaks.filter(({ place }) => !named.has(claims.rva[column === 'live' ? place : claims.blockFirst[place]!]!))
}

for (const name of KERNELS) {
  t.test(name, (t) => {
    const random = lottery(seed)
    const image = loadImage(kernel(name).vmlinux)
    const claims = claimsOf(solveLiveness(buildGraph(image)))
    const verdict = checkClaims(image, claims)
    t.same(verdict.findings.slice(0, 20), [], `${verdict.instructions} instructions, ${verdict.ways} ways hold`)

    // The vmlinuz, with names from its own kallsyms tables only, as users ask for it.
    const { checked } = JSON.parse(mustKerninst('analyze', kernel(name).vmlinuz, '--check', '--json')) as { checked: Record<string, number> }
    t.equal(checked['findings'], 0, `vmlinuz: ${checked['instructions']} instructions`)
    if (name !== KERNELS[0]) return t.end() // the checker is the same for every kernel

    const fewer = (word: number): number | undefined => (word === 0 ? undefined : word & ~oneBit(word, random))
    const cases: Record<Column, Break[]> = {
      live: drawBreaks(claims.live, random, fewer),
      reads: drawBreaks(claims.reads, random, fewer),
      defines: drawBreaks(claims.defines, random, (word) => (word === ALL ? undefined : word | oneBit(~word, random))),
      exit: drawBreaks(claims.exit, random, fewer),
      own: drawBreaks(claims.own, random, fewer),
      returning: drawBreaks(claims.returning, random, (word) => (word === 0 ? undefined : 0)),
    }
    for (const column of ['live', 'reads', 'defines', 'exit', 'returning', 'own'] as const) {
      const breaks = cases[column]
      t.ok(breaks.length > BROKEN / 4, `${breaks.length} false claims: ${column}`)
      // One may hide another that follows from it; such a pair is rare, so those are tried without the rest, and then alone.
      const hidden = missed(image, claims, column, breaks)
      t.ok(hidden.length < breaks.length / 100, `${hidden.length} of them hidden by others`)
      const left = hidden.length === 0 ? [] : missed(image, claims, column, hidden)
      const alone = left.flatMap((one) => missed(image, claims, column, [one]))
      t.same(alone.map(({ place }) => place), [], `each is named: ${column}`)
    }
    t.end()
  })
}
