// From an instruction's bytes to a key: 32 bits that say all that its facts (facts.ts) depend on. Two instructions with
// one key have the same facts; one instruction may have several keys. Displacements and immediates are not in it, except
// for what effects depend on: counts of shifts, and logic with 0 or -1.
//
// The key, from bit 0 up:
//   8 opcode · 2 map (0 one byte, 1 0F, 2 0F 38, 3 0F 3A) · 8 ModRM · 6 slot · 5 REX (B X R W present) · 3 prefixes
// slot: index and base of the SIB byte where the form has one (its scale changes nothing here); else, for some opcodes,
// what matters of the immediate; else 0. Segment prefixes and repeated ones change nothing but the length, so they are
// skipped. Opcodes that have no ModRM byte leave its bits 0.
//
// No key, so iced is asked each time: VEX, EVEX, XOP, 3DNow!, address size 67, two of F2, F3 and F0 together, a REX
// prefix that another prefix follows, shifts of [SIB] by odd counts, and what is not wholly before the end.

const PREFIX = { operandSize: 1, rep: 2, repne: 4, lock: 8 } as const

/** Prefix bits (index) -> their number in the key, or ODD. */
const ODD = 0xff
const PREFIX_NUMBER = new Uint8Array(16).fill(ODD)
for (const [number, bits] of [
  0, PREFIX.operandSize, PREFIX.rep, PREFIX.repne, PREFIX.lock, PREFIX.operandSize | PREFIX.lock,
  PREFIX.operandSize | PREFIX.rep, PREFIX.operandSize | PREFIX.repne,
].entries()) PREFIX_NUMBER[bits] = number

// What follows an opcode.
const KIND = { bare: 0, modrm: 1, count: 2, logic8: 3, logic: 4, bareLogic8: 5, bareLogic: 6, odd: 7 } as const

/** map * 256 + opcode -> KIND */
const KINDS = new Uint8Array(4 * 256).fill(KIND.modrm)
{
  const set = (kind: number, ...opcodes: number[]): void => {
    for (const opcode of opcodes) KINDS[opcode] = kind
  }
  const span = (kind: number, first: number, last: number): void => {
    for (let opcode = first; opcode <= last; opcode++) KINDS[opcode] = kind
  }
  // One byte: SDM volume 2, appendix A, table A-2.
  for (let row = 0; row < 0x40; row += 8) span(KIND.bare, row + 4, row + 7)
  span(KIND.bare, 0x40, 0x62)
  set(KIND.bare, 0x68, 0x6a)
  span(KIND.bare, 0x6c, 0x7f)
  span(KIND.bare, 0x90, 0xbf)
  set(KIND.bare, 0xc2, 0xc3)
  span(KIND.bare, 0xc8, 0xcf)
  span(KIND.bare, 0xd4, 0xd7)
  span(KIND.bare, 0xe0, 0xf5)
  span(KIND.bare, 0xf8, 0xfd)
  set(KIND.odd, 0x62, 0x82, 0x8f, 0xc4, 0xc5, 0xc8, 0xd5, 0xd6)
  set(KIND.count, 0xc0, 0xc1)
  set(KIND.logic8, 0x80, 0x83)
  set(KIND.logic, 0x81)
  set(KIND.bareLogic8, 0x0c, 0x24)
  set(KIND.bareLogic, 0x0d, 0x25)
  // 0F: table A-3.
  const set0f = (kind: number, ...opcodes: number[]): void => set(kind, ...opcodes.map((opcode) => 0x100 | opcode))
  set0f(KIND.bare, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0b, 0x0e, 0x77, 0xa0, 0xa1, 0xa2, 0xa8, 0xa9, 0xaa)
  span(KIND.bare, 0x130, 0x135)
  KINDS[0x137] = KIND.bare
  span(KIND.bare, 0x180, 0x18f)
  span(KIND.bare, 0x1c8, 0x1cf)
  set0f(KIND.count, 0xa4, 0xac)
  set0f(KIND.odd, 0x04, 0x0a, 0x0c, 0x0f, 0x1a, 0x1b, 0x24, 0x25, 0x26, 0x27, 0x36, 0x39, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
    0xa6, 0xa7)
}

/** byte -> 0 when it is no prefix; PREFIX; SEGMENT, REX or the address size, which gives no key */
const SEGMENT = 0x10
const REX = 0x20
const ADDRESS_SIZE = 0x40
const PREFIX_OF = new Uint8Array(256)
PREFIX_OF[0x66] = PREFIX.operandSize
PREFIX_OF[0xf3] = PREFIX.rep
PREFIX_OF[0xf2] = PREFIX.repne
PREFIX_OF[0xf0] = PREFIX.lock
PREFIX_OF[0x67] = ADDRESS_SIZE
for (const byte of [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65]) PREFIX_OF[byte] = SEGMENT
for (let byte = 0x40; byte < 0x50; byte++) PREFIX_OF[byte] = REX

