/**
 * Attaching a server of Node's own kinds to a descriptor: start, pause, resume, release, without its user noticing.
 * Opens and closes the server's accept loop, and closes a descriptor that the server did not take. Knows nothing of Listeners.
 * Node's public interface alone, apart from `_listen2` in a cluster worker. Source: lib/net.js and lib/_http_server.js of Node 20 to 26.
 */
import cluster from 'node:cluster';
import dgram from 'node:dgram';
import fs from 'node:fs';
import net from 'node:net';
import { inspect } from 'node:util';

import { trackConnections } from './connections.js';
import { Deferred } from './deferred.js';
import { FdpassError } from './errors.js';
import { intercept, shadow } from './intercept.js';

/** A server that accepts connections: net, tls, http, https, http2 (secure and clear text). All of them are net.Servers. */
export type StreamServer = net.Server;

/** What a Listener can serve. */
export type Servable = StreamServer | dgram.Socket;

/**
 * What a {@link Serving} does. `attached`: knows its server, does not accept yet. `released`: final; the last connections of
 * the server may still live.
 */
export type ServingState = 'attached' | 'accepting' | 'paused' | 'released';

export interface ServingOptions {
  /** A fresh, close-on-exec descriptor of the listening socket; it is the server's from then on. Called once for each start and resume. */
  dup(): number;
  /** The length of the kernel's queue, second argument of listen(2). */
  backlog: number;
  /** The type of the socket, checked against the server. */
  type?: 'stream' | 'dgram' | 'seqpacket' | undefined;
  /** How errors name the socket: `listener "web", 0.0.0.0:8080`. */
  label?: string | undefined;
}

/**
 * One server on one listening socket.
 *
 * A pause is invisible to the server's listeners: 'close' does not come for it, nor a second 'listening' for the resume.
 * `server.close()` by the user works at any time: it releases. `server.listening` is false during a pause.
 */
export class Serving {
  readonly server: Servable;
  readonly #options: ServingOptions;
  readonly #loop: AcceptLoop | Datagrams;

  /**
   * Attaches; does not start.
   *
   * @throws An Error of code ERR_SERVER_ALREADY_LISTEN: the server listens, or is attached to a listener.
   * {@link FdpassError} `ERR_FDPASS_TYPE`: it cannot take this kind of socket, or is no server. ENOTSUP: seqpacket, which none can take.
   */
  constructor(server: Servable, options: ServingOptions) {
    checkType(server, options);
    const current = servings.get(server);
    if (current !== undefined && current.state !== 'released') {
      throw alreadyListening(
        'The server is attached to a listener already; release it there, or serve another one',
        options,
      );
    }
    if (isListening(server)) {
      throw alreadyListening('The server listens already; serve one that does not listen by itself', options);
    }
    this.server = server;
    this.#options = options;
    if (server instanceof net.Server) {
      trackConnections(server);
      this.#loop = acceptLoopOf(server);
    } else {
      this.#loop = new Datagrams(server);
    }
    servings.set(server, this);
  }

  /** A server that its user closed is `released`. */
  get state(): ServingState {
    return this.#loop.state;
  }

  /**
   * Begins to accept. A second call is the same promise; where the server was released in the meantime nothing happens.
   *
   * @returns Resolves when the server has emitted 'listening'. Rejects with the system's error, of which the server emits nothing;
   * the descriptor is closed then.
   */
  start(): Promise<void> {
    if (this.#loop.state === 'attached') return this.#open();
    return this.#loop.opened;
  }

  /**
   * Stops accepting; every connection lives on. Does nothing unless it accepts.
   *
   * @throws An Error of code ENOTSUP for a dgram socket, which cannot be stopped without losing its address.
   */
  pause(): void {
    if (this.#loop instanceof Datagrams) {
      throw Object.assign(new Error(this.#text('ENOTSUP: operation not supported, pause of a dgram socket')), {
        code: 'ENOTSUP',
        syscall: 'pause',
      });
    }
    this.#loop.pause();
  }

  /** Accepts again after {@link pause}; does nothing otherwise. Resolves and rejects as {@link start}; after a failure it is paused still. */
  resume(): Promise<void> {
    if (this.#loop instanceof Datagrams || this.#loop.state !== 'paused' || this.#loop.staysOpen())
      return this.#loop.opened;
    return this.#open();
  }

  /**
   * Final: stops accepting, and leaves connections in peace. 'close' comes when the last of them is gone. A dgram socket is
   * closed. Does nothing when released already.
   */
  release(): void {
    this.#loop.release();
  }

  #open(): Promise<void> {
    const { backlog, label } = this.#options;
    return this.#loop.open(this.#options.dup(), backlog).catch((error: unknown) => {
      if (label !== undefined && error instanceof Error) error.message = this.#text(error.message);
      throw error;
    });
  }

  #text(message: string): string {
    const { label } = this.#options;
    return label === undefined ? message : `${message} (${label})`;
  }
}

