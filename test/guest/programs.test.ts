// Programs in a running kernel.
// - Predicates, keys and every aggregate, over reads and sends of sizes that nobody else uses (sizes.c). The outside judge is
//   the kernel: its own histogram triggers on kprobe events note every size, on which CPU, and what was returned, while our
//   programs run; from these counts the test computes what each aggregate must be, exactly.
// - Random programs, all at one place, over calls with random arguments (args.c): every slot must be what the interpreter
//   (interpreter.ts) makes of the same arguments.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import { readBundle } from '../../src/bundle/bundle.js'
import { readDump } from '../../src/dump/dump.js'
import { KerninstError } from '../../src/error.js'
import { parseProgram } from '../../src/probe/program.js'
import { readRequests } from '../../src/probe/requests.js'
import { aggregateOf, isCounted, pointsWhere } from '../../src/splice/manifest.js'
import { interpret, type Slots } from '../interpreter.js'
import { lottery, seed, seedNote, type Lottery } from '../lottery.js'
import { randomProgram } from '../randomprogram.js'
import { buildInjector, buildModule, kernel, keygen, mustKerninst, plan, program } from './artefacts.js'
import { runGuest } from './guest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const CALLS = 1500
const THREADS = 4 // of sizes.c
const [LEAST, MOST] = [20_000, 120_000]
const GUEST_SECONDS = 200

