// How many instructions a probe program adds to each hit: a count, a predicate, a histogram, and a span that puts the time
// of each call into one; ours, and the same of bpftrace (Debian's), on kprobes and on fentry and fexit, at the same
// function, in the same boot. As in hits.ts, instructions are counted by QEMU's -icount, and a row whose program did not
// see every call is an error.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { buildInjector, buildModule, kernel, keygen, mustKerninst, plan, program, type Kernel, type Key } from '../test/guest/artefacts.js'
import { bpftraceFiles, bpftraceMaps, type MapValue } from '../test/guest/bpftrace.js'
import { runGuest } from '../test/guest/guest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const PLACE = 'do_getpgid' // runs once in getpgid(0); its argument is 0
const GUEST_SECONDS = 900
const LEAST_RATIO = 10 // fentry's instructions to ours, for counts and histograms

/** What is asked for: in our language, on kprobes, and on fentry. */
interface Asked {
  readonly name: string
  readonly must: boolean // be so many times cheaper
  readonly ours: string
  readonly kprobe?: string
  readonly fentry?: string
}

const PROGRAMS: readonly Asked[] = [
  {
    name: 'count', must: true, ours: `entry:${PLACE} { @ = count() }`,
    kprobe: `kprobe:${PLACE} { @ = count(); }`, fentry: `kfunc:${PLACE} { @ = count(); }`,
  },
  {
    name: 'predicate', must: true, ours: `entry:${PLACE} /arg0 < 4096 && pid > 1/ { @ = count() }`,
    kprobe: `kprobe:${PLACE} /arg0 < 4096 && pid > 1/ { @ = count(); }`, fentry: `kfunc:${PLACE} /args->pid < 4096 && pid > 1/ { @ = count(); }`,
  },
  {
    name: 'hist', must: true, ours: `entry:${PLACE} { @ = hist(arg0) }`,
    kprobe: `kprobe:${PLACE} { @ = hist(arg0); }`, fentry: `kfunc:${PLACE} { @ = hist(args->pid); }`,
  },
  {
    name: 'span, average', must: false, ours: `span:${PLACE} { @ = avg(elapsed) }`,
    kprobe: `kprobe:${PLACE} { @start[tid] = nsecs; } kretprobe:${PLACE} /@start[tid]/ { @ = stats(nsecs - @start[tid]); delete(@start[tid]); }`,
    fentry: `kfunc:${PLACE} { @start[tid] = nsecs; } kretfunc:${PLACE} /@start[tid]/ { @ = stats(nsecs - @start[tid]); delete(@start[tid]); }`,
  },
  {
    name: 'span, hist', must: false, ours: `span:${PLACE} { @ = hist(elapsed) }`,
    kprobe: `kprobe:${PLACE} { @start[tid] = nsecs; } kretprobe:${PLACE} /@start[tid]/ { @ = hist(nsecs - @start[tid]); delete(@start[tid]); }`,
    fentry: `kfunc:${PLACE} { @start[tid] = nsecs; } kretfunc:${PLACE} /@start[tid]/ { @ = hist(nsecs - @start[tid]); delete(@start[tid]); }`,
  },
  { name: 'span, hist(oncpu)', must: false, ours: `span:${PLACE} { @ = hist(oncpu) }` },
]

const PEERS = ['kprobe', 'fentry'] as const

type Row = Partial<Record<'ours' | (typeof PEERS)[number], number>> & { readonly name: string; readonly must: boolean }

const script = (): string => `
insmod /kerninst.ko || exit 1
row() { echo "row $*"; }
row base $(hit getpgid)
${PROGRAMS.map((_, i) => `
kerninst-inject apply /ours.${i} > /dev/null || exit 2
row ours.${i} $(hit getpgid)
kerninst-inject dump -o /out/ours.${i}.dump || exit 3
kerninst-inject remove > /dev/null || exit 4
`).join('')}
theirs() {
  bpftrace -f json /$1 > /out/$1.said 2> /tmp/said & bt=$!
  until grep -q attached_probes /out/$1.said; do
    kill -0 $bt || { cat /out/$1.said /tmp/said; exit 5; }
    sleep 1
  done
  row $1 $(hit getpgid)
  kill -INT $bt
  wait $bt
}
${PROGRAMS.flatMap((one, i) => PEERS.filter((peer) => one[peer] !== undefined).map((peer) => `theirs ${peer}.${i}`)).join('\n')}
row again $(hit getpgid)
`

