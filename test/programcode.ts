// Probe programs for test/verify.test.ts: random ones of the shapes that the verifier may accept, what chance makes of
// them, and how they and the verifier's claims are handed to test/native/verify.c. Instructions are encoded here, by
// hand; a random program is likely to be accepted and never sure to be.

import { Decoder, DecoderOptions, FlowControl } from 'iced-x86'
import { FLAGS } from '../src/code/registers.js'
import { hasBit, intervalOf, type State } from '../src/splice/abstract.js'
import { FIXUP_KIND, type PatchTables } from '../src/splice/tables.js'
import type { TaskLayout } from '../src/probe/task.js'
import type { SlotRange } from '../src/splice/verify.js'
import type { Lottery } from './lottery.js'

export interface Fixup {
  readonly offset: number
  readonly kind: number
  readonly value: number
  readonly trail: number
}

export interface Program {
  readonly code: Uint8Array
  readonly fixups: readonly Fixup[]
}

// test/native/verify.c has the same.
const HEAP = 0x10000
const TASK = 0x110000000000n
const FRAMES = 0x140000000000n

/** Both ends of pages, and neighbours. */
export const RANGES: readonly SlotRange[] =
  [[504, 8], [1024, 8], [1100, 1], [1101, 16]].map(([first, count]) => ({ first: first!, count: count! }))
/** A page of them. */
export const FRAME_WORDS = 512
export const LAYOUT: TaskLayout = { current: 0x1ff8, cpu: 0x3000, pid: 0xff8, tgid: 0xffc }

/** As much of a plan's tables as the verifier looks at. */
export const tablesOf = ({ code, fixups }: Program): PatchTables => ({
  code,
  fixupCount: fixups.length,
  fixupOffset: Uint32Array.from(fixups, ({ offset }) => offset),
  fixupValue: Uint32Array.from(fixups, ({ value }) => value),
  fixupKind: Uint8Array.from(fixups, ({ kind }) => kind),
  fixupTrail: Uint8Array.from(fixups, ({ trail }) => trail),
}) as unknown as PatchTables

/** The code as it is on the target. */
export const complete = ({ code, fixups }: Program, slide: number): Uint8Array => {
  const ready = code.slice()
  const view = new DataView(ready.buffer)
  for (const { offset, kind, value } of fixups) {
    if (kind === FIXUP_KIND.abs32) view.setInt32(offset, view.getInt32(offset, true) + slide, true)
    else view.setBigUint64(offset, kind === FIXUP_KIND.frame64 ? FRAMES + BigInt(8 * value) : BigInt(HEAP + 8 * value), true)
  }
  return ready
}

/** struct claims: what the verifier knows where a program ends. */
export const claimsOf = (last: State, length: number): Buffer => {
  const claims = Buffer.alloc(16 + 16 + 64 + 256)
  claims.writeUInt32LE(length)
  claims.writeUInt32LE(last.flags & FLAGS, 4)
  let bits = 0
  for (let r = 0; r < 16; r++) {
    const value = last.get(r)
    let { low, high } = intervalOf(value)
    if (value.is === 'slot') low = high = BigInt(HEAP + 8 * value.slot)
    if (value.is === 'frame') low = high = FRAMES + BigInt(8 * value.slot)
    if (value.is === 'task') low = high = TASK
    if (hasBit(value)) bits |= 1 << r
    claims[16 + r] = value.is === 'number' && value.origin >= 0 ? value.origin : 255
    claims.writeUInt32LE(value.is === 'word' ? value.kept : 0, 32 + 4 * r)
    claims.writeBigUInt64LE(low, 96 + 8 * r)
    claims.writeBigUInt64LE(high, 224 + 8 * r)
  }
  claims.writeUInt32LE(bits, 8)
  return claims
}

// --- Encoding ---

interface Item {
  readonly bytes: readonly number[]
  readonly fixup?: Fixup //        its offset is that in the instruction
  readonly jump?: { readonly opcode: number } // of the short form; bytes are empty
  target?: Item | undefined //     of a jump; undefined: the end
}

type Random = Lottery

const low8 = (value: number): number => value & 0xff
const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => low8(value >> shift))

type Bytes = readonly number[]

