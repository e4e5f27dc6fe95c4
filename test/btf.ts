// A kernel's own type information (BTF, Documentation/bpf/btf.rst, 6.1 and 6.12), for tests to judge by. In: the bytes
// of .BTF. Out: where members lie in structs, and variables in the per-CPU area.
// Left out: all else. The input is a kernel's own; damage is not looked for.

import { viewOf } from '../src/image/address.js'

const MAGIC = 0xeb9f
const KIND = { struct: 4, union: 5, datasec: 15 } as const
/** kind -> bytes after a type's three words, and for each of its `vlen` items. */
const SIZES: readonly (readonly [number, number])[] = [
  [0, 0], [4, 0], [0, 0], [12, 0], [0, 12], [0, 12], [0, 8], // none, int, ptr, array, struct, union, enum
  [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], //            fwd, typedef, volatile, const, restrict, func
  [0, 8], [4, 0], [0, 12], [0, 0], [4, 0], [0, 0], [0, 12], //  func_proto, var, datasec, float, two tags, enum64
]

export class Btf {
  readonly #view: DataView
  readonly #types: number[] = [0] // type -> where it is in the view
  readonly #strings: number

  constructor(bytes: Uint8Array) {
    this.#view = viewOf(bytes)
    if (this.#view.getUint16(0, true) !== MAGIC) throw new Error('not BTF')
    const head = this.#u32(4)
    this.#strings = head + this.#u32(16)
    const end = head + this.#u32(8) + this.#u32(12)
    for (let at = head + this.#u32(8); at < end; ) {
      this.#types.push(at)
      const [fixed, item] = SIZES[this.#kind(at)]!
      at += 12 + fixed + item * this.#length(at)
    }
  }

  /** Bytes from the start of a struct to one of its members, or to one of a nameless struct or union in it. */
  memberOffset(struct: string, member: string): number | undefined {
    const at = this.#types.find((type) => type > 0 && this.#kind(type) === KIND.struct && this.#name(type) === struct)
    const bits = at === undefined ? undefined : this.#member(at, member)
    return bits === undefined ? undefined : bits / 8
  }

  /** The offset of a variable in the per-CPU section. */
  perCpu(name: string): number | undefined {
    const section = this.#types.find((type) =>
      type > 0 && this.#kind(type) === KIND.datasec && this.#name(type) === '.data..percpu')
    if (section === undefined) return undefined
    for (let i = 0; i < this.#length(section); i++) {
      const at = section + 12 + i * 12 // type, offset, size
      if (this.#name(this.#types[this.#u32(at)]!) === name) return this.#u32(at + 4)
    }
    return undefined
  }

  #member(struct: number, wanted: string): number | undefined {
    const isPacked = this.#u32(struct + 4) >>> 31 === 1 // the offset's top byte is the size of a bit field
    for (let i = 0; i < this.#length(struct); i++) {
      const at = struct + 12 + i * 12 // name, type, offset in bits
      const offset = isPacked ? this.#u32(at + 8) & 0xffffff : this.#u32(at + 8)
      if (this.#name(at) === wanted) return offset
      const type = this.#types[this.#u32(at + 4)]!
      if (this.#u32(at) !== 0 || (this.#kind(type) !== KIND.struct && this.#kind(type) !== KIND.union)) continue
      const inner = this.#member(type, wanted)
      if (inner !== undefined) return offset + inner
    }
    return undefined
  }

  #u32(at: number): number {
    return this.#view.getUint32(at, true)
  }

  #kind(type: number): number {
    return (this.#u32(type + 4) >>> 24) & 31
  }

  #length(type: number): number {
    return this.#u32(type + 4) & 0xffff
  }

  /** Of a type or a member: both start with its place among the strings. */
  #name(at: number): string {
    let name = ''
    for (let i = this.#strings + this.#u32(at); ; i++) {
      const letter = this.#view.getUint8(i)
      if (letter === 0) return name
      name += String.fromCharCode(letter)
    }
  }
}
