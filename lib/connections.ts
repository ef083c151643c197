/**
 * Which connections a server has, and what each of them does.
 * Listens to what Node tells in public: the events of servers and sessions, and diagnostics_channel. Leaves a mark on sockets, and
 * closes nothing. On import it begins to follow every server of this thread that starts to listen, so that a
 * server can be drained which never heard of fdpass.
 * Source: diagnostics_channel of Node 20 to 26; the states are those of Go's http.ConnState.
 */
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import http from 'node:http';
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2';
import net from 'node:net';
import type tls from 'node:tls';

/**
 * What a connection does. `new`: accepted, no request yet, or still in its TLS handshake. `active`: at least one request (HTTP/2:
 * stream) is not answered to its end; from when the head of the request is complete. `idle`: between two requests. `closed`:
 * gone, the last state. A raw net or tls connection, an upgraded one (WebSocket) and a CONNECT tunnel are `active` to their end.
 */
export type ConnectionState = 'new' | 'active' | 'idle' | 'closed';

/** One accepted connection. The object stays the same for its whole life. */
export interface Connection {
  readonly server: net.Server;
  /** The TLSSocket as soon as its handshake is done; the plain socket before, and without TLS. */
  readonly socket: net.Socket;
  readonly state: ConnectionState;
}

/** Called with the state that a connection has entered. What it throws is an uncaughtException. */
export type ConnectionStateListener = (state: ConnectionState, connection: Connection) => void;

/**
 * Calls the listener whenever a connection of the server changes its state, from now on: first with `new`, or with the next
 * change of one that is open already. Does not keep the process alive.
 *
 * @returns Dispose of it to end the calls.
 * @see docs/restarts.md; Go's http.ConnState has the same states
 */
export function onConnectionState(server: net.Server, listener: ConnectionStateListener): Disposable {
  return trackConnections(server).listen(listener);
}

/**
 * The connections that are open now, in no particular order. A snapshot.
 *
 * @see docs/restarts.md
 */
export function connectionsOf(server: net.Server): Connection[] {
  return [...trackConnections(server).connections];
}

/** Who drains wants to know more than the states. */
export interface ConnectionObserver {
  /** It is known now what is spoken, after the accept or the handshake. */
  opened(connection: TrackedConnection): void;
  requested(connection: TrackedConnection, request: http.IncomingMessage, response: http.ServerResponse): void;
  /** A response is being sent whose request came before the server was observed. */
  found(connection: TrackedConnection, response: http.ServerResponse): void;
  /** Every HTTP/1 request that was read has its response. */
  answered(connection: TrackedConnection): void;
  /** Node's HTTP/1 parser lets go of it. */
  upgraded(connection: TrackedConnection): void;
  closed(connection: TrackedConnection): void;
}

/** On a socket, or a stream of HTTP/2: its connection. */
const CONNECTION: unique symbol = Symbol('fdpass.connection');

interface Marked {
  [CONNECTION]?: TrackedConnection;
}

/** `handshake`: not known yet. `raw`: whatever the application speaks. */
export type Protocol = 'handshake' | 'http1' | 'http2' | 'raw';

export class TrackedConnection implements Connection {
  readonly tracker: ConnectionTracker;
  /** Where it stands in the tracker's list. */
  index: number;
  /** What was accepted; below TLS. */
  readonly transport: net.Socket;
  socket: net.Socket;
  protocol: Protocol = 'handshake';
  /**
   * The HTTP/1 responses that are not finished, in the order of their requests; while somebody observes. Of those whose requests came
   * before that, the one that is being sent.
   */
  readonly responses: http.ServerResponse[] = [];
  session: ServerHttp2Session | undefined;
  /** HTTP/2 streams that are open. */
  streams = 0;
  /** A WebSocket, or a CONNECT tunnel: Node's parser has let go of it. */
  upgraded = false;
  closed = false;
  wasActive = false;

  constructor(tracker: ConnectionTracker, transport: net.Socket, index: number) {
    this.tracker = tracker;
    this.index = index;
    this.transport = transport;
    this.socket = transport;
  }

