// In: x86 code whose relative calls and jumps were made absolute before packing, so that calls of one function look
// alike. Out: the code as it was, in place.
// Invariant: the same bytes change as xz's x86 filter would change; lengths never do.
// The filter does not decode instructions. It takes e8 or e9 for an opcode and converts the four bytes after it when
// the last of them is 00 or ff, unless an opcode byte shortly before, whose own operand was left alone, makes that
// doubtful. `doubt` remembers those: bit n set = one was seen n + 1 bytes before.
// Source: section 5.3.2 of The .xz File Format 1.0.4 names the filter; its behaviour was checked against xz 5.4.

/** doubt -> how far before the operand's end the byte lies that decides. */
const DECIDING = [0, 1, 2, 2, 3, 3, 3, 3] as const
/** Patterns of doubt in which conversion is still possible: at most one opcode byte before. */
const POSSIBLE = 0b00010111

const isExtreme = (byte: number): boolean => byte === 0 || byte === 0xff

/** @param start the position that the filter gives to the first byte */
export const decodeBranches = (code: Uint8Array, start: number): void => {
  const last = code.length - 5
  let doubt = 0
  let previous = -4 // where the last opcode byte was; far away at first
  for (let i = 0; i <= last; i++) {
    if ((code[i]! & 0xfe) !== 0xe8) continue
    const gap = i - previous
    previous = i
    doubt = gap > 3 ? 0 : (doubt << (gap - 1)) & 7
    const back = DECIDING[doubt]!
    const doubtful = doubt !== 0 && (((POSSIBLE >>> doubt) & 1) === 0 || isExtreme(code[i + 4 - back]!))
    if (doubtful || !isExtreme(code[i + 4]!)) {
      doubt = (doubt << 1) | 1
      continue
    }
    let operand = code[i + 1]! | (code[i + 2]! << 8) | (code[i + 3]! << 16) | (code[i + 4]! << 24)
    const next = (start + i + 5) | 0
    operand = (operand - next) | 0
    if (doubt !== 0 && isExtreme((operand >>> (24 - back * 8)) & 0xff)) {
      // The packer inverted the low bytes, so that the deciding byte stayed one that is not extreme.
      operand = ((operand ^ ((1 << (32 - back * 8)) - 1)) - next) | 0
    }
    code[i + 1] = operand
    code[i + 2] = operand >>> 8
    code[i + 3] = operand >>> 16
    code[i + 4] = (operand & 0x1000000) === 0 ? 0 : 0xff
    i += 4
  }
}
