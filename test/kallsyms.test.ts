// image/embedded: the kernel's own tables of names, in every layout from 5.10 to 7.0. Two writers make them: one here,
// after scripts/kallsyms.c of each version, and the kernel's own scripts/kallsyms of 6.1 and 6.12. Whatever they wrote
// must come back: names, letters, addresses; and a kernel without a symbol table must look as it does with one.

import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EXIT, KerninstError } from '../src/error.js'
import { SHN } from '../src/image/elf.js'
import { findEmbedded } from '../src/image/embedded.js'
import { loadImage } from '../src/image/image.js'
import { SYM, type SymbolSections } from '../src/image/symbols.js'
import { kernel } from './guest/artefacts.js'
import { Kallsyms, LAYOUTS, type Layout, type Named } from './kallsyms.js'
import { lottery, seed, seedNote } from './lottery.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-kallsyms-'))
t.teardown(() => rmSync(scratch, { recursive: true }))

t.comment(seedNote)
const random = lottery(seed)

const BASE = 0xffffffff81000000n
const WORDS = ['read', 'write', 'page', 'inode', 'lock', 'tcp', 'sched', 'irq', 'mm', 'vfs', 'init', 'map', 'get']
const ALPHABET = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.'

const wordy = (i: number): string =>
  `${WORDS[random(WORDS.length)]}_${WORDS[random(WORDS.length)]}_${WORDS[random(WORDS.length)]}_${i}`
/** A name that hardly packs. */
const wild = (length: number): string =>
  'x' + Array.from({ length: length - 1 }, () => ALPHABET[random(ALPHABET.length)]).join('')

/** "LETTER NAME ADDRESS", as kallsyms keeps it; `absolute`: an offset into the per-CPU area. */
const rowsOf = ({ entries, strings, count }: SymbolSections): string[] =>
  Array.from({ length: count }, (_, i) => {
    const row = i * SYM.bytes
    const name = entries.getUint32(row + SYM.name, true)
    const absolute = entries.getUint16(row + SYM.shndx, true) === SHN.abs ? ' absolute' : ''
    const text = Buffer.from(strings.subarray(name - 1, strings.indexOf(0, name))).toString('latin1')
    return `${text[0]} ${text.slice(1)} ${entries.getBigUint64(row + SYM.value, true).toString(16)}${absolute}`
  })

const wantedRows = (symbols: readonly Named[]): string[] =>
  symbols.map(({ letter, name, address }) =>
    `${letter} ${name} ${address.toString(16)}${address < BASE ? ' absolute' : ''}`)

/** Symbols of all letters, ascending; several may share an address. */
const someSymbols = (layout: Layout, count: number): Named[] => {
  const perCpu = layout.perCpu === 'offsets' ? 40 : 0
  let address = layout.perCpu === 'offsets' ? 0n : BASE
  return Array.from({ length: count }, (_, i) => {
    if (i === perCpu) address = BASE
    if (random(5) > 0) address += BigInt(random(300))
    if (i === count - 1) address = BASE + 0x3fff_fff0n // as far as an image may reach
    const name = i === 0 ? '0123456789' : random(200) > 0 ? wordy(i) : wild(layout.longest - random(8))
    return { name, address, letter: i < perCpu ? 'A' : 'tTwWdDbBrRVv'[random(12)]! }
  })
}

for (const layout of LAYOUTS) {
  t.test(`${layout.name}: random symbols`, async (t) => {
    for (let n = 0; n < 8; n++) {
      const symbols = someSymbols(layout, 513 + random(1500))
      const tables = new Kallsyms(layout, symbols)
      // Whatever may lie around them, and a false start: the digits of a token table, without one.
      const lead = 4096 + n * layout.align
      const section = Buffer.alloc(lead + tables.bytes + 1000, Uint8Array.from({ length: 997 }, () => random(256)))
      section.write('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 100, 'latin1')
      tables.write(section, lead, BASE + 0x100_0000n)
      const found = findEmbedded(section, BASE + 0x100_0000n)
      if (found === undefined) t.fail(`not found, round ${n}`)
      else t.same(rowsOf(found), wantedRows(symbols), `${symbols.length} symbols`)
    }
  })
}

// ---- A whole kernel ------------------------------------------------------------------------------------------------

const tool = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'pipe'] }).toString('latin1')

