/**
 * BARRIER: whether the service manager has processed what was sent to it before. The manager closes the descriptor that comes with the
 * message when it gets there, and the other end tells. Owns both ends until then. Source: sd_notify_barrier(3).
 */
import * as raw from '../raw.js';
import { readAddress, systemError } from './message.js';
import { post, type SendOptions } from './outbox.js';
import { drainedByVsock } from './vsock.js';

/** How long a manager may take, ms: it has other work, and pid 1 has all of it. */
export const BARRIER_TIMEOUT = 5_000;

const LONGEST_TIMEOUT = 2 ** 31 - 1; // of setTimeout

/**
 * Sends the barrier and waits for its answer.
 *
 * @returns False where `address` is empty or undefined. Rejects with `ETIMEDOUT`, with what {@link post} rejects with, with the reason of the
 * signal. As there, a rejection that nobody looks at is none.
 */
export function waitForBarrier(address: string | undefined, options: SendOptions): Promise<boolean> {
  const answered = barrier(address, options);
  answered.catch(() => undefined);
  return answered;
}

async function barrier(address: string | undefined, options: SendOptions): Promise<boolean> {
  const { timeout = BARRIER_TIMEOUT, signal } = options;
  if (address === undefined || address === '') return false;
  const manager = readAddress(address);
  if (manager?.kind === 'vsock') {
    await drainedByVsock(manager, timeout, signal);
    return true;
  }
  const end = performance.now() + timeout;
  // A pair of sockets does what a pipe does here: the end that is left says so when the other is closed everywhere.
  const [ours, theirs] = raw.socketPair('stream');
  try {
    const sent = post(address, 'BARRIER=1', [theirs], { timeout, signal });
    raw.close(theirs); // the message holds it now
    await sent;
    await ending(ours, Math.max(0, end - performance.now()), signal, () => {
      const what = `the service manager at ${address} has not come to the barrier within ${timeout} ms`;
      return systemError('ETIMEDOUT', 'poll', `${what}: what was sent before it may not have been processed`);
    });
    return true;
  } finally {
    raw.close(ours);
  }
}

/** Resolves when the other end is closed. What is written to it is nothing to us. */
function ending(fd: number, timeout: number, signal: AbortSignal | undefined, late: () => Error): Promise<void> {
  return new Promise((resolve, reject) => {
    const finish = (error?: unknown): void => {
      clearTimeout(timer);
      watch.close();
      signal?.removeEventListener('abort', abort);
      if (error === undefined) resolve();
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- the signal's reason may be anything
      else reject(error);
    };
    const abort = (): void => {
      finish(signal?.reason);
    };
    const watch = raw.watch(fd, { readable: true }, () => {
      if (hasEnded(fd)) finish();
    });
    const timer = setTimeout(
      () => {
        finish(hasEnded(fd) ? undefined : late()); // a deadline that fires first, after a long turn, looks before it judges
      },
      Math.min(timeout, LONGEST_TIMEOUT),
    );
    if (signal?.aborted === true) abort();
    else signal?.addEventListener('abort', abort);
  });
}

function hasEnded(fd: number): boolean {
  try {
    for (;;) {
      const { bytes, fds } = raw.receive(fd, 4096) ?? {};
      if (bytes === undefined) return false;
      for (const each of fds ?? []) raw.close(each);
      if (bytes.length === 0) return true;
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ECONNRESET') return true; // closed with bytes of ours unread: there are none
    throw error;
  }
}