const REX_W = 8
const MODRM_SHIFT = 10
const SLOT_SHIFT = 18
const REX_SHIFT = 24
const PREFIX_SHIFT = 29

/** -> 1 where `size` bytes are all 0, 2 where all are 0xff, else 0. */
const uniform = (bytes: Uint8Array, at: number, size: number): number => {
  const first = bytes[at]!
  if (first !== 0 && first !== 0xff) return 0
  for (let i = 1; i < size; i++) if (bytes[at + i] !== first) return 0
  return first === 0 ? 1 : 2
}

/** Reads keys; one per user, since the result of `read` that is not returned stays in it. */
export class KeyReader {
  /** The last instruction's key; valid when `read` returned a place. */
  key = 0

  /**
   * Reads the instruction at `at`, which ends before `end`.
   * @returns the place of its opcode (of the first byte, 0F for the long maps), or -1 when it has no key
   */
  read(bytes: Uint8Array, at: number, end: number): number {
    let p = at
    if (p >= end) return -1
    let byte = bytes[p]!
    let prefixes = 0
    let rex = 0
    let kind = PREFIX_OF[byte]!
    if (kind !== 0) {
      while (kind !== 0 && kind !== REX) {
        if (kind === ADDRESS_SIZE) return -1
        prefixes |= kind
        if (++p >= end) return -1
        byte = bytes[p]!
        kind = PREFIX_OF[byte]!
      }
      if (kind === REX) {
        rex = ((byte & 15) << 1) | 1
        if (++p >= end) return -1
        byte = bytes[p]!
        if (PREFIX_OF[byte] !== 0) return -1
      }
    }
    const opcodeAt = p
    let code = byte
    if (byte === 0x0f) {
      if (++p >= end) return -1
      byte = bytes[p]!
      code = 0x100 | byte
      if (byte === 0x38 || byte === 0x3a) {
        if (++p >= end) return -1
        code = (byte === 0x38 ? 0x200 : 0x300) | bytes[p]!
      }
    }
    p++
    kind = KINDS[code]!
    if (kind === KIND.odd) return -1
    const number = PREFIX_NUMBER[prefixes & 15]!
    if (number === ODD) return -1
    let key = code | (rex << REX_SHIFT) | (number << PREFIX_SHIFT)
    if (kind === KIND.bare) {
      this.key = key
      return opcodeAt
    }
    if (kind < KIND.bareLogic8) {
      if (p >= end) return -1
      const modrm = bytes[p++]!
      key |= modrm << MODRM_SHIFT
      if (modrm < 0xc0) {
        if ((modrm & 7) === 4) {
          if (p >= end) return -1
          const sib = bytes[p++]!
          key |= (sib & 0x3f) << SLOT_SHIFT
          if (kind === KIND.count) {
            p += modrm >= 0x80 ? 4 : modrm >= 0x40 ? 1 : (sib & 7) === 5 ? 4 : 0
            if (p >= end || !plainCount(code, modrm, bytes[p]!)) return -1
          }
        } else if (kind === KIND.count) {
          p += modrm >= 0x80 ? 4 : modrm >= 0x40 ? 1 : (modrm & 7) === 5 ? 4 : 0
          if (p >= end) return -1
          const slot = countSlot(code, modrm, bytes[p]!)
          if (slot < 0) return -1
          key |= slot << SLOT_SHIFT
        }
        this.key = key
        return opcodeAt
      }
      if (kind === KIND.modrm) {
        this.key = key
        return opcodeAt
      }
      if (kind === KIND.count) {
        if (p >= end) return -1
        const slot = countSlot(code, modrm, bytes[p]!)
        if (slot < 0) return -1
        this.key = key | (slot << SLOT_SHIFT)
        return opcodeAt
      }
    }
    // Logic with an immediate and a register.
    const size = kind === KIND.logic8 || kind === KIND.bareLogic8 ? 1
      : prefixes & PREFIX.operandSize && !(rex & (REX_W << 1)) ? 2 : 4
    if (p + size > end) return -1
    this.key = key | (uniform(bytes, p, size) << SLOT_SHIFT)
    return opcodeAt
  }
}

// shl, shr, sar: every count that does not leave the flags alone is like 1. Rotates and double shifts differ by count.
const plainCount = (code: number, modrm: number, count: number): boolean =>
  code < 0x100 && (modrm & 0x20) !== 0 && (count & 0x1f) !== 0

/** -> the slot for a shift's count, or -1 when it does not fit. */
const countSlot = (code: number, modrm: number, count: number): number =>
  plainCount(code, modrm, count) ? 1 : count < 0x40 ? count : -1
