// The report as CSV (RFC 4180, with a header line): one row a point. In: the numbers. Out: text, in pieces. Invariant:
// every text is quoted where it must be, and none starts with a character that spreadsheets take for a formula; numbers
// are as they are, also those below zero.
// Of several dumps of one run there is a column for each interval, named by its end in ns since 1970.
// Left out: aggregates, which are not numbers of points.

import type { ReportNumbers } from './numbers.js'
import { printable } from './printable.js'

const field = (text: string): string => {
  const safe = printable(text).replace(/^[=+\-@]/, "'$&")
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}

export function* reportCsv(numbers: ReportNumbers): Generator<string, void> {
  const header = ['point', 'aggregate', 'at', 'count', 'derived']
  const { series } = numbers
  const times = (series?.intervals ?? []).map(({ toNs }) => `until ${toNs}`)
  yield `${[...header, ...numbers.columns, ...times].map(field).join(',')}\r\n`
  for (let i = 0; i < numbers.served.length; i++) {
    const { point, aggregate, at, count, derived, perColumn } = numbers.row(i)
    yield `${[...[point, aggregate, at].map(field), count, derived, ...perColumn, ...series?.counts(i) ?? []].join(',')}\r\n`
  }
}
