/**
 * `notify`: tells the service manager what this process does, where it asked to know (NOTIFY_SOCKET), and einhorn and s6 in their ways.
 * The public face of lib/notify/; what a handoff says by itself is upgrade.ts there. Main thread alone.
 * Source: sd_notify(3), systemd.service(5).
 */
import { checkName } from './names.js';
import { waitForBarrier } from './notify/barrier.js';
import { acknowledge } from './notify/einhorn.js';
import {
  MAX_DESCRIPTORS,
  type ServiceState,
  systemError,
  writeMessage,
  writeRemove,
  writeStore,
} from './notify/message.js';
import { post, type SendOptions } from './notify/outbox.js';
import { notifyS6 } from './notify/s6.js';
import {
  changeWatchdogTimeout,
  einhornEnvironment,
  managerAddress,
  noteStored,
  startBeat,
  watchdogTimeout,
} from './notify/state.js';
import { pidfdId } from './pidfs.js';
import { assertMainThread } from './thread.js';

export type { ServiceState } from './notify/message.js';

/** How a message is sent. */
export interface NotifyOptions extends SendOptions {
  /** Whom to tell, as NOTIFY_SOCKET has it. Default: NOTIFY_SOCKET, read at the call. */
  address?: string | undefined;
}

/** How descriptors are stored. */
export interface StoreOptions extends NotifyOptions {
  /** False (FDPOLL=0): the manager keeps them though they hang up. Default true: what hangs up, or is not connected, is dropped. */
  poll?: boolean | undefined;
}

/** A descriptor, or what has one: a Listener, a FileHandle. It stays the caller's. */
export type Storable = number | { readonly fd: number };

/** How the beat of {@link Watchdog.start} is decided on. */
export interface WatchdogOptions {
  /** Asked before each beat: false, a rejection, or no answer, and there is none. Default: that the event loop turns is enough. */
  check?: (() => boolean | Promise<boolean>) | undefined;
}

/** The beat that the manager waits for: WatchdogSec= in the unit. */
export interface Watchdog {
  /** Sends one beat: WATCHDOG=1. */
  (options?: NotifyOptions): Promise<boolean>;
  /**
   * Within which time a beat is due, ms. Undefined: none is asked for (WATCHDOG_USEC), or not of this process (WATCHDOG_PID).
   * Throws `ERR_FDPASS_ENV`: a variable is malformed.
   */
  readonly timeout: number | undefined;
  /**
   * Beats at half of the time, the first one now, as long as the event loop really turns: each is sent behind a whole turn. Ends with
   * dispose, and with the release to a successor. Keeps no process alive. Where no beat is asked for it does nothing.
   */
  start(options?: WatchdogOptions): Disposable;
  /** Asks the manager to do now what it does when beats are missing: WATCHDOG=trigger. */
  trigger(options?: NotifyOptions): Promise<boolean>;
  /** Changes the time, ms: WATCHDOG_USEC. What has been started beats at half of that. */
  setTimeout(ms: number, options?: NotifyOptions): Promise<boolean>;
}

/**
 * What {@link notify} is. Each call sends one message, in the call where the manager's queue has room; else it waits, in order, up to
 * `timeout`. Each resolves with false where nobody asked to be told, or a successor has taken over, and with true when the message was sent. Sent is
 * not accepted: the manager does not answer, and drops what it takes to be wrong; only {@link Notify.barrier} is answered.
 *
 * Each rejects with a TypeError or RangeError (an argument), `ERR_FDPASS_THREAD`, and, which may be left alone as it ends no process,
 * where it was not sent: `EAGAIN` (no room within `timeout`), `EAFNOSUPPORT`, `EINVAL`, `E2BIG` (NOTIFY_SOCKET is no address), `ENOENT`,
 * `ECONNREFUSED`, ... of connect(2), `EMSGSIZE`, the reason of the signal. To a vsock (the manager on the host of a virtual machine) a message is
 * a connection of its own, and has been read when the call resolves (a datagram has been sent): `ETIMEDOUT`; descriptors cannot go there: `ENOTSUP`.
 */
