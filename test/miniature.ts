// A kernel in miniature with every special table, in each form that they have had, and relocations of every kind. In:
// options. Out: the file that gas and ld made of them.
// Left out: what the code does; nobody runs it (corpora/miniature has kernels for that).

import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'

const SOURCE = `
#define BEGIN(n) .globl n; .type n, @function; n:
#define FINISH(n) .size n, . - n
#define TABLE(n) .pushsection n, "a"
#define REL(x) .long x - .
        .text
        .globl early
        .type early, @function
early:  nop
        ret
        .size early, . - early
        .balign 16
BEGIN(traced)
.Lf1:   call __fentry__
        mov $datum, %rdi                # R_X86_64_32S: grows
        movabs $datum, %rax             # R_X86_64_64: grows
        mov %gs:counter(%rip), %rax     # PC32 against a per-CPU symbol: shrinks
        mov %gs:counter, %rax           # 32S against it: stays
        mov datum(%rip), %rcx           # PC32: stays
.Lj1:   .byte 0x0f, 0x1f, 0x44, 0x00, 0x00
.Lk1:   jmp .Lj1
        call __SCT__thing
.Ls1:
.Lb1:   ud2
.Lr1:   jmp.d32 __x86_return_thunk
        FINISH(traced)
        .balign 16
        .type local_one, @function
local_one:
.Lf2:   call __fentry__
.Lx1:   mov (%rdi), %rax
.La1:   .byte 0x0f, 0x1f, 0x00
inner:  lock; incl (%rdi)
.Lx2:   xor %eax, %eax
        shr $0x0c, %eax
.Lc1:   movabs $0x0123456789abcdef, %rax
.Lc2:   ret
        .size local_one, . - local_one
        .weak weak_alias
        .type weak_alias, @function
        .set weak_alias, local_one
        .balign 16
unsized:
        nop
        ret
        .balign 16
        .type __pfx_padded, @function
__pfx_padded:
        .skip 16, 0x90
        .size __pfx_padded, 16
BEGIN(padded)
        nop
        ret
        FINISH(padded)
BEGIN(__fentry__)
        ret
        FINISH(__fentry__)
BEGIN(__x86_return_thunk)
        ret
        FINISH(__x86_return_thunk)
        .balign 8
BEGIN(__SCT__thing)
        jmp.d32 padded
        .skip 3, 0xcc
        FINISH(__SCT__thing)
        .globl __noinstr_text_start, __noinstr_text_end
__noinstr_text_start:
BEGIN(quiet)
        nop
        ret
        FINISH(quiet)
__noinstr_text_end:
        .balign 16
BEGIN(secondary_startup_64)
        ret
        FINISH(secondary_startup_64)
        .skip 4080, 0xcc

        .section .init.text, "ax"
BEGIN(starter)
        mov $datum, %rdi
        ret
        FINISH(starter)
        .section .altinstr_replacement, "ax"
.Lrepl: lfence

        .data
        .globl datum
        .balign 8
datum:  .quad local_one
        .quad .Lx2                      # a label inside a function
        .quad datum
        .long 0
        .quad traced                    # not aligned: no pointer
        .section .data..percpu, "aw"
        .globl counter
counter: .quad padded
        .section .rodata, "a"
        .globl linux_banner
linux_banner: .asciz "Linux version 6.99.1-mini (me@here) #1"

        TABLE(__mcount_loc)
        .quad .Lf2, 0, .Lf1
        .popsection
        TABLE(.altinstructions)
        REL(.La1)
        REL(.Lrepl)
#ifdef WIDE
        .long 1
#else
        .word 1
#endif
        .byte 3, 3
        REL(.Lx2)
        REL(.Lrepl)
#ifdef WIDE
        .long 2
#else
        .word 2
#endif
        .byte 2, 0
        .popsection
        TABLE(.parainstructions)
        .quad .Lx1
        .byte 7, 3
        .balign 8, 0
        .popsection
        TABLE(.return_sites)
        REL(.Lr1)
        .popsection
        TABLE(__jump_table)
        REL(.Lj1)
        REL(.Lk1)
        .quad datum
        .popsection
        TABLE(.static_call_sites)
        REL(.Ls1 - 5)
        REL(datum + 1)
        .popsection
        TABLE(.smp_locks)
        REL(inner)
        .long 0, 0
        .popsection
        TABLE(__ex_table)
        REL(.Lx1)
        REL(.Lx2)
        .long 3
        .popsection
        TABLE(__bug_table)
        REL(.Lb1)
        REL(linux_banner)
        .word 12, 1
        .popsection
        TABLE(_kprobe_blacklist)
        .quad padded
        .popsection
        TABLE(runtime_ptr_thing)
        .long .Lc2 - 8 - .
        .popsection
        TABLE(runtime_shift_thing)
        .long .Lc1 - 1 - .
        .popsection
`

