/**
 * A channel that speaks frames: messages in, messages out, with their descriptors.
 * Owns the channel, and what it has read until somebody takes it. Knows the order of no dialog.
 */
import { Link } from '../link.js';
import * as raw from '../raw.js';
import { encodeFrame, type Frame, FrameReader, type Message } from './frame.js';

/** Everything that a channel held when it was read. */
export interface WireMail {
  /** In order. Their descriptors belong to the reader. */
  frames: Frame<number>[];
  /** Bytes that are not ours, or descriptors that did not fit into this process: nothing behind them is read any more. */
  malformed: string | undefined;
  /** Of these two it was the latter: some are lost for want of room. */
  overflowed: boolean;
  /** The other side has ended; nothing of it is left. */
  ended: boolean;
}

/** Closes what came with a frame that is not wanted. */
export function discard(frame: Frame<number>): void {
  for (const fd of frame.fds.splice(0)) raw.close(fd);
}

/** One end of the control channel of a handoff. */
export class Wire implements Disposable {
  readonly #link: Link;
  readonly #reader = new FrameReader();
  #unread: Frame<number>[] = [];

  /** Takes the link over. */
  constructor(link: Link) {
    this.#link = link;
  }

  get closed(): boolean {
    return this.#link.closed;
  }

  /** The descriptor, which stays this wire's: to look at. -1 once closed. */
  get fd(): number {
    return this.#link.fd;
  }

  /**
   * Sends a message now, or when there is room.
   *
   * @param fds - As many as the message names. They stay the caller's, open until the other side has acknowledged them.
   * @returns False: the other side has ended, and nothing was sent.
   */
  send(message: Message, fds: readonly number[] = []): boolean {
    return this.#link.send(encodeFrame(message), fds);
  }

  /** Sends a message now or not at all. `full`: the kernel has no room for it at the moment. */
  sendNow(message: Message, fds: readonly number[] = []): 'sent' | 'full' | 'ended' {
    if (this.#link.unsent > 0) return 'full';
    const bytes = encodeFrame(message);
    if (!this.#link.send(bytes, fds)) return 'ended';
    return this.#link.takeBack(bytes) ? 'full' : 'sent';
  }

  /** Bytes that the kernel has not taken yet. */
  get unsent(): number {
    return this.#link.unsent;
  }

  /** Reads all that is there, without waiting. */
  readAll(): WireMail {
    const mail: WireMail = { frames: this.#unread, malformed: undefined, overflowed: false, ended: true };
    this.#unread = [];
    if (this.closed) return mail;
    const { arrived, ended, failure } = this.#link.readAll();
    for (const { bytes, fds } of arrived) {
      const arrival = this.#reader.push(bytes, fds);
      mail.frames.push(...arrival.frames);
      for (const fd of arrival.close) raw.close(fd);
      mail.malformed ??= arrival.failure;
    }
    mail.overflowed = mail.malformed === undefined && failure !== undefined;
    mail.malformed ??= failure?.message;
    if (ended || failure !== undefined) for (const fd of this.#reader.end().close) raw.close(fd);
    mail.ended = ended;
    return mail;
  }

  /** The first of these frames comes first when the channel is read again. */
  putBack(frames: readonly Frame<number>[]): void {
    this.#unread = [...frames, ...this.#unread];
  }

  /** Calls `onReadable` whenever there is mail or the other side has ended. */
  listen(onReadable: () => void): void {
    this.#link.listen(onReadable);
  }

  ref(): void {
    this.#link.ref();
  }

  unref(): void {
    this.#link.unref();
  }

  /** Closes the channel, and what came with frames that nobody has read. */
  close(): void {
    for (const frame of this.#unread.splice(0)) discard(frame);
    for (const fd of this.#reader.end().close) raw.close(fd);
    this.#link.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A successor that serves. */
export interface Successor {
  /** 0 where it cannot be known: it took over from another PID namespace. */
  readonly pid: number;
  readonly generation: number;
  /** Resolves when it ends, should this process live to see it. Both are null where it is no child of this process. */
  readonly exited: Promise<{ exitCode: number | null; signal: NodeJS.Signals | null }>;
}

/** What HELLO says of a side that takes connections: one of an older release would not answer. */
export const TAKES_CONNECTIONS = 'connections';

const entrusted = new WeakMap<Successor, Wire>();

/**
 * The channel to a successor that has taken over: kept for the connections that follow. Until somebody takes it, it is read to its
 * end and closed then.
 */
export function entrust(successor: Successor, wire: Wire): void {
  entrusted.set(successor, wire);
  wire.listen(() => {
    const { frames, malformed, ended } = wire.readAll();
    for (const frame of frames) discard(frame);
    if (ended || malformed !== undefined) wire.close();
  });
}

/** The channel to a successor that has taken over; undefined where it has none, or its end was seen. Whoever listens on it closes it. */
export function wireTo(successor: Successor): Wire | undefined {
  const wire = entrusted.get(successor);
  return wire?.closed === true ? undefined : wire;
}
