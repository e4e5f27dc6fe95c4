// The page, in the browser that people have: headless Chromium opens it as a file. No message on its console, no request,
// nothing that its policy had to stop; sorted and filtered by keyboard; the same to be read without scripts; no serious
// finding of axe, bright, dark and printed. Pages of names that are markup have none of it, and the whole kernel's is
// small enough.

import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import type { Browser, Page } from 'puppeteer-core'
import t, { type Test } from 'tap'
import { readBundle, writeBundle } from '../src/bundle/bundle.js'
import { readDump } from '../src/dump/dump.js'
import { reportHtml } from '../src/report/page.js'
import { reportNumbers } from '../src/report/numbers.js'
import { openBrowser } from './browser.js'
import { drawnDump, drawnRun } from './dumpfile.js'
import { kernel, keygen, mustKerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { sampleManifest, sampleTables, sampleTarget } from './sample.js'

const MAX_BYTES = 25e6

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-page-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const key = keygen(scratch, 'trusted')
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** A report of some points of 6.1, as `kerninst report` writes it; the page's path. */
const pageOf = (name: string, program: string, cpus: number, ...options: string[]): string => {
  const [bundle, dump, page] = ['bundle', 'dump', 'html'].map((what) => join(scratch, `${name}.${what}`)) as [string, string, string]
  plan(target, [program], key, bundle)
  writeFileSync(dump, drawnDump(readBundle(readFileSync(bundle)), cpus, lottery(seed)))
  mustKerninst('report', dump, '--bundle', bundle, '--format', 'html', '-o', page, ...options)
  return page
}

const PROGRAM = 'block:vfs_read, block:vfs_write, entry:tcp_*, return:tcp_sendmsg, insn:vfs_read+1 { @ = count() } ' +
  'span:vfs_read { @ns = hist(elapsed); @on[cpu] = avg(oncpu); @size[arg2 & 3] = hist(arg2); @steps = lhist(arg2, 0, 65536, 4096); @sum = sum(oncpu); @most = max(elapsed) }'

/** Opens a page, and closes it; what it said, asked for, or tried is a failure. */
const opened = async (t: Test, browser: Browser, path: string, use: (page: Page) => Promise<void>, scripts = true): Promise<void> => {
  const page = await browser.newPage()
  const said: string[] = []
  page.on('console', (message) => { said.push(`console: ${message.text()}`) })
  page.on('pageerror', (error) => { said.push(`error: ${String(error)}`) })
  page.on('request', (request) => { if (request.url() !== pathToFileURL(path).href) said.push(`request: ${request.url()}`) })
  await page.setJavaScriptEnabled(scripts)
  await page.goto(pathToFileURL(path).href)
  await use(page)
  t.same(said, [], 'nothing on the console, no request')
  await page.close()
}

/** The texts of a table's column, from above; rows that are not shown left out. */
const column = (page: Page, table: string, number: number): Promise<string[]> =>
  page.$$eval(`#${table} tbody tr:not([hidden]) td:nth-child(${number})`, (cells) => cells.map((cell) => cell.textContent ?? ''))

const findings = async (page: Page): Promise<string[]> => {
  await page.evaluate(axe)
  const violations = await page.evaluate('axe.run().then(({ violations }) => violations.map(({ id, impact, nodes }) => [impact, id, nodes[0].html]))') as [string, string, string][]
  return violations.filter(([impact]) => impact === 'serious' || impact === 'critical').map((one) => one.join(' '))
}

t.test('in a browser', { timeout: 0 }, async (t) => {
  t.comment(seedNote)
  const path = pageOf('some', PROGRAM, 4)
  const browser = await openBrowser()
  try {
    await opened(t, browser, path, async (page) => {
      t.equal(await page.title(), 'kerninst: host')
      const counts = async (): Promise<bigint[]> => (await column(page, 'points', 1)).map((text) => BigInt(text.replaceAll(',', '')))
      const falling = await counts()
      t.ok(falling.length > 100 && falling.every((count, i) => i === 0 || count <= falling[i - 1]!), `${falling.length} points, the highest first`)

      // By keyboard alone: to the head of the first column, and twice.
      await page.focus('#points th:first-child button')
      await page.keyboard.press('Enter')
      t.same(await counts(), falling.toReversed(), 'now the lowest first')
      await page.keyboard.press('Space')
      t.equal((await counts())[0], falling[0], 'and back')
      await page.keyboard.press('Tab')
      await page.keyboard.press('Enter')
      const names = await column(page, 'points', 3)
      t.same(names, [...names].sort((a, b) => (a < b ? -1 : a > b ? 1 : 0)), 'by name')
      t.equal(await page.$eval('#points th:nth-child(3)', (head) => head.getAttribute('aria-sort')), 'ascending')
      await page.keyboard.press('/')
      await page.keyboard.type('BLOCK:vfs_read')
      const shown = await column(page, 'points', 3)
      t.ok(shown.length > 10 && shown.length < names.length && shown.every((name) => name.startsWith('block:vfs_read')), `${shown.length} are left`)
      t.equal(await page.$eval('.filter output', (output) => output.textContent), `${shown.length} of ${names.length}`)
      for (let i = 'BLOCK:vfs_read'.length; i > 0; i--) await page.keyboard.press('Backspace')
      t.equal((await column(page, 'points', 3)).length, names.length, 'all again')

      t.equal(await page.$$eval('#points svg.spread', (all) => Math.min(...all.map((one) => one.children.length))), 4, 'a bar for each CPU')
      t.equal(await page.$$eval('svg svg, rect rect', (all) => all.length), 0, 'pictures are well formed')
      await page.focus('#refusals ~ details summary')
      await page.keyboard.press('Enter')
      t.ok(await page.$eval('#refusals ~ details', (one) => one.hasAttribute('open')), 'refusals unfold')

      for (const [name, value] of [['light', 'light'], ['dark', 'dark'], ['print', 'light']] as const) {
        await page.emulateMediaType(name === 'print' ? 'print' : 'screen')
        await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value }])
        t.same(await findings(page), [], `axe, ${name}`)
      }
      await page.emulateMediaType('screen')
      await page.setViewport({ width: 360, height: 700 })
      t.ok(await page.evaluate('document.documentElement.scrollWidth <= innerWidth') as boolean, 'a narrow screen scrolls tables, not the page')
    })
    await opened(t, browser, path, async (page) => {
      t.ok((await page.$eval('#points', (table) => table.textContent ?? '')).includes('block:vfs_read+0x'), 'readable without scripts')
      t.equal(await page.$$eval('.filter:not([hidden])', (all) => all.length), 0, 'with nothing that would not work')
    }, false)

    const inside = pageOf('inside', 'block:vfs_read, block:tcp_sendmsg_locked, edge:vfs_readv, block:tcp_recvmsg_locked { @ = count() }', 4, '--vmlinux', target.vmlinux)
    await opened(t, browser, inside, async (page) => {
      t.same((await page.$$eval('#inside ~ details summary code', (all) => all.map((one) => one.textContent))).sort(),
        ['tcp_recvmsg_locked', 'tcp_sendmsg_locked', 'vfs_read', 'vfs_readv'], 'each function in full')
      await page.$$eval('details', (all) => { for (const one of all) one.setAttribute('open', '') })
      t.ok(await page.$$eval('svg.flow rect.block', (all) => all.length) as number > 100, 'pictures of control flow')
      t.equal(await page.evaluate('[...document.querySelectorAll("svg.flow a")].filter((one) => document.querySelector(one.getAttribute("href")) === null).length'), 0,
        'each block leads to its instructions')
      t.ok((await page.$$eval('table.code td', (all) => all.map((one) => one.textContent ?? ''))).includes('fs/read_write.c:451'), 'with source lines')
      await page.evaluate('document.querySelector("svg.flow a").focus()')
      await page.keyboard.press('Enter')
      t.match(page.url(), /#f0-0$/, 'by keyboard')
      t.same(await findings(page), [], 'axe, everything unfolded')
    })

    // A run with several dumps, of which two spans added up times; and who called whom.
    const run = join(scratch, 'run.bundle')
    plan(target, ['block:vfs_read, block:vfs_write, block:rw_verify_area { @ = count() } span:vfs_read { @read = avg(elapsed); @sizes = hist(arg2) } ' +
      'span:vfs_write { @write[cpu] = sum(oncpu) }'], key, run)
    const dumps = drawnRun(readBundle(readFileSync(run)), 4, lottery(seed), Array.from({ length: 30 }, (_, i) => 5 * (i + 1))).map((bytes, i) => {
      const path = join(scratch, `run${i}.dump`)
      writeFileSync(path, bytes)
      return path
    })
    const time = join(scratch, 'run.html')
    mustKerninst('report', ...dumps, '--bundle', run, '--format', 'html', '-o', time, '--vmlinux', target.vmlinux)
    await opened(t, browser, time, async (page) => {
      const parts = await page.$$eval('nav a', (all) => all.map(({ textContent }) => textContent))
      t.same(parts.filter((title) => title !== 'Counts that do not balance'), // which counts drawn by lot may or may not do
        ['Counts', 'Over time', 'Functions', 'Inside functions', 'Calls', 'Times', 'Collected values', 'Programs'])
      t.same(await column(page, 'time-table', 2), Array.from({ length: 30 }, () => '5.0 s'), 'an interval for each dump')
      t.equal(await page.$$eval('#points tbody tr:not(:has(svg.line path))', (rows) => rows.length), 0, 'each point has a picture over time')
      t.ok(await page.$$eval('#collected ~ .scroll svg.line', (all) => all.length) as number > 5, 'and each bucket')
      const times = await column(page, 'times-table', 3)
      t.same([...times].sort(), ['@read', ...[0, 1, 2, 3].map((cpu) => `@write, CPU ${cpu}`)])
      t.ok((await column(page, 'calls-table', 4)).includes('rw_verify_area'))
      const drawn = await page.$$eval('#calls ~ .pictures rect.block + text', (all) => all.map((one) => one.textContent))
      t.ok(['vfs_read', 'rw_verify_area'].every((name) => drawn.includes(name)), 'and a picture of calls')
      t.same((await page.$$eval('#calls ~ .pictures a text:first-of-type', (all) => all.map((one) => one.textContent))).filter((name) => !['vfs_read', 'vfs_write', 'rw_verify_area'].includes(name!)),
        [], 'which leads to functions that are shown in full')
      t.match(await page.$eval('header', (all) => all.textContent ?? ''), /signed ?in the name of CN=.*, serial number [0-9a-f]{40} /)
      await page.$$eval('details', (all) => { for (const one of all) one.setAttribute('open', '') })
      t.same(await findings(page), [], 'axe, over time')
    })

    // Two runs compared.
    const changes = join(scratch, 'diff.html')
    mustKerninst('report', '--diff', dumps[3]!, join(scratch, 'some.dump'), '--bundle', run, '--bundle', join(scratch, 'some.bundle'), '--format', 'html', '-o', changes)
    await opened(t, browser, changes, async (page) => {
      t.equal(await page.title(), 'kerninst: what changed')
      const kinds = await column(page, 'changes-table', 5)
      t.ok(['rose', 'fell', 'only before', 'only after'].every((kind) => kinds.some((one) => one.startsWith(kind))), 'every kind of change')
      await page.focus('#changes-table th:nth-child(4) button')
      await page.keyboard.press('Enter')
      const differences = await page.$$eval('#changes-table tbody td:nth-child(4)', (cells) => cells.map((cell) => Number(cell.getAttribute('data-v'))))
      t.ok(differences.length > 20 && differences.every((value, i) => i === 0 || value <= differences[i - 1]!), 'what rose most first')
      t.same(await findings(page), [], 'axe, compared')
    })

    const evil = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\'&<!--'
    const sample = sampleManifest()
    const manifest = {
      ...sample, tool: { ...sample.tool, version: evil }, image: { ...sample.image, release: evil.slice(0, 64) }, programs: [evil],
      names: sample.names.map((name) => (name === '' ? '' : evil)), refusals: sample.refusals.map(() => ({ code: evil, reason: evil })),
    }
    const bundle = readBundle(writeBundle({ manifest, target: sampleTarget(), tables: sampleTables() }))
    const dump = join(scratch, 'evil.dump')
    writeFileSync(dump, drawnDump(bundle, 2, lottery(seed), evil))
    const page = join(scratch, 'evil.html')
    writeFileSync(page, [...reportHtml(reportNumbers(bundle, readDump(dump)))].join(''))
    await opened(t, browser, page, async (page) => {
      t.same(await page.$$eval('img, script', (all) => all.map(({ tagName }) => tagName)), ['SCRIPT'], 'one script, ours, and no picture')
      t.ok((await page.$eval('h1', (title) => title.textContent ?? '')).includes(evil.slice(0, 40)), 'names are shown as they are')
      t.ok((await page.$eval('#programs', (title) => title.parentElement!.textContent ?? '')).includes(evil))
    })

    const whole = pageOf('whole', 'block:* { @ = count() }', 8)
    const { size } = statSync(whole)
    t.ok(size < MAX_BYTES, `the whole kernel's page has ${(size / 1e6).toFixed(1)} MB`)
    await opened(t, browser, whole, async (page) => {
      t.match(await page.$eval('main', (main) => main.textContent ?? ''), /[0-9,]{6,} more with lower counts are left out here/)
      t.comment(`interactive after ${Math.round(await page.evaluate('performance.getEntriesByType("navigation")[0].domInteractive') as number)} ms`)
    })
  } finally {
    await browser.close()
  }
})
