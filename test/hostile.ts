// Hostile input. In: small real inputs of every kind that an image is read from (seeds), and a random source. Out: them
// with damage of every kind: bits, numbers that are borders, pieces moved, cut off or repeated; anywhere, and more
// often in headers and tables, where it matters.
// Invariant: the same seed number gives the same inputs, in the same order, where the tools make the same seeds.
// Left out: what is tried with them (attack.ts).

import { execFileSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { crc32 } from 'node:zlib'
import { openElf } from '../src/image/elf.js'
import { loadImage } from '../src/image/image.js'
import { ROOT } from './guest/artefacts.js'
import { Kallsyms, LAYOUTS } from './kallsyms.js'
import { makeMiniature } from './miniature.js'
import { PACKERS, PAYLOAD_START, bzImage, pack, withSize } from './packers.js'

/** xorshift32. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed | 1
  }

  below(limit: number): number {
    this.#state ^= this.#state << 13
    this.#state ^= this.#state >>> 17
    this.#state ^= this.#state << 5
    return (this.#state >>> 0) % limit
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!
  }
}

export interface Seed {
  readonly kind: string
  readonly bytes: Buffer
  /** Where damage is likely to be read: headers and tables; all of it is another one. */
  readonly places: readonly (readonly [start: number, end: number])[]
  /** A kallsyms file for this image: `bytes` are then those of the file, and the image stays whole. */
  readonly image?: string
  /** Makes checksums right again, so that what lies behind them is read. */
  readonly mend?: (bytes: Buffer) => void
}

// ---- Seeds ---------------------------------------------------------------------------------------------------------

const tool = (name: string, ...args: string[]): string =>
  execFileSync(name, args, { maxBuffer: 2 ** 28, stdio: ['ignore', 'pipe', 'pipe'] }).toString('latin1')

/** The file's header, section table, and every section but code and debug data. */
const placesOf = (path: string): [number, number][] => {
  const elf = openElf(path)
  elf.close()
  const rows = elf.sections.filter(({ name, size, type }) => size > 0 && type !== 8 && !/text/.test(name))
  const table: [number, number] = [elf.headersEnd - elf.sections.length * 64, elf.headersEnd]
  // Those two decide about most; of the others, small ones are read as closely as large ones.
  return [[0, 64], table, table, table, ...rows.map(({ offset, size }): [number, number] => [offset, offset + size])]
}

const elfSeed = (kind: string, path: string): Seed => ({ kind, bytes: readFileSync(path), places: placesOf(path) })

const NAMES_BYTES = 0x6000
const NAMES = `
        .section .rodata, "a"
        .balign 16
names:  .skip ${NAMES_BYTES}
        .text
        .altmacro
        .macro filler n
        .balign 16
        .globl filler_\\n
        .type filler_\\n, @function
filler_\\n:
        ret
        .size filler_\\n, . - filler_\\n
        .endm
        .set i, 0
        .rept 600
        filler %i
        .set i, i + 1
        .endr
`

/** A kernel that has its own names too, in one of their layouts; and the places of these. */
const withNames = (path: string, layout: (typeof LAYOUTS)[number]): Seed => {
  makeMiniature(path, { more: NAMES, relocs: false })
  const lines = tool('nm', '-n', path).split('\n').filter((line) => line !== '')
  const symbols = lines.map((line) => {
    const address = BigInt(`0x${line.slice(0, 16)}`)
    return { address, letter: address < 0xffffffff80000000n ? 'A' : line[17]!, name: line.slice(19) }
  })
  const elf = openElf(path)
  elf.close()
  const rodata = elf.section('.rodata')!
  const { address } = symbols.find(({ name }) => name === 'names')!
  const at = rodata.offset + Number(address - rodata.address)
  const tables = new Kallsyms(layout, symbols)
  if (tables.bytes > NAMES_BYTES) throw new Error(`${tables.bytes} bytes of names`)
  const bytes = readFileSync(path)
  tables.write(bytes.subarray(at, at + NAMES_BYTES), 0, address)
  writeFileSync(path, bytes)
  const starts = Object.values(tables.at).map((place) => at + place)
  const places = starts.map((start): [number, number] => [start, start + 64])
  return { kind: `names of ${layout.name}`, bytes, places: [...places, [at, at + tables.bytes], ...placesOf(path)] }
}

