// DER, as much of ASN.1 as certificates and signatures take. In: values or bytes. Out: bytes or nodes. Invariant: the
// reader takes only the one encoding that the writer makes (definite, shortest lengths; tags of one byte), so reading
// and writing back gives the same bytes. Left out: BER, long tags, text beyond ASCII and UTF-8.

import { EXIT, KerninstError, assert } from '../error.js'

export const TAG = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  null: 0x05,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
  /** Context-specific [n], primitive or constructed. */
  context: 0x80,
  contextConstructed: 0xa0,
} as const

export const concat = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts))

/** One value: tag, length, the contents one after the other. */
export const der = (tag: number, ...contents: readonly Uint8Array[]): Uint8Array => {
  const length = contents.reduce((sum, part) => sum + part.length, 0)
  assert(length < 2 ** 32, 'der: length')
  const header = [tag]
  if (length < 0x80) header.push(length)
  else {
    const digits: number[] = []
    for (let rest = length; rest > 0; rest = Math.floor(rest / 256)) digits.unshift(rest % 256)
    header.push(0x80 | digits.length, ...digits)
  }
  return concat([Uint8Array.from(header), ...contents])
}

export const sequence = (...contents: readonly Uint8Array[]): Uint8Array => der(TAG.sequence, ...contents)

/** A non-negative INTEGER from its big-endian bytes. */
export const integer = (bytes: Uint8Array): Uint8Array => {
  let start = 0
  while (start < bytes.length - 1 && bytes[start] === 0) start++
  const digits = bytes.subarray(start)
  return (digits[0] ?? 0) >= 0x80 || digits.length === 0
    ? der(TAG.integer, Uint8Array.of(0), digits)
    : der(TAG.integer, digits)
}

/** An OBJECT IDENTIFIER from its dotted form. */
export const oid = (dotted: string): Uint8Array => {
  const arcs = dotted.split('.').map(Number)
  assert(arcs.length >= 2 && arcs.every(Number.isSafeInteger), `der: oid ${dotted}`)
  const [first, second, ...rest] = arcs
  const bytes: number[] = []
  for (const arc of [first! * 40 + second!, ...rest]) {
    const digits = [arc % 128]
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) digits.unshift(0x80 | left % 128)
    bytes.push(...digits)
  }
  return der(TAG.oid, Uint8Array.from(bytes))
}

/** One value read from DER; offsets are into `bytes`. */
export interface DerNode {
  readonly bytes: Uint8Array
  readonly tag: number
  readonly start: number //   of the tag
  readonly content: number // of the contents
  readonly end: number //     past them
}

/** The whole value, tag and length included. */
export const whole = (node: DerNode): Uint8Array => node.bytes.subarray(node.start, node.end)
export const contents = (node: DerNode): Uint8Array => node.bytes.subarray(node.content, node.end)

/**
 * Reads the value that starts at `start`, and lies before `limit`.
 * @param what what the bytes are, for the message
 * @throws KerninstError (65) where they are no DER
 */
export const readNode = (bytes: Uint8Array, start: number, limit: number, what: string): DerNode => {
  const bad = (): never => {
    throw new KerninstError(EXIT.data, `${what}: not DER at byte ${start}`)
  }
  if (start + 2 > limit) bad()
  const tag = bytes[start]!
  if ((tag & 0x1f) === 0x1f) bad()
  let content = start + 2
  let length = bytes[start + 1]!
  if (length >= 0x80) {
    const digits = length & 0x7f
    if (digits === 0 || digits > 4 || content + digits > limit) bad()
    length = 0
    for (let i = 0; i < digits; i++) length = length * 256 + bytes[content + i]!
    if (length < 0x80 || length < 256 ** (digits - 1)) bad()
    content += digits
  }
  if (length > limit - content) bad()
  return { bytes, tag, start, content, end: content + length }
}

/** The values inside a constructed one. */
export const children = (node: DerNode, what: string): DerNode[] => {
  const nodes: DerNode[] = []
  for (let at = node.content; at < node.end; at = nodes.at(-1)!.end) {
    nodes.push(readNode(node.bytes, at, node.end, what))
  }
  return nodes
}
