// In: a kernel, a seed, how many bundles and cycles. Out: figures of that many rounds of apply, work, remove in one
// guest, of random bundles, while everybody else writes kernel text too (test/guest/world/cycles.sh).
// Invariant: what is planned and in which order it is applied follows from the seed; what the guest's threads make of it
// does not. A guest that ends with another text, a lost count or a complaint of the kernel is a failure.
// Left out: how many, and what to do about failures (test/soak.ts, test/guest/world.test.ts).

import { readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { readBundle } from '../../src/bundle/bundle.js'
import { loadImage } from '../../src/image/image.js'
import { placeName, pointName, pointsWhere } from '../../src/splice/manifest.js'
import type { Lottery } from '../lottery.js'
import { ROOT, plan, type Kernel, type Key } from './artefacts.js'
import { runGuest, type GuestFile, type GuestResult } from './guest.js'

/** In every bundle: test/guest/calls.c calls it, nobody else, and its counts must be right. */
const KNOWN = '__x64_sys_ioprio_get'

const SITES_PER_FUNCTION = 5 // as the kinds below fall on them
const KINDS = ['block', 'block', 'entry', 'return'] as const
const PROBED_SITES = 24
const PROBED_ENTRIES = 16
const LIMITS_MS = ['-', '-', '-', '300', '2000'] // of a stop; -: none
const MOST_CALLS = 3000
const BOOT_SECONDS = 180
const CYCLE_SECONDS = 30 // under emulation, on a machine that has other things to do

export interface Cycled {
  readonly cycles: number
  readonly applied: number
  readonly refused: number // for a kprobe; then tried again
  readonly left: number //    removals that left sites with a kprobe; likewise
  readonly limited: number // for a limit that no stop can hold; tried again without
  readonly sites: number //   of one bundle, at most
  readonly stopMs: number //  at most
  readonly stops: number //   of one request, at most
  readonly others: string //  what everybody else did
  readonly seconds: number
  readonly exit: number
  readonly lines: readonly string[]
}

export interface CycleBundles {
  readonly sites: readonly number[]
  readonly files: readonly GuestFile[]
}

/** Plans bundles of 1 to about `most` sites, evenly by magnitude; the last has as many. */
export function planCycles(target: Kernel, key: Key, scratch: string, random: Lottery, bundles: number, most: number): CycleBundles {
  const { functions } = loadImage(target.vmlinux)
  const names = Array.from({ length: functions.count }, (_, f) => functions.nameOf(f))
    .filter((name) => /^[a-z_]\w*$/i.test(name) && name !== KNOWN && functions.functionsNamed(name).length === 1)
  const files: GuestFile[] = []
  const sites: number[] = []
  const probed: string[] = []
  for (let b = 0; b < bundles; b++) {
    const path = join(scratch, `${target.name}.cycle${b}`)
    const size = most ** ((b + (b === bundles - 1 ? 1000 : random(1000)) / 1000) / bundles)
    const points = Array.from({ length: Math.ceil(size / SITES_PER_FUNCTION) }, () =>
      `${KINDS[random(KINDS.length)]!}:${names[random(names.length)]!},`)
    sites.push(plan(target, [`${points.join('\n')}\nentry:${KNOWN}, return:${KNOWN} { @ = count() }`], key, path).sites)

    const { manifest, decoded: { tables } } = readBundle(readFileSync(path))
    const slots = ['entry', 'return'].map((kind) => {
      for (const p of pointsWhere(manifest, true)) {
        if (pointName(manifest, p) !== `${kind}:${KNOWN}`) continue
        const { termStart, term } = manifest.points
        return Array.from(term.subarray(termStart[p]!, termStart[p + 1]!), (one) => one >>> 1).join(',')
      }
      throw new Error(`${kind}:${KNOWN} is not served`)
    })
    // The one site that every bundle has is probed more often than others.
    if (b < 2) probed.push(placeName(manifest, tables.siteRva[manifest.slotSite[Number(slots[0]!.split(',')[0])]!]!))
    files.push({ path: `bundle.${b}`, from: path }, { path: `points.${b}`, from: Buffer.from(`${KNOWN} ${slots.join(' ')}\n`) })
    for (let i = 0; i < PROBED_SITES / bundles; i++) {
      probed.push(placeName(manifest, tables.siteRva[random(tables.siteCount)]!))
    }
  }
  for (let i = 0; i < PROBED_ENTRIES; i++) probed.push(names[random(names.length)]!)
  files.push({ path: 'probes', from: Buffer.from(probed.join('\n') + '\n') })
  return { sites, files }
}

const most = (numbers: Iterable<number>): number => Math.max(0, ...numbers)

const figures = (cycles: number, { sites }: CycleBundles, { lines, exit, seconds }: GuestResult): Cycled => {
  const text = lines.join('\n')
  const all = (pattern: RegExp, group = 1): number[] => [...text.matchAll(pattern)].map((match) => Number(match[group]))
  const [applied, refused, left, limited] = (/^did (\d+) (\d+) (\d+) (\d+)$/m.exec(text) ?? []).slice(1).map(Number)
  return {
    cycles, applied: applied ?? 0, refused: refused ?? 0, left: left ?? 0, limited: limited ?? 0,
    sites: most(sites), stopMs: most(all(/stopped for (\d+) us/g)) / 1000, stops: most([1, ...all(/us at most, (\d+) times/g)]),
    others: /^others: (.*)$/m.exec(text)?.[1] ?? '', seconds, exit, lines,
  }
}

/** One guest. `module` is kerninst's, `small` that of test/guest/small.c; `tools` are the injector, judge, texthash, workload, calls. */
export async function runCycles(
  target: Kernel, modules: { readonly kerninst: string; readonly small: string }, tools: readonly string[], bundles: CycleBundles,
  cycles: number, random: Lottery, progress: (line: string) => void = () => undefined,
): Promise<Cycled> {
  const order = Array.from({ length: cycles }, () =>
    `${random(bundles.sites.length)} ${LIMITS_MS[random(LIMITS_MS.length)]!} ${1 + random(MOST_CALLS)}\n`)
  const script = (name: string): string => readFileSync(join(ROOT, 'test/guest/world', `${name}.sh`), 'utf8')
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    files: [
      ...bundles.files,
      { path: 'cycles', from: Buffer.from(order.join('')) },
      { path: 'kerninst.ko', from: modules.kerninst },
      { path: 'small.ko', from: modules.small },
      ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
    ],
    script: `${script('lib')}\ntry insmod /kerninst.ko\n${script('cycles')}\nexit 0\n`,
    append: 'preempt=full softlockup_panic=1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120',
    cpus: 4,
    seconds: BOOT_SECONDS + cycles * CYCLE_SECONDS,
    onLine: (line) => { if (line.startsWith('cycle ')) progress(line) },
  })
  return figures(cycles, bundles, result)
}
