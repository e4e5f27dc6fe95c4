// Line coverage knows which counts say how often control came by: those that a program decides about say nothing of lines. (What
// coverage says of a kernel at work, a guest's kprobes judge: test/guest/coverage.test.ts.)

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { readBundle } from '../src/bundle/bundle.js'
import { drawnDump } from './dumpfile.js'
import { kernel, keygen, mustKerninst, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { schemaErrors } from './reportschema.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-coverage-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const target = kernel('6.1-cloud')
const key = keygen(scratch, 'trusted')

t.test('counts that are not of lines', (t) => {
  t.comment(seedNote)
  const [bundle, dump] = [join(scratch, 'bundle'), join(scratch, 'dump')]
  plan(target, [
    'block:vfs_read { @ = count(); @sizes = hist(reg("rdx")) }', // always counts, whatever else it does
    'block:vfs_write /cpu == 0/ { @ = count() }',
    'block:vfs_readv { if (cpu == 0) { @ = count() } }',
  ], key, bundle)
  writeFileSync(dump, drawnDump(readBundle(readFileSync(bundle)), 2, lottery(seed)))
  const report = (format: string): string => mustKerninst('report', dump, '--bundle', bundle, '--format', format, '--vmlinux', target.vmlinux)
  const functions = [...report('lcov').matchAll(/^FN:([0-9]+),(.*)$/gm)].map(([, line, name]) => [name, Number(line)])
  // Where its name stands, as the kernel's own DWARF has it.
  const info = execFileSync('llvm-dwarfdump', ['--name=vfs_read', target.vmlinux], { encoding: 'utf8', maxBuffer: 1 << 28 })
  const [, line] = /DW_AT_name\s+\("vfs_read"\)\s+DW_AT_decl_file\s+\("[^"]*\/read_write\.c"\)\s+DW_AT_decl_line\s+\(([0-9]+)\)/.exec(info) ?? []
  t.same(functions, [['vfs_read', Number(line)]])
  t.match(report('csv'), /^block:vfs_write\+0x/m, 'though they are counted')
  t.match(report('csv'), /^block:vfs_readv\+0x/m)
  const page = report('html')
  t.match(page, /aria-label="Picture of vfs_read"/)
  t.notMatch(page, /aria-label="Picture of vfs_(write|readv)"/, 'nor is there heat of them')
  const json = JSON.parse(report('json')) as { functions: { name: string; blocks: object[]; edges: { from: number; to: number }[] }[] }
  t.same(schemaErrors(json), [], 'JSON has the same')
  t.same(json.functions.map(({ name }) => name), ['vfs_read'])
  t.ok(json.functions[0]!.edges.length > 20 && json.functions[0]!.edges.every(({ from, to }) => Math.max(from, to) < json.functions[0]!.blocks.length), 'with edges between blocks')
  t.end()
})
