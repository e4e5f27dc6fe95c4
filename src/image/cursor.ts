// Bytes of a section of debug information, read in order. In: the bytes. Out: numbers and texts, as DWARF writes them (DWARF 5,
// 7.4 and 7.6). Invariant: nothing is read outside; who tries gets a RangeError.

/** Bytes of one section, read in order; whatever leads outside ends the reading with a RangeError. */
export class Cursor {
  readonly bytes: Uint8Array
  readonly #view: DataView
  at = 0
  end: number

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    this.end = bytes.length
  }

  #take(count: number): number {
    if (this.at + count > this.end) throw new RangeError('cut off')
    this.at += count
    return this.at - count
  }

  u8(): number {
    return this.bytes[this.#take(1)]!
  }

  s8(): number {
    return this.#view.getInt8(this.#take(1))
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true)
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  /** As far as it fits a number exactly. */
  u64(): number {
    const low = this.u32()
    const high = this.u32()
    if (high > 0x1f_ffff) throw new RangeError('too large')
    return high * 2 ** 32 + low
  }

  skip(count: number): void {
    this.#take(count)
  }

  /** LEB128, as far as it fits a number exactly. */
  unsigned(): number {
    let value = 0
    let scale = 1
    for (;;) {
      const byte = this.u8()
      value += (byte & 0x7f) * scale
      if (byte < 0x80) return value
      scale *= 128
      if (scale > 2 ** 49) throw new RangeError('too large')
    }
  }

  signed(): number {
    let value = 0
    let scale = 1
    for (;;) {
      const byte = this.u8()
      value += (byte & 0x7f) * scale
      scale *= 128
      if (byte < 0x80) return byte & 0x40 ? value - scale : value
      if (scale > 2 ** 49) throw new RangeError('too large')
    }
  }

  /** Skips LEB128 of any size. */
  leb(): void {
    while (this.u8() >= 0x80);
  }

  skipText(): void {
    while (this.u8() !== 0);
  }

  /**
   * Reads a section that is a row of units (7.4), each within its own end.
   * @param read is told where the unit starts and whether its offsets have 64 bits; the cursor is behind its length
   */
  eachUnit(read: (start: number, wide: boolean) => void): void {
    const all = this.end
    while (this.at < all) {
      this.end = all
      const start = this.at
      let length = this.u32()
      const wide = length === 0xffff_ffff
      if (wide) length = this.u64()
      const end = this.at + length
      if (end > all) throw new RangeError('cut off')
      this.end = end
      read(start, wide)
      this.at = end
    }
  }

  text(): string {
    const start = this.at
    this.skipText()
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + start, this.at - 1 - start).toString('utf8')
  }
}

/** A text that lies in another section. */
export const textAt = (from: Uint8Array, offset: number): string => {
  if (offset >= from.length) throw new RangeError('a name outside its section')
  const end = from.indexOf(0, offset)
  return Buffer.from(from.buffer, from.byteOffset + offset, (end < 0 ? from.length : end) - offset).toString('utf8')
}
