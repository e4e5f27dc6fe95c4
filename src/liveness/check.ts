// An independent checker of the whole image's liveness. It shares no code with what makes a solution: it decodes with
// iced itself, finds control flow itself from the bytes and the kernel's tables, and does not solve: it only verifies,
// at every instruction, that the claims are closed under what the instruction does, as claims.ts states. Any sound
// solution passes, not only the least; a claim that leaves something out is named.
// Left out: whether the image is what runs, which the module checks; whether reads and kills of an instruction are the
// processor's, which test/decode.test.ts judges by execution.

import { Decoder, DecoderOptions, Instruction, OpKind } from '../code/iced.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, hex, type Rva } from '../image/rva.js'
import type { Claims, Finding, Verdict } from './claims.js'
import { Deeds, EVERYTHING, KIND, STATUS } from './deeds.js'

const gprs = (...numbers: number[]): number => numbers.reduce((set, number) => set | (1 << number), 0)
const SAVED = gprs(3, 4, 5, 12, 13, 14, 15) //            rbx rsp rbp r12-r15: System V ABI 3.2.1
const ARGUMENTS = gprs(0, 1, 2, 4, 6, 7, 8, 9) //         rax (vector count) rcx rdx rsp rsi rdi r8 r9
const SCRATCH = gprs(1, 6, 7, 8, 9, 10, 11) | STATUS //   lost over a call; not rax and rdx, which return values
const RESULTS = SAVED | gprs(0, 2)
const TRACER_LOSES = gprs(10, 11) | STATUS
const POINTER_READS = EVERYTHING & ~(gprs(11) | STATUS)
const THROUGH_R11 = gprs(11)
const HANDLER_READS = gprs(1)

const NAMES = [
  'rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15',
  'cf', 'pf', 'af', 'zf', 'sf', 'of',
]
const naming = (set: number): string => NAMES.filter((_, i) => set & (1 << i)).join(' ')

/** Of an instruction, as bits; the low four hold its KIND. */
const KIND_MASK = 15
const FLAG_MAKER = 16
/** What starts at an instruction, as bits. */
const FUNCTION = 1
const TRACED = 2
const BLOCK = 4
/** How control was seen to come to a block, as bits. */
const FALLS = 1
const JUMPS = 2
const CALLS = 4
const POINTED = 8

/** What the kernel may put in place of some code: one row an alternative. */
interface Variant {
  readonly reads: number
  readonly jumps: readonly Rva[]
  readonly calls: readonly Rva[]
  /** The call goes where the pointer of the file's own instruction leads. */
  readonly callsPointer: boolean
  /** Control goes where nothing is known of. */
  readonly leaves: boolean
}

/** How far an address in a table of 64-bit words, or an operand, lies above the image's start; NONE for none. */
const above = (base: bigint, address: bigint): Rva => {
  const rva = BigInt.asUintN(64, address) - base
  return rva >= 0n && rva < BigInt(NONE) ? Number(rva) : NONE
}

class Checker {
  readonly image: Image
  readonly claims: Claims
  readonly #deeds = new Deeds()
  readonly #count: number
  readonly #blocks: number
  readonly #length: Uint8Array //   insn -> bytes
  readonly #kind: Uint8Array //     insn -> KIND and FLAG_MAKER
  readonly #reads: Uint32Array //   insn -> register set
  readonly #kills: Uint32Array //   insn -> register set
  readonly #own: Uint32Array //     insn -> what of SCRATCH it reads itself, whatever the kernel's tables say
  readonly #writes: Uint32Array //  insn -> what it may write itself
  readonly #target: Uint32Array //  insn -> where a direct transfer goes, rva or NONE
  readonly #starts: Uint8Array //   insn -> FUNCTION, TRACED, BLOCK
  readonly #blockOf: Uint32Array // insn -> block
  readonly #comes: Uint8Array //    block -> FALLS, JUMPS, CALLS, POINTED
  readonly #compiled: Uint8Array // block -> 1
  readonly #altered = new Set<number>()
  readonly #more = new Map<number, Rva[]>() //         insn -> where else it may go: fixups, static keys
  readonly #variants = new Map<number, Variant[]>() // first insn -> its variants
  readonly #pointerCalls = new Set<number>() //        insns that call through a pointer whatever they look like
  readonly #resumed = new Set<number>() //             traps behind which the kernel goes on
  readonly #dead = new Set<number>() //                traps that end in an oops
  readonly #tracerSites = new Set<number>()
  readonly #thunks = new Map<Rva, boolean>() //        thunk, trampoline -> whether it goes through r11
  readonly #returnThunk: Rva
  readonly #findings: Finding[] = []
  readonly #edges: number[][] = [] // block -> blocks that it was seen to go to
  #ways = 0

