// What the analysis of a whole kernel costs: processor time of `kerninst analyze`, as a process from start to end, beside
// that of `objdump -d` of the same sections; its peak memory; and how time grows with the size of the text.
//
// Processor time is user and system time of all threads. Runs of the two alternate, and the least of each counts:
// whatever else the machine does only adds.

import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { ROOT, kernel } from '../test/guest/artefacts.js'
import { buildGraph } from '../src/cfg/graph.js'
import { openElf, SHF } from '../src/image/elf.js'
import { loadImage } from '../src/image/image.js'
import { solveLiveness, type Scope } from '../src/liveness/live.js'
import { analyze, type Free } from '../src/report/analysis.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const ROUNDS = 5
const MAX_RATIO = 0.8
const MAX_PEAK_MB = 600
const ANALYZE = join(ROOT, 'dist/cli.js')
const PIECE = fileURLToPath(new URL('piece.js', import.meta.url))
/** What part of which kernels, as piece.js takes it. */
const SIZES = [['half of 6.1', '0.5', ['6.1-cloud']], ['6.1', '1', ['6.1-cloud']], ['6.1 and 6.12', '1', KERNELS]] as const

/** Seconds of processor time of a command, its output thrown away. The shell's `times` tells them on its second line. */
export function processorSeconds(command: string, ...args: string[]): number {
  const { status, stdout, stderr } = spawnSync('sh', ['-c', '"$@" > /dev/null; code=$?; times; exit $code', 'sh', command, ...args],
    { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${command} ${args.join(' ')}: ${stderr}`)
  const times = [...stdout.trim().split('\n')[1]!.matchAll(/(\d+)m([\d.]+)s/g)]
  return times.reduce((sum, [, minutes, seconds]) => sum + 60 * Number(minutes) + Number(seconds), 0)
}

/** The executable sections of a vmlinux. */
function codeSections(path: string): { name: string, size: number }[] {
  const elf = openElf(path)
  try {
    return elf.sections.filter(({ flags }) => (flags & SHF.alloc) !== 0 && (flags & SHF.execinstr) !== 0)
  } finally {
    elf.close()
  }
}

/** Measures and prints. */
export function benchAnalysis(): void {
  process.stdout.write(`Processor time of a whole kernel's analysis, process from start to end, best of ${ROUNDS}\n\n`)
  process.stdout.write('                        code    kerninst analyze   objdump -d   ratio      peak\n')
  for (const name of KERNELS) {
    const { vmlinux, release } = kernel(name)
    process.stderr.write(`bench: ${release}\n`)
    const sections = codeSections(vmlinux)
    const only = sections.flatMap((section) => ['-j', section.name])
    let ours = Infinity
    let theirs = Infinity
    for (let round = 0; round < ROUNDS; round++) {
      ours = Math.min(ours, processorSeconds(process.execPath, ANALYZE, 'analyze', vmlinux))
      theirs = Math.min(theirs, processorSeconds('objdump', '-d', ...only, vmlinux))
    }
    const json = execFileSync(process.execPath, [ANALYZE, 'analyze', vmlinux, '--json'], { encoding: 'utf8' })
    const { peakRssMb } = JSON.parse(json) as { peakRssMb: number }
    const megabytes = sections.reduce((sum, { size }) => sum + size, 0) / 2 ** 20
    process.stdout.write(`${release.padEnd(20)}${megabytes.toFixed(1).padStart(5)} MB` +
      `${ours.toFixed(2).padStart(18)} s${theirs.toFixed(2).padStart(11)} s${(ours / theirs).toFixed(2).padStart(8)}${`${peakRssMb}`.padStart(7)} MB\n`)
    if (ours / theirs > MAX_RATIO) throw new Error(`${name}: more than ${MAX_RATIO} of objdump's time`)
    if (peakRssMb > MAX_PEAK_MB) throw new Error(`${name}: more than ${MAX_PEAK_MB} MB`)
  }
  process.stdout.write('\nGrowth: control flow and liveness alone, without reading the image\n\n')
  process.stdout.write('                   instructions   control flow   liveness   per million instructions\n')
  for (const [label, share, names] of SIZES) {
    process.stderr.write(`bench: ${label}\n`)
    let best = { instructions: 0, graph: Infinity, liveness: Infinity }
    for (let round = 0; round < ROUNDS; round++) {
      const paths = names.map((name) => kernel(name).vmlinux)
      const once = JSON.parse(execFileSync(process.execPath, [PIECE, share, ...paths], { encoding: 'utf8' })) as typeof best
      if (once.graph + once.liveness < best.graph + best.liveness) best = once
    }
    const { instructions, graph, liveness } = best
    process.stdout.write(`${label.padEnd(19)}${instructions.toString().padStart(12)}${graph.toFixed(2).padStart(13)} s` +
      `${liveness.toFixed(2).padStart(9)} s${((graph + liveness) / instructions * 1e6).toFixed(3).padStart(17)} s\n`)
  }
  process.stdout.write('\n')
  benchFree()
}

/** How much is free, with what functions know of each other and with what each knows alone. */
function benchFree(): void {
  process.stdout.write('Where registers and flags are free, in % of places: each function by itself → the kernel as a whole\n\n')
  process.stdout.write('                                         flags    one register             two           three   flags and one\n')
  for (const name of KERNELS) {
    const { vmlinux, release } = kernel(name)
    process.stderr.write(`bench: ${release}\n`)
    const graph = buildGraph(loadImage(vmlinux))
    const by = (scope: Scope): [place: string, free: Free][] => {
      const { free, freeAt } = analyze(solveLiveness(graph, scope))
      return [['instructions', free], ['block starts', freeAt.blockStarts], ['entries', freeAt.entries], ['returns', freeAt.returns]]
    }
    const alone = by('function')
    by('kernel').forEach(([place, whole], i) => {
      const cells = (['flags', 'gpr1', 'gpr2', 'gpr3', 'flagsAndGpr1'] as const).map((kind) =>
        [alone[i]![1], whole].map((free) => (100 * free[kind] / free.places).toFixed(1).padStart(4)).join(' → ').padStart(16))
      process.stdout.write(`${(i === 0 ? release.split('-')[0]! : '').padEnd(16)}${place.padEnd(14)}${cells.join('')}\n`)
    })
  }
  process.stdout.write('\n')
}
