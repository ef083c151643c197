/**
 * The receiving half of a Channel: reads when somebody waits, and keeps what came with it until it is asked for.
 * Owns what nobody has taken yet. Waits for nothing itself: the Channel tells it when there is something to read.
 * Source: recvmsg(2); unix(7), SCM_RIGHTS.
 */
import { FdpassError } from '../errors.js';
import * as raw from '../raw.js';
import { asError, codeOf } from './failures.js';
import { ChannelFrameReader, type ReadFailure, type ReadMessage } from './frames.js';
import { ChannelMessage } from './received.js';
import { closeNumbers, receiveMany } from './transfer.js';

/** What one recvmsg takes of a stream without framing. */
const CHUNK = 65_536;

/** What an Inbox must know of its Channel. */
export interface InboxOptions {
  type: raw.SocketType;
  framed: boolean;
  maxBytes: number;
  maxDescriptors: number;
  /** How errors and warnings name the channel. */
  label: string;
  /** Nothing more can be read. */
  failed(): void;
  /** The error of all that wait when the first of them was told what failed. */
  closedError(): Error;
}

/** Somebody who waits for a message. */
interface Waiter {
  resolve(message: ChannelMessage | undefined): void;
  reject(error: Error): void;
}

/** Everything that has come. */
export class Inbox {
  readonly #options: InboxOptions;
  readonly #reader: ChannelFrameReader;
  #ready: ChannelMessage[] = [];
  #next = 0; // the first of #ready that nobody has taken
  #waiters: Waiter[] = [];
  #arrived: ReadMessage[] = [];
  #ended = false;
  #failure: Error | undefined; // nobody was told yet

  constructor(options: InboxOptions) {
    this.#options = options;
    this.#reader = new ChannelFrameReader(options);
  }

  /** Somebody waits for what has to be read yet. */
  get wantsMail(): boolean {
    return this.#waiters.length > 0;
  }

  /** The other side has ended, and all of it was read. */
  get hasEnded(): boolean {
    return this.#ended;
  }

  /** Nothing was read that nobody has taken. */
  get isEmpty(): boolean {
    return this.#next === this.#ready.length && this.#reader.isEmpty;
  }

  /** The next message, where it is here already. */
  take(): ChannelMessage | undefined {
    const message = this.#ready[this.#next];
    if (message === undefined) return undefined;
    this.#next++;
    if (this.#next === this.#ready.length) {
      this.#ready = [];
      this.#next = 0;
    }
    return message;
  }

  /** Why there will be none, to the one who asks first. */
  takeFailure(): Error | undefined {
    const failure = this.#failure;
    this.#failure = undefined;
    return failure;
  }

  /** The next message when it comes; undefined at the end. To be called when none is here, and the end has not come. */
  wait(signal: AbortSignal | undefined, aborted: () => Error): Promise<ChannelMessage | undefined> {
    return new Promise((resolve, reject) => {
      const waiter: Waiter = { resolve, reject };
      this.#waiters.push(waiter);
      if (signal === undefined) return;
      const onAbort = (): void => {
        this.#waiters = this.#waiters.filter((other) => other !== waiter);
        reject(aborted());
      };
      signal.addEventListener('abort', onAbort, { once: true });
      waiter.resolve = (message) => {
        signal.removeEventListener('abort', onAbort);
        resolve(message);
      };
      waiter.reject = (error) => {
        signal.removeEventListener('abort', onAbort);
        reject(error);
      };
    });
  }