  get server(): net.Server {
    return this.tracker.server;
  }

  get state(): ConnectionState {
    if (this.closed) return 'closed';
    if (this.responses.length > 0 || this.streams > 0 || this.upgraded || this.protocol === 'raw') return 'active';
    if (!this.tracker.isObserved && this.current !== undefined) return 'active';
    return this.wasActive || (this.protocol === 'http1' && this.socket.bytesRead > 0) ? 'idle' : 'new';
  }

  /**
   * The HTTP/1 response that is being sent. Not public; where this Node has no such field, nothing is known of a response until the
   * next request: a connection may seem idle, and only Node itself is asked whether it may be closed.
   */
  get current(): http.ServerResponse | undefined {
    const message: unknown = Reflect.get(this.socket, '_httpMessage');
    return this.protocol === 'http1' && message instanceof http.ServerResponse ? message : undefined;
  }

  /** Whether another request was parsed behind the one of this response, as Node's parser remembers it: not public; true where unknown. */
  hasRequestBehind(response: http.ServerResponse): boolean {
    const parser: unknown = Reflect.get(this.socket, 'parser');
    if (typeof parser !== 'object' || parser === null) return true;
    return Reflect.get(parser, 'incoming') !== response.req;
  }
}

/** All that is known of one server's connections. */
export class ConnectionTracker {
  /** In no order. A Set, and a WeakMap in place of CONNECTION, would make each connection a tenth dearer. */
  readonly connections: TrackedConnection[] = [];
  readonly observers: Set<ConnectionObserver> = new Set();
  readonly #listeners = new Set<ConnectionStateListener>();
  readonly server: net.Server;
  /** How many were accepted so far. */
  accepted = 0;
  readonly kind: ServerKind;
  /** The one whose event is being emitted: how a session is told to which connection it belongs. */
  #current: TrackedConnection | undefined;

  constructor(server: net.Server) {
    this.server = server;
    this.kind = kindOf(server);
    server.prependListener('connection', (socket) => {
      this.#accepted(socket);
    });
    if (this.kind.tls) {
      server.prependListener('secureConnection', (socket: tls.TLSSocket) => {
        this.#secured(socket);
      });
    }
    if (this.kind.http2) {
      server.prependListener('session', (session: ServerHttp2Session) => {
        this.#sessionBegan(session);
      });
    }
    if (this.kind.http1) this.#followUpgrades();
  }

  /** Whether requests and responses are followed. It costs every request a little, so only while somebody looks. */
  get isObserved(): boolean {
    return this.#listeners.size + this.observers.size > 0;
  }

  listen(listener: ConnectionStateListener): Disposable {
    const entry: ConnectionStateListener = (state, connection) => {
      listener(state, connection);
    };
    return this.#enlist(this.#listeners, entry);
  }

  observe(observer: ConnectionObserver): Disposable {
    return this.#enlist(this.observers, observer);
  }

