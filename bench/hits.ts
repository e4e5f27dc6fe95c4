// How many instructions one counter adds to each hit, ours and the kernel's own mechanisms, each made
// to do nothing but add one to a per-CPU counter, at the same function, in the same boot.
//
// QEMU's -icount with shift=0 makes the guest's rdtsc count instructions, on one CPU; a system call that passes the
// place once is timed with and without the counter (bench/hit.c). Instructions are not time: the cost on a processor differs
// (lock, popf and rdtsc above all), and TCG cannot tell it. A row whose counter did not count every call is an error.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import {
  buildInjector, buildModule, buildSmallModule, kernel, keygen, manifest, mustKerninst, plan, program,
} from '../test/guest/artefacts.js'
import type { Kernel, Key } from '../test/guest/artefacts.js'
import { runGuest } from '../test/guest/guest.js'
import type { ManifestText } from '../src/splice/manifest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const PLACE = 'do_getpgid' // runs once in getpgid(0)
const TAIL = '__x64_sys_getpriority' // little more than a tail call, before which nothing is known to be dead
const SCAN_BYTES = 0x40
const MAX_FREE = 4 // instructions that a counter may add where a register and the flags are dead
const GUEST_SECONDS = 400

interface Ours {
  readonly label: string
  readonly point: string
  readonly call: string
  readonly bundle: string
  readonly saves: boolean
}

interface Row {
  readonly label: string
  readonly place: string
  readonly ticks: number
}

const counting = (point: string): string => `${point} { @ = count() }`

/** The first instruction of PLACE that is overwritten itself, as 'do_getpgid+0x1b': where a kprobe can be optimized. */
function firstJumpOver(target: Kernel, key: Key, scratch: string): string {
  const bundle = join(scratch, `${target.name}.scan`)
  const offsets = Array.from({ length: SCAN_BYTES }, (_, at) => at.toString(16))
  plan(target, offsets.map(at => counting(`insn:${PLACE}+0x${at}`)), key, bundle)
  const site = manifest(bundle).sites.find(one => one.tactic === 'jump-over' && !/%[fg]s:/.test(one.instruction))
  if (!site) throw new Error(`no instruction of ${PLACE} is jumped over`)
  return site.at
}

const savesAnything = (made: ManifestText): boolean =>
  made.sites.some(site => site.listing.some(line => /^(push|pushf|lahf)/.test(line)))

function planOurs(target: Kernel, key: Key, middle: string, scratch: string): Ours[] {
  const one = (name: string, point: string, call: string): Ours => {
    const bundle = join(scratch, `${target.name}.${name}`)
    const summary = plan(target, [counting(point)], key, bundle)
    if (summary.served !== summary.points) throw new Error(`${target.name}: ${point} is refused`)
    const saves = savesAnything(manifest(bundle))
    return { label: saves ? 'kerninst, saving registers and flags' : 'kerninst', point, call, bundle, saves }
  }
  return [
    one('entry', `entry:${PLACE}`, 'getpgid'),
    one('insn', `insn:${middle}`, 'getpgid'),
    one('return', `return:${PLACE}`, 'getpgid'),
    one('tail', `entry:${TAIL}`, 'getpriority'),
  ]
}

function script(ours: readonly Ours[], middle: string): string {
  const offset = middle.slice(middle.indexOf('+') + 1)
  return `
insmod /kerninst.ko || exit 1
row() { echo "row $*"; }
row base-getpgid $(hit getpgid)
row base-getpriority $(hit getpriority)
${ours.map(({ bundle, call }) => `
kerninst-inject apply /${basename(bundle)} >/dev/null || exit 2
row ${basename(bundle)} $(hit ${call})
kerninst-inject dump -o /out/${basename(bundle)}.dump || exit 3
kerninst-inject remove >/dev/null || exit 4
`).join('')}
peer() {
  name=$1; want=$2; shift 2
  insmod /peers.ko "$@" || exit 5
  i=0
  while ! kind | grep -q "^$want$"; do
    i=$((i + 1)); [ $i -lt 100 ] || { echo "$name is $(kind), not $want"; exit 6; }
    sleep 0.1
  done
  # The list says OPTIMIZED when that is queued (kernel/kprobes.c, optimize_kprobe): the jump itself comes later.
  sleep 2
  row $name $(hit getpgid) counted $(cat /sys/module/peers/parameters/count)
  rmmod peers || exit 7
}
# How the kernel realized the probe: OPTIMIZED, FTRACE, or plain (int3, or no kprobe at all).
kind() {
  found=$(grep -o 'OPTIMIZED\\|FTRACE' /sys/kernel/debug/kprobes/list)
  echo "\${found:-plain}"
}
peer ftrace plain mode=ftrace symbol=${PLACE}
peer kprobe-ftrace FTRACE mode=kprobe symbol=${PLACE}
peer kprobe-optimized OPTIMIZED mode=kprobe symbol=${PLACE} offset=${offset}
peer kretprobe FTRACE mode=kretprobe symbol=${PLACE}
echo 0 >/proc/sys/debug/kprobes-optimization
peer kprobe-int3 plain mode=kprobe symbol=${PLACE} offset=${offset}
for side in entry exit; do
  said=$(fentry $side ${PLACE} hit getpgid) || exit 8
  set -- $said
  row bpf-$side $1 $2 $3 $4 counted $6
done
row again-getpgid $(hit getpgid)
`
}

