// The patch code as it grows: bytes, and the fixups that complete them on the target (kmod/uapi/kerninst.h). A plan of a
// whole kernel has a million fixups, so they are kept in columns.

import { assert } from '../error.js'
import { FIXUP_KIND } from './tables.js'

export interface FixupTables {
  fixupCount: number
  fixupOffset: Uint32Array
  fixupValue: Uint32Array
  fixupKind: Uint8Array
  fixupTrail: Uint8Array
}

const FIRST_BYTES = 256
const FIRST_FIXUPS = 64

const grownBytes = (old: Uint8Array, length: number): Uint8Array => {
  const grown = new Uint8Array(length)
  grown.set(old)
  return grown
}

const grownWords = (old: Uint32Array, length: number): Uint32Array => {
  const grown = new Uint32Array(length)
  grown.set(old)
  return grown
}

export class CodeBuffer {
  #bytes: Uint8Array = new Uint8Array(FIRST_BYTES)
  #length = 0
  #fixups = 0
  #offset: Uint32Array = new Uint32Array(FIRST_FIXUPS)
  #value: Uint32Array = new Uint32Array(FIRST_FIXUPS)
  #kind: Uint8Array = new Uint8Array(FIRST_FIXUPS)
  #trail: Uint8Array = new Uint8Array(FIRST_FIXUPS)

  get length(): number {
    return this.#length
  }

  /** A view, good until more is appended. */
  bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#length)
  }

  #reserve(more: number): void {
    const needed = this.#length + more
    if (needed > this.#bytes.length) this.#bytes = grownBytes(this.#bytes, Math.max(needed, this.#bytes.length * 2))
  }

  emit(...bytes: number[]): void {
    this.#reserve(bytes.length)
    for (let i = 0; i < bytes.length; i++) this.#bytes[this.#length++] = bytes[i]!
  }

  /** One byte. */
  byte(value: number): void {
    this.#reserve(1)
    this.#bytes[this.#length++] = value
  }

  /** Four bytes, the lowest first. */
  word(value: number): void {
    this.#reserve(4)
    this.#putWord(this.#length, value)
    this.#length += 4
  }

  #putWord(at: number, value: number): void {
    const bytes = this.#bytes
    bytes[at] = value
    bytes[at + 1] = value >>> 8
    bytes[at + 2] = value >>> 16
    bytes[at + 3] = value >>> 24
  }

  /** A copy of from[start, end). */
  copy(from: Uint8Array, start: number, end: number): void {
    this.#reserve(end - start)
    const bytes = this.#bytes
    for (let i = start; i < end; i++) bytes[this.#length++] = from[i]!
  }

  /** Four zeros, to be filled in on the target; `trail` bytes of the same instruction follow. */
  field(kind: number, value: number, trail: number): void {
    this.fixup(this.#length, kind, value, trail)
    this.word(0)
  }

  /** A fixup of the field at `offset`, behind those that there are. */
  fixup(offset: number, kind: number, value: number, trail: number): void {
    const n = this.#fixups
    assert(n === 0 || this.#offset[n - 1]! < offset, 'fixups must ascend')
    if (n === this.#offset.length) {
      this.#offset = grownWords(this.#offset, 2 * n)
      this.#value = grownWords(this.#value, 2 * n)
      this.#kind = grownBytes(this.#kind, 2 * n)
      this.#trail = grownBytes(this.#trail, 2 * n)
    }
    this.#offset[n] = offset
    this.#value[n] = value
    this.#kind[n] = kind
    this.#trail[n] = trail
    this.#fixups = n + 1
  }

  /** jmp rel32 to an rva of the kernel. */
  jumpTo(rva: number): void {
    this.byte(0xe9)
    this.field(FIXUP_KIND.rel32, rva, 0)
  }

  /** Makes a 32-bit relative field, which has a fixup, lead to where the code goes on. */
  pointHere(field: number): void {
    let k = this.#fixups - 1
    while (k >= 0 && this.#offset[k]! > field) k--
    assert(k >= 0 && this.#offset[k] === field && this.#kind[k] === FIXUP_KIND.rel32, 'a field with a fixup')
    // Few fixups lie behind it: those of one patch.
    this.#fixups--
    for (; k < this.#fixups; k++) {
      this.#offset[k] = this.#offset[k + 1]!
      this.#value[k] = this.#value[k + 1]!
      this.#kind[k] = this.#kind[k + 1]!
      this.#trail[k] = this.#trail[k + 1]!
    }
    this.#putWord(field, this.#length - (field + 4))
  }

  /** The fixups, as tables: views, likewise. */
  fixupTables(): FixupTables {
    const count = this.#fixups
    return {
      fixupCount: count,
      fixupOffset: this.#offset.subarray(0, count),
      fixupValue: this.#value.subarray(0, count),
      fixupKind: this.#kind.subarray(0, count),
      fixupTrail: this.#trail.subarray(0, count),
    }
  }

  /** Fills with int3 up to a multiple of `alignment`. */
  align(alignment: number): void {
    while (this.#length % alignment !== 0) this.byte(0xcc)
  }
}
