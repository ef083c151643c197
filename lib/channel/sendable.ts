/**
 * What can be sent over a Channel: from whatever holds a descriptor to its number, and what becomes of a net.Socket, which moves.
 * Opens and closes no descriptor. A socket that moves is stopped here, and destroyed when it has gone.
 */
import dgram from 'node:dgram';
import net from 'node:net';
import { inspect } from 'node:util';

import { FdpassError } from '../errors.js';
import { descriptorOf, descriptorOfDgram, hasHttpParser, stopReading, unwrittenByHandle } from '../nodeInternals.js';

/**
 * What holds a descriptor: a number; whatever has it as `fd` (Listener, FileHandle, Channel, Descriptor); a net.Socket, which moves; a
 * net.Server; a dgram.Socket.
 */
export type Sendable = number | { readonly fd: number } | net.Socket | net.Server | dgram.Socket;

/** A socket of Node's on its way: to be told how that ended. */
export interface Moving {
  /** It has gone: the socket here ends, and says nothing to the other side of it. */
  gone(): void;
  /** It has not: the socket reads on as if nothing had been. */
  stays(): void;
}

/** The shared empty list: most messages move nothing. */
export const NOTHING_MOVES: readonly Moving[] = [];

/**
 * The numbers behind `items`, and what moves. Nothing is changed where one of them cannot be sent.
 *
 * @throws TypeError `ERR_INVALID_ARG_TYPE`: it has no descriptor. {@link FdpassError} `ERR_FDPASS_UNREAD`: a socket that would lose bytes.
 */
export function descriptorsOf(items: readonly Sendable[]): { fds: number[]; moving: readonly Moving[] } {
  const fds = items.map((item, index) => descriptorOfItem(item, index));
  const sockets = items.filter((item) => item instanceof net.Socket);
  if (sockets.length === 0) return { fds, moving: NOTHING_MOVES };
  if (new Set(sockets).size < sockets.length) throw unsendable('one of fds', 'a socket twice: it can move but once');
  const moving: Moving[] = [];
  try {
    for (const socket of sockets) moving.push(move(socket));
  } catch (error) {
    for (const stopped of moving) stopped.stays();
    throw error;
  }
  return { fds, moving };
}

function descriptorOfItem(item: unknown, index: number): number {
  if (typeof item === 'number') return item >= 0 ? item : noDescriptor(index, `the number ${item}`);
  if (typeof item !== 'object' || item === null) return noDescriptor(index, inspect(item));
  let fd: unknown;
  if (item instanceof net.Socket) {
    checkMovable(item, index);
    fd = descriptorOf(item);
  } else if (item instanceof net.Server) {
    fd = descriptorOf(item);
  } else if (item instanceof dgram.Socket) {
    fd = descriptorOfDgram(item);
  } else {
    fd = Reflect.get(item, 'fd');
  }
  if (typeof fd === 'number' && fd >= 0) return fd;
  return noDescriptor(index, `${nameOf(item)} without a descriptor (closed, or not yet open)`);
}

function nameOf(item: object): string {
  const name = item.constructor.name;
  return /^[AEIOU]/.test(name) ? `an ${name}` : `a ${name}`;
}

function noDescriptor(index: number, got: string): never {
  throw unsendable(`fds[${index}]`, got);
}

function unsendable(name: string, got: string): TypeError {
  const message = `${name} must be a descriptor, or what holds one; it is ${got}; nothing was sent`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
}

/** A socket moves with all its bytes, or not at all. */
function checkMovable(socket: net.Socket, index: number): void {
  const reason = reasonToStay(socket);
  if (reason === undefined) return;
  const message = `fds[${index}], a socket, cannot move: ${reason}; nothing was sent, and it is as it was`;
  throw new FdpassError('ERR_FDPASS_UNREAD', message);
}

function reasonToStay(socket: net.Socket): string | undefined {
  if (Reflect.get(socket, 'encrypted') === true) return 'it is a TLS socket, whose keys are in this process';
  if (socket.destroyed) return 'it is destroyed';
  if (socket.connecting) return 'it is still connecting';
  if (hasHttpParser(socket)) return 'an HTTP server or client reads from it, and may have read what nobody has seen';
  if (socket.readableLength > 0) return `${socket.readableLength} bytes of it were read and nobody has taken them`;
  if (socket.writableEnded && !socket.writableFinished) return 'it was ended here, and that is still under way';
  const unwritten = socket.writableLength + unwrittenByHandle(socket);
  if (unwritten > 0) return `${unwritten} bytes of it are not yet written`;
  return undefined;
}

function move(socket: net.Socket): Moving {
  const readOn = stopReading(socket);
  return {
    gone: () => {
      socket.destroy();
    },
    stays: () => {
      if (!socket.destroyed) readOn();
    },
  };
}
