// Files written whole or not at all, and read within a limit.

import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, statSync, writeSync } from 'node:fs'
import { EXIT, KerninstError } from './error.js'

const codeOf = (error: unknown): string => (error instanceof Error && 'code' in error ? String(error.code) : String(error))

/** Temporary files that exist now; an interrupt removes them (cli.ts). */
const temporaries = new Set<string>()

/** Removes what an interrupted write would leave behind. */
export const removeTemporaries = (): void => {
  for (const path of temporaries) rmSync(path, { force: true })
}

/**
 * Writes a file under a temporary name beside it, then renames.
 * @throws KerninstError: 73 where it cannot be created, 74 where the disk fails
 */
export const writeWhole = (path: string, bytes: Uint8Array | string): void => {
  const temporary = `${path}.${process.pid}.tmp`
  let fd: number
  try {
    fd = openSync(temporary, 'wx', 0o644)
  } catch (error) {
    throw new KerninstError(EXIT.cannotCreate, `cannot create ${path}: ${codeOf(error)}`)
  }
  temporaries.add(temporary)
  try {
    const data = typeof bytes === 'string' ? Buffer.from(bytes) : bytes
    for (let done = 0; done < data.length; ) done += writeSync(fd, data, done)
    fsyncSync(fd)
  } catch (error) {
    closeSync(fd)
    rmSync(temporary, { force: true })
    temporaries.delete(temporary)
    throw new KerninstError(EXIT.io, `cannot write ${path}: ${codeOf(error)}; nothing is left there`)
  }
  closeSync(fd)
  try {
    renameSync(temporary, path)
  } catch (error) {
    rmSync(temporary, { force: true })
    throw new KerninstError(EXIT.cannotCreate, `cannot create ${path}: ${codeOf(error)}`)
  } finally {
    temporaries.delete(temporary)
  }
}

/**
 * Reads a file of at most `limit` bytes.
 * @throws KerninstError: 66 where it cannot be read, 65 where it is larger
 */
export const readLimited = (path: string, limit: number): Buffer => {
  try {
    const { size } = statSync(path)
    if (size > limit) throw new KerninstError(EXIT.data, `${path}: ${size} bytes, more than the ${limit} that are read`)
    return readFileSync(path)
  } catch (error) {
    if (error instanceof KerninstError) throw error
    throw new KerninstError(EXIT.noInput, `cannot read ${path}: ${codeOf(error)}`)
  }
}
