// How much of the text that may be instrumented can be: blocks, single instructions each alone and a tenth of them at
// once, entries and returns; by tactic and by refusal, on three kernels. What may be instrumented is all of .text but what
// never is a site: where every byte of a block, an instruction or a way out is reserved for good (splice/reserved.ts).
// With names of kernels after it, only those. No times: README's figures of cost come from bench.ts.

import { homedir } from 'node:os'
import { join } from 'node:path'
import { cutFunction } from '../src/cfg/function.js'
import { buildGraph } from '../src/cfg/graph.js'
import { SecondDecoder } from '../src/code/second.js'
import { loadImage } from '../src/image/image.js'
import { NONE, type Rva } from '../src/image/rva.js'
import { solveLiveness } from '../src/liveness/live.js'
import { resolvePoints } from '../src/probe/points.js'
import { readRequests } from '../src/probe/requests.js'
import { checkPlan } from '../src/splice/check.js'
import { Draft, LEVEL } from '../src/splice/draft.js'
import { changesGs, Ground } from '../src/splice/ground.js'
import { makePlan, type Plan } from '../src/splice/plan.js'
import { CODES } from '../src/splice/refusal.js'
import { instrumentableBytes } from '../src/splice/reserved.js'
import { TACTIC, TACTIC_NAMES } from '../src/splice/tactics.js'
import { lottery } from '../test/lottery.js'

