// Where a running kernel keeps the current task and the number of its CPU, and where in struct task_struct the numbers
// of a task lie, read from its code. In: the image. Out: TaskLayout, or undefined where the code does not tell.
// Invariant: nothing is concluded from how an instruction looks. Small functions of the kernel, whose source says what
// they return, are run on symbols from the first instruction to every return, and must return just that (6.1 and 6.12):
//   bpf_get_current_pid_tgid  (u64)current->tgid << 32 | current->pid, or -EINVAL where current is NULL
//   bpf_get_smp_processor_id  smp_processor_id(), an int; both are in kernel/bpf/helpers.c
//   bpf_get_current_task, bpf_get_current_task_btf  current (kernel/trace/bpf_trace.c)
//   bpf_get_raw_cpu_id        raw_smp_processor_id(), an int (kernel/bpf/core.c)
// The first two give the answer; those of the others that the image has, and its symbols, must confirm it, and at least
// one of them for each. So code that was changed in one place gives no answer, or the right one.
// Left out: all instructions that these functions do not need (an unknown one ends the attempt), calls, loops and frame
// pointers; kernels whose per-CPU addresses do not count from 0 (later ones than 6.12 may not, nor those for one CPU).
// BTF, which has the same offsets, is not read here: it is what the tests judge by.

import { MAX_INSN_BYTES } from '../code/facts.js'
import {
  Code, Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register, type Instruction,
} from '../code/iced.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, toRva, type Rva } from '../image/rva.js'
import { indexOf, lowerBound } from '../image/search.js'
import type { Pieces } from '../image/tables.js'

/** Offsets as in `mov %gs:OFFSET,%r` (from the per-CPU base) and in struct task_struct. */
export interface TaskLayout {
  readonly current: number
  readonly cpu: number
  readonly pid: number
  readonly tgid: number
}

/** More than any struct task_struct: 6.1 and 6.12 have some 10 KiB. */
const MAX_TASK_BYTES = 1 << 16
const INT_BYTES = 4
const POINTER_BYTES = 8
/** struct pcpu_hot, a cache line that holds both (arch/x86/include/asm/current.h, 6.2 to 6.14). */
const PCPU_HOT_BYTES = 64
/** -EINVAL, by halves. */
const EINVAL_LOW = 0xffff_ffea
const EINVAL_HIGH = 0xffff_ffff
/** Of a call to __fentry__, and of the longest jump or call that a static key or call is. */
const FTRACE_BYTES = 5
/** What iced calls the size of a displacement from 0 or from %rip, unless a prefix makes the address a short one. */
const ADDRESS_BYTES = 8
/** The longest stretch that an alternative rewrites: its length is a byte (struct alt_instr, 6.1 and 6.12). */
const MAX_REWRITTEN_BYTES = 255

// ---- Values --------------------------------------------------------------------------------------------------------

/** 32 bits of memory, or their top bit 32 times over. */
interface Word {
  /** NONE: in the per-CPU area. Else it lies where the pointer points that is there, at this offset. */
  readonly pointer: number
  readonly offset: number
  readonly sign: boolean
}

/** 32 bits: a number, or words or-ed together, or undefined: not known. */
type Half = number | readonly Word[] | undefined

/** A register. */
interface Value {
  readonly low: Half
  readonly high: Half
}

const UNKNOWN: Value = { low: undefined, high: undefined }

const or = (a: Half, b: Half): Half => {
  if (a === undefined || b === undefined) return undefined
  if (a === 0) return b
  if (b === 0) return a
  if (typeof a === 'number') return typeof b === 'number' ? (a | b) >>> 0 : undefined
  return typeof b === 'number' ? undefined : [...a, ...b]
}

/** The one word, not its sign, that a half consists of. */
const onlyWord = (half: Half): Word | undefined =>
  typeof half === 'object' && half.length === 1 && !half[0]!.sign ? half[0] : undefined

const signOf = (half: Half): Half => {
  if (typeof half === 'number') return half >>> 31 === 1 ? 0xffff_ffff : 0
  const word = onlyWord(half)
  return word && [{ ...word, sign: true }]
}

const isSignOf = (half: Word, word: Word): boolean =>
  half.sign && half.pointer === word.pointer && half.offset === word.offset

/** The per-CPU offset of the pointer that a value is, all of it; or NONE. */
const pointerOf = ({ low, high }: Value): number => {
  const first = onlyWord(low)
  const second = onlyWord(high)
  if (first?.pointer !== NONE || second?.pointer !== NONE || first.offset % POINTER_BYTES !== 0) return NONE
  return second.offset === first.offset + INT_BYTES ? first.offset : NONE
}

