/**
 * Whom a takeover trusts: the directory and the mode of its path, and the credentials at the other end.
 * Looks at files and sockets; changes nothing. Source: unix(7), SO_PEERCRED; PROTOCOL in docs/protocol.md.
 */
import fs from 'node:fs';
import { dirname } from 'node:path';
import { inspect } from 'node:util';

import { FdpassError } from '../errors.js';
import * as raw from '../raw.js';

/** Whose processes may stand at the other end, besides this user's own. */
export interface Trusted {
  /** User ids. */
  uids?: readonly number[] | undefined;
  /** Group ids: the group with which the other process runs, as the kernel tells it. */
  gids?: readonly number[] | undefined;
}

function ownUid(): number {
  const uid = process.geteuid?.(); // undefined on Windows alone, where nothing of this exists
  if (uid === undefined) throw new FdpassError('ERR_FDPASS_PLATFORM', 'This platform has no user ids');
  return uid;
}

/** Whether these are numbers that the kernel could tell. RangeError otherwise. */
export function checkTrusted({ uids, gids }: Trusted): void {
  const isId = (id: unknown): boolean => Number.isSafeInteger(id) && Number(id) >= 0;
  for (const [option, ids] of Object.entries({ uids, gids })) {
    if (ids === undefined || (Array.isArray(ids) && ids.every(isId))) continue;
    const message = `options.${option} must be an array of ids, whole numbers from 0; it is ${inspect(ids)}`;
    throw Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
  }
}

/**
 * Who is at the other end of a connected Unix socket, if it may be.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_REFUSED`, saying who it is and who would be trusted.
 */
export function checkPeer(fd: number, what: string, { uids = [], gids = [] }: Trusted): raw.Credentials {
  const peer = raw.peerCredentials(fd);
  const own = ownUid();
  if (peer.uid === own || uids.includes(peer.uid) || gids.includes(peer.gid)) return peer;
  const listed = [...uids.map((uid) => `uid ${uid}`), ...gids.map((gid) => `gid ${gid}`)];
  const message = `${what} runs as uid ${peer.uid}, gid ${peer.gid}; trusted are ${[`uid ${own}`, ...listed].join(', ')}`;
  throw new FdpassError('ERR_FDPASS_REFUSED', message, {
    expected: `uid ${own}`,
    got: `uid ${peer.uid}, gid ${peer.gid}`,
  });
}

/**
 * The directory of the path must belong to one who is trusted, and nobody else may write there: whoever can, can put a socket of
 * his own in the place of ours. An abstract name has no directory: there the credentials alone protect.
 *
 * @throws The system's ENOENT, ENOTDIR. {@link FdpassError} `ERR_FDPASS_REFUSED`.
 */
export function checkDirectory(path: string, { uids = [] }: Trusted): void {
  if (path.startsWith('@')) return;
  const directory = dirname(path);
  const { mode, uid } = fs.statSync(directory);
  if (uid !== 0 && uid !== ownUid() && !uids.includes(uid)) {
    throw new FdpassError('ERR_FDPASS_REFUSED', `The directory ${directory} belongs to uid ${uid}: ${ADVICE}`);
  }
  const writable = mode & 0o022;
  if (writable === 0) return;
  const octal = (mode & 0o7777).toString(8).padStart(4, '0');
  const message = `The directory ${directory} can be written by others than its owner (mode ${octal}): ${ADVICE}`;
  throw new FdpassError('ERR_FDPASS_REFUSED', message);
}

const ADVICE = 'anybody who writes there could stand in for you. Use a directory of your own, mode 0700';
