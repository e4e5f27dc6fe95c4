// Several dumps: of a fleet, added up with a column for each host and its outliers; of one run at several times; and two that
// are compared, of one bundle and of two. Dumps are drawn by lot (dumpfile.ts), so what must come out is added up here again.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { DUMP, HEAP, SIZE } from '../src/bundle/layout.js'
import { drawnDump, drawnRun } from './dumpfile.js'
import { ROOT, kernel, keygen, mustKerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { schemaErrors } from './reportschema.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-fleet-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const key = keygen(scratch, 'trusted')
const PAGE = 4096

const [BUNDLE, OTHER] = ['one', 'other'].map((name) => join(scratch, `${name}.bundle`)) as [string, string]
plan(target, ['entry:vfs_*, block:vfs_read { @ = count() } span:vfs_read { @t = hist(elapsed); @c[cpu] = count(); @m = max(elapsed) }'], key, BUNDLE)
plan(target, ['entry:vfs_read, entry:tcp_sendmsg { @ = count() }'], key, OTHER)

interface Made {
  readonly path: string
  readonly bytes: Buffer
}

/** A dump in a file, changed as wanted. */
const made = (name: string, bundle: string, cpus: number, host: string, from: number, change: (heap: Buffer, bytes: Buffer) => void = () => undefined): Made => {
  const bytes = drawnDump(readBundle(readFileSync(bundle)), cpus, lottery(from), host)
  change(bytes.subarray(SIZE.dump), bytes)
  const path = join(scratch, `${name}.dump`)
  writeFileSync(path, bytes)
  return { path, bytes }
}

interface Row {
  readonly point: string
  readonly aggregate: string
  readonly count: string
  readonly perCpu?: readonly string[]
  readonly perHost?: readonly string[]
  readonly overTime?: readonly string[]
}
interface Key {
  readonly key: number
  readonly count?: string
  readonly max?: string
  readonly buckets?: readonly { readonly low: string; readonly count: string }[]
}
interface Json {
  readonly points: readonly Row[]
  readonly hosts?: readonly { readonly host: string; readonly cpus: number }[]
  readonly aggregates: readonly { readonly aggregate: string; readonly keys: readonly Key[]; readonly overTime?: readonly (readonly Key[])[] }[]
  readonly intervals?: readonly { readonly fromNs: string; readonly toNs: string; readonly afterReset: boolean }[]
}

const report = (...args: string[]): Json => {
  const json = JSON.parse(mustKerninst('report', ...args, '--bundle', BUNDLE, '--format', 'json')) as Json
  t.same(schemaErrors(json), [], 'as docs/report.schema.json has it')
  return json
}
const total = (texts: readonly string[]): bigint => texts.reduce((sum, text) => sum + BigInt(text), 0n)

t.test('hosts are added up', (t) => {
  t.comment(seedNote)
  const sizes = [['alpha', 2], ['beta', 4], ['gamma', 3]] as const
  const dumps = sizes.map(([host, cpus], i) => made(host, BUNDLE, cpus, host, seed + i).path)
  const alone = dumps.map((path) => report(path))
  const all = report(...dumps)
  t.same(all.hosts?.map(({ host, cpus }) => [host, cpus]), sizes)
  for (const [i, row] of all.points.entries()) {
    const each = alone.map(({ points }) => points[i]!)
    t.same(row.perHost, each.map(({ count }) => count), row.point)
    t.equal(BigInt(row.count), total(each.map(({ count }) => count)))
    t.same(each.map(({ perCpu }) => perCpu?.length), [2, 4, 3], 'a single host has its CPUs')
  }
  const keysOf = (json: Json, aggregate: string): Json['aggregates'][number]['keys'] => json.aggregates.find((one) => one.aggregate === aggregate)!.keys
  for (const { low, count } of keysOf(all, 't')[0]!.buckets!) {
    const each = alone.map((json) => keysOf(json, 't')[0]!.buckets!.find((one) => one.low === low)?.count ?? '0')
    t.equal(BigInt(count), total(each), `values from ${low} on`)
  }
  const largest = alone.map((json) => BigInt(keysOf(json, 'm')[0]?.max ?? '0')).reduce((a, b) => (a > b ? a : b))
  t.equal(BigInt(keysOf(all, 'm')[0]!.max!), largest)
  for (const { key: cpu, count } of keysOf(all, 'c')) {
    t.equal(BigInt(count!), total(alone.map((json) => keysOf(json, 'c').find((one) => one.key === cpu)?.count ?? '0')), `CPU ${cpu} of every host`)
  }
  const text = mustKerninst('report', ...dumps, '--bundle', BUNDLE)
  t.match(text, /^hosts    3$/m)
  t.match(text, /alpha +beta +gamma/)
  t.match(mustKerninst('report', ...dumps, '--bundle', BUNDLE, '--format', 'csv'), /^point,aggregate,at,count,derived,alpha,beta,gamma\r$/m)
  t.match(mustKerninst('report', ...dumps, '--bundle', BUNDLE, '--format', 'html'), /What ran on 3 hosts/)
  t.end()
})

t.test('a host that stands out', (t) => {
  const slotOf = readBundle(readFileSync(BUNDLE)).manifest.points.term[0]! >>> 1
  const dumps = ['a', 'b', 'c', 'd', 'e'].map((host, i) => made(host, BUNDLE, 2, host, 77, (heap) => {
    // The same everywhere but in one counter of one host.
    if (i === 3) for (let cpu = 0; cpu < 2; cpu++) heap.writeBigUInt64LE(90_000_000n, PAGE + cpu * Number(heap.readBigUInt64LE(HEAP.cpuStride)) + 8 * slotOf)
  }).path)
  const text = mustKerninst('report', ...dumps, '--bundle', BUNDLE)
  const found = /^outliers \((\d+)\)\n {2}d: (\S+): ([\d.]+M) a second, where the median is/m.exec(text)
  t.ok(found, 'it is named first')
  t.equal(found?.[3], '3.00M', '180 million in a minute')
  t.notMatch(mustKerninst('report', ...dumps.slice(0, 3), '--bundle', BUNDLE), /outliers/, 'none where all are alike')
  t.end()
})

t.test('one run at several times', (t) => {
  // Five dumps of a run: counters only grow, and are zeroed before the fourth.
  const SECOND = 1_000_000_000n
  const bundle = readBundle(readFileSync(BUNDLE))
  const [cpus, ends, reset] = [3, [2, 3, 7, 12, 13], 10n] as const
  const runs = [drawnRun(bundle, cpus, lottery(seed + 7), ends.slice(0, 3)), drawnRun(bundle, cpus, lottery(seed + 8), ends.slice(3))]
  const grown = runs.flat().map((bytes, i): Made => {
    const heap = bytes.subarray(SIZE.dump)
    if (i >= 3) {
      heap.writeUInt32LE(1, HEAP.resets)
      heap.writeBigUInt64LE(heap.readBigUInt64LE(HEAP.appliedNs) + reset * SECOND, HEAP.resetNs)
    }
    const path = join(scratch, `run${i}.dump`)
    writeFileSync(path, bytes)
    return { path, bytes }
  })
  const paths = [3, 0, 4, 2, 1].map((i) => grown[i]!.path) // in any order
  const all = report(...paths)
  const alone = grown.map(({ path }) => report(path))
  t.equal(all.hosts, undefined, 'it is one host')
  t.same(all.points.map(({ overTime: _, ...rest }) => rest), alone[4]!.points, 'whose last dump counts')
  const relative = (text: string): number => Number((BigInt(text) - grown[0]!.bytes.readBigUInt64LE(SIZE.dump + HEAP.appliedNs)) / SECOND)
  t.same(all.intervals?.map(({ fromNs, toNs, afterReset }) => [relative(fromNs), relative(toNs), afterReset]),
    [[0, 2, false], [2, 3, false], [3, 7, false], [10, 12, true], [12, 13, false]])
  const from = [undefined, 0, 1, undefined, 3]
  all.points.forEach(({ point, overTime }, row) => {
    const count = (i: number): bigint => BigInt(alone[i]!.points[row]!.count)
    t.same(overTime, from.map((before, i) => `${count(i) - (before === undefined ? 0n : count(before))}`), point)
  })
  const buckets = (keys: Json['aggregates'][number]['keys']): Map<string, bigint> =>
    new Map(keys.flatMap(({ key, count, buckets: all }) =>
      (all ?? [{ low: '', count: count! }]).map(({ low, count: many }) => [`${key} ${low}`, BigInt(many)] as const)))
  for (const [number, { aggregate, overTime }] of all.aggregates.entries()) {
    if (aggregate === 'm') {
      t.equal(overTime, undefined, 'a maximum has no parts')
      continue
    }
    overTime!.forEach((keys, i) => {
      const had = from[i] === undefined ? new Map<string, bigint>() : buckets(alone[from[i]]!.aggregates[number]!.keys)
      const has = buckets(alone[i]!.aggregates[number]!.keys)
      const seen = buckets(keys)
      for (const [key, count] of has) t.equal(seen.get(key) ?? 0n, count - (had.get(key) ?? 0n), `@${aggregate} ${key}, interval ${i}`)
      t.equal(total([...seen.values()].map(String)), total([...has.values()].map(String)) - total([...had.values()].map(String)))
    })
  }

  const shown = (format: string): string => mustKerninst('report', ...paths, '--bundle', BUNDLE, '--format', format)
  const text = shown('text')
  t.match(text, /^zeroed .*\n(.*\n)?counted  3\.0 s/m, 'rates are of the time since counters were zeroed')
  t.match(text, /^series   5 dumps/m)
  const [high] = all.points.filter(({ aggregate }) => aggregate === '').sort((a, b) => Number(b.count) - Number(a.count))
  const rates = high!.overTime!.map((count, i) => Number(count) / [2, 1, 4, 2, 1][i]!)
  const heights = rates.map((rate) => (rate <= 0 ? ' ' : '▁▂▃▄▅▆▇█'[Math.ceil((rate / Math.max(...rates)) * 8) - 1]))
  t.ok(text.includes(heights.join('').trimEnd()), `a row's picture is '${heights.join('')}'`)
  const [titles, ...rows] = shown('csv').trimEnd().split('\r\n').map((line) => line.split(','))
  t.equal(titles!.filter((title) => /^until [0-9]+$/.test(title)).length, 5)
  t.same(rows.map((cells) => cells.slice(-5)), all.points.map(({ overTime }) => overTime))
  t.match(shown('markdown'), /^\| count \| over time \| point/m)
  const page = shown('html')
  t.match(page, /<h2 id="time">Over time<\/h2>/)
  t.ok(page.split('<svg class="line"').length > all.points.length, 'a picture for each row')

  const odd = made('odd', BUNDLE, cpus + 1, 'host', 1, (heap, bytes) => {
    heap.writeBigUInt64LE(grown[0]!.bytes.readBigUInt64LE(SIZE.dump + HEAP.appliedNs), HEAP.appliedNs)
    bytes.writeBigUInt64LE(1n, DUMP.dumpedNs)
  })
  const { status, stderr } = spawnSync(process.execPath, [join(ROOT, 'dist/cli.js'), 'report', odd.path, ...paths, '--bundle', BUNDLE], { encoding: 'utf8' })
  t.equal(status, 65)
  t.match(stderr, /^kerninst: dumps of one run differ in their CPUs.*\n$/)
  t.end()
})

t.test('compared', (t) => {
  const [a, b] = [made('before', BUNDLE, 2, 'host', seed + 20), made('after', BUNDLE, 2, 'host', seed + 21)]
  interface Diff {
    readonly schema: string
    readonly points: readonly { readonly point: string; readonly aggregate: string; readonly before: string | null; readonly after: string | null; readonly change: string }[]
  }
  const diff = JSON.parse(mustKerninst('report', '--diff', a.path, b.path, '--bundle', BUNDLE, '--format', 'json')) as Diff
  t.equal(diff.schema, 'kerninst.diff/1')
  const counts = ({ points }: Json): Map<string, string> => new Map(points.map(({ point, aggregate, count }) => [`${point} @${aggregate}`, count]))
  const [before, after] = [counts(report(a.path)), counts(report(b.path))]
  t.equal(diff.points.length, before.size)
  let size = Infinity
  for (const { point, aggregate, before: had, after: has, change } of diff.points) {
    t.same([had, has], [before.get(`${point} @${aggregate}`), after.get(`${point} @${aggregate}`)], point)
    const [x, y] = [Number(had), Number(has)]
    // Both counted for a minute.
    t.ok(Math.abs(y - x) <= size, 'whatever changed most comes first')
    size = Math.abs(y - x)
    const expected = x === 0 && y === 0 ? 'same' : x === 0 ? 'appeared' : y === 0 ? 'vanished' : Math.abs(y - x) <= 4 * (Math.sqrt(Math.abs(x)) + Math.sqrt(Math.abs(y))) ? 'same' : y > x ? 'rose' : 'fell'
    t.equal(change, expected)
  }
  t.match(mustKerninst('report', '--diff', a.path, b.path, '--bundle', BUNDLE), /^before\/s +after\/s +change +point$/m)

  const c = made('other', OTHER, 2, 'host', seed + 22)
  const two = JSON.parse(mustKerninst('report', '--diff', a.path, c.path, '--bundle', BUNDLE, '--bundle', OTHER, '--format', 'json')) as Diff
  const changes = new Map(two.points.map(({ point, aggregate, change }) => [`${point} @${aggregate}`, change]))
  t.equal(changes.get('entry:tcp_sendmsg @'), 'only after')
  t.equal(changes.get('entry:vfs_write @'), 'only before')
  t.not(changes.get('entry:vfs_read @'), 'only before', 'what both have is compared')
  t.end()
})

t.test('wrong pairs', (t) => {
  const [a, c] = [made('a', BUNDLE, 2, 'host', 1), made('c', OTHER, 2, 'host', 2)]
  const cases: [string[], number, RegExp][] = [
    [[a.path, c.path, '--bundle', BUNDLE], 76, /c\.dump was counted by another bundle than .*a\.dump/],
    [[c.path, '--bundle', BUNDLE], 76, /another bundle/],
    [['--bundle', BUNDLE], 64, /give a dump or --vmcore/],
    [[a.path, '--bundle', BUNDLE, '--bundle', OTHER], 64, /one --bundle is enough/],
    [['--diff', a.path, '--bundle', BUNDLE], 64, /--diff compares two dumps/],
    [['--diff', a.path, c.path, '--bundle', BUNDLE], 76, /another bundle/],
    [['--diff', a.path, a.path, '--bundle', BUNDLE, '--format', 'csv'], 64, /--diff has no format 'csv'/],
    [[a.path, '--bundle', BUNDLE, '--format', 'lcov'], 64, /needs --vmlinux/],
    [[a.path, '--bundle', BUNDLE, '--format', 'lcov', '--vmlinux', kernel('6.12-cloud').vmlinux], 76, /is another kernel/],
  ]
  for (const [args, exit, message] of cases) {
    const { status, stderr } = spawnSync(process.execPath, [join(ROOT, 'dist/cli.js'), 'report', ...args], { encoding: 'utf8' })
    t.equal(status, exit, args.join(' '))
    t.match(stderr.trim(), message)
    t.notMatch(stderr.trim(), /\n/, 'one line')
  }
  t.end()
})
