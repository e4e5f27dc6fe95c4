// Instructions, written one after the other: the few forms that compiled probes are made of, with forward jumps to labels.
// In: which registers, which slot. Out: bytes and fixups in a CodeBuffer. Jumps are as short as they can be, so nothing is
// put into the buffer before all is known.
// Left out: what the instructions are for (compile.ts), and which registers may be used.

import { assert } from '../error.js'
import type { CodeBuffer } from './code.js'
import { FIXUP_KIND } from './tables.js'

/** Number of a 64-bit register, as instructions have it. */
export type Register = number

export const REG = { rax: 0, rcx: 1, rdx: 2, rsp: 4 } as const

/** Conditions, by their number in jcc and setcc. Even and odd of a pair are each other's opposite. */
export const CONDITION = {
  o: 0, no: 1, b: 2, ae: 3, e: 4, ne: 5, be: 6, a: 7, s: 8, ns: 9, l: 12, ge: 13, le: 14, g: 15,
} as const
export type Condition = number

/** Arithmetic with two operands: the number in its immediate form; eight times that, plus one, is its opcode. */
export const ALU = { add: 0, or: 1, and: 4, sub: 5, xor: 6, cmp: 7 } as const
export const SHIFT = { shl: 4, shr: 5, sar: 7 } as const

/** Where a jump leads to: made before, placed once. */
export interface Label {
  item: number // index of the item that it stands before, or -1
}

interface Bytes {
  readonly bytes: ArrayLike<number> & Iterable<number>
  readonly raw?: boolean // as somebody else wrote them
  /** A field of these bytes that is completed on the target. */
  readonly fixup?: { readonly at: number; readonly kind: number; readonly value: number }
}

interface Jump {
  readonly condition: Condition | undefined // undefined: always
  readonly label: Label
  long: boolean
}

const low = (r: Register): number => r & 7
const fitsByte = (value: number): boolean => value >= -128 && value <= 127
const word = (value: number): number[] => [value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24]

/** Whether a number of 64 bits is the sign extension of its low 32. */
export const fitsImmediate = (value: bigint): boolean => BigInt.asUintN(64, BigInt.asIntN(32, value)) === value

export class InstructionWriter {
  readonly #items: (Bytes | Jump)[] = []

  label(): Label {
    return { item: -1 }
  }

  place(label: Label): void {
    assert(label.item === -1, 'a label stands at one place')
    label.item = this.#items.length
  }

