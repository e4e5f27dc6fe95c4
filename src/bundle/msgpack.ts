// MessagePack in one canonical form. In: plain objects with string keys, arrays, strings, booleans, integers, bigints,
// bytes. Out: bytes, the same for the same value, and back. Invariant: what decode() takes is exactly what encode()
// writes; there is one encoding of a value and no second. msgpackr does the writing and reading; this layer keeps it
// to the subset, walks the tokens first (no allocation and no recursion that the input controls), and copies what
// msgpackr returns, since its buffers share a pool. Left out on purpose: records, extensions, floats, nil.
//
// Integers: a number has 32 bits, signed or not, and takes the fewest bytes; a bigint always takes eight.

import { Packr } from 'msgpackr'
import { EXIT, KerninstError, assert } from '../error.js'

export type Packable =
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly Packable[]
  | { readonly [key: string]: Packable }

export interface MsgpackLimits {
  /** Bytes of the whole input. */
  readonly bytes: number
  /** Maps and arrays inside each other. */
  readonly depth: number
  /** Values and keys in all. */
  readonly items: number
}

export const MSGPACK_LIMITS: MsgpackLimits = { bytes: 256 * 2 ** 20, depth: 16, items: 2 ** 24 }

// Without records it keeps nothing from one value to the next but its buffer.
const packr = new Packr({
  useRecords: false,
  variableMapSize: true,
  mapsAsObjects: true,
  int64AsType: 'bigint',
  copyBuffers: true,
})
const POOL = 8192

const isBytes = (value: object): value is Uint8Array => value instanceof Uint8Array

/** A number, or what comes before a text, bytes, a list or a map, takes at most so many bytes; a UTF-16 unit of a text three. */
const HEAD = 9
const UNIT = 3

/** msgpackr turns to another buffer when fewer are left. */
const SLACK = 4096

/**
 * Encoding: an unrepresentable value is our own mistake, except for text, which may come from a command line.
 * @returns how many bytes the value takes at most
 */
const checkValue = (value: Packable, depth: number): number => {
  assert(depth <= MSGPACK_LIMITS.depth, 'msgpack: nested too deeply')
  switch (typeof value) {
    case 'boolean':
      return HEAD
    case 'number':
      assert(value % 1 === 0 && value >= -(2 ** 31) && value < 2 ** 32, `msgpack: ${value} is no 32-bit integer`)
      return HEAD
    case 'bigint':
      assert(value >= -(2n ** 63n) && value < 2n ** 64n, 'msgpack: a bigint of more than 64 bits')
      return HEAD
    case 'string':
      if (/\p{Surrogate}/u.test(value)) {
        throw new KerninstError(EXIT.data, `half a surrogate pair in a text: ${JSON.stringify(value.slice(0, 80))}`)
      }
      return HEAD + UNIT * value.length
    case 'object': {
      assert(value !== null, 'msgpack: null')
      if (isBytes(value)) return HEAD + value.length
      let most = HEAD
      if (Array.isArray(value)) {
        for (const item of value as readonly Packable[]) most += checkValue(item, depth + 1)
        return most
      }
      for (const [key, item] of Object.entries(value)) {
        // JavaScript moves such keys to the front, so their order would not survive.
        assert(!/^[0-9]+$/.test(key) && key !== '__proto__', `msgpack: the key ${key}`)
        most += checkValue(key, depth) + checkValue(item, depth + 1)
      }
      return most
    }
    default:
      assert(false, `msgpack: a value of type ${typeof value}`)
  }
}

/** The canonical encoding of a value, in bytes of its own. */
export const encode = (value: Packable): Uint8Array => {
  const most = checkValue(value, 0)
  if (most <= POOL / 2) return new Uint8Array(packr.pack(value))
  // A buffer that is large enough from the start, and is ours then: a bundle has 36 MB, and each copy of it costs more than
  // writing it. msgpackr calls methods of Buffer that other byte arrays do not have.
  packr.useBuffer(Buffer.allocUnsafeSlow(most + SLACK))
  const { buffer, byteOffset, length } = packr.pack(value)
  packr.useBuffer(Buffer.alloc(POOL))
  return new Uint8Array(buffer, byteOffset, length)
}

const bad = (where: string, offset: number, what: string): KerninstError =>
  new KerninstError(EXIT.data, `${where}: ${what} at byte ${offset}`)

