// The code of a plan, read for checking: instructions as both decoders see them, the fixups that complete them, and the
// counting code, of which one shape alone is accepted:
//
//   [push r]… [lahf [seto %al]]  movabs $slot,%r; incq %gs:(%r)  [[add $0x7f,%al] sahf] [pop r]…

import { Mnemonic } from '../code/iced.js'
import { AF, CF, OF, PF, RAX, SF, ZF, type RegisterSet } from '../code/registers.js'
import type { Rva } from '../image/rva.js'
import { Mistake } from './mistake.js'
import type { Opinion, Opinions } from './opinion.js'
import { FIXUP_KIND, type PatchTables } from './tables.js'
import { verifyProgram, type ProgramTerms } from './verify.js'

const INC_FLAGS: RegisterSet = PF | AF | ZF | SF | OF
const LAHF_FLAGS: RegisterSet = CF | PF | AF | ZF | SF

const RSP_NUMBER = 4

export class PatchReader {
  readonly code: Uint8Array
  readonly #tables: PatchTables
  readonly #opinions: Opinions
  #fixup = 0
  at = 0
  instructions = 0

  constructor(tables: PatchTables, opinions: Opinions) {
    this.#tables = tables
    this.code = tables.code
    this.#opinions = opinions
  }

  /** The next instruction, of so many bytes, as both decoders see it. */
  take(length: number): Opinion {
    if (this.at + length > this.code.length) throw new Mistake('the code ends inside a patch')
    const opinion = this.#opinions.of(this.code, this.at, length)
    if (opinion === undefined) throw new Mistake(`no instruction of ${length} bytes at code+${this.at} that both decoders see`)
    this.at += length
    this.instructions++
    return opinion
  }

  /** The byte at an offset from the next instruction; 0 behind the end. */
  peek(offset = 0): number {
    return this.code[this.at + offset] ?? 0
  }

  /** Takes an instruction of exactly these bytes. */
  expect(mnemonic: Mnemonic, ...bytes: number[]): void {
    for (let i = 0; i < bytes.length; i++) {
      if (this.peek(i) !== bytes[i]) throw new Mistake(`an unexpected instruction at code+${this.at}`)
    }
    if (this.take(bytes.length).mnemonic !== mnemonic) throw new Mistake(`an unexpected instruction at code+${this.at}`)
  }

  /** Takes the fixup of the field at `offset`, in an instruction that ends at `end`: it must be the next one. */
  takeFixup(kind: number, offset: number, end: number): number {
    const f = this.#fixup++
    const { fixupCount, fixupOffset, fixupKind, fixupTrail, fixupValue } = this.#tables
    const relative = kind === FIXUP_KIND.rel32 || kind === FIXUP_KIND.pcpu32
    const trail = relative ? end - offset - 4 : 0
    if (f >= fixupCount || fixupOffset[f] !== offset || fixupKind[f] !== kind || fixupTrail[f] !== trail) {
      throw new Mistake(`the fixup at code+${offset} is missing or wrong`)
    }
    return fixupValue[f]!
  }

  /** Offset of the next fixup's field, where it lies before `end`; else -1. */
  fixupBefore(end: number): number {
    const offset = this.#fixup < this.#tables.fixupCount ? this.#tables.fixupOffset[this.#fixup]! : end
    return offset < end ? offset : -1
  }

  /** A 32-bit field of the code. */
  field(offset: number): number {
    const { code } = this
    return code[offset]! | (code[offset + 1]! << 8) | (code[offset + 2]! << 16) | (code[offset + 3]! << 24)
  }

  /** Takes `jmp` to an rva of the kernel. */
  jump(target: Rva): void {
    if (this.peek() !== 0xe9) throw new Mistake(`a jump is missing at code+${this.at}`)
    const start = this.at
    if (this.take(5).mnemonic !== Mnemonic.Jmp) throw new Mistake(`a jump is missing at code+${start}`)
    if (this.takeFixup(FIXUP_KIND.rel32, start + 1, this.at) !== target) throw new Mistake('the patch jumps to a wrong place')
  }