/** An instruction of two registers. */
const rr = (wide: number, opcode: Bytes, reg: number, rm: number, tail: Bytes = [], isByte = false): Item => {
  const rex = 0x40 | (wide << 3) | ((reg >> 3) << 2) | (rm >> 3)
  return { bytes: [...(rex !== 0x40 || isByte ? [rex] : []), ...opcode, 0xc0 | ((reg & 7) << 3) | (rm & 7), ...tail] }
}

/** An instruction with memory at disp(base,index,1 << scale); an index of 4 is none. */
const mem = (
  gs: boolean, wide: number, opcode: Bytes, reg: number, base: number, index: number, scale: number, disp: number,
  tail: Bytes = [],
): Item => {
  const rex = 0x40 | (wide << 3) | ((reg >> 3) << 2) | ((index >> 3) << 1) | (base >> 3)
  const short = disp >= -128 && disp < 128
  const plain = index === 4 && (base & 7) !== 4 && (disp & 1) === 0
  const mod = short ? (disp === 0 && (base & 7) !== 5 ? 0 : 0x40) : 0x80
  const bytes = [...(gs ? [0x65] : []), ...(rex === 0x40 ? [] : [rex]), ...opcode]
  bytes.push(mod | ((reg & 7) << 3) | (plain ? base & 7 : 4))
  if (!plain) bytes.push((scale << 6) | ((index & 7) << 3) | (base & 7))
  if (mod !== 0) bytes.push(...(short ? [low8(disp)] : word(disp)))
  return { bytes: [...bytes, ...tail] }
}

const absolute = (wide: number, reg: number, offset: number): Item =>
  ({ bytes: [0x65, 0x40 | (wide << 3) | ((reg >> 3) << 2), 0x8b, 0x04 | ((reg & 7) << 3), 0x25, ...word(offset)] })

const push = (r: number): Item => ({ bytes: r < 8 ? [0x50 + r] : [0x41, 0x50 + (r & 7)] })
const pop = (r: number): Item => ({ bytes: r < 8 ? [0x58 + r] : [0x41, 0x58 + (r & 7)] })
const pointer = (r: number, slot: number): Item => ({
  bytes: [0x48 | (r >> 3), 0xb8 | (r & 7), 0, 0, 0, 0, 0, 0, 0, 0],
  fixup: { offset: 2, kind: FIXUP_KIND.slot64, value: slot, trail: 0 },
})
const frame = (r: number, value: number): Item => ({
  bytes: [0x48 | (r >> 3), 0xb8 | (r & 7), 0, 0, 0, 0, 0, 0, 0, 0],
  fixup: { offset: 2, kind: FIXUP_KIND.frame64, value, trail: 0 },
})
const slide = (r: number): Item => ({
  bytes: [...(r > 7 ? [0x41] : []), 0xb8 | (r & 7), 0, 0, 0, 0],
  fixup: { offset: r > 7 ? 2 : 1, kind: FIXUP_KIND.abs32, value: 0, trail: 0 },
})
const jump = (opcode: number, target?: Item): Item => ({ bytes: [], jump: { opcode }, target })
const jcc = (condition: number, target?: Item): Item => jump(0x70 + condition, target)

const NUMBERS = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 0xffff, 0x10000, 0x7fffffff,
  -1, -2, -7, -8, -128, -0x80000000,
]
const SMALL = [0, 1, 2, 3, 5, 7, 8, 15, 31, 60, 61, 62, 63, 127, -1, -8]

const oneOf = <T>(list: readonly T[], random: Random): T => list[random(list.length)]!
/** A register; some more often, so that instructions meet. */
const register = (random: Random): number => {
  const r = random(3) > 0 ? oneOf([0, 1, 2, 6, 7], random) : random(16)
  return r === 4 ? 8 : r
}

const BINARY = [0x01, 0x03, 0x09, 0x0b, 0x21, 0x23, 0x29, 0x2b, 0x31, 0x33, 0x39, 0x3b, 0x85, 0x89, 0x8b]
const EXTENSIONS = [0, 1, 4, 5, 6, 7]

