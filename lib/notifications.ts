/**
 * `Notifications`: the other end of sd_notify, for a supervisor or a test harness that opens it for its children.
 * Owns a datagram socket, its path, and the descriptors that it keeps. It reads when somebody asks for a message and not before: what
 * nobody reads waits in the kernel. Works in any thread. Source: systemd's manager_dispatch_notify_fd in src/core/manager.c and
 * service_notify_message, service_add_fd_store in src/core/service.c; sd_notify(3), unix(7) SCM_CREDENTIALS.
 */
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { ChannelMessage, type Descriptor } from './channel/received.js';
import { FdpassError } from './errors.js';
import { isDead } from './listener.js';
import { isValidName, readMessage, type Reading, STORED } from './notify/message.js';
import * as raw from './raw.js';

/** The largest message, bytes: PIPE_BUF, the manager's buffer. */
const MAX_RECEIVED = 4096;

/** The default of `storeMax`. */
const STORE_MAX = 128;

/** How many messages are dropped in one turn of the event loop: strangers who send without end must not hold it. */
const AT_ONCE = 64;

const isLinux = process.platform === 'linux';

/** Where to listen, and to whom. */
export interface NotificationsOptions {
  /** A Unix path, or `@name` (abstract, Linux). A path whose owner has died is taken over. Default: a fresh name. */
  path?: string | undefined;
  /** Permissions of a path. Default 0o600. */
  mode?: number | undefined;
  /**
   * Whose messages are taken: `'user'`, this process's own user and root; `'all'`; or who is asked about each. What others send is dropped.
   * Default `'user'`.
   */
  allow?: 'user' | 'all' | ((sender: raw.Credentials) => boolean) | undefined;
  /** How many descriptors are kept for children at most: FileDescriptorStoreMax=. Each that is not stored with FDPOLL=0 takes two. Default 128. */
  storeMax?: number | undefined;
  /** Called with the reason, in words, when a message or a descriptor is dropped. */
  onDropped?: ((reason: string, sender: raw.Credentials | undefined) => void) | undefined;
  /** Closes it. */
  signal?: AbortSignal | undefined;
}

/**
 * A message of a child. It owns the descriptors that came with it and are not stored: what nobody takes is closed when the next message
 * is asked for, with close(), and with its Notifications.
 */
export class Notification implements Disposable {
  /** KEY to VALUE, as in `fields.STATUS`; of a key that stands there twice the first. */
  readonly fields: Readonly<Record<string, string>>;
  /** The lines as they came. */
  readonly lines: readonly string[];
  /** Who sent it, as the kernel vouches for it. 0 where it cannot be known: a process of another PID namespace, or no Linux. */
  readonly pid: number;
  /** -1 where it cannot be known: no Linux. */
  readonly uid: number;
  /** -1 where it cannot be known: no Linux. */
  readonly gid: number;
  /** Descriptors that the manager would close: those of a message without FDSTORE=1, and those that were not stored. */
  readonly fds: readonly Descriptor[];

  /** @internal */
  constructor({ lines, fields }: Reading, sender: raw.Credentials, fds: readonly Descriptor[]) {
    this.lines = lines;
    this.fields = fields;
    this.pid = sender.pid;
    this.uid = sender.uid;
    this.gid = sender.gid;
    this.fds = fds;
  }

  /** Whether this line stands in it, as in `has('READY=1')`. */
  has(line: string): boolean {
    return this.lines.includes(line);
  }

