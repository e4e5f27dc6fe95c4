// Spans in a running kernel.
// - Calls that wait, and calls that work while others want their CPU (spans.c), measured by us and, in the same run, by
//   bpftrace, which is the outside judge: as many calls, histograms equal bucket for bucket, and sums of the time that
//   passed and of the time on a CPU within what the two clocks and bpftrace's own work between them make of it. Beside
//   that, bpftrace's histograms of how much is read and sent (sizes.c), equal to ours.
// - Thousands of functions at once, under a load that recurses, is preempted and migrates: with a table large enough, nothing
//   is missed; with a tiny one, what is missed is counted. The counters are zeroed in between, and begin at one moment, or
//   are staged.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { buildInjector, buildModule, kernel, keygen, longOn, mustKerninst, plan, program } from './artefacts.js'
import { bpftraceFiles, bpftraceMaps } from './bpftrace.js'
import { runGuest } from './guest.js'

const CALLS = 300 // of sizes.c, by each of its threads
const GUEST_SECONDS = 300

/** As spans.c and sizes.c have them. */
const [WAITING, WORKING] = [70_001, 24 * 2 ** 20]
const [WAITS, WORKS] = [80, 25]
const SIZES = 'arg2 >= 20000 && arg2 < 60000'
const SENT = 'arg2 >= 20000 && arg2 < 120000'

/** What bpftrace may be late by, a call, under emulation; and of the sum. */
const LATE_NS = 400_000
const SHARE = 0.03

const OURS = `
span:vfs_read /arg2 >= ${WAITING} && arg2 < ${WAITING + 3}/ {
  @waits = count(); @wait = hist(elapsed); @waited = sum(elapsed); @waiting = sum(oncpu); @longest = max(elapsed); @asked = sum(arg2)
}
span:vfs_read /arg2 == ${WORKING} && retval == ${WORKING}/ {
  @works = count(); @worked = sum(elapsed); @working = sum(oncpu); @mean = avg(elapsed - oncpu); @cpus[cpu] = count()
}
entry:vfs_read /${SIZES}/ { @read = hist(arg2) }
entry:tcp_sendmsg /${SENT}/ { @sent = hist(arg2) }
`

