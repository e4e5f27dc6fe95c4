// Several dumps of one bundle: of several hosts, of one host at several times, or both. In: dumps. Out: hosts, each with its last
// dump and those before it, in the order of time.
// Dumps are of one run where host and time of apply are the same: counters only grow in between, but where they were reset.

import { EXIT, KerninstError } from '../error.js'
import type { Dump } from './dump.js'

export interface Run {
  /** The host's name; with a number where several runs have it. */
  readonly name: string
  readonly last: Dump
  /** Dumps of the same run before that, the first first. */
  readonly earlier: readonly Dump[]
}

const timeOf = ({ snapshotNs, dumpedNs }: Dump): bigint => (snapshotNs > 0n ? snapshotNs : dumpedNs)

const digestOf = ({ payloadSha256 }: Dump): string => Buffer.from(payloadSha256).toString('hex')

/**
 * @param dumps one at least, each with a name for messages
 * @throws KerninstError (76) where they are not all of one bundle
 */
export const runsOf = (dumps: readonly { readonly path: string; readonly dump: Dump }[]): Run[] => {
  const [first] = dumps
  for (const { path, dump } of dumps) {
    if (digestOf(dump) === digestOf(first!.dump)) continue
    throw new KerninstError(EXIT.mismatch, `${path} was counted by another bundle than ${first!.path}: report them apart, or compare them (--diff)`)
  }
  const runs = new Map<string, Dump[]>()
  for (const { dump } of dumps) {
    const key = `${dump.appliedNs} ${dump.host}`
    runs.set(key, [...runs.get(key) ?? [], dump])
  }
  const seen = new Map<string, number>()
  return [...runs.values()].map((ofRun): Run => {
    ofRun.sort((a, b) => (timeOf(a) < timeOf(b) ? -1 : 1))
    const { host } = ofRun[0]!
    const number = (seen.get(host) ?? 0) + 1
    seen.set(host, number)
    return { name: number === 1 ? host : `${host} (${number})`, last: ofRun.at(-1)!, earlier: ofRun.slice(0, -1) }
  })
}
