/**
 * Tells einhorn that this worker is up: its acknowledgement, for `einhorn -m manual`.
 * Opens a connection and closes it, or writes to the one that was inherited. Waits for no answer: there is none, and einhorn may close.
 * Source: lib/einhorn/client.rb and lib/einhorn/worker.rb of contribsys/einhorn.
 */
import { setTimeout as delay } from 'node:timers/promises';

import { FdpassError } from '../errors.js';
import * as raw from '../raw.js';
import { systemError } from './message.js';
import type { Environment } from './watchdog.js';

/** How long a full queue of einhorn's listener is tried, ms. connect(2) tells nobody when it has room. */
const PATIENCE = 1_000;
const RETRY = 20;

/** The line that einhorn reads: YAML, of which this JSON is a part. */
export function acknowledgement(pid: number): string {
  return `${JSON.stringify({ command: 'worker:ack', pid })}\n`;
}

/**
 * Sends the acknowledgement.
 *
 * @returns False where this process is no worker of einhorn's: EINHORN_MASTER_PID is not its parent. The line has gone when this
 * returns, unless the queue of einhorn's listener is full.
 * @throws {@link FdpassError} `ERR_FDPASS_BADFD`, `_TYPE`: EINHORN_SOCK_FD is not the socket it should be. The system's errors of connect.
 */
export async function acknowledge(environment: Environment, self: { pid: number; ppid: number }): Promise<boolean> {
  const { EINHORN_MASTER_PID: master, EINHORN_SOCK_PATH: path, EINHORN_SOCK_FD: number } = environment;
  if (master !== String(self.ppid)) return false; // none of einhorn's, or the child of one
  const line = Buffer.from(acknowledgement(self.pid));
  if (path === undefined || path === '') {
    if (number === undefined) return false;
    send(inherited(number), line);
    return true;
  }
  const deadline = performance.now() + PATIENCE;
  for (;;) {
    const fd = raw.socket('unix', 'stream');
    try {
      raw.connect(fd, { family: 'unix', path });
      send(fd, line);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN' || performance.now() > deadline) throw error;
    } finally {
      raw.close(fd);
    }
    await delay(RETRY);
  }
}

function send(fd: number, line: Buffer): void {
  if (raw.send(fd, line) === line.length) return;
  throw systemError('EAGAIN', 'sendmsg', 'the connection to einhorn takes nothing: the acknowledgement was not sent');
}

/** The connection of `einhorn -g`, which stays open, as with einhorn's own worker. */
function inherited(text: string): number {
  const details = { variable: 'EINHORN_SOCK_FD', value: text };
  if (!/^\d{1,9}$/.test(text)) {
    throw new FdpassError(
      'ERR_FDPASS_ENV',
      `EINHORN_SOCK_FD: "${text}" is not a whole number in decimal digits`,
      details,
    );
  }
  const fd = Number(text);
  let description: raw.Description;
  try {
    description = raw.describe(fd);
  } catch (cause) {
    throw new FdpassError('ERR_FDPASS_BADFD', `EINHORN_SOCK_FD: ${fd} is not open`, { ...details, fd, cause });
  }
  const { kind, socket } = description;
  if (socket?.type === 'stream' && socket.domain === 'unix' && !socket.listening) return fd;
  const message = `EINHORN_SOCK_FD: ${fd} is no connected Unix stream socket (kind: ${kind})`;
  throw new FdpassError('ERR_FDPASS_TYPE', message, {
    ...details,
    fd,
    expected: 'a connected Unix stream socket',
    got: kind,
  });
}
