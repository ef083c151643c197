import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { auditDescriptors, openSockets, readProcess } from '../support/audit.js';
import { Connection } from '../support/client.js';
import { temporaryDirectory } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { otherAddresses, reportOf, restarted, startMoving } from './drive.js';

const WEB = { name: 'web', host: '127.0.0.1', port: 0 };

async function connections(port: number, count: number): Promise<Connection[]> {
  const clients = await Promise.all(Array.from({ length: count }, () => Connection.open({ port })));
  for (const client of clients) await client.request();
  return clients;
}

test('a successor that is killed in the middle of the move: what it had not answered for is served by the old one', async (t) => {
  const server = await startMoving(t, { AT: 'adopted:400:kill:2' });
  const clients = await connections(server.port, 1000);
  const old = server.newest;

  const from = server.lines.length;
  await server.restart();
  await server.gone(server.newest);
  // Whoever was adopted has died with it, as in any crash. All others are asked, and answered: by the old process, which says close.
  let alive = 0;
  for (const client of clients) {
    if (client.ending !== undefined) continue;
    const reply = await client.request().catch(() => undefined);
    if (reply?.body === `${old}\n`) alive++;
  }
  const report = await reportOf(server, old, from);

  const { moved, announced, refusedToMove } = report;
  assert.equal(alive + moved, 1000, `${alive} of 1000 were served; ${JSON.stringify(report)}`);
  assert.ok(moved < 400 + 250, JSON.stringify(report)); // it answers for a batch when the one before is with its server
  assert.ok(announced <= alive);
  assert.ok(
    Object.keys(refusedToMove).some((reason) => /ended/.test(reason)),
    JSON.stringify(refusedToMove),
  );
  for (const client of clients) client.close();
});

test('a successor that freezes in the middle of the move, and thaws: every connection is answered, by one of the two', async (t) => {
  const server = await startMoving(t, { AT: 'adopted:300:stop:2', TIMEOUT: '2000' });
  const clients = await connections(server.port, 800);
  const old = server.newest;

  const from = server.lines.length;
  await server.restart();
  const frozen = server.newest;
  while (readProcess(frozen)?.state !== 'T') await delay(5); // a stop has no event
  const replies = clients.map((client) => client.request());
  await reportOf(server, old, from); // its deadline comes; silence gave nothing back
  server.signal('SIGCONT', frozen);

  // What the old one still had was announced and answered by it, or forced at its deadline; what it had sent is answered now.
  const bodies = await Promise.all(
    replies.map((reply) =>
      reply.then(
        ({ body }) => body,
        () => 'ended',
      ),
    ),
  );
  const count = (body: string): number => bodies.filter((each) => each === body).length;
  assert.equal(count(`${old}\n`) + count(`${frozen}\n`) + count('ended'), 800);
  assert.ok(count(`${frozen}\n`) >= 500, `${count(`${frozen}\n`)} by the successor`);
  assert.equal(count('ended'), 0);
  for (const client of clients) client.close();
});

test('a successor out of descriptors: it takes what it can, the rest is drained by the old one, no request is lost', async (t) => {
  const server = await startMoving(t, {});
  const clients = await connections(server.port, 400);
  const old = server.newest;
  const from = server.lines.length;

  // The limit is inherited by the successor: room for its own descriptors, and for some of the 400
  const { status, stderr } = spawnSync('prlimit', [`--pid=${old}`, '--nofile=600:600']);
  if (status !== 0) {
    t.skip(`prlimit does not work here: ${String(stderr)}`);
    return;
  }
  await server.restart();
  const successor = server.newest;
  spawnSync('prlimit', [`--pid=${successor}`, '--nofile=200:200']);
  const bodies = await Promise.all(clients.map((client) => client.request().then(({ body }) => body)));
  const { moved, refusedToMove } = await reportOf(server, old, from);

  assert.ok(bodies.every((body) => body === `${old}\n` || body === `${successor}\n`));
  assert.ok(moved <= 400, JSON.stringify(refusedToMove));
  t.diagnostic(JSON.stringify({ moved, refusedToMove }));
  for (const client of clients) client.close();
});

