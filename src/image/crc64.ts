// The CRC-64 of XZ (ECMA-182's polynomial, bits reversed, inverted before and after), eight bytes, little-endian.
// A 64-bit remainder is kept as two halves; JavaScript's integers have 32 bits.

import { viewOf } from './address.js'

const POLYNOMIAL_LOW = 0xd7870f42
const POLYNOMIAL_HIGH = 0xc96c5795

const LOW = new Uint32Array(256) //  byte -> its remainder, low half
const HIGH = new Uint32Array(256) // byte -> high half
for (let byte = 0; byte < 256; byte++) {
  let low = byte
  let high = 0
  for (let bit = 0; bit < 8; bit++) {
    const carry = low & 1
    low = (low >>> 1) | ((high & 1) << 31)
    high >>>= 1
    if (carry === 0) continue
    low ^= POLYNOMIAL_LOW
    high ^= POLYNOMIAL_HIGH
  }
  LOW[byte] = low
  HIGH[byte] = high
}

export const crc64 = (bytes: Uint8Array): Uint8Array => {
  let low = -1
  let high = -1
  for (let i = 0; i < bytes.length; i++) {
    const index = (low ^ bytes[i]!) & 0xff
    low = ((low >>> 8) | (high << 24)) ^ LOW[index]!
    high = (high >>> 8) ^ HIGH[index]!
  }
  const sum = new Uint8Array(8)
  viewOf(sum).setInt32(0, ~low, true)
  viewOf(sum).setInt32(4, ~high, true)
  return sum
}
