// splice/move.ts and code.ts: moved instructions. Judges: cases by hand, both decoders (every form of instruction in two
// kernels), and the processor (every form that can run in a process, where it lay against where it was moved to).

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Decoder, DecoderOptions, Formatter, FormatterSyntax, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register } from 'iced-x86'
import t from 'tap'
import { sweepImage } from '../src/cfg/sweep.js'
import { decodeRanges, FLOW } from '../src/code/instructions.js'
import { KeyReader } from '../src/code/key.js'
import { agrees, SecondDecoder } from '../src/code/second.js'
import { bytesAt, loadImage, type Image } from '../src/image/image.js'
import { NONE, type Rva } from '../src/image/rva.js'
import { CodeBuffer, type FixupTables } from '../src/splice/code.js'
import { appendMoved, movable, originalOf } from '../src/splice/move.js'
import { FIXUP_KIND, RELOC_KIND } from '../src/splice/tables.js'
import { ROOT, kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { setOf } from './registers.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']

t.comment(seedNote)
const random = lottery(seed)
const second = await SecondDecoder.load()

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-move-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')
const fromHex = (hex: string): Uint8Array => Uint8Array.from(Buffer.from(hex, 'hex'))

const FLOW_NAMES = Object.keys(FLOW)

// --- An image of a few bytes ---

interface Listed {
  readonly abs32?: readonly number[]
  readonly pcpu32?: readonly number[]
}

/** As much of an image as moving asks for: bytes at an rva, and the fields that KASLR changes. */
const smallImage = (base: bigint, imageBytes: number, start: Rva, bytes: Uint8Array, listed: Listed | undefined): Image => ({
  base, imageBytes,
  regions: [{ name: '.text', start, end: start + bytes.length, bytes }],
  relocs: {
    known: listed !== undefined,
    relocAbs32: Uint32Array.from(listed?.abs32 ?? []),
    relocAbs64: new Uint32Array(0),
    relocPcpu32: Uint32Array.from(listed?.pcpu32 ?? []),
  },
}) as unknown as Image

/** Completes code as kmod/uapi/kerninst.h says. */
const complete = (code: Uint8Array, fixups: FixupTables, codeAt: bigint, base: bigint, slide: bigint): Uint8Array => {
  const ready = code.slice()
  const view = new DataView(ready.buffer)
  for (let i = 0; i < fixups.fixupCount; i++) {
    const offset = fixups.fixupOffset[i]!
    const value = fixups.fixupValue[i]!
    const end = codeAt + BigInt(offset + 4 + fixups.fixupTrail[i]!)
    let field: bigint
    if (fixups.fixupKind[i] === FIXUP_KIND.rel32) field = base + slide + BigInt(value) - end
    else if (fixups.fixupKind[i] === FIXUP_KIND.pcpu32) field = BigInt.asIntN(64, BigInt.asUintN(64, BigInt(value | 0)) - end)
    else if (fixups.fixupKind[i] === FIXUP_KIND.abs32) field = BigInt(view.getInt32(offset, true)) + slide
    else throw new Error('a fixup that no moved instruction has')
    field = BigInt.asIntN(64, field)
    if (BigInt.asIntN(32, field) !== field) throw new Error(`out of reach: ${field}`)
    view.setInt32(offset, Number(field), true)
  }
  return ready
}

// --- By hand ---

const BASE = 0xffffffff81000000n
const AT = 0x1000

const KIND_NAMES = ['rel', 'abs', 'pcpu', 'slot']

/** What becomes of an instruction at AT: 'bytes fixups…', or the refusal. `abs`, `pcpu`: the offset of a listed field. */
const moveOne = (hex: string, option: string | undefined): string => {
  const bytes = fromHex(hex)
  const insns = decodeRanges([{ start: AT, bytes }])
  if (insns.count !== 1) return `${insns.count} instructions`
  const [kind, offset] = option?.split('+') ?? []
  const listed = kind === 'guess' ? undefined : kind === undefined ? {} : { [kind === 'abs' ? 'abs32' : 'pcpu32']: [AT + Number(offset)] }
  const image = smallImage(BASE, 0x2000000, AT, bytes, listed)
  const flow = insns.flow[0]!
  const why = movable(image, AT, bytes.length, flow, insns.target[0]!)
  if (why !== '') return why
  const code = new CodeBuffer()
  const goesOn = appendMoved(code, image, AT, bytes.length, flow, insns.target[0]!)
  const { fixupCount, fixupOffset, fixupKind, fixupValue, fixupTrail } = code.fixupTables()
  const words = [hexOf(code.bytes())]
  for (let i = 0; i < fixupCount; i++) words.push(`${KIND_NAMES[fixupKind[i]!]}@${fixupOffset[i]}=${fixupValue[i]!.toString(16)}+${fixupTrail[i]}`)
  return words.join(' ') + (goesOn ? '' : ' .')
}