  /** Skips what lies between patches. */
  skipTo(offset: number): void {
    for (; this.at < offset; this.at++) if (this.code[this.at] !== 0xcc) throw new Mistake(`there is code between patches, at code+${this.at}`)
    if (this.at !== offset) throw new Mistake('patches overlap')
  }

  finish(): void {
    if (this.#fixup !== this.#tables.fixupCount) throw new Mistake('fixups are left over')
    for (let i = this.at; i < this.code.length; i++) if (this.code[i] !== 0xcc) throw new Mistake('code is left over')
  }

  /** Takes the code of programs, up to an offset. */
  programs(end: number, terms: ProgramTerms): void {
    const { fixup, instructions } = verifyProgram(this.#tables, this.#opinions, this.#fixup, this.at, end, terms)
    this.#fixup = fixup
    this.instructions += instructions
    this.at = end
  }

  /** Takes the code that counts one slot, and changes nothing that is live. */
  count(slot: number, live: RegisterSet): void {
    const saved: number[] = []
    let changed: RegisterSet = 0
    const isPush = (): boolean => (this.peek() & 0xf8) === 0x50 || (this.peek() === 0x41 && (this.peek(1) & 0xf8) === 0x50)
    while (isPush()) {
      const { mnemonic, register } = this.take(this.peek() === 0x41 ? 2 : 1)
      if (mnemonic !== Mnemonic.Push || register === RSP_NUMBER || saved.includes(register)) throw new Mistake('an unexpected push')
      saved.push(register)
    }
    let kept: RegisterSet = 0 // flags that lie in AH and AL
    if (this.peek() === 0x9f) {
      this.expect(Mnemonic.Lahf, 0x9f)
      changed |= RAX
      kept = LAHF_FLAGS
      if (this.peek() === 0x0f) {
        this.expect(Mnemonic.Seto, 0x0f, 0x90, 0xc0)
        kept |= OF
      }
    }
    const start = this.at
    const { mnemonic, register: r } = this.take(10)
    if (mnemonic !== Mnemonic.Mov || r < 0 || (kept && r === 0) || r === RSP_NUMBER) throw new Mistake('a counter is missing')
    if (this.code[start] !== (r < 8 ? 0x48 : 0x49) || this.code[start + 1] !== 0xb8 + (r & 7)) throw new Mistake('an unusual encoding')
    if (this.takeFixup(FIXUP_KIND.slot64, start + 2, this.at) !== slot) throw new Mistake('another slot is counted')
    // (%rsp), (%rbp), (%r12) and (%r13) are encoded in other ways, and mean something else here.
    if ((r & 7) === 4 || (r & 7) === 5) throw new Mistake('a register that cannot point to a counter')
    this.expect(Mnemonic.Inc, 0x65, r < 8 ? 0x48 : 0x49, 0xff, r & 7)
    changed |= 1 << r
    let flags: RegisterSet = INC_FLAGS
    if (kept) {
      if (kept & OF) {
        this.expect(Mnemonic.Add, 0x04, 0x7f)
        flags = 0 // OF is what it was, and the others follow
      }
      this.expect(Mnemonic.Sahf, 0x9e)
      flags &= ~LAHF_FLAGS
    }
    while (saved.length > 0) {
      const register = saved.pop()!
      const { mnemonic } = this.take(register < 8 ? 1 : 2)
      if (mnemonic !== Mnemonic.Pop || this.code[this.at - 1] !== 0x58 + (register & 7) || (register >= 8 && this.code[this.at - 2] !== 0x41)) {
        throw new Mistake('a saved register is not restored')
      }
      changed &= ~(1 << register)
    }
    const harmed = (changed | flags) & live
    if (harmed !== 0) throw new Mistake(`the patch changes what is live (set ${harmed.toString(16)})`)
  }
}
