// What compilers and checkers say of the C side, before any of it runs. The module is built for each kernel with the
// kernel's own extra warnings (W=1) and checked by sparse (C=2); the injector is built by two compilers with more
// warnings than its Makefile asks for, looked through by gcc's analyzer, and runs under the address and undefined
// behaviour sanitizers.
// Nothing is filtered: a build that is right writes nothing to stderr, and these kernels' headers do not either. That
// findings would be seen is shown on sources with one each.

import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { writeBundle } from '../src/bundle/bundle.js'
import { readCertificateDer, readKey } from '../src/bundle/keys.js'
import { ROOT, bootKernel, keygen, must, run, type BootKernel, type RunResult } from './guest/artefacts.js'
import { sampleManifest, sampleTables, sampleTarget } from './sample.js'

const KERNELS = ['6.1-cloud', '6.1-rt', '6.1-generic', '6.12-cloud', '6.12-generic']
/** With these, all that is compiled for tests alone is seen, too. */
const TEST_OPTIONS = ['UNSIGNED=1', 'FAULT=1']
const CHECKS = ['W=1', 'C=2', 'CHECK=sparse']

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-module-'))
t.teardown(() => rmSync(scratch, { recursive: true, force: true }))

const bytes = (count: number): string => `${count.toLocaleString('en-US')} bytes`

// ---- The module ----------------------------------------------------------------------------------------------------

const build = ({ kdir }: BootKernel, folder: string, options: readonly string[] = []): RunResult =>
  run('make', ['-j2', '-C', join(ROOT, 'kmod'), `KDIR=${kdir}`, `OUT=${folder}`, ...CHECKS, ...options])

/** The sources that sparse looked at. */
const checked = (stdout: string): string[] => [...stdout.matchAll(/^ {2}CHECK .*\/(\w+)\.c$/gm)].map(([, name]) => name!).sort()

const sources = readdirSync(join(ROOT, 'kmod')).filter((name) => name.endsWith('.c')).map((name) => name.slice(0, -2)).sort()

for (const name of KERNELS) {
  t.test(`the module for ${name}`, async (t) => {
    const target = bootKernel(name)
    const folder = join(scratch, name)
    const { status, stdout, stderr } = build(target, folder)
    t.equal(status, 0, `is built for ${target.release}`)
    t.equal(stderr, '', 'without a warning, of gcc or sparse')
    t.same(checked(stdout), sources.filter((source) => source !== 'fault'), 'sparse saw every source')
    const stripped = join(folder, 'stripped.ko')
    must('strip', ['-g', '-o', stripped, join(folder, 'kerninst.ko')])
    const sections = must('size', ['-A', '-d', stripped])
    const sizes = (pattern: RegExp): number => [...sections.matchAll(/^(\.\S+)\s+(\d+)/gm)]
      .reduce((sum, [, section, size]) => sum + (pattern.test(section!) ? Number(size) : 0), 0)
    t.comment(`${name}: kerninst.ko ${bytes(statSync(stripped).size)} without debug information, ` +
      `${bytes(sizes(/^\.(init\.|exit\.)?text/))} of it code; loaded, ${sizes(/^\.kerninst\.area$/) >> 20} MiB for patches`)
  })
}

for (const name of ['6.1-cloud', '6.12-cloud']) {
  t.test(`the module for tests, for ${name}`, async (t) => {
    const { status, stdout, stderr } = build(bootKernel(name), join(scratch, `${name}-fault`), TEST_OPTIONS)
    t.equal(status, 0, 'is built')
    t.equal(stderr, '', 'without a warning')
    t.same(checked(stdout), sources, 'sparse saw every source')
  })
}

t.test('a finding would be seen', async (t) => {
  const plants = {
    compiler: ['static int planted(void)\n{\n\tint unused;\n\n\tunused = 3;\n\treturn 0;\n}\nmodule_init(planted);', /unused.*-Wunused-but-set-variable/],
    sparse: ['static int planted(void)\n{\n\tint __user *p = NULL;\n\n\treturn *p;\n}\nmodule_init(planted);', /dereference of noderef expression/],
  } as const
  for (const [name, [code, finding]] of Object.entries(plants)) {
    const folder = join(scratch, name)
    mkdirSync(folder)
    writeFileSync(join(folder, 'plant.c'), `#include <linux/module.h>\n${code}\nMODULE_LICENSE("GPL");\nMODULE_DESCRIPTION("plant");\n`)
    writeFileSync(join(folder, 'Kbuild'), 'obj-m := plant.o\n')
    const { stderr } = run('make', ['-C', bootKernel('6.1-cloud').kdir, `M=${folder}`, ...CHECKS, 'modules'])
    t.match(stderr, finding, name)
  }
})

