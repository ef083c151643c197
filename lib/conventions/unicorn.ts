/**
 * unicorn: UNICORN_FD="5,6", by which it hands its listeners to its new binary on SIGUSR2.
 * Pure: it sees the text it is given, and opens and closes nothing. Source: lib/unicorn/http_server.rb.
 */
import { UNNAMED } from '../names.js';
import {
  descriptorNumber,
  type Environment,
  type GivenDescriptor,
  nothing,
  type Reading,
  type Writing,
} from './convention.js';

const VARIABLE = 'UNICORN_FD';

/** What {@link readUnicorn} looks at, to be taken off the environment. */
export const UNICORN_VARIABLES: readonly string[] = [VARIABLE];

/**
 * Reads the numbers.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: an item is no number.
 */
export function readUnicorn(environment: Environment): Reading {
  const value = environment[VARIABLE];
  if (value === undefined) return nothing(`${VARIABLE} is not set`, []);
  const parts = value.split(',').filter(Boolean);
  const descriptors = parts.map((part) => ({ name: UNNAMED, fd: descriptorNumber(VARIABLE, value, part.trim()) }));
  return { descriptors, note: '', variables: [VARIABLE], named: false };
}

/** Writes the variable. */
export function writeUnicorn(descriptors: readonly GivenDescriptor[]): Writing {
  return { variables: { [VARIABLE]: descriptors.map(({ fd }) => fd).join(',') }, pidVariables: [] };
}
