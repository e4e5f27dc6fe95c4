// In: little-endian 64-bit words of the image. Out: rvas. Tables hold hundreds of thousands of addresses, so the words
// are read as two 32-bit halves instead of as a BigInt each.

import { NONE, type Rva } from './rva.js'

/** Reads the u64 at byte `at` of a view as an rva, or NONE where it is no address of the image (see toRva). */
export type AddressReader = (view: DataView, at: number) => Rva

export const addressReader = (base: bigint): AddressReader => {
  const baseLow = Number(base & 0xffffffffn)
  const baseHigh = Number(base >> 32n)
  return (view, at) => {
    // Exact where it matters: a difference that does not fit 53 bits is far out of range anyway.
    const offset = (view.getUint32(at + 4, true) - baseHigh) * 0x1_0000_0000 + view.getUint32(at, true) - baseLow
    return offset >= 0 && offset < NONE ? offset : NONE
  }
}

export const viewOf = (bytes: Uint8Array): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
