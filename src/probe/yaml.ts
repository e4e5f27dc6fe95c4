// Programs in YAML, for who makes them by other programs. In: the text of a file. Out: the probes that the same program
// would be in the language (program.ts). docs/program.schema.json is this shape, for editors.
//
//   probes:
//     - points: [entry:vfs_read, entry:vfs_write]   one text or a list; also several in one text, with commas
//       when: arg2 > 4096                           the predicate, if there is one
//       do:                                         one text or a list
//         - "@big = count()"                        statements of the language
//         - if: cpu == 1
//           then: "@one = sum(arg2)"                one text or a list, as "do"
//           else: ["@other = count()"]              may be missing
//         - asm: "nop"
//
// Texts are read by the language's own code, within its limits. A position in a tree is one in the file, so mistakes are
// told where they are: exactly in plain and quoted texts of one line and in literal blocks ("|"), else where the text
// starts. Left out: anchors, aliases, tags, directives, "? key", and a second document, each of which is refused by name.

import {
  Composer, CST, isMap, isScalar, isSeq, Lexer, Parser, Scalar, type ParsedNode, type YAMLMap, type YAMLSeq,
} from 'yaml'
import { EXIT, KerninstError } from '../error.js'
import type { Expression } from './expression.js'
import { asmStatement, MAX_PROBES, MAX_PROGRAM, PartReader, ProbeSoFar, type Probe, type Statement } from './program.js'
import { Scanner } from './scanner.js'

// How deep collections may lie in one another: twice what the deepest program needs. The package recurses, and deep in a
// stack Node 20 may abort where a regular expression is compiled.
const MAX_NESTED_BLOCKS = 144
const MAX_NESTED_FLOWS = 144

/** What of YAML no program needs, by the lexer's tokens. */
const REFUSED: Readonly<Record<string, string>> = {
  'anchor': 'anchors are not read here: a text that starts with & is put in quotes',
  'alias': 'aliases are not read here: a text that starts with * is put in quotes',
  'tag': 'tags are not read here: a text that starts with ! is put in quotes',
  'directive-line': 'directives are not read here',
  'explicit-key-ind': 'a key is written without \'?\'',
}
const SPACES: ReadonlySet<string> = new Set(['space', 'newline', 'comment', 'comma', 'byte-order-mark', 'doc-start'])
const INDICATORS: ReadonlySet<string> = new Set(['seq-item-ind', 'map-value-ind'])

/** What was probably meant, by the package's codes of errors. */
const MEANT: Readonly<Record<string, string>> = {
  BAD_SCALAR_START: 'a text that starts with @, ` or % is put in quotes: "@ = count()"',
  BLOCK_AS_IMPLICIT_KEY: 'a text with \': \' in it is put in quotes',
  MULTILINE_IMPLICIT_KEY: 'a text with \': \' in it is put in quotes',
}

/**
 * Parses one program.
 * @param source the file's name, for messages
 * @throws KerninstError (65) with line and column
 */
export const parseYaml = (text: string, source: string): Probe[] => {
  if (text.length > MAX_PROGRAM) throw new KerninstError(EXIT.data, `${source}: longer than ${MAX_PROGRAM} characters`)
  const scanner = new Scanner(text, source)
  mustBePlain(scanner)
  return new DocumentReader(scanner).probes(documentOf(scanner))
}

/** Refuses what no program needs, and what is nested too deep to be given to the package's parser. */
const mustBePlain = (scanner: Scanner): void => {
  const blocks: number[] = [] // columns where those begin that we are in
  let flows = 0
  let at = 0
  let lineStart = 0
  let begins = true // whether the next token may begin a block: it is a line's first, or behind an indicator
  let isText = false
  for (const token of new Lexer().lex(scanner.text)) {
    const type: string | null = isText ? 'text' : CST.tokenType(token)
    isText = type === 'scalar'
    if (type === 'scalar' || type === 'doc-mode' || type === 'flow-error-end') continue // marks of the lexer, no text
    const refused = type === null ? undefined : REFUSED[type]
    if (refused !== undefined) scanner.fail(refused, at)
    if (begins && flows === 0 && type !== null && !SPACES.has(type)) {
      const column = at - lineStart
      while (blocks.length > 0 && blocks.at(-1)! >= column) blocks.pop()
      blocks.push(column)
      begins = false
    }
    if (type === 'flow-seq-start' || type === 'flow-map-start') flows++
    if (type === 'flow-seq-end' || type === 'flow-map-end') flows = Math.max(0, flows - 1)
    if (blocks.length > MAX_NESTED_BLOCKS || flows > MAX_NESTED_FLOWS) scanner.fail('this is nested too deep', at)
    if (type !== null && INDICATORS.has(type)) begins = true
    const newline = token.lastIndexOf('\n')
    if (newline >= 0) {
      lineStart = at + newline + 1
      begins = true
    }
    at += token.length
  }
}

