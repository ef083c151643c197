/**
 * gunicorn: GUNICORN_PID and GUNICORN_FD="5,6", by which it hands its listeners to its new binary on SIGUSR2.
 * Pure: it sees the text it is given, and opens and closes nothing. Source: gunicorn/arbiter.py.
 */
import { UNNAMED } from '../names.js';
import {
  descriptorNumber,
  type Environment,
  type GivenDescriptor,
  malformed,
  nothing,
  present,
  type Reading,
  type Writing,
} from './convention.js';

const PID = 'GUNICORN_PID';
const FD = 'GUNICORN_FD';

/** What {@link readGunicorn} looks at, to be taken off the environment. */
export const GUNICORN_VARIABLES: readonly string[] = [PID, FD];

/**
 * Reads the numbers. GUNICORN_FD without GUNICORN_PID counts for nothing, as in gunicorn.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: an item is no number, or GUNICORN_FD is missing.
 */
export function readGunicorn(environment: Environment): Reading {
  const { [PID]: pid, [FD]: value } = environment;
  const variables = present(environment, GUNICORN_VARIABLES);
  if (pid === undefined) return nothing(`${PID} is not set`, []);
  if (value === undefined) throw malformed(FD, undefined, `it is not set, and ${PID} is ${pid}`);
  const descriptors = value.split(',').map((part) => ({ name: UNNAMED, fd: descriptorNumber(FD, value, part.trim()) }));
  return { descriptors, note: '', variables, named: false };
}

/**
 * Writes the variables. The child takes this process for the old gunicorn, and its own pid file for that of the new one.
 * None for no descriptors: gunicorn ends where GUNICORN_FD is empty, and binds by itself without.
 */
export function writeGunicorn(descriptors: readonly GivenDescriptor[], self: { pid: number }): Writing {
  if (descriptors.length === 0) return { variables: {}, pidVariables: [] };
  const variables = { [PID]: String(self.pid), [FD]: descriptors.map(({ fd }) => fd).join(',') };
  return { variables, pidVariables: [] };
}
