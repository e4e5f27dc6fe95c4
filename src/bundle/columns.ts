// Columns of numbers and texts as bytes. In: a typed array, or texts. Out: bytes, and back. Numbers are written as
// variable-length integers (LEB128: seven bits a byte, the lowest first), often as differences, and the whole is deflated:
// neighbours in a plan are alike, so a column takes a bit or two a value. Invariant: whatever the bytes, reading gives
// exactly the count asked for, or a KerninstError; it allocates no more than the count allows.
// The deflated form is zlib's at a fixed level: the same for the same zlib. Readers take any.

import { constants, deflateRawSync, inflateRawSync } from 'node:zlib'
import { EXIT, KerninstError } from '../error.js'

const LEVEL = 6
const MAX_VARINT = 5 // bytes of 32 bits

const bad = (where: string, what: string): never => {
  throw new KerninstError(EXIT.data, `manifest: ${where} ${what}`)
}

export const pack = (bytes: Uint8Array): Uint8Array =>
  new Uint8Array(deflateRawSync(bytes, { level: LEVEL, memLevel: 8, strategy: constants.Z_DEFAULT_STRATEGY }))

/** What was packed, at most `limit` bytes. */
export const unpack = (packed: Uint8Array, limit: number, where: string): Uint8Array => {
  let result: { buffer: Uint8Array; engine: { bytesWritten: number } }
  try {
    result = inflateRawSync(packed, { maxOutputLength: Math.max(1, limit), info: true }) as unknown as typeof result
  } catch {
    return bad(where, `does not inflate to at most ${limit} bytes`)
  }
  const { buffer, engine } = result
  if (buffer.length > limit) return bad(where, `does not inflate to at most ${limit} bytes`)
  if (engine.bytesWritten !== packed.length) return bad(where, 'has bytes after its end')
  return buffer
}

/** Differences wrap at 32 bits, so every column comes back; small ones of either sign take one byte. */
const zigzag = (difference: number): number => ((difference << 1) ^ (difference >> 31)) >>> 0
const unzigzag = (value: number): number => (value >>> 1) ^ -(value & 1)

/** How values follow from those before them. */
export interface Coding {
  /** As the difference from the value before. */
  readonly delta?: boolean
}

export const writeNumbers = (values: ArrayLike<number>, { delta = false }: Coding = {}): Uint8Array => {
  let out = new Uint8Array(values.length * 2 + 64)
  let at = 0
  let before = 0
  for (let i = 0; i < values.length; i++) {
    if (at + MAX_VARINT > out.length) {
      const grown = new Uint8Array(out.length * 2)
      grown.set(out)
      out = grown
    }
    const value = values[i]!
    let rest = delta ? zigzag((value - before) | 0) : value
    before = value
    for (; rest > 0x7f; rest >>>= 7) out[at++] = (rest & 0x7f) | 0x80
    out[at++] = rest
  }
  return pack(out.subarray(0, at))
}

export const readNumbers = (packed: Uint8Array, count: number, where: string, { delta = false }: Coding = {}): Uint32Array => {
  const bytes = unpack(packed, count * MAX_VARINT, where)
  if (bytes.length < count) return bad(where, `holds fewer than ${count} numbers`)
  const values = new Uint32Array(count)
  let at = 0
  let before = 0
  for (let i = 0; i < count; i++) {
    let value = 0
    for (let shift = 0; ; shift += 7) {
      if (at === bytes.length) return bad(where, `holds fewer than ${count} numbers`)
      const byte = bytes[at++]!
      value += (byte & 0x7f) * 2 ** shift
      // One encoding of a number and no second: the last byte is not zero, but for zero itself.
      if (byte <= 0x7f) {
        if (value > 0xffffffff || (byte === 0 && shift > 0)) return bad(where, `holds a number ${i} that is none`)
        break
      }
      if (shift === 28) return bad(where, `holds a number ${i} that is none`)
    }
    values[i] = before = delta ? (before + unzigzag(value)) >>> 0 : value
  }
  return at === bytes.length ? values : bad(where, `holds more than ${count} numbers`)
}

/** Texts as UTF-8: their lengths, and all of them in one. */
export const writeTexts = (texts: readonly string[]): { lengths: Uint8Array; bytes: Uint8Array } => {
  const encoded = texts.map((text) => Buffer.from(text, 'utf8'))
  return { lengths: writeNumbers(encoded.map(({ length }) => length)), bytes: pack(Buffer.concat(encoded)) }
}

/** @param limits bytes of one text, and of all */
export const readTexts = (
  lengths: Uint8Array, packed: Uint8Array, count: number, where: string, limits: { one: number; all: number },
): string[] => {
  const sizes = readNumbers(lengths, count, `${where}Lengths`)
  const bytes = unpack(packed, limits.all, where)
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  let at = 0
  const texts = Array.from(sizes, (size, i) => {
    if (size > limits.one || size > bytes.length - at) return bad(`${where}[${i}]`, `has ${size} bytes, more than there are or may be`)
    try {
      return decoder.decode(bytes.subarray(at, (at += size)))
    } catch {
      return bad(`${where}[${i}]`, 'is not UTF-8')
    }
  })
  return at === bytes.length ? texts : bad(where, 'has bytes after the last')
}
