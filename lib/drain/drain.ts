/**
 * drain(): stop accepting, answer what is in flight, announce the end, give idle connections a grace, force what is left.
 * Where there is a successor, connections move to it (moving/), and only what stays is drained.
 * Acts on servers and on their connections. Does not exit the process, and does not touch the listening socket of a Listener.
 */
import dgram from 'node:dgram';
import type http from 'node:http';
import net from 'node:net';
import { performance } from 'node:perf_hooks';
import { inspect } from 'node:util';

import {
  type ConnectionObserver,
  type ConnectionTracker,
  trackConnections,
  type TrackedConnection,
} from '../connections.js';
import { Deferred } from '../deferred.js';
import type { Successor } from '../handoff/wire.js';
import { servedServers } from '../listener.js';
import { type DepartureHost, Departures } from '../moving/departures.js';
import { arrivals, pendingArrivals } from '../moving/receiver.js';
import { whyNotMovable } from '../moving/selfTest.js';
import { type Sender, senderTo } from '../moving/sender.js';
import { isListening, type Servable, servingOf, stopAccepting } from '../serving.js';
import { Grace } from './grace.js';
import { Announcer } from './http1.js';
import { SessionEnd } from './http2.js';

/** How long {@link drain} waits, and for what. */
export interface DrainOptions {
  /**
   * Who has taken over: connections move to it, still open, as far as they can. What stays is drained. Default: nobody; restartOn()
   * names its successor.
   */
  to?: Successor | undefined;
  /** How long an idle connection is left open, in ms; never past the server's keepAliveTimeout. 5 000. */
  idleGrace?: number | undefined;
  /** How long the whole may take, in ms; what is left then is destroyed. 30 000. */
  timeout?: number | undefined;
  /**
   * Ends the wait of this call, with an AbortError. It forces nothing and takes nothing back: the servers do not accept again, and the
   * drain goes on to its own end.
   */
  signal?: AbortSignal | undefined;
}

/** Every connection that a drain has met is counted once, by how it ended. */
export interface DrainReport {
  /** Handed to the successor, still open; those too that it had not answered for at the deadline. */
  moved: number;
  /** Ended by its client or by the application, without having been told to. */
  finished: number;
  /** Ended after `Connection: close` or GOAWAY. */
  announced: number;
  /** Closed between two requests, after the grace, or after the server's own keepAliveTimeout. */
  closedIdle: number;
  /** Destroyed at the deadline. */
  forced: number;
  /**
   * Why connections did not move, and how many for each reason. Each of them is counted by its end as well. Always empty without
   * `options.to`.
   */
  refusedToMove: Record<string, number>;
  /** From the call to the last connection's end, in ms. */
  duration: number;
}

const IDLE_GRACE = 5_000;
const TIMEOUT = 30_000;
const LAST_ACCEPTS = 100; // ms
/** So long before the deadline a connection that was never at rest is told that it ends: it will not move any more. ms */
const ANNOUNCE_BEFORE = 5_000;
const LONGEST_TIMER = 2 ** 31 - 1; // setTimeout takes a longer one for 1 ms

/**
 * Drains one server or several.
 *
 * Each stops accepting; then, with `options.to`, HTTP/1 connections between two requests move to the successor, busy ones when their
 * response is out, raw and upgraded ones by the hooks of moveConnections(). Their clients notice nothing. The rest, or all:
 * - HTTP/1: every response whose headers are not written yet says `Connection: close`, the last one of a pipelined batch alone.
 *   A connection between two requests, or with none yet, stays open for the grace, counted from the beginning of the drain or from
 *   when it became idle; a request that comes in time is answered. Whatever has sent half a request has until the deadline.
 * - HTTP/2: a session with open streams gets GOAWAY at once, one without when its client opens the next stream, or after the grace.
 *   Streams finish.
 * - Upgraded connections (WebSocket), CONNECT tunnels, and raw net and tls connections are told nothing; they have until the deadline.
 * - A dgram socket is closed.
 *
 * The drain ends with the last connection, and the server emits 'close', once. What an application sends after the deadline is lost.
 * Does not end the process. A server is drained once: another call, before its end or after it, is the same drain, with the options
 * of the first, unless the server accepts again.
 *
 * @param servers - Default: all that a Listener of this thread serves, or served and that still have connections.
 * @returns The same promise for the same server, where no signal is given.
 * @throws A TypeError or RangeError that names the option. An AbortError: `signal`.
 * @see RFC 9112 section 9.6 (Connection: close), RFC 9113 section 6.8 (GOAWAY); docs/restarts.md
 */
