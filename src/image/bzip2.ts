// In: one bzip2 stream, as kernels are packed in with CONFIG_KERNEL_BZIP2. Out: the bytes that were packed.
// Invariant: exactly `size` bytes come out, and the checksum of every block and of the stream was right, or it throws.
// Each byte of a block gives at least four fifths of a byte, so the size of the output bounds the time.
// Left out: several streams, and randomised blocks, which bzip2 has not written since 0.9.5.
// Source: "BZIP2: Format Specification" (J. Tsai, 2016), checked against bzip2 1.0.8. A stream is "BZh", a digit,
// blocks and the end; a block its mark, u32 checksum, a bit (randomised), 24 bits (where the text starts), which bytes
// occur, which Huffman table is for which 50 symbols, the tables, symbols. Bits come most significant first.

import { EXIT, KerninstError } from '../error.js'

const BLOCK = 0x314159265359
const END = 0x177245385090
const LEVEL_BYTES = 100_000
const MAX_CODE_BITS = 20
const MAX_TABLES = 6
const GROUP = 50 // symbols that one table is for
/** Symbols 0 and 1 are digits of a run's length; other symbols are 1 above a place in the list of bytes. */
const RUN_DIGITS = 2
/** So many equal bytes are followed by a byte that says how many more there are. */
const RUN = 4

const corrupt = (what: string): KerninstError => new KerninstError(EXIT.data, `bzip2 data are corrupt: ${what}`)
const CRC = new Uint32Array(256) // byte -> its remainder; most significant bit first, unlike zlib's
for (let byte = 0; byte < 256; byte++) {
  let value = byte << 24
  for (let bit = 0; bit < 8; bit++) value = value < 0 ? (value << 1) ^ 0x04c11db7 : value << 1
  CRC[byte] = value
}

export const isBzip2 = (packed: Uint8Array): boolean => packed[0] === 0x42 && packed[1] === 0x5a && packed[2] === 0x68

