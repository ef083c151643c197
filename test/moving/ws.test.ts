import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';

import { WebSocket, type WebSocketServer as Server, WebSocketServer } from 'ws';

import { moveWebSockets, type WebSocketRequest } from '../../lib/ws.js';
import { Connection } from '../support/client.js';
import { startServer } from '../support/fixture.js';
import { FIXTURES, restarted } from './drive.js';
import { Pair, type Side } from './pair.js';

interface Options {
  perMessageDeflate?: object | boolean;
  pause?: (socket: WebSocket) => { count: number };
}

/** An HTTP server whose WebSockets answer each message with the side, a counter, and the message. */
class Echo {
  readonly servers: Partial<Record<Side, Server>> = {};
  readonly counts: WeakMap<WebSocket, number> = new WeakMap();
  readonly requests: WebSocketRequest[] = [];
  readonly closes: string[] = [];
  readonly #options: Options;

  constructor(options: Options = {}) {
    this.#options = options;
  }

  #speak(side: Side, socket: WebSocket, count: number): void {
    this.counts.set(socket, count);
    socket.on('close', () => this.closes.push(side));
    socket.on('error', () => undefined);
    socket.on('message', (data, isBinary) => {
      const now = this.counts.get(socket) ?? 0;
      this.counts.set(socket, now + 1);
      socket.send(`${side} ${now} ${isBinary ? 'binary' : (data as Buffer).toString()}`);
    });
  }

  readonly make: (side: Side) => http.Server = (side: Side): http.Server => {
    const server = http.createServer((_request, response) => response.end('http'));
    const wss = new WebSocketServer({
      server,
      path: '/chat',
      handleProtocols: () => 'chat',
      perMessageDeflate: this.#options.perMessageDeflate ?? false,
    });
    this.servers[side] = wss;
    wss.on('connection', (socket) => this.#speak(side, socket, 0));
    moveWebSockets<WebSocket, { count: number }>(server, wss, {
      pause: this.#options.pause ?? ((socket) => ({ count: this.counts.get(socket) ?? -1 })),
      adopt: (socket, { count }, request) => {
        this.requests.push(request);
        this.#speak(side, socket, count);
      },
    });
    return server;
  };
}

async function open(pair: Pair, options: { perMessageDeflate?: boolean } = {}): Promise<WebSocket> {
  const client = new WebSocket(`ws://127.0.0.1:${pair.port}/chat`, ['chat'], { perMessageDeflate: false, ...options });
  await once(client, 'open');
  return client;
}

async function say(client: WebSocket, text: string): Promise<string> {
  const message = once(client, 'message');
  client.send(text);
  const [data] = (await message) as [Buffer];
  return data.toString();
}

test('a WebSocket goes on in the successor: state, subprotocol, request and pings; no close on either side', async (t) => {
  const echo = new Echo();
  const pair = await Pair.start(t, echo.make);
  const client = await open(pair);
  t.after(() => client.terminate());
  assert.equal(await say(client, 'a'), 'old 0 a');

  pair.receive();
  const report = await pair.move();

  assert.equal(await say(client, 'b'), 'new 1 b');
  const pong = once(client, 'pong');
  client.ping();
  await pong;
  assert.deepEqual(echo.closes, []);
  const { moved, refusedToMove } = report;
  assert.deepEqual({ moved, refusedToMove }, { moved: 1, refusedToMove: {} });
  assert.equal(echo.servers.old?.clients.size, 0);
  const [arrived] = echo.servers.new?.clients ?? [];
  assert.equal(arrived?.protocol, 'chat');
  assert.equal(arrived.readyState, WebSocket.OPEN);
  assert.equal(echo.requests[0]?.url, '/chat');
  const closed = once(client, 'close');
  arrived.close(4000, 'done');
  assert.equal(((await closed) as [number])[0], 4000);
  while (echo.servers.new?.clients.size !== 0) await turn();
  assert.deepEqual(echo.closes, ['new']);
});

test('half a frame that was read keeps it here until the rest has come; a frame in the kernel travels', async (t) => {
  const echo = new Echo();
  const pair = await Pair.start(t, echo.make);
  using client = await Connection.open({ port: pair.port });
  client.write(
    'GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n' +
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
  );
  await client.reply();
  const frame = Buffer.from([0x81, 0x83, 0, 0, 0, 0, 0x61, 0x62, 0x63]); // a text of three bytes, masked by zeros: RFC 6455, 5.2
  client.write(frame.subarray(0, 7));
  await delay(20);

  pair.receive();
  const report = pair.move();
  await delay(40);
  assert.equal(pair.connections.length, 1);
  client.write(frame.subarray(7));
  while (!client.received.includes('old 0 abc')) await once(client.socket, 'data');
  client.write(frame); // at once behind the answer, while it moves
  while (!client.received.includes(' 1 abc')) await once(client.socket, 'data');

  assert.equal((await report).moved, 1);
  client.write(frame);
  while (!client.received.includes('new 2 abc')) await once(client.socket, 'data');
});

