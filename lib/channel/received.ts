/**
 * What a Channel has received: messages, and descriptors that have an owner until somebody takes them.
 * Owns the descriptors; closes them when it is told to, and, as a net with a warning, when nobody holds them any more.
 */
import fs from 'node:fs/promises';
import net from 'node:net';
import { inspect } from 'node:util';

import { FdpassError } from '../errors.js';
import { describeListener, Listener } from '../listener.js';
import * as raw from '../raw.js';
import { Serving } from '../serving.js';
import { closeNumber, closeNumbers } from './transfer.js';

/** The numbers of one message, and whose they are: -1 stands where one was taken or closed. */
class Owner {
  readonly numbers: number[];
  readonly channel: string;

  constructor(numbers: number[], channel: string) {
    this.numbers = numbers;
    this.channel = channel;
  }

  /** Gives one away. */
  take(index: number): number {
    const fd = this.numbers[index] ?? -1;
    this.numbers[index] = -1;
    return fd;
  }

  close(): void {
    const { numbers } = this;
    if (numbers.length === 1) {
      const [fd = -1] = numbers;
      numbers[0] = -1; // the owner forgets the number first
      if (fd >= 0) closeNumber(fd);
      return;
    }
    const open = numbers.filter((fd) => fd >= 0);
    numbers.fill(-1);
    closeNumbers(open);
  }

  get isEmpty(): boolean {
    for (const fd of this.numbers) if (fd >= 0) return false;
    return true;
  }
}

/** What of an Owner outlives it. */
interface Left {
  numbers: number[];
  channel: string;
}

const leaks = new FinalizationRegistry<Left>(({ numbers, channel }) => {
  const open = numbers.filter((fd) => fd >= 0);
  if (open.length === 0) return;
  closeNumbers(open);
  const them = open.length === 1 ? '1 descriptor' : `${open.length} descriptors`;
  process.emitWarning(
    `${them} of a message of ${channel} had been received, and nobody took or closed what it brought: closed now. ` +
      'Close each message (message.close(), or `using`), or take its descriptors',
    { type: 'FdpassWarning', code: 'FDPASS_LEAK' },
  );
});

/**
 * Owners of this turn of the event loop. Most are empty before it ends: only the others are registered, which costs as much as to
 * receive a descriptor does.
 */
let young: Owner[] = [];

function watchOver(owner: Owner): void {
  if (young.push(owner) === 1) setImmediate(register).unref();
}

function register(): void {
  const owners = young;
  young = [];
  for (const owner of owners) {
    if (!owner.isEmpty) leaks.register(owner, { numbers: owner.numbers, channel: owner.channel });
  }
}

/** What {@link Descriptor.asSocket} can be told. */
export interface AsSocketOptions {
  /** As in net.Socket: the socket stays writable when the other side has ended. Default: false. */
  allowHalfOpen?: boolean | undefined;
}

/**
 * A descriptor that was received, with its owner: closed with its message, with {@link Descriptor.close}, or, with a warning, when
 * nobody holds it any more. Whoever takes it owns it from there on.
 */
export class Descriptor implements Disposable {
  readonly #owner: Owner;
  readonly #index: number;

  /** @internal */
  constructor(owner: unknown, index: number) {
    if (!(owner instanceof Owner)) throw new TypeError('A Descriptor is made by a Channel');
    this.#owner = owner;
    this.#index = index;
  }

  /** The number, close-on-exec; still owned here: to look at, or to send on. -1 once it was taken or closed. */
  get fd(): number {
    return this.#owner.numbers[this.#index] ?? -1;
  }

  /** What it is: 'socket', 'file', 'pipe', ... */
  get kind(): raw.Description['kind'] {
    return this.describe().kind;
  }