  #put(...bytes: number[]): void {
    this.#items.push({ bytes })
  }

  // ---- operands

  /** REX prefix, opcode and two registers: `reg` is the operand of the reg field, `rm` of the other. */
  #two(wide: boolean, opcode: readonly number[], reg: Register, rm: Register, byte = false): void {
    const rex = (wide ? 8 : 0) | ((reg >>> 3) << 2) | (rm >>> 3)
    // Without a prefix, the low bytes of rsp, rbp, rsi and rdi are those of others.
    const needed = rex !== 0 || (byte && (rm >= 4 || reg >= 4))
    this.#put(...(needed ? [0x40 | rex] : []), ...opcode, 0xc0 | (low(reg) << 3) | low(rm))
  }

  /** The same with memory: base + displacement, and an index of eight-byte words. */
  #memory(
    prefix: readonly number[], wide: boolean, opcode: readonly number[], reg: number, base: Register, displacement: number, index?: Register,
    immediate: readonly number[] = [],
  ): void {
    const rex = (wide ? 8 : 0) | ((reg >>> 3) << 2) | ((index ?? 0) >>> 3 << 1) | (base >>> 3)
    const sib = index !== undefined || low(base) === 4
    const size = displacement === 0 && low(base) !== 5 ? 0 : fitsByte(displacement) ? 1 : 2
    assert(index !== REG.rsp, 'no index in rsp')
    this.#put(
      ...prefix, ...(rex !== 0 ? [0x40 | rex] : []), ...opcode,
      (size << 6) | (low(reg) << 3) | (sib ? 4 : low(base)),
      ...(sib ? [((index === undefined ? 0 : 3) << 6) | ((index === undefined ? 4 : low(index)) << 3) | low(base)] : []),
      ...(size === 1 ? [displacement & 255] : size === 2 ? word(displacement) : []),
      ...immediate,
    )
  }

  // ---- registers

  move(to: Register, from: Register): void {
    if (to !== from) this.#two(true, [0x89], from, to)
  }

  /** A number of 64 bits; flags stay. */
  load(to: Register, value: bigint): void {
    const number = BigInt.asUintN(64, value)
    if (number < 1n << 32n) this.#put(...(to >= 8 ? [0x41] : []), 0xb8 | low(to), ...word(Number(number)))
    else if (fitsImmediate(number)) this.#put(0x48 | (to >>> 3), 0xc7, 0xc0 | low(to), ...word(Number(BigInt.asIntN(32, number))))
    else this.#put(0x48 | (to >>> 3), 0xb8 | low(to), ...word(Number(number & 0xffffffffn)), ...word(Number(number >> 32n)))
  }

  /** What the kernel lies above its link-time place. */
  loadSlide(to: Register): void {
    this.#items.push({
      bytes: [0x48 | (to >>> 3), 0xc7, 0xc0 | low(to), 0, 0, 0, 0], fixup: { at: 3, kind: FIXUP_KIND.abs32, value: 0 },
    })
  }

  /** The per-CPU pointer of a slot. */
  loadSlot(to: Register, slot: number): void {
    this.#items.push({
      bytes: [0x48 | (to >>> 3), 0xb8 | low(to), 0, 0, 0, 0, 0, 0, 0, 0], fixup: { at: 2, kind: FIXUP_KIND.slot64, value: slot },
    })
  }

  /** The address of a frame word. */
  loadFrame(to: Register, word: number): void {
    this.#items.push({
      bytes: [0x48 | (to >>> 3), 0xb8 | low(to), 0, 0, 0, 0, 0, 0, 0, 0], fixup: { at: 2, kind: FIXUP_KIND.frame64, value: word },
    })
  }

  /** @param operation of ALU */
  alu(operation: number, to: Register, from: Register): void {
    this.#two(true, [operation * 8 + 1], from, to)
  }

  /** @param value as a signed number of 32 bits */
  aluImmediate(operation: number, to: Register, value: number): void {
    const rex = 0x48 | (to >>> 3)
    const modrm = 0xc0 | (operation << 3) | low(to)
    if (fitsByte(value)) this.#put(rex, 0x83, modrm, value & 255)
    else this.#put(rex, 0x81, modrm, ...word(value))
  }

  test(a: Register, b: Register): void {
    this.#two(true, [0x85], b, a)
  }

  testImmediate(a: Register, value: number): void {
    this.#put(0x48 | (a >>> 3), 0xf7, 0xc0 | low(a), ...word(value))
  }

  multiply(to: Register, by: Register): void {
    this.#two(true, [0x0f, 0xaf], to, by)
  }

  multiplyImmediate(to: Register, from: Register, by: number): void {
    const rex = 0x48 | (to >>> 3 << 2) | (from >>> 3)
    const modrm = 0xc0 | (low(to) << 3) | low(from)
    if (fitsByte(by)) this.#put(rex, 0x6b, modrm, by & 255)
    else this.#put(rex, 0x69, modrm, ...word(by))
  }

  negate(r: Register): void {
    this.#two(true, [0xf7], 3, r)
  }

  complement(r: Register): void {
    this.#two(true, [0xf7], 2, r)
  }

  /** rdx:rax by a register: quotient in rax, remainder in rdx. */
  divide(by: Register): void {
    this.#two(true, [0xf7], 6, by)
  }

  /** rax by a register: all 128 bits, in rdx:rax. */
  multiplyWide(by: Register): void {
    this.#two(true, [0xf7], 4, by)
  }

  /** Shifts right; bits come in from the low end of `from`. */
  shiftDouble(to: Register, from: Register, by: number): void {
    this.#two(true, [0x0f, 0xac], from, to)
    this.#put(by)
  }

  /** @param operation of SHIFT */
  shiftImmediate(operation: number, r: Register, by: number): void {
    if (by !== 0) this.#put(0x48 | (r >>> 3), 0xc1, 0xc0 | (operation << 3) | low(r), by)
  }

  /** By cl, modulo 64. */
  shiftByCl(operation: number, r: Register): void {
    this.#two(true, [0xd3], operation, r)
  }

  /** The highest set bit; ZF where there is none, and then the register is anything. */
  bitScan(to: Register, from: Register): void {
    this.#two(true, [0x0f, 0xbd], to, from)
  }

  /** to = from + displacement; flags stay. */
  address(to: Register, from: Register, displacement: number): void {
    this.#memory([], true, [0x8d], to, from, displacement)
  }

  /** 0 or 1; flags stay. */
  setCondition(to: Register, condition: Condition): void {
    this.#two(false, [0x0f, 0x90 | condition], 0, to, true)
    this.#two(false, [0x0f, 0xb6], to, to, true)
  }

  /** The low bits of a register, extended to 64. */
  extend(to: Register, from: Register, bits: 8 | 16 | 32 | 64, signed: boolean): void {
    if (bits === 64) return this.move(to, from)
    if (bits === 32) return signed ? this.#two(true, [0x63], to, from) : this.#two(false, [0x89], from, to)
    const opcode = (signed ? 0xbe : 0xb6) | (bits === 16 ? 1 : 0)
    this.#two(signed, [0x0f, opcode], to, from, bits === 8)
  }

  /** The time-stamp counter, in edx:eax. */
  timestamp(): void {
    this.#put(0x0f, 0x31)
  }

  // ---- flags and the stack

  /** SF, ZF, AF, PF and CF in ah; with OF in al. */
  saveFlags(overflow: boolean): void {
    this.#put(0x9f)
    if (overflow) this.#put(0x0f, 0x90, 0xc0)
  }

  /** Back from there: adding 127 to al overflows exactly where it is 1. */
  restoreFlags(overflow: boolean): void {
    if (overflow) this.#put(0x04, 0x7f)
    this.#put(0x9e)
  }

  push(r: Register): void {
    this.#put(...(r >= 8 ? [0x41] : []), 0x50 | low(r))
  }

  pop(r: Register): void {
    this.#put(...(r >= 8 ? [0x41] : []), 0x58 | low(r))
  }

  /** A word of the stack, so many bytes above %rsp. */
  loadStack(to: Register, displacement: number): void {
    this.#memory([], true, [0x8b], to, REG.rsp, displacement)
  }

  // ---- memory

  /** A per-CPU variable of the kernel, of 32 or 64 bits. */
  loadPerCpu(to: Register, offset: number, wide: boolean): void {
    const rex = (wide ? 8 : 0) | (to >>> 3 << 2)
    this.#put(0x65, ...(rex !== 0 ? [0x40 | rex] : []), 0x8b, (low(to) << 3) | 4, 0x25, ...word(offset))
  }

  /** 32 bits behind a pointer. */
  loadField(to: Register, base: Register, offset: number): void {
    this.#memory([], false, [0x8b], to, base, offset)
  }

  /** One is added to the slot at pointer + displacement + 8 * index, in one instruction. */
  countSlot(pointer: Register, displacement: number, index?: Register): void {
    this.#memory([0x65], true, [0xff], 0, pointer, displacement, index)
  }

  addSlot(pointer: Register, displacement: number, index: Register | undefined, value: Register): void {
    this.#memory([0x65], true, [0x01], value, pointer, displacement, index)
  }

  loadFromSlot(to: Register, pointer: Register, index?: Register): void {
    this.#memory([0x65], true, [0x8b], to, pointer, 0, index)
  }

  /** The slot becomes `value`, and ZF set, where it was what rax is; else rax is what it was. */
  exchangeSlot(pointer: Register, index: Register | undefined, value: Register): void {
    this.#memory([0x65], true, [0x0f, 0xb1], value, pointer, 0, index)
  }

  // ---- frame words, at pointer + displacement + 8 * index

  loadWord(to: Register, pointer: Register, displacement: number, index?: Register): void {
    this.#memory([], true, [0x8b], to, pointer, displacement, index)
  }

  storeWord(pointer: Register, displacement: number, index: Register, value: Register): void {
    this.#memory([], true, [0x89], value, pointer, displacement, index)
  }

  /** The word becomes zero. */
  clearWord(pointer: Register, displacement: number, index: Register): void {
    this.#memory([], true, [0xc7], 0, pointer, displacement, index, [0, 0, 0, 0])
  }

  compareWord(r: Register, pointer: Register, displacement: number, index?: Register): void {
    this.#memory([], true, [0x3b], r, pointer, displacement, index)
  }

  /** @param operation of ALU: add or sub */
  changeWord(operation: number, pointer: Register, displacement: number, index: Register, by: Register): void {
    this.#memory([], true, [operation * 8 + 1], by, pointer, displacement, index)
  }

  /** The word becomes `value`, for all CPUs at once, and ZF set, where it was what rax is; else rax is what it was. */
  claimWord(pointer: Register, displacement: number, index: Register, value: Register): void {
    this.#memory([0xf0], true, [0x0f, 0xb1], value, pointer, displacement, index)
  }

  // ---- jumps

  jump(label: Label): void {
    this.#items.push({ condition: undefined, label, long: false })
  }

  jumpIf(condition: Condition, label: Label): void {
    this.#items.push({ condition, label, long: false })
  }

  /** Instructions that are given as bytes. */
  raw(bytes: Uint8Array): void {
    this.#items.push({ bytes, raw: true })
  }

  /**
   * Appends all that was written. Every label is placed by now, behind the jumps to it.
   * @returns offsets of what was given as bytes: where it starts, and where it ends
   */
  flush(code: CodeBuffer): [start: number, end: number][] {
    const items = this.#items
    const raw: [number, number][] = []
    const start = new Uint32Array(items.length + 1) // item -> its offset
    const size = (item: Bytes | Jump): number =>
      'bytes' in item ? item.bytes.length : !item.long ? 2 : item.condition === undefined ? 5 : 6
    const distance = ({ label }: Jump, i: number): number => {
      assert(label.item > i, 'jumps go forward')
      return start[label.item]! - start[i + 1]!
    }
    for (let changed = true; changed;) {
      changed = false
      items.forEach((item, i) => { start[i + 1] = start[i]! + size(item) })
      items.forEach((item, i) => {
        if ('bytes' in item || item.long || distance(item, i) <= 127) return
        item.long = true
        changed = true
      })
    }
    items.forEach((item, i) => {
      if ('bytes' in item) {
        const { bytes, fixup } = item
        const at = code.length
        for (const byte of bytes) code.byte(byte)
        if (item.raw) raw.push([at, code.length])
        if (fixup !== undefined) code.fixup(at + fixup.at, fixup.kind, fixup.value, 0)
        return
      }
      const by = distance(item, i)
      const { condition, long } = item
      if (!long) code.emit(condition === undefined ? 0xeb : 0x70 | condition, by)
      else if (condition === undefined) code.emit(0xe9, ...word(by))
      else code.emit(0x0f, 0x80 | condition, ...word(by))
    })
    items.length = 0
    return raw
  }
}
