/**
 * 'fdpass/ws': WebSockets of the npm package `ws` move to a successor, open, between two messages.
 * Knows the inside of `ws` 8: it looks for each field that it needs, and leaves a connection alone where one is missing. Works with the
 * WebSocketServer that it is given, and loads `ws` itself for compressed ones alone. Source: lib/websocket.js, receiver.js and sender.js of ws 8.23; RFC 6455,
 * RFC 7692.
 */
import type { EventEmitter } from 'node:events';
import type http from 'node:http';
import { createRequire } from 'node:module';
import type net from 'node:net';

import { moveConnections } from './moving/hooks.js';

/** A WebSocketServer of `ws`, as far as it is public. */
export interface WebSocketServerLike<Socket extends EventEmitter = EventEmitter> extends EventEmitter {
  clients: Set<Socket>;
  options: object;
}

/** What the client asked for when it opened the WebSocket, in whichever process that was. */
export interface WebSocketRequest {
  url: string;
  headers: http.IncomingHttpHeaders;
}

/** What an application adds to the move of its WebSockets. */
export interface MovingWebSockets<Socket extends EventEmitter, State> {
  /** Tells several servers on one HTTP server apart; the same in both processes. Default: `ws` and the `path` of the WebSocketServer. */
  name?: string | undefined;
  /** Why this one cannot move now (a transaction); asked again some ms later. Undefined or '': it can. */
  busy?: ((socket: Socket) => string | undefined) | undefined;
  /**
   * It leaves: stop its timers, and say what the successor needs, in JSON. Send nothing more on it. It emits no 'close'; its `readyState`
   * is CLOSED from here on.
   */
  pause?: ((socket: Socket) => State) | undefined;
  /**
   * It has come: put your listeners on it, as in 'connection', which is not emitted. It is another object than the one that was paused,
   * and open. `state`: what `pause` said.
   */
  adopt: (socket: Socket, state: State, request: WebSocketRequest) => void;
}

/** What travels. */
interface Travelling {
  state: unknown;
  request: WebSocketRequest;
  protocol: string;
  binaryType: string;
  /** Parameters of permessage-deflate, where it was agreed on. */
  deflate: Record<string, unknown> | undefined;
}

/** The inside of a WebSocket of `ws`. */
interface Inside {
  _socket: unknown;
  _protocol: string;
  _extensions: Record<string, { params?: Record<string, unknown> | null }>;
  _readyState: number;
  _closeFrameSent: boolean;
  _closeFrameReceived: boolean;
  _isServer: boolean;
  _receiver: {
    _state: number;
    _bufferedBytes: number;
    _fragmented: number;
    _fragments: readonly unknown[];
    writableLength: number;
  };
  _sender: { _state: number; _bufferedBytes: number; _queue: readonly unknown[]; _firstFragment: boolean };
  binaryType: string;
  isPaused: boolean;
  readyState: number;
  setSocket(socket: net.Socket, head: Buffer, options: object): void;
  close(code: number, reason: string): void;
}

interface DeflateClass {
  new (options: object): { params?: Record<string, unknown> | null };
}

interface WebSocketClass {
  new (address: null, protocols: undefined, options: object): EventEmitter & Inside;
}

const DEFLATE = 'permessage-deflate'; // RFC 7692
const OPEN = 1;
const CLOSED = 3;
const SERVICE_RESTART = 1012; // the registry of RFC 6455, section 11.7
/** The listeners of `ws` on a socket, by the names of its functions. They go with it. */
const LISTENERS = { close: 'socketOnClose', data: 'socketOnData', end: 'socketOnEnd', error: 'socketOnError' } as const;

/**
 * Lets the WebSockets of this server move to a successor, and arrive here from a predecessor. Call it in every generation, before
 * ready().
 *
 * One moves between two messages, in either direction. Compressed ones move where both sides agreed on no context takeover; the others
 * cannot, and are closed with 1012 (Service Restart), as is whatever the successor does not take. They are counted in the drain's
 * report.
 *
 * @param server - The HTTP server whose upgrades `wss` handles.
 * @param wss - Its WebSocketServer, made with `server` or `noServer`.
 * @returns Dispose of it to let no more move.
 * @throws A TypeError: an argument. A RangeError: the name is taken.
 * @see docs/restarts.md; RFC 6455
 */
