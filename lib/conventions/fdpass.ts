/**
 * fdpass's own convention: FDPASS_CHANNEL names the control channel of a handoff, as `number:inode`.
 * The inode tells a channel from whatever else may stand at that number in a grandchild that inherited the variable.
 * Pure: it sees the text it is given, and opens and closes nothing. Source: docs/protocol.md.
 */
import { FdpassError } from '../errors.js';
import type { Environment, Writing } from './convention.js';

const VARIABLE = 'FDPASS_CHANNEL';

/** Where the control channel is, and which socket must stand there. */
export interface ChannelReference {
  fd: number;
  inode: bigint;
}

/**
 * Reads where the control channel of the predecessor is.
 *
 * @returns Undefined where the variable is not set. Whether that socket stands there is the caller's to check.
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`: not `number:inode`.
 */
export function readFdpass(environment: Environment): ChannelReference | undefined {
  const value = environment[VARIABLE];
  if (value === undefined) return undefined;
  const match = /^(\d{1,9}):(\d{1,20})$/.exec(value);
  if (match === null) {
    const message = `${VARIABLE}: "${value}" is not number:inode, as in 4:81204`;
    throw new FdpassError('ERR_FDPASS_ENV', message, { variable: VARIABLE, value });
  }
  const [, fd = '', inode = ''] = match;
  return { fd: Number(fd), inode: BigInt(inode) };
}

/** The variable that names the channel at `fd` to the successor. */
export function writeFdpass(channel: ChannelReference): Writing {
  return { variables: { [VARIABLE]: `${channel.fd}:${channel.inode}` }, pidVariables: [] };
}

/** What {@link readFdpass} looks at, to be taken off the environment. */
export const FDPASS_VARIABLES: readonly string[] = [VARIABLE];
