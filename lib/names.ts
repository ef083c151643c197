/**
 * Names of descriptors: what a listener may be called, so that every convention can carry it. Pure.
 * Source: systemd's fdname_is_valid, sd_listen_fds_with_names(3).
 */
import { FdpassError } from './errors.js';

/** The name of a descriptor that was given none. As in systemd. */
export const UNNAMED = 'unknown';

/** Whether a name can be handed down. */
export function isCarried(name: string): boolean {
  return /^[\x20-\x7e]{0,255}$/.test(name) && !/[:\\]/.test(name);
}

/**
 * Refuses a name that cannot be handed down.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: longer than 255 characters, or holding a colon, a backslash (libsystemd would
 * unescape it) or a character outside printable ASCII.
 */
export function checkName(name: string): void {
  if (isCarried(name)) return;
  const message =
    `The name ${JSON.stringify(name)} cannot be handed down: a name is at most 255 characters of printable ASCII, ` +
    'without ":" and "\\"';
  throw new FdpassError('ERR_FDPASS_NAMES', message, { value: name });
}
