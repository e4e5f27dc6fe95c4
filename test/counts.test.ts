// Counts by conservation, in a guest: every block that can carry a counter carries one, and so does the taken side of
// every conditional jump that can; and each block's count is also solved for from the cheapest set, as a plan would have
// it. Where control balances as src/cfg/flows.ts says, the two agree, in the same run, but for threads in flight.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { findStaying } from '../src/cfg/flows.js'
import { buildGraph } from '../src/cfg/graph.js'
import { SecondDecoder } from '../src/code/second.js'
import { readDump } from '../src/dump/dump.js'
import type { Rva } from '../src/image/rva.js'
import { loadImage } from '../src/image/image.js'
import { solveLiveness } from '../src/liveness/live.js'
import { reportNumbers } from '../src/report/numbers.js'
import { countBlocks, type Equation } from '../src/splice/counts.js'
import { siteRva, spliceBefore, type Ground, type PlannedFunction, type Splice } from '../src/splice/site.js'
import { ROOT, buildInjector, buildModule, kernel, keygen, program } from './guest/artefacts.js'
import { runGuest } from './guest/guest.js'
import { usable } from './guest/junk.js'
import { groundOf, placeOf, writeSplices } from './guest/splices.js'
import { lottery, seed, seedNote } from './lottery.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const MAX_SITES = 100_000 //  one stop of the machine takes them within a second, under TCG
const MIN_BLOCKS = 4 //       smaller functions say little
const FUNCTIONS = 500 //      that ran, with blocks to compare
const IN_FLIGHT = 70 //       threads of a guest, at most
const GUEST_SECONDS = 400

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-counts-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const SCRIPT = `
insmod /kerninst.ko || exit 1
dmesg -c > /dev/null
sh /broad.sh || exit 2 # flips the static keys that it will flip
texthash save /tmp/text || exit 3
echo splicing
kerninst-inject apply /bundle || exit 4
sh /broad.sh || exit 5
workload 20 || exit 6
kerninst-inject remove || exit 7
kerninst-inject dump -o /out/dump || exit 8
texthash diff /tmp/text || exit 9
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 10
exit 0
`

/** A block of a function: what its count follows from, and where it is also counted by itself. */
interface Comparison {
  readonly fn: PlannedFunction
  readonly at: Rva
  readonly equation: Equation
  readonly direct: Splice
}

/** Some functions, drawn by lot, with every block that can be counted both ways. */
const draw = (ground: Ground, staying: Uint8Array, random: (bound: number) => number): { splices: Splice[]; compared: Comparison[] } => {
  const { functions } = ground.image
  const order = Array.from({ length: functions.count }, (_, f) => f)
  for (let i = order.length - 1; i > 0; i--) {
    const k = random(i + 1)
    ;[order[i], order[k]] = [order[k]!, order[i]!]
  }
  const sites = new Map<Rva, Splice>()
  const compared: Comparison[] = []
  const accept = (splice: Splice): boolean => {
    const there = sites.get(siteRva(splice))
    return there === undefined || there.tactic === splice.tactic
  }
  const take = (splice: Splice): void => {
    if (!sites.has(siteRva(splice))) sites.set(siteRva(splice), splice)
  }
  for (const index of order) {
    if (sites.size >= MAX_SITES) break
    const fn = usable(ground, index)
    if (fn === undefined || fn.graph.blockCount < MIN_BLOCKS) continue
    const counts = countBlocks(ground, fn, staying, accept)
    for (const { count } of counts) if (typeof count !== 'string') [...count.plus, ...count.minus].forEach(take)
    for (const { block, count } of counts) {
      if (typeof count === 'string' || !count.derived) continue
      for (let i = fn.graph.blockFirst[block]!; i < fn.graph.blockFirst[block + 1]!; i++) {
        const direct = spliceBefore(ground, fn, i)
        if (typeof direct === 'string' || !accept(direct)) continue
        take(direct)
        compared.push({ fn, at: fn.graph.insns.rva[fn.graph.blockFirst[block]!]!, equation: count, direct })
        break
      }
    }
  }
  return { splices: [...sites.values()], compared }
}

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    t.comment(seedNote)
    const target = kernel(name)
    const module = buildModule(target, key.cert, scratch)
    const image = loadImage(target.vmlinux)
    const graph = buildGraph(image)
    const ground = groundOf(solveLiveness(graph), await SecondDecoder.load())
    const { splices, compared } = draw(ground, findStaying(graph), lottery(seed))
    const bundle = join(scratch, `${name}.bundle`)
    writeSplices(ground, splices, undefined, key, bundle)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: module },
        { path: 'bundle', from: bundle },
        { path: 'broad.sh', from: join(ROOT, 'test/guest/broad.sh') },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: SCRIPT,
      splicing: /^splicing$/,
      append: 'preempt=full rcupdate.rcu_cpu_stall_timeout=120',
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.filter((line) => !line.startsWith('+')).slice(-6).join(' | '))
    const dump = join(scratch, `${name}.dump`)
    writeFileSync(dump, result.files.get('dump') ?? '')
    const counts = new Map([...reportNumbers(readBundle(readFileSync(bundle)), readDump(dump)).points()]
      .map(({ point, count }) => [placeOf(point), count]))
    const countOf = (splice: Splice): bigint => counts.get(siteRva(splice))!
    const sum = (list: readonly Splice[]): bigint => list.reduce((total, splice) => total + countOf(splice), 0n)

    const ran = new Set<number>()
    const off: string[] = []
    let blocks = 0
    let inFlight = 0
    let most = 0n
    for (const { fn, at, equation, direct } of compared) {
      const measured = countOf(direct)
      const derived = sum(equation.plus) - sum(equation.minus)
      if (measured === 0n && derived === 0n) continue
      ran.add(fn.index)
      blocks++
      const difference = measured > derived ? measured - derived : derived - measured
      if (difference !== 0n) inFlight++
      if (difference > most) most = difference
      if (difference > IN_FLIGHT) off.push(`${fn.graph.name}+0x${(at - fn.graph.start).toString(16)}: ${measured} measured, ${derived} derived`)
    }
    t.comment(`${splices.length} sites; ${blocks} derived counts of blocks that ran, in ${ran.size} functions; ` +
      `${inFlight} of them off by threads in flight, at most ${most}`)
    t.same(off.slice(0, 20), [], 'derived counts are what was measured, up to threads in flight')
    t.ok(inFlight < blocks / 20, 'nearly all agree to the last run')
    t.ok(ran.size >= FUNCTIONS, `${ran.size} functions ran`)
    t.end()
  })
}
