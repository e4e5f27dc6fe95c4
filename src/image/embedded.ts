// In: the bytes of a data section. Out: the kernel's own table of names in it (kallsyms), in the form that .symtab has,
// found without any symbol.
// Invariant: what comes out was consistent in every part: the token index fits the tokens, every marker the names, the
// number of names both, and no address is below the one before. Anything less is "not found".
// The search is bounded by a number of steps, whatever the section holds: where they run out, nothing was found.
// Left out: sizes (kallsyms has none; each is 0) and the order by name.
//
// Layouts (scripts/kallsyms.c; labels are aligned to 8 bytes, to 4 in 7.0):
//   5.10 to 6.3:   offsets, base, number, names, markers, [sequence], tokens, index      (6.1.y backports the sequence)
//   6.4 to 6.19:   number, names, markers, tokens, index, offsets, base, sequence
//   7.0:           number, names, markers, tokens, index, offsets, sequence
// number: u32. names: for each a length and so many tokens; the first character is nm's type letter. A length has 1
// byte, up to 6.0 of at most 128; since 6.1, 2 bytes if the first has its top bit set. markers: u32, where each 256th
// name starts. tokens: 256 strings that end with NUL; index: u16, where each starts. offsets: s32 or u32, see
// findAddresses. base: u64. sequence: names by name.
// Without CONFIG_KALLSYMS_BASE_RELATIVE (up to 6.11; no distribution does that on x86), u64 addresses stand for offsets
// and base.

import { viewOf } from './address.js'
import { SHN } from './elf.js'
import { infoOf } from './letters.js'
import { MAX_SYMBOLS, SYM, type SymbolSections } from './symbols.js'

const TOKENS = 256
/** Tokens of one character stand at its code; names need all digits. */
const DIGIT_0 = 0x30
const DIGITS = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1')
const MAX_TOKEN_BYTES = 512
const NAMES_PER_MARKER = 256
/** Between two markers lie 256 names of a length byte and a token or more. */
const MIN_MARKER_STEP = 512
const MAX_MARKER_STEP = 65_536
/** Fewer names than this no kernel has: a shorter run of markers may be chance. */
const MIN_MARKERS = 3
const MAX_NAMES_BYTES = 32 * 1024 * 1024
const MAX_STRINGS_BYTES = 128 * 1024 * 1024
/** KSYM_NAME_LEN is 512 (include/linux/kallsyms.h, 6.1 and 6.12). */
const MAX_NAME_BYTES = 1024
/** All addresses of an x86-64 kernel lie in the top 2 GiB, so their high half is all ones. */
const TOP = 0xffff_ffff_0000_0000n
const LOWEST = 0x8000_0000

/** Steps of the whole search. The two kernels that it was measured on take 1.6 and 2.6 million. */
const MAX_STEPS = 50_000_000

/** What a call costs, if a byte costs 1. */
const CALL_STEPS = 16
/** Bytes that are searched or copied at once for a step. */
const BYTES_PER_STEP = 16

/** What is left of the steps; one for all sections of an image. */
export class Effort {
  steps = MAX_STEPS
}

const align = (at: number, to: number): number => Math.ceil(at / to) * to

interface Tokens {
  readonly start: number //     of the table, in the section
  readonly indexEnd: number
  readonly offset: Uint32Array // token -> where it starts in the section; one more: where the last one ends
}

/** The token table whose "0" is at `digit`, if there is one. */
const readTokens = (bytes: Uint8Array, view: DataView, digit: number, effort: Effort): Tokens | undefined => {
  const end = (at: number): number => {
    const found = bytes.subarray(at, at + MAX_TOKEN_BYTES).indexOf(0)
    effort.steps -= found < 0 ? MAX_TOKEN_BYTES : found + CALL_STEPS
    return found < 0 ? -1 : at + found + 1
  }
  const offset = new Uint32Array(TOKENS + 1)
  offset[DIGIT_0] = digit
  for (let token = DIGIT_0; token < TOKENS; token++) {
    const next = end(offset[token]!)
    if (next < 0) return undefined
    offset[token + 1] = next
  }
  for (const to of [4, 8]) {
    const index = align(offset[TOKENS]!, to)
    if (index + TOKENS * 2 > bytes.length) continue
    const start = digit - view.getUint16(index + DIGIT_0 * 2, true)
    if (start < 0) continue
    let at = start
    for (let token = 0; token < DIGIT_0 && at >= 0; token++) {
      offset[token] = at
      at = end(at)
    }
    if (at !== digit) continue
    const fits = (token: number): boolean => view.getUint16(index + token * 2, true) === offset[token]! - start
    let token = 0
    while (token < TOKENS && fits(token)) token++
    if (token === TOKENS) return { start, indexEnd: index + TOKENS * 2, offset }
  }
  return undefined
}

interface Names {
  readonly start: number // of the first name, in the section
  readonly count: number
  readonly number: number // where their number stands
  readonly wide: boolean //  a length with its top bit set has a second byte
}

