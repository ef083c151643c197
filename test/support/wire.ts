/**
 * The connections of the load: Wire is one socket with at most one request in flight, Keeper a client that keeps one and opens another
 * when it ends. They read replies byte by byte and tell the load what became of each request; they count and schedule nothing.
 */
import net from 'node:net';

import { BadReply, readPidReply } from './client.js';
import type { Kind, Load, Reason } from './load.js';

/** One request on its way. */
export interface Exchange {
  due: number;
  sent: number;
  deadline: number;
  wire: Wire;
  /** The last byte of a good reply is here. A new connection then waits for its EOF. */
  replied?: boolean;
}

const REASONS: Record<string, Reason> = {
  ECONNREFUSED: 'refused',
  ENOENT: 'refused', // a Unix path that is not there
  EAGAIN: 'refused', // a Unix listener whose queue is full: connect(2) does not wait
  ETIMEDOUT: 'timeout',
};

/** One keep-alive client: at most one request in flight; what is due meanwhile waits its turn. */
export class Keeper {
  readonly #load: Load;
  readonly #waiting: number[] = [];
  #wire: Wire | undefined;

  constructor(load: Load) {
    this.#load = load;
  }

  ask(due: number): void {
    this.#waiting.push(due);
    if (this.#wire?.exchange) this.#load.keepAlive.queued++;
    else this.#next();
  }

  /** Forgets what still waits, and says how much it was. */
  abandon(): number {
    return this.#waiting.splice(0).length;
  }

  #next(): void {
    if (this.#waiting.length === 0 || this.#wire?.exchange) return;
    this.#wire ??= this.#open();
    this.#wire.send(this.#waiting.shift() ?? NaN);
  }

  #open(): Wire {
    this.#load.keepAlive.connections++;
    return new Wire(this.#load, 'keepAlive', (_ok, reusable) => {
      if (!reusable) this.#wire = undefined;
      if (this.#waiting.length > 0) this.#load.afterPoll(() => this.#next()); // an EOF may be right behind the reply
    });
  }
}

/** One connection. `done` is called once for each request, and once more when an idle connection has ended. */
export class Wire {
  readonly kind: Kind;
  readonly socket: net.Socket;
  exchange: Exchange | undefined;
  /** Kept from the start: a closed socket no longer tells. */
  localPort: number | undefined;
  /** When it was connected, ms of performance.now(). */
  opened: number | undefined;
  /** The processes that replied on it, in order. More than one: it was carried from one to the next. */
  readonly pids: number[] = [];
  readonly #load: Load;
  readonly #done: (ok: boolean, reusable: boolean) => void;
  #bytes: Buffer | undefined;
  #over = false; // no further request will come here

  constructor(load: Load, kind: Kind, done: (ok: boolean, reusable: boolean) => void = () => undefined) {
    this.kind = kind;
    this.#load = load;
    this.#done = done;
    this.socket = net.connect(load.target);
    load.wires.add(this);
    this.socket
      .on('connect', () => {
        this.localPort = this.socket.localPort;
        this.opened = performance.now();
      })
      .on('data', (chunk) => this.#read(chunk))
      .on('end', () => this.#ended('eof', 'EOF'))
      .on('error', (error: NodeJS.ErrnoException) =>
        this.#ended(REASONS[error.code ?? ''] ?? 'reset', error.code ?? error.message),
      )
      .on('close', () => load.wires.delete(this));
  }

  /** Whether a further request may come here. */
  get isOpen(): boolean {
    return !this.#over;
  }

  send(due: number): void {
    this.#load.send(this, due);
  }

  /** The time-out of this exchange has come. */
  expire(exchange: Exchange): void {
    if (exchange.replied) {
      this.#load.new.untidy++;
      this.#finish(exchange, 'ok');
    } else
      this.#finish(
        exchange,
        'timeout',
        this.socket.connecting ? 'no connection' : `${this.#bytes?.length ?? 0} bytes of a reply`,
      );
    this.socket.destroy();
  }

  #read(chunk: Buffer): void {
    this.#load.news++;
    const exchange = this.exchange;
    if (!exchange || exchange.replied) {
      this.socket.destroy();
      if (exchange) this.#finish(exchange, 'bad reply', `${chunk.length} bytes after the end of the reply`);
      else this.#load.stray++;
      this.#leave();
      return;
    }
    this.#bytes = this.#bytes ? Buffer.concat([this.#bytes, chunk]) : chunk;
    try {
      const reply = readPidReply(this.#bytes, this.#load.body);
      if (!reply) return;
      this.#bytes = undefined;
      this.#load.replied(exchange, reply.pid);
      if (this.kind === 'new') return; // the rest is the EOF
      if (reply.close) {
        this.#load.keepAlive.announced++;
        this.#over = true;
        this.socket.end();
      }
      this.#finish(exchange, 'ok');
    } catch (error) {
      if (!(error instanceof BadReply)) throw error;
      this.#over = true;
      this.socket.destroy();
      this.#finish(exchange, 'bad reply', error.message);
    }
  }

  #ended(reason: Reason, detail: string): void {
    this.#load.news++;
    const { exchange } = this;
    if (exchange?.replied) {
      if (reason !== 'eof') this.#load.new.untidy++;
      this.#finish(exchange, 'ok');
    } else if (exchange) this.#finish(exchange, reason, detail);
    else if (!this.#over) {
      this.#load.keepAlive.closedIdle++;
      if (reason === 'reset') this.#load.keepAlive.resetIdle++;
      this.#leave();
    }
    this.socket.destroy();
  }

  /** An idle connection is gone: its owner must not use it again. */
  #leave(): void {
    if (this.#over) return;
    this.#over = true;
    this.#done(false, false);
  }

  #finish(exchange: Exchange, outcome: 'ok' | Reason, detail?: string): void {
    this.exchange = undefined;
    if (outcome !== 'ok' || this.kind === 'new') this.#over = true;
    this.#load.settle(exchange, outcome, detail);
    this.#done(outcome === 'ok', !this.#over);
  }
}
