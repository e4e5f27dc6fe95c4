// How many instructions counting every block of the kernel adds to each block that runs: by conservation, as a plan of
// `block:*` does it, beside one counter in every block, each put where it costs least. The same workload in the same
// boot, without and with the counters, in instructions (QEMU's -icount shift=0, one CPU; bench/spent.c).
//
// One counter per block of the whole kernel would not fit into a bundle. What never runs costs nothing, so that side
// has counters in the functions that ran under the first. Some of their blocks find no room for one beside the others:
// both sides are compared over the blocks that have one, and must agree on how often those ran.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { readBundle } from '../src/bundle/bundle.js'
import { buildGraph } from '../src/cfg/graph.js'
import { SecondDecoder } from '../src/code/second.js'
import { readDump } from '../src/dump/dump.js'
import { loadImage } from '../src/image/image.js'
import type { Rva } from '../src/image/rva.js'
import { solveLiveness } from '../src/liveness/live.js'
import { reportNumbers, type ReportNumbers } from '../src/report/numbers.js'
import { countEach, whyNoFlows } from '../src/splice/counts.js'
import { Draft } from '../src/splice/draft.js'
import { Ground } from '../src/splice/ground.js'
import { buildInjector, buildModule, kernel, keygen, plan, program, type Kernel, type Key } from '../test/guest/artefacts.js'
import { runGuest } from '../test/guest/guest.js'
import { writeDraft } from '../test/guest/splices.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const TIMES = 3 // the workload is run, each way; the median counts
const COMMAND = 'workload 20'
const MAX_DIFFERENCE = 0.05 // of the runs that the two sides count
const GUEST_SECONDS = 1500

// The second dump less the first is what ran in between.
const SCRIPT = `
insmod /kerninst.ko || exit 1
${COMMAND} || exit 2
row() { i=0; while [ $i -lt ${TIMES} ]; do echo "$1 $(spent ${COMMAND} | grep spent)" || exit 3; i=$((i + 1)); done; }
row bare
kerninst-inject apply /bundle || exit 4
${COMMAND} || exit 5
kerninst-inject dump -o /out/first || exit 6
row counted
kerninst-inject dump -o /out/second || exit 7
kerninst-inject remove || exit 8
row again
`

interface Side {
  readonly added: number //                instructions, of one run of the workload
  readonly runs: ReadonlyMap<Rva, number> // block -> how often it ran in it
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!

async function measure(target: Kernel, key: Key, injector: string, bundle: string, scratch: string): Promise<Side> {
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    files: [
      ...[injector, program('test/guest/workload.c', join(scratch, 'bin')), program('bench/spent.c', join(scratch, 'bin'))]
        .map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      { path: 'bundle', from: bundle },
      { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
    ],
    script: SCRIPT,
    cpus: 1,
    icount: true,
    seconds: GUEST_SECONDS,
  })
  if (result.exit !== 0) throw new Error(`${target.name}: the guest's script ended with ${result.exit}\n${result.lines.slice(-12).join('\n')}`)
  const spent = (row: string): number => {
    const values = result.lines.flatMap((line) => new RegExp(`^${row} spent (\\d+)$`).exec(line)?.slice(1).map(Number) ?? [])
    if (values.length !== TIMES) throw new Error(`${target.name}: ${values.length} of ${TIMES} rows ${row}`)
    return 1000 * median(values)
  }
  const [bare, counted, again] = [spent('bare'), spent('counted'), spent('again')]
  if (Math.abs(again - bare) > 0.05 * (counted - bare)) throw new Error(`${target.name}: the bare workload took ${bare} instructions, then ${again}`)
  const made = readBundle(readFileSync(bundle))
  const numbersOf = (file: string): ReportNumbers => {
    writeFileSync(`${bundle}.${file}`, result.files.get(file) ?? '')
    return reportNumbers(made, readDump(`${bundle}.${file}`))
  }
  const [before, after] = [numbersOf('first'), numbersOf('second')]
  const runs = new Map<Rva, number>()
  after.served.forEach((p, row) => {
    runs.set(after.manifest.points.rva[p]!, Number(after.counts[row]! - before.counts[row]!) / TIMES)
  })
  return { added: counted - bare, runs }
}

/**
 * Writes a bundle with one counter in each block of the functions in which something ran.
 * @returns instruction before which a block is counted -> start of the block
 */
async function oneEach(target: Kernel, key: Key, ran: ReadonlyMap<Rva, number>, bundle: string): Promise<Map<Rva, Rva>> {
  const image = loadImage(target.vmlinux)
  const draft = new Draft(new Ground(solveLiveness(buildGraph(image)), await SecondDecoder.load()))
  const functions = new Set<number>()
  for (const [rva, runs] of ran) if (runs > 0) functions.add(image.functions.functionAt(rva))
  const blockAt = new Map<Rva, Rva>()
  for (const f of functions) {
    const fn = draft.ground.prepare(f)
    if (whyNoFlows(fn) !== '') continue
    const { start, term } = countEach(draft, fn, 'block')
    for (let b = 0; b < fn.graph.blockCount; b++) {
      if (start[b] === start[b + 1]) continue
      blockAt.set(draft.ground.start(draft.slotInsn[term[start[b]!]! >>> 1]!), fn.graph.insns.rva[fn.graph.blockFirst[b]!]!)
    }
  }
  writeDraft(draft, undefined, key, bundle)
  return blockAt
}

const sum = (values: Iterable<number>): number => {
  let total = 0
  for (const value of values) total += value
  return total
}

/** Measures and prints, kernel by kernel. */
export async function benchBlocks(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'kerninst-bench-'))
  try {
    const key = keygen(scratch, 'bench')
    const injector = buildInjector(scratch)
    process.stdout.write('Instructions that counting every block adds to each block that runs, counted in the guest (-icount shift=0)\n\n')
    process.stdout.write('           by conservation   one counter per block   ratio   blocks that ran\n')
    for (const name of KERNELS) {
      const target = kernel(name)
      process.stderr.write(`bench: ${target.release}\n`)
      const [ours, theirs] = [join(scratch, `${name}.whole`), join(scratch, `${name}.each`)]
      plan(target, ['block:* { @ = count() }'], key, ours)
      const conserved = await measure(target, key, injector, ours, scratch)
      const blockAt = await oneEach(target, key, conserved.runs, theirs)
      const each = await measure(target, key, injector, theirs, scratch)
      const all = sum(conserved.runs.values())
      const both = sum([...blockAt.values()].map((block) => conserved.runs.get(block) ?? 0))
      const counted = sum(each.runs.values())
      if (Math.abs(both - counted) > MAX_DIFFERENCE * counted) throw new Error(`${name}: the same blocks ran ${both} times, then ${counted} times`)
      const [one, other] = [conserved.added / all, each.added / counted]
      process.stdout.write(`${name.padEnd(11)}${one.toFixed(2).padStart(15)} ${other.toFixed(2).padStart(23)} ${(one / other).toFixed(2).padStart(7)} ` +
        `${(all / 1e6).toFixed(2).padStart(9)} million; ${(both / 1e6).toFixed(2)} and ${(counted / 1e6).toFixed(2)} of blocks with a counter\n`)
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