// An instruction at rva 0x1000 of a kernel at 0xffffffff81000000; [a listed field]; -> what it becomes: bytes, then for
// each fixup kind@offset=value+trail, then a dot where control does not go on; or why not.
const CASES = `
  90                          -> 90                                                             # nop
  488b4308                    -> 488b4308                                                       # mov 0x8(%rbx),%rax
  488b0500010000              -> 488b0500000000 rel@3=1107+0                                    # mov 0x100(%rip),%rax
  c605f9ffffff05              -> c6050000000005 rel@2=1000+1                                    # movb $5,-7(%rip)
  66c705f7ffffff0500          -> 66c705000000000500 rel@3=1000+2                                # movw $5,-9(%rip)
  48c7050001000000000081 abs+7 -> 48c7050000000000000081 rel@3=110b+4 abs@7=0+0                 # movq $_text,0x100(%rip)
  488d3500f0ffff              -> 488d3500000000 rel@3=7+0                                       # lea -0x1000(%rip),%rsi
  488d3500e0ffff              -> out-of-range                                                   # lea -0x2000(%rip),%rsi
  65488b05f8ffff7e pcpu+4     -> 65488b0500000000 pcpu@4=1000+0                                 # mov %gs:pcpu(%rip),%rax
  65ff05f9ffff7e pcpu+3       -> 65ff0500000000 pcpu@3=1000+0                                   # incl %gs:pcpu(%rip)
  65c705f5ffff7e01000000 pcpu+3 -> 65c7050000000001000000 pcpu@3=1000+4                         # movl $1,%gs:pcpu(%rip)
  65488b05f8ffff7e            -> cannot-move                                                    # the same, and not listed
  65488b05f8ffff7e guess      -> 65488b0500000000 pcpu@4=1000+0                                 # the same, no list
  64488b05f8ffff7e            -> cannot-move                                                    # mov %fs:x(%rip),%rax
  65488b042528000000          -> 65488b042528000000                                             # mov %gs:0x28,%rax
  48c7c700102081 abs+3        -> 48c7c700102081 abs@3=0+0                                       # mov $sym,%rdi
  48c7c700102081 guess        -> 48c7c700102081 abs@3=0+0                                       # the same, no list
  48c7c700000081 guess        -> cannot-move                                                    # mov $_text,%rdi: may be a constant
  48c7c705000000 guess        -> cannot-move                                                    # mov $5,%rdi: oddly long
  4881e700102081 guess        -> cannot-move                                                    # and $sym,%rdi
  bf00102081 guess            -> cannot-move                                                    # mov $0x81201000,%edi
  48bf0010208100000000 guess  -> cannot-move                                                    # movabs of what is short
  48bf0010208188ffffff guess  -> 48bf0010208188ffffff                                           # movabs of what is long
  488b04c500102081 abs+4      -> 488b04c500102081 abs@4=0+0                                     # mov table(,%rax,8),%rax
  488b04c500102081 guess      -> 488b04c500102081 abs@4=0+0                                     # the same, no list
  c704c500102081001f2081 abs+3 -> c704c500102081001f2081 abs@3=0+0                              # movl $x,table(,%rax,8)
  c704c500102081001f2081 guess -> cannot-move                                                   # two addresses, perhaps
  67488b0500010000            -> cannot-move                                                    # mov 0x100(%eip),%rax
  f30f1efa                    -> endbr                                                          # endbr64
  0f22da                      -> cannot-move                                                    # mov %rdx,%cr3
  c5fd6f0500010000            -> c5fd6f0500000000 rel@4=1108+0                                  # vmovdqa 0x100(%rip),%ymm0
  7410                        -> 0f8400000000 rel@2=1012+0                                      # je
  75fe                        -> 0f8500000000 rel@2=1000+0                                      # jne to itself
  0f8f00010000                -> 0f8f00000000 rel@2=1106+0                                      # jg
  2e7410                      -> 0f8400000000 rel@2=1013+0                                      # je,pn
  3e0f8400010000              -> 0f8400000000 rel@2=1107+0                                      # je,pt
  7280                        -> 0f8200000000 rel@2=f82+0                                       # jb
  0f8200e0ffff                -> out-of-range                                                   # jb to below the image
  497410                      -> cannot-move                                                    # rex.WB je
  66 7410                     -> cannot-move                                                    # data16 je
  f27410                      -> cannot-move                                                    # bnd je
  e310                        -> e302eb05e900000000 rel@5=1012+0                                # jrcxz
  67e310                      -> 67e302eb05e900000000 rel@6=1013+0                              # jecxz
  e2fe                        -> e202eb05e900000000 rel@5=1000+0                                # loop to itself
  e110                        -> e102eb05e900000000 rel@5=1012+0                                # loope
  67e0f0                      -> 67e002eb05e900000000 rel@6=ff3+0                               # loopnel
  eb10                        -> e900000000 rel@1=1012+0 .                                      # jmp
  e900010000                  -> e900000000 rel@1=1105+0 .                                      # jmp
  2ee900010000                -> e900000000 rel@1=1106+0 .                                      # cs jmp
  f2e900010000                -> cannot-move                                                    # bnd jmp
  ffe0                        -> ffe0 .                                                         # jmp *%rax
  3effe0                      -> 3effe0 .                                                       # notrack jmp *%rax
  ff2500010000                -> ff2500000000 rel@2=1106+0 .                                    # jmp *0x100(%rip)
  ff24c500102081 abs+3        -> ff24c500102081 abs@3=0+0 .                                     # jmp *table(,%rax,8)
  c3                          -> c3 .                                                           # ret
  f3c3                        -> f3c3 .                                                         # rep ret
  c20800                      -> c20800 .                                                       # ret $8
  66c3                        -> cannot-move                                                    # retw
  f2c3                        -> cannot-move                                                    # bnd ret
  e800010000                  -> cannot-move                                                    # call
  2ee800010000                -> cannot-move                                                    # cs call
  ffd0                        -> 6802100081ffe0 abs@1=0+0 .                                     # call *%rax
  41ffd4                      -> 680310008141ffe4 abs@1=0+0 .                                   # call *%r12
  ffd4                        -> cannot-move                                                    # call *%rsp
  3effd0                      -> 68031000813effe0 abs@1=0+0 .                                   # notrack call *%rax
  ff10                        -> 6802100081ff20 abs@1=0+0 .                                     # call *(%rax)
  ff5018                      -> 6803100081ff6018 abs@1=0+0 .                                   # call *0x18(%rax)
  ff1500010000                -> 6806100081ff2500000000 abs@1=0+0 rel@7=1106+0 .                # call *0x100(%rip)
  ff14c500102081 abs+3        -> 6807100081ff24c500102081 abs@1=0+0 abs@8=0+0 .                 # call *table(,%rax,8)
  ff1424                      -> 6803100081ff642408 abs@1=0+0 .                                 # call *(%rsp)
  ff542410                    -> 6804100081ff642418 abs@1=0+0 .                                 # call *0x10(%rsp)
  ff542477                    -> 6804100081ff64247f abs@1=0+0 .                                 # call *0x77(%rsp)
  ff542478                    -> 6804100081ffa42480000000 abs@1=0+0 .                           # call *0x78(%rsp): grows
  ff942400010000              -> 6807100081ffa42408010000 abs@1=0+0 .                           # call *0x100(%rsp)
  ff5424f8                    -> cannot-move                                                    # call *-8(%rsp): below the stack
  ff9424f9ffff7f              -> cannot-move                                                    # call *0x7ffffff9(%rsp)
  ff5404f8                    -> cannot-move                                                    # call *-8(%rsp,%rax)
  ff54c408                    -> 6804100081ff64c410 abs@1=0+0 .                                 # call *8(%rsp,%rax,8)
  41ff542408                  -> 680510008141ff642408 abs@1=0+0 .                               # call *8(%r12)
  42ff1424                    -> 680410008142ff642408 abs@1=0+0 .                               # call *(%rsp,%r12)
  65ff1425f0010000            -> 680810008165ff2425f0010000 abs@1=0+0 .                         # call *%gs:0x1f0
  65ff15f8ffff7e pcpu+3       -> cannot-move                                                    # call *%gs:pcpu(%rip)
  66ffd0                      -> cannot-move                                                    # callw *%ax
  67ff10                      -> cannot-move                                                    # call *(%eax)
  f2ffd0                      -> cannot-move                                                    # bnd call *%rax
  ff18                        -> cannot-move                                                    # lcall *(%rax)
  ff28                        -> cannot-move                                                    # ljmp *(%rax)
  48cb                        -> cannot-move                                                    # lretq
  48cf                        -> cannot-move                                                    # iretq
  0f05                        -> cannot-move                                                    # syscall
  c7f800010000                -> cannot-move                                                    # xbegin
  cc                          -> cannot-move                                                    # int3
  cd80                        -> cannot-move                                                    # int $0x80
  0f0b                        -> cannot-move                                                    # ud2`