const CACHE = process.env['KERNINST_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'kerninst')
const KERNELS = ['6.1-cloud', '6.12-cloud', '6.1-rt']
const SEED = 20261125
const TENTH = 10
/** Of all instructions, one in so many is planned by itself: each needs a draft of its own. */
const ALONE = 40

const say = (line = ''): boolean => process.stdout.write(line + '\n')
const percent = (part: number, all: number): string => `${((100 * part) / all).toFixed(2)} %`

const counted = (counts: Map<string, number>): string =>
  [...counts].sort((a, b) => b[1] - a[1]).map(([what, count]) => `${what} ${count}`).join(', ') || 'none'

const add = (counts: Map<string, number>, what: string, by = 1): void => {
  counts.set(what, (counts.get(what) ?? 0) + by)
}

/** Whether every instruction of a block is reserved, so that no probe may ever be in it. */
const neverBlock = (ground: Ground, rva: Rva): boolean => {
  const { graph } = ground
  const i = graph.index.at(rva)
  if (i === NONE) return true
  for (let k = graph.blockFirst[graph.blockOf[i]!]!; k < graph.blockFirst[graph.blockOf[i]! + 1]!; k++) {
    if (!touched(ground, k)) return false
  }
  return true
}

/** Whether a byte of an instruction is reserved for good. */
const touched = (ground: Ground, insn: number): boolean => {
  const { image: { textStart, textEnd }, reserved } = ground
  const start = ground.start(insn)
  const end = ground.end(insn)
  if (start < textStart || end > textEnd || ground.whyNotMove(insn) === 'endbr') return true
  for (let i = start - textStart; i < end - textStart; i++) if (reserved[i] !== 0 && CODES[reserved[i]!] !== 'return-site') return true
  return false
}

/** What a plan serves. @param weight how many things a refused point stands for; 0 where it is in text that is never a site */
const describe = (what: string, plan: Plan, weight: (point: number) => number): void => {
  const { points, encoded } = plan
  const refused = new Map<string, number>()
  let all = 0
  let served = 0
  let derived = 0
  for (let p = 0; p < points.count; p++) {
    const code = CODES[points.refusal[p]!]!
    if (code === '') {
      all++
      served++
      derived += points.derived[p]!
      continue
    }
    const stands = weight(p)
    if (stands === 0) continue
    all += stands
    add(refused, code, stands)
  }
  const tactics = new Map<string, number>()
  for (const tactic of encoded.siteTactic) if (tactic !== TACTIC.springboard) add(tactics, TACTIC_NAMES[tactic]!)
  say(`  ${what}: ${percent(served, all)} (${served} of ${all}, ${derived} derived), by ${encoded.tables.slotCount} counters`)
  say(`    tactics: ${counted(tactics)}`)
  say(`    refused: ${counted(refused)}`)
}

/** Single instructions, each by itself or together. */
const instructions = (ground: Ground, random: (bound: number) => number, oneIn: number, alone: boolean): void => {
  const { image: { functions, textStart, textEnd } } = ground
  const draft = new Draft(ground)
  let all = 0
  let served = 0
  const refused = new Map<string, number>()
  const tactics = new Map<string, number>()
  for (let f = 0; f < functions.count; f++) {
    const start = functions.start[f]!
    if (start < textStart || start >= textEnd) continue
    const fn = ground.prepare(f)
    const { insns } = fn.graph
    const gs = changesGs(fn.graph)
    for (let i = 0; i < insns.count; i++) {
      const rva = insns.rva[i]!
      if (rva < start || rva >= functions.end[f]! || functions.functionAt(rva) !== f || random(oneIn) !== 0) continue
      const whole = ground.graph.index.at(rva)
      if (touched(ground, whole)) continue
      all++
      const got = gs ? 'gs-changes' : alone ? draft.wayBefore(fn, i) : draft.before(fn, i, LEVEL.shortJump)
      if (typeof got === 'string') {
        add(refused, got)
        continue
      }
      served++
      if (alone) add(tactics, TACTIC_NAMES[got]!)
    }
  }
  if (!alone) for (const tactic of draft.siteTactic) add(tactics, TACTIC_NAMES[tactic]!)
  say(`  ${alone ? `instructions, one in ${oneIn}, each alone` : 'a tenth of all instructions at once'}: ${percent(served, all)} (${served} of ${all})`)
  say(`    tactics: ${counted(tactics)}`)
  say(`    refused: ${counted(refused)}`)
}

const wanted = process.argv.slice(2)
for (const name of wanted.length > 0 ? wanted : KERNELS) {
  const image = loadImage(join(CACHE, 'kernels', name, 'vmlinux'))
  const graph = buildGraph(image)
  const live = solveLiveness(graph)
  const second = await SecondDecoder.load()
  const ground = new Ground(live, second)
  say(`${image.release}: .text ${image.textEnd - image.textStart} bytes, ` +
    `of them ${instrumentableBytes(image, ground.reserved)} of functions that may be instrumented`)
  const planOf = (text: string): Plan => {
    const plan = makePlan(live, second, resolvePoints(image, readRequests([{ text, source: 'coverage' }]).rows))
    checkPlan(graph, plan.encoded, plan.reserved, second)
    return plan
  }
  const blocks = planOf('block:* { @ = count() }')
  describe('blocks', blocks, (p) => {
    if (blocks.points.rva[p] !== NONE) return neverBlock(ground, blocks.points.rva[p]!) ? 0 : 1
    // A function that is refused as a whole: all its blocks.
    const { fn } = blocks.points.asked[blocks.points.of[p]!]!
    if (fn === NONE) return 1
    let count = 0
    for (const b of cutFunction(graph, fn).block) if (!neverBlock(ground, ground.start(graph.blockFirst[b]!))) count++
    return count
  })
  const exits = planOf('entry:*,return:* { @ = count() }')
  describe('entries and returns', exits, (p) => {
    if (CODES[exits.points.refusal[p]!] === 'never-returns') return 0 // there is nothing to serve
    const { fn } = exits.points.asked[exits.points.of[p]!]!
    const at = exits.points.rva[p] !== NONE ? exits.points.rva[p]! : fn === NONE ? NONE : image.functions.start[fn]!
    return at !== NONE && neverBlock(ground, at) ? 0 : 1
  })
  instructions(ground, lottery(SEED), ALONE, true)
  instructions(ground, lottery(SEED), TENTH, false)
  say()
}