export function drain(
  servers: Servable | Iterable<Servable> = servedServers(),
  options: DrainOptions = {},
): Promise<DrainReport> {
  const { signal } = options;
  const wait = new Deferred<DrainReport>();
  try {
    const idleGrace = milliseconds('idleGrace', options.idleGrace, IDLE_GRACE);
    const timeout = milliseconds('timeout', options.timeout, TIMEOUT);
    const all = serversOf(servers);
    const { to } = options;
    if (signal?.aborted) throw abortError(signal);
    const [first, ...others] = all.map((server) => drainOf(server, idleGrace, timeout, to));
    if (first === undefined) return Promise.resolve(emptyReport());
    const report =
      others.length === 0 ? first.report : Promise.all([first, ...others].map((each) => each.report)).then(sum);
    if (signal === undefined) return report;
    const abort = (): void => {
      wait.reject(abortError(signal));
    };
    signal.addEventListener('abort', abort, { once: true });
    void report.then((value) => {
      signal.removeEventListener('abort', abort);
      wait.resolve(value);
    });
  } catch (error) {
    wait.reject(error);
  }
  return wait.promise.then((report) => report); // a Deferred's own promise is silent where nobody waits
}

interface Drain {
  readonly report: Promise<DrainReport>;
  readonly ended: boolean;
}

const drains = new WeakMap<Servable, Drain>();

function drainOf(server: Servable, idleGrace: number, timeout: number, to: Successor | undefined): Drain {
  const known = drains.get(server);
  if (known !== undefined && !(known.ended && isAlive(server))) return known;
  const begun =
    server instanceof net.Server ? new ServerDrain(server, idleGrace, timeout, to) : new DatagramDrain(server);
  drains.set(server, begun);
  return begun;
}

/** Whether the server could have connections again, after a drain. */
function isAlive(server: Servable): boolean {
  const state = servingOf(server)?.state ?? 'released';
  if (state !== 'released' || isListening(server)) return true;
  return server instanceof net.Server && trackConnections(server).connections.length > 0;
}

type Ending = 'finished' | 'announced' | 'closedIdle' | 'forced';

class ServerDrain implements Drain, ConnectionObserver, DepartureHost {
  ended = false;
  readonly #server: net.Server;
  readonly #tracker: ConnectionTracker;
  readonly #timeout: number;
  readonly #counts: DrainReport = emptyReport();
  readonly #endings = new WeakMap<TrackedConnection, Ending>();
  readonly #grace: Grace;
  readonly #sessions = new Map<TrackedConnection, SessionEnd>();
  readonly #started = performance.now();
  readonly #sender: Sender | undefined;
  #departures: Departures | undefined;
  /** Why nothing can move to the successor. */
  #whyNot: string | undefined;
  /** The sockets of these are closed here, and their connections go on elsewhere. */
  readonly #left = new WeakSet<TrackedConnection>();
  #isLate = false;
  #lateTimer: NodeJS.Timeout | undefined;
  #isForced = false;
  #observation: Disposable | undefined;
  #announcer: Announcer | undefined;
  #deadline: NodeJS.Timeout | undefined;
  readonly #done = new Deferred<DrainReport>();

