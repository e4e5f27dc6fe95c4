// The one error that leaves kerninst on purpose: a message of one line and the exit code that goes with it.
// Anything else that is thrown is a bug. "Cannot splice here" is never an error: it is a refusal (splice/refusal.ts).

/** Exit codes, as in sysexits.h; scripts depend on them. */
export const EXIT = {
  ok: 0,
  /** A check found something. */
  found: 1,
  usage: 64,
  /** Input that is not what it should be. */
  data: 65,
  noInput: 66,
  internal: 70,
  cannotCreate: 73,
  io: 74,
  /** The bundle or dump does not belong to this target. */
  mismatch: 76,
  /** Signature or permission. */
  refused: 77,
} as const

export type ExitCode = (typeof EXIT)[keyof typeof EXIT]

/** What moves a cursor, ends a line, turns text round or is not to be seen: Unicode's category "other" and its separators of lines. */
export const UNSAFE = /[\p{C}\p{Zl}\p{Zp}]/gu

export class KerninstError extends Error {
  override readonly name = 'KerninstError'
  readonly exit: ExitCode

  /** @param message one line: what is wrong, where, and what to do about it; names in it may come from damaged files,
   *  so whatever would move a cursor or turn text round is replaced */
  constructor(exit: ExitCode, message: string) {
    super(message.replace(UNSAFE, '?'))
    this.exit = exit
  }
}

/** A broken invariant of our own; never reached by input, however bad. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`internal: ${message}`)
}
