/**
 * The end of a Unix socket that accepts channels.
 * Owns a Listener, and no channel that it has given away. Source: unix(7), accept(2).
 */
import type { Channel } from '../channel.js';
import { FdpassError } from '../errors.js';
import type { Listener } from '../listener.js';
import * as raw from '../raw.js';
import { abortError, asError, codeOf } from './failures.js';

/** Somebody who waits for a channel. */
interface Waiter {
  resolve(channel: Channel): void;
  reject(error: Error): void;
}

/** A Unix socket that listens; made by Channel.listen. It keeps the process alive only while somebody waits. */
export class ChannelListener implements AsyncDisposable, AsyncIterable<Channel> {
  /** Where it listens; `@name` is abstract. */
  readonly path: string;
  /** It owns the socket, and removes the path. Closed with this. */
  readonly listener: Listener;
  readonly #make: (fd: number) => Channel;
  #waiters: Waiter[] = [];
  #watch: raw.Watch | undefined;
  #closed = false;

  /** @internal */
  constructor(listener: Listener, path: string, make: (fd: number) => Channel) {
    this.listener = listener;
    this.path = path;
    this.#make = make;
  }

  get closed(): boolean {
    return this.#closed || this.listener.closed;
  }

  /**
   * The next channel that connects. Who it is says its `peer`, before a byte of it is read.
   *
   * @throws (As a rejection.) {@link FdpassError} `ERR_FDPASS_CLOSED`. EMFILE, ENFILE: it stays in the queue, and the next call may succeed. An
   * AbortError: `signal`; nothing is lost.
   * @see accept(2)
   */
  accept(options: { signal?: AbortSignal | undefined } = {}): Promise<Channel> {
    const { signal } = options;
    if (this.closed) return Promise.reject(this.#closedError());
    if (signal?.aborted === true) return Promise.reject(abortError(signal, 'accept'));
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        this.#rewatch();
        if (signal !== undefined) reject(abortError(signal, 'accept'));
      };
      const done = (): void => {
        signal?.removeEventListener('abort', onAbort);
      };
      const waiter: Waiter = {
        resolve: (channel) => {
          done();
          resolve(channel);
        },
        reject: (error) => {
          done();
          reject(error);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.#waiters.push(waiter);
      this.#rewatch();
    });
  }

  /** The channels that connect, until this is closed. To leave the loop early does not close it. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Channel, undefined> {
    for (;;) {
      const channel = await this.#acceptUntilClosed();
      if (channel === undefined) return;
      yield channel;
    }
  }

  async #acceptUntilClosed(): Promise<Channel | undefined> {
    try {
      return await this.accept();
    } catch (error) {
      if (this.closed) return undefined;
      throw error;
    }
  }

  /** Stops listening, and removes the path where it is still its own. Channels go on. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch?.close();
    this.#watch = undefined;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(this.#closedError());
    this.listener.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  #rewatch(): void {
    if (this.#waiters.length === 0) {
      this.#watch?.close();
      this.#watch = undefined;
    } else {
      this.#watch ??= raw.watch(this.listener.fd, { readable: true }, () => {
        this.#acceptAll();
      });
    }
  }

  #acceptAll(): void {
    for (let waiter = this.#waiters[0]; waiter !== undefined; waiter = this.#waiters[0]) {
      try {
        const fd = raw.accept(this.listener.fd);
        if (fd === undefined) break;
        this.#waiters.shift();
        waiter.resolve(this.#make(fd));
      } catch (error) {
        if (codeOf(error) === 'ECONNABORTED') continue;
        this.#waiters.shift();
        waiter.reject(asError(error));
      }
    }
    this.#rewatch();
  }

  #closedError(): FdpassError {
    return new FdpassError('ERR_FDPASS_CLOSED', `The listener for channels at ${this.path} was closed`);
  }
}
