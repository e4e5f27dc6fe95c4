// image/: a kernel in miniature, assembled here, whose tables are known; and the real kernels, judged by readelf, nm,
// elfy, the kernel's own relocation list, and what must stand at each place that a table names. Damage of every kind
// may only ever end in one of our own errors.

import { execFileSync, spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { homedir, tmpdir } from 'node:os'
import { join } from 'node:path'
import elfy from 'elfy'
import t, { type Test } from 'tap'
import { EXIT, KerninstError } from '../src/error.js'
import { SHF, SHT, openElf } from '../src/image/elf.js'
import { bytesAt, loadImage, type Image } from '../src/image/image.js'
import { parseKallsyms } from '../src/image/kallsyms.js'
import { findBuildId } from '../src/image/notes.js'
import { NONE } from '../src/image/rva.js'
import { lottery, seed, seedNote } from './lottery.js'
import { makeMiniature, type Build } from './miniature.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-image-'))
t.teardown(() => rmSync(scratch, { recursive: true }))

const tool = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { maxBuffer: 2 ** 30, stdio: ['ignore', 'pipe', 'pipe'] }).toString('latin1')

const refusal = (act: () => unknown): KerninstError => {
  try {
    act()
  } catch (error) {
    if (!(error instanceof KerninstError)) throw error
    if (error.message.includes('\n')) throw new Error(`more than a line: ${error.message}`)
    return error
  }
  throw new Error('nothing was refused')
}

const refuses = (t: Test, act: () => unknown, exit: number, message: RegExp): void => {
  const error = refusal(act)
  t.equal(error.exit, exit, error.message)
  t.match(error.message, message)
}

t.comment(seedNote)
const random = lottery(seed)

// ---- A kernel in miniature -----------------------------------------------------------------------------------------

let builds = 0
const build = (options: Build = {}): string => makeMiniature(join(scratch, `mini${builds++}`), options)

const mini = build()
const miniBytes = readFileSync(mini)
const image = loadImage(mini)
/** Addresses by name, as nm sees them, for the miniature's labels. */
const named = (name: string): number => {
  const symbols = image.symbols.find(name)
  if (symbols.length === 0) throw new Error(`no symbol ${name}`)
  return image.symbols.rva[symbols[0]!]!
}
const bytesOfCode = (of: Image, rva: number, length: number): string =>
  Buffer.from(bytesAt(of, rva, length)).toString('hex')

t.test('miniature: identity', async (t) => {
  t.equal(image.kind, 'vmlinux')
  t.equal(image.release, '6.99.1-mini')
  t.equal(image.base, 0xffffffff81000000n)
  t.equal(image.imageBytes, 0x11000)
  t.match(tool('readelf', '-n', mini), new RegExp(`Build ID: ${Buffer.from(image.buildId).toString('hex')}\n`))
  const notes = image.base + BigInt(image.buildIdRva)
  const bounds = [`--start-address=0x${notes.toString(16)}`, `--stop-address=0x${(notes + 20n).toString(16)}`]
  const objdump = tool('objdump', '-s', '-j', '.notes', ...bounds, mini)
  t.match(objdump.replace(/ {2}.*$/gm, '').replace(/^ \w+| |\n/gm, ''), Buffer.from(image.buildId).toString('hex'))
  t.same(image.regions.map(({ name }) => name), ['.text', '.altinstr_replacement', '.init.text'])
  t.equal(image.textStart, 0)
  t.equal(image.text, image.regions[0]!.bytes)
  t.same(image.symbolSources, ['symtab'])
  t.match(image.textSha256, /^[0-9a-f]{64}$/)
  t.equal(bytesOfCode(image, named('starter') + 7, 1), 'c3')
  t.throws(() => bytesAt(image, image.textEnd - 1, 2), /internal/)
})

t.test('miniature: sections, with elfy as judge', async (t) => {
  const elf = openElf(mini)
  const judged = elfy.parse(miniBytes).body.sections
  const types: Record<string, number> =
    { null: 0, progbits: 1, symtab: 2, strtab: 3, rela: 4, note: 7, nobits: 8 }
  t.ok(elf.sections.length > 20)
  t.same(
    elf.sections.map(({ name, type, offset, size }) => ({ name, type, offset, size })),
    judged.map(({ name, type, off, size }) => ({ name, type: types[type], offset: off, size })))
  for (const section of elf.sections) {
    if (section.type !== SHT.nobits) t.same(Buffer.from(elf.readSection(section)), judged[section.index]!.data)
  }
  refuses(t, () => elf.readSection('.nothing'), EXIT.data, /no section \.nothing/)
  refuses(t, () => elf.read(miniBytes.length - 1, 2), EXIT.data, /truncated/)
  elf.close()
})