/** The checksums of an XZ stream's header and first block header. */
const mendXz = (bytes: Buffer): void => {
  const stream = bytes.subarray(PAYLOAD_START)
  const end = (stream[12]! + 1) * 4 + 8
  const sum = (from: number, to: number, at: number): void => {
    if (at >= 0 && at + 4 <= stream.length) stream.writeUInt32LE(crc32(stream.subarray(from, to)), at)
  }
  if (stream.length < 32) return
  sum(6, 8, 8)
  sum(12, end, end)
}

/** What the build appends to a payload: three lists of places that KASLR changes. */
const relocTail = (path: string): Buffer => {
  const { relocAbs32, relocAbs64, relocPcpu32 } = loadImage(path).relocs
  const low = (list: Uint32Array): number[] => [...list].map((rva) => rva + 0x8100_0000)
  const words = [relocAbs64, relocPcpu32, relocAbs32].flatMap((list) => [0, ...low(list)])
  return Buffer.from(Uint32Array.from(words).buffer)
}

/** One of each format, two of XZ, and none that takes long. */
const PACKED_BY = [
  'gzip -n -1', 'bzip2 -1', 'xz --format=lzma -0', 'xz --check=sha256 -1', 'lz4 -l -1', 'zstd -1',
  'xz --check=crc32 --x86 --lzma2=preset=0,lc=1,lp=2,pb=1 --block-size=65536',
]

const packedSeeds = (path: string): Seed[] => {
  const payload = Buffer.concat([readFileSync(path), relocTail(path)])
  const header: [number, number] = [0x1f0, 0x260]
  return [
    {
      kind: 'bzImage, not packed', bytes: bzImage(payload),
      places: [header, ...placesOf(path).map(([a, b]): [number, number] => [a + PAYLOAD_START, b + PAYLOAD_START]),
        [PAYLOAD_START + payload.length - 32, PAYLOAD_START + payload.length]],
    },
    ...PACKERS.filter(({ name }) => PACKED_BY.includes(name)).map((by): Seed => {
      const packed = withSize(by.format, pack(by, payload), payload.length)
      const end = PAYLOAD_START + packed.length
      const first = (length: number): [number, number] => [PAYLOAD_START, PAYLOAD_START + length]
      const places: [number, number][] = [header, first(32), first(200), first(packed.length), [end - 40, end]]
      return {
        kind: `bzImage, ${by.name}`, bytes: bzImage(packed), places, ...(by.format === 'xz' ? { mend: mendXz } : {}),
      }
    }),
  ]
}

/** Makes all seeds in a folder; takes some seconds. */
export const makeSeeds = (folder: string): Seed[] => {
  const plain = makeMiniature(join(folder, 'plain'))
  const wide = makeMiniature(join(folder, 'wide'), { wide: true, symbols: false })
  const seeds = [elfSeed('vmlinux', plain), elfSeed('vmlinux, tables by section', wide)]
  for (const name of ['exits', 'loops', 'straight', 'tables']) {
    const path = join(folder, name)
    tool('sh', join(ROOT, 'corpora/miniature/build.sh'), join(ROOT, `corpora/miniature/${name}.S`), path)
    seeds.push(elfSeed(`vmlinux, ${name}`, path))
  }
  for (const layout of LAYOUTS.filter(({ name }) => ['5.10 without BASE_RELATIVE', '6.1', '6.12'].includes(name))) {
    const path = join(folder, `names-${layout.name.replaceAll(' ', '-')}`)
    const seed = withNames(path, layout)
    seeds.push(seed)
    const bare = `${path}-stripped`
    tool('strip', '--strip-all', '-o', bare, path)
    seeds.push({ ...elfSeed(`${seed.kind}, stripped`, bare), places: [...placesOf(bare), ...seed.places.slice(0, -3)] })
  }
  const text = Buffer.from(tool('nm', '-n', plain), 'latin1')
  const file = (kind: string, image: string): Seed => ({ kind, image, bytes: text, places: [[0, text.length]] })
  const bare = join(folder, 'bare')
  tool('strip', '--strip-all', '-o', bare, plain)
  return [...seeds, file('kallsyms file', plain), file('kallsyms file for names', bare), ...packedSeeds(plain)]
}

// ---- Damage --------------------------------------------------------------------------------------------------------

