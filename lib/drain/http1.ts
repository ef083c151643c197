/**
 * HTTP/1: the announcement, which is `Connection: close` on the last response of a connection.
 * Puts an own `writeHead` on the responses of a server that drains, and delays requests by one turn of the event loop where more
 * bytes lie behind them. Closes nothing: after the announced response Node does. Knows nothing of time.
 * Source: RFC 9112 sections 9.3 and 9.6; lib/_http_server.js and lib/_http_outgoing.js of Node 20 to 26.
 */
import http from 'node:http';
import type net from 'node:net';

import { connectionOf, type ConnectionTracker, type TrackedConnection } from '../connections.js';
import { intercept } from '../intercept.js';
import { httpSockets } from '../nodeInternals.js';

/** What the announcer keeps of a connection. */
interface Progress {
  /**
   * `socket.bytesRead` as it is at the end of the last request that was read. Undefined: not known. A larger `bytesRead` means that
   * more has come behind it.
   */
  end: number | undefined;
  /** Requests that wait for the next turn of the loop. */
  delayed: number;
  /** The last response that was found, not told of. */
  found: http.ServerResponse | undefined;
  /** The response that says `Connection: close`. */
  announced: http.ServerResponse | undefined;
}

/** Announces the end on every HTTP/1 connection of one server, from its making until it is disposed of. */
export class Announcer implements Disposable {
  readonly #server: net.Server;
  readonly #tracker: ConnectionTracker;
  readonly #progress = new WeakMap<TrackedConnection, Progress>();
  readonly #interception: Disposable;
  readonly #mayAnnounce: (connection: TrackedConnection) => boolean;

  /** @param mayAnnounce - Whether the next response of this connection may be its last. Default: always. */
  constructor(tracker: ConnectionTracker, mayAnnounce: (connection: TrackedConnection) => boolean = () => true) {
    this.#server = tracker.server;
    this.#tracker = tracker;
    this.#mayAnnounce = mayAnnounce;
    for (const connection of tracker.connections) {
      for (const response of connection.responses) this.found(connection, response);
    }
    this.#interception = intercept(this.#server, (event, [request, response], pass) => {
      const isRequest = event === 'request' || event === 'checkContinue' || event === 'checkExpectation';
      if (!isRequest || !(request instanceof http.IncomingMessage)) return pass();
      return this.#dispatch(request, response as http.ServerResponse, pass);
    });
  }

  /**
   * Learns where every connection stands that was there before: then their responses cost no more than others. It takes a while where
   * there are thousands.
   */
  learn(): void {
    const tracker = this.#tracker;
    // Connections that came before the server was followed
    for (const socket of httpSockets(this.#server, 'all') ?? []) {
      if (connectionOf(socket)?.server !== this.#server) tracker.adopt(socket);
    }
    const between = httpSockets(this.#server, 'between');
    for (const connection of tracker.connections) {
      const { socket } = connection;
      const progress = this.#progressOf(connection);
      if (socket.bytesRead === 0 || between?.has(socket) === true) progress.end = socket.bytesRead;
    }
  }

  /** A connection that is new. */
  opened(connection: TrackedConnection): void {
    if (connection.socket.bytesRead === 0) this.#progressOf(connection).end = 0;
  }

  /** Whether the client of the connection was told that it ends. */
  hasAnnounced(connection: TrackedConnection): boolean {
    return this.#progress.get(connection)?.announced !== undefined;
  }

  /** A request whose head is complete; its event comes next. */
  requested(connection: TrackedConnection, request: http.IncomingMessage, response: http.ServerResponse): void {
    const progress = this.#progressOf(connection);
    const size = requestSize(request);
    progress.end = size === undefined || progress.end === undefined ? undefined : progress.end + size;
    this.#watch(connection, response);
  }

  /** A response whose request came before. What was parsed behind it is not known by name. */
  found(connection: TrackedConnection, response: http.ServerResponse): void {
    this.#progressOf(connection).found = response;
    this.#watch(connection, response);
  }

  [Symbol.dispose](): void {
    this.#interception[Symbol.dispose]();
  }

  #progressOf(connection: TrackedConnection): Progress {
    let progress = this.#progress.get(connection);
    if (progress === undefined) {
      progress = { end: undefined, delayed: 0, found: undefined, announced: undefined };
      this.#progress.set(connection, progress);
    }
    return progress;
  }

  /**
   * Node hands over a request before it has parsed what came behind it in the same packet. A handler that answers at once would
   * announce the end before the rest of a pipelined batch is seen, and the rest would be lost. So such a request waits until
   * everything that was read is parsed. One with nothing behind it, the usual one, does not wait.
   */
  #dispatch(request: http.IncomingMessage, response: http.ServerResponse, pass: () => boolean): boolean {
    const connection = connectionOf(request.socket);
    const progress = connection === undefined ? undefined : this.#progress.get(connection);
    if (progress === undefined) return pass();
    // Behind the announced one nothing may be processed: its response could not be sent, and the client will ask again elsewhere.
    const isVoid = (): boolean => progress.announced !== undefined && progress.announced !== response;
    const { bytesRead } = request.socket;
    const { end, delayed } = progress;
    const isUpload = Number(request.headers['content-length'] ?? 0) > 0;
    const isLast = end !== undefined && (bytesRead === end || (isUpload && bytesRead < end));
    if (isLast && delayed === 0) return isVoid() || pass();
    progress.delayed++;
    setImmediate(() => {
      progress.delayed--;
      if (!isVoid()) pass();
    });
    return true;
  }

  /** The decision falls when the headers are written: this is called for implicit headers too. */
  #watch(connection: TrackedConnection, response: http.ServerResponse): void {
    if (response.headersSent) return;
    const writeHead = Reflect.get(response, 'writeHead') as (...args: unknown[]) => http.ServerResponse;
    const announcing = (...args: unknown[]): http.ServerResponse => {
      const isFinal = Number(args[0]) >= 200;
      const mayAnnounce = isFinal && !response.headersSent && this.#mayAnnounce(connection);
      if (!mayAnnounce || !this.#isLast(connection, response)) {
        return writeHead.apply(response, args);
      }
      const result = writeHead.apply(response, withConnectionClose(response, args));
      this.#progressOf(connection).announced = response;
      return result;
    };
    response.writeHead = announcing;
  }

  /**
   * Whether nothing is known to come behind this response: no other request was read, not even half of one, and the body of its own
   * is here. (To end a connection in the middle of an upload resets it, and the client may never see the response.)
   */
  #isLast(connection: TrackedConnection, response: http.ServerResponse): boolean {
    if (connection.responses.at(-1) !== response) return false;
    const progress = this.#progressOf(connection);
    if (progress.found === response && connection.hasRequestBehind(response)) return false;
    const { bytesRead } = connection.socket;
    if (bytesRead === progress.end) return true;
    if (!response.req.complete) return false;
    // The count is lost, or counts in vain: the request is written in an unusual way, or more came. Node's parser knows.
    if (httpSockets(this.#server, 'between')?.has(connection.socket) !== true) return false;
    progress.end = bytesRead;
    return true;
  }
}

