// Line coverage of a stock kernel: fs/read_write.c under calls that are known (readwrite.c), every block of its functions
// counted. The outside judge is the kernel: kprobe events at instructions of some of its lines, at the same time, count how
// often each ran; they lie where none of our splices is, so that both can be. Then genhtml reads what was written.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import t from 'tap'
import { readBundle } from '../../src/bundle/bundle.js'
import { buildGraph } from '../../src/cfg/graph.js'
import { loadImage } from '../../src/image/image.js'
import { readLines } from '../../src/image/lines.js'
import { NONE } from '../../src/image/rva.js'
import { buildInjector, buildModule, kernel, keygen, longOn, mustKerninst, plan, program } from './artefacts.js'
import { runGuest } from './guest.js'

const KERNELS = longOn('6.12-cloud')
const SOURCE = 'fs/read_write.c'
const ROUNDS = 30
const GUEST_SECONDS = 150
/** Only what a shell does not call, so that nobody but readwrite.c does. */
const JUDGED = /^(do_preadv|do_pwritev|vfs_readv|vfs_writev|do_iter_\w+|do_sendfile|vfs_copy_file_range|__do_sys_(preadv|pwritev|copy_file_range)\w*|__x64_sys_(preadv|pwritev|copy_file_range|sendfile64)\w*)$/
const PROBES = 40
/** Farther than anything that a kprobe there may overwrite, or a splice. */
const APART = 24

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-coverage-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['readwrite', 'texthash'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

interface Probe {
  readonly event: string
  readonly place: string
  readonly line: number
}

const script = (probes: readonly Probe[]): string => `
cd /sys/kernel/tracing
${probes.map(({ event, place }) => `echo 'p:kp/${event} ${place}' >> kprobe_events || echo no ${event}`).join('\n')}
insmod /kerninst.ko || exit 1
readwrite 1 || exit 2
texthash save /tmp/text || exit 3
kerninst-inject apply /bundle || exit 4
echo 1 > events/kp/enable || exit 5
readwrite ${ROUNDS} || exit 2
cat kprobe_profile > /out/profile
echo 0 > events/kp/enable
kerninst-inject remove || exit 6
kerninst-inject dump -o /out/dump || exit 7
texthash diff /tmp/text || exit 8
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 9
exit 0
`

/** A tracefile's records: file -> line -> count. */
const tracefile = (text: string): Map<string, Map<number, number>> => new Map(text.split('end_of_record\n').filter((one) => one !== '').map((record) => [
  /^SF:(.*)$/m.exec(record)![1]!,
  new Map([...record.matchAll(/^DA:(\d+),(\d+)$/gm)].map(([, line, count]) => [Number(line), Number(count)])),
]))

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const image = loadImage(target.vmlinux)
    const lines = readLines(target.vmlinux, image.base, image.imageBytes)
    const { functions } = image
    const file = lines.files.indexOf(SOURCE)
    const inSource = Array.from({ length: functions.count }, (_, f) => f).filter((f) => {
      const row = lines.rowAt(functions.start[f]!)
      return row !== NONE && lines.file[row] === file && functions.functionsNamed(functions.nameOf(f)).length === 1 && !functions.nameOf(f).includes('.cold')
    })
    t.ok(inSource.length > 40, `${inSource.length} functions of ${SOURCE}`)
    const bundle = join(scratch, `${name}.bundle`)
    const text = `${inSource.map((f) => `block:${functions.nameOf(f)}`).join(', ')} { @ = count() }`
    const { points, served } = plan(target, [text], key, bundle)
    t.ok(served > 0.95 * points, `${served} of ${points} blocks`)

    // Lines that lie in one block of one function, and of that block an instruction far from all sites.
    const graph = buildGraph(image)
    const { decoded: { tables } } = readBundle(readFileSync(bundle))
    const free = (rva: number): boolean => tables.siteRva.every((site, s) => rva + APART < site || rva > site + tables.siteLength[s]! + APART)
    const blocksOf = new Map<number, Set<number>>() // line -> blocks
    const place = new Map<number, number>() //         line -> an instruction
    for (let row = 0; row + 1 < lines.rva.length; row++) {
      if (lines.file[row] !== file || lines.line[row] === 0) continue
      for (let i = graph.index.from(lines.rva[row]!); i !== NONE && graph.insns.rva[i]! < lines.rva[row + 1]!; i++) {
        const line = lines.line[row]!
        blocksOf.set(line, (blocksOf.get(line) ?? new Set()).add(graph.blockOf[i]!))
        const rva = graph.insns.rva[i]!
        const fn = functions.functionAt(rva)
        if (fn !== NONE && JUDGED.test(functions.nameOf(fn)) && free(rva) && lines.rowAt(rva) === row) place.set(line, rva)
      }
    }
    const probes: Probe[] = [...place].filter(([line]) => blocksOf.get(line)!.size === 1).slice(0, PROBES).map(([line, rva]) => {
      const fn = functions.functionAt(rva)
      return { event: `l${line}`, place: `${functions.nameOf(fn)}+${rva - functions.start[fn]!}`, line }
    })
    t.ok(probes.length > 10, `${probes.length} lines that a kprobe can judge`)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: script(probes),
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-6).join(' | '))
    if (result.exit !== 0) return
    const dump = join(scratch, `${name}.dump`)
    writeFileSync(dump, result.files.get('dump')!)
    const sources = join(scratch, `${name}.sources`)
    const info = join(scratch, `${name}.info`)
    mustKerninst('report', dump, '--bundle', bundle, '--format', 'lcov', '--vmlinux', target.vmlinux, '--sources', sources, '-o', info)
    const coverage = tracefile(readFileSync(info, 'utf8'))
    const counted = coverage.get(join(sources, SOURCE))!
    const profile = new Map([...result.files.get('profile')!.toString().matchAll(/^\s*l(\d+)\s+(\d+)\s+(\d+)$/gm)].map(([, line, hits, misses]) => [Number(line), { hits: Number(hits), misses: Number(misses) }]))
    const judged = probes.flatMap(({ line }) => {
      const one = profile.get(line)
      return one === undefined ? [] : [{ line, hits: one.hits, ours: counted.get(line), misses: one.misses }]
    })
    t.ok(judged.length > 8, `${judged.length} kprobes were taken`)
    t.ok(judged.every(({ misses }) => misses === 0), 'none missed anything')
    t.same(judged.filter(({ hits, ours }) => hits !== ours), [], 'each line ran as often as its kprobe was hit')
    t.ok(judged.filter(({ hits }) => hits > 0).length > 5, `${judged.filter(({ hits }) => hits > 0).length} of them ran, up to ${Math.max(...judged.map(({ hits }) => hits))} times`)
    const ran = [...counted.values()].filter((count) => count > 0).length
    t.ok(ran > 100 && ran < counted.size, `${ran} of ${counted.size} lines of ${SOURCE} ran`)

    // What it is for. The sources themselves are not at hand: a file with as many lines stands for each.
    for (const [path, ofFile] of coverage) {
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, Array.from({ length: Math.max(...ofFile.keys()) }, (_, i) => `line ${i + 1}\n`).join(''))
    }
    const html = join(scratch, `${name}.html`)
    const said = execFileSync('genhtml', ['-o', html, info], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    t.match(said, new RegExp(`lines\\.*: [0-9.]+% \\(${[...coverage.values()].reduce((sum, each) => sum + [...each.values()].filter((count) => count > 0).length, 0)} of `))
    t.match(readFileSync(join(html, 'index.html'), 'utf8'), /LCOV/)
    const summary = execFileSync('lcov', ['--list', info], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
    t.match(summary, /read_write\.c/)
  })
}
