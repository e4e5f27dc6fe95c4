// cfg/: jump tables, with gcc's own listing as judge; and the control flow of the real kernels, held against what the
// kernel's build left behind: objtool's tables of returns, calls and unwind places, the kernel's list of functions that
// never return, and where gcc wrote no code behind a call.

import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { cutFunction } from '../src/cfg/function.js'
import { buildGraph, type KernelGraph } from '../src/cfg/graph.js'
import { CALL, EDGE, END, ENTRY } from '../src/cfg/kinds.js'
import { FLOW } from '../src/code/flow.js'
import { openElf } from '../src/image/elf.js'
import { loadImage } from '../src/image/image.js'
import { NONE, hex, type Rva } from '../src/image/rva.js'
import { ROOT, kernel } from './guest/artefacts.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-graph-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

const MINIATURE = join(ROOT, 'corpora/miniature')
/** As the kernel is compiled, as far as it matters for jump tables (arch/x86/Makefile, 6.1). */
const CFLAGS = ['-O2', '-ffreestanding', '-fno-pic', '-mcmodel=kernel', '-mno-red-zone', '-fcf-protection=none',
  '-fno-asynchronous-unwind-tables', '-fno-stack-protector']
const RETPOLINES = ['-mindirect-branch=thunk-extern', '-mindirect-branch-register', '-fjump-tables']

/** What switches.c calls, with what every miniature has. */
const REST = `
	.include "kernel.inc"
	.irp name, f0, f1, f2, f3, sink, __x86_indirect_thunk_rax, __x86_indirect_thunk_rcx, __x86_indirect_thunk_rdx
	FUNCTION \\name
	ret
	END \\name
	.endr
	.section .note.GNU-stack, "", @progbits
`

/** Function -> how many different places its jump table leads to, as gcc's assembler output has it. */
const tablesOf = (listing: string): Map<string, number> => {
  const tables = new Map<string, number>()
  let name = ''
  let label = ''
  const entries = new Map<string, Set<string>>()
  for (const line of listing.split('\n')) {
    const start = /^([a-z]\w*):$/.exec(line)
    if (start !== null) name = start[1]!
    const local = /^(\.L\d+):$/.exec(line)
    if (local !== null) label = `${name} ${local[1]!}`
    const entry = /^\t\.quad\t(\.L\d+)$/.exec(line)
    if (entry !== null) entries.set(label, (entries.get(label) ?? new Set()).add(entry[1]!))
  }
  for (const [of, places] of entries) tables.set(of.split(' ')[0]!, places.size)
  return tables
}

/** Where the edges of one kind lead from a block. */
const edgesOf = ({ succStart, succ, succKind }: KernelGraph, block: number, kind: number): number[] => {
  const found: number[] = []
  for (let e = succStart[block]!; e < succStart[block + 1]!; e++) if (succKind[e] === kind) found.push(succ[e]!)
  return found
}

// Without retpolines, gcc keeps the address of the table of labels in a register over the loop: that is not followed.
for (const [label, flags, unproven] of [['without retpolines', [], 'through_labels'], ['with retpolines', RETPOLINES, '']] as const) {
  t.test(`switches as gcc compiles them, ${label}`, (t) => {
    const at = (name: string): string => join(scratch, `${flags.length}.${name}`)
    const source = join(MINIATURE, 'switches.c')
    writeFileSync(at('rest.S'), REST)
    execFileSync('gcc-12', [...CFLAGS, ...flags, '-c', '-o', at('switches.o'), source])
    execFileSync('gcc-12', [...CFLAGS, ...flags, '-S', '-o', at('switches.s'), source])
    execFileSync('as', ['--64', '-I', MINIATURE, '-o', at('rest.o'), at('rest.S')])
    execFileSync('ld', ['-m', 'elf_x86_64', '--build-id=sha1', '-z', 'max-page-size=4096', '-T', join(MINIATURE, 'kernel.ld'),
      '-o', at('elf'), at('switches.o'), at('rest.o')])
    const image = loadImage(at('elf'))
    const graph = buildGraph(image)
    const expected = tablesOf(readFileSync(at('switches.s'), 'utf8'))
    t.ok(expected.size >= 6, `${expected.size} tables`)
    for (const [name, places] of expected) {
      const fn = cutFunction(graph, image.functions.functionsNamed(name)[0]!)
      t.equal(fn.incomplete, name === unproven ? 'jump-table' : '', name)
      if (name === unproven) continue
      const found = fn.block.reduce((most, block) => Math.max(most, edgesOf(graph, block, EDGE.table).length), 0)
      t.equal(found, places, `${name} goes to ${places} places`)
    }
    t.end()
  })
}

/**
 * __noreturn functions as objtool lists them: __dead_end_function in tools/objtool/check.c, 6.1, and
 * tools/objtool/noreturns.h, 6.12, together; which of them a kernel has depends on its configuration.
 */
