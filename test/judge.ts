// Builds and runs test/judge.c, or a program that a test generates, against the real uapi header. The compiler is a
// requirement: without it these tests fail.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

// Compiled to build/test/.
const ROOT = fileURLToPath(new URL('../../', import.meta.url))

export const HEADER = join(ROOT, 'kmod/uapi/kerninst.h')

export const newScratch = (): string => mkdtempSync(join(tmpdir(), 'kerninst-test-'))

const compile = (scratch: string, name: string, sources: readonly string[]): string => {
  const out = join(scratch, name)
  const flags = ['-std=gnu11', '-g', '-Wall', '-Werror', '-fsanitize=address,undefined', '-fno-sanitize-recover=all']
  execFileSync('gcc', [...flags, '-I', join(ROOT, 'kmod'), '-o', out, ...sources], { stdio: 'inherit' })
  return out
}

export const run = (program: string, args: readonly string[], input: Uint8Array = new Uint8Array(0)): Buffer => {
  const { status, stdout, stderr, error } = spawnSync(program, args, { input, maxBuffer: 2 ** 28 })
  if (error !== undefined || status !== 0) {
    throw new Error(`${program} ${args.join(' ')}: ${error?.message ?? `status ${status}: ${stderr.toString()}`}`)
  }
  return stdout
}

export const compileJudge = (scratch: string): string =>
  compile(scratch, 'judge', [join(ROOT, 'test/judge.c'), join(ROOT, 'kmod/payload.c')])

/** Runs a C program text that includes uapi/kerninst.h. */
export const runC = (scratch: string, text: string): string => {
  const source = join(scratch, 'generated.c')
  writeFileSync(source, text)
  return run(compile(scratch, 'generated', [source]), []).toString()
}
