/**
 * The load: new connections and keep-alive requests on raw sockets, each counted as ok or lost with its reason. Nothing is retried.
 * It opens sockets and reads clocks, and knows nothing of restarts: a pid is what a reply says.
 *
 * Three rules keep the count honest.
 * - Requests are due by a schedule that waits for no reply; latency counts from then, not from the late moment of sending.
 * - After a stall of our own, everything the kernel holds is read before anything is sent or judged. Else we would write to a connection
 *   whose end has long been here, and blame the server.
 * - Time-outs run on a clock that stands still while this process does. How late we were is in the report (`generator`), never a loss.
 */
import type net from 'node:net';

import { connectOptions, type Target } from './client.js';
import { Latencies, type Latency } from './latency.js';
import { Waiting } from './waiting.js';
import { Keeper, Wire, type Exchange } from './wire.js';

export type Kind = 'new' | 'keepAlive';

/**
 * Why a request was lost. 'refused': no connection came about; 'reset' and 'eof': it ended before the whole reply was here.
 * A reset right behind other bytes may look like an EOF to Node: libuv reports so what it finds together (load.c tells them apart).
 */
export type Reason = 'refused' | 'reset' | 'eof' | 'timeout' | 'bad reply';

export interface LoadOptions extends Target {
  /** New connections a second, one request each, by schedule. 0. */
  newPerSecond?: number;
  /** Connections that are kept; each sends `requestsPerSecond` (10), by schedule. 0. */
  keepAlive?: number;
  requestsPerSecond?: number;
  /** So many new connections at any time, the next as soon as one is done. 0. */
  closedLoopNew?: number;
  /** ms from the moment of sending, 5 000, to within 100 ms. */
  requestTimeout?: number;
  /** What the body must be; its first group is the pid. A decimal number and a newline. */
  body?: RegExp;
  /** For each good reply, as soon as its last byte is here. */
  onReply?: (reply: GoodReply) => void;
}

/** Times are ms of `performance.now()`. `first`: no reply of this pid had come before. */
export interface GoodReply {
  pid: number;
  kind: Kind;
  first: boolean;
  due: number;
  at: number;
}

/** sent = ok + lost, once the load has stopped. `unsent`: due and not tried, by our own fault, or for the stop came before their turn. */
export interface Tally {
  sent: number;
  ok: number;
  lost: number;
  reasons: Partial<Record<Reason, number>>;
  unsent: number;
}

export interface KeepAliveTally extends Tally {
  connections: number;
  /** Replies that said `Connection: close`: the next request opens another connection. */
  announced: number;
  /** Connections that the server ended between two requests, with nothing in flight; `resetIdle` of them by a reset. */
  closedIdle: number;
  resetIdle: number;
  /** Requests that were due while the one before still waited on the same connection. Their latency shows it. */
  queued: number;
}

export interface NewTally extends Tally {
  /** The whole reply came, and then not the EOF that was asked for: a reset, or nothing within the time-out. No loss. */
  untidy: number;
}

export interface Loss {
  kind: Kind;
  reason: Reason;
  detail: string;
  /** When the request was due, was sent, was lost. Long between the first two: look at `generator` before you blame the server. */
  due: number;
  sent: number;
  at: number;
  /** Our own port, to find the connection in a packet trace. */
  localPort: number | undefined;
}

/** A connection that is open, as its client sees it. */
export interface Living {
  /** Since it was connected, ms. */
  age: number;
  /** How many processes have replied on it. */
  processes: number;
}

/** A process that replied. */
export interface Seen {
  pid: number;
  first: number;
  last: number;
  replies: number;
}

/** How well the load itself kept to its schedule. */
export interface Generator {
  /** How late requests were sent, for reasons of our own (ms). */
  late: Latency;
  /** Times that this process did nothing for more than 50 ms beyond its timer, and the longest such time (ms). */
  stalls: number;
  longestStall: number;
  /** Sends that the system refused to this process: ports, descriptors or memory used up. Counted as unsent. */
  failed: Record<string, number>;
  /** True: the figures for latency are in doubt (1 % of the sends were more than 50 ms late, or some were never made). */
  behind: boolean;
}

