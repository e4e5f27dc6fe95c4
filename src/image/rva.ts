// Addresses inside src/ are rvas: unsigned 32-bit offsets from the image's base (the link-time address of _text).
// A kernel address does not fit a JavaScript number; BigInt appears only here, where files are read, and where
// addresses are printed or written.

export type Rva = number

/** No address, no index. */
export const NONE = 0xffffffff

/** The link-time address of an rva. */
export const toAddress = (base: bigint, rva: Rva): bigint => base + BigInt(rva)

/** The rva of an address, or NONE where it lies below the base or 4 GiB or more above it. */
export const toRva = (base: bigint, address: bigint): Rva => {
  const offset = address - base
  return offset >= 0n && offset < 0xffffffffn ? Number(offset) : NONE
}

export const hex = (value: number | bigint): string => '0x' + value.toString(16)
