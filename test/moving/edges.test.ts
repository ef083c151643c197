import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import type net from 'node:net';
import { test } from 'node:test';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';

import { connectionsOf } from '../../lib/connections.js';
import type { DrainReport } from '../../lib/drain/drain.js';
import { Connection, saysClose } from '../support/client.js';
import type { Scope } from '../support/fixture.js';
import { Desk, Pair } from './pair.js';

const LONG = 60_000;
const GET = (url: string): string => `GET ${url} HTTP/1.1\r\nHost: a\r\n\r\n`;

async function start(t: Scope): Promise<{ desk: Desk; pair: Pair; client: Connection }> {
  const desk = new Desk();
  const pair = await Pair.start(t, desk.make);
  const client = await accepted(pair);
  t.after(() => client.close());
  return { desk, pair, client };
}

async function accepted(pair: Pair): Promise<Connection> {
  const connection = once(pair.old, 'connection');
  const client = await Connection.open({ port: pair.port });
  await connection;
  return client;
}

async function until(what: string, isTrue: () => boolean): Promise<void> {
  const end = Date.now() + 5_000;
  while (!isTrue()) {
    assert.ok(Date.now() < end, `not within 5 s: ${what}`);
    await turn();
  }
}

function counts({ moved, finished, announced, closedIdle, forced, refusedToMove }: DrainReport): object {
  const all = { moved, finished, announced, closedIdle, forced, ...refusedToMove };
  return Object.fromEntries(Object.entries(all).filter(([, count]) => count > 0));
}

test('an idle connection: the next request is answered by the successor, on the same connection', async (t) => {
  const { pair, client } = await start(t);
  assert.equal((await client.request('/1')).body, 'old /1 ');

  pair.receive();
  const report = await pair.move();
  const reply = await client.request('/2');

  assert.equal(reply.body, 'new /2 ');
  assert.equal(saysClose(reply), false);
  assert.equal(client.ending, undefined);
  assert.deepEqual(counts(report), { moved: 1 });
  assert.equal(connectionsOf(pair.fresh).length, 1);
  assert.equal(await new Promise((resolve) => pair.fresh.getConnections((_error, count) => resolve(count))), 1);
});

test('a fresh connection that has sent nothing', async (t) => {
  const { pair, client } = await start(t);

  pair.receive();
  const report = await pair.move();

  assert.equal((await client.request('/1')).body, 'new /1 ');
  assert.deepEqual(counts(report), { moved: 1 });
});

test('a busy one moves when its response is out; its response says nothing of an end', async (t) => {
  const { desk, pair, client } = await start(t);
  client.write(GET('/wait'));
  await until('the request', () => desk.held.size === 1);

  pair.receive();
  const report = pair.move();
  await delay(20);
  assert.equal(pair.connections.length, 1);
  desk.release('/wait');
  const reply = await client.reply();
  await report;

  assert.equal(reply.body, 'old /wait ');
  assert.equal(saysClose(reply), false);
  assert.equal((await client.request('/2')).body, 'new /2 ');
  assert.deepEqual(counts(await report), { moved: 1 });
});

for (const [name, cut] of [
  ['half a request line', 5],
  ['half a header', 25],
  ['all but the last byte', -1],
] as const) {
  test(`${name} was read: the old process answers that request, and moves the connection then`, async (t) => {
    const { pair, client } = await start(t);
    await client.request('/1');
    const request = GET('/split-request-line');
    const [connection] = pair.connections;
    const before = connection?.socket.bytesRead ?? 0;
    client.write(request.slice(0, cut));
    await until('the first bytes', () => (connection?.socket.bytesRead ?? 0) > before);

    pair.receive();
    const report = pair.move();
    await delay(30);
    assert.equal(pair.connections.length, 1);
    client.write(request.slice(cut));

    assert.equal((await client.reply()).body, 'old /split-request-line ');
    assert.deepEqual(counts(await report), { moved: 1 });
    assert.equal((await client.request('/2')).body, 'new /2 ');
  });
}

