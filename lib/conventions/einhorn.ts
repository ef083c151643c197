/**
 * einhorn: EINHORN_FD_COUNT and EINHORN_FD_0 ..., and EINHORN_FDS, which it wrote once and socketmaster writes still.
 * Pure: it sees the text it is given, and opens and closes nothing.
 * Source: lib/einhorn/command.rb and lib/einhorn/worker.rb of contribsys/einhorn; zimbatm/socketmaster, process_group.go.
 */
import { UNNAMED } from '../names.js';
import {
  decimal,
  descriptorNumber,
  type Environment,
  type GivenDescriptor,
  type Identity,
  malformed,
  MAX_INT,
  type NamedDescriptor,
  nothing,
  type Reading,
  type Writing,
} from './convention.js';

const MASTER = 'EINHORN_MASTER_PID';
const COUNT = 'EINHORN_FD_COUNT';
const LEGACY = 'EINHORN_FDS';

/**
 * What {@link readEinhorn} looks at, to be taken off the environment. EINHORN_SOCK_PATH stays: the acknowledgement needs it.
 * EINHORN_MASTER_PID stays for the same reason.
 */
export function einhornVariables(environment: Environment): string[] {
  return Object.keys(environment).filter((name) => name === COUNT || name === LEGACY || /^EINHORN_FD_\d+$/.test(name));
}

/**
 * Reads the descriptors of a worker of einhorn, else those of EINHORN_FDS.
 *
 * @param self - Whose parent EINHORN_MASTER_PID must name: it stays in the environment of grandchildren.
 * @returns EINHORN_FDS without EINHORN_MASTER_PID is unproven: socketmaster writes it for whoever comes.
 * @throws FdpassError `ERR_FDPASS_ENV`: a number is malformed, or one of those that were counted is missing.
 */
export function readEinhorn(environment: Environment, self: Pick<Identity, 'ppid'>): Reading {
  const { [MASTER]: master, [COUNT]: count, [LEGACY]: legacy } = environment;
  const variables = einhornVariables(environment);
  if (count === undefined && legacy === undefined) return nothing(`${COUNT} is not set`, []);
  if (master !== undefined && decimal(MASTER, master, 1, MAX_INT) !== self.ppid) {
    const stranger = { variable: MASTER, value: master, own: String(self.ppid) };
    return nothing(`${MASTER} is ${master}, and the parent of this process is ${self.ppid}`, [], stranger);
  }
  if (count === undefined) {
    const descriptors = numbers(legacy ?? '');
    return { descriptors, note: '', variables, named: false, unproven: master === undefined };
  }
  if (master === undefined)
    return nothing(`${COUNT} is set without ${MASTER}, so it may be meant for another process`, []);
  const number = decimal(COUNT, count, 0, MAX_INT);
  return { descriptors: walk(environment, number), note: '', variables, named: false };
}

/** One by one, so that nothing is allocated by the number that a variable claims. */
function* walk(environment: Environment, number: number): Generator<NamedDescriptor> {
  for (let index = 0; index < number; index++) {
    const variable = `EINHORN_FD_${index}`;
    const value = environment[variable];
    if (value === undefined) throw malformed(variable, undefined, `it is not set, and ${COUNT} is ${number}`);
    yield { name: UNNAMED, fd: descriptorNumber(variable, value) };
  }
}

function numbers(value: string): NamedDescriptor[] {
  const parts = value.split(' ').filter(Boolean);
  return parts.map((part) => ({ name: UNNAMED, fd: descriptorNumber(LEGACY, value, part) }));
}

/**
 * Writes the variables with which einhorn would start a worker, in the old way too.
 *
 * @param self - The master.
 * @param socket - The path at which the master listens for the acknowledgement, where it does.
 */
export function writeEinhorn(descriptors: readonly GivenDescriptor[], self: { pid: number }, socket?: string): Writing {
  const fds = descriptors.map(({ fd }) => String(fd));
  return {
    variables: {
      [MASTER]: String(self.pid),
      [COUNT]: String(fds.length),
      ...Object.fromEntries(fds.map((fd, index) => [`EINHORN_FD_${index}`, fd])),
      [LEGACY]: fds.join(' '),
      EINHORN_CHILD_INDEX: '0',
      ...(socket === undefined ? {} : { EINHORN_SOCK_PATH: socket }),
    },
    pidVariables: [],
  };
}

/** Whether a line that came to the master is the acknowledgement of this worker: `{"command":"worker:ack","pid":42}`. */
export function isAcknowledgement(line: string, pid: number): boolean {
  // Ruby's client writes YAML on one line: `%` and line breaks escaped, braces or not as its version likes.
  const text = line.replaceAll('%0A', '\n').replaceAll('%25', '%');
  const said = (key: string): string | undefined =>
    new RegExp(`["']?\\b${key}["']?:\\s*["']?([\\w:]+)`).exec(text)?.[1];
  return said('command') === 'worker:ack' && said('pid') === String(pid);
}
