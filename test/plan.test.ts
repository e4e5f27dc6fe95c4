// The planner from the program to the checked plan. Judges: real execution (counting code), a brute-force walker
// (equivalent blocks), and the plan checker, which is itself tested by breaking plans.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBundle, writeBundle } from '../src/bundle/bundle.js'
import { equivalentBlocks, runsWith } from '../src/cfg/equivalent.js'
import { cutFunction, type FunctionGraph } from '../src/cfg/function.js'
import { buildGraph } from '../src/cfg/graph.js'
import { END } from '../src/cfg/kinds.js'
import { effectReads } from '../src/code/effects.js'
import { decodeRanges, FLOW } from '../src/code/instructions.js'
import { ALL, RCX, RDX, RSI } from '../src/code/registers.js'
import { SecondDecoder } from '../src/code/second.js'
import { KerninstError } from '../src/error.js'
import { loadImage, type Image } from '../src/image/image.js'
import { hex, NONE } from '../src/image/rva.js'
import { livenessOf, solveLiveness } from '../src/liveness/live.js'
import { identify } from '../src/pipeline.js'
import { resolvePoints, type Point } from '../src/probe/points.js'
import { readRequests } from '../src/probe/requests.js'
import { showJson } from '../src/report/show.js'
import { checkPlan, PlanChecker } from '../src/splice/check.js'
import { CodeBuffer } from '../src/splice/code.js'
import { describeLive, emitCounters } from '../src/splice/counter.js'
import { describePlan } from '../src/splice/describe.js'
import type { ManifestText } from '../src/splice/manifest.js'
import { originalOf } from '../src/splice/move.js'
import { makePlan, placeOf, type Plan } from '../src/splice/plan.js'
import { CODES } from '../src/splice/refusal.js'
import { FIXUP_KIND, SITE_FLAG, SITE_KIND, type PatchTables } from '../src/splice/tables.js'
import { TACTIC, TACTIC_NAMES } from '../src/splice/tactics.js'
import { lottery, seed, seedNote } from './lottery.js'

