// The rest of the world, and us: everybody else who writes kernel text or stops, starts and walks what runs in it, on
// real kernels in guests, with splices applied. What is asked: nobody crashes, nothing but our own bytes is ever written
// by us, who cannot live beside whom is refused and says so, counts are right, and in the end the text is what it was.
//
// Each guest runs one script of test/guest/world, behind lib.sh; the first wrong thing ends it. Of the two kernels one
// runs with preempt=full. Three more kernels run the script others.sh alone.
// Left out: whole kernels and hours (test/soak.ts); what planned code does to registers and flags (move, junk).

import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import {
  EVERYTHING, ROOT, bootKernel, buildInjector, buildModule, buildSmallModule, kernel, keygen, manifest, must, plan, program, type BootKernel,
  type Kernel,
} from './artefacts.js'
import { planCycles, runCycles } from './cycles.js'
import { busybox, initramfs, runGuest, type GuestFile, type GuestJob, type GuestResult } from './guest.js'
import type { Monitor } from './qmp.js'
import { lottery, seed, seedNote } from '../lottery.js'
import { readBundle } from '../../src/bundle/bundle.js'
import { placeName, type ManifestText } from '../../src/splice/manifest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
/** Others, planned for from their vmlinuz; they do the essential, without the crowd. */
const OTHERS = ['6.1-rt', '6.1-generic', '6.12-generic']
const GUEST_SECONDS = 400 // some 20 on a quiet machine
const NMI_EVERY_MS = 3
const CYCLES = 8
const CYCLE_BUNDLES = 3
const CYCLE_SITES = 3000
const MAX_NEAR = 12 // places for a kprobe that may be optimized; not all are

/** What others write as well: static keys, traced and livepatched functions; and what the load runs all the time. */
const CROWDED = 'block:vfs_*, block:ksys_*, block:path_*, block:tcp_*, block:do_sys_*, block:pipe_*, block:__do_sys_ioprio_get, ' +
  'block:try_to_wake_up, block:__schedule, block:enqueue_task_fair, block:dequeue_task_fair, block:seq_read_iter, ' +
  'entry:cmdline_proc_show, return:cmdline_proc_show, entry:__x64_sys_ioprio_get, return:__x64_sys_ioprio_get'
