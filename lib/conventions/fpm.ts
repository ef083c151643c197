/**
 * PHP-FPM: FPM_SOCKETS="127.0.0.1:9000=5,/run/php.sock=6", by which it hands its listeners to itself on SIGUSR2.
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

/** What {@link readFpm} looks at, to be taken off the environment. */
export const FPM_VARIABLES: readonly string[] = [VARIABLE];

/**
 * Reads the items. The name of each is its address.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: an item is not `address=number`.
 */
export function readFpm(environment: Environment): Reading {
  const value = environment[VARIABLE];
  if (value === undefined) return nothing(`${VARIABLE} is not set`, []);
  const descriptors = value
    .split(',')
    .filter(Boolean)
    .map((item): NamedDescriptor => {
      const split = item.lastIndexOf('=');
      if (split < 1) throw malformed(VARIABLE, value, `"${item}" is not address=number, as in 127.0.0.1:9000=5`);
      return { name: item.slice(0, split), fd: descriptorNumber(VARIABLE, value, item.slice(split + 1)) };
    });
  return { descriptors, note: '', variables: [VARIABLE], named: false };
}

/**
 * Writes the variable. The addresses must be those of the `listen =` lines: php-fpm closes what it does not find there, and unlinks its
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
  return { variables: { [VARIABLE]: items.join(',') }, pidVariables: [] };
}
