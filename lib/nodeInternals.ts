/**
 * What Node does not show in public and fdpass cannot do without: the descriptor behind a handle, what a handle has not yet written,
 * the switch of its reading, and where the HTTP/1 parsers of a server stand. The one file that looks there; it checks for each field,
 * and says which one is missing. Changes nothing but that switch. moving/selfTest.ts sees whether all of it works in this Node.
 * Source: lib/net.js, lib/dgram.js, lib/_http_server.js and src/node_http_parser.cc of Node 20 to 26.
 */
import type dgram from 'node:dgram';
import http from 'node:http';
import type net from 'node:net';

/** A handle of Node's, as far as it is needed here. */
interface Handle {
  fd?: unknown;
  writeQueueSize?: unknown;
  readStart?: unknown;
  readStop?: unknown;
}

/** What is missing in this Node. Code ENOTSUP, as for what a platform cannot do. */
function missing(what: string): Error {
  const message = `ENOTSUP: operation not supported: Node ${process.versions.node} has no ${what}, which fdpass needs here`;
  return Object.assign(new Error(message), { code: 'ENOTSUP', syscall: what });
}

/** The handle of a socket or server; undefined where it has none (closed, not yet connected or listening). */
function handleOf(owner: net.Socket | net.Server): Handle | undefined {
  const handle: unknown = Reflect.get(owner, '_handle');
  return typeof handle === 'object' && handle !== null ? handle : undefined;
}

function numberOf(handle: Handle, field: 'fd' | 'writeQueueSize'): number {
  const value = handle[field];
  if (typeof value !== 'number') throw missing(`_handle.${field}`);
  return value;
}

/**
 * The descriptor of a socket or a server, which stays Node's; -1 where it has none: closed, not yet connected or listening, or the
 * primary of a cluster has it.
 *
 * @throws ENOTSUP: this Node does not show it.
 */
export function descriptorOf(owner: net.Socket | net.Server): number {
  const handle = handleOf(owner);
  if (handle === undefined) return -1;
  if (!('fd' in handle) && !('readStart' in handle) && !('onconnection' in handle)) return -1; // a cluster worker's stand-in
  return numberOf(handle, 'fd');
}

/** The descriptor of a dgram socket, which stays Node's; -1 where it has none. @throws ENOTSUP: this Node does not show it. */
export function descriptorOfDgram(socket: dgram.Socket): number {
  // `_handle` is there, and warns that it is deprecated.
  const symbol = Object.getOwnPropertySymbols(socket).find(({ description }) => description === 'state symbol');
  const state: unknown = symbol === undefined ? undefined : Reflect.get(socket, symbol);
  if (typeof state !== 'object' || state === null || !('handle' in state)) throw missing('state of a dgram socket');
  const { handle } = state;
  if (typeof handle !== 'object' || handle === null) return -1;
  return numberOf(handle, 'fd');
}

/**
 * The descriptor of the channel to a parent that has forked this process; undefined where there is none, or it was closed. It came as
 * NODE_CHANNEL_FD, which Node takes off the environment before anybody can read it.
 */
export function channelDescriptor(): number | undefined {
  const fd: unknown = process.channel === undefined ? undefined : Reflect.get(process.channel, 'fd');
  return typeof fd === 'number' && fd >= 0 ? fd : undefined;
}

/** Bytes that libuv has taken from the socket and the kernel not from libuv. @throws ENOTSUP: this Node does not show it. */
export function unwrittenByHandle(socket: net.Socket): number {
  const handle = handleOf(socket);
  return handle === undefined ? 0 : numberOf(handle, 'writeQueueSize');
}

/** True where an HTTP parser reads straight from the handle: what it has read no stream tells of. */
export function hasHttpParser(socket: net.Socket): boolean {
  const parser: unknown = Reflect.get(socket, 'parser');
  return typeof parser === 'object' && parser !== null;
}

/**
 * Stops the handle from reading, in this very call: what has not been read stays in the kernel.
 *
 * @returns Lets it read on, where it did before.
 * @throws ENOTSUP: this Node does not show how.
 */