  #enlist<Who>(set: Set<Who>, who: Who): Disposable {
    if (!this.isObserved) {
      if (this.kind.http1) followRequests(1);
      for (const connection of this.connections) this.#find(connection);
    }
    set.add(who);
    return {
      [Symbol.dispose]: () => {
        if (!set.delete(who) || this.isObserved) return;
        if (this.kind.http1) followRequests(-1);
        for (const { responses } of this.connections) responses.length = 0;
      },
    };
  }

  /** Looks for a response that no channel has told of. */
  #find(connection: TrackedConnection): http.ServerResponse | undefined {
    const { current } = connection;
    if (current === undefined || connection.responses.includes(current)) return undefined;
    connection.responses.unshift(current);
    connection.wasActive = true;
    return current;
  }

  /** A socket that nobody has told of: it was accepted before this server was followed, or comes from another process. */
  adopt(socket: net.Socket, upgraded = false): TrackedConnection {
    const connection = this.#add(socket);
    connection.socket = socket;
    connection.upgraded = upgraded;
    if (upgraded) this.#enter(connection, 'active');
    this.#speaks(connection, this.kind.http1 ? 'http1' : 'raw');
    return connection;
  }

  requestStarted(connection: TrackedConnection, { request, response }: HttpMessage): void {
    connection.responses.push(response);
    if (connection.responses.length === 1) this.#enter(connection, 'active');
    for (const observer of this.observers) observer.requested(connection, request, response);
  }

  responseFinished(connection: TrackedConnection, { response }: HttpMessage): void {
    const { responses } = connection;
    const index = responses.indexOf(response);
    if (index >= 0) responses.splice(index, 1);
    if (responses.length > 0) return;
    // Node sends the next response, or ends the connection where this was its last, after it has told of it
    process.nextTick(() => {
      if (connection.closed || connection.responses.length > 0 || connection.socket.writableEnded) return;
      const next = this.#find(connection);
      if (next === undefined) this.#tell(connection, 'idle');
      for (const observer of this.observers) {
        if (next === undefined) observer.answered(connection);
        else observer.found(connection, next);
      }
    });
  }

  ended(connection: TrackedConnection): void {
    connection.closed = true;
    const last = this.connections.pop();
    if (last !== undefined && last !== connection) {
      this.connections[connection.index] = last;
      last.index = connection.index;
    }
    this.#enter(connection, 'closed');
    for (const observer of this.observers) observer.closed(connection);
  }

  streamEnded(connection: TrackedConnection): void {
    connection.streams--;
    if (connection.streams === 0 && !connection.closed) this.#enter(connection, 'idle');
  }

  #accepted(socket: net.Socket): void {
    const connection = this.#add(socket);
    this.accepted++;
    this.#current = connection;
    if (this.kind.tls || this.kind.http2) return; // 'secureConnection' or 'session' comes
    this.#speaks(connection, this.kind.http1 ? 'http1' : 'raw');
  }

  #secured(socket: tls.TLSSocket): void {
    // What a TLSSocket lies upon is not public. Without it the pair would be two connections, the lower one in a handshake for ever.
    const parent: unknown = Reflect.get(socket, '_parent');
    const connection = (parent instanceof net.Socket ? connectionOf(parent) : undefined) ?? this.#add(socket);
    connection.socket = socket;
    (socket as Marked)[CONNECTION] = connection;
    this.#current = connection;
    // http2's secure server decides by ALPN, in the listener behind this one: a session, or HTTP/1 where that is allowed
    const isHttp2 = this.kind.http2 && socket.alpnProtocol !== false && socket.alpnProtocol !== 'http/1.1';
    if (!isHttp2) this.#speaks(connection, this.kind.http1 ? 'http1' : 'raw');
  }

  #sessionBegan(session: ServerHttp2Session): void {
    const connection = this.#current;
    if (connection === undefined) return;
    this.#current = undefined;
    connection.session = session;
    session.prependListener('stream', (stream: ServerHttp2Stream) => {
      connection.streams++;
      if (connection.streams === 1) this.#enter(connection, 'active');
      (stream as Marked)[CONNECTION] = connection;
      stream.on('close', onStreamClose);
    });
    this.#speaks(connection, 'http2');
  }

  #add(socket: net.Socket): TrackedConnection {
    const connection = new TrackedConnection(this, socket, this.connections.length);
    this.connections.push(connection);
    (socket as Marked)[CONNECTION] = connection;
    socket.on('close', onSocketClose);
    this.#tell(connection, 'new');
    return connection;
  }

  #speaks(connection: TrackedConnection, protocol: Protocol): void {
    connection.protocol = protocol;
    if (protocol === 'raw') this.#enter(connection, 'active');
    for (const observer of this.observers) observer.opened(connection);
  }

  /** An upgrade has no channel, and a listener of ours alone would make the server accept upgrades: it stands beside the user's. */
  #followUpgrades(): void {
    const { server } = this;
    for (const event of ['upgrade', 'connect']) {
      const follow = (request: http.IncomingMessage): void => {
        const connection = connectionOf(request.socket);
        if (connection === undefined) return;
        connection.upgraded = true;
        if (connection.responses.length === 0) this.#enter(connection, 'active');
        for (const observer of this.observers) observer.upgraded(connection);
      };
      let stands = server.listenerCount(event) > 0;
      if (stands) server.prependListener(event, follow);
      server.on('newListener', (added: string | symbol) => {
        if (added !== event || stands) return;
        stands = true;
        server.prependListener(event, follow);
      });
      server.on('removeListener', (removed: string | symbol, listener: unknown) => {
        if (removed !== event || !stands) return;
        if (listener === follow) stands = false;
        else if (server.listenerCount(event) === 1) server.off(event, follow);
      });
    }
  }

  #enter(connection: TrackedConnection, state: ConnectionState): void {
    if (state === 'active') connection.wasActive = true;
    this.#tell(connection, state);
  }

  #tell(connection: TrackedConnection, state: ConnectionState): void {
    for (const listener of this.#listeners) listener(state, connection);
  }
}