t.test('instructions moved, by hand', (t) => {
  for (const line of CASES.trim().split('\n')) {
    const [, from, to, text] = /^\s*(.*?)\s*->\s*(.*?)\s*#\s*(.*)$/.exec(line)!
    const words = from!.split(' ')
    const option = /^[0-9a-f]+$/.test(words.at(-1)!) ? undefined : words.pop()
    t.equal(moveOne(words.join(''), option), to, `${from}: ${text}`)
  }
  t.end()
})

t.test('the code buffer', (t) => {
  const code = new CodeBuffer()
  for (let i = 0; i < 300; i++) code.jumpTo(i)
  code.pointHere(5 * 298 + 1)
  code.align(16)
  const { fixupCount, fixupOffset, fixupValue } = code.fixupTables()
  t.equal(code.length, 1504)
  t.equal(fixupCount, 299)
  t.ok(fixupOffset.every((offset, i) => offset === 5 * (i < 298 ? i : i + 1) + 1 && fixupValue[i] === (i < 298 ? i : i + 1)))
  t.equal(hexOf(code.bytes().subarray(1490)), 'e905000000e900000000cccccccc', 'the last but one leads behind the last')
  t.throws(() => code.pointHere(2), 'no such field')
  t.throws(() => code.fixup(3, FIXUP_KIND.rel32, 0, 0), 'fixups ascend')
  t.end()
})

// --- Every form in both kernels ---

interface Form {
  readonly image: Image
  readonly rva: Rva
  readonly length: number
  readonly flow: number
  readonly target: Rva
  readonly relocKind: number
  readonly relocOffset: number
}

/** Forms of both kernels that can be moved, each once; filled by the tests below. */
const forms = new Map<number | string, Form>()