/** The per-CPU offset of the int that a value is, with its sign; or NONE. */
const intOf = ({ low, high }: Value): number => {
  const word = onlyWord(low)
  if (word?.pointer !== NONE || typeof high !== 'object' || high.length !== 1) return NONE
  return isSignOf(high[0]!, word) ? word.offset : NONE
}

// ---- Running a function --------------------------------------------------------------------------------------------

/** What a function returns. */
interface Outcome {
  /** Per-CPU offset of the pointer that it compares with NULL; NONE: it does not. */
  readonly tested: number
  readonly value: Value
  /** What it returns where that pointer is NULL. */
  readonly ofNull: Value | undefined
}

const RETURN = 'return'

/** A conditional branch: where it goes on if what it asks about is zero, and if it is not. */
interface Fork {
  readonly zero: Rva
  readonly other: Rva
}

const registerNumber = (register: Register): number => {
  if (register >= Register.RAX && register <= Register.R15) return register - Register.RAX
  if (register >= Register.EAX && register <= Register.R15D) return register - Register.EAX
  return NONE
}

/** Whether one of the pieces has a byte in [start, end). */
const overlaps = ({ rva, len }: Pieces, start: Rva, end: Rva): boolean => {
  for (let i = lowerBound(rva, Math.max(0, start - MAX_REWRITTEN_BYTES)); i < rva.length && rva[i]! < end; i++) {
    if (rva[i]! + len[i]! > start) return true
  }
  return false
}

const startsNear = (rva: Uint32Array, start: Rva, end: Rva): boolean => {
  const i = lowerBound(rva, Math.max(0, start - FTRACE_BYTES + 1))
  return i < rva.length && rva[i]! < end
}

/** One way through a function. */
class Walk {
  readonly #image: Image
  readonly #end: Rva
  readonly #perCpuEnd: number
  readonly #thunk: Rva // jumps to it are returns
  readonly #registers: Value[] // general register -> what it holds
  /** Per-CPU offset of the pointer that is NULL if the zero flag is set; or NONE. */
  tested: number

  constructor(image: Image, end: Rva, perCpuEnd: number, from?: Walk) {
    this.#image = image
    this.#end = end
    this.#perCpuEnd = perCpuEnd
    this.#thunk = image.symbols.rvaOf('__x86_return_thunk')
    this.#registers = from === undefined ? new Array<Value>(16).fill(UNKNOWN) : [...from.#registers]
    this.tested = NONE
  }

  get returned(): Value {
    return this.#registers[0]! // %rax
  }