/** Walks over `count` names from `start`; true if every 256th starts where its marker says, and they end at `end`. */
const fitsMarkers = (
  bytes: Uint8Array, view: DataView, { start, count, wide }: Names, markers: number, end: number, effort: Effort,
): boolean => {
  let at = start
  for (let i = 0; i < count; i++) {
    if (i % NAMES_PER_MARKER === 0) {
      effort.steps -= NAMES_PER_MARKER
      if (effort.steps < 0) return false
      if (view.getUint32(markers + (i / NAMES_PER_MARKER) * 4, true) !== at - start) return false
    }
    if (at >= end) return false
    const first = bytes[at]!
    const big = wide && first >= 0x80
    const length = big ? (first & 0x7f) | (bytes[at + 1]! << 7) : first
    if (length === 0) return false
    at += (big ? 2 : 1) + length
  }
  return at <= end && end - at < 8 && bytes.subarray(at, end).every((byte) => byte === 0)
}

/** The names in front of the markers [markers, markers + 4 * count). */
const findNames = (
  bytes: Uint8Array, view: DataView, markers: number, count: number, effort: Effort,
): Names | undefined => {
  const last = view.getUint32(markers + (count - 1) * 4, true)
  if (last > MAX_NAMES_BYTES) return undefined
  const highest = markers - last - 2
  const lowest = Math.max(8, highest - NAMES_PER_MARKER * 1024)
  for (let start = highest - (highest % 4); start >= lowest && effort.steps > 0; start -= 4) {
    effort.steps--
    for (const number of [start - 8, start - 4]) {
      const named = view.getUint32(number, true)
      if (Math.ceil(named / NAMES_PER_MARKER) !== count) continue
      for (const wide of [true, false]) {
        const names = { start, count: named, number, wide }
        if (fitsMarkers(bytes, view, names, markers, markers, effort)) return names
      }
    }
  }
  return undefined
}

/** The longest run of markers before the tokens, and the names before it. */
const findMarkers = (bytes: Uint8Array, view: DataView, tokens: number, effort: Effort): Names | undefined => {
  // A sequence, of at most 4 bytes a name, may lie between the markers and the tokens.
  const lowest = Math.max(0, tokens - MAX_SYMBOLS * 5)
  let end = 0 // after the run that `at` is in
  for (let at = tokens - (tokens % 4) - 8; at >= lowest && effort.steps > 0; at -= 4) {
    effort.steps--
    const value = view.getUint32(at, true)
    const step = view.getUint32(at + 4, true) - value
    if (step < MIN_MARKER_STEP || step > MAX_MARKER_STEP) {
      end = 0
      continue
    }
    if (end === 0) end = at + 8
    const count = (end - at) / 4
    if (value !== 0 || count < MIN_MARKERS) continue
    const names = findNames(bytes, view, at, count, effort)
    if (names !== undefined) return names
  }
  return undefined
}

/** Addresses by name: in the top 4 GiB, `low` is what is above TOP; else the whole value. */
interface Addresses {
  readonly low: Uint32Array
  readonly absolute: Uint8Array // 1: no address of the image, but an offset into the per-CPU area
}

/** Reads name i's address; undefined where the encoding does not fit. */
type Encoding = (i: number) => { low: number; absolute: boolean } | undefined

/** Reads all addresses in one encoding, if none is below the one before and some are the image's. */
const readAddresses = (count: number, encoding: Encoding): Addresses | undefined => {
  const low = new Uint32Array(count)
  const absolute = new Uint8Array(count)
  let images = 0
  for (let i = 0; i < count; i++) {
    const address = encoding(i)
    if (address === undefined) return undefined
    low[i] = address.low
    absolute[i] = address.absolute ? 1 : 0
    if (!address.absolute && address.low < LOWEST) return undefined
    if (i > 0 && absolute[i]! > absolute[i - 1]!) return undefined
    if (i > 0 && absolute[i] === absolute[i - 1] && low[i]! < low[i - 1]!) return undefined
    images += 1 - absolute[i]!
  }
  return images > 0 ? { low, absolute } : undefined
}

