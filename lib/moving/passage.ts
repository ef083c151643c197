/**
 * What both sides do with a connection that moves by hooks: bytes that a stream has read and nobody took, and the call of `adopt`.
 * Calls the hooks of the application; what they throw is a warning, and never ends the move of others. Source: stream.Readable.
 */
import type net from 'node:net';

import { type ConnectionTracker } from '../connections.js';
import type { MovingHooks } from './hooks.js';
import { openSocket } from './http1.js';

/** Bytes of state and unread bytes of one connection, as they travel. */
export const MAX_STATE = 262_144;

/** Takes what the stream has read: it reads no more. read() emits 'data' too, so listeners go first. */
export function takeUnread(socket: net.Socket): Buffer {
  socket.removeAllListeners('data');
  socket.removeAllListeners('readable');
  socket.pause();
  const pieces: Buffer[] = [];
  for (let piece = socket.read() as Buffer | null; piece !== null; piece = socket.read() as Buffer | null) {
    pieces.push(piece); // no text: one with setEncoding does not move
  }
  return Buffer.concat(pieces);
}

/** A socket for hooks: known to the server's tracker, and 'connection' is not emitted. The descriptor is its own in every case. */
export function openForHooks(
  server: net.Server,
  tracker: ConnectionTracker,
  fd: number,
  isUpgraded: boolean,
): net.Socket {
  const socket = openSocket(server, fd);
  tracker.adopt(socket, isUpgraded);
  return socket;
}

/** Gives the socket to the hooks. Where they throw it is destroyed: nobody else knows what to do with it. */
export function adoptWithHooks(
  hooks: MovingHooks,
  name: string,
  socket: net.Socket,
  state: unknown,
  unread: Buffer,
): void {
  if (unread.length > 0) socket.unshift(unread);
  try {
    hooks.adopt(socket, state);
  } catch (error) {
    warn(`adopt() of the hooks "${name}"`, error);
    socket.destroy();
  }
}

/** Calls back; what it throws is a warning. */
export function attempt(what: string, action: () => void): void {
  try {
    action();
  } catch (error) {
    warn(what, error);
  }
}

/** Tells of an error that ends one connection, and nothing else. */
export function warn(what: string, error: unknown): void {
  const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
  process.emitWarning(`${what} failed: ${text}`, { code: 'FDPASS_MOVING' });
}