  /** Closes the descriptors that nobody took. Idempotent. */
  close(): void {
    for (const descriptor of this.fds) descriptor.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A descriptor that a child has stored. `spawn` takes it as it is, name and all: its owner stays the Notifications. */
export interface StoredDescriptor {
  readonly name: string;
  /** The number, to look at and to hand to a child; -1 once it was taken or removed. */
  readonly fd: number;
}

interface Kept extends StoredDescriptor {
  readonly descriptor: Descriptor;
  /** Gives the descriptor away: it is watched no more. */
  release(): Descriptor;
}

interface Waiter {
  resolve: (message: Notification | undefined) => void;
  reject: (error: unknown) => void;
}

/**
 * A notification socket for children, as systemd's manager has one: sd_notify(3) at the other end.
 *
 * Messages are read with {@link Notifications.receive} or `for await`; a loop that is left does not close it. Descriptors that a child stores
 * (FDSTORE=1) are kept under their names. A BARRIER=1 is answered when all that came before it was handed out and the next was asked
 * for: somebody must read on. What hangs up is dropped, unless it was stored with FDPOLL=0; on macOS it stays.
 *
 * @example
 *   using notifications = new Notifications();
 *   const child = spawn('./server', [], { variables: notifications.env() });
 *   for await (const message of notifications) if (message.has('READY=1')) break;
 */
export class Notifications implements AsyncIterable<Notification>, Disposable, AsyncDisposable {
  /** The value of NOTIFY_SOCKET: a path, or `@name`. */
  readonly path: string;
  readonly #allow: (sender: raw.Credentials) => boolean;
  readonly #storeMax: number;
  readonly #onDropped: NotificationsOptions['onDropped'];
  readonly #signal: AbortSignal | undefined;
  readonly #file: fs.Stats | undefined;
  readonly #waiters: Waiter[] = [];
  #kept: Kept[] = [];
  #fd: number;
  #watch: raw.Watch | undefined;
  #current: Notification | undefined;
  #turn: NodeJS.Immediate | undefined;
  #dropped = 0;

  /**
   * Binds the socket; it takes messages from here on.
   *
   * @throws `EADDRINUSE`: somebody listens at the path, or it is no socket; `ENOENT`, `EACCES`, `EMFILE`; `ENOTSUP`: `@name` outside
   * of Linux. TypeError, RangeError: an option. The reason of the signal.
   * @see unix(7), SO_PASSCRED
   */
  constructor(options: NotificationsOptions = {}) {
    const { mode = 0o600, storeMax = STORE_MAX, allow = 'user', onDropped, signal } = options;
    this.#allow = senders(allow);
    if (!(Number.isInteger(storeMax) && storeMax >= 0)) throw refusal('options.storeMax', 'a whole number', storeMax);
    signal?.throwIfAborted();
    this.#storeMax = storeMax;
    this.#onDropped = onDropped;
    this.#signal = signal;
    this.path = options.path ?? freshPath();
    this.#fd = raw.socket('unix', 'dgram');
    try {
      if (isLinux) raw.setOption(this.#fd, 'passCredentials', true); // before the bind: nothing comes without
      bind(this.#fd, this.path);
      if (!this.path.startsWith('@')) {
        this.#file = fs.lstatSync(this.path);
        fs.chmodSync(this.path, mode);
      }
    } catch (error) {
      this.close();
      throw error;
    }
    signal?.addEventListener('abort', this.#abort);
  }

  /** What was closed. */
  get closed(): boolean {
    return this.#fd < 0;
  }

  /** How many messages were dropped: of a stranger, too long, with a NUL, a barrier that is none, or lost for want of descriptors. */
  get dropped(): number {
    return this.#dropped;
  }

  /**
   * What a child needs in its environment: for the `variables` of spawn, or to be spread into `env`.
   *
   * @param options - `watchdog`: the child is asked to beat within so many ms (WATCHDOG_USEC). Whether it does is for you to watch.
   */
  env(options: { watchdog?: number } = {}): Record<string, string> {
    const { watchdog } = options;
    if (watchdog === undefined) return { NOTIFY_SOCKET: this.path };
    if (!(watchdog > 0 && watchdog < Number.MAX_SAFE_INTEGER / 1000))
      throw refusal('options.watchdog', 'ms above 0', watchdog);
    return { NOTIFY_SOCKET: this.path, WATCHDOG_USEC: String(Math.max(1, Math.round(watchdog * 1000))) };
  }

  /**
   * The next message. What is left of the descriptors of the one before is closed; so is the descriptor of a barrier that was reached.
   *
   * @param options - `signal`: ends the wait, and loses nothing.
   * @returns Undefined once it is closed.
   * @throws The reason of the signal; errors of recvmsg(2).
   */
  receive(options: { signal?: AbortSignal | undefined } = {}): Promise<Notification | undefined> {
    const { signal } = options;
    return new Promise((resolve, reject) => {
      if (signal?.aborted === true) {
        // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the signal's reason may be anything
        reject(signal.reason);
        return;
      }
      if (this.closed) {
        resolve(undefined);
        return;
      }
      const abort = (): void => {
        this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
        this.#rest();
        waiter.reject(signal?.reason);
      };
      const waiter: Waiter = {
        resolve: (message) => {
          signal?.removeEventListener('abort', abort);
          resolve(message);
        },
        reject: (error) => {
          signal?.removeEventListener('abort', abort);
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- as above
          reject(error);
        },
      };
      signal?.addEventListener('abort', abort);
      this.#waiters.push(waiter);
      if (this.#waiters.length === 1 && this.#turn === undefined) this.#read();
    });
  }

  /** The messages, until it is closed. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Notification, void, undefined> {
    for (let message = await this.receive(); message !== undefined; message = await this.receive()) yield message;
  }

  /** What is stored: the newest first, as systemd hands it to the next process. */
  get stored(): readonly StoredDescriptor[] {
    return [...this.#kept];
  }

  /** Takes all that is stored under this name, in the order it was stored; the caller's from here on. */
  take(name: string): Descriptor[] {
    const taken = this.#kept.filter((kept) => kept.name === name);
    this.#kept = this.#kept.filter((kept) => kept.name !== name);
    return taken.map((kept) => kept.release()).reverse();
  }

  /** Closes the socket, removes its path, closes what is stored and not taken. Whoever waits gets undefined. Idempotent. */
  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1; // the owner forgets the number first
    this.#signal?.removeEventListener('abort', this.#abort);
    clearImmediate(this.#turn);
    this.#watch?.close();
    raw.close(fd);
    this.#removeFile();
    this.#current?.close();
    for (const kept of this.#kept.splice(0)) kept.release().close();
    for (const waiter of this.#waiters.splice(0)) waiter.resolve(undefined);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close();
    return Promise.resolve();
  }

  readonly #abort = (): void => {
    this.close();
  };

  #removeFile(): void {
    const own = this.#file;
    if (own === undefined) return;
    const now = fs.lstatSync(this.path, { throwIfNoEntry: false });
    if (now?.dev === own.dev && now.ino === own.ino) fs.unlinkSync(this.path);
  }

  /** Hands the next message to the first who waits. */
  #read(): void {
    this.#current?.close();
    this.#current = undefined;
    try {
      for (let count = 0; count < AT_ONCE; count++) {
        const [waiter] = this.#waiters;
        if (waiter === undefined) break;
        const message = this.#next();
        if (this.closed) return; // by onDropped
        if (message === undefined) break;
        if (message === 'dropped') continue;
        this.#current = message;
        this.#waiters.shift();
        waiter.resolve(message);
        // The next one who waits has its message when this one was looked at: a barrier behind it means that.
        if (this.#waiters.length > 0) {
          this.#turn = setImmediate(() => {
            this.#turn = undefined;
            this.#read();
          });
        }
        return;
      }
    } catch (error) {
      this.#waiters.shift()?.reject(error);
    } finally {
      if (!this.closed) this.#rest();
    }
  }

  /** Watches the socket as long as somebody waits, and keeps the process alive so long. */
  #rest(): void {
    const waits = this.#waiters.length > 0 && this.#turn === undefined;
    if (!waits) {
      this.#watch?.close();
      this.#watch = undefined;
    } else {
      this.#watch ??= raw.watch(this.#fd, { readable: true }, () => {
        this.#read();
      });
    }
  }

  /** Reads one message from the kernel and does what the manager would. Undefined: there is none. */
  #next(): Notification | 'dropped' | undefined {
    let received: raw.Message | undefined;
    try {
      received = raw.receive(this.#fd, MAX_RECEIVED, { credentials: isLinux });
    } catch (error) {
      if (!(error instanceof FdpassError)) throw error;
      return this.#drop(error.message, undefined); // longer than the buffer, or more descriptors than fit into this process
    }
    if (received === undefined) return undefined;
    const { bytes, fds, credentials } = received;
    const owner = new ChannelMessage(bytes, fds, `the notification socket ${this.path}`);
    const sender = credentials ?? { pid: 0, uid: -1, gid: -1 };
    let taken: Notification | string;
    try {
      taken = this.#take(owner, sender, credentials);
    } catch (error) {
      owner.close();
      throw error; // of a function of the caller's
    }
    if (taken instanceof Notification) return taken;
    owner.close(); // before anybody is told: what is asked of a stranger's barrier is that its descriptor is closed
    return taken === 'barrier' ? 'dropped' : this.#drop(taken, credentials);
  }

  /** A message for who waits; 'barrier'; or why it is dropped. */
  #take(
    owner: ChannelMessage,
    sender: raw.Credentials,
    credentials: raw.Credentials | undefined,
  ): Notification | string {
    // pid 0: sent before SO_PASSCRED was set, or from a PID namespace that this one does not see
    if (isLinux && (credentials === undefined || (credentials.pid === 0 && credentials.uid === 65534)))
      return 'nobody vouches for its sender';
    if (isLinux && !this.#allow(sender)) return `its sender (pid ${sender.pid}, uid ${sender.uid}) is not allowed to`;
    const reading = readMessage(owner.bytes);
    if (typeof reading === 'string') return reading;
    const { lines } = reading;
    if (lines.includes('BARRIER=1')) {
      if (lines.length > 1) return 'a barrier must be alone in its message';
      return owner.fds.length === 1
        ? 'barrier'
        : `a barrier comes with one descriptor, and this one with ${owner.fds.length}`;
    }
    if (lines.includes('FDSTOREREMOVE=1')) this.#forget(reading, sender);
    else if (lines.includes('FDSTORE=1')) this.#store(reading, owner.fds, sender);
    const left = owner.fds.filter((descriptor) => !this.#kept.some((kept) => kept.descriptor === descriptor));
    return new Notification(reading, sender, left);
  }

  #store({ fields, lines }: Reading, descriptors: readonly Descriptor[], sender: raw.Credentials): void {
    const given = fields['FDNAME'];
    const name = given !== undefined && isValidName(given) ? given : STORED;
    for (const descriptor of descriptors) {
      if (this.#kept.some(({ fd }) => fd >= 0 && raw.isSame(fd, descriptor.fd))) {
        this.#tell(`a descriptor for "${name}" is stored already`, sender);
        descriptor.close();
      } else if (this.#kept.length >= this.#storeMax) {
        this.#tell(`no room for another descriptor, "${name}": ${this.#storeMax} are stored`, sender);
        descriptor.close();
      } else {
        const kept = new Stored(name, descriptor);
        this.#kept.unshift(kept);
        if (lines.includes('FDPOLL=0') || !isLinux) continue;
        kept.onHangUp(() => {
          this.#kept = this.#kept.filter((each) => each !== kept);
          kept.release().close();
          this.#tell(`what was stored as "${name}" has hung up`, sender);
        });
      }
    }
  }

  #forget({ fields }: Reading, sender: raw.Credentials): void {
    const name = fields['FDNAME'];
    if (name === undefined || !isValidName(name)) this.#tell('FDSTOREREMOVE without a valid name', sender);
    else for (const descriptor of this.take(name)) descriptor.close();
  }

