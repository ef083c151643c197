/**
 * The connections of one server on their way to a successor: which of them can go at this moment, how each stops here, and what becomes
 * of those that do not go. Destroys the sockets of what has gone, and takes back what the successor did not take.
 * Knows nothing of channels (sender.ts) or of draining: whoever drains is told.
 */
import net from 'node:net';

import { type ConnectionTracker, type TrackedConnection } from '../connections.js';
import { isHeard, publish } from '../report.js';
import * as raw from '../raw.js';
import { hasHooks, hooksFor, type MovingHooks } from './hooks.js';
import { adoptHttp, Between, dupOf, hasUnwritten, isEnding, isUsed, verdictOf } from './http1.js';
import { type Place, placeOfServer } from './places.js';
import { adoptWithHooks, attempt, MAX_STATE, openForHooks, takeUnread, warn } from './passage.js';
import type { Parcel, Room, Sender, Source } from './sender.js';

/** Whoever drains the server. */
export interface DepartureHost {
  /** Its socket is destroyed here, in this tick: it goes on in the successor, or comes back. */
  left(connection: TrackedConnection): void;
  /** The successor has it. */
  moved(): void;
  /** It was sent, and comes back: it is here again when this returns, another object, and stays. */
  returned(reason: string): void;
  /** It does not move, and is drained. No reason: it was told of by `returned`. */
  stays(connection: TrackedConnection, reason: string | undefined): void;
  /** Nothing is on its way any more, for the moment. */
  settled(): void;
  /** The channel has ended: nothing moves any more. */
  over(): void;
}

/** Until a connection that could not go is looked at again, ms. */
const LOOK_AGAIN = 10;
/** How often hooks may say of an upgraded connection that it is not theirs: an upgrade can take a while. */
const UNOWNED = 100;
/** Where this process has no descriptor for a duplicate: until it tries again, ms. */
const NO_DESCRIPTOR = 50;
/** Bytes of an item besides its state, about. */
const ITEM = 160;

type Way = { hooks: MovingHooks; name: string } | 'http1';

export class Departures implements Source, Disposable {
  readonly #server: net.Server;
  readonly #tracker: ConnectionTracker;
  readonly #sender: Sender;
  readonly #host: DepartureHost;
  readonly #place: Place | undefined;
  readonly #candidates = new Set<TrackedConnection>();
  readonly #later = new Set<TrackedConnection>();
  readonly #staying = new WeakSet<TrackedConnection>();
  readonly #between: Between;
  readonly #unowned = new WeakMap<TrackedConnection, number>();
  #timer: NodeJS.Timeout | undefined;
  /** Sent, and not answered. */
  #away = 0;
  /** Why everything that comes now stays: the channel has ended. */
  #over: string | undefined;
  /** Set while a connection is adopted that was sent in vain. */
  #returning: string | undefined;

  constructor(tracker: ConnectionTracker, sender: Sender, host: DepartureHost) {
    this.#server = tracker.server;
    this.#tracker = tracker;
    this.#sender = sender;
    this.#host = host;
    this.#place = placeOfServer(this.#server);
    this.#between = new Between(this.#server);
    sender.add(this);
  }

  /** How many were sent and are not answered. */
  get away(): number {
    return this.#away;
  }

  /** Whether it may go some time: nobody should tell its client that the connection ends. */
  mayGo(connection: TrackedConnection): boolean {
    return this.#over === undefined && !this.#staying.has(connection);
  }

