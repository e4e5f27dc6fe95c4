// Why a point cannot be served: a code for machines, a reason for people. A refusal is counted and reported, never thrown.

export const REFUSALS = {
  // The function.
  'ambiguous-name': 'several functions have this name; write F@ADDRESS, with the link-time address of the one that is meant',
  'undecodable': 'the function holds bytes that do not decode',
  'jump-table': 'the function jumps through a table or a stored label, so its control flow is not known',
  'falls-through': 'control runs off the end of the function',
  'jumps-inside': 'the function jumps into the middle of one of its own instructions',
  'gs-changes': 'the function changes the GS base, through which the counters are reached',
  'never-returns': 'the function has no way out',
  'unusual-exit': 'one way out of the function is not a return or a jump to the start of a function',
  'no-calls': 'the function makes no calls',
  'no-edges': 'the function has no edges: it is a single block',
  'no-task': 'the kernel\'s code does not tell where it keeps the current task',
  'no-count': 'neither it nor enough of what flows into and out of it can be counted',
  // The place.
  'no-instruction': 'no instruction starts there',
  'too-short': 'no instruction that runs exactly when this one does is long enough, and free, to be overwritten by a jump, alone or with its neighbours',
  'no-springboard': 'too short for a jump, and no free bytes are near enough for a short one',
  'site-taken': 'the instruction is already spliced in another way by this plan',
  'no-place': 'no instruction runs exactly when it does, so that a program could run there',
  'asm-registers': 'assembly uses a register that division, a variable shift, min or max of the same program need',
  'tail-call': 'one way out is a jump to another function, which makes the value that is returned',
  'no-switch': 'oncpu needs a place at which every switch between threads is seen, and there is none; or it is asked of the switch itself',
  'no-return-address': 'the kernel\'s unwind data do not say where the return address is',
  // The instruction.
  'decoders-disagree': 'the two decoders do not agree on the instruction',
  'cannot-move': 'the instruction cannot be moved',
  'interrupt-shadow': 'enables interrupts, or waits for one: nothing may come between it and its neighbours',
  'jump-into': 'other code jumps into the middle of the instruction',
  'out-of-range': 'the instruction refers to an address outside the kernel image',
  // The bytes: what else the kernel does with them.
  'outside-text': 'outside .text: the kernel frees it after boot or copies it elsewhere',
  'entry-text': 'entry code, which runs before the kernel has its own GS base and stack',
  'noinstr': 'the kernel marks this text as not to be instrumented',
  'kprobes-text': 'text that serves probes and traps themselves',
  'irqentry-text': 'text whose place tells the kernel that it is in an interrupt',
  'cpuidle-text': 'idle code, which runs where RCU does not watch',
  'head-text': 'start-up code, which runs before the per-CPU area is reachable',
  'blacklisted': 'on the kernel\'s own list of functions never to be probed',
  'copied-text': 'a template or thunk that the kernel copies or rewrites as a whole',
  'machine-stopped': 'runs while the machine is stopped to write the splices, or between an int3 of ours and our handler',
  'no-interrupt-table': 'runs while a CPU that comes up cannot take an exception',
  'no-percpu-base': 'runs while the per-CPU area is not reachable (suspend, resume, kexec, a CPU that comes up)',
  'ftrace': 'a call to __fentry__, which ftrace rewrites',
  'paravirt': 'a paravirtual call, which the kernel rewrites at boot',
  'alternative': 'an alternative, which the kernel rewrites at boot',
  'retpoline': 'an indirect branch through a thunk, which the kernel may rewrite at boot',
  'return-site': 'a return through a thunk, which the kernel rewrites at boot',
  'endbr': 'an ENDBR, where an indirect branch may arrive',
  'cfi': 'a CFI check, which the kernel rewrites at boot',
  'static-key': 'a static key\'s branch, which the kernel may rewrite at any time',
  'static-call': 'a static call, which the kernel may rewrite at any time',
  'smp-lock': 'a lock prefix that the kernel removes on one CPU',
  'runtime-constant': 'a constant that the kernel fills in at boot',
  'exception-table': 'an access that may fault and go on elsewhere',
  'bug-table': 'a BUG or WARN',
} as const

export type RefusalCode = keyof typeof REFUSALS

/** Codes by number, for one byte per text byte; 0 is no refusal. */
export const CODES: readonly (RefusalCode | '')[] = ['', ...(Object.keys(REFUSALS) as RefusalCode[])]

export const codeNumber = (code: RefusalCode | ''): number => CODES.indexOf(code)
