// In: a QEMU that connects to a socket of ours. Out: commands to it, their answers, and what it tells by itself.
// Invariant: every command is answered or fails, at the latest when QEMU leaves.
// Left out: what commands and events mean.

import { createServer, type Server, type Socket } from 'node:net'

/** What QEMU tells by itself: 'SHUTDOWN', 'SUSPEND', 'RESET', ... */
export interface MonitorEvent {
  readonly event: string
  readonly data?: Readonly<Record<string, unknown>>
}

interface Answer extends Partial<MonitorEvent> {
  readonly id?: number
  readonly return?: unknown
  readonly error?: { readonly class: string; readonly desc: string }
}

export class Monitor {
  readonly events: MonitorEvent[] = []
  readonly #server: Server
  readonly #connected: Promise<Socket>
  readonly #pending = new Map<number, (answer: Answer) => void>()
  readonly #waiting: { name: string; tell: (event: MonitorEvent | undefined) => void }[] = []
  #next = 1
  #closed = false

  /** Listens at `path`; QEMU is to be started with `-qmp unix:path`. */
  constructor(path: string) {
    this.#server = createServer()
    this.#connected = new Promise((resolve) => {
      this.#server.once('connection', (socket: Socket) => {
        let partial = ''
        socket.setEncoding('utf8').on('data', (chunk: string) => {
          const lines = (partial + chunk).split('\n')
          partial = lines.pop() ?? ''
          for (const line of lines) if (line.trim() !== '') this.#take(JSON.parse(line) as Answer)
        })
        socket.once('close', () => this.close())
        socket.on('error', () => this.close())
        socket.write('{"execute":"qmp_capabilities"}\n')
        resolve(socket)
      })
    })
    this.#server.listen(path)
  }

  #take(answer: Answer): void {
    if (answer.event !== undefined) {
      const event = { event: answer.event, ...(answer.data && { data: answer.data }) }
      this.events.push(event)
      const told = this.#waiting.filter((one) => one.name === event.event)
      for (const one of told) this.#waiting.splice(this.#waiting.indexOf(one), 1)
      for (const one of told) one.tell(event)
    } else if (answer.id !== undefined) {
      this.#pending.get(answer.id)?.(answer)
      this.#pending.delete(answer.id)
    }
  }

  /** Runs a command of QEMU's machine protocol; rejects where QEMU refuses it, or leaves. */
  async command(name: string, parameters: Readonly<Record<string, unknown>> = {}): Promise<unknown> {
    const socket = await this.#connected
    const id = this.#next++
    const answer = await new Promise<Answer>((resolve) => {
      this.#pending.set(id, resolve)
      if (this.#closed) this.close()
      else socket.write(`${JSON.stringify({ execute: name, arguments: parameters, id })}\n`)
    })
    if (answer.error) throw new Error(`${name}: ${answer.error.desc}`)
    return answer.return
  }

  /** The next event of that name from now on; undefined when QEMU leaves first. */
  next(name: string): Promise<MonitorEvent | undefined> {
    return new Promise((tell) => {
      if (this.#closed) tell(undefined)
      else this.#waiting.push({ name, tell })
    })
  }

  /** Fails what is not answered. */
  close(): void {
    this.#closed = true
    this.#server.close()
    for (const tell of this.#pending.values()) tell({ error: { class: 'Gone', desc: 'QEMU has left' } })
    this.#pending.clear()
    for (const { tell } of this.#waiting.splice(0)) tell(undefined)
  }
}
