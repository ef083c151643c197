import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type { Writable } from 'node:stream';
import { test } from 'node:test';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';

import { connectionsOf } from '../../lib/connections.js';
import { moveResponses } from '../../lib/moving/responses.js';
import { Connection } from '../support/client.js';
import { Pair, type Side } from './pair.js';

/** Servers of events that the test sends by hand. */
class Events {
  readonly streams: Map<Side, Writable> = new Map();
  readonly closes: string[] = [];
  last = 0;

  readonly make: (side: Side) => http.Server = (side: Side): http.Server => {
    const server = http.createServer((request, response) => {
      if (request.url === '/length') response.setHeader('Content-Length', 1000);
      response.writeHead(200, { 'Content-Type': 'text/event-stream' });
      response.write('data: hello\n\n');
      this.#follow(side, response);
      mover.add(response);
    });
    const mover = moveResponses<{ last: number }>(server, {
      pause: () => ({ last: this.last }),
      adopt: (stream, { last }) => {
        this.last = last;
        this.#follow(side, stream);
      },
    });
    return server;
  };

  #follow(side: Side, stream: Writable): void {
    this.streams.set(side, stream);
    stream.on('close', () => this.closes.push(side));
  }

  send(side: Side): void {
    this.streams.get(side)?.write(`id: ${++this.last}\ndata: from ${side}\n\n`);
  }
}

async function subscribe(pair: Pair, url = '/'): Promise<Connection> {
  const client = await Connection.open({ port: pair.port });
  client.write(`GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`);
  while (!client.received.includes('hello')) await once(client.socket, 'data');
  return client;
}

async function comes(client: Connection, text: string): Promise<void> {
  const end = Date.now() + 5_000;
  while (!client.received.includes(text)) {
    assert.ok(Date.now() < end, client.received.toString());
    await turn();
  }
}

test('Server-Sent Events go on in the successor, in one response; its end is a whole one', async (t) => {
  const events = new Events();
  const pair = await Pair.start(t, events.make);
  using client = await subscribe(pair);
  events.send('old');
  await comes(client, 'id: 1\n');

  pair.receive();
  const report = await pair.move();
  events.send('new');
  await comes(client, 'id: 2\ndata: from new\n\n');
  events.streams.get('new')?.end('data: bye\n\n');
  const { status, body } = await client.reply();

  assert.equal(status, 200);
  assert.equal(body, 'data: hello\n\nid: 1\ndata: from old\n\nid: 2\ndata: from new\n\ndata: bye\n\n');
  assert.equal(await client.ended(), 'eof');
  const { moved, refusedToMove } = report;
  assert.deepEqual({ moved, refusedToMove }, { moved: 1, refusedToMove: {} });
  assert.equal(events.closes[0], 'old');
});

test('a client that leaves is seen in the successor', async (t) => {
  const events = new Events();
  const pair = await Pair.start(t, events.make);
  using client = await subscribe(pair);
  pair.receive();
  await pair.move();
  assert.equal(connectionsOf(pair.fresh).length, 1);

  client.close();
  while (!events.closes.includes('new')) await turn();

  while (connectionsOf(pair.fresh).length > 0) await turn();
});

test('an endless response with a request read behind it, and one with a length, stay', async (t) => {
  const events = new Events();
  const pair = await Pair.start(t, events.make);
  using behind = await subscribe(pair);
  using length = await subscribe(pair, '/length');
  const [first] = pair.connections;
  const before = first?.socket.bytesRead ?? 0;
  behind.write('GET /next HTTP/1.1\r\nHost: a\r\n\r\n');
  while (first?.socket.bytesRead === before) await turn();

  pair.receive();
  const report = pair.move({ timeout: 300 });
  await delay(50);
  assert.equal(
    pair.connections.some((connection) => connection === first),
    true,
  );

  const { moved, refusedToMove } = await report;
  assert.equal(moved, 0);
  assert.deepEqual(refusedToMove, { 'its response has a length': 1, 'busy to the end': 1 });
  assert.notEqual(length.ending ?? (await length.ended()), undefined);
});

test('a successor without these hooks: it comes back, ends in peace, and the client may ask again', async (t) => {
  const events = new Events();
  const pair = await Pair.start(t, (side) =>
    side === 'old' ? events.make('old') : http.createServer((_request, response) => response.end()),
  );
  using client = await subscribe(pair);

  pair.receive();
  const report = await pair.move();

  assert.equal((await client.reply()).body, 'data: hello\n\n');
  assert.deepEqual(report.refusedToMove, { 'refused by the successor': 1 });
});
