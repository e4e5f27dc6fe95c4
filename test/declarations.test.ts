// Where functions are declared, against llvm-symbolizer and, for their files, llvm-dwarfdump: random functions of whole kernels, and all
// of small programs in each version of DWARF, by two compilers, with clones and cold parts; and debug information that is damaged,
// which gives declarations or one clear error.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, normalize } from 'node:path'
import t from 'tap'
import { EXIT, KerninstError } from '../src/error.js'
import { readDeclarations, type Declarations } from '../src/image/declarations.js'
import { openElf } from '../src/image/elf.js'
import { loadImage } from '../src/image/image.js'
import { readLines } from '../src/image/lines.js'
import { kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { framesAt } from './symbolizer.js'

const FUNCTIONS = 1500
const NAMES = 100
const DAMAGES = 3000
const BASE = 0xffff_ffff_8100_0000n

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-declarations-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

/** 'name:12' of the functions that have code at these addresses; '' where nothing is known. */
const theirs = (path: string, addresses: readonly bigint[]): string[] => framesAt(path, addresses, '--functions=short').map((frames) => {
  const outermost = frames.at(-1)
  return outermost === undefined || outermost.StartLine === 0 ? '' : `${outermost.FunctionName}:${outermost.StartLine}`
})

/** Address -> file, without the detours that compilers write, of functions that have these names and their code in one piece. */
const filesOf = (path: string, names: readonly string[]): Map<bigint, string> => {
  const text = execFileSync('llvm-dwarfdump', [...names.map((name) => `--name=${name}`), path], { encoding: 'utf8', maxBuffer: 1 << 28 })
  return new Map(text.split(/\n\n/).flatMap((entry): [bigint, string][] => {
    const [file, low] = [/DW_AT_decl_file\s+\("(.*)"\)/, /DW_AT_low_pc\s+\((0x[0-9a-f]+)\)/].map((one) => one.exec(entry)?.[1])
    return /DW_TAG_subprogram/.test(entry) && file !== undefined && low !== undefined ? [[BigInt(low), normalize(file)]] : []
  }))
}

const ours = (declarations: Declarations, rva: number): string => {
  const found = declarations.get(rva)
  return found === undefined ? '' : `${found.name}:${found.line}`
}

for (const name of ['6.1-cloud', '6.12-cloud']) {
  t.test(name, (t) => {
    t.comment(seedNote)
    const random = lottery(seed)
    const { vmlinux } = kernel(name)
    const image = loadImage(vmlinux)
    const { functions } = image
    const lines = readLines(vmlinux, image.base, image.imageBytes)
    const start = performance.now()
    const declarations = readDeclarations(vmlinux, image.base, lines)
    t.comment(`${declarations.size} stretches, ${Math.round(performance.now() - start)} ms`)
    const cold = Array.from(functions.isCold.keys()).filter((f) => functions.isCold[f] === 1)
    const drawn = Array.from({ length: FUNCTIONS }, (_, i) => (i % 10 === 0 && cold.length > 0 ? cold[random(cold.length)]! : random(functions.count)))
    const rvas = drawn.map((f) => functions.start[f]!)
    const judged = theirs(vmlinux, rvas.map((rva) => image.base + BigInt(rva)))
    const wrong = rvas.flatMap((rva, i) => (ours(declarations, rva) === judged[i] ? [] : [`${functions.nameOf(drawn[i]!)}: ${ours(declarations, rva)}, not ${judged[i]}`]))
    t.same(wrong.slice(0, 10), [], `${judged.filter((one) => one !== '').length} of ${FUNCTIONS} are declared`)
    t.ok(drawn.every((f) => functions.isCold[f] === 0 || declarations.get(functions.start[f]!)?.entry !== functions.start[f]), 'cold parts are entered elsewhere')
    const named = [...new Set(drawn)].filter((f) => declarations.get(functions.start[f]!)?.name === functions.nameOf(f)).slice(0, NAMES)
    const files = filesOf(vmlinux, named.map((f) => functions.nameOf(f)))
    const declared = (f: number): string => lines.files[declarations.get(functions.start[f]!)!.file]!
    const elsewhere = named.filter((f) => {
      const file = files.get(image.base + BigInt(functions.start[f]!))
      return file !== undefined && file !== declared(f) && !file.endsWith(`/${declared(f)}`)
    })
    t.same(elsewhere.map((f) => `${functions.nameOf(f)} ${declared(f)}`), [])
    t.ok(files.size > NAMES / 2, `${files.size} of ${named.length} have a file`)
    t.end()
  })
}

/** A program with a clone, a cold part, and what is inlined, linked where kernels are. */
const compiled = (compiler: string, options: readonly string[]): string => {
  const folder = mkdtempSync(join(scratch, 'program-'))
  writeFileSync(join(folder, 'one.c'), `
#include "inc.h"
static __attribute__((noinline)) int
picked(int n, int unused)
{
\treturn n * other(n) + twice(n) + below(n);
}

int
_text(int n)
{
\tif (n < 0) {
\t\tfail(n);
\t\tother(n * 3);
\t}
\treturn picked(n, 7) + picked(n + 1, 7);
}
`)
  writeFileSync(join(folder, 'inc.h'), `int other(int);
void fail(int) __attribute__((cold));
static inline int twice(int n) { return n * 2; }

static __attribute__((noinline)) int below(int n)
{
\treturn n / 3;
}
`)
  writeFileSync(join(folder, 'two.c'), 'int\nother(int n)\n{\n\treturn n ^ 5;\n}\n\nvoid fail(int n)\n{\n\t(void)n;\n\t__asm__ volatile("");\n}\n')
  const path = join(folder, 'program')
  execFileSync(compiler, ['-O2', ...options, '-mcmodel=kernel', '-nostdlib', '-static', '-no-pie', '-fno-pie', `-Wl,-Ttext=0x${BASE.toString(16)},-e,_text`,
    '-o', path, join(folder, 'one.c'), join(folder, 'two.c')], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe'] })
  return path
}

t.test('versions of DWARF', (t) => {
  let cold = 0
  for (const [compiler, ...options] of [
    ['gcc', '-gdwarf-2'], ['gcc', '-gdwarf-3'], ['gcc', '-gdwarf-4'], ['gcc', '-gdwarf-5'], ['gcc', '-gdwarf-5', '-gdwarf64'],
    ['gcc', '-gdwarf-4', '-ffunction-sections'], ['clang', '-gdwarf-4'], ['clang', '-gdwarf-5'], ['clang', '-gdwarf-5', '-ffunction-sections'],
  ] as [string, ...string[]][]) {
    const path = compiled(compiler, options)
    const symbols = execFileSync('nm', [path], { encoding: 'utf8' }).trim().split('\n').map((line) => line.split(' ') as [string, string, string])
      .filter(([, kind]) => kind === 'T' || kind === 't').map(([address, , name]) => ({ name, address: BigInt(`0x${address}`) }))
    const lines = readLines(path, BASE, 1 << 20)
    const declarations = readDeclarations(path, BASE, lines)
    const judged = theirs(path, symbols.map(({ address }) => address))
    t.same(symbols.map(({ address }) => ours(declarations, Number(address - BASE))), judged, `${compiler} ${options.join(' ')}: ${symbols.map(({ name }) => name).join(' ')}`)
    t.ok(['picked:4', '_text:10', 'other:2', 'fail:7', 'below:5'].every((one) => judged.includes(one)), judged.join(' '))
    const places = new Set([...declarations.values()].map(({ name, file }) => `${name} ${lines.files[file]!.split('/').at(-1)!}`))
    t.same([...places].sort(), ['_text one.c', 'below inc.h', 'fail two.c', 'other two.c', 'picked one.c'])
    cold += symbols.filter(({ name, address }) => name.endsWith('.cold') && declarations.get(Number(address - BASE))!.name === '_text').length
  }
  t.ok(cold > 3, `${cold} cold parts`)
  t.end()
})

t.test('damaged', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  const damaged = join(scratch, 'damaged')
  let refused = 0
  for (const path of [compiled('gcc', ['-gdwarf-5']), compiled('gcc', ['-gdwarf-4']), compiled('clang', ['-gdwarf-5'])]) {
    const elf = openElf(path)
    const sections = ['.debug_info', '.debug_abbrev', '.debug_rnglists', '.debug_ranges', '.debug_str_offsets', '.debug_addr'].flatMap((name) => elf.section(name) ?? [])
    elf.close()
    const whole = readFileSync(path)
    const lines = readLines(path, BASE, 1 << 20)
    for (let round = 0; round < DAMAGES / 3; round++) {
      const bytes = Buffer.from(whole)
      for (let i = 1 + random(4); i > 0; i--) {
        const { offset, size } = sections[random(sections.length)]!
        bytes[offset + random(size)] = random(3) === 0 ? 255 : random(256)
      }
      writeFileSync(damaged, bytes)
      try {
        readDeclarations(damaged, BASE, lines)
      } catch (error) {
        if (!(error instanceof KerninstError) || error.exit !== EXIT.data) throw error
        refused++
      }
    }
    execFileSync('objcopy', ['--strip-debug', path, damaged])
    t.throws(() => readDeclarations(damaged, BASE, lines), /does not say where functions are declared/)
    execFileSync('objcopy', ['--compress-debug-sections=zlib', path, damaged])
    t.throws(() => readDeclarations(damaged, BASE, lines), /compressed/)
  }
  t.ok(refused > DAMAGES / 20 && refused < DAMAGES, `${refused} of ${DAMAGES} are refused`)
  t.end()
})