const RODATA = 0xffffffff81100000n
const RODATA_BYTES = 0x4_0000

/** A kernel of many symbols of all sorts; .rodata is empty. */
const source = (): string => {
  const lines = ['.text', '.globl early', '.type early, @function', 'early: ret', '.size early, . - early']
  const binding = (name: string): string[] => [[`.globl ${name}`], [`.weak ${name}`], []][random(3)]!
  for (let i = 0; i < 900; i++) {
    const name = i % 300 === 7 ? wild(127) : wordy(i)
    lines.push(...binding(name), '.balign 16', `.type ${name}, @function`, `${name}: nop`, 'ret')
    lines.push(`.size ${name}, . - ${name}`)
    if (i % 40 === 0) lines.push('.globl alias_' + i, `.set alias_${i}, ${name}`)
  }
  for (const section of ['.data', '.bss']) {
    lines.push(section)
    for (let i = 0; i < 120; i++) {
      const name = `${section.slice(1)}_${i}`
      lines.push(...binding(name), `${name}: .skip 8`)
    }
  }
  lines.push('.section .data..percpu, "aw"')
  for (let i = 0; i < 30; i++) lines.push(...binding(`cpu_${i}`), `cpu_${i}: .quad ${i}`)
  lines.push('.section .banner, "a"', 'linux_banner: .asciz "Linux version 6.99.2-names (me@here) #1"')
  lines.push('.section .rodata, "a"', `.skip ${RODATA_BYTES}`)
  lines.push('.section .init.text, "ax"', '.globl _sinittext, _einittext', '_sinittext:',
    '.type starter, @function', 'starter: ret', '_einittext:')
  return `${lines.join('\n')}\n`
}

const script = (perCpu: Layout['perCpu']): string => `
ENTRY(early)
SECTIONS {
  . = ${BASE};
  .text : { _text = .; _stext = .; *(.text) _etext = .; }
  . = ALIGN(4096);
  .banner : { *(.banner) }
  .notes : { *(.note.gnu.build-id) }
  .data : { __start_things = .; *(.data) __stop_things = .; }
  .bss : { *(.bss) }
  . = ALIGN(4096);
  .data..percpu ${perCpu === 'offsets' ? '0 ' : ''}: { __per_cpu_start = .; *(.data..percpu) __per_cpu_end = .; }
  . = ${RODATA};
  .rodata : { *(.rodata) }
  . = ${RODATA + 0x100000n};
  .init.text : { *(.init.text) }
  _end = .;
  /DISCARD/ : { *(.note.gnu.property) }
}`

/** Links that kernel; returns its path and its symbols as nm -n gives them. */
const link = (perCpu: Layout['perCpu']): { path: string; lines: string[] } => {
  const path = join(scratch, `kernel-${perCpu}`)
  writeFileSync(`${path}.S`, source())
  writeFileSync(`${path}.lds`, script(perCpu))
  tool('gcc', '-c', '-o', `${path}.o`, `${path}.S`)
  tool('ld', '-z', 'max-page-size=4096', '--build-id=sha1', '-T', `${path}.lds`, '-o', path, `${path}.o`)
  return { path, lines: tool('nm', '-n', path).split('\n').filter((line) => line !== '') }
}

const kernels = { offsets: link('offsets'), addresses: link('addresses') }

const symbolsOf = (lines: readonly string[]): Named[] =>
  lines.map((line) => {
    const address = BigInt(`0x${line.slice(0, 16)}`)
    // Per-CPU symbols get the letter of absolute ones (make_percpus_absolute in scripts/kallsyms.c, 5.10 to 6.14).
    return { address, letter: address < BASE ? 'A' : line[17]!, name: line.slice(19) }
  })

