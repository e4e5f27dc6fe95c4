// Counts by conservation, in a guest: every block that can carry a counter carries one, and so does the taken side of
// every conditional jump that can; and each block's count is also solved for from the cheapest set, as a plan would have
// it. Where control balances as src/cfg/flows.ts says, the two agree, in the same run, but for threads in flight.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { readBundle } from '../../src/bundle/bundle.js'
import { findStaying } from '../../src/cfg/flows.js'
import { buildGraph } from '../../src/cfg/graph.js'
import { SecondDecoder } from '../../src/code/second.js'
import { readDump } from '../../src/dump/dump.js'
import type { Rva } from '../../src/image/rva.js'
import { loadImage } from '../../src/image/image.js'
import { solveLiveness } from '../../src/liveness/live.js'
import { reportNumbers } from '../../src/report/numbers.js'
import { countFlows } from '../../src/splice/counts.js'
import { Draft, LEVEL } from '../../src/splice/draft.js'
import { Ground, type PlannedFunction } from '../../src/splice/ground.js'
import { ROOT, buildInjector, buildModule, kernel, keygen, longOn, program } from './artefacts.js'
import { runGuest } from './guest.js'
import { usable } from './junk.js'
import { isTaken, placeOf, writeDraft } from './splices.js'
import { lottery, seed, seedNote } from '../lottery.js'

const KERNELS = longOn('6.12-cloud')
const MAX_SITES = 100_000 //  one stop of the machine takes them within a second, under TCG
const MIN_BLOCKS = 4 //       smaller functions say little
const FUNCTIONS = 500 //      that ran, with blocks to compare
const IN_FLIGHT = 70 //       threads of a guest, at most
const GUEST_SECONDS = 900 // other users of the host may slow it to a tenth

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-counts-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const SCRIPT = `
insmod /kerninst.ko || exit 1
dmesg -c > /dev/null
sh /broad.sh || exit 2 # flips the static keys that it will flip
texthash save /tmp/text || exit 3
kerninst-inject apply /bundle || exit 4
sh /broad.sh || exit 5
workload 20 || exit 6
kerninst-inject remove || exit 7
kerninst-inject dump -o /out/dump || exit 8
texthash diff /tmp/text || exit 9
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 10
exit 0
`

/** A block of a function: the counts that its own follows from, and the one that was taken there. */
interface Comparison {
  readonly fn: PlannedFunction
  readonly at: Rva
  readonly terms: Uint32Array // slot * 2, + 1 where it is subtracted
  readonly slot: number
}

/** Some functions, drawn by lot, with every block that can be counted both ways. */
const draw = (draft: Draft, staying: Uint8Array, random: (bound: number) => number): Comparison[] => {
  const { functions } = draft.ground.image
  const order = Array.from({ length: functions.count }, (_, f) => f)
  for (let i = order.length - 1; i > 0; i--) {
    const k = random(i + 1)
    ;[order[i], order[k]] = [order[k]!, order[i]!]
  }
  const compared: Comparison[] = []
  for (const index of order) {
    if (draft.siteFirst.length >= MAX_SITES) break
    const fn = usable(draft.ground, index)
    if (fn === undefined || fn.graph.blockCount < MIN_BLOCKS) continue
    const { asked, refusal, derived, start, term } = countFlows(draft, fn, staying, 'block')
    for (let b = 0; b < fn.graph.blockCount; b++) {
      if (!asked[b] || refusal[b] !== 0 || !derived[b]) continue
      for (let i = fn.graph.blockFirst[b]!; i < fn.graph.blockFirst[b + 1]!; i++) {
        const slot = draft.before(fn, i, LEVEL.shortJump)
        if (typeof slot !== 'number') continue
        compared.push({ fn, at: fn.graph.insns.rva[fn.graph.blockFirst[b]!]!, terms: term.subarray(start[b], start[b + 1]), slot })
        break
      }
    }
  }
  return compared
}

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    t.comment(seedNote)
    const target = kernel(name)
    const module = buildModule(target, key.cert, scratch)
    const image = loadImage(target.vmlinux)
    const graph = buildGraph(image)
    const draft = new Draft(new Ground(solveLiveness(graph), await SecondDecoder.load()))
    const compared = draw(draft, findStaying(graph), lottery(seed))
    const bundle = join(scratch, `${name}.bundle`)
    writeDraft(draft, undefined, key, bundle)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: module },
        { path: 'bundle', from: bundle },
        { path: 'broad.sh', from: join(ROOT, 'test/guest/broad.sh') },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: SCRIPT,
      append: 'preempt=full softlockup_panic=1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120',
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.filter((line) => !line.startsWith('+')).slice(-6).join(' | '))
    const dump = join(scratch, `${name}.dump`)
    writeFileSync(dump, result.files.get('dump') ?? '')
    const counts = new Map([...reportNumbers(readBundle(readFileSync(bundle)), readDump(dump)).points()]
      .map(({ point, count }) => [`${placeOf(point)} ${isTaken(point)}`, count]))
    const countOf = (slot: number): bigint => counts.get(`${graph.insns.rva[draft.slotInsn[slot]!]} ${draft.slotTakes[slot] === 1}`)!

    const ran = new Set<number>()
    const off: string[] = []
    let blocks = 0
    let inFlight = 0
    let most = 0n
    for (const { fn, at, terms, slot } of compared) {
      const measured = countOf(slot)
      let derived = 0n
      for (const term of terms) derived += term & 1 ? -countOf(term >>> 1) : countOf(term >>> 1)
      if (measured === 0n && derived === 0n) continue
      ran.add(fn.index)
      blocks++
      const difference = measured > derived ? measured - derived : derived - measured
      if (difference !== 0n) inFlight++
      if (difference > most) most = difference
      if (difference > IN_FLIGHT) off.push(`${fn.graph.name}+0x${(at - fn.graph.start).toString(16)}: ${measured} measured, ${derived} derived`)
    }
    t.comment(`${draft.siteFirst.length} sites, ${draft.slotInsn.length} counters; ${blocks} derived counts of blocks that ran, in ${ran.size} functions; ` +
      `${inFlight} of them off by threads in flight, at most ${most}`)
    t.same(off.slice(0, 20), [], 'derived counts are what was measured, up to threads in flight')
    t.ok(inFlight < blocks / 20, 'nearly all agree to the last run')
    t.ok(ran.size >= FUNCTIONS, `${ran.size} functions ran`)
    t.end()
  })
}