  /** There is something to read: reads as much as those who wait need, and with framing what came together with it. */
  read(fd: number): void {
    if (this.#options.framed) {
      while (this.wantsMail && !this.#ended && this.#failure === undefined && this.#readFrames(fd)) this.#deliver();
    } else {
      while (this.wantsMail && !this.#ended && this.#readPlain(fd));
    }
    this.#deliver();
  }

  /** Ends. What nobody has taken is closed; who waits is told. */
  close(error: () => Error): void {
    closeNumbers(this.#reader.drop());
    for (let message = this.take(); message !== undefined; message = this.take()) message.close();
    this.#failure = undefined;
    this.#ended = true;
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error());
  }

  /** @returns Whether there may be more. */
  #readFrames(fd: number): boolean {
    const packets = this.#options.type !== 'stream';
    const reader = this.#reader;
    const arrived = this.#arrived;
    let wrong: ReadFailure | undefined;
    const { state, error } = receiveMany(fd, packets, (bytes, from, to, fds, firstFd, lastFd) => {
      for (let index = firstFd; index < lastFd; index++) reader.queue(fds[index] ?? -1);
      const failure = packets ? reader.pushPacket(bytes, from, to, arrived) : reader.push(bytes, from, to, arrived);
      wrong ??= failure;
    });
    for (const { bytes, fds } of arrived) this.#ready.push(new ChannelMessage(bytes, fds, this.#options.label));
    arrived.length = 0;
    const isReset = state === 'failed' && codeOf(error) === 'ECONNRESET';
    // Of packets it is told before those that came earlier, once: they are still there.
    if (isReset && packets && wrong === undefined) return true;
    const isEnd = state === 'end' || isReset;
    if (state === 'empty') wrong ??= reader.settle();
    else if (state === 'rights lost') wrong ??= { code: 'ERR_FDPASS_LIMIT', message: rightsLost() };
    else if (state === 'bytes lost')
      wrong ??= { code: 'ERR_FDPASS_PROTOCOL', message: 'a packet is longer than any frame' };
    else if (isEnd) wrong ??= reader.end();

    if (wrong !== undefined) {
      const message = `On ${this.#options.label}: ${wrong.message}. The channel is closed, with all that was not complete`;
      this.#fail(new FdpassError(wrong.code, message));
    } else if (isEnd) {
      this.#ended = true;
    } else if (error !== undefined) {
      this.#fail(error);
    }
    return state === 'more' && wrong === undefined;
  }

  #fail(error: Error): void {
    closeNumbers(this.#reader.drop());
    this.#failure = error;
    this.#options.failed();
  }

  /** One message, or the error in its place, to the first who waits. */
  #readPlain(fd: number): boolean {
    const { type, maxBytes, label } = this.#options;
    const waiter = this.#waiters[0];
    if (waiter === undefined) return false;
    let message: raw.Message | undefined;
    try {
      const isStream = type === 'stream';
      message = raw.receive(fd, isStream ? Math.min(CHUNK, maxBytes) : maxBytes, {
        credentials: !isStream,
        from: type === 'dgram',
      });
    } catch (error) {
      if (codeOf(error) === 'ECONNRESET' && type !== 'dgram') {
        if (type === 'seqpacket') return true; // told before the packets that came earlier, once: they are still there
        this.#ended = true;
        return false;
      }
      this.#waiters.shift();
      waiter.reject(asError(error));
      return true;
    }
    if (message === undefined) return false;
    const { bytes, fds, credentials, from } = message;
    // An empty packet has credentials, which the channel has asked for; the end has none.
    if (type !== 'dgram' && bytes.length === 0 && fds.length === 0 && credentials === undefined) {
      this.#ended = true;
      return false;
    }
    this.#waiters.shift();
    const path = from?.family === 'unix' && from.path !== '' ? from.path : undefined;
    waiter.resolve(new ChannelMessage(bytes, fds, label, { from: path, credentials }));
    return true;
  }

  #deliver(): void {
    const waiters = this.#waiters;
    while (waiters.length > 0) {
      const message = this.take();
      if (message !== undefined) {
        waiters.shift()?.resolve(message);
        continue;
      }
      const failure = this.takeFailure();
      if (failure !== undefined) {
        waiters.shift()?.reject(failure);
        for (const waiter of waiters.splice(0)) waiter.reject(this.#options.closedError());
      }
      if (!this.#ended) return;
      waiters.shift()?.resolve(undefined);
    }
  }
}

function rightsLost(): string {
  return (
    'descriptors were lost on the way in, most often because this process has reached its limit of open files ' +
    '(`ulimit -n`); those that had come are closed'
  );
}
