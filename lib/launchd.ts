/**
 * launchd, the supervisor of macOS, which gives its sockets by a call and not by variables: launch_activate_socket.
 * Says ENOTSUP so far, everywhere: the call is not in the addon. `inetdCompatibility` with `Wait` works without it: `convention: 'stdin'`.
 * Source: launch(3), launchd.plist(5).
 */
import { constants } from 'node:os';

import type { Listener } from './listener.js';

/**
 * Takes the listeners of a name in the `Sockets` of the plist: one for IPv4 and one for IPv6, say.
 *
 * @throws `ENOTSUP`, always: there is no launchd here, or no way to it.
 * @see launch(3), launchd.plist(5)
 */
export function takeFromLaunchd(name: string): Promise<Listener[]> {
  const where =
    process.platform === 'darwin'
      ? `set inetdCompatibility with Wait in the plist, and take the socket with inheritListener({ convention: 'stdin' })`
      : 'there is no launchd on this system';
  const error = new Error(`ENOTSUP: operation not supported, launch_activate_socket ("${name}"): ${where}`);
  const errno = -constants.errno.ENOTSUP;
  return Promise.reject(Object.assign(error, { code: 'ENOTSUP', errno, syscall: 'launch_activate_socket' }));
}
