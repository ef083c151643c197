/**
 * The new side of moving: answers the batches that the predecessor sends, and gives each connection to its server.
 * Owns the channel from the moment it is made, and the descriptors until they are adopted. Reads nothing from the channel: whoever
 * reads it passes on what comes. Source: docs/protocol.md.
 */
import type net from 'node:net';

import { trackConnections } from '../connections.js';
import { Deferred } from '../deferred.js';
import type { Frame } from '../handoff/frame.js';
import { discard, type Wire } from '../handoff/wire.js';
import * as raw from '../raw.js';
import { isHeard, publish } from '../report.js';
import { hooksNamed } from './hooks.js';
import { adoptHttp } from './http1.js';
import { adoptWithHooks, attempt, openForHooks } from './passage.js';
import { Places, type Place, readPlace } from './places.js';
import { NEW_RECEIVER, receiver, type ReceiverEffect, type ReceiverEvent, type ReceiverState } from './rules.js';

/** How long a turn of the loop adopts, ms. What else this process does waits so long. */
const BUDGET = 2;
/** How long to wait where the kernel has no room for an answer, ms: nothing tells when it has. */
const RETRY = 5;

/** One connection that has come, and how it is taken up. */
interface Arrival {
  fd: number;
  place: Place | undefined;
  way: string | undefined;
  adopt: ((fd: number) => net.Socket) | undefined;
}

let current: Receiver | undefined;

/** Whatever comes this way is waited for by a drain of this process. */
export function expect(receiver: Receiver): void {
  current = receiver;
}

/**
 * What may still come from a predecessor, or has come and is not yet with its server. Undefined: nothing.
 *
 * @returns Resolves when there is nothing more.
 */
export function arrivals(): Promise<void> | undefined {
  return current?.over;
}

/** One that is waited for before this process may end, even where it takes nothing more. */
export function pendingArrivals(): number {
  return current?.pending ?? 0;
}

/** Takes what a predecessor sends after its RELEASED. */
export class Receiver {
  readonly #wire: Wire;
  readonly #places = new Places();
  /** By batch and index: those that are not answered for. */
  readonly #held = new Map<number, Map<number, Arrival>>();
  readonly #queue: Arrival[] = [];
  /** Batches that have come and are not looked at: answered for when those before them are with their servers, and not earlier. */
  readonly #backlog: Frame<number>[] = [];
  readonly #over = new Deferred<void>();
  #state: ReceiverState = NEW_RECEIVER;
  #isAdopting = false;
  #retry: NodeJS.Timeout | undefined;
  /** An answer waits in the channel's own queue: the kernel has not all of it. */
  #isHalfSent = false;

  /** Takes the wire over. */
  constructor(wire: Wire) {
    this.#wire = wire;
  }

  /** Resolves when nothing more comes, and all that came is with its server. */
  get over(): Promise<void> | undefined {
    return this.#state.open || this.pending > 0 ? this.#over.promise : undefined;
  }

  /** Answered for, and not yet with their servers. */
  get pending(): number {
    return this.#queue.length;
  }

  /** Takes a frame of type CONNECTION, and its descriptors. */
  take(frame: Frame<number>): void {
    this.#backlog.push(frame);
    this.#unpackNext();
  }

  #unpackNext(): void {
    if (this.#queue.length > 0 || this.#state.waiting.length > 0) return;
    const next = this.#backlog.shift();
    if (next !== undefined) this.#unpack(next);
  }

  #unpack(frame: Frame<number>): void {
    const { message } = frame;
    if (message.type !== 'CONNECTION') {
      discard(frame);
      return;
    }
    this.#places.refresh();
    const { batch, items } = message;
    const arrivals = items.map((item, index) => this.#arrival(item, frame.fds[index] ?? -1));
    const takes: number[] = [];
    const refuses: number[] = [];
    for (const [index, { adopt }] of arrivals.entries()) (adopt === undefined ? refuses : takes).push(index);
    this.#held.set(batch, new Map(arrivals.entries()));
    this.#step({ type: 'batch', batch, takes, refuses });
  }

