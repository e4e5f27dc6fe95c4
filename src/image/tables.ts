// In: the loaded image, its symbols and functions. Out: every special table of the kernel that says which code it
// rewrites, or where code leaves its path. This is the only reader of those tables.
// Invariant: each table ascends by its first column (rvas may repeat); every place in code that it names lies in an
// executable section. A table that is absent is empty; one that does not look as expected is an error, since a table
// read wrongly would let a plan overwrite what the kernel rewrites.
// Left out: what the tables are patched to, and the tables of modules.

import { EXIT, KerninstError } from '../error.js'
import { addressReader, viewOf } from './address.js'
import type { Functions, Span } from './functions.js'
import type { Loaded, Memory } from './memory.js'
import { NONE, type Rva } from './rva.js'
import type { Symbols } from './symbols.js'

/** Pieces of code, in columns. */
export interface Pieces {
  readonly rva: Uint32Array
  readonly len: Uint32Array
}

export interface Alternatives extends Pieces {
  readonly replRva: Uint32Array // where the replacement lies, in .altinstr_replacement
  readonly replLen: Uint32Array // 0: it becomes nops
}

export interface Spans {
  readonly start: Uint32Array
  readonly end: Uint32Array
}

/** A named stretch of special code; several may have one name. */
export interface NamedRange extends Span {
  readonly name: string
}

export interface KernelTables {
  /** Calls to __fentry__, or nops in their place; 5 bytes each. */
  readonly ftrace: Uint32Array
  readonly paravirt: Pieces
  readonly alternatives: Alternatives
  /** call or jmp to __x86_indirect_thunk_*, possibly after a cs prefix. */
  readonly retpolineSites: Uint32Array
  /** jmp __x86_return_thunk, 5 bytes. */
  readonly returnSites: Uint32Array
  /** Direct calls that call-depth tracking may retarget. */
  readonly callSites: Uint32Array
  /** ENDBR that may be overwritten, as no one jumps there. */
  readonly endbrSeals: Uint32Array
  readonly cfiSites: Uint32Array
  /** Static keys: jmp or nop at rva, of 2 or 5 bytes; where it jumps to. */
  readonly staticKeys: { readonly rva: Uint32Array; readonly target: Uint32Array }
  /** call or jmp to a static call's trampoline, 5 bytes. */
  readonly staticCalls: Uint32Array
  readonly staticCallTrampolines: Spans
  /** Instructions whose lock prefix, when it comes first, becomes ds where there is one CPU. */
  readonly smpLocks: Uint32Array
  /** Fields of instructions that are filled in at boot. */
  readonly runtimeConst: Pieces
  readonly exTable: {
    readonly insn: Uint32Array
    readonly fixup: Uint32Array
    /** What the handler gets: its type and operands (5.17 and later), or where it lies. */
    readonly data: Uint32Array
  }
  /** ud2 of BUG and WARN. */
  readonly bugs: Uint32Array
  /** Those of WARN, after which the kernel goes on. */
  readonly warns: Uint32Array
  /** Code that modules may link to. */
  readonly exports: Uint32Array
  readonly kprobeBlacklist: Spans
  /** noinstr, entry, kprobes, irqentry, softirqentry, cpuidle, head, and four sections by their names. */
  readonly ranges: readonly NamedRange[]
  /** Names of the tables that the image has. */
  readonly found: readonly string[]
  /** Where those tables themselves lie, in data. */
  readonly places: readonly Span[]
}

/**
 * table -> [first symbol, symbol after the end, section]; include/asm-generic/vmlinux.lds.h and
 * arch/x86/kernel/vmlinux.lds.S, 6.1 and 6.12.
 */
