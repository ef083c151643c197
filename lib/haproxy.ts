/**
 * haproxy's way to hand listeners over: the command _getsocks on its stats socket (`expose-fd listeners`), which `haproxy -x` speaks. The
 * client takes them from a haproxy, the server gives ours to one that starts.
 * Connects to a path, or listens at one; nothing is accepted, paused or closed but what is its own. Any thread.
 * Source: _getsocks in src/cli.c, sock_get_old_sockets in src/sock.c of haproxy.
 */
import fs from 'node:fs';
import { endianness } from 'node:os';

import { readHaproxyCli } from './conventions/haproxy.js';
import { Dialog, type DialogOptions } from './dialog.js';
import { FdpassError } from './errors.js';
import { lendPath, listen, Listener, openListeners, relinquish } from './listener.js';
import * as raw from './raw.js';

const COMMAND = '_getsocks';
const BATCH = 252; // MAX_SEND_FD less one, src/cli.c
/** More than a process has: what is read is text then. */
const MAX_COUNT = 65_536;
/** Unused since haproxy 2.3; once options of the listener. */
const OPTIONS = Buffer.alloc(4);
/** How long a line may be that is no command of ours, bytes. */
const MAX_LINE = 16_384;

/** A listener that came from haproxy. */
export interface HaproxyListener {
  /** Of its socket; the caller's to serve and to close. haproxy's own stats sockets are among them. */
  readonly listener: Listener;
  /** The network namespace that haproxy bound it in, as its configuration calls it; '' where it is the usual one. */
  readonly namespace: string;
  /** The interface that it is bound to; '' where it is bound to none. */
  readonly interface: string;
  /** Of a Unix socket, as its configuration has it: the kernel goes on to call it `web.sock.4711.tmp`. Undefined for any other. */
  readonly path: string | undefined;
}

/**
 * Takes the listeners of a running haproxy, which goes on accepting from them until it is stopped.
 *
 * @param path - Of a stats socket with `expose-fd listeners`. Default: the first in HAPROXY_CLI, which haproxy before 3.1 sets for its programs.
 * @returns Those that haproxy bound itself (`bind fd@5` is not among them); none where the socket has no `expose-fd`.
 * @throws {@link FdpassError} `ERR_FDPASS_PROTOCOL`: something else answers. `ERR_FDPASS_LIMIT`: no answer within `timeout`, or this
 * process cannot open so many. `ERR_FDPASS_ENV`: HAPROXY_CLI names no Unix socket. TypeError: no path, and HAPROXY_CLI is not set.
 * What connect(2) says: `ENOENT`, `ECONNREFUSED`, `EACCES`. Whatever had come is closed then.
 * @see haproxy(1), -x; the management guide of haproxy, `expose-fd listeners`
 */
export async function takeFromHaproxy(
  path: string | undefined = readHaproxyCli(process.env),
  options: DialogOptions = {},
): Promise<HaproxyListener[]> {
  if (path === undefined) {
    const message = 'path must be that of a stats socket of haproxy: HAPROXY_CLI, which names one, is not set';
    throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
  }
  using dialog = await Dialog.connect(path, `haproxy at ${path}`, options);
  const broken = (what: string): FdpassError =>
    new FdpassError('ERR_FDPASS_PROTOCOL', `What answers at ${path} does not speak as haproxy does: ${what}`);
  await dialog.send(Buffer.from(`${COMMAND}\n`));
  const head = await dialog.read(4);
  if (head.length === 0) return [];
  const count = head.length < 4 ? -1 : readCount(head);
  if (count < 0 || count > MAX_COUNT) {
    const text = Buffer.concat([head, (await dialog.readMessage()).bytes]).toString('latin1', 0, 60);
    throw broken(JSON.stringify(text));
  }

  const fds: number[] = [];
  const items: { namespace: string; interface: string }[] = [];
  let bytes = Buffer.alloc(0);
  try {
    while (items.length < count) {
      const message = await dialog.readMessage();
      if (message.bytes.length === 0) throw broken(`it ended after ${fds.length} of ${count} sockets`);
      fds.push(...message.fds);
      bytes = Buffer.concat([bytes, message.bytes]);
      for (let item = readItem(bytes); item !== undefined && items.length < count; item = readItem(bytes)) {
        items.push(item);
        bytes = bytes.subarray(item.length);
      }
      // haproxy 2.6 has closed by then, later ones wait for it: that it cannot be sent is no error.
      if (message.fds.length > 0) await dialog.send(writeCount(fds.length));
    }
    if (fds.length !== count || bytes.length > 0)
      throw broken(`${fds.length} sockets and ${bytes.length} bytes too many`);
  } catch (error) {
    for (const fd of fds) raw.close(fd);
    throw error;
  }
  return fds.flatMap((fd, index): HaproxyListener[] => {
    const { namespace = '', interface: device = '' } = items[index] ?? {};
    const listener = listenerOf(fd);
    return listener === undefined ? [] : [{ listener, namespace, interface: device, path: pathOf(listener) }];
  });
}

/** haproxy binds a Unix socket beside its path, with its pid behind, and renames the file: sock_unix_bind_receiver, src/sock_unix.c. */
function pathOf({ address }: Listener): string | undefined {
  return address.family === 'unix' ? address.path.replace(/\.\d+\.tmp$/, '') : undefined;
}

/** A listener, or nothing: what does not listen (any more) is closed. */
function listenerOf(fd: number): Listener | undefined {
  try {
    return Listener.from(fd);
  } catch {
    raw.close(fd);
    return undefined;
  }
}