export interface Report {
  from: number;
  to: number;
  new: NewTally;
  keepAlive: KeepAliveTally;
  /** Bytes that came on a connection with nothing in flight. Always an error of the server. */
  stray: number;
  /** How often a kept connection was answered by another process than before: it was carried there, open. */
  carried: number;
  /** The kept connection that was open for the longest time at the end; undefined: none was. */
  oldest: Living | undefined;
  /** Of the good replies, from the time they were due. */
  latency: Record<Kind, Latency>;
  pids: Seen[];
  /** In order; the first 10 000. */
  losses: Loss[];
  generator: Generator;
  /** The same for what was due from `from` to `to`: cut a restart out of the whole. */
  window: (from: number, to: number) => Record<Kind, { lost: number; latency: Latency }>;
}

const BEAT = 50; // ms: how often the clock of the time-outs moves on, and time-outs are looked for
const LATE = 50; // ms: from here on a request is sent so late that its latency says more of us than of the server
const MAX_LOSSES = 10000;
/** This process, not the server, has come to its limits. */
const OWN_ERRORS = new Set(['EADDRNOTAVAIL', 'EMFILE', 'ENFILE', 'ENOBUFS', 'ENOMEM']);

/** Starts a load. It runs until stop(). */
export function startLoad(options: LoadOptions): Load {
  return new Load(options);
}

export class Load {
  /** Live counters. */
  readonly new: NewTally = { sent: 0, ok: 0, lost: 0, reasons: {}, unsent: 0, untidy: 0 };
  readonly keepAlive: KeepAliveTally = {
    ...{ sent: 0, ok: 0, lost: 0, reasons: {}, unsent: 0 },
    ...{ connections: 0, announced: 0, closedIdle: 0, resetIdle: 0, queued: 0 },
  };
  /** Every process that replied, in the order of their first replies. */
  readonly pids: Map<number, Seen> = new Map();
  readonly started: number = performance.now();
  /** How often a kept connection was answered by another process than before. */
  carried = 0;

  /** @internal */ readonly target: net.NetConnectOpts;
  /** @internal */ readonly body: RegExp;
  /** @internal */ readonly requests: Record<Kind, string>;
  /** @internal */ readonly wires: Set<Wire> = new Set();
  /** @internal */ stray = 0;
  /** @internal Pieces and ends that were read from any connection. */ news = 0;