/** Functions that kprobes are put all over. */
const PROBED = ['vfs_write', 'pipe_read']
/** `test; je`, both short, to the instruction behind a short one; test/guest/workload.c calls it so that it jumps. */
const HIDING = '__x64_sys_time'
/** Counted, and compared with what was called. */
const KNOWN = ['__x64_sys_ioprio_get', 'cmdline_proc_show']

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-world-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch),
  ...['judge', 'texthash', 'workload', 'calls', 'reader', 'kexec'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const script = (name: string): string => readFileSync(join(ROOT, 'test/guest/world', `${name}.sh`), 'utf8')
const LIB = script('lib')

/** The second kernel's only program: it says that it is there. */
const SECOND = `#!/bin/busybox sh
/bin/busybox mkdir /proc /dev
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox mount -t proc none /proc
/bin/busybox echo "second kernel: $(/bin/busybox uname -r)" > /dev/ttyS1
/bin/busybox grep -q kerninst /proc/modules && /bin/busybox echo "second kernel: spliced" > /dev/ttyS1
/bin/busybox poweroff -f
`

const disassembled = new Map<string, Map<number, string>>()

/** A function's instructions, by objdump, which takes long to find it: offset -> text. */
function instructions(target: Kernel, name: string): Map<number, string> {
  const which = `${target.name} ${name}`
  const known = disassembled.get(which)
  if (known !== undefined) return known
  const listing = must('objdump', ['-d', '--no-show-raw-insn', `--disassemble=${name}`, target.vmlinux])
  const start = Number(`0x${/^f{8}([0-9a-f]{8}) </m.exec(listing)?.[1]}`)
  const all = new Map([...listing.matchAll(/^ *f{8}([0-9a-f]{8}):\s+(.*)/gm)].map((match) => [Number(`0x${match[1]}`) - start, match[2]!]))
  disassembled.set(which, all)
  return all
}

const hex = (offset: number): string => `0x${offset.toString(16)}`

/** A bundle's sites in functions: their names, offsets, lengths. */
function sitesOf(path: string): { name: string; start: number; length: number }[] {
  const { manifest, decoded: { tables } } = readBundle(readFileSync(path))
  return Array.from({ length: tables.siteCount }, (_, i) => {
    const [name, offset] = placeName(manifest, tables.siteRva[i]!).split('+') as [string, string]
    return { name, start: Number(offset), length: tables.siteLength[i]! }
  })
}

/**
 * Instructions within four bytes before a site of one instruction, MAX_NEAR at most: an optimized kprobe's jump there
 * reaches into the site.
 */
function near(target: Kernel, { sites }: ManifestText): string[] {
  const found: string[] = []
  for (const { at } of sites.filter((one) => one.tactic === 'jump-over' && /^vfs_/.test(one.at))) {
    if (found.length === MAX_NEAR) break
    const [name, offset] = at.split('+') as [string, string]
    const all = instructions(target, name)
    const before = [...all.keys()].filter((one) => one < Number(offset)).at(-1)
    if (!all.has(Number(offset)) || before === undefined || Number(offset) - before > 4) continue
    if (/^(mov|lea|add|sub|and|or|xor|test|cmp)/.test(all.get(before)!)) found.push(`${name}+${hex(before)}`)
  }
  return found
}

/** All instructions of functions: those of no site, and those of sites but the first. */
function places(target: Kernel, bundle: string, names: readonly string[]): { outside: string[]; inside: string[] } {
  const outside: string[] = []
  const inside: string[] = []
  const all = sitesOf(bundle)
  for (const name of names) {
    const sites = all.filter((one) => one.name === name)
    for (const offset of instructions(target, name).keys()) {
      const within = sites.some(({ start, length }) => offset > start && offset < start + length)
      if (!sites.some(({ start }) => start === offset)) (within ? inside : outside).push(`${name}+${hex(offset)}`)
    }
  }
  return { outside, inside }
}

/** In HIDING: the instruction before its short jump, which is moved together with that, and the one before the jump's target. */
function hiding(target: Kernel): { moved: string; before: string } {
  const all = instructions(target, HIDING)
  const offsets = [...all.keys()]
  const jump = offsets.findIndex((offset) => /^je /.test(all.get(offset)!))
  const to = Number(/\+(0x[0-9a-f]+)>$/.exec(all.get(offsets[jump]!)!)?.[1])
  return { moved: `${HIDING}+${hex(offsets[jump - 1]!)}`, before: `${HIDING}+${hex(offsets[offsets.indexOf(to) - 1]!)}` }
}

interface Bootable extends BootKernel {
  readonly append: string
  readonly files: readonly GuestFile[]
  readonly manifest: ManifestText
}

interface Target extends Kernel, Bootable {
  /** How leave.sh ends it. */
  readonly endings: readonly string[]
}

/** Plans what is applied in all scripts, and builds what they need. */
function equip<T extends BootKernel>(target: T, append: string): T & Bootable {
  const bundle = join(scratch, target.name)
  plan(target, [`${CROWDED} { @ = count() }`], key, bundle)
  const made = manifest(bundle)
  const slots = (point: string): string => made.points.find((one) => one.point === point)!.parts.map((part) => part.slot).join(',')
  return {
    ...target,
    append,
    manifest: made,
    files: [
      ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
      { path: 'bundle', from: bundle },
      { path: 'points', from: Buffer.from(KNOWN.map((one) => `${one} ${slots(`entry:${one}`)} ${slots(`return:${one}`)}\n`).join('')) },
    ],
  }
}

function prepare(name: string, turn: number): Target {
  const target = equip(kernel(name), turn === 0 ? 'preempt=full' : '')
  const modules = ['livepatch', 'walk'].map((one) => ({ path: `${one}.ko`, from: buildSmallModule(target, `test/guest/${one}.c`, scratch) }))
  return { ...target, files: [...target.files, ...modules], endings: turn === 0 ? ['kexec'] : ['panic', 'reboot'] }
}

const targets = KERNELS.map(prepare)

/** A bundle that counts all blocks; planned once. */
function whole(target: Kernel): string {
  const bundle = join(scratch, `${target.name}.whole`)
  if (!existsSync(bundle)) plan(target, ['block:* { @ = count() }'], key, bundle)
  return bundle
}

/** Runs a script behind lib.sh. */
const boot = async (t: Test, target: Bootable, name: string, job: Partial<GuestJob> = {}): Promise<GuestResult> => {
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    script: `${LIB}\ntry insmod /kerninst.ko\n${script(name)}\nexit 0\n`,
    append: `${target.append} softlockup_panic=1 watchdog_thresh=60`.trim(),
    seconds: GUEST_SECONDS,
    ...job,
    files: [...target.files, ...job.files ?? []],
  })
  t.comment(`${Math.round(result.seconds)} s: ${result.lines.filter((line) => line !== '').join(' | ').slice(0, 1500)}`)
  if (!job.leaves) t.equal(result.exit, 0, result.lines.slice(-12).join(' | '))
  return result
}

/** Does what machine.sh asks for. */
function machinist(): NonNullable<GuestJob['onLine']> {
  let nmis: NodeJS.Timeout | undefined
  return (line: string, monitor: Monitor) => {
    if (line === '@sleep') {
      return monitor.next('SUSPEND').then((event) => event && monitor.command('system_wakeup'))
    }
    if (line === '@nmi on') {
      nmis = setInterval(() => { monitor.command('inject-nmi').catch(() => clearInterval(nmis)) }, NMI_EVERY_MS)
    }
    if (line === '@nmi off') clearInterval(nmis)
    return undefined
  }
}

const only = process.env['WORLD']?.split(',')
const world = (name: string, t: Test, run: (t: Test) => Promise<void>): unknown =>
  only === undefined || only.includes(name) ? t.test(name, { timeout: 0 }, run) : undefined

