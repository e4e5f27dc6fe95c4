// LLVM's sample profile, opened by what it is for. The lines of some functions against llvm-symbolizer and objdump, instruction by
// instruction, with the counts of the JSON report; llvm-profdata reads and merges it with equal numbers; and clang, which optimizes
// by it, gives a branch on the lines of such a function the weights that these lines have.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { readDeclarations } from '../src/image/declarations.js'
import { loadImage } from '../src/image/image.js'
import { readLines } from '../src/image/lines.js'
import { reportSampleProfile } from '../src/report/sampleprofile.js'
import { drawnDump } from './dumpfile.js'
import { kernel, keygen, kerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { framesAt } from './symbolizer.js'

const FUNCTIONS = ['vfs_read', 'vfs_write', 'do_sys_openat2', 'tcp_sendmsg_locked', 'rw_verify_area', 'path_openat', 'do_iter_readv_writev', 'vfs_fallocate', 'schedule']

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-sampleprofile-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const image = loadImage(target.vmlinux)
const { functions } = image
const lines = readLines(target.vmlinux, image.base, image.imageBytes)
const declarations = readDeclarations(target.vmlinux, image.base, lines)

/** Functions by their names in the sources. */
const byName = new Map<string, number[]>()
for (let f = 0; f < functions.count; f++) {
  const name = declarations.get(functions.start[f]!)?.name
  if (name !== undefined) byName.set(name, [...byName.get(name) ?? [], f])
}
const placeOf = (f: number): string => {
  const { file, line } = declarations.get(functions.start[f]!)!
  return `${lines.files[file]!}:${line}`
}
/** One of a name that several functions of the sources have, and one that was compiled twice from one place. */
const shared = [...byName].find(([, all]) => new Set(all.map(placeOf)).size > 1)!
const twice = [...byName].filter(([, all]) => all.length === 2 && new Set(all.map(placeOf)).size === 1 && /^include\//.test(placeOf(all[0]!)) &&
  all.every((f) => functions.end[f]! - functions.start[f]! > 30))[0]!
const clone = [...byName].find(([name, all]) => all.length === 1 && functions.nameOf(all[0]!) === `${name}.isra.0` && functions.end[all[0]!]! - functions.start[all[0]!]! > 100)!

const key = keygen(scratch, 'trusted')
const [bundle, dump, profile] = ['bundle', 'dump', 'prof'].map((name) => join(scratch, name)) as [string, string, string]
const at = (f: number): string => `block:${functions.nameOf(f)}@0x${(image.base + BigInt(functions.start[f]!)).toString(16)}`
plan(target, [`${[...FUNCTIONS.map((name) => `block:${name}`), ...[shared, twice, clone].flatMap(([, all]) => all.map(at))].join(', ')} { @ = count() }`], key, bundle)
writeFileSync(dump, drawnDump(readBundle(readFileSync(bundle)), 2, lottery(seed)))
const report = (format: string, ...options: string[]): { status: number; stdout: string; stderr: string } =>
  kerninst('report', dump, '--bundle', bundle, '--format', format, '--vmlinux', target.vmlinux, ...options)

interface Read {
  total: bigint
  entries: bigint
  lines: Map<number, bigint>
  calls: Map<number, Map<string, bigint>>
}

/** The text format. */
const parsed = (text: string): Map<string, Read> => {
  const all = new Map<string, Read>()
  let last: Read
  for (const line of text.trim().split('\n')) {
    const head = /^(\S+):(\d+):(\d+)$/.exec(line)
    if (head !== null) {
      last = { total: BigInt(head[2]!), entries: BigInt(head[3]!), lines: new Map(), calls: new Map() }
      all.set(head[1]!, last)
      continue
    }
    const [, offset, count, targets] = /^ (\d+): (\d+)((?: \S+:\d+)*)$/.exec(line)!
    last!.lines.set(Number(offset), BigInt(count!))
    if (targets !== '') last!.calls.set(Number(offset), new Map([...targets!.matchAll(/(\S+):(\d+)/g)].map(([, callee, calls]) => [callee!, BigInt(calls!)])))
  }
  return all
}

/** What llvm-profdata shows of a function. */
const shown = (path: string, name: string): Read => {
  const text = execFileSync('llvm-profdata', ['show', '--sample', `--function=${name}`, path], { encoding: 'utf8' })
  const [, total, entries] = /^Function: \S+: (\d+), (\d+), \d+ sampled lines$/m.exec(text)!
  const rows = [...text.matchAll(/^ {2}(\d+): (\d+)(?:, calls:(.*))?$/gm)]
  return {
    total: BigInt(total!), entries: BigInt(entries!), lines: new Map(rows.map(([, offset, count]) => [Number(offset), BigInt(count!)])),
    calls: new Map(rows.flatMap(([, offset, , calls]) => (calls === undefined ? []
      : [[Number(offset), new Map([...calls.matchAll(/(\S+):(\d+)/g)].map(([, callee, count]) => [callee!, BigInt(count!)]))] as const]))),
  }
}

const plain = ({ total, entries, lines: ofLines, calls }: Read): object => ({
  total, entries, lines: [...ofLines].sort(([a], [b]) => a - b),
  calls: [...calls].sort(([a], [b]) => a - b).map(([offset, targets]) => [offset, [...targets].sort(([a], [b]) => (a < b ? -1 : 1))]),
})

const { stderr } = report('sample-profile', '-o', profile)
const got = parsed(readFileSync(profile, 'utf8'))

t.test('lines', (t) => {
  t.comment(seedNote)
  const symbols = execFileSync('nm', [target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 }).split('\n').map((line) => line.split(' '))
  const address = new Map(symbols.filter(([, kind]) => kind === 'T' || kind === 't').map(([where, , name]) => [name!, BigInt(`0x${where!}`)]))
  const blocks = (JSON.parse(report('json').stdout) as { points: { point: string; count: string }[] }).points.flatMap(({ point, count }) => {
    const [, name, offset] = /^block:(.*)\+(0x[0-9a-f]+)$/.exec(point)!
    return name!.includes('@') ? [] : [{ at: address.get(name!)! + BigInt(offset!), count: BigInt(count) < 0n ? 0n : BigInt(count) }]
  }).sort((a, b) => (a.at < b.at ? -1 : 1))
  let compared = 0
  for (const name of FUNCTIONS) {
    const counts = new Map<number, bigint>() // line -> count, of the function's parts together
    const calls = new Map<string, bigint>() //  line and callee -> count
    let [start, file] = [0, '']
    for (const part of [name, `${name}.cold`].filter((each) => address.has(each))) {
      const text = execFileSync('objdump', ['-d', '--no-show-raw-insn', `--disassemble=${part}`, target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 })
      const insns = [...text.matchAll(/^(ffffffff[0-9a-f]{8}):\t(?:.*\bcall +ffffffff[0-9a-f]{8} <([^>+]+)>)?/gm)]
        .map(([, where, callee]) => ({ at: BigInt(`0x${where!}`), callee }))
      const frames = framesAt(target.vmlinux, insns.map((one) => one.at))
      const own = new Map<number, bigint>()
      for (const [i, one] of insns.entries()) {
        const [inner] = frames[i]!
        // What is inlined there is not its own, nor are lines that stand elsewhere and are not said to be inlined.
        if (inner === undefined || inner.Line === 0 || frames[i]!.length > 1) continue
        if (start === 0) [start, file] = [inner.StartLine, inner.FileName]
        if (inner.FileName !== file || inner.Line < start) continue
        const block = blocks.findLast((each) => each.at <= one.at)!
        const known = own.get(inner.Line - start)
        if (known === undefined || known < block.count) own.set(inner.Line - start, block.count)
        if (one.callee === undefined || one.callee === '__fentry__' || /^(__SCT__|__x86_indirect_thunk)/.test(one.callee) || block.count === 0n) continue
        const call = `${inner.Line - start} ${one.callee}`
        calls.set(call, (calls.get(call) ?? 0n) + block.count)
      }
      for (const [offset, count] of own) counts.set(offset, (counts.get(offset) ?? 0n) + count)
    }
    const read = got.get(name)!
    compared += counts.size
    t.same([...read.lines].sort(([a], [b]) => a - b), [...counts].sort(([a], [b]) => a - b), `${name}: ${counts.size} lines`)
    const ours = new Map([...read.calls].flatMap(([offset, targets]) => [...targets].map(([callee, count]) => [`${offset} ${callee}`, count] as [string, bigint])))
    t.same([...calls].filter(([call, count]) => ours.get(call) !== count), [], `${calls.size} calls`)
    t.equal(read.entries, blocks.find((block) => block.at === address.get(name)!)?.count ?? 0n)
    t.equal(read.total, [...counts.values()].reduce((sum, count) => sum + count, 0n))
  }
  t.ok(compared > 150, `${compared} lines`)
  t.end()
})

t.test('names', (t) => {
  t.notOk(got.has(shared[0]), `${shared[0]} is ${new Set(shared[1].map(placeOf)).size} functions`)
  t.match(stderr, /^kerninst: names left out, since several functions of the sources bear them: 1$/m)
  t.ok(got.has(twice[0]), `${twice[0]} is one, compiled twice`)
  t.ok(got.has(clone[0]) && !got.has(`${clone[0]}.isra.0`), `${clone[0]} is known by its name in the sources`)
  t.equal(got.size, FUNCTIONS.length + 2)
  t.end()
})

t.test('llvm-profdata', (t) => {
  const [text, binary, sum] = ['merged.txt', 'merged.bin', 'sum.txt'].map((name) => join(scratch, name)) as [string, string, string]
  execFileSync('llvm-profdata', ['merge', '--sample', '--text', profile, '-o', text])
  execFileSync('llvm-profdata', ['merge', '--sample', profile, '-o', binary])
  execFileSync('llvm-profdata', ['merge', '--sample', '--text', profile, binary, '-o', sum])
  const [again, added] = [text, sum].map((path) => parsed(readFileSync(path, 'utf8'))) as [Map<string, Read>, Map<string, Read>]
  t.same([...again.keys()].sort(), [...got.keys()].sort())
  for (const [name, one] of got) {
    t.same(plain(again.get(name)!), plain(one), `${name}, as text`)
    t.same(plain(shown(profile, name)), plain(one), `${name}, shown`)
    t.equal(added.get(name)!.total, 2n * one.total)
  }
  t.same(plain(shown(binary, 'vfs_read')), plain(got.get('vfs_read')!), 'binary')
  t.end()
})

t.test('clang', (t) => {
  // Of each function a stand-in: a branch on a line that ran once for each entry, and what it guards on one that ran less often; the
  // end is on a line that has no count. What is drawn by lot does not add up, so other lines would not do.
  const chosen = [...got].flatMap(([name, one]) => {
    const sorted = [...one.lines].sort(([a], [b]) => a - b)
    const [first] = sorted.find(([offset, count]) => offset > 1 && count > 0n && count === one.entries) ?? []
    const [second, seldom] = sorted.find(([offset, count]) => first !== undefined && offset > first && count > 0n && count < one.entries) ?? []
    return first === undefined || second === undefined ? [] : [{ name, first, second, last: sorted.at(-1)![0] + 1, seldom: seldom!, entries: one.entries }]
  })
  t.ok(chosen.length > 0, `${chosen.length} functions`)
  const source = join(scratch, 'standin.c')
  writeFileSync(source, `void guarded(void);\n${chosen.map(({ name, first, second, last }) => {
    const text = Array.from({ length: last + 1 }, () => '')
    text[0] = `void ${name}(int n)`
    text[1] = '{'
    text[first] = 'if (n)'
    text[second] = 'guarded();'
    text[last] = '}'
    return text.join('\n')
  }).join('\n')}\n`)
  const ir = execFileSync('clang', ['-O2', '-gmlt', `-fprofile-sample-use=${profile}`, '-S', '-emit-llvm', '-o', '-', source], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  const weights = (number: string): string[] => [...new RegExp(`^!${number} = !\\{.*`, 'm').exec(ir)![0].matchAll(/i(?:32|64) (\d+)/g)].map(([, value]) => value!)
  for (const { name, first, second, seldom, entries } of chosen) {
    const body = new RegExp(`^define [^\n]*@${name}\\(.*?^\\}$`, 'ms').exec(ir)![0]
    const [, entry] = /^define .*!prof !(\d+)/.exec(body)!
    const [, branch] = /^ +br i1 .*!prof !(\d+)/m.exec(body)!
    t.same(weights(entry!), [`${entries + 1n}`], `${name}: entered`)
    // LLVM adds one to the entries, and to each weight.
    const both = [`${seldom + 1n}`, `${entries + 1n - seldom + 1n}`]
    t.same(weights(branch!).sort(), both.sort(), `${name}: lines ${first} and ${second}`)
  }
  t.end()
})

t.test('hostile names, and large counts', (t) => {
  const max = 2n ** 64n - 1n
  const text = [...reportSampleProfile({
    ambiguous: 0,
    functions: [
      { name: 'a b:c\n#\u{1b}[31m', entries: max + 7n, lines: new Map([[3, max + 1n], [1, 5n]]), calls: new Map([[3, new Map([['x y:1', 2n ** 70n]])]]) },
    ],
  })].join('')
  const path = join(scratch, 'hostile.prof')
  writeFileSync(path, text)
  t.match(text, /^[ -~\n]*$/)
  const [[name, read]] = [...parsed(text)] as [[string, Read]]
  t.same(plain(read), { total: max, entries: max, lines: [[1, 5n], [3, max]], calls: [[3, [['x_y_1', max]]]] })
  t.same(plain(shown(path, name)), plain(read), name)
  t.end()
})
