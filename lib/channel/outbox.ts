/**
 * The sending half of a Channel: messages go at once where nothing waits before them; else they wait, in order and bounded.
 * Owns duplicates of the descriptors that wait. Waits for nothing itself: the Channel tells it when there is room.
 * Source: sendmsg(2); unix(7), SCM_RIGHTS and ETOOMANYREFS.
 */
import { FdpassError } from '../errors.js';
import * as raw from '../raw.js';
import { asError, codeOf } from './failures.js';
import { HEADER_LENGTH, MAX_PAYLOAD, MAX_RIGHTS, writeHeader } from './frames.js';
import { type Moving, NOTHING_MOVES } from './sendable.js';
import { closeNumbers, outgoing, OUTGOING_SIZE, outgoingFds, transfer } from './transfer.js';

/** What goes with one sendmsg of a stream: so much is one buffer of the kernel's, and arrives whole with its descriptors. */
const TOGETHER = 16_384;
/** The least SO_SNDBUF for which that is so: half of it, less the head of a buffer, is the largest. unix_stream_sendmsg, af_unix.c */
const LEAST_SEND_BUFFER: number = 2 * (TOGETHER + 64);
/** How long ETOOMANYREFS may last, in ms, and how often it is tried again: nothing tells when it is over. */
const STUCK_TIMEOUT = 5_000;
const RETRY_FIRST = 1;
const RETRY_LAST = 50;

/** So many messages may go in one turn of the event loop; then the sender waits for the next: timers and signals must have theirs. */
const IN_ONE_TURN = 256;

const SENT: Promise<void> = Promise.resolve();

/** Where a dgram goes. */
export type UnixAddress = raw.SocketAddress & { family: 'unix' };

/** What an Outbox must know of its Channel. */
export interface OutboxOptions {
  type: raw.SocketType;
  framed: boolean;
  /** SO_SNDBUF. */
  sendBuffer: number;
  highWaterBytes: number;
  highWaterDescriptors: number;
  /** There is, or is no longer, something that waits for room. */
  changed(): void;
  /** A message went in part, and cannot be completed: what follows would not be understood. */
  torn(error: unknown): void;
  /** The time has come to call {@link Outbox.flush} again. */
  retry(): void;
  /** Whether what waits for a time keeps the process alive. */
  isReferenced(): boolean;
}

/** What some messages have. */
export interface SendDetails {
  to?: UnixAddress | undefined;
  moving?: readonly Moving[];
  signal?: AbortSignal | undefined;
  /** The error of an abort. */
  aborted?: () => Error;
}

const NO_DETAILS: SendDetails = {};

/** A message that waits. */
interface Waiting {
  bytes: Uint8Array;
  /** Duplicates, ours; the caller's own while `send` has not returned. */
  fds: number[];
  owned: boolean;
  /** How much is in frames that have gone, or have begun to. */
  at: number;
  fdAt: number;
  to: UnixAddress | undefined;
  moving: readonly Moving[];
  /** Takes the promise, and the listener of its signal. */
  settle: (error?: unknown) => void;
}

/** What one sendmsg carries: `length` bytes, and the first `count` of the shared descriptors. */
interface Plan {
  bytes: Uint8Array;
  length: number;
  count: number;
  to: UnixAddress | undefined;
  /** So many messages of the queue are complete with it, and its tail. */
  whole: number;
  /** How far the next one has come, where it is not. */
  partly?: { at: number; fdAt: number };
  /** The rest of the last frame, straight from its message. */
  tail?: Uint8Array;
}

/** Everything that has to be sent. */
export class Outbox {
  readonly #options: OutboxOptions;
  readonly #largestPayload: number;
  readonly #isOneBuffer: boolean; // so many bytes as go together, and their descriptors, arrive as one
  readonly #coalesces: boolean;
  #queue: Waiting[] = [];
  /** What is left of frames that have begun to go. It has no descriptors any more. */
  #rest: Uint8Array[] = [];
  /** Messages that are complete when #rest has gone. */
  #finishing: Waiting[] = [];
  #bytes = 0; // waiting
  #fds = 0;
  #direct = 0; // messages that did not wait, since the last turn that was waited for
  #turn: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #retry = 0; // ms
  #stuckSince: number | undefined;
  readonly #full = new Set<string>(); // receivers of a dgram socket without room now
  #alone = false; // the next sendmsg carries one message: one of several was refused