export function stopReading(socket: net.Socket): () => void {
  const handle = handleOf(socket);
  if (handle === undefined) return () => undefined;
  const { readStart, readStop } = handle;
  if (typeof readStart !== 'function' || typeof readStop !== 'function')
    throw missing('_handle.readStart and readStop');
  const wasReading = Reflect.get(handle, 'reading') === true;
  Reflect.apply(readStop, handle, []);
  Reflect.set(handle, 'reading', true); // so that nothing in the stream starts it again
  return () => {
    if (handleOf(socket) !== handle) return;
    Reflect.set(handle, 'reading', wasReading);
    if (wasReading) Reflect.apply(readStart, handle, []);
  };
}

/** Whether the body of a response goes out in chunks; undefined where this Node does not show it. */
export function isChunked(response: http.ServerResponse): boolean | undefined {
  const value: unknown = Reflect.get(response, 'chunkedEncoding');
  return typeof value === 'boolean' ? value : undefined;
}

/** Whether a response stands on this HTTP/1 connection that is not sent to its end. */
export function hasResponse(socket: net.Socket): boolean {
  const message: unknown = Reflect.get(socket, '_httpMessage');
  return message !== undefined && message !== null;
}

/**
 * Makes the socket one of the server's, as net's own accept does: getConnections() counts it, 'close' of the server waits for it, and
 * frameworks find `socket.server`. A server that has emitted 'close' counts no more: it would emit it again.
 */
export function setServer(socket: net.Socket, server: net.Server): void {
  Reflect.set(socket, 'server', server);
  const count: unknown = Reflect.get(server, '_connections');
  if (typeof count !== 'number' || (!server.listening && count === 0)) return;
  Reflect.set(server, '_connections', count + 1);
  Reflect.set(socket, '_server', server); // counts it down when it is destroyed
}

/**
 * The sockets that Node has a parser of HTTP/1 for: all; those whose parser stands between two requests, whatever their response
 * does; or those that Node itself would close as idle. Fresh ones, which have not sent a byte, are among the latter two on Node 26
 * alone. Upgraded ones are in none.
 *
 * Node looks them up in closeIdleConnections and closeAllConnections, in a list behind a symbol. These are called on a stand-in for
 * the server, which finds the list by what it can do, and shows Node an empty one: nothing is closed, and nothing touched.
 *
 * @returns Undefined where the server has not listened yet, or where this Node keeps its connections in another way.
 */
export function httpSockets(server: net.Server, which: 'all' | 'between' | 'idle'): Set<net.Socket> | undefined {
  let parsers: Parser[] | undefined;
  const standIn = new Proxy(server, {
    get(target, key) {
      const value: unknown = Reflect.get(target, key);
      if (typeof key !== 'symbol' || !isConnectionsList(value)) return value;
      const note = (found: Parser[]): Parser[] => {
        parsers = found;
        return [];
      };
      return { idle: () => note(value.idle()), all: () => note(value.all()) };
    },
  });
  const method = which === 'all' ? 'closeAllConnections' : 'closeIdleConnections';
  try {
    http.Server.prototype[method].call(standIn);
  } catch {
    return undefined;
  }
  if (parsers === undefined) return undefined;
  const sockets = parsers.flatMap(({ socket }) => socket ?? []);
  return new Set(which === 'idle' ? sockets.filter((socket) => !isAnswering(socket)) : sockets);
}

/** Why Node would pass over it: its response is not finished. */
function isAnswering(socket: net.Socket): boolean {
  const message: unknown = Reflect.get(socket, '_httpMessage');
  return typeof message === 'object' && message !== null && Reflect.get(message, 'finished') !== true;
}

interface Parser {
  socket: net.Socket | null | undefined;
}

interface ConnectionsList {
  idle(): Parser[];
  all(): Parser[];
}

function isConnectionsList(value: unknown): value is ConnectionsList {
  const list = value as Partial<ConnectionsList> | null | undefined;
  return typeof list?.idle === 'function' && typeof list.all === 'function';
}
