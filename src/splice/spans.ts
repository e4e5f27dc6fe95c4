// The code of spans: at the entry of a function, at its ways out, and at every switch from one thread to another. In: where
// its tables are (frames.ts), registers and writer (values.ts). Out: instructions.
//
//   enter   the call's frame is put into the table, with the ticks, which are 0 where the predicate does not hold: so what
//           an earlier call left there that never returned is overwritten in any case. Where there is no room, it is missed
//   leave   the frame is looked for; elapsed is the ticks since, in ns. A call that began before counting did is none, nor is
//           one that is not found. Where the clock runs backwards, as unsynchronized ones do, the call is missed
//   switch  the ticks are taken from what the thread that goes was away, and added to what the one that comes was
//
// For oncpu, the clock is read where the thread is not switched out between that and the look at what it was away.
//
// All CPUs work on the same tables. A free word is claimed by one locked instruction; after that, nobody but this call, or
// this thread, changes what belongs to it, wherever it runs on; and an interrupt's calls have frames of their own.

import { assert } from '../error.js'
import { NONE } from '../image/rva.js'
import { truthOf } from '../probe/constant.js'
import type { Expression } from '../probe/expression.js'
import type { SpanTerms } from '../probe/requests.js'
import { ARGUMENTS } from '../probe/trees.js'
import { LOOKS, type FrameTable, type ThreadTable } from './frames.js'
import { FRAME } from './tables.js'
import type { Values } from './values.js'
import { ALU, CONDITION, REG, SHIFT, type Label, type Register } from './writer.js'

/** What of a span runs at a place. */
export type SpanPart =
  | { readonly role: 'enter' | 'leave'; readonly terms: SpanTerms; readonly frames: FrameTable; readonly threads: ThreadTable | undefined }
  | { readonly role: 'switch'; readonly threads: ThreadTable }

/** 2^64 divided by the golden ratio (Knuth, volume 3, 6.4): its products spread evenly what differs anywhere. */
const GOLDEN = 0x9e37_79b9_7f4a_7c15n

/** Ticks times FRAME.scale are nanoseconds times 2^32. */
const SCALE_BITS = 32

/** A table's key, where it may be, and the frame words that they are in. */
interface Search {
  readonly key: Register
  readonly index: Register // in words
  readonly pointer: Register // to frame word 0
}

export class SpanWriter {
  readonly #values: Values
  readonly #missed: number

  /** @param missed slot that counts what could not be recorded */
  constructor(values: Values, missed: number) {
    this.#values = values
    this.#missed = missed
  }

  enter(terms: SpanTerms, frames: FrameTable, threads: ThreadTable | undefined): void {
    const { writer } = this.#values
    const values = this.#values
    const [end, claimed] = [writer.label(), writer.label()]
    const start = values.take()
    const asks = terms.entry !== undefined && truthOf(terms.entry) === undefined
    if (asks) {
      const no = writer.label()
      writer.load(start, 0n)
      values.unless(terms.entry!, no)
      writer.move(start, values.ticks)
      writer.place(no)
    } else writer.move(start, values.ticks)
    const pointer = this.#pointer()
    const virtual = terms.oncpu ? this.#virtualStart(start, pointer, threads!) : undefined
    const frame = this.#frame(frames, pointer)
    this.#claim(frame, frames.keys, claimed)
    if (asks || terms.oncpu) {
      writer.test(start, start)
      writer.jumpIf(CONDITION.e, end)
    }
    this.#miss()
    writer.jump(end)
    writer.place(claimed)
    writer.storeWord(pointer, 8 * frames.starts, frame.index, start)
    if (virtual !== undefined) writer.storeWord(pointer, 8 * frames.virtual, frame.index, virtual)
    for (const [n, word] of frames.args) {
      const arg = values.hold(values.original(ARGUMENTS[n]!))
      writer.storeWord(pointer, 8 * word, frame.index, arg.register)
      values.release(arg)
    }
    writer.place(end)
    values.free(frame.key, frame.index, pointer, start)
    if (virtual !== undefined) values.free(virtual)
  }