const servings = new WeakMap<Servable, Serving>();

/** The Serving that the server was last attached by. */
export function servingOf(server: Servable): Serving | undefined {
  return servings.get(server);
}

/**
 * Stops accepting for good, whether the server is attached or listens by itself. As {@link Serving.release}; a server that never
 * listened is left as it is.
 */
export function stopAccepting(server: Servable): void {
  const serving = servings.get(server);
  if (serving !== undefined && serving.state !== 'released') serving.release();
  else if (!isListening(server)) return;
  else if (server instanceof net.Server) acceptLoopOf(server).release();
  else server.close();
}

/** Whether the server has a socket that it accepts from, or is bound to. */
export function isListening(server: Servable): boolean {
  if (server instanceof net.Server) return server.listening;
  try {
    server.address();
    return true;
  } catch {
    return false; // EBADF: not bound; ERR_SOCKET_DGRAM_NOT_RUNNING: closed
  }
}

type Phase = 'attached' | 'opening' | 'open' | 'paused' | 'released' | 'closed';

const loops = new WeakMap<net.Server, AcceptLoop>();

function acceptLoopOf(server: net.Server): AcceptLoop {
  const known = loops.get(server);
  if (known !== undefined && known.state !== 'released') return known;
  const loop = new AcceptLoop(server);
  loops.set(server, loop);
  return loop;
}

/** Opens and shuts the accept loop of one server, and decides which 'listening', 'error' and 'close' its user gets to see. */
class AcceptLoop {
  opened: Promise<void> = Promise.resolve();
  readonly #server: net.Server;
  #phase: Phase;
  /** Where a failure leads back to. */
  #before: 'attached' | 'paused' = 'attached';
  /** The user has seen 'listening'. */
  #announced: boolean;
  #waiting: Deferred<void> | undefined;
  /** The turn in which the socket will be closed. */
  #shutting: NodeJS.Immediate | undefined;
  /** What stands over the server's own properties now; nothing in the phase `open`, but for its first tick. */
  readonly #cover: (() => void)[] = [];