/** What a server speaks. */
export interface ServerKind {
  tls: boolean;
  http1: boolean;
  http2: boolean;
}

/** http2 does not export its classes; `updateSettings` is theirs alone, as `setSecureContext` is that of TLS. Its secure server may speak HTTP/1 as well. */
function kindOf(server: net.Server): ServerKind {
  const isTls = typeof Reflect.get(server, 'setSecureContext') === 'function';
  const isHttp2 = typeof Reflect.get(server, 'updateSettings') === 'function';
  // Not imported: https brings tls and crypto, and a program that has no TLS server would start later for them
  const isHttps = isTls && server instanceof process.getBuiltinModule('node:https').Server;
  const isHttp1 = server instanceof http.Server || isHttps;
  return { tls: isTls, http1: isHttp1 || (isHttp2 && isTls), http2: isHttp2 };
}

const trackers = new WeakMap<net.Server, ConnectionTracker>();

/** One function for all sockets: a connection costs no closure. */
function onSocketClose(this: net.Socket): void {
  const connection = connectionOf(this);
  if (connection?.transport === this) connection.tracker.ended(connection);
}

function onStreamClose(this: ServerHttp2Stream): void {
  const connection = connectionOf(this);
  connection?.tracker.streamEnded(connection);
}

/** Follows the server's connections from now on. A second call does nothing more. */
export function trackConnections(server: net.Server): ConnectionTracker {
  const known = trackers.get(server);
  if (known !== undefined) return known;
  const tracker = new ConnectionTracker(server);
  trackers.set(server, tracker);
  return tracker;
}

/** The connection that a socket, or a stream of HTTP/2, belongs to, where its server is followed. */
export function connectionOf(thing: object): TrackedConnection | undefined {
  return (thing as Marked)[CONNECTION];
}

interface HttpMessage {
  request: http.IncomingMessage;
  response: http.ServerResponse;
  socket: net.Socket;
  server: net.Server;
}

subscribe('tracing:net.server.listen:asyncStart', (message) => {
  trackConnections((message as { server: net.Server }).server);
});

// Both channels tell of checkContinue and checkExpectation too, which the event 'request' does not.
function onRequestStart(message: unknown): void {
  const event = message as HttpMessage;
  const tracker = trackers.get(event.server);
  if (tracker?.isObserved !== true) return;
  const known = connectionOf(event.socket);
  tracker.requestStarted(known?.tracker === tracker ? known : tracker.adopt(event.socket), event);
}

function onResponseFinish(message: unknown): void {
  const event = message as HttpMessage;
  const known = connectionOf(event.socket);
  if (known?.server === event.server && known.tracker.isObserved) known.tracker.responseFinished(known, event);
}

let followed = 0;

/** One server more, or one less, whose requests are followed. The channels are the whole process's. */
function followRequests(change: 1 | -1): void {
  const before = followed;
  followed += change;
  if (before === 0) {
    subscribe('http.server.request.start', onRequestStart);
    subscribe('http.server.response.finish', onResponseFinish);
  } else if (followed === 0) {
    unsubscribe('http.server.request.start', onRequestStart);
    unsubscribe('http.server.response.finish', onResponseFinish);
  }
}