const NORETURN = ['__invalid_creds', '__module_put_and_kthread_exit', '__stack_chk_fail', 'arch_call_rest_init',
  'cpu_bringup_and_idle', 'cpu_startup_entry', 'do_exit', 'do_group_exit', 'do_task_dead', 'ex_handler_msr_mce',
  '__fortify_panic', 'fortify_panic', 'hlt_play_dead', 'hv_ghcb_terminate', 'kthread_complete_and_exit', 'kthread_exit',
  'make_task_dead', 'nmi_panic_self_stop', 'panic', 'panic_smp_self_stop', 'rest_init', 'rewind_stack_and_make_dead',
  'sev_es_terminate', 'snp_abort', 'start_kernel', 'stop_this_cpu', 'usercopy_abort', 'x86_64_start_kernel',
  'x86_64_start_reservations', 'xen_cpu_bringup_again']

/** Of NORETURN, but not of every kernel: a far jump ends it, which counts as a way that is not known. */
const FAR_JUMP = 'machine_real_restart'

/** Sections whose first bytes are read as 32-bit distances from themselves. */
const readRelative = (path: string, name: string, base: bigint): Rva[] => {
  const elf = openElf(path)
  try {
    const section = elf.sections.find((one) => one.name === name)!
    const bytes = elf.readSection(section)
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    return Array.from({ length: bytes.length / 4 }, (_, i) =>
      Number(BigInt.asUintN(64, section.address - base + BigInt(4 * i + view.getInt32(4 * i, true)))))
  } finally {
    elf.close()
  }
}

