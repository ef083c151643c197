/**
 * Channels: a Unix socket that carries messages, bytes and descriptors, between any two programs.
 * Owns its descriptor, what waits to be sent and what was received and not yet taken. channel/ has the parts: the bytes (frames.ts), both
 * halves (outbox.ts, inbox.ts), what can be sent (sendable.ts), what comes out (received.ts). Knows nothing of handoffs.
 * Source: unix(7), sendmsg(2), recvmsg(2); docs/protocol.md, "Channel frames".
 */
import { setTimeout as delay } from 'node:timers/promises';

import { abortError, asError, codeOf } from './channel/failures.js';
import { Inbox } from './channel/inbox.js';
import { ChannelListener } from './channel/listener.js';
import { Outbox, type UnixAddress } from './channel/outbox.js';
import { type ChannelMessage, Descriptor } from './channel/received.js';
import { descriptorsOf, type Moving, type Sendable } from './channel/sendable.js';
import { FdpassError } from './errors.js';
import { listen, type Listener, relinquish } from './listener.js';
import * as raw from './raw.js';

export { ChannelListener } from './channel/listener.js';
export { type AsSocketOptions, ChannelMessage, Descriptor } from './channel/received.js';
export type { Sendable } from './channel/sendable.js';

/** The kind of the Unix socket: a stream, or packets; dgram is for datagrams to and from anybody. */
export type ChannelType = raw.SocketType;

/** How a channel is made. */
export interface ChannelOptions {
  /** Default: `stream`; of {@link Channel.from}: what the socket is. */
  type?: ChannelType | undefined;
  /**
   * `fdpass`: messages of any size with any number of descriptors, between two that both speak it. `plain`: what one sendmsg(2) sends, at
   * most 253 descriptors, for any other program. Default: `fdpass`; dgram is always `plain`.
   */
  framing?: 'fdpass' | 'plain' | undefined;
  /** Of one message, both ways, in bytes. Default: 16 MiB. */
  maxBytes?: number | undefined;
  /** Of one message, both ways. Default: 16 384; without framing 253. */
  maxDescriptors?: number | undefined;
  /** How much may wait to be sent before {@link Channel.send} refuses more. Default: 4 MiB and 1 024 descriptors. */
  highWater?: { bytes?: number | undefined; descriptors?: number | undefined } | undefined;
}

