// What may never be overwritten, as one byte per byte of .text: 0, or the number of the refusal code (refusal.ts). From
// the kernel's own tables and section symbols, and from three short lists of names that no table holds.

import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { codeNumber, CODES, type RefusalCode } from './refusal.js'

// ftrace copies ftrace_caller and ftrace_regs_caller, and rewrites labels inside them that no table holds
// (arch/x86/kernel/ftrace.c, create_trampoline); kprobes copies the optprobe templates (kprobes/opt.c); kexec copies
// the page from relocate_kernel on; static_call.c rewrites __SCT__ trampolines; alternatives rewrite the thunks as a whole.
const COPIED = new RegExp(
  '^(' +
    [
      'ftrace_(caller|regs_caller|call|regs_call|stub|graph|epilogue|trace)\\w*', '__fentry__', 'return_to_handler',
      'arch_rethook_trampoline', 'optprobe_template_\\w*', 'relocate_(kernel|range)', 'swap_pages', '__SCT__.*', '__x86_indirect_\\w*',
      '\\w*_return_thunk', '\\w*_untrain_ret\\w*', 'hypercall_page', 'xen_hypercall_\\w*', 'skl_call_thunk_\\w*',
    ].join('|') +
    ')$',
)

// What every CPU runs between "stopped" and "go on" (kernel/stop_machine.c, multi_cpu_stop), and what an NMI that meets a
// half-written site runs from the int3 to the module's notifier (exc_int3 -> do_int3 -> notify_die; most of that is on
// the kernel's own list, but not the RCU calls that it makes, nor the other notifiers, of which hw_breakpoint's comes
// first: an int3 in it had its handler run into itself). The same for whoever runs into a window while it is applied.
// Calls seen in both, 6.1 and 6.12.
const MACHINE_STOPPED = new RegExp(
  '^(' +
    [
      'multi_cpu_stop', 'stop_machine_yield', 'ack_state', 'rcu_momentary_\\w+', 'touch_nmi_watchdog',
      'touch_softlockup_watchdog\\w*', '__rcu_read_lock', '__rcu_read_unlock', 'rcu_read_unlock_special', 'notify_die',
      '(atomic_)?notifier_call_chain', 'do_int3', 'get_kprobe', 'kprobe_int3_handler', 'kprobe_exceptions_notify',
      'arch_uprobe_exception_notify', 'trace_(hwlat|osnoise)_callback', 'hw_breakpoint_exceptions_notify', '(__)?kgdb_notify',
      'kgdb_ll_trap', 'kmmio_die_notifier', 'trace_die_(panic_)?handler', 'hv_die_panic_notify_crash',
    ].join('|') +
    ')$',
)

// What a CPU that comes up runs before it has its interrupt table: an int3 that stands there for a while, as windows have
// them, would end in a triple fault (arch/x86/kernel/smpboot.c, start_secondary, 6.1 and 6.12).
const NO_INTERRUPT_TABLE = /^(start_secondary|cr4_init|cpu_init_exception_handling|load_current_idt|early_setup_idt)$/

// What the tracepoint notifier:notifier_run runs, where it is switched on, between such an int3 and the module's notifier
// (kernel/notifier.c, 6.12): the same, but for whatever else is hooked to it.
const TRACES_NOTIFIERS =
  /^(__traceiter_notifier_\w+|__probestub_notifier_\w+|(perf_)?trace_event_raw_event_notifier_info|perf_trace_notifier_info|(__)?trace_event_buffer_\w+|ring_buffer_(lock_reserve|unlock_commit))$/

// Where the GS base is not yet, or no longer, the per-CPU area's (arch/x86/power/cpu.c, hibernate_asm_64.S,
// kernel/acpi/wakeup_64.S, machine_kexec_64.c, kernel/cpu/common.c), and what is called there, mostly through pv_ops: on the
// way to the MSR that sets it, after sleep (restore_processor_state) and, in 6.1, on a CPU that comes up
// (load_percpu_segment). The list of places is that of all instructions of both kernels that write %gs or its base.
const NO_PERCPU_BASE = new RegExp(
  '^(__)?(' +
    [
      'restore_processor_state', 'restore_registers', 'restore_image', 'core_restore_code', 'swsusp_arch_\\w+', 'do_suspend_lowlevel',
      'wakeup_long64', 'machine_kexec', 'load_segments', 'startup_64\\w*', 'secondary_startup_64\\w*', 'x86_acpi_\\w+',
      'identity_mapped', 'virtual_mapped', 'start_cpu0', 'soft_restart_cpu', 'xen_\\w*start\\w*', 'pvh_start_xen',
      'common_startup_64', 'load_percpu_segment', 'switch_to_new_gdt', '(do_trace|xen|xen_do|native)_(read|write)_msr(_safe)?',
      'xen_load_(gdt|idt)\\w*', '(pv_)?(native|xen)_(read|write)_cr\\d\\w*', 'native_load_(gdt|idt)', 'cc_platform_has',
    ].join('|') +
    ')$',
)

