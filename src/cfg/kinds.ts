// The small numbers of a graph: how blocks end, what edges stand for, how control comes to a block, what a call reaches.

/** How a block ends, as bits. */
export const END = {
  /** Control may leave in the middle or at the end without being seen: a call may not return, an access may fault. */
  leaks: 1,
  /** Leaves by a return. */
  return: 2,
  /**
   * Leaves by a jump out of the function, a tail call, or by running into the next one. Seen only where a function is cut
   * out, but for indirect ones.
   */
  tail: 4,
  /** The return or tail call is conditional: the taken edge leaves. */
  tailTaken: 8,
  /** The tail call is indirect. */
  tailIndirect: 16,
  /** Nothing is known of where control goes. */
  unknown: 32,
  /** A variant that the kernel may put there returns or jumps to where no edge goes. */
  variantLeaves: 64,
  /** A fault there goes on outside the function. Seen only where a function is cut out. */
  faultLeaves: 128,
} as const

/** What an edge stands for. */
export const EDGE = {
  next: 0, //    to the instruction behind
  jump: 1, //    a direct jump
  key: 2, //     the jump that a static key may become
  fixup: 3, //   a fault, to where the exception table says
  variant: 4, // a jump in a variant of an alternative
  table: 5, //   a jump through a jump table
} as const

/** What is known of how control comes to a block, as bits. */
export const ENTRY = {
  /** A function, or label of assembly, starts here. */
  function: 1,
  /** A direct call comes here. */
  called: 2,
  /** Data, an export or another instruction has its address: whoever calls or jumps here is not known. */
  pointed: 4,
} as const

/** Why control flow is not known where a block ends. */
export const PROBLEM = { none: 0, undecodable: 1, jumpTable: 2, fallsThrough: 3, jumpsInside: 4 } as const

/** What a call may reach. */
export const CALL = {
  none: 0, //     the block ends without a call
  direct: 1, //   `callee`, or nothing known where that is NONE
  anything: 2, // through a pointer, a thunk or a trampoline that the kernel rewrites
} as const
