/**
 * Listeners: sockets that accept, each with one owner, and the servers that are served by them.
 * Opens, binds, pauses and closes sockets, and unlinks the Unix paths that are its own. Knows nothing of handoffs: those
 * above tell it when this process may accept, and when its listeners are another's.
 * Source: socket(2), bind(2), listen(2), unix(7), flock(2).
 */
import fs from 'node:fs';
import type net from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { isMainThread } from 'node:worker_threads';

import { candidates, checkListenOptions, formatAddress, type ListenOptions } from './address.js';
import { FdpassError } from './errors.js';
import { checkName, UNNAMED } from './names.js';
import { descriptorOf } from './nodeInternals.js';
import * as raw from './raw.js';
import { type Servable, Serving } from './serving.js';

export type { ListenOptions } from './address.js';
export type { Servable } from './serving.js';

/**
 * Where a Listener came from. `systemd`, `supervisor` (any other): it made the socket, and owns its address, however many generations
 * ago. `fd`: {@link Listener.from}, or the number itself.
 */
export type ListenerOrigin = 'bound' | 'predecessor' | 'systemd' | 'supervisor' | 'fd';

/** As in Node. */
const BACKLOG = 511;

/** How long `listen` waits for another process that is about to bind in the same directory, in ms. */
const LOCK_TIMEOUT = 5_000;
const LOCK_RETRY = 10; // flock(2) tells nobody when it becomes free

interface Facts {
  name: string;
  address: raw.SocketAddress;
  type: raw.SocketType;
  origin: ListenerOrigin;
  backlog: number;
}

const open = new Set<Listener>();

/** Every server that a Listener serves or served, until its last connection is gone. */
const served = new Set<Servable>();

/** By which Listener a server is or was served last, and as which of its servers. */
const places = new WeakMap<Servable, { listener: Listener; index: number }>();

/** What the rest of fdpass may do with a Listener, and its users may not. */
let inside: {
  make: (fd: number, facts: Facts) => Listener;
  claimPath: (listener: Listener) => void;
  lendPath: (listener: Listener) => () => void;
  start: (listener: Listener) => Promise<unknown>;
  relinquish: (listener: Listener) => void;
  beforeClose: (listener: Listener, callback: () => void) => void;
};

/** In the main thread servers wait for ready(), which says when this process accepts; a worker has no such moment. */
let accepting = !isMainThread;
let onServe: (() => void) | undefined;

/**
 * A socket that listens. It owns its descriptor from birth to {@link close}: servers get duplicates, so that closing a
 * server never closes the Listener.
 */
export class Listener implements Disposable {
  readonly name: string;
  /** As the kernel writes it: the port that was chosen for 0, `::1` for any way to write it. getsockname(2) */
  readonly address: raw.SocketAddress;
  readonly type: raw.SocketType;
  readonly origin: ListenerOrigin;
  /** The length of the kernel's queue; every `listen(2)` on a copy of the socket sets it for all. */
  readonly backlog: number;
  #fd: number;
  readonly #servings = new Map<Servable, Serving>();
  /** Device and inode of the file of a Unix socket that is ours to unlink. */
  #path: { path: string; device: bigint; inode: bigint } | undefined;
  #beforeClose: (() => void) | undefined;

  private constructor(fd: number, facts: Facts) {
    this.#fd = fd;
    this.name = facts.name;
    this.address = facts.address;
    this.type = facts.type;
    this.origin = facts.origin;
    this.backlog = facts.backlog;
    open.add(this);
  }

  /**
   * Makes a Listener of a descriptor, which belongs to it from then on: of a listening stream or seqpacket socket, or of a
   * bound dgram socket. Or of a net.Server that listens: then of a duplicate of its socket, and the server goes on, until you close it.
   * Does not bind, and does not unlink the path of a Unix socket in the end; a net.Server that has bound one itself removes it with its
   * close(), and nobody finds the Listener any more.
   *
   * @param source - A descriptor is taken over on success alone; marked close-on-exec.
   * @throws The system's EBADF. {@link FdpassError} `ERR_FDPASS_TYPE`: not a socket that listens or is bound; a server that does not
   * listen, or of which another process has the socket (a cluster worker's).
   * @see docs/supervisors/cluster.md for servers that come from another process by `process.on('message')`
   */
  static from(source: number | net.Server, options: { name?: string } = {}): Listener {
    const { name = UNNAMED } = options;
    checkName(name);
    const fd = typeof source === 'number' ? source : dupOf(source);
    try {
      const facts = describeListener(fd);
      raw.setCloseOnExec(fd, true);
      return new Listener(fd, { name, origin: 'fd', ...facts });
    } catch (error) {
      if (typeof source !== 'number') raw.close(fd);
      throw error;
    }
  }