/** How {@link Channel.connect} goes about it. */
export interface ChannelConnectOptions extends ChannelOptions {
  /** How long to try while the queue of the listener is full, in ms. Default: 5 000. */
  connectTimeout?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** How {@link Channel.listen} goes about it. */
export interface ChannelListenOptions extends ChannelOptions {
  /** Permissions of the path, as in 0o600. Default: what the umask leaves. */
  mode?: number | undefined;
  /** The kernel's queue of connections not yet accepted. Default: 511. */
  backlog?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** What one message can be told on its way. */
export interface ChannelSendOptions {
  /** Before the first byte has gone it takes the message back; after that only the promise is rejected, and the rest goes. */
  signal?: AbortSignal | undefined;
  /** Where to, for a dgram channel that is not connected: a path or `@name`. */
  to?: string | undefined;
}

/** What a wait can be told. */
export interface ChannelReceiveOptions {
  signal?: AbortSignal | undefined;
}

/** The process at the other end, as it was when it connected: the kernel vouches for it. */
export interface ChannelPeer {
  /** 0 where it cannot be known (another pid namespace). */
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
  /**
   * A descriptor that names that process and never comes to name another: Linux 6.5, else undefined. Opened at the first look, owned by
   * the channel, and closed with it.
   */
  readonly pidfd: number | undefined;
}

const MAX_BYTES = 16_777_216;
const MAX_DESCRIPTORS = 16_384;
const MAX_RIGHTS = 253; // SCM_MAX_FD, unix(7)
const HIGH_WATER_BYTES = 4_194_304;
const HIGH_WATER_DESCRIPTORS = 1_024;
const CONNECT_TIMEOUT = 5_000; // ms
const CONNECT_RETRY = 10; // connect(2) tells nobody when the queue has room
const FLUSH_TIMEOUT = 5_000; // ms, of [Symbol.asyncDispose]
const NO_DESCRIPTORS: number[] = [];
const FAILED = 'what came was no message, or this process had no room for it';

/** The options of a channel, checked and complete. */
interface Settings {
  framing: 'fdpass' | 'plain';
  maxBytes: number;
  maxDescriptors: number;
  highWaterBytes: number;
  highWaterDescriptors: number;
}

/**
 * One end of a Unix socket that carries messages: bytes, and descriptors with them.
 *
 * It keeps the process alive only while something waits to be sent or received. Works in every thread.
 */
export class Channel implements AsyncDisposable, AsyncIterable<ChannelMessage> {
  readonly type: ChannelType;
  readonly framing: 'fdpass' | 'plain';
  /** Where it was connected to, or is bound; undefined for a pair, and for what was accepted or taken over without a name. */
  readonly path: string | undefined;
  readonly #settings: Settings;
  readonly #outbox: Outbox;
  readonly #inbox: Inbox;
  readonly #connected: boolean;
  #fd: number;
  #watch: raw.Watch | undefined;
  #readable = false; // what #watch waits for
  #writable = false;
  #holds = true; // #watch keeps the process alive
  #referenced = true;
  #peer: ChannelPeer | undefined;
  #pidfd: number | undefined;
  #idle: (() => void) | undefined;

