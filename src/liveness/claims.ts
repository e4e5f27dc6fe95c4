// A solution of the whole image's liveness, stated so that it can be checked by itself: what is claimed, and when that
// holds. live.ts makes claims, check.ts checks them.
//
// A state of the program is a place in the code and a stack of calls. What is claimed:
//   L(i)  for instruction i: every register whose value some run from i may read before it overwrites it
//   R(b)  for block b: the same, of runs from b that end where the function that runs there returns
//   M(b)  registers that every such run overwrites before it ends
//   X(b)  registers that may be read behind the return of the function that runs at b
//   N(b)  no run from b ever returns
//   O(b)  registers of SCRATCH that instructions themselves may read from b on before one writes them, calls passed over
// They hold if for every instruction i of block b, with reads(i), kills(i) and the places s where it may go on:
//   L(i) ⊇ reads(i) ∪ (L'(i) \ kills(i)),  L'(i) = union of along(b, s);   X(b) at a return
//   R(b), X(b) likewise, and M(b) ⊆ kills ∪ the intersection of what is behind; M = ∅ at a return
//   along(b, s) = L(s), or where a function starts at s: R(s) ∪ (X(b) \ M(s))
//   behind a call of f: R(f) ∪ (what is live at the next instruction \ M(f)), and nothing of the latter where N(f)
//   X(s) ⊇ X(b) along every jump; X(f) ⊇ what is live behind each call of f; X = everything where callers are not known
//   N(b) only if no successor returns, but for one behind a call of an f with N(f), and b itself does not
// By induction over the length of a run, nothing that a run reads is then missing from L at its start.
// Traced functions (with an ftrace site) are taken by the rules of convention.ts instead of R, M and X; the same rules
// are stated in check.ts once more. They say that SCRATCH is lost over a call, but for what is in O behind it (kept.ts), which
// X of the callee then holds too: O(b) ⊇ own(i) ∪ (O' \ writes(i)), O' = union of O(s) over the places s where no traced
// function starts. Where control goes on in unknown ways, everything is live.

import type { Rva } from '../image/rva.js'

/** A solution, as plain tables. Index spaces: insn (ascending by rva), block (runs of insns). */
export interface Claims {
  readonly rva: Uint32Array //        insn -> rva
  readonly live: Uint32Array //       insn -> register set, L
  readonly blockFirst: Uint32Array // block -> first insn; one more at the end
  readonly reads: Uint32Array //      block -> register set, R
  readonly defines: Uint32Array //    block -> register set, M
  readonly exit: Uint32Array //       block -> register set, X
  readonly returning: Uint8Array //   block -> 0 where N
  readonly own: Uint32Array //        block -> register set, O
}

/** A claim that does not hold. */
export interface Finding {
  readonly rva: Rva
  readonly what: string
}

export interface Verdict {
  readonly instructions: number
  /** Places that control was followed to: behind instructions at the end of a block, and calls. */
  readonly ways: number
  readonly findings: readonly Finding[]
}