const PLACES = {
  ftrace: ['__start_mcount_loc', '__stop_mcount_loc', '__mcount_loc'],
  paravirt: ['__parainstructions', '__parainstructions_end', '.parainstructions'],
  alternatives: ['__alt_instructions', '__alt_instructions_end', '.altinstructions'],
  retpolineSites: ['__retpoline_sites', '__retpoline_sites_end', '.retpoline_sites'],
  returnSites: ['__return_sites', '__return_sites_end', '.return_sites'],
  callSites: ['__call_sites', '__call_sites_end', '.call_sites'],
  endbrSeals: ['__ibt_endbr_seal', '__ibt_endbr_seal_end', '.ibt_endbr_seal'],
  cfiSites: ['__cfi_sites', '__cfi_sites_end', '.cfi_sites'],
  staticKeys: ['__start___jump_table', '__stop___jump_table', '__jump_table'],
  staticCalls: ['__start_static_call_sites', '__stop_static_call_sites', '.static_call_sites'],
  smpLocks: ['__smp_locks', '__smp_locks_end', '.smp_locks'],
  exTable: ['__start___ex_table', '__stop___ex_table', '__ex_table'],
  bugs: ['__start___bug_table', '__stop___bug_table', '__bug_table'],
  exports: ['__start___ksymtab', '__stop___ksymtab', '__ksymtab'],
  gplExports: ['__start___ksymtab_gpl', '__stop___ksymtab_gpl', '__ksymtab_gpl'],
  kprobeBlacklist: ['__start_kprobe_blacklist', '__stop_kprobe_blacklist', '_kprobe_blacklist'],
} as const

type TableName = keyof typeof PLACES

/** range -> [first symbol, symbol after the end]; include/asm-generic/vmlinux.lds.h, 6.1 and 6.12. */
const RANGES = {
  noinstr: ['__noinstr_text_start', '__noinstr_text_end'],
  entry: ['__entry_text_start', '__entry_text_end'],
  kprobes: ['__kprobes_text_start', '__kprobes_text_end'],
  irqentry: ['__irqentry_text_start', '__irqentry_text_end'],
  softirqentry: ['__softirqentry_text_start', '__softirqentry_text_end'],
  cpuidle: ['__cpuidle_text_start', '__cpuidle_text_end'],
} as const

const SECTION_RANGES = ['.init.text', '.exit.text', '.altinstr_aux', '.altinstr_replacement']

// Code of head_64.S that may lie outside .head.text: a CPU that comes up runs it by physical address, or before it has
// a stack or GS base (6.1: all in .head.text; 6.12: partly in .text, from secondary_startup_64 on).
const BRING_UP = [
  'startup_64', 'secondary_startup_64', 'secondary_startup_64_no_verify', 'common_startup_64', 'verify_cpu',
  'sev_verify_cbit', 'start_cpu0', 'soft_restart_cpu', 'vc_boot_ghcb', 'early_setup_idt', '__startup_64',
]
/** .head.text has 7-8 kB on 6.1 and 6.12; where the first traced function is further away, it bounds nothing. */
const MAX_HEAD_BYTES = 0x8000
/** Some 20 on 6.1 and 6.12; later stages look through all of them. */
const MAX_RANGES = 256

/** call_sites, the largest, has 229,211 entries on 6.12. */
const MAX_ENTRIES = 1 << 21

/** One table's bytes, and the rva of the first. */
interface Place extends Span {
  readonly view: DataView
}

/** The order that sorts a column: position -> old index; equal keys stay in order. */
const sortedOrder = (keys: Uint32Array): Uint32Array => {
  const packed = Float64Array.from(keys, (key, i) => key * MAX_ENTRIES + i).sort()
  return Uint32Array.from(packed, (key) => key % MAX_ENTRIES)
}

const pick = (column: Uint32Array, order: Uint32Array): Uint32Array => order.map((i) => column[i]!)

class TableReader {
  readonly found: string[] = []
  readonly places: Span[] = []
  readonly #path: string
  readonly #memory: Memory
  readonly #symbols: Symbols
  readonly #toRva: (view: DataView, at: number) => Rva

  constructor(path: string, memory: Memory, base: bigint, symbols: Symbols) {
    this.#path = path
    this.#memory = memory
    this.#symbols = symbols
    this.#toRva = addressReader(base)
  }

  error(table: string, what: string): KerninstError {
    return new KerninstError(EXIT.data, `${this.#path}: the kernel's table ${table} ${what}`)
  }

  /** Whether [rva, rva + length) is code. */
  inCode(rva: Rva, length: number): boolean {
    return this.#memory.isCode(rva, rva + length)
  }

