// The planning line on one page: image -> control flow -> points -> plan -> check -> manifest. Each step is a function
// from tables to tables; nothing here decides anything.

import type { KeyObject } from 'node:crypto'
import { setImmediate } from 'node:timers/promises'
import { writeBundle } from './bundle/bundle.js'
import { buildGraph, type KernelGraph } from './cfg/graph.js'
import { SecondDecoder } from './code/second.js'
import { readDeclarations, type Declarations } from './image/declarations.js'
import { loadImage, type Image, type ImageOptions } from './image/image.js'
import { hasLines, readLines, type Lines } from './image/lines.js'
import { NONE } from './image/rva.js'
import { checkClaims } from './liveness/check.js'
import type { Verdict } from './liveness/claims.js'
import { claimsOf, solveLiveness } from './liveness/live.js'
import { functionAt, resolvePoints } from './probe/points.js'
import { readRequests, type ProgramText } from './probe/requests.js'
import { findTaskLayout } from './probe/task.js'
import { checkPlan } from './splice/check.js'
import { describePlan } from './splice/describe.js'
import type { Manifest } from './splice/manifest.js'
import type { Profile } from './splice/layout.js'
import { makePlan, type Plan } from './splice/plan.js'
import { Ground } from './splice/ground.js'
import type { PatchTables, TargetIdentity } from './splice/tables.js'
import { analyze, type Analysis } from './report/analysis.js'
import { callGraphOf, type CallGraph } from './report/callgraph.js'
import { coverageOf, type FileCoverage } from './report/coverage.js'
import type { ReportNumbers } from './report/numbers.js'
import { blockRuns } from './report/runs.js'
import { samplesOf, type Samples } from './report/sampleprofile.js'
import { countedFunctions, functionViews, type CountedFunction, type Inside } from './report/views.js'
import { EXIT, KerninstError } from './error.js'

export interface PlanRequest {
  image: string
  kallsyms?: string
  programs: readonly ProgramText[]
  key?: KeyObject
  cert?: Uint8Array
  version: string
  /** A span remembers at most 2 to the power of this many calls in flight. */
  spanBits: number
  /** How often code ran in an earlier run, on the same kernel. */
  profile?: Profile
  /** Called when a stage starts. */
  progress: (stage: string) => void
}

export interface PlanResult {
  /** The bundle, or undefined where every point was refused. */
  bundle: Uint8Array | undefined
  plan: Plan
  manifest: Manifest
  image: Image
  seconds: Record<string, number> // stage -> seconds
}

/** The symbols whose running addresses give the slide; all three are exported to modules (6.1 and 6.12). */
const ANCHORS = ['stop_machine', 'vmap', 'init_task'] as const

/** What the payload says of the kernel that it is for. */
export const identify = (image: Image): TargetIdentity => {
  const anchor = (name: string): number => {
    const found = image.symbols.find(name)
    if (found.length !== 1) {
      throw new KerninstError(EXIT.data, `${image.path}: ${found.length} symbols ${name}, where the target needs one`)
    }
    return image.symbols.rva[found[0]!]!
  }
  return {
    base: image.base,
    imageBytes: image.imageBytes,
    textStart: image.textStart,
    textEnd: image.textEnd,
    buildId: image.buildId,
    buildIdRva: image.buildIdRva,
    anchors: [anchor(ANCHORS[0]), anchor(ANCHORS[1]), anchor(ANCHORS[2])],
    kprobes: image.symbols.find('register_kprobe').length === 0 ? [NONE, NONE] : [anchor('kprobe_mutex'), anchor('kprobe_table')],
  }
}

interface Stopwatch {
  readonly seconds: Record<string, number> // stage -> seconds
  readonly stage: <T>(name: string, run: () => T) => Promise<T>
}

/** Runs stages one after the other, each announced and its seconds kept. Between two of them signals are heard. */
const stopwatch = (progress: (stage: string) => void): Stopwatch => {
  const seconds: Record<string, number> = {}
  return {
    seconds,
    stage: async (name, run) => {
      progress(name)
      await setImmediate()
      const start = process.hrtime.bigint()
      const result = run()
      seconds[name] = Number(process.hrtime.bigint() - start) / 1e9
      return result
    },
  }
}

