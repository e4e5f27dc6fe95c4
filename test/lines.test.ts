// Source lines against llvm-symbolizer: random addresses of whole kernels, and every address of small programs in each
// version of DWARF; and line tables that are damaged, which give lines or one clear error.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { EXIT, KerninstError } from '../src/error.js'
import { openElf } from '../src/image/elf.js'
import { loadImage } from '../src/image/image.js'
import { readLines, type Lines } from '../src/image/lines.js'
import { NONE } from '../src/image/rva.js'
import { kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { framesAt } from './symbolizer.js'

const ADDRESSES = 1500
const DAMAGES = 3000
const BASE = 0xffff_ffff_8100_0000n

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-lines-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

/** 'file.c:12', with as much of the path as both tell; '' where there is no line. */
const theirs = (path: string, addresses: readonly bigint[]): string[] => framesAt(path, addresses, '--no-inlines').map(([symbol]) =>
  (symbol === undefined || symbol.Line === 0 ? '' : `${symbol.FileName.split('/').at(-1)!}:${symbol.Line}`))

const ours = (lines: Lines, rva: number): string => {
  const row = lines.rowAt(rva)
  return row === NONE || lines.file[row] === NONE || lines.line[row] === 0 ? '' : `${lines.files[lines.file[row]!]!.split('/').at(-1)!}:${lines.line[row]}`
}

for (const name of ['6.1-cloud', '6.12-cloud']) {
  t.test(name, (t) => {
    t.comment(seedNote)
    const random = lottery(seed)
    const { vmlinux } = kernel(name)
    const image = loadImage(vmlinux)
    const start = performance.now()
    const lines = readLines(vmlinux, image.base, image.imageBytes)
    t.comment(`${lines.rva.length} rows, ${lines.files.length} files, ${Math.round(performance.now() - start)} ms`)
    t.ok(lines.rva.every((rva, row) => row === 0 || rva > lines.rva[row - 1]!), 'rows ascend')
    t.ok(lines.files.includes('fs/read_write.c') && lines.files.includes('arch/x86/entry/entry_64.S'), 'paths are those of the sources')
    const rvas = Array.from({ length: ADDRESSES }, () => image.textStart + random(image.textEnd - image.textStart))
    const judged = theirs(vmlinux, rvas.map((rva) => image.base + BigInt(rva)))
    // Of padding behind a function, the table has the last line, and the judge, which asks whose it is, none.
    const known = rvas.flatMap((_, i) => (judged[i] === '' ? [] : [i]))
    const wrong = known.map((i) => rvas[i]!).flatMap((rva, k) => (ours(lines, rva) === judged[known[k]!] ? [] : [`${rva.toString(16)}: ${ours(lines, rva)}, not ${judged[known[k]!]}`]))
    t.same(wrong.slice(0, 10), [])
    t.ok(known.length > ADDRESSES / 2, `${known.length} of ${ADDRESSES} have a line`)
    const padding = rvas.filter((rva, i) => judged[i] === '' && ours(lines, rva) !== '')
    t.ok(padding.length < ADDRESSES / 100, `${padding.length} have one for us alone`)
    t.end()
  })
}

/** A program of two files and a header, linked where kernels are. */
const compiled = (options: readonly string[]): string => {
  const folder = mkdtempSync(join(scratch, 'program-'))
  mkdirSync(join(folder, 'inc'))
  writeFileSync(join(folder, 'inc/twice.h'), 'static inline int twice(int n)\n{\n\tif (n > 100)\n\t\treturn n - 1;\n\treturn n * 2;\n}\n')
  writeFileSync(join(folder, 'one.c'), `#include "inc/twice.h"\n${'\n'.repeat(300)}int other(int);\nint _text(int n)\n{\n\tfor (int i = 0; i < n; i++)\n\t\tn += other(twice(i));\n\treturn n;\n}\n`)
  writeFileSync(join(folder, 'two.c'), '#include "inc/twice.h"\n\nint other(int n)\n{\n\twhile (n % 7)\n\t\tn = twice(n) / 3;\n\treturn n;\n}\n')
  const path = join(folder, 'program')
  execFileSync('gcc', ['-O2', ...options, '-mcmodel=kernel', '-nostdlib', '-static', '-no-pie', '-fno-pie', `-Wl,-Ttext=0x${BASE.toString(16)},-e,_text`,
    '-o', path, join(folder, 'one.c'), join(folder, 'two.c')], { cwd: folder })
  return path
}

t.test('versions of DWARF', (t) => {
  for (const options of [['-gdwarf-2'], ['-gdwarf-3'], ['-gdwarf-4'], ['-gdwarf-5'], ['-gdwarf-5', '-gdwarf64'], ['-gdwarf-4', '-ffunction-sections']]) {
    const path = compiled(options)
    const elf = openElf(path)
    const { size } = elf.section('.text')!
    elf.close()
    const lines = readLines(path, BASE, size + 1)
    const rvas = Array.from({ length: size }, (_, i) => i)
    const judged = theirs(path, rvas.map((rva) => BASE + BigInt(rva)))
    t.same(rvas.map((rva) => ours(lines, rva)), judged, options.join(' '))
    t.ok(['one.c', 'two.c', 'twice.h'].every((file) => judged.some((one) => one.startsWith(file))), 'all files have lines')
  }
  t.end()
})

t.test('damaged', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  const path = compiled(['-gdwarf-5'])
  const elf = openElf(path)
  const sections = ['.debug_line', '.debug_line_str'].map((name) => elf.section(name)!)
  elf.close()
  const whole = readFileSync(path)
  const damaged = join(scratch, 'damaged')
  let refused = 0
  for (let round = 0; round < DAMAGES; round++) {
    const bytes = Buffer.from(whole)
    for (let i = 1 + random(4); i > 0; i--) {
      const { offset, size } = sections[random(8) === 0 ? 1 : 0]!
      bytes[offset + random(size)] = random(3) === 0 ? 255 : random(256)
    }
    writeFileSync(damaged, bytes)
    try {
      readLines(damaged, BASE, 1 << 20)
    } catch (error) {
      if (!(error instanceof KerninstError) || error.exit !== EXIT.data) throw error
      refused++
    }
  }
  t.ok(refused > DAMAGES / 20 && refused < DAMAGES, `${refused} of ${DAMAGES} are refused`)
  execFileSync('objcopy', ['--strip-debug', path, damaged])
  t.throws(() => readLines(damaged, BASE, 1 << 20), /has no source lines/)
  execFileSync('objcopy', ['--compress-debug-sections=zlib', path, damaged])
  t.throws(() => readLines(damaged, BASE, 1 << 20), /compressed/)
  t.end()
})
