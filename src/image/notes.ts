// In: the bytes of an ELF note section. Out: the GNU build id in it. Left out: all other notes.

import { viewOf } from './address.js'

const NT_GNU_BUILD_ID = 3
const HEADER_BYTES = 12
/** "GNU" and a NUL, as a big-endian word. */
const GNU = 0x474e5500

export interface BuildIdNote {
  readonly offset: number // of the descriptor in the section
  readonly id: Uint8Array
}

const padded = (length: number): number => Math.ceil(length / 4) * 4

/**
 * Finds the build id. Each note is: u32 length of the name, of the descriptor, type; the name, the descriptor, both
 * padded to 4 bytes (gABI, "Note Section").
 * @returns undefined when there is none, or the notes are malformed before it
 */
export const findBuildId = (notes: Uint8Array): BuildIdNote | undefined => {
  const view = viewOf(notes)
  for (let at = 0; at + HEADER_BYTES <= notes.length; ) {
    const nameBytes = view.getUint32(at, true)
    const idBytes = view.getUint32(at + 4, true)
    const name = at + HEADER_BYTES
    const offset = name + padded(nameBytes)
    if (offset + idBytes > notes.length) return undefined
    const isGnu = nameBytes === 4 && view.getUint32(name) === GNU
    if (isGnu && view.getUint32(at + 8, true) === NT_GNU_BUILD_ID) {
      return { offset, id: notes.slice(offset, offset + idBytes) }
    }
    at = offset + padded(idBytes)
  }
  return undefined
}
