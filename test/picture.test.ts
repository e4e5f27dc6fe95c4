// One function's control flow as a file: DOT, which Graphviz draws, and SVG, which a browser opens. Both have as many blocks and edges
// as `kerninst cfg` says, with the counts that the report has; names that are markup stay names.

import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { launch, type Browser } from 'puppeteer-core'
import t, { type Test } from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { buildGraph } from '../src/cfg/graph.js'
import { readDump } from '../src/dump/dump.js'
import { loadImage } from '../src/image/image.js'
import { hex, toAddress } from '../src/image/rva.js'
import { flowDot } from '../src/report/dot.js'
import { flowSvg } from '../src/report/flowchart.js'
import { reportNumbers } from '../src/report/numbers.js'
import { countedFunctions, type CountedFunction } from '../src/report/views.js'
import { drawnDump } from './dumpfile.js'
import { kernel, kerninst, keygen, must, mustKerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-picture-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const key = keygen(scratch, 'trusted')
const chromium = must('sh', ['-c', 'command -v chromium']).trim()
const [BUNDLE, DUMP] = ['bundle', 'dump'].map((name) => join(scratch, name)) as [string, string]

const image = loadImage(target.vmlinux)
const graph = buildGraph(image)

/** Two functions of one name, as programs name them. */
const twins = ((): [string, string] => {
  for (let f = 0; f < image.functions.count; f++) {
    const name = image.functions.nameOf(f)
    const all = image.functions.functionsNamed(name)
    if (all.length === 2 && all[0] === f && all.every((each) => image.functions.end[each]! - image.functions.start[each]! > 200)) {
      return all.map((each) => `${name}@${hex(toAddress(image.base, image.functions.start[each]!))}`) as [string, string]
    }
  }
  throw new Error('no two functions of one name')
})()

plan(target, [`block:vfs_read, edge:vfs_readv, block:tcp_sendmsg_locked, ${twins.map((name) => `block:${name}`).join(', ')} { @ = count() }`], key, BUNDLE)
const bundle = readBundle(readFileSync(BUNDLE))
writeFileSync(DUMP, drawnDump(bundle, 2, lottery(seed)))
const numbers = reportNumbers(bundle, readDump(DUMP))

const picture = (format: string, name: string): string =>
  mustKerninst('report', DUMP, '--bundle', BUNDLE, '--vmlinux', target.vmlinux, '--format', format, '--function', name)

interface Graph {
  readonly start: string
  readonly end: string
  readonly blocks: readonly { readonly start: string; readonly succ: readonly string[] }[]
}
const graphOf = (name: string): Graph => JSON.parse(mustKerninst('cfg', target.vmlinux, name, '--format', 'json')) as Graph

/** What Graphviz makes of it, without a warning. */
const drawn = (format: string, dot: string): string => {
  const done = spawnSync('dot', [`-T${format}`], { input: dot, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (done.status !== 0 || done.stderr !== '') throw new Error(`dot: status ${done.status}: ${done.stderr}`)
  return done.stdout
}

/** The labels of nodes by their numbers, and what edges lead where with which label, as dot -Tplain has them. */
const plain = (dot: string): { nodes: string[]; edges: string[] } => {
  const lines = drawn('plain', dot).split('\n')
  const unquoted = (text: string): string => text.replace(/^"(.*)"$/, '$1')
  return {
    nodes: lines.flatMap((line) => {
      const [, number, label] = /^node b(\d+) \S+ \S+ \S+ \S+ ("(?:[^"\\]|\\.)*"|\S+)/.exec(line) ?? []
      return label === undefined ? [] : [[Number(number), unquoted(label)] as const]
    }).sort(([a], [b]) => a - b).map(([, label]) => label),
    edges: lines.flatMap((line) => {
      const [kind, from, to, points, ...rest] = line.split(' ')
      return kind === 'edge' ? [`${from} ${to} ${unquoted(rest[2 * Number(points)]!)}`] : []
    }),
  }
}

/** The report's counts by point. */
const counts = new Map([...numbers.points()].map(({ point, count }) => [point, count.toLocaleString('en-US')]))

t.test('DOT and SVG: blocks, edges, counts', { timeout: 0 }, async (t) => {
  t.comment(seedNote)
  for (const name of ['vfs_read', 'vfs_readv', ...twins]) {
    const { start, end, blocks } = graphOf(name)
    const offset = (address: string): string => `0x${(BigInt(address) - BigInt(start)).toString(16)}`
    const dot = picture('dot', name)
    const { nodes, edges } = plain(dot)
    t.equal(nodes.length, blocks.length, `${name}: ${nodes.length} blocks`)
    const bare = name.split('@')[0]!
    const wanted = blocks.map((block) => (BigInt(block.start) >= BigInt(start) && BigInt(block.start) < BigInt(end) ? `+${offset(block.start)}` : block.start))
    t.same(nodes.map((label) => label.split('\\n')[0]!), wanted, 'in their order')
    const told = blocks.filter((block, b) => {
      const count = counts.get(`block:${name}+${offset(block.start)}`) ?? counts.get(`block:${bare}+${offset(block.start)}`)
      if (count !== undefined) t.equal(nodes[b]!.split('\\n')[1], count, `${name}${wanted[b]!}`)
      return count !== undefined
    }).length
    if (name !== 'vfs_readv') t.equal(told, blocks.length, 'all of them counted')
    const ways = blocks.flatMap((block, b) => block.succ.map((to) => [b, blocks.findIndex((each) => each.start === to), `${offset(block.start)}->${offset(to)}`] as const))
    t.same(edges.map((edge) => edge.split(' ').slice(0, 2).join(' ')).sort(), ways.map(([from, to]) => `b${from} b${to}`).sort(), `${edges.length} edges`)
    t.ok(edges.every((edge) => /^b\d+ b\d+ (\?|-?[0-9,]+)$/.test(edge)), 'each with a count, or without')
    if (name === 'vfs_readv') {
      for (const [from, to, way] of ways) {
        t.ok(edges.includes(`b${from} b${to} ${counts.get(`edge:vfs_readv+${way}`) ?? '?'}`), way)
      }
    }
    t.match(drawn('svg', dot), /<\/svg>\s*$/)
    const svg = picture('svg', name)
    t.equal(svg.split('<rect class="block"').length - 1, blocks.length, 'SVG has as many blocks')
    t.equal(svg.split('<path class="way"').length - 1, edges.length, 'and edges')
    t.notMatch(svg, /<a[ >]/, 'and leads nowhere')
  }
})

const EVIL = '"</title></svg><script>alert(1)</script><img src=x onerror=alert(2)>\\N\\"\n\x1b[31m\u202e&#27;&lt;%s\u2028{|}'
const SHOWN = EVIL.replace('\n', '\\u{a}').replace('\x1b', '\\u{1b}').replace('\u202e', '\\u{202e}').replace('\u2028', '\\u{2028}')

/** Opens the picture as a file, and inside an img; what is said is a failure. */
const opened = async (t: Test, browser: Browser, name: string, svg: string, blocks: number, title: string): Promise<void> => {
  const path = join(scratch, `${name}.svg`)
  writeFileSync(path, svg)
  const page = await browser.newPage()
  const said: string[] = []
  page.on('console', (message) => { said.push(`console: ${message.text()}`) })
  page.on('pageerror', (error) => { said.push(`error: ${String(error)}`) })
  page.on('request', (request) => { if (request.url() !== pathToFileURL(path).href) said.push(`request: ${request.url()}`) })
  await page.goto(pathToFileURL(path).href)
  t.equal(await page.evaluate('document.contentType'), 'image/svg+xml')
  t.equal(await page.evaluate('document.querySelectorAll("parsererror, script, img, a").length'), 0, `${name}: well-formed XML, nothing but a picture`)
  t.equal(await page.evaluate('document.querySelectorAll("rect.block").length'), blocks, `${blocks} blocks`)
  t.equal(await page.evaluate('document.querySelector("svg > title").textContent'), `control flow of ${title}`)
  t.equal(await page.evaluate('getComputedStyle(document.querySelector(".way")).fill'), 'none', 'with a style of its own')
  t.same(said, [], 'nothing on the console, no request')
  await page.close()
  const frame = await browser.newPage()
  await frame.setContent(`<img src="data:image/svg+xml;base64,${Buffer.from(svg).toString('base64')}">`, { waitUntil: 'load' })
  const [width, height] = /width="(\d+)" height="(\d+)"/.exec(svg)!.slice(1).map(Number)
  t.same(await frame.evaluate('[document.images[0].naturalWidth, document.images[0].naturalHeight]'), [width, height], 'as an image')
  await frame.close()
}

t.test('in a browser', { timeout: 0 }, async (t) => {
  const browser = await launch({ executablePath: chromium, args: ['--no-sandbox', '--disable-gpu'], protocolTimeout: 600_000 })
  try {
    const [fn] = countedFunctions(numbers, graph, image.functions.functionsNamed('vfs_read')) as [CountedFunction]
    await opened(t, browser, 'vfs_read', picture('svg', 'vfs_read'), fn.graph.blockCount, 'vfs_read')
    const evil: CountedFunction = { ...fn, name: EVIL, blocks: fn.blocks.map(() => ({ name: EVIL })) }
    const svg = flowSvg(evil)
    await opened(t, browser, 'evil', svg, fn.graph.blockCount, SHOWN)
    const dot = flowDot(evil)
    for (const [format, text] of [['svg', svg], ['dot', dot]] as const) {
      t.notMatch(text.replaceAll('\n', ''), /[\p{C}\p{Zl}\p{Zp}]/u, `${format} has no control character`)
    }
    t.equal(plain(dot).nodes.length, fn.graph.blockCount, 'Graphviz reads hostile names')
    const page = await browser.newPage()
    const by = drawn('svg', dot)
    const found = await page.evaluate(`(() => {
      const read = new DOMParser().parseFromString(${JSON.stringify(by).replaceAll('<', '\\u003c')}, 'image/svg+xml')
      return [read.querySelectorAll('parsererror, script, img').length, read.querySelectorAll('g.node').length, read.querySelector('g.node text').textContent]
    })()`) as [number, number, string]
    t.same(found.slice(0, 2), [0, fn.graph.blockCount], 'and makes well-formed XML of them')
    t.equal(found[2].replaceAll('\u00a0', ' '), SHOWN, 'in which they are as they were')
  } finally {
    await browser.close()
  }
})

t.test('what cannot be shown', (t) => {
  const refused = (exit: number, message: RegExp, ...args: string[]): void => {
    const { status, stdout, stderr } = kerninst('report', DUMP, '--bundle', BUNDLE, ...args)
    t.equal(status, exit, args.join(' '))
    t.match(stderr, message)
    t.match(stderr, /^kerninst: [^\n]*\n$/, 'one line')
    t.equal(stdout, '')
  }
  const vmlinux = ['--vmlinux', target.vmlinux]
  for (const format of ['dot', 'svg']) refused(64, new RegExp(`--format ${format} needs --function`), '--format', format, ...vmlinux)
  refused(64, /--format dot needs --vmlinux/, '--format', 'dot', '--function', 'vfs_read')
  refused(65, /has no function 'a\?b\?'/, '--format', 'dot', '--function', 'a\nb\u202e', ...vmlinux)
  refused(65, /has no function 'vfs_read@0xffffffff81000001'/, '--format', 'dot', '--function', 'vfs_read@0xffffffff81000001', ...vmlinux)
  refused(65, /no block of vfs_write is counted: plan with block:vfs_write/, '--format', 'svg', '--function', 'vfs_write', ...vmlinux)
  const [one, other] = twins
  refused(65, new RegExp(`several functions ${one.split('@')[0]} are counted, say which: ${one}, ${other}$`, 'm'), '--format', 'dot', '--function', one.split('@')[0]!, ...vmlinux)
  const large = countedFunctions(numbers, graph, image.functions.functionsNamed('tcp_sendmsg_locked'))[0]!
  t.ok(large.graph.blockCount > 50)
  t.throws(() => flowSvg({ ...large, graph: { ...large.graph, blockCount: 201 } }), { exit: 65, message: /201 blocks, more than the 200 .*--format dot/ })
  t.end()
})
