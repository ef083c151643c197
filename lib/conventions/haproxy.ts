/**
 * HAPROXY_CLI: where a haproxy listens for commands, in the environment of the programs that it starts (`program`, before haproxy 3.1).
 * Its sockets do not stand there: it hands them over on such a socket (lib/haproxy.ts). It names a place and gives nothing, so it stays set.
 * Pure. Source: the configuration manual of haproxy, environment variables.
 */
import { type Environment, malformed } from './convention.js';

const CLI = 'HAPROXY_CLI';

/**
 * The first Unix socket in it: a path, or `@name`.
 *
 * @returns Undefined where the variable is not set.
 * @throws FdpassError `ERR_FDPASS_ENV`: no Unix socket is among them.
 */
export function readHaproxyCli(environment: Environment): string | undefined {
  const value = environment[CLI];
  if (value === undefined) return undefined;
  for (const item of value.split(';')) {
    const [, family, rest = ''] = /^(unix|abns)@(.+)$/.exec(item) ?? [];
    if (family !== undefined) return family === 'abns' ? `@${rest}` : rest;
  }
  throw malformed(CLI, value, `no Unix socket is in "${value}", and descriptors go by no other`);
}