  #drop(reason: string, sender: raw.Credentials | undefined): 'dropped' {
    this.#dropped++;
    this.#tell(reason, sender);
    return 'dropped';
  }

  #tell(reason: string, sender: raw.Credentials | undefined): void {
    this.#onDropped?.(reason, sender);
  }
}

class Stored implements Kept {
  readonly name: string;
  readonly descriptor: Descriptor;
  #watch: raw.Watch | undefined;

  constructor(name: string, descriptor: Descriptor) {
    this.name = name;
    this.descriptor = descriptor;
  }

  get fd(): number {
    return this.descriptor.fd;
  }

  release(): Descriptor {
    this.#watch?.close();
    return this.descriptor;
  }

  /** As systemd's manager watches it: for POLLHUP and POLLERR alone. Keeps no process alive. */
  onHangUp(callback: () => void): void {
    try {
      this.#watch = raw.watch(this.descriptor.fd, { hangUp: true }, callback);
      this.#watch.unref();
    } catch {
      // EPERM: a file, which cannot hang up. EMFILE, ENOMEM: what is kept and not watched is better than what is lost
    }
  }
}

function senders(allow: NonNullable<NotificationsOptions['allow']>): (sender: raw.Credentials) => boolean {
  if (typeof allow === 'function') return allow;
  if (allow === 'all') return () => true;
  if ((allow as string) !== 'user') throw refusal('options.allow', "'user', 'all' or a function", allow);
  const own = process.geteuid?.();
  return ({ uid }) => uid === own || uid === 0;
}

/** A name that nobody else has: in a namespace of its own on Linux, else in the directory of temporary files. */
function freshPath(): string {
  const name = `fdpass-notify-${process.pid}-${crypto.randomUUID()}`; // the global one: it is loaded where it is used
  return isLinux ? `@${name}` : join(tmpdir(), name);
}

/** The path of a socket whose owner has died is taken over, under the lock of its directory, as in listen(). */
function bind(fd: number, path: string): void {
  const address: raw.SocketAddress = { family: 'unix', path };
  try {
    raw.bind(fd, address);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || path.startsWith('@')) throw error;
    const directory = fs.openSync(dirname(path), fs.constants.O_RDONLY | fs.constants.O_DIRECTORY);
    try {
      if (!raw.flock(directory, 'exclusive') || !isDead(path, 'dgram')) throw error;
      fs.unlinkSync(path);
      raw.bind(fd, address);
    } finally {
      fs.closeSync(directory);
    }
  }
}

function refusal(name: string, expected: string, got: unknown): TypeError {
  const message = `${name} must be ${expected}; it is ${String(got)}`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}