function readItem(bytes: Buffer): { namespace: string; interface: string; length: number } | undefined {
  const namespaceLength = bytes[0];
  if (namespaceLength === undefined) return undefined;
  const deviceLength = bytes[1 + namespaceLength];
  if (deviceLength === undefined) return undefined;
  const at = 2 + namespaceLength;
  const length = at + deviceLength + OPTIONS.length;
  if (bytes.length < length) return undefined;
  return {
    namespace: bytes.toString('latin1', 1, 1 + namespaceLength),
    interface: bytes.toString('latin1', at, at + deviceLength),
    length,
  };
}

/** What goes with one socket. */
function writeItem(device: string): Buffer {
  const name = Buffer.from(device, 'latin1');
  return Buffer.concat([Buffer.from([0, name.length]), name, OPTIONS]);
}

function readCount(bytes: Buffer): number {
  return endianness() === 'LE' ? bytes.readInt32LE() : bytes.readInt32BE();
}

function writeCount(count: number): Buffer {
  const bytes = Buffer.alloc(4);
  if (endianness() === 'LE') bytes.writeInt32LE(count);
  else bytes.writeInt32BE(count);
  return bytes;
}

/** What {@link serveHaproxy} needs to know. */
export interface HaproxyOptions {
  /** Permissions of the path. Default 0o600: who can connect can take the sockets. */
  mode?: number | undefined;
  /** ms for one dialog. Default 5 000. */
  timeout?: number | undefined;
}

/**
 * Listens at a path for `haproxy -x PATH`: the haproxy that starts takes these sockets in place of binding its own, by address. Both
 * accept then, until one of them stops. Only this user and root are answered.
 *
 * @param listeners - Default: all that are open when it asks.
 * @returns What listens, the caller's to close.
 * @throws What {@link listen} throws for a path.
 * @see haproxy(1), -x
 */
export async function serveHaproxy(
  path: string,
  listeners?: readonly Listener[],
  options: HaproxyOptions = {},
): Promise<HaproxySocket> {
  const { mode = 0o600, timeout } = options;
  const listener = await listen({ path, mode, name: 'haproxy' });
  // A bare descriptor from here on: not one of the Listeners that a handoff hands over.
  const fd = listener.dup();
  relinquish(listener);
  return HaproxySocket.of(fd, path, listeners, timeout);
}

/** A path at which `haproxy -x` can ask. It keeps this process alive until it is closed. */
export class HaproxySocket implements Disposable {
  readonly path: string;
  /** How often all was handed over. */
  handedOver = 0;
  #fd: number;
  readonly #file: fs.BigIntStats | undefined;
  readonly #listeners: readonly Listener[] | undefined;
  readonly #timeout: number | undefined;
  readonly #watch: raw.Watch;
  readonly #open = new Set<Dialog>();

  private constructor(
    fd: number,
    path: string,
    listeners: readonly Listener[] | undefined,
    timeout: number | undefined,
  ) {
    this.#fd = fd;
    this.path = path;
    this.#file = fs.lstatSync(path, { bigint: true, throwIfNoEntry: false });
    this.#listeners = listeners;
    this.#timeout = timeout;
    this.#watch = raw.watch(fd, { readable: true }, () => {
      this.#accept();
    });
  }

  /** @internal */
  static of(fd: number, path: string, listeners: readonly Listener[] | undefined, timeout?: number): HaproxySocket {
    return new HaproxySocket(fd, path, listeners, timeout);
  }

  #accept(): void {
    for (;;) {
      let connection: number | undefined;
      try {
        connection = raw.accept(this.#fd);
      } catch {
        return; // out of descriptors, or the client has gone: another one may come
      }
      if (connection === undefined) return;
      const dialog = new Dialog(connection, 'haproxy', { timeout: this.#timeout });
      this.#open.add(dialog);
      this.#answer(dialog)
        .catch(() => undefined) // a client that ends or falls silent takes nothing with it
        .finally(() => {
          this.#open.delete(dialog);
          dialog.close();
        });
    }
  }

  async #answer(dialog: Dialog): Promise<void> {
    const { uid } = dialog.credentials;
    if (uid !== 0 && uid !== process.geteuid?.()) return;
    const line = await dialog.readLine(MAX_LINE);
    if (line?.replace(/\r$/, '') !== COMMAND) {
      await dialog.send(Buffer.from(`Unknown command: only ${COMMAND} is known here.\n`));
      return;
    }
    const listeners = (this.#listeners ?? openListeners()).filter(({ closed }) => !closed);
    const fds = listeners.map(({ fd }) => fd);
    if (fds.length === 0) return; // as haproxy: the end, and no number
    if (!(await dialog.send(writeCount(fds.length)))) return;
    for (let at = 0; at < fds.length; at += BATCH) {
      const batch = fds.slice(at, at + BATCH);
      if (!(await dialog.send(Buffer.concat(batch.map((fd) => writeItem(deviceOf(fd)))), batch))) return;
      if (at + BATCH >= fds.length) {
        this.handedOver++;
        for (const listener of listeners) lendPath(listener); // its file is haproxy's too from here on
      }
      if ((await dialog.read(4)).length < 4) return;
    }
  }

  /** Listens no more, ends dialogs that are under way, and unlinks the path where it is still its own. Idempotent. */
  close(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1;
    this.#watch.close();
    for (const dialog of this.#open) dialog.close();
    raw.close(fd);
    const now = fs.lstatSync(this.path, { bigint: true, throwIfNoEntry: false });
    if (now !== undefined && now.dev === this.#file?.dev && now.ino === this.#file.ino) fs.unlinkSync(this.path);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function deviceOf(fd: number): string {
  try {
    return raw.getOption(fd, 'bindToDevice');
  } catch {
    return ''; // not on this system, or not for this kind of socket
  }
}