const PEERS: readonly (readonly [name: string, label: string, where: string])[] = [
  ['ftrace', 'ftrace callback', 'entry'],
  ['bpf-entry', 'BPF fentry', 'entry'],
  ['kprobe-ftrace', 'kprobe on the ftrace site', 'entry'],
  ['kprobe-optimized', 'kprobe, optimized to a jump', 'insn'],
  ['kprobe-int3', 'kprobe, int3', 'insn'],
  ['bpf-exit', 'BPF fexit', 'return'],
  ['kretprobe', 'kretprobe', 'return'],
]

/** The report's count of a bundle's only point. */
function counted(dump: Buffer | undefined, bundle: string): bigint {
  if (!dump) throw new Error(`no dump of ${bundle}`)
  writeFileSync(`${bundle}.dump`, dump)
  const report = JSON.parse(mustKerninst('report', `${bundle}.dump`, '--bundle', bundle, '--format', 'json')) as {
    points: { count: string }[]
  }
  return report.points.reduce((sum, point) => sum + BigInt(point.count), 0n)
}

async function measure(target: Kernel, key: Key, injector: string, scratch: string): Promise<Row[]> {
  const middle = firstJumpOver(target, key, scratch)
  const ours = planOurs(target, key, middle, scratch)
  const executables = [injector, ...['hit', 'fentry'].map(name => program(`bench/${name}.c`, join(scratch, 'bin')))]
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    files: [
      ...executables.map(path => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ...ours.map(({ bundle }) => ({ path: basename(bundle), from: bundle })),
      { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
      { path: 'peers.ko', from: buildSmallModule(target, 'bench/peers.c', scratch) },
    ],
    script: script(ours, middle),
    cpus: 1,
    icount: true,
    seconds: GUEST_SECONDS,
  })
  if (result.exit !== 0) {
    throw new Error(`${target.name}: the guest's script ended with ${result.exit}\n${result.lines.join('\n')}`)
  }

  const ticks = new Map<string, number>()
  for (const line of result.lines) {
    const parts = /^row (\S+) ticks ([\d.]+) calls (\d+)(?: counted (\d+))?$/.exec(line)
    if (!parts) continue
    ticks.set(parts[1]!, Number(parts[2]))
    const calls = parts[3]!
    if (parts[4] !== undefined && parts[4] !== calls) {
      throw new Error(`${target.name}: ${parts[1]} counted ${parts[4]} of ${calls} calls`)
    }
    const mine = ours.find(({ bundle }) => basename(bundle) === parts[1])
    if (mine) {
      const count = counted(result.files.get(`${parts[1]}.dump`), mine.bundle)
      if (count !== BigInt(calls)) throw new Error(`${target.name}: ${mine.point} counted ${count} of ${calls} calls`)
    }
  }
  const added = (name: string, base: string): number => {
    const [with_, without] = [ticks.get(name), ticks.get(base)]
    if (with_ === undefined || without === undefined) throw new Error(`${target.name}: no row ${name}`)
    return with_ - without
  }
  const drift = added('again-getpgid', 'base-getpgid')
  if (Math.abs(drift) >= 0.5) throw new Error(`${target.name}: the bare call cost ${drift} more at the end`)

  const placeOf: Record<string, string> = { entry: `entry:${PLACE}`, insn: `insn:${middle}`, return: `return:${PLACE}` }
  const rows = [
    ...ours.map(({ label, point, bundle, call }) =>
      ({ label, place: point, ticks: added(basename(bundle), `base-${call}`) })),
    ...PEERS.map(([name, label, where]) => ({ label, place: placeOf[where]!, ticks: added(name, 'base-getpgid') })),
  ]
  const heavy = ours.filter((one, i) => !one.saves && rows[i]!.ticks > MAX_FREE)
  if (heavy.length > 0) {
    throw new Error(`${target.name}: more than ${MAX_FREE} instructions where nothing is saved: ` +
      heavy.map(one => one.point).join(', '))
  }
  return rows
}

/** Measures and prints, kernel by kernel. */
export async function benchHits(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'kerninst-bench-'))
  try {
    const key = keygen(scratch, 'bench')
    const injector = buildInjector(scratch)
    process.stdout.write('Instructions added to each hit by one counter, counted in the guest (-icount shift=0)\n')
    for (const name of KERNELS) {
      const target = kernel(name)
      process.stderr.write(`bench: ${target.release}\n`)
      const rows = await measure(target, key, injector, scratch)
      const width = Math.max(...rows.map(row => row.label.length))
      const placeWidth = Math.max(...rows.map(row => row.place.length))
      process.stdout.write(`\n${target.release}\n`)
      for (const row of rows) {
        const cells = [row.label.padEnd(width), row.place.padEnd(placeWidth), row.ticks.toFixed(1).padStart(7)]
        process.stdout.write(`  ${cells.join('  ')}\n`)
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
