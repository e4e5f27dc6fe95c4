// In: LZMA data, as LZMA2 chunks (in XZ) or as an .lzma file ("LZMA-alone"). Out: the bytes that were packed.
// Invariant: nothing is read or written out of bounds; each symbol that is decoded writes a byte or ends the data, so
// the size of the output bounds the time.
// Left out: preset dictionaries. The output is the dictionary, so no window is kept, whatever the header asks for.
// Source: lzma-specification.txt (LZMA SDK 9.35) for the coder, the .xz file format 1.0.4 for LZMA2's place in it.

import { EXIT, KerninstError } from '../error.js'
import { viewOf } from './address.js'

const corrupt = (what: string): KerninstError => new KerninstError(EXIT.data, `LZMA data are corrupt: ${what}`)

/** Probabilities have 11 bits; a half is what they start with. */
const HALF = 1 << 10
const TOP = 1 << 24
const STATES = 12
const MAX_POSITION_STATES = 16

// Where each group of probabilities starts in one array.
const IS_MATCH = 0
const IS_REP = IS_MATCH + STATES * MAX_POSITION_STATES
const IS_REP0 = IS_REP + STATES
const IS_REP1 = IS_REP0 + STATES
const IS_REP2 = IS_REP1 + STATES
const IS_REP0_LONG = IS_REP2 + STATES
const LENGTH = IS_REP0_LONG + STATES * MAX_POSITION_STATES
// Two coders of lengths, for matches and for repetitions: two choices, low and middle trees, the high tree.
const LENGTH_LOW = 2
const LENGTH_MIDDLE = LENGTH_LOW + MAX_POSITION_STATES * 8
const LENGTH_HIGH = LENGTH_MIDDLE + MAX_POSITION_STATES * 8
const LENGTH_PROBS = LENGTH_HIGH + 256
const REP_LENGTH = LENGTH + LENGTH_PROBS
const SLOT = REP_LENGTH + LENGTH_PROBS //          4 trees of 64
const SPECIAL = SLOT + 4 * 64 //                   slots 4..13: trees of the low bits, one after another
const ALIGN = SPECIAL + 128 //                     the last four bits of far distances
const LITERAL = ALIGN + 16 //                      0x300 for each context

/** The distance that marks the end. */
const END_MARKER = 0xffffffff

class Lzma {
  readonly out: Uint8Array
  /** Where the next byte goes. */
  to: number
  /** Where the dictionary starts in `out`: matches do not reach before it. */
  start: number
  at = 0
  end = 0
  readonly #src: Uint8Array
  #range = 0
  #code = 0
  #state = 0
  #rep0 = 0
  #rep1 = 0
  #rep2 = 0
  #rep3 = 0
  #contextBits = 0
  #literalMask = 0
  #positionMask = 0
  #probs = new Uint16Array(0)

  constructor(src: Uint8Array, out: Uint8Array, to: number) {
    this.#src = src
    this.out = out
    this.to = to
    this.start = to
  }

