/**
 * A client of s6-fdholder-daemon: a process that keeps descriptors, by name, for those that come and go.
 * Connects to the path of the daemon, one dialog at a time. Any thread.
 * Source: skarnet.org, s6-fdholder-daemon; s6: src/libs6/s6_fdholder_*.c, src/fdholder/s6-fdholderd.c; skalibs: unixmessage.
 */
import { constants } from 'node:os';
import { getSystemErrorName } from 'node:util';

import { Dialog, type DialogOptions } from './dialog.js';
import { FdpassError } from './errors.js';
import * as raw from './raw.js';

const MAX_ID = 255; // S6_FDHOLDER_ID_SIZE
const HEADER = 6; // u32 length, u16 descriptors, both big-endian
/** What an answer may have at most, bytes: a list of all names. */
const MAX_ANSWER = 16_777_216;
/** TAI64: seconds since 1970 TAI, which was 10 s ahead then, above 2^62. */
const TAI_1970 = 2n ** 62n + 10n;
/** The leap seconds since then, which the clock of s6 counts (skalibs, tai_from_utc). */
const LEAP_SECONDS = 27n;
/** A date that never comes. */
const NEVER = 2n ** 62n + 2n ** 61n;

/** One connection to the daemon. What it may do stands in the daemon's rules. */
export class FdHolder implements Disposable {
  readonly #dialog: Dialog;
  readonly #path: string;
  /** Requests are answered in order: each waits for the one before. */
  #last: Promise<unknown> = Promise.resolve();
  #broken: unknown;

  private constructor(dialog: Dialog, path: string) {
    this.#dialog = dialog;
    this.#path = path;
  }

  /**
   * Connects to the daemon.
   *
   * @param path - Of its socket.
   * @param options - `timeout`: ms for each request, 5 000.
   * @throws What connect(2) says: `ENOENT`, `ECONNREFUSED`, `EACCES`.
   * @see the documentation of s6-fdholder-daemon
   */
  static async connect(path: string, options: DialogOptions = {}): Promise<FdHolder> {
    return new FdHolder(await Dialog.connect(path, `s6-fdholder-daemon at ${path}`, options), path);
  }

  /**
   * Gives a descriptor to the daemon. It stays the caller's; the daemon has its own copy.
   *
   * @param id - 1 to 255 bytes.
   * @param fd - A number, or what has one (a Listener).
   * @param options - `until`: the daemon closes it then. Default: never.
   * @throws `EBUSY`: the id is taken; `EPERM`: the rules forbid it; `ENFILE`: the daemon is full. {@link FdpassError} as for all requests:
   * `ERR_FDPASS_PROTOCOL`: the daemon ended the dialog, or says what is not understood; `ERR_FDPASS_LIMIT`: no answer in time.
   */
  async store(id: string, fd: number | { readonly fd: number }, options: { until?: Date } = {}): Promise<void> {
    const { until } = options;
    const deadline = until === undefined ? timestamp(NEVER) : tai64n(until.getTime());
    const number = typeof fd === 'number' ? fd : fd.fd;
    await this.#ask('store', id, Buffer.concat([Buffer.from('S'), deadline, name(id)]), [number]);
  }

  /**
   * Takes a copy of a descriptor from the daemon.
   *
   * @param options - `remove`: the daemon keeps it no longer. Default: false.
   * @returns The descriptor, close-on-exec; the caller's to close.
   * @throws `ENOENT`: there is none of that id; `EPERM`.
   */
  async retrieve(id: string, options: { remove?: boolean } = {}): Promise<number> {
    const request = Buffer.concat([Buffer.from('R'), Buffer.from([options.remove === true ? 1 : 0]), name(id)]);
    const { fds } = await this.#ask('retrieve', id, request);
    const [fd, ...more] = fds;
    if (fd !== undefined && more.length === 0) return fd;
    for (const each of fds) raw.close(each);
    throw this.#broke(`the answer to a retrieve brought ${fds.length} descriptors`);
  }

  /**
   * The daemon closes its copy.
   *
   * @throws `ENOENT`: there is none of that id; `EPERM`.
   */
  async remove(id: string): Promise<void> {
    await this.#ask('remove', id, Buffer.concat([Buffer.from('D'), name(id)]));
  }

