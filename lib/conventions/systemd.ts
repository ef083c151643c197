/**
 * systemd's socket activation: LISTEN_FDS, LISTEN_PID, LISTEN_PIDFDID and LISTEN_FDNAMES, from text to descriptors and back.
 * LISTEN_FDS_FIRST_FD of systemfd, which speaks so otherwise, is read too.
 * Pure: it sees the text it is given, never process.env, and opens and closes nothing.
 * Source: sd_listen_fds(3), and systemd's src/libsystemd/sd-daemon/sd-daemon.c; systemfd, src/spawn.rs.
 */
import { FdpassError } from '../errors.js';
import { checkName, UNNAMED } from '../names.js';
import {
  decimal,
  type Environment,
  type Identity,
  malformed,
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
export const SYSTEMD_VARIABLES: readonly string[] = [
  ...['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES'],
  'LISTEN_FDS_FIRST_FD', // of systemfd, with LISTEN_PID or without
];

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

  const wanted = pid === undefined ? undefined : decimal('LISTEN_PID', pid, 1, MAX_INT);
  if (count === undefined) return nothing('LISTEN_FDS is not set', variables);
  if (pid === undefined) {
    return nothing('LISTEN_FDS is set without LISTEN_PID, so it may be meant for another process', variables);
  }
  if (wanted !== self.pid) {
    const isContainers = wanted === 1;
    const hint = isContainers
      ? 'a container runtime wrote 1, but another program is pid 1 here'
      : 'a shell or npm between?';
    const stranger = { variable: 'LISTEN_PID', value: pid, own: String(self.pid) };
    return nothing(`LISTEN_PID is ${pid}, and this process is ${self.pid} (${hint})`, variables, stranger);
  }
  const announced = pidfdId === undefined ? undefined : inodeOf('LISTEN_PIDFDID', pidfdId);
  if (pidfdId !== undefined && self.pidfdId !== undefined && announced !== BigInt(self.pidfdId)) {
    const note = `LISTEN_PIDFDID is ${pidfdId}, and this process is ${self.pidfdId}: pid ${pid} was used again`;
    return nothing(note, variables, { variable: 'LISTEN_PIDFDID', value: pidfdId, own: self.pidfdId });
  }
  const first = firstDescriptorOf(environment);
  const number = decimal('LISTEN_FDS', count, 1, MAX_INT - first);
  return { ...listed(environment, first, number), note: '', variables };
}

/** The number of an inode: 64 bits. */
function inodeOf(variable: string, value: string): bigint {
  const number = /^\d{1,20}$/.test(value) ? BigInt(value) : undefined;
  if (number !== undefined && number < 2n ** 64n) return number;
  throw malformed(variable, value, `"${value}" is not the number of an inode in decimal digits`);
}

/**
 * Where the descriptors begin: 3, or what systemfd says.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`: it is malformed.
 */
export function firstDescriptorOf({ LISTEN_FDS_FIRST_FD: first = '' }: Environment): number {
  return first === '' ? LISTEN_FDS_START : decimal('LISTEN_FDS_FIRST_FD', first, LISTEN_FDS_START, MAX_INT - 1);
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
): Pick<Reading, 'named' | 'counted'> & { descriptors: Iterable<NamedDescriptor> } {
  const given = names === undefined ? undefined : splitNames(names);
  if (given !== undefined && given.length !== number) {
    throw new FdpassError(
      'ERR_FDPASS_NAMES',
      `LISTEN_FDNAMES: "${names}" holds ${given.length} name(s), and there are ${number} descriptor(s)`,
      { variable: 'LISTEN_FDNAMES', value: names },
    );
  }
  return { descriptors: walk(first, number, given), named: given !== undefined, counted: true };
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
 * @param options - `pid`: 'exact': LISTEN_PID is the child's. 'omit': left out, for a child behind a wrapper (sh, npm), which would never see its
 * own; programs that follow sd_listen_fds(3) to the letter take nothing then. Default 'exact'. `first`: said as systemfd does.
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: a name that the convention cannot carry.
 */
export function writeSystemd(
  names: readonly string[],
  { pid = 'exact', first }: { pid?: 'exact' | 'omit' | undefined; first?: number | undefined } = {},
): Writing {
  for (const name of names) checkName(name);
  if (names.length === 0) return { variables: {}, pidVariables: [] };
  const variables = { LISTEN_FDS: String(names.length), LISTEN_FDNAMES: names.join(':') };
  return {
    variables: first === undefined ? variables : { ...variables, LISTEN_FDS_FIRST_FD: String(first) },
    pidVariables: pid === 'exact' ? ['LISTEN_PID'] : [],
  };
}