test('restarts closer together than a drain: what a generation still sends is adopted, and moved on', async (t) => {
  const server = await startMoving(t);
  const [slow, idle] = await connections(server.port, 2);
  assert.ok(slow && idle);
  const first = server.newest;
  slow.write('GET /slow?ms=1500 HTTP/1.1\r\nHost: a\r\n\r\n');

  await server.restart();
  const second = server.newest;
  await server.waitFor(`pid ${second} is alone`, { from: 0 });
  await server.restart();
  const third = server.newest;
  await server.waitFor(`pid ${third} is alone`, { from: 0 });
  assert.equal((await slow.reply()).body, `${first}\n`);
  const reports = [await reportOf(server, first), await reportOf(server, second)];

  assert.equal((await slow.request()).body, `${third}\n`);
  assert.equal((await idle.request()).body, `${third}\n`);
  assert.deepEqual(
    reports.map(({ moved }) => moved),
    [2, 2],
  );
  assert.deepEqual(
    server.running().map(({ pid }) => pid),
    [third],
  );
  slow.close();
  idle.close();
});

test('a successor that is asked to stop while connections come: it finishes what it has, the old one keeps the rest', async (t) => {
  const server = await startMoving(t);
  const [slow, idle] = await connections(server.port, 2);
  assert.ok(slow && idle);
  const first = server.newest;
  slow.write('GET /slow?ms=600 HTTP/1.1\r\nHost: a\r\n\r\n');
  await server.restart();
  const second = server.newest;
  await server.waitFor(`pid ${second} is alone`, { from: 0 });
  while ((await idle.request()).body !== `${second}\n`); // it is answered all the time

  server.signal('SIGTERM', second);
  const reply = await slow.reply();

  assert.equal(reply.body, `${first}\n`);
  assert.equal(reply.headers.get('connection'), 'close');
  const { refusedToMove } = await reportOf(server, first);
  assert.deepEqual(refusedToMove, { 'the successor ended': 1 });
  await server.gone(second);
  slow.close();
  idle.close();
});

test('ten restarts leave the same descriptors, in number and kind, and one descriptor a connection', async (t) => {
  const server = await startMoving(t);
  const clients = await connections(server.port, 20);
  const seen: string[][] = [];
  for (let i = 0; i < 10; i++) {
    await restarted(server);
    for (const client of clients.slice(0, 10)) await client.request(); // the others stay silent
    const { newest } = server;
    seen.push(
      auditDescriptors(newest).map((line) => line.replace(/^\d+ (\w+):\[\d+\]/, '$1').replace(' nonblock', '')),
    );
    const open = openSockets(newest).filter(({ protocol, state }) => protocol === 'tcp' && state === 'ESTABLISHED');
    assert.equal(open.length, clients.length);
  }

  for (const each of seen.slice(2)) assert.deepEqual(each.sort(), seen[1]?.sort());
  for (const client of clients) client.close();
});

test('clients over a Unix socket move as well', async (t) => {
  const socket = path.join(temporaryDirectory(t), 'web.sock');
  const server = await startMoving(t, { LISTENERS: JSON.stringify([{ name: 'web', path: socket }]) });
  using client = await Connection.open({ path: socket });
  assert.equal((await client.request()).body, `${server.newest}\n`);

  const { moved } = await restarted(server);

  assert.equal((await client.request()).body, `${server.newest}\n`);
  assert.equal(moved, 1);
});

test('several listeners: each connection finds its own server; one that is not served any more stays, raw ones too', async (t) => {
  const names = ['web', 'other', 'lines', 'raw'];
  const LISTENERS = JSON.stringify(names.map((name) => ({ ...WEB, name })));
  const server = await startMoving(t, { LISTENERS, SKIP: 'other', SKIP_FROM: '2', TIMEOUT: '1500' });
  const [other, lines, raw] = await otherAddresses(server);
  assert.ok(other && lines && raw);
  using web = await Connection.open({ port: server.port });
  using second = await Connection.open(other);
  using third = await Connection.open(lines);
  using fourth = await Connection.open(raw);
  const old = server.newest;
  await web.request();
  await second.request();
  third.write('a\n');
  fourth.write('echo');
  while (!third.received.includes('\n')) await once(third.socket, 'data');
  while (!fourth.received.includes('echo')) await once(fourth.socket, 'data');

  const from = server.lines.length;
  await server.restart();
  await server.waitFor(`pid ${server.newest} is alone`, { from });
  await delay(50);
  assert.equal((await second.request()).body, `${old}\n`);
  third.write('b\n');
  while (!third.received.includes(`1 ${server.newest} b`)) await once(third.socket, 'data');
  assert.equal((await web.request()).body, `${server.newest}\n`);
  const { moved, announced, forced, refusedToMove } = await reportOf(server, old, from);

  assert.deepEqual({ moved, announced, forced }, { moved: 2, announced: 1, forced: 1 });
  assert.deepEqual(refusedToMove, { 'refused by the successor': 1, raw: 1 });
});