const CACHE = process.env['KERNINST_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'kerninst')
const KERNELS = ['6.1-cloud', '6.12-cloud'].map((name) => ({ name, path: join(CACHE, 'kernels', name, 'vmlinux') }))
const ROOT = process.cwd()

/** Of the code of a plan, so many bytes and fixups are broken, drawn by lot. */
const BROKEN_BYTES = 200
const BROKEN_FIXUPS = 40

t.comment(seedNote)
const random = lottery(seed)

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-plan-'))
t.teardown(() => rmSync(scratch, { recursive: true, force: true }))

/** The points that were refused, and why. */
const refusals = ({ points }: Plan): { name: string; code: string; nearest: number }[] =>
  Array.from({ length: points.count }, (_, p) => p).filter((p) => points.refusal[p] !== 0)
    .map((p) => ({ name: points.asked[points.of[p]!]!.name, code: CODES[points.refusal[p]!]!, nearest: points.nearest[p]! }))

/** How each point is served: by which tactic where, or from which counts it follows; or why it is not. */
const waysOf = (image: Image, { points, encoded }: Plan, withFree = false): string[] => {
  const ways: string[] = []
  for (let p = 0; p < points.count; p++) {
    if (points.refusal[p] !== 0) {
      ways.push(`refused ${CODES[points.refusal[p]!]}`)
      continue
    }
    const terms = [...points.term.subarray(points.termStart[p], points.termStart[p + 1])]
    const place = (term: number): string => placeOf(image, encoded.slotRva[term >>> 1]!) + (encoded.slotTakes[term >>> 1] ? ' taken' : '')
    if (points.derived[p]) {
      const { kind } = points.asked[points.of[p]!]!
      const to = kind === 'edge' ? `->${hex(points.to[p]! - image.functions.start[points.asked[points.of[p]!]!.fn]!)}` : ''
      ways.push(`${kind}:${placeOf(image, points.rva[p]!)}${to} = ${terms.map((term) => `${term & 1 ? '-' : '+'} ${place(term)}`).join(' ')}`)
      continue
    }
    for (const term of terms) {
      const free = withFree ? ` [${describeLive(encoded.slotLive[term >>> 1]!)}]` : ''
      ways.push(`${TACTIC_NAMES[encoded.siteTactic[encoded.slotSite[term >>> 1]!]!]} ${place(term)}${free}`)
    }
  }
  return ways
}

t.test('imports go only to folders further left', (t) => {
  const order = ['image', 'code', 'cfg', 'liveness', 'probe', 'splice', 'bundle', 'dump', 'report']
  let imports = 0
  for (const [place, folder] of order.entries()) {
    for (const file of readdirSync(join(ROOT, 'src', folder))) {
      const text = readFileSync(join(ROOT, 'src', folder, file), 'utf8')
      for (const match of text.matchAll(/from '\.\.\/([a-z]+)\//g)) {
        imports++
        const to = order.indexOf(match[1]!)
        if (to < 0 || to >= place) t.fail(`src/${folder}/${file} imports ${match[1]}`)
      }
    }
  }
  t.ok(imports > 50, `${imports} imports looked at`)
  t.end()
})

/** The points that a program asks for. */
const pointsOf = (image: Image, text: string): Point[] => resolvePoints(image, readRequests([{ text, source: 't' }]).rows)

t.test('programs', (t) => {
  const tree = (depth: number): string => (depth === 0 ? 'arg0' : `(${tree(depth - 1)} + ${tree(depth - 1)} * 3)`)
  const good: [string, string[]][] = [
    ['entry:vfs_read { @ = count() }', ['entry:vfs_read+0 @ 1:1']],
    ['entry:a,return:a { @x = count(); }\n# note\ninsn:b.isra.0+0x1c { @ = count() } // end',
      ['entry:a+0 @x 1:1', 'return:a+0 @x 1:9', 'insn:b.isra.0+28 @ 3:1']],
    ['call:tcp_* { @ = count() @two = count() }', ['call:tcp_*+0 @ 1:1', 'call:tcp_*+0 @two 1:1']],
    ['insn:f+16{@=count()}', ['insn:f+16 @ 1:1']],
    ['entry:a /arg2 > 1/ { @ = count() @two = count() }', ['entry:a+0 @ 1:1 program 0', 'entry:a+0 @two 1:1 program 0']],
    ['entry:a { @ = count() @size = hist(arg2) }', ['entry:a+0 @ 1:1', 'entry:a+0 @size 1:1 program 0']],
    ['entry:a, entry:b { @ = hist(arg2) }\nreturn:a { @r = max(retval) }',
      ['entry:a+0 @ 1:1 program 0', 'entry:b+0 @ 1:10 program 0', 'return:a+0 @r 2:1 program 1']],
  ]
  for (const [text, expected] of good) {
    const probes = readRequests([{ text, source: '-e' }]).rows.map((p) => `${p.kind}:${p.pattern}+${p.offset} @${p.aggregate} ${p.line}:${p.column}${p.program < 0 ? '' : ` program ${p.program}`}`)
    t.same(probes, expected, text)
  }
  const bad: [string, RegExp][] = [
    ['', /^-e:1:1: no probe here/],
    ['entry:vfs_read', /^-e:1:15: '\{' is missing/],
    ['enter:x { @ = count() }', /^-e:1:1: 'enter' is not one of .*did you mean entry\?/],
    ['span:x { @ = sum(reg("rbx")) }', /^-e:1:18: reg\(\) in a span/],
    ['span:x /reg("rbx") > 1/ { @ = count() }', /^-e:1:9: reg\(\) in a span/],
    ['span:x { @ = sum(elapsed) asm("nop") }', /^-e:1:27: asm in a span/],
    ['span:x { @ = sum((arg0 + arg1 * arg2) / ((arg3 + arg4) / (arg5 - retval)) / (arg0 / (arg1 / arg2))) }', /more than 4 values are needed at once/],
    ['entry:x+4 { @ = count() }', /^-e:1:8: entry: takes no offset/],
    ['insn:x { @ = count() }', /insn: needs an offset/],
    ['insn:x+ { @ = count() }', /an offset is missing/],
    ['entry: { @ = count() }', /a function's name is missing/],
    ['entry:x { }', /there is no action/],
    ['entry:x { asm("nop") }', /^-e:1:11: asm: there is no assembler/],
    ['entry:x { @ = count() } return:x { @ = hist(retval) }', /^-e:1:36: @ is count\(\) elsewhere/],
    ['entry:x { @ = hist(arg0) } return:x { @ = lhist(retval, 0, 4, 1) }', /^-e:1:39: @ is hist\(\) elsewhere/],
    ['entry:x { @[arg0] = hist(arg1) }', /^-e:1:13: a key of hist\(\) must be known to be less than 63/],
    ['entry:x { @[cpu & 7] = sum(1); @ = sum(2) }', /^-e:1:32: @ is with a key elsewhere/],
    ['entry:x { @ = lhist(arg0, -4, 4, 1) }', /^-e:1:21: lhist from a negative number on/],
    ['entry:x /arg0 > 1/ { @ = count(); if (arg1) { @ = count() } } entry:y { @ = hist(arg0) }', /@ is count\(\) elsewhere/],
    ['entry:x { @ = count(); if (arg1) { @ = count() } }', /@ counts twice in one probe/],
    ['entry:x { @ = sum(reg("rsp")) }', /reg\("rsp"\) is not to be had/],
    [`entry:x { @ = sum(${tree(10)}) }`, /more than 8 values are needed at once/],
    ['entry:x { @ = count( }', /'\)' is missing/],
    ['entry:x { @ = count() @ = count() }', /given twice/],
    ['entry:x {\n  @ = count()\n', /^-e:3:1: '\}' is missing/],
    ['entry:x { @ = count() } garbage', /'garbage' is not one of/],
  ]
  for (const [text, message] of bad) {
    t.throws(() => readRequests([{ text, source: '-e' }]), { exit: 65, message }, JSON.stringify(text))
  }
  for (let i = 0; i < 3000; i++) {
    const from = 'entry:vfs_read, insn:f+0x1c { @x = count(); } // #\n/*?'
    let text = ''
    for (let n = random(40); n > 0; n--) text += from.slice(random(from.length)).slice(0, 1 + random(8))
    try {
      readRequests([{ text, source: 'fuzz' }])
    } catch (error) {
      if (!(error instanceof KerninstError)) t.fail(`${JSON.stringify(text)}: ${String(error)}`)
    }
  }
  t.end()
})

t.test('counting code, executed', (t) => {
  const binary = join(scratch, 'run')
  execFileSync('gcc', ['-O1', '-Wall', '-Werror', '-o', binary, join(ROOT, 'test/native/run.c')])
  const cases: Uint8Array[] = []
  const add = (live: number, slots: number): void => {
    const code = new CodeBuffer()
    emitCounters(code, live, Array.from({ length: slots }, (_, i) => i))
    code.emit(0xc3)
    const bytes = code.bytes()
    const view = new DataView(bytes.buffer)
    const { fixupCount, fixupOffset, fixupKind, fixupValue } = code.fixupTables()
    for (let i = 0; i < fixupCount; i++) {
      t.equal(fixupKind[i], FIXUP_KIND.slot64)
      view.setBigUint64(fixupOffset[i]!, BigInt(fixupValue[i]! * 8), true)
    }
    const head = new Uint8Array(Uint32Array.of(live, slots, bytes.length).buffer)
    cases.push(head, bytes)
  }
  // Every combination of flags with some registers, then every pair of free registers, then random sets.
  for (let flags = 0; flags < 64; flags++) for (const gprs of [0xffff, 0xfffe, 0xfffc, 0xf0ff, 0x10, 0xfff7]) add((flags << 16) | gprs, 1)
  for (let a = 0; a < 16; a++) for (let b = 0; b < 16; b++) add(ALL & ~(1 << a) & ~(1 << b), 1 + (a & 1))
  for (let i = 0; i < 2000; i++) add(random(1 << 22), 1 + random(4))
  const run = spawnSync(binary, [String(seed)], { input: Buffer.concat(cases), encoding: 'utf8' })
  t.match(run.stdout, /^\d+ cases, 0 failures\n$/)
  t.ok(Number(run.stdout.split(' ')[0]) > 20_000)
  // The judge sees harm: code that counts but spoils rax.
  const harmful = Buffer.concat([Buffer.from(Uint32Array.of(1, 0, 3).buffer), Buffer.from([0xff, 0xc0, 0xc3])])
  t.equal(spawnSync(binary, ['1'], { input: harmful }).status, 1, 'harm is seen')
  t.end()
})

// A graph from a list of successors; blocks are single instructions.
const graphOf = (succ: number[][], ends: number[]): FunctionGraph => {
  const start = new Uint32Array(succ.length + 1)
  succ.forEach((list, i) => (start[i + 1] = start[i]! + list.length))
  const zero = new Uint32Array(succ.length)
  return {
    name: 'random', start: 0, end: succ.length, blockCount: succ.length,
    insns: { ...decodeRanges([]), count: 0 },
    block: zero, blockFirst: Uint32Array.from({ length: succ.length + 1 }, (_, i) => i), blockEnd: Uint8Array.from(ends),
    blockOfInsn: zero, succStart: start, succ: Uint32Array.from(succ.flat()), entries: Uint32Array.of(0),
    incomplete: '', alternativeLeaves: false,
  }
}

t.test('equivalent blocks run equally often on random walks', (t) => {
  let pairs = 0
  for (let g = 0; g < 4000; g++) {
    const n = 2 + random(9)
    const ends: number[] = []
    const succ = Array.from({ length: n }, (_, b) => {
      const kind = random(8)
      ends.push(kind === 0 ? END.return : kind === 1 ? END.leaks : 0)
      if (kind === 0) return []
      const list = [Math.min(n - 1, b + 1)]
      if (random(2)) list.push(random(n))
      return [...new Set(list)]
    })
    const graph = graphOf(succ, ends)
    const claimed: [number, number][] = []
    for (let a = 0; a < n; a++) for (const b of equivalentBlocks(graph, a)) if (a !== b) claimed.push([a, b])
    pairs += claimed.length
    for (let w = 0; w < 12 && claimed.length > 0; w++) {
      const runs = new Array<number>(n).fill(0)
      let at: number | undefined = 0
      let ended = false
      for (let steps = 0; steps < 60 && at !== undefined; steps++) {
        runs[at]!++
        // A leaking block may end the walk behind its last instruction.
        if ((ends[at]! & END.leaks && random(3) === 0) || succ[at]!.length === 0) {
          ended = true
          break
        }
        at = succ[at]![random(succ[at]!.length)]
      }
      if (!ended) continue // cut off in the middle: counts may differ by the run in flight
      for (const [a, b] of claimed) if (runs[a] !== runs[b]) t.fail(`blocks ${a} and ${b} of ${JSON.stringify({ succ, ends })}`)
    }
  }
  t.ok(pairs > 2000, `${pairs} pairs`)
  const diamond = graphOf([[1, 2], [3], [3], []], [0, 0, 0, END.return])
  t.ok(runsWith(diamond, 0, 3), 'a diamond\'s join runs with its top')
  t.notOk(runsWith(diamond, 0, 1), 'its side does not')
  t.notOk(runsWith(graphOf([[1, 2], [3], [3], []], [0, END.leaks, 0, END.return]), 0, 3), 'not where a side may not go on')
  t.notOk(runsWith(graphOf([[1], [1, 2], []], [0, 0, END.return]), 0, 1), 'a loop\'s head does not run with what comes before')
  t.end()
})

t.test('kernels in miniature', async (t) => {
  const folder = join(ROOT, 'corpora/miniature')
  const second = await SecondDecoder.load()
  const sources = readdirSync(folder).filter((name) => name.endsWith('.S'))
  t.ok(sources.length >= 4)
  for (const source of sources) {
    const path = join(scratch, source.replace('.S', '.elf'))
    execFileSync(join(folder, 'build.sh'), [join(folder, source), path])
    const image = loadImage(path)
    const live = solveLiveness(buildGraph(image))
    const expects = [...readFileSync(join(folder, source), 'utf8').matchAll(/^# expect (\S+)\s+(.*)$/gm)]
    if (expects.length === 0) throw new Error(`${source} expects nothing`)
    for (const [, point, expected] of expects) {
      const plan = makePlan(live, second, pointsOf(image, `${point} { @ = count() }`))
      t.equal(waysOf(image, plan, expected!.includes('[')).join(', '), expected, `${source}: ${point}`)
      checkPlan(live.graph, plan.encoded, plan.reserved, second)
    }
  }
  t.end()
})

t.test('cfg and disasm', (t) => {
  const path = join(scratch, 'exits.elf')
  const cli = (...args: string[]): ReturnType<typeof spawnSync> =>
    spawnSync(process.execPath, [join(ROOT, 'dist/cli.js'), ...args], { encoding: 'utf8' })
  const json = cli('cfg', path, 'conditional', '--format', 'json')
  t.equal(json.status, 0)
  const graph = JSON.parse(String(json.stdout)) as {
    name: string, start: string, end: string, blocks: { start: string, end: string, succ: string[], liveIn: string[] }[]
  }
  t.equal(graph.name, 'conditional')
  const start = BigInt(graph.start)
  const offset = (address: string): number => Number(BigInt(address) - start)
  t.same(graph.blocks.map((b) => [offset(b.start), offset(b.end), b.succ.map(offset)]),
    [[0, 5, [5]], [5, 14, [14]], [14, 21, []]], 'blocks and edges; the conditional tail call is no edge')
  t.notOk(graph.blocks[2]!.liveIn.includes('rax'), 'rax is overwritten')
  t.ok(graph.blocks[2]!.liveIn.includes('rbx'), 'rbx is the caller\'s')
  const all = String(cli('cfg', path, '--format', 'json').stdout).trim().split('\n').map((line) => (JSON.parse(line) as { name: string }).name)
  t.ok(all.includes('several') && all.includes('vmap'))
  t.match(String(cli('cfg', path, 'several').stdout), /several\+0x14  10 bytes  -> return/)
  t.match(String(cli('cfg', path, 'several', '--format', 'dot').stdout), /^digraph "several" \{\n[^]*b1 -> b3\n[^]*\}\n$/)
  t.match(String(cli('disasm', path, 'tail').stdout), /jmp 0x[0-9a-f]+ +retarget-jump, 3 added +live: /)
  for (const [args, status] of [[['cfg', path, 'nobody'], 65], [['cfg', path, '--format', 'svg'], 64], [['disasm', path], 64]] as const) {
    const run = cli(...args)
    t.equal(run.status, status, args.join(' '))
    t.match(String(run.stderr), /^kerninst: [^\n]+\n$/)
  }
  t.end()
})

/** A random sample of functions in .text. */
const sample = (image: Image, count: number): number[] =>
  Array.from({ length: count }, () => random(image.functions.count)).filter((f) => image.functions.start[f]! < image.textEnd)

for (const kernel of KERNELS) {
  t.test(kernel.name, async (t) => {
    const image = loadImage(kernel.path)
    const live = solveLiveness(buildGraph(image))
    const second = await SecondDecoder.load()
    const program = 'entry:vfs_read,return:vfs_read,call:vfs_read,entry:tcp_sendmsg,return:tcp_sendmsg,entry:__schedule,' +
      'return:do_sys_openat2,entry:handle_mm_fault,return:handle_mm_fault,insn:vfs_write+0x20,return:vfs_write { @ = count() }'
    const planOf = (text: string): Plan => makePlan(live, second, pointsOf(image, text))
    const plan = planOf(program)

    t.test('graphs are well formed', (t) => {
      let complete = 0
      const functions = sample(image, 1500)
      for (const f of functions) {
        const graph = cutFunction(live.graph, f)
        const { insns, blockCount, blockFirst } = graph
        if (graph.incomplete === '') complete++
        for (let i = 1; i < insns.count; i++) if (insns.rva[i]! < insns.rva[i - 1]! + insns.length[i - 1]!) t.fail(`${graph.name}: overlap`)
        for (let b = 0; b < blockCount; b++) {
          if (blockFirst[b]! >= blockFirst[b + 1]!) t.fail(`${graph.name}: empty block`)
          for (let i = blockFirst[b]!; i < blockFirst[b + 1]! - 1; i++) {
            // Only the last instruction of a block may hand on control or be left for another place.
            if (insns.flow[i] !== FLOW.next) t.fail(`${graph.name}: transfer inside a block`)
            if (image.tables.exTable.insn.includes(insns.rva[i]!)) t.fail(`${graph.name}: a fault inside a block`)
          }
          for (let i = blockFirst[b]! + 1; i < blockFirst[b + 1]!; i++) {
            if (live.graph.targets.has(insns.rva[i]!)) t.fail(`${graph.name}: a jump into a block`)
          }
        }
        for (const s of graph.succ) if (s >= blockCount) t.fail(`${graph.name}: an edge to nowhere`)
      }
      t.ok(complete > functions.length * 0.95, `${complete} of ${functions.length} complete`)
      t.end()
    })

    t.test('liveness satisfies its equations where it is used', (t) => {
      // At entry, a traced function's own arguments are live where it reads them: vfs_read reads file, buf, count.
      const f = image.functions.functionsNamed('vfs_read')[0]!
      const graph = cutFunction(live.graph, f)
      const { liveIn } = livenessOf(live, graph)
      const first = [...graph.insns.rva].findIndex((rva) => rva > image.functions.start[f]! + 8)
      t.equal(liveIn[first]! & (RSI | RDX), RSI | RDX, 'arguments')
      for (const index of sample(image, 300)) {
        const g = cutFunction(live.graph, index)
        const solved = livenessOf(live, g)
        for (let i = 0; i < g.insns.count; i++) {
          const reads = effectReads[g.insns.effect[i]!]!
          if (g.insns.flow[i] !== FLOW.call && (solved.liveIn[i]! & reads) !== reads) t.fail(`${g.name}: a read register is dead`)
        }
      }
      // 6.1: __ftrace_hash_rec_update keeps r11 over a call to hash_contains_ip.isra.0 (gcc's -fipa-ra).
      const proof = image.functions.functionsNamed('__ftrace_hash_rec_update')[0]
      if (kernel.name === '6.1-cloud') {
        t.ok(proof !== undefined)
        const g = cutFunction(live.graph, proof!)
        const solved = livenessOf(live, g)
        const calls = [...g.insns.flow.keys()].filter((i) => g.insns.flow[i] === FLOW.call && g.insns.target[i] !== NONE &&
          placeOf(image, g.insns.target[i]!).startsWith('hash_contains_ip.isra.0+0x0'))
        t.ok(calls.length > 0)
        for (const i of calls) t.ok(solved.liveIn[i]! & (1 << 11), 'r11 is live over the call')
      }
      t.end()
    })

    t.test('a plan is accepted, and the same twice', (t) => {
      const odd = refusals(plan).filter((r) => !['retpoline', 'no-instruction', 'static-call'].includes(r.code))
      t.same(odd, [])
      const checked = checkPlan(live.graph, plan.encoded, plan.reserved, second)
      t.equal(checked.sites, plan.encoded.tables.siteCount)
      t.ok(checked.sites >= 15)
      t.same(planOf(program).encoded, plan.encoded)
      const manifest = describePlan(image, plan, [program], { name: 'kerninst', version: '0' })
      const bundle = readBundle(writeBundle({ manifest, target: identify(image), tables: plan.encoded.tables }))
      t.same(bundle.manifest, manifest, 'through a bundle and back')
      const shown = (JSON.parse([...showJson(bundle)].join('')) as { manifest: ManifestText }).manifest
      t.equal(shown.points.length + shown.refusals.length, plan.points.count)
      t.same(shown.refusals.map(({ code }) => code), refusals(plan).map(({ code }) => code))
      t.equal(shown.points.find((p) => p.point === 'entry:vfs_read')!.parts.length, 1)
      t.ok(shown.points.find((p) => p.point === 'return:handle_mm_fault')!.parts.length >= 1)
      for (const site of shown.sites) t.ok(site.listing.length >= 3, `${site.at}: ${site.listing.join('; ')}`)
      t.end()
    })

    t.test('every tactic, each checked', (t) => {
      const wide = planOf('block:tcp_*,block:vfs_*,edge:do_*,return:ext4_*,entry:sys_* { @ = count() }')
      const checked = checkPlan(live.graph, wide.encoded, wide.reserved, second)
      const { siteTactic, tables: { siteFlags, siteKind } } = wide.encoded
      const counts = new Uint32Array(TACTIC_NAMES.length)
      for (const tactic of siteTactic) counts[tactic]!++
      t.comment(`${checked.sites} sites, ${checked.instructions} instructions: ${TACTIC_NAMES.map((name, i) => `${name} ${counts[i]}`).join(', ')}`)
      counts.forEach((count, tactic) => t.ok(count > 0, TACTIC_NAMES[tactic]!))
      siteTactic.forEach((tactic, s) => {
        const window = tactic === TACTIC.window || tactic === TACTIC.eviction
        if ((siteFlags[s] === SITE_FLAG.window) !== window) t.fail(`site ${s}: a window`)
        if ((siteFlags[s] === SITE_FLAG.springboard) !== (tactic === TACTIC.springboard)) t.fail(`site ${s}: a springboard`)
        if ((siteKind[s] === SITE_KIND.hop) !== (tactic === TACTIC.shortJump)) t.fail(`site ${s}: a short jump`)
      })
      t.end()
    })

    t.test('with a profile, patches of what ran come first', (t) => {
      const points = pointsOf(image, 'block:vfs_*,edge:dev_*,return:do_* { @ = count() }')
      const rva = Uint32Array.from(new Set(points.flatMap(({ fn }) => {
        const { blockCount, blockFirst, insns } = cutFunction(live.graph, fn)
        return Array.from({ length: blockCount }, (_, b) => insns.rva[blockFirst[b]!]!)
      }))).sort()
      const runs = Float64Array.from(rva, () => random(3) * random(1000))
      const { functions } = image
      const plain = makePlan(live, second, points).encoded
      const { encoded, reserved } = makePlan(live, second, points, { profile: { buildId: '', rva, runs } })
      checkPlan(live.graph, encoded, reserved, second)
      t.same(encoded.tables.siteRva, plain.tables.siteRva, 'the same sites')
      /** The sites that have a patch, in the order of those; found by the starts of the patches, not by the layout. */
      const laidOut = ({ siteCount, siteRva, siteKind, siteFlags, sitePatch }: PatchTables): number[] =>
        Array.from({ length: siteCount }, (_, s) => s).filter((s) => siteFlags[s] !== SITE_FLAG.springboard)
          .map((s) => ({ s, patch: sitePatch[siteKind[s] === SITE_KIND.hop ? sitePatch[s]! : s]! }))
          .sort((a, b) => a.patch - b.patch).map(({ s }) => siteRva[s]!)
      const before = laidOut(plain.tables)
      t.same(before, [...before].sort((a, b) => a - b), 'without one, patches lie as their sites do')
      const order = laidOut(encoded.tables)
      const known = new Map<number, number[]>() // function -> the places of it that are known
      rva.forEach((at, i) => {
        const f = functions.functionAt(at)
        known.set(f, [...(known.get(f) ?? []), i])
      })
      /** By trying all of them. */
      const ran = (at: number): boolean => {
        const inside = known.get(functions.functionAt(at)) ?? []
        const i = inside.filter((i) => rva[i]! <= at).at(-1) ?? inside[0]
        return i !== undefined && runs[i]! > 0
      }
      const hot = order.map(ran)
      t.equal(hot.lastIndexOf(true) + 1, encoded.hot.patches, 'hot before cold')
      t.equal(hot.indexOf(false), encoded.hot.patches)
      t.ok(encoded.hot.patches > 100 && encoded.hot.patches < order.length - 100, `${encoded.hot.patches} of ${order.length}`)
      for (const part of [order.slice(0, encoded.hot.patches), order.slice(encoded.hot.patches)]) {
        const runsOfFunctions = part.map((at) => functions.functionAt(at)).filter((f, i, all) => i === 0 || f !== all[i - 1])
        t.equal(new Set(runsOfFunctions).size, runsOfFunctions.length, 'those of one function are together')
      }
      t.end()
    })

    t.test('no site is where the kernel\'s tables forbid one', (t) => {
      const { tables } = image
      const wide = planOf('entry:tcp_*,return:tcp_*,entry:ext4_*,return:*_open,call:do_exit { @ = count() }')
      checkPlan(live.graph, wide.encoded, wide.reserved, second)
      t.ok(wide.encoded.tables.siteCount > 300, `${wide.encoded.tables.siteCount} sites`)
      const fixed = new Set<number>()
      const mark = (start: number, length: number): void => { for (let i = 0; i < length; i++) fixed.add(start + i) }
      for (const rva of tables.ftrace) mark(rva, 5)
      for (const rva of tables.staticKeys.rva) mark(rva, 2)
      for (const rva of tables.staticCalls) mark(rva, 5)
      for (const rva of tables.retpolineSites) mark(rva, 5)
      for (const rva of tables.exTable.insn) mark(rva, 1)
      for (const rva of tables.bugs) mark(rva, 2)
      tables.alternatives.rva.forEach((rva, i) => mark(rva, tables.alternatives.len[i]!))
      tables.paravirt.rva.forEach((rva, i) => mark(rva, tables.paravirt.len[i]!))
      const { siteRva, siteLength } = wide.encoded.tables
      for (let s = 0; s < siteRva.length; s++) {
        for (let i = 0; i < siteLength[s]!; i++) {
          if (fixed.has(siteRva[s]! + i)) t.fail(placeOf(image, siteRva[s]!))
        }
      }
      t.end()
    })

    t.test('returns of text that must not be touched are refused', (t) => {
      // Their return sites are in the kernel's table like any other; serving one in ftrace_caller crashes the tracer.
      const names = ['ftrace_caller', 'ftrace_regs_caller', 'return_to_handler', 'multi_cpu_stop', 'restore_processor_state',
        'do_int3', 'kprobe_int3_handler', 'hw_breakpoint_exceptions_notify', '__rcu_read_lock', '__rcu_read_unlock', 'notify_die', 'native_machine_check', 'exc_page_fault', 'irqentry_enter']
        .filter((name) => image.functions.functionsNamed(name).length === 1)
      t.ok(names.length >= 8, names.join(' '))
      const insns = names.flatMap((name) => {
        const f = image.functions.functionsNamed(name)[0]!
        const start = image.functions.start[f]!
        const bytes = image.text.slice(start - image.textStart, image.functions.end[f]! - image.textStart)
        return [...decodeRanges([{ start, bytes }]).rva].map((rva) => `insn:${name}+${rva - start}`)
      })
      const program = [...names.flatMap((name) => [`entry:${name}`, `return:${name}`]), ...insns].join(',')
      t.equal(refusals(planOf(`${program} { @ = count() }`)).length, 2 * names.length + insns.length)
      t.equal(planOf(`${program} { @ = count() }`).encoded.tables.siteCount, 0)
      t.end()
    })

    // 6.1's image has the true list (.rela.text); 6.12's has none to judge by.
    if (kernel.name === '6.1-cloud') t.test('without a relocation table, what KASLR changes is told right or refused', (t) => {
      t.ok(image.relocs.known)
      const unknown: Image = { ...image, relocs: { ...image.relocs, known: false } }
      let compared = 0
      let refused = 0
      for (const f of sample(image, 8000)) {
        const start = image.functions.start[f]!
        const bytes = image.text.slice(start - image.textStart, image.functions.end[f]! - image.textStart)
        const insns = decodeRanges([{ start, bytes }])
        for (let i = 0; i < insns.count; i++) {
          if (insns.length[i]! < 5 || insns.flow[i] !== FLOW.next || plan.reserved[insns.rva[i]! - image.textStart] !== 0) continue
          const guess = originalOf(unknown, insns.rva[i]!, insns.length[i]!)
          const truth = originalOf(image, insns.rva[i]!, insns.length[i]!)
          compared++
          if (typeof guess === 'string') refused++
          else if (typeof truth === 'string' || truth.relocKind !== guess.relocKind || truth.relocOffset !== guess.relocOffset) {
            t.fail(`${placeOf(image, insns.rva[i]!)}: ${JSON.stringify(guess)}`)
          }
        }
      }
      t.ok(compared > 20_000, `${compared} instructions`)
      t.ok(refused < compared * 0.01, `${refused} refused`)
      t.end()
    })

    t.test('the vmlinuz of the same kernel tells the same', (t) => {
      const packed = loadImage(join(CACHE, 'kernels', kernel.name, 'vmlinuz'))
      t.equal(packed.kind, 'vmlinuz')
      t.same(packed.symbolSources, ['kallsyms'])
      t.equal(packed.release, image.release)
      t.same(packed.buildId, image.buildId)
      t.equal(Buffer.compare(packed.text, image.text), 0, 'text, byte for byte')
      for (const table of ['ftrace', 'returnSites', 'retpolineSites', 'staticCalls', 'smpLocks', 'bugs'] as const) {
        t.same(packed.tables[table], image.tables[table], table)
      }
      t.equal(packed.relocs.known, true)
      if (image.relocs.known) {
        t.same(packed.relocs.relocAbs32, image.relocs.relocAbs32, 'fields that grow by the slide are those of .rela.text')
        t.same(packed.relocs.relocPcpu32, image.relocs.relocPcpu32, 'fields that shrink')
      }
      const missing: string[] = []
      for (let f = 0; f < image.functions.count; f++) {
        const start = image.functions.start[f]!
        if (image.functions.isFunc[f] && start < image.textEnd && packed.functions.start[packed.functions.functionAt(start)] !== start) {
          missing.push(image.functions.nameOf(f))
        }
      }
      t.same(missing, [], 'every function start')
      const names = 'entry:vfs_read,return:vfs_read,entry:tcp_sendmsg,return:do_sys_openat2 { @ = count() }'
      const theirGraph = buildGraph(packed)
      const theirs = makePlan(solveLiveness(theirGraph), second, pointsOf(packed, names))
      t.same(refusals(theirs), [])
      t.same(theirs.encoded.tables.siteRva, planOf(names).encoded.tables.siteRva, 'the same sites')
      checkPlan(theirGraph, theirs.encoded, theirs.reserved, second)
      t.end()
    })

    t.test('refusals name a code and a point that can be served', (t) => {
      const plan = planOf('entry:ftrace_caller,insn:vfs_read+0x1,return:do_exit,return:__x64_sys_exit { @ = count() }')
      const refused = refusals(plan)
      const codes = Object.fromEntries(refused.map((r) => [r.name, r.code]))
      t.equal(codes['entry:ftrace_caller'], 'copied-text')
      t.equal(codes['insn:vfs_read+0x1'], 'no-instruction')
      t.equal(codes['return:do_exit'], 'never-returns')
      const near = `insn:${placeOf(image, refused.find((r) => r.name === 'insn:vfs_read+0x1')!.nearest)}`
      t.match(near, /^insn:vfs_read\+0x/)
      t.equal(refusals(planOf(`${near} { @ = count() }`)).length, 0, `${near} is served`)
      t.throws(() => planOf('entry:vfs_* { @ = count() } entry:vfs_read /arg2 > 1/ { @ = count() }'),
        { exit: 65, message: /:1:29: @ counts entry:vfs_read in another probe already/ })
      t.throws(() => planOf('entry:vfs_raed { @ = count() }'), { exit: 65, message: /no function 'vfs_raed'; did you mean vfs_read\?/ })
      t.throws(() => planOf('entry:zzz*zz { @ = count() }'), { exit: 65, message: /no function matches/ })
      t.end()
    })

    t.test('the checker rejects every broken plan', (t) => {
      // Small, with every tactic in it.
      const all = planOf('block:do_sys_openat2,edge:tcp_rcv_established,return:vfs_write,entry:tcp_sendmsg,block:dev_* { @ = count() }')
      const { tables } = all.encoded
      const present = new Set(all.encoded.siteTactic)
      for (const [tactic, name] of TACTIC_NAMES.entries()) t.ok(present.has(tactic), name)
      const copy = (): { -readonly [K in keyof PatchTables]: PatchTables[K] } => structuredClone(tables)
      const checker = new PlanChecker(live.graph, all.reserved, second)
      const check = (changed: PatchTables, slots = all.encoded): void => {
        checker.check({ ...slots, tables: changed })
      }
      const rejects = (name: string, changed: PatchTables, slots = all.encoded): void => {
        t.throws(() => check(changed, slots), { message: /^plan checker: / }, name)
      }
      check(copy())
      // Every byte of the code matters: any one changed is seen. The checker stops at the first mistake, so bytes near
      // the start of the code are tried: the rest would take long, and is no different.
      const inFixup = new Uint8Array(tables.code.length)
      tables.fixupOffset.forEach((offset, f) => {
        if (tables.fixupKind[f] !== FIXUP_KIND.abs32) inFixup.fill(1, offset, offset + (tables.fixupKind[f] === FIXUP_KIND.slot64 ? 8 : 4))
      })
      const broken = copy()
      let tried = 0
      for (let n = 0; n < BROKEN_BYTES; n++) {
        const i = random(tables.code.length)
        if (inFixup[i]) continue // filled in on the target
        broken.code[i]! ^= 1 << random(8)
        tried++
        try {
          check(broken)
          t.fail(`code+${i} may be changed from ${tables.code[i]!.toString(16)} to ${broken.code[i]!.toString(16)}`)
        } catch (error) {
          if (!String(error).includes('plan checker')) throw error
        }
        broken.code[i] = tables.code[i]!
      }
      t.ok(tried > BROKEN_BYTES / 4, `${tried} bytes changed`)
      for (let n = 0; n < BROKEN_FIXUPS; n++) {
        const f = random(tables.fixupCount)
        const moved = copy()
        moved.fixupOffset[f]!++
        rejects(`fixup ${f} moved`, moved)
        const wrong = copy()
        wrong.fixupValue[f]!++
        rejects(`fixup ${f} wrong`, wrong)
      }
      const early = copy()
      early.siteRva[0]! -= 1
      rejects('a site moved', early)
      const short = copy()
      short.siteExpected[0]! ^= 1
      rejects('expected bytes changed', short)
      // One of each tactic, with each of its fields changed.
      for (const [tactic, name] of TACTIC_NAMES.entries()) {
        const sites = [...all.encoded.siteTactic.keys()].filter((s) => all.encoded.siteTactic[s] === tactic)
        const s = sites[random(sites.length)]!
        const change = (what: string, make: (changed: ReturnType<typeof copy>) => void): void => {
          const changed = copy()
          make(changed)
          rejects(`${name}: ${what}`, changed)
        }
        change('another patch', (c) => { c.sitePatch[s]! += tactic === TACTIC.shortJump ? 1 : 16 })
        change('longer', (c) => { c.siteLength[s]!++ })
        change('another kind', (c) => { c.siteKind[s] = c.siteKind[s] === SITE_KIND.call ? SITE_KIND.jcc : SITE_KIND.call })
        change('another flag', (c) => { c.siteFlags[s] = c.siteFlags[s] === SITE_FLAG.window ? 0 : SITE_FLAG.window })
        change('a form', (c) => { c.siteFormClass[s]! ^= 1 })
        change('another tail', (c) => { c.siteTail[s] = 3 })
      }
      const slots = (name: string, change: Partial<Plan['encoded']>): void => rejects(name, tables, { ...all.encoded, ...change })
      slots('everything live', { slotLive: all.encoded.slotLive.map(() => ALL) })
      slots('one register live', { slotLive: all.encoded.slotLive.map((set) => set | RCX) })
      slots('a counter elsewhere', { slotRva: all.encoded.slotRva.map((rva, slot) => (slot === 7 ? rva + 1 : rva)) })
      slots('the other side counted', { slotTakes: all.encoded.slotTakes.map((takes, slot) => (slot === 7 ? 1 - takes : takes)) })
      t.end()
    })
    t.end()
  })
}
