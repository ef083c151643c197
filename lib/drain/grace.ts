/**
 * The grace of idle connections, and their end after it.
 * Destroys sockets, and nothing else. Counts nothing: who asked is told.
 */
import net from 'node:net';

import type { TrackedConnection } from '../connections.js';
import { httpSockets } from '../nodeInternals.js';

/** Closes the connections of one server that stay idle. */
export class Grace implements Disposable {
  readonly #server: net.Server;
  readonly #idleGrace: number;
  readonly #onClose: (connection: TrackedConnection) => void;
  readonly #timers = new Map<TrackedConnection, NodeJS.Timeout>();
  readonly #due = new Set<TrackedConnection>();

  /** @param onClose - Called before a connection is destroyed. */
  constructor(server: net.Server, idleGrace: number, onClose: (connection: TrackedConnection) => void) {
    this.#server = server;
    this.#idleGrace = idleGrace;
    this.#onClose = onClose;
  }

  /** ms: never past the keepAliveTimeout of the server, where it has one. */
  get length(): number {
    const limit: unknown = Reflect.get(this.#server, 'keepAliveTimeout');
    return typeof limit === 'number' && limit > 0 ? Math.min(limit, this.#idleGrace) : this.#idleGrace;
  }

  /** The connection is idle from now on. */
  begin(connection: TrackedConnection): void {
    this.end(connection);
    const timer = setTimeout(() => {
      this.#timers.delete(connection);
      this.#due.add(connection);
      // Not now: first everything that waits in the kernel is read, and a request among it wins.
      if (this.#due.size === 1) setImmediate(this.#closeDue);
    }, this.length);
    this.#timers.set(connection, timer.unref()); // the socket keeps the process alive, this need not
  }

  /** It is idle no longer. */
  end(connection: TrackedConnection): void {
    this.#due.delete(connection);
    clearTimeout(this.#timers.get(connection));
    this.#timers.delete(connection);
  }

  [Symbol.dispose](): void {
    this.#due.clear();
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
  }

  readonly #closeDue = (): void => {
    const due = [...this.#due];
    this.#due.clear();
    const between = due.some(({ protocol }) => protocol === 'http1') ? httpSockets(this.#server, 'idle') : undefined;
    for (const connection of due) {
      if (connection.closed) continue;
      if (isIdle(connection, between)) {
        this.#onClose(connection);
        connection.socket.destroy();
      } else if (connection.state !== 'active') {
        this.begin(connection); // half a request is here, or half a handshake: look again
      }
    }
  };
}

/** Whether nothing of a request has come, and nothing of a response is left to send. */
function isIdle(connection: TrackedConnection, between: Set<net.Socket> | undefined): boolean {
  const { socket } = connection;
  if (connection.state === 'active' || socket.writableLength > 0) return false;
  if (socket.bytesRead === 0) return true; // Node 20 to 24 do not list such a one as idle
  return connection.protocol === 'http1' && between?.has(socket) === true;
}
