/**
 * nginx: NGINX="3;7;", by which it hands its listeners to its new binary. It finds out by itself which is which: getsockname(2).
 * Pure: it sees the text it is given, and opens and closes nothing.
 * Source: ngx_add_inherited_sockets, src/core/nginx.c.
 */
import { UNNAMED } from '../names.js';
import {
  descriptorNumber,
  type Environment,
  type GivenDescriptor,
  malformed,
  type NamedDescriptor,
  nothing,
  type Reading,
  type Writing,
} from './convention.js';

const VARIABLE = 'NGINX';

/** What {@link readNginx} looks at, to be taken off the environment. */
export const NGINX_VARIABLES: readonly string[] = [VARIABLE];

/**
 * Reads the numbers, each with a `;` or a `:` behind it.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: something that is no number, or a number with nothing behind it, which nginx would leave out.
 */
export function readNginx(environment: Environment): Reading {
  const value = environment[VARIABLE];
  if (value === undefined) return nothing(`${VARIABLE} is not set`, []);
  const parts = value.split(/[;:]/);
  const rest = parts.pop() ?? '';
  if (rest !== '') throw malformed(VARIABLE, value, `"${rest}" has no ";" behind it, as in 3;4;`);
  const descriptors = parts.map((part): NamedDescriptor => ({
    name: UNNAMED,
    fd: descriptorNumber(VARIABLE, value, part),
  }));
  return { descriptors, note: '', variables: [VARIABLE], named: false };
}

/** Writes the variable with which nginx would start its new binary. That never becomes a daemon. */
export function writeNginx(descriptors: readonly GivenDescriptor[]): Writing {
  return { variables: { [VARIABLE]: descriptors.map(({ fd }) => `${fd};`).join('') }, pidVariables: [] };
}
