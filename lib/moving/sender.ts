/**
 * The old side of moving: takes connections of all servers that are drained, a batch a turn of the loop, sends them over the channel of
 * the finished handoff, and carries out what the rules say of the answers.
 * Owns the channel, and the dup of each connection until its answer. Which connections, and how they stop here, is their server's
 * business (departures.ts). Source: docs/protocol.md.
 */
import type { Message } from '../handoff/frame.js';
import { discard, type Successor, type Wire, wireTo } from '../handoff/wire.js';
import * as raw from '../raw.js';
import { type Answer, NEW_SENDER, sender, type SenderEffect, type SenderEvent, type SenderState } from './rules.js';

/** One connection that is ready to go: everything of it has stopped, or will in the call of `gone`. */
export interface Parcel {
  readonly item: Record<string, unknown>;
  /** Bytes of the item, about. */
  readonly size: number;
  /** A dup: the sender's from here on, until it is given back with `takeBack`. */
  readonly fd: number;
  /** The kernel has it: destroy the socket, in this very tick. */
  gone(): void;
  /** It was not sent: the socket goes on. */
  keep(): void;
  /** It is the successor's. */
  letGo(): void;
  /** Serve it here, from `fd`, which is the callee's. */
  takeBack(fd: number, why: 'refused' | 'ended' | 'closed'): void;
}

/** The connections of one server. */
export interface Source {
  /** So many at most, found movable in this very tick; `until`: when to stop looking, ms of performance.now(). */
  take(room: Room, until: number): Parcel[];
  /** Nothing can be sent any more, for this reason. */
  ended(reason: string): void;
}

/** What still fits into the batch. */
export interface Room {
  readonly count: number;
  readonly bytes: number;
}

/** Connections in one batch; the kernel takes 253 descriptors at once. */
const BATCH = 250;
/** Batches that are not answered: more would only wait in the kernel, served by nobody. */
const WINDOW = 2;
/** How long a turn may look for connections, ms. What else this process does waits so long. */
const BUDGET = 8;
/** Bytes of the items of one batch; a frame holds 1 MiB. */
const BYTES = 524_288;
/** How long to wait where the kernel has no room, ms: nothing tells when it has. */
const RETRY = 5;

const senders = new WeakMap<Successor, Sender>();

/** What moves connections to this successor; undefined where there is no way to it. */
export function senderTo(successor: Successor): Sender | undefined {
  const known = senders.get(successor);
  if (known !== undefined) return known.isOpen ? known : undefined;
  const wire = wireTo(successor);
  if (wire === undefined) return undefined;
  const made = new Sender(wire);
  senders.set(successor, made);
  return made;
}

export class Sender {
  readonly #wire: Wire;
  readonly #sources = new Set<Source>();
  /** By batch and index: those that are not answered. */
  readonly #sent = new Map<number, Map<number, Parcel>>();
  #state: SenderState = NEW_SENDER;
  /** The parcels of the batch that is being made. */
  #packed: Parcel[] = [];
  #isScheduled = false;
  #isMail = false;
  #retry: NodeJS.Timeout | undefined;
  /** Why it is closed. */
  #reason = '';

  /** Takes the wire over. */
  constructor(wire: Wire) {
    this.#wire = wire;
    wire.listen(() => {
      if (this.#isMail) return;
      this.#isMail = true;
      // Outside of the poll phase: a socket that is destroyed there could stay registered (libuv before 1.49, io_uring)
      setImmediate(() => {
        this.#isMail = false;
        this.#read();
      });
    });
  }

  get isOpen(): boolean {
    return this.#state.open;
  }

  /** Joins the servers whose connections go. */
  add(source: Source): void {
    this.#sources.add(source);
    this.wake();
  }

  /** Nothing more of it goes. */
  remove(source: Source): void {
    this.#sources.delete(source);
  }

  get sources(): number {
    return this.#sources.size;
  }

  /** A source may have something: it is asked in a turn of its own, where nothing of the loop's events is under way. */
  wake(): void {
    if (this.#isScheduled || !this.isOpen) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      this.#send();
    });
  }

