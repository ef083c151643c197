/**
 * NOTIFY_SOCKET=vsock:CID:PORT: the manager is on the host of this virtual machine. A message is a connection of its own, one after the
 * other, and has arrived when the manager ends it; a datagram is sent and forgotten.
 * Opens a socket for each message, and closes it. Descriptors cannot go this way.
 * Source: vsock(7); sd_notify(3), NOTIFY_SOCKET; pid_notify_with_fds_internal in systemd's src/libsystemd/sd-daemon/sd-daemon.c.
 */
import os from 'node:os';
import { getSystemErrorName } from 'node:util';

import * as raw from '../raw.js';
import { type ManagerAddress, systemError } from './message.js';

/** Where such a manager listens. */
export type VsockManager = ManagerAddress & { kind: 'vsock' };

/** VMADDR_CID_ANY: bind to it, whichever this machine is. */
const ANY = 2 ** 32 - 1;

/** Below 1024 only root may bind: a manager can tell by the port who speaks. */
const HIGHEST_PRIVILEGED_PORT = 1023;

/** What says that there are no sockets of this type here: the next one may do. QEMU has no datagrams, and says ENODEV. */
const UNKNOWN_TYPE = new Set(['ENODEV', 'EOPNOTSUPP', 'ENOTSUP', 'EPROTONOSUPPORT', 'ESOCKTNOSUPPORT', 'EAFNOSUPPORT']);

/** Of each manager: when all that was said to it so far has ended. */
const said = new Map<string, Promise<void>>();

/**
 * Sends one message, behind those that were sent before.
 *
 * @returns When the manager has read it, or, for a datagram, when it was sent. Rejects with `ETIMEDOUT`; with errors of socket(2),
 * connect(2), sendmsg(2): `ENODEV`, `EAFNOSUPPORT`: no vsock here; `ECONNRESET`: nobody listens there; with the reason of the signal.
 */
export function sendByVsock(
  manager: VsockManager,
  text: string,
  timeout: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const late = (): Error =>
    lateError(manager, timeout, `"${text.replaceAll('\n', ' ').slice(0, 60)}" may not have been read`);
  return withDeadline(timeout, late, signal, (ended) => {
    const sent = (said.get(nameOf(manager)) ?? Promise.resolve()).then(() =>
      deliver(manager, Buffer.from(text), ended),
    );
    keep(nameOf(manager), sent);
    return sent;
  });
}

/**
 * Resolves when the manager has read what was sent before. There is no BARRIER=1, which would need a descriptor: the end of each
 * connection says the same.
 *
 * @returns Rejects with `ENOTSUP`: datagrams, which nobody answers; `ETIMEDOUT`; the reason of the signal.
 */
export async function drainedByVsock(
  manager: VsockManager,
  timeout: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const { fd, type } = open(manager);
  raw.close(fd);
  if (type === 'dgram') {
    throw systemError(
      'ENOTSUP',
      'sendmsg',
      `no barrier by datagrams of vsock (${nameOf(manager)}): nothing answers them`,
    );
  }
  const late = (): Error => lateError(manager, timeout, 'what was sent before may not have been processed');
  await withDeadline(timeout, late, signal, () => said.get(nameOf(manager)) ?? Promise.resolve());
}

function nameOf({ type, cid, port }: VsockManager): string {
  return `vsock${type === undefined ? '' : `-${type}`}:${cid}:${port}`;
}

function lateError(manager: VsockManager, timeout: number, what: string): Error {
  const who = `the service manager at ${nameOf(manager)}`;
  return systemError('ETIMEDOUT', 'connect', `${who} has not taken the message within ${timeout} ms: ${what}`);
}

function keep(name: string, sent: Promise<void>): void {
  const settled = sent.then(
    () => undefined,
    () => undefined, // its caller hears of it
  );
  said.set(name, settled);
  void settled.then(() => {
    if (said.get(name) === settled) said.delete(name);
  });
}

