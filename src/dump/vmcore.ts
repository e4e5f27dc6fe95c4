// A memory image of a dead machine. In: a file. Out: its physical memory, whatever the format. Left out: what is in it
// (find.ts).

import { EXIT, KerninstError } from '../error.js'
import { ELF_MAGIC, openElfCore } from './elfcore.js'
import { KDUMP_SIGNATURE, openKdump } from './kdump.js'
import type { PhysicalMemory } from './physical.js'
import { openSource } from './source.js'

/** @throws KerninstError: 66 where there is none, 65 where it is no memory image or damaged, 74 where it cannot be read */
export const openVmcore = (path: string): PhysicalMemory => {
  const source = openSource(path)
  try {
    const start = Buffer.alloc(KDUMP_SIGNATURE.length)
    if (source.bytes >= start.length) source.read(0, start)
    if (start.readUInt32LE(0) === ELF_MAGIC) return openElfCore(source)
    if (start.toString('latin1') === KDUMP_SIGNATURE) return openKdump(source)
    throw new KerninstError(EXIT.data, `${path}: no memory image that kerninst reads: there are ELF cores (/proc/vmcore, ` +
      'QEMU\'s dump-guest-memory) and kdump-compressed files (makedumpfile)')
  } catch (error) {
    source.close()
    throw error
  }
}
