// image/orc.ts: where a function's return address lies, judged by what the instructions from functions' entries on do
// to %rsp, and by tables of both forms that are written here.

import t, { type Test } from 'tap'
import { Code, Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register } from '../src/code/iced.js'
import { loadImage, type Image } from '../src/image/image.js'
import type { Memory } from '../src/image/memory.js'
import { Orc } from '../src/image/orc.js'
import { NONE } from '../src/image/rva.js'
import { kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

t.comment(seedNote)
const random = lottery(seed)

// ---- Tables that are written here ----------------------------------------------------------------------------------

/** rva from which it holds, sp_offset, the byte of the registers, the byte of the type. */
type Row = readonly [number, number, number, number]

const SP = 5
const SP_AND_BP = 0x15 // bp_reg is PREV_SP: found on the stack
const BP = 4
const IPS_AT = 0x8000

/** Orc over these rows. `extra`: bytes too many in the second section. */
const written = (rows: readonly Row[], header = false, extra = 0): Orc => {
  const ips = new DataView(new ArrayBuffer(rows.length * 4))
  const entries = new DataView(new ArrayBuffer(rows.length * 6 + extra))
  rows.forEach(([rva, offset, registers, type], i) => {
    ips.setInt32(i * 4, rva - (IPS_AT + i * 4), true)
    entries.setInt16(i * 6, offset, true)
    entries.setUint8(i * 6 + 4, registers)
    entries.setUint8(i * 6 + 5, type)
  })
  const bytes = [new Uint8Array(ips.buffer), new Uint8Array(entries.buffer), new Uint8Array(header ? 20 : 0)]
  const sections = ['.orc_unwind_ip', '.orc_unwind', '.orc_header'].map((name, i) =>
    ({ section: { name }, start: IPS_AT + i * 0x1000, end: IPS_AT + i * 0x1000 + bytes[i]!.length, bytes: bytes[i]! }))
  const memory = {
    sections: header ? sections : sections.slice(0, 2),
    bytesOf: (loaded: { bytes: Uint8Array }) => loaded.bytes,
  }
  return new Orc(memory as unknown as Memory)
}

const answers = (orc: Orc, rvas: readonly number[]): number[] => rvas.map((rva) => orc.returnAddressAt(rva))

t.test('6.1: types of 2 bits', async (t) => {
  const orc = written([
    [100, 0, 0, 0], [100, 8, SP, 0], [101, 16, SP_AND_BP, 0], [102, 16, BP, 0], [103, 8, SP, 2], [104, 16, SP, 1],
    [105, 8, SP, 4], [106, 0, SP, 0], [107, -8, SP, 0], [108, 12, SP, 0], [109, 0x7ff8, SP, 0],
    [110, 8, 9, 0], [111, 0, 0, 4],
  ])
  t.same(answers(orc, [0, 99, 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111, 0x7fffffff]),
    [-1, -1, 0, 8, -1, -1, -1, -1, -1, -1, -1, 0x7ff0, -1, -1, -1])
  t.same([99, 100, 101, 102, 103, 104].map((rva) => orc.returnsThere(rva)), [false, true, false, false, true, false])
})

t.test('6.12: types of 3 bits', async (t) => {
  for (const header of [true, false]) {
    const orc = written([
      [100, 8, SP, 2], [101, 24, SP_AND_BP, 2], [102, 8, SP, 3], [103, 8, SP, 4], [104, 8, SP, 12], [105, 8, SP, 10],
      [106, 0, 0, 0], [107, 0, 0, 1], [108, 8, SP, 1],
    ], header)
    t.same(answers(orc, [99, 100, 101, 102, 103, 104, 105, 106, 107, 108]), [-1, 0, 16, -1, -1, -1, -1, -1, -1, -1])
  }
})

t.test('tables that are not as expected', async (t) => {
  const row: Row = [100, 8, SP, 2]
  const old: Row = [101, 8, SP, 0]
  t.same(answers(written([row, old]), [100, 101]), [-1, 0], 'one old entry makes the table old')
  const both = written([row, old], true)
  t.same(answers(both, [100, 101]), [-1, -1], 'an old entry, but a header')
  t.ok(both.returnsThere(100), 'which has the same place in both forms')
  t.same(answers(written([old, row]), [100, 101]), [-1, -1], 'not sorted')
  t.notOk(written([old, row]).returnsThere(101))
  t.same(answers(written([row], false, 1), [100]), [-1], 'of another length')
  t.same(answers(written([]), [0, 100]), [-1, -1])
  t.equal(new Orc({ sections: [] } as unknown as Memory).returnAddressAt(0), -1)
})

// ---- Real kernels --------------------------------------------------------------------------------------------------

/** What objtool does not look at: STACK_FRAME_NON_STANDARD(), and in 6.1 three files of arch/x86/entry/vdso. */
const UNSEEN: Record<string, readonly string[]> = {
  '6.1-cloud': [
    'fixup_vdso_exception', 'machine_real_restart', '__crash_kexec', 'sysenter_setup', 'vdso32_setup',
    'ia32_binfmt_init',
  ],
  '6.12-cloud': ['machine_real_restart', '__crash_kexec'],
}

const SUBS = new Set<Code>([Code.Sub_rm64_imm8, Code.Sub_rm64_imm32])
const ADDS = new Set<Code>([Code.Add_rm64_imm8, Code.Add_rm64_imm32])

/** Of the instructions that a function surely comes to with this much on its stack, one after the other. */
interface Tally {
  same: number
  unknown: number
  readonly wrong: string[]
}

/**
 * Follows a function from its entry as if no branch were taken and every call came back, until something else is done
 * with %rsp than to push, pop, add and subtract, or control surely goes elsewhere.
 */
const follow = ({ base, functions, regions, orc }: Image, func: number, tally: Tally): void => {
  const start = functions.start[func]!
  const region = regions.find((r) => start >= r.start && start < r.end)!
  const bytes = region.bytes.subarray(start - region.start, functions.end[func]! - region.start)
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  decoder.ip = base + BigInt(start)
  let depth = 0
  for (let at = 0; at < bytes.length; ) {
    const insn = decoder.decode()
    const flow = insn.flowControl
    const above = orc.returnAddressAt(start + at)
    if (above === depth) tally.same++
    else if (above === -1) tally.unknown++
    else tally.wrong.push(`${functions.nameOf(func)}+0x${at.toString(16)}: ${above}, not ${depth}`)
    at += insn.length
    const touches = insn.op0Kind === OpKind.Register && insn.op0Register === Register.RSP
    const isCall = flow === FlowControl.Call || flow === FlowControl.IndirectCall
    let goesOn = isCall || flow === FlowControl.Next || flow === FlowControl.ConditionalBranch
    if (touches && SUBS.has(insn.code)) depth += Number(BigInt.asIntN(32, insn.immediate(1)))
    else if (touches && ADDS.has(insn.code)) depth -= Number(BigInt.asIntN(32, insn.immediate(1)))
    else if (touches && insn.mnemonic !== Mnemonic.Push && insn.mnemonic !== Mnemonic.Cmp) goesOn = false
    else if (insn.mnemonic === Mnemonic.Leave || insn.isInvalid) goesOn = false
    else if (!isCall) depth -= insn.stackPointerIncrement
    insn.free()
    if (!goesOn) break
  }
  decoder.free()
}

const checkKernel = (t: Test, name: string): void => {
  const { vmlinux, vmlinuz } = kernel(name)
  const image = loadImage(vmlinux)
  const { tables, functions, orc } = image
  const unseen = [...tables.ftrace].filter((rva) => orc.returnAddressAt(rva) !== 0)
  t.same(unseen.map((rva) => functions.nameOf(functions.functionAt(rva))), UNSEEN[name], 'entries of traced functions')
  t.ok(unseen.every((rva) => orc.returnAddressAt(rva) === -1), 'of which nothing is said')

  const tally: Tally = { same: 0, unknown: 0, wrong: [] }
  let followed = 0
  for (const rva of tables.ftrace) {
    const func = functions.functionAt(rva)
    if (func === NONE || random(3) > 0) continue
    followed++
    follow(image, func, tally)
  }
  t.same(tally.wrong.slice(0, 20), [], `${tally.wrong.length} wrong`)
  t.comment(`${followed} functions: ${tally.same} instructions as followed, ${tally.unknown} not known`)
  t.ok(tally.same > 100_000)
  t.ok(tally.unknown < tally.same * 0.08, 'the others: mostly frames found by %rbp')

  const packed = loadImage(vmlinuz)
  let differ = 0
  for (let rva = 0; rva < image.imageBytes; rva += 1 + random(64)) {
    if (packed.orc.returnAddressAt(rva) !== orc.returnAddressAt(rva)) differ++
    if (orc.returnAddressAt(rva) === 0 && !orc.returnsThere(rva)) differ++
  }
  t.equal(differ, 0, 'vmlinuz says the same')
}

for (const name of ['6.1-cloud', '6.12-cloud']) t.test(name, async (t) => checkKernel(t, name))
