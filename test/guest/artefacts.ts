// In: the cache that corpora/prepare.mjs fills, and this repository. Out: everything that a guest run needs, built in
// one scratch folder: signing key, guest programs, injector, one module per kernel, bundles.
// Invariant: nothing outside the scratch folder is written, so that runs at the same time do not meet.
// Left out: booting (guest.ts).

import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { ManifestText } from '../../src/splice/manifest.js'

/** A kernel to boot, and to build modules for. */
export interface BootKernel {
  readonly name: string // of the recipe: '6.1-cloud'
  readonly release: string // uname -r
  readonly kdir: string
  readonly vmlinuz: string
}

export interface Kernel extends BootKernel {
  readonly vmlinux: string
}

/**
 * Whether tests that take long do all that they can on each kernel, as `npm run soak -- tests` has them do; in `npm test`, which is
 * to be waited for, each part of them is on one kernel or the other.
 */
export const EVERYTHING = process.env['KERNINST_EVERYTHING'] === '1'

/** The kernels that a long part is on: this one, or both. */
export const longOn = (name: '6.1-cloud' | '6.12-cloud'): readonly string[] => (EVERYTHING ? ['6.1-cloud', '6.12-cloud'] : [name])

export interface RunResult {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

/** The repository's root, from wherever this file was compiled to. */
export const ROOT = (() => {
  let folder = dirname(fileURLToPath(import.meta.url))
  while (!existsSync(join(folder, 'package.json'))) {
    if (folder === dirname(folder)) throw new Error('no package.json above the compiled tests')
    folder = dirname(folder)
  }
  return folder
})()

export const CLI = join(ROOT, 'dist', 'cli.js')

const CACHE = process.env['KERNINST_CACHE'] ??
  join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'kerninst')

/** What prepare.mjs fetched into one of these folders, and the folder; throws with the command that fetches it. */
const fetched = (name: string, folders: readonly string[]): [BootKernel, string] => {
  const all = folders.map((folder) => join(CACHE, 'kernels', folder))
  const folder = all.find((each) => existsSync(join(each, 'got.json')))
  if (folder === undefined) throw new Error(`${name} is not in ${all.join(' or ')}; run \`node corpora/prepare.mjs test\``)
  const got = JSON.parse(readFileSync(join(folder, 'got.json'), 'utf8')) as Record<string, string>
  return [{ name, release: got['release']!, vmlinuz: join(folder, got['vmlinuz']!), kdir: join(folder, got['kdir']!) }, folder]
}

/** A whole kernel; `npm test` has the two of the cloud so. */
export const kernel = (name: string): Kernel => {
  const [found, folder] = fetched(name, [name])
  return { ...found, vmlinux: join(folder, 'vmlinux') }
}

/** Of a kernel, whole or in part, what it is booted and built for with. */
export const bootKernel = (name: string): BootKernel => fetched(name, [name, `${name}.boot`])[0]

/** Runs a command to its end; its output is returned, whatever its status. */
export function run(command: string, args: readonly string[]): RunResult {
  const done = spawnSync(command, args, {
    encoding: 'utf8', maxBuffer: 1 << 28, cwd: ROOT, env: { ...process.env, LC_ALL: 'C', NO_COLOR: '1' },
  })
  if (done.error) throw done.error
  return { status: done.status ?? -1, stdout: done.stdout, stderr: done.stderr }
}

/** Runs a command that must succeed, and returns its stdout. */
export function must(command: string, args: readonly string[]): string {
  const done = run(command, args)
  if (done.status !== 0) {
    throw new Error(`${[command, ...args].join(' ')}: status ${done.status}\n${done.stdout}${done.stderr}`)
  }
  return done.stdout
}

export const kerninst = (...args: string[]): RunResult => run(process.execPath, [CLI, ...args])
export const mustKerninst = (...args: string[]): string => must(process.execPath, [CLI, ...args])

/** Compiles a guest program: static, so that the initramfs needs no library. Returns its path. */
export function program(source: string, scratch: string): string {
  mkdirSync(scratch, { recursive: true })
  const output = join(scratch, basename(source, '.c'))
  must('gcc-12', ['-std=gnu11', '-O2', '-Wall', '-Wextra', '-Werror', '-static', '-pthread',
    '-I', join(ROOT, 'kmod/uapi'), '-I', join(ROOT, 'test/guest'), '-o', output, join(ROOT, source)])
  return output
}

export interface Key {
  readonly key: string
  readonly cert: string
}

export function keygen(scratch: string, name: string): Key {
  mkdirSync(scratch, { recursive: true })
  mustKerninst('keygen', '-o', join(scratch, name))
  return { key: join(scratch, `${name}.key`), cert: join(scratch, `${name}.crt`) }
}

/** Builds the module for one kernel, trusting one certificate, with further options of make. Returns the path of the .ko. */
export function buildModule(target: BootKernel, cert: string, scratch: string, options: readonly string[] = []): string {
  const folder = join(scratch, `kmod-${target.name}`)
  must('make', ['-C', join(ROOT, 'kmod'), `KDIR=${target.kdir}`, `CERT=${cert}`, `OUT=${folder}`, ...options])
  return join(folder, 'kerninst.ko')
}

/** Builds a module of one source file, for one kernel. Returns the path of the .ko. */
export function buildSmallModule(target: BootKernel, source: string, scratch: string): string {
  const name = basename(source, '.c')
  const folder = join(scratch, `${name}-${target.name}`)
  mkdirSync(folder, { recursive: true })
  copyFileSync(join(ROOT, source), join(folder, `${name}.c`))
  writeFileSync(join(folder, 'Kbuild'), `obj-m := ${name}.o\n`)
  must('make', ['-C', target.kdir, `M=${folder}`, 'modules'])
  return join(folder, `${name}.ko`)
}

/** Returns the path of the static program. */
export function buildInjector(scratch: string): string {
  const folder = join(scratch, 'injector')
  must('make', ['-C', join(ROOT, 'injector'), `OUT=${folder}`, 'CC=gcc-12'])
  return join(folder, 'kerninst-inject')
}

export interface PlanSummary {
  readonly schema: string
  readonly points: number
  readonly served: number
  readonly refused: Readonly<Record<string, number>>
  readonly sites: number
  readonly hot: { readonly patches: number; readonly bytes: number }
  readonly codeBytes: number
}

/** Plans programs for a kernel, from its vmlinux if it has one, signed with `key`; returns what `plan --json` says. */
export function plan(
  target: Kernel | BootKernel, programs: readonly string[], key: Key, bundle: string, options: readonly string[] = [],
): PlanSummary {
  const file = `${bundle}.ki`
  writeFileSync(file, programs.join('\n') + '\n')
  const image = 'vmlinux' in target ? target.vmlinux : target.vmlinuz
  return JSON.parse(mustKerninst('plan', image, '-o', bundle, '-p', file, '--key', key.key, '--cert', key.cert,
    '--json', ...options)) as PlanSummary
}

/** What `show --json` says of a bundle. */
export function manifest(bundle: string): ManifestText {
  return (JSON.parse(mustKerninst('show', bundle, '--json')) as { manifest: ManifestText }).manifest
}