for (const name of ['6.1-cloud', '6.12-cloud']) {
  t.test(name, (t) => {
    const { vmlinux } = kernel(name)
    const image = loadImage(vmlinux)
    const graph = buildGraph(image)
    const { insns, index, blockFirst, blockOf, end, call, callee, returning, entry, predStart } = graph
    const { functions, tables } = image
    const where = (rva: Rva): string => {
      const f = functions.functionAt(rva)
      return f === NONE ? hex(rva) : `${functions.nameOf(f)}+${hex(rva - functions.start[f]!)}`
    }
    const lastOf = (b: number): number => blockFirst[b + 1]! - 1
    const variants = image.regions.find((region) => region.name === '.altinstr_replacement')!
    const runs = (rva: Rva): boolean => rva < variants.start || rva >= variants.end

    // Returns: what objtool lists are returns, and nothing else goes to the thunk but code that objtool does not see.
    const thunk = image.symbols.rvaOf('__x86_return_thunk')
    const returns = new Set<Rva>()
    for (let b = 0; b < graph.blockCount; b++) {
      const i = lastOf(b)
      if (end[b]! & END.return && insns.target[i] === thunk) returns.add(insns.rva[i]!)
    }
    t.same(Array.from(tables.returnSites).filter((rva) => runs(rva) && !returns.has(rva)).map(where), [], 'every return site is a return')
    const listed = new Set(tables.returnSites)
    const unlisted = [...returns].filter((rva) => !listed.has(rva)).map(where)
    t.ok(unlisted.every((at) => /^(fixup_vdso_exception|sysenter_setup|vdso32_setup|ia32_binfmt_init)\+/.test(at)) && unlisted.length <= 5,
      `returns that are not listed are in code that is built without objtool: ${unlisted.join(' ')}`)

    // Retpolines.
    const retpolines = new Set<Rva>()
    for (let b = 0; b < graph.blockCount; b++) {
      const flow = insns.flow[lastOf(b)]
      if (flow !== FLOW.jump && flow !== FLOW.call && flow !== FLOW.branch) continue
      if (end[b]! & END.tailIndirect || call[b] === CALL.anything || edgesOf(graph, b, EDGE.table).length > 0) retpolines.add(insns.rva[lastOf(b)]!)
    }
    t.same(Array.from(tables.retpolineSites).filter((rva) => runs(rva) && !retpolines.has(rva)).map(where), [], 'every retpoline site is one')

    // Calls that the kernel may rewrite for call depth tracking: ftrace sites and direct calls.
    const ftrace = new Set(tables.ftrace)
    const wrongCalls = Array.from(tables.callSites).filter((rva) => {
      const i = index.at(rva)
      return runs(rva) && !ftrace.has(rva) && (i === NONE || insns.flow[i] !== FLOW.call)
    })
    t.same(wrongCalls.map(where), [], `${tables.callSites.length} call sites are calls`)

    // Every place that a table names is the start of an instruction; so is every place where unwinding
    // changes, but for those in variants that are not what stands there.
    const { exTable, staticKeys, alternatives, paravirt } = tables
    for (const [of, places] of Object.entries({
      ftrace: tables.ftrace, faults: exTable.insn, fixups: exTable.fixup, bugs: tables.bugs, keys: staticKeys.rva,
      'static keys\' targets': staticKeys.target, 'static calls': tables.staticCalls, alternatives: alternatives.rva,
      paravirt: paravirt.rva, locks: tables.smpLocks, endbr: tables.endbrSeals, exports: tables.exports,
    })) {
      t.same(Array.from(places).filter((rva) => runs(rva) && index.at(rva) === NONE && functions.functionAt(rva) !== NONE).map(where), [],
        `${of}: ${places.length} places`)
    }
    const orc = readRelative(vmlinux, '.orc_unwind_ip', image.base)
    const rewritten = (rva: Rva): boolean =>
      [alternatives, paravirt].some((pieces) => pieces.rva.some((start, k) => rva > start && rva < start + pieces.len[k]!))
    const inside = orc.filter((rva) => {
      const f = functions.functionAt(rva)
      return f !== NONE && rva < functions.end[f]! && index.at(rva) === NONE && runs(rva) && !rewritten(rva)
    })
    t.ok(orc.length > 300_000)
    t.same(inside.map(where), [], `${orc.length} places where unwinding changes`)

    // Functions that never return.
    const staysAway = (name: string): boolean =>
      functions.functionsNamed(name).every((f) => !returning[blockOf[index.at(functions.start[f]!)]!])
    const present = NORETURN.filter((name) => functions.functionsNamed(name).length > 0)
    t.ok(present.length >= 25, `${present.length} annotated functions`)
    t.same(present.filter((name) => !staysAway(name)), [], 'what the kernel says never returns does not')
    t.notOk(staysAway(FAR_JUMP), 'a far jump counts as not known')

    // gcc writes no code behind a call that it knows never comes back: what stands there is reached in another way. And
    // where a call ends a function, it does not come back. Exceptions: callers of functions that do not say so.
    const behind = new Map<string, number>()
    const atEnd = new Map<string, number>()
    const count = (map: Map<string, number>, b: number): void => {
      const to = where(insns.rva[blockFirst[callee[b]!]!]!)
      map.set(to, (map.get(to) ?? 0) + 1)
    }
    let never = 0
    for (let b = 0; b + 1 < graph.blockCount; b++) {
      if (call[b] !== CALL.direct || callee[b] === NONE) continue
      const i = lastOf(b)
      const next = insns.rva[i]! + insns.length[i]!
      const f = functions.functionAt(insns.rva[i]!)
      if (f === NONE || !functions.isFunc[f]) continue
      if (returning[callee[b]!]) {
        if (next >= functions.end[f]!) count(atEnd, b)
      } else {
        never++
        const known = ENTRY.function | ENTRY.called | ENTRY.pointed
        if (next < functions.end[f]! && insns.rva[i + 1] === next && predStart[b + 1] === predStart[b + 2] && !(entry[b + 1]! & known)) count(behind, b)
      }
    }
    const unsaid = [...behind.keys()].map((at) => at.replace('+0x0', ''))
    t.ok(never > 5000 && [...behind.values()].reduce((sum, n) => sum + n, 0) <= 10, `${never} calls that do not come back`)
    t.same(unsaid.filter((at) => !/^(__sysvec_reboot|sysvec_reboot|exc_\w+|xenpv_exc_double_fault|handle_stack_overflow|panic_smp_self_stop|__stack_chk_fail|arch_call_rest_init)$/.test(at)),
      [], `code behind such a call: ${unsaid.join(' ')}`)
    t.same([...atEnd.keys()], [`${FAR_JUMP}+0x0`], 'calls at the end of a function that are taken to come back')

    // The BPF interpreter's table of labels, by nm and objdump.
    const interpreter = cutFunction(graph, functions.functionsNamed('___bpf_prog_run')[0]!)
    t.equal(interpreter.incomplete, '')
    const [start, size] = /^(\w+) (\w+) \w jumptable/m.exec(execFileSync('nm', ['-S', vmlinux], { encoding: 'utf8', maxBuffer: 1 << 26 }))!
      .slice(1).map((digits) => BigInt(`0x${digits}`))
    const dump = execFileSync('objdump', ['-s', '--start-address', `${start}`, '--stop-address', `${start! + size!}`, vmlinux],
      { encoding: 'utf8' })
    const words = [...dump.matchAll(/^ [0-9a-f]{16} (.{35}) /gm)].flatMap(([, row]) => row!.replace(/ /g, '').match(/.{16}/g)!)
    t.equal(words.length, 256)
    t.equal(interpreter.block.reduce((most, b) => Math.max(most, edgesOf(graph, b, EDGE.table).length), 0), new Set(words).size,
      `${new Set(words).size} places`)
    t.end()
  })
}
