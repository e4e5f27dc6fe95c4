// Windows, springboards and hops in running kernels: bundles made by hand (guest/tactics.ts) are applied under load, with
// both kinds of preemption that the kernels are used with, while the function tracer comes and goes; what they count is
// what plain splices in the same blocks count; afterwards the text is what it was, also where an apply fails half way.
//
// The outside judges: the processor that runs the moved code, the workload that checks its own results, the kernel's
// complaints, and its text.

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import { writeBundle } from '../../src/bundle/bundle.js'
import { readCertificateDer, readKey } from '../../src/bundle/keys.js'
import { buildGraph } from '../../src/cfg/graph.js'
import { SecondDecoder } from '../../src/code/second.js'
import { readDump } from '../../src/dump/dump.js'
import { loadImage } from '../../src/image/image.js'
import { NONE } from '../../src/image/rva.js'
import { solveLiveness } from '../../src/liveness/live.js'
import { identify } from '../../src/pipeline.js'
import { Ground } from '../../src/splice/ground.js'
import { buildInjector, buildModule, kernel, keygen, program } from './artefacts.js'
import { runGuest, type GuestResult } from './guest.js'
import { buildTactics, type Tactics, type Way } from './tactics.js'
import { sampleManifest } from '../sample.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const GUEST_SECONDS = 500
const MIN_RAN = 200 // places of each kind that must run
/** Functions that the workload is in: files, sockets, processes, memory, scheduling. */
const BUSY =
  /^(vfs_|do_|__do_|ksys_|path_|link_path|walk_|lookup_|filp_|fput|dput|d_|__d_|dentry_|inode_|shmem_|generic_|tcp_|__tcp_|udp_|ip_|__ip_|inet_|sock_|__sock_|sk_|skb_|__skb_|unix_|net|__net|dev_|__dev_|pipe_|poll|ep_|eventfd_|futex_|copy_|dup_|mm|__mm|handle_|wp_|unmap_|zap_|vma_|anon_|page_|__alloc_|alloc_|free_|kmem_|__kmem|slab_|try_to_|wake_|enqueue_|dequeue_|pick_|set_next|put_prev|update_|sched|signal|send_|__send|get_|put_|exec|begin_|load_elf|exit_|release_|wait|timer|hrtimer_|security_|mas_|mt_|rb_|filemap_|folio_|mnt|proc_|seq_|ktime_)/
/** Bits of the module's parameter: the phases in which windows are taken for changed (kmod/kerninst.h). */
const FAULT = { apply: 2, retract: 4, restore: 8 } as const

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-tactics-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const SHELL = `
fail() { echo "failed: $1: $(tail -n 3 /tmp/said)"; dmesg | tail -n 5; exit 1; }
try() { "$@" >/tmp/said 2>&1 || fail "$*"; }
refused() { "$@" >/tmp/said 2>&1; code=$?; [ $code = $want ] || fail "$* ended with $code, not $want"; }
same() { try texthash diff /tmp/text; }
trace() {
  cd /sys/kernel/tracing
  while [ ! -e /tmp/stop ]; do
    echo function > current_tracer || fail tracer; sleep 0.2; echo nop > current_tracer; sleep 0.2
  done
  echo > trace; cd /
}
`

const COUNT = `
try insmod /kerninst.ko
dmesg -c > /dev/null
echo 'vfs_* tcp_* do_*' > /sys/kernel/tracing/set_ftrace_filter
try workload 1
echo function > /sys/kernel/tracing/current_tracer; echo nop > /sys/kernel/tracing/current_tracer
try texthash save /tmp/text
workload -t 4 & load=$!
trace & tracer=$!
try kerninst-inject apply /bundle
cat /tmp/said
wait $load || fail load
touch /tmp/stop; wait $tracer
try kerninst-inject dump -o /out/dump
try kerninst-inject remove
same
workload -t 100000 & load=$!
for i in 1 2; do
  try kerninst-inject apply /bundle
  sleep 0.3
  try kerninst-inject remove
done
kill -0 $load || fail 'load died'
kill $load; wait $load
same
try workload 1
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 2
`

const FAIL = `
try rmmod kerninst
try insmod /kerninst-fault.ko
workload -t 100000 & load=$!
fault=/sys/module/kerninst/parameters/fault
echo "p:kp $(cat /window)" > /sys/kernel/tracing/kprobe_events || fail kprobe
echo 1 > /sys/kernel/tracing/events/kprobes/enable
want=77; refused kerninst-inject apply /bundle
echo 0 > /sys/kernel/tracing/events/kprobes/enable
echo > /sys/kernel/tracing/kprobe_events
same
echo ${FAULT.apply} > $fault
want=76; refused kerninst-inject apply /bundle
same
echo ${FAULT.apply | FAULT.retract} > $fault
want=77; refused kerninst-inject apply /bundle
kerninst-inject status | grep -q '^state partly removed$' || fail state
try workload 1 # which runs into the int3s that stand
want=77; refused kerninst-inject remove
want=77; refused kerninst-inject apply /bundle
echo 0 > $fault
try kerninst-inject remove
same
try kerninst-inject apply /bundle
echo ${FAULT.restore} > $fault
want=77; refused kerninst-inject remove
kerninst-inject status | grep -q '^state partly removed$' || fail state
try workload 1 # by the bypasses
echo 0 > $fault
try kerninst-inject remove
same
kill -0 $load || fail 'load died'
kill $load; wait $load
try rmmod kerninst
same
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 2
`

