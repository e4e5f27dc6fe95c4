// How an instruction hands on control: one small number per instruction.

export const FLOW = {
  next: 0,
  jump: 1, //         direct, unconditional
  branch: 2, //       direct, conditional: jcc, loop, jrcxz
  call: 3, //         direct
  indirectJump: 4,
  indirectCall: 5,
  return: 6, //       ret (near); iret and sysret are `system`
  trap: 7, //         ud0, ud1, ud2, int3
  system: 8, //       syscall, iret, int n, xbegin, far transfers: nothing is known
  invalid: 9, //      does not decode
} as const