test('no shutdown(2) reaches a connection that moves: what the old process says to the kernel', async (t) => {
  const directory = temporaryDirectory(t);
  const server = await startMoving(t);
  const clients = await connections(server.port, 50);
  const old = server.newest;
  const file = path.join(directory, 'trace');
  const tracer = spawn('strace', ['-y', '-e', 'trace=shutdown,close,connect', '-o', file, '-p', String(old)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  tracer.on('error', () => undefined);
  t.after(() => tracer.kill());
  const [said] = (await Promise.race([once(tracer.stderr, 'data'), once(tracer, 'error'), once(tracer, 'exit')])) as [
    unknown,
  ];
  if (!String(said).includes('attached')) {
    t.skip(`strace does not work here: ${String(said)}`);
    return;
  }

  const { moved } = await restarted(server);
  if (tracer.exitCode === null && tracer.signalCode === null) await once(tracer, 'exit');

  const trace = readFileSync(file, 'utf8'); // of the main thread, which does all that concerns sockets
  const shutdowns = trace.split('\n').filter((line) => /\bshutdown\(/.test(line));
  assert.deepEqual(shutdowns, []);
  assert.ok((trace.match(/close\(\d+<(?:TCP|socket)/g) ?? []).length >= moved, 'the trace shows no closes');
  for (const client of clients) assert.equal(client.ending, undefined);
  for (const client of clients) client.close();
});

test('a load of pipelines, split requests and bodies over restarts: no reply is wrong, nobody is disconnected', async (t) => {
  const server = await startMoving(t);
  let isOver = false;
  const failures: string[] = [];
  let replies = 0;
  const talk = async (id: number): Promise<void> => {
    using client = await Connection.open({ port: server.port });
    for (let n = 0; !isOver; n++) {
      const body = `${id}:${n}:${'b'.repeat(n % 50)}`;
      const post = `POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
      const get = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n';
      const kind = (id + n) % 4;
      if (kind === 0) client.write(post + get);
      else if (kind === 1) {
        const cut = 1 + ((id * 7 + n * 13) % (post.length - 1));
        client.write(post.slice(0, cut));
        await delay(n % 3);
        client.write(post.slice(cut));
      } else client.write(post);
      const reply = await client.reply();
      if (reply.body !== body) failures.push(`${reply.body} instead of ${body}`);
      if (kind === 0) await client.reply();
      replies++;
      if (client.ending !== undefined) failures.push(`client ${id}: ${client.ending}`);
    }
  };

  const clients = Array.from({ length: 40 }, (_, id) =>
    talk(id).catch((error: unknown) => {
      failures.push(`client ${id}: ${String(error)}`);
      isOver = true;
    }),
  );
  let moved = 0;
  for (let i = 0; i < 10 && failures.length === 0; i++) {
    const { moved: now, refusedToMove, announced } = await restarted(server);
    moved += now;
    assert.deepEqual({ refusedToMove, announced }, { refusedToMove: {}, announced: 0 });
  }
  isOver = true;
  await Promise.all(clients);

  assert.deepEqual(failures, []);
  assert.ok(moved >= 300, `${moved} moved`);
  t.diagnostic(`${replies} replies, ${moved} moves`);
});

test('move: false drains as before: announced or closed, and nothing moves', async (t) => {
  const server = await startMoving(t, { MOVE: 'no' });
  const load = startLoad({ port: server.port, keepAlive: 8, requestsPerSecond: 20 });
  await load.waitForReply('a reply', () => true);

  const { moved, refusedToMove } = await restarted(server);

  const { keepAlive } = await load.stop();
  assert.deepEqual({ moved, refusedToMove }, { moved: 0, refusedToMove: {} });
  assert.ok(keepAlive.announced + keepAlive.closedIdle >= 1);
  assert.equal(keepAlive.lost, 0);
});