/** Parts that `npm test` has on one kernel alone -> which. Stacks of threads that are preempted need preempt=full. */
const ON: Readonly<Record<string, number>> = { kprobes: 0, writers: 1, machine: 1, whole: 0, crowd: 0, cycles: 1 }
const onTarget = (target: Target): typeof world => (name, t, run) =>
  EVERYTHING || targets[ON[name] ?? targets.indexOf(target)] === target ? world(name, t, run) : undefined

for (const target of targets) {
  t.test(`${target.name}: ${target.release}, ${target.append || 'default preemption'}`, { timeout: 0 }, async (t) => {
    const world = onTarget(target)
    await world('kprobes', t, async (t) => {
      const candidates = near(target, target.manifest)
      const { outside, inside } = places(target, join(scratch, target.name), PROBED)
      const { moved, before } = hiding(target)
      const hidden = join(scratch, `${target.name}.hidden`)
      plan(target, [`insn:${moved} { @ = count() }`], key, hidden)
      t.match(manifest(hidden).sites, [{ at: moved, tactic: 'window' }])
      await boot(t, target, 'kprobes', { files: [
        { path: 'site', from: Buffer.from(target.manifest.sites.find((one) => one.tactic === 'jump-over' && /^vfs_read\+/.test(one.at))!.at) },
        { path: 'near', from: Buffer.from(candidates.join('\n')) },
        { path: 'outside', from: Buffer.from(`${outside.join('\n')}\n`) },
        { path: 'inside', from: Buffer.from(`${inside.join('\n')}\n`) },
        { path: 'hidden', from: hidden },
        { path: 'hiding', from: Buffer.from(before) },
      ] })
    })
    await world('writers', t, async (t) => { await boot(t, target, 'writers') })
    await world('machine', t, async (t) => {
      const { lines } = await boot(t, target, 'machine', { cpus: 4, onLine: machinist() })
      t.ok(lines.includes('awake'), 'suspended to RAM')
      const [nmis] = lines.filter((line) => line.startsWith('NMIs:')).map((line) => line.slice(5).trim().split(' ').map(Number))
      t.ok(nmis?.every((count) => count >= 5), `NMIs of the CPUs: ${nmis?.join()}`)
    })
    await world('whole', t, async (t) => {
      const { lines } = await boot(t, target, 'whole', { cpus: 4, onLine: machinist(), files: [{ path: 'whole', from: whole(target) }] })
      t.ok(lines.includes('awake'), 'suspended to RAM')
    })
    await world('crowd', t, async (t) => {
      const { lines } = await boot(t, target, 'crowd')
      for (const what of ['interrupted', 'preempted']) {
        const seen = new RegExp(`walk: ${what}: .* (\\d+) inside, (\\d+) further, (\\d+) reliable`).exec(lines.join('\n'))?.slice(1).map(Number)
        if (what === 'interrupted' || target.append !== '') t.ok(seen && seen[0]! > (what === 'interrupted' ? 10 : 0), `${what}: ${seen?.[0]} seen in a patch`)
        t.same(seen?.slice(1), [0, 0], `${what}: the walk ends there, and knows that it is not whole`)
      }
    })
    await world('cycles', t, async (t) => {
      t.comment(seedNote)
      const random = lottery(seed)
      const bundles = planCycles(target, key, scratch, random, CYCLE_BUNDLES, CYCLE_SITES)
      const kerninst = target.files.find((one) => one.path === 'kerninst.ko')!.from as string
      const { exit, applied, sites, refused, others, seconds, lines } = await runCycles(target,
        { kerninst, small: buildSmallModule(target, 'test/guest/small.c', scratch) }, tools, bundles, CYCLES, random)
      t.comment(`${Math.round(seconds)} s, ${applied} applied, ${sites} sites at most, ${refused} refused; ${others}`)
      t.equal(exit, 0, lines.slice(-12).join(' | '))
      t.equal(applied, CYCLES)
    })
    for (const how of target.endings) {
      await world(how, t, async (t) => {
        const second = initramfs([
          { path: 'init', from: Buffer.from(SECOND), executable: true }, { path: 'bin/busybox', from: busybox(), executable: true },
        ])
        const { lines, end, console } = await boot(t, target, 'leave', { leaves: true, files: [
          { path: 'how', from: Buffer.from(how) },
          { path: 'whole', from: whole(target) },
          ...how === 'kexec' ? [{ path: 'vmlinuz', from: target.vmlinuz }, { path: 'second', from: second }] : [],
        ] })
        t.ok(lines.includes(`leaving: ${how}`), lines.slice(-5).join(' | '))
        t.equal(end, how === 'kexec' ? 'guest-shutdown' : 'guest-reset')
        t.equal(/Kernel panic - not syncing: sysrq triggered crash/.test(console), how === 'panic', 'the console tells')
        if (how === 'kexec') t.ok(lines.includes(`second kernel: ${target.release}`), lines.slice(-5).join(' | '))
      })
    }
    t.end()
  })
}

for (const name of OTHERS) {
  await world(name, t, async (t) => {
    const target = equip(bootKernel(name), '')
    await boot(t, target, 'others')
    t.comment(`${target.release}: ${target.manifest.sites.length} sites`)
  })
}
