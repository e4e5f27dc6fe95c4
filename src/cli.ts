#!/usr/bin/env node
// The command line: arguments in, stages called, results on stdout, talk on stderr, exit codes as in error.ts.

import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { setFlagsFromString } from 'node:v8'
import { Command, CommanderError } from 'commander'
import { BUNDLE_LIMITS, readBundle, verifyBundle, type Bundle } from './bundle/bundle.js'
import { keygen, readCertificateDer, readKey } from './bundle/keys.js'
import { readDump, type Dump } from './dump/dump.js'
import { findHeap } from './dump/find.js'
import { runsOf } from './dump/fleet.js'
import { openVmcore } from './dump/vmcore.js'
import { EXIT, KerninstError } from './error.js'
import { readLimited, removeTemporaries, writeWhole } from './file.js'
import {
  analyzeImage, callsSeen, countFunction, coverLines, functionsNamed, lookInside, openGround, planBundle, sampleFunctions, type PlanResult,
} from './pipeline.js'
import type { ProgramText } from './probe/requests.js'
import { analysisJson, analysisText, describeFinding } from './report/analysis.js'
import { reportCsv } from './report/csv.js'
import { diffNumbers } from './report/diff.js'
import { diffHtml } from './report/diffpage.js'
import { diffJson, diffText } from './report/difftext.js'
import { flowDot } from './report/dot.js'
import { flowSvg } from './report/flowchart.js'
import { disassembly, graphDot, graphJson, graphText } from './report/function.js'
import { reportJson } from './report/json.js'
import { reportLcov } from './report/lcov.js'
import { reportMarkdown } from './report/markdown.js'
import { reportNumbers, type ReportNumbers } from './report/numbers.js'
import { reportHtml } from './report/page.js'
import { reportPprof } from './report/pprof.js'
import { gathered, printable } from './report/printable.js'
import { profileOf } from './report/profile.js'
import { reportSampleProfile } from './report/sampleprofile.js'
import { showJson, showText } from './report/show.js'
import { reportFolded, reportSpeedscope } from './report/stacks.js'
import { reportText, textOptions, type TextOptions } from './report/text.js'
import type { Inside } from './report/views.js'
import { SPAN_BITS } from './splice/frames.js'
import { pointsWhere, refusalText, summarize, type Summary } from './splice/manifest.js'

// Nearly all time goes into a few loops that run once each. Interpreting such a loop further while it is compiled costs
// more than it gains (7 % of processor time of `analyze`, Node 20).
setFlagsFromString('--no-concurrent-osr')