  /** Ends it. What is not answered is the successor's from here on: it may have it. */
  close(reason: string): void {
    if (!this.isOpen) return;
    if (!this.#read()) return; // what was answered in time counts
    this.#reason = reason;
    this.#step({ type: 'close', unsent: this.#wire.unsent > 0 });
  }

  #send(): void {
    if (!this.isOpen || this.#state.unanswered.length >= WINDOW || this.#retry !== undefined) return;
    if (this.#wire.unsent > 0) {
      this.#tryLater();
      return;
    }
    const until = performance.now() + BUDGET;
    const parcels: Parcel[] = [];
    let bytes = 0;
    for (const source of this.#sources) {
      if (parcels.length >= BATCH || bytes >= BYTES || performance.now() > until) break;
      const taken = source.take({ count: BATCH - parcels.length, bytes: BYTES - bytes }, until);
      for (const parcel of taken) bytes += parcel.size;
      parcels.push(...taken);
    }
    if (parcels.length === 0) return;
    this.#packed = parcels;
    this.#step({ type: 'send', count: parcels.length });
    this.wake();
  }

  #tryLater(): void {
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.wake();
    }, RETRY);
  }

  /** @returns Whether the channel is still open. */
  #read(): boolean {
    if (!this.isOpen) return false;
    const { frames, malformed, ended } = this.#wire.readAll();
    let garbage = malformed !== undefined;
    const answers: Answer[] = [];
    for (const frame of frames) {
      discard(frame);
      if (frame.message.type === 'CONNECTION_ACK') answers.push(frame.message);
      else garbage = true;
    }
    if (garbage) this.#reason = 'what the successor said was no answer';
    else if (ended) this.#reason = 'the successor ended';
    else if (answers.length === 0) return true;
    this.#step({ type: 'mail', answers, garbage, ended, unsent: this.#wire.unsent > 0 });
    this.wake();
    return !garbage && !ended;
  }

  #step(event: SenderEvent): void {
    const { state, effects } = sender(this.#state, event);
    const wasOpen = this.#state.open;
    this.#state = state;
    for (const effect of effects) this.#do(effect);
    if (!wasOpen || state.open) return;
    clearTimeout(this.#retry);
    for (const source of [...this.#sources]) source.ended(this.#reason);
  }

  #do(effect: SenderEffect): void {
    switch (effect.type) {
      case 'transmit':
        this.#transmit(effect.batch);
        break;
      case 'keep':
        for (const parcel of this.#packed.splice(0)) {
          raw.close(parcel.fd);
          parcel.keep();
        }
        break;
      case 'letGo':
        this.#settle(effect.batch, effect.indexes, (parcel) => {
          raw.close(parcel.fd);
          parcel.letGo();
        });
        break;
      case 'takeBack':
        this.#settle(effect.batch, effect.indexes, (parcel) => {
          parcel.takeBack(parcel.fd, effect.why);
        });
        break;
      case 'closeChannel':
        this.#wire.close();
        break;
    }
  }

  /** Each parcel once. */
  #settle(batch: number, indexes: readonly number[], how: (parcel: Parcel) => void): void {
    const parcels = this.#sent.get(batch);
    for (const index of indexes) {
      const parcel = parcels?.get(index);
      parcels?.delete(index);
      if (parcel !== undefined) how(parcel);
    }
    if (parcels?.size === 0) this.#sent.delete(batch);
  }

  #transmit(batch: number): void {
    const parcels = this.#packed;
    const message: Message = { type: 'CONNECTION', batch, items: parcels.map(({ item }) => item) };
    const outcome = this.#trySend(
      message,
      parcels.map(({ fd }) => fd),
    );
    if (outcome !== 'sent') {
      this.#step({ type: 'notSent', batch });
      if (outcome === 'full') this.#tryLater(); // its end shows when the channel is read
      return;
    }
    this.#packed = [];
    this.#sent.set(batch, new Map(parcels.entries()));
    for (const parcel of parcels) parcel.gone();
  }

  #trySend(message: Message, fds: readonly number[]): 'sent' | 'full' | 'ended' {
    try {
      return this.#wire.sendNow(message, fds);
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ETOOMANYREFS') return 'full'; // in flight, of this user
      throw error;
    }
  }
}
