// What planning costs: processor time of `kerninst plan` for all blocks of a kernel, as a process from start to end,
// beside that of `objdump -d` of the same image; peak memory; the size of the bundle; and how time grows with the number
// of sites.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { processorSeconds } from './analysis.js'
import { ROOT, kernel } from '../test/guest/artefacts.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const ROUNDS = 3
const MAX_RATIO = 3
const MAX_PEAK_MB = 1536
const CLI = join(ROOT, 'dist/cli.js')

/** Parts of a kernel, by the first letters of its functions. */
const PARTS = ['s', 'st', 'abst', 'abcdest', 'abcdefghilmnpst'].map((letters) => [...letters].map((letter) => `block:${letter}*`).join())

interface Planned {
  sites: number
  bundleBytes: number
  seconds: Record<string, number>
  peakRssMb: number
}

/** Measures and prints. */
export function benchPlanning(): void {
  const scratch = mkdtempSync(join(tmpdir(), 'kerninst-bench-'))
  const bundle = join(scratch, 'bundle')
  const plan = (image: string, points: string): Planned => {
    const { status, stdout, stderr } = spawnSync(process.execPath,
      [CLI, 'plan', image, '-o', bundle, '-e', `${points} { @ = count() }`, '--json'], { encoding: 'utf8', maxBuffer: 1 << 28 })
    if (status !== 0) throw new Error(stderr)
    return JSON.parse(stdout) as Planned
  }
  try {
    process.stdout.write(`Processor time of planning all blocks of a kernel, process from start to end, best of ${ROUNDS}\n\n`)
    process.stdout.write('           kerninst plan   objdump -d   ratio      peak      sites   bundle   bytes/site\n')
    for (const name of KERNELS) {
      const { vmlinux, release } = kernel(name)
      process.stderr.write(`bench: ${release}\n`)
      let ours = Infinity
      let theirs = Infinity
      for (let round = 0; round < ROUNDS; round++) {
        ours = Math.min(ours, processorSeconds(process.execPath, CLI, 'plan', vmlinux, '-o', bundle, '-e', 'block:* { @ = count() }'))
        theirs = Math.min(theirs, processorSeconds('objdump', '-d', vmlinux))
      }
      const { sites, bundleBytes, peakRssMb } = plan(vmlinux, 'block:*')
      process.stdout.write(`${name.padEnd(11)}${ours.toFixed(2).padStart(11)} s ${theirs.toFixed(2).padStart(10)} s ` +
        `${(ours / theirs).toFixed(2).padStart(7)} ${String(peakRssMb).padStart(6)} MB ${String(sites).padStart(10)} ` +
        `${(bundleBytes / 1e6).toFixed(1).padStart(5)} MB ${(bundleBytes / sites).toFixed(0).padStart(12)}\n`)
      if (ours > MAX_RATIO * theirs) process.stdout.write(`  more than ${MAX_RATIO} times as much\n`)
      if (peakRssMb > MAX_PEAK_MB) process.stdout.write(`  more than ${MAX_PEAK_MB} MB\n`)
    }
    process.stdout.write('\nGrowth, 6.1: seconds of the stages that plan, check and write\n\n     sites   seconds   per 100,000\n')
    for (const points of [...PARTS, '*'].map((part) => (part === '*' ? 'block:*' : part))) {
      const { sites, seconds } = plan(kernel(KERNELS[0]!).vmlinux, points)
      const sum = ['plan', 'check', 'manifest', 'bundle'].reduce((total, stage) => total + seconds[stage]!, 0)
      process.stdout.write(`${String(sites).padStart(10)} ${sum.toFixed(2).padStart(9)} ${((100_000 * sum) / sites).toFixed(2).padStart(13)}\n`)
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