const symbolsAround = (section: string, [first, last]: readonly [string, string]): string =>
  `${section} : { ${first} = .; KEEP(*(${section})) ${last} = .; }`

/** Tables by symbols, as the kernel has them, or by sections alone. */
const script = (symbols: boolean): string => {
  const around = (section: string, first: string, last: string): string =>
    symbols ? symbolsAround(section, [first, last]) : `${section} : { KEEP(*(${section})) }`
  return `
ENTRY(early)
SECTIONS {
  . = 0xffffffff81000000;
  .text : { _text = .; _stext = .; *(.text) _etext = .; }
  . = ALIGN(4096);
  .rodata : { *(.rodata) }
  . = ALIGN(8);
  ${around('__mcount_loc', '__start_mcount_loc', '__stop_mcount_loc')}
  ${around('__jump_table', '__start___jump_table', '__stop___jump_table')}
  ${around('.static_call_sites', '__start_static_call_sites', '__stop_static_call_sites')}
  ${around('__ex_table', '__start___ex_table', '__stop___ex_table')}
  ${around('__bug_table', '__start___bug_table', '__stop___bug_table')}
  ${around('.parainstructions', '__parainstructions', '__parainstructions_end')}
  ${around('_kprobe_blacklist', '__start_kprobe_blacklist', '__stop_kprobe_blacklist')}
  ${around('.return_sites', '__return_sites', '__return_sites_end')}
  ${around('.altinstructions', '__alt_instructions', '__alt_instructions_end')}
  .altinstr_replacement : { *(.altinstr_replacement) }
  ${around('.smp_locks', '__smp_locks', '__smp_locks_end')}
  runtime_ptr_thing : { KEEP(*(runtime_ptr_thing)) }
  runtime_shift_thing : { KEEP(*(runtime_shift_thing)) }
  .notes : { *(.note.gnu.build-id) }
  . = ALIGN(4096);
  .data : { *(.data) }
  .data..percpu 0 : { __per_cpu_start = .; *(.data..percpu) }
  . = 0xffffffff81010000;
  .init.text : { *(.init.text) }
  . = ALIGN(4096);
  _end = .;
  /DISCARD/ : { *(.note.gnu.property) *(.eh_frame) }
}`
}

export interface Build {
  wide?: boolean
  symbols?: boolean
  relocs?: boolean
  buildId?: string
  /** Replaces pieces of the source. */
  edit?: readonly [string, string]
  /** Follows the source. */
  more?: string
}

const tool = (name: string, ...args: string[]): void => {
  execFileSync(name, args, { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Makes one; other files are left beside it. Returns its path. */
export const makeMiniature = (
  path: string, { wide = false, symbols = true, relocs = true, buildId = 'sha1', edit, more = '' }: Build = {},
): string => {
  if (edit !== undefined && !SOURCE.includes(edit[0])) throw new Error(`nothing to edit: ${edit[0]}`)
  writeFileSync(`${path}.S`, (edit === undefined ? SOURCE : SOURCE.replace(edit[0], edit[1])) + more)
  writeFileSync(`${path}.lds`, script(symbols))
  tool('gcc', '-c', ...(wide ? ['-DWIDE'] : []), '-o', `${path}.o`, `${path}.S`)
  const options = ['-z', 'max-page-size=4096', `--build-id=${buildId}`, '-T', `${path}.lds`]
  tool('ld', ...options, ...(relocs ? ['--emit-relocs'] : []), '-o', path, `${path}.o`)
  return path
}
