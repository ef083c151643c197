/**
 * When a successor that is not an fdpass program accepts: what it says itself (sd_notify), what can be seen of it (its first
 * accepted connection), or a time.
 * Opens a notification socket, or looks into /proc and connects to the listener. Each wait ends with its AbortSignal.
 * Source: sd_notify(3), proc_pid_fd(5).
 */
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

import { FdpassError } from '../errors.js';
import type { Listener } from '../listener.js';
import { Notifications } from '../notifications.js';
import * as raw from '../raw.js';

/**
 * How the successor tells that it is ready. `channel`: by fdpass's own dialog. `notify`: READY=1 on NOTIFY_SOCKET.
 * `connection`: it has accepted one. `convention`: as tableflip and einhorn do. `after`: it has lived that long, ms.
 */
export type Readiness = 'channel' | 'notify' | 'connection' | 'convention' | { after: number };

/** How often /proc is looked at, ms: the kernel tells nobody that another process has accepted. */
const LOOK = 25;

/** A successor's readiness, to be waited for. */
export interface Watcher extends Disposable {
  /** What the successor needs in its environment. */
  readonly variables: Record<string, string>;
  /** Resolves when the successor accepts, as far as can be known; rejects with the reason of the signal alone. */
  wait(pid: number, signal: AbortSignal): Promise<void>;
}

/** Makes ready to watch a successor that has no channel, before it is started. */
export function watchReadiness(
  readiness: Exclude<Readiness, 'channel' | 'convention'>,
  listeners: readonly Listener[],
): Watcher {
  if (readiness === 'notify') return new NotifySocket();
  if (readiness === 'connection') return new FirstConnection(listeners);
  return {
    variables: {},
    wait: (_pid, signal) => delay(readiness.after, undefined, { signal }),
    [Symbol.dispose]: () => undefined,
  };
}

/** A notification socket of ours: READY=1 of this user or root. What the successor would have stored is closed. */
class NotifySocket implements Watcher {
  readonly #notifications = new Notifications({ storeMax: 0 });
  readonly variables: Record<string, string> = this.#notifications.env();

  async wait(_pid: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      const message = await this.#notifications.receive({ signal });
      if (message === undefined) throw new Error('unreachable: the signal comes before the end');
      if (message.has('READY=1')) return;
    }
  }

  [Symbol.dispose](): void {
    this.#notifications.close();
  }
}

/**
 * The listeners that neither this process nor any of its descendants holds any more: nginx and puma close what their configuration does
 * not name. Those that were closed here meanwhile are none of them. Undefined: it cannot be seen (no /proc, a process of another user).
 */
export function droppedBy(pid: number, listeners: readonly Listener[]): Listener[] | undefined {
  // Not every kernel names the children (CONFIG_PROC_CHILDREN): one of them may hold what its master has closed.
  if (!fs.existsSync(`/proc/self/task/${process.pid}/children`)) return undefined;
  const held = new Set<string>();
  for (const each of familyOf(pid)) {
    const inodes = socketsOf(each);
    if (inodes === undefined) return undefined;
    for (const inode of inodes) held.add(inode);
  }
  return listeners.filter(({ fd, closed }) => !closed && !held.has(String(raw.describe(fd).inode)));
}

/** The successor, or a worker of it, holds a connection to one of the listeners: seen in their tables of descriptors. */
class FirstConnection implements Watcher {
  readonly variables = {};
  readonly #listeners: readonly Listener[];
  readonly #knocks: number[] = [];

  constructor(listeners: readonly Listener[]) {
    this.#listeners = listeners.filter((listener) => listener.type === 'stream');
    if (process.platform !== 'linux' || this.#listeners.length === 0) {
      const message =
        "options.readiness: 'connection' needs Linux's /proc and a stream listener; use 'notify' or { after: ms }";
      throw new FdpassError('ERR_FDPASS_TYPE', message, { expected: "'notify' or { after }", got: "'connection'" });
    }
  }