  constructor(server: net.Server) {
    this.#server = server;
    this.#phase = server.listening ? 'open' : 'attached';
    this.#announced = server.listening;
    server.prependListener('close', this.#onClose);
    if (this.#phase !== 'open') this.#coverServer();
  }

  get state(): ServingState {
    switch (this.#phase) {
      case 'attached':
      case 'paused':
        return this.#phase;
      case 'opening':
        return this.#server.listening ? 'accepting' : this.#before; // about to fail
      case 'open':
        return this.#server.listening ? 'accepting' : 'released'; // the user closed it
      default:
        return 'released';
    }
  }

  open(fd: number, backlog: number): Promise<void> {
    this.#coverServer();
    this.#before = this.#phase === 'paused' ? 'paused' : 'attached';
    this.#phase = 'opening';
    this.#waiting = new Deferred();
    this.opened = this.#waiting.promise;
    try {
      listenOn(this.#server, fd, backlog);
    } catch (error) {
      this.#fail(error);
    }
    return this.opened;
  }

  pause(): void {
    if (this.state !== 'accepting') return;
    this.#coverServer();
    this.#phase = 'paused';
    this.#settle();
    this.#shut();
  }

  /** Takes a pause back that has not reached the socket. */
  staysOpen(): boolean {
    if (this.#phase !== 'paused' || !this.#shutting) return false;
    clearImmediate(this.#shutting);
    this.#shutting = undefined;
    this.#phase = this.#announced ? 'open' : 'opening';
    this.#uncoverSoon();
    return true;
  }

  release(): void {
    if (this.state === 'released') return; // also where the user closed it: 'close' has come, or will
    this.#phase = 'released';
    this.#settle();
    this.#coverServer();
    this.#shut(); // once more after a pause: Node emits 'close' at the end of the last connection, or now if none is left
  }

  #shut(): void {
    if (!LEAVES_STALE_EVENTS) {
      shut(this.#server);
      return;
    }
    this.#shutting ??= setImmediate(() => {
      this.#shutting = undefined;
      if (this.#phase === 'paused' || this.#phase === 'released') shut(this.#server);
    });
  }

  /** The user's own close(). In the phase `open` they call Node's, without a detour. */
  #close(close: (callback?: (error?: Error) => void) => unknown, callback: unknown): unknown {
    const was = this.#phase;
    if (this.#cover.length === 0 || was === 'closed') return close(callback as () => void); // somebody kept hold of this function
    this.#phase = 'released';
    this.#settle();
    const isStopped = !this.#server.listening && was !== 'attached';
    if (!isStopped || typeof callback !== 'function') return close(callback as () => void);
    // Node would call back with ERR_SERVER_NOT_RUNNING, though the user never closed the server
    this.#server.once('close', () => {
      (callback as () => void)();
    });
    return close();
  }

  readonly #onEvent = (event: string | symbol, args: unknown[], pass: () => boolean): boolean => {
    switch (event) {
      case 'listening': {
        const isOver = this.#phase === 'released' || this.#phase === 'closed';
        if (isOver && this.#shutting === undefined) return pass(); // the user's own listen
        if (this.#phase === 'opening') this.#phase = 'open';
        const first = !this.#announced;
        this.#announced = true;
        try {
          return first ? pass() : true;
        } finally {
          this.#settle();
          this.#uncoverSoon();
        }
      }
      case 'error': {
        const [error] = args;
        if (this.#phase !== 'opening' || this.#server.listening) return pass();
        this.#fail(error);
        return true;
      }
      case 'close':
        return this.#phase === 'released' ? pass() : true; // of a pause; or a second one
      default:
        return pass();
    }
  };

  /** The first 'close' that the user gets to see. */
  readonly #onClose = (): void => {
    if (this.#phase === 'closed') return;
    const was = this.#phase;
    this.#phase = 'closed';
    const server = this.#server;
    server.off('close', this.#onClose);
    if (was !== 'released') return; // Node's own close(), from the phase `open`: nothing is covered
    for (const restore of this.#cover.splice(1)) restore();
    // Only http's own close() stops the timer that looks for requests that take too long. Nothing is left for it to close, apart
    // from connections that came by another way than accept.
    if (hasIdleConnections(server)) {
      const restore = shadow(server, 'closeIdleConnections', () => undefined);
      try {
        server.close();
      } finally {
        restore();
      }
    }
    // a 'close' that is queued already belongs to the same end; one that is queued later does not
    process.nextTick(() => {
      this.#uncoverServer();
    });
  };

  #settle(): void {
    this.#waiting?.resolve();
    this.#waiting = undefined;
  }

  #fail(error: unknown): void {
    this.#phase = this.#before;
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }

  #coverServer(): void {
    if (this.#cover.length > 0) return;
    const server = this.#server;
    const interception = intercept(server, this.#onEvent);
    const close = (callback?: unknown): unknown => this.#close((...args) => original.apply(server, args), callback);
    const restoreClose = shadow(server, 'close', close);
    const original = restoreClose.previous as (...args: unknown[]) => unknown;
    const dispose = (): Promise<void> =>
      new Promise((resolve, reject) => {
        server.close((error) => {
          if (error === undefined || (error as NodeJS.ErrnoException).code === 'ERR_SERVER_NOT_RUNNING') resolve();
          else reject(error);
        });
      });
    this.#cover.push(
      () => {
        interception[Symbol.dispose]();
      },
      restoreClose,
      shadow(server, Symbol.asyncDispose, dispose),
    );
  }

  /** Not at once: there may be the 'listening' of an earlier start in the queue, the 'close' of a pause behind it, and so on. */
  #uncoverSoon(): void {
    process.nextTick(() => {
      if (this.#phase === 'open') this.#uncoverServer();
    });
  }

  #uncoverServer(): void {
    for (const restore of this.#cover.splice(0)) restore();
  }
}

/** A dgram socket has one life: bound, then closed. */
class Datagrams {
  opened: Promise<void> = Promise.resolve();
  state: ServingState = 'attached';
  readonly #socket: dgram.Socket;

  constructor(socket: dgram.Socket) {
    this.#socket = socket;
    socket.once('close', () => {
      this.state = 'released';
    });
  }

  open(fd: number): Promise<void> {
    const socket = this.#socket;
    const { promise, resolve, reject } = new Deferred<void>();
    this.opened = promise;
    const release = keepUnlessTaken(fd, () => isListening(socket));
    try {
      socket.once('listening', resolve);
      socket.bind({ fd, exclusive: true }); // exclusive: in a cluster worker the number would be the primary's
      this.state = 'accepting';
    } catch (error) {
      socket.off('listening', resolve);
      reject(error);
    } finally {
      release();
    }
    return promise;
  }

  release(): void {
    if (this.state === 'released') return;
    this.state = 'released';
    this.#socket.close();
  }
}

/**
 * libuv before 1.49, told to use io_uring: a socket that is closed inside an event while a duplicate stays open can stay registered,
 * and wakes the loop for ever while a connection waits in its queue. Outside of events the removal is direct.
 */
const LEAVES_STALE_EVENTS = (() => {
  const [major = 0, minor = 0] = process.versions.uv.split('.').map(Number);
  return process.platform === 'linux' && major === 1 && minor < 49 && Number(process.env['UV_USE_IO_URING'] ?? 0) > 0;
})();

/** net.Server's own close: shuts the accept loop and nothing else. http's and http2's would close connections. */
function shut(server: net.Server): void {
  net.Server.prototype.close.call(server);
}

/** Gives the server a descriptor. What goes wrong comes as its 'error' event, in the next tick, or is thrown. */
function listenOn(server: net.Server, fd: number, backlog: number): void {
  const release = keepUnlessTaken(fd, () => server.listening);
  try {
    if (!cluster.isWorker) {
      // The backlog stands second: in the options it is ignored beside `fd`, and the queue shrinks to 511 for all who share it.
      server.listen({ fd }, backlog);
      return;
    }
    // listen({ fd }) would ask the primary for *its* descriptor of that number, whatever `exclusive` says.
    const listen: unknown = Reflect.get(server, '_listen2');
    if (typeof listen !== 'function') {
      const message = 'ENOTSUP: operation not supported, listen on an own descriptor in a cluster worker of this Node';
      throw Object.assign(new Error(message), { code: 'ENOTSUP', syscall: 'listen' });
    }
    Reflect.apply(listen, server, [null, null, null, backlog, fd]);
  } finally {
    release();
  }
}

/**
 * A failed listen closes the descriptor where listen(2) failed, and leaves it open where it failed before; Node does not tell. So
 * look whether the number still names the same socket, in the same tick, before another thread can have got it.
 */
function keepUnlessTaken(fd: number, isTaken: () => boolean): () => void {
  const before = statOf(fd);
  return () => {
    if (isTaken() || before === undefined) return;
    const after = statOf(fd);
    if (after?.dev === before.dev && after.ino === before.ino) fs.closeSync(fd);
  };
}

function statOf(fd: number): fs.BigIntStats | undefined {
  try {
    return fs.fstatSync(fd, { bigint: true });
  } catch {
    return undefined;
  }
}

function hasIdleConnections(server: net.Server): boolean {
  return typeof Reflect.get(server, 'closeIdleConnections') === 'function';
}

function checkType(server: Servable, { type, label }: ServingOptions): void {
  const where = label === undefined ? '' : ` (${label})`;
  if (type === 'seqpacket') {
    const message = `ENOTSUP: operation not supported, serve: no server of Node's accepts from a seqpacket socket${where}`;
    throw Object.assign(new Error(message), { code: 'ENOTSUP', syscall: 'serve' });
  }
  const got = server instanceof net.Server ? 'stream' : server instanceof dgram.Socket ? 'dgram' : undefined;
  const expected = type ?? got ?? 'stream';
  if (got === expected) return;
  const given = inspect(server, { depth: -1 });
  const needs = { stream: 'a net, tls, http, https or http2 server', dgram: 'a dgram socket' }[expected];
  const message = `A ${expected} listener is served by ${needs}, not by ${given}${where}`;
  throw new FdpassError('ERR_FDPASS_TYPE', message, { expected, got: got ?? given });
}

function alreadyListening(message: string, { label }: ServingOptions): Error {
  return Object.assign(new Error(label === undefined ? message : `${message} (${label})`), {
    code: 'ERR_SERVER_ALREADY_LISTEN',
  });
}
