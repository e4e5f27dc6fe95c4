// Who called whom, against objdump: every direct call of some functions, as it prints them, with the count of the block that it is
// in, as the JSON report has that. And what comes out as folded stacks, and for speedscope, whose own viewer opens it.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { openBrowser } from './browser.js'
import { drawnDump } from './dumpfile.js'
import { kernel, keygen, mustKerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

const FUNCTIONS = ['vfs_read', 'vfs_write', 'do_sys_openat2', 'tcp_sendmsg_locked', 'rw_verify_area', 'path_openat']

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-calls-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const key = keygen(scratch, 'trusted')
const [bundle, dump] = [join(scratch, 'bundle'), join(scratch, 'dump')]
plan(target, [`${FUNCTIONS.map((name) => `block:${name}`).join(', ')} { @ = count() }`], key, bundle)
writeFileSync(dump, drawnDump(readBundle(readFileSync(bundle)), 2, lottery(seed)))
const report = (format: string): string => mustKerninst('report', dump, '--bundle', bundle, '--format', format, '--vmlinux', target.vmlinux)

/** Folded stacks: stack -> count. */
const stacksIn = (folded: string): Map<string, bigint> => new Map(folded.trim().split('\n').map((line) => {
  const space = line.lastIndexOf(' ')
  return [line.slice(0, space), BigInt(line.slice(space + 1))]
}))

interface Json {
  readonly points: readonly { readonly point: string; readonly count: string }[]
}

t.test('calls', (t) => {
  t.comment(seedNote)
  const symbols = execFileSync('nm', [target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 }).split('\n').map((line) => line.split(' '))
  const address = new Map(symbols.filter(([, kind]) => kind === 'T' || kind === 't').map(([at, , name]) => [name!, BigInt(`0x${at!}`)]))
  // Blocks by the address that they start at; parts of a function that lie elsewhere are named by those.
  const blocks = (JSON.parse(report('json')) as Json).points.map(({ point, count }) => {
    const [, name, offset] = /^block:(.*)\+(0x[0-9a-f]+)$/.exec(point)!
    return { at: address.get(name!)! + BigInt(offset!), count: BigInt(count) }
  }).sort((a, b) => (a.at < b.at ? -1 : 1))
  const expected = new Map<string, bigint>()
  for (const name of FUNCTIONS) {
    const text = execFileSync('objdump', ['-d', `--disassemble=${name}`, target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 })
    for (const [, at, to] of text.matchAll(/^(ffffffff[0-9a-f]{8}):.*\bcall +ffffffff[0-9a-f]{8} <([^>+]+)>$/gm)) {
      if (to === '__fentry__') continue
      const block = blocks.findLast((one) => one.at <= BigInt(`0x${at!}`))!
      if (block.count > 0n) expected.set(`${name};${to!}`, (expected.get(`${name};${to!}`) ?? 0n) + block.count)
    }
  }
  const got = stacksIn(report('folded'))
  // Static calls are rewritten at run time, and thunks are on the way to a pointer's target: where they lead is not known.
  const wrong = [...expected].filter(([stack, count]) => got.get(stack) !== count && !/;(__SCT__|__x86_indirect_thunk)/.test(stack))
  t.ok(expected.size > 30, `${expected.size} pairs of caller and callee`)
  t.same(wrong.map(([stack, count]) => `${stack} ${count}, here ${got.get(stack)}`), [])
  t.ok([...got.keys()].every((stack) => stack.split(';').length === 2))

  const scope = JSON.parse(report('speedscope')) as {
    $schema: string; shared: { frames: { name: string }[] }
    profiles: { type: string; samples: number[][]; weights: number[]; endValue: number }[]
  }
  const [profile] = scope.profiles
  t.equal(scope.$schema, 'https://www.speedscope.app/file-format-schema.json')
  t.same(new Map(profile!.samples.map((stack, i) => [stack.map((frame) => scope.shared.frames[frame]!.name).join(';'), BigInt(profile!.weights[i]!)])), got, 'the same stacks')
  t.equal(profile!.endValue, profile!.weights.reduce((sum, weight) => sum + weight, 0))
  t.end()
})

/** Formats that speedscope's viewer opens: the file's name, what the viewer then calls it, and what it says that it is. */
const VIEWED = [
  ['speedscope', 'calls.speedscope.json', 'calls on host', 'Importing as speedscope json file'],
  ['folded', 'calls.folded', 'calls.folded', 'Importing as collapsed stack format'],
] as const

for (const [format, file, title, kind] of VIEWED) t.test(`${format} in speedscope`, { timeout: 0 }, async (t) => {
  const path = join(scratch, file)
  writeFileSync(path, report(format))
  const [self, whole] = [new Map<string, bigint>(), new Map<string, bigint>()]
  const add = (to: Map<string, bigint>, name: string, count: bigint): void => { to.set(name, (to.get(name) ?? 0n) + count) }
  let total = 0n
  for (const [stack, count] of stacksIn(report('folded'))) {
    const names = stack.split(';')
    add(self, names.at(-1)!, count)
    for (const name of new Set(names)) add(whole, name, count)
    total += count
  }
  const viewer = createRequire(import.meta.url).resolve('speedscope/dist/release/index.html')
  const browser = await openBrowser()
  try {
    const page = await browser.newPage()
    const said: string[] = []
    const failed: string[] = []
    page.on('console', (message) => { (message.type() === 'error' ? failed : said).push(message.text()) })
    page.on('pageerror', (error) => { failed.push(String(error)) })
    page.on('request', (request) => { if (!request.url().startsWith(pathToFileURL(dirname(viewer)).href)) failed.push(`request: ${request.url().slice(0, 100)}`) })
    await page.setViewport({ width: 1200, height: 800 })
    await page.goto(pathToFileURL(viewer).href)
    const input = await page.waitForSelector('input[type=file]')
    await input!.uploadFile(path)
    await page.waitForFunction(`document.title === "${title} - speedscope"`, { timeout: 60_000 })
    t.ok(said.some((line) => line === kind), said.join(' | '))
    t.ok(said.some((line) => line.startsWith('WebGL initialized')), 'its chart is drawn')
    t.equal((await page.$$('canvas')).length > 0, true)

    // The table of all functions; of its rows, those that fit the window are there.
    await page.keyboard.press('3')
    await page.waitForFunction('[...document.querySelectorAll("tr")].length > 10', { timeout: 60_000 })
    const rows = (await page.$$eval('tr', (all) => all.map((row) => [...row.children].map((cell) => cell.textContent ?? ''))))
      .filter(([number]) => /^\d/.test(number ?? ''))
    const number = (text: string): bigint => BigInt(/^[\d,]+/.exec(text)![0].replaceAll(',', ''))
    t.ok(rows.length > 20, `${rows.length} of ${whole.size} functions`)
    t.same(rows.filter(([all, own, name]) => number(all!) !== whole.get(name!) || number(own!) !== (self.get(name!) ?? 0n)), [], 'with our counts')
    const shares = rows.map(([all, , name]) => [name!, /\(([\d.]+)%\)/.exec(all!)![1]!] as const)
    t.same(shares.filter(([name, share]) => Math.abs(Number(share) - 100 * Number(whole.get(name)!) / Number(total)) > 0.5), [], 'and shares of all')
    t.same(failed, [], 'no error on its console, no request but for its own files')
  } finally {
    await browser.close()
  }
})