/** The kernel with `rodata` in it: with its symbol table, and stripped. */
const fill = (path: string, rodata: Uint8Array): { whole: string; stripped: string } => {
  if (rodata.length !== RODATA_BYTES) throw new Error(`${rodata.length} bytes of .rodata`)
  writeFileSync(join(scratch, 'rodata'), rodata)
  const [whole, stripped] = [join(scratch, 'whole'), join(scratch, 'stripped')]
  tool('objcopy', '--update-section', `.rodata=${join(scratch, 'rodata')}`, path, whole)
  tool('strip', '--strip-all', '-o', stripped, whole)
  return { whole, stripped }
}

/** Both must give the same kernel. */
const checkKernel = (t: Test, path: string, rodata: Uint8Array, lines: readonly string[]): void => {
  const { whole, stripped } = fill(path, rodata)
  const full = loadImage(whole)
  t.same(full.symbolSources, ['symtab', 'kallsyms'], 'both agree')
  const own = loadImage(stripped)
  t.same(own.symbolSources, ['kallsyms'])
  t.equal(own.release, '6.99.2-names')
  const { symbols } = own
  const listed = Array.from({ length: symbols.count }, (_, i) =>
    `${(own.base + BigInt(symbols.rva[i]!)).toString(16).padStart(16, '0')} ${symbols.nameOf(i)}`)
  for (const [name, value] of symbols.absolute) listed.push(`${value.toString(16).padStart(16, '0')} ${name}`)
  t.same(listed.sort(), lines.map((line) => line.slice(0, 17) + line.slice(19)).sort(), 'every name that nm has')
  const functions = ({ functions: f }: typeof own): string[] =>
    Array.from({ length: f.count }, (_, i) => `${f.start[i]} ${f.end[i]} ${f.isFunc[i]} ${f.nameOf(i)}`)
  t.same(functions(own), functions(full), 'the same functions')
  t.same(own.regions.map(({ bytes }) => bytes.length), full.regions.map(({ bytes }) => bytes.length))
}

for (const layout of LAYOUTS) {
  t.test(`${layout.name}: a kernel`, async (t) => {
    const { path, lines } = kernels[layout.perCpu]
    const rodata = Buffer.alloc(RODATA_BYTES)
    new Kallsyms(layout, symbolsOf(lines)).write(rodata, 0x1230 + layout.align, RODATA)
    checkKernel(t, path, rodata, lines)
  })
}

/** .rodata as scripts/kallsyms of a kernel's build makes it. */
const rodataOf = (name: string, map: string, options: readonly string[]): Buffer => {
  const stem = join(scratch, name)
  writeFileSync(`${stem}.map`, map)
  mkdirSync(join(scratch, 'asm'), { recursive: true })
  writeFileSync(join(scratch, 'asm/bitsperlong.h'), '#define BITS_PER_LONG 64\n')
  const made = tool(join(kernel(name).kdir, 'scripts/kallsyms'), '--all-symbols', ...options, `${stem}.map`)
  writeFileSync(`${stem}.S`, made)
  tool('gcc', '-c', '-I', scratch, '-o', `${stem}.o`, `${stem}.S`)
  const places = [`--defsym=_text=0x${BASE.toString(16)}`, `--section-start=.rodata=0x${RODATA.toString(16)}`]
  tool('ld', ...places, '-e', '0', '-o', stem, `${stem}.o`)
  tool('objcopy', '-O', 'binary', '--only-section=.rodata', stem, `${stem}.bin`)
  return readFileSync(`${stem}.bin`)
}

for (const [name, options] of [
  ['6.1-cloud', ['--absolute-percpu', '--base-relative']], ['6.1-cloud', ['--absolute-percpu']],
  ['6.1-cloud', ['--base-relative']], ['6.1-cloud', []],
  ['6.12-cloud', ['--absolute-percpu']], ['6.12-cloud', []],
] as const) {
  t.test(`scripts/kallsyms of ${name} ${options.join(' ')}`, async (t) => {
    const { path, lines } = kernels[options.some((option) => option === '--absolute-percpu') ? 'offsets' : 'addresses']
    const rodata = Buffer.alloc(RODATA_BYTES)
    const made = rodataOf(name, `${lines.join('\n')}\n`, options)
    t.ok(made.length > 10_000 && made.length < RODATA_BYTES)
    made.copy(rodata)
    checkKernel(t, path, rodata, lines)
  })
}

