// The ways to splice, numbered. draft.ts says what each does.

export const TACTIC = {
  retargetCall: 0,
  retargetJump: 1,
  return: 2,
  retargetBranch: 3,
  jumpOver: 4,
  window: 5,
  shortJump: 6,
  eviction: 7, //    a window that is moved for its room alone
  springboard: 8, // what a short jump leads to
} as const

/** TACTIC -> its name in reports. */
export const TACTIC_NAMES = [
  'retarget-call', 'retarget-jump', 'return', 'retarget-branch', 'jump-over', 'window', 'short-jump', 'eviction', 'springboard',
] as const