  // What was gathered behind the block at hand.
  #behindLive = 0
  #behindReads = 0
  #behindDefines = 0
  #behindOwn = 0
  #returns = false

  constructor(image: Image, claims: Claims) {
    this.image = image
    this.claims = claims
    this.#count = claims.rva.length
    this.#blocks = claims.blockFirst.length - 1
    this.#length = new Uint8Array(this.#count)
    this.#kind = new Uint8Array(this.#count)
    this.#reads = new Uint32Array(this.#count)
    this.#kills = new Uint32Array(this.#count)
    this.#own = new Uint32Array(this.#count)
    this.#writes = new Uint32Array(this.#count)
    this.#target = new Uint32Array(this.#count).fill(NONE)
    this.#starts = new Uint8Array(this.#count)
    this.#blockOf = new Uint32Array(this.#count)
    this.#comes = new Uint8Array(this.#blocks)
    this.#compiled = new Uint8Array(this.#blocks)
    this.#returnThunk = image.symbols.rvaOf('__x86_return_thunk')
  }

  run(): Verdict {
    if (this.#shape()) {
      this.#functions()
      this.#decode()
      this.#tables()
      this.#readVariants()
      this.#pointers()
      this.#findCompiled()
      for (let b = 0; b < this.#blocks; b++) this.#block(b)
      this.#entries()
    }
    return { instructions: this.#count, ways: this.#ways, findings: this.#findings }
  }

  #report(i: number, what: string): void {
    this.#findings.push({ rva: this.claims.rva[i]!, what })
  }

  /** The instruction claimed at an rva, or NONE. */
  #at(rva: Rva): number {
    const i = this.#from(rva)
    return i < this.#count && this.claims.rva[i] === rva ? i : NONE
  }