/** Of every way: places, places that ran, runs; and how those differ from the plain splice's in the same block. */
const judge = (t: Test, tactics: Tactics, result: GuestResult): void => {
  const dump = readDump(result.files.get('dump') ?? new Uint8Array(0))
  const total = (slot: number): bigint => {
    let sum = 0n
    for (let cpu = 0; cpu < dump.cpuCount; cpu++) sum += dump.count(cpu, slot)
    return sum
  }
  const rows = new Map<Way, { places: number; ran: number; runs: bigint; compared: number; equal: number; worst: bigint }>()
  tactics.counted.forEach(({ way, same }, slot) => {
    const row = rows.get(way) ?? { places: 0, ran: 0, runs: 0n, compared: 0, equal: 0, worst: 0n }
    rows.set(way, row)
    const runs = total(slot)
    row.places++
    row.runs += runs
    if (runs > 0n) row.ran++
    if (same === NONE || runs === 0n) return
    const other = total(same)
    const difference = runs > other ? runs - other : other - runs
    row.compared++
    if (difference === 0n) row.equal++
    if (difference > row.worst) row.worst = difference
  })
  for (const [way, row] of rows) {
    t.ok(row.ran >= MIN_RAN, `${way}: ${row.ran} of ${row.places} places ran, ${row.runs} times`)
    if (way === 'plain') continue
    // A thread may be between two places of a block when counting starts, and when it is dumped.
    t.ok(row.compared > 10 && row.equal >= row.compared * 0.95 && row.worst <= 20n,
      `${way}: ${row.equal} of ${row.compared} equal the plain splice of their block, the worst is off by ${row.worst}`)
  }
}

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const module = buildModule(target, key.cert, scratch)
    const faulty = buildModule(target, key.cert, join(scratch, 'faulty'), ['FAULT=1'])
    const image = loadImage(target.vmlinux)
    const ground = new Ground(solveLiveness(buildGraph(image)), await SecondDecoder.load())
    const functions: number[] = []
    for (let f = 0; f < image.functions.count; f++) if (BUSY.test(image.functions.nameOf(f))) functions.push(f)
    const tactics = buildTactics(ground, functions)
    t.comment(`${functions.length} functions: ${JSON.stringify(tactics.counts)}, ${tactics.tables.code.length} bytes of code`)
    for (const what of ['window over two words', 'window over two pages', 'hop over two words', 'link', 'hosted']) {
      t.ok((tactics.counts[what] ?? 0) > 0, `there is a ${what}`)
    }

    const manifest = sampleManifest() // nobody reads it here: counts are taken from the dump
    const none = new Uint32Array(0)
    const bundle = join(scratch, name)
    const identity = identify(image)
    const place = (rva: number): string => {
      const f = image.functions.functionAt(rva)
      return f === NONE ? 'padding' : `${image.functions.nameOf(f)}+0x${(rva - image.functions.start[f]!).toString(16)}`
    }
    writeFileSync(bundle, writeBundle({
      manifest: {
        ...manifest,
        image: { ...manifest.image, buildId: Buffer.from(identity.buildId).toString('hex'), base: `0x${identity.base.toString(16)}` },
        points: {
          count: 0, of: none, rva: none, to: none, nearest: none, term: none, termRva: none,
          refusal: new Uint8Array(0), derived: new Uint8Array(0), termStart: Uint32Array.of(0),
        },
        siteTactic: new Uint8Array(tactics.tables.siteCount),
        slotSite: new Uint32Array(tactics.tables.slotCount),
      },
      target: identity, tables: tactics.tables, key: readKey(key.key), cert: readCertificateDer(key.cert),
    }))
    const window = tactics.counted.find(({ way, rva }) => way === 'window' && /^vfs_/.test(place(rva)))
    t.ok(window, 'there is a window in vfs_*')

    // Each takes minutes; the other two pairs differ in nothing that these do not show.
    for (const append of name === KERNELS[0] ? [''] : ['preempt=full']) {
      await t.test(append || 'default preemption', { timeout: 0 }, async (t) => {
        const result = await runGuest({
          vmlinuz: target.vmlinuz,
          files: [
            { path: 'kerninst.ko', from: module },
            { path: 'kerninst-fault.ko', from: faulty },
            { path: 'bundle', from: bundle },
            { path: 'window', from: Buffer.from(place(window!.rva)) },
            ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
          ],
          script: SHELL + COUNT + (append === '' ? '' : FAIL) + 'exit 0\n',
          append: `${append} softlockup_panic=1 watchdog_thresh=60`,
          seconds: GUEST_SECONDS,
        })
        t.equal(result.exit, 0, result.lines.slice(-12).join(' | '))
        if (result.exit === 0) judge(t, tactics, result)
        t.comment(`${Math.round(result.seconds)} s, ${result.lines.filter((line) => line.startsWith('applied')).join()}`)
      })
    }
    t.end()
  })
}