// ---- The injector --------------------------------------------------------------------------------------------------

const WARNINGS = '-Werror -Wconversion -Wformat=2 -Wcast-qual -Wundef -Wimplicit-fallthrough'
const SANITIZERS = '-fsanitize=address,undefined -fno-sanitize-recover=all'

const buildInjector = (folder: string, ...options: string[]): RunResult =>
  run('make', ['-C', join(ROOT, 'injector'), `OUT=${join(scratch, folder)}`, ...options])

for (const compiler of ['gcc-12', 'clang']) {
  t.test(`the injector, by ${compiler}`, async (t) => {
    const { status, stderr } = buildInjector(compiler, `CC=${compiler}`, `CFLAGS=-O2 ${WARNINGS}`)
    t.equal(status, 0, 'is built')
    t.equal(stderr, '', 'without a warning')
    t.comment(`${compiler}: kerninst-inject ${bytes(statSync(join(scratch, compiler, 'kerninst-inject')).size)}, static`)
  })
}

t.test('the injector, looked through by gcc\'s analyzer', async (t) => {
  const { status, stderr } = buildInjector('analyzer', 'CC=gcc-12', 'CFLAGS=-O2 -fanalyzer -Werror')
  t.equal(status, 0, 'is built')
  t.equal(stderr, '', 'without a finding')
})

t.test('the injector under sanitizers', async (t) => {
  const built = buildInjector('sanitized', 'CC=gcc-12', `CFLAGS=-O1 -g -Werror ${SANITIZERS}`, 'LDFLAGS=')
  t.equal(built.status, 0, built.stderr || 'is built')
  const { key, cert } = keygen(scratch, 'key')
  const whole = writeBundle({
    manifest: sampleManifest(), target: sampleTarget(), tables: sampleTables(), key: readKey(key), cert: readCertificateDer(cert),
  })
  const file = (name: string, content: Uint8Array): string => {
    writeFileSync(join(scratch, name), content)
    return join(scratch, name)
  }
  const flipped = Uint8Array.from(whole)
  flipped[flipped.length >> 1]! ^= 1
  const bundle = file('whole.bundle', whole)
  const nowhere = join(scratch, 'no', 'such')
  // What a machine without the module answers; test/guest/line.test.ts has the rest.
  const cases: readonly (readonly [what: string, exit: number, ...args: string[]])[] = [
    ['no command', 64], ['an unknown command', 64, 'frobnicate'], ['a command with too little', 64, 'apply'],
    ['a command with too much', 64, 'check', bundle, bundle, bundle],
    ['help', 0, 'help'],
    ['no such bundle', 66, 'check', nowhere], ['a folder', 66, 'check', scratch],
    ['nothing', 65, 'check', file('empty', new Uint8Array(0))],
    ['half a bundle', 65, 'check', file('half', whole.subarray(0, whole.length >> 1))],
    ['a changed bundle', 65, 'apply', file('flipped', flipped)],
    ['a whole bundle, and no module', 76, 'apply', bundle],
    ['status', 76, 'status'], ['remove', 76, 'remove'], ['dump', 76, 'dump', '-o', join(scratch, 'dump')],
  ]
  for (const [what, exit, ...args] of cases) {
    const { status, stdout, stderr } = run(join(scratch, 'sanitized', 'kerninst-inject'), args)
    t.equal(status, exit, `${what}: exit code ${exit}`)
    if (exit !== 0) t.match(stderr, /^kerninst-inject: [^\n]+\n$/, `${what}: one line`)
    t.equal(exit === 0 ? stderr : stdout, '', `${what}: nothing else`)
  }
  const { status, stdout, stderr } = run(join(scratch, 'sanitized', 'kerninst-inject'), ['check', bundle])
  t.equal(status, 76, 'check, without the module, of another kernel\'s bundle')
  t.match(stdout, /^kernel +refuses .*^module +refuses .*^The bundle cannot be applied here\.$/ms, 'says what it can')
  t.equal(stderr, '')
})