  private constructor(fd: number, type: ChannelType, settings: Settings, path?: string, connected = true) {
    this.#fd = fd;
    this.type = type;
    this.framing = settings.framing;
    this.path = path;
    this.#settings = settings;
    this.#connected = connected;
    const framed = settings.framing === 'fdpass';
    const { maxBytes, maxDescriptors, highWaterBytes, highWaterDescriptors } = settings;
    if (!framed && type !== 'stream' && process.platform === 'linux') raw.setOption(fd, 'passCredentials', true);
    this.#outbox = new Outbox({
      type,
      framed,
      sendBuffer: raw.getOption(fd, 'sendBuffer'),
      highWaterBytes,
      highWaterDescriptors,
      changed: () => {
        this.#rewatch();
      },
      torn: (error) => {
        this.#end(error);
      },
      retry: () => {
        if (!this.closed) this.#outbox.flush(this.#fd);
      },
      isReferenced: () => this.#referenced,
    });
    const label = path === undefined ? `the channel on fd ${fd}` : `the channel at ${path}`;
    this.#inbox = new Inbox({
      type,
      framed,
      maxBytes,
      maxDescriptors,
      label,
      failed: () => {
        this.#letGo(closedError(FAILED));
      },
      closedError: () => closedError(FAILED),
    });
  }

  /**
   * Connects to a channel, or any other program, that listens at a path.
   *
   * @param path - `@name` is abstract (Linux).
   * @throws The system's ENOENT, ECONNREFUSED, EACCES, EPROTOTYPE (another `type` listens there); EAGAIN: its queue was full for
   * `connectTimeout`. An AbortError: `signal`. TypeError, RangeError: an option.
   * @see unix(7), connect(2)
   */
  static async connect(path: string, options: ChannelConnectOptions = {}): Promise<Channel> {
    const { type = 'stream', signal, connectTimeout = CONNECT_TIMEOUT } = options;
    const settings = settingsOf(type, options);
    checkWhole('connectTimeout', connectTimeout, 0);
    const address = unixAddress(path);
    const deadline = performance.now() + connectTimeout;
    for (;;) {
      throwIfAborted(signal, `connect to ${path}`);
      const fd = raw.socket('unix', type);
      try {
        raw.connect(fd, address);
        return new Channel(fd, type, settings, path);
      } catch (error) {
        raw.close(fd);
        if (codeOf(error) !== 'EAGAIN' || performance.now() >= deadline) throw error;
      }
      await delay(CONNECT_RETRY, undefined, signal === undefined ? {} : { signal }).catch(() => undefined);
    }
  }

  /**
   * Listens at a path for channels that connect. What a dead server has left there is taken over; a live one never is.
   *
   * @param at - A path, `@name` for an abstract one (Linux); or a Listener of a Unix socket, which belongs to the result from then on.
   * @throws As {@link listen}. An AbortError: `signal`. {@link FdpassError} `ERR_FDPASS_TYPE`: the Listener is of something else.
   * @see unix(7), listen(2)
   */
  static listen(
    at: string | Listener,
    options?: ChannelListenOptions & { type?: 'stream' | 'seqpacket' | undefined },
  ): Promise<ChannelListener>;
  /**
   * A channel that is bound to a path and receives datagrams from anybody; {@link Channel.send} on it needs `to`. Closing it removes the
   * path.
   *
   * @see unix(7), bind(2)
   */
  static listen(at: string | Listener, options: ChannelListenOptions & { type: 'dgram' }): Promise<Channel>;
  static async listen(at: string | Listener, options: ChannelListenOptions = {}): Promise<ChannelListener | Channel> {
    const given = typeof at === 'string' ? undefined : at;
    const { type = given?.type ?? 'stream', mode, backlog, signal } = options;
    const settings = settingsOf(type, options);
    throwIfAborted(signal, 'listen');
    const listener = given ?? (await listen({ path: at as string, type, mode, backlog }));
    if (listener.type !== type || listener.address.family !== 'unix') {
      const got = `a ${listener.type} socket of ${listener.address.family}`;
      const message = `The listener "${listener.name}" is ${got}, not a Unix ${type} socket`;
      throw new FdpassError('ERR_FDPASS_TYPE', message, { fd: listener.fd, expected: `a Unix ${type} socket`, got });
    }
    try {
      throwIfAborted(signal, 'listen');
    } catch (error) {
      if (given === undefined) listener.close();
      throw error;
    }
    const { path } = listener.address;
    if (type !== 'dgram') return new ChannelListener(listener, path, (fd) => new Channel(fd, type, settings));
    const bound = new Channel(listener.dup(), type, settings, path, false);
    bound.#onClose = (kept) => {
      if (kept)
        relinquish(listener); // the path is still in use
      else listener.close();
    };
    return bound;
  }

  /** Two ends in this process, for a child or a worker to get one of. @see socketpair(2) */
  static pair(options: ChannelOptions = {}): [Channel, Channel] {
    const { type = 'stream' } = options;
    const settings = settingsOf(type, options);
    const [one, other] = raw.socketPair(type);
    return [new Channel(one, type, settings), new Channel(other, type, settings)];
  }

  /**
   * A channel of a Unix socket that is connected, or of a bound dgram socket. It makes the socket non-blocking and close-on-exec.
   *
   * @param from - A number, or what holds one: it belongs to the channel from here on, on success alone; a Descriptor is taken.
   * @throws {@link FdpassError} `ERR_FDPASS_TYPE`: it is something else. EBADF. TypeError, RangeError: an option.
   * @see unix(7)
   */
  static from(from: number | { readonly fd: number }, options: ChannelOptions = {}): Channel {
    const fd = typeof from === 'number' ? from : from.fd;
    const { kind, socket } = raw.describe(fd);
    const expected = `a connected Unix ${options.type ?? 'stream, seqpacket or dgram'} socket`;
    const refuse = (got: string): FdpassError =>
      new FdpassError('ERR_FDPASS_TYPE', `Descriptor ${fd} is not ${expected}: it is ${got}`, { fd, expected, got });
    if (socket === undefined) throw refuse(`a descriptor of kind ${kind}`);
    const { domain, type, listening, peerAddress, localAddress } = socket;
    if (domain !== 'unix' || type === 'other') throw refuse(`a ${domain} socket of type ${type}`);
    if (options.type !== undefined && options.type !== type) throw refuse(`a ${type} socket`);
    if (listening) throw refuse('a socket that listens');
    const path = localAddress?.family === 'unix' && localAddress.path !== '' ? localAddress.path : undefined;
    if (peerAddress === undefined && (type !== 'dgram' || path === undefined)) throw refuse('not connected');
    const settings = settingsOf(type, options);
    raw.setNonBlocking(fd, true);
    raw.setCloseOnExec(fd, true);
    const channel = new Channel(fd, type, settings, path, peerAddress !== undefined);
    if (from instanceof Descriptor) from.take();
    return channel;
  }

  /** The descriptor, which stays the channel's: to look at, and to send. -1 once closed. */
  get fd(): number {
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /**
   * Who is at the other end.
   *
   * @throws The system's ENOTCONN: a dgram channel that is not of a pair has none; {@link FdpassError} `ERR_FDPASS_CLOSED`.
   * @see unix(7), SO_PEERCRED, SO_PEERPIDFD
   */
  get peer(): ChannelPeer {
    if (this.#peer !== undefined) return this.#peer;
    const pidfd = (): number | undefined => (this.#pidfd ??= this.#openPidfd());
    const { pid, uid, gid } = raw.peerCredentials(this.#open('ask for the peer'));
    return (this.#peer = {
      pid,
      uid,
      gid,
      get pidfd() {
        return pidfd();
      },
    });
  }

  #openPidfd(): number | undefined {
    if (this.closed) return undefined;
    try {
      return raw.peerPidfd(this.#fd);
    } catch (error) {
      if (codeOf(error) === 'EMFILE' || codeOf(error) === 'ENFILE') throw error;
      return undefined; // an older kernel, another system, a process that has ended
    }
  }

  /**
   * Sends a message. It goes in this very call where nothing waits before it; else it waits for room, with duplicates of the descriptors:
   * the caller may close his own as soon as this has returned. The bytes must not be changed before the promise is settled.
   *
   * A net.Socket moves: it stops reading here at once, and is destroyed when the other side is sure to get it; where sending fails it
   * reads on. Everything else stays open, and the caller's.
   *
   * @param bytes - Text goes as UTF-8.
   * @param fds - In this order. Numbers, or what holds one.
   * @returns Resolves when the kernel has all of it. Not: when it was read.
   * @throws (As a rejection.) TypeError: something that is no descriptor, named with its index. {@link FdpassError} `ERR_FDPASS_UNREAD`: a
   * socket that would lose bytes; `ERR_FDPASS_LIMIT`: above `maxBytes` or `maxDescriptors`, or above `highWater` because promises are not
   * waited for; `ERR_FDPASS_CLOSED`. EPIPE, ECONNRESET: the other side is gone. EBADF, EMFILE. ETOOMANYREFS: too many descriptors of
   * this user were on their way for 5 000 ms. An AbortError. In all of these nothing of the message was sent, but for an abort or an end
   * in its middle.
   * @see sendmsg(2), unix(7) SCM_RIGHTS
   */
  send(bytes: Uint8Array | string, fds?: Sendable | readonly Sendable[], options?: ChannelSendOptions): Promise<void> {
    let moving: readonly Moving[] | undefined;
    try {
      const fd = this.#open('send');
      const signal = options?.signal;
      throwIfAborted(signal, 'send');
      const buffer = typeof bytes === 'string' ? Buffer.from(bytes) : checkBytes(bytes);
      const to = this.#destination(options?.to);
      let numbers = NO_DESCRIPTORS;
      if (fds !== undefined) {
        const items = Array.isArray(fds) ? (fds as readonly Sendable[]) : [fds as Sendable];
        this.#checkSize(buffer.length, items.length);
        ({ fds: numbers, moving } = descriptorsOf(items));
      } else {
        this.#checkSize(buffer.length, 0);
      }
      if (signal === undefined && to === undefined && moving === undefined) {
        return this.#outbox.send(fd, buffer, numbers);
      }
      const aborted = (): Error => abortError(signal, 'send');
      return this.#outbox.send(fd, buffer, numbers, { to, signal, moving: moving ?? [], aborted });
    } catch (error) {
      for (const moved of moving ?? []) moved.stays();
      return Promise.reject(asError(error));
    }
  }

  /**
   * The next message, in order. Several calls get one each; one that is aborted loses nothing.
   *
   * @returns Undefined: the other side has closed, between two messages (also where it did so without having read all that was sent to it).
   * @throws (As a rejection.) {@link FdpassError} `ERR_FDPASS_PROTOCOL`, `ERR_FDPASS_LIMIT`: what came is no frame, or too large, or descriptors
   * were lost; once, and the channel is closed then (without framing a lost message is `ERR_FDPASS_LIMIT`, and the next one can be
   * received). `ERR_FDPASS_CLOSED`: the channel was closed here. An AbortError.
   * @see recvmsg(2)
   */
  receive(options?: ChannelReceiveOptions): Promise<ChannelMessage | undefined> {
    const signal = options?.signal;
    if (signal?.aborted === true) return Promise.reject(abortError(signal, 'receive'));
    const message = this.#inbox.take();
    if (message !== undefined) return Promise.resolve(message);
    const failure = this.#inbox.takeFailure();
    if (failure !== undefined) return Promise.reject(failure);
    if (this.closed) return Promise.reject(closedError('it was closed'));
    if (this.#inbox.hasEnded) return Promise.resolve(undefined);
    const promise = this.#inbox.wait(signal, () => {
      this.#rewatch();
      return abortError(signal, 'receive');
    });
    this.#rewatch();
    return promise;
  }

  /**
   * The messages, to the end: until the other side closes, or this one. To leave the loop early does not close the channel.
   * Close each message when it is done with, or take its descriptors.
   */
  [Symbol.asyncIterator](): AsyncIterator<ChannelMessage, undefined> {
    const next = async (): Promise<IteratorResult<ChannelMessage, undefined>> => {
      try {
        const message = await this.receive();
        return message === undefined ? { done: true, value: undefined } : { done: false, value: message };
      } catch (error) {
        if (this.closed && codeOf(error) === 'ERR_FDPASS_CLOSED') return { done: true, value: undefined };
        throw error;
      }
    };
    return {
      next: () => {
        const value = this.#inbox.take();
        return value === undefined ? next() : Promise.resolve({ done: false, value });
      },
      return: () => Promise.resolve({ done: true, value: undefined }),
    };
  }

  /**
   * Closes the descriptor, all that was received and not taken, and what waits to be sent; who waits gets `ERR_FDPASS_CLOSED`. The other
   * side reads what was sent, then the end. Idempotent.
   */
  close(): void {
    this.#end(closedError('it was closed'));
  }

  /** Waits until what was sent has gone, 5 000 ms at most, then closes. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#outbox.isWaiting) {
      const timeout = new AbortController();
      const late = delay(FLUSH_TIMEOUT, undefined, { signal: timeout.signal }).catch(() => undefined);
      await Promise.race([late, new Promise<void>((resolve) => (this.#idle = resolve))]);
      timeout.abort();
    }
    this.close();
  }

  /**
   * Gives the descriptor up, as for a child that is to have it: it is the caller's from here on, non-blocking and close-on-exec.
   *
   * @throws {@link FdpassError} `ERR_FDPASS_UNREAD`: something waits to be sent or received, or was read and is not taken; the channel goes
   * on. `ERR_FDPASS_CLOSED`.
   */
  release(): number {
    const fd = this.#open('release');
    const reason = this.#outbox.isWaiting
      ? 'messages wait to be sent'
      : this.#inbox.wantsMail
        ? 'somebody waits for a message'
        : this.#inbox.isEmpty
          ? undefined
          : 'messages were read that nobody has taken';
    if (reason !== undefined) {
      throw new FdpassError('ERR_FDPASS_UNREAD', `Cannot release the descriptor of the channel: ${reason}`, { fd });
    }
    this.#letGo(closedError('it was released'), { keep: true });
    return fd;
  }

  /** Keeps the process alive while something waits: the default. */
  ref(): this {
    return this.#setReferenced(true);
  }

  /** Lets the process end though something waits. */
  unref(): this {
    return this.#setReferenced(false);
  }

  #setReferenced(referenced: boolean): this {
    this.#referenced = referenced;
    this.#outbox.setReferenced(referenced);
    this.#rewatch();
    return this;
  }

  #onClose: ((kept: boolean) => void) | undefined;

  /** Closes, and tells everybody why. */
  #end(error: unknown): void {
    this.#letGo(error);
    this.#inbox.close(() => (error instanceof Error ? error : closedError('it was closed')));
  }

  /** Closes the descriptor and what waits to be sent. What was received can be taken still. */
  #letGo(error: unknown, { keep = false } = {}): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1; // the owner forgets the number first
    const pidfd = this.#pidfd;
    this.#pidfd = undefined;
    this.#watch?.close();
    this.#watch = undefined;
    this.#outbox.close(error);
    if (!keep) raw.close(fd);
    if (pidfd !== undefined) raw.close(pidfd);
    this.#idle?.();
    this.#onClose?.(keep);
  }

  /**
   * Waits for what somebody waits for. That nobody waits for mail any more is told to the event loop only when mail has come: nearly always
   * somebody waits again by then.
   */
  #rewatch(): void {
    if (!this.#outbox.isWaiting) this.#idle?.();
    if (this.closed) return;
    const mail = this.#inbox.wantsMail;
    const room = this.#outbox.wantsRoom;
    if (this.#watch === undefined) {
      if (!mail && !room) return;
      this.#readable = mail;
      this.#writable = room;
      try {
        this.#watch = raw.watch(this.#fd, { readable: mail, writable: room }, this.#onReady);
      } catch (error) {
        this.#end(error); // somebody else watches this number: who waits here would wait for ever
        return;
      }
      this.#holds = true;
    } else if (room !== this.#writable || (mail && !this.#readable)) {
      this.#setInterest(mail || this.#readable, room);
    }
    const holds = this.#referenced && (mail || room);
    if (holds === this.#holds) return;
    this.#holds = holds;
    if (holds) this.#watch.ref();
    else this.#watch.unref();
  }

  #setInterest(readable: boolean, writable: boolean): void {
    this.#readable = readable;
    this.#writable = writable;
    this.#watch?.update({ readable, writable });
  }

  readonly #onReady = (events: raw.WatchEvents): void => {
    if ((events.writable || events.error) && this.#outbox.wantsRoom) this.#outbox.flush(this.#fd);
    if (events.readable && !this.closed) {
      if (this.#inbox.wantsMail) this.#inbox.read(this.#fd);
      else this.#setInterest(false, this.#outbox.wantsRoom);
    }
    this.#rewatch();
  };

  #open(what: string): number {
    if (this.#fd >= 0) return this.#fd;
    throw closedError(`cannot ${what}: it was closed`);
  }

  #checkSize(bytes: number, fds: number): void {
    const { maxBytes, maxDescriptors, framing } = this.#settings;
    if (bytes > maxBytes) {
      const message = `A message of ${bytes} bytes, at most ${maxBytes} (maxBytes); nothing was sent`;
      throw new FdpassError('ERR_FDPASS_LIMIT', message);
    }
    if (fds > maxDescriptors) {
      const why = framing === 'plain' && maxDescriptors === MAX_RIGHTS ? "the kernel's limit" : 'maxDescriptors';
      const message = `A message of ${fds} descriptors, at most ${maxDescriptors} (${why}); nothing was sent`;
      throw new FdpassError('ERR_FDPASS_LIMIT', message);
    }
    if (framing === 'plain' && this.type === 'stream' && bytes === 0 && fds > 0) {
      const message = 'bytes must not be empty: on a stream without framing descriptors travel with a byte';
      throw Object.assign(new RangeError(message), { code: 'ERR_OUT_OF_RANGE' });
    }
  }

  #destination(to: string | undefined): UnixAddress | undefined {
    if (to !== undefined && this.type === 'dgram') return unixAddress(to);
    if (to === undefined && this.#connected) return undefined;
    const [expected, got] =
      this.type === 'dgram' ? ['a path', 'undefined'] : ['left out: this channel is connected', to];
    throw invalid('type', 'options.to', expected, got);
  }
}

