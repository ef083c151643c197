/**
 * A short dialog over a connected Unix stream, of which every step waits its turn: connect, send with descriptors, read so many bytes. One
 * deadline for all of it. For protocols of others (haproxy, s6), where this process is one of two sides and nothing else happens meanwhile.
 * Owns its descriptor, and those that came and were not taken. Source: unix(7), SCM_RIGHTS; sendmsg(2), recvmsg(2).
 */
import { setTimeout as delay } from 'node:timers/promises';

import { FdpassError } from './errors.js';
import * as raw from './raw.js';

/** How long to wait. */
export interface DialogOptions {
  /** ms for the whole. Default 5 000. */
  timeout?: number | undefined;
  /** Ends the wait, and closes the connection. */
  signal?: AbortSignal | undefined;
}

const DEFAULT_TIMEOUT = 5_000;
const CHUNK = 65_536;
/** How often a full queue is tried, ms: connect(2) tells nobody when it has room. */
const RETRY = 20;

/** One side of a dialog. */
export class Dialog implements Disposable {
  #fd: number;
  /** What the other side is called in errors. */
  readonly #who: string;
  readonly #timeout: number;
  #deadline: number;
  readonly #signal: AbortSignal | undefined;
  #bytes: Buffer = Buffer.alloc(0);
  readonly #fds: number[] = [];
  #ended = false;
  /** Ends the wait that is under way: a watch must go before its descriptor. */
  #cancel: (() => void) | undefined;

  /** Takes `fd` over: a connected, non-blocking stream. */
  constructor(fd: number, who: string, { timeout = DEFAULT_TIMEOUT, signal }: DialogOptions = {}) {
    this.#fd = fd;
    this.#who = who;
    this.#timeout = timeout;
    this.#deadline = performance.now() + timeout;
    this.#signal = signal;
  }

  /**
   * Connects to a path.
   *
   * @throws `ENOENT`, `ECONNREFUSED`, `EACCES` of connect(2); `ERR_FDPASS_LIMIT`: the queue is full until the deadline.
   */
  static async connect(path: string, who: string, options: DialogOptions = {}): Promise<Dialog> {
    options.signal?.throwIfAborted();
    const fd = raw.socket('unix', 'stream');
    const dialog = new Dialog(fd, who, options);
    try {
      while (!dialog.#connect(path)) await delay(RETRY, undefined, { signal: options.signal });
      return dialog;
    } catch (error) {
      dialog.close();
      throw error;
    }
  }

  #connect(path: string): boolean {
    try {
      raw.connect(this.#fd, { family: 'unix', path });
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      if (performance.now() > this.#deadline) throw this.#late('its queue is full');
      return false;
    }
  }

  /** Everything that follows has the whole time again. */
  renew(): void {
    this.#deadline = performance.now() + this.#timeout;
  }

  /** Whose connection it is. */
  get credentials(): raw.Credentials {
    return raw.peerCredentials(this.#fd);
  }

  /**
   * Sends all of it.
   *
   * @param fds - Go with the first byte; at most 253. They stay the caller's.
   * @returns False where the other side has ended.
   */
  async send(bytes: Buffer, fds: readonly number[] = []): Promise<boolean> {
    let rest = bytes;
    let rights = fds;
    while (rest.length > 0) {
      let sent: number | undefined;
      try {
        sent = raw.send(this.#fd, rest, rights);
      } catch (error) {
        if (isEnd(error)) return false;
        throw error;
      }
      if (sent === undefined) {
        await this.#event({ writable: true }, 'it takes nothing');
        continue;
      }
      rest = rest.subarray(sent);
      rights = [];
    }
    return true;
  }

  /** Exactly so many bytes; fewer where the other side has ended. */
  async read(length: number): Promise<Buffer> {
    while (this.#bytes.length < length && !this.#ended) await this.#receive();
    return this.#take(Math.min(length, this.#bytes.length));
  }

  /** What comes next, with its descriptors, which are the caller's; empty at the end. */
  async readMessage(): Promise<{ bytes: Buffer; fds: number[] }> {
    if (this.#bytes.length === 0 && !this.#ended) await this.#receive();
    return { bytes: this.#take(this.#bytes.length), fds: this.#fds.splice(0) };
  }

  /** Up to and without the first `\n`; undefined where the other side ended before, or more than `limit` bytes came. */
  async readLine(limit: number): Promise<string | undefined> {
    for (;;) {
      const end = this.#bytes.indexOf(0x0a);
      if (end >= 0 && end <= limit) return this.#take(end + 1).toString('utf8', 0, end);
      if (this.#ended || this.#bytes.length > limit) return undefined;
      await this.#receive();
    }
  }

  /** The descriptors that have come so far, in order; the caller's from here on. */
  takeDescriptors(): number[] {
    return this.#fds.splice(0);
  }

  #take(length: number): Buffer {
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = this.#bytes.subarray(length);
    return taken;
  }

  async #receive(): Promise<void> {
    for (;;) {
      let message: raw.Message | undefined;
      try {
        message = raw.receive(this.#fd, CHUNK);
      } catch (error) {
        if (!isEnd(error)) throw error;
        this.#ended = true;
        return;
      }
      if (message === undefined) {
        await this.#event({ readable: true }, 'it says nothing');
        continue;
      }
      this.#fds.push(...message.fds);
      this.#ended = message.bytes.length === 0;
      this.#bytes = Buffer.concat([this.#bytes, message.bytes]);
      return;
    }
  }

  #event(interest: raw.WatchInterest, what: string): Promise<void> {
    const signal = this.#signal;
    signal?.throwIfAborted();
    const left = this.#deadline - performance.now();
    if (left <= 0) return Promise.reject(this.#late(what));
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void): void => {
        this.#cancel = undefined;
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        watch.close();
        settle();
      };
      const abort = (): void => {
        finish(() => {
          reject(signal?.reason as Error);
        });
      };
      const timer = setTimeout(() => {
        finish(() => {
          reject(this.#late(what));
        });
      }, left);
      const watch = raw.watch(this.#fd, interest, () => {
        finish(resolve);
      });
      signal?.addEventListener('abort', abort, { once: true });
      this.#cancel = () => {
        finish(() => {
          reject(new FdpassError('ERR_FDPASS_CLOSED', `The dialog with ${this.#who} was closed`));
        });
      };
    });
  }

  #late(what: string): FdpassError {
    return new FdpassError('ERR_FDPASS_LIMIT', `${this.#who}: ${what} for ${this.#timeout} ms`);
  }

  /** Closes the connection, and what came over it and was not taken. Idempotent. */
  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1; // the owner forgets the number first
    this.#cancel?.();
    for (const each of this.#fds.splice(0)) raw.close(each);
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