t.test('miniature: functions', async (t) => {
  const { functions, symbols } = image
  const of = (name: string): [number, number] => {
    const [func, ...more] = functions.functionsNamed(name)
    t.same(more, [], name)
    return [functions.start[func!]!, functions.end[func!]!]
  }
  for (const name of ['traced', 'local_one', 'padded', 'quiet', 'starter', '__SCT__thing']) {
    const [symbol] = symbols.find(name)
    t.same(of(name), [symbols.rva[symbol!], symbols.rva[symbol!]! + symbols.size[symbol!]!], name)
  }
  t.same(functions.functionsNamed('__pfx_padded'), [])
  t.same(functions.functionsNamed('datum'), [])
  t.same(functions.functionsNamed('nothing'), [])
  t.same(functions.functionsNamed('weak_alias'), functions.functionsNamed('local_one'))
  t.equal(functions.nameOf(functions.functionsNamed('local_one')[0]!), 'weak_alias', 'weak is preferred to local')
  t.same(of('unsized'), [named('unsized'), named('unsized') + 2], 'up to the padding before the next symbol')
  t.equal(functions.isFunc[functions.functionsNamed('unsized')[0]!], 0)
  t.equal(functions.isFunc[functions.functionsNamed('traced')[0]!], 1)
  t.same(of('inner'), [named('inner'), of('local_one')[1]], 'up to the end of the function around it')
  t.equal(functions.nameOf(functions.functionAt(named('inner') + 1)), 'inner')
  t.equal(functions.nameOf(functions.functionAt(named('inner') - 1)), 'weak_alias')
  t.equal(functions.functionAt(named('__pfx_padded') + 3), NONE)
})

/** Properties that hold of every image, checked against plain loops. */
const checkIndexes = (t: Test, of: Image, samples: number): void => {
  const { symbols, functions } = of
  let bad = 0
  for (let f = 1; f < functions.count; f++) if (functions.start[f]! <= functions.start[f - 1]!) bad++
  for (let f = 0; f < functions.count; f++) {
    const inside = of.regions.some(({ start, end }) => functions.start[f]! >= start && functions.end[f]! <= end)
    if (!inside || functions.start[f]! >= functions.end[f]!) bad++
  }
  t.equal(bad, 0, 'functions ascend and lie in sections')
  for (let i = 1; i < symbols.count; i++) {
    const order = symbols.rva[i]! - symbols.rva[i - 1]!
    const func = (k: number): number => (symbols.type[k] === 2 ? 0 : 1)
    if (order > 0) continue
    if (order < 0 || func(i) < func(i - 1)) bad++
    else if (func(i) === func(i - 1) && symbols.nameOf(i) < symbols.nameOf(i - 1)) bad++
  }
  t.equal(bad, 0, 'symbols are in order')
  for (let n = 0; n < samples; n++) {
    const rva = random(of.imageBytes)
    let func: number = NONE
    for (let f = 0; f < functions.count; f++) {
      if (functions.start[f]! <= rva && functions.end[f]! > rva) func = f
    }
    if (functions.functionAt(rva) !== func) bad++
    let symbol: number = NONE
    for (let i = 0; i < symbols.count && symbols.rva[i]! <= rva; i++) symbol = i
    if (symbols.at(rva) !== symbol) bad++
    const i = random(symbols.count)
    const found = symbols.find(symbols.nameOf(i))
    if (!found.includes(i) || found.some((k, j) => symbols.nameOf(k) !== symbols.nameOf(i) || k <= found[j - 1]!)) bad++
    if (symbols.find(`${symbols.nameOf(i)}\x01`).length > 0) bad++
  }
  t.equal(bad, 0, 'functionAt, at and find agree with a linear search')
  t.equal(symbols.at(0) === NONE, symbols.rva[0] !== 0)
}

t.test('miniature: indexes', async (t) => checkIndexes(t, image, 300))

/** "0x... name" of every symbol in the file, as nm prints them. */
const nmLines = (path: string): string[] =>
  tool('nm', path).split('\n').filter((line) => line !== '').map((line) => {
    const [address, , name] = line.split(' ')
    return `${address} ${name}`
  })

const ownLines = ({ symbols, base }: Image): string[] => {
  const own = Array.from({ length: symbols.count }, (_, i) =>
    `${(base + BigInt(symbols.rva[i]!)).toString(16).padStart(16, '0')} ${symbols.nameOf(i)}`)
  for (const [name, value] of symbols.absolute) own.push(`${value.toString(16).padStart(16, '0')} ${name}`)
  return own
}

/** Absolute symbols may repeat a name, of which the map keeps one. */
const checkNames = (t: Test, of: Image): void => {
  const unique = (lines: string[]): string[] => {
    const names = new Set(of.symbols.absolute.keys())
    return lines.filter((line) => !(names.has(line.slice(17)) && !line.startsWith('ffffffff'))).sort()
  }
  const own = unique(ownLines(of))
  const judged = unique(nmLines(of.path))
  t.equal(own.length, judged.length)
  t.equal(own.findIndex((line, i) => line !== judged[i]), -1, 'every symbol that nm has, and no other')
  for (const line of nmLines(of.path)) {
    if (line.startsWith('ffffffff')) continue
    if (!of.symbols.absolute.has(line.slice(17))) t.fail(`${line} is lost`)
  }
}