function settingsOf(type: unknown, options: ChannelOptions): Settings {
  if (type !== 'stream' && type !== 'seqpacket' && type !== 'dgram') {
    throw invalid('value', 'options.type', "'stream', 'seqpacket' or 'dgram'", type);
  }
  const { maxBytes = MAX_BYTES, highWater = {} } = options;
  const framing: unknown = options.framing ?? (type === 'dgram' ? 'plain' : 'fdpass');
  if (framing !== 'fdpass' && framing !== 'plain') {
    throw invalid('value', 'options.framing', "'fdpass' or 'plain'", framing);
  }
  if (type === 'dgram' && framing === 'fdpass') {
    throw invalid('value', 'options.framing', "'plain' for a dgram channel, where each datagram is a message", framing);
  }
  const { maxDescriptors = framing === 'plain' ? MAX_RIGHTS : MAX_DESCRIPTORS } = options;
  const { bytes = HIGH_WATER_BYTES, descriptors = HIGH_WATER_DESCRIPTORS } = highWater;
  checkWhole('maxBytes', maxBytes, 1, 2 ** 30);
  checkWhole('maxDescriptors', maxDescriptors, 0, framing === 'plain' ? MAX_RIGHTS : 2 ** 20);
  checkWhole('highWater.bytes', bytes, 0);
  checkWhole('highWater.descriptors', descriptors, 0);
  return { framing, maxBytes, maxDescriptors, highWaterBytes: bytes, highWaterDescriptors: descriptors };
}

