/** What is of the main thread alone says so in a worker. Touches nothing. Source: Node's documentation, worker_threads. */
import { isMainThread } from 'node:worker_threads';

import { FdpassError } from './errors.js';

/** Signals, environment and identity belong to the process: `ERR_FDPASS_THREAD` in a worker. */
export function assertMainThread(what: string): void {
  if (isMainThread) return;
  const message = `${what} works in the main thread alone; a worker can use listen(), Listener.from() and spawn()`;
  throw new FdpassError('ERR_FDPASS_THREAD', message);
}
