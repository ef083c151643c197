import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import { test, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import tls from 'node:tls';

import { drain, type DrainReport } from '../../lib/drain/drain.js';
import { requestSize, withConnectionClose } from '../../lib/drain/http1.js';
import { httpSockets } from '../../lib/nodeInternals.js';
import { Serving } from '../../lib/serving.js';
import { certificate } from '../support/certificate.js';
import { Connection, saysClose, type Reply } from '../support/client.js';
import { ListeningSocket } from '../support/socket.js';

/** Long enough to be no part of a test that does not wait for it. */
const LONG = 60_000;

type Counts = Partial<Pick<DrainReport, 'finished' | 'announced' | 'closedIdle' | 'forced'>>;

function assertCounts({ finished, announced, closedIdle, forced }: DrainReport, expected: Counts): void {
  assert.deepEqual(
    { finished, announced, closedIdle, forced },
    { finished: 0, announced: 0, closedIdle: 0, forced: 0, ...expected },
  );
}

/** Attaches and starts a server. Its requests wait here for the test to answer, in the order in which they came. */
class Desk {
  readonly socket = new ListeningSocket();
  readonly closes: number[] = [];
  readonly #requests: [http.IncomingMessage, http.ServerResponse][] = [];
  #wake: () => void = () => undefined;

  readonly server: http.Server;

  constructor(t: TestContext, server: http.Server = http.createServer()) {
    this.server = server;
    server.keepAliveTimeout = LONG;
    server.on('request', (request, response) => {
      this.#requests.push([request, response]);
      this.#wake();
    });
    server.on('close', () => this.closes.push(1));
    t.after(() => {
      this.socket[Symbol.dispose]();
      server.close();
      server.closeAllConnections();
    });
  }

  async start(): Promise<this> {
    await new Serving(this.server, this.socket).start();
    return this;
  }

  connect(): Promise<Connection> {
    return Connection.open(this.socket);
  }

  /** The next request that has come. */
  async next(): Promise<[http.IncomingMessage, http.ServerResponse]> {
    for (;;) {
      const request = this.#requests.shift();
      if (request !== undefined) return request;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  get waiting(): number {
    return this.#requests.length;
  }
}

/** A server that answers at once, by the path. */
function prompt(): http.Server {
  return http.createServer((request, response) => response.end(`answer to ${request.url}\n`));
}

function startDesk(t: TestContext, server?: http.Server): Promise<Desk> {
  return new Desk(t, server).start();
}

/** Waits until a drain that was asked for has begun. */
async function begun(server: net.Server): Promise<void> {
  while (server.listening) await turn();
}

const GET = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
const POST = (path: string, body: string): string =>
  `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

test('a request in flight is answered, the response says Connection: close, and the connection ends', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/'));
  const [, response] = await desk.next();

  const report = drain(desk.server, { timeout: LONG });
  await begun(desk.server);
  assert.equal(desk.server.listening, false);
  response.end('done\n');
  const reply = await client.reply();

  assert.equal(reply.body, 'done\n');
  assert.equal(reply.headers.get('connection'), 'close');
  assert.equal(reply.headers.has('keep-alive'), false);
  assert.equal(await client.ended(), 'eof');
  assertCounts(await report, { announced: 1 });
  assert.equal(client.received.length, 0);
  assert.deepEqual(desk.closes, [1]);
});

test('an idle keep-alive connection: its next request in the grace is answered and announced', async (t) => {
  const desk = await startDesk(t, prompt());
  using client = await desk.connect();
  assert.equal(saysClose(await client.request('/1')), false);

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  const reply = await client.request('/2');

  assert.equal(reply.body, 'answer to /2\n');
  assert.equal(saysClose(reply), true);
  assert.equal(await client.ended(), 'eof');
  assertCounts(await report, { announced: 1 });
});

test('idle connections are closed only after the grace; fresh ones that have sent nothing too', async (t) => {
  const desk = await startDesk(t, prompt());
  using idle = await desk.connect();
  await idle.request();
  using fresh = await desk.connect();
  await turn();

  const started = performance.now();
  const report = await drain(desk.server, { idleGrace: 150, timeout: LONG });

  assert.ok(performance.now() - started >= 145, 'not before the grace');
  assert.equal(await idle.ended(), 'eof');
  assert.equal(await fresh.ended(), 'eof');
  assertCounts(report, { closedIdle: 2 });
  assert.deepEqual(desk.closes, [1]);
});

test("the grace is never past the server's keepAliveTimeout", async (t) => {
  const desk = await startDesk(t, prompt());
  desk.server.keepAliveTimeout = 100;
  using idle = await desk.connect();
  await idle.request();
  using fresh = await desk.connect();
  await turn();

  assertCounts(await drain(desk.server, { idleGrace: LONG, timeout: LONG }), { closedIdle: 2 });
  assert.equal(await idle.ended(), 'eof');
  assert.equal(await fresh.ended(), 'eof');
});

test('a pipelined batch that a prompt server gets in one packet is answered whole; the last answer alone says close', async (t) => {
  const desk = await startDesk(t, prompt());
  using client = await desk.connect();
  await client.request('/before');

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  client.write(GET('/1') + POST('/2', 'some body') + GET('/3') + GET('/4'));
  const replies: Reply[] = [];
  for (let count = 0; count < 4; count++) replies.push(await client.reply());

  assert.deepEqual(
    replies.map(({ body }) => body),
    ['/1', '/2', '/3', '/4'].map((path) => `answer to ${path}\n`),
  );
  assert.deepEqual(replies.map(saysClose), [false, false, false, true]);
  assert.equal(await client.ended(), 'eof');
  assertCounts(await report, { announced: 1 });
});

test('a batch of several hundred kB, in packets that cut requests anywhere, is answered whole', async (t) => {
  const desk = await startDesk(t, prompt());
  using client = await desk.connect();
  const filler = 'x'.repeat(3_000);
  const batch = Array.from({ length: 150 }, (_, index) => POST(`/${index}`, filler)).join('');

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  client.write(batch);
  const replies: Reply[] = [];
  while (replies.length < 150) replies.push(await client.reply());

  assert.deepEqual(
    replies.map(({ body }) => body),
    replies.map((_, index) => `answer to /${index}\n`),
  );
  assert.deepEqual(replies.map(saysClose).indexOf(true), 149);
  assertCounts(await report, { announced: 1 });
});

test('a pipelined batch in flight when the drain begins: slow answers, close on the last alone', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/1') + GET('/2') + GET('/3'));
  const responses = [await desk.next(), await desk.next(), await desk.next()].map(([, response]) => response);

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  const replies: Reply[] = [];
  for (const response of responses) {
    response.end(response.req.url);
    replies.push(await client.reply());
  }

  assert.deepEqual(
    replies.map(({ body }) => body),
    ['/1', '/2', '/3'],
  );
  assert.deepEqual(replies.map(saysClose), [false, false, true]);
  assertCounts(await report, { announced: 1 });
});

test('the same, answered the other way round: all are sent in order, and the next request is announced', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/1') + GET('/2') + GET('/3'));
  const responses = [await desk.next(), await desk.next(), await desk.next()].map(([, response]) => response);

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  for (const response of responses.reverse()) response.end(response.req.url);
  const replies = [await client.reply(), await client.reply(), await client.reply()];
  client.write(GET('/4') + GET('/5'));
  for (let count = 0; count < 2; count++) {
    const [, response] = await desk.next();
    response.end(response.req.url);
    replies.push(await client.reply());
  }

  assert.deepEqual(
    replies.map(({ body }) => body),
    ['/1', '/2', '/3', '/4', '/5'],
  );
  assert.deepEqual(replies.map(saysClose), [false, false, false, false, true]);
  assertCounts(await report, { announced: 1 });
});

test('a batch in flight and another request before its last answer: close on that', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/1') + GET('/2'));
  const [, first] = await desk.next();
  const [, second] = await desk.next();

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  client.write(GET('/3'));
  const [, third] = await desk.next();
  const replies: Reply[] = [];
  for (const response of [first, second, third]) {
    response.end(response.req.url);
    replies.push(await client.reply());
  }

  assert.deepEqual(replies.map(saysClose), [false, false, true]);
  assertCounts(await report, { announced: 1 });
});

test('half a request behind the one that is answered: no announcement yet, it comes with the other half', async (t) => {
  const desk = await startDesk(t, prompt());
  using client = await desk.connect();
  const report = drain(desk.server, { idleGrace: 50, timeout: LONG });
  await begun(desk.server);

  client.write(GET('/1') + GET('/2').slice(0, 9));
  const first = await client.reply();
  await new Promise((resolve) => setTimeout(resolve, 200)); // several graces: half a request has until the deadline
  client.write(GET('/2').slice(9));
  const second = await client.reply();

  assert.deepEqual([saysClose(first), saysClose(second)], [false, true]);
  assert.equal(second.body, 'answer to /2\n');
  assertCounts(await report, { announced: 1 });
});

test('what comes behind an announced response is not processed: its client will ask again elsewhere', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/1'));
  const [, response] = await desk.next();
  const report = drain(desk.server, { timeout: LONG });
  await begun(desk.server);
  response.writeHead(200, { 'Content-Length': 4 });
  response.flushHeaders();

  client.write(POST('/2', 'twice is once too often'));
  await once(client.socket, 'data');
  await turn();
  response.end('done');
  const reply = await client.reply();

  assert.equal(reply.body, 'done');
  assert.equal(saysClose(reply), true);
  assertCounts(await report, { announced: 1 });
  assert.equal(desk.waiting, 0);
});

test('headers of the user that say keep-alive give way, however they are given', async (t) => {
  const ways: Record<string, (response: http.ServerResponse) => void> = {
    setHeader: (response) =>
      response.setHeader('connection', 'keep-alive').setHeader('Keep-Alive', 'timeout=9').end('ok'),
    object: (response) => response.writeHead(200, { CONNECTION: 'keep-alive', 'X-Kept': 'yes' }).end('ok'),
    text: (response) => response.writeHead(200, 'Fine', { Connection: 'Keep-Alive', 'X-Kept': 'yes' }).end('ok'),
    flat: (response) => response.writeHead(200, ['Connection', 'keep-alive', 'X-Kept', 'yes']).end('ok'),
    pairs: (response) =>
      response
        .writeHead(200, [
          ['Connection', 'keep-alive'],
          ['X-Kept', 'yes'],
        ] as never)
        .end('ok'),
    both: (response) => response.setHeader('Connection', 'keep-alive').writeHead(200, { 'X-Kept': 'yes' }).end('ok'),
    shouldKeepAlive: (response) => {
      response.shouldKeepAlive = true;
      response.end('ok');
    },
  };
  for (const [way, answer] of Object.entries(ways)) {
    const desk = await startDesk(t);
    using client = await desk.connect();
    client.write(GET('/'));
    const [, response] = await desk.next();
    const report = drain(desk.server, { timeout: LONG });
    await begun(desk.server);
    answer(response);
    const reply = await client.reply();

    assert.equal(reply.headers.get('connection'), 'close', way);
    assert.equal(reply.headers.has('keep-alive'), false, way);
    assert.equal(reply.body, 'ok', way);
    if (!['setHeader', 'shouldKeepAlive'].includes(way)) assert.equal(reply.headers.get('x-kept'), 'yes', way);
    assertCounts(await report, { announced: 1 });
  }
});

test('a slow upload finishes, is answered and announced', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(POST('/', 'x'.repeat(10)).slice(0, -7));
  const [request, response] = await desk.next();
  let body = '';
  request.setEncoding('latin1').on('data', (text) => (body += text));

  const report = drain(desk.server, { idleGrace: 1, timeout: LONG });
  await begun(desk.server);
  client.write('xxx');
  await once(request, 'data');
  client.write('xxxx');
  await once(request, 'end');
  response.end(String(body.length));
  const reply = await client.reply();

  assert.deepEqual([reply.body, saysClose(reply)], ['10', true]);
  assertCounts(await report, { announced: 1 });
});

test('a chunked upload that begins during the drain finishes, is answered and announced', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);

  client.write('POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n');
  const [request, response] = await desk.next();
  request.resume();
  client.write('0\r\n\r\n');
  await once(request, 'end');
  response.end('thanks');
  const reply = await client.reply();

  assert.deepEqual([reply.body, saysClose(reply)], ['thanks', true]);
  assertCounts(await report, { announced: 1 });
});

test('an answer before the end of the upload is no announcement, which would reset the upload; the next answer is', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(POST('/1', 'x'.repeat(100_000)).slice(0, 50_000));
  const [, first] = await desk.next();
  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  first.writeHead(413).end('too much');
  const refused = await client.reply();
  client.write(POST('/1', 'x'.repeat(100_000)).slice(50_000));
  client.write(GET('/2'));
  const [, second] = await desk.next();
  second.end('fine');
  const reply = await client.reply();

  assert.deepEqual([refused.status, saysClose(refused)], [413, false]);
  assert.deepEqual([reply.body, saysClose(reply)], ['fine', true]);
  assert.equal(await client.ended(), 'eof');
  assertCounts(await report, { announced: 1 });
});

test('a response that is half written when the drain begins finishes; the next on its connection is announced', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/1'));
  const [, response] = await desk.next();
  response.write('first half, ');
  await once(client.socket, 'data');

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  response.end('second half');
  const first = await client.reply();
  client.write(GET('/2'));
  (await desk.next())[1].end('next');
  const second = await client.reply();

  assert.deepEqual([first.body, saysClose(first)], ['first half, second half', false]);
  assert.deepEqual([second.body, saysClose(second)], ['next', true]);
  assertCounts(await report, { announced: 1 });
});

test('a response that is half written, and no next request: its grace begins at its end', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  client.write(GET('/1'));
  const [, response] = await desk.next();
  response.write('half, ');
  const report = drain(desk.server, { idleGrace: 50, timeout: LONG });
  await new Promise((resolve) => setTimeout(resolve, 150));

  const finished = performance.now();
  response.end('whole');
  assert.equal((await client.reply()).body, 'half, whole');
  assert.equal(await client.ended(), 'eof');

  assert.ok(performance.now() - finished >= 45);
  assertCounts(await report, { closedIdle: 1 });
});

test('checkContinue: continued, uploaded, answered and announced', async (t) => {
  const desk = await startDesk(t);
  desk.server.on('checkContinue', (request: http.IncomingMessage, response: http.ServerResponse) => {
    response.writeContinue();
    request.resume().once('end', () => response.end('thanks'));
  });
  using client = await desk.connect();
  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);

  client.write('PUT / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n');
  const interim = await client.reply();
  client.write('hello');
  const reply = await client.reply();

  assert.equal(interim.status, 100);
  assert.deepEqual([reply.body, saysClose(reply)], ['thanks', true]);
  assertCounts(await report, { announced: 1 });
});

test('at the deadline what is left is destroyed and counted', async (t) => {
  const desk = await startDesk(t);
  using busy = await desk.connect();
  busy.write(GET('/'));
  const [request] = await desk.next();
  using half = await desk.connect();
  half.write('GET / HT');
  using idle = await desk.connect();
  await turn();
  request.on('error', () => undefined);

  const report = await drain(desk.server, { idleGrace: LONG, timeout: 100 });

  for (const client of [busy, half, idle]) assert.ok(await client.ended());
  assertCounts(report, { forced: 3 });
  assert.ok(report.duration >= 95);
  assert.deepEqual(desk.closes, [1]);
});

test('an upgraded connection and a CONNECT tunnel are left alone, and forced at the deadline', async (t) => {
  const desk = await startDesk(t);
  const echo = (_request: http.IncomingMessage, socket: NodeJS.ReadWriteStream): void => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
    socket.on('error', () => undefined);
    socket.pipe(socket);
  };
  desk.server.on('upgrade', echo).on('connect', echo);
  const hello = 'Host: localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n';
  using early = await desk.connect();
  early.write(`GET / HTTP/1.1\r\n${hello}`);
  await early.reply();
  using tunnel = await desk.connect();
  tunnel.write('CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await tunnel.reply();
  using leaver = await desk.connect();
  leaver.write(`GET / HTTP/1.1\r\n${hello}`);
  await leaver.reply();
  using fresh = await desk.connect();
  await turn();

  const report = drain(desk.server, { idleGrace: 50, timeout: 400 });
  await begun(desk.server);
  fresh.write(`GET / HTTP/1.1\r\n${hello}`);
  await fresh.reply();
  leaver.close();
  await new Promise((resolve) => setTimeout(resolve, 150)); // past the grace
  for (const client of [early, tunnel, fresh]) {
    client.write('still here?');
    while (!client.received.includes('still here?')) await once(client.socket, 'data');
  }

  assertCounts(await report, { finished: 1, forced: 3 });
});

test('clients that leave by themselves are finished; two connections, each counted once', async (t) => {
  const desk = await startDesk(t);
  using idle = await desk.connect();
  idle.write(GET('/'));
  (await desk.next())[1].end();
  await idle.reply();
  using busy = await desk.connect();
  busy.write(GET('/'));
  const [request] = await desk.next();
  request.on('error', () => undefined);

  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);
  idle.socket.end();
  busy.close();

  assertCounts(await report, { finished: 2 });
});

test('a request that is in the kernel when the grace ends wins', async (t) => {
  const desk = await startDesk(t, prompt());
  const clients = await Promise.all(Array.from({ length: 40 }, () => desk.connect()));
  for (const client of clients) await client.request('/before');

  const report = drain(desk.server, { idleGrace: 60, timeout: LONG });
  await begun(desk.server);
  // Block the loop over the end of the grace, where timers come next: every request waits in the kernel then.
  await turn();
  const requests = clients.map((client) => client.request('/now'));
  const until = performance.now() + 100;
  while (performance.now() < until);
  const replies = await Promise.all(requests);

  assert.ok(replies.every((reply) => saysClose(reply)));
  assertCounts(await report, { announced: 40 });
  for (const client of clients) client.close();
});

test('clients that write headers in unusual ways are announced to as well', async (t) => {
  const spellings: Record<string, string> = {
    'no space': 'GET / HTTP/1.1\r\nHost:localhost\r\nX-A:1\r\n\r\n',
    'many spaces': 'GET / HTTP/1.1\r\nHost:    localhost  \r\nX-A:\t1\r\n\r\n',
    trailers:
      'POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n2\r\nhi\r\n0\r\nX-A: 1\r\n\r\n',
  };
  for (const [spelling, bytes] of Object.entries(spellings)) {
    const desk = await startDesk(t, prompt());
    using client = await desk.connect();
    client.write(bytes);
    assert.equal(saysClose(await client.reply()), false, spelling);
    const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
    await begun(desk.server);

    client.write(bytes + bytes);
    const replies = [await client.reply(), await client.reply()];

    assert.deepEqual(replies.map(saysClose), [false, true], spelling);
    assertCounts(await report, { announced: 1 });
  }
});

test('a client that sends its request and half-closes at once gets its answer, and the others too', async (t) => {
  const desk = await startDesk(t, prompt());
  using client = await desk.connect();
  const report = drain(desk.server, { idleGrace: LONG, timeout: LONG });
  await begun(desk.server);

  client.socket.end(GET('/last'));
  const reply = await client.reply();

  assert.equal(reply.body, 'answer to /last\n');
  assert.equal(await client.ended(), 'eof');
  await report;
});

test('the server goes on as before when the drain is over: nothing of ours is left on it', async (t) => {
  const server = prompt();
  server.keepAliveTimeout = LONG;
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.after(() => server.close());
  const own = Reflect.ownKeys(server).filter((key) => typeof key === 'string' && !key.startsWith('_'));
  await drain(server);

  assert.deepEqual(
    Reflect.ownKeys(server).filter((key) => typeof key === 'string' && !key.startsWith('_')),
    own,
  );
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  using client = await Connection.open({ port: (server.address() as net.AddressInfo).port });
  const reply = await client.request();
  assert.equal(saysClose(reply), false);
  client.close();
  assertCounts(await drain(server), { finished: 1 });
});

/** All that a TLS client gets until the end. */
async function secureExchange(port: number, write: (socket: tls.TLSSocket) => void): Promise<string> {
  const socket = tls.connect({ port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['http/1.1'] });
  await once(socket, 'secureConnect');
  let all = '';
  socket.setEncoding('latin1').on('data', (text) => (all += text));
  write(socket);
  await once(socket, 'close');
  return all;
}

const secure: Record<string, () => net.Server> = {
  https: () => https.createServer(certificate),
  'secure http2 that allows HTTP/1': () => http2.createSecureServer({ ...certificate, allowHTTP1: true }),
};
for (const [kind, create] of Object.entries(secure)) {
  test(`${kind}: in flight, pipelined, idle, silent in the handshake and half a request, as without TLS`, async (t) => {
    using socket = new ListeningSocket();
    const server = create();
    const answers: http.ServerResponse[] = [];
    const inFlight = new Promise<void>((resolve) => {
      server.on('request', (request: http.IncomingMessage, response: http.ServerResponse) => {
        if (request.url === '/slow') answers.push(response);
        else response.end(`answer to ${request.url}`);
        if (answers.length === 2) resolve();
      });
    });
    t.after(() => server.close());
    await new Serving(server, socket).start();
    const port = socket.port;
    const slow = [1, 2].map(() => secureExchange(port, (client) => client.write(GET('/slow'))));
    await inFlight;
    let drainBegan = (): void => undefined;
    const drainHasBegun = new Promise<void>((resolve) => (drainBegan = resolve));
    let batchWaits = (): void => undefined;
    const batchIsWaiting = new Promise<void>((resolve) => (batchWaits = resolve));
    const batch = secureExchange(port, (client) => {
      client.write(GET('/a'));
      client.once('data', () => {
        batchWaits();
        void drainHasBegun.then(() => client.write(GET('/b') + GET('/c')));
      });
    });
    const idle = secureExchange(port, (client) => client.write(GET('/d')));
    using silent = await Connection.open({ port }); // never says hello
    const idleAnswered = new Promise<void>((resolve) => {
      server.on('request', (request: http.IncomingMessage, response: http.ServerResponse) => {
        if (request.url === '/d') response.once('finish', resolve);
      });
    });
    await Promise.all([batchIsWaiting, idleAnswered]);
    const half = secureExchange(port, (client) => client.write(GET('/e').slice(0, 7)));
    await once(server, 'secureConnection');

    const drained = drain(server, { idleGrace: 150, timeout: 700 });
    await begun(server);
    drainBegan();
    for (const response of answers) response.end('slow answer');

    for (const text of await Promise.all(slow)) {
      assert.match(text, /^HTTP\/1\.1 200 OK\r\n/);
      assert.match(text, /\r\nConnection: close\r\n/);
      assert.match(text, /slow answer/);
    }
    const replies = (await batch).split(/(?=HTTP\/1\.1 200 OK)/);
    assert.deepEqual(
      replies.map((text) => /\r\nConnection: close\r\n/.test(text)),
      [false, false, true],
    );
    assert.deepEqual(
      replies.map((text) => /answer to (.*)/.exec(text)?.[1]?.trim()),
      ['/a', '/b', '/c'],
    );
    assert.match(await idle, /answer to \/d/);
    assert.equal(await silent.ended(), 'eof');
    assert.equal(await half, '');
    assertCounts(await drained, { announced: 3, closedIdle: 2, forced: 1 });
  });
}

test('Node tells between requests from in the middle of one, and nothing is closed by the question', async (t) => {
  const desk = await startDesk(t);
  using client = await desk.connect();
  assert.equal(httpSockets(http.createServer(), 'idle'), undefined);
  client.write(GET('/'));
  const [request, response] = await desk.next();
  await turn();

  assert.equal(httpSockets(desk.server, 'all')?.has(request.socket), true);
  assert.equal(httpSockets(desk.server, 'between')?.has(request.socket), true);
  assert.equal(httpSockets(desk.server, 'idle')?.has(request.socket), false); // its response is not out
  client.write('GET');
  await new Promise<void>((resolve) => {
    const look = (): void => (request.socket.bytesRead > GET('/').length ? resolve() : void setImmediate(look));
    look();
  });
  assert.equal(httpSockets(desk.server, 'between')?.has(request.socket), false);
  response.end('still open');
  assert.equal((await client.reply()).body, 'still open');
  assert.equal(httpSockets(desk.server, 'idle')?.has(request.socket), false);
  client.write(' / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  (await desk.next())[1].end();
  await client.reply();

  assert.equal(httpSockets(desk.server, 'idle')?.has(request.socket), true);
});

test('requestSize: the bytes of a request', () => {
  const request = (given: object): http.IncomingMessage =>
    ({ method: 'GET', url: '/', rawHeaders: [], headers: {}, ...given }) as never;
  assert.equal(requestSize(request({})), 'GET / HTTP/1.1\r\n\r\n'.length);
  assert.equal(
    requestSize(request({ rawHeaders: ['Host', 'a', 'B', ''] })),
    'GET / HTTP/1.1\r\nHost: a\r\nB: \r\n\r\n'.length,
  );
  assert.equal(requestSize(request({ headers: { 'content-length': '7' } })), 'GET / HTTP/1.1\r\n\r\n1234567'.length);
  assert.equal(requestSize(request({ headers: { 'transfer-encoding': 'chunked' } })), undefined);
});

test('withConnectionClose: other options of the header stay', () => {
  const response = new http.ServerResponse(new http.IncomingMessage(new net.Socket()));
  assert.deepEqual(withConnectionClose(response, [426, { Connection: 'Upgrade, keep-alive', Upgrade: 'h2c' }]), [
    426,
    { Upgrade: 'h2c', Connection: 'close, Upgrade' },
  ]);
  response.setHeader('Connection', ['Upgrade', 'Close']);
  assert.deepEqual(withConnectionClose(response, [426]), [426]);
  assert.equal(response.getHeader('connection'), 'close, Upgrade');
});