  code(rva: Rva, length: number): Uint8Array | undefined {
    return this.inCode(rva, length) ? this.#memory.bytes(rva, rva + length) : undefined
  }

  /** Where a table lies, by symbols or else by section; undefined when there is none, or it is empty. */
  place(table: TableName): Place | undefined {
    const [first, last, sectionName] = PLACES[table]
    let start = this.#symbols.rvaOf(first)
    let end = this.#symbols.rvaOf(last)
    if (start === NONE || end === NONE) {
      const loaded = this.#memory.sections.find(({ section }) => section.name === sectionName)
      if (loaded === undefined) return undefined
      start = loaded.start
      end = loaded.end
    }
    if (start === end) return undefined
    return this.#take(table, start, end)
  }

  /** A table that is a section of its own. */
  section({ section, start, end }: Loaded): Place {
    return this.#take(section.name, start, end)
  }

  #take(table: string, start: Rva, end: Rva): Place {
    const bytes = end > start ? this.#memory.bytes(start, end) : undefined
    if (bytes === undefined) throw this.error(table, 'does not lie in one section')
    this.found.push(table)
    this.places.push({ start, end })
    return { start, end, view: viewOf(bytes) }
  }

  /** How many entries of `stride` bytes a place holds. */
  count(table: string, { start, end }: Place, stride: number): number {
    const count = (end - start) / stride
    if (!Number.isInteger(count)) throw this.error(table, `has ${end - start} bytes, no multiple of ${stride}`)
    if (count > MAX_ENTRIES) throw this.error(table, `has ${count} entries; at most ${MAX_ENTRIES} are read`)
    return count
  }

  /** The place that the s32 at byte `at` names, relative to itself. */
  relative({ start, view }: Place, at: number): Rva {
    return (start + at + view.getInt32(at, true)) >>> 0
  }

  address(place: Place, at: number): Rva {
    return this.#toRva(place.view, at)
  }

  /** A column of self-relative places in code, `at` bytes into entries of `stride`; unsorted. */
  column(table: string, place: Place, stride: number, at: number): Uint32Array {
    const rvas = new Uint32Array(this.count(table, place, stride))
    for (let i = 0; i < rvas.length; i++) {
      const rva = this.relative(place, i * stride + at)
      if (!this.inCode(rva, 1)) throw this.error(table, `names a place that is not code, in entry ${i}`)
      rvas[i] = rva
    }
    return rvas
  }
}

/** 64-bit addresses, zeroed where the function was a weak one that lost (scripts/sorttable.c, backported to 6.12). */
const readFtrace = (tables: TableReader): Uint32Array => {
  const place = tables.place('ftrace')
  if (place === undefined) return new Uint32Array(0)
  const rvas = new Uint32Array(tables.count('ftrace', place, 8))
  let count = 0
  for (let at = 0; at < place.view.byteLength; at += 8) {
    if (place.view.getUint32(at, true) === 0 && place.view.getUint32(at + 4, true) === 0) continue
    const rva = tables.address(place, at)
    if (!tables.inCode(rva, 5)) throw tables.error('ftrace', `names a place that is not code, in entry ${at / 8}`)
    rvas[count++] = rva
  }
  return rvas.slice(0, count).sort()
}

/** struct paravirt_patch_site: u8 *instr, u8 type, u8 len (arch/x86/include/asm/paravirt_types.h, 6.1; gone in 6.8). */
const readParavirt = (tables: TableReader): Pieces => {
  const place = tables.place('paravirt')
  if (place === undefined) return { rva: new Uint32Array(0), len: new Uint32Array(0) }
  const count = tables.count('paravirt', place, 16)
  const rva = new Uint32Array(count)
  const len = new Uint32Array(count)
  for (let i = 0; i < count; i++) {
    rva[i] = tables.address(place, i * 16)
    len[i] = place.view.getUint8(i * 16 + 9)
    if (len[i] === 0 || !tables.inCode(rva[i]!, len[i]!)) throw tables.error('paravirt', `is malformed in entry ${i}`)
  }
  const order = sortedOrder(rva)
  return { rva: pick(rva, order), len: pick(len, order) }
}