  /** Takes the byte that holds lc, lp and pb, and forgets all that was learnt. */
  setProperties(byte: number): void {
    if (byte >= 225) throw corrupt(`properties ${byte}`)
    this.#contextBits = byte % 9
    const literalBits = Math.floor(byte / 9) % 5
    this.#literalMask = (1 << literalBits) - 1
    this.#positionMask = (1 << Math.floor(byte / 45)) - 1
    const probs = LITERAL + (0x300 << (this.#contextBits + literalBits))
    if (this.#probs.length !== probs) this.#probs = new Uint16Array(probs)
    this.resetState()
  }

  get contextAndLiteralBits(): number {
    return this.#contextBits + (32 - Math.clz32(this.#literalMask))
  }

  resetState(): void {
    this.#probs.fill(HALF)
    this.#state = 0
    this.#rep0 = this.#rep1 = this.#rep2 = this.#rep3 = 0 // distances less 1
  }

  /** Starts the range coder on src[at, end). */
  open(at: number, end: number): void {
    if (end - at < 5) throw corrupt('cut off')
    if (this.#src[at] !== 0) throw corrupt('the range coder does not start with 0')
    this.#code = viewOf(this.#src).getUint32(at + 1)
    this.#range = 0xffffffff
    this.at = at + 5
    this.end = end
  }

  /** Whether the range coder has come out even, as it does where nothing is damaged. */
  get finished(): boolean {
    return this.#code === 0
  }

  // Reading past the end gives zeros; decode() notices after each symbol.
  #shift(): void {
    this.#range = (this.#range << 8) >>> 0
    this.#code = ((this.#code << 8) | this.#src[this.at++]!) >>> 0
  }

  #bit(index: number): number {
    const probs = this.#probs
    const probability = probs[index]!
    const bound = (this.#range >>> 11) * probability
    let bit = 0
    if (this.#code < bound) {
      this.#range = bound
      probs[index] = probability + ((2048 - probability) >>> 5)
    } else {
      this.#range -= bound
      this.#code -= bound
      probs[index] = probability - (probability >>> 5)
      bit = 1
    }
    if (this.#range < TOP) this.#shift()
    return bit
  }

  /** A tree of `bits` levels, most significant bit first. */
  #tree(base: number, bits: number): number {
    let node = 1
    for (let i = 0; i < bits; i++) node = (node << 1) | this.#bit(base + node)
    return node - (1 << bits)
  }

  /** The same, least significant bit first. */
  #reverseTree(base: number, bits: number): number {
    let node = 1
    let value = 0
    for (let i = 0; i < bits; i++) {
      const bit = this.#bit(base + node)
      node = (node << 1) | bit
      value |= bit << i
    }
    return value
  }

  #length(base: number, positionState: number): number {
    if (this.#bit(base) === 0) return 2 + this.#tree(base + LENGTH_LOW + positionState * 8, 3)
    if (this.#bit(base + 1) === 0) return 10 + this.#tree(base + LENGTH_MIDDLE + positionState * 8, 3)
    return 18 + this.#tree(base + LENGTH_HIGH, 8)
  }

  #distance(length: number): number {
    const slot = this.#tree(SLOT + Math.min(length - 2, 3) * 64, 6)
    if (slot < 4) return slot
    const low = (slot >>> 1) - 1
    const high = ((2 | (slot & 1)) << low) >>> 0
    // Trees of 2^low nodes lie one after another, each from its node 1 on.
    if (slot < 14) return high + this.#reverseTree(SPECIAL + high - slot, low)
    let direct = 0
    for (let i = low - 4; i > 0; i--) {
      this.#range = this.#range >>> 1
      const bit = this.#code >= this.#range ? 1 : 0
      if (bit === 1) this.#code -= this.#range
      direct = ((direct << 1) | bit) >>> 0
      if (this.#range < TOP) this.#shift()
    }
    return (high + direct * 16 + this.#reverseTree(ALIGN, 4)) >>> 0
  }

  /** Which repeated distance comes first now; true for one byte at the latest. */
  #isShortRepeat(stateAndPosition: number): boolean {
    const state = this.#state
    if (this.#bit(IS_REP0 + state) === 0) return this.#bit(IS_REP0_LONG + stateAndPosition) === 0
    let distance = this.#rep1
    if (this.#bit(IS_REP1 + state) !== 0) {
      distance = this.#rep2
      if (this.#bit(IS_REP2 + state) !== 0) {
        distance = this.#rep3
        this.#rep3 = this.#rep2
      }
      this.#rep2 = this.#rep1
    }
    this.#rep1 = this.#rep0
    this.#rep0 = distance
    return false
  }

  #literal(): void {
    const { out, to } = this
    const before = to > this.start ? out[to - 1]! : 0
    const context = (((to - this.start) & this.#literalMask) << this.#contextBits) | (before >>> (8 - this.#contextBits))
    const base = LITERAL + context * 0x300
    let symbol = 1
    if (this.#state >= 7) {
      // After a match, the byte that the match would have given next chooses among the probabilities.
      let match = out[to - this.#rep0 - 1]!
      while (symbol < 0x100) {
        const matchBit = (match >>> 7) & 1
        match <<= 1
        const bit = this.#bit(base + ((1 + matchBit) << 8) + symbol)
        symbol = (symbol << 1) | bit
        if (bit !== matchBit) break
      }
    }
    while (symbol < 0x100) symbol = (symbol << 1) | this.#bit(base + symbol)
    out[to] = symbol & 0xff
    this.to = to + 1
    this.#state = this.#state < 4 ? 0 : this.#state - (this.#state < 10 ? 3 : 6)
  }

  /**
   * Decodes until `out` is filled up to `limit`, or to the end marker.
   * @returns whether it met the marker
   */
  decode(limit: number): boolean {
    const { out } = this
    while (this.to < limit) {
      if (this.at > this.end) throw corrupt('cut off')
      const positionState = (this.to - this.start) & this.#positionMask
      const stateAndPosition = this.#state * MAX_POSITION_STATES + positionState
      if (this.#bit(IS_MATCH + stateAndPosition) === 0) {
        this.#literal()
        continue
      }
      let length = 1
      if (this.#bit(IS_REP + this.#state) === 0) {
        this.#rep3 = this.#rep2
        this.#rep2 = this.#rep1
        this.#rep1 = this.#rep0
        length = this.#length(LENGTH, positionState)
        this.#rep0 = this.#distance(length)
        this.#state = this.#state < 7 ? 7 : 10
        if (this.#rep0 === END_MARKER) return true
      } else if (this.#isShortRepeat(stateAndPosition)) {
        this.#state = this.#state < 7 ? 9 : 11
      } else {
        length = this.#length(REP_LENGTH, positionState)
        this.#state = this.#state < 7 ? 8 : 11
      }
      const distance = this.#rep0 + 1
      if (distance > this.to - this.start) throw corrupt('a match begins before the data')
      if (length > limit - this.to) throw corrupt('it unpacks to more than it should')
      for (let i = this.to, end = i + length; i < end; i++) out[i] = out[i - distance]!
      this.to += length
    }
    if (this.at > this.end) throw corrupt('cut off')
    return false
  }

  /** The marker, where the size is known but one follows nevertheless. */
  takeMarker(): boolean {
    const positionState = (this.to - this.start) & this.#positionMask
    if (this.#bit(IS_MATCH + this.#state * MAX_POSITION_STATES + positionState) === 0) return false
    if (this.#bit(IS_REP + this.#state) !== 0) return false
    return this.#distance(this.#length(LENGTH, positionState)) === END_MARKER && this.at <= this.end
  }
}

/**
 * Unpacks LZMA2 chunks.
 * @param from where in `packed` they start
 * @param to where in `out` they go
 * @returns the place after the last chunk, and after the last byte written
 * @throws KerninstError 65 for data that are cut off, corrupt, or unpack to more than `out` holds
 */
export const unpackLzma2 = (
  packed: Uint8Array, from: number, out: Uint8Array, to: number,
): { at: number; to: number } => {
  const coder = new Lzma(packed, out, to)
  let needsDictionary = true
  let needsProperties = true
  let needsState = true
  for (let at = from; ; ) {
    if (at >= packed.length) throw corrupt('cut off')
    const control = packed[at]!
    if (control === 0) return { at: at + 1, to: coder.to }
    const isLzma = control >= 0x80
    if (!isLzma && control > 2) throw corrupt(`a chunk of kind ${control}`)
    const header = isLzma ? (control >= 0xc0 ? 6 : 5) : 3
    if (packed.length - at < header) throw corrupt('cut off')
    if (control >= 0xe0 || control === 1) {
      coder.start = coder.to
      needsDictionary = false
    } else if (needsDictionary) throw corrupt('the first chunk does not start a dictionary')
    const low = (packed[at + 1]! << 8) | packed[at + 2]!
    const unpacked = (isLzma ? (control & 0x1f) << 16 : 0) + low + 1
    if (unpacked > out.length - coder.to) throw corrupt('it unpacks to more than it should')
    if (!isLzma) {
      const bytes = packed.subarray(at + header, at + header + unpacked)
      if (bytes.length < unpacked) throw corrupt('cut off')
      out.set(bytes, coder.to)
      coder.to += unpacked
      at += header + unpacked
      if (control === 1) needsState = true
      continue
    }
    const length = ((packed[at + 3]! << 8) | packed[at + 4]!) + 1
    if (control >= 0xc0) {
      coder.setProperties(packed[at + 5]!)
      if (coder.contextAndLiteralBits > 4) throw corrupt('LZMA2 allows lc + lp of at most 4')
      needsProperties = false
    } else if (needsProperties) throw corrupt('a chunk lacks its properties')
    else if (control >= 0xa0) coder.resetState()
    else if (needsState) throw corrupt('a chunk lacks its state')
    needsState = false
    at += header
    if (length > packed.length - at) throw corrupt('cut off')
    coder.open(at, at + length)
    if (coder.decode(coder.to + unpacked)) throw corrupt('an end marker in LZMA2')
    if (coder.at !== at + length || !coder.finished) throw corrupt('a chunk does not end where it should')
    at += length
  }
}

/** An .lzma file's header: properties, u32 dictionary size, u64 unpacked size or all ones. */
const ALONE_HEADER = 13

/** Whether bytes look like an .lzma file as kernels have them (lc=3 lp=0 pb=2: `lzma -9`). */
export const looksLikeLzma = (packed: Uint8Array): boolean =>
  packed.length > ALONE_HEADER && packed[0] === 0x5d && packed[1] === 0 && packed[2] === 0

/**
 * Unpacks an .lzma file.
 * @param size what it must unpack to, in bytes
 * @throws KerninstError 65 for anything that is not an .lzma file of `size` bytes
 */
export const unpackLzma = (packed: Uint8Array, size: number): Uint8Array => {
  if (packed.length < ALONE_HEADER) throw corrupt('cut off')
  const stated = viewOf(packed).getBigUint64(5, true)
  const hasSize = stated !== 0xffff_ffff_ffff_ffffn
  if (hasSize && stated !== BigInt(size)) throw corrupt(`it says that it unpacks to ${stated} bytes, not ${size}`)
  const coder = new Lzma(packed, new Uint8Array(size), 0)
  coder.setProperties(packed[0]!)
  coder.open(ALONE_HEADER, packed.length)
  if (coder.decode(size)) throw corrupt(`it unpacks to ${coder.to} bytes, not ${size}`)
  if (!hasSize && !coder.takeMarker()) throw corrupt('no end marker')
  if (!coder.finished || coder.at !== packed.length) throw corrupt('it does not end where it should')
  return coder.out
}