/** Walks all tokens of the input: only those that encode() writes, nothing past the end, one value, within limits. */
const checkTokens = (bytes: Uint8Array, where: string, limits: MsgpackLimits): void => {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const left: number[] = [1] //       depth -> values still to come there
  const inMap: boolean[] = [false] // depth -> whether they are keys and values by turns
  let offset = 0
  let start = 0 // of the token at hand
  let items = 0
  const need = (count: number): void => {
    if (count > bytes.length - offset) throw bad(where, start, 'cut off: a length reaches past the end')
  }
  const uint = (width: 1 | 2 | 4): number => {
    need(width)
    const value = width === 1 ? view.getUint8(offset) : width === 2 ? view.getUint16(offset) : view.getUint32(offset)
    offset += width
    return value
  }
  const skip = (count: number): void => {
    need(count)
    offset += count
  }
  const enter = (count: number, map: boolean): void => {
    need(map ? 2 * count : count) // each value takes a byte at least
    if (left.length > limits.depth) throw bad(where, start, `nested more than ${limits.depth} deep`)
    left.push(map ? 2 * count : count)
    inMap.push(map)
  }
  while (left.length > 0) {
    const top = left.length - 1
    const remaining = left[top]!
    if (remaining === 0) {
      left.pop()
      inMap.pop()
      continue
    }
    start = offset
    if (++items > limits.items) throw bad(where, start, `more than ${limits.items} values`)
    left[top] = remaining - 1
    const token = uint(1)
    const isString = (token >= 0xa0 && token <= 0xbf) || (token >= 0xd9 && token <= 0xdb)
    if (inMap[top] && remaining % 2 === 0 && !isString) throw bad(where, start, 'a key that is not a string')
    if (token <= 0x7f || token >= 0xe0) continue // small integers
    if (token <= 0x8f) enter(token & 0x0f, true)
    else if (token <= 0x9f) enter(token & 0x0f, false)
    else if (token <= 0xbf) skip(token & 0x1f)
    else
      switch (token) {
        case 0xc2: // false, true
        case 0xc3:
          break
        case 0xc4: // bytes
        case 0xd9: // string
          skip(uint(1))
          break
        case 0xc5:
        case 0xda:
          skip(uint(2))
          break
        case 0xc6:
        case 0xdb:
          skip(uint(4))
          break
        case 0xcc: // integers of 1, 2, 4, 8 bytes, unsigned, then signed
        case 0xd0:
          skip(1)
          break
        case 0xcd:
        case 0xd1:
          skip(2)
          break
        case 0xce:
        case 0xd2:
          skip(4)
          break
        case 0xcf:
        case 0xd3:
          skip(8)
          break
        case 0xdc: // arrays
          enter(uint(2), false)
          break
        case 0xdd:
          enter(uint(4), false)
          break
        case 0xde: // maps
          enter(uint(2), true)
          break
        case 0xdf:
          enter(uint(4), true)
          break
        default:
          throw bad(where, start, `a MessagePack type 0x${token.toString(16)} that bundles do not use`)
      }
  }
  if (offset !== bytes.length) throw bad(where, offset, 'bytes after the end')
}

/**
 * The value that the bytes are the canonical encoding of; bytes inside it are copies.
 * @param where what the bytes are, for the message
 * @throws KerninstError (65) for everything else, whatever the bytes are
 */
export const decode = (bytes: Uint8Array, where: string, limits: MsgpackLimits = MSGPACK_LIMITS): Packable => {
  if (bytes.length > limits.bytes) {
    throw new KerninstError(EXIT.data, `${where}: ${bytes.length} bytes, more than the limit of ${limits.bytes}`)
  }
  checkTokens(bytes, where, limits)
  // A fresh view: msgpackr leaves a property on what it reads.
  const view = new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  // Longer integers and lengths, keys twice, text that is not UTF-8: none of them comes back the same.
  let value: Packable
  let again: Uint8Array
  try {
    value = packr.unpack(view) as Packable
    again = encode(value)
  } catch {
    throw new KerninstError(EXIT.data, `${where}: not in canonical MessagePack`)
  }
  if (Buffer.compare(again, bytes) !== 0) throw new KerninstError(EXIT.data, `${where}: not in canonical MessagePack`)
  return value
}
