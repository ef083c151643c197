/**
 * tableflip: a Go program starts its successor with two pipes and its listeners behind them. TABLEFLIP_HAS_PARENT_7DIU3 says so; 3 is the
 * end of a pipe into which the child writes one byte when it is ready; from 4 come the names (gob.ts), and the end of the parent.
 * Pure: it sees text and bytes, and reads and writes no pipe. Source: cloudflare/tableflip, parent.go, child.go, fds.go.
 */
import { FdpassError } from '../errors.js';
import { type Environment, type GivenDescriptor, malformed, type NamedDescriptor, type Writing } from './convention.js';
import { decodeGob, encodeGob } from './gob.js';

const VARIABLE = 'TABLEFLIP_HAS_PARENT_7DIU3';

/** What {@link readTableflip} looks at, to be taken off the environment. */
export const TABLEFLIP_VARIABLES: readonly string[] = [VARIABLE];

/** Into this the child writes {@link READY}, and closes it. */
export const READY_PIPE = 3;
/** From this come the names; it ends with the parent. */
export const NAMES_PIPE = 4;
/** The first descriptor that is handed down. */
export const TABLEFLIP_START = 5;
/** notifyReady of tableflip. */
export const READY = 42;

/**
 * Whether the parent is tableflip.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`: the variable is something else than `yes`.
 */
export function readTableflip(environment: Environment): boolean {
  const value = environment[VARIABLE];
  if (value === undefined) return false;
  if (value !== 'yes') throw malformed(VARIABLE, value, `"${value}" is not "yes"`);
  return true;
}

/**
 * Reads what came from the pipe of names.
 *
 * The name of each is its address, or what Fds.AddConn and Fds.AddFile called it.
 *
 * @returns Undefined where bytes are missing.
 * @throws FdpassError `ERR_FDPASS_PROTOCOL`: not what tableflip writes, or more than that.
 */
export function readTableflipNames(bytes: Buffer): NamedDescriptor[] | undefined {
  const read = decodeGob(bytes);
  if (read === undefined) return undefined;
  if (read.length !== bytes.length) {
    const message = `tableflip says more than the names of its descriptors: ${bytes.length - read.length} bytes`;
    throw new FdpassError('ERR_FDPASS_PROTOCOL', message);
  }
  return read.value.map(([kind, network, address], index) => {
    if (kind === undefined || network === undefined) {
      throw new FdpassError(
        'ERR_FDPASS_PROTOCOL',
        `tableflip names descriptor ${TABLEFLIP_START + index} without a kind`,
      );
    }
    return {
      name: kind === 'fd' || address === undefined || address === '' ? network : address,
      fd: TABLEFLIP_START + index,
    };
  });
}

/** One entry of the names: what the child's Listen(network, address) must say, letter by letter. */
export interface TableflipSocket extends GivenDescriptor {
  kind: 'listener' | 'packet';
  /** Whose words Go uses: tcp, udp, unix, unixgram, unixpacket. */
  network: string;
}

/** What the parent sets, and what it writes into the pipe of names. */
export function writeTableflip(sockets: readonly TableflipSocket[]): Writing & { names: Buffer } {
  return {
    variables: { [VARIABLE]: 'yes' },
    pidVariables: [],
    names: encodeGob(sockets.map(({ kind, network, address }) => [kind, network, address])),
  };
}