  /**
   * Ticks less those that the thread was away until now; `start` becomes the same moment. Where the thread is not to be
   * remembered, it becomes 0.
   */
  #virtualStart(start: Register, pointer: Register, threads: ThreadTable): Register {
    const { writer } = this.#values
    const [known, missed, none] = [writer.label(), writer.label(), writer.label()]
    const virtual = this.#values.take()
    writer.load(virtual, 0n)
    writer.test(start, start)
    writer.jumpIf(CONDITION.e, none)
    const thread = this.#thread(threads, pointer)
    this.#claim(thread, threads.keys, known)
    writer.jump(missed)
    writer.place(known)
    this.#moment(thread, threads, start, thread.key, missed)
    writer.move(virtual, start)
    writer.alu(ALU.sub, virtual, thread.key)
    writer.jump(none)
    writer.place(missed)
    writer.load(start, 0n)
    this.#miss()
    writer.place(none)
    this.#values.free(thread.key, thread.index)
    return virtual
  }

  /**
   * @param predicate asked when the times are known
   * @param body what is done with the call
   */
  leave(terms: SpanTerms, frames: FrameTable, threads: ThreadTable | undefined, predicate: Expression | undefined, body: () => void): void {
    const { writer } = this.#values
    const values = this.#values
    const [end, missed, forget] = [writer.label(), writer.label(), writer.label()]
    const pointer = this.#pointer()
    const frame = this.#frame(frames, pointer)
    this.#find(frame, frames.keys, end)
    values.free(frame.key)
    const start = values.take()
    writer.loadWord(start, pointer, 8 * frames.starts, frame.index)
    // Of no interest, or begun before counting did.
    writer.compareWord(start, pointer, 8 * FRAME.since)
    writer.jumpIf(CONDITION.b, forget)
    const oncpu = terms.oncpu ? this.#oncpu(start, frame, frames, threads!, missed) : undefined
    const elapsed = start
    if (oncpu === undefined) this.#since(start, values.ticks, missed)
    if (oncpu !== undefined) this.#nanoseconds(oncpu, pointer)
    if (terms.elapsed) this.#nanoseconds(elapsed, pointer)
    values.tell({
      elapsed: () => ({ register: elapsed, owned: false }),
      oncpu: () => ({ register: oncpu!, owned: false }),
      ...Object.fromEntries([...frames.args].map(([n, word]) => [`arg${n}`, () => {
        const r = values.take()
        writer.loadWord(r, pointer, 8 * word, frame.index)
        return { register: r, owned: true }
      }])),
    })
    if (predicate !== undefined) values.unless(predicate, forget)
    body()
    values.tell({})
    writer.jump(forget)
    writer.place(missed)
    this.#miss()
    writer.place(forget)
    writer.clearWord(pointer, 8 * frames.keys, frame.index)
    writer.place(end)
    values.free(frame.index, pointer, elapsed)
    if (oncpu !== undefined) values.free(oncpu)
  }

  /** Makes of a start how long ago it was. */
  #since(start: Register, now: Register, missed: Label): void {
    const { writer } = this.#values
    writer.negate(start)
    writer.alu(ALU.add, start, now)
    writer.jumpIf(CONDITION.ae, missed) // no carry: the clock was later then
  }

  /** Ticks of a call in which its thread was not switched out. Makes of its start how long ago that was. */
  #oncpu(start: Register, frame: Search, frames: FrameTable, threads: ThreadTable, missed: Label): Register {
    const { writer } = this.#values
    const { pointer } = frame
    assert(frames.virtual !== NONE, 'virtual time is remembered')
    const thread = this.#thread(threads, pointer)
    this.#find(thread, threads.keys, missed)
    const oncpu = this.#values.take()
    this.#moment(thread, threads, oncpu, thread.key, missed)
    this.#since(start, oncpu, missed)
    writer.alu(ALU.sub, oncpu, thread.key)
    writer.loadWord(thread.key, pointer, 8 * frames.virtual, frame.index)
    writer.alu(ALU.sub, oncpu, thread.key)
    this.#values.free(thread.key, thread.index)
    // Clocks that disagree: it would be longer than all of it.
    writer.alu(ALU.cmp, oncpu, start)
    writer.jumpIf(CONDITION.a, missed)
    return oncpu
  }

  /** The time, and what a thread was away at that time: a second time where it was switched out meanwhile. */
  #moment({ index, pointer }: Search, threads: ThreadTable, ticks: Register, away: Register, missed: Label): void {
    const { writer } = this.#values
    const same = writer.label()
    for (const condition of [CONDITION.e, CONDITION.ne]) {
      writer.loadWord(away, pointer, 8 * threads.away, index)
      this.#values.loadTicks(ticks)
      writer.compareWord(away, pointer, 8 * threads.away, index)
      writer.jumpIf(condition, condition === CONDITION.e ? same : missed)
    }
    writer.place(same)
  }

  /** For the thread in %rdi, which goes, and the one in %rsi, which comes (__switch_to). */
  switch(threads: ThreadTable): void {
    const { writer } = this.#values
    const values = this.#values
    const pointer = this.#pointer()
    for (const [argument, operation] of [[0, ALU.sub], [1, ALU.add]] as const) {
      const [found, none] = [writer.label(), writer.label()]
      const key = values.hold(values.original(ARGUMENTS[argument]!))
      const index = this.#hash(key.register, threads.bits)
      const other = values.take()
      for (let look = 0; look < LOOKS; look++) {
        if (look > 0) writer.address(index, index, 1)
        writer.loadWord(other, pointer, 8 * threads.keys, index)
        writer.alu(ALU.cmp, other, key.register)
        if (look === LOOKS - 1) {
          writer.jumpIf(CONDITION.ne, none)
          continue
        }
        writer.jumpIf(CONDITION.e, found)
        // None is ever taken out, so there are no more behind a free one.
        writer.test(other, other)
        writer.jumpIf(CONDITION.e, none)
      }
      writer.place(found)
      writer.changeWord(operation, pointer, 8 * threads.away, index, values.ticks)
      writer.place(none)
      values.release(key)
      values.free(index, other)
    }
    values.free(pointer)
  }

  #pointer(): Register {
    const r = this.#values.take()
    this.#values.writer.loadFrame(r, 0)
    return r
  }

  #hash(key: Register, bits: number): Register {
    const { writer } = this.#values
    const index = this.#values.take()
    writer.load(index, GOLDEN)
    writer.multiply(index, key)
    writer.shiftImmediate(SHIFT.shr, index, 64 - bits)
    return index
  }

  #frame({ bits }: FrameTable, pointer: Register): Search {
    const key = this.#values.take()
    this.#values.loadReturnAddressAt(key)
    return { key, index: this.#hash(key, bits), pointer }
  }

  #thread({ bits }: ThreadTable, pointer: Register): Search {
    const key = this.#values.take()
    this.#values.loadCurrent(key)
    return { key, index: this.#hash(key, bits), pointer }
  }

  /** Takes the key's word, or a free one, and jumps; goes on where there is none. */
  #claim({ key, index, pointer }: Search, keys: number, claimed: Label): void {
    const { writer } = this.#values
    for (let look = 0; look < LOOKS; look++) {
      if (look > 0) writer.address(index, index, 1)
      writer.alu(ALU.xor, REG.rax, REG.rax)
      writer.claimWord(pointer, 8 * keys, index, key)
      writer.jumpIf(CONDITION.e, claimed)
      writer.alu(ALU.cmp, REG.rax, key)
      writer.jumpIf(CONDITION.e, claimed)
    }
  }

  /** Goes on with the index of the key's word; jumps where there is none. */
  #find({ key, index, pointer }: Search, keys: number, absent: Label): void {
    const { writer } = this.#values
    const found = writer.label()
    for (let look = 0; look < LOOKS; look++) {
      writer.compareWord(key, pointer, 8 * keys, index)
      if (look === LOOKS - 1) writer.jumpIf(CONDITION.ne, absent)
      else {
        writer.jumpIf(CONDITION.e, found)
        writer.address(index, index, 1)
      }
    }
    writer.place(found)
  }

  #nanoseconds(ticks: Register, pointer: Register): void {
    const { writer } = this.#values
    const scale = this.#values.take()
    writer.loadWord(scale, pointer, 8 * FRAME.scale)
    writer.move(REG.rax, ticks)
    writer.multiplyWide(scale)
    writer.shiftDouble(REG.rax, REG.rdx, SCALE_BITS)
    writer.move(ticks, REG.rax)
    this.#values.free(scale)
  }

  #miss(): void {
    const r = this.#values.take()
    this.#values.writer.loadSlot(r, this.#missed)
    this.#values.writer.countSlot(r, 0)
    this.#values.free(r)
  }
}