  /** What there is to know of it. @see fstat(2) */
  describe(): raw.Description {
    return raw.describe(this.#open('describe'));
  }

  /**
   * Gives the number up: it is the caller's from here on, who must close it.
   *
   * @throws {@link FdpassError} `ERR_FDPASS_CLOSED`: it was taken or closed before.
   */
  take(): number {
    this.#open('take');
    return this.#owner.take(this.#index);
  }

  /** Closes it, unless it was taken. Idempotent. */
  close(): void {
    const fd = this.#owner.take(this.#index);
    if (fd >= 0) closeNumber(fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * The socket that listens, or the bound dgram socket, as a Listener, which owns it from here on.
   *
   * @param options - `name`: of the Listener.
   * @throws {@link FdpassError} `ERR_FDPASS_TYPE`: it is something else, and stays here; `ERR_FDPASS_NAMES`; `ERR_FDPASS_CLOSED`.
   */
  asListener(options: { name?: string } = {}): Listener {
    const listener = Listener.from(this.#open('asListener'), options);
    this.#owner.take(this.#index);
    return listener;
  }

  /**
   * The connected stream socket as a net.Socket, which owns it from here on, and reads.
   *
   * @throws {@link FdpassError} `ERR_FDPASS_TYPE`: it is something else, and stays here; `ERR_FDPASS_CLOSED`.
   */
  asSocket(options: AsSocketOptions = {}): net.Socket {
    const fd = this.#open('asSocket');
    const { kind, socket } = raw.describe(fd);
    const isConnected = socket?.type === 'stream' && socket.domain !== 'other' && socket.peerAddress !== undefined;
    if (!isConnected) throw notA('a connected stream socket', fd, kind, socket);
    const { allowHalfOpen = false } = options;
    const made = new net.Socket({ fd, readable: true, writable: true, allowHalfOpen });
    this.#owner.take(this.#index);
    return made;
  }

  /**
   * A server that accepts from this socket, and owns it from here on. It accepts when the promise resolves, whatever ready() says.
   *
   * @param server - What is to accept: of net, tls, http, https or http2, and does not listen. Default: a new net.Server.
   * @returns The server, which listens.
   * @throws {@link FdpassError} `ERR_FDPASS_TYPE`: not a stream socket that listens; `ERR_FDPASS_CLOSED`. ERR_SERVER_ALREADY_LISTEN.
   * The descriptor stays here then.
   */
  async asServer<Server extends net.Server = net.Server>(server?: Server): Promise<Server> {
    const fd = this.#open('asServer');
    const { type, backlog } = describeListener(fd);
    if (type !== 'stream') throw notA('a stream socket that listens', fd, 'socket', { type });
    const made = server ?? (net.createServer() as Server);
    // A duplicate: where the start fails, it is gone.
    await new Serving(made, { dup: () => raw.dup(fd, 3), backlog, type }).start();
    this.close();
    return made;
  }

  /**
   * The file, directory, pipe or device as a FileHandle of node:fs, which owns it from here on. It shares the position with whoever sent it.
   *
   * @throws {@link FdpassError} `ERR_FDPASS_TYPE`: a socket, or something without a type (epoll, pidfd, ...), and stays here;
   * `ERR_FDPASS_CLOSED`. EMFILE.
   */
  async asFileHandle(): Promise<fs.FileHandle> {
    const { kind } = raw.describe(this.#open('asFileHandle'));
    if (kind === 'socket' || kind === 'anonymous' || kind === 'unknown') {
      throw notA('a file, directory, pipe or device', this.fd, kind);
    }
    // No public way leads from a number to a FileHandle: one is opened, and what it names is replaced.
    const handle = await fs.open('/dev/null');
    try {
      raw.dupTo(this.#open('asFileHandle'), handle.fd); // it may have been taken meanwhile
    } catch (error) {
      await handle.close();
      throw error;
    }
    this.close();
    return handle;
  }

  #open(what: string): number {
    const { fd } = this;
    if (fd >= 0) return fd;
    const message = `Cannot ${what}: the descriptor (of ${this.#owner.channel}) was taken or closed before`;
    throw new FdpassError('ERR_FDPASS_CLOSED', message);
  }
}

function notA(expected: string, fd: number, kind: string, socket?: Partial<raw.SocketDescription>): FdpassError {
  const type = socket?.type === undefined || socket.type === 'other' ? 'socket' : `${socket.type} socket`;
  const connected = socket?.peerAddress === undefined ? `a ${type} that is not connected` : `a ${type}`;
  const got =
    socket === undefined ? `a descriptor of kind ${kind}` : socket.listening ? `a ${type} that listens` : connected;
  const message = `Descriptor ${fd} is not ${expected}: it is ${got}; it is still its message's`;
  return new FdpassError('ERR_FDPASS_TYPE', message, { fd, expected, got });
}

/** What of a message only some channels know. */
export interface MessageFacts {
  from?: string | undefined;
  credentials?: raw.Credentials | undefined;
}

/**
 * A message that was received. It owns its descriptors until they are taken: close it when they are of no more use, which closes
 * those that are left in one call.
 */
export class ChannelMessage implements Disposable {
  readonly bytes: Buffer;
  /** dgram: the address of the sender, where it has one; `@name` is abstract. */
  declare readonly from?: string;
  /** dgram, and seqpacket without framing, on Linux: who sent it, as the kernel vouches for it. */
  declare readonly credentials?: raw.Credentials;
  readonly #owner: Owner | undefined;
  #fds: readonly Descriptor[] | undefined;

  /** @internal */
  constructor(bytes: Buffer, numbers: number[], channel: string, facts?: MessageFacts) {
    this.bytes = bytes;
    if (facts?.from !== undefined) this.from = facts.from;
    if (facts?.credentials !== undefined) this.credentials = facts.credentials;
    if (numbers.length > 0) {
      this.#owner = new Owner(numbers, channel);
      watchOver(this.#owner);
    }
  }

  /** The descriptors, in the order they were sent. */
  get fds(): readonly Descriptor[] {
    const owner = this.#owner;
    return (this.#fds ??= owner === undefined ? [] : owner.numbers.map((_, index) => new Descriptor(owner, index)));
  }

  /** Closes the descriptors that nobody took. Idempotent. */
  close(): void {
    this.#owner?.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

// For console.log: the descriptors are made when they are first looked at.
Object.defineProperty(ChannelMessage.prototype, inspect.custom, {
  value(this: ChannelMessage) {
    return Object.assign(Object.create(null), this, { fds: this.fds.map(({ fd }) => fd) }) as unknown;
  },
});
