// How many instructions counting every block of the kernel adds to each block that runs: by conservation, as a plan of
// `block:*` does it, beside one counter in every block, each put where it costs least. The same workload in the same
// boot, without and with the counters, in instructions (QEMU's -icount shift=0, one CPU; bench/spent.c).
//
// One counter per block of the whole kernel would not fit into a bundle. What never runs costs nothing, so that side
// has counters in the functions that ran under the first; the blocks that both sides count say whether that holds.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { readBundle } from '../src/bundle/bundle.js'
import { buildGraph } from '../src/cfg/graph.js'
import { SecondDecoder } from '../src/code/second.js'
import { readDump } from '../src/dump/dump.js'
import { loadImage } from '../src/image/image.js'
import { NONE } from '../src/image/rva.js'
import { solveLiveness } from '../src/liveness/live.js'
import { reportNumbers, type ReportNumbers } from '../src/report/numbers.js'
import { countEach, whyNoFlows } from '../src/splice/counts.js'
import { Draft } from '../src/splice/draft.js'
import { Ground } from '../src/splice/ground.js'
import { buildInjector, buildModule, kernel, keygen, plan, program, type Kernel, type Key } from '../test/guest/artefacts.js'
import { runGuest } from '../test/guest/guest.js'
import { writeDraft } from '../test/guest/splices.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const TIMES = 5 // the workload is run, each way; the median counts
const COMMAND = 'workload 2'
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
  readonly added: number //  instructions, of one run of the workload
  readonly blocks: number // that ran in it
  readonly sites: number
  readonly numbers: ReportNumbers
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
  const [before, numbers] = [numbersOf('first'), numbersOf('second')]
  const total = (of: ReportNumbers): bigint => of.counts.reduce((sum, count) => sum + count, 0n)
  return { added: counted - bare, blocks: Number(total(numbers) - total(before)) / TIMES, sites: numbers.siteCount, numbers }
}

/** The functions with a block that ran. */
const functionsThatRan = ({ manifest, served, counts }: ReportNumbers): Set<number> => {
  const starts = new Set<number>()
  served.forEach((p, row) => {
    if (counts[row]! > 0n) starts.add(manifest.asked.start[manifest.points.of[p]!]!)
  })
  return starts
}

/** A bundle with one counter in each block of these functions. */
async function oneEach(target: Kernel, key: Key, starts: ReadonlySet<number>, bundle: string): Promise<void> {
  const image = loadImage(target.vmlinux)
  const draft = new Draft(new Ground(solveLiveness(buildGraph(image)), await SecondDecoder.load()))
  for (let f = 0; f < image.functions.count; f++) {
    if (!starts.has(image.functions.start[f]!) || image.functions.start[f] === NONE) continue
    const fn = draft.ground.prepare(f)
    if (whyNoFlows(fn) === '') countEach(draft, fn, 'block')
  }
  writeDraft(draft, undefined, key, bundle)
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
      await oneEach(target, key, functionsThatRan(conserved.numbers), theirs)
      const each = await measure(target, key, injector, theirs, scratch)
      const [one, other] = [conserved.added / conserved.blocks, each.added / each.blocks]
      process.stdout.write(`${name.padEnd(11)}${one.toFixed(2).padStart(15)} ${other.toFixed(2).padStart(23)} ${(one / other).toFixed(2).padStart(7)} ` +
        `${(conserved.blocks / 1e6).toFixed(2).padStart(9)} and ${(each.blocks / 1e6).toFixed(2)} million\n`)
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