export interface Notify {
  /** Sends all of this in one message. */
  (state: ServiceState, options?: NotifyOptions): Promise<boolean>;
  /** READY=1: the start, or a reload, is done. ready() says it by itself. */
  ready(status?: string, options?: NotifyOptions): Promise<boolean>;
  /** RELOADING=1 with the time: a reload has begun; ready must follow. A handoff says both by itself. */
  reloading(status?: string, options?: NotifyOptions): Promise<boolean>;
  /** STOPPING=1: the service ends. */
  stopping(status?: string, options?: NotifyOptions): Promise<boolean>;
  /** STATUS: one line for people. */
  status(text: string, options?: NotifyOptions): Promise<boolean>;
  /** MAINPID: the process that is the service from here on. A handoff says it by itself. */
  mainPid(pid: number, options?: NotifyOptions): Promise<boolean>;
  /** EXTEND_TIMEOUT_USEC: the start, the reload or the stop needs so much longer from now, ms. */
  extendTimeout(ms: number, options?: NotifyOptions): Promise<boolean>;
  /** ERRNO: why it failed; a number, or an error that has one. */
  errno(error: number | { readonly errno?: number | undefined }, options?: NotifyOptions): Promise<boolean>;
  /** NOTIFYACCESS: whose messages the manager takes from here on. */
  notifyAccess(access: 'none' | 'main' | 'exec' | 'all', options?: NotifyOptions): Promise<boolean>;
  /** The beat of WatchdogSec=. */
  readonly watchdog: Watchdog;
  /**
   * FDSTORE: the manager keeps duplicates of these, at most 253, under this name, and hands them to the next process of the service
   * (FileDescriptorStoreMax= in the unit): {@link inheritListener} finds a listener among them by its name. What is over the limit of
   * the unit, and what is stored already, it drops without a word. `ERR_FDPASS_NAMES`: the name; `E2BIG`: too many; `EBADF`.
   */
  storeDescriptors(name: string, fds: Storable | readonly Storable[], options?: StoreOptions): Promise<boolean>;
  /** FDSTOREREMOVE: it forgets all of this name. */
  removeDescriptors(name: string, options?: NotifyOptions): Promise<boolean>;
  /**
   * Waits until the manager has processed what was sent before, `timeout` ms at most (5 000): `ETIMEDOUT`. Processed is not accepted: who
   * is not allowed to send gets the same answer. `ENOTSUP`: by datagrams of vsock, which nothing answers.
   */
  barrier(options?: NotifyOptions): Promise<boolean>;
  /**
   * Tells einhorn that this worker is up; ready() does it by itself. False where this process is no worker of einhorn's.
   * Rejects where EINHORN_SOCK_FD is not the socket that it should be: `ERR_FDPASS_ENV`, `_BADFD`, `_TYPE`; with errors of connect(2).
   */
  einhorn(): Promise<boolean>;
  /**
   * Tells s6 that this service is up: a newline to the descriptor that the service's file `notification-fd` names, which is closed then.
   * Call it when ready() has resolved. `ERR_FDPASS_BADFD`: nothing was handed down under that number. `EPIPE`: nobody listens any more.
   */
  s6(fd: number): Promise<boolean>;
}

/**
 * Tells the service manager what this process does.
 *
 * @see sd_notify(3), sd_notify_barrier(3), sd_watchdog_enabled(3), systemd.service(5); docs/supervisors/README.md
 */
export const notify: Notify = Object.assign(tell, {
  ready: (status?: string, options?: NotifyOptions) => tell({ ready: true, status }, options),
  reloading: (status?: string, options?: NotifyOptions) => tell({ reloading: true, status }, options),
  stopping: (status?: string, options?: NotifyOptions) => tell({ stopping: true, status }, options),
  status: (status: string, options?: NotifyOptions) => tell({ status }, options),
  mainPid: (mainPid: number, options?: NotifyOptions) => tell({ mainPid }, options),
  extendTimeout: (ms: number, options?: NotifyOptions) => tell({ extendTimeout: ms }, options),
  errno: (error: number | { readonly errno?: number | undefined }, options?: NotifyOptions) =>
    tell({ errno: typeof error === 'number' ? error : error.errno }, options),
  notifyAccess: (notifyAccess: 'none' | 'main' | 'exec' | 'all', options?: NotifyOptions) =>
    tell({ notifyAccess }, options),
  watchdog: makeWatchdog(),
  storeDescriptors,
  removeDescriptors: (name: string, options?: NotifyOptions) =>
    prepared('notify.removeDescriptors', options, () => {
      checkName(name);
      return { text: writeRemove(name) };
    }),
  barrier: (options: NotifyOptions = {}) =>
    checked('notify.barrier', options, () => waitForBarrier(addressOf(options), options)),
  einhorn: () =>
    checked('notify.einhorn', {}, () => {
      const told = acknowledge(einhornEnvironment(), process);
      told.catch(() => undefined); // as for the manager: that it is gone ends no process
      return told;
    }),
  s6: (fd: number) =>
    checked('notify.s6', {}, () => {
      notifyS6(fd);
      return Promise.resolve(true);
    }),
});

