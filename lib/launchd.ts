/**
 * launchd, the supervisor of macOS, which gives its sockets by a call and not by variables. Elsewhere ENOTSUP.
 * Owns what the call gives until each is a Listener. Source: launch(3), launchd.plist(5).
 */
import { describeListener, inherited, type Listener } from './listener.js';
import { checkName } from './names.js';
import { native } from './native.js';
import * as raw from './raw.js';

/**
 * Takes the listeners of a name in the `Sockets` of the plist: one for IPv4 and one for IPv6, say. launchd gives each name once.
 * A job with `inetdCompatibility` has its socket at 0 instead: `inheritListener({ convention: 'stdin' })`.
 *
 * @param name - The key in `Sockets`, which the Listeners are called by too.
 * @throws `ENOTSUP`: there is no launchd on this system. `ENOENT`: the plist has no such name. `ESRCH`: launchd did not start this process.
 * `EALREADY`: they were taken before. {@link FdpassError} `ERR_FDPASS_NAMES`; `ERR_FDPASS_TYPE`: one of them does not listen; all are closed.
 * @see launch(3), launchd.plist(5)
 */
export function takeFromLaunchd(name: string): Listener[] {
  checkName(name);
  const fds = native.launchActivateSocket(name);
  const taken: Listener[] = [];
  try {
    for (let fd = fds[0]; fd !== undefined; fd = fds[0]) {
      taken.push(inherited(fd, { name, origin: 'supervisor', ...describeListener(fd) }));
      fds.shift();
    }
    return taken;
  } catch (error) {
    for (const listener of taken) listener.close();
    for (const fd of fds) raw.close(fd);
    throw error;
  }
}
