// A comparison as one page of HTML (pageframe.ts). In: what changed. Out: markup, in pieces. Of many points those that changed most are
// shown, and what is left out is said.

import { bar } from './chart.js'
import { CHANGES, factorText, type DiffNumbers } from './diff.js'
import { el } from './html.js'
import type { ReportNumbers } from './numbers.js'
import { greatest } from './order.js'
import { fixedRate, headerOf, MOST_ROWS, pageOf, rateCell, table, type Cell } from './pageframe.js'
import { grouped, wallTime } from './printable.js'

const side = ({ host, hosts, appliedNs, payloadSha256 }: ReportNumbers, seconds: number): string =>
  `${hosts.length > 1 ? `${hosts.length} hosts` : host || 'unknown'}, applied ${wallTime(appliedNs)}, counted for ${seconds.toFixed(1)} s, payload sha256 ${payloadSha256}`

export const diffHtml = ({ before, after, seconds, rows }: DiffNumbers): Generator<string, void> => {
  const tally = CHANGES.map((change) => [change, rows.filter((row) => row.change === change).length] as const).filter(([, count]) => count > 0)
  const changed = rows.filter(({ change }) => change !== 'same')
  const shown = changed.slice(0, MOST_ROWS)
  const most = greatest(shown.flatMap(({ rates }) => rates.map(fixedRate)))
  const cells = shown.map((row): Cell[] => {
    const { point, aggregate, rates: [had, has] } = row
    return [
      { content: `${point}${aggregate === '' ? '' : ` @${aggregate}`}`, name: true },
      { ...rateCell(had), ...(row.before === undefined && { content: '' }) },
      { ...rateCell(has), ...(row.after === undefined && { content: '' }) },
      rateCell(has - had),
      { content: factorText(row) },
      { content: [bar(fixedRate(had), most), bar(fixedRate(has), most)] },
    ]
  })
  const header = headerOf('What changed', `Linux ${before.release || 'unknown'}, two dumps compared by counts a second`, [
    ['before', side(before, seconds[0])], ['after', side(after, seconds[1])], ['kernel', `${before.release || 'unknown'}, build id ${before.buildId}`],
  ])
  const cards = el('ul', { class: 'cards' }, tally.map(([change, count]) => el('li', {}, el('b', {}, grouped(BigInt(count))), change)))
  return pageOf('kerninst: what changed', header, cards, [{
    id: 'changes', title: 'Changes',
    contents: () => [
      el('p', {}, 'What is called the same differs by no more than chance makes of so few counts. Each pair of bars is before, above, and after, below.'),
      changed.length === 0 ? el('p', { class: 'note' }, 'Nothing changed.') : table('changes-table', 'Counts a second, whatever changed most first', [
        { title: 'Point' }, { title: 'Before', number: true }, { title: 'After', number: true }, { title: 'Difference', number: true }, { title: 'Change' },
        { title: 'Before and after', picture: true },
      ], cells, changed.length - shown.length),
    ],
  }])
}
