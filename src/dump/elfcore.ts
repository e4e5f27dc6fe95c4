// An ELF core of a whole machine, as /proc/vmcore is and as QEMU's dump-guest-memory writes it. In: the bytes of the file.
// Out: its physical memory. Invariant: all that the program headers claim lies inside the file and below 52 bits, and no
// two pages share bytes, so a scan reads no more than the file has.
// Segments may overlap: kexec-tools gives the kernel's text one of its own, beside that of the memory it lies in. They
// say the same, so any will do. Memory past a segment's bytes (p_memsz > p_filesz) is zero, as ELF has it: makedumpfile -E
// leaves out zero pages so, and where it leaves out others, those are free, users' or the page cache's, and no heap is there.
// Left out: pages that no single segment has whole (memory may start or end inside one, but the kernel then does not use
// that page), 32-bit and big-endian files, and virtual addresses.

import { viewOf } from '../image/address.js'
import { findNote } from '../image/notes.js'
import { hex } from '../image/rva.js'
import { MAX_PFNS, PAGE, releaseIn, type PhysicalMemory } from './physical.js'
import { disjoint, runFrom } from './runs.js'
import { refuser, type Source } from './source.js'

export const ELF_MAGIC = 0x464c457f // little-endian

const HEADER_BYTES = 64
const PROGRAM_HEADER_BYTES = 56
const SECTION_HEADER_BYTES = 64
const EI_CLASS = 4
const EI_DATA = 5
const CLASS64 = 2
const LITTLE_ENDIAN = 1
const ET_CORE = 4
const EM_X86_64 = 62
const PT_LOAD = 1
const PT_NOTE = 4
/** More program headers than e_phnum can say: then sh_info of the first section header has their number (gABI). */
const PN_XNUM = 0xffff
/** makedumpfile begins a segment behind each 256 zero pages or more; a segment for each MiB of 1 TiB. */
const MAX_SEGMENTS = 2 ** 20
/** Notes take some 1 KB for each CPU. */
const MAX_NOTE_BYTES = 2 ** 24
const SCAN_BYTES = 2 ** 22 // read at a time