export function moveWebSockets<Socket extends EventEmitter, State = undefined>(
  server: http.Server,
  wss: WebSocketServerLike<Socket>,
  options: MovingWebSockets<Socket, State>,
): Disposable {
  check(wss, options);
  const path: unknown = Reflect.get(wss.options, 'path');
  const { name = `ws${typeof path === 'string' ? path : ''}` } = options;
  const known = new WeakMap<net.Socket, { socket: Socket; inside: Inside; request: WebSocketRequest }>();
  const note = (socket: Socket, request: WebSocketRequest): void => {
    const inside = socket as unknown as Inside;
    if (typeof inside._socket === 'object' && inside._socket !== null) {
      known.set(inside._socket as net.Socket, { socket, inside, request });
    }
  };
  const onConnection = (socket: Socket, request: http.IncomingMessage): void => {
    note(socket, { url: request.url ?? '/', headers: request.headers });
  };
  wss.prependListener('connection', onConnection);

  const registration = moveConnections<Travelling>(server, name, {
    owns: (transport) => known.has(transport),
    cannot: (transport) => {
      const found = known.get(transport);
      return found === undefined ? 'not known' : cannot(transport, found.inside);
    },
    busy: (transport) => {
      const found = known.get(transport);
      if (found === undefined) return undefined;
      return busy(found.inside) ?? options.busy?.(found.socket);
    },
    pause: (transport) => {
      const found = known.get(transport);
      if (found === undefined) throw new Error('not one of these WebSockets');
      const { socket, inside, request } = found;
      const state: unknown = options.pause?.(socket);
      const travelling: Travelling = {
        state,
        request,
        protocol: inside._protocol,
        binaryType: inside.binaryType,
        deflate: inside._extensions[DEFLATE]?.params ?? undefined,
      };
      known.delete(transport);
      detach(transport, inside);
      forget(wss, socket);
      return travelling;
    },
    adopt: (transport, { state, request, protocol, binaryType, deflate }) => {
      const socket = revive(wss, transport, { protocol, binaryType, deflate }) as unknown as Socket;
      note(socket, request);
      // JSON has no undefined: where there was no `pause` there is no state.
      options.adopt(socket, state as State, request);
    },
    stay: (transport) => {
      known.get(transport)?.inside.close(SERVICE_RESTART, 'Service Restart');
    },
  });
  return {
    [Symbol.dispose]: () => {
      registration[Symbol.dispose]();
      wss.off('connection', onConnection);
    },
  };
}

/** Why it never can. */
function cannot(transport: net.Socket, inside: Inside): string | undefined {
  if (!isKnownInside(inside) || ourListeners(transport) === undefined) return 'another ws than was expected';
  const { params } = inside._extensions[DEFLATE] ?? {};
  if (params === undefined || params === null) return undefined;
  const isFresh = params['server_no_context_takeover'] === true && params['client_no_context_takeover'] === true;
  if (!isFresh) return 'compressed with context takeover';
  return deflateClass() === undefined ? 'compressed, and ws does not say how' : undefined;
}

/** The class behind compressed ones. `ws` shows it to those who load it by require() alone. */
function deflateClass(): DeflateClass | undefined {
  try {
    const module = createRequire(import.meta.url)('ws') as { PerMessageDeflate?: DeflateClass };
    return module.PerMessageDeflate;
  } catch {
    return undefined; // not to be found from here: they are closed with 1012
  }
}

/** Why it cannot now: it stands in the middle of a frame or a message, or begins to close. */
function busy({ _receiver, _sender, ...inside }: Inside): string | undefined {
  if (inside._readyState !== OPEN || inside._closeFrameSent || inside._closeFrameReceived) return 'closing';
  const { _state, _bufferedBytes, _fragmented, _fragments, writableLength } = _receiver;
  if (_state + _bufferedBytes + _fragmented + _fragments.length + writableLength > 0) return 'half a message has come';
  if (_sender._state + _sender._bufferedBytes + _sender._queue.length > 0 || !_sender._firstFragment) return 'it sends';
  return undefined;
}

