/**
 * Both sides of a move in one process: an old server and a new one on the same port, each with its end of a channel. For tests that
 * must know the very moment; real processes are in test/moving/fixtures.
 */
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';

import { type Connection as Tracked, connectionsOf } from '../../lib/connections.js';
import { drain, type DrainOptions, type DrainReport } from '../../lib/drain/drain.js';
import { entrust, type Successor, Wire } from '../../lib/handoff/wire.js';
import { Link } from '../../lib/link.js';
import { listen, Listener, startAccepting } from '../../lib/listener.js';
import { Receiver } from '../../lib/moving/receiver.js';
import type { Scope } from '../support/fixture.js';

export type Side = 'old' | 'new';

/** A server for one side. */
export type Make = (side: Side) => net.Server;

/** An HTTP server that says which side it is. `/wait`: answers when `release` is called with the path. */
export class Desk {
  readonly held: Map<string, { response: http.ServerResponse; side: Side }> = new Map();
  readonly served: { url: string; side: Side; body: string }[] = [];

  readonly make: (side: Side) => http.Server = (side: Side): http.Server =>
    http.createServer((request, response) => {
      const url = request.url ?? '';
      let body = '';
      request.setEncoding('latin1').on('data', (chunk: string) => (body += chunk));
      request.on('end', () => {
        this.served.push({ url, side, body });
        if (url.startsWith('/wait')) this.held.set(url, { response, side });
        else {
          const text = url.startsWith('/big') ? 'x'.repeat(4_000_000) : `${side} ${url} ${body}`;
          response.setHeader('Content-Length', text.length).end(text); // an HTTP/1.0 client keeps the connection for it
        }
      });
    });

  release(url: string): void {
    const { response, side } = this.held.get(url) ?? {};
    this.held.delete(url);
    response?.end(`${side} ${url} `);
  }
}

export class Pair {
  readonly old: net.Server;
  readonly fresh: net.Server;
  readonly port: number;
  readonly successor: Successor = { pid: process.pid, generation: 2, exited: new Promise(() => undefined) };
  readonly #listener: Listener;
  readonly #wire: Wire;
  /** The successor's end. Nothing is read from it before {@link receive}. */
  readonly far: Wire;
  readonly #copy: Listener;
  receiver: Receiver | undefined;
  #receives = false;
  #isMoving = false;

  private constructor(t: Scope, make: Make, listener: Listener, isServedThere: boolean) {
    this.#listener = listener;
    this.port = listener.port ?? 0;
    this.old = make('old');
    this.fresh = make('new');
    listener.serve(this.old);
    const [link, end] = Link.pair();
    this.#wire = new Wire(link);
    this.far = new Wire(new Link(end));
    const copy = Listener.from(listener.dup(), { name: listener.name });
    if (isServedThere) copy.serve(this.fresh);
    t.after(() => {
      for (const each of [listener, copy]) each.close();
      for (const { socket } of [...connectionsOf(this.old), ...connectionsOf(this.fresh)]) socket.destroy();
      this.#wire.close();
      this.far.close();
    });
    this.#copy = copy;
  }

  /** @param isServedThere - Whether the successor has such a server. */
  static async start(t: Scope, make: Make, isServedThere = true): Promise<Pair> {
    await startAccepting();
    const listener = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
    const pair = new Pair(t, make, listener, isServedThere);
    for (const server of isServedThere ? [pair.old, pair.fresh] : [pair.old]) {
      if (!server.listening) await once(server, 'listening');
    }
    pair.#copy.pause(); // it has listened once, as any successor; connections are to come to the old side
    while (pair.fresh.listening) await turn();
    return pair;
  }

  /** The old side's connections. */
  get connections(): Tracked[] {
    return connectionsOf(this.old);
  }

  /** The old side has let go of its listener, and moves what it has. */
  move(options: DrainOptions = {}): Promise<DrainReport> {
    entrust(this.successor, this.#wire);
    this.#listener.close();
    void this.#copy.resume();
    if (this.#receives) this.#receive();
    this.#isMoving = true;
    return drain(this.old, { to: this.successor, ...options });
  }

  /** From here on, or from the move on, the new side takes what comes. */
  receive(): void {
    this.#receives = true;
    if (this.#isMoving) this.#receive();
  }

  #receive(): void {
    const receiver = new Receiver(this.far);
    this.receiver = receiver;
    this.far.listen(() => {
      setImmediate(() => {
        if (this.far.closed) return;
        const { frames, ended, malformed } = this.far.readAll();
        if (ended) this.far.close();
        for (const frame of frames) receiver.take(frame);
        if (malformed !== undefined) receiver.close();
        if (ended) receiver.ended();
      });
    });
  }
}
