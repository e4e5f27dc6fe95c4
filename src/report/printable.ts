// Text for people. In: names from files, which may hold anything; numbers; times. Out: text of one line that moves no
// cursor, changes no colour and reads in one direction. Invariant: no character of Unicode's category "other" (controls,
// formats, surrogates, unassigned, private use) and no line separator gets through; each becomes \u{...}.

/** The text with everything that is not a plain visible character, or a space, written as an escape. */
export const printable = (text: string): string =>
  text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`)

/** Decimal digits in groups of three: 1234567 -> 1,234,567. */
export const grouped = (value: bigint): string => value.toString().replace(/\B(?=(\d{3})+$)/g, ',')

/** A wall-clock time in nanoseconds since 1970 as UTC, to the second; times past the calendar stay numbers. */
export const wallTime = (ns: bigint): string => {
  const ms = Number(ns / 1_000_000n)
  if (ms > 253_402_300_799_999) return `${ns} ns` // 9999-12-31
  return new Date(ms).toISOString().replace('T', ' ').replace(/\.\d+Z$/, ' UTC')
}

/** A span of time in the largest unit that keeps three digits before the point or fewer, where there is one. */
export const duration = (ns: bigint): string => {
  const value = Number(ns)
  if (ns < 1000n) return `${ns} ns`
  if (ns < 1_000_000n) return `${(value / 1e3).toFixed(1)} µs`
  if (ns < 1_000_000_000n) return `${(value / 1e6).toFixed(1)} ms`
  const seconds = ns / 1_000_000_000n
  if (seconds < 120n) return `${(value / 1e9).toFixed(1)} s`
  const parts = [seconds / 86_400n, (seconds / 3600n) % 24n, (seconds / 60n) % 60n, seconds % 60n]
  const units = ['d', 'h', 'min', 's']
  const first = parts.findIndex((part) => part > 0n)
  return parts.map((part, i) => `${part} ${units[i]}`).slice(first, first + 2).join(' ')
}

/** Cuts to `width` characters, the last of which is then an ellipsis. */
export const cut = (text: string, width: number): string => {
  const chars = [...text]
  return chars.length <= width ? text : chars.slice(0, Math.max(0, width - 1)).join('') + '…'
}

export const widthOf = (text: string): number => [...text].length
