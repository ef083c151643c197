/**
 * A socket as descriptor 0: inetd (wait), s6-ipcserver-socketbinder, spawn-fcgi, StandardInput=socket of systemd; inetd (nowait), where it
 * is a connection. No variable says so: the descriptor itself does, and the caller looks at it.
 * Pure: it names a number. Source: inetd(8), systemd.exec(5), s6-ipcserver-socketbinder.
 */
import type { Reading } from './convention.js';

/** What a connection is called that nobody has named. As in systemd with Accept=yes. */
export const CONNECTION = 'connection';

/** Descriptor 0, of which nothing is known yet. */
export function readStdin(): Reading {
  return { descriptors: [{ name: CONNECTION, fd: 0 }], note: '', variables: [], named: false, unproven: true };
}