  readonly #options: LoadOptions;
  readonly #pending = new Set<Exchange>(); // in the order of their deadlines
  readonly #latencies: Record<Kind, Latencies> = { new: new Latencies(), keepAlive: new Latencies() };
  readonly #late = new Latencies();
  readonly #losses: Loss[] = [];
  readonly #failed: Record<string, number> = {};
  readonly #keepers: Keeper[] = [];
  readonly #schedules: Schedule[] = [];
  readonly #listeners = new Set<(reply: GoodReply) => void>();
  readonly #waiting = new Waiting(() => {
    const seen = [...this.pids.values()].map(({ pid, replies }) => `${pid} (${replies})`).join(', ');
    return `replies so far by pid: ${seen || 'none'}; lost ${this.lost}`;
  });
  readonly #beat: NodeJS.Timeout;
  #timer: NodeJS.Timeout | undefined;
  #alive = 0; // the clock of the time-outs, ms
  #lastBeat: number = performance.now();
  #stalls = 0;
  #longestStall = 0;
  #missed = 0; // due and never sent, nor tried
  #stopping = false;
  #stopped: Promise<Report> | undefined;
  #drained: (() => void) | undefined;

  constructor(options: LoadOptions) {
    this.#options = options;
    this.target = connectOptions(options);
    this.body = options.body ?? /^(\d{1,10})\n$/;
    const host = options.path === undefined ? `${options.host ?? '127.0.0.1'}:${options.port}` : 'localhost';
    const head = `GET / HTTP/1.1\r\nHost: ${host}\r\n`;
    this.requests = { new: `${head}Connection: close\r\n\r\n`, keepAlive: `${head}\r\n` };
    if (options.onReply) this.#listeners.add(options.onReply);

    const { newPerSecond = 0, keepAlive = 0, requestsPerSecond = 10, closedLoopNew = 0 } = options;
    for (let i = 0; i < keepAlive; i++) this.#keepers.push(new Keeper(this));
    // The keepers take turns: all of them in one even stream, not all at once.
    this.#schedule(this.keepAlive, keepAlive * requestsPerSecond, (due, n) => this.#keepers[n % keepAlive]?.ask(due));
    this.#schedule(this.new, newPerSecond, (due) => new Wire(this, 'new').send(due));
    for (let i = 0; i < closedLoopNew; i++) this.#loop();
    this.#beat = setInterval(() => this.#onBeat(), BEAT);
    this.#fire();
  }

  /** The process whose first reply came last. */
  get newest(): number | undefined {
    return [...this.pids.keys()].at(-1);
  }

  get lost(): number {
    return this.new.lost + this.keepAlive.lost;
  }

  /** The kept connection that has been open for the longest time. */
  get oldest(): Living | undefined {
    let oldest: Wire | undefined;
    for (const wire of this.wires) {
      if (wire.kind !== 'keepAlive' || !wire.isOpen || wire.opened === undefined) continue;
      if (oldest?.opened === undefined || wire.opened < oldest.opened) oldest = wire;
    }
    if (oldest?.opened === undefined) return undefined;
    return { age: performance.now() - oldest.opened, processes: oldest.pids.length };
  }

  /** Waits for a good reply that `matches`; a reply that came before does not count. `deadline` in ms. */
  async waitForReply(what: string, matches: (reply: GoodReply) => boolean, deadline = 10000): Promise<GoodReply> {
    let found: GoodReply | undefined;
    const listener = (reply: GoodReply): void => {
      if (found || !matches(reply)) return;
      found = reply;
      this.#waiting.wake();
    };
    this.#listeners.add(listener);
    try {
      return await this.#waiting.until(what, deadline, () => found);
    } finally {
      this.#listeners.delete(listener);
    }
  }

  /** Sends nothing more, waits for what is in flight, closes everything and reports. Twice is the same report. */
  stop(): Promise<Report> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<Report> {
    const to = performance.now();
    this.#stopping = true;
    clearTimeout(this.#timer);
    for (const schedule of this.#schedules) {
      const missed = schedule.missed(to - LATE); // what became due just now is no debt
      schedule.tally.unsent += missed;
      this.#missed += missed;
    }
    for (const keeper of this.#keepers) this.keepAlive.unsent += keeper.abandon();
    if (this.#pending.size > 0) await new Promise<void>((resolve) => (this.#drained = resolve));
    clearInterval(this.#beat);
    const { oldest } = this;
    for (const wire of this.wires) wire.socket.destroy();
    return this.#report(to, oldest);
  }

  /**
   * @internal Acts once everything that the kernel held a moment ago has been read. Immediates run behind the poll, but one turn may not
   * be enough: libuv takes one piece from a socket a turn (the EOF behind a reply comes a turn later), and where a callback took long
   * (a standstill begins in some callback) more has come meanwhile. So: until a turn was short and brought no news. `turns` at most.
   */
  afterPoll(action: () => void, turns = 6): void {
    const began = performance.now();
    const { news } = this;
    setImmediate(() => {
      const isQuiet = news === this.news && performance.now() - began < 1;
      if (isQuiet || turns === 1) action();
      else this.afterPoll(action, turns - 1);
    });
  }

  /** @internal A request goes out now on this wire; `due` is when it should have. */
  send(wire: Wire, due: number): void {
    const sent = performance.now();
    const alive = this.#alive + Math.min(sent - this.#lastBeat, 2 * BEAT);
    const exchange: Exchange = { due, sent, wire, deadline: alive + (this.#options.requestTimeout ?? 5000) };
    this[wire.kind].sent++;
    wire.exchange = exchange;
    this.#pending.add(exchange);
    wire.socket.write(this.requests[wire.kind]); // net keeps it until the connection is there
  }

  /** @internal The last byte of a good reply is here. */
  replied(exchange: Exchange, pid: number): void {
    const at = performance.now();
    const { kind, pids } = exchange.wire;
    exchange.replied = true;
    if (!pids.includes(pid)) {
      if (pids.length > 0) this.carried++;
      pids.push(pid);
    }
    this.#latencies[kind].add(exchange.due, at - exchange.due);
    const seen = this.pids.get(pid);
    if (seen) Object.assign(seen, { last: at, replies: seen.replies + 1 });
    else this.pids.set(pid, { pid, first: at, last: at, replies: 1 });
    for (const listener of [...this.#listeners]) listener({ pid, kind, first: !seen, due: exchange.due, at });
  }

  /** @internal The request has its outcome. */
  settle(exchange: Exchange, outcome: 'ok' | Reason, detail = ''): void {
    const { kind, localPort } = exchange.wire;
    if (!this.#pending.delete(exchange)) return;
    const tally = this[kind];
    if (outcome === 'ok') tally.ok++;
    else if (OWN_ERRORS.has(detail)) {
      tally.sent--;
      tally.unsent++;
      this.#failed[detail] = (this.#failed[detail] ?? 0) + 1;
    } else {
      tally.lost++;
      tally.reasons[outcome] = (tally.reasons[outcome] ?? 0) + 1;
      const { due, sent } = exchange;
      const loss = { kind, reason: outcome, detail, due, sent, at: performance.now(), localPort };
      if (this.#losses.length < MAX_LOSSES) this.#losses.push(loss);
    }
    if (this.#stopping && this.#pending.size === 0) this.#drained?.();
  }

  #loop(): void {
    if (this.#stopping) return;
    const again = (ok: boolean): void => {
      if (ok) setImmediate(() => this.#loop());
      else setTimeout(() => this.#loop(), 1); // no storm where every connection is refused
    };
    new Wire(this, 'new', again).send(performance.now());
  }

  #schedule(tally: Tally, perSecond: number, ask: (due: number, n: number) => void): void {
    if (perSecond > 0) this.#schedules.push(new Schedule(this.started, 1000 / perSecond, tally, ask));
  }

  /** Sends all that is due. Pauses for the kernel's news each ms, so that a long burst does not write to what has ended meanwhile. */
  #fire(): void {
    if (this.#stopping) return;
    const began = performance.now();
    for (;;) {
      const now = performance.now();
      const next = this.#schedules.reduce<Schedule | undefined>((a, b) => (a && a.next <= b.next ? a : b), undefined);
      if (!next) return;
      if (next.next > now) {
        this.#timer = setTimeout(() => this.afterPoll(() => this.#fire()), next.next - now);
        return;
      }
      if (now - began > 1) {
        this.afterPoll(() => this.#fire());
        return;
      }
      this.#late.add(next.next, now - next.next);
      next.ask();
    }
  }

  #onBeat(): void {
    const now = performance.now();
    const passed = now - this.#lastBeat;
    this.#lastBeat = now;
    this.#alive += Math.min(passed, 2 * BEAT);
    if (passed > 2 * BEAT) {
      this.#stalls++;
      this.#longestStall = Math.max(this.#longestStall, passed - BEAT);
    }
    this.afterPoll(() => {
      for (const exchange of this.#pending) {
        if (exchange.deadline > this.#alive) break;
        exchange.wire.expire(exchange);
      }
    });
  }

  #report(to: number, oldest: Living | undefined): Report {
    const late = this.#late.summary();
    const latencies = this.#latencies;
    const losses = this.#losses;
    return {
      from: this.started,
      to,
      new: this.new,
      keepAlive: this.keepAlive,
      stray: this.stray,
      carried: this.carried,
      oldest,
      latency: { new: latencies.new.summary(), keepAlive: latencies.keepAlive.summary() },
      pids: [...this.pids.values()],
      losses,
      generator: {
        late,
        stalls: this.#stalls,
        longestStall: this.#longestStall,
        failed: this.#failed,
        behind: late.p99 > LATE || this.#missed + Object.keys(this.#failed).length > 0,
      },
      window: (from, until) => {
        const cut = (kind: Kind): { lost: number; latency: Latency } => ({
          lost: losses.filter((loss) => loss.kind === kind && loss.due >= from && loss.due < until).length,
          latency: latencies[kind].summary(from, until),
        });
        return { new: cut('new'), keepAlive: cut('keepAlive') };
      },
    };
  }
}

/** Even steps from a start. */
class Schedule {
  next: number;
  readonly tally: Tally;
  readonly #start: number;
  readonly #step: number;
  readonly #ask: (due: number, n: number) => void;
  #n = 0;

  constructor(start: number, step: number, tally: Tally, ask: (due: number, n: number) => void) {
    this.#start = start;
    this.#step = step;
    this.tally = tally;
    this.#ask = ask;
    this.next = start + step;
  }

  ask(): void {
    const due = this.next;
    const n = this.#n++;
    this.next = this.#start + (this.#n + 1) * this.#step; // not next + step: no drift
    this.#ask(due, n);
  }

  /** How many were due before `time` and were not asked for. */
  missed(time: number): number {
    return Math.max(0, Math.floor((time - this.next) / this.#step) + 1);
  }
}