test('half a request in the kernel, nothing of it read, travels: the successor answers', async (t) => {
  const { pair, client } = await start(t);
  await client.request('/1');
  pair.receive();
  // Written in the very turn in which the connection moves: the old process never polls in between
  const report = pair.move();
  client.write(GET('/2').slice(0, 9));
  await report;
  client.write(GET('/2').slice(9));

  assert.match((await client.reply()).body, /\/2 $/);
  assert.deepEqual(counts(await report), { moved: 1 });
});

test('half a body was read: answered here, moved then; a body split over the move is never torn', async (t) => {
  const { desk, pair, client } = await start(t);
  client.write('POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345');
  await until('the head', () => pair.connections[0]?.state === 'active');

  pair.receive();
  const report = pair.move();
  await delay(20);
  client.write('67890');

  assert.equal((await client.reply()).body, 'old /body 1234567890');
  assert.deepEqual(counts(await report), { moved: 1 });
  client.write('POST /second HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n');
  await delay(10);
  client.write('3\r\ndef\r\n0\r\n\r\n');
  assert.equal((await client.reply()).body, 'new /second abcdef');
  assert.equal(desk.served.length, 2);
});

test('pipelined: what was read with the first is answered here, in order, and the connection moves behind the last', async (t) => {
  const { desk, pair, client } = await start(t);
  client.write(GET('/wait1') + GET('/2') + GET('/wait3'));
  await until('all of it', () => desk.served.length === 3);

  pair.receive();
  const report = pair.move();
  await delay(20);
  desk.release('/wait1');
  assert.equal((await client.reply()).body, 'old /wait1 ');
  assert.equal((await client.reply()).body, 'old /2 ');
  await delay(20);
  assert.equal(pair.connections.length, 1);
  desk.release('/wait3');

  const last = await client.reply();
  assert.equal(last.body, 'old /wait3 ');
  assert.equal(saysClose(last), false);
  assert.deepEqual(counts(await report), { moved: 1 });
  assert.equal((await client.request('/4')).body, 'new /4 ');
});

test('HEAD, 100-continue and a chunked response before the move, and after it', async (t) => {
  const make = (side: string): http.Server =>
    http
      .createServer((request, response) => {
        if (request.method === 'HEAD') return response.setHeader('Content-Length', 1000).end();
        response.write(`${side} `);
        setImmediate(() => request.resume().on('end', () => response.end('done')));
        return undefined;
      })
      .on('checkContinue', (request: http.IncomingMessage, response: http.ServerResponse) => {
        response.writeContinue();
        request.resume().on('end', () => response.end(`${side} continued`));
      });
  const pair = await Pair.start(t, make);
  using client = await accepted(pair);
  const conversation = async (side: string): Promise<void> => {
    client.write('HEAD / HTTP/1.1\r\nHost: a\r\n\r\n');
    await until('the head', () => client.received.includes('\r\n\r\n'));
    client.received = Buffer.alloc(0);
    client.write('PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n');
    assert.equal((await client.reply()).status, 100);
    client.write('ab');
    assert.equal((await client.reply()).body, `${side} continued`);
    client.write(GET('/'));
    assert.equal((await client.reply()).body, `${side} done`);
  };

  await conversation('old');
  pair.receive();
  const report = await pair.move();
  await conversation('new');

  assert.deepEqual(counts(report), { moved: 1 });
  assert.equal(client.ending, undefined);
});

test('100-continue under way: the body is awaited here, and the connection moves behind its response', async (t) => {
  const { pair, client } = await start(t);
  client.write('PUT /late HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n');
  assert.equal((await client.reply()).status, 100);

  pair.receive();
  const report = pair.move();
  await delay(20);
  client.write('abc');

  assert.equal((await client.reply()).body, 'old /late abc');
  assert.deepEqual(counts(await report), { moved: 1 });
  assert.equal((await client.request('/2')).body, 'new /2 ');
});

