// Numbers for instructions by their bytes, from 0 on: the same bytes, the same number. For whoever asks a decoder about a
// million instructions, and need not ask twice. A hash table with open addressing: Map takes strings, and making one of the
// bytes each time costs as much as decoding them.

/** No instruction is longer; nothing longer may be asked for. */
export const MAX_LENGTH = 15

/** Of a new table: room for half as many instructions. */
const FIRST_BUCKETS = 1 << 12

/** FNV-1a over bytes [at, end). */
const hash = (bytes: Uint8Array, at: number, end: number): number => {
  let h = 0x811c9dc5
  for (let i = at; i < end; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193)
  return h ^ (h >>> 15)
}

export class InstructionSet {
  #count = 0
  #length = new Uint8Array(FIRST_BUCKETS / 2) //             number -> how many bytes
  #bytes = new Uint8Array((MAX_LENGTH * FIRST_BUCKETS) / 2) // MAX_LENGTH * number -> the bytes
  #bucket = new Uint32Array(FIRST_BUCKETS) //                hash -> number + 1, or 0

  /** The number of bytes[at, at + length): the next one, where it has none yet. */
  numberOf(bytes: Uint8Array, at: number, length: number): number {
    const bucket = this.#find(bytes, at, length)
    if (this.#bucket[bucket] !== 0) return this.#bucket[bucket]! - 1
    const number = this.#count++
    this.#length[number] = length
    for (let i = 0; i < length; i++) this.#bytes[MAX_LENGTH * number + i] = bytes[at + i]!
    this.#bucket[bucket] = number + 1
    if (2 * this.#count === this.#bucket.length) this.#grow()
    return number
  }

  /** The bucket of an instruction: the one that holds it, or the empty one where it belongs. */
  #find(bytes: Uint8Array, at: number, length: number): number {
    const mask = this.#bucket.length - 1
    let bucket = hash(bytes, at, at + length) & mask
    while (this.#bucket[bucket] !== 0 && !this.#is(this.#bucket[bucket]! - 1, bytes, at, length)) bucket = (bucket + 1) & mask
    return bucket
  }

  #is(number: number, bytes: Uint8Array, at: number, length: number): boolean {
    if (this.#length[number] !== length) return false
    const from = MAX_LENGTH * number
    for (let i = 0; i < length; i++) if (this.#bytes[from + i] !== bytes[at + i]) return false
    return true
  }

  #grow(): void {
    const { length } = this.#bucket
    const lengths = new Uint8Array(length)
    lengths.set(this.#length)
    this.#length = lengths
    const bytes = new Uint8Array(MAX_LENGTH * length)
    bytes.set(this.#bytes)
    this.#bytes = bytes
    this.#bucket = new Uint32Array(2 * length)
    for (let n = 0; n < this.#count; n++) this.#bucket[this.#find(bytes, MAX_LENGTH * n, lengths[n]!)] = n + 1
  }
}