/**
 * struct alt_instr: s32 instr_offset, s32 repl_offset, then u16 cpuid (6.1) or 32 bits of cpuid and flags (6.3 on),
 * then u8 instrlen, u8 replacementlen, packed (arch/x86/include/asm/alternative.h, 6.1 and 6.12). Nothing in an image
 * tells the version for certain, since the wider form may be backported: the one that fits every entry is taken.
 */
const readAlternatives = (tables: TableReader): Alternatives => {
  const none = new Uint32Array(0)
  const place = tables.place('alternatives')
  if (place === undefined) return { rva: none, len: none, replRva: none, replLen: none }
  const read = (stride: number): Alternatives | undefined => {
    const size = place.end - place.start
    if (size % stride !== 0) return undefined
    const count = tables.count('alternatives', place, stride)
    const rva = new Uint32Array(count)
    const len = new Uint32Array(count)
    const replRva = new Uint32Array(count)
    const replLen = new Uint32Array(count)
    for (let i = 0; i < count; i++) {
      const at = i * stride
      rva[i] = tables.relative(place, at)
      replRva[i] = tables.relative(place, at + 4)
      len[i] = place.view.getUint8(at + stride - 2)
      replLen[i] = place.view.getUint8(at + stride - 1)
      // The assembler pads what is replaced to the length of what replaces it.
      if (len[i] === 0 || replLen[i]! > len[i]! || !tables.inCode(rva[i]!, len[i]!)) return undefined
      if (replLen[i] !== 0 && !tables.inCode(replRva[i]!, replLen[i]!)) return undefined
    }
    const order = sortedOrder(rva)
    return {
      rva: pick(rva, order), len: pick(len, order), replRva: pick(replRva, order), replLen: pick(replLen, order),
    }
  }
  const fitting = [read(12), read(14)].filter((table) => table !== undefined)
  if (fitting.length === 1) return fitting[0]!
  const what = fitting.length === 0 ? 'has entries of an unknown form' : 'can be read in two ways'
  throw tables.error('alternatives', what)
}

/** Entries of one s32: a place in code, relative to the entry (arch/x86/kernel/alternative.c, 6.1 and 6.12). */
const readRelative = (tables: TableReader, table: TableName): Uint32Array => {
  const place = tables.place(table)
  return place === undefined ? new Uint32Array(0) : tables.column(table, place, 4, 0).sort()
}

/** s32 self-relative; padded to a page with zeros, which the kernel skips too (arch/x86/kernel/alternative.c, 6.1). */
const readSmpLocks = (tables: TableReader): Uint32Array => {
  const place = tables.place('smpLocks')
  if (place === undefined) return new Uint32Array(0)
  let used = tables.count('smpLocks', place, 4)
  while (used > 0 && place.view.getInt32(used * 4 - 4, true) === 0) used--
  return tables.column('smpLocks', { ...place, end: place.start + used * 4 }, 4, 0).sort()
}

/**
 * struct jump_entry: s32 code, s32 target, s64 key, the first two self-relative
 * (include/linux/jump_label.h, 6.1 and 6.12).
 */
const readStaticKeys = (tables: TableReader): KernelTables['staticKeys'] => {
  const place = tables.place('staticKeys')
  if (place === undefined) return { rva: new Uint32Array(0), target: new Uint32Array(0) }
  const rva = tables.column('staticKeys', place, 16, 0)
  const target = tables.column('staticKeys', place, 16, 4)
  const order = sortedOrder(rva)
  return { rva: pick(rva, order), target: pick(target, order) }
}

/** struct static_call_site: s32 addr, s32 key, self-relative (include/linux/static_call_types.h, 6.1 and 6.12). */
const readStaticCalls = (tables: TableReader): Uint32Array => {
  const place = tables.place('staticCalls')
  return place === undefined ? new Uint32Array(0) : tables.column('staticCalls', place, 8, 0).sort()
}

/** A jump and three bytes that mark it (arch/x86/include/asm/static_call.h, 6.1 and 6.12). */
const TRAMPOLINE_BYTES = 8

