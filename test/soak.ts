// `npm run soak [-- PART [KERNEL...]]`: what is too long for `npm test`, on each kernel. Three parts, the last one only where it is
// asked for:
//
//   whole  - the whole kernel at once, with and without preemption of the kernel: every entry and every return; every
//            block; and every block again, laid out by what the first dump says. Applied and removed several times, under
//            load, while the function tracer is switched on and off.
//   cycles - random bundles of 1 to 60,000 sites applied and removed, KERNINST_CYCLES times (1,000), while everybody else
//            writes kernel text as well (test/guest/cycles.ts). KERNINST_BUNDLES of them (12), drawn from KERNINST_SEED.
//   tests  - the guest tests that take longest, all of them on both kernels, with 100,000 damaged payloads.
//
// In: the kernels that prepare.mjs fetched. Out: figures on stdout, progress of cycles on stderr; exit code 1 where a text
// differed afterwards, a count went wrong, or the kernel complained.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readBundle } from '../src/bundle/bundle.js'
import { readDump } from '../src/dump/dump.js'
import { reportNumbers } from '../src/report/numbers.js'
import {
  ROOT, buildInjector, buildModule, buildSmallModule, kernel, keygen, plan, program, type Kernel, type PlanSummary,
} from './guest/artefacts.js'
import { planCycles, runCycles } from './guest/cycles.js'
import { runGuest } from './guest/guest.js'
import { lottery, seed, seedNote } from './lottery.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const MODELS = ['', 'preempt=full']
const ROUNDS = 3
const IN_FLIGHT = 70 // threads of a guest, at most
const GUEST_SECONDS = 1800

const CYCLES = Number(process.env['KERNINST_CYCLES'] ?? 1000)
const BUNDLES = Number(process.env['KERNINST_BUNDLES'] ?? 12)
const MOST_SITES = 60_000
const CYCLES_PER_GUEST = 100 // so that little is lost with a guest

const ENDS = 'entry:*, return:* { @ = count() }'
const BLOCKS = 'block:* { @ = count() }'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-soak-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'soak')
const injector = buildInjector(scratch)
const tools = ['workload', 'texthash', 'judge', 'calls'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))

// The warm-up also makes the tracer's trampolines, and what flips once flip.
const SCRIPT = `
tracer() { echo $1 > /sys/kernel/tracing/current_tracer || exit 11; }
insmod /kerninst.ko || exit 1
dmesg -c > /dev/null # the command line names what is looked for at the end
workload 1 || exit 2
tracer function; workload 1 || exit 2; tracer nop
texthash save /tmp/text || exit 3
workload -t 100000 & load=$!
i=0
while [ $i -lt ${ROUNDS} ]; do
  kerninst-inject apply /bundle || exit 4
  tracer function
  workload 2 || exit 5
  tracer nop
  workload 1 || exit 5
  tracer function
  kerninst-inject remove || exit 6
  tracer nop
  kerninst-inject dump -o /out/dump || exit 7
  i=$((i + 1))
done
kill $load
wait
texthash diff /tmp/text || exit 8
workload 1 || exit 9
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 10
exit 0
`

interface Planned {
  readonly path: string
  readonly summary: PlanSummary
}

const planned = (target: Kernel, name: string, points: string, options: readonly string[] = []): Planned => {
  const path = join(scratch, `${target.name}.${name}`)
  return { path, summary: plan(target, [points], key, path, options) }
}

/** Runs one bundle in one guest; true where all went well. The last dump lies beside the bundle. */
const soak = async (target: Kernel, module: string, title: string, { path, summary }: Planned, model: string): Promise<boolean> => {
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    files: [
      { path: 'kerninst.ko', from: module },
      { path: 'bundle', from: path },
      ...[injector, ...tools].map((path) => ({ path: `bin/${path.slice(path.lastIndexOf('/') + 1)}`, from: path, executable: true })),
    ],
    script: SCRIPT,
    append: `${model} softlockup_panic=1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120`,
    seconds: GUEST_SECONDS,
  })
  const stops = result.lines.flatMap((line) => /stopped for (\d+) us/.exec(line)?.slice(1).map(Number) ?? [])
  process.stdout.write(`${target.release}, ${model || 'default preemption'}, ${title}: ${summary.served} of ${summary.points} points at ` +
    `${summary.sites} sites, ${ROUNDS} rounds, machine stopped for ${Math.max(0, ...stops) / 1000} ms at most, ${result.seconds.toFixed(0)} s: `)
  if (result.exit !== 0) {
    process.stdout.write(`FAILED (${result.exit})\n${result.lines.slice(-12).join('\n')}\n`)
    return false
  }
  writeFileSync(`${path}.dump`, result.files.get('dump') ?? '')
  const { counts } = reportNumbers(readBundle(readFileSync(path)), readDump(`${path}.dump`))
  const ran = counts.reduce((n, count) => (count > 0n ? n + 1 : n), 0)
  const runs = counts.reduce((sum, count) => sum + count, 0n)
  const below = counts.filter((count) => count < 0n)
  const worst = below.reduce((least, count) => (count < least ? count : least), 0n)
  process.stdout.write(`good: ${ran} points ran ${runs} times; ${below.length} below zero, ${worst} at worst\n`)
  return ran > 1000 && worst >= -IN_FLIGHT
}