test('compressed with context takeover: closed with 1012 and counted; without takeover it moves', async (t) => {
  const taking = new Echo({ perMessageDeflate: { threshold: 0 } });
  const first = await Pair.start(t, taking.make);
  const client = await open(first, { perMessageDeflate: true });
  assert.equal(await say(client, 'a'.repeat(200)), `old 0 ${'a'.repeat(200)}`);
  const closed = once(client, 'close');
  first.receive();
  const report = await first.move();
  const [code, reason] = (await closed) as [number, Buffer];
  assert.deepEqual([code, reason.toString()], [1012, 'Service Restart']);
  assert.deepEqual(report.refusedToMove, { 'compressed with context takeover': 1 });

  const fresh = new Echo({
    perMessageDeflate: { threshold: 0, serverNoContextTakeover: true, clientNoContextTakeover: true },
  });
  const second = await Pair.start(t, fresh.make);
  const other = await open(second, { perMessageDeflate: true });
  t.after(() => other.terminate());
  assert.match(other.extensions, /permessage-deflate/);
  await say(other, 'b'.repeat(200));
  second.receive();
  const { moved } = await second.move();

  assert.equal(moved, 1);
  assert.equal(await say(other, 'b'.repeat(300)), `new 1 ${'b'.repeat(300)}`);
});

test('a successor without WebSockets: they come back, and are closed with 1012', async (t) => {
  const echo = new Echo();
  const pair = await Pair.start(t, (side) =>
    side === 'old' ? echo.make('old') : http.createServer((_request, response) => response.end('http')),
  );
  const client = await open(pair);
  const closed = once(client, 'close');

  pair.receive();
  const report = await pair.move();

  assert.equal(((await closed) as [number])[0], 1012);
  assert.deepEqual(report.refusedToMove, { 'refused by the successor': 1 });
});

test('arguments', () => {
  const server = http.createServer();
  const wss = new WebSocketServer({ noServer: true });

  assert.throws(() => Reflect.apply(moveWebSockets, undefined, [server, {}, { adopt: () => undefined }]), {
    code: 'ERR_INVALID_ARG_TYPE',
  });
  assert.throws(() => moveWebSockets(server, wss, {} as never), { code: 'ERR_INVALID_ARG_TYPE', message: /adopt/ });
});

test('200 WebSockets with numbered messages through 20 restarts: nothing lost, doubled or reordered, no reconnect', async (t) => {
  const server = await startServer(t, `${FIXTURES}websockets.mjs`);
  let isOver = false;
  const failures: string[] = [];
  const talk = async (id: number): Promise<number> => {
    const client = new WebSocket(`ws://${server.address}/`, { perMessageDeflate: false });
    await once(client, 'open');
    let sent = 0;
    let heard = 0;
    let wake = (): void => undefined;
    client.on('close', (code) => {
      if (!isOver) failures.push(`client ${id}: closed with ${code}`);
      wake();
    });
    client.on('error', (error) => failures.push(`client ${id}: ${error.message}`));
    client.on('message', (data: Buffer) => {
      const expected = `${heard} ${heard}:${id}`; // the counter of the connection, and our own message
      if (data.toString() !== expected) failures.push(`client ${id}: ${data.toString()} instead of ${expected}`);
      heard++;
      wake();
    });
    while (!isOver && failures.length === 0) {
      client.send(`${sent++}:${id}`);
      if (id % 4 === 0) client.send(`${sent++}:${id}`);
      while (heard < sent && client.readyState === WebSocket.OPEN)
        await new Promise<void>((resolve) => (wake = resolve));
      await delay(20 + (id % 7));
    }
    client.terminate();
    return heard;
  };

  const clients = Array.from({ length: 200 }, (_, id) => talk(id));
  let moved = 0;
  for (let i = 0; i < 20; i++) moved += (await restarted(server)).moved;
  isOver = true;
  const messages = (await Promise.all(clients)).reduce((sum, heard) => sum + heard, 0);

  assert.deepEqual(failures, []);
  assert.ok(moved >= 190 * 20, `${moved} moved`);
  t.diagnostic(`${messages} messages, ${moved} moves`);
  await server.stop();
});
