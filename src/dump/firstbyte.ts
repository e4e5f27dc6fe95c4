// A quick look at a zlib stream. In: the stream, and a byte. Out: false where what it unpacks to certainly does not start
// with that byte. Invariant: false is never wrong; in doubt it is true. Most damage goes unnoticed here, which is for who
// unpacks the page. An image has millions of pages, of which a few start as the counter heap does: to unpack a page takes
// 30 to 90 µs, to find the code of the first byte in the head of its first block a few.
// The format is RFC 1950 and RFC 1951; of a block, only what is needed to know the code of one literal.

const STORED = 0
const FIXED = 1
const DYNAMIC = 2
const ZLIB_HEADER = 2 //  bytes; no preset dictionary
const PRESET = 0x20
const MAX_BITS = 15 //    of a code for literals
const MAX_LENGTH_BITS = 7
/** The order in which lengths of the code for code lengths are sent (RFC 1951, 3.2.7). */
const ORDER = Uint8Array.of(16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
const FIRST_LITERAL = 257 // of that many literals and lengths at least there are codes
const MAX_CODES = 286 + 30

const lengths = new Uint8Array(MAX_CODES + 138) // symbol -> bits of its code; a run may go over the end by so much
const counts = new Uint16Array(MAX_BITS + 1) //    bits -> symbols with a code of so many
const firstCode = new Uint16Array(MAX_BITS + 1) // bits -> the first of those codes
const lengthLengths = new Uint8Array(ORDER.length)
/** The next 7 bits -> symbol << 3 | bits of its code; 0: none. */
const lengthTable = new Uint8Array(1 << MAX_LENGTH_BITS)

/** 8 bits in reverse order. */
const REVERSED = Uint8Array.from({ length: 256 }, (_, byte) => {
  let result = 0
  for (let bit = 0; bit < 8; bit++) result |= ((byte >>> bit) & 1) << (7 - bit)
  return result
})

/** A code as it is met in the stream, where its first bit is the lowest. */
const reversed = (code: number, bits: number): number => (REVERSED[code & 0xff]! << 8 | REVERSED[code >>> 8]!) >>> (16 - bits)

/** Counts the symbols of every length, and fills in the first code of each length (RFC 1951, 3.2.2). */
const startCodes = (of: Uint8Array, count: number): void => {
  counts.fill(0)
  for (let i = 0; i < count; i++) counts[of[i]!]!++
  counts[0] = 0
  for (let length = 1, code = 0; length <= MAX_BITS; length++) firstCode[length] = code = (code + counts[length - 1]!) << 1
}

/** @param packed bytes of which [start, end) are a zlib stream */
export const mayStartWith = (packed: Uint8Array, start: number, end: number, byte: number): boolean => {
  if (end - start < ZLIB_HEADER + 1 || packed[start + 1]! & PRESET) return true
  let at = (start + ZLIB_HEADER) * 8 // bits
  // Past the end there are zeros; `at` tells in the end.
  const peek = (bits: number): number => {
    const from = at >>> 3
    const word = packed[from]! | (packed[from + 1] ?? 0) << 8 | (packed[from + 2] ?? 0) << 16
    return (word >>> (at & 7)) & ((1 << bits) - 1)
  }
  const take = (bits: number): number => {
    const value = peek(bits)
    at += bits
    return value
  }
  const type = take(3) >>> 1 // without "is this the last block"
  if (type === STORED) {
    const header = (at + 7) >>> 3
    const length = packed[header]! | packed[header + 1]! << 8
    return length === 0 || header + 4 >= end || packed[header + 4] === byte
  }
  if (type === FIXED) {
    // Literals below 144 have 8 bits, from 0x30; all others have 9, and their first bits are others.
    if (byte >= 144) return true
    const next = peek(8)
    return next === reversed(0x30 + byte, 8) || (next & 0x7f) === 0 // the end of an empty block
  }
  if (type !== DYNAMIC) return true
  const literals = take(5) + FIRST_LITERAL
  const total = literals + take(5) + 1
  const lengthCodes = take(4) + 4
  lengthLengths.fill(0)
  for (let i = 0; i < lengthCodes; i++) lengthLengths[ORDER[i]!] = take(3)
  lengthTable.fill(0)
  startCodes(lengthLengths, lengthLengths.length)
  for (let symbol = 0; symbol < lengthLengths.length; symbol++) {
    const bits = lengthLengths[symbol]!
    if (bits === 0) continue
    const code = reversed(firstCode[bits]!++, bits)
    for (let entry = code; entry < lengthTable.length; entry += 1 << bits) lengthTable[entry] = symbol << 3 | bits
  }
  if (total > MAX_CODES) return true
  for (let i = 0; i < total;) {
    const entry = lengthTable[peek(MAX_LENGTH_BITS)]!
    if (entry === 0 || at >= end * 8) return true
    at += entry & 7
    const symbol = entry >>> 3
    if (symbol < 16) {
      lengths[i++] = symbol
      continue
    }
    if (symbol === 16 && i === 0) return true
    const value = symbol === 16 ? lengths[i - 1]! : 0
    const times = symbol === 16 ? take(2) + 3 : symbol === 17 ? take(3) + 3 : take(7) + 11
    lengths.fill(value, i, i + times)
    i += times
  }
  startCodes(lengths, literals)
  const isNext = (symbol: number): boolean => {
    const bits = lengths[symbol]!
    let code = firstCode[bits]!
    for (let i = 0; i < symbol; i++) if (lengths[i] === bits) code++
    return bits > 0 && peek(bits) === reversed(code, bits)
  }
  return isNext(byte) || isNext(256) || at + MAX_BITS > end * 8
}