test('a reader so slow that the send buffer is full: every byte comes, and then the connection moves', async (t) => {
  const { pair, client } = await start(t);
  client.socket.pause();
  client.write(GET('/big'));
  await until('unsent bytes', () => (pair.connections[0]?.socket.writableLength ?? 0) > 0);

  pair.receive();
  const report = pair.move();
  await delay(30);
  assert.equal(pair.connections.length, 1);
  client.socket.resume();

  assert.equal((await client.reply()).body.length, 4_000_000);
  assert.deepEqual(counts(await report), { moved: 1 });
  assert.equal((await client.request('/2')).body, 'new /2 ');
});

test('a client that half-closes is answered here, and does not move', async (t) => {
  const { desk, pair, client } = await start(t);
  Object.assign(pair.old, { httpAllowHalfOpen: true }); // else Node drops its request
  client.write(GET('/wait'));
  client.socket.end();
  await until('the request', () => desk.held.size === 1);

  pair.receive();
  const report = pair.move({ idleGrace: LONG, timeout: LONG });
  await delay(20);
  desk.release('/wait');

  assert.equal((await client.reply()).body, 'old /wait ');
  assert.equal(await client.ended(), 'eof');
  assert.equal((await report).moved, 0);
});

test('a client that closes at the very moment: its end travels, and the successor lets go of it', async (t) => {
  const { pair, client } = await start(t);
  await client.request('/1');

  pair.receive();
  const report = pair.move();
  client.close();
  await report;

  await until('the end in the successor', () => connectionsOf(pair.fresh).length === 0);
  assert.equal(pair.connections.length, 0);
});

