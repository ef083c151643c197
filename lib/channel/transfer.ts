/**
 * The two calls that a Channel makes for every message, sendmsg and recvmsg, through memory of this thread that is used again: no call
 * makes an object. Synchronous: what is read here is taken out of the memory before anything else runs.
 * Owns that memory, and no descriptor. Source: sendmsg(2), recvmsg(2), unix(7) SCM_RIGHTS.
 */
import { native } from '../native.js';
import { HEADER_LENGTH } from './frames.js';

/** Bytes that fit into {@link outgoing}: the largest packet. */
export const OUTGOING_SIZE: number = 65_536 + HEADER_LENGTH;

/** Where what is to be sent is put together. */
export const outgoing: Buffer = Buffer.allocUnsafeSlow(OUTGOING_SIZE);
/** The descriptors that go with it. */
export const outgoingFds: Int32Array = new Int32Array(256);

const INCOMING_SIZE = 262_144;
/** Of a stream: where less room is left, it is better to take out what has come. */
const LEAST = 4_096;
const MOST_MESSAGES = 1_024; // of one call
const ENDS_HEAD = 4;

// Made when first needed: a thread that only sends has none.
let incoming: Buffer | undefined;
const incomingFds = new Int32Array(4_096);
const ends = new Int32Array(ENDS_HEAD + 2 * MOST_MESSAGES);

/** How a {@link receiveMany} ended; native/transfer.cc has the same. */
export type ReceiveState = 'empty' | 'more' | 'end' | 'rights lost' | 'bytes lost' | 'failed';

const STATES: readonly ReceiveState[] = ['empty', 'more', 'end', 'rights lost', 'bytes lost', 'failed'];

/** Takes one message of {@link receiveMany}: the bytes from `from` to `to`, and `fds` from `firstFd` to `lastFd`, the taker's. */
export type Take = (bytes: Buffer, from: number, to: number, fds: Int32Array, firstFd: number, lastFd: number) => void;

/**
 * Sends bytes of a buffer, and the first `count` of {@link outgoingFds}.
 *
 * @returns The bytes that went, with all the descriptors; -1 where there is no room now.
 * @throws The system's error: nothing went.
 */
export function transfer(fd: number, bytes: Uint8Array, start: number, end: number, count: number): number {
  return native.transfer(fd, bytes, start, end, outgoingFds, count);
}

/**
 * Reads what there is, up to the size of the memory.
 *
 * @param take - Called for each message, in order. Must not throw, and must keep nothing of the memory.
 * @returns How it ended. 'failed': the error is in `error`.
 */
export function receiveMany(fd: number, packets: boolean, take: Take): { state: ReceiveState; error?: Error } {
  incoming ??= Buffer.allocUnsafeSlow(INCOMING_SIZE);
  // A packet that is longer than the largest of ours is cut, and so told.
  if (packets) native.receiveMany(fd, incoming, incomingFds, ends, OUTGOING_SIZE, OUTGOING_SIZE);
  else native.receiveMany(fd, incoming, incomingFds, ends, LEAST, INCOMING_SIZE);
  const messages = ends[0] ?? 0;
  const state = STATES[ends[1] ?? 0] ?? 'failed';
  const errno = ends[2] ?? 0;
  let from = 0;
  let firstFd = 0;
  for (let index = 0; index < messages; index++) {
    const to = ends[ENDS_HEAD + 2 * index] ?? from;
    const lastFd = ends[ENDS_HEAD + 2 * index + 1] ?? firstFd;
    take(incoming, from, to, incomingFds, firstFd, lastFd);
    from = to;
    firstFd = lastFd;
  }
  return state === 'failed' ? { state, error: native.systemError(errno, 'recvmsg', `fd ${fd}`, fd) } : { state };
}

const closing = new Int32Array(256);

/** Closes one: as {@link closeNumbers}, without a list. */
export function closeNumber(fd: number): void {
  closing[0] = fd;
  native.closeAll(closing, 1);
}

/** Closes those of the numbers that are not negative. */
export function closeNumbers(fds: readonly number[]): void {
  for (let first = 0; first < fds.length; first += closing.length) {
    const count = Math.min(closing.length, fds.length - first);
    for (let index = 0; index < count; index++) closing[index] = fds[first + index] ?? -1;
    native.closeAll(closing, count);
  }
}