for (const name of KERNELS) {
  t.test(`${name}: every instruction is moved or refused`, { timeout: 0 }, (t) => {
    const image = loadImage(kernel(name).vmlinux)
    const { insns } = sweepImage(image)
    const reader = new KeyReader()
    const counts = new Map<string, number>()
    for (let i = 0; i < insns.count; i++) {
      const rva = insns.rva[i]!
      const length = insns.length[i]!
      const flow = insns.flow[i]!
      const why = movable(image, rva, length, flow, insns.target[i]!)
      const what = `${FLOW_NAMES[flow]}: ${why || 'moved'}`
      counts.set(what, (counts.get(what) ?? 0) + 1)
      if (why !== '') continue
      const original = originalOf(image, rva, length)
      if (typeof original === 'string') {
        t.fail(`movable, but its fields are not known: ${hexOf(bytesAt(image, rva, length))}`)
        continue
      }
      const { relocKind, relocOffset } = original
      const bytes = bytesAt(image, rva, length)
      const segment = bytes[0] === 0x65 || bytes[1] === 0x65 ? 1 : bytes[0] === 0x64 ? 2 : 0
      const key = reader.read(bytes, 0, length) < 0 ? hexOf(bytes) : (reader.key >>> 0) * 512 + segment * 128 + relocKind * 16 + relocOffset
      if (!forms.has(key)) forms.set(key, { image, rva, length, flow, target: insns.target[i]!, relocKind, relocOffset })
    }
    t.comment([...counts].map(([what, count]) => `${what} ${count}`).sort().join('; '))
    const refused = [...counts].filter(([what]) => /^(next|jump|branch|indirect\w+|return): (?!moved|endbr)/.test(what)).reduce((sum, [, n]) => sum + n, 0)
    t.ok(refused < insns.count / 1000, `${refused} refused of what runs on or jumps`)
    t.equal([...counts.keys()].filter((what) => /^(call|trap|system|invalid): moved/.test(what)).length, 0)
    t.end()
  })
}

/** Moves one, completed for `codeAt` and a slide of 0. */
const movedBytes = ({ image, rva, length, flow, target }: Form, codeAt: bigint): Uint8Array => {
  const code = new CodeBuffer()
  appendMoved(code, image, rva, length, flow, target)
  return complete(code.bytes(), code.fixupTables(), codeAt, image.base, 0n)
}

/** A number as iced prints it. */
const address = (value: number | bigint): string => (value < 10 ? `${value}` : `0x${value.toString(16).toUpperCase()}`)

/** Compares what both decoders read of instructions and of what they become. */
class Listings {
  readonly #second: SecondDecoder
  readonly #formatter = new Formatter(FormatterSyntax.Gas)
  readonly #insn = new Instruction()

  constructor(second: SecondDecoder) {
    this.#second = second
  }

