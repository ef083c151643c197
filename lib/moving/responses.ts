/**
 * Responses that do not end, as Server-Sent Events: the client goes on reading one response, and the successor goes on writing it.
 * Made of hooks. Writes what HTTP/1.1 puts around the body itself, where the response began in another process.
 * Source: RFC 9112 section 7.1 (chunked); the HTML standard, section 9.2 (Server-Sent Events) for who uses it.
 */
import type http from 'node:http';
import type net from 'node:net';
import { Writable } from 'node:stream';

import { isChunked } from '../nodeInternals.js';
import { moveConnections } from './hooks.js';

/** How endless responses move. */
export interface MovingResponses<State> {
  /** Tells several kinds on one server apart; the same in both processes. Default: `responses`. */
  name?: string | undefined;
  /** Why it cannot move now; asked again some ms later. Undefined or '': it can. */
  busy?: ((response: Writable) => string | undefined) | undefined;
  /** It leaves: stop its timers, write nothing more, and say what the successor needs, in JSON. Its 'close' comes. */
  pause: (response: Writable) => State;
  /**
   * It has come: write on. A Writable of the body alone: its head is long out. end() ends the body, and the connection with it.
   * It emits 'close' when the client has gone.
   */
  adopt: (response: Writable, state: State) => void;
}

/** What {@link moveResponses} gives. */
export interface ResponseMover extends Disposable {
  /** This response may move, once its head is out: one that says no length. Others are waited for, as ever. */
  add(response: http.ServerResponse): void;
}

interface Travelling {
  state: unknown;
  chunked: boolean;
}

/** One that may move, and how its body is written. */
interface Known {
  response: Writable;
  isChunked(): boolean | undefined;
}

/**
 * Lets responses that do not end move to a successor, and arrive here from a predecessor. Call it in every generation, before ready().
 *
 * A request that its client sends behind the endless one, on the same connection, keeps it from moving where it has been read, and is
 * dropped with the connection where it has not.
 *
 * @returns `add` the responses that may move; dispose of it to take the hooks away.
 * @throws A TypeError: an argument. A RangeError: the name is taken.
 * @see docs/restarts.md; RFC 9112 section 7.1
 */
export function moveResponses<State = undefined>(server: http.Server, options: MovingResponses<State>): ResponseMover {
  const { name = 'responses', busy, pause, adopt } = options;
  const known = new WeakMap<net.Socket, Known>();
  const registration = moveConnections<Travelling>(server, name, {
    owns: (socket) => known.get(socket)?.response.writableEnded === false,
    cannot: (socket) => (known.get(socket)?.isChunked() === undefined ? 'its response has a length' : undefined),
    busy: (socket) => {
      const found = known.get(socket);
      if (found === undefined) return undefined;
      return found.response.writableLength > 0 ? 'it writes' : busy?.(found.response);
    },
    pause: (socket) => {
      const found = known.get(socket);
      if (found === undefined) throw new Error('not one of these responses');
      return { state: pause(found.response), chunked: found.isChunked() === true };
    },
    adopt: (socket, { state, chunked }) => {
      const response = new Continued(socket, chunked);
      known.set(socket, { response, isChunked: () => chunked });
      // JSON has no undefined: where `pause` says nothing there is no state.
      adopt(response, state as State);
    },
    stay: (socket) => {
      known.get(socket)?.response.end(); // the client asks again, and comes to the successor
    },
  });
  return {
    add(response) {
      const { socket } = response;
      if (socket === null) return; // it has been ended, or its client has gone
      const hasLength = (): boolean => response.hasHeader('content-length');
      known.set(socket, { response, isChunked: () => (hasLength() ? undefined : isChunked(response)) });
    },
    [Symbol.dispose]: () => {
      registration[Symbol.dispose]();
    },
  };
}

/** The rest of a body whose beginning was written elsewhere. */
class Continued extends Writable {
  readonly #socket: net.Socket;
  readonly #isChunked: boolean;

  constructor(socket: net.Socket, chunked: boolean) {
    super();
    this.#socket = socket;
    this.#isChunked = chunked;
    socket.on('error', () => undefined); // 'close' follows
    socket.on('close', () => this.destroy());
    socket.on('end', () => socket.end()); // the client has gone
    socket.resume(); // an end is only seen by one that reads
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    const socket = this.#socket;
    if (!this.#isChunked) {
      socket.write(chunk, callback);
      return;
    }
    if (chunk.length === 0) {
      callback(); // a chunk of no bytes would be the last
      return;
    }
    socket.cork();
    socket.write(`${chunk.length.toString(16)}\r\n`);
    socket.write(chunk);
    socket.write('\r\n', callback);
    socket.uncork();
  }

  override _final(callback: (error?: Error | null) => void): void {
    if (this.#isChunked) this.#socket.write('0\r\n\r\n');
    this.#socket.destroySoon(); // as Node ends a connection whose last response is out
    callback();
  }
}