  async wait(pid: number, signal: AbortSignal): Promise<void> {
    const before = socketsOf(process.pid) ?? []; // what it was born with: the listeners, and nothing else of ours
    for (let round = 0; ; round++) {
      // One that has ended, or is another user's, has none: the handoff learns of the end elsewhere.
      const sockets = familyOf(pid).flatMap((each) => socketsOf(each) ?? []);
      if (sockets.some((inode) => !before.includes(inode) && this.#isConnection(inode))) return;
      // Where nobody else connects, this does: a server that nobody visits is ready too.
      if (round % 8 === 4) for (const listener of this.#listeners) this.#knock(listener);
      await delay(LOOK, undefined, { signal });
    }
  }

  #isConnection(inode: string): boolean {
    return this.#listeners.some(({ address }) => {
      if (address.family === 'unix') return unixConnections(address.path).includes(inode);
      return tcpConnections(address.port).includes(inode);
    });
  }

  #knock({ address }: Listener): void {
    const fd = raw.socket(address.family, 'stream');
    this.#knocks.push(fd); // open to the end: one that is closed at once is gone before it is seen
    try {
      raw.connect(fd, reachable(address));
    } catch {
      // A full queue, or a firewall: another round comes, and has its deadline.
    }
  }

  [Symbol.dispose](): void {
    for (const fd of this.#knocks.splice(0)) raw.close(fd);
  }
}

/** A process and all that descends from it: a master waits, and its workers accept. proc_pid_task(5), children */
function familyOf(pid: number): number[] {
  const family = [pid];
  for (const each of family) family.push(...childrenOf(each)); // grows while it is walked
  return family;
}

function childrenOf(pid: number): number[] {
  const folder = `/proc/${pid}/task`;
  try {
    return fs.readdirSync(folder).flatMap((task) => {
      const children = fs.readFileSync(`${folder}/${task}/children`, 'utf8');
      return children.split(' ').filter(Boolean).map(Number);
    });
  } catch {
    return []; // it has ended meanwhile, or the kernel does not tell
  }
}

/** The inodes of a process's sockets; undefined: they cannot be seen. */
function socketsOf(pid: number): string[] | undefined {
  const folder = `/proc/${pid}/fd`;
  try {
    return fs.readdirSync(folder).flatMap((fd) => {
      const match = /^socket:\[(\d+)\]$/.exec(readLink(`${folder}/${fd}`));
      return match?.[1] === undefined ? [] : [match[1]];
    });
  } catch {
    return undefined;
  }
}

function readLink(path: string): string {
  try {
    return fs.readlinkSync(path);
  } catch {
    return ''; // closed meanwhile
  }
}

const ESTABLISHED = '01'; // include/net/tcp_states.h
const CLOSE_WAIT = '08';

/** Inodes of established connections to a local port. /proc/net/tcp, proc_net(5) */
function tcpConnections(port: number): string[] {
  const end = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return ['/proc/net/tcp', '/proc/net/tcp6'].flatMap((file) =>
    rows(file).flatMap(([, local, , state, , , , , , inode]) =>
      local?.endsWith(end) === true && (state === ESTABLISHED || state === CLOSE_WAIT) && inode !== undefined
        ? [inode]
        : [],
    ),
  );
}

/** Inodes of connections to a Unix path: they bear the path of the listener. */
function unixConnections(path: string): string[] {
  const CONNECTED = '03'; // SS_CONNECTED, include/linux/net.h
  return rows('/proc/net/unix').flatMap(([, , , , , state, inode, name]) =>
    name === path && state === CONNECTED && inode !== undefined ? [inode] : [],
  );
}

function rows(file: string): string[][] {
  return fs
    .readFileSync(file, 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/));
}

/** Where a socket that listens at `address` can be reached from here. */
function reachable(address: raw.SocketAddress): raw.SocketAddress {
  if (address.family === 'unix') return address;
  if (address.address === '0.0.0.0') return { ...address, address: '127.0.0.1' };
  return address.address === '::' ? { ...address, address: '::1' } : address;
}
