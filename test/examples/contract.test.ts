/** What examples/http.mjs and examples/tcp.mjs promise: others build on them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Connection, get } from '../support/client.js';
import { type Family, startServer } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { assertNobody, example, isListening, Loop, until } from './support.js';

const HTTP = example('http.mjs');
const TCP = example('tcp.mjs');
const HALF = 'GET / HTTP/1.1\r\n';
const REST = 'Host: localhost\r\n\r\n';

/** A connection that has sent half a request; the process has accepted it, for it has answered one on it before. */
async function halfRequest(server: Family): Promise<Connection> {
  const connection = await Connection.open({ port: server.port });
  const { body } = await connection.request();
  assert.equal(body, `${server.newest}\n`);
  return connection.write(HALF);
}

test('http.mjs: 200, Content-Length, the pid and a newline; on 127.0.0.1; again and again on one connection', async (t) => {
  const server = await startServer(t, HTTP);
  using connection = await Connection.open({ port: server.port });

  const replies = [await connection.request(), await connection.request('/anything')];

  for (const { status, headers, body } of replies) {
    assert.equal(status, 200);
    assert.equal(body, `${server.pid}\n`);
    assert.equal(headers.get('content-length'), String(body.length));
    assert.equal(headers.get('connection'), 'keep-alive');
  }
  assert.match(server.address, /^127\.0\.0\.1:\d+$/);
});

test('http.mjs: SIGUSR2 to the newest restarts, again and again; nothing is lost, the old ones exit with 0', async (t) => {
  const server = await startServer(t, HTTP);
  const load = startLoad({ port: server.port, newPerSecond: 100, keepAlive: 4, requestsPerSecond: 10 });

  for (let generation = 2; generation <= 4; generation++) {
    const old = server.newest;
    const { pid, generation: number } = await server.restart();
    assert.equal(number, generation);
    await load.waitForReply('a reply of the newest', (reply) => reply.pid === pid);
    await server.gone(old);
    assert.equal(await get(server.url), `${pid}\n`);
  }

  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  assert.ok(report.keepAlive.ok > 0);
  assert.deepEqual(await server.exited, { code: 0, signal: null });
  await server.stop();
});

test('http.mjs: an old generation answers what has begun, and is gone then; the connection goes on in the new one', async (t) => {
  const server = await startServer(t, HTTP);
  using begun = await halfRequest(server);

  await server.restart();
  await until('the old one has let go', () => !isListening(server.pid));
  const { headers, body } = await begun.write(REST).reply();

  assert.equal(body, `${server.pid}\n`);
  assert.notEqual(headers.get('connection'), 'close');
  // A request that comes before the move is still answered here: never by both, and never by none.
  const answers: string[] = [];
  while (answers.at(-1) !== `${server.newest}\n`) {
    answers.push((await begun.request()).body);
    assert.ok(answers.length < 1_000, answers.at(-1));
  }
  assert.deepEqual(
    answers.slice(0, -1).filter((answer) => answer !== `${server.pid}\n`),
    [],
  );
  await server.gone(server.pid, 5_000); // a second or two, on a machine that has nothing else to do
  assert.deepEqual(await server.exited, { code: 0, signal: null });
});

test('http.mjs: SIGTERM refuses new connections, answers what has begun, and exits with 0', async (t) => {
  const server = await startServer(t, HTTP);
  using begun = await halfRequest(server);

  server.signal('SIGTERM');
  await until('nothing is accepted any more', () => !isListening(server.pid));
  await assert.rejects(get(server.url), { code: 'ECONNREFUSED' });
  const { headers, body } = await begun.write(REST).reply();

  assert.equal(body, `${server.pid}\n`);
  assert.equal(headers.get('connection'), 'close');
  assert.deepEqual(await server.exited, { code: 0, signal: null });
  assertNobody(server);
});

test('http.mjs: SIGTERM to a later generation ends it, and nobody is left', async (t) => {
  const server = await startServer(t, HTTP);
  await server.restart();
  await server.gone(server.pid);

  server.signal('SIGTERM');

  await server.gone(server.newest);
  assertNobody(server);
});

test('http.mjs: a port that is taken is an error that says so, and the process ends', async (t) => {
  const server = await startServer(t, HTTP);

  await assert.rejects(startServer(t, HTTP, { env: { PORT: String(server.port) } }), /EADDRINUSE.*listener "web"/s);
});

test('tcp.mjs: hello, its pid and the end; the connect loop sees no failure through restarts', async (t) => {
  const server = await startServer(t, TCP);
  const loop = new Loop(t, 'Node', server.port);
  await loop.begun();

  for (let restart = 0; restart < 3; restart++) {
    const old = server.newest;
    await server.restart();
    await server.gone(old);
  }

  loop.interrupt();
  const { code, lines } = await loop.ended();
  assert.equal(code, 0, lines.join('\n'));
  assert.deepEqual(
    lines.slice(0, -1),
    server.generations.map(({ pid }) => `hello ${pid}`),
  );
  assert.match(lines.at(-1) ?? '', /^ok \d+, failed 0$/);
  assert.deepEqual(await server.exited, { code: 0, signal: null });
  await server.stop();
});

test('tcp.mjs: SIGTERM waits for a client that has not ended its side, and exits with 0', async (t) => {
  const server = await startServer(t, TCP);
  using slow = await Connection.open({ port: server.port });
  await slow.ended();
  assert.equal(slow.received.toString(), `hello ${server.pid}\n`);

  server.signal('SIGTERM');
  await until('nothing is accepted any more', () => !isListening(server.pid));
  assert.equal(server.running().length, 1);
  slow.close();

  assert.deepEqual(await server.exited, { code: 0, signal: null });
});
