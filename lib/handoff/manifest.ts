/**
 * What an offer says, and the checks of what a user wants to be offered: the entries of the manifest and the state, common to every
 * birth. Looks at descriptors; makes a memory file for a large state. Source: docs/protocol.md; memfd_create(2).
 */
import fs from 'node:fs';

import { FdpassError } from '../errors.js';
import type { Listener } from '../listener.js';
import { checkName } from '../names.js';
import * as raw from '../raw.js';
import type { Item, OfferedState } from './frame.js';

/** State above this goes in a memory file: OFFER must fit into the channel before anybody reads it. Bytes. */
const INLINE_STATE = 32_768;

/** The entry of a listener: what the descriptor must turn out to be on the other side. */
export function describeItem(listener: Listener): Item {
  const { inode, device } = raw.describe(listener.fd);
  const { name, type, address, backlog, origin } = listener;
  return {
    name,
    type,
    address,
    inode: String(inode),
    device: String(device),
    backlog,
    supervised: origin === 'systemd' || origin === 'supervisor' || origin === 'fd',
    systemd: origin === 'systemd',
  };
}

/**
 * The state as OFFER carries it: itself where it is small, else in a memory file, which belongs to the caller.
 *
 * @param number - At which the successor finds the file; null where it travels with the frame.
 */
export function storeState(
  state: unknown,
  number: number | null,
): { state: OfferedState | undefined; file: number | undefined } {
  if (state === undefined) return { state: undefined, file: undefined };
  const isBytes = state instanceof Uint8Array;
  const bytes = isBytes ? state : Buffer.from(JSON.stringify(state));
  if (!isBytes && bytes.length <= INLINE_STATE) return { state: { json: state }, file: undefined };
  const file = raw.memoryFile('fdpass-state');
  try {
    for (let written = 0; written < bytes.length;) written += fs.writeSync(file, bytes, written);
  } catch (error) {
    raw.close(file);
    throw error;
  }
  return { state: { fd: number, length: bytes.length, encoding: isBytes ? 'bytes' : 'json' }, file };
}

/** Everything that can be said of the options of a handoff, whatever its birth, before anything is done. */
export function checkOffer(options: {
  listeners?: readonly Listener[] | undefined;
  readyTimeout?: number | undefined;
  probation?: number | undefined;
}): void {
  checkTime('readyTimeout', options.readyTimeout);
  checkTime('probation', options.probation);
  for (const listener of options.listeners ?? []) {
    checkName(listener.name);
    if (!listener.closed) continue;
    throw new FdpassError('ERR_FDPASS_CLOSED', `options.listeners holds "${listener.name}", which was closed`);
  }
}

/** Whether it can travel. */
export function checkState(state: unknown): void {
  if (state === undefined || state instanceof Uint8Array) return;
  if (typeof state === 'object' && state !== null && 'then' in state && typeof state.then === 'function') {
    refuse('state', 'JSON or bytes, and not a promise of them: wait for it first', 'a promise');
  }
  let json: unknown; // undefined for a function, whatever the compiler says
  try {
    json = JSON.stringify(state);
  } catch (error) {
    refuse('state', `JSON or bytes (${String(error)})`, typeof state);
  }
  if (json === undefined) refuse('state', 'JSON or bytes', typeof state);
}

export function checkTime(option: string, value: unknown): void {
  if (value === undefined) return;
  const MAX_TIMER = 2_147_483_647; // setTimeout's own
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0 || value > MAX_TIMER) {
    refuse(option, `a number of ms from 0 to ${MAX_TIMER}`, value);
  }
}

/** An option that cannot be. */
export function refuse(option: string, expected: string, value: unknown): never {
  const message = `options.${option} must be ${expected}; it is ${typeof value === 'string' ? `'${value}'` : String(value)}`;
  throw Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}
