// Hostile input ends in one clear error, in bounded time and memory. First what random damage finds (attack.ts; longer
// with `npm run fuzz`), and that bugs would be found; then what no random damage makes: files of a few megabytes, made
// to take long. Without a limit, most of those take minutes.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EXIT, KerninstError } from '../src/error.js'
import { SHF, SHT } from '../src/image/elf.js'
import { findEmbedded } from '../src/image/embedded.js'
import { loadImage, type Image, type ImageOptions } from '../src/image/image.js'
import { findBuildId } from '../src/image/notes.js'
import { PLANTS, attack, type Plant } from './attack.js'
import { Kallsyms, LAYOUTS, type Named } from './kallsyms.js'
import { writeElf, writeSymbols, type Made, type MadeSymbol } from './writer.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-hostile-test-'))
t.teardown(() => rmSync(scratch, { recursive: true }))

const seed = Number(process.env['KERNINST_SEED'] ?? Date.now() % 0x7fffffff) | 1
t.comment(`KERNINST_SEED=${seed}`)

// ---- Random damage -------------------------------------------------------------------------------------------------

const SECONDS = 25

t.test('damage of every kind', async (t) => {
  const { figures, finding } = await attack({ number: seed, seconds: SECONDS })
  t.equal(finding, undefined, 'nothing but errors for bad input')
  for (const [kind, { tried, refused, accepted, slowestMs }] of Object.entries(figures.kinds)) {
    t.ok(refused > 0 && accepted > 0,
      `${kind}: ${refused} of ${tried} refused, ${accepted} accepted, ${slowestMs.toFixed(0)} ms at most`)
  }
  t.comment(`at most ${figures.peakMb.toFixed(0)} MB`)
})

t.test('what breaks the rule is found, and kept', async (t) => {
  const found: Readonly<Record<Plant, RegExp>> = {
    error: /TypeError: planted/, exit: /exit code 70: planted/, lines: /control characters in: "planted\\nline"/,
    late: /took \d+\.\d s; 4 s are allowed/, hang: /did not end within \d s/, memory: /took \d+ MB; \d+ are allowed/,
    spoilt: /the whole vmlinux loads otherwise than before/,
  }
  await Promise.all(PLANTS.map(async (plant) => {
    const maxSeconds = plant === 'late' || plant === 'hang' ? 4 : 60
    const { finding } = await attack({ number: seed, seconds: 120, limits: { maxSeconds, maxMb: 300 }, plant })
    t.match(finding?.what, found[plant], plant)
    t.ok(finding!.files.length > 0 && readFileSync(finding!.files[0]!).length >= 0, 'the input is kept')
    for (const file of finding!.files) rmSync(join(file, '..'), { recursive: true, force: true })
  }))
})

// ---- Made to take long ---------------------------------------------------------------------------------------------

const BASE = 0xffffffff81000000n
const MAX_SECONDS = 10
const LOADED = SHF.alloc
const CODE = SHF.alloc | SHF.execinstr

/** Names in a string table: name -> where it is. */
class Strings {
  readonly #pieces: Buffer[] = [Buffer.alloc(1)]
  #length = 1

  add(name: string | Buffer): number {
    const at = this.#length
    const bytes = Buffer.concat([Buffer.from(name as string, 'latin1'), Buffer.alloc(1)])
    this.#pieces.push(bytes)
    this.#length += bytes.length
    return at
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#pieces)
  }
}

const NOTE = Buffer.concat([Buffer.from(Uint32Array.of(4, 20, 3).buffer), Buffer.from('GNU\0'), Buffer.alloc(20, 7)])
const BANNER = 'Linux version 6.99.3-hostile (me@here) #1\0'

interface Kernel {
  readonly text?: Buffer
  readonly symbols?: (strings: Strings) => readonly MadeSymbol[]
  readonly sections?: readonly Made[]
  readonly rodata?: Buffer
}

/** A kernel of as little as there may be, and what a test adds. */
const kernel = ({ text = Buffer.alloc(64, 0x90), symbols = () => [], sections = [], rodata }: Kernel): Buffer => {
  const strings = new Strings()
  const banner = Buffer.concat([rodata ?? Buffer.alloc(0), Buffer.from(BANNER)])
  const label = (name: string, value: bigint): MadeSymbol => ({ name: strings.add(name), value, info: 0x10 })
  const rows = writeSymbols([
    label('_text', BASE), label('_end', BASE + 0x3000_0000n),
    label('linux_banner', BASE + 0x2000_0000n + BigInt(banner.length - BANNER.length)), ...symbols(strings),
  ])
  return writeElf([
    { name: '.text', type: SHT.progbits, flags: CODE, address: BASE, bytes: text },
    { name: '.rodata', type: SHT.progbits, flags: LOADED, address: BASE + 0x2000_0000n, bytes: banner },
    { name: '.notes', type: SHT.note, flags: LOADED, address: BASE + 0x2800_0000n, bytes: NOTE },
    ...sections,
    { name: '.symtab', type: SHT.symtab, bytes: rows, link: '.strtab', entrySize: 24 },
    { name: '.strtab', type: SHT.strtab, bytes: strings.bytes },
  ])
}

