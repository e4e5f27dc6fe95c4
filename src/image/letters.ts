// In: the letter that nm gives a symbol, which is all that kallsyms keeps of its kind, and its name. Out: the type and
// binding that .symtab would have, as well as that can be told.
// Left out: labels in code. kallsyms does not tell them from functions, so all are functions, but for borders.

import { STB, STT } from './elf.js'

/**
 * Names that the linker script gives to borders (include/asm-generic/vmlinux.lds.h). They are no functions, so a real
 * one at the same place is to be preferred; scripts/kallsyms.c sorts by a like rule (may_be_linker_script_provide_symbol,
 * 6.1 and 6.12). A heuristic: a function of such a name is taken for a label, which only ranks it lower.
 */
const BORDER = /^(_text|_stext|_etext|_sinittext|_einittext|_end|__start_.*|__stop_.*|__end_.*|__.*_start|__.*_end)$/

const UNDERSCORE = 0x5f
const LETTER = { t: 0x74, w: 0x77, v: 0x76, a: 0x61 } as const
const LOWER = 0x20

/** Whether nm's letter says that a symbol is in code. */
export const isTextLetter = (letter: number): boolean => {
  const lower = letter | LOWER
  return lower === LETTER.t || lower === LETTER.w
}

/** st_info of .symtab, for a letter and the name in strings[start, end); capital letters are global. */
export const infoOf = (letter: number, strings: Uint8Array, start: number, end: number): number => {
  const lower = letter | LOWER
  const bind =
    lower === LETTER.w || lower === LETTER.v ? STB.weak : letter === lower ? STB.local : STB.global
  if (!isTextLetter(letter)) return (bind << 4) | (lower === LETTER.a ? STT.notype : STT.object)
  const border = strings[start] === UNDERSCORE &&
    BORDER.test(Buffer.from(strings.buffer, strings.byteOffset + start, end - start).toString('latin1'))
  return (bind << 4) | (border ? STT.notype : STT.func)
}
