// A writer of the kernel's own tables of names, for tests. In: a layout and symbols in the order of their addresses.
// Out: the bytes that a kernel of that layout has in .rodata. Written after what scripts/kallsyms.c of 5.10, 6.1.y,
// 6.6, 6.12, 6.15 and 7.0 puts out, not after the reader.
// Left out: the kernel's choice among symbols, and its choice of tokens where several are equally good.

export interface Named {
  readonly name: string
  readonly letter: string // nm's
  readonly address: bigint
}

export interface Layout {
  readonly name: string
  /** Where the addresses stand: before the number of names (to 6.3), or after the index of tokens. */
  readonly addresses: 'first' | 'last'
  /** How they are kept: u32 from a base, u64, or s32 from where each stands. */
  readonly form: 'base' | 'whole' | 'self'
  /** CONFIG_KALLSYMS_ABSOLUTE_PERCPU: per-CPU symbols are offsets; otherwise all are addresses. */
  readonly perCpu: 'offsets' | 'addresses'
  /** Bytes for each name in the order by name: none before 6.2 (and its backports). */
  readonly sequence: 0 | 3
  readonly align: 4 | 8
  /** Characters of the longest name: KSYM_NAME_LEN - 1. Above 127, lengths may take two bytes. */
  readonly longest: 127 | 511
}

const OLD = { addresses: 'first', form: 'base', perCpu: 'offsets', sequence: 0, align: 8, longest: 127 } as const
const MIDDLE = { ...OLD, longest: 511 } as const
const LATE = { ...MIDDLE, addresses: 'last', sequence: 3 } as const

export const LAYOUTS: readonly Layout[] = [
  { ...OLD, name: '5.10' },
  { ...OLD, name: '5.10 for one CPU', perCpu: 'addresses' },
  { ...OLD, name: '5.10 without BASE_RELATIVE', form: 'whole' },
  { ...OLD, name: '5.15' },
  { ...MIDDLE, name: '6.1' },
  { ...MIDDLE, name: '6.1 without BASE_RELATIVE', form: 'whole' },
  { ...MIDDLE, name: '6.1.y and 6.2', sequence: 3 },
  { ...LATE, name: '6.6' },
  { ...LATE, name: '6.6 without BASE_RELATIVE', form: 'whole' },
  { ...LATE, name: '6.12' },
  { ...LATE, name: '6.12 for one CPU', perCpu: 'addresses' },
  { ...LATE, name: '6.15', perCpu: 'addresses' },
  { ...LATE, name: '7.0', form: 'self', perCpu: 'addresses', align: 4 },
]

const CODES = 256
/** Enough that names shrink to about a half; the kernel fills all free codes. */
const MAX_PAIRS = 60
const PERCPU_END = 0x8000_0000n

/** Gives free codes to the pairs of codes that occur most, again and again; returns the names and what codes mean. */
const compress = (names: readonly string[]): { packed: number[][]; tokens: string[] } => {
  const packed = names.map((name) => [...Buffer.from(name, 'latin1')])
  const tokens = new Array<string>(CODES).fill('')
  for (const codes of packed) for (const code of codes) tokens[code] = String.fromCharCode(code)
  const counts = new Uint32Array(CODES * CODES)
  let free = CODES - 1
  for (let n = 0; n < MAX_PAIRS; n++) {
    while (free > 0 && tokens[free] !== '') free--
    counts.fill(0)
    for (const codes of packed) for (let i = 1; i < codes.length; i++) counts[codes[i - 1]! * CODES + codes[i]!]!++
    const best = counts.indexOf(counts.reduce((most, count) => Math.max(most, count), 0))
    const [left, right] = [best >>> 8, best & 255]
    tokens[free] = tokens[left]! + tokens[right]!
    for (const codes of packed) {
      let to = 0
      for (let from = 0; from < codes.length; from++) {
        const pair = codes[from] === left && codes[from + 1] === right
        codes[to++] = pair ? free : codes[from]!
        if (pair) from++
      }
      codes.length = to
    }
  }
  return { packed, tokens }
}

type Part = 'number' | 'names' | 'markers' | 'sequence' | 'tokens' | 'index' | 'offsets' | 'base'