/** text byte (index = rva - image.textStart) -> number of a refusal code, 0 where free. */
export const findReserved = (image: Image): Uint8Array => {
  const { tables, textStart, textEnd, functions } = image
  const reserved = new Uint8Array(textEnd - textStart)
  // The first reason given to a byte stays.
  const mark = (code: RefusalCode, start: Rva, end: Rva): void => {
    const number = codeNumber(code)
    const to = Math.min(end, textEnd) - textStart
    for (let i = Math.max(start, textStart) - textStart; i < to; i++) if (reserved[i] === 0) reserved[i] = number
  }
  const markAll = (code: RefusalCode, starts: Uint32Array, length: number): void => {
    for (const start of starts) mark(code, start, start + length)
  }
  const markTable = (code: RefusalCode, table: { rva: Uint32Array; len: ArrayLike<number> }): void => {
    table.rva.forEach((start, i) => mark(code, start, start + table.len[i]!))
  }
  const markRange = (code: RefusalCode, name: string): void => {
    for (const range of tables.ranges) if (range.name === name) mark(code, range.start, range.end)
  }

  // Whole stretches first: a return in text that must not be touched is no return site. Return sites come last, since
  // they alone may be spliced after all.
  for (let f = 0; f < functions.count; f++) {
    const name = functions.nameOf(f)
    const start = functions.start[f]!
    const end = functions.end[f]!
    if (COPIED.test(name)) mark('copied-text', start, end)
    else if (MACHINE_STOPPED.test(name) || TRACES_NOTIFIERS.test(name)) mark('machine-stopped', start, end)
    else if (NO_INTERRUPT_TABLE.test(name)) mark('no-interrupt-table', start, end)
    else if (NO_PERCPU_BASE.test(name)) mark('no-percpu-base', start, end)
  }
  tables.kprobeBlacklist.start.forEach((start, i) => mark('blacklisted', start, tables.kprobeBlacklist.end[i]!))
  tables.staticCallTrampolines.start.forEach((start, i) =>
    mark('copied-text', start, tables.staticCallTrampolines.end[i]!))
  markRange('head-text', 'head')
  markRange('kprobes-text', 'kprobes')
  markRange('irqentry-text', 'irqentry')
  markRange('irqentry-text', 'softirqentry')
  markRange('cpuidle-text', 'cpuidle')
  markRange('noinstr', 'noinstr')
  markRange('entry-text', 'entry')

  markAll('retpoline', tables.retpolineSites, 5)
  markAll('cfi', tables.cfiSites, 5)
  markAll('endbr', tables.endbrSeals, 4)
  markAll('smp-lock', tables.smpLocks, 1)
  markTable('runtime-constant', tables.runtimeConst)
  markTable('paravirt', tables.paravirt)
  markTable('alternative', tables.alternatives)
  markAll('static-key', tables.staticKeys.rva, 2)
  markAll('static-call', tables.staticCalls, 5)
  markAll('exception-table', tables.exTable.insn, 1)
  markAll('bug-table', tables.bugs, 2)
  markAll('ftrace', tables.ftrace, 5)
  markAll('return-site', tables.returnSites, 5)
  return reserved
}

/** The refusal of the bytes [start, end), or '' where all are free. */
export const reservedCode = (image: Image, reserved: Uint8Array, start: Rva, end: Rva): RefusalCode | '' => {
  if (start === NONE || start < image.textStart || end > image.textEnd) return 'outside-text'
  for (let i = start - image.textStart; i < end - image.textStart; i++) if (reserved[i] !== 0) return CODES[reserved[i]!]!
  return ''
}

/** How many bytes of functions in .text may be overwritten at all. */
export const instrumentableBytes = (image: Image, reserved: Uint8Array): number => {
  const { functions, textStart, textEnd } = image
  let bytes = 0
  let done = textStart
  for (let f = 0; f < functions.count; f++) {
    const start = Math.max(functions.start[f]!, done)
    const end = Math.min(functions.end[f]!, textEnd)
    for (let rva = start; rva < end; rva++) if (reserved[rva - textStart] === 0) bytes++
    if (end > done) done = end
  }
  return bytes
}