export const openElfCore = (source: Source): PhysicalMemory => {
  const refuse = refuser(source.path)
  const header = Buffer.alloc(HEADER_BYTES)
  source.read(0, header)
  if (header[EI_CLASS] !== CLASS64 || header[EI_DATA] !== LITTLE_ENDIAN) {
    refuse('an ELF file, but not a 64-bit little-endian one: no memory of an x86-64 kernel')
  }
  if (header.readUInt16LE(16) !== ET_CORE) refuse('an ELF file, but not a core (e_type)')
  if (header.readUInt16LE(18) !== EM_X86_64) refuse(`the core of another machine than x86-64 (e_machine ${header.readUInt16LE(18)})`)
  const safe = (value: bigint, what: string): number => {
    if (value > Number.MAX_SAFE_INTEGER) refuse(`${what} is ${hex(value)}`)
    return Number(value)
  }
  const tableAt = safe(header.readBigUInt64LE(32), 'e_phoff')
  let segments = header.readUInt16LE(56)
  if (segments === PN_XNUM) {
    const section = Buffer.alloc(SECTION_HEADER_BYTES)
    source.read(safe(header.readBigUInt64LE(40), 'e_shoff'), section)
    segments = section.readUInt32LE(44)
  }
  if (segments > 0 && header.readUInt16LE(54) !== PROGRAM_HEADER_BYTES) refuse(`e_phentsize is not ${PROGRAM_HEADER_BYTES}`)
  if (segments > MAX_SEGMENTS) refuse(`${segments} segments, more than ${MAX_SEGMENTS}`)
  const tableBytes = segments * PROGRAM_HEADER_BYTES
  if (tableAt + tableBytes > source.bytes) refuse(`cut off: ${source.bytes} bytes, and its program headers end at ${tableAt + tableBytes}`)
  const table = Buffer.alloc(tableBytes)
  source.read(tableAt, table)

  const fileAt = new Float64Array(segments) //   segment -> offset in the file
  const fileBytes = new Float64Array(segments)
  const address = new Float64Array(segments) //  segment -> physical address
  const startPfn = new Float64Array(segments) // segment -> its first whole page
  const endPfn = new Float64Array(segments)
  let release = ''
  for (let s = 0; s < segments; s++) {
    const at = s * PROGRAM_HEADER_BYTES
    const type = table.readUInt32LE(at)
    if (type !== PT_LOAD && type !== PT_NOTE) continue
    const what = `of program header ${s}`
    const offset = safe(table.readBigUInt64LE(at + 8), `p_offset ${what}`)
    const inFile = safe(table.readBigUInt64LE(at + 32), `p_filesz ${what}`)
    if (inFile > 0 && offset + inFile > source.bytes) {
      refuse(`cut off: ${source.bytes} bytes, and what program header ${s} names ends at ${offset + inFile}`)
    }
    if (type === PT_NOTE) {
      if (inFile > MAX_NOTE_BYTES) refuse(`${inFile} bytes of notes, more than ${MAX_NOTE_BYTES}`)
      const notes = Buffer.alloc(inFile)
      source.read(offset, notes)
      const vmcoreinfo = findNote(notes, 'VMCOREINFO', 0)
      if (vmcoreinfo !== undefined) release = releaseIn(vmcoreinfo.bytes)
      continue
    }
    const physical = safe(table.readBigUInt64LE(at + 24), `p_paddr ${what}`)
    const inMemory = safe(table.readBigUInt64LE(at + 40), `p_memsz ${what}`)
    if (inFile > inMemory) refuse(`p_filesz ${what} is more than p_memsz`)
    if (physical + inMemory > MAX_PFNS * PAGE) refuse(`memory up to ${hex(physical + inMemory)} ${what}, past 52 bits`)
    fileAt[s] = offset
    fileBytes[s] = inFile
    address[s] = physical
    startPfn[s] = Math.ceil(physical / PAGE)
    endPfn[s] = Math.max(startPfn[s]!, Math.floor((physical + inMemory) / PAGE))
  }
  const runs = disjoint(startPfn, endPfn)
  if (runs.count === 0) refuse('no memory in it (PT_LOAD)')

  /** Bytes that a segment has in the file from a page on. */
  const bytesFrom = (segment: number, pfn: number): number => Math.max(0, fileBytes[segment]! - (pfn * PAGE - address[segment]!))
  const placeOf = (segment: number, pfn: number): number => fileAt[segment]! + (pfn * PAGE - address[segment]!)
  /** Pages of a run that are whole in the file. */
  const wholePages = (run: number): number =>
    Math.min(runs.end[run]! - runs.start[run]!, Math.floor(bytesFrom(runs.owner[run]!, runs.start[run]!) / PAGE))
  let total = 0 // pages in the file
  for (let run = 0; run < runs.count; run++) total += wholePages(run)
  if (total * PAGE > source.bytes) refuse('segments share bytes of the file')

  return {
    path: source.path,
    host: '',
    release,
    close: source.close,
    readPage: (pfn, into) => {
      const run = runFrom(runs, pfn)
      if (run === runs.count || runs.start[run]! > pfn) return false
      const segment = runs.owner[run]!
      const bytes = Math.min(PAGE, bytesFrom(segment, pfn))
      if (bytes > 0) source.read(placeOf(segment, pfn), into.subarray(0, bytes))
      into.fill(0, bytes)
      return true
    },
    scan: function* (head, found) {
      const buffer = new Uint8Array(SCAN_BYTES)
      const words = new Uint32Array(buffer.buffer)
      const view = viewOf(head)
      const [first, second, third] = [view.getUint32(0, true), view.getUint32(4, true), view.getUint32(8, true)]
      let done = 0
      for (let run = 0; run < runs.count; run++) {
        const segment = runs.owner[run]!
        const end = runs.start[run]! + wholePages(run)
        for (let pfn = runs.start[run]!; pfn < end;) {
          const pages = Math.min(SCAN_BYTES / PAGE, end - pfn)
          source.read(placeOf(segment, pfn), pages * PAGE === SCAN_BYTES ? buffer : buffer.subarray(0, pages * PAGE))
          for (let page = 0, word = 0; page < pages; page++, word += PAGE / 4) {
            if (words[word] === first && words[word + 1] === second && words[word + 2] === third) found(pfn + page)
          }
          pfn += pages
          done += pages
          yield done / total
        }
      }
    },
  }
}
