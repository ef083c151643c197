/**
 * HTTP/1.1 connections between two requests: whether one can move, and its life after it has arrived.
 * Makes sockets of descriptors and gives them to servers; destroys those that stay idle too long. Source: lib/_http_server.js of Node
 * 20 to 26; MOVING in docs/restarts.md.
 */
import http from 'node:http';
import net from 'node:net';

import type { TrackedConnection } from '../connections.js';
import { descriptorOf, hasResponse, httpSockets, setServer, unwrittenByHandle } from '../nodeInternals.js';
import * as raw from '../raw.js';

/**
 * What a connection can do: `go` now; `wait` for the end of its request; be looked at `again`, some ms later; or it ends by itself
 * (`ends`), and is nobody's business.
 */
export type Verdict = 'go' | 'wait' | 'again' | 'ends';

/**
 * The connections of one server that stand between two requests, at this moment. The list is Node's, and as long as the server has
 * connections: so it is not asked again for those that it named before, and that have read nothing since.
 */
export class Between {
  readonly #server: net.Server;
  /** What each had read when the list named it. */
  #named = new WeakMap<net.Socket, number>();
  #isAsked = false;

  constructor(server: net.Server) {
    this.#server = server;
  }

  /** Whether the parser has seen nothing of a next request. Fresh ones are not told of on Node 20 to 24. */
  has({ socket }: TrackedConnection): boolean {
    const { bytesRead } = socket;
    if (bytesRead === 0 || this.#named.get(socket) === bytesRead) return true;
    if (this.#isAsked) return false;
    this.#isAsked = true;
    for (const each of httpSockets(this.#server, 'between') ?? []) this.#named.set(each, each.bytesRead);
    return this.#named.get(socket) === bytesRead;
  }

  /** Something may have been read since the last question. */
  newTurn(): void {
    this.#isAsked = false;
  }
}

/** Whether this HTTP/1 connection, not upgraded, can move. Only in the tick of the question: the next event may bring a request. */
export function verdictOf(connection: TrackedConnection, between: Between): Verdict {
  const { socket } = connection;
  if (isEnding(socket)) return 'ends';
  if (connection.state === 'active' || hasResponse(socket) || !between.has(connection)) return 'wait';
  if (hasUnwritten(socket) || socket.readableLength > 0) return 'again';
  return 'go';
}

/** Whether one side has said, or seen, the end. */
export function isEnding(socket: net.Socket): boolean {
  return socket.destroyed || socket.readableEnded || socket.writableEnded || descriptorOf(socket) < 0;
}

/** Whether bytes wait here that the kernel has not taken. */
export function hasUnwritten(socket: net.Socket): boolean {
  return socket.writableLength > 0 || unwrittenByHandle(socket) > 0;
}

/** A duplicate, close-on-exec, at a number that libuv will close. The caller's. */
export function dupOf(socket: net.Socket): number {
  return raw.dup(descriptorOf(socket), 3);
}

/**
 * A socket of a descriptor, which belongs to it from here on, in every case.
 *
 * @throws What Node says of a descriptor that it cannot take; it is closed then.
 */
export function openSocket(server: net.Server, fd: number): net.Socket {
  const allowHalfOpen = Reflect.get(server, 'allowHalfOpen') === true; // true of every http server
  let socket: net.Socket;
  try {
    socket = new net.Socket({ fd, readable: true, writable: true, allowHalfOpen });
  } catch (error) {
    raw.close(fd);
    throw error;
  }
  setServer(socket, server);
  return socket;
}

/**
 * Gives the server a connection that it did not accept. It reads from here on.
 *
 * @param isUsed - Its client has been answered before: the keep-alive time-out runs, afresh.
 */
export function adoptHttp(server: net.Server, fd: number, isUsed: boolean): net.Socket {
  const socket = openSocket(server, fd);
  if (isUsed) waitingSince(socket, server, performance.now());
  server.emit('connection', socket);
  return socket;
}

/** Whether its client has been answered before, here or by a predecessor. */
export function isUsed(socket: net.Socket): boolean {
  return socket.bytesRead > 0 || waiting.has(socket);
}

// ---- The keep-alive time-out of connections that have arrived and not spoken since: Node starts it with an answer ----------

/** ms of performance.now(): since when; and whose. */
const waiting = new Map<net.Socket, { since: number; server: net.Server }>();
const LOOK = 500; // ms; a time-out is later by this at most
let timer: NodeJS.Timeout | undefined;

function waitingSince(socket: net.Socket, server: net.Server, since: number): void {
  waiting.set(socket, { since, server });
  socket.once('close', () => waiting.delete(socket));
  lookLater();
}

function lookLater(): void {
  if (timer !== undefined || waiting.size === 0) return;
  timer = setTimeout(() => {
    // Not now: first what waits in the kernel is read, and a request among it wins.
    setImmediate(() => {
      timer = undefined;
      look();
      lookLater();
    });
  }, LOOK).unref();
}

function look(): void {
  const now = performance.now();
  for (const [socket, { since, server }] of waiting) {
    if (socket.bytesRead > 0 || isEnding(socket)) {
      waiting.delete(socket); // Node's own time-outs run from the first byte on
      continue;
    }
    const { keepAliveTimeout, headersTimeout, requestTimeout } = timesOf(server);
    if (keepAliveTimeout > 0 && now - since >= keepAliveTimeout) {
      socket.destroy();
      continue;
    }
    // Node counts from the arrival until the head of a request is here, and would answer 408. A new arrival starts it afresh.
    const limit = Math.min(headersTimeout || Infinity, requestTimeout || Infinity);
    const { opened = since } = openings.get(socket) ?? {};
    if (now - opened < limit / 2 || hasUnwritten(socket)) continue;
    const fd = dupOf(socket);
    waiting.delete(socket);
    socket.destroy();
    const again = openSocket(server, fd);
    openings.set(again, { opened: now });
    waitingSince(again, server, since);
    server.emit('connection', again);
  }
}

/** When this process made the socket, where that is not when it began to wait. ms */
const openings = new WeakMap<net.Socket, { opened: number }>();

function timesOf(server: net.Server): { keepAliveTimeout: number; headersTimeout: number; requestTimeout: number } {
  if (!(server instanceof http.Server)) return { keepAliveTimeout: 0, headersTimeout: 0, requestTimeout: 0 };
  const { keepAliveTimeout, headersTimeout, requestTimeout } = server;
  return { keepAliveTimeout, headersTimeout, requestTimeout };
}
