// What the page does in a browser: tables that are sorted by their columns and filtered by a text. The function is put into
// the page as it is compiled, so it uses nothing from outside but the document.

interface Node {
  readonly textContent: string | null
  readonly dataset: { readonly [name: string]: string | undefined }
  readonly children: ArrayLike<Node> & Iterable<Node>
  hidden: boolean
  value: string
  querySelector(selector: string): Node | null
  querySelectorAll(selector: string): Iterable<Node>
  addEventListener(type: string, listen: (event: KeyEvent) => void): void
  setAttribute(name: string, value: string): void
  getAttribute(name: string): string | null
  append(...nodes: Node[]): void
  focus(): void
}

interface KeyEvent {
  readonly key: string
  readonly target: { readonly tagName: string } | null
  preventDefault(): void
}

declare const document: Node & { getElementById(id: string): Node | null }

export const client = (): void => {
  const keyOf = (row: Node, column: number): bigint | string => {
    const cell = row.children[column]!
    const number = cell.dataset['v']
    return number === undefined ? cell.textContent ?? '' : BigInt(number)
  }
  for (const table of document.querySelectorAll('table.sortable')) {
    const body = table.querySelector('tbody')!
    const heads = [...table.querySelectorAll('thead th')]
    heads.forEach((head, column) => {
      head.querySelector('button')?.addEventListener('click', () => {
        const first = head.dataset['first'] ?? 'ascending'
        const now = head.getAttribute('aria-sort')
        const order = now === 'none' ? first : now === 'ascending' ? 'descending' : 'ascending'
        for (const other of heads) if (other.getAttribute('aria-sort') !== null) other.setAttribute('aria-sort', 'none')
        head.setAttribute('aria-sort', order)
        const sign = order === 'ascending' ? 1 : -1
        const rows = [...body.children].map((row) => ({ row, key: keyOf(row, column) }))
        rows.sort((a, b) => (a.key < b.key ? -sign : a.key > b.key ? sign : 0))
        body.append(...rows.map(({ row }) => row))
      })
    })
  }
  const filters = [...document.querySelectorAll('.filter')]
  for (const filter of filters) {
    const input = filter.querySelector('input')!
    const shown = filter.querySelector('output')!
    const rows = [...document.getElementById(filter.dataset['for']!)!.querySelectorAll('tbody tr')]
    const texts = rows.map((row) => (row.textContent ?? '').toLowerCase())
    filter.hidden = false
    input.addEventListener('input', () => {
      const wanted = input.value.toLowerCase()
      let count = 0
      rows.forEach((row, i) => {
        row.hidden = !texts[i]!.includes(wanted)
        if (!row.hidden) count++
      })
      shown.value = wanted === '' ? '' : `${count} of ${rows.length}`
    })
  }
  document.addEventListener('keydown', (event) => {
    if (event.key !== '/' || event.target?.tagName === 'INPUT' || filters.length === 0) return
    event.preventDefault()
    filters[0]!.querySelector('input')!.focus()
  })
}
