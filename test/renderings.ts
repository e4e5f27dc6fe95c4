// The rule that every rendering of a report keeps, whatever the bundle and the dumps are. In: a report's numbers; the image's
// tables, for what needs an image. Out: what is wrong, in words.
// The rule: no character but visible ones, spaces and ends of lines; JSON is as its schema has it, CSV and Markdown have equal rows, HTML has no tag
// but ours and is small enough, folded stacks are lines with a count.

import { gunzipSync } from 'node:zlib'
import { EXIT, KerninstError } from '../src/error.js'
import type { Declarations } from '../src/image/declarations.js'
import type { Lines } from '../src/image/lines.js'
import type { KernelLiveness } from '../src/liveness/live.js'
import { callGraphOf } from '../src/report/callgraph.js'
import { coverageOf } from '../src/report/coverage.js'
import { reportCsv } from '../src/report/csv.js'
import { diffNumbers } from '../src/report/diff.js'
import { diffHtml } from '../src/report/diffpage.js'
import { diffJson, diffText } from '../src/report/difftext.js'
import { flowDot } from '../src/report/dot.js'
import { flowSvg } from '../src/report/flowchart.js'
import { reportJson } from '../src/report/json.js'
import { reportLcov } from '../src/report/lcov.js'
import { reportMarkdown } from '../src/report/markdown.js'
import type { ReportNumbers } from '../src/report/numbers.js'
import { reportHtml } from '../src/report/page.js'
import { reportPprof } from '../src/report/pprof.js'
import { gathered } from '../src/report/printable.js'
import { reportSampleProfile, samplesOf } from '../src/report/sampleprofile.js'
import { blockRuns } from '../src/report/runs.js'
import { reportFolded, reportSpeedscope } from '../src/report/stacks.js'
import { reportText } from '../src/report/text.js'
import { countedFunctions, functionViews, type Inside } from '../src/report/views.js'
import type { PatchTables } from '../src/splice/tables.js'
import { schemaErrors } from './reportschema.js'

export const MAX_HTML = 25e6
const MAX_MESSAGE = 4096
const WIDTH = 100

/** What there is of the image that a bundle is for. */
export interface Known {
  readonly live: KernelLiveness
  readonly lines: Lines
  readonly declarations: Declarations
  readonly tables: PatchTables
  readonly functions: readonly number[] // whose control flow is drawn
}

const EXITS: readonly number[] = [EXIT.data, EXIT.noInput, EXIT.io, EXIT.mismatch]

/** What is wrong with an error, or ''. */
export const errorProblem = (error: unknown): string => {
  if (!(error instanceof KerninstError)) return error instanceof Error ? error.stack ?? error.message : String(error)
  if (!EXITS.includes(error.exit)) return `exit code ${error.exit}: ${error.message}`
  if (/[\p{C}\p{Zl}\p{Zp}]/u.test(error.message)) return `control characters in ${JSON.stringify(error.message)}`
  return error.message.length > MAX_MESSAGE || error.message === '' ? `a message of ${error.message.length} characters` : ''
}

/** The fields of each row of CSV, counted. */
const fieldsOf = (row: string): number => row.replaceAll(/"(?:[^"]|"")*"/g, '').split(',').length

const equal = (counts: readonly number[]): boolean => counts.every((count) => count === counts[0])

const TAGS = new Set(['html', 'head', 'meta', 'title', 'style', 'body', 'header', 'a', 'h1', 'h2', 'h3', 'p', 'dl', 'dt', 'dd', 'main', 'nav', 'ul', 'li', 'b',
  'section', 'div', 'table', 'caption', 'thead', 'tbody', 'tr', 'th', 'td', 'button', 'label', 'input', 'output', 'code', 'svg', 'rect', 'g', 'path', 'text',
  'details', 'summary', 'span', 'pre', 'footer', 'script'])
const EMPTY = new Set(['meta', 'input', 'rect', 'path'])

/** Tags that are not ours, or do not end. */
const tagProblem = (text: string): string => {
  const whole = text.replace(/^<!DOCTYPE html>/, '')
  const bare = whole.replace(/(<style>)[^]*?(<\/style>)/, '$1$2').replace(/(<script>)[^]*?(<\/script>)/, '$1$2')
  const open = new Map<string, number>()
  for (const [, end, name] of bare.matchAll(/<(\/?)([^\s>/]*)/g)) {
    if (!TAGS.has(name!)) return `a tag <${end!}${name!}>`
    open.set(name!, (open.get(name!) ?? 0) + (end === '/' ? -1 : EMPTY.has(name!) ? 0 : 1))
  }
  const left = [...open].filter(([, count]) => count !== 0)
  if (left.length > 0) return `tags that do not end: ${left.map(([name, count]) => `${name} ${count}`).join(', ')}`
  const scripts = bare.split('<script').length - 1
  return scripts > 1 ? `${scripts} scripts` : ''
}

const htmlProblem = (text: string): string => {
  if (Buffer.byteLength(text) > MAX_HTML) return `${(Buffer.byteLength(text) / 1e6).toFixed(1)} MB`
  return tagProblem(text) || (text.split('<script>').length === 2 ? '' : 'not one script')
}

const jsonProblem = (text: string): string => {
  try {
    JSON.parse(text)
    return ''
  } catch (error) {
    return String(error)
  }
}