const findAddresses = (
  bytes: Uint8Array, view: DataView, address: bigint, names: Names, tokens: Tokens,
): Addresses | undefined => {
  const { count, number } = names
  const top = (at: number): number | undefined => {
    if (at < 0 || at + 8 > bytes.length) return undefined
    const value = view.getBigUint64(at, true)
    return value >= TOP + BigInt(LOWEST) ? Number(value - TOP) : undefined
  }
  /** s32: per-CPU offsets as they are, others as base - 1 - value (CONFIG_KALLSYMS_ABSOLUTE_PERCPU, 4.6 to 6.14). */
  const signed = (offsets: number, base: number): Encoding => (i) => {
    const value = view.getInt32(offsets + i * 4, true)
    if (value >= 0) return { low: value, absolute: true }
    const low = base - 1 - value
    return low <= 0xffffffff ? { low, absolute: false } : undefined
  }
  /** u32, above the base (without that option, and from 6.15 on). */
  const unsigned = (offsets: number, base: number): Encoding => (i) => {
    const low = base + view.getUint32(offsets + i * 4, true)
    return low <= 0xffffffff ? { low, absolute: false } : undefined
  }
  /** s32, from where the value stands (7.0). */
  const selfRelative = (offsets: number): Encoding => {
    const here = Number(address - TOP) + offsets
    return (i) => {
      const low = here + i * 4 + view.getInt32(offsets + i * 4, true)
      return low >= 0 && low <= 0xffffffff ? { low, absolute: false } : undefined
    }
  }
  /** u64, or a per-CPU offset. */
  const whole = (addresses: number): Encoding => (i) => {
    const low = top(addresses + i * 8)
    if (low !== undefined) return { low, absolute: false }
    const high = view.getUint32(addresses + i * 8 + 4, true)
    return high === 0 ? { low: view.getUint32(addresses + i * 8, true), absolute: true } : undefined
  }
  /** One value repeated, such as zeros after the tables, is no column of addresses. */
  const varies = (offsets: number): boolean => {
    let i = 1
    while (i < count && view.getInt32(offsets + i * 4, true) === view.getInt32(offsets, true)) i++
    return i < count
  }
  const candidates: Encoding[] = []
  const based = (offsets: number, baseAt: number): void => {
    const base = top(baseAt)
    if (offsets < 0 || offsets + count * 4 > bytes.length || base === undefined || !varies(offsets)) return
    candidates.push(signed(offsets, base), unsigned(offsets, base))
  }
  const before = number - 8
  based(before - align(count * 4, 8), before)
  const after = align(tokens.indexEnd, 8)
  based(after, align(after + count * 4, 8))
  if (number - count * 8 >= 0) candidates.push(whole(number - count * 8))
  if (after + count * 8 <= bytes.length) candidates.push(whole(after))
  const next = tokens.indexEnd
  if (next + count * 4 <= bytes.length && address >= TOP && varies(next)) candidates.push(selfRelative(next))
  for (const encoding of candidates) {
    const addresses = readAddresses(count, encoding)
    if (addresses !== undefined) return addresses
  }
  return undefined
}

/** Writes rows as .symtab has them; in `strings`, the type letter stands before each name. */
const expand = (
  bytes: Uint8Array, names: Names, tokens: Tokens, addresses: Addresses, effort: Effort,
): SymbolSections | undefined => {
  const entries = new DataView(new ArrayBuffer(names.count * SYM.bytes))
  let strings = new Uint8Array(1 << 22)
  let to = 0
  let at = names.start
  for (let i = 0; i < names.count; i++) {
    const first = bytes[at]!
    const big = names.wide && first >= 0x80
    const length = big ? (first & 0x7f) | (bytes[at + 1]! << 7) : first
    at += big ? 2 : 1
    const start = to
    if (to + length * MAX_TOKEN_BYTES >= strings.length) {
      if (strings.length >= MAX_STRINGS_BYTES) return undefined
      const larger = new Uint8Array(strings.length * 2 + length * MAX_TOKEN_BYTES)
      larger.set(strings)
      strings = larger
    }
    for (const end = at + length; at < end; at++) {
      const token = bytes[at]!
      for (let k = tokens.offset[token]!, stop = tokens.offset[token + 1]! - 1; k < stop; k++) strings[to++] = bytes[k]!
    }
    effort.steps -= (to - start) / BYTES_PER_STEP
    if (to - start < 2 || to - start > MAX_NAME_BYTES || effort.steps < 0) return undefined
    strings[to++] = 0
    const row = i * SYM.bytes
    entries.setUint32(row + SYM.name, start + 1, true)
    entries.setUint8(row + SYM.info, infoOf(strings[start]!, strings, start + 1, to - 1))
    entries.setUint16(row + SYM.shndx, addresses.absolute[i] === 1 ? SHN.abs : 1, true)
    entries.setUint32(row + SYM.value, addresses.low[i]!, true)
    entries.setUint32(row + SYM.value + 4, addresses.absolute[i] === 1 ? 0 : 0xffffffff, true)
  }
  return { entries, count: names.count, strings: strings.slice(0, to) }
}

/**
 * Finds the kernel's own names in a section. Rows are in the order of their addresses, per-CPU symbols first; the byte
 * before a row's name in `strings` is nm's type letter.
 * @param address where the section is linked
 * @param effort what other sections have left of the steps
 * @returns undefined where there are none that are consistent
 */
export const findEmbedded = (bytes: Uint8Array, address: bigint, effort = new Effort()): SymbolSections | undefined => {
  const view = viewOf(bytes)
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  effort.steps -= bytes.length / BYTES_PER_STEP
  for (let digit = buffer.indexOf(DIGITS); digit >= 0 && effort.steps > 0; digit = buffer.indexOf(DIGITS, digit + 1)) {
    const tokens = readTokens(bytes, view, digit, effort)
    if (tokens === undefined) continue
    const names = findMarkers(bytes, view, tokens.start, effort)
    if (names === undefined || names.count > MAX_SYMBOLS) continue
    effort.steps -= names.count * 16 // what reading them takes, at most
    const addresses = findAddresses(bytes, view, address, names, tokens)
    const sections = addresses && expand(bytes, names, tokens, addresses, effort)
    if (sections !== undefined) return sections
  }
  return undefined
}
