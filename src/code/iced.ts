// iced-x86, as it is used here. It is a CommonJS package of one large file without a "type" of its own: `import` would
// read that file twice to tell what it is, which takes longer than analyzing a tenth of a kernel; `require` does not.

import { createRequire } from 'node:module'
import type * as Iced from 'iced-x86'

const iced = createRequire(import.meta.url)('iced-x86') as typeof Iced

export const {
  Code, ConditionCode, CpuidFeature, Decoder, DecoderOptions, FlowControl, Formatter, FormatterSyntax, Instruction,
  InstructionInfoFactory, MemorySizeExt, Mnemonic, OpAccess, OpKind, Register,
} = iced
export type Code = Iced.Code
export type ConditionCode = Iced.ConditionCode
export type Decoder = Iced.Decoder
export type Instruction = Iced.Instruction
export type Mnemonic = Iced.Mnemonic
export type Register = Iced.Register
