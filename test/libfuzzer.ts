// Builds, runs and feeds the fuzz targets of the C side (test/native/fuzz): each a program that tries inputs until one
// breaks a promise, with the inputs kept in corpora/fuzz to start from.
// In: a folder to build in, seconds, a seed. Out: how many inputs were tried, what of the code they reached, and the
// input that broke something. Left out: what is promised, which the targets know.

import { spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { ROOT, must } from './guest/artefacts.js'

export const TARGETS = ['payload', 'bundle', 'cms'] as const
export type Target = (typeof TARGETS)[number]

/** Longer inputs only take longer. */
const MAX_BYTES = 8192
/** For one input; one takes some tenths of a millisecond. */
const MAX_SECONDS = 10
const MAX_MB = 1024

const KEPT = join(ROOT, 'corpora/fuzz')
const archive = (target: Target): string => join(KEPT, `${target}.tar.gz`)

/** Builds targets, of the sources or of changed copies: make's KMOD=… or INJECTOR=…. Returns the folder. */
export const buildTargets = (folder: string, targets: readonly Target[] = TARGETS, options: readonly string[] = []): string => {
  must('make', ['-j2', '-C', join(ROOT, 'test/native/fuzz'), `OUT=${folder}`, ...options, ...targets.map((target) => join(folder, `fuzz-${target}`))])
  return folder
}

/** Puts the kept inputs of a target in a folder below this one, those that have found something too. Returns it. */
export const unpackKept = (target: Target, folder: string): string => {
  const to = join(folder, target)
  mkdirSync(to, { recursive: true })
  if (existsSync(archive(target))) must('tar', ['-xzf', archive(target), '-C', to])
  for (const name of readdirSync(KEPT).filter((each) => each.startsWith(`${target}-`))) copyFileSync(join(KEPT, name), join(to, name))
  return to
}

export interface Fuzzed {
  readonly tried: number
  readonly edges: number // of the code that were reached: libFuzzer's cov
  readonly features: number // edges with how often, and what was compared: its ft
  /** What was broken, and the file that the input is kept in. */
  readonly finding: { readonly what: string; readonly file: string } | undefined
}

/** What libFuzzer said last: `#123 DONE cov: 45 ft: 67 …`. */
const lastOf = (stderr: string, key: string): number =>
  Number([...stderr.matchAll(new RegExp(`^#\\d+.* ${key}: (\\d+)`, 'gm'))].at(-1)?.[1] ?? 0)

const run = (target: Target, programs: string, args: readonly string[]): Promise<{ code: number; stderr: string }> =>
  new Promise((resolve, reject) => {
    const child = spawn(join(programs, `fuzz-${target}`), args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      // binutils' addr2line names the places in a report.
      env: { ...process.env, ASAN_OPTIONS: 'allow_addr2line=1', UBSAN_OPTIONS: 'print_stacktrace=1' },
    })
    let stderr = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
    child.on('error', reject)
    child.on('close', (code) => resolve({ code: code ?? -1, stderr }))
  })

/** The first line that says what is wrong, and where the input is. */
const findingOf = (stderr: string): { what: string; file: string } => {
  const lines = stderr.split('\n')
  const told = /broken: |the oracle: |runtime error: |^SUMMARY: |ERROR: libFuzzer/
  return {
    what: lines.find((line) => told.test(line)) ?? lines.slice(-20).join('\n'),
    file: /Test unit written to (\S+)/.exec(stderr)?.[1] ?? 'no file',
  }
}

/**
 * Tries the inputs in `from`, then, for that many seconds, what becomes of them. What reached something new is left in
 * `fresh`, where that is given.
 */
export const fuzz = async (
  target: Target, programs: string,
  { from, seconds, seed, fresh }: { from: string; seconds: number; seed: number; fresh?: string },
): Promise<Fuzzed> => {
  const artefacts = mkdtempSync(join(tmpdir(), `kerninst-found-${target}-`))
  const { code, stderr } = await run(target, programs, [
    `-seed=${seed}`, `-max_len=${MAX_BYTES}`, `-timeout=${MAX_SECONDS}`, `-rss_limit_mb=${MAX_MB}`, `-artifact_prefix=${artefacts}/`,
    '-keep_seed=1', // an input may be worth a start though it reaches nothing new
    ...(seconds > 0 ? [`-max_total_time=${seconds}`] : ['-runs=0']), ...(fresh === undefined ? [] : [fresh]), from,
  ])
  if (code === 0) rmSync(artefacts, { recursive: true })
  const tried = Number([...stderr.matchAll(/^#(\d+)/gm)].at(-1)?.[1] ?? 0)
  return {
    tried, edges: lastOf(stderr, 'cov'), features: lastOf(stderr, 'ft'),
    finding: code === 0 ? undefined : findingOf(stderr),
  }
}

/** Keeps, of the inputs in all these folders, as few as reach as much as all of them. */
export const keep = (target: Target, programs: string, from: readonly string[], scratch: string): { files: number; bytes: number } => {
  const merged = join(scratch, `merged-${target}`)
  mkdirSync(merged)
  must(join(programs, `fuzz-${target}`), ['-merge=1', `-max_len=${MAX_BYTES}`, merged, ...from])
  // The same inputs give the same archive.
  const tar = join(scratch, `${target}.tar`)
  must('tar', ['-cf', tar, '-C', merged, '--sort=name', '--mtime=@0', '--owner=0', '--group=0', '--numeric-owner', '--mode=644',
    ...readdirSync(merged).sort()])
  mkdirSync(KEPT, { recursive: true })
  writeFileSync(archive(target), gzipSync(readFileSync(tar), { level: 9 }))
  return { files: readdirSync(merged).length, bytes: statSync(archive(target)).size }
}