  constructor(options: OutboxOptions) {
    this.#options = options;
    const { type, framed, sendBuffer } = options;
    // A packet must fit into the buffer, with what the kernel adds to it.
    this.#largestPayload =
      type === 'stream' ? MAX_PAYLOAD : Math.min(OUTGOING_SIZE, Math.max(1_024, sendBuffer >> 1)) - HEADER_LENGTH;
    this.#isOneBuffer = process.platform === 'linux' && sendBuffer >= LEAST_SEND_BUFFER;
    this.#coalesces = framed && type === 'stream' && this.#isOneBuffer;
  }

  /** True while something waits. */
  get isWaiting(): boolean {
    return this.#queue.length > 0 || this.#rest.length > 0;
  }

  /** True while something waits for room that the event loop can tell of. */
  get wantsRoom(): boolean {
    return this.isWaiting && this.#timer === undefined;
  }

  /**
   * Sends, now or later.
   *
   * @param fds - The caller's: what waits is duplicated before this returns.
   * @returns Resolves when the kernel has all of it.
   * @throws What keeps it from being taken at all; nothing went then.
   */
  send(fd: number, bytes: Uint8Array, fds: number[], options: SendDetails = NO_DETAILS): Promise<void> {
    const { to, moving = NOTHING_MOVES } = options;
    const direct = !this.isWaiting && to === undefined && this.#sendNow(fd, bytes, fds);
    if (direct) {
      for (const moved of moving) moved.gone();
      return this.#sent();
    }
    this.#checkRoom(bytes.length, fds.length);
    const waiting: Waiting = { bytes, fds, owned: false, at: 0, fdAt: 0, to, moving, settle: () => undefined };
    // What goes in more than one frame is duplicated before the first one goes: afterwards nothing may fail.
    if (this.isWaiting || fds.length > MAX_RIGHTS) own(waiting);
    const promise = this.#enqueue(waiting, options);
    if (to !== undefined || (this.#queue[0] === waiting && this.#rest.length === 0)) this.flush(fd);
    const isHere = !waiting.owned && waiting.fdAt < fds.length && this.#queue.includes(waiting);
    if (isHere) this.#ownOrRefuse(waiting);
    return promise;
  }

  /** A sender that awaits each promise never leaves its turn while there is room: for him the last of many is resolved in the next one. */
  #sent(): Promise<void> {
    if (++this.#direct < IN_ONE_TURN) return SENT;
    return (this.#turn ??= new Promise((resolve) => {
      setImmediate(() => {
        this.#turn = undefined;
        this.#direct = 0;
        resolve();
      });
    }));
  }

  /** Sends as much as there is room for. */
  flush(fd: number): void {
    this.#stopTimer();
    this.#full.clear();
    while (this.isWaiting && this.#sendSome(fd));
    if (this.#full.size > 0) this.#startTimer();
    this.#options.changed();
  }

  /** Ends: what waits is refused with `error`. */
  close(error: unknown): void {
    this.#stopTimer();
    const left = [...this.#finishing, ...this.#queue];
    this.#finishing = [];
    this.#queue = [];
    this.#rest = [];
    for (const waiting of left) this.#settle(waiting, error);
  }

  /** Whether the process is kept alive by what waits for a time. */
  setReferenced(referenced: boolean): void {
    if (referenced) this.#timer?.ref();
    else this.#timer?.unref();
  }

  /** A whole message in one sendmsg, and no promise made: nearly every one that finds nothing before it. False: not so. */
  #sendNow(fd: number, bytes: Uint8Array, fds: readonly number[]): boolean {
    const { framed, type } = this.#options;
    const count = fds.length;
    const length = framed ? HEADER_LENGTH + bytes.length : bytes.length;
    const most = type === 'stream' ? TOGETHER : this.#largestPayload + HEADER_LENGTH;
    if (count > MAX_RIGHTS || (length > most && (framed || type === 'stream'))) return false;
    if (type === 'stream' && !this.#isOneBuffer) return false; // it could go in part
    for (let index = 0; index < count; index++) outgoingFds[index] = fds[index] ?? -1;
    if (framed) {
      writeHeader(outgoing, 0, false, count, bytes.length);
      outgoing.set(bytes, HEADER_LENGTH);
    }
    try {
      const sent = transfer(fd, framed ? outgoing : bytes, 0, length, count);
      if (sent < 0) return false;
      if (sent === length) return true;
      const message = `${sent} of ${length} bytes went that are one buffer of the kernel's: SO_SNDBUF was changed`;
      this.#options.torn(new Error(message)); // the channel is closed
      throw new Error(message);
    } catch (error) {
      if (codeOf(error) === 'ETOOMANYREFS') return false; // it waits
      throw error;
    }
  }

  #checkRoom(bytes: number, fds: number): void {
    if (!this.isWaiting) return; // a large message may go alone
    const { highWaterBytes, highWaterDescriptors } = this.#options;
    if (this.#bytes + bytes <= highWaterBytes && this.#fds + fds <= highWaterDescriptors) return;
    const message =
      `${this.#bytes} bytes and ${this.#fds} descriptors wait for the other side to read, and no more than ${highWaterBytes} and ` +
      `${highWaterDescriptors} may (highWater): wait for the promise of send() before the next one; nothing of this message was sent`;
    throw new FdpassError('ERR_FDPASS_LIMIT', message);
  }

  #enqueue(waiting: Waiting, { signal, aborted }: SendDetails): Promise<void> {
    this.#queue.push(waiting);
    this.#bytes += waiting.bytes.length;
    this.#fds += waiting.fds.length;
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        const reason = aborted?.() ?? new Error('aborted');
        if (this.#isUntouched(waiting)) {
          this.#queue.splice(this.#queue.indexOf(waiting), 1);
          this.#settle(waiting, reason);
          this.#options.changed();
        } else {
          // The rest of it goes: half a message would spoil the channel. From here on the caller may change his bytes.
          waiting.bytes = Uint8Array.from(waiting.bytes);
          this.#rest = this.#rest.map((rest) => Uint8Array.from(rest));
          reject(reason);
        }
      };
      waiting.settle = (error) => {
        signal?.removeEventListener('abort', onAbort);
        if (error === undefined) resolve();
        else reject(asError(error));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
    });
  }