const THEIRS = `
kprobe:vfs_read /${SIZES}/ { @read = hist(arg2); }
kprobe:tcp_sendmsg /${SENT}/ { @sent = hist(arg2); }
kprobe:vfs_read /arg2 >= ${WAITING} && arg2 < ${WAITING + 3} || arg2 == ${WORKING}/ { @start[tid] = nsecs; @out[tid] = 0; @size[tid] = arg2; }
kretprobe:vfs_read /@start[tid]/ {
  $t = nsecs - @start[tid];
  if (@size[tid] == ${WORKING}) { @works = count(); @worked = sum($t); @working = sum($t - @out[tid]); }
  else { @waits = count(); @wait = hist($t); @waited = sum($t); @waiting = sum($t - @out[tid]); }
  delete(@start[tid]); delete(@out[tid]); delete(@size[tid]);
}
tracepoint:sched:sched_switch {
  if (@start[args->prev_pid]) { @gone[args->prev_pid] = nsecs; }
  if (@gone[args->next_pid]) { @out[args->next_pid] += nsecs - @gone[args->next_pid]; delete(@gone[args->next_pid]); }
}
`

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-guest-spans-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['spans', 'sizes', 'texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const BESIDE = `
bpftrace -f json /bt > /out/bt 2> /tmp/said & bt=$!
until grep -q attached_probes /out/bt; do
  kill -0 $bt || { cat /out/bt /tmp/said; exit 1; }
  sleep 1
done
insmod /kerninst.ko || exit 2
kerninst-inject apply /bundle || exit 3
spans || exit 4
sizes ${CALLS} || exit 4
kerninst-inject remove || exit 5
kerninst-inject dump -o /out/dump || exit 6
kill -INT $bt
wait $bt
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 7
exit 0
`

interface Report {
  readonly missed: string
  readonly points: readonly { readonly point: string; readonly aggregate: string; readonly count: string }[]
  readonly aggregates: readonly {
    readonly aggregate: string
    readonly unit: string
    readonly keys: readonly {
      readonly sum?: string; readonly max?: string; readonly count?: string
      readonly buckets?: readonly { readonly low: string | null; readonly count: string }[]
    }[]
  }[]
}

const reportOf = (dump: Buffer | undefined, bundle: string): Report => {
  const path = `${bundle}.dump`
  writeFileSync(path, dump ?? '')
  return JSON.parse(mustKerninst('report', path, '--bundle', bundle, '--format', 'json')) as Report
}

for (const name of longOn('6.12-cloud')) {
  t.test(`${name}: beside bpftrace`, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const bundle = join(scratch, `${name}.bundle`)
    plan(target, [OURS], key, bundle)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        ...bpftraceFiles(),
        { path: 'bt', from: Buffer.from(THEIRS) },
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: BESIDE,
      append: name === '6.12-cloud' ? 'preempt=full' : '',
      memory: 2048, // bpftrace's libraries take 200 MB
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-6).join(' | '))
    if (result.exit !== 0) return
    const report = reportOf(result.files.get('dump'), bundle)
    t.comment(mustKerninst('report', `${bundle}.dump`, '--bundle', bundle))
    const theirs = bpftraceMaps(result.files.get('bt')!.toString())
    t.equal(report.missed, '0')
    const count = (aggregate: string): number => Number(report.points.find((one) => one.aggregate === aggregate)?.count)
    const only = (aggregate: string): Report['aggregates'][number]['keys'][number] => report.aggregates.find((one) => one.aggregate === aggregate)?.keys[0] ?? {}
    const buckets = (aggregate: string): { [low: string]: number } => Object.fromEntries((only(aggregate).buckets ?? [])
      .filter((one) => one.count !== '0').map((one) => [one.low ?? 'below', Number(one.count)]))
    t.same([count('waits'), count('works')], [WAITS, WORKS], 'as many calls as there were')
    t.same([theirs.get('waits'), theirs.get('works')], [WAITS, WORKS])
    t.same(buckets('wait'), theirs.get('wait'), 'how long calls took')
    t.same(buckets('read'), theirs.get('read'), 'how much is read')
    t.same(buckets('sent'), theirs.get('sent'), 'how much is sent')
    t.equal(only('asked').sum, `${50 * WAITING + 22 * (WAITING + 1) + 8 * (WAITING + 2)}`, 'arguments are those of the entry')
    for (const [sum, calls] of [['waited', WAITS], ['waiting', WAITS], ['worked', WORKS], ['working', WORKS]] as const) {
      const [own, other] = [Number(only(sum).sum), theirs.get(sum) as number]
      t.ok(Math.abs(own - other) < SHARE * other + calls * LATE_NS, `@${sum}: ${(own / 1e6).toFixed(2)} ms, bpftrace ${(other / 1e6).toFixed(2)} ms`)
    }
    t.ok(Number(only('waiting').sum) * 5 < Number(only('waited').sum), 'who waits is on no CPU')
    t.ok(Number(only('working').sum) < Number(only('worked').sum) * 0.95, 'who works had to share')
    t.equal(Number(only('mean').sum), Number(only('worked').sum) - Number(only('working').sum), 'of each call')
  })
}

// ---- many at once

const FUNCTIONS = ['vfs_*', 'tcp_*', 'ksys_*', 'do_*', 'sock_*', '__x64_sys_*', 'sched_*', 'unix_*', 'pipe_*']
const CROWD = `
${FUNCTIONS.map((name) => `span:${name}`).join(', ')} {
  @calls = count(); @t = hist(elapsed); @sum = sum(elapsed); @on = sum(oncpu); @most = max(oncpu); @ret[retval == 0] = count()
}
${FUNCTIONS.map((name) => `return:${name}`).join(', ')} { @returns = count() }
`
const IN_FLIGHT = 70 // threads of a guest, at most

const MANY = `
insmod /kerninst.ko || exit 1
dmesg -c > /dev/null # the command line names what is looked for at the end
workload 1 || exit 2
texthash save /tmp/text || exit 3
workload -t 100000 & load=$!
kerninst-inject apply /bundle || exit 4
workload 2 || exit 5
kerninst-inject reset || exit 6
workload 2 || exit 5
kerninst-inject dump -o /out/dump || exit 6
kerninst-inject remove || exit 7
kerninst-inject apply --max-stop-ms 2000 /small || exit 8
workload 2 || exit 5
kerninst-inject remove || exit 9
kerninst-inject dump -o /out/small || exit 6
kill $load
wait
texthash diff /tmp/text || exit 10
workload 1 || exit 11
rmmod kerninst || exit 12
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 13
exit 0
`

for (const name of longOn('6.1-cloud')) {
  t.test(`${name}: many at once`, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const [bundle, small] = [join(scratch, `${name}.many`), join(scratch, `${name}.small`)]
    const { sites, points, served } = plan(target, [CROWD], key, bundle)
    plan(target, [CROWD], key, small, ['--span-calls', '16'])
    t.ok(served > 2000, `${served} of ${points} spans and returns, ${sites} sites, ${readFileSync(bundle).length} bytes`)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        { path: 'small', from: small },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: MANY,
      append: 'preempt=full softlockup_panic=1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120',
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-6).join(' | '))
    if (result.exit !== 0) return
    const check = (file: string, of: string): { missed: number; calls: number } => {
      const report = reportOf(result.files.get(file), of)
      const counts = (aggregate: string): Map<string, number> => new Map(report.points.filter((one) => one.aggregate === aggregate)
        .map(({ point, count }) => [point.slice(point.indexOf(':') + 1), Number(count)]))
      const [spans, returns] = [counts('calls'), counts('returns')]
      const calls = [...spans.values()].reduce((sum, count) => sum + count, 0)
      if (file === 'dump') {
        const odd = [...spans].filter(([name, count]) => returns.has(name) && (count > returns.get(name)! + IN_FLIGHT || count < returns.get(name)! - IN_FLIGHT))
        t.same(odd, [], 'as many calls as returns, function by function, but for those in flight')
        t.ok([...spans.values()].filter((count) => count > IN_FLIGHT).length > 50, 'of many functions')
      }
      const [times, sum, on, most, ret] = ['t', 'sum', 'on', 'most', 'ret'].map((aggregate) => report.aggregates.find((one) => one.aggregate === aggregate)!.keys)
      t.equal(times![0]!.buckets!.reduce((all, one) => all + Number(one.count), 0), calls, 'each is in the histogram')
      t.equal(ret!.reduce((all, one) => all + Number(one.count), 0), calls)
      const [elapsed, oncpu] = [BigInt(sum![0]!.sum!), BigInt(on![0]!.sum!)]
      t.ok(oncpu > 0n && oncpu < elapsed && BigInt(most![0]!.max!) < oncpu, `on a CPU ${oncpu} ns of ${elapsed}`)
      return { missed: Number(report.missed), calls }
    }
    const all = check('dump', bundle)
    t.ok(all.calls > 10_000 && all.missed === 0, `${all.calls} calls, ${all.missed} missed`)
    const few = check('small', small)
    t.ok(few.missed > 100 && few.calls > 1000, `with tables of 16: ${few.calls} calls, ${few.missed} missed`)
  })
}