  /** Goes on from an instruction to a return, or to the next conditional branch. Only forward, so it ends. */
  go(from: Rva): typeof RETURN | Fork | undefined {
    const { base } = this.#image
    for (let rva = from; rva < this.#end; ) {
      const bytes = bytesAt(this.#image, rva, Math.min(MAX_INSN_BYTES, this.#end - rva))
      const decoder = new Decoder(64, bytes, DecoderOptions.None)
      decoder.ip = BigInt.asUintN(64, base + BigInt(rva))
      const insn = decoder.decode()
      try {
        if (insn.isInvalid) return undefined
        const next = rva + insn.length
        if (indexOf(this.#image.tables.ftrace, rva) >= 0) {
          // Nothing, or a tracer, which keeps all registers (arch/x86/kernel/ftrace_64.S, 6.1 and 6.12).
          const nothing = insn.mnemonic === Mnemonic.Nop || insn.flowControl === FlowControl.Call
          if (!nothing || insn.length !== FTRACE_BYTES) return undefined
          rva = next
          continue
        }
        if (this.#rewritten(rva, next)) return undefined
        if (insn.code === Code.Retnq) return RETURN
        if (insn.isJmpShortOrNear || insn.isJccShortOrNear) {
          const target = toRva(base, BigInt.asUintN(64, insn.nearBranchTarget))
          if (insn.isJmpShortOrNear && target !== NONE && target === this.#thunk) return RETURN
          if (target < next || target >= this.#end) return undefined
          if (insn.isJmpShortOrNear) rva = target
          else if (insn.mnemonic === Mnemonic.Je) return { zero: target, other: next }
          else if (insn.mnemonic === Mnemonic.Jne) return { zero: next, other: target }
          else return undefined
          continue
        }
        const constants = decoder.getConstantOffsets(insn)
        const field = rva + constants.displacementOffset
        constants.free()
        if (!this.#step(insn, field)) return undefined
        rva = next
      } finally {
        insn.free()
        decoder.free()
      }
    }
    return undefined
  }

  /** Whether the running kernel may have something else there; returns still return then. */
  #rewritten(start: Rva, end: Rva): boolean {
    const { alternatives, paravirt, runtimeConst, staticKeys, staticCalls, ftrace } = this.#image.tables
    return [alternatives, paravirt, runtimeConst].some((pieces) => overlaps(pieces, start, end)) ||
      [staticKeys.rva, staticCalls, ftrace].some((places) => startsNear(places, start, end))
  }

  /**
   * Does what an instruction does. False: it is none that is known here.
   * @param field where the displacement is, if it has one
   */
  #step(insn: Instruction, field: Rva): boolean {
    const to = insn.op0Kind === OpKind.Register ? registerNumber(insn.op0Register) : NONE
    const from = insn.op1Kind === OpKind.Register ? registerNumber(insn.op1Register) : NONE
    const source = (): Value | undefined => (from === NONE ? this.#load(insn, field) : this.#registers[from])
    const set = (value: Value | undefined): boolean => {
      if (to === NONE || value === undefined) return false
      this.#registers[to] = value
      return true
    }
    switch (insn.code) {
      case Code.Endbr64: case Code.Nopw: case Code.Nopd: case Code.Nopq:
      case Code.Nop_rm16: case Code.Nop_rm32: case Code.Nop_rm64:
        return true
      case Code.Mov_r64_rm64: case Code.Mov_rm64_r64:
        return set(source())
      case Code.Mov_r32_rm32: case Code.Mov_rm32_r32: {
        const value = source()
        return set(value && { low: value.low, high: 0 })
      }
      case Code.Movsxd_r64_rm32: {
        const value = source()
        return set(value && { low: value.low, high: signOf(value.low) })
      }
      case Code.Cdqe: {
        const { low } = this.#registers[0]!
        this.#registers[0] = { low, high: signOf(low) }
        return true
      }
      case Code.Mov_rm64_imm32: case Code.Mov_r32_imm32: case Code.Mov_r64_imm64: {
        const constant = insn.immediate(1)
        return set({ low: Number(BigInt.asUintN(32, constant)), high: Number(BigInt.asUintN(32, constant >> 32n)) })
      }
      case Code.Shl_rm64_imm8:
        this.tested = NONE
        return insn.immediate8 === 32 && to !== NONE && set({ low: 0, high: this.#registers[to]!.low })
      case Code.Or_rm64_r64: case Code.Or_r64_rm64: {
        this.tested = NONE
        if (to === NONE || from === NONE) return false
        const a = this.#registers[to]!
        const b = this.#registers[from]!
        return set({ low: or(a.low, b.low), high: or(a.high, b.high) })
      }
      case Code.Test_rm64_r64:
        if (to === NONE || to !== from) return false
        this.tested = pointerOf(this.#registers[to]!)
        return true
      default:
        return false
    }
  }

  /** What lies in memory at an instruction's operand; of 32 bits, only `low` counts. */
  #load(insn: Instruction, field: Rva): Value | undefined {
    if (insn.memoryIndex !== Register.None || insn.memoryDisplSize === 0) return undefined
    const offset = Number(BigInt.asIntN(64, insn.memoryDisplacement)) // of a rip-relative operand, the address itself
    if (offset < 0 || offset % INT_BYTES !== 0) return undefined
    let pointer: number = NONE
    if (insn.memorySegment === Register.GS) {
      if (offset >= this.#perCpuEnd || !this.#stays(insn, field)) return undefined
    } else {
      const base = insn.memoryBase
      if (insn.segmentPrefix !== Register.None || base < Register.RAX || base > Register.R15) return undefined
      pointer = pointerOf(this.#registers[base - Register.RAX]!)
      if (pointer === NONE || offset >= MAX_TASK_BYTES) return undefined
    }
    return { low: [{ pointer, offset, sign: false }], high: [{ pointer, offset: offset + INT_BYTES, sign: false }] }
  }

  /** Whether a per-CPU operand means the same wherever the kernel is loaded, as far as the image's relocations say. */
  #stays(insn: Instruction, field: Rva): boolean {
    const { known, relocAbs32, relocPcpu32 } = this.#image.relocs
    const shrinks = indexOf(relocPcpu32, field) >= 0
    if (insn.memoryBase === Register.RIP) return !known || shrinks
    if (insn.memoryBase !== Register.None || insn.memoryDisplSize !== ADDRESS_BYTES) return false
    return !shrinks && indexOf(relocAbs32, field) < 0
  }
}

/** Runs the one function of a name. */
const run = (image: Image, name: string, perCpuEnd: number): Outcome | undefined => {
  const [func, ...more] = image.functions.functionsNamed(name)
  if (func === undefined || more.length > 0) return undefined
  const end = image.functions.end[func]!
  const walk = new Walk(image, end, perCpuEnd)
  const stop = walk.go(image.functions.start[func]!)
  if (stop === undefined) return undefined
  if (stop === RETURN) return { tested: NONE, value: walk.returned, ofNull: undefined }
  const { tested } = walk
  const ofNull = new Walk(image, end, perCpuEnd, walk)
  if (tested === NONE || walk.go(stop.other) !== RETURN || ofNull.go(stop.zero) !== RETURN) return undefined
  return { tested, value: walk.returned, ofNull: ofNull.returned }
}

// ---- What the functions say ----------------------------------------------------------------------------------------

const readPidTgid = ({ tested, value: { low, high }, ofNull }: Outcome): Omit<TaskLayout, 'cpu'> | undefined => {
  const pid = onlyWord(low)
  if (pid === undefined || typeof high !== 'object' || high.length !== 2) return undefined
  // pid is an int, so its sign is or-ed to tgid.
  const [first, second] = high as readonly [Word, Word]
  const tgid = isSignOf(second, pid) ? first : second
  const sign = tgid === first ? second : first
  if (!isSignOf(sign, pid) || tgid.sign || pid.pointer === NONE || tgid.pointer !== pid.pointer) return undefined
  const asked = ofNull === undefined ||
    (tested === pid.pointer && ofNull.low === EINVAL_LOW && ofNull.high === EINVAL_HIGH)
  if (!asked) return undefined
  // "pid_t pid; pid_t tgid;" (include/linux/sched.h, 6.1 and 6.12).
  if (tgid.offset !== pid.offset + INT_BYTES) return undefined
  return { current: pid.pointer, pid: pid.offset, tgid: tgid.offset }
}

/** What a function of one value returns, read by `read`: a per-CPU offset, or NONE. */
const readSimple = (outcome: Outcome | undefined, read: (value: Value) => number): number =>
  outcome === undefined || outcome.ofNull !== undefined ? NONE : read(outcome.value)

/** undefined where the kernel's code does not tell: then pid, tid and cpu are not to be had. */
export const findTaskLayout = (image: Image): TaskLayout | undefined => {
  const { absolute } = image.symbols
  // Per-CPU addresses count from 0 up to here, so they are offsets from the per-CPU base (PERCPU_VADDR in
  // arch/x86/kernel/vmlinux.lds.S, 6.1 and 6.12).
  const perCpuEnd = absolute.get('__per_cpu_end')
  if (absolute.get('__per_cpu_start') !== 0n || perCpuEnd === undefined || perCpuEnd >= BigInt(NONE)) return undefined
  const runs = (name: string): Outcome | undefined => run(image, name, Number(perCpuEnd))
  const numbers = runs('bpf_get_current_pid_tgid')
  const task = numbers && readPidTgid(numbers)
  const cpu = readSimple(runs('bpf_get_smp_processor_id'), intOf)
  if (task === undefined || cpu === NONE) return undefined
  const { current } = task

  const has = (name: string): boolean => image.functions.functionsNamed(name).length > 0
  const currents = ['bpf_get_current_task', 'bpf_get_current_task_btf'].filter(has)
    .map((name) => readSimple(runs(name), pointerOf) === current)
  const cpus = ['bpf_get_raw_cpu_id'].filter(has).map((name) => readSimple(runs(name), intOf) === cpu)
  // Per-CPU variables: each its own in 6.1, both in a struct from 6.2 to 6.14.
  const symbol = (name: string): number | undefined => {
    const value = absolute.get(name)
    return value === undefined ? undefined : Number(value)
  }
  const currentSymbol = symbol('current_task')
  if (currentSymbol !== undefined) currents.push(current === currentSymbol)
  const cpuSymbol = symbol('cpu_number')
  if (cpuSymbol !== undefined) cpus.push(cpu === cpuSymbol)
  if (currents.length === 0 || cpus.length === 0 || currents.includes(false) || cpus.includes(false)) return undefined
  const hot = symbol('pcpu_hot') // can contradict, but confirms too little
  const isHot = (offset: number): boolean => hot === undefined || (offset >= hot && offset < hot + PCPU_HOT_BYTES)
  if (!isHot(current) || !isHot(cpu)) return undefined
  return { ...task, cpu }
}