const csvProblem = (text: string): string => {
  if (!text.endsWith('\r\n')) return 'does not end'
  const rows = text.slice(0, -2).split('\r\n')
  const counts = rows.map(fieldsOf)
  const odd = rows.find((row) => row.split(',').some((field) => /^"?[=+@]/.test(field)))
  return !equal(counts) ? `rows of ${[...new Set(counts)].join(' and ')} fields` : odd === undefined ? '' : `a formula: ${odd}`
}

const markdownProblem = (text: string): string => {
  let table: string[] = []
  for (const line of [...text.split('\n'), '']) {
    if (line.startsWith('|')) {
      table.push(line)
      continue
    }
    const cells = table.map((row) => row.split('|').length)
    if (!equal(cells)) return `a row of ${new Set(cells).size} kinds: ${table.find((row) => row.split('|').length !== cells[0])!.slice(0, 200)}`
    table = []
  }
  return ''
}

const reportProblem = (text: string): string => jsonProblem(text) || schemaErrors(JSON.parse(text)).slice(0, 3).join('; ')

const linesProblem = (wanted: RegExp) => (text: string): string => {
  const odd = text.split('\n').slice(0, -1).find((line) => !wanted.test(line))
  return odd === undefined ? '' : `a line: ${odd.slice(0, 200)}`
}

const widthProblem = (text: string): string => {
  const widest = text.split('\n').reduce((most, line) => (line.length > most ? Math.max(most, [...line].length) : most), 0)
  return widest > WIDTH ? `${widest} columns` : ''
}

type Rendering = readonly [name: string, pieces: () => Iterable<string>, problem: (text: string) => string]

const renderings = (numbers: ReportNumbers, before: ReportNumbers | undefined, known: Known | undefined): Rendering[] => {
  const options = { width: WIDTH, color: false }
  const all: Rendering[] = [
    ['text', () => reportText(numbers, options), widthProblem],
    ['json', () => reportJson(numbers), reportProblem],
    ['csv', () => reportCsv(numbers), csvProblem],
    ['markdown', () => reportMarkdown(numbers), markdownProblem],
    ['html', () => reportHtml(numbers), htmlProblem],
  ]
  if (before !== undefined) {
    all.push(['diff, text', () => diffText(diffNumbers(before, numbers), options), widthProblem], ['diff, json', () => diffJson(diffNumbers(numbers, before)), jsonProblem],
      ['diff, html', () => diffHtml(diffNumbers(before, numbers)), htmlProblem])
  }
  if (known === undefined) return all
  const { live, lines, declarations, tables, functions } = known
  const { graph, graph: { image } } = live
  const calls = callGraphOf(blockRuns(numbers, graph), graph)
  const inside = (): Inside => ({ ...functionViews(numbers, live, tables, lines), calls, nameOf: (fn) => image.functions.nameOf(fn) })
  all.push(
    ['html, functions', () => reportHtml(numbers, inside()), htmlProblem],
    ['json, functions', () => reportJson(numbers, inside()), reportProblem],
    ['sample profile', () => reportSampleProfile(samplesOf(numbers, graph, lines, declarations)), linesProblem(/^(\S+:\d+:\d+| \d+: \d+( \S+:\d+)*)$/)],
    ['pprof', () => [Buffer.from(gunzipSync(reportPprof(numbers, calls, image, lines))).toString('hex')], () => ''],
    ['lcov', () => reportLcov(coverageOf(numbers, graph, lines, declarations), ''), linesProblem(/^(TN:|SF:.+|FN:\d+,.+|FNDA:\d+,.+|(FNF|FNH|LF|LH):\d+|DA:\d+,\d+|end_of_record)$/)],
    ['folded', () => reportFolded(calls, image.functions), linesProblem(/^[^ ]+ \d+$/)],
    ['speedscope', () => reportSpeedscope(calls, image.functions, `calls on ${numbers.host}`), jsonProblem],
  )
  for (const fn of countedFunctions(numbers, graph, functions)) {
    all.push(['dot', () => [flowDot(fn)], linesProblem(/^(digraph .*|  .*|\})$/)], ['svg', () => [flowSvg(fn)], tagProblem])
  }
  return all
}

/** Names from files may have none of these; '\n' ends lines, and in CSV '\r\n'. */
const UNSAFE = /[\p{C}\p{Zl}\p{Zp}]/u

/** What is wrong with the renderings of a report. */
export const problemsOf = (numbers: ReportNumbers, before?: ReportNumbers, known?: Known): string[] => {
  const problems: string[] = []
  for (const [name, pieces, problem] of renderings(numbers, before, known)) {
    try {
      const text = [...gathered(pieces())].join('')
      const plain = (name === 'csv' ? text.replaceAll('\r\n', '') : text).replaceAll('\n', '')
      const found = UNSAFE.exec(plain)
      if (found !== null) problems.push(`${name}: a character ${found[0].codePointAt(0)!.toString(16)}`)
      const wrong = problem(text)
      if (wrong !== '') problems.push(`${name}: ${wrong}`)
    } catch (error) {
      const wrong = errorProblem(error)
      if (wrong !== '') problems.push(`${name}: ${wrong}`)
    }
  }
  return problems
}