/** One instruction without memory. */
const plainItem = (random: Random): Item => {
  const wide = random(3) > 0 ? 1 : 0
  const [a, b] = [register(random), register(random)]
  switch (random(23)) {
    case 0: case 1: return rr(wide, [oneOf(BINARY, random)], a, b)
    case 2: case 3: return rr(wide, [0x83], oneOf(EXTENSIONS, random), a, [low8(oneOf(SMALL, random))])
    case 4: return rr(wide, [0x81], oneOf(EXTENSIONS, random), a, word(oneOf(NUMBERS, random)))
    case 5: return rr(wide, [0xc7], 0, a, word(oneOf(NUMBERS, random)))
    case 6: return { bytes: [...(a > 7 ? [0x41] : []), 0xb8 | (a & 7), ...word(oneOf(NUMBERS, random))] }
    case 7: {
      const upper = word(oneOf(NUMBERS, random))
      return { bytes: [0x48 | (a >> 3), 0xb8 | (a & 7), ...word(random(2 ** 31)), ...upper] }
    }
    case 8: return rr(wide, [0xff], random(2), a)
    case 9: return rr(wide, [0xf7], 2 + random(2), a)
    case 10: return rr(wide, [0x0f, 0xaf], a, b)
    case 11: {
      if (random(2)) return rr(wide, [0x6b], a, b, [low8(oneOf(SMALL, random))])
      return rr(wide, [0x69], a, b, word(oneOf(NUMBERS, random)))
    }
    case 12: case 13: return rr(wide, [0xc1], oneOf([4, 5, 7], random), a, [random(4) ? random(64) : random(256)])
    case 14: return rr(wide, [random(2) ? 0xd1 : 0xd3], oneOf([4, 5, 7], random), a)
    case 15: {
      const disp = oneOf(random(2) ? SMALL : NUMBERS, random)
      return mem(false, wide, [0x8d], a, b, random(2) ? 4 : register(random), random(4), disp)
    }
    case 16: return rr(wide, [0x0f, oneOf([0xb6, 0xb7, 0xbe, 0xbf], random)], a, b, [], true)
    case 17: return rr(1, [0x63], a, b)
    case 18: return rr(0, [0x0f, 0x90 + random(16)], 0, a, [], true)
    case 19: return rr(wide, [0x0f, 0x40 + random(16)], a, b)
    case 20: return rr(wide, [0x0f, 0xbd], a, b)
    case 21: return random(2) ? rr(1, [0xf7], 4, a) : rr(1, [0x0f, 0xac], a, b, [random(70)])
    default: {
      if (random(3)) return rr(1, [0x89], a, b)
      return { bytes: oneOf([[0x0f, 0x31], [0x9f], [0x9e], [0x0f, 0x90, 0xc0], [0x04, 0x7f]], random) }
    }
  }
}

/** What does something to a slot at disp(base,index,8). */
const slotItem = (base: number, index: number, disp: number, random: Random): Item => {
  const r = register(random)
  switch (random(9)) {
    case 0: case 1: return mem(true, 1, [0xff], 0, base, index, 3, disp)
    case 2: return mem(true, 1, [0x01], r, base, index, 3, disp)
    case 3: return mem(true, 1, [0x29], r, base, index, 3, disp)
    case 4: return mem(true, 1, [0x83], oneOf([0, 5], random), base, index, 3, disp, [low8(oneOf(SMALL, random))])
    case 5: return mem(true, 1, [0x8b], r, base, index, 3, disp)
    case 6: return mem(true, 1, [random(2) ? 0x39 : 0x3b], r, base, index, 3, disp)
    case 7: return mem(true, 1, [0x0f, 0xb1], r, base, index, 3, disp)
    default: return mem(true, 1, [0x81], oneOf([0, 5], random), base, index, 3, disp, word(oneOf(NUMBERS, random)))
  }
}