t.test('miniature: names, with nm as judge', async (t) => {
  checkNames(t, image)
  t.equal(image.symbols.absolute.get('counter'), 0n)
  t.equal(image.symbols.rvaOf('counter'), NONE)
  t.equal(image.symbols.rvaOf('datum'), named('datum'))
})

t.test('miniature: tables', async (t) => {
  const { tables } = image
  const at = (name: string, offset = 0): number => named(name) + offset
  const f1 = at('traced')
  const f2 = at('local_one')
  const jump = f1 + 5 + 7 + 10 + 8 + 9 + 7 // past the instructions before .Lj1
  t.same([...tables.ftrace], [f1, f2], 'sorted, zeros left out')
  t.same(tables.staticKeys, { rva: Uint32Array.of(jump), target: Uint32Array.of(jump + 5) })
  t.same([...tables.staticCalls], [jump + 7])
  t.same([...tables.bugs], [jump + 12])
  t.same([...tables.returnSites], [jump + 14])
  t.same(tables.paravirt, { rva: Uint32Array.of(f2 + 5), len: Uint32Array.of(3) })
  const x2 = at('inner', 3)
  const [repl] = image.regions.filter(({ name }) => name === '.altinstr_replacement')
  t.same(tables.alternatives, {
    rva: Uint32Array.of(f2 + 8, x2), len: Uint32Array.of(3, 2),
    replRva: Uint32Array.of(repl!.start, repl!.start), replLen: Uint32Array.of(3, 0),
  })
  t.same(tables.exTable, { insn: Uint32Array.of(f2 + 5), fixup: Uint32Array.of(x2), data: Uint32Array.of(3) })
  t.same([...tables.smpLocks], [at('inner')], 'padding left out')
  t.same(tables.kprobeBlacklist, { start: Uint32Array.of(at('padded')), end: Uint32Array.of(at('padded', 2)) })
  t.same(tables.staticCallTrampolines, {
    start: Uint32Array.of(at('__SCT__thing')), end: Uint32Array.of(at('__SCT__thing', 8)),
  })
  t.same(tables.runtimeConst, { rva: Uint32Array.of(x2 + 4, x2 + 7), len: Uint32Array.of(1, 8) })
  t.equal(bytesOfCode(image, x2 + 7, 8), 'efcdab8967452301')
  for (const name of ['retpolineSites', 'callSites', 'endbrSeals', 'cfiSites'] as const) t.equal(tables[name].length, 0)
  t.notOk(tables.found.includes('callSites'))
  t.ok(tables.found.includes('ftrace') && tables.found.includes('runtime_ptr_thing'))
  const startup = at('secondary_startup_64')
  t.same(tables.ranges, [
    { name: 'noinstr', start: at('quiet'), end: at('quiet', 2) },
    { name: 'head', start: 0, end: f1 },
    { name: 'head', start: startup, end: startup + 1 },
    { name: '.altinstr_replacement', start: repl!.start, end: repl!.end },
    { name: '.init.text', start: 0x10000, end: image.regions[2]!.end },
  ])
})

t.test('miniature: relocations and code pointers', async (t) => {
  const f1 = named('traced')
  const { relocs } = image
  t.equal(relocs.known, true)
  t.same([...relocs.relocAbs32], [f1 + 5 + 3, named('starter') + 3])
  t.same([...relocs.relocAbs64], [f1 + 5 + 7 + 2])
  t.same([...relocs.relocPcpu32], [f1 + 5 + 7 + 10 + 4])
  t.same([...image.codePointers], [named('local_one'), named('inner') + 3, named('padded')])
  t.same(loadImage(build({ relocs: false })).relocs, {
    known: false, relocAbs32: new Uint32Array(0), relocAbs64: new Uint32Array(0), relocPcpu32: new Uint32Array(0),
  })
})

t.test('miniature: other forms of the tables', async (t) => {
  const wide = loadImage(build({ wide: true }))
  t.same(wide.tables.alternatives.len, image.tables.alternatives.len, 'entries of 14 bytes')
  t.same(wide.tables.alternatives.rva, image.tables.alternatives.rva)
  const bare = loadImage(build({ symbols: false }))
  t.equal(bare.symbols.rvaOf('__start_mcount_loc'), NONE)
  for (const key of ['ftrace', 'paravirt', 'staticKeys', 'exTable', 'smpLocks', 'kprobeBlacklist'] as const) {
    t.same(bare.tables[key], image.tables[key], `${key}, found by its section`)
  }
  t.equal(bare.textSha256, image.textSha256)
  const fails = (edit: readonly [string, string], message: RegExp): void =>
    refuses(t, () => loadImage(build({ edit })), EXIT.data, message)
  fails(['.byte 3, 3\n', '.byte 2, 3\n'], /alternatives has entries of an unknown form/)
  fails(['REL(.Lb1)', 'REL(.Lr1)'], /bugs names no ud2/)
  fails(['REL(.Lr1)', 'REL(datum)'], /returnSites names a place that is not code, in entry 0/)
  fails(['.quad .Lf2, 0, .Lf1', '.quad .Lf2, datum'], /ftrace names a place that is not code, in entry 1/)
  fails(['.byte 7, 3', '.byte 7, 0'], /paravirt is malformed/)
  fails(['.quad padded\n        .popsection', '.quad 1\n        .popsection'], /kprobeBlacklist names no function/)
  fails(['.word 12, 1', '.word 12, 1, 0'], /bugs has 14 bytes, no multiple of 12/)
  fails(['runtime_shift_thing)', 'runtime_mask_thing)'], /runtime_mask_thing is of a kind/)
  fails(['Linux version', 'Minix version'], /linux_banner/)
  refuses(t, () => loadImage(build({ buildId: 'md5' })), EXIT.data, /build id of 16 bytes/)
  refuses(t, () => loadImage(build({ buildId: 'none' })), EXIT.data, /no GNU build id/)
})

