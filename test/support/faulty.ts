/**
 * A server with planted faults, to prove that a load can fail: it does to the n-th request what the plan says, and keeps the account.
 * One listening socket on 127.0.0.1, in this process; no HTTP parser, a request is what ends with an empty line.
 */
import net from 'node:net';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

import type { Kind } from './load.js';
import { Waiting } from './waiting.js';

export type Fault =
  | 'none'
  | 'reset' // RST instead of a reply
  | 'eof' // FIN instead of a reply
  | 'partial' // half a reply, then FIN
  | 'wrong body' // no pid
  | 'wrong length' // a byte more than Content-Length says
  | 'wrong status' // 503
  | 'stall' // never a reply, and the connection stays open
  | 'slow' // a good reply after SLOW ms
  | 'dribble' // a good reply, byte by byte
  | 'announce' // a good reply that says Connection: close, then FIN
  | 'close idle' // a good reply, then FIN, not announced
  | 'reset idle' // a good reply, RST some ms later
  | 'stray'; // a good reply, some ms later a byte more

export const SLOW = 400; // ms
const LATER = 15; // ms

export interface FaultyServer {
  port: number;
  /** How often each was done, by the kind of request. */
  planted: Record<Kind, Partial<Record<Fault, number>>>;
  /** Requests that came. */
  requests: Record<Kind, number>;
  connections: number;
  /** Waits until so many requests of this kind have come, and what is done to them later has been done. */
  seen: (kind: Kind, count: number) => Promise<void>;
}

/** A request that asks for `Connection: close` is 'new'; `n` counts from 0, for each kind. */
export async function startFaulty(
  t: { after: (action: () => void) => void },
  plan: (kind: Kind, n: number) => Fault,
): Promise<FaultyServer> {
  const waiting = new Waiting(() => JSON.stringify(account));
  const account: FaultyServer = {
    port: 0,
    planted: { new: {}, keepAlive: {} },
    requests: { new: 0, keepAlive: 0 },
    connections: 0,
    async seen(kind, count) {
      await waiting.until(`${count} requests, ${kind}`, 30000, () =>
        account.requests[kind] >= count ? true : undefined,
      );
      await sleep(3 * LATER);
    },
  };
  const sockets = new Set<net.Socket>();
  const server = net.createServer({ noDelay: true }, (socket) => {
    account.connections++;
    sockets.add(socket);
    let text = '';
    socket.on('error', () => undefined).on('close', () => sockets.delete(socket));
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      if (!text.endsWith('\r\n\r\n')) return;
      const kind = /^connection: close\r$/im.test(text) ? 'new' : 'keepAlive';
      text = '';
      const fault = plan(kind, account.requests[kind]++);
      account.planted[kind][fault] = (account.planted[kind][fault] ?? 0) + 1;
      act(socket, kind, fault);
      waiting.wake();
    });
  });
  server.listen(0, '127.0.0.1', 2048);
  await new Promise((resolve) => server.once('listening', resolve));
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  account.port = (server.address() as AddressInfo).port;
  return account;
}

function act(socket: net.Socket, kind: Kind, fault: Fault): void {
  const body = `${process.pid}\n`;
  const reply = (status: string, text: string, header = ''): string =>
    `HTTP/1.1 ${status}\r\nDate: now\r\nContent-Length: ${body.length}\r\n${header}\r\n${text}`;
  const good = reply('200 OK', body);
  const finish = (text: string): void => {
    socket.write(text);
    if (kind === 'new') socket.end();
  };
  const actions: Record<Fault, () => void> = {
    none: () => finish(good),
    reset: () => socket.resetAndDestroy(),
    eof: () => socket.end(),
    partial: () => socket.end(good.slice(0, good.length / 2)),
    'wrong body': () => finish(reply('200 OK', 'x'.repeat(body.length))),
    'wrong length': () => finish(`${good}x`),
    'wrong status': () => finish(reply('503 Service Unavailable', body)),
    stall: () => undefined,
    slow: () => void setTimeout(() => finish(good), SLOW),
    dribble: () => dribble(socket, good, () => kind === 'new' && socket.end()),
    announce: () => socket.end(reply('200 OK', body, 'Connection: close\r\n')),
    'close idle': () => socket.end(good),
    'reset idle': () => {
      socket.write(good);
      setTimeout(() => socket.resetAndDestroy(), LATER);
    },
    stray: () => {
      socket.write(good);
      setTimeout(() => socket.write('x'), LATER);
    },
  };
  actions[fault]();
}

function dribble(socket: net.Socket, text: string, done: () => void): void {
  let sent = 0;
  const next = (): void => {
    if (sent < text.length) socket.write(text.slice(sent, ++sent), () => setImmediate(next));
    else done();
  };
  next();
}