/** Makes a register small, perhaps small enough. */
const narrowing = (r: number, bound: number, random: Random): Item[] => {
  const wide = random(2)
  const other = register(random)
  const near = bound + random(2) - (random(6) === 0 ? 1 : 0)
  switch (random(10)) {
    case 0: return [rr(wide, [0x83], 4, r, [low8(oneOf([0, 1, 3, 7, 7, 7, bound - 1], random))])]
    case 9: return [rr(wide, [0x85], r, r), jcc(random(4) ? 5 : 4)] // test, jne
    case 1: return [rr(1, [0xc1], 5, r, [60 + random(4)])]
    case 2: return [rr(1, [0x83], 7, r, [low8(near - 1)]), jcc(7)] // cmp, ja
    case 3: return [rr(1, [0x83], 7, r, [low8(near)]), jcc(3)] // cmp, jae
    case 4: return [rr(0, [0x89], r, r), rr(wide, [0x83], 7, r, [low8(near)]), jcc(random(2) ? 0xd : 3)] // jge or jae
    case 5: {
      const compare = rr(1, [random(2) ? 0x39 : 0x3b], other, r)
      return [rr(0, [0xc7], 0, other, word(near)), compare, jcc(oneOf([2, 3, 6, 7], random))]
    }
    case 6: return [rr(1, [0x0f, 0xbd], r, r), jcc(4), rr(wide, [0xc1], 5, r, [3])] // bsr, je, shr
    case 7: return [rr(0, [0x31], r, r), rr(0, [0x0f, 0x90 + random(16)], 0, r, [], true)]
    default: {
      const result = random(4) ? 2 : 0
      return [rr(0, [0x31], 2, 2), rr(1, [0xc7], 0, 1, word(near)), rr(1, [0xf7], 6, 1), rr(1, [0x89], result, r)]
    }
  }
}

/** What does something to a frame word at disp(base,index,8). */
const frameItem = (base: number, index: number, disp: number, random: Random): Item => {
  const r = register(random)
  switch (random(8)) {
    case 0: case 1: {
      const { bytes } = mem(false, 1, [0x0f, 0xb1], r, base, index, 3, disp)
      return { bytes: [...(random(8) ? [0xf0] : []), ...bytes] }
    }
    case 2: return mem(false, 1, [0x89], r, base, index, 3, disp)
    case 3: return mem(false, 1, [0xc7], 0, base, index, 3, disp, word(oneOf(NUMBERS, random)))
    case 4: return mem(false, 1, [0x8b], r, base, index, 3, disp)
    case 5: return mem(false, 1, [random(2) ? 0x39 : 0x3b], r, base, index, 3, disp)
    case 6: return mem(false, 1, [random(2) ? 0x01 : 0x29], r, base, index, 3, disp)
    default: return mem(random(8) === 0, 1, [0xff], 0, base, index, 3, disp)
  }
}

const frameBlock = (random: Random): Item[] => {
  const at = oneOf([0, 0, 0, 2, 400, FRAME_WORDS - 1], random)
  const base = register(random)
  const to = oneOf([0, 1, 2, 2, 3, 100, FRAME_WORDS - 9, FRAME_WORDS - 1, FRAME_WORDS - 1, FRAME_WORDS], random)
  const disp = 8 * (to - at) + (random(20) === 0 ? 4 : 0)
  if (random(2)) return [frame(base, at), frameItem(base, 4, disp, random)]
  const index = register(random)
  const bits = 1 + random(9)
  const hashed = [rr(1, [0x0f, 0xaf], index, register(random)), rr(1, [0xc1], 5, index, [64 - bits])]
  const narrowed = random(2) ? hashed : narrowing(index, 8, random)
  return [frame(base, at), ...(random(4) ? [] : [mem(false, 1, [0x8d], index, 4, 4, 0, 8 * random(4))]), ...narrowed,
    frameItem(base, index, disp, random), ...(random(2) ? [frameItem(base, index, 8 * (2 ** bits), random)] : [])]
}

const slotBlock = (random: Random): Item[] => {
  const range = oneOf(RANGES, random)
  const slot = range.first + random(range.count)
  const base = register(random)
  const disp = 8 * (range.first - slot + random(range.count))
  if (random(2)) return [pointer(base, slot), slotItem(base, 4, disp, random)]
  if (random(4) === 0) {
    const near = oneOf([-8, 0, 8, 56, 64, 4], random)
    const added = rr(1, [0x83], oneOf([0, 5], random), base, [low8(near)])
    const moved = random(2) ? added : mem(false, 1, [0x8d], base, base, 4, 0, near)
    return [pointer(base, slot), moved, slotItem(base, 4, random(2) ? 0 : disp, random)]
  }
  const index = register(random)
  const first = 8 * (range.first - slot)
  const narrowed = narrowing(index, range.count, random)
  return random(2)
    ? [...narrowed, pointer(base, slot), slotItem(base, index, first, random)]
    : [pointer(base, slot), ...narrowed, slotItem(base, index, first + 8 * random(2), random)]
}