/** Trampolines are functions named __SCT__* (include/linux/static_call_types.h, 6.1 and 6.12). */
const findTrampolines = (symbols: Symbols, functions: Functions): Spans => {
  const found: number[] = []
  for (let func = 0; func < functions.count; func++) {
    if (symbols.nameStartsWith(functions.symbol[func]!, '__SCT__')) found.push(func)
  }
  return {
    start: Uint32Array.from(found, (func) => functions.start[func]!),
    end: Uint32Array.from(found, (func) => functions.start[func]! + TRAMPOLINE_BYTES),
  }
}

/**
 * Sections runtime_shift_SYMBOL (the shift count, 1 byte) and runtime_ptr_SYMBOL (a 64-bit immediate), of s32
 * self-relative places (arch/x86/include/asm/runtime-const.h, 6.12). Another kind of them is an error: code that is
 * rewritten in a way that is not known.
 */
const readRuntimeConst = (tables: TableReader, memory: Memory): Pieces => {
  const rvas: number[] = []
  const lens: number[] = []
  for (const loaded of memory.sections) {
    const { name } = loaded.section
    if (!name.startsWith('runtime_')) continue
    const len = name.startsWith('runtime_ptr_') ? 8 : name.startsWith('runtime_shift_') ? 1 : 0
    if (len === 0) throw tables.error(name, 'is of a kind that this version does not know')
    for (const rva of tables.column(name, tables.section(loaded), 4, 0)) {
      if (!tables.inCode(rva, len)) throw tables.error(name, 'names a place that is not code')
      rvas.push(rva)
      lens.push(len)
    }
    if (rvas.length > MAX_ENTRIES) throw tables.error(name, `brings the runtime constants to ${rvas.length}`)
  }
  const rva = Uint32Array.from(rvas)
  const order = sortedOrder(rva)
  return { rva: pick(rva, order), len: pick(Uint32Array.from(lens), order) }
}

/**
 * struct exception_table_entry: int insn, fixup, data, the first two self-relative (arch/x86/include/asm/extable.h, 6.1
 * and 6.12); up to 5.16 the third is the handler, self-relative.
 */
const readExTable = (tables: TableReader): KernelTables['exTable'] => {
  const place = tables.place('exTable')
  if (place === undefined) return { insn: new Uint32Array(0), fixup: new Uint32Array(0), data: new Uint32Array(0) }
  const insn = tables.column('exTable', place, 12, 0)
  const fixup = tables.column('exTable', place, 12, 4)
  const data = insn.map((_, i) => place.view.getUint32(i * 12 + 8, true))
  const order = sortedOrder(insn)
  return { insn: pick(insn, order), fixup: pick(fixup, order), data: pick(data, order) }
}

const BUG_BYTES = 12
/** BUGFLAG_WARNING (include/asm-generic/bug.h, 6.1 and 6.12). */
const BUG_WARNS = 1

/**
 * struct bug_entry with CONFIG_DEBUG_BUGVERBOSE: s32 bug_addr_disp, s32 file_disp, u16 line, u16 flags
 * (include/asm-generic/bug.h, 6.1 and 6.12); every place is a ud2 (arch/x86/include/asm/bug.h).
 */
const readBugs = (tables: TableReader): { bugs: Uint32Array; warns: Uint32Array } => {
  const place = tables.place('bugs')
  if (place === undefined) return { bugs: new Uint32Array(0), warns: new Uint32Array(0) }
  const rvas = tables.column('bugs', place, BUG_BYTES, 0)
  rvas.forEach((rva, i) => {
    const bytes = tables.code(rva, 2)
    if (bytes?.[0] !== 0x0f || bytes[1] !== 0x0b) throw tables.error('bugs', `names no ud2 in entry ${i}`)
  })
  const warns = rvas.filter((_, i) => place.view.getUint16((i + 1) * BUG_BYTES - 2, true) & BUG_WARNS)
  return { bugs: rvas.sort(), warns: warns.sort() }
}

/** struct kernel_symbol: s32 value, name, namespace, self-relative (include/linux/export-internal.h, 6.12; 5.4 on). */
const EXPORT_BYTES = 12

