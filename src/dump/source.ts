// The bytes of a memory image. In: a file: plain, or "flattened", as makedumpfile -F and QEMU's kdump formats write to
// a pipe, where they cannot go back: pieces, each with its place in the file that they make up. Out: any stretch of the
// bytes of the plain file. Invariant: whoever reads past the end gets an error and no bytes.
// Left out: what the bytes mean. Holes of a flattened file are zeros, as they would be in the file that it stands for.
//
// A flattened file: a header of 4096 bytes (signature "makedumpfile", type 1, version 1), then pieces: i64 place, i64
// length, bytes; a piece whose place is -1 ends it. All numbers are big-endian, on every machine (makedumpfile.h).

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { EXIT, KerninstError } from '../error.js'
import { codeOf } from '../file.js'
import { disjoint, runFrom } from './runs.js'

export interface Source {
  readonly path: string
  readonly bytes: number
  /** Fills `into` with what is at `offset`. @throws KerninstError: 65 past the end, 74 where reading fails */
  read(offset: number, into: Uint8Array): void
  close(): void
}

export type Refuse = (what: string) => never

/** Throws KerninstError 65 about the file. */
export const refuser = (path: string): Refuse => (what) => {
  throw new KerninstError(EXIT.data, `${path}: ${what}`)
}

const FLAT_SIGNATURE = Buffer.from('makedumpfile\0\0\0\0', 'latin1')
const FLAT_HEADER_BYTES = 4096
const FLAT_TYPE = 1n
const FLAT_VERSION = 1n
const PIECE_HEADER_BYTES = 16
const FLAT_END = -1n
/** QEMU writes 16 KiB a piece, makedumpfile 64 KiB: 64 GB or more. The table of them takes 64 bytes a piece. */
const MAX_PIECES = 2 ** 22
const UNFLATTEN = 'make it plain first: makedumpfile -R PLAIN <FLATTENED'

const openPlain = (path: string): Source => {
  let fd: number
  try {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw new KerninstError(EXIT.noInput, `cannot read ${path}: ${codeOf(error)}`)
  }
  const stat = fstatSync(fd)
  if (!stat.isFile()) {
    closeSync(fd)
    throw new KerninstError(EXIT.noInput, `${path}: not a file`)
  }
  const refuse = refuser(path)
  return {
    path,
    bytes: stat.size,
    read: (offset, into) => {
      if (offset + into.length > stat.size) refuse(`cut off: it has ${stat.size} bytes, and what is at ${offset} is missing`)
      for (let done = 0; done < into.length;) {
        let got = 0
        try {
          got = readSync(fd, into, done, into.length - done, offset + done)
        } catch (error) {
          throw new KerninstError(EXIT.io, `cannot read ${path} at ${offset + done}: ${codeOf(error)}`)
        }
        if (got === 0) refuse('became shorter while it was read')
        done += got
      }
    },
    close: () => closeSync(fd),
  }
}

/** @param flat a file that has the signature */
const unflatten = (flat: Source): Source => {
  const refuse = refuser(flat.path)
  const buffer = Buffer.alloc(FLAT_SIGNATURE.length + 16)
  flat.read(0, buffer)
  const type = buffer.readBigInt64BE(FLAT_SIGNATURE.length)
  const version = buffer.readBigInt64BE(FLAT_SIGNATURE.length + 8)
  if (type !== FLAT_TYPE || version !== FLAT_VERSION) refuse(`flattened, of type ${type} and version ${version}, not 1 and 1`)

  let room = 1024
  let start = new Float64Array(room) // piece -> its place
  let end = new Float64Array(room) //   piece -> behind its last byte
  let from = new Float64Array(room) //  piece -> where its bytes are in the flattened file
  let count = 0
  for (let at = FLAT_HEADER_BYTES; ;) {
    const header = buffer.subarray(0, PIECE_HEADER_BYTES)
    flat.read(at, header)
    at += PIECE_HEADER_BYTES
    const place = header.readBigInt64BE(0)
    const length = header.readBigInt64BE(8)
    if (place === FLAT_END) break
    if (place < 0n || length <= 0n || place + length > Number.MAX_SAFE_INTEGER) refuse(`a piece of ${length} bytes for place ${place}`)
    if (at + Number(length) > flat.bytes) refuse(`cut off in a piece of ${length} bytes at ${at}`)
    if (count === MAX_PIECES) refuse(`flattened, in more than ${MAX_PIECES} pieces; ${UNFLATTEN}`)
    if (count === room) {
      room *= 2
      const grown = (table: Float64Array): Float64Array<ArrayBuffer> => {
        const more = new Float64Array(room)
        more.set(table)
        return more
      }
      [start, end, from] = [grown(start), grown(end), grown(from)]
    }
    start[count] = Number(place)
    end[count] = Number(place + length)
    from[count++] = at
    at += Number(length)
  }
  // Headers are written a second time when all is known: the later piece has it.
  const runs = disjoint(start.subarray(0, count), end.subarray(0, count))
  const bytes = runs.count === 0 ? 0 : runs.end[runs.count - 1]!
  return {
    path: flat.path,
    bytes,
    read: (offset, into) => {
      const wantedEnd = offset + into.length
      if (wantedEnd > bytes) refuse(`cut off: it makes ${bytes} bytes, and what is at ${offset} is missing`)
      let run = runFrom(runs, offset)
      for (let at = offset; at < wantedEnd; run++) {
        const begin = Math.min(runs.start[run]!, wantedEnd)
        if (begin > at) into.fill(0, at - offset, begin - offset)
        at = Math.max(at, begin)
        const stop = Math.min(runs.end[run]!, wantedEnd)
        if (stop <= at) continue
        const piece = runs.owner[run]!
        flat.read(from[piece]! + at - start[piece]!, into.subarray(at - offset, stop - offset))
        at = stop
      }
    },
    close: flat.close,
  }
}

/** @throws KerninstError: 66 where there is none, 65 where it is flattened and damaged, 74 where it cannot be read */
export const openSource = (path: string): Source => {
  const plain = openPlain(path)
  try {
    const signature = Buffer.alloc(FLAT_SIGNATURE.length)
    if (plain.bytes < FLAT_HEADER_BYTES) return plain
    plain.read(0, signature)
    return signature.equals(FLAT_SIGNATURE) ? unflatten(plain) : plain
  } catch (error) {
    plain.close()
    throw error
  }
}