/** Plans a bundle. */
export const planBundle = async (request: PlanRequest): Promise<PlanResult> => {
  const { seconds, stage } = stopwatch(request.progress)
  // The packages that read YAML and assembly take longer to load than all else here; most programs have no use for them.
  const yaml = request.programs.some(({ format }) => format === 'yaml') ? await import('./probe/yaml.js') : undefined
  const assembler = request.programs.some(({ text }) => /\basm\b/.test(text))
    ? await import('./probe/assembly.js').then(({ Assembler }) => Assembler.load()) : undefined
  const { rows, programs, aggregates } = readRequests(request.programs, {
    ...(yaml && { parseYaml: yaml.parseYaml }), ...(assembler && { assemble: (text: string) => assembler.assemble(text) }),
  })
  const image = await stage('image', () =>
    loadImage(request.image, request.kallsyms === undefined ? {} : { kallsyms: request.kallsyms }))
  const { profile } = request
  const buildId = Buffer.from(image.buildId).toString('hex')
  if (profile !== undefined && profile.buildId !== buildId) {
    throw new KerninstError(EXIT.mismatch,
      `the profile is of another kernel: its build id is ${profile.buildId}, that of ${request.image} is ${buildId}`)
  }
  const points = await stage('points', () => resolvePoints(image, rows))
  const graph = await stage('control flow', () => buildGraph(image))
  const live = await stage('liveness', () => solveLiveness(graph))
  const second = await SecondDecoder.load()
  const plan = await stage('plan', () => makePlan(live, second, points, {
    ...(profile && { profile }),
    programs: { programs, aggregates, task: programs.length === 0 ? undefined : findTaskLayout(image), spanBits: request.spanBits },
  }))
  await stage('check', () => checkPlan(graph, plan.encoded, plan.reserved, second))
  const manifest = await stage('manifest', () =>
    describePlan(image, plan, request.programs.map((p) => p.text), { name: 'kerninst', version: request.version }, aggregates.tables))
  if (plan.encoded.tables.siteCount === 0) return { bundle: undefined, plan, manifest, image, seconds }
  const { key, cert } = request
  const bundle = await stage('bundle', () =>
    writeBundle({ manifest, target: identify(image), tables: plan.encoded.tables, ...(key && cert ? { key, cert } : {}) }))
  return { bundle, plan, manifest, image, seconds }
}

export interface AnalyzeOptions extends ImageOptions {
  /** Checks the liveness found, with a checker that shares no code with what found it. */
  readonly check?: boolean
}

/** Analyzes a whole image. */
export const analyzeImage = async (
  path: string, options: AnalyzeOptions, progress: (stage: string) => void,
): Promise<{ image: Image; analysis: Analysis; verdict: Verdict | undefined; seconds: Record<string, number> }> => {
  const { seconds, stage } = stopwatch(progress)
  const image = await stage('image', () => loadImage(path, options))
  const graph = await stage('control flow', () => buildGraph(image))
  const live = await stage('liveness', () => solveLiveness(graph))
  const analysis = await stage('figures', () => analyze(live))
  const verdict = options.check ? await stage('check', () => checkClaims(image, claimsOf(live))) : undefined
  return { image, analysis, verdict, seconds }
}

/** Everything that looking at single functions needs. */
export const openGround = async (path: string, options: ImageOptions, progress: (stage: string) => void): Promise<Ground> => {
  const { stage } = stopwatch(progress)
  const image = await stage('image', () => loadImage(path, options))
  const graph = await stage('control flow', () => buildGraph(image))
  const live = await stage('liveness', () => solveLiveness(graph))
  return new Ground(live, await SecondDecoder.load())
}

/** The image that a report's bundle was planned for; @throws KerninstError (76) where it is another one. */
const imageOf = (numbers: ReportNumbers, path: string): Image => {
  const image = loadImage(path)
  const buildId = Buffer.from(image.buildId).toString('hex')
  if (buildId === numbers.buildId) return image
  throw new KerninstError(EXIT.mismatch, `${path} is another kernel: its build id is ${buildId}, that of the dump is ${numbers.buildId}`)
}

/** The source lines of an image, where it has them. */
const linesIn = (path: string, { base, imageBytes }: Image): Lines | undefined =>
  (hasLines(path) ? readLines(path, base, imageBytes) : undefined)