const readExports = (tables: TableReader): Uint32Array => {
  const rvas: number[] = []
  for (const table of ['exports', 'gplExports'] as const) {
    const place = tables.place(table)
    const count = place === undefined ? 0 : tables.count(table, place, EXPORT_BYTES)
    for (let i = 0; i < count; i++) {
      const rva = tables.relative(place!, i * EXPORT_BYTES)
      if (tables.inCode(rva, 1)) rvas.push(rva) // variables and per-CPU offsets are exported too
    }
  }
  return Uint32Array.from(rvas).sort()
}

/** 64-bit addresses of functions (include/asm-generic/kprobes.h, 6.1 and 6.12), which are forbidden as a whole. */
const readBlacklist = (tables: TableReader, functions: Functions): Spans => {
  const place = tables.place('kprobeBlacklist')
  if (place === undefined) return { start: new Uint32Array(0), end: new Uint32Array(0) }
  const count = tables.count('kprobeBlacklist', place, 8)
  const start = new Uint32Array(count)
  for (let i = 0; i < count; i++) {
    start[i] = tables.address(place, i * 8)
    if (functions.functionAt(start[i]!) === NONE) {
      throw tables.error('kprobeBlacklist', `names no function in entry ${i}`)
    }
  }
  start.sort()
  return { start, end: start.map((rva) => functions.fullEnd(functions.functionAt(rva))) }
}

const findRanges = (
  tables: TableReader, memory: Memory, symbols: Symbols, functions: Functions, ftrace: Uint32Array,
): NamedRange[] => {
  const ranges: NamedRange[] = []
  for (const [name, [first, last]] of Object.entries(RANGES)) {
    const start = symbols.rvaOf(first)
    const end = symbols.rvaOf(last)
    if (start !== NONE && end !== NONE && start < end) ranges.push({ name, start, end })
  }
  // Heuristic: _text and _stext coincide on x86, so no symbol ends .head.text, which comes first and is never traced.
  // The first traced function ends it; what lies between is refused for nothing.
  const stext = symbols.rvaOf('_stext')
  let headEnd = stext === NONE ? 0 : stext
  if (ftrace.length > 0 && ftrace[0]! <= MAX_HEAD_BYTES) {
    const func = functions.functionAt(ftrace[0]!)
    if (func !== NONE) headEnd = Math.max(headEnd, functions.start[func]!)
  }
  if (headEnd > 0) ranges.push({ name: 'head', start: 0, end: headEnd })
  for (const name of BRING_UP) {
    for (const func of functions.functionsNamed(name)) {
      const start = functions.start[func]!
      const end = functions.fullEnd(func)
      if (end > headEnd) ranges.push({ name: 'head', start, end })
    }
  }
  for (const { section, start, end } of memory.sections) {
    if (SECTION_RANGES.includes(section.name)) ranges.push({ name: section.name, start, end })
  }
  if (ranges.length > MAX_RANGES) {
    throw tables.error('ranges', `has ${ranges.length} entries; at most ${MAX_RANGES} are read`)
  }
  return ranges
}

/**
 * Reads all of the kernel's tables.
 * @throws KerninstError 65 for a table that is malformed or of an unknown form
 */
export const readTables = (
  path: string, memory: Memory, base: bigint, symbols: Symbols, functions: Functions,
): KernelTables => {
  const tables = new TableReader(path, memory, base, symbols)
  const ftrace = readFtrace(tables)
  return {
    ftrace,
    paravirt: readParavirt(tables),
    alternatives: readAlternatives(tables),
    retpolineSites: readRelative(tables, 'retpolineSites'),
    returnSites: readRelative(tables, 'returnSites'),
    callSites: readRelative(tables, 'callSites'),
    endbrSeals: readRelative(tables, 'endbrSeals'),
    cfiSites: readRelative(tables, 'cfiSites'),
    staticKeys: readStaticKeys(tables),
    staticCalls: readStaticCalls(tables),
    staticCallTrampolines: findTrampolines(symbols, functions),
    smpLocks: readSmpLocks(tables),
    runtimeConst: readRuntimeConst(tables, memory),
    exTable: readExTable(tables),
    ...readBugs(tables),
    exports: readExports(tables),
    kprobeBlacklist: readBlacklist(tables, functions),
    ranges: findRanges(tables, memory, symbols, functions, ftrace),
    found: tables.found,
    places: tables.places,
  }
}