function unixAddress(path: unknown): UnixAddress {
  if (typeof path !== 'string') throw invalid('type', 'path', 'a string', path);
  if (path === '' || path === '@') throw invalid('value', 'path', 'a path, or @name', path);
  return { family: 'unix', path };
}

function checkBytes(bytes: unknown): Uint8Array {
  if (bytes instanceof Uint8Array) return bytes;
  throw invalid('type', 'bytes', 'a Uint8Array or a string', bytes);
}

function checkWhole(option: string, value: unknown, lowest: number, highest: number = Number.MAX_SAFE_INTEGER): void {
  if (typeof value !== 'number') throw invalid('type', `options.${option}`, 'a number', value);
  if (Number.isInteger(value) && value >= lowest && value <= highest) return;
  throw invalid('value', `options.${option}`, `a whole number from ${lowest} to ${highest}`, value);
}

/** TypeError for the wrong type, RangeError for the wrong value: with Node's codes, naming the argument and the value. */
function invalid(kind: 'type' | 'value', name: string, expected: string, value: unknown): Error {
  const got = typeof value === 'string' ? JSON.stringify(value) : String(value);
  const message = `${name} must be ${expected}; it is ${got}`;
  if (kind === 'type') return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
  return Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}

function closedError(why: string): FdpassError {
  return new FdpassError('ERR_FDPASS_CLOSED', `The channel is closed: ${why}`);
}

function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted === true) throw abortError(signal, what);
}
