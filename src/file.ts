// Files: written whole or not at all, read within a limit. In: paths and bytes. Out: bytes, or an error with its exit
// code. Invariant: nothing half-written ever has the final name, and an interrupt leaves no temporary file behind.

import {
  closeSync, fstatSync, fsyncSync, linkSync, openSync, readSync, renameSync, rmSync, statSync, writeSync,
} from 'node:fs'
import { EXIT, KerninstError } from './error.js'

const READ_BYTES = 2 ** 28 // of one read()

/** The code of a system error ('ENOENT'), or the error in words. */
export const codeOf = (error: unknown): string =>
  error instanceof Error && 'code' in error ? String(error.code) : String(error)

const exists = (path: string): boolean => statSync(path, { throwIfNoEntry: false }) !== undefined

const cannotCreate = (path: string, error: unknown): KerninstError => {
  const code = codeOf(error)
  const why = code === 'EEXIST' ? 'it exists, and is not overwritten' : code
  return new KerninstError(EXIT.cannotCreate, `cannot create ${path}: ${why}`)
}

/** Temporary files that exist now; an interrupt removes them (cli.ts). */
const temporaries = new Set<string>()

/** Removes what an interrupted write would leave behind. */
export const removeTemporaries = (): void => {
  for (const path of temporaries) rmSync(path, { force: true })
}

// Writes beside the final name, then lets `finish` give it that name.
const viaTemporary = (
  path: string, bytes: Uint8Array | Iterable<string | Uint8Array>, mode: number, finish: (temporary: string) => void,
): void => {
  const temporary = `${path}.${process.pid}.tmp`
  let fd: number
  try {
    fd = openSync(temporary, 'wx', mode)
  } catch (error) {
    throw cannotCreate(path, error)
  }
  temporaries.add(temporary)
  try {
    try {
      for (const piece of bytes instanceof Uint8Array ? [bytes] : bytes) {
        const data = typeof piece === 'string' ? Buffer.from(piece) : piece
        for (let done = 0; done < data.length; ) done += writeSync(fd, data, done)
      }
      fsyncSync(fd)
    } catch (error) {
      if (error instanceof KerninstError) throw error
      if (!(error instanceof Error && 'code' in error)) throw error // a bug in what makes the text
      throw new KerninstError(EXIT.io, `cannot write ${path}: ${codeOf(error)}; nothing is left there`)
    } finally {
      closeSync(fd)
    }
    try {
      finish(temporary)
    } catch (error) {
      throw cannotCreate(path, error)
    }
  } finally {
    rmSync(temporary, { force: true })
    temporaries.delete(temporary)
  }
}

/**
 * Writes a file; one of that name is replaced.
 * @param bytes or pieces of text or bytes, made while they are written
 * @throws KerninstError: 73 where it cannot be created, 74 where the disk fails
 */
export const writeWhole = (path: string, bytes: Uint8Array | readonly string[] | Generator<string | Uint8Array, void>): void =>
  viaTemporary(path, bytes, 0o644, (temporary) => renameSync(temporary, path))

/**
 * Writes a file that was not there before: link() fails where rename() would overwrite.
 * @throws KerninstError: 73 where it exists or cannot be created, 74 where the disk fails
 */
export const writeNew = (path: string, bytes: Uint8Array, mode: number): void =>
  viaTemporary(path, bytes, mode, (temporary) => {
    try {
      linkSync(temporary, path)
    } catch (error) {
      if (codeOf(error) !== 'EPERM' || exists(path)) throw error
      renameSync(temporary, path) // a file system without hard links
    }
  })

/** @throws KerninstError (73) where a file of that name exists */
export const mustNotExist = (path: string): void => {
  if (exists(path)) throw cannotCreate(path, Object.assign(new Error(), { code: 'EEXIST' }))
}

/**
 * Reads a file of at most `limit` bytes; readFileSync would stop at 2 GiB.
 * @throws KerninstError: 66 where there is none, 65 where it is larger, 74 where it cannot be read
 */
export const readLimited = (path: string, limit: number): Buffer => {
  let fd: number
  try {
    fd = openSync(path, 'r')
  } catch (error) {
    throw new KerninstError(EXIT.noInput, `cannot read ${path}: ${codeOf(error)}`)
  }
  try {
    const stat = fstatSync(fd)
    if (!stat.isFile()) throw new KerninstError(EXIT.noInput, `${path}: not a file`)
    if (stat.size > limit) {
      throw new KerninstError(EXIT.data, `${path}: ${stat.size} bytes, more than the limit of ${limit}`)
    }
    const bytes = Buffer.alloc(stat.size)
    let at = 0
    while (at < bytes.length) {
      const got = readSync(fd, bytes, at, Math.min(READ_BYTES, bytes.length - at), at)
      if (got === 0) break // it shrank; who parses it will tell
      at += got
    }
    return bytes.subarray(0, at)
  } catch (error) {
    if (error instanceof KerninstError) throw error
    throw new KerninstError(EXIT.io, `cannot read ${path}: ${codeOf(error)}`)
  } finally {
    closeSync(fd)
  }
}