// ---- Damage --------------------------------------------------------------------------------------------------------

const layout = LAYOUTS.find(({ name }) => name === '6.12')!

t.test('an image whose two tables of names disagree is refused', async (t) => {
  const { path, lines } = kernels.offsets
  const symbols = symbolsOf(lines)
  const moved = symbols.findIndex(({ name }) => name === 'early')
  const { address } = symbols[moved]!
  symbols[moved] = { ...symbols[moved]!, address: address + 1n }
  symbols.sort((a, b) => Number(a.address - b.address))
  const rodata = Buffer.alloc(RODATA_BYTES)
  new Kallsyms(layout, symbols).write(rodata, 0x1000, RODATA)
  const { whole } = fill(path, rodata)
  let error: unknown
  try {
    loadImage(whole)
  } catch (thrown) {
    error = thrown
  }
  t.ok(error instanceof KerninstError && error.exit === EXIT.data)
  t.match((error as KerninstError).message,
    /the symbol table has early at 0xf+81000000, the kernel's own names at 0xf+81000001/)
})

t.test('tables with a part that does not fit are not taken', async (t) => {
  const symbols = someSymbols(layout, 1000)
  const tables = new Kallsyms(layout, symbols)
  const whole = Buffer.alloc(tables.bytes + 64)
  tables.write(whole, 32, RODATA)
  t.ok(findEmbedded(whole, RODATA))
  const { at } = tables
  const damage: Record<string, readonly [number, number]> = {
    'a number that is too large': [32 + at.number, 0xffff],
    'a number that is too small': [32 + at.number, 2],
    'a length of zero': [32 + at.names, 0],
    'a marker': [32 + at.markers + 4, 1],
    'a token': [32 + at.tokens + 1, 7],
    'the index of a token': [32 + at.index + 200, 0xff],
    'an address below the one before': [32 + at.offsets + 4 * 500, 0x8000_0001],
    'a base that is no address': [32 + at.base + 4, 1],
  }
  for (const [what, [place, value]] of Object.entries(damage)) {
    const copy = Buffer.from(whole)
    if (value > 0xffff) copy.writeUInt32LE(value, place)
    else copy.writeUInt16LE(value, place)
    t.equal(findEmbedded(copy, RODATA), undefined, what)
  }
})

t.test('the search ends, whatever a section holds', async (t) => {
  const tables = new Kallsyms(layout, someSymbols(layout, 600))
  const start = tables.at.tokens - (tables.at.tokens % 16)
  const tail = Buffer.alloc(tables.bytes)
  tables.write(tail, 0, RODATA)
  const before = (fill: Buffer): Buffer => Buffer.concat([Buffer.alloc(4_000_000, fill), tail.subarray(start)])
  const u32 = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer)
  const hostile: Record<string, Buffer> = {
    'runs of markers, each of no names': before(u32(0, 512, 1024)),
    'names that could start anywhere': before(Buffer.concat([
      Buffer.alloc(3_000_000, u32(0x01010107, 250 * 256)), Buffer.alloc(100_000, u32(0, 2048, 4096, 6144)),
    ])),
    'tables of tokens, one after another': Buffer.concat(new Array<Buffer>(3000).fill(tail.subarray(start))),
    'starts of tables of tokens':
      Buffer.alloc(8_000_000, '0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1'),
  }
  for (const [what, section] of Object.entries(hostile)) {
    const from = process.hrtime.bigint()
    t.equal(findEmbedded(section, RODATA), undefined, what)
    const ms = Number(process.hrtime.bigint() - from) / 1e6
    t.ok(ms < 2000, `${what}: ${ms.toFixed(0)} ms`)
  }
})