/** Each field that is used here is there, and of the type that ws 8 gives it. */
function isKnownInside(inside: Partial<Inside>): boolean {
  const { _receiver: receiver, _sender: sender } = inside;
  return (
    inside._isServer === true &&
    typeof inside._protocol === 'string' &&
    typeof inside._extensions === 'object' &&
    typeof inside._readyState === 'number' &&
    typeof inside._closeFrameSent === 'boolean' &&
    typeof inside._closeFrameReceived === 'boolean' &&
    typeof inside.setSocket === 'function' &&
    typeof receiver?._state === 'number' &&
    typeof receiver._bufferedBytes === 'number' &&
    typeof receiver._fragmented === 'number' &&
    typeof receiver.writableLength === 'number' &&
    Array.isArray(receiver._fragments) &&
    typeof sender?._state === 'number' &&
    typeof sender._bufferedBytes === 'number' &&
    typeof sender._firstFragment === 'boolean' &&
    Array.isArray(sender._queue)
  );
}

type Listeners = [event: string, listener: (...args: unknown[]) => void][];

/** The listeners of `ws` on this socket; undefined where they are not what they should be. */
function ourListeners(transport: net.Socket): Listeners | undefined {
  const found = Object.entries(LISTENERS).map(([event, name]) =>
    transport.listeners(event).flatMap((listener): Listeners => {
      return listener.name === name ? [[event, listener as (...args: unknown[]) => void]] : [];
    }),
  );
  return found.every((each) => each.length === 1) ? found.flat() : undefined;
}

/** The WebSocket lets go of its socket, and says nothing of it. */
function detach(transport: net.Socket, inside: Inside): void {
  for (const [event, listener] of ourListeners(transport) ?? []) transport.off(event, listener);
  transport.on('error', () => undefined); // of a socket that is about to be destroyed
  inside._readyState = CLOSED;
}

/** As `ws` does after 'close'. */
function forget<Socket extends EventEmitter>(wss: WebSocketServerLike<Socket>, socket: Socket): void {
  const clients = wss.clients as Set<Socket> | undefined; // there are none with clientTracking: false
  if (clients?.delete(socket) !== true || clients.size > 0 || Reflect.get(wss, '_shouldEmitClose') !== true) return;
  process.nextTick(() => wss.emit('close'));
}

/** A WebSocket of this server on a socket that was upgraded elsewhere. */
function revive<Socket extends EventEmitter>(
  wss: WebSocketServerLike<Socket>,
  transport: net.Socket,
  { protocol, binaryType, deflate }: Pick<Travelling, 'protocol' | 'binaryType' | 'deflate'>,
): EventEmitter & Inside {
  const options = wss.options as { WebSocket?: WebSocketClass; perMessageDeflate?: unknown; maxPayload?: number };
  const { WebSocket, perMessageDeflate, maxPayload = 0 } = options;
  if (WebSocket === undefined)
    throw new Error('the options of the WebSocketServer have no WebSocket: another ws than was expected');
  const socket = new WebSocket(null, undefined, options);
  if (typeof socket.setSocket !== 'function') throw new Error('another ws than was expected');
  socket._protocol = protocol;
  if (deflate !== undefined) {
    const PerMessageDeflate = deflateClass();
    if (PerMessageDeflate === undefined) throw new Error('ws does not show its PerMessageDeflate');
    const own = typeof perMessageDeflate === 'object' && perMessageDeflate !== null ? perMessageDeflate : {};
    const extension = new PerMessageDeflate({ ...own, isServer: true, maxPayload });
    extension.params = deflate;
    socket._extensions = { [DEFLATE]: extension };
  }
  socket.binaryType = binaryType;
  socket.setSocket(transport, Buffer.alloc(0), options);
  const clients = wss.clients as Set<Socket> | undefined;
  clients?.add(socket as unknown as Socket);
  socket.on('close', () => {
    forget(wss, socket as unknown as Socket);
  });
  return socket;
}

function check(wss: unknown, options: unknown): void {
  const isServer = typeof wss === 'object' && wss !== null && typeof Reflect.get(wss, 'options') === 'object';
  if (!isServer || typeof Reflect.get(wss, 'handleUpgrade') !== 'function') refuse('wss', 'a WebSocketServer of ws');
  if (typeof options !== 'object' || options === null || typeof Reflect.get(options, 'adopt') !== 'function') {
    refuse('options.adopt', 'a function');
  }
}

function refuse(what: string, expected: string): never {
  throw Object.assign(new TypeError(`The "${what}" argument must be ${expected}`), { code: 'ERR_INVALID_ARG_TYPE' });
}
