// Reports as tables, in the tools that they are for: CSV imported by SQLite, Markdown rendered by GitHub's cmark-gfm. What comes out
// is what JSON has, names that are hostile to a table included.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBundle, writeBundle, type Bundle } from '../src/bundle/bundle.js'
import { readDump } from '../src/dump/dump.js'
import { reportCsv } from '../src/report/csv.js'
import { reportMarkdown } from '../src/report/markdown.js'
import { reportNumbers, type ReportNumbers } from '../src/report/numbers.js'
import { drawnDump } from './dumpfile.js'
import { kernel, keygen, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { sampleManifest, sampleTables, sampleTarget } from './sample.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-tables-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
t.comment(seedNote)

const numbersOf = (bundle: Bundle): ReportNumbers => reportNumbers(bundle, readDump(drawnDump(bundle, 3, lottery(seed))))

const planned = join(scratch, 'bundle')
plan(kernel('6.1-cloud'), ['block:vfs_read, entry:vfs_*, edge:vfs_write { @ = count(); @more = count() }'], keygen(scratch, 'trusted'), planned)

const HOSTILE = ['a,b', 'say "x"', '=1+1', '-1', '@SUM(A1)', '|', 'a|b', '`', '``` x', '<b>', '*x*', '[x](y)', '\\|', ' x ', '$x$', '&amp;', 'x\ty', '']
const hostile = (name: string): Bundle => {
  const sample = sampleManifest()
  return readBundle(writeBundle({
    manifest: { ...sample, names: sample.names.map((each) => (each === '' ? '' : name)) }, target: sampleTarget(), tables: sampleTables(),
  }))
}
const all = [numbersOf(readBundle(readFileSync(planned))), ...HOSTILE.map((name) => numbersOf(hostile(name)))]

/** As a spreadsheet is kept from taking it for a formula. */
const plain = (text: string): string => (/^[=+@-]/.test(text) ? `'${text}` : text).replaceAll('\t', '\\u{9}')

t.test('CSV in SQLite', (t) => {
  for (const numbers of all) {
    const path = join(scratch, 'report.csv')
    writeFileSync(path, [...reportCsv(numbers)].join(''))
    const json = execFileSync('sqlite3', [':memory:', '-json', '-cmd', `.import --csv ${path} report`, 'select * from report'], { encoding: 'utf8', maxBuffer: 1 << 28 })
    const rows = JSON.parse(json) as Record<string, string>[]
    const expected = [...numbers.points()].map(({ point, aggregate, at, count, derived, perColumn }) => [...[point, aggregate, at].map(plain), `${count}`, `${derived}`, ...perColumn.map(String)])
    t.same(rows.map((row) => Object.values(row)), expected, expected[0]![0]!)
    t.same(Object.keys(rows[0]!), ['point', 'aggregate', 'at', 'count', 'derived', 'cpu0', 'cpu1', 'cpu2'])
  }
  t.end()
})

t.test('Markdown in cmark-gfm', (t) => {
  const text = (html: string): string => html.replace(/<[^>]*>/g, '').replaceAll('&lt;', '<').replaceAll('&gt;', '>').replaceAll('&quot;', '"').replaceAll('&amp;', '&')
  for (const numbers of all) {
    const html = execFileSync('cmark-gfm', ['-e', 'table'], { input: [...reportMarkdown(numbers)].join(''), encoding: 'utf8', maxBuffer: 1 << 28 })
    const [table] = /<table>[^]*?<\/table>/.exec(html) ?? ['']
    const rows = [...table.matchAll(/<tr>([^]*?)<\/tr>/g)].map(([, row]) => [...row!.matchAll(/<t[hd][^>]*>([^]*?)<\/t[hd]>/g)].map(([, cell]) => text(cell!)))
    t.same(rows[0], ['count', 'point', 'counted at'])
    const expected = [...numbers.points()].sort((a, b) => (a.count < b.count ? 1 : a.count > b.count ? -1 : 0)).slice(0, 100)
    t.equal(rows.length - 1, expected.length)
    t.same(rows.slice(1).map(([count]) => count!.replaceAll(',', '')), expected.map(({ count }) => `${count}`))
    const names = new Set(expected.map(({ point, aggregate }) => `${point}${aggregate === '' ? '' : ` @${aggregate}`}`.replaceAll('\t', '\\u{9}').replaceAll('|', '\\u{7c}').trim()))
    t.same(rows.slice(1).filter(([, point]) => !names.has(point!.trim())), [], expected[0]!.point)
    t.notMatch(html, /<(b|em|a)[ >]/, 'names are no markup')
  }
  t.end()
})