/** How many calls a bundle's program saw. */
const seenByOurs = (dump: Buffer | undefined, bundle: string): number => {
  writeFileSync(`${bundle}.dump`, dump ?? '')
  const { points, aggregates, missed } = JSON.parse(mustKerninst('report', `${bundle}.dump`, '--bundle', bundle, '--format', 'json')) as {
    missed?: string
    points: { count: string }[]
    aggregates?: { keys: { count: string }[] }[]
  }
  if ((missed ?? '0') !== '0') throw new Error(`${basename(bundle)}: ${missed} missed`)
  const [one] = aggregates ?? []
  return Number(one === undefined ? points[0]!.count : one.keys[0]!.count)
}

async function measure(target: Kernel, key: Key, injector: string, scratch: string): Promise<Row[]> {
  const bundles = PROGRAMS.map(({ name, ours }, i) => {
    const bundle = join(scratch, `${target.name}.ours.${i}`)
    const { points, served } = plan(target, [ours], key, bundle)
    if (served !== points) throw new Error(`${target.name}: ${name} is refused`)
    return bundle
  })
  const executables = [injector, program('bench/hit.c', join(scratch, 'bin'))]
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    files: [
      ...bpftraceFiles(),
      ...executables.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ...bundles.map((bundle, i) => ({ path: `ours.${i}`, from: bundle })),
      ...PROGRAMS.flatMap((one, i) => PEERS.flatMap((peer) => (one[peer] === undefined ? [] : [{ path: `${peer}.${i}`, from: Buffer.from(one[peer]) }]))),
      { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
    ],
    script: script(),
    cpus: 1,
    icount: true,
    memory: 2048,
    seconds: GUEST_SECONDS,
  })
  if (result.exit !== 0) throw new Error(`${target.name}: the guest's script ended with ${result.exit}\n${result.lines.join('\n')}`)
  const ticks = new Map<string, { ticks: number; calls: number }>()
  for (const line of result.lines) {
    const [, name, count, calls] = /^row (\S+) ticks ([\d.]+) calls (\d+)$/.exec(line) ?? []
    if (name !== undefined) ticks.set(name, { ticks: Number(count), calls: Number(calls) })
  }
  const base = ticks.get('base')!
  const drift = ticks.get('again')!.ticks - base.ticks
  if (Math.abs(drift) >= 0.5) throw new Error(`${target.name}: the bare call cost ${drift} more at the end`)
  return PROGRAMS.map((one, i): Row => {
    const row: Row = { name: one.name, must: one.must }
    for (const side of ['ours', ...PEERS] as const) {
      if (one[side] === undefined) continue
      const { ticks: with_, calls } = ticks.get(`${side}.${i}`)!
      const count = side === 'ours' ? seenByOurs(result.files.get(`ours.${i}.dump`), bundles[i]!)
        : countOf(bpftraceMaps(result.files.get(`${side}.${i}.said`)!.toString()).get(''))
      if (count !== calls) throw new Error(`${target.name}: ${one.name}, ${side}: ${count} of ${calls} calls`)
      row[side] = with_ - base.ticks
    }
    if (one.must && row.fentry! < LEAST_RATIO * row.ours!) throw new Error(`${target.name}: ${one.name}: not ${LEAST_RATIO} times fewer than fentry`)
    return row
  })
}

/** How many values bpftrace's map @ has seen: a count, a histogram, or statistics. */
const countOf = (map: MapValue | undefined): number => {
  if (typeof map !== 'object') return map ?? 0
  return map['count'] ?? Object.values(map).reduce((a, b) => a + b, 0)
}

/** Measures and prints, kernel by kernel. */
export async function benchPrograms(): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'kerninst-bench-'))
  try {
    const key = keygen(scratch, 'bench')
    const injector = buildInjector(scratch)
    process.stdout.write('Instructions added to each call by a probe program, counted in the guest (-icount shift=0)\n')
    for (const name of KERNELS) {
      const target = kernel(name)
      process.stderr.write(`bench: ${target.release}\n`)
      const rows = await measure(target, key, injector, scratch)
      process.stdout.write(`\n${target.release}\n${'kerninst'.padStart(32)}${'bpftrace: kprobe'.padStart(19)}${'fentry'.padStart(10)}${'fentry ÷ ours'.padStart(16)}\n`)
      for (const row of rows) {
        const cell = (value: number | undefined, width: number): string => (value === undefined ? '' : value.toFixed(1)).padStart(width)
        process.stdout.write(`  ${row.name.padEnd(20)}${cell(row.ours, 10)}${cell(row.kprobe, 19)}${cell(row.fentry, 10)}` +
          `${cell(row.fentry === undefined ? undefined : row.fentry / row.ours!, 16)}\n`)
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}