  /**
   * The ids of all that the daemon keeps.
   *
   * @throws `EPERM`: the rules forbid it.
   */
  async list(): Promise<string[]> {
    const { payload } = await this.#ask('list', '', Buffer.from('L'));
    if (payload.length < 5) throw this.#broke('the answer to a list is too short');
    const ids = payload.toString('utf8', 5).split('\0');
    if (ids.pop() !== '' || ids.length !== payload.readUInt32BE(1))
      throw this.#broke('the answer to a list is malformed');
    return ids;
  }

  /** Ends the connection. What the daemon keeps it keeps. Idempotent. */
  close(): void {
    this.#dialog.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #ask(
    what: string,
    id: string,
    payload: Buffer,
    fds: readonly number[] = [],
  ): Promise<{ payload: Buffer; fds: number[] }> {
    const answer = this.#last.then(() => this.#exchange(what, id, payload, fds));
    this.#last = answer.catch(() => undefined);
    return answer;
  }

  async #exchange(
    what: string,
    id: string,
    payload: Buffer,
    fds: readonly number[],
  ): Promise<{ payload: Buffer; fds: number[] }> {
    if (this.#broken !== undefined) throw this.#broke('the dialog ended before');
    const header = Buffer.alloc(HEADER);
    header.writeUInt32BE(payload.length);
    header.writeUInt16BE(fds.length, 4);
    try {
      this.#dialog.renew();
      await this.#dialog.send(Buffer.concat([header, payload]), fds);
      const head = await this.#dialog.read(HEADER);
      if (head.length < HEADER)
        throw this.#broke('it ended the dialog, as it does when its rules have nothing for this user');
      const length = head.readUInt32BE();
      if (length < 1 || length > MAX_ANSWER) throw this.#broke(`it announces an answer of ${length} bytes`);
      const answer = await this.#dialog.read(length);
      const came = this.#dialog.takeDescriptors();
      if (answer.length < length || came.length !== head.readUInt16BE(4)) {
        for (const fd of came) raw.close(fd);
        throw this.#broke('its answer is cut short');
      }
      const status = answer[0] ?? 0;
      if (status === 0) return { payload: answer, fds: came };
      for (const fd of came) raw.close(fd);
      throw refused(status, what, id, this.#path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).syscall !== 's6-fdholder') {
        this.#broken = error; // what comes next could be the answer to something else
        this.#dialog.close();
      }
      throw error;
    }
  }

  #broke(what: string): FdpassError {
    const message = `The dialog with s6-fdholder-daemon at ${this.#path} is over: ${what}`;
    return new FdpassError('ERR_FDPASS_PROTOCOL', message, { cause: this.#broken });
  }
}

/** As the daemon has it: u64 seconds, u32 nanoseconds. */
function timestamp(seconds: bigint, nanoseconds = 0): Buffer {
  const bytes = Buffer.alloc(12);
  bytes.writeBigUInt64BE(seconds);
  bytes.writeUInt32BE(nanoseconds, 8);
  return bytes;
}

/** TAI64N of a Unix time in ms. A time that has passed has passed without leap seconds too, and stays as it is written elsewhere. */
function tai64n(time: number): Buffer {
  const seconds = Math.floor(time / 1_000);
  const leap = time > Date.now() ? LEAP_SECONDS : 0n;
  return timestamp(TAI_1970 + BigInt(seconds) + leap, (time - seconds * 1_000) * 1_000_000);
}

/** Length, name, null byte. */
function name(id: string): Buffer {
  const bytes = Buffer.from(id);
  if (bytes.length < 1 || bytes.length > MAX_ID || bytes.includes(0)) {
    const message = `id must have 1 to ${MAX_ID} bytes, and no null byte; it is ${JSON.stringify(id)}`;
    throw Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
  }
  return Buffer.concat([Buffer.from([bytes.length]), bytes, Buffer.from([0])]);
}

/** The daemon answers with a number of errno(3). */
function refused(status: number, what: string, id: string, path: string): Error {
  const code = Object.values(constants.errno).includes(status) ? getSystemErrorName(-status) : `E${status}`;
  const error = new Error(`${code}: s6-fdholder-daemon at ${path} refuses to ${what} ${JSON.stringify(id)}`);
  return Object.assign(error, { code, errno: -status, syscall: 's6-fdholder' });
}