/** Part one. True where all went well. */
const wholeKernel = async (target: Kernel, module: string): Promise<boolean> => {
  const ends = planned(target, 'ends', ENDS)
  const blocks = planned(target, 'blocks', BLOCKS)
  let good = true
  for (const model of MODELS) {
    good = await soak(target, module, 'entries and returns', ends, model) && good
    good = await soak(target, module, 'blocks', blocks, model) && good
  }
  if (!good) return false // without a dump there is no profile
  const profiled = planned(target, 'profiled', BLOCKS, ['--profile', `${blocks.path}.dump`, '--profile-bundle', blocks.path])
  const { hot, sites, codeBytes } = profiled.summary
  process.stdout.write(`${target.release}: ${hot.patches} of ${sites} sites ran; their patches take the first ${hot.bytes} of ${codeBytes} bytes\n`)
  return soak(target, module, 'blocks, laid out by a profile', profiled, MODELS[1]!)
}

/** Part two. The first guest that fails ends it. */
const cycles = async (target: Kernel, module: string): Promise<boolean> => {
  const random = lottery(seed)
  const bundles = planCycles(target, key, scratch, random, BUNDLES, MOST_SITES)
  process.stdout.write(`${target.release}, cycles: ${seedNote}, bundles of ${bundles.sites.join(', ')} sites\n`)
  const modules = { kerninst: module, small: buildSmallModule(target, 'test/guest/small.c', scratch) }
  for (let done = 0; done < CYCLES;) {
    const count = Math.min(CYCLES_PER_GUEST, CYCLES - done)
    const result = await runCycles(target, modules, [injector, ...tools], bundles, count, random,
      (line) => { process.stderr.write(`${target.release}: ${done} + ${line}\n`) })
    done += count
    process.stdout.write(`${target.release}, cycles up to ${done}: ${result.applied} applied, ${result.refused} refused and ${result.left} left for a ` +
      `kprobe, ${result.limited} for a limit; ${result.sites} sites at most, machine stopped for ${result.stopMs} ms at most, ${result.stops} ` +
      `times at most; ${result.others}; ${result.seconds.toFixed(0)} s: `)
    if (result.exit !== 0) {
      process.stdout.write(`FAILED (${result.exit})\n${result.lines.slice(-12).join('\n')}\n`)
      return false
    }
    process.stdout.write('good\n')
  }
  return true
}

/** Part three. */
const longTests = (): void => {
  for (const name of ['counts', 'world', 'junk', 'fault', 'spans', 'coverage']) {
    const { status } = spawnSync(process.execPath, [join(ROOT, `build/test/guest/${name}.test.js`)], {
      stdio: 'inherit', env: { KERNINST_MUTANTS: '100000', ...process.env, KERNINST_EVERYTHING: '1', TAP_TIMEOUT: '7200' },
    })
    process.stdout.write(`${name}: ${status === 0 ? 'good' : `FAILED (${status})`}\n`)
    if (status !== 0) process.exitCode = 1
  }
}

const PARTS = { whole: wholeKernel, cycles }
const [part, ...names] = process.argv.slice(2)
if (part === 'tests') longTests()
else if (part !== undefined && !(part in PARTS)) throw new Error(`no part ${part}: ${Object.keys(PARTS).join(', ')}, tests`)

for (const name of part === 'tests' ? [] : names.length > 0 ? names : KERNELS) {
  const target = kernel(name)
  const module = buildModule(target, key.cert, scratch)
  for (const [title, run] of Object.entries(PARTS)) {
    if (part !== undefined && part !== title) continue
    try {
      if (!await run(target, module)) process.exitCode = 1
    } catch (error) {
      process.stdout.write(`${target.release}, ${title}: FAILED: ${error instanceof Error ? error.message : String(error)}\n`)
      process.exitCode = 1
    }
  }
}