/** Does something that a signal ends: when it takes too long, and when the caller's own fires. */
async function withDeadline(
  timeout: number,
  late: () => Error,
  signal: AbortSignal | undefined,
  act: (ended: AbortSignal) => Promise<void>,
): Promise<void> {
  const deadline = new AbortController();
  const timer = setTimeout(
    () => {
      deadline.abort(late());
    },
    Math.min(timeout, 2 ** 31 - 1),
  );
  const ended = signal === undefined ? deadline.signal : AbortSignal.any([deadline.signal, signal]);
  try {
    ended.throwIfAborted(); // one that has fired already tells nobody any more
    await Promise.race([act(ended), rejection(ended)]);
  } finally {
    clearTimeout(timer);
  }
}

function rejection(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the reason of the caller's signal may be anything
    signal.addEventListener('abort', () => reject(signal.reason), { once: true });
  });
}

async function deliver(manager: VsockManager, bytes: Buffer, ended: AbortSignal): Promise<void> {
  ended.throwIfAborted();
  const { fd, type } = await reach(manager, ended);
  try {
    for (let sent = 0; sent < bytes.length;) {
      const count = raw.send(fd, bytes.subarray(sent));
      if (count === undefined) await event(fd, { writable: true }, ended);
      else sent += count;
    }
    if (type === 'dgram') return;
    raw.shutdown(fd, 'write');
    for (;;) {
      const answer = raw.receive(fd, 4096); // nothing is said: what is, is nothing to us
      if (answer === undefined) await event(fd, { readable: true }, ended);
      else if (answer.bytes.length === 0) return;
    }
  } finally {
    raw.close(fd);
  }
}

/** Those that are tried, one after the other: all but the last may be unknown here. */
function typesOf({ type }: VsockManager): [raw.SocketType[], raw.SocketType] {
  return type === undefined ? [['dgram', 'seqpacket'], 'stream'] : [[], type];
}

function isUnknownType(error: unknown): boolean {
  return UNKNOWN_TYPE.has((error as NodeJS.ErrnoException).code ?? '');
}

/** A socket of the type that was named; else of the first that there is here. */
function open(manager: VsockManager): { fd: number; type: raw.SocketType } {
  const [types, last] = typesOf(manager);
  for (const type of types) {
    try {
      return { fd: raw.socket('vsock', type), type };
    } catch (error) {
      if (!isUnknownType(error)) throw error;
    }
  }
  return { fd: raw.socket('vsock', last), type: last };
}

/** A connected one. The kernel knows at the connect what the way to this machine carries: many have no packets in order, and say so there. */
async function reach(manager: VsockManager, ended: AbortSignal): Promise<{ fd: number; type: raw.SocketType }> {
  const [types, last] = typesOf(manager);
  for (const type of types) {
    try {
      return { fd: await connected(manager, type, ended), type };
    } catch (error) {
      if (!isUnknownType(error)) throw error;
    }
  }
  return { fd: await connected(manager, last, ended), type: last };
}

async function connected(manager: VsockManager, type: raw.SocketType, ended: AbortSignal): Promise<number> {
  const fd = raw.socket('vsock', type);
  try {
    bindPrivileged(fd);
    await connect(fd, manager, ended);
    return fd;
  } catch (error) {
    raw.close(fd);
    throw error;
  }
}

/** Where this process may: a port that others may not have. */
function bindPrivileged(fd: number): void {
  for (let port = HIGHEST_PRIVILEGED_PORT; port > 0; port--) {
    try {
      raw.bind(fd, { family: 'vsock', cid: ANY, port });
      return;
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EACCES' || code === 'EPERM') return;
      if (code !== 'EADDRINUSE') throw error;
    }
  }
}

async function connect(fd: number, { cid, port }: VsockManager, ended: AbortSignal): Promise<void> {
  if (raw.connect(fd, { family: 'vsock', cid, port })) return;
  await event(fd, { writable: true }, ended);
  const errno = raw.getOption(fd, 'error');
  if (errno === 0) return;
  const code = getSystemErrorName(-errno) as keyof typeof os.constants.errno;
  throw systemError(code, 'connect', `the service manager at vsock:${cid}:${port}`);
}

/** Resolves at the next event; rejects with the reason of the signal. */
function event(fd: number, interest: raw.WatchInterest, ended: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      watch.close();
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- as above
      reject(ended.reason);
    };
    const watch = raw.watch(fd, interest, () => {
      watch.close();
      ended.removeEventListener('abort', abort);
      resolve();
    });
    if (ended.aborted) abort();
    else ended.addEventListener('abort', abort, { once: true });
  });
}