  /** The predecessor has ended, or closed the channel. */
  ended(): void {
    for (const frame of this.#backlog.splice(0)) this.#unpack(frame);
    this.#step({ type: 'ended' });
  }

  /** Takes nothing more: this process leaves, or cannot read what comes. What is not answered goes on in the predecessor. */
  close(): void {
    for (const frame of this.#backlog.splice(0)) discard(frame);
    this.#step({ type: 'close' });
  }

  #arrival(item: Record<string, unknown>, fd: number): Arrival {
    const place = readPlace(item);
    const server = place === undefined ? undefined : this.#places.find(place);
    const { hooks: name, upgraded, response, used, state, unread } = item;
    const way = typeof name === 'string' ? name : undefined;
    const arrival: Arrival = { fd, place, way, adopt: undefined };
    if (server === undefined || place === undefined) return arrival;
    if (way === undefined) {
      if (place.kind === 'http1') arrival.adopt = (copy) => adoptHttp(server, copy, used === true);
      return arrival;
    }
    const hooks = hooksNamed(server, way);
    if (hooks === undefined) return arrival;
    const bytes = Buffer.from(typeof unread === 'string' ? unread : '', 'base64');
    arrival.adopt = (copy) => {
      const socket = openForHooks(server, trackConnections(server), copy, upgraded === true || response === true);
      adoptWithHooks(hooks, way, socket, state, bytes);
      return socket;
    };
    return arrival;
  }

  #step(event: ReceiverEvent): void {
    const { state, effects } = receiver(this.#state, event);
    this.#state = state;
    for (const effect of effects) this.#do(effect);
    this.#settle();
  }

  #do(effect: ReceiverEffect): void {
    switch (effect.type) {
      case 'answer':
        this.#answer(effect.batch, effect.refused);
        break;
      case 'adopt':
        this.#queue.push(...this.#taken(effect.batch, effect.indexes));
        this.#adopt();
        break;
      case 'drop':
        for (const { fd } of this.#taken(effect.batch, effect.indexes)) raw.close(fd);
        break;
      case 'closeChannel':
        clearTimeout(this.#retry);
        this.#wire.close();
        break;
    }
  }

  #taken(batch: number, indexes: readonly number[]): Arrival[] {
    const held = this.#held.get(batch);
    const taken = indexes.flatMap((index) => held?.get(index) ?? []);
    for (const index of indexes) held?.delete(index);
    if (held?.size === 0) this.#held.delete(batch);
    return taken;
  }

  #answer(batch: number, refused: readonly number[]): void {
    if (!this.#isHalfSent) {
      const outcome = this.#wire.sendNow({ type: 'CONNECTION_ACK', batch, refused: [...refused] });
      if (outcome === 'ended') {
        this.#step({ type: 'answered', outcome });
        return;
      }
      this.#isHalfSent = outcome === 'sent';
    }
    // An answer counts when the kernel has it, whole.
    if (this.#isHalfSent && this.#wire.unsent === 0) {
      this.#isHalfSent = false;
      this.#step({ type: 'answered', outcome: 'sent' });
      return;
    }
    this.#step({ type: 'answered', outcome: 'full' });
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#step({ type: 'retry' });
    }, RETRY);
  }

  /** As many as fit into this turn; the rest in the next ones. */
  #adopt(): void {
    if (this.#isAdopting) return;
    const until = performance.now() + BUDGET;
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      this.#adoptOne(next);
      if (this.#queue.length > 0 && performance.now() > until) break;
    }
    if (this.#queue.length === 0) {
      this.#settle();
      return;
    }
    this.#isAdopting = true;
    setImmediate(() => {
      this.#isAdopting = false;
      this.#adopt();
    });
  }

  #adoptOne({ fd, place, way, adopt }: Arrival): void {
    attempt('The arrival of a connection', () => {
      const socket = adopt?.(fd);
      if (socket === undefined || !isHeard()) return;
      const remote = socket.remoteAddress === undefined ? '' : `${socket.remoteAddress}:${socket.remotePort ?? ''}`;
      const listener = place?.listener ?? '';
      publish({ event: 'connection', change: 'adopted', listener, way: way ?? 'http1', reason: undefined, remote });
    });
  }

  #settle(): void {
    this.#unpackNext();
    if (!this.#state.open && this.pending === 0) this.#over.resolve();
  }
}