class Bits {
  at = 3
  #left = 0 // bits of #held that are not taken
  #held = 0
  readonly #bytes: Uint8Array

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  /** The next bits, at most 24. */
  take(bits: number): number {
    while (this.#left < bits) {
      if (this.at >= this.#bytes.length) throw corrupt('cut off')
      this.#held = (this.#held << 8) | this.#bytes[this.at++]!
      this.#left += 8
    }
    this.#left -= bits
    return (this.#held >>> this.#left) & ((1 << bits) - 1)
  }
}

/** A canonical Huffman code: for each number of bits, the last code, and what makes a code an index into symbols. */
class Code {
  readonly #limit = new Int32Array(MAX_CODE_BITS + 1).fill(-1)
  readonly #offset = new Int32Array(MAX_CODE_BITS + 1)
  readonly #symbols: number[] = []

  constructor(bits: Bits, alphabet: number) {
    const lengths = new Uint8Array(alphabet)
    for (let symbol = 0, length = bits.take(5); symbol < alphabet; symbol++) {
      while (bits.take(1) === 1) length += bits.take(1) === 0 ? 1 : -1
      if (length < 1 || length > MAX_CODE_BITS) throw corrupt(`a code of ${length} bits`)
      lengths[symbol] = length
    }
    for (let length = 1, code = 0; length <= MAX_CODE_BITS; length++, code <<= 1) {
      this.#offset[length] = this.#symbols.length - code
      lengths.forEach((of, symbol) => {
        if (of === length) this.#symbols.push(symbol)
      })
      code = this.#symbols.length - this.#offset[length]!
      this.#limit[length] = code - 1
    }
  }

  read(bits: Bits): number {
    let code = 0
    for (let length = 1; length <= MAX_CODE_BITS; length++) {
      code = (code << 1) | bits.take(1)
      if (code > this.#limit[length]!) continue
      const symbol = this.#symbols[code + this.#offset[length]!]
      if (symbol !== undefined) return symbol
    }
    throw corrupt('a code that stands for nothing')
  }
}

const readBytesUsed = (bits: Bits): number[] => {
  const used: number[] = []
  const rows = bits.take(16)
  for (let row = 0; row < 16; row++) {
    const columns = (rows & (0x8000 >>> row)) === 0 ? 0 : bits.take(16)
    for (let column = 0; column < 16; column++) if ((columns & (0x8000 >>> column)) !== 0) used.push(row * 16 + column)
  }
  return used
}

/** Moves an element to the front of a list, and returns it. */
const toFront = (list: number[] | Uint8Array, index: number): number => {
  const found = list[index]!
  list.copyWithin(1, 0, index)
  list[0] = found
  return found
}

/** Reads what follows a block's checksum into `block`: sorted bytes. Returns how many, and where the text starts. */
const readBlock = (bits: Bits, block: Uint32Array): { count: number; origin: number } => {
  if (bits.take(1) !== 0) throw corrupt('a randomised block')
  const origin = bits.take(24)
  const used = readBytesUsed(bits)
  const tables = bits.take(3)
  if (used.length === 0 || tables < 2 || tables > MAX_TABLES) throw corrupt('a block without bytes or tables')
  const order = Array.from({ length: tables }, (_, table) => table)
  const selectors = new Uint8Array(bits.take(15))
  for (let i = 0; i < selectors.length; i++) {
    let index = 0
    while (bits.take(1) === 1) if (++index >= tables) throw corrupt('a table that is not there')
    selectors[i] = toFront(order, index)
  }
  const codes = order.map(() => new Code(bits, used.length + RUN_DIGITS))
  const recent = Uint8Array.from(used)
  const end = used.length + 1
  let count = 0
  let digit = 1 // what the next digit of a run's length is worth; it has digits 1 and 2
  for (let n = 0; ; n++) {
    const code = codes[selectors[Math.floor(n / GROUP)] ?? MAX_TABLES]
    if (code === undefined) throw corrupt('more symbols than tables')
    const symbol = code.read(bits)
    if (symbol === end) break
    const isRun = symbol < RUN_DIGITS
    const length = isRun ? digit * (symbol + 1) : 1
    if (length > block.length - count) throw corrupt('a block is too long')
    block.fill(isRun ? recent[0]! : toFront(recent, symbol - 1), count, count + length)
    count += length
    digit = isRun ? digit * 2 : 1
  }
  if (origin >= count) throw corrupt('a block starts outside itself')
  return { count, origin }
}

/** Undoes the sort: puts into the high bits of each entry which one comes next. Returns the first one. */
const unsort = (block: Uint32Array, count: number, origin: number): number => {
  const place = new Uint32Array(257) // byte -> where the next one like it belongs
  for (let i = 0; i < count; i++) place[block[i]! + 1]!++
  for (let byte = 0; byte < 256; byte++) place[byte + 1]! += place[byte]!
  for (let i = 0; i < count; i++) {
    const to = place[block[i]! & 0xff]!++
    block[to]! |= i << 8
  }
  return block[origin]! >>> 8
}

/**
 * @param size what it must unpack to, in bytes
 * @throws KerninstError 65 for anything that is not one whole stream of `size` bytes
 */
export const unpackBzip2 = (packed: Uint8Array, size: number): Uint8Array => {
  const bits = new Bits(packed)
  const level = isBzip2(packed) ? bits.take(8) - 0x30 : 0
  if (level < 1 || level > 9) throw corrupt('no stream')
  const out = new Uint8Array(size)
  const block = new Uint32Array(level * LEVEL_BYTES) // a byte of the block, and above it the index of the next one
  let to = 0
  let sum = 0
  for (;;) {
    const mark = bits.take(24) * 0x100_0000 + bits.take(24)
    const stated = bits.take(16) * 0x1_0000 + bits.take(16)
    if (mark === END && stated !== sum) throw corrupt("the stream's checksum is wrong")
    if (mark === END) break
    if (mark !== BLOCK) throw corrupt('no block where one should be')
    const { count, origin } = readBlock(bits, block)
    let at = unsort(block, count, origin)
    const start = to
    for (let i = 0, equal = 0, before = -1; i < count; i++) {
      const entry = block[at]!
      at = entry >>> 8
      const byte = entry & 0xff
      const more = equal === RUN ? byte : 1
      if (more > size - to) throw corrupt(`it unpacks to more than ${size} bytes`)
      if (equal === RUN) {
        out.fill(before, to, to + more)
        equal = 0
      } else {
        out[to] = byte
        equal = byte === before ? equal + 1 : 1
        before = byte
      }
      to += more
    }
    let crc = 0xffffffff
    for (let i = start; i < to; i++) crc = (crc << 8) ^ CRC[(crc >>> 24) ^ out[i]!]!
    if (~crc >>> 0 !== stated) throw corrupt("a block's checksum is wrong")
    sum = (((sum << 1) | (sum >>> 31)) ^ stated) >>> 0
  }
  if (bits.at !== packed.length) throw corrupt('something follows the stream')
  if (to !== size) throw corrupt(`it unpacks to ${to} bytes, not ${size}`)
  return out
}
