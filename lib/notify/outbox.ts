/**
 * What is on its way to a service manager: sends each message in the call where the manager takes it, else keeps it, in order, until the
 * manager does or the time is over.
 * Opens a datagram socket for as long as something waits, and dups of the descriptors that wait. Knows nothing of what is said.
 * Source: unix(7), sendmsg(2); sd_notify(3).
 */
import * as raw from '../raw.js';
import { MAX_DESCRIPTORS, readAddress, systemError } from './message.js';
import { sendByVsock } from './vsock.js';

/** How long a message may wait for room in the manager's queue, ms. */
export const SEND_TIMEOUT = 5_000;

/** How many messages may wait: whoever says more to a manager that takes nothing says it in vain. */
const MAX_WAITING = 64;

/** What waits longer than setTimeout can: it would fire at once. */
const LONGEST_TIMEOUT = 2 ** 31 - 1;

/** How long to wait, and for whom. */
export interface SendOptions {
  /** ms to wait for room in the manager's queue. Default 5 000. */
  timeout?: number | undefined;
  /** Ends the wait: a message that was not yet sent is not sent. */
  signal?: AbortSignal | undefined;
}

interface Entry {
  text: string;
  /** Ours: closed when the message has gone, or never will. */
  fds: number[];
  settle: (error?: unknown) => void;
}

const outboxes = new Map<string, Outbox>();

/**
 * Sends one message.
 *
 * @param address - As NOTIFY_SOCKET has it.
 * @param fds - Stay the caller's, who may close them once this has returned: what waits holds dups.
 * @returns False where `address` is empty or undefined; true once the kernel has taken it, which is in the call where there is room; by
 * vsock once the manager has read it.
 * Rejects with the errors of {@link readAddress}; `ENOTSUP`: descriptors by vsock; `E2BIG`: more than 253 descriptors; `EAGAIN`: no room in time;
 * those of connect(2) and sendmsg(2); the reason of the signal. A rejection that nobody looks at is none: to tell a manager that is
 * gone is in vain, and no reason to end.
 */
export function post(
  address: string | undefined,
  text: string,
  fds: readonly number[] = [],
  options: SendOptions = {},
): Promise<boolean> {
  const sent = deliver(address, text, fds, options);
  sent.catch(() => undefined); // see above
  return sent;
}

function deliver(
  address: string | undefined,
  text: string,
  fds: readonly number[],
  { timeout = SEND_TIMEOUT, signal }: SendOptions,
): Promise<boolean> {
  try {
    signal?.throwIfAborted();
    const target = readAddress(address ?? '');
    if (address === undefined || target === undefined) return Promise.resolve(false);
    if (fds.length > MAX_DESCRIPTORS) {
      const what = `${fds.length} descriptors for the service manager, and one message carries ${MAX_DESCRIPTORS}`;
      throw systemError('E2BIG', 'sendmsg', what);
    }
    if (target.kind === 'vsock') {
      if (fds.length === 0) return sendByVsock(target, text, timeout, signal).then(() => true);
      throw systemError('ENOTSUP', 'sendmsg', `descriptors cannot go by vsock, to ${address}: nothing was sent`);
    }
    const { path } = target;
    const outbox = outboxes.get(path) ?? new Outbox(path);
    return outbox.post(text, fds, timeout, signal);
  } catch (error) {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- whatever was thrown, the signal's reason too
    return Promise.reject(error);
  }
}

/** The way to one manager. It is in the list, and has a socket, as long as something waits. */
class Outbox {
  readonly #path: string;
  readonly #waiting: Entry[] = [];
  #fd = -1;
  #watch: raw.Watch | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  post(text: string, fds: readonly number[], timeout: number, signal: AbortSignal | undefined): Promise<boolean> {
    try {
      // What waits goes first: READY must not come before the RELOADING that it ends.
      if (this.#waiting.length === 0 && this.#send(text, fds)) return Promise.resolve(true);
      if (timeout <= 0 || this.#waiting.length >= MAX_WAITING) throw this.#full(text, timeout);
      return this.#wait(text, fds, timeout, signal);
    } finally {
      this.#rest();
    }
  }

  /** False where there is no room. */
  #send(text: string, fds: readonly number[]): boolean {
    if (this.#fd < 0) {
      this.#fd = raw.socket('unix', 'dgram');
      // Connected, and not sendto: only so the event loop can tell when the queue at the other end has room.
      raw.connect(this.#fd, { family: 'unix', path: this.#path });
    }
    return raw.send(this.#fd, Buffer.from(text), fds) !== undefined;
  }

  #wait(text: string, fds: readonly number[], timeout: number, signal: AbortSignal | undefined): Promise<boolean> {
    const copies: number[] = [];
    try {
      for (const fd of fds) copies.push(raw.dup(fd));
      this.#await();
    } catch (error) {
      for (const fd of copies) raw.close(fd);
      throw error;
    }
    outboxes.set(this.#path, this);
    return new Promise((resolve, reject) => {
      const abort = (): void => {
        entry.settle(signal?.reason);
      };
      const timer = setTimeout(
        () => {
          this.#flush(); // a deadline that fires first, after a long turn, looks before it judges
          if (this.#waiting.includes(entry)) entry.settle(this.#full(text, timeout));
        },
        Math.min(timeout, LONGEST_TIMEOUT),
      );
      const entry: Entry = {
        text,
        fds: copies,
        settle: (error) => {
          this.#waiting.splice(this.#waiting.indexOf(entry), 1);
          clearTimeout(timer);
          signal?.removeEventListener('abort', abort);
          for (const fd of entry.fds.splice(0)) raw.close(fd);
          this.#rest();
          if (error === undefined) resolve(true);
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the signal's reason may be anything
          else reject(error);
        },
      };
      signal?.addEventListener('abort', abort);
      this.#waiting.push(entry);
    });
  }

  /** Sends what waits, as far as there is room. */
  #flush(): void {
    for (let first = this.#waiting[0]; first !== undefined; first = this.#waiting[0]) {
      try {
        if (!this.#send(first.text, first.fds)) {
          this.#await();
          return;
        }
        first.settle();
      } catch (error) {
        this.#disconnect(); // the next one may find a manager that was started anew
        first.settle(error);
      }
    }
  }

  #await(): void {
    this.#watch ??= raw.watch(this.#fd, { writable: true }, () => {
      this.#flush();
    });
  }

  /** Nothing waits: nothing is open. */
  #rest(): void {
    if (this.#waiting.length > 0) return;
    outboxes.delete(this.#path);
    this.#disconnect();
  }

  #disconnect(): void {
    const fd = this.#fd;
    if (fd < 0) return;
    this.#fd = -1; // the owner forgets the number first
    this.#watch?.close();
    this.#watch = undefined;
    raw.close(fd);
  }

  #full(text: string, timeout: number): NodeJS.ErrnoException {
    const many = this.#waiting.length >= MAX_WAITING;
    const since = many
      ? `, and ${this.#waiting.length} messages wait already`
      : timeout > 0
        ? ` since ${timeout} ms`
        : '';
    const what = `the queue of the service manager at ${this.#path} is full${since} (net.unix.max_dgram_qlen)`;
    return systemError('EAGAIN', 'sendmsg', `${what}: "${text.replaceAll('\n', ' ').slice(0, 60)}" was not sent`);
  }
}
