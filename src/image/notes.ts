// In: the bytes of ELF notes. Out: a note by name and type; the GNU build id.

import { viewOf } from './address.js'

const NT_GNU_BUILD_ID = 3
const HEADER_BYTES = 12

export interface Note {
  readonly offset: number // of the descriptor in the notes
  readonly bytes: Uint8Array
}

export interface BuildIdNote {
  readonly offset: number // of the descriptor in the section
  readonly id: Uint8Array
}

const padded = (length: number): number => Math.ceil(length / 4) * 4

/**
 * Finds the first note of that name and type. Each note is: u32 length of the name, of the descriptor, type; the name,
 * which ends in a NUL, the descriptor, both padded to 4 bytes (gABI, "Note Section").
 * @returns undefined when there is none, or the notes are malformed before it
 */
export const findNote = (notes: Uint8Array, name: string, type: number): Note | undefined => {
  const view = viewOf(notes)
  const wanted = Buffer.from(`${name}\0`, 'latin1')
  for (let at = 0; at + HEADER_BYTES <= notes.length; ) {
    const nameBytes = view.getUint32(at, true)
    const bytes = view.getUint32(at + 4, true)
    const nameAt = at + HEADER_BYTES
    const offset = nameAt + padded(nameBytes)
    if (offset + bytes > notes.length) return undefined
    if (view.getUint32(at + 8, true) === type && wanted.equals(notes.subarray(nameAt, nameAt + nameBytes))) {
      return { offset, bytes: notes.slice(offset, offset + bytes) }
    }
    at = offset + padded(bytes)
  }
  return undefined
}

/** @returns undefined when there is none, or the notes are malformed before it */
export const findBuildId = (notes: Uint8Array): BuildIdNote | undefined => {
  const note = findNote(notes, 'GNU', NT_GNU_BUILD_ID)
  return note && { offset: note.offset, id: note.bytes }
}