/** What makes flags tell of registers, or not. */
const comparison = (random: Random): Item[] => {
  const wide = random(2)
  const [a, b] = [register(random), register(random)]
  switch (random(6)) {
    case 0: return [rr(wide, [0x85], a, a)]
    case 1: return [rr(wide, [0x83], 7, a, [low8(oneOf(SMALL, random))])]
    case 2: return [rr(wide, [0x81], 7, a, word(oneOf(NUMBERS, random)))]
    case 3: return [rr(wide, [0x39], a, b)]
    case 4: return [rr(wide, [0x0f, 0xbd], a, b)]
    default: return []
  }
}

const block = (depth: number, random: Random): Item[] => {
  const inner = (): Item[] => {
    if (depth > 3) return [plainItem(random)]
    return Array.from({ length: 1 + random(3) }, () => block(depth + 1, random)).flat()
  }
  const r = register(random)
  switch (random(17)) {
    case 0: case 1: case 2: return slotBlock(random)
    case 14: case 15: return frameBlock(random)
    case 3: return [rr(0, [0x31], 2, 2), rr(1, [0x83], 1, r, [1]), rr(1, [0xf7], 6, r)] // xor, or, div
    case 4: return [push(r), ...inner(), pop(random(5) ? r : register(random))]
    case 5: return [
      push(0), { bytes: [0x9f] }, { bytes: [0x0f, 0x90, 0xc0] }, push(0), ...inner(), pop(0),
      { bytes: [0x04, 0x7f] }, { bytes: [0x9e] }, pop(0),
    ]
    case 6: case 7: {
      const then = inner()
      const behind = plainItem(random)
      return [...comparison(random), jcc(random(16), behind), ...then, behind]
    }
    case 8: {
      const [then, otherwise, behind] = [inner(), inner(), plainItem(random)]
      return [...comparison(random), jcc(random(16), otherwise[0]), ...then, jump(0xeb, behind), ...otherwise, behind]
    }
    case 9: {
      const field = random(2) ? LAYOUT.pid : LAYOUT.tgid
      return [absolute(1, r, LAYOUT.current), mem(false, 0, [0x8b], register(random), r, 4, 0, field)]
    }
    case 10: return [absolute(0, r, LAYOUT.cpu)]
    case 11: return [push(r), mem(false, 1, [0x8b], register(random), 4, 4, 0, 8 * random(3)), ...inner(), pop(r)]
    case 12: return [slide(r)]
    case 13: { // flags in a word, of two kinds perhaps
      const save = (): Item[] => [{ bytes: [0x9f] }, ...(random(2) ? [{ bytes: [0x0f, 0x90, 0xc0] }] : [])]
      const restore = { bytes: [0x9e] }
      const second = rr(0, [0xff], random(2), 6)
      return [...save(), jcc(random(16), restore), ...(random(2) ? [second] : inner()), ...save(), restore]
    }
    default: return Array.from({ length: 1 + random(4) }, () => plainItem(random))
  }
}

/** Lays instructions one behind the other. Jumps are short where they can be; without their target, to the end. */
const link = (items: readonly Item[], random: Random): Program => {
  const sizes = items.map((item) => (item.jump === undefined ? item.bytes.length : item.jump.opcode === 0xeb ? 5 : 6))
  const isLong = items.map(() => random(8) === 0)
  const place = new Map<Item | undefined, number>()
  // Whatever is within reach when all are long is so when some are short.
  let total = 0
  items.forEach((item, i) => {
    place.set(item, total)
    total += sizes[i]!
  })
  place.set(undefined, total)
  items.forEach((item, i) => {
    if (item.jump === undefined || isLong[i]) return
    const distance = (place.get(item.target) ?? total) - place.get(item)!
    if (distance > -100 && distance < 100) sizes[i] = 2
  })
  let at = 0
  items.forEach((item, i) => {
    place.set(item, at)
    at += sizes[i]!
  })
  place.set(undefined, at)
  const code: number[] = []
  const fixups: Fixup[] = []
  items.forEach((item, i) => {
    if (item.fixup !== undefined) fixups.push({ ...item.fixup, offset: code.length + item.fixup.offset })
    if (item.jump === undefined) {
      code.push(...item.bytes)
      return
    }
    const { opcode } = item.jump
    const distance = (place.get(item.target) ?? at) - code.length - sizes[i]!
    if (sizes[i] === 2) code.push(opcode, low8(distance))
    else code.push(...(opcode === 0xeb ? [0xe9] : [0x0f, opcode + 0x10]), ...word(distance))
  })
  return { code: Uint8Array.from(code), fixups }
}