const OURS = `arg2 >= ${LEAST} && arg2 < ${MOST}`
const PROGRAM = `
entry:vfs_read /${OURS}/ {
  @reads = count();
  @size = hist(arg2); @sum = sum(arg2); @avg = avg(arg2); @least = min(arg2); @most = max(arg2);
  @steps = lhist(arg2, 30000, 114000, 7000);
  @cpus[cpu] = count();
  @low[arg2 & 7] = sum(arg2);
  @digit[arg2 % 10] = hist(arg2 / 3);
  if (arg2 > 65536) { @big = count(); @bigger[cpu] = max((int64) arg2 - 100000) } else { @small = count() }
}
entry:vfs_read /${OURS}/ { asm("mov r10, rdx; bswap r10; bswap r10; shr r10, 3"); @eighths = sum(reg("r10")) }
entry:vfs_read /${OURS} && pid == tid/ { @leader = count() }
entry:vfs_read /${OURS} && pid != tid/ { @threads = count() }
return:vfs_read /retval >= ${LEAST} && retval < ${MOST}/ { @returned = hist(retval); @last = max(retval) }
entry:tcp_sendmsg /${OURS}/ { @sent = hist(arg2); @sends = count() }
`

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-programs-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['sizes', 'texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const SCRIPT = `
cd /sys/kernel/tracing
echo 'p:kp/entry vfs_read n=%dx:u64' >> kprobe_events || exit 1
echo 'r256:kp/return vfs_read n=$retval:s64' >> kprobe_events || exit 1
echo 'p:kp/send tcp_sendmsg n=%dx:u64' >> kprobe_events || exit 1
for e in entry return send; do
  echo "hist:keys=n,common_cpu:size=32768 if n >= ${LEAST} && n < ${MOST}" > events/kp/$e/trigger || exit 2
done
insmod /kerninst.ko || exit 3
workload 1 || exit 3
texthash save /tmp/text || exit 3
kerninst-inject apply /bundle || exit 4
sizes ${CALLS} || exit 5
for e in entry return send; do dd bs=4096 if=events/kp/$e/hist of=/out/$e 2> /dev/null || exit 6; done
dd bs=4096 if=kprobe_profile of=/out/profile 2> /dev/null
kerninst-inject remove || exit 7
kerninst-inject dump -o /out/dump || exit 8
texthash diff /tmp/text || exit 9
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 10
exit 0
`

/** A size, on a CPU, so often. */
interface Seen {
  readonly n: number
  readonly cpu: number
  readonly times: number
}

/** What a histogram trigger printed; nothing may have been dropped. */
const seenBy = (t: Test, text: string): Seen[] => {
  t.match(text, /Dropped: 0$/m, 'the kernel noted everything')
  return [...text.matchAll(/\{ n: *(\d+), common_cpu: *(\d+) \} hitcount: *(\d+)/g)]
    .map(([, n, cpu, times]) => ({ n: Number(n), cpu: Number(cpu), times: Number(times) }))
}

type Json = { readonly [name: string]: string | number | null | readonly Json[] | undefined }

/** How often, bucket by bucket; what is empty is left out. */
const tally = (seen: readonly Seen[], bucket: (n: number) => string): { [bucket: string]: number } => {
  const counts: { [bucket: string]: number } = {}
  for (const { n, times } of seen) counts[bucket(n)] = (counts[bucket(n)] ?? 0) + times
  return counts
}

const log2 = (n: number): string => `${2 ** Math.floor(Math.log2(n))}`

// ---- random programs

const RANDOM_PROGRAMS = 45
const RANDOM_CALLS = 3000
const MARK = 0x5a5a5an << 40n // args.c
const WORDS = 2n ** 64n

/** The arguments of so many calls, as args.c makes them. */
function* argumentsOf(from: number, calls: number): Generator<bigint[], void> {
  let state = BigInt(from)
  const word = (): bigint => {
    state ^= (state << 13n) % WORDS
    state ^= state >> 7n
    state ^= (state << 17n) % WORDS
    const rest = state >> 8n
    switch (Number(state & 7n)) {
      case 0: return rest % 10n
      case 1: return (WORDS - rest % 10n) % WORDS
      case 2: return 1n << (rest & 63n)
      case 3: return rest % 100_000n
      case 4: return state >> (rest & 63n)
      default: return state
    }
  }
  for (let i = 0; i < calls; i++) {
    const [a, b, c, d] = [word(), word(), word(), word() & ~0x20n]
    yield [a, b, c, d, MARK | 0x70000000n | (word() & 0xffffffn), (word() & ~0xfffn) >> 12n]
  }
}

/** Programs that are read and compiled, each with names of its own. */
const drawPrograms = (random: Lottery): string[] => {
  const setting = {
    point: 'entry:ksys_mmap_pgoff', inputs: ['arg0', 'arg1', 'arg2', 'arg3', 'arg4', 'arg5', 'cpu'], assembly: false,
    predicate: `arg4 >> 40 == ${MARK >> 40n}`,
  }
  const texts: string[] = []
  while (texts.length < RANDOM_PROGRAMS) {
    const text = randomProgram(random, { ...setting, prefix: `p${texts.length}` })
    try {
      readRequests([{ text, source: '-e' }])
      texts.push(text)
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
    }
  }
  return texts
}

const RANDOM_SCRIPT = (from: number): string => `
insmod /kerninst.ko || exit 3
args ${from} 10 || exit 5
kerninst-inject apply /bundle || exit 4
args ${from} ${RANDOM_CALLS} || exit 5
kerninst-inject remove || exit 7
kerninst-inject dump -o /out/dump || exit 8
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 10
exit 0
`

for (const name of KERNELS) {
  t.test(`${name}: random programs`, { timeout: 0 }, async (t) => {
    t.comment(seedNote)
    const random = lottery(seed)
    const target = kernel(name)
    const texts = drawPrograms(random)
    const bundle = join(scratch, `${name}.random`)
    plan(target, texts, key, bundle)
    const from = 1 + random(2 ** 31)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        ...[...tools, program('test/guest/args.c', join(scratch, 'bin'))].map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: RANDOM_SCRIPT(from),
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-6).join(' | '))
    if (result.exit !== 0) return
    const path = join(scratch, `${name}.random.dump`)
    writeFileSync(path, result.files.get('dump')!)
    const dump = readDump(path)
    const { manifest } = readBundle(readFileSync(bundle))

    const firstSlot = new Map<string, { first: number; width: number }>()
    for (const { name: aggregate, first, keyKind, width } of manifest.aggregates) firstSlot.set(aggregate, { first, width: keyKind === 'index' ? width : 0 })
    for (const p of pointsWhere(manifest, true)) {
      if (isCounted(manifest, p)) firstSlot.set(aggregateOf(manifest, p), { first: manifest.points.term[manifest.points.termStart[p]!]! >>> 1, width: 0 })
    }
    const probes = texts.flatMap((text) => parseProgram(text, '-e'))
    const slots: Slots = new Map()
    const names = ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9']
    for (const values of argumentsOf(from, RANDOM_CALLS)) {
      const thread = { register: (register: string) => values[names.indexOf(register)]!, cpu: 0n, pid: 0n, tid: 0n, caller: 0n }
      for (const probe of probes) {
        interpret(probe, thread, slots, (one, slotKey) => {
          const { first, width } = firstSlot.get(one.name)!
          return first + Number(slotKey) * width
        })
      }
    }
    const wrong: string[] = []
    for (let slot = 0; slot < dump.slotCount; slot++) {
      const expected = slots.get(slot) ?? 0n
      if (dump.count(0, slot) !== expected || dump.count(1, slot) !== 0n) wrong.push(`slot ${slot}: ${dump.count(0, slot)}, ${dump.count(1, slot)}, not ${expected}`)
    }
    t.comment(`${probes.length} probes, ${RANDOM_CALLS} calls, ${slots.size} slots in use`)
    t.ok(slots.size > RANDOM_PROGRAMS, 'they have collected something')
    t.same(wrong.slice(0, 10), [], texts.join('\n'))
  })
}

// ---- predicates, keys, aggregates

for (const [turn, name] of KERNELS.entries()) {
  t.test(name, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const bundle = join(scratch, `${name}.bundle`)
    plan(target, [PROGRAM], key, bundle)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: SCRIPT,
      append: turn === 0 ? 'preempt=full' : '',
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-6).join(' | '))
    if (result.exit !== 0) return
    const text = (file: string): string => result.files.get(file)!.toString('latin1')
    for (const line of text('profile').trim().split('\n')) t.match(line, / 0$/, 'the kernel\'s probe missed nothing')
    const dump = join(scratch, `${name}.dump`)
    writeFileSync(dump, result.files.get('dump')!)
    const report = JSON.parse(mustKerninst('report', dump, '--bundle', bundle, '--format', 'json')) as
      { missed: string; points: { point: string; aggregate: string; count: string }[]; aggregates: { aggregate: string; keys: Json[] }[] }
    t.comment(mustKerninst('report', dump, '--bundle', bundle))

    const entry = seenBy(t, text('entry'))
    const total = (seen: readonly Seen[]): number => seen.reduce((sum, { times }) => sum + times, 0)
    t.equal(total(entry), CALLS * THREADS, 'all reads were seen')
    t.equal(report.missed, '0')

    const count = (aggregate: string): number => Number(report.points.find((one) => one.aggregate === aggregate)?.count)
    t.equal(count('reads'), total(entry))
    t.equal(count('big'), total(entry.filter(({ n }) => n > 65536)))
    t.equal(count('small'), total(entry.filter(({ n }) => n <= 65536)))
    t.equal(count('leader'), 0, 'the first thread reads nothing')
    t.equal(count('threads'), total(entry))

    const keys = (aggregate: string): readonly Json[] => report.aggregates.find((one) => one.aggregate === aggregate)?.keys ?? []
    const only = (aggregate: string): Json => keys(aggregate)[0] ?? {}
    const buckets = (one: Json): { [bucket: string]: number } => Object.fromEntries((one['buckets'] as readonly Json[])
      .filter((bucket) => bucket['count'] !== '0').map((bucket) => [bucket['low'] ?? 'below', Number(bucket['count'])]))
    const sum = (seen: readonly Seen[]): number => seen.reduce((all, { n, times }) => all + n * times, 0)
    t.equal(only('eighths')['sum'], `${entry.reduce((all, { n, times }) => all + Math.floor(n / 8) * times, 0)}`, 'what assembly made of it')
    const sizes = entry.map(({ n }) => n)
    t.same(buckets(only('size')), tally(entry, log2), 'hist')
    t.equal(only('sum')['sum'], `${sum(entry)}`, 'sum')
    t.same([only('avg')['sum'], only('avg')['count']], [`${sum(entry)}`, `${total(entry)}`], 'avg')
    t.equal(only('least')['min'], `${Math.min(...sizes)}`, 'min')
    t.equal(only('most')['max'], `${Math.max(...sizes)}`, 'max')
    t.same(buckets(only('steps')), tally(entry, (n) => (n < 30_000 ? 'below' : n >= 114_000 ? '114000' : `${30_000 + Math.floor((n - 30_000) / 7000) * 7000}`)), 'lhist')
    for (const cpu of new Set(entry.map((one) => one.cpu))) {
      const here = entry.filter((one) => one.cpu === cpu)
      const at = (aggregate: string): Json => keys(aggregate).find((one) => one['key'] === cpu) ?? {}
      t.equal(at('cpus')['count'], `${total(here)}`, `on CPU ${cpu}`)
      t.equal(at('bigger')['max'], `${Math.max(...here.map(({ n }) => n)) - 100_000}`, 'a maximum with a sign')
    }
    for (let low = 0; low < 8; low++) t.equal(keys('low')[low]?.['sum'], `${sum(entry.filter(({ n }) => n % 8 === low))}`, `sum where the low bits are ${low}`)
    for (let digit = 0; digit < 10; digit++) {
      t.same(buckets(keys('digit')[digit] ?? {}), tally(entry.filter(({ n }) => n % 10 === digit), (n) => log2(Math.floor(n / 3))), `hist where the last digit is ${digit}`)
    }
    const returned = seenBy(t, text('return'))
    t.same(buckets(only('returned')), tally(returned, log2), 'hist of what is returned')
    t.equal(only('last')['max'], `${Math.max(...returned.map(({ n }) => n))}`)
    const sent = seenBy(t, text('send'))
    t.same(buckets(only('sent')), tally(sent, log2), 'hist of what is sent')
    t.equal(count('sends'), total(sent))
    t.equal(total(sent), CALLS)
  })
}