const VERSION = (JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8')) as { version: string }).version
const MAX_PROGRAM_BYTES = 1 << 20
const MAX_REFUSALS_SHOWN = 40 // more of them are counted
const MAX_BUNDLE_BYTES = BUNDLE_LIMITS.manifest + BUNDLE_LIMITS.payload + (1 << 20)

const say = (line: string): void => {
  process.stderr.write(`${line}\n`)
}

/** What is being done, in a line of its own that the next one replaces. */
const showStage = (stage: string): void => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${stage}…`)
}

const clearStage = (): void => {
  if (process.stderr.isTTY) process.stderr.write('\r\x1b[K')
}

/** What a report comes in. */
type Pieces = Iterable<string | Uint8Array>

// With -o into the file, else to stdout; in pieces, since a report of the whole kernel is larger than a string may be.
const deliver = async (pieces: Pieces, path?: string): Promise<void> => {
  if (path !== undefined) return writeWhole(path, gathered(pieces))
  for (const piece of gathered(pieces)) if (!process.stdout.write(piece)) await once(process.stdout, 'drain')
}

const bundleAt = (path: string): Bundle => readBundle(readLimited(path, MAX_BUNDLE_BYTES))

interface PlanOptions {
  output: string
  expression: string[]
  program: string[]
  kallsyms?: string
  profile?: string
  profileBundle?: string
  key?: string
  cert?: string
  json?: boolean
  spanCalls?: string
}

/** As many calls, or the next power of two, as a power of two. */
const spanBitsOf = (calls: string): number => {
  const number = /^[0-9]{1,9}$/.test(calls) ? Number(calls) : 0
  const bits = Math.max(SPAN_BITS.least, Math.ceil(Math.log2(number)))
  if (number > 0 && bits <= SPAN_BITS.most) return bits
  throw new KerninstError(EXIT.usage, `--span-calls ${calls}: a number from 1 to ${2 ** SPAN_BITS.most}`)
}

const plan = async (image: string, options: PlanOptions): Promise<void> => {
  const programs: ProgramText[] = [
    ...options.expression.map((text, i) => ({ text, source: options.expression.length > 1 ? `-e ${i + 1}` : '-e' })),
    ...options.program.map((path): ProgramText => ({
      text: readLimited(path, MAX_PROGRAM_BYTES).toString('utf8'),
      source: path,
      ...(/\.ya?ml$/i.test(path) ? { format: 'yaml' } : {}),
    })),
  ]
  if (programs.length === 0) throw new KerninstError(EXIT.usage, 'nothing to count: give a program with -e or -p')
  if ((options.key === undefined) !== (options.cert === undefined)) {
    throw new KerninstError(EXIT.usage, '--key and --cert go together: give both, or neither for an unsigned bundle')
  }
  const key = options.key === undefined ? undefined : readKey(options.key)
  const cert = options.cert === undefined ? undefined : readCertificateDer(options.cert)
  if ((options.profile === undefined) !== (options.profileBundle === undefined)) {
    throw new KerninstError(EXIT.usage, '--profile and --profile-bundle go together: a dump, and the bundle that was applied when it was taken')
  }
  const profile = options.profile === undefined ? undefined
    : profileOf(reportNumbers(bundleAt(options.profileBundle!), readDump(options.profile)))
  const result = await planBundle({
    image,
    programs,
    version: VERSION,
    ...(options.kallsyms === undefined ? {} : { kallsyms: options.kallsyms }),
    ...(profile && { profile }),
    spanBits: options.spanCalls === undefined ? SPAN_BITS.usual : spanBitsOf(options.spanCalls),
    ...(key && cert ? { key, cert } : {}),
    progress: showStage,
  })
  clearStage()
  const { bundle, manifest } = result
  if (bundle !== undefined) writeWhole(options.output, bundle)
  const summary = summarize(manifest)
  if (options.json) process.stdout.write(planJson(result, summary))
  const { points, served } = summary
  const refused = points - served
  let shown = 0
  for (const p of pointsWhere(manifest, false)) {
    if (shown++ === MAX_REFUSALS_SHOWN) break
    const refusal = refusalText(manifest, p)
    const nearest = refusal.nearest === '' ? '' : `; nearest: ${refusal.nearest}`
    say(`kerninst: refused ${printable(refusal.point)}: ${refusal.code}: ${refusal.reason}${nearest}`)
  }
  if (refused > MAX_REFUSALS_SHOWN) {
    const counts = Object.entries(summary.refused).map(([code, count]) => `${code} ${count}`).join(', ')
    say(`kerninst: ${refused} points refused in all: ${counts}${bundle === undefined ? '' : `; kerninst show ${options.output} lists them`}`)
  }
  if (bundle === undefined) {
    throw new KerninstError(EXIT.found, `every point was refused, so ${options.output} is not written`)
  }
  const { hot, tables: { code } } = result.plan.encoded
  if (profile !== undefined) {
    say(`kerninst: ${hot.patches} patches of what ran in ${printable(options.profile!)} take the first ${hot.bytes} of ${code.length} bytes of code`)
  }
  say(`kerninst: ${options.output}: ${served} of ${points} points served at ` +
    `${manifest.siteTactic.length} sites, ${bundle.length} bytes${key === undefined ? ', NOT SIGNED: modules refuse it (give --key and --cert)' : ''}`)
}

const planJson = ({ manifest, plan, bundle, seconds }: PlanResult, { points, served, derived, refused, tactics }: Summary): string =>
  JSON.stringify({
    schema: 'kerninst.plan/1',
    points, served, derived, refused,
    sites: manifest.siteTactic.length,
    tactics,
    hot: plan.encoded.hot,
    codeBytes: plan.encoded.tables.code.length,
    text: manifest.text,
    bundleBytes: bundle?.length ?? 0,
    seconds,
    peakRssMb: Math.round(process.resourceUsage().maxRSS / 1024),
  }) + '\n'

interface ReportOptions {
  bundle: string[]
  diff?: boolean
  vmlinux?: string
  function?: string
  sources?: string
  vmcore?: string
  format: string
  output?: string
}

const dumpInVmcore = async (path: string, bundle: Bundle): Promise<Dump> => {
  const memory = openVmcore(path)
  try {
    let shown = -1
    const { dump, others } = await findHeap(memory, {
      buildId: bundle.manifest.image.buildId, payloadSha256: bundle.payloadSha256,
    }, (done) => {
      const percent = Math.floor(done * 100)
      if (percent !== shown) showStage(`looking for the counter heap: ${shown = percent} %`)
    })
    clearStage()
    if (others > 0) say(`kerninst: ${path}: ${others + 1} heaps of this bundle are in it; this is the one that was applied last`)
    return dump
  } finally {
    memory.close()
  }
}

/** The one bundle that a report is made with. */
const onlyBundle = ({ bundle }: ReportOptions): Bundle => {
  if (bundle.length > 1) throw new KerninstError(EXIT.usage, 'one --bundle is enough, but for --diff of two bundles')
  return bundleAt(bundle[0]!)
}

const numbersOf = async (paths: readonly string[], options: ReportOptions): Promise<ReportNumbers> => {
  if ((paths.length === 0) === (options.vmcore === undefined)) {
    throw new KerninstError(EXIT.usage, 'give a dump or --vmcore with a memory image, one of them')
  }
  const bundle = onlyBundle(options)
  if (options.vmcore !== undefined) return reportNumbers(bundle, await dumpInVmcore(options.vmcore, bundle))
  return reportNumbers(bundle, runsOf(paths.map((path) => ({ path, dump: readDump(path) }))))
}

const compare = (paths: readonly string[], options: ReportOptions, text: TextOptions): Iterable<string> => {
  const { bundle, format } = options
  if (paths.length !== 2 || bundle.length > 2 || options.vmcore !== undefined) {
    throw new KerninstError(EXIT.usage, '--diff compares two dumps, with one --bundle or with two, in the same order')
  }
  const bundles = bundle.map(bundleAt)
  const [before, after] = paths.map((path, i) => reportNumbers(bundles[i] ?? bundles[0]!, readDump(path)))
  const diff = diffNumbers(before!, after!)
  if (format === 'text') return diffText(diff, text)
  if (format === 'json') return diffJson(diff)
  if (format === 'html') return diffHtml(diff)
  throw new KerninstError(EXIT.usage, `--diff has no format '${printable(format)}': there are text, json, html`)
}

const report = async (paths: readonly string[], options: ReportOptions): Promise<void> => {
  const text = textOptions(options.output === undefined ? process.stdout : {}, process.env)
  if (options.diff) return deliver(compare(paths, options, text), options.output)
  const vmlinux = (): string => {
    if (options.vmlinux !== undefined) return options.vmlinux
    throw new KerninstError(EXIT.usage, `--format ${options.format} needs --vmlinux, the image that was planned for`)
  }
  const lcov = async (numbers: ReportNumbers): Promise<Iterable<string>> => {
    const coverage = await coverLines(numbers, vmlinux(), showStage)
    clearStage()
    return reportLcov(coverage, options.sources ?? '')
  }
  const stacks = async (numbers: ReportNumbers): Promise<Pieces> => {
    const { image, calls, lines } = await callsSeen(numbers, vmlinux(), options.format === 'pprof', showStage)
    clearStage()
    if (options.format === 'pprof') return [reportPprof(numbers, calls, image, lines)]
    return options.format === 'folded' ? reportFolded(calls, image.functions) : reportSpeedscope(calls, image.functions, `calls on ${numbers.host}`)
  }
  const picture = async (numbers: ReportNumbers): Promise<Pieces> => {
    if (options.function === undefined) throw new KerninstError(EXIT.usage, `--format ${options.format} needs --function, the one to show`)
    const fn = await countFunction(numbers, vmlinux(), options.function, showStage)
    clearStage()
    return [options.format === 'dot' ? flowDot(fn) : flowSvg(fn)]
  }
  const samples = async (numbers: ReportNumbers): Promise<Pieces> => {
    const seen = await sampleFunctions(numbers, vmlinux(), showStage)
    clearStage()
    if (seen.ambiguous > 0) say(`kerninst: names left out, since several functions of the sources bear them: ${seen.ambiguous}`)
    return reportSampleProfile(seen)
  }
  const withInside = (make: (numbers: ReportNumbers, inside?: Inside) => Iterable<string>) => async (numbers: ReportNumbers): Promise<Iterable<string>> => {
    if (options.vmlinux === undefined) return make(numbers)
    const inside = await lookInside(numbers, onlyBundle(options).decoded.tables, options.vmlinux, showStage)
    clearStage()
    return make(numbers, inside)
  }
  const render: Record<string, (numbers: ReportNumbers) => Pieces | Promise<Pieces>> = {
    text: (numbers) => reportText(numbers, text),
    json: withInside(reportJson),
    csv: reportCsv,
    html: withInside(reportHtml),
    markdown: reportMarkdown,
    lcov,
    'sample-profile': samples,
    folded: stacks,
    speedscope: stacks,
    dot: picture,
    svg: picture,
    pprof: stacks,
  }
  const chosen = Object.hasOwn(render, options.format) ? render[options.format] : undefined
  if (chosen === undefined) {
    throw new KerninstError(EXIT.usage, `no format '${printable(options.format)}': there are ${Object.keys(render).join(', ')}`)
  }
  if (options.format === 'pprof' && options.output === undefined && process.stdout.isTTY) {
    throw new KerninstError(EXIT.usage, '--format pprof is not text: give -o with a file, or a pipe')
  }
  await deliver(await chosen(await numbersOf(paths, options)), options.output)
}

const kallsymsOf = ({ kallsyms }: { kallsyms?: string }): { kallsyms?: string } => (kallsyms === undefined ? {} : { kallsyms })

const collect = (value: string, list: readonly string[] = []): string[] => [...list, value]

const program = new Command('kerninst')
  .description('Counters at any machine instruction of a running, unmodified Linux kernel, planned off the target.')
  .version(VERSION)
  .exitOverride()
  .configureOutput({ outputError: (text, write) => write(text.replace(/^error: /, 'kerninst: ')) })

program
  .command('plan')
  .description('read a kernel image, choose sites, and write a bundle')
  .argument('<image>', 'the debug vmlinux of the target kernel')
  .requiredOption('-o, --output <bundle>', 'the file to write')
  .option('-e, --expression <program>', 'a probe program, e.g. \'entry:vfs_read { @ = count() }\'; may be repeated', collect, [])
  .option('-p, --program <file>', 'a file with a probe program, in YAML if its name ends so; may be repeated', collect, [])
  .option('--kallsyms <file>', 'System.map or a copy of the target\'s /proc/kallsyms, to check names against')
  .option('--profile <dump>', 'a dump of an earlier run: patches of what ran come first in the patch area')
  .option('--profile-bundle <bundle>', 'the bundle that was applied when it was taken')
  .option('--span-calls <number>', `calls in flight that each span can remember (${2 ** SPAN_BITS.usual})`)
  .option('--key <pem>', 'the private key to sign with')
  .option('--cert <file>', 'its certificate')
  .option('--json', 'figures of the plan on stdout')
  .action(plan)

program
  .command('analyze')
  .description('analyze every function of an image: what was read, what is known, what is not')
  .argument('<image>')
  .option('--json', 'as one line of JSON')
  .option('--kallsyms <file>', 'System.map or a copy of the target\'s /proc/kallsyms, to take names from or check them against')
  .option('--check', 'check the live registers found, with code that shares nothing with what found them')
  .action(async (path: string, options: { json?: boolean; kallsyms?: string; check?: boolean }) => {
    const result = await analyzeImage(path, { ...kallsymsOf(options), check: options.check === true }, showStage)
    clearStage()
    const peakRssMb = Math.round(process.resourceUsage().maxRSS / 1024)
    process.stdout.write(options.json ? analysisJson(result, peakRssMb) + '\n' : analysisText(result, peakRssMb))
    const [first] = result.verdict?.findings ?? []
    if (first !== undefined) {
      throw new KerninstError(EXIT.found, `${path}: live registers are wrong, a bug in kerninst, please report it: ${describeFinding(result.image, first)}`)
    }
  })

program
  .command('cfg')
  .description('control flow and live registers of functions')
  .argument('<image>')
  .argument('[function...]', 'all where none is given')
  .option('--format <format>', 'text, json (one line a function) or dot', 'text')
  .option('--kallsyms <file>', 'System.map or a copy of the target\'s /proc/kallsyms, to take names from or check them against')
  .action(async (path: string, names: string[], options: { format: string; kallsyms?: string }) => {
    if (!['text', 'json', 'dot'].includes(options.format)) {
      throw new KerninstError(EXIT.usage, `no format '${printable(options.format)}': there are text, json, dot`)
    }
    const ground = await openGround(path, kallsymsOf(options), showStage)
    clearStage()
    for (const index of functionsNamed(ground.image, names)) {
      const { graph, liveness } = ground.prepare(index)
      process.stdout.write(options.format === 'json' ? graphJson(ground.image, graph, liveness) + '\n'
        : options.format === 'dot' ? graphDot(ground.image, graph) : graphText(ground.image, graph, liveness))
    }
  })

program
  .command('disasm')
  .description('one function, with live registers and how each instruction could be spliced')
  .argument('<image>')
  .argument('<function>')
  .option('--kallsyms <file>', 'System.map or a copy of the target\'s /proc/kallsyms, to take names from or check them against')
  .action(async (path: string, name: string, options: { kallsyms?: string }) => {
    const ground = await openGround(path, kallsymsOf(options), showStage)
    clearStage()
    for (const index of functionsNamed(ground.image, [name])) {
      process.stdout.write(disassembly(ground, ground.prepare(index)))
    }
  })

program
  .command('keygen')
  .description('make a signing key: NAME.key and NAME.crt')
  .requiredOption('-o, --output <name>', 'path without the suffix')
  .action((options: { output: string }) => {
    const made = keygen(options.output)
    say(`kerninst: ${made.key} (keep it secret), ${made.certificate} (build it into the module: make -C kmod CERT=…)`)
  })

program
  .command('verify')
  .description('check a bundle\'s structure and signature')
  .argument('<bundle>')
  .requiredOption('--cert <file>', 'the certificate that it must be signed with')
  .action((path: string, options: { cert: string }) => {
    const bundle = verifyBundle(readLimited(path, MAX_BUNDLE_BYTES), readCertificateDer(options.cert))
    say(`kerninst: ${path}: good: ${bundle.decoded.tables.siteCount} sites for ${printable(bundle.manifest.image.release)}`)
  })

program
  .command('show')
  .description('what is in a bundle: points, sites, patches, refusals')
  .argument('<bundle>')
  .option('--json')
  .action(async (path: string, options: { json?: boolean }) => {
    const bundle = bundleAt(path)
    await deliver(options.json ? showJson(bundle) : showText(bundle))
  })

program
  .command('report')
  .description('counts from dumps, of one host or several, or from the memory image of a dead machine')
  .argument('[dumps...]')
  .requiredOption('--bundle <bundle>', 'the bundle that was applied', collect)
  .option('--diff', 'compare two dumps: what rose, fell, appeared; of two bundles, with --bundle twice')
  .option('--vmcore <file>', 'in place of a dump: a memory image, ELF or kdump-compressed, in which the counters are found')
  .option('--format <format>', 'text, json, csv, markdown, html (one page), lcov (line coverage), sample-profile (for LLVM), ' +
    'folded, speedscope or pprof (calls), dot or svg (one function)', 'text')
  .option('--vmlinux <image>', 'the image that was planned for: for html and json, to show functions in full; for calls, dot and svg; ' +
    'with debug information, for lcov and sample-profile')
  .option('--function <name>', 'for dot and svg: the function whose control flow is shown, NAME or NAME@0xADDRESS')
  .option('--sources <folder>', 'for lcov: where the kernel\'s sources lie')
  .option('-o, --output <file>', 'write there, not to stdout')
  .action(report)

const main = async (): Promise<number> => {
  try {
    await program.parseAsync()
    return EXIT.ok
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage
    clearStage()
    if (error instanceof KerninstError) {
      say(`kerninst: ${error.message}`)
      return error.exit
    }
    say(`kerninst: a bug in kerninst, please report it: ${error instanceof Error ? error.stack : String(error)}`)
    return EXIT.internal
  }
}

for (const [signal, number] of [['SIGINT', 2], ['SIGTERM', 15]] as const) {
  process.on(signal, () => {
    removeTemporaries()
    process.exit(128 + number)
  })
}
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.io)
})
process.exitCode = await main()
