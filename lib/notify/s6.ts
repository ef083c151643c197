/**
 * Tells s6 that this service is up: a newline on the descriptor that the file `notification-fd` of the service names.
 * Writes to that descriptor and closes it. Source: the page "notifywhenup" of s6's documentation.
 */
import fs from 'node:fs';

import { FdpassError } from '../errors.js';
import * as raw from '../raw.js';

/**
 * Writes the newline and closes the descriptor, which is this function's from here on. 0, 1 and 2 become /dev/null instead: a number
 * below 3 that is free would be the next socket's, and console.log would write to it.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_BADFD`: it is not open, or Node's own: then nothing was handed down under this number, and it
 * stays as it is. `EPIPE`: nobody listens any more; it is closed.
 */
export function notifyS6(fd: number): void {
  checkHandedDown(fd);
  try {
    fs.writeSync(fd, '\n');
  } finally {
    if (fd > 2) raw.close(fd);
    else replace(fd);
  }
}

function replace(fd: number): void {
  const none = fs.openSync('/dev/null', 'r+');
  try {
    raw.dupTo(none, fd);
    raw.setCloseOnExec(fd, false); // as the first three are
  } finally {
    fs.closeSync(none);
  }
}

/** A number that nobody handed down may be one that Node took for itself: an epoll, an eventfd, a pipe of which it has both ends. */
function checkHandedDown(fd: number): void {
  let kind: raw.Description['kind'];
  try {
    ({ kind } = raw.describe(fd));
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code !== 'EBADF') throw cause; // no number at all
    throw new FdpassError('ERR_FDPASS_BADFD', `The notification descriptor ${fd} is not open`, { fd, cause });
  }
  const isOwn = kind === 'anonymous' || (kind === 'pipe' && isReadHere(fd));
  if (!isOwn && kind !== 'directory') return;
  const message =
    `The notification descriptor ${fd} was not handed down: it is of kind ${kind}, and this process's own. Is it the number ` +
    `in the service's file notification-fd?`;
  throw new FdpassError('ERR_FDPASS_BADFD', message, { fd });
}

/** Whether this process has the end of the pipe that reads, be it this descriptor itself. */
function isReadHere(fd: number): boolean {
  const all = raw.openDescriptors();
  const pipe = all.find((each) => each.fd === fd)?.target;
  return all.some((each) => each.target === pipe && pipe !== '' && isReadable(each.fd));
}

function isReadable(fd: number): boolean {
  try {
    const flags = /^flags:\s*([0-7]+)$/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '1';
    return (parseInt(flags, 8) & 3) !== fs.constants.O_WRONLY;
  } catch {
    return false; // closed meanwhile, or a system without /proc: then the user's word must do
  }
}