  constructor(server: net.Server, idleGrace: number, timeout: number, to: Successor | undefined) {
    this.#server = server;
    this.#timeout = timeout;
    this.#tracker = trackConnections(server);
    this.#grace = new Grace(server, idleGrace, (connection) => {
      this.#endings.set(connection, 'closedIdle');
    });
    this.#sender = to === undefined ? undefined : senderTo(to);
    if (this.#sender === undefined) {
      if (to !== undefined) this.#whyNot = 'no way to the successor';
      setImmediate(() => {
        this.#acceptTheQueue(undefined);
      });
      return;
    }
    void whyNotMovable().then((why) => {
      this.#whyNot = why;
      this.#acceptTheQueue(undefined);
    });
  }

  get report(): Promise<DrainReport> {
    return this.#done.promise;
  }

  /**
   * Where nobody else holds the listening socket, what waits in the kernel's queue would be reset with it. Node accepts one a turn of
   * the loop: so wait for the first turn that brings none. A server that is under load has no such turn; a Listener loses nothing.
   */
  #acceptTheQueue(before: number | undefined): void {
    const { accepted } = this.#tracker;
    const isOver = performance.now() - this.#started > Math.min(LAST_ACCEPTS, this.#timeout);
    if (!this.#server.listening || accepted === before || isOver) this.#begin();
    else
      setImmediate(() => {
        this.#acceptTheQueue(accepted);
      });
  }

  #begin(): void {
    stopAccepting(this.#server);
    this.#observation = this.#tracker.observe(this);
    if (this.#sender !== undefined && this.#whyNot === undefined) {
      this.#departures = new Departures(this.#tracker, this.#sender, this);
    }
    this.#announcer = new Announcer(
      this.#tracker,
      (connection) => this.#isLate || this.#departures?.mayGo(connection) !== true,
    );
    if (this.#departures === undefined) this.#announcer.learn(); // else few will be told, if any
    for (const connection of [...this.#tracker.connections]) this.#begins(connection);
    this.#server.on('close', this.#look);
    // The deadline holds the process: a drain that nobody else keeps alive still ends with its report.
    const left = Math.max(0, this.#timeout - (performance.now() - this.#started));
    this.#deadline = setTimeout(this.#force, left);
    this.#lateTimer = setTimeout(
      () => {
        this.#isLate = true;
        this.#announcer?.learn();
        this.#departures?.giveUpBusy();
      },
      left - Math.min(ANNOUNCE_BEFORE, left / 2),
    ).unref();
    void arrivals()?.then(this.#look);
    this.#look();
  }

  opened(connection: TrackedConnection): void {
    this.#announcer?.opened(connection);
    this.#begins(connection);
  }

  #begins(connection: TrackedConnection): void {
    if (this.#departures !== undefined) this.#departures.consider(connection);
    else this.stays(connection, this.#whyNot);
  }

  left(connection: TrackedConnection): void {
    this.#left.add(connection);
  }

  moved(): void {
    this.#counts.moved++;
  }

  returned(reason: string): void {
    this.#refused(reason);
  }

  settled(): void {
    this.#look();
  }

  over(): void {
    this.#announcer?.learn();
  }

  #refused(reason: string): void {
    const { refusedToMove } = this.#counts;
    refusedToMove[reason] = (refusedToMove[reason] ?? 0) + 1;
  }

  stays(connection: TrackedConnection, reason: string | undefined): void {
    if (reason !== undefined) this.#refused(reason);
    this.#grace.end(connection);
    const { protocol, session } = connection;
    if (protocol === 'http2' && session !== undefined) {
      const onAnnounce = (): void => {
        this.#endings.set(connection, 'announced');
      };
      this.#sessions.set(connection, new SessionEnd(connection, session, this.#grace.length, onAnnounce));
    } else if (protocol !== 'raw' && connection.state !== 'active') {
      this.#grace.begin(connection);
    }
  }

  requested(...[connection, request, response]: Parameters<ConnectionObserver['requested']>): void {
    this.#grace.end(connection);
    this.#announcer?.requested(connection, request, response);
  }

  found(connection: TrackedConnection, response: http.ServerResponse): void {
    this.#announcer?.found(connection, response);
  }

  answered(connection: TrackedConnection): void {
    if (this.#departures?.mayGo(connection) === true) this.#departures.consider(connection);
    else if (!connection.upgraded) this.#grace.begin(connection);
  }

  upgraded(connection: TrackedConnection): void {
    this.#departures?.consider(connection);
  }

  closed(connection: TrackedConnection): void {
    this.#grace.end(connection);
    this.#sessions.get(connection)?.[Symbol.dispose]();
    this.#sessions.delete(connection);
    this.#departures?.forget(connection);
    if (!this.#left.has(connection)) this.#counts[this.#endings.get(connection) ?? this.#endingOf(connection)]++;
    if (this.#tracker.connections.length === 0) this.#look();
  }

  #endingOf(connection: TrackedConnection): Ending {
    if (this.#announcer?.hasAnnounced(connection) === true) return 'announced';
    const { socket, protocol, responses, upgraded } = connection;
    const isBetween = protocol === 'http1' && responses.length === 0 && !upgraded;
    const byClient = socket.readableEnded || socket.errored !== null;
    return isBetween && !byClient ? 'closedIdle' : 'finished'; // Node's own keepAliveTimeout
  }

  /** Has the last connection gone? Node counts too: there may be some that were accepted before the server was followed. */
  readonly #look = (): void => {
    if (this.#tracker.connections.length > 0) return;
    if (this.#isForced) {
      this.#end();
      return;
    }
    if ((this.#departures?.away ?? 0) > 0) return; // one may come back
    // A predecessor may still send what goes on from here; where nothing can go on, what has come is served.
    if (this.#departures === undefined ? pendingArrivals() > 0 : arrivals() !== undefined) return;
    this.#server.getConnections((_error, count) => {
      if (this.#tracker.connections.length === 0 && !count) this.#end();
    });
  };

  readonly #force = (): void => {
    this.#isForced = true;
    this.#sender?.close('the time of the drain is over'); // what it has not answered is its own
    for (const connection of [...this.#tracker.connections]) {
      this.#endings.set(connection, 'forced');
      connection.session?.destroy();
      connection.socket.destroy();
      connection.transport.destroy();
    }
    // What is left now are connections that only Node knows
    this.#server.getConnections((_error, count) => {
      this.#counts.forced += count || 0;
      const closeAll: unknown = Reflect.get(this.#server, 'closeAllConnections');
      if (typeof closeAll === 'function') Reflect.apply(closeAll, this.#server, []);
      this.#look();
    });
  };

  #end(): void {
    if (this.ended) return;
    this.ended = true;
    clearTimeout(this.#deadline);
    clearTimeout(this.#lateTimer);
    this.#departures?.[Symbol.dispose]();
    this.#server.off('close', this.#look);
    this.#observation?.[Symbol.dispose]();
    this.#announcer?.[Symbol.dispose]();
    this.#grace[Symbol.dispose]();
    this.#counts.duration = performance.now() - this.#started;
    // The last one tells the successor that nothing more comes
    if (this.#sender?.sources === 0 && !servedServers().some(hasConnections))
      this.#sender.close('nothing is left to move');
    this.#done.resolve(this.#counts);
  }
}

function hasConnections(server: Servable): boolean {
  return server instanceof net.Server && trackConnections(server).connections.length > 0;
}

class DatagramDrain implements Drain {
  readonly report: Promise<DrainReport>;
  ended = false;

  constructor(socket: dgram.Socket) {
    const started = performance.now();
    this.report = new Promise((resolve) => {
      setImmediate(() => {
        stopAccepting(socket);
        this.ended = true;
        resolve({ ...emptyReport(), duration: performance.now() - started });
      });
    });
  }
}

function emptyReport(): DrainReport {
  return { moved: 0, finished: 0, announced: 0, closedIdle: 0, forced: 0, refusedToMove: {}, duration: 0 };
}

function sum(reports: DrainReport[]): DrainReport {
  const total = emptyReport();
  for (const report of reports) {
    for (const key of ['moved', 'finished', 'announced', 'closedIdle', 'forced'] as const) total[key] += report[key];
    for (const [reason, count] of Object.entries(report.refusedToMove)) {
      total.refusedToMove[reason] = (total.refusedToMove[reason] ?? 0) + count;
    }
    total.duration = Math.max(total.duration, report.duration);
  }
  return total;
}

/** As Node's own functions reject. */
function abortError(signal: AbortSignal): Error {
  const error = new Error('The wait for the drain was aborted; the drain itself goes on', { cause: signal.reason });
  return Object.assign(error, { name: 'AbortError', code: 'ABORT_ERR' });
}

function isServable(value: unknown): value is Servable {
  return value instanceof net.Server || value instanceof dgram.Socket;
}

function serversOf(servers: Servable | Iterable<Servable>): Servable[] {
  const given: unknown = servers;
  const isSeveral = typeof given === 'object' && given !== null && Symbol.iterator in given && !isServable(given);
  const all = isSeveral ? [...(given as Iterable<unknown>)] : [given];
  return [...new Set(all)].map((server) => {
    if (isServable(server)) return server;
    const message = `The "servers" argument must be a server of net, tls, http, https or http2, a dgram socket, or several. Received ${inspect(server, { depth: 0 })}`;
    throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
  });
}

function milliseconds(name: string, value: unknown, otherwise: number): number {
  if (value === undefined) return otherwise;
  if (typeof value !== 'number') {
    const message = `The "options.${name}" argument must be a number of milliseconds. Received ${inspect(value)}`;
    throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
  }
  if (value >= 0 && value <= LONGEST_TIMER) return value;
  const message = `The "options.${name}" argument must be from 0 to ${String(LONGEST_TIMER)} milliseconds. Received ${inspect(value)}`;
  throw Object.assign(new RangeError(message), { code: 'ERR_OUT_OF_RANGE' });
}
