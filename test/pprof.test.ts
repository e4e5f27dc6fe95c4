// Calls in pprof's format, opened by pprof: its samples, locations and functions are the stacks, counts, addresses and lines that the
// folded stacks, nm and the line tables have; counts that do not fit are cut to what does. And bytes stay out of terminals.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { readDump } from '../src/dump/dump.js'
import { loadImage } from '../src/image/image.js'
import { readLines } from '../src/image/lines.js'
import { reportNumbers } from '../src/report/numbers.js'
import { reportPprof } from '../src/report/pprof.js'
import { drawnDump } from './dumpfile.js'
import { CLI, kernel, keygen, mustKerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

const FUNCTIONS = ['vfs_read', 'vfs_write', 'do_sys_openat2', 'tcp_sendmsg_locked', 'rw_verify_area', 'path_openat']
const CPUS = 2

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-pprof-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const key = keygen(scratch, 'trusted')
const [bundle, dump, profile] = ['bundle', 'dump', 'calls.pb.gz'].map((name) => join(scratch, name)) as [string, string, string]
plan(target, [`${FUNCTIONS.map((name) => `block:${name}`).join(', ')} { @ = count() }`], key, bundle)
writeFileSync(dump, drawnDump(readBundle(readFileSync(bundle)), CPUS, lottery(seed)))
const report = (format: string, vmlinux = target.vmlinux): string[] => ['report', dump, '--bundle', bundle, '--format', format, '--vmlinux', vmlinux]

/** What pprof says of a profile, and asks nobody for. */
const pprof = (path: string, ...options: string[]): string => execFileSync('go', ['tool', 'pprof', '-symbolize=none', ...options, path],
  { encoding: 'utf8', maxBuffer: 1 << 28, stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, PPROF_TMPDIR: scratch, TZ: 'UTC' } })

interface Raw {
  readonly head: string
  readonly samples: { count: bigint; stack: number[] }[]
  /** Number -> where it is. */
  readonly locations: Map<number, { address: string; mapping: string; name: string; file: string; line: number; start: number }>
  readonly mappings: string[]
}

const rawOf = (path: string): Raw => {
  const [head, samples, locations, mappings] = pprof(path, '-raw').split(/^Samples:\n|^Locations\n|^Mappings\n/m) as [string, string, string, string]
  return {
    head,
    samples: [...samples.matchAll(/^ *(\d+): ([\d ]+)$/gm)].map(([, count, stack]) => ({ count: BigInt(count!), stack: stack!.trim().split(' ').map(Number) })),
    locations: new Map([...locations.matchAll(/^ *(\d+): 0x([0-9a-f]+) (M=\d+ )?(\S+) (\S*):(\d+)(?::\d+)? s=(\d+)/gm)].map(([, id, address, mapping, name, file, line, start]) =>
      [Number(id), { address: address!, mapping: mapping ?? '', name: name!, file: file!, line: Number(line), start: Number(start) }])),
    mappings: mappings.trim().split('\n'),
  }
}

const added = (pairs: Iterable<readonly [string, bigint]>): Map<string, bigint> => {
  const sums = new Map<string, bigint>()
  for (const [key, count] of pairs) sums.set(key, (sums.get(key) ?? 0n) + count)
  return sums
}

const sorted = (map: ReadonlyMap<string, bigint>): string[] => [...map].map(([key, count]) => `${key} ${count}`).sort()