  static {
    inside = {
      make: (fd, facts) => new Listener(fd, facts),
      claimPath: (listener) => {
        listener.#claimPath();
      },
      lendPath: (listener) => {
        const path = listener.#path;
        listener.#path = undefined;
        return () => {
          if (!listener.closed) listener.#path = path;
        };
      },
      start: (listener) => Promise.all([...listener.#servings.values()].map((serving) => serving.start())),
      relinquish: (listener) => {
        listener.#close();
      },
      beforeClose: (listener, callback) => {
        listener.#beforeClose = callback;
      },
    };
  }

  /** The descriptor, which stays this Listener's: to look at, and to hand to a child. -1 once closed. */
  get fd(): number {
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** The port of a TCP or UDP listener. */
  get port(): number | undefined {
    return this.address.family === 'unix' ? undefined : this.address.port;
  }

  /** The servers that are served, in the order of {@link serve}. */
  get servers(): Servable[] {
    return [...this.#servings.keys()];
  }

  /**
   * Gives the server its connections from this socket. It begins to accept, and emits 'listening', with ready(), or at once
   * when this process accepts already (in a worker thread always). Two servers on one Listener are two accept loops.
   *
   * @param server - Of net, tls, http, https, http2, or a dgram socket. Must not listen yet.
   * @returns This Listener.
   * @throws {@link FdpassError} `ERR_FDPASS_CLOSED`; `ERR_FDPASS_TYPE`: the server cannot take this kind of socket;
   * ENOTSUP for seqpacket, which no server of Node's takes; ERR_SERVER_ALREADY_LISTEN.
   */
  serve(server: Servable): this {
    this.#assertOpen('serve');
    const label = `listener "${this.name}", ${formatAddress(this.address)}`;
    const serving = new Serving(server, { dup: () => this.dup(), backlog: this.backlog, type: this.type, label });
    this.#servings.set(server, serving);
    places.set(server, { listener: this, index: this.#servings.size - 1 });
    served.add(server);
    server.once('close', () => served.delete(server));
    if (accepting) {
      // Not in this call: a dgram socket would emit 'listening' before its user can wait for it.
      process.nextTick(() => {
        serving.start().catch((error: unknown) => server.emit('error', error));
      });
    } else {
      onServe?.();
    }
    return this;
  }

  /** Stops accepting; the socket stays open, its queue fills, connections go on. Idempotent. ENOTSUP for a dgram socket. */
  pause(): void {
    this.#assertOpen('pause');
    for (const serving of this.#servings.values()) serving.pause();
  }

  /** Accepts again after {@link pause}. Idempotent. */
  async resume(): Promise<void> {
    this.#assertOpen('resume');
    await Promise.all([...this.#servings.values()].map((serving) => serving.resume()));
  }

  /** A duplicate, close-on-exec, that belongs to the caller. It accepts from the same queue. fcntl(2), F_DUPFD_CLOEXEC */
  dup(): number {
    this.#assertOpen('dup');
    return raw.dup(this.#fd, 3); // libuv never closes a stream at 0, 1 or 2
  }

  /**
   * Stops accepting and closes the socket. Connections go on. The path of a Unix socket is unlinked where it is still ours:
   * bound here, or taken over from a predecessor that has let go, and the same file. Idempotent.
   */
  close(): void {
    const own = this.#path;
    this.#close();
    if (own === undefined) return;
    const now = fs.lstatSync(own.path, { bigint: true, throwIfNoEntry: false });
    if (now?.dev === own.device && now.ino === own.inode) unlinkOwn(own.path);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1; // the owner forgets the number first
    this.#path = undefined;
    open.delete(this);
    for (const serving of this.#servings.values()) serving.release();
    this.#beforeClose?.();
    raw.close(fd);
  }

  #claimPath(): void {
    if (this.address.family !== 'unix' || this.address.path === '' || this.address.path.startsWith('@')) return;
    const { path } = this.address;
    const file = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false });
    if (file?.isSocket()) this.#path = { path, device: file.dev, inode: file.ino };
  }

  #assertOpen(what: string): void {
    if (this.#fd >= 0) return;
    const message = `Cannot ${what}: the listener "${this.name}" (${formatAddress(this.address)}) was closed`;
    throw new FdpassError('ERR_FDPASS_CLOSED', message);
  }
}

/** A duplicate of the socket that a server accepts from. */
function dupOf(server: net.Server): number {
  const fd = descriptorOf(server);
  if (fd >= 0) return raw.dup(fd, 3); // libuv never closes a stream at 0, 1 or 2
  const got = 'a server without a socket of its own';
  const message = `The server cannot be made a listener: it is ${got}: it does not listen, or another process has its socket`;
  throw new FdpassError('ERR_FDPASS_TYPE', message, { expected: 'a server that listens', got });
}

/** The directory can be another user's, who bound it generations ago: then the dead socket stays, and the next server takes it over. */
function unlinkOwn(path: string): void {
  try {
    fs.unlinkSync(path);
  } catch (error) {
    if (!hasCode(error, 'EACCES', 'EPERM')) throw error;
    process.emitWarning(`The socket ${path} could not be removed: ${String(error)}`, { code: 'FDPASS_PATH' });
  }
}

/**
 * The Listeners of this thread that are open, in the order in which they came to be.
 *
 * @see docs/api.md
 */
export function openListeners(): Listener[] {
  return [...open];
}

/** The servers of this thread that a Listener serves, or served and that still have connections. */
export function servedServers(): Servable[] {
  return [...served];
}

/** The Listener that serves the server, or was the last to, open or closed, and the server's place among {@link Listener.servers}. */
export function placeOf(server: Servable): { listener: Listener; index: number } | undefined {
  return places.get(server);
}

/** Everything that is served starts to accept, and whatever is served later does at once. */
export async function startAccepting(): Promise<void> {
  accepting = true;
  await Promise.all(openListeners().map((listener) => inside.start(listener)));
}

/** From here on a server that is served waits again: this process has handed its listeners over, or has been told to leave. */
export function stopAccepting(): void {
  accepting = false;
}

/** Calls `callback` whenever a server is served that waits for ready(). */
export function whenServed(callback: () => void): void {
  onServe = callback;
}

/** Closes the Listener without a trace: its Unix path is another process's from here on. */
export function relinquish(listener: Listener): void {
  inside.relinquish(listener);
}

/** Calls `callback` right before the descriptor is closed, by whomever: whoever accepts from it without a server stops then. */
export function beforeClose(listener: Listener, callback: () => void): void {
  inside.beforeClose(listener, callback);
}

/** From here on the Unix path of this Listener is this process's to unlink: its predecessor has let go. */
export function claimPath(listener: Listener): void {
  inside.claimPath(listener);
}

/**
 * From here on a successor may hold the Unix path: closing the Listener does not unlink it.
 *
 * @returns Takes it back.
 */
export function lendPath(listener: Listener): () => void {
  return inside.lendPath(listener);
}

/** A Listener of a descriptor that was handed down, and was looked at before: it belongs to the Listener from here on. */
export function inherited(fd: number, facts: Facts): Listener {
  return inside.make(fd, facts);
}

/**
 * What there is to know of a descriptor that may be a listener.
 *
 * @throws The system's EBADF. {@link FdpassError} `ERR_FDPASS_TYPE`: not a socket that listens, nor a dgram socket that is bound.
 */
export function describeListener(fd: number): { address: raw.SocketAddress; type: raw.SocketType; backlog: number } {
  const { kind, socket } = raw.describe(fd);
  const refuse = (got: string): FdpassError =>
    new FdpassError('ERR_FDPASS_TYPE', `Descriptor ${fd} is not a listener: it is ${got}`, {
      fd,
      expected: 'a socket that listens, or a bound dgram socket',
      got,
    });
  if (socket === undefined) throw refuse(`a ${kind}`);
  const { type, listening, localAddress: address } = socket;
  if (type === 'other' || address === undefined) throw refuse('a socket of another family or type');
  if (type === 'dgram') {
    const bound = address.family === 'unix' ? address.path !== '' : address.port !== 0;
    if (!bound) throw refuse('a dgram socket that is not bound');
    return { address, type, backlog: BACKLOG };
  }
  if (!listening) throw refuse(`a ${type} socket that does not listen`);
  return { address, type, backlog: backlogOf(fd, address) };
}

/** What the socket was made with: a second listen(2) with another number would change it for everybody who holds it. */
function backlogOf(fd: number, address: raw.SocketAddress): number {
  if (address.family === 'unix' || process.platform !== 'linux') return BACKLOG; // no way to ask
  return raw.listenQueue(fd).backlog;
}

/**
 * Binds an address and listens. Accepts nothing yet: {@link Listener.serve} says who does.
 *
 * A Unix path that nobody listens at any more is taken over; that of a live server, or a file that is no socket, never is.
 *
 * @param options - Where and how; a port or a path at least.
 * @throws TypeError `ERR_INVALID_ARG_TYPE`, RangeError `ERR_INVALID_ARG_VALUE`: an option, named with its value, before
 * anything is opened. The system's errors with the address: EADDRINUSE, EADDRNOTAVAIL, EACCES, ENOTFOUND, ... ENOTSUP: an
 * option that this platform has not. {@link FdpassError} `ERR_FDPASS_NAMES`: the name; `ERR_FDPASS_LIMIT`: another process
 * holds the lock of the directory for 5 000 ms.
 * @see bind(2), listen(2), unix(7), flock(2)
 */
export async function listen(options: ListenOptions): Promise<Listener> {
  const wanted = checkListenOptions(options);
  if (wanted.kind === 'anything') {
    throw Object.assign(new TypeError('options must say where to listen: a port or a path'), {
      code: 'ERR_INVALID_ARG_VALUE',
    });
  }
  const addresses = await candidates(wanted);
  for (const [index, address] of addresses.entries()) {
    try {
      return address.family === 'unix' ? await listenAtPath(address, options) : listenAt(address, options);
    } catch (error) {
      // No IPv6 on this machine: the next candidate is IPv4.
      if (index + 1 === addresses.length || !hasCode(error, 'EAFNOSUPPORT', 'EADDRNOTAVAIL')) throw error;
    }
  }
  throw new Error('unreachable: there is always a candidate, and the last one returns or throws');
}

function listenAt(address: raw.SocketAddress, options: ListenOptions, beforeListen?: () => void): Listener {
  const { name = UNNAMED, type = 'stream', backlog = BACKLOG } = options;
  const fd = raw.socket(address.family, type);
  try {
    setOptions(fd, address, options);
    naming(name, () => {
      raw.bind(fd, address);
      beforeListen?.();
      if (type !== 'dgram') raw.listen(fd, backlog);
    });
    const facts = { name, address: raw.localAddress(fd), type, origin: 'bound', backlog } as const;
    return inside.make(fd, facts);
  } catch (error) {
    raw.close(fd);
    throw error;
  }
}

/** The system's error says what was done to which address; this adds whose. */
function naming(name: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    if (error instanceof Error) error.message += ` for listener "${name}"`;
    throw error;
  }
}

function setOptions(fd: number, address: raw.SocketAddress, options: ListenOptions): void {
  const { type = 'stream' } = options;
  const { reuseAddress = address.family !== 'unix' && type === 'stream', ...rest } = options;
  if (reuseAddress) raw.setOption(fd, 'reuseAddress', true);
  if (rest.reusePort === true) raw.setOption(fd, 'reusePort', true);
  if (address.family === 'IPv6') raw.setOption(fd, 'ipv6Only', rest.ipv6Only ?? false);
  if (rest.freeBind === true) raw.setOption(fd, 'freeBind', true);
  if (rest.bindToDevice !== undefined) raw.setOption(fd, 'bindToDevice', rest.bindToDevice);
  if (rest.deferAccept !== undefined) raw.setOption(fd, 'deferAccept', rest.deferAccept);
  if (rest.fastOpen !== undefined) raw.setOption(fd, 'fastOpen', rest.fastOpen);
}

async function listenAtPath(
  address: raw.SocketAddress & { family: 'unix' },
  options: ListenOptions,
): Promise<Listener> {
  const { path } = address;
  if (path.startsWith('@')) return listenAt(address, options);
  const bindHere = (): Listener => {
    const listener = listenAt(address, options, () => {
      if (options.mode !== undefined) fs.chmodSync(path, options.mode); // nobody can connect before listen(2)
    });
    inside.claimPath(listener);
    return listener;
  };
  // The real name is bound, and not a temporary one renamed: getsockname would show the temporary name for ever. The lock
  // keeps two that find the same dead socket from unlinking each other's new one.
  const unlock = await lockDirectory(dirname(path));
  try {
    try {
      return bindHere();
    } catch (error) {
      if (!hasCode(error, 'EADDRINUSE') || !isDead(path, options.type ?? 'stream')) throw error;
    }
    fs.unlinkSync(path);
    return bindHere();
  } finally {
    unlock();
  }
}

/** Whether a socket stands at the path that nobody listens at any more. */
export function isDead(path: string, type: raw.SocketType): boolean {
  if (fs.lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return false;
  const fd = raw.socket('unix', type);
  try {
    raw.connect(fd, { family: 'unix', path });
    return false;
  } catch (error) {
    return hasCode(error, 'ECONNREFUSED'); // EAGAIN: a live server with a full queue. EPROTOTYPE: one of another type
  } finally {
    raw.close(fd);
  }
}

async function lockDirectory(directory: string): Promise<() => void> {
  let fd: number;
  try {
    fd = fs.openSync(directory, fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
  } catch (error) {
    if (hasCode(error, 'EACCES')) return () => undefined; // may write there, may not read: bind(2) says the rest
    throw error;
  }
  const deadline = performance.now() + LOCK_TIMEOUT;
  while (!raw.flock(fd, 'exclusive')) {
    if (performance.now() > deadline) {
      fs.closeSync(fd);
      const message = `Another process has held the lock on ${directory} for ${LOCK_TIMEOUT} ms; nothing was bound`;
      throw new FdpassError('ERR_FDPASS_LIMIT', message);
    }
    await delay(LOCK_RETRY);
  }
  return () => {
    fs.closeSync(fd);
  };
}

function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