  /** Something of this connection has changed: it is new, its response is out, it was upgraded. */
  consider(connection: TrackedConnection): void {
    if (this.#returning !== undefined) {
      this.#staying.add(connection);
      this.#host.stays(connection, undefined);
      return;
    }
    if (this.#staying.has(connection) || connection.closed) return;
    const reason = this.#over ?? this.#neverFor(connection);
    if (reason !== undefined) {
      this.#stay(connection, reason);
      return;
    }
    this.#later.delete(connection);
    this.#candidates.add(connection);
    this.#sender.wake();
  }

  /** It has ended. */
  forget(connection: TrackedConnection): void {
    this.#candidates.delete(connection);
    this.#later.delete(connection);
  }

  /** Little time is left: what its hooks have kept busy until now stays, and can still be told so. */
  giveUpBusy(): void {
    for (const connection of [...this.#later]) {
      const isEndless = connection.upgraded || connection.protocol === 'raw';
      if (isEndless || hooksFor(this.#server, connection.socket, false) !== undefined)
        this.#stay(connection, 'busy to the end');
    }
  }

  take(room: Room, until: number): Parcel[] {
    const parcels: Parcel[] = [];
    const between = this.#between;
    between.newTurn();
    let bytes = 0;
    for (const connection of this.#candidates) {
      if (parcels.length >= room.count || bytes >= room.bytes || performance.now() > until) break;
      this.#candidates.delete(connection);
      const parcel = this.#packed(connection, between);
      if (parcel === undefined) continue;
      parcels.push(parcel);
      bytes += parcel.size;
    }
    return parcels;
  }

  ended(reason: string): void {
    this.#over = reason;
    this.#host.over();
    for (const connection of [...this.#tracker.connections]) {
      if (!this.#staying.has(connection)) this.#stay(connection, reason);
    }
    this.#candidates.clear();
    this.#later.clear();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#sender.remove(this);
  }

  /** What no waiting changes. */
  #neverFor(connection: TrackedConnection): string | undefined {
    const { protocol, transport, socket, upgraded } = connection;
    if (this.#tracker.kind.tls || socket !== transport) return 'TLS';
    if (protocol === 'http2') return 'HTTP/2';
    if (this.#place === undefined) return 'no listener of its server';
    if ((protocol === 'raw' || upgraded) && !hasHooks(this.#server)) return upgraded ? 'upgraded' : 'raw';
    return undefined;
  }

  #stay(connection: TrackedConnection, reason: string): void {
    this.#staying.add(connection);
    this.forget(connection);
    const { socket } = connection;
    const way = hooksFor(this.#server, socket, connection.upgraded || connection.protocol === 'raw');
    this.#tell('stays', socket, way?.name ?? (connection.upgraded ? 'upgraded' : connection.protocol), reason);
    this.#host.stays(connection, reason);
    if (!socket.destroyed) attempt(`stay() of the hooks "${way?.name ?? ''}"`, () => way?.hooks.stay?.(socket, reason));
  }

  #again(connection: TrackedConnection, after: number = LOOK_AGAIN): void {
    this.#later.add(connection);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const due = [...this.#later];
      this.#later.clear();
      for (const each of due) this.consider(each);
    }, after);
  }

  /** The connection as a parcel, if it can go at this moment. */
  #packed(connection: TrackedConnection, between: Between): Parcel | undefined {
    const { socket } = connection;
    if (connection.closed || isEnding(socket)) return undefined;
    const isEndless = connection.upgraded || connection.protocol === 'raw';
    const hooked = hooksFor(this.#server, socket, isEndless);
    if (hooked !== undefined) return this.#packedByHooks(connection, hooked.name, hooked.hooks, between);
    if (isEndless) {
      const looks = (this.#unowned.get(connection) ?? 0) + 1;
      this.#unowned.set(connection, looks);
      if (looks > UNOWNED) this.#stay(connection, 'no hooks own it');
      else this.#again(connection);
      return undefined;
    }
    const verdict = verdictOf(connection, between);
    if (verdict === 'again') this.#again(connection);
    // An endless response may become one of the hooks' own while it is sent.
    if (verdict === 'wait' && connection.state === 'active' && hasHooks(this.#server)) this.#again(connection);
    if (verdict !== 'go') return undefined;
    const fd = this.#dup(connection);
    if (fd === undefined) return undefined;
    const isOld = isUsed(socket);
    return this.#parcel(connection, 'http1', fd, { used: isOld }, (copy) => {
      adoptHttp(this.#server, copy, isOld);
    });
  }

  #packedByHooks(
    connection: TrackedConnection,
    name: string,
    hooks: MovingHooks,
    between: Between,
  ): Parcel | undefined {
    const { socket, upgraded } = connection;
    const isResponse = connection.protocol === 'http1' && !upgraded;
    try {
      const never = hooks.cannot?.(socket) || (socket.readableEncoding === null ? undefined : 'setEncoding');
      if (never !== undefined) {
        this.#stay(connection, never);
        return undefined;
      }
      const isInRequest = isResponse && !isBetweenRequests(connection, between);
      if (isInRequest || hasUnwritten(socket) || Boolean(hooks.busy?.(socket))) {
        this.#again(connection);
        return undefined;
      }
    } catch (error) {
      warn(`busy() or cannot() of the hooks "${name}"`, error);
      this.#stay(connection, 'its hooks threw');
      return undefined;
    }
    const fd = this.#dup(connection);
    if (fd === undefined) return undefined;
    let paused: { state: unknown; unread: Buffer; size: number };
    try {
      const state = JSON.stringify(hooks.pause(socket) ?? null);
      const unread = isResponse ? Buffer.alloc(0) : takeUnread(socket);
      paused = { state: JSON.parse(state), unread, size: state.length + unread.length * 1.4 };
    } catch (error) {
      raw.close(fd);
      warn(`pause() of the hooks "${name}"`, error);
      this.#stay(connection, 'its hooks threw');
      return undefined;
    }
    const { state, unread, size } = paused;
    const resume = (): void => {
      adoptWithHooks(hooks, name, socket, state, unread);
    };
    if (size > MAX_STATE || socket.destroyed) {
      raw.close(fd);
      if (socket.destroyed) return undefined;
      resume();
      this.#stay(connection, 'more state than can travel');
      return undefined;
    }
    const item = { state, unread: unread.toString('base64'), upgraded, response: isResponse };
    const parcel = this.#parcel(connection, { hooks, name }, fd, item, (copy, reason) => {
      const again = openForHooks(this.#server, this.#tracker, copy, upgraded || isResponse);
      adoptWithHooks(hooks, name, again, state, unread);
      if (!again.destroyed) hooks.stay?.(again, reason);
    });
    return {
      ...parcel,
      size: ITEM + size,
      keep: () => {
        resume();
        parcel.keep();
      },
    };
  }

  #dup(connection: TrackedConnection): number | undefined {
    try {
      return dupOf(connection.socket);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && (error.code === 'EMFILE' || error.code === 'ENFILE')))
        throw error;
      this.#again(connection, NO_DESCRIPTOR);
      return undefined;
    }
  }

  #parcel(
    connection: TrackedConnection,
    way: Way,
    fd: number,
    more: Record<string, unknown>,
    adopt: (copy: number, reason: string) => void,
  ): Parcel {
    const { socket } = connection;
    const name = way === 'http1' ? undefined : way.name;
    const remote = isHeard() ? remoteOf(socket) : undefined; // a destroyed one no longer tells
    return {
      item: { ...this.#place, ...(name === undefined ? {} : { hooks: name }), ...more },
      size: ITEM,
      fd,
      gone: () => {
        this.#away++;
        this.#host.left(connection);
        socket.destroy();
      },
      keep: () => {
        this.#candidates.add(connection);
      },
      letGo: () => {
        this.#tell('moved', remote, name);
        this.#host.moved();
        this.#back();
      },
      takeBack: (copy, why) => {
        const reason = why === 'refused' ? 'refused by the successor' : `not answered: the channel ${why}`;
        this.#tell('returned', remote, name, reason);
        this.#returning = reason;
        this.#host.returned(reason);
        attempt('The return of a connection', () => {
          adopt(copy, reason);
        });
        this.#returning = undefined;
        this.#back();
      },
    };
  }

  #back(): void {
    this.#away--;
    if (this.#away === 0) this.#host.settled();
  }

  #tell(
    change: 'moved' | 'returned' | 'stays',
    from: net.Socket | string | undefined,
    way?: string,
    reason?: string,
  ): void {
    if (!isHeard()) return;
    const remote = typeof from === 'object' ? remoteOf(from) : from;
    const listener = this.#place?.listener ?? '';
    publish({ event: 'connection', change, listener, way: way ?? 'http1', reason, remote });
  }
}

/** Whether nothing of a next request was read behind the one whose response is being sent, and all of that one. */
function isBetweenRequests(connection: TrackedConnection, between: Between): boolean {
  const { current } = connection;
  if (current === undefined || !current.headersSent || current.writableLength > 0 || current.writableEnded)
    return false;
  return between.has(connection) && !connection.hasRequestBehind(current);
}

/** `host:port` of the client, or '' over a Unix socket. */
export function remoteOf({ remoteAddress, remotePort }: net.Socket): string {
  return remoteAddress === undefined ? '' : `${remoteAddress}:${remotePort ?? ''}`;
}