/**
 * The bytes of a request as nearly every client writes it, one space behind each colon; with its body.
 *
 * @returns Undefined for a chunked body. A client that writes otherwise makes the number wrong, never the announcement: see #isLast.
 */
export function requestSize(request: http.IncomingMessage): number | undefined {
  const { method = '', url = '', rawHeaders, headers } = request;
  if (headers['transfer-encoding'] !== undefined) return undefined;
  let size = method.length + url.length + 14; // "GET / HTTP/1.1\r\n" and the empty line
  for (const part of rawHeaders) size += part.length + 2; // ": ", and "\r\n"
  return size + Number(headers['content-length'] ?? 0);
}

/** The arguments of writeHead, in any of its forms, with `close` in place of what the user says of persistence. */
export function withConnectionClose(response: http.ServerResponse, args: readonly unknown[]): unknown[] {
  const index = typeof args[1] === 'string' || (args[2] !== undefined && args[2] !== null) ? 2 : 1;
  const headers = args[index];
  const given = response.getHeader('connection');
  if (typeof headers !== 'object' || headers === null) {
    response.removeHeader('keep-alive');
    response.setHeader('Connection', closeWith(given));
    return [...args];
  }
  const pairs = headerPairs(headers);
  const others = pairs.filter(([name]) => !/^(?:connection|keep-alive)$/i.test(name));
  const own = pairs.filter(([name]) => /^connection$/i.test(name)).map(([, value]) => value);
  if (response.hasHeader('keep-alive')) response.removeHeader('keep-alive');
  const all: [string, unknown][] = [...others, ['Connection', closeWith(own.length > 0 ? own : given)]];
  const isPairs = Array.isArray(headers) && Array.isArray(headers[0]);
  const written = isPairs ? all : Array.isArray(headers) ? all.flat() : Object.fromEntries(all);
  return [...args.slice(0, index), written];
}

/** An object, a flat list, or a list of pairs. */
function headerPairs(headers: object): [string, unknown][] {
  if (!Array.isArray(headers)) return Object.entries(headers);
  if (Array.isArray(headers[0])) return headers as [string, unknown][];
  const flat = headers as unknown[];
  return flat.flatMap((name, index) => (index % 2 === 0 ? [[String(name), flat[index + 1]] as [string, unknown]] : []));
}

/** `Upgrade`, beside a 426, stays. */
function closeWith(given: unknown): string {
  const values = Array.isArray(given) ? given : [given ?? ''];
  const tokens = values.flatMap((value) => String(value).split(',')).map((token) => token.trim());
  return ['close', ...tokens.filter((token) => token !== '' && !/^(?:close|keep-alive)$/i.test(token))].join(', ');
}