/** One message. */
interface Prepared {
  text: string;
  fds?: readonly number[];
}

function tell(state: ServiceState, options: NotifyOptions = {}): Promise<boolean> {
  return prepared('notify', options, () => {
    const text = writeMessage(state, { now: process.hrtime.bigint() / 1000n, pidfdId });
    if (state.watchdogTimeout !== undefined && options.address === undefined)
      changeWatchdogTimeout(state.watchdogTimeout);
    return { text };
  });
}

function storeDescriptors(
  name: string,
  fds: Storable | readonly Storable[],
  options: StoreOptions = {},
): Promise<boolean> {
  return prepared('notify.storeDescriptors', options, () => {
    checkName(name); // the manager would keep it under another name, and say nothing
    const list = (Array.isArray(fds) ? (fds as readonly Storable[]) : [fds as Storable]).map(numberOf);
    if (list.length === 0) throw refusal('fds', 'at least one descriptor', 'an empty list');
    if (list.length > MAX_DESCRIPTORS) {
      const what = `fds holds ${list.length} descriptors, and one message carries ${MAX_DESCRIPTORS}: nothing was stored`;
      throw systemError('E2BIG', 'sendmsg', what);
    }
    noteStored(name);
    return { text: writeStore(name, options.poll ?? true), fds: list };
  });
}

function numberOf(descriptor: Storable, index: number): number {
  const fd: unknown = typeof descriptor === 'object' ? (descriptor as { fd: number } | null)?.fd : descriptor;
  if (typeof fd === 'number' && Number.isInteger(fd) && fd >= 0) return fd;
  throw refusal(`fds[${index}]`, 'a descriptor, or something open that has one', String(fd));
}

function makeWatchdog(): Watchdog {
  const watchdog = (options?: NotifyOptions): Promise<boolean> => tell({ watchdog: true }, options);
  const parts = {
    start: ({ check }: WatchdogOptions = {}): Disposable => {
      assertMainThread('notify.watchdog.start()');
      const timeout = watchdogTimeout();
      if (timeout === undefined) return { [Symbol.dispose]: () => undefined };
      return { [Symbol.dispose]: startBeat(timeout, { send: () => watchdog(), check }) };
    },
    trigger: (options?: NotifyOptions) => tell({ watchdog: 'trigger' }, options),
    setTimeout: (ms: number, options?: NotifyOptions) => tell({ watchdogTimeout: ms }, options),
  };
  const timeout = { get: watchdogTimeout, enumerable: true };
  return Object.defineProperty(Object.assign(watchdog, parts), 'timeout', timeout) as typeof watchdog & Watchdog;
}

function addressOf({ address }: NotifyOptions): string | undefined {
  return address ?? managerAddress();
}

function prepared(what: string, options: NotifyOptions = {}, prepare: () => Prepared): Promise<boolean> {
  return checked(what, options, () => {
    const { text, fds } = prepare();
    return post(addressOf(options), text, fds, options);
  });
}

/** What is wrong with the call rejects, and is no less an error where nobody looks; what {@link post} rejects with may be left alone. */
function checked(what: string, { timeout }: SendOptions, act: () => Promise<boolean>): Promise<boolean> {
  try {
    assertMainThread(what);
    if (timeout !== undefined && !(timeout >= 0)) throw refusal('options.timeout', 'ms, 0 or more', String(timeout));
    return act();
  } catch (error) {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what was thrown
    return Promise.reject(error);
  }
}

function refusal(name: string, expected: string, got: string): TypeError {
  const message = `${name} must be ${expected}; it is ${got}`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}