t.test('stacks', (t) => {
  t.comment(seedNote)
  mustKerninst(...report('pprof'), '-o', profile)
  const folded = added(mustKerninst(...report('folded')).trim().split('\n').map((line) => {
    const space = line.lastIndexOf(' ')
    return [line.slice(0, space), BigInt(line.slice(space + 1))] as const
  }))
  const { head, samples, locations, mappings } = rawOf(profile)
  t.match(head, /Time: 2026-09-21 14:13:20 .*\nDuration: 1m0s\n/)
  t.match(head, new RegExp(`^Comment: host host: ${target.release}, ${CPUS} CPUs$`, 'm'))
  const at = (id: number) => locations.get(id)!
  t.same(sorted(added(samples.map(({ count, stack }) => [stack.map((id) => at(id).name).reverse().join(';'), count]))), sorted(folded), 'the same stacks')
  t.ok(samples.length > folded.size, `${samples.length} places of ${folded.size} stacks`)
  t.ok(samples.every(({ stack }) => stack.length === 2))

  // The same again, as pprof reads it for people.
  const traces = pprof(profile, '-traces').split(/^-+\+-+$/m).slice(1).flatMap((trace): [string, bigint][] => {
    const [, count, callee, caller] = /^\n +(\d+) +(\S+)\n +(\S+)\n$/.exec(trace) ?? []
    return count === undefined ? [] : [[`${caller!};${callee!}`, BigInt(count)]]
  })
  t.same(sorted(added(traces)), sorted(folded), 'in -traces')
  const top = new Map([...pprof(profile, '-top', '-nodecount=100000', '-nodefraction=0').matchAll(/^ *(\d+) +\S+% +\S+% +\d+ +\S+% +(\S+)$/gm)]
    .map(([, flat, name]) => [name!, BigInt(flat!)] as const))
  const flat = added([...folded].map(([stack, count]) => [stack.split(';')[1]!, count]))
  t.same(sorted(new Map([...top].filter(([, count]) => count > 0n))), sorted(flat), 'in -top')
  t.match(pprof(profile, '-top'), /^File: vmlinux\n/)

  // Where they are.
  const image = loadImage(target.vmlinux)
  const lines = readLines(target.vmlinux, image.base, image.imageBytes)
  const symbols = new Map(execFileSync('nm', [target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 }).split('\n').map((line) => [line.slice(19), line.slice(0, 16)]))
  t.same([...locations.values()].filter(({ name }) => name === '[unknown]'), [{ address: '0', mapping: '', name: '[unknown]', file: '', line: 0, start: 0 }])
  t.same(samples.map(({ stack: [callee] }) => at(callee!)).filter(({ address, name }) => symbols.get(name) !== address), [], 'callees are at their first byte')
  const calls = samples.map(({ stack: [, caller] }) => at(caller!)).filter(({ name }) => name !== '[unknown]')
  const text = FUNCTIONS.map((name) => execFileSync('objdump', ['-d', `--disassemble=${name}`, target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 })).join('')
  const inText = new Set([...text.matchAll(/^(ffffffff[0-9a-f]{8}):.*\bcall +/gm)].map(([, address]) => address!))
  const elsewhere = calls.filter(({ address, name }) => !inText.has(address) && !name.endsWith('.cold'))
  t.same(elsewhere, [], `${calls.length} callers are at their calls`)
  const known = [...locations.values()].filter(({ line }) => line > 0)
  t.same(known.flatMap(({ address, file, line }) => {
    const row = lines.rowAt(Number(BigInt(`0x${address}`) - image.base))
    return lines.files[lines.file[row]!] === file && lines.line[row] === line ? [] : [address]
  }), [], `${known.length} of ${locations.size} have a line`)
  t.ok(known.length > locations.size / 2)
  t.same(new Set([...locations.values()].filter(({ name }) => name === 'vfs_read').map(({ file, start }) => `${file}:${start}`)), new Set(['fs/read_write.c:451']))
  t.equal(mappings.length, 1)
  t.match(mappings[0], new RegExp(`^1: 0x${image.base.toString(16)}/0x[0-9a-f]+/0x0 vmlinux ${Buffer.from(image.buildId).toString('hex')} \\[FN\\]\\[FL\\]\\[LN\\]$`))
  t.end()
})

t.test('without source lines', (t) => {
  const stripped = join(scratch, 'stripped')
  execFileSync('objcopy', ['--strip-debug', target.vmlinux, stripped])
  const path = join(scratch, 'stripped.pb.gz')
  mustKerninst(...report('pprof', stripped), '-o', path)
  const [full, bare] = [profile, path].map(rawOf) as [Raw, Raw]
  t.same(bare.samples, full.samples)
  t.ok([...bare.locations.values()].every(({ file, line, start }) => file === '' && line === 0 && start === 0))
  t.match(bare.mappings[0], / \[FN\]$/)
  t.end()
})

t.test('counts of 64 bits', (t) => {
  const image = loadImage(target.vmlinux)
  const numbers = reportNumbers(readBundle(readFileSync(bundle)), readDump(dump))
  const counts = [1n, 127n, 128n, 2n ** 32n, 2n ** 53n + 1n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n + 5n]
  const path = join(scratch, 'large.pb.gz')
  writeFileSync(path, reportPprof(numbers, { sites: [], calls: [], entered: new Map(counts.map((count, fn) => [fn, count])) }, image))
  t.same(rawOf(path).samples.map(({ count }) => count), counts.map((count) => (count < 2n ** 63n ? count : 2n ** 63n - 1n)))
  t.end()
})

t.test('not for terminals', (t) => {
  const command = [process.execPath, CLI, ...report('pprof')].map((word) => `'${word}'`).join(' ')
  const { status, stdout } = spawnSync('script', ['-qec', command, '/dev/null'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  t.equal(status, 64)
  t.match(stdout, /kerninst: --format pprof is not text: give -o with a file, or a pipe/)
  const piped = spawnSync(process.execPath, [CLI, ...report('pprof')], { maxBuffer: 1 << 28 })
  t.ok(piped.stdout.equals(readFileSync(profile)), 'into a pipe, the same bytes')
  t.end()
})
