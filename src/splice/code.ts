// The patch code as it grows: bytes, and the fixups that complete them on the target (kmod/uapi/kerninst.h).

import { assert } from '../error.js'
import { FIXUP_KIND } from './tables.js'

/** A field that is completed on the target; `offset` from the start of the piece it belongs to. */
export interface Fixup {
  offset: number
  kind: number //  FIXUP_KIND
  value: number
  trail: number // bytes from the field's end to the instruction's end
}

export class CodeBuffer {
  #bytes = new Uint8Array(64)
  #length = 0
  readonly fixups: Fixup[] = []

  get length(): number {
    return this.#length
  }

  bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }

  emit(...bytes: number[]): void {
    this.append(Uint8Array.from(bytes))
  }

  /** Appends a piece with its fixups. */
  append(piece: Uint8Array, fixups: readonly Fixup[] = []): void {
    while (this.#length + piece.length > this.#bytes.length) {
      const grown = new Uint8Array(this.#bytes.length * 2)
      grown.set(this.#bytes)
      this.#bytes = grown
    }
    for (const fixup of fixups) {
      const offset = this.#length + fixup.offset
      const last = this.fixups.at(-1)
      assert(last === undefined || last.offset < offset, 'fixups must ascend')
      this.fixups.push({ ...fixup, offset })
    }
    this.#bytes.set(piece, this.#length)
    this.#length += piece.length
  }

  /** jmp rel32 to an rva of the kernel. */
  jumpTo(rva: number): void {
    this.append(Uint8Array.of(0xe9, 0, 0, 0, 0), [{ offset: 1, kind: FIXUP_KIND.rel32, value: rva, trail: 0 }])
  }

  /** Makes a 32-bit relative field, which has a fixup, lead to where the code goes on. */
  pointHere(field: number): void {
    const k = this.fixups.findLastIndex(({ offset }) => offset === field)
    assert(k >= 0 && this.fixups[k]!.kind === FIXUP_KIND.rel32, 'a field with a fixup')
    this.fixups.splice(k, 1)
    new DataView(this.#bytes.buffer).setInt32(field, this.#length - (field + 4), true)
  }

  /** The fixups, as tables. */
  fixupTables(): { fixupCount: number; fixupOffset: Uint32Array; fixupValue: Uint32Array; fixupKind: Uint8Array; fixupTrail: Uint8Array } {
    return {
      fixupCount: this.fixups.length,
      fixupOffset: Uint32Array.from(this.fixups, (f) => f.offset),
      fixupValue: Uint32Array.from(this.fixups, (f) => f.value),
      fixupKind: Uint8Array.from(this.fixups, (f) => f.kind),
      fixupTrail: Uint8Array.from(this.fixups, (f) => f.trail),
    }
  }

  /** Fills with int3 up to a multiple of `alignment`. */
  align(alignment: number): void {
    while (this.#length % alignment !== 0) this.emit(0xcc)
  }
}