  /** The first instruction claimed at or behind an rva. */
  #from(rva: Rva): number {
    let low = 0
    let high = this.#count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.claims.rva[middle]! < rva) low = middle + 1
      else high = middle
    }
    return low
  }

  /** Whether the tables are what they should be at all. */
  #shape(): boolean {
    const { rva, live, blockFirst, reads, defines, exit, returning, own } = this.claims
    let sound = live.length === this.#count && blockFirst[0] === 0 && blockFirst[this.#blocks] === this.#count &&
      [reads, defines, exit, returning, own].every((column) => column.length === this.#blocks)
    for (let i = 1; i < this.#count; i++) if (rva[i]! <= rva[i - 1]!) sound = false
    for (let b = 0; b < this.#blocks; b++) if (blockFirst[b]! >= blockFirst[b + 1]!) sound = false
    if (!sound) {
      this.#findings.push({ rva: NONE, what: 'the tables do not fit together' })
      return false
    }
    for (let b = 0; b < this.#blocks; b++) {
      this.#starts[blockFirst[b]!]! |= BLOCK
      this.#blockOf.fill(b, blockFirst[b], blockFirst[b + 1])
    }
    return true
  }

  #functions(): void {
    const { functions, symbols, tables } = this.image
    const sites = new Set<Rva>(tables.ftrace)
    for (let f = 0; f < functions.count; f++) {
      const start = functions.start[f]!
      const name = functions.nameOf(f)
      if (symbols.nameStartsWith(functions.symbol[f]!, '__x86_indirect_')) this.#thunks.set(start, name.endsWith('_r11'))
      const i = this.#at(start)
      if (i === NONE) continue
      // An ENDBR of four bytes may stand before the site.
      const traced = sites.has(start) || (sites.has(start + 4) && functions.functionAt(start + 4) === f)
      this.#starts[i]! |= traced ? FUNCTION | TRACED : FUNCTION
      if (!(this.#starts[i]! & BLOCK)) this.#report(i, 'a function starts in the middle of a block')
    }
    for (const start of tables.staticCallTrampolines.start) this.#thunks.set(start, false)
  }

  #decode(): void {
    const { image, claims: { rva } } = this
    const insn = new Instruction()
    let i = 0
    for (const region of image.regions) {
      const decoder = new Decoder(64, region.bytes, DecoderOptions.None)
      let position = -1
      for (; i < this.#count && rva[i]! < region.end; i++) {
        const at = rva[i]! - region.start
        if (at < 0) this.#report(i, 'is not in code')
        if (at < 0) continue
        if (at !== position) {
          decoder.position = at
          decoder.ip = image.base + BigInt(rva[i]!)
        }
        decoder.decodeOut(insn)
        position = at + insn.length
        this.#one(i, insn, i + 1 < this.#count ? rva[i + 1]! - region.start : region.bytes.length, at)
      }
      decoder.free()
    }
    if (i < this.#count) this.#report(i, 'is not in code')
  }

  /** Notes what the instruction i is; the next one claimed lies at `next` if the region goes so far. */
  #one(i: number, insn: Instruction, next: number, at: number): void {
    const deed = this.#deeds.of(insn)
    this.#length[i] = insn.length
    this.#kind[i] = deed.kind | (deed.makesFlags ? FLAG_MAKER : 0)
    this.#reads[i] = deed.reads
    this.#kills[i] = deed.kills
    // Who reads everything tells nothing, nor does a trap.
    if (deed.reads !== EVERYTHING && deed.kind !== KIND.trap) this.#own[i] = deed.reads & SCRATCH & ~STATUS
    this.#writes[i] = deed.writes
    if (deed.kind === KIND.unknown && insn.isInvalid) this.#length[i] = 1
    else if (insn.length > next - at && next > at) {
      // It reaches into the next one, so a function starts inside it.
      this.#kind[i] = KIND.unknown
      this.#reads[i] = EVERYTHING
      this.#kills[i] = 0
      this.#own[i] = 0
      this.#writes[i] = EVERYTHING
      return
    }
    if (deed.kind === KIND.jump || deed.kind === KIND.branch || deed.kind === KIND.call) {
      this.#target[i] = above(this.image.base, insn.nearBranchTarget)
      return
    }
    if (insn.length < 5) return
    if (insn.isIpRelMemoryOperand) this.#point(above(this.image.base, insn.ipRelMemoryAddress))
    const last = insn.opCount - 1
    if (last < 0) return
    const kind = insn.opKind(last)
    if (kind === OpKind.Immediate32 || kind === OpKind.Immediate32to64) this.#point32(insn.immediate32)
    else if (kind === OpKind.Immediate64) this.#point(above(this.image.base, insn.immediate64))
    else if (insn.memoryDisplSize >= 4 && !insn.isIpRelMemoryOperand) {
      this.#point32(Number(BigInt.asUintN(32, insn.memoryDisplacement)))
    }
  }

  /** The low half of an address, of which the high half is all ones. */
  #point32(low: number): void {
    if (low < 0x8000_0000 || this.image.base >> 32n !== 0xffff_ffffn) return
    this.#point(above(this.image.base, (0xffff_ffffn << 32n) | BigInt(low)))
  }

  /** Control may come to an rva of code in ways that nobody sees. */
  #point(rva: Rva): void {
    if (rva === NONE || rva >= this.image.imageBytes || this.image.functions.functionAt(rva) === NONE) return
    this.#pointTo(rva)
  }

  #pointTo(rva: Rva): void {
    // Inside an instruction: what stands behind may be reached by other bytes than those claimed.
    const i = this.#from(rva)
    if (i === this.#count) return
    if (!(this.#starts[i]! & BLOCK)) this.#report(i, 'its address is somewhere, and no block starts there')
    else this.#comes[this.#blockOf[i]!]! |= POINTED
  }

  #tables(): void {
    const { tables, regions } = this.image
    for (const rva of tables.ftrace) {
      const i = this.#at(rva)
      if (i === NONE) continue
      this.#tracerSites.add(i)
      this.#kind[i] = KIND.next
      this.#reads[i] = SAVED | ARGUMENTS
      this.#kills[i] = TRACER_LOSES
      this.#own[i] = 0
      this.#writes[i] = 0
    }
    for (const rva of tables.staticCalls) this.#pointerCalls.add(this.#at(rva))
    const warns = new Set<Rva>(tables.warns)
    for (let i = 0; i < this.#count; i++) {
      if ((this.#kind[i]! & KIND_MASK) !== KIND.trap) continue
      const rva = this.claims.rva[i]!
      if (warns.has(rva)) this.#resumed.add(i)
      else if (this.#length[i] === 1) {
        // An int3 that is no padding: whoever put it there resumes behind it.
        this.#resumed.add(i)
        this.#reads[i] = EVERYTHING
      } else {
        this.#reads[i] = EVERYTHING
        const region = regions.find(({ start, end }) => rva >= start && rva < end)!
        const behind = Buffer.from(region.bytes.subarray(rva - region.start + 2, rva - region.start + 5)).toString('latin1')
        if (behind === 'xen' || behind === 'kvm') this.#kind[i] = KIND.unknown
        else this.#dead.add(i)
      }
    }
    const also = (from: Rva, to: Rva): number => {
      const i = this.#at(from)
      if (i !== NONE) this.#more.set(i, [...(this.#more.get(i) ?? []), to])
      return i
    }
    tables.staticKeys.rva.forEach((rva, k) => {
      const i = also(rva, tables.staticKeys.target[k]!)
      if (i !== NONE && (this.#kind[i]! & KIND_MASK) === KIND.jump) this.#kind[i] = KIND.branch
    })
    // Types are small since 5.17; before, the handler's place stood there, and nothing is known of what it reads.
    const old = tables.exTable.data.some((data) => (data & 0xff) > 0x3f)
    tables.exTable.insn.forEach((rva, k) => {
      const i = also(rva, tables.exTable.fixup[k]!)
      if (i === NONE) return
      const data = tables.exTable.data[k]!
      this.#reads[i]! |= old ? EVERYTHING : data >>> 8 === 0 ? 0 : HANDLER_READS | (1 << ((data >>> 8) & 15))
      this.#kills[i] = 0
    })
  }

  #readVariants(): void {
    const { image } = this
    const { alternatives, paravirt } = image.tables
    const alter = (rva: Rva, length: number, reads: number): void => {
      for (let i = this.#from(rva); i < this.#count && this.claims.rva[i]! < rva + length; i++) {
        this.#altered.add(i)
        this.#reads[i]! |= reads
        this.#kills[i] = 0
      }
    }
    alternatives.rva.forEach((rva, k) => {
      const from = this.#at(rva)
      if (from === NONE) return
      const variant = this.#readVariant(alternatives.replRva[k]!, alternatives.replLen[k]!)
      alter(rva, alternatives.len[k]!, variant.reads)
      this.#variants.set(from, [...(this.#variants.get(from) ?? []), variant])
    })
    paravirt.rva.forEach((rva, k) => {
      alter(rva, paravirt.len[k]!, 0)
      const i = this.#at(rva)
      if (i !== NONE) this.#pointerCalls.add(i)
    })
  }

  #readVariant(start: Rva, length: number): Variant {
    const { image } = this
    if (length === 0) return { reads: 0, jumps: [], calls: [], callsPointer: false, leaves: false }
    const bug = image.symbols.rvaOf('BUG_func')
    const decoder = new Decoder(64, bytesAt(image, start, length), DecoderOptions.None)
    decoder.ip = image.base + BigInt(start)
    const insn = new Instruction()
    const jumps: Rva[] = []
    const calls: Rva[] = []
    let reads = 0
    let callsPointer = false
    let leaves = false
    while (decoder.canDecode) {
      decoder.decodeOut(insn)
      const deed = this.#deeds.of(insn)
      reads |= deed.reads
      if (deed.kind === KIND.next) continue
      if (deed.kind === KIND.jump || deed.kind === KIND.branch) {
        const to = above(image.base, insn.nearBranchTarget)
        if (to === NONE || to < start || to >= start + length) jumps.push(to)
      } else if (deed.kind === KIND.call) {
        const to = above(image.base, insn.nearBranchTarget)
        if (to !== NONE && to === bug) callsPointer = true
        else calls.push(to)
      } else if (deed.kind === KIND.pointerCall || deed.kind === KIND.trap) callsPointer = true
      else leaves = true
    }
    decoder.free()
    insn.free()
    return { reads, jumps, calls, callsPointer, leaves }
  }

  #pointers(): void {
    for (const rva of this.image.codePointers) this.#pointTo(rva)
    for (const rva of this.image.tables.exports) this.#pointTo(rva)
  }

  /** Compiled code: traced functions, and parts that gcc moved out of them. */
  #findCompiled(): void {
    const { functions } = this.image
    const { rva, blockFirst } = this.claims
    const inside = (f: number): [number, number] => [this.#from(functions.start[f]!), this.#from(functions.end[f]!)]
    const compile = (f: number): void => {
      const [first, end] = inside(f)
      if (first < end) this.#compiled.fill(1, this.#blockOf[first]!, this.#blockOf[end - 1]! + 1)
    }
    for (let f = 0; f < functions.count; f++) {
      const i = this.#at(functions.start[f]!)
      if (i !== NONE && this.#starts[i]! & TRACED) compile(f)
    }
    const from = new Map<number, number[]>() // cold part -> blocks that jump into it
    const note = (b: number, to: Rva): void => {
      const f = to === NONE ? NONE : functions.functionAt(to)
      if (f === NONE || !functions.isCold[f]) return
      const source = rva[blockFirst[b]!]!
      if (source < functions.start[f]! || source >= functions.end[f]!) from.set(f, [...(from.get(f) ?? []), b])
    }
    for (let i = 0; i < this.#count; i++) {
      const kind = this.#kind[i]! & KIND_MASK
      if (kind === KIND.jump || kind === KIND.branch) note(this.#blockOf[i]!, this.#target[i]!)
    }
    for (const [i, places] of this.#more) for (const to of places) note(this.#blockOf[i]!, to)
    for (const [i, variants] of this.#variants) for (const { jumps } of variants) for (const to of jumps) note(this.#blockOf[i]!, to)
    for (let found = true; found;) {
      found = false
      for (const [f, blocks] of from) {
        if (!blocks.every((b) => this.#compiled[b])) continue
        compile(f)
        from.delete(f)
        found = true
      }
    }
  }

  /** What goes through a pointer at the end of a block may read. */
  #byPointer(b: number, last: number): number {
    if (!this.#compiled[b]) return EVERYTHING
    let set = POINTER_READS
    if (this.#target[last] !== NONE && this.#thunks.get(this.#target[last]!)) set |= THROUGH_R11
    for (let i = this.claims.blockFirst[b]!; i < last; i++) if (this.#kind[i]! & FLAG_MAKER) set |= STATUS
    return set
  }

  #unknown(): void {
    this.#needs(EVERYTHING)
    this.#behindDefines = 0
    this.#returns = true
  }

  #needs(set: number): void {
    this.#behindLive |= set
    this.#behindReads |= set
  }

  #leaves(b: number): void {
    this.#behindLive |= this.claims.exit[b]!
    this.#behindDefines = 0
    this.#returns = true
  }

  /** Control may go on at an rva; `how` it comes there. */
  #goTo(b: number, rva: Rva, how: number): void {
    this.#ways++
    const i = rva === NONE ? NONE : this.#at(rva)
    if (i === NONE) {
      if (rva !== NONE) this.#pointTo(rva)
      this.#unknown()
      return
    }
    if (!(this.#starts[i]! & BLOCK)) {
      this.#report(i, 'control comes here, and no block starts')
      return
    }
    const { live, reads, defines, exit, returning, own } = this.claims
    const s = this.#blockOf[i]!
    this.#comes[s]! |= how
    ;(this.#edges[b] ??= []).push(s)
    if (this.#starts[i]! & TRACED) {
      this.#needs(ARGUMENTS)
      if (returning[s]) {
        this.#behindLive |= exit[b]! & ~SCRATCH
        this.#behindDefines &= SCRATCH
      }
    } else {
      this.#behindOwn |= own[s]!
      this.#behindLive |= this.#starts[i]! & FUNCTION ? reads[s]! | (exit[b]! & ~defines[s]!) : live[i]!
      this.#behindReads |= reads[s]!
      this.#behindDefines &= defines[s]!
      if (exit[b]! & ~exit[s]!) this.#report(i, `its exit lacks ${naming(exit[b]! & ~exit[s]!)}, as it is jumped to`)
    }
    if (returning[s]) this.#returns = true
  }

  /** The rva of the instruction right behind another one; NONE if none is claimed there. */
  #next(i: number): Rva {
    const behind = this.claims.rva[i]! + this.#length[i]!
    return i + 1 < this.#count && this.claims.rva[i + 1] === behind ? behind : NONE
  }

  #goOn(b: number, last: number): void {
    this.#goTo(b, this.#next(last), FALLS)
  }

  #call(b: number, last: number): void {
    const { rva, reads, defines, exit, returning } = this.claims
    const to = this.#target[last]!
    if (this.#dropsReturn(to)) {
      this.#needs(this.#byPointer(b, last))
      this.#leaves(b)
      return
    }
    if (to !== NONE && (this.#thunks.has(to) || this.#pointerCalls.has(last))) {
      this.#goOn(b, last)
      this.#needs(this.#byPointer(b, last))
      return
    }
    this.#ways++
    const i = to === NONE ? NONE : this.#at(to)
    if (i === NONE) {
      if (to !== NONE) this.#pointTo(to)
      this.#goOn(b, last)
      this.#needs(EVERYTHING)
      return
    }
    if (!(this.#starts[i]! & BLOCK)) {
      this.#report(i, 'it is called, and no block starts')
      return
    }
    const f = this.#blockOf[i]!
    const traced = (this.#starts[i]! & TRACED) !== 0
    this.#comes[f]! |= CALLS
    if (this.#altered.has(last)) {
      // Something else may be called, or nothing.
      this.#goOn(b, last)
      this.#needs(EVERYTHING)
      this.#comes[f]! |= POINTED
      return
    }
    // A call with nothing behind it never returns, but what it reads is not known.
    if (returning[f] && this.#next(last) === NONE) this.#needs(EVERYTHING)
    else if (returning[f]) this.#goOn(b, last)
    const wanted = RESULTS | this.#behindLive
    if (!traced && wanted & ~exit[f]!) this.#report(i, `its exit lacks ${naming(wanted & ~exit[f]!)}, called from ${hex(rva[last]!)}`)
    const forgotten = traced ? this.#behindOwn & ~exit[f]! : 0
    if (forgotten) this.#report(i, `its exit lacks ${naming(forgotten)}, read behind ${hex(rva[last]!)}`)
    const lost = traced ? SCRATCH & ~this.#behindOwn : defines[f]!
    const read = traced ? ARGUMENTS : reads[f]!
    this.#behindLive = read | (this.#behindLive & ~lost)
    this.#behindReads = read | (this.#behindReads & ~lost)
    this.#behindDefines |= lost
  }

  /** Return thunks against SRSO throw away the return address that called them: lea 8(%rsp),%rsp or add $8,%rsp. */
  #dropsReturn(to: Rva): boolean {
    const region = to === NONE ? undefined : this.image.regions.find(({ start, end }) => to >= start && to + 5 <= end)
    if (region === undefined) return false
    const code = Buffer.from(region.bytes.subarray(to - region.start, to - region.start + 5)).toString('hex')
    return code === '488d642408' || code.startsWith('4883c408')
  }

  /** Gathers what is behind the last instruction of a block. */
  #transfer(b: number, last: number): void {
    const { rva } = this.claims
    const target = this.#target[last]!
    this.#behindLive = 0
    this.#behindReads = 0
    this.#behindDefines = EVERYTHING
    this.#behindOwn = 0
    this.#returns = false
    let goesOn = this.#altered.has(last)
    switch (this.#kind[last]! & KIND_MASK) {
      case KIND.next:
        goesOn = true
        break
      case KIND.branch:
        goesOn = true
      // falls through
      case KIND.jump:
        if (target === this.#returnThunk && target !== NONE) this.#return(b, rva[last]!)
        else if (target !== NONE && this.#thunks.has(target)) this.#jumpThroughPointer(b, last)
        else this.#goTo(b, target, JUMPS)
        break
      case KIND.call:
        this.#call(b, last)
        break
      case KIND.pointerJump:
        this.#jumpThroughPointer(b, last)
        break
      case KIND.pointerCall:
        goesOn = true
        this.#needs(this.#byPointer(b, last))
        break
      case KIND.return:
        this.#return(b, rva[last]!)
        break
      case KIND.trap:
        if (this.#resumed.has(last)) goesOn = true
        break
      default:
        this.#unknown()
    }
    if (this.#pointerCalls.has(last) && (this.#kind[last]! & KIND_MASK) !== KIND.call) this.#needs(this.#byPointer(b, last))
    for (const to of this.#more.get(last) ?? []) this.#goTo(b, to, JUMPS)
    for (const variant of this.#variants.get(last) ?? []) this.#variant(b, last, variant)
    if (goesOn) this.#goOn(b, last)
  }

  #return(b: number, rva: Rva): void {
    // Assembly that returns with anything but its return address on top of the stack goes elsewhere.
    if (!this.#compiled[b] && !this.image.orc.returnsThere(rva)) this.#needs(EVERYTHING)
    this.#leaves(b)
  }

  #jumpThroughPointer(b: number, last: number): void {
    const { functions, codePointers } = this.image
    const f = functions.functionAt(this.claims.rva[last]!)
    const labels = f === NONE ? [] : codePointers.filter((p) => p > functions.start[f]! && p < functions.end[f]!)
    if (labels.length === 0) {
      this.#needs(this.#byPointer(b, last))
      this.#leaves(b)
      return
    }
    if (this.#target[last] !== NONE) this.#needs(EVERYTHING) // the kernel may put the jump itself in place of its thunk
    for (const to of labels) this.#goTo(b, to, JUMPS)
  }

  #variant(b: number, last: number, variant: Variant): void {
    for (const to of variant.jumps) this.#goTo(b, to, JUMPS)
    for (const to of variant.calls) {
      this.#needs(EVERYTHING)
      const i = to === NONE ? NONE : this.#at(to)
      if (i === NONE) continue
      if (!(this.#starts[i]! & BLOCK)) this.#report(i, 'a variant calls it, and no block starts')
      else this.#comes[this.#blockOf[i]!]! |= CALLS | POINTED
    }
    if (variant.callsPointer) this.#needs(this.#byPointer(b, last))
    if (variant.leaves) this.#unknown()
  }

  /** Whether an instruction must end its block. */
  #ends(i: number): boolean {
    const kind = this.#kind[i]! & KIND_MASK
    return (kind !== KIND.next && !(kind === KIND.trap && this.#resumed.has(i))) || this.#more.has(i) ||
      (this.#variants.get(i) ?? []).some((v) => v.jumps.length + v.calls.length > 0 || v.leaves || v.callsPointer) ||
      this.#pointerCalls.has(i)
  }

  #block(b: number): void {
    const { live, blockFirst, reads, defines, returning, own, rva } = this.claims
    const first = blockFirst[b]!
    const last = blockFirst[b + 1]! - 1
    this.#transfer(b, last)
    let set = this.#behindLive
    let read = this.#behindReads
    let define = this.#behindDefines
    let itself = this.#behindOwn
    for (let i = last; i >= first; i--) {
      if (i < last) {
        if (rva[i]! + this.#length[i]! !== rva[i + 1] || this.#ends(i)) this.#report(i, 'its block goes on behind it')
      }
      const reading = this.#reads[i]!
      const kills = this.#kills[i]!
      set = reading | (set & ~kills)
      read = reading | (read & ~kills)
      define |= kills
      itself = this.#own[i]! | (itself & ~this.#writes[i]!)
      if (set & ~live[i]!) this.#report(i, `live lacks ${naming(set & ~live[i]!)}`)
      set = live[i]! // the claim stands for what is behind
    }
    if (read & ~reads[b]!) this.#report(first, `reads lack ${naming(read & ~reads[b]!)}`)
    if (defines[b]! & ~define) this.#report(first, `does not surely define ${naming(defines[b]! & ~define)}`)
    if (itself & ~own[b]!) this.#report(first, `own reads lack ${naming(itself & ~own[b]!)}`)
    if (this.#returns && !returning[b]) this.#report(first, 'returns')
  }

  /** Whether enough is expected where callers are not all known. */
  #entries(): void {
    const { blockFirst, exit } = this.claims
    // What is called, and what that leads to; the callers of all else are not known.
    const reached = new Uint8Array(this.#blocks)
    const stack: number[] = []
    const reach = (b: number): void => {
      if (reached[b]) return
      reached[b] = 1
      stack.push(b)
    }
    const alone = (b: number): boolean => this.#comes[b] === 0 || ((this.#starts[blockFirst[b]!]! & FUNCTION) !== 0 && this.#comes[b] === FALLS)
    for (let b = 0; b < this.#blocks; b++) {
      if (this.#comes[b]! & (CALLS | POINTED) || this.#starts[blockFirst[b]!]! & TRACED || alone(b)) reach(b)
    }
    while (stack.length > 0) this.#edges[stack.pop()!]?.forEach(reach)
    for (let b = 0; b < this.#blocks; b++) {
      const first = blockFirst[b]!
      const wanted = this.#starts[first]! & TRACED ? RESULTS
        : !reached[b] || this.#comes[b]! & POINTED || alone(b) ? EVERYTHING : 0
      const lacks = wanted & ~exit[b]!
      if (lacks) this.#report(first, `its exit lacks ${naming(lacks)}`)
    }
  }
}

/** Checks that claims about the whole image hold. */
export const checkClaims = (image: Image, claims: Claims): Verdict => new Checker(image, claims).run()
