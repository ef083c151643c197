/**
 * systemd's socket activation: LISTEN_FDS, LISTEN_PID, LISTEN_PIDFDID and LISTEN_FDNAMES, from text to descriptors and back.
 * Pure: it sees the text it is given, never process.env, and opens and closes nothing.
 * Source: sd_listen_fds(3), and systemd's src/libsystemd/sd-daemon/sd-daemon.c.
 */
import { FdpassError } from '../errors.js';
import { checkName, UNNAMED } from '../names.js';
import {
  decimal,
  type Environment,
  type Identity,
  MAX_INT,
  type NamedDescriptor,
  nothing,
  present,
  type Reading,
  type Writing,
} from './convention.js';

/** The first descriptor of the convention. sd_listen_fds(3), SD_LISTEN_FDS_START */
export const LISTEN_FDS_START = 3;

/** What {@link readSystemd} looks at, to be taken off the environment. */
export const SYSTEMD_VARIABLES: readonly string[] = ['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'];

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
export function readSystemd(environment: Environment, self: Pick<Identity, 'pid' | 'pidfdId'>): Reading {
  const { LISTEN_PID: pid, LISTEN_PIDFDID: pidfdId, LISTEN_FDS: count } = environment;
  const variables = present(environment, SYSTEMD_VARIABLES);

  if (count === undefined) return nothing('LISTEN_FDS is not set', variables);
  if (pid === undefined) {
    return nothing('LISTEN_FDS is set without LISTEN_PID, so it may be meant for another process', variables);
  }
  const wanted = decimal('LISTEN_PID', pid, 1, MAX_INT);
  if (wanted !== self.pid) {
    const hint = wanted === 1 ? ' (a container runtime wrote 1, but another program is pid 1 here)' : '';
    const stranger = { variable: 'LISTEN_PID', value: pid, own: String(self.pid) };
    return nothing(`LISTEN_PID is ${pid}, and this process is ${self.pid}${hint}`, variables, stranger);
  }
  if (pidfdId !== undefined && self.pidfdId !== undefined && pidfdId !== self.pidfdId) {
    const note = `LISTEN_PIDFDID is ${pidfdId}, and this process is ${self.pidfdId}: pid ${pid} was used again`;
    return nothing(note, variables, { variable: 'LISTEN_PIDFDID', value: pidfdId, own: self.pidfdId });
  }
  const number = decimal('LISTEN_FDS', count, 1, MAX_INT - LISTEN_FDS_START);
  return { ...listed(environment, LISTEN_FDS_START, number), note: '', variables };
}

/**
 * So many descriptors from `first` on, with the names of LISTEN_FDNAMES.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: not as many names as descriptors.
 */
export function listed(
  { LISTEN_FDNAMES: names }: Environment,
  first: number,
  number: number,
): Pick<Reading, 'named'> & { descriptors: Iterable<NamedDescriptor> } {
  const given = names === undefined ? undefined : splitNames(names);
  if (given !== undefined && given.length !== number) {
    throw new FdpassError(
      'ERR_FDPASS_NAMES',
      `LISTEN_FDNAMES: "${names}" holds ${given.length} name(s), and there are ${number} descriptor(s)`,
      { variable: 'LISTEN_FDNAMES', value: names },
    );
  }
  return { descriptors: walk(first, number, given), named: given !== undefined };
}

/** One by one, so that nothing is allocated by the number that a variable claims: the caller stops at the first that is not open. */
function* walk(first: number, number: number, names: readonly string[] | undefined): Generator<NamedDescriptor> {
  for (let index = 0; index < number; index++) yield { name: names?.[index] ?? UNNAMED, fd: first + index };
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
 * @param pid - 'exact': LISTEN_PID is the child's. 'omit': left out, for a child behind a wrapper (sh, npm), which would never see its
 * own; programs that follow sd_listen_fds(3) to the letter take nothing then. Default 'exact'.
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: a name that the convention cannot carry.
 */
export function writeSystemd(names: readonly string[], pid: 'exact' | 'omit' = 'exact'): Writing {
  for (const name of names) checkName(name);
  if (names.length === 0) return { variables: {}, pidVariables: [] };
  return {
    variables: { LISTEN_FDS: String(names.length), LISTEN_FDNAMES: names.join(':') },
    pidVariables: pid === 'exact' ? ['LISTEN_PID'] : [],
  };
}