/** The functions of a report that ran most, in full, with source lines where the image has them; and who called whom. */
export const lookInside = async (
  numbers: ReportNumbers, tables: PatchTables, path: string, progress: (stage: string) => void,
): Promise<Inside> => {
  const { stage } = stopwatch(progress)
  const image = await stage('image', () => imageOf(numbers, path))
  const lines = await stage('source lines', () => linesIn(path, image))
  const graph = await stage('control flow', () => buildGraph(image))
  const live = await stage('liveness', () => solveLiveness(graph))
  return stage('functions', () => ({
    ...functionViews(numbers, live, tables, lines), calls: callGraphOf(blockRuns(numbers, graph), graph), nameOf: (fn) => image.functions.nameOf(fn),
  }))
}

/**
 * The control flow of one function of a report.
 * @param name NAME or NAME@0xADDRESS
 * @throws KerninstError (65) where there is no such function, nothing of it is counted, or several of that name are
 */
export const countFunction = async (
  numbers: ReportNumbers, path: string, name: string, progress: (stage: string) => void,
): Promise<CountedFunction> => {
  const { stage } = stopwatch(progress)
  const image = await stage('image', () => imageOf(numbers, path))
  const named = functionsNamed(image, [name])
  const graph = await stage('control flow', () => buildGraph(image))
  const [found, ...others] = await stage('function', () => countedFunctions(numbers, graph, named))
  if (found === undefined) throw new KerninstError(EXIT.data, `no block of ${name} is counted: plan with block:${name}`)
  if (others.length === 0) return found
  throw new KerninstError(EXIT.data, `several functions ${name} are counted, say which: ${[found, ...others].map((each) => each.name).join(', ')}`)
}

/** Who called whom, of a report; with source lines, where they are asked for and the image has them. */
export const callsSeen = async (
  numbers: ReportNumbers, path: string, withLines: boolean, progress: (stage: string) => void,
): Promise<{ image: Image; calls: CallGraph; lines: Lines | undefined }> => {
  const { stage } = stopwatch(progress)
  const image = await stage('image', () => imageOf(numbers, path))
  const lines = withLines ? await stage('source lines', () => linesIn(path, image)) : undefined
  const graph = await stage('control flow', () => buildGraph(image))
  return { image, lines, calls: await stage('calls', () => callGraphOf(blockRuns(numbers, graph), graph)) }
}

/** The graph of an image with debug information, and what that says of its sources. */
const sourcesOf = async (
  numbers: ReportNumbers, path: string, stage: Stopwatch['stage'],
): Promise<{ graph: KernelGraph; lines: Lines; declarations: Declarations }> => {
  const image = await stage('image', () => imageOf(numbers, path))
  const lines = await stage('source lines', () => readLines(path, image.base, image.imageBytes))
  const declarations = await stage('declarations', () => readDeclarations(path, image.base, lines))
  return { lines, declarations, graph: await stage('control flow', () => buildGraph(image)) }
}

/** Coverage of source lines, of a report and the image that its bundle was planned for. */
export const coverLines = async (
  numbers: ReportNumbers, path: string, progress: (stage: string) => void,
): Promise<FileCoverage[]> => {
  const { stage } = stopwatch(progress)
  const { graph, lines, declarations } = await sourcesOf(numbers, path, stage)
  return stage('coverage', () => coverageOf(numbers, graph, lines, declarations))
}

/** What ran of each function of the sources, of a report and the image that its bundle was planned for. */
export const sampleFunctions = async (
  numbers: ReportNumbers, path: string, progress: (stage: string) => void,
): Promise<Samples> => {
  const { stage } = stopwatch(progress)
  const { graph, lines, declarations } = await sourcesOf(numbers, path, stage)
  return stage('samples', () => samplesOf(numbers, graph, lines, declarations))
}

/** Those that a name means; with its address one of several of that name, as in programs. */
const functionsMeant = (image: Image, wanted: string): number[] => {
  const [, name, address] = /^(.+)@(0x[0-9a-f]{1,16})$/.exec(wanted) ?? []
  if (name === undefined) return image.functions.functionsNamed(wanted)
  const fn = functionAt(image, name, address!)
  return fn === undefined ? [] : [fn]
}

/**
 * The functions of these names; all where none is given.
 * @throws KerninstError (65) where one does not exist
 */
export const functionsNamed = (image: Image, names: readonly string[]): number[] => {
  if (names.length === 0) return Array.from({ length: image.functions.count }, (_, f) => f)
  return names.flatMap((name) => {
    const found = functionsMeant(image, name)
    if (found.length === 0) throw new KerninstError(EXIT.data, `${image.path} has no function '${name}'`)
    return found
  })
}