const u32 = (values: readonly number[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 4)
  values.forEach((value, i) => bytes.writeUInt32LE(value >>> 0, i * 4))
  return bytes
}

const u64 = (values: readonly bigint[]): Buffer => {
  const bytes = Buffer.alloc(values.length * 8)
  values.forEach((value, i) => bytes.writeBigUInt64LE(BigInt.asUintN(64, value), i * 8))
  return bytes
}

export class Kallsyms {
  /** part -> where it stands, from the first one on */
  readonly at: Readonly<Record<Part, number>>
  readonly bytes: number
  readonly #layout: Layout
  readonly #symbols: readonly Named[]
  readonly #parts: ReadonlyMap<Part, Buffer>

  constructor(layout: Layout, symbols: readonly Named[]) {
    this.#layout = layout
    this.#symbols = symbols
    const { packed, tokens } = compress(symbols.map(({ letter, name }) => letter + name))
    const names: number[] = []
    const markers: number[] = []
    packed.forEach((codes, i) => {
      if (i % 256 === 0) markers.push(names.length)
      const big = codes.length > 0x7f && layout.longest > 127
      names.push(...(big ? [(codes.length & 0x7f) | 0x80, codes.length >>> 7] : [codes.length]), ...codes)
    })
    const index = Buffer.alloc(CODES * 2)
    let end = 0
    tokens.forEach((token, code) => {
      index.writeUInt16LE(end, code * 2)
      end += token.length + 1
    })
    const byName = symbols.map((_, i) => i).sort((a, b) =>
      symbols[a]!.name < symbols[b]!.name ? -1 : symbols[a]!.name > symbols[b]!.name ? 1 : a - b)
    const made: Record<Part, Buffer | undefined> = {
      number: u32([symbols.length]), names: Buffer.from(names), markers: u32(markers),
      sequence: layout.sequence === 0 ? undefined
        : Buffer.from(byName.flatMap((i) => [(i >>> 16) & 255, (i >>> 8) & 255, i & 255])),
      tokens: Buffer.from(tokens.map((token) => `${token}\0`).join(''), 'latin1'), index,
      offsets: this.#addresses(0n), base: layout.form === 'base' ? u64([this.#base]) : undefined,
    }
    const order: readonly Part[] = layout.addresses === 'first'
      ? ['offsets', 'base', 'number', 'names', 'markers', 'sequence', 'tokens', 'index']
      : ['number', 'names', 'markers', 'tokens', 'index', 'offsets', 'base', 'sequence']
    const at: Partial<Record<Part, number>> = {}
    const parts = new Map<Part, Buffer>()
    let place = 0
    for (const part of order) {
      const bytes = made[part]
      if (bytes === undefined) continue
      place = Math.ceil(place / layout.align) * layout.align
      at[part] = place
      parts.set(part, bytes)
      place += bytes.length
    }
    this.at = at as Record<Part, number>
    this.#parts = parts
    this.bytes = place
  }

  /** The first symbol that is no per-CPU offset: the table is sorted. */
  get #base(): bigint {
    return this.#symbols.find((symbol) => !this.#isOffset(symbol))!.address
  }

  #isOffset({ address }: Named): boolean {
    return this.#layout.perCpu === 'offsets' && address < PERCPU_END
  }

  /** `here`: the address of this part. */
  #addresses(here: bigint): Buffer {
    const { form, perCpu } = this.#layout
    if (form === 'whole') return u64(this.#symbols.map(({ address }) => address))
    const base = this.#base
    return u32(this.#symbols.map((symbol, i) => {
      const { address } = symbol
      if (form === 'self') return Number(BigInt.asUintN(32, address - here - BigInt(i * 4)))
      if (perCpu === 'addresses') return Number(address - base)
      return Number(BigInt.asUintN(32, this.#isOffset(symbol) ? address : base - address - 1n))
    }))
  }

  /** Writes the tables to `section`, which is linked at `address`, from byte `from` on; gaps are zero, as gas fills. */
  write(section: Buffer, from: number, address: bigint): void {
    section.fill(0, from, from + this.bytes)
    for (const [part, bytes] of this.#parts) {
      const place = from + this.at[part]
      const moved = part === 'offsets' ? this.#addresses(address + BigInt(place)) : bytes
      moved.copy(section, place)
    }
  }
}
