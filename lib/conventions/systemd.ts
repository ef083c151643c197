/**
 * systemd's socket activation: LISTEN_FDS, LISTEN_PID, LISTEN_PIDFDID and LISTEN_FDNAMES, from text to descriptors and back.
 * Pure: it sees the text it is given, never process.env, and opens and closes nothing.
 * Source: sd_listen_fds(3), and systemd's src/libsystemd/sd-daemon/sd-daemon.c.
 */
import { FdpassError } from '../errors.js';
import { checkName, UNNAMED } from '../names.js';
import type { Environment, NamedDescriptor, Reading, Writing } from './convention.js';

/** The first descriptor of the convention. sd_listen_fds(3), SD_LISTEN_FDS_START */
export const LISTEN_FDS_START = 3;

const VARIABLES = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'];
const MAX_INT = 2_147_483_647;

/** What this process is, as far as the convention asks. */
export interface Identity {
  pid: number;
  /** The inode of this process's pidfd, where the kernel gives it a lasting one (pidfs, Linux 6.9). */
  pidfdId?: string | undefined;
}

/**
 * Reads the descriptors that systemd, or who speaks as it does, handed down.
 *
 * Numbers are plain decimal digits only; libsystemd also takes ` 2`, `+2` and `0x2`, which nobody writes.
 *
 * @param environment - The variables of this process.
 * @param self - Whom LISTEN_PID must name.
 * @returns The descriptors in order, or why there are none: no LISTEN_FDS, no LISTEN_PID, or that of another process.
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`: a number is malformed or out of range.
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: not as many names as descriptors.
 */
export function readSystemd(environment: Environment, self: Identity): Reading {
  const { LISTEN_PID: pid, LISTEN_PIDFDID: pidfdId, LISTEN_FDS: count, LISTEN_FDNAMES: names } = environment;
  const variables = VARIABLES.filter((name) => environment[name] !== undefined);
  const nothing = (note: string): Reading => ({ descriptors: undefined, note, variables });

  if (count === undefined) return nothing('LISTEN_FDS is not set');
  if (pid === undefined) return nothing('LISTEN_FDS is set without LISTEN_PID, so it may be meant for another process');
  const wanted = decimal('LISTEN_PID', pid, 1, MAX_INT);
  if (wanted !== self.pid) {
    const hint = wanted === 1 ? ' (a container runtime wrote 1, but another program is pid 1 here)' : '';
    return nothing(`LISTEN_PID is ${pid}, and this process is ${self.pid}${hint}`);
  }
  if (pidfdId !== undefined && self.pidfdId !== undefined && pidfdId !== self.pidfdId) {
    return nothing(`LISTEN_PIDFDID is ${pidfdId}, and this process is ${self.pidfdId}: pid ${pid} was used again`);
  }

  const number = decimal('LISTEN_FDS', count, 1, MAX_INT - LISTEN_FDS_START);
  const given = names === undefined ? undefined : splitNames(names);
  if (given !== undefined && given.length !== number) {
    throw new FdpassError(
      'ERR_FDPASS_NAMES',
      `LISTEN_FDNAMES: "${names}" holds ${given.length} name(s), and LISTEN_FDS is ${count}`,
      { variable: 'LISTEN_FDNAMES', value: names },
    );
  }
  return { descriptors: walk(number, given), note: '', variables };
}

/** One by one, so that nothing is allocated by the number that a variable claims: the caller stops at the first that is not open. */
function* walk(number: number, names: readonly string[] | undefined): Generator<NamedDescriptor> {
  for (let index = 0; index < number; index++) yield { name: names?.[index] ?? UNNAMED, fd: LISTEN_FDS_START + index };
}

function decimal(variable: string, value: string, lowest: number, highest: number): number {
  if (!/^\d{1,10}$/.test(value)) {
    const message = `${variable}: "${value}" is not a whole number in decimal digits`;
    throw new FdpassError('ERR_FDPASS_ENV', message, { variable, value });
  }
  const number = Number(value);
  if (number < lowest || number > highest) {
    const message = `${variable}: ${value} is not between ${lowest} and ${highest}`;
    throw new FdpassError('ERR_FDPASS_ENV', message, { variable, value });
  }
  return number;
}

/** Split at colons; a backslash takes the next character as it is as libsystemd does. */
function splitNames(text: string): string[] {
  const names: string[] = [];
  let name = '';
  for (let at = 0; at < text.length; at++) {
    const character = text.charAt(at);
    if (character === ':') {
      names.push(name);
      name = '';
    } else if (character === '\\') {
      at++;
      if (at === text.length) {
        const message = `LISTEN_FDNAMES: "${text}" ends in a backslash that escapes nothing`;
        throw new FdpassError('ERR_FDPASS_NAMES', message, { variable: 'LISTEN_FDNAMES', value: text });
      }
      name += text.charAt(at);
    } else {
      name += character;
    }
  }
  // An empty text is one empty name for libsystemd when one descriptor was given, and an error otherwise: as here.
  return [...names, name];
}

/**
 * Writes the variables with which systemd would start a child that is given these descriptors at 3, 4, ...
 *
 * @param names - One a descriptor, in their order.
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: a name that the convention cannot carry.
 */
export function writeSystemd(names: readonly string[]): Writing {
  for (const name of names) checkName(name);
  if (names.length === 0) return { variables: {}, pidVariables: [] };
  return {
    variables: { LISTEN_FDS: String(names.length), LISTEN_FDNAMES: names.join(':') },
    pidVariables: ['LISTEN_PID'],
  };
}