  /** What iced reads, and the lengths; targets and rip-relative operands are printed as addresses. */
  #list(bytes: Uint8Array, address: bigint): { text: string[]; length: number[] } {
    const decoder = new Decoder(64, bytes, DecoderOptions.None)
    decoder.ip = address
    const text: string[] = []
    const length: number[] = []
    while (decoder.canDecode) {
      decoder.decodeOut(this.#insn)
      text.push(this.#formatter.format(this.#insn))
      length.push(this.#insn.length)
    }
    decoder.free()
    return { text, length }
  }

  /** @returns what is wrong, or '' */
  compare(form: Form): string {
    const { image, rva, length, flow, target } = form
    const codeAt = image.base + 0x3000_0000n + BigInt(random(1 << 20))
    const bytes = bytesAt(image, rva, length)
    const moved = movedBytes(form, codeAt)
    const was = this.#list(bytes, image.base + BigInt(rva))
    const is = this.#list(moved, codeAt)
    const line = was.text[0]!
    let want = [line]
    if (flow === FLOW.jump || flow === FLOW.branch) want = [line.replace(/^([cd]s )+|,p[nt]\b/g, '')]
    if (flow === FLOW.indirectCall) {
      const back = BigInt.asUintN(64, image.base + BigInt(rva + length))
      want = [`push $${address(back)}`, line.replace(/\bcall/, 'jmp')]
      // An operand on the stack lies further up.
      want[1] = want[1]!.replace(/(0x[0-9A-F]+|\d)?\((%rsp[^)]*)\)/, (_, offset, rest) => `${address(Number(offset ?? 0) + 8)}(${rest})`)
    } else if (flow === FLOW.branch && is.length.length === 3) {
      // Over the jump that passes by the last one, which goes where the loop went.
      const [name, to] = line.split(' ').slice(-2) as [string, string]
      const past = BigInt.asUintN(64, codeAt + BigInt(is.length[0]!))
      want = [`${line.slice(0, -to.length)}${address(past + 2n)}`, `jmp ${address(past + 7n)}`, `jmp ${to}`]
      if (!/^(loop|j[er]cxz)/.test(name)) return `${line}: no loop`
    }
    if (want.join('; ') !== is.text.join('; ')) return `${hexOf(bytes)} ${want.join('; ')} -> ${hexOf(moved)} ${is.text.join('; ')}`
    // Capstone: only where it agrees on the original, as a plan demands.
    if (!agrees(this.#second.decode(rva, bytes), length, flow, target)) return ''
    let at = 0
    for (const [i, size] of is.length.entries()) {
      const last = i === is.length.length - 1
      const place = Number(codeAt - image.base) + at
      const opinion = this.#second.decode(place, moved.subarray(at))
      if (flow !== FLOW.branch || is.length.length === 1) {
        const movedFlow = !last ? FLOW.next : flow === FLOW.indirectCall ? FLOW.indirectJump : flow
        if (!agrees(opinion, size, movedFlow, last ? target : NONE)) return `Capstone: ${hexOf(bytes)} -> ${hexOf(moved)}`
      } else if (opinion.length !== size) return `Capstone: ${hexOf(bytes)} -> ${hexOf(moved)}`
      at += size
    }
    return ''
  }
}

t.test('what is moved decodes as what it was', { timeout: 0 }, (t) => {
  const listings = new Listings(second)
  const counts = new Map<string, number>()
  const wrong: string[] = []
  for (const form of forms.values()) {
    const what = listings.compare(form)
    if (what !== '') wrong.push(what)
    counts.set(FLOW_NAMES[form.flow]!, (counts.get(FLOW_NAMES[form.flow]!) ?? 0) + 1)
  }
  t.same(wrong.slice(0, 20), [])
  t.ok(forms.size > 40_000, `${forms.size} forms: ${[...counts].map((entry) => entry.join(' ')).join(', ')}`)
  t.end()
})

t.test('random bytes: moved, and read as before, or refused', { timeout: 0 }, (t) => {
  const listings = new Listings(second)
  const wrong: string[] = []
  const counts = new Map<string, number>()
  for (let round = 0; round < 40; round++) {
    // Prefixes, branches and calls more often than chance has them.
    const often = [0x2e, 0x3e, 0x65, 0x66, 0x67, 0xf2, 0xf3, 0x41, 0x48, 0xff, 0xff, 0xe0, 0xe3, 0x74, 0x0f, 0x84, 0xc3]
    const bytes = Uint8Array.from({ length: 4000 }, () => (random(2) ? random(256) : often[random(often.length)]!))
    const insns = decodeRanges([{ start: AT, bytes }])
    // With the fields that the image says are per-CPU; some of the others are addresses.
    const pcpu32: number[] = []
    for (let i = 0; i < insns.count; i++) if (insns.ripAt[i]! > 0 && random(8) > 0 && bytes.subarray(insns.rva[i]! - AT, insns.rva[i]! - AT + insns.ripAt[i]!).includes(0x65)) pcpu32.push(insns.rva[i]! + insns.ripAt[i]!)
    const image = smallImage(BASE, 0x4000_0000, AT, bytes, round % 2 ? { pcpu32 } : undefined)
    for (let i = 0; i < insns.count; i++) {
      const form = { image, rva: insns.rva[i]!, length: insns.length[i]!, flow: insns.flow[i]!, target: insns.target[i]!, relocKind: 0, relocOffset: 0 }
      const why = movable(image, form.rva, form.length, form.flow, form.target)
      const what = why === '' ? listings.compare(form) : ''
      if (what !== '') wrong.push(what)
      counts.set(`${FLOW_NAMES[form.flow]} ${why || 'moved'}`, (counts.get(`${FLOW_NAMES[form.flow]} ${why || 'moved'}`) ?? 0) + 1)
    }
  }
  t.same(wrong.slice(0, 20), [])
  t.comment([...counts].sort().map((entry) => entry.join(': ')).join('; '))
  t.end()
})

// --- The processor ---

// Where things are in the process; test/native/moves.c has the same.
const LINK_BASE = 0x1000_0000n
const SLIDE = 0x2000_0000n
const CODE_AT = 0x5000_0000n
const BUFFER = 0x200_0000 // rva
const MIDDLE = BUFFER + 1536
const PER_CPU = 0x3000 + 1536 // GS:this is MIDDLE
const IMAGE_BYTES = BUFFER + 0x2000
const FILL = 1
const PERCPU = 2
const COUNT = 4

const FIRST = 0x1000 // rva of the first slot
const SLOT = 64 //      for an instruction, a jump behind it, and
const TAKEN = 40 //     one where branches go

// What would move the ground under the judge's own feet, or cannot be compared.
const NOT_TRIED = new Set<Mnemonic>([
  Mnemonic.Wrfsbase, Mnemonic.Wrgsbase, Mnemonic.Lfs, Mnemonic.Lgs, Mnemonic.Lss, Mnemonic.Wrpkru, Mnemonic.Swapgs,
  Mnemonic.Popf, Mnemonic.Popfq, //                                         traps, alignment checks
  Mnemonic.Ldmxcsr, Mnemonic.Xsave64, Mnemonic.Xsavec64, Mnemonic.Xsaveopt64, Mnemonic.Xrstor64, // the judge's own state
  Mnemonic.Str, Mnemonic.Sldt, Mnemonic.Smsw, Mnemonic.Sgdt, Mnemonic.Sidt, // a kernel plays them for a process
  Mnemonic.Vmcall, Mnemonic.Vmmcall, Mnemonic.Vmgexit, Mnemonic.Tdcall, //   hypervisors
  Mnemonic.Encls, Mnemonic.Enclu, //                                         enclaves
])

const RSP_SET = 1 << 4

/** An instruction that can run in a process. */
interface Try {
  readonly name: string
  readonly bytes: Uint8Array // as linked
  readonly flow: number
  readonly absOffset: number //  of a field that grows by the slide, or -1
  readonly pcpuOffset: number // of one that shrinks, or -1
  readonly sets: readonly [base: number, index: number, both: number, factor: number, points: number, flags: number]
}

/**
 * The instruction with displacements such that memory operands lie in the buffer, and branches go to its slot's TAKEN;
 * or why it is not tried.
 */
const tryOf = (original: Uint8Array, rva: Rva, relocKind: number, relocOffset: number): Try | string => {
  const bytes = original.slice()
  const view = new DataView(bytes.buffer)
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  const insn = decoder.decode()
  const constants = decoder.getConstantOffsets(insn)
  const factory = new InstructionInfoFactory()
  const info = factory.info(insn)
  try {
    const name = Mnemonic[insn.mnemonic]
    const insns = decodeRanges([{ start: rva, bytes }])
    const flow = insns.flow[0]!
    if (insns.count !== 1) return 'not one instruction'
    if (NOT_TRIED.has(insn.mnemonic)) return name
    const isGs = insn.memorySegment === Register.GS
    if (insn.memorySegment === Register.FS || insn.segmentPrefix === Register.FS) return 'FS, which is the C library\'s'
    for (let i = 0; i < insn.opCount; i++) {
      const register = insn.opKind(i) === OpKind.Register ? insn.opRegister(i) : Register.None
      if (i === 0 && register >= Register.ES && register <= Register.GS) return 'changes a segment register'
    }
    if (isGs && insn.memoryBase === Register.RSP) return 'a stack in GS'
    const branches = flow === FLOW.branch || flow === FLOW.jump
    const away = flow === FLOW.indirectCall || flow === FLOW.indirectJump || flow === FLOW.return
    let base = 0
    let index = 0
    let absOffset = relocKind === RELOC_KIND.add ? relocOffset : -1
    let pcpuOffset = -1
    const inTable = absOffset >= 0 && constants.displacementSize === 4 && absOffset === constants.displacementOffset
    let both = 0
    let factor = 1
    for (const memory of info.usedMemory()) {
      const own = setOf(memory.base) & ~RSP_SET
      if (memory.access === OpAccess.NoMemAccess) {
        // lea: any address will do
      } else if (own & setOf(memory.index)) {
        both |= own
        factor = 1 + memory.scale
      } else {
        base |= own
        index |= setOf(memory.index)
      }
      memory.free()
    }
    if (inTable) {
      index |= base | both
      base = both = 0
    }
    if ((base & index) || (both & (base | index))) return 'registers in two roles'
    if (constants.hasDisplacement) {
      const at = constants.displacementOffset
      let value: number
      if (insn.isIpRelMemoryOperand) {
        if (isGs) pcpuOffset = at
        value = (isGs ? PER_CPU - Number(LINK_BASE) : MIDDLE) - (rva + bytes.length)
      } else if (insn.memoryBase === Register.None || inTable) {
        value = isGs ? PER_CPU : Number(LINK_BASE) + MIDDLE
        if (!isGs && absOffset >= 0 && absOffset !== at) return 'two addresses'
        if (!isGs) absOffset = at
      } else value = away ? 8 * random(constants.displacementSize === 1 ? 16 : 24) : 64 * (random(3) - 1)
      if (constants.displacementSize === 8) return 'an address of 8 bytes'
      else if (constants.displacementSize === 4) view.setInt32(at, value, true)
      else view.setInt8(at, value)
    }
    if (branches) {
      const distance = TAKEN - bytes.length
      if (constants.immediateSize === 4) view.setInt32(constants.immediateOffset, distance, true)
      else view.setInt8(constants.immediateOffset, distance)
    }
    if (/^Bt[scr]?$/.test(name) && insn.op1Kind === OpKind.Register) index |= setOf(insn.op1Register) & ~base
    if (insn.hasRepPrefix || insn.hasRepnePrefix) index |= 2
    const points = away && insn.opCount > 0 && insn.op0Kind === OpKind.Register ? setOf(insn.op0Register) : 0
    const flags = (away && points === 0 ? FILL : 0) | (isGs ? PERCPU : 0) | (flow === FLOW.branch ? COUNT : 0)
    return { name, bytes, flow, absOffset, pcpuOffset, sets: [base, index, both, factor, points, flags] }
  } finally {
    info.free()
    factory.free()
    constants.free()
    insn.free()
    decoder.free()
  }
}

interface Prepared {
  readonly tries: readonly Try[]
  readonly running: Uint8Array //    the image as it runs
  readonly code: Uint8Array //       as it runs
  readonly fixups: FixupTables
  readonly place: Uint32Array //     try -> rva
  readonly patch: Uint32Array //     try -> offset in code
  readonly refused: readonly Try[]
}

/** Lays tries out in an image, and moves them. */
const prepare = (tries: readonly Try[]): Prepared => {
  const linked = new Uint8Array(FIRST + SLOT * tries.length)
  const slotOf = (k: number): number => FIRST + SLOT * k
  const abs32: number[] = []
  const pcpu32: number[] = []
  const jumpThrough = (at: number, word: number): void => {
    linked.set([0xff, 0x24, 0x25], at)
    new DataView(linked.buffer).setUint32(at + 3, Number(LINK_BASE + SLIDE) + 8 * word, true)
  }
  tries.forEach(({ bytes, absOffset, pcpuOffset }, k) => {
    linked.set(bytes, slotOf(k))
    jumpThrough(slotOf(k) + bytes.length, 0)
    jumpThrough(slotOf(k) + TAKEN, 1)
    if (absOffset >= 0) abs32.push(slotOf(k) + absOffset)
    if (pcpuOffset >= 0) pcpu32.push(slotOf(k) + pcpuOffset)
  })
  const running = linked.slice()
  const view = new DataView(running.buffer)
  for (const at of abs32) view.setInt32(at, view.getInt32(at, true) + Number(SLIDE), true)
  for (const at of pcpu32) view.setInt32(at, view.getInt32(at, true) - Number(SLIDE), true)
  const image = smallImage(LINK_BASE, IMAGE_BYTES, 0, linked, { abs32, pcpu32 })
  const buffer = new CodeBuffer()
  const kept: Try[] = []
  const refused: Try[] = []
  const patch: number[] = []
  const places: number[] = []
  tries.forEach((each, k) => {
    const { bytes, flow } = each
    const target = flow === FLOW.branch || flow === FLOW.jump ? slotOf(k) + TAKEN : NONE
    if (movable(image, slotOf(k), bytes.length, flow, target) !== '') {
      refused.push(each)
      return
    }
    buffer.align(16)
    kept.push(each)
    places.push(slotOf(k))
    patch.push(buffer.length)
    if (appendMoved(buffer, image, slotOf(k), bytes.length, flow, target)) buffer.jumpTo(slotOf(k) + bytes.length)
  })
  buffer.align(16)
  const fixups = buffer.fixupTables()
  const code = complete(buffer.bytes(), fixups, CODE_AT, LINK_BASE, SLIDE)
  return { tries: kept, running, code, fixups, place: Uint32Array.from(places), patch: Uint32Array.from(patch), refused }
}

interface Verdict {
  readonly word: string
  readonly ways: number
}

const binary = join(scratch, 'moves')

const judge = ({ tries, running, place, patch }: Prepared, code: Uint8Array): Verdict[] => {
  const jobs = new Uint32Array(8 * tries.length)
  tries.forEach(({ sets }, k) => jobs.set([place[k]!, patch[k]!, ...sets], 8 * k))
  const head = Uint32Array.of(running.length, code.length, tries.length)
  const bytes = (words: Uint32Array): Uint8Array => new Uint8Array(words.buffer)
  const input = Buffer.concat([bytes(head), running, code, bytes(jobs)])
  const { status, stdout, stderr, signal } = spawnSync(binary, [String(seed)], { input, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`moves: status ${status} ${signal} ${stderr}`)
  return stdout.trim().split('\n').map((line) => {
    const [word, ways] = line.split(' ')
    return { word: word!, ways: Number(ways) }
  })
}

/** What no kernel here has: loops, calls through every kind of operand, returns. */
const invented = (): Uint8Array[] => {
  const made: Uint8Array[] = []
  for (const opcode of [0xe0, 0xe1, 0xe2, 0xe3]) {
    for (const prefix of [[], [0x67], [0x2e], [0x3e, 0x67]]) made.push(Uint8Array.of(...prefix, opcode, 0))
  }
  for (let condition = 0; condition < 16; condition++) {
    for (const prefix of [[], [0x2e], [0x3e]]) {
      made.push(Uint8Array.of(...prefix, 0x70 | condition, 0), Uint8Array.of(...prefix, 0x0f, 0x80 | condition, 0, 0, 0, 0))
    }
  }
  made.push(fromHex('eb00'), fromHex('e900000000'), fromHex('2ee900000000'), fromHex('c3'), fromHex('f3c3'), fromHex('c21000'))
  for (const row of [2 << 3, 4 << 3]) {
    for (const head of [[], [0x3e], [0x40], [0x41], [0x42], [0x43], [0x48], [0x65], [0x65, 0x41], [0x65, 0x42]]) {
      for (let rm = 0; rm < 8; rm++) {
        made.push(Uint8Array.of(...head, 0xff, 0xc0 | row | rm))
        for (const [mod, size] of [[0, 0], [0x40, 1], [0x80, 4]] as const) {
          const disp = new Array<number>(mod === 0 && rm === 5 ? 4 : size).fill(0)
          if (rm !== 4) made.push(Uint8Array.of(...head, 0xff, mod | row | rm, ...disp))
          else {
            for (let sib = 0; sib < 256; sib++) {
              const more = mod === 0 && (sib & 7) === 5 ? 4 : size
              made.push(Uint8Array.of(...head, 0xff, mod | row | rm, sib, ...new Array<number>(more).fill(0)))
            }
          }
        }
      }
    }
  }
  return made
}

t.test('where it lay and where it was moved to: the processor', { timeout: 0 }, (t) => {
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', binary, join(ROOT, 'test/native/moves.c')])
  const tries: Try[] = []
  const left = new Map<string, number>()
  const add = (bytes: Uint8Array, relocKind: number, relocOffset: number): void => {
    const made = tryOf(bytes, FIRST + SLOT * tries.length, relocKind, relocOffset)
    if (typeof made === 'string') left.set(made, (left.get(made) ?? 0) + 1)
    else tries.push(made)
  }
  for (const { image, rva, length, relocKind, relocOffset } of forms.values()) add(bytesAt(image, rva, length), relocKind, relocOffset)
  const fromKernels = tries.length
  for (const bytes of invented()) add(bytes, RELOC_KIND.none, 0)
  const prepared = prepare(tries)
  t.comment(`${forms.size} forms of the kernels, ${fromKernels} of them tried, and ${tries.length - fromKernels} invented ones; refused: ${prepared.refused.length}`)
  t.comment(`not tried: ${[...left].map(([why, n]) => `${why} ${n}`).join('; ')}`)
  const refused = new Set(prepared.refused.filter(({ flow }) => flow !== FLOW.indirectCall).map(({ name, bytes }) => `${name} ${hexOf(bytes)}`))
  t.same([...refused].slice(0, 10), [], 'what is refused are calls')
  const verdicts = judge(prepared, prepared.code)
  const say = (k: number): string => `${prepared.tries[k]!.name} ${hexOf(prepared.tries[k]!.bytes)}`
  const which = (test: (verdict: Verdict, k: number) => boolean): number[] => verdicts.flatMap((verdict, k) => (test(verdict, k) ? [k] : []))
  t.equal(verdicts.length, prepared.tries.length)
  t.same(which(({ word }) => word === 'differs').slice(0, 20).map(say), [])
  const faults = which(({ word }) => word === 'faults')
  t.comment(`${verdicts.length - faults.length} forms ran; ${faults.length} did not: ${[...new Set(faults.map((k) => prepared.tries[k]!.name))].sort().join(' ')}`)
  const ran = which(({ word }) => word === 'same')
  t.ok(ran.length > 55_000, `${ran.length} forms ran`)
  const wayOf: Readonly<Record<number, number>> = {
    [FLOW.next]: 1, [FLOW.branch]: 3, [FLOW.jump]: 2, [FLOW.return]: 4, [FLOW.indirectCall]: 4, [FLOW.indirectJump]: 4,
  }
  t.same(ran.filter((k) => verdicts[k]!.ways !== wayOf[prepared.tries[k]!.flow]).slice(0, 10).map(say), [], 'branches go both ways, the others theirs')
  const byFlow = new Map<string, number>()
  for (const k of ran) byFlow.set(FLOW_NAMES[prepared.tries[k]!.flow]!, (byFlow.get(FLOW_NAMES[prepared.tries[k]!.flow]!) ?? 0) + 1)
  t.comment([...byFlow].map(([flow, n]) => `${flow} ${n}`).join(', '))
  t.same(faults.filter((k) => prepared.tries[k]!.flow !== FLOW.next).slice(0, 10).map(say), [], 'every transfer ran')

  // The judge sees relocations that are wrong by a little.
  const broken = (what: string, change: (code: Uint8Array, k: number) => boolean, least: number): void => {
    const code = prepared.code.slice()
    const changed = ran.filter((k) => change(code, k))
    const seen = judge(prepared, code)
    const noticed = changed.filter((k) => seen[k]!.word === 'differs').length
    t.ok(changed.length > 5 && noticed >= changed.length * least, `${what}: ${noticed} of ${changed.length} noticed`)
    t.equal(which(({ word }, k) => seen[k]!.word === 'differs' && word !== 'differs').length, noticed, 'and nothing else')
  }
  const fixupsOf = (k: number): number[] => {
    const { fixupOffset, fixupCount } = prepared.fixups
    const end = prepared.patch[k + 1] ?? prepared.code.length
    const found: number[] = []
    let low = 0
    let high = fixupCount
    while (low < high) {
      const middle = (low + high) >>> 1
      if (fixupOffset[middle]! < prepared.patch[k]!) low = middle + 1
      else high = middle
    }
    for (let f = low; f < fixupCount && fixupOffset[f]! < end; f++) found.push(f)
    return found
  }
  const shift = (kind: number, by: number, flows: readonly number[]) => (code: Uint8Array, k: number): boolean => {
    const { flow } = prepared.tries[k]!
    // The last fixup of what goes on is the jump back.
    const own = fixupsOf(k).filter((f, i, all) => prepared.fixups.fixupKind[f] === kind && !(flow === FLOW.next && i === all.length - 1))
    if (!flows.includes(flow) || own.length === 0) return false
    const view = new DataView(code.buffer)
    const at = prepared.fixups.fixupOffset[own[0]!]!
    view.setInt32(at, view.getInt32(at, true) + by, true)
    return true
  }
  broken('rip-relative operands 16 bytes away', shift(FIXUP_KIND.rel32, 16, [FLOW.next]), 0.8)
  broken('per-CPU operands 16 bytes away', shift(FIXUP_KIND.pcpu32, 16, [FLOW.next]), 0.8)
  broken('absolute operands without the slide', shift(FIXUP_KIND.abs32, -Number(SLIDE), [FLOW.next]), 0.8)
  broken('return addresses one too high', shift(FIXUP_KIND.abs32, 1, [FLOW.indirectCall]), 1)
  broken('operands on the stack where they were', (code, k) => {
    const { flow, bytes } = prepared.tries[k]!
    const at = bytes.indexOf(0xff)
    const isOnStack = (bytes[at + 1]! & 0xc7) === 0x44 && (bytes[at + 2]! & 7) === 4 && (at === 0 || (bytes[at - 1]! & 0xf1) !== 0x41)
    const jump = prepared.patch[k]! + 5 + at
    if (flow !== FLOW.indirectCall || !isOnStack || (code[jump + 1]! & 0xc0) !== 0x40) return false
    code[jump + 3]! -= 8
    return true
  }, 1)
  broken('conditions turned round', (code, k) => {
    if (prepared.tries[k]!.flow !== FLOW.branch || code[prepared.patch[k]!] !== 0x0f) return false
    code[prepared.patch[k]! + 1]! ^= 1
    return true
  }, 1)
  broken('loops that go on', (code, k) => {
    const { flow, bytes } = prepared.tries[k]!
    const patch = prepared.patch[k]!
    if (flow !== FLOW.branch || code[patch] === 0x0f) return false
    code[patch + bytes.length - 1] = 2 + 5 + 2
    return true
  }, 1)
  t.end()
})