  #isUntouched(waiting: Waiting): boolean {
    return waiting.at === 0 && waiting.fdAt === 0 && this.#queue.includes(waiting);
  }

  /** It waits for longer than the call lasts, after which its numbers are the caller's to close. */
  #ownOrRefuse(waiting: Waiting): void {
    try {
      own(waiting);
    } catch (error) {
      this.#queue.splice(this.#queue.indexOf(waiting), 1);
      this.#settle(waiting, error);
      this.#options.changed();
    }
  }

  /** The end of a message, one way or the other: its duplicates are closed, what moves is told. */
  #settle(waiting: Waiting, error?: unknown): void {
    this.#bytes -= waiting.bytes.length;
    this.#fds -= waiting.fds.length;
    disown(waiting);
    for (const moved of waiting.moving) {
      if (error === undefined) moved.gone();
      else moved.stays();
    }
    waiting.settle(error);
  }

  /** One sendmsg. False: nothing more can go now. */
  #sendSome(fd: number): boolean {
    const rest = this.#rest[0];
    const plan = rest === undefined ? this.#plan() : undefined;
    try {
      if (rest !== undefined) return this.#sendRest(fd, rest);
      if (plan !== undefined) return this.#sendPlan(fd, plan);
      return false;
    } catch (error) {
      return this.#onError(error, plan);
    }
  }

  #sendRest(fd: number, rest: Uint8Array): boolean {
    const sent = transfer(fd, rest, 0, rest.length, 0);
    if (sent < 0) return false;
    this.#progressed();
    if (sent < rest.length) this.#rest[0] = rest.subarray(sent);
    else this.#rest.shift();
    if (this.#rest.length === 0) for (const waiting of this.#finishing.splice(0)) this.#settle(waiting);
    return true;
  }

  #sendPlan(fd: number, plan: Plan): boolean {
    const { bytes, length, count, to } = plan;
    let sent: number;
    if (to === undefined) {
      sent = transfer(fd, bytes, 0, length, count);
    } else {
      sent = raw.send(fd, bytes, Array.from(outgoingFds.subarray(0, count)), to) ?? -1;
      if (sent < 0) {
        this.#full.add(to.path); // of its room the event loop tells nothing; those for others may go
        return true;
      }
    }
    if (sent < 0) return false;
    this.#progressed();
    const { tail, whole, partly } = plan;
    if (sent < length) {
      const rest = bytes.subarray(sent, length);
      this.#rest.push(bytes === outgoing ? Buffer.from(rest) : rest); // that memory is used again
    }
    if (tail !== undefined) this.#rest.push(tail);
    for (const waiting of this.#queue.splice(0, whole)) {
      disown(waiting); // the kernel has them
      if (this.#rest.length > 0) this.#finishing.push(waiting);
      else this.#settle(waiting);
    }
    const first = this.#queue[0];
    if (partly !== undefined && first !== undefined) {
      first.at = partly.at;
      first.fdAt = partly.fdAt;
    }
    return true;
  }

  /** What the next sendmsg carries: as many whole frames as go together, or the beginning of one. Changes nothing but shared memory. */
  #plan(): Plan | undefined {
    if (this.#full.size > 0) {
      const next = this.#queue.findIndex(({ to }) => !this.#full.has(to?.path ?? ''));
      if (next < 0) return undefined;
      this.#queue.unshift(...this.#queue.splice(next, 1)); // those for one receiver stay in order
    }
    const first = this.#queue[0];
    if (first === undefined) return undefined;
    if (!this.#options.framed) {
      first.fds.forEach((number, index) => (outgoingFds[index] = number));
      const { bytes, fds, to } = first;
      return { bytes, length: bytes.length, count: fds.length, to, whole: 1 };
    }
    const plan: Plan = { bytes: outgoing, length: 0, count: 0, to: undefined, whole: 0 };
    const most = this.#alone ? 1 : this.#queue.length;
    while (plan.whole < most && this.#addMessage(plan, this.#queue[plan.whole]));
    return plan;
  }

  /** Adds the frames of a message. False: there is no room for another one behind it. */
  #addMessage(plan: Plan, waiting: Waiting | undefined): boolean {
    if (waiting === undefined) return false;
    const { bytes, fds } = waiting;
    const together = this.#options.type === 'stream' ? TOGETHER : OUTGOING_SIZE;
    let { at, fdAt } = waiting;
    for (;;) {
      const payload = Math.min(bytes.length - at, this.#largestPayload);
      const rights = Math.min(fds.length - fdAt, MAX_RIGHTS);
      const more = payload < bytes.length - at || rights < fds.length - fdAt;
      const fits = plan.length + HEADER_LENGTH + payload <= together && plan.count + rights <= MAX_RIGHTS;
      if (!fits && plan.length > 0) return false;
      const here = fits ? payload : together - HEADER_LENGTH;
      writeHeader(outgoing, plan.length, more, rights, payload);
      outgoing.set(bytes.subarray(at, at + here), plan.length + HEADER_LENGTH);
      for (let index = 0; index < rights; index++) outgoingFds[plan.count + index] = fds[fdAt + index] ?? -1;
      if (!fits) plan.tail = bytes.subarray(at + here, at + payload);
      plan.length += HEADER_LENGTH + here;
      plan.count += rights;
      at += payload;
      fdAt += rights;
      if (!more) {
        plan.whole++;
        delete plan.partly;
      } else {
        plan.partly = { at, fdAt };
      }
      if (!fits || !this.#coalesces) return false;
      if (!more) return true;
    }
  }

  #progressed(): void {
    this.#stuckSince = undefined;
    this.#retry = 0;
    this.#alone = false;
  }

  /** @returns Whether to go on with what is left. */
  #onError(error: unknown, plan: Plan | undefined): boolean {
    const first = this.#queue[0];
    if (isGone(error) && plan?.to === undefined) {
      this.close(error); // nothing that waits can go any more; what the other side has said can still be read
      return false;
    }
    if (plan === undefined || first === undefined) {
      this.#options.torn(error); // in the middle of a frame
      return false;
    }
    if (codeOf(error) === 'ETOOMANYREFS') {
      const now = performance.now();
      this.#stuckSince ??= now;
      if (now - this.#stuckSince < STUCK_TIMEOUT) {
        this.#startTimer();
        return false;
      }
    } else if (plan.whole + (plan.partly === undefined ? 0 : 1) > 1) {
      this.#alone = true; // whose fault it is shows when they go one by one
      return true;
    }
    this.#progressed();
    if (first.at > 0 || first.fdAt > 0) {
      this.#options.torn(error);
      return false;
    }
    this.#queue.shift();
    this.#settle(first, error);
    return true;
  }

  #startTimer(): void {
    this.#retry = Math.min(Math.max(RETRY_FIRST, 2 * this.#retry), RETRY_LAST);
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      this.#options.retry();
    }, this.#retry);
    if (!this.#options.isReferenced()) this.#timer.unref();
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/** Replaces the numbers by duplicates. @throws EBADF, EMFILE: nothing was duplicated then. */
function own(waiting: Waiting): void {
  const copies: number[] = [];
  try {
    for (const fd of waiting.fds) copies.push(raw.dup(fd, 3));
  } catch (error) {
    closeNumbers(copies);
    throw error;
  }
  waiting.fds = copies;
  waiting.owned = true;
}

/** Closes the duplicates: the kernel has them, or nobody wants them. */
function disown(waiting: Waiting): void {
  if (!waiting.owned) return;
  const gone = [...waiting.fds];
  waiting.fds.fill(-1); // the owner forgets the numbers first
  closeNumbers(gone);
}

function isGone(error: unknown): boolean {
  return ['EPIPE', 'ECONNRESET', 'ENOTCONN'].includes(String(codeOf(error)));
}