/** The one document of the text; undefined if it is empty. */
const documentOf = (scanner: Scanner): ParsedNode | undefined => {
  const { text } = scanner
  // Keys are compared below, where there can be only a few.
  const composer = new Composer({ schema: 'core', uniqueKeys: false, prettyErrors: false, logLevel: 'silent' })
  const documents = [...composer.compose(upToError(new Parser().parse(text)), true, text.length)]
  const [error] = documents.flatMap(({ errors }) => errors).sort((a, b) => a.pos[0] - b.pos[0])
  if (error !== undefined) {
    const meant = MEANT[error.code]
    const [what] = error.message.split('\n', 1)
    scanner.fail(`this is not YAML: ${what!}${meant === undefined ? '' : `; ${meant}`}`, error.pos[0])
  }
  if (documents.length > 1) scanner.fail('a second document starts here; a program is one', documents[1]!.range[0])
  return (documents[0]?.contents ?? undefined) as ParsedNode | undefined
}

/** One error will do, where a damaged file may have a million. */
function* upToError(tokens: Iterable<CST.Token>): Generator<CST.Token, void> {
  for (const token of tokens) {
    yield token
    if (token.type === 'error') return
  }
}

const kindOf = (node: ParsedNode | null): string => {
  if (isMap(node)) return 'a mapping'
  if (isSeq(node)) return 'a list'
  if (!isScalar(node) || node.value === null) return 'nothing'
  return typeof node.value === 'string' ? 'a text' : String(node.value)
}

/** What a key has, and where the key is. */
interface Value {
  readonly at: number
  readonly node: ParsedNode | null
}

class DocumentReader {
  readonly #scanner: Scanner

  /** @param scanner of the whole file */
  constructor(scanner: Scanner) {
    this.#scanner = scanner
  }

  probes(root: ParsedNode | undefined): Probe[] {
    const scanner: Scanner = this.#scanner
    const example = 'probes: [{ points: entry:vfs_read, do: "@ = count()" }]'
    if (root === undefined) scanner.fail(`no probe here; a program looks like ${example}`, scanner.text.length)
    if (!isMap(root)) scanner.fail(`${kindOf(root)} where a program looks like ${example}`, root.range[0])
    const { node, at } = this.#mapping(root, ['probes'], ['probes']).get('probes')!
    if (!isSeq(node)) scanner.fail(`${kindOf(node)} where a list is expected: ${example}`, node?.range[0] ?? at)
    if (node.items.length === 0) scanner.fail(`no probe here; a program looks like ${example}`, node.range[0])
    let points = 0
    return node.items.map((item) => {
      const probe = this.#probe(item as ParsedNode)
      points += probe.points.length
      if (points > MAX_PROBES) throw new KerninstError(EXIT.data, `${scanner.source}: more than ${MAX_PROBES} probes`)
      return probe
    })
  }