const NUMBERS: readonly bigint[] = [
  0n, 1n, 2n, 3n, 4n, 7n, 8n, 15n, 16n, 0x7fn, 0x80n, 0xffn, 0x100n, 0x7fffn, 0x8000n, 0xffffn, 0x1_0000n, 0x100_0000n,
  0x7fff_ffffn, 0x8000_0000n, 0xffff_fff8n, 0xffff_ffffn, 0x1_0000_0000n, 0x1f_ffff_ffff_ffffn, 0x20_0000_0000_0000n,
  0x7fff_ffff_ffff_ffffn, 0x8000_0000_0000_0000n, 0xffff_ffff_8000_0000n, 0xffff_ffff_8100_0000n,
  0xffff_ffff_ffff_f000n, 0xffff_ffff_ffff_ffffn,
]

const writeNumber = (bytes: Buffer, at: number, width: number, value: bigint): void => {
  for (let i = 0; i < width && at + i < bytes.length; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn)
}

const readNumber = (bytes: Buffer, at: number, width: number): bigint => {
  let value = 0n
  for (let i = width - 1; i >= 0; i--) value = (value << 8n) | BigInt(bytes[at + i] ?? 0)
  return value
}

type Damage = (bytes: Buffer, start: number, end: number, random: Random, others: readonly Seed[]) => Buffer

const aligned = (start: number, end: number, width: number, random: Random): number =>
  start + random.below(Math.max(1, Math.ceil((end - start) / width))) * width

const flip: Damage = (bytes, start, end, random) => {
  for (let n = random.below(3); n >= 0; n--) bytes[start + random.below(end - start)]! ^= 1 << random.below(8)
  return bytes
}

const number: Damage = (bytes, start, end, random) => {
  const width = random.pick([1, 2, 4, 4, 8, 8])
  const value = random.below(8) === 0 ? BigInt(bytes.length) : random.pick(NUMBERS)
  writeNumber(bytes, aligned(start, end, width, random), width, value + BigInt(random.pick([0, 0, 0, 1, -1])))
  return bytes
}

/** A number a little or twice as large. */
const nudge: Damage = (bytes, start, end, random) => {
  const width = random.pick([1, 2, 4, 8])
  const at = aligned(start, end, width, random)
  const value = readNumber(bytes, at, width)
  const by = random.pick([1n, -1n, 4n, -4n, 8n, -8n, 24n, 4096n, -4096n, value, -(value >> 1n)])
  writeNumber(bytes, at, width, BigInt.asUintN(64, value + by))
  return bytes
}

/** A number or a row from elsewhere in the same place. */
const copy: Damage = (bytes, start, end, random) => {
  const width = random.pick([4, 8, 8, 16, 24, 64, 64])
  const from = aligned(start, end, width, random)
  bytes.copy(bytes, aligned(start, end, width, random), from, Math.min(from + width, bytes.length))
  return bytes
}

const overwrite: Damage = (bytes, start, end, random, others) => {
  const other = random.pick(others).bytes
  const length = 1 + random.below(1 << random.below(11))
  const from = random.below(other.length)
  other.copy(bytes, start + random.below(end - start), from, Math.min(from + length, other.length))
  return bytes
}

const fill: Damage = (bytes, start, end, random) => {
  const at = start + random.below(end - start)
  return bytes.fill(random.pick([0, 0xff, 0x41, 0xe8, random.below(256)]), at, Math.min(end, at + random.below(512)))
}

const insert: Damage = (bytes, start, end, random) => {
  const at = start + random.below(end - start)
  const from = start + random.below(end - start)
  return Buffer.concat([bytes.subarray(0, at), bytes.subarray(from, from + random.below(300)), bytes.subarray(at)])
}

const remove: Damage = (bytes, start, end, random) => {
  const at = start + random.below(end - start)
  return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(200))])
}

const cut: Damage = (bytes, _start, _end, random) => bytes.subarray(0, random.below(bytes.length))

const DAMAGES: readonly Damage[] =
  [flip, flip, flip, number, number, number, number, nudge, nudge, copy, copy, overwrite, fill, insert, remove, cut]

/** One damaged input; `seed` itself stays as it was. */
export const damage = (seed: Seed, random: Random, others: readonly Seed[]): Buffer => {
  let bytes: Buffer = Buffer.from(seed.bytes)
  for (let n = random.pick([0, 0, 0, 1, 1, 2, 5]); n >= 0 && bytes.length > 0; n--) {
    const [start, end] = random.below(6) === 0 ? [0, bytes.length] : random.pick(seed.places)
    const from = Math.min(start, bytes.length - 1)
    bytes = random.pick(DAMAGES)(bytes, from, Math.max(from + 1, Math.min(end, bytes.length)), random, others)
  }
  if (seed.mend !== undefined && random.below(2) === 0) seed.mend(bytes)
  return bytes
}