t.test('notes', async (t) => {
  const note = (name: string, type: number, id: readonly number[]): number[] => [
    name.length, 0, 0, 0, id.length, 0, 0, 0, type, 0, 0, 0,
    ...Buffer.from(name.padEnd(Math.ceil(name.length / 4) * 4, '\0')), ...id,
    ...new Array<number>(Math.ceil(id.length / 4) * 4 - id.length).fill(0),
  ]
  const id = note('GNU\0', 3, [9, 8, 7])
  const bytes = Uint8Array.from([...note('Linux\0', 257, [1, 2, 3]), ...id, ...note('X\0', 1, [])])
  t.same(findBuildId(bytes), { offset: 24 + 16, id: Uint8Array.of(9, 8, 7) })
  t.equal(findBuildId(Uint8Array.from(note('GNU\0', 1, [1]))), undefined)
  t.equal(findBuildId(Uint8Array.from(note('GNU\0', 3, [1, 2, 3, 4])).subarray(0, 17)), undefined)
  t.equal(findBuildId(Uint8Array.of(255, 255, 255, 255, 255, 255, 255, 255, 3, 0, 0, 0, 1)), undefined)
})

// ---- Bad input -----------------------------------------------------------------------------------------------------

t.test('what is not a vmlinux is refused by name', async (t) => {
  const written = (name: string, bytes: Uint8Array | string): string => {
    writeFileSync(join(scratch, name), bytes)
    return join(scratch, name)
  }
  const patched = (name: string, at: number, ...bytes: number[]): string => {
    const copy = Buffer.from(miniBytes)
    copy.set(bytes, at)
    return written(name, copy)
  }
  const is = (path: string, message: RegExp, exit: number = EXIT.data): void => {
    refuses(t, () => loadImage(path), exit, message)
  }
  is(join(scratch, 'absent'), /absent: cannot be opened \(ENOENT\)/, EXIT.noInput)
  mkdirSync(join(scratch, 'folder'))
  is(join(scratch, 'folder'), /not a regular file/)
  is(written('empty', ''), /not an ELF file/)
  is(written('text', 'int main(void);\n'), /not an ELF file; wanted: the vmlinux or vmlinuz of an x86-64 kernel/)
  is(patched('arm', 18, 40, 0), /an ELF for ARM/)
  is(patched('aarch64', 18, 183, 0), /an ELF for AArch64/)
  is(patched('narrow', 4, 1), /a 32-bit ELF/)
  is(patched('big', 5, 2), /not a little-endian ELF/)
  is(patched('object', 16, 1, 0), /ET_REL/)
  is(patched('shared', 16, 3, 0), /ET_DYN/)
  is(patched('headless', 40, 0, 0, 0, 0, 0, 0, 0, 0), /no section headers/)
  is(patched('countless', 60, 0, 0), /0 section headers/)
  is(`${mini}.o`, /ET_REL/)
  is(process.execPath, /not a kernel|ET_DYN|stripped/)
  const stripped = join(scratch, 'stripped')
  copyFileSync(mini, stripped)
  tool('strip', '--strip-all', stripped)
  is(stripped, /no symbol table and no kallsyms tables; use the vmlinux of the -dbg package, or give names with --kallsyms/)
  tool('objcopy', '--strip-symbol=_text', mini, join(scratch, 'nameless'))
  is(join(scratch, 'nameless'), /no symbol _text/)
  tool('objcopy', '--rename-section', '.init.text=a\n\x1b[2Jb', '--change-section-address', '.init.text=0', mini,
    join(scratch, 'painted'))
  is(join(scratch, 'painted'), /code section a\?\?\[2Jb is at 0x0/)
  tool('objcopy', '--strip-symbol=_end', mini, join(scratch, 'endless'))
  is(join(scratch, 'endless'), /symbol _end is missing/)
})

t.test('truncated anywhere', async (t) => {
  const path = join(scratch, 'cut')
  let silent = 0
  const lengths = new Set([0, 3, 4, 63, 64, miniBytes.length - 1])
  while (lengths.size < 300) lengths.add(random(miniBytes.length))
  for (const length of lengths) {
    writeFileSync(path, miniBytes.subarray(0, length))
    const error = refusal(() => loadImage(path))
    if (error.exit !== EXIT.data || !/truncated|not an ELF/.test(error.message)) silent++
  }
  t.equal(silent, 0, 'each says so')
})

t.test('bytes changed at random', async (t) => {
  const path = join(scratch, 'changed')
  const elf = openElf(mini)
  const symtab = elf.section('.symtab')!
  const tables = elf.sections.filter(({ name, flags }) =>
    (flags & SHF.alloc) !== 0 && /^(__|_k|\.alt|\.para|\.ret|\.smp|\.static|runtime|\.notes)/.test(name))
  elf.close()
  const headers = Number(miniBytes.readBigUInt64LE(40))
  const places: (() => number)[] = [
    () => random(64),
    () => headers + random(miniBytes.length - headers),
    () => symtab.offset + random(symtab.size),
    () => {
      const { offset, size } = tables[random(tables.length)]!
      return offset + random(size)
    },
  ]
  let refused = 0
  let loaded = 0
  for (let n = 0; n < 1200; n++) {
    const copy = Buffer.from(miniBytes)
    const place = places[n % places.length]!
    for (let k = random(3); k >= 0; k--) {
      copy[Math.min(place(), copy.length - 1)] = [0, 255, 128, random(256)][random(4)]!
    }
    writeFileSync(path, copy)
    try {
      loadImage(path)
      loaded++
    } catch (error) {
      if (!(error instanceof KerninstError) || error.message.includes('\n')) {
        copyFileSync(path, join(tmpdir(), 'kerninst-image-crash'))
        throw new Error(`seed ${seed}, round ${n}: kept as kerninst-image-crash`, { cause: error })
      }
      refused++
    }
  }
  t.ok(refused > 100 && loaded > 100, `${refused} refused, ${loaded} loaded`)
})

// ---- kallsyms ------------------------------------------------------------------------------------------------------

/** A System.map or /proc/kallsyms of an image, as nm sees it, moved by a slide. */
const systemMap = (path: string, slide = 0n): string =>
  tool('nm', '-n', path).split('\n').filter((line) => line !== '').map((line) => {
    const address = BigInt(`0x${line.slice(0, 16)}`)
    return address < 0xffffffff80000000n ? line : (address + slide).toString(16) + line.slice(16)
  }).join('\n') + '\n'

t.test('kallsyms', async (t) => {
  const map = systemMap(mini)
  const code = map.match(/ [tTwW] /g)!.length
  const parse = (text: string): ReturnType<typeof parseKallsyms> => parseKallsyms(text, image.symbols, image.base)
  t.same(parse(map), { matched: code, missing: 0, slide: 0 })
  const moved = systemMap(mini, 0x1f600000n)
  t.same(parse(moved), { matched: code, missing: 0, slide: 0x1f600000 })
  t.same(parse(`${moved}ffffffffc0001000 t padded\t[ext4]\nffffffffc0002000 t bpf_prog_1\t[bpf]\n`).matched, code)
  t.same(parse(`${moved}ffffffffa0000000 t stranger\n`).missing, 1)
  const fails = (text: string, exit: number, message: RegExp): void => refuses(t, () => parse(text), exit, message)
  fails(map.replace(/^[0-9a-f]{16}/gm, '0000000000000000'), EXIT.data,
    /all addresses are zero: read it as root with kernel.kptr_restrict=0/)
  fails(moved.replace(/^.* _text$/m, (line) => `${line.slice(0, 9)}0001000 T _text`), EXIT.mismatch, /another kernel/)
  fails(map.replace(/^.* traced$/m, 'ffffffff81000123 T traced'), EXIT.mismatch,
    /another kernel: traced is at 0xffffffff81000123, in the image at 0xffffffff81000010/)
  fails(map.replace(/^.* _text\n/m, ''), EXIT.data, /no symbol _text/)
  fails(map.replace(/^/, 'once upon a time\n'), EXIT.data, /kallsyms:1: not "ADDRESS TYPE NAME"/)
  fails(`${map}\n\n`, EXIT.data, /not "ADDRESS TYPE NAME"/)
  const lines = map.split('\n').length
  fails(`${map}ffffffff81000000 T ${'x'.repeat(2000)}\n`, EXIT.data, new RegExp(`:${lines}: longer than`))
  fails('', EXIT.data, /no symbol _text/)
  const file = join(scratch, 'System.map')
  writeFileSync(file, map)
  t.same(loadImage(mini, { kallsyms: file }).symbolSources, ['symtab', 'kallsyms-file'])
  const absent = join(scratch, 'none')
  refuses(t, () => loadImage(mini, { kallsyms: absent }), EXIT.noInput, /cannot read .*none: ENOENT/)
})

// ---- Real kernels --------------------------------------------------------------------------------------------------

const CACHES = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache')
const CACHE = process.env['KERNINST_CACHE'] ?? join(CACHES, 'kerninst')

/**
 * vmlinux.relocs as the boot code reads them, from the end of an unpacked bzImage: three lists of u32, last one first,
 * each ended by a zero: fields that grow, per-CPU ones that shrink, 64-bit ones (arch/x86/boot/compressed/misc.c, 6.1).
 */
const kernelRelocs = (unpacked: Buffer): Record<'abs32' | 'pcpu32' | 'abs64', number[]> => {
  let at = unpacked.length
  const list = (): number[] => {
    const found: number[] = []
    for (;;) {
      at -= 4
      const value = unpacked.readUInt32LE(at)
      if (value === 0) return found.sort((a, b) => a - b)
      found.push((value - 0x81000000) >>> 0)
    }
  }
  return { abs32: list(), pcpu32: list(), abs64: list() }
}

/** Unpacks a bzImage whose payload is LZ4 in the legacy frame (Documentation/x86/boot.rst; lz4_Frame_format.md). */
const unpackLz4 = (bzImage: Buffer): Buffer => {
  const payload = (bzImage[0x1f1]! + 1) * 512 + bzImage.readUInt32LE(0x248)
  const end = payload + bzImage.readUInt32LE(0x24c) - 4
  const out = Buffer.alloc(bzImage.readUInt32LE(end))
  if (bzImage.readUInt32LE(payload) !== 0x184c2102) throw new Error('not LZ4')
  let to = 0
  for (let block = payload + 4; block < end; ) {
    let from = block + 4
    block = from + bzImage.readUInt32LE(block)
    const more = (nibble: number): number => {
      let length = nibble
      if (nibble === 15) for (let byte = 255; byte === 255; length += byte) byte = bzImage[from++]!
      return length
    }
    while (from < block) {
      const token = bzImage[from++]!
      const literals = more(token >>> 4)
      bzImage.copy(out, to, from, from + literals)
      from += literals
      to += literals
      if (from >= block) break
      const distance = bzImage.readUInt16LE(from)
      from += 2
      for (let left = more(token & 15) + 4; left > 0; left--, to++) out[to] = out[to - distance]!
    }
  }
  return out
}

/** Places of a table where `expected` does not hold. */
const wrong = (
  of: Image, rvas: Uint32Array, length: number, expected: (bytes: Uint8Array, rva: number) => boolean,
): number => rvas.reduce((sum, rva) => sum + (expected(bytesAt(of, rva, length), rva) ? 0 : 1), 0)

/** Where a 5-byte call or jmp at rva goes. */
const goesTo = (bytes: Uint8Array, rva: number): number =>
  (rva + 5 + new DataView(bytes.buffer, bytes.byteOffset).getInt32(1, true)) >>> 0

interface Expected {
  name: string
  /** Entries in .text, as measured before on a close version. */
  counts: Record<string, number>
}

const checkKernel = (t: Test, { name, counts }: Expected): Image => {
  const path = join(CACHE, 'kernels', name, 'vmlinux')
  if (!existsSync(path)) throw new Error(`${path} is missing: run node corpora/prepare.mjs test`)
  let best = Infinity
  let of!: Image
  for (let n = 0; n < 3; n++) {
    const start = process.hrtime.bigint()
    of = loadImage(path)
    best = Math.min(best, Number(process.hrtime.bigint() - start) / 1e6)
  }
  t.ok(best < 1500, `loaded in ${best.toFixed(0)} ms`)
  const { tables, symbols, functions } = of

  const elf = openElf(path)
  const rows = tool('readelf', '-SW', path).split('\n').flatMap((line) => {
    const row = /^ +\[ *(\d+)\] (\S*) +([A-Z]+) +([0-9a-f]{16}) ([0-9a-f]+) ([0-9a-f]+) ([0-9a-f]+) /.exec(line)
    if (row === null) return []
    const [, , section, , address, offset, size, entry] = row
    return [`${section} ${[address, offset, size, entry].map((n) => BigInt(`0x${n}`)).join(' ')}`]
  })
  t.ok(rows.length > 50)
  t.same(elf.sections.slice(1).map((s) => `${s.name} ${s.address} ${s.offset} ${s.size} ${s.entrySize}`), rows.slice(1))
  elf.close()
  t.match(tool('readelf', '-n', path), `Build ID: ${Buffer.from(of.buildId).toString('hex')}\n`)
  t.match(of.release, /^\d+\.\d+\.\d+\S*cloud-amd64$/)
  checkNames(t, of)
  checkIndexes(t, of, 40)
  const row = /^ *\d+: (f{8}[0-9a-f]{8}) +(\d+|0x\w+) FUNC +\w+ +\w+ +\d+ (\S+)/gm
  const sized = tool('readelf', '-sW', path).matchAll(row)
  let lost = 0
  let seen = 0
  for (const [, address, size, symbol] of sized) {
    const rva = Number(BigInt(`0x${address}`) - of.base)
    if (/^__(pfx|cfi)_/.test(symbol!) || Number(size) === 0) continue
    seen++
    const func = functions.functionsNamed(symbol!).find((f) => functions.start[f] === rva)
    if (func === undefined || functions.end[func]! < rva + Number(size) || functions.isFunc[func] !== 1) lost++
  }
  t.equal(lost, 0, `all ${seen} functions`)
  t.ok(seen > 40_000)

  const inText = (rvas: Uint32Array): number =>
    rvas.reduce((sum, rva) => sum + (rva >= of.textStart && rva < of.textEnd ? 1 : 0), 0)
  const columns: Record<string, Uint32Array> = {
    ftrace: tables.ftrace, paravirt: tables.paravirt.rva, alternatives: tables.alternatives.rva,
    retpolineSites: tables.retpolineSites, returnSites: tables.returnSites, callSites: tables.callSites,
    endbrSeals: tables.endbrSeals, staticKeys: tables.staticKeys.rva, staticCalls: tables.staticCalls,
    staticCallTrampolines: tables.staticCallTrampolines.start, smpLocks: tables.smpLocks,
    runtimeConst: tables.runtimeConst.rva,
  }
  for (const [table, rvas] of Object.entries(columns)) {
    const measured = inText(rvas)
    const close = Math.abs(measured - counts[table]!) <= 0.02 * counts[table]!
    t.ok(close, `${table}: ${measured} in .text, ${counts[table]} expected`)
    t.ok(rvas.every((rva, i) => i === 0 || rva >= rvas[i - 1]!), `${table} ascends`)
  }

  const fentry = symbols.rvaOf('__fentry__')
  const thunk = symbols.rvaOf('__x86_return_thunk')
  t.equal(wrong(of, tables.ftrace, 5, (b, rva) => b[0] === 0xe8 && goesTo(b, rva) === fentry), 0, 'call __fentry__')
  t.equal(wrong(of, tables.returnSites, 5, (b, rva) => b[0] === 0xe9 && goesTo(b, rva) === thunk), 0, 'jmp thunk')
  t.equal(wrong(of, tables.callSites, 1, (b) => b[0] === 0xe8), 0, 'call sites')
  const endbr64 = Buffer.of(0xf3, 0x0f, 0x1e, 0xfa)
  t.equal(wrong(of, tables.endbrSeals, 4, (b) => endbr64.equals(b)), 0, 'endbr64')
  // Where gas put the operand size first, the kernel finds no lock there and leaves it alone (alternative.c, 6.12).
  t.equal(wrong(of, tables.smpLocks, 2, (b) => b[0] === 0xf0 || (b[0] === 0x66 && b[1] === 0xf0)), 0, 'lock')
  t.equal(wrong(of, tables.bugs, 2, (b) => b[0] === 0x0f && b[1] === 0x0b), 0, 'ud2')
  const thunks = new Set<number>()
  for (let f = 0; f < functions.count; f++) {
    if (functions.nameOf(f).startsWith('__x86_indirect_')) thunks.add(functions.start[f]!)
  }
  t.equal(wrong(of, tables.retpolineSites, 6, (b, rva) => {
    if (b[0] === 0xe8 || b[0] === 0xe9) return thunks.has(goesTo(b, rva))
    if (b[0] === 0x2e || b[0] === 0xff) return true // cs prefix; already a plain indirect branch
    return b[0] === 0x0f && (b[1]! & 0xf0) === 0x80 && thunks.has(goesTo(b.subarray(1), rva + 1))
  }), 0, 'to indirect thunks')
  const trampolines = new Set(tables.staticCallTrampolines.start)
  t.equal(wrong(of, tables.staticCalls, 6, (b, rva) =>
    b[0] === 0xe8 || b[0] === 0xe9 ? trampolines.has(goesTo(b, rva)) : b[0] === 0x0f && (b[1]! & 0xf0) === 0x80), 0,
  'to static call trampolines')
  const { staticKeys, alternatives, runtimeConst, exTable, kprobeBlacklist } = tables
  t.equal(wrong(of, staticKeys.rva, 5, (b, rva) => {
    const nop = (b[0] === 0x66 && b[1] === 0x90) || (b[0] === 0x0f && b[1] === 0x1f)
    const target = staticKeys.target[staticKeys.rva.indexOf(rva)]!
    if (b[0] === 0xeb) return rva + 2 + ((b[1]! << 24) >> 24) === target
    return nop || (b[0] === 0xe9 && goesTo(b, rva) === target)
  }), 0, 'nops, or jumps to the target')
  let outside = 0
  alternatives.rva.forEach((rva, i) => {
    const inOne = (start: number, length: number): boolean =>
      of.regions.some((r) => start >= r.start && start + length <= r.end)
    if (!inOne(rva, alternatives.len[i]!)) outside++
    if (alternatives.replLen[i]! > 0 && !inOne(alternatives.replRva[i]!, alternatives.replLen[i]!)) outside++
  })
  t.equal(outside, 0, 'alternatives in code')
  const replacements = of.regions.find((r) => r.name === '.altinstr_replacement')!
  const stray = alternatives.replRva.filter((rva, i) =>
    alternatives.replLen[i] !== 0 && (rva < replacements.start || rva >= replacements.end))
  t.same([...stray], [], 'replacements where they lie')
  runtimeConst.rva.forEach((rva, i) => {
    const expected = runtimeConst.len[i] === 8 ? 'efcdab8967452301' : '0c'
    if (bytesOfCode(of, rva, runtimeConst.len[i]!) !== expected) t.fail(`runtime constant at ${rva.toString(16)}`)
  })
  // Assembly keeps a few fixups after a function's end, where no symbol is (arch/x86/lib/getuser.S, 6.1).
  const nameless = exTable.fixup.filter((rva) => functions.functionAt(rva) === NONE)
  t.ok(exTable.insn.length > 500 && nameless.length < 0.05 * exTable.insn.length, 'exception table')
  t.ok(nameless.every((rva) => rva - symbols.rva[symbols.at(rva)]! < 64), 'fixups near functions')
  t.ok(kprobeBlacklist.start.length > 100)
  t.ok(kprobeBlacklist.start.every((start, i) => kprobeBlacklist.end[i]! > start))
  const ranges = ['noinstr', 'entry', 'irqentry', 'softirqentry', 'cpuidle', 'head', '.init.text', '.altinstr_aux']
  for (const range of ranges) {
    t.ok(tables.ranges.some((r) => r.name === range && r.start < r.end), `range ${range}`)
  }
  const head = tables.ranges.filter((r) => r.name === 'head')
  for (const symbol of ['startup_64', 'secondary_startup_64', '__startup_64', 'verify_cpu', 'sev_verify_cbit']) {
    const rva = symbols.rvaOf(symbol)
    t.ok(head.some((r) => rva >= r.start && rva < r.end), `${symbol} is in head`)
  }

  const inCode = (rva: number): boolean => of.regions.some((r) => rva >= r.start && rva < r.end)
  t.ok(of.codePointers.every((rva, i) => inCode(rva) && (i === 0 || rva > of.codePointers[i - 1]!)), 'code pointers')
  const interpreter = functions.functionsNamed('___bpf_prog_run')[0]!
  const labels = of.codePointers.filter((rva) =>
    rva > functions.start[interpreter]! && rva < functions.end[interpreter]!)
  t.ok(labels.length > 100, "the BPF interpreter's jump table")
  const middle = of.codePointers.filter((rva) => {
    const func = functions.functionAt(rva)
    return func === NONE || functions.start[func] !== rva
  })
  t.ok(middle.length - labels.length < 20, `${middle.length - labels.length} other pointers into functions`)

  const slide = 0x12a00000n
  const kallsyms = parseKallsyms(systemMap(path, slide), symbols, of.base)
  t.same({ slide: kallsyms.slide, missing: kallsyms.missing }, { slide: Number(slide), missing: 0 })
  t.ok(kallsyms.matched > 45_000)
  return of
}

t.test('6.1', async (t) => {
  const of = checkKernel(t, {
    name: '6.1-cloud',
    counts: {
      ftrace: 35609, paravirt: 3514, alternatives: 4207, retpolineSites: 7860, returnSites: 45964, callSites: 0,
      endbrSeals: 0, staticKeys: 5822, staticCalls: 4222, staticCallTrampolines: 740, smpLocks: 8652, runtimeConst: 0,
    },
  })
  const kernels = kernelRelocs(unpackLz4(readFileSync(join(CACHE, 'kernels/6.1-cloud/vmlinuz'))))
  const code = (rvas: number[]): number[] => rvas.filter((rva) => of.regions.some((r) => rva >= r.start && rva < r.end))
  t.equal(of.relocs.known, true)
  t.ok(of.relocs.relocAbs32.length > 60_000)
  t.same([...of.relocs.relocAbs32], code(kernels.abs32), 'what the kernel relocates itself: 32 bits')
  t.same([...of.relocs.relocPcpu32], code(kernels.pcpu32), 'per-CPU')
  t.same([...of.relocs.relocAbs64], code(kernels.abs64), '64 bits')
})

t.test('6.12', async (t) => {
  const of = checkKernel(t, {
    name: '6.12-cloud',
    counts: {
      ftrace: 40260, paravirt: 0, alternatives: 8478, retpolineSites: 7824, returnSites: 55277, callSites: 229211,
      endbrSeals: 11220, staticKeys: 8750, staticCalls: 7754, staticCallTrampolines: 3855, smpLocks: 9595,
      runtimeConst: 127,
    },
  })
  t.equal(of.relocs.known, false)
  const other = join(CACHE, 'kernels/6.1-cloud/vmlinux')
  refuses(t, () => parseKallsyms(systemMap(other), of.symbols, of.base), EXIT.mismatch, /belongs to another kernel/)
})

t.test('a real kernel, cut short', async (t) => {
  const path = join(scratch, 'short')
  const head = spawnSync('head', ['-c', '30000000', join(CACHE, 'kernels/6.1-cloud/vmlinux')], { maxBuffer: 2 ** 26 })
  writeFileSync(path, head.stdout)
  refuses(t, () => loadImage(path), EXIT.data, /truncated: the section headers end at \d+, the file has 30000000 bytes/)
})