  #probe(node: ParsedNode): Probe {
    const scanner: Scanner = this.#scanner
    if (!isMap(node)) scanner.fail(`${kindOf(node)} where a probe is expected: { points: ..., do: ... }`, node.range[0])
    const keys = this.#mapping(node, ['points', 'when', 'do'], ['points', 'do'])
    const soFar = new ProbeSoFar()
    const points = this.#list(keys.get('points')!, 'a point').flatMap((item) =>
      this.#read(item, soFar, 'a point', (parts) => parts.points()))
    const when = keys.get('when')
    const predicate = when && this.#expression(when, soFar, 'when')
    const action = keys.get('do')!
    const body = this.#statements(action, soFar, 0)
    if (body.length === 0) scanner.fail('there is no action in do', action.node?.range[0] ?? action.at)
    return predicate === undefined ? { points, body } : { points, predicate, body }
  }

  /** One text or a list. */
  #list({ node, at }: Value, what: string): ParsedNode[] {
    if (node === null) this.#scanner.fail(`${what} is missing`, at)
    if (!isSeq(node)) return [node]
    if (node.items.length === 0 && what !== 'a statement') {
      this.#scanner.fail(`${what} is missing: this list is empty`, node.range[0])
    }
    return (node as YAMLSeq<ParsedNode>).items
  }

  #statements(value: Value, soFar: ProbeSoFar, depth: number): Statement[] {
    if (isMap(value.node)) {
      this.#scanner.fail('a mapping where one text or a list is expected: put a \'-\' before it', value.node.range[0])
    }
    return this.#list(value, 'a statement').flatMap((item) => isMap(item)
      ? [this.#action(item, soFar, depth)]
      : this.#read(item, soFar, 'a statement', (parts, scanner) => {
        const start = scanner.space().at
        const statements = parts.statements(depth)
        if (statements.length === 0) scanner.fail('a statement is missing, such as @ = count()', start)
        return statements
      }))
  }

  /** What is written as a mapping: an if, or assembly. */
  #action(map: ParsedNode & YAMLMap, soFar: ProbeSoFar, depth: number): Statement {
    const scanner: Scanner = this.#scanner
    const keys = this.#mapping(map, ['if', 'then', 'else', 'asm'], [])
    const [asm, test, then] = [keys.get('asm'), keys.get('if'), keys.get('then')]
    const at = map.range[0]
    soFar.count(scanner, at)
    if (asm !== undefined) {
      if (keys.size > 1) scanner.fail('asm stands alone: an if is another item of the list', at)
      return asmStatement(this.#assembly(asm), scanner, asm.at)
    }
    if (test === undefined || then === undefined) {
      const missing = test === undefined ? 'if' : 'then'
      scanner.fail(`'${missing}' is missing: { if: condition, then: statements, else: statements }`, at)
    }
    soFar.nest(depth, scanner, at)
    const otherwise = keys.get('else')
    return {
      op: 'if',
      test: this.#expression(test, soFar, 'if'),
      then: this.#statements(then, soFar, depth + 1),
      otherwise: otherwise === undefined ? [] : this.#statements(otherwise, soFar, depth + 1),
    }
  }

  #assembly({ node, at }: Value): string {
    const scanner: Scanner = this.#scanner
    if (!isScalar(node) || typeof node.value !== 'string') {
      scanner.fail(`${kindOf(node)} where assembly is expected, as one text`, node?.range[0] ?? at)
    }
    const text = node.value.replace(/\n$/, '') // a block's last line
    if (/["\n\\]/.test(text)) {
      scanner.fail('assembly is one line, with \';\' between instructions, and without \'"\' and \'\\\'', node.range[0])
    }
    return text
  }

  /** YAML takes a number for a number; here it is an expression. */
  #expression({ node, at }: Value, soFar: ProbeSoFar, key: string): Expression {
    const scanner: Scanner = this.#scanner
    if (node === null) scanner.fail(`an expression is missing behind ${key}`, at)
    const isNumber = isScalar(node) && typeof node.value === 'number'
    const digits = isNumber ? scanner.text.slice(node.range[0], node.range[1]) : undefined
    return this.#read(node, soFar, 'an expression', (parts) => parts.expression(), digits)
  }

  /** Reads all of one text. */
  #read<T extends Expression | readonly object[]>(
    node: ParsedNode, soFar: ProbeSoFar, what: string, read: (parts: PartReader, scanner: Scanner) => T, value?: string,
  ): T {
    const whole: Scanner = this.#scanner
    const [start] = node.range
    if (value === undefined) {
      if (!isScalar(node) || typeof node.value !== 'string') {
        const spaced = isMap(node)
          ? '; in entry:vfs_read there is no space, and a text with \': \' in it is put in quotes' : ''
        whole.fail(`${kindOf(node)} where ${what} is expected, as a text${spaced}`, start)
      }
      value = node.value
    }
    const exact = exactly(whole.text, node, value)
    const scanner = exact === undefined ? whole.written(value, start) : whole.part(...exact)
    const result = read(new PartReader(scanner, soFar), scanner)
    if (!scanner.space().atEnd) scanner.fail(`'${scanner.text[scanner.at]!}' is not expected behind ${what}`)
    return exact === undefined ? movedTo(start, result) : result
  }

  /** A mapping's values, by keys, of which some must be there. */
  #mapping(map: ParsedNode & YAMLMap, known: readonly string[], needed: readonly string[]): ReadonlyMap<string, Value> {
    const scanner: Scanner = this.#scanner
    const found = new Map<string, Value>()
    for (const { key, value } of map.items as readonly { key: ParsedNode; value: ParsedNode | null }[]) {
      const name = isScalar(key) ? String(key.value).slice(0, 64).replaceAll(/\s+/g, ' ') : kindOf(key)
      const place = key.range[0]
      if (!known.includes(name)) {
        scanner.fail(`'${name}' is not one of ${known.join(', ')}${scanner.hint(name, known)}`, place)
      }
      if (found.has(name)) scanner.fail(`'${name}' is given twice`, place)
      found.set(name, { at: place, node: value !== null && isScalar(value) && value.value === null ? null : value })
    }
    const missing = needed.find((name) => !found.has(name))
    if (missing !== undefined) scanner.fail(`'${missing}' is missing`, map.range[0])
    return found
  }
}

/** From where to where a text stands in the file as it is. A literal block does: its indentation is but space. */
const exactly = (
  text: string, { type, range: [start, end] }: ParsedNode & { type?: unknown }, value: string,
): [from: number, to: number] | undefined => {
  if (type === Scalar.BLOCK_LITERAL) return value === '' ? undefined : [text.indexOf('\n', start) + 1, end]
  const quotes = type === Scalar.QUOTE_SINGLE || type === Scalar.QUOTE_DOUBLE ? 1 : 0
  return text.slice(start + quotes, end - quotes) === value ? [start + quotes, end - quotes] : undefined
}

/** The same trees, all of them at one position. Places of points are right already. */
const movedTo = <T>(position: number, tree: T): T => {
  if (Array.isArray(tree)) return tree.map((one: unknown) => movedTo(position, one)) as T
  if (typeof tree !== 'object' || tree === null) return tree
  return Object.fromEntries(Object.entries(tree).map(([key, value]) =>
    [key, key === 'at' ? position : movedTo(position, value as unknown)])) as T
}