test('Connection: close from the client, HTTP/1.0, and the last of maxRequestsPerSocket end here, as always', async (t) => {
  const { desk, pair, client } = await start(t);
  Object.assign(pair.old, { maxRequestsPerSocket: 2 });
  using old = await accepted(pair);
  using last = await accepted(pair);
  await last.request('/1');
  client.write('GET /wait1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  old.write('GET /wait2 HTTP/1.0\r\n\r\n');
  last.write(GET('/wait3'));
  await until('the requests', () => desk.held.size === 3);

  pair.receive();
  const report = pair.move();
  await delay(20);
  for (const url of ['/wait1', '/wait2', '/wait3']) desk.release(url);
  for (const each of [client, old]) assert.equal(await each.ended(), 'eof');
  const reply = await last.reply();
  assert.equal(reply.body, 'old /wait3 ');
  assert.equal(saysClose(reply), true);
  last.close(); // Node leaves that to the client

  assert.ok((await report).moved <= 1);
});

test('HTTP/1.0 with keep-alive moves', async (t) => {
  const { pair, client } = await start(t);
  const request = (url: string): string => `GET ${url} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n`;
  client.write(request('/1'));
  await client.reply();

  pair.receive();
  const report = await pair.move();
  client.write(request('/2'));

  assert.equal((await client.reply()).body, 'new /2 ');
  assert.deepEqual(counts(report), { moved: 1 });
});

test('an upgraded connection without hooks stays, is counted, and has until the deadline', async (t) => {
  const { pair, client } = await start(t);
  pair.old.on('upgrade', (_request: http.IncomingMessage, socket: net.Socket) => {
    socket.write('HTTP/1.1 101 Go on\r\n\r\n');
    socket.pipe(socket);
  });
  client.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
  await client.reply();

  pair.receive();
  const report = pair.move({ timeout: 300 });
  client.write('still here');
  await until('the echo', () => client.received.includes('still here'));

  assert.deepEqual(counts(await report), { forced: 1, upgraded: 1 });
});

test('a server that the successor does not have: refused, taken back, announced and answered here', async (t) => {
  const desk = new Desk();
  const pair = await Pair.start(t, desk.make, false);
  using client = await accepted(pair);
  await client.request('/1');

  pair.receive();
  const report = pair.move({ idleGrace: LONG, timeout: LONG });
  await until('the return', () => pair.connections.length === 1 && pair.connections[0]?.socket.bytesRead === 0);
  const reply = await client.request('/2');

  assert.equal(reply.body, 'old /2 ');
  assert.equal(saysClose(reply), true);
  assert.equal(await client.ended(), 'eof');
  assert.deepEqual(counts(await report), { announced: 1, 'refused by the successor': 1 });
});

test('a successor that ends before it has answered: everything comes back, and is served here', async (t) => {
  const { pair, client } = await start(t);
  await client.request('/1');
  const report = pair.move({ idleGrace: LONG, timeout: LONG });
  await until('the departure', () => pair.connections.length === 0);
  client.write(GET('/2')); // while it is nobody's

  pair.far.close();
  const reply = await client.reply();

  assert.equal(reply.body, 'old /2 ');
  assert.equal(saysClose(reply), true);
  assert.deepEqual(counts(await report), { announced: 1, 'not answered: the channel ended': 1 });
});

test('a successor that is silent has it at the deadline, and serves when it wakes up', async (t) => {
  const { pair, client } = await start(t);
  await client.request('/1');
  const report = pair.move({ timeout: 200 });
  await until('the departure', () => pair.connections.length === 0);
  client.write(GET('/2'));
  assert.deepEqual(counts(await report), { moved: 1 });

  pair.receive();

  assert.equal((await client.reply()).body, 'new /2 ');
});

test('the successor speaks nonsense: the channel is given up, what stays is drained', async (t) => {
  const { pair, client } = await start(t);
  client.write(GET('/wait'));
  await until('the request', () => pair.connections[0]?.state === 'active');
  const report = pair.move({ idleGrace: 1, timeout: LONG });
  pair.far.send({ type: 'READY' });
  await until('the end of the channel', () => pair.far.readAll().ended);
  client.close();

  assert.deepEqual(counts(await report), { finished: 1, 'what the successor said was no answer': 1 });
});

test('keepAliveTimeout runs in the successor, afresh; it is the time-out of the server there', async (t) => {
  const { pair, client } = await start(t);
  await client.request('/1');
  Object.assign(pair.fresh, { keepAliveTimeout: 100 });

  pair.receive();
  await pair.move();

  assert.equal(await client.ended(), 'eof');
});

test('a keepAliveTimeout above headersTimeout: a silent connection lives on, and is answered late', async (t) => {
  const { pair, client } = await start(t);
  await client.request('/1');
  Object.assign(pair.fresh, { keepAliveTimeout: LONG, headersTimeout: 700, requestTimeout: 700 });
  let opened = 0;
  pair.fresh.on('connection', () => opened++);

  pair.receive();
  await pair.move();
  await until('a new arrival', () => opened >= 3);

  assert.equal((await client.request('/2')).body, 'new /2 ');
  assert.equal(connectionsOf(pair.fresh).length, 1);
});

test('requests sent around the moment of the move, in small steps: each is answered once, by one of the two', async (t) => {
  for (let step = 0; step < 40; step++) {
    const { desk, pair, client } = await start(t);
    await client.request('/1');
    pair.receive();
    const began = performance.now();
    const report = pair.move();
    while (performance.now() < began + step * 0.05); // busy: the loop must not turn
    client.write(GET('/2'));
    for (let turns = 0; turns < step % 5; turns++) await turn();
    client.write(GET('/3'));

    assert.match((await client.reply()).body, /^(old|new) \/2 $/);
    assert.match((await client.reply()).body, /^(old|new) \/3 $/);
    await report;
    assert.deepEqual(
      desk.served.map(({ url }) => url),
      ['/1', '/2', '/3'],
    );
    assert.equal(client.ending, undefined);
    client.close();
  }
});
