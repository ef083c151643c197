/**
 * puma: PUMA_INHERIT_0="5:tcp://127.0.0.1:9292", ..., by which it hands its listeners to itself on SIGUSR2.
 * Pure: it sees the text it is given, and opens and closes nothing. Source: lib/puma/binder.rb, lib/puma/launcher.rb.
 */
import {
  descriptorNumber,
  type Environment,
  type GivenDescriptor,
  malformed,
  type NamedDescriptor,
  nothing,
  type Reading,
  unwritable,
  type Writing,
} from './convention.js';

/** What {@link readPuma} looks at, to be taken off the environment: in the order of their numbers. */
export function pumaVariables(environment: Environment): string[] {
  const number = (name: string): number => Number(name.slice('PUMA_INHERIT_'.length));
  return Object.keys(environment)
    .filter((name) => /^PUMA_INHERIT_\d+$/.test(name) && environment[name] !== undefined)
    .sort((a, b) => number(a) - number(b));
}

/**
 * Reads the numbers. The name of each is its URL.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: a value is not `number:url`.
 */
export function readPuma(environment: Environment): Reading {
  const variables = pumaVariables(environment);
  if (variables.length === 0) return nothing('PUMA_INHERIT_0 is not set', []);
  const descriptors = variables.map((variable): NamedDescriptor => {
    const value = environment[variable] ?? '';
    const split = value.indexOf(':');
    if (split < 1 || split === value.length - 1) {
      throw malformed(variable, value, `"${value}" is not number:url, as in 5:tcp://127.0.0.1:9292`);
    }
    return { name: value.slice(split + 1), fd: descriptorNumber(variable, value, value.slice(0, split)) };
  });
  return { descriptors, note: '', variables, named: false };
}

/**
 * Writes the variables.
 *
 * @param urls - One a descriptor, each byte for byte that of a `-b`: puma closes what it does not find there, and unlinks its path.
 * Default: `tcp://` or `unix://` and the address.
 * @throws FdpassError `ERR_FDPASS_NAMES`: not as many urls as descriptors, or an abstract name without one.
 */
export function writePuma(descriptors: readonly GivenDescriptor[], urls?: readonly string[]): Writing {
  if (urls !== undefined && urls.length !== descriptors.length) {
    throw unwritable(`${urls.length} url(s) are given for ${descriptors.length} descriptor(s)`, urls.join(' '));
  }
  const entries = descriptors.map(({ fd, address }, index): [string, string] => {
    const url = urls?.[index] ?? urlOf(address);
    return [`PUMA_INHERIT_${index}`, `${fd}:${url}`];
  });
  return { variables: Object.fromEntries(entries), pidVariables: [] };
}

function urlOf(address: string): string {
  if (address === '') throw unwritable('puma needs the url of a socket that has no address: give urls', address);
  return /^[/@]/.test(address) ? `unix://${address}` : `tcp://${address}`;
}
