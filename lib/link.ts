/**
 * One end of a connected Unix stream, for a dialog that is written and read at given moments: what the control channel of a
 * handoff needs. Everything here is synchronous; channel.ts is the one for users, with promises.
 * Owns its descriptor. Knows nothing of frames or of the handoff: what it carries is the caller's.
 * Source: unix(7), SCM_RIGHTS; sendmsg(2), recvmsg(2).
 */
import { FdpassError } from './errors.js';
import * as raw from './raw.js';

/** What one recvmsg brought. The receiver owns the descriptors. */
export interface Arrived {
  bytes: Buffer;
  fds: number[];
}

/** Everything that could be read without waiting. */
export interface Mail {
  arrived: Arrived[];
  /** The other side has ended, and nothing of it is left to be read: end of the stream, or the error that says so. */
  ended: boolean;
  /** It could not be read to the end: descriptors did not fit into this process (`ERR_FDPASS_LIMIT`), and are lost. */
  failure: Error | undefined;
}

/** Bytes that wait for room in the kernel, and the descriptors that go with the first of them. */
interface Waiting {
  bytes: Buffer;
  fds: readonly number[];
}

/** Read at once: more than any frame of the handoff, so that a chunk is rarely a part of one. */
const CHUNK = 65_536;

/** A connected Unix stream socket. What it cannot send at once waits in a queue that the caller bounds. */
export class Link implements Disposable {
  #fd: number;
  #watch: raw.Watch | undefined;
  #onReadable: (() => void) | undefined;
  readonly #waiting: Waiting[] = [];
  #broken = false;
  #referenced = true;

  /** Takes `fd` over: it belongs to this Link from here on, and is closed with it. */
  constructor(fd: number) {
    this.#fd = fd;
  }

  /** Two ends. The second is a bare number, close-on-exec, which the caller owns. socketpair(2) */
  static pair(): [Link, number] {
    const [ours, theirs] = raw.socketPair('stream');
    return [new Link(ours), theirs];
  }

  get fd(): number {
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /**
   * Sends bytes in order, now or when the kernel takes more.
   *
   * @param fds - Go with the first byte; at most 253. They stay the caller's, and open until the other side has said that it has
   * them: what waits here names them by number.
   * @returns False when the other side has ended: nothing was or will be sent. What ends it later shows in {@link readAll}.
   * @throws The system's ETOOMANYREFS, with nothing queued: too many descriptors are on their way.
   */
  send(bytes: Buffer, fds: readonly number[] = []): boolean {
    if (this.#broken || this.closed) return false;
    this.#waiting.push({ bytes, fds });
    return this.#flush();
  }

  /** Bytes that wait for room in the kernel. */
  get unsent(): number {
    return this.#waiting.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  /** Takes back what waits whole: nothing of it has gone. False: a part has, and the rest must follow. */
  takeBack(bytes: Buffer): boolean {
    const last = this.#waiting.at(-1);
    if (last?.bytes !== bytes) return false;
    this.#waiting.pop();
    this.#rewatch();
    return true;
  }

  #flush(): boolean {
    try {
      for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
        const sent = raw.send(this.#fd, first.bytes, first.fds);
        if (sent === undefined) break;
        if (sent === first.bytes.length) this.#waiting.shift();
        else this.#waiting[0] = { bytes: first.bytes.subarray(sent), fds: [] };
      }
    } catch (error) {
      if (!isEnd(error)) {
        this.#waiting.shift();
        throw error;
      }
      this.#broken = true;
      this.#waiting.length = 0;
    }
    this.#rewatch();
    return !this.#broken;
  }

  /** Calls `onReadable` whenever there is something to read, or the other side has ended, until the channel is closed. */
  listen(onReadable: () => void): void {
    this.#onReadable = onReadable;
    this.#rewatch();
  }

  #rewatch(): void {
    if (this.closed) return;
    const readable = this.#onReadable !== undefined;
    const writable = this.#waiting.length > 0;
    if (!readable && !writable) return;
    if (this.#watch !== undefined) {
      this.#watch.update({ readable, writable });
      return;
    }
    this.#watch = raw.watch(this.#fd, { readable, writable }, (events) => {
      if (events.writable && this.#waiting.length > 0) this.#flush();
      if (events.readable) this.#onReadable?.();
    });
    if (!this.#referenced) this.#watch.unref();
  }

  /** Reads all that is there, without waiting. */
  readAll(): Mail {
    const arrived: Arrived[] = [];
    try {
      for (;;) {
        const chunk = raw.receive(this.#fd, CHUNK);
        if (chunk === undefined) return { arrived, ended: false, failure: undefined };
        if (chunk.bytes.length === 0) return { arrived, ended: true, failure: undefined };
        arrived.push({ bytes: chunk.bytes, fds: chunk.fds });
      }
    } catch (error) {
      if (isEnd(error)) return { arrived, ended: true, failure: undefined }; // it ended with mail from us unread
      if (error instanceof FdpassError) return { arrived, ended: false, failure: error };
      for (const { fds } of arrived) for (const fd of fds) raw.close(fd);
      throw error;
    }
  }

  /** Does not keep the process alive. */
  unref(): void {
    this.#referenced = false;
    this.#watch?.unref();
  }

  ref(): void {
    this.#referenced = true;
    this.#watch?.ref();
  }

  /** Closes the descriptor. The other side reads what was sent, then the end. Idempotent. */
  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1; // the owner forgets the number first
    this.#watch?.close();
    this.#watch = undefined;
    this.#onReadable = undefined;
    this.#waiting.length = 0;
    raw.close(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function isEnd(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return code === 'EPIPE' || code === 'ECONNRESET' || code === 'ENOTCONN';
}