export const randomProgram = (random: Random): Program =>
  link(Array.from({ length: 1 + random(6) }, () => block(0, random)).flat(), random)

/** The instructions of a program, as far as they can be told. */
const itemsOf = ({ code, fixups }: Program): Item[] => {
  const items: Item[] = []
  const starts = new Map<number, Item>()
  const targets: [Item, number][] = []
  const decoder = new Decoder(64, code, DecoderOptions.None)
  let f = 0
  for (let at = 0; at < code.length;) {
    const insn = decoder.decode()
    const { length } = insn
    const flow = insn.flowControl
    const bytes = [...code.subarray(at, at + length)]
    const fixup = fixups[f]
    const isDirect = flow === FlowControl.ConditionalBranch || flow === FlowControl.UnconditionalBranch
    let item: Item
    if (isDirect && /^(e9|eb|7.|0f8.)/.test(Buffer.from(bytes).toString('hex'))) {
      const [first, next] = bytes as [number, number]
      item = jump(first === 0xe9 ? 0xeb : first === 0x0f ? next - 0x10 : first)
      targets.push([item, Number(insn.nearBranchTarget)])
    } else if (fixup !== undefined && fixup.offset < at + length) {
      item = { bytes, fixup: { ...fixup, offset: fixup.offset - at } }
      f++
    } else item = { bytes }
    insn.free()
    items.push(item)
    starts.set(at, item)
    at += Math.max(1, length)
  }
  decoder.free()
  for (const [item, target] of targets) item.target = starts.get(target)
  return items
}

/** A copy of an instruction, with the same target. */
const again = (item: Item): Item => ({ ...item })

/** What chance makes of a program, with parts of another. */
export const mutated = (program: Program, other: Program, random: Random): Program => {
  let items = itemsOf(program)
  const others = itemsOf(other)
  const raw = random(3) === 0
  for (let times = raw ? random(2) : 1 + random(3); times > 0; times--) {
    const at = random(items.length + 1)
    const one = items[at]
    const later = items[at + 1 + random(items.length - at + 1)]
    switch (random(11)) {
      case 0: items.splice(at, 1 + random(2)); break
      case 1: if (one !== undefined) items.splice(random(items.length + 1), 0, again(one)); break
      case 2: {
        const to = random(items.length)
        if (one !== undefined) [items[at], items[to]] = [items[to]!, one]
        break
      }
      case 3: items.splice(at, 0, plainItem(random)); break
      case 4: items.splice(at, 1, plainItem(random)); break
      case 5: items.splice(at, 0, ...block(2, random)); break
      case 6: if (one?.jump !== undefined) one.target = random(3) ? later : items[random(items.length)]; break
      case 7: items.splice(at, 0, jcc(random(16), later)); break
      case 8: {
        const from = random(others.length + 1)
        items.splice(at, 0, ...others.slice(from, from + 1 + random(6)).map(again))
        break
      }
      case 9: items = [...items.slice(0, at), ...others.slice(random(others.length + 1))]; break
      default: if (one?.jump !== undefined) items[at] = jcc(random(16), one.target)
    }
  }
  const linked = link(items.slice(0, 200), random)
  if (!raw || linked.code.length === 0) return linked
  for (let times = 1 + random(2); times > 0; times--) {
    const at = random(linked.code.length)
    const byte = linked.code[at]!
    linked.code[at] = random(3) ? byte ^ (1 << random(8)) : random(2) ? byte + (random(2) ? 1 : -1) : random(256)
  }
  return linked
}
