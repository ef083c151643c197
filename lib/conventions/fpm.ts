/**
 * PHP-FPM: FPM_SOCKETS="127.0.0.1:9000=5,/run/php.sock=6", by which it hands its listeners to itself on SIGUSR2. 128 in each
 * variable: FPM_SOCKETS_1, FPM_SOCKETS_2, ... have the others.
 * Pure: it sees the text it is given, and opens and closes nothing. Source: sapi/fpm/fpm/fpm_sockets.c of php-src.
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

const VARIABLE = 'FPM_SOCKETS';
const IN_EACH = 128; // FPM_ENV_SOCKET_SET_SIZE

/** The variable of this number: the first has none in its name. */
function variableOf(index: number): string {
  return index === 0 ? VARIABLE : `${VARIABLE}_${index}`;
}

/** What {@link readFpm} looks at, to be taken off the environment: up to the first that is not set. */
export function fpmVariables(environment: Environment): string[] {
  const variables: string[] = [];
  while (environment[variableOf(variables.length)] !== undefined) variables.push(variableOf(variables.length));
  return variables;
}

/**
 * Reads the items. The name of each is its address.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: an item is not `address=number`.
 */
export function readFpm(environment: Environment): Reading {
  const variables = fpmVariables(environment);
  if (variables.length === 0) return nothing(`${VARIABLE} is not set`, []);
  const descriptors = variables.flatMap((variable) => {
    const value = environment[variable] ?? '';
    const items = value.split(',').filter(Boolean);
    return items.map((item): NamedDescriptor => {
      const split = item.lastIndexOf('=');
      if (split < 1) throw malformed(variable, value, `"${item}" is not address=number, as in 127.0.0.1:9000=5`);
      return { name: item.slice(0, split), fd: descriptorNumber(variable, value, item.slice(split + 1)) };
    });
  });
  return { descriptors, note: '', variables, named: false };
}

/**
 * Writes the variables. The addresses must be those of the `listen =` lines: php-fpm closes what it does not find there, and unlinks its
 * path.
 *
 * @throws FdpassError `ERR_FDPASS_NAMES`: a path with `,` or `=` in it.
 */
export function writeFpm(descriptors: readonly GivenDescriptor[]): Writing {
  const items = descriptors.map(({ fd, address }) => {
    if (address === '' || /[,=]/.test(address)) {
      throw unwritable(`${VARIABLE} cannot carry the address "${address}": no "," and no "=" can be in it`, address);
    }
    return `${address}=${fd}`;
  });
  const variables: Record<string, string> = { [VARIABLE]: '' };
  for (let at = 0; at < items.length; at += IN_EACH) {
    variables[variableOf(at / IN_EACH)] = items.slice(at, at + IN_EACH).join(',');
  }
  return { variables, pidVariables: [] };
}
