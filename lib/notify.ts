/**
 * Tells the service manager what this process does, where it asked to know: NOTIFY_SOCKET.
 * Opens a datagram socket for each message, and waits for nothing. So far what a restart needs: readiness, and whose pid is the
 * service's. Source: sd_notify(3), systemd.service(5).
 */
import * as raw from './raw.js';

/** What a service manager can be told. */
export interface ServiceState {
  /** The start, or a reload, is done. */
  ready?: true;
  /** A reload has begun; `ready` must follow. */
  reloading?: true;
  /** One line for people. */
  status?: string;
  /** The process that is the service from here on. The manager heeds it from the one that is the service now. */
  mainPid?: number;
}

/**
 * Sends one message to the service manager.
 *
 * @returns Whether it was sent; false where no manager asked (NOTIFY_SOCKET is not set), where the address is of a kind that is
 * not supported (vsock), or the manager takes nothing. Sent is not accepted: sd_notify(3) has no answer.
 */
export function notify(state: ServiceState): boolean {
  const address = process.env['NOTIFY_SOCKET'];
  if (address === undefined || !/^[/@]/.test(address)) return false;
  const lines: string[] = [];
  if (state.reloading) lines.push('RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`);
  if (state.mainPid !== undefined) lines.push(`MAINPID=${state.mainPid}`);
  if (state.ready) lines.push('READY=1');
  if (state.status !== undefined) lines.push(`STATUS=${state.status.replace(/[\r\n]+/g, ' ')}`);
  let fd: number | undefined;
  try {
    fd = raw.socket('unix', 'dgram');
    return raw.send(fd, Buffer.from(lines.join('\n')), [], { family: 'unix', path: address }) !== undefined;
  } catch {
    return false; // a manager that is gone, or a socket of another container: none of this process's business
  } finally {
    if (fd !== undefined) raw.close(fd);
  }
}