/** Loads it, in time, and compares what comes of it. */
const within = (
  t: Test, what: string, bytes: Buffer, options: ImageOptions, wanted: RegExp | ((of: Image) => void),
): void => {
  const path = join(scratch, 'kernel')
  writeFileSync(path, bytes)
  const start = Date.now()
  let image: Image | undefined
  let error: unknown
  try {
    image = loadImage(path, options)
  } catch (thrown) {
    error = thrown
  }
  const seconds = (Date.now() - start) / 1000
  t.ok(seconds < MAX_SECONDS, `${what}: ${seconds.toFixed(1)} s, ${(bytes.length / 1e6).toFixed(1)} MB`)
  if (typeof wanted === 'function') {
    if (image === undefined) throw new Error(what, { cause: error })
    wanted(image)
  } else {
    t.ok(error instanceof KerninstError && error.exit === EXIT.data, `${what}: ${String(error)}`)
    t.match((error as Error)?.message, wanted)
  }
}

/** FUNC symbols that start one after another in .text, by steps. */
const functions = (strings: Strings, count: number, step: number, size: number): MadeSymbol[] => {
  const name = strings.add('f')
  return Array.from({ length: count }, (_, i) => ({ name, value: BASE + BigInt(i * step), size }))
}

/** u64 addresses, as a section of that name. */
const addresses = (name: string, values: readonly bigint[]): Made => ({
  name, type: SHT.progbits, flags: LOADED, address: BASE + 0x2400_0000n,
  bytes: Buffer.from(BigUint64Array.from(values).buffer),
})

t.test('a kernel of as little as there may be is read', async (t) => {
  within(t, 'plain', kernel({}), {}, (image) => t.equal(image.release, '6.99.3-hostile'))
})

t.test('sections', async (t) => {
  const bytes = Buffer.alloc(16, 0x90)
  const many = Array.from({ length: 4000 }, (_, i): Made =>
    ({ name: 'code', type: SHT.progbits, flags: CODE, address: BASE + BigInt(0x10_0000 + i * 16), bytes }))
  const at = 0x2400_0000
  const sites = Int32Array.from({ length: 1 << 20 }, (_, i) => 0x10_0000 + 3999 * 16 - (at + i * 4))
  const table: Made = {
    name: '.return_sites', type: SHT.progbits, flags: LOADED, address: BASE + BigInt(at),
    bytes: Buffer.from(sites.buffer),
  }
  within(t, 'many entries of a table, many sections to look for them', kernel({ sections: [...many, table] }), {},
    (image) => t.equal(image.tables.returnSites.length, 1 << 20))
  const pointers = addresses('.data', new Array<bigint>(1 << 20).fill(BASE + BigInt(0x10_0000 + 3999 * 16)))
  within(t, 'many pointers', kernel({ sections: [...many, pointers] }), {},
    (image) => t.equal(image.codePointers.length, 1))
  within(t, 'more sections than are read', kernel({ sections: [...many, ...many] }), {},
    /800\d section headers; 1 to 4096/)

  const rows = Buffer.alloc(24 * 300_000)
  const relas = many.slice(0, 1500).map((_, i): Made =>
    ({ name: '.rela', type: SHT.rela, bytes: rows, link: '.symtab', info: 4 + i, entrySize: 24 }))
  const all = [...many.slice(0, 1500), ...relas]
  within(t, 'the same relocations, for each of many sections', kernel({ sections: all }), {},
    /brings the relocations to \d+; at most 16777216 are read/)

  const perCpu = Buffer.alloc(1 << 22, 1)
  within(t, 'the same per-CPU data, many times', kernel({
    sections: Array.from({ length: 4000 }, () =>
      ({ name: '.data..percpu', type: SHT.progbits, flags: LOADED, address: 0n, bytes: perCpu })),
  }), {}, /71303168 bytes of per-CPU data/)

  const digits = Buffer.alloc(8_000_000, '0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1')
  within(t, 'what may be names, many times', writeElf(Array.from({ length: 4000 }, () =>
    ({ name: '.rodata', type: SHT.progbits, flags: LOADED, address: BASE, bytes: digits }))), {}, /no symbol table/)
})

