/**
 * Server::Starter: SERVER_STARTER_PORT and SERVER_STARTER_GENERATION, from text to descriptors and back.
 * Pure: it sees the text it is given, never process.env, and opens and closes nothing.
 * Source: Server::Starter(3), lib/Server/Starter.pm.
 */
import {
  decimal,
  descriptorNumber,
  type Environment,
  type GivenDescriptor,
  malformed,
  MAX_INT,
  type NamedDescriptor,
  nothing,
  present,
  type Reading,
  unwritable,
  type Writing,
} from './convention.js';

const PORT = 'SERVER_STARTER_PORT';
const GENERATION = 'SERVER_STARTER_GENERATION';

/** What {@link readServerStarter} looks at, to be taken off the environment. */
export const SERVER_STARTER_VARIABLES: readonly string[] = [PORT, GENERATION];

/**
 * Reads the descriptors that start_server handed down: `8080=4;127.0.0.1:81=5;[::1]:82=6;/run/app.sock=7`.
 *
 * The name of each is its key, which is the address as start_server was told it. `--port u8080`, a UDP port, has the key 8080 too.
 *
 * @returns In the order written. An empty value is a start_server without ports.
 * @throws FdpassError `ERR_FDPASS_ENV`: an item is not `address=number`, or the generation no number.
 */
export function readServerStarter(environment: Environment): Reading {
  const { [PORT]: value, [GENERATION]: count } = environment;
  const variables = present(environment, SERVER_STARTER_VARIABLES);
  if (value === undefined) return nothing(`${PORT} is not set`, []);
  const items = value.split(';').map((item) => item.trim());
  const descriptors = items.filter(Boolean).map((item): NamedDescriptor => {
    const split = item.lastIndexOf('='); // the last one: the path of a Unix socket may contain others
    if (split < 1) throw malformed(PORT, value, `"${item}" is not address=number, as in 8080=4`);
    return { name: item.slice(0, split).trim(), fd: descriptorNumber(PORT, value, item.slice(split + 1)) };
  });
  const generation = count === undefined ? undefined : decimal(GENERATION, count, 0, MAX_INT);
  return { descriptors, note: '', variables, named: false, generation };
}

/**
 * Writes the variables with which start_server would start a worker.
 *
 * @param generation - 1 for the first worker, and one more for each that follows.
 * @throws FdpassError `ERR_FDPASS_NAMES`: a path with `;` or `=` in it, which Perl could not read.
 */
export function writeServerStarter(descriptors: readonly GivenDescriptor[], generation: number): Writing {
  const items = descriptors.map(({ fd, address }) => {
    if (address === '' || /[;=]/.test(address)) {
      throw unwritable(`${PORT} cannot carry the address "${address}": no ";" and no "=" can be in it`, address);
    }
    return `${address.replace(/^0\.0\.0\.0:/, '')}=${fd}`; // as --port 8080 is written
  });
  return { variables: { [PORT]: items.join(';'), [GENERATION]: String(generation) }, pidVariables: [] };
}
