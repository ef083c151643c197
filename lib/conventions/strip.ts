/**
 * Which variables of an environment speak of descriptors, or of who watches this process: what a child must not inherit.
 * They are meant for this process alone; a child that finds them takes numbers for sockets that are something else there.
 * Pure: it sees the environment it is given. Source: the manuals of those named below.
 */
import type { Environment } from './convention.js';

const NAMES: ReadonlySet<string> = new Set([
  ...['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_FDS_FIRST_FD'], // sd_listen_fds(3), systemfd
  'LISTEN_FD',
  ...['WATCHDOG_PID', 'WATCHDOG_USEC'], // sd_watchdog_enabled(3)
  ...['SERVER_STARTER_PORT', 'SERVER_STARTER_GENERATION'], // Server::Starter
  'SOCKETMASTER_FD',
  ...['GUNICORN_PID', 'GUNICORN_FD', 'UNICORN_FD'],
  'NGINX',
  'FPM_SOCKETS', // php-fpm
  'TABLEFLIP_HAS_PARENT_7DIU3',
  'GO_UPGRADE_BIN_CHECK',
  ...['UPSTART_EVENTS', 'UPSTART_FDS'],
  ...['NODE_CHANNEL_FD', 'NODE_CHANNEL_SERIALIZATION_MODE', 'NODE_UNIQUE_ID'], // child_process and cluster of Node
]);

const PREFIXES = [
  'EINHORN_',
  'PUMA_INHERIT_',
  'FPM_SOCKETS_',
  'ENDLESS_',
  'OVERSEER_',
  'ECDYSIS_RUST_',
  'OXY_',
  'FDPASS_',
];

/** Where a child may say that it is ready: sd_notify(3). */
const NOTIFY_SOCKET = 'NOTIFY_SOCKET';

/**
 * A copy of an environment without every variable of every convention, those that fdpass does not read included.
 *
 * @param environment - Is not changed. A variable that is undefined is left out.
 * @param options - `keepNotifySocket`: the child shall speak to who watches this process. Default false.
 */
export function stripConventions(
  environment: Environment,
  options: { keepNotifySocket?: boolean | undefined } = {},
): Record<string, string> {
  const isKept = (name: string): boolean =>
    !NAMES.has(name) &&
    !PREFIXES.some((prefix) => name.startsWith(prefix)) &&
    (name !== NOTIFY_SOCKET || options.keepNotifySocket === true);
  const entries = Object.entries(environment).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && isKept(entry[0]),
  );
  return Object.fromEntries(entries);
}