t.test('functions', async (t) => {
  const text = Buffer.alloc(1_200_000, 0x90)
  const around = (strings: Strings): MadeSymbol[] =>
    [{ name: strings.add('around'), value: BASE, size: text.length }, ...functions(strings, 250_000, 4, 1).slice(1)]
  const gap = addresses('_kprobe_blacklist', new Array<bigint>(250_000).fill(BASE + 1_100_000n))
  within(t, 'many inside one', kernel({ text, symbols: around, sections: [gap] }), {}, ({ functions: f, tables }) => {
    t.equal(f.nameOf(f.functionAt(1_100_000)), 'around')
    t.equal(f.nameOf(f.functionAt(999_996)), 'f')
    t.equal(f.functionAt(999_996), 249_999)
    t.equal(f.functionAt(999_997), 0)
    t.equal(f.functionAt(1_200_000), 0xffffffff)
    t.equal(tables.kprobeBlacklist.end[7], text.length)
  })
  const chain = (strings: Strings): MadeSymbol[] => functions(strings, 250_000, 4, 0)
  const first = addresses('_kprobe_blacklist', new Array<bigint>(250_000).fill(BASE))
  const code = Buffer.alloc(text.length, 0xc3)
  within(t, 'without a gap between them', kernel({ text: code, symbols: chain, sections: [first] }), {}, ({ tables }) =>
    t.equal(tables.kprobeBlacklist.end[7], text.length))
  const heads = (strings: Strings): MadeSymbol[] => {
    const name = strings.add('startup_64')
    return Array.from({ length: 1000 }, (_, i) => ({ name, value: BASE + BigInt(i * 4), size: 4 }))
  }
  within(t, 'of one name that is forbidden', kernel({ text, symbols: heads }), {}, /table ranges has 1\d\d\d entries/)
})

/** Names of which each has the same FNV-1a hash: at each step two pieces lead from one state to another. */
const colliding = (steps: number): string[] => {
  let names = ['']
  let from = 0x811c9dc5
  for (let step = 0; step < steps; step++) {
    const seen = new Map<number, string>()
    for (let i = 0; ; i++) {
      const piece = (Math.imul(i, 0x9e3779b1) >>> 0).toString(36).padStart(7, '_')
      let to = from
      for (let at = 0; at < piece.length; at++) to = Math.imul(to ^ piece.charCodeAt(at), 0x01000193)
      const other = seen.get(to)
      if (other === undefined) {
        seen.set(to, piece)
        continue
      }
      names = names.flatMap((name) => [name + piece, name + other])
      from = to
      break
    }
  }
  return names
}

t.test('names', async (t) => {
  const long = (strings: Strings): MadeSymbol[] => {
    const start = strings.add(Buffer.alloc(4_000_000, 'a'))
    return Array.from({ length: 5000 }, (_, i) => ({ name: start + i, value: BASE }))
  }
  within(t, 'inside one another', kernel({ symbols: long }), {}, /a symbol name is longer than 1024 bytes/)
  const much = (strings: Strings): MadeSymbol[] => {
    const name = strings.add(Buffer.alloc(1000, 'a'))
    return Array.from({ length: 200_000 }, () => ({ name, value: BASE }))
  }
  within(t, 'the same long one', kernel({ symbols: much }), {}, /the symbols' names have more than 67108864 bytes/)
  const names = colliding(16)
  t.equal(new Set(names).size, 1 << 16)
  within(t, 'of one hash', kernel({
    symbols: (strings) => names.map((name) => ({ name: strings.add(name), value: BASE })),
  }), {}, /the names of symbols were made to collide/)
})

t.test('kallsyms', async (t) => {
  const file = join(scratch, 'kallsyms')
  const text = Buffer.alloc(1_200_000, 0x90)
  const same = kernel({ text, symbols: (strings) => functions(strings, 200_000, 4, 4) })
  const line = `${(BASE + 799_996n).toString(16)} t f\n`
  writeFileSync(file, `${BASE.toString(16)} T _text\n${line.repeat(200_000)}`)
  within(t, 'a file that names many functions of one name', same, { kallsyms: file }, /kallsyms: names f too often/)
  writeFileSync(file, `${BASE.toString(16)} T _text\n${line.repeat(1 << 20)}`)
  within(t, 'a file of too many lines', same, { kallsyms: file }, /more than 1048576 symbols of the kernel itself/)

  const layout = LAYOUTS.find(({ name }) => name === '6.12')!
  const named = (count: number, address: bigint): Named[] =>
    Array.from({ length: count }, (_, i) => ({ name: `name_0123456789_${i}`, letter: 't', address }))
  const own = [...named(8000, BASE), { name: 'last', letter: 't', address: BASE + 60n }]
  const tables = new Kallsyms(layout, own)
  const rodata = Buffer.alloc(tables.bytes)
  tables.write(rodata, 0, BASE + 0x2000_0000n)
  const symbols = (strings: Strings): MadeSymbol[] =>
    own.map(({ name, address }) => ({ name: strings.add(name), value: address }))
  within(t, 'many names of one address', kernel({ rodata, symbols }), {}, /too many symbols have one address/)

  const wide = new Kallsyms(layout, [...named(600, BASE), { name: 'x'.repeat(1100), letter: 't', address: BASE + 60n }])
  const section = Buffer.alloc(wide.bytes)
  wide.write(section, 0, BASE)
  t.equal(findEmbedded(section, BASE), undefined, 'a name that is too long')
})

t.test('a note as large as a section may be', async (t) => {
  const notes = Buffer.alloc(2 ** 29)
  notes.writeUInt32LE(2 ** 29 - 12, 0)
  t.equal(findBuildId(notes), undefined)
})
