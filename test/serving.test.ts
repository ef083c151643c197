import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import dgram from 'node:dgram';
import { EventEmitter, once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import tls from 'node:tls';
import { promisify } from 'node:util';

import { intercept } from '../lib/intercept.js';
import * as raw from '../lib/raw.js';
import { isListening, Serving, servingOf, stopAccepting } from '../lib/serving.js';
import { auditDescriptors } from './support/audit.js';
import { certificate } from './support/certificate.js';
import { Connection, get } from './support/client.js';
import { temporaryDirectory } from './support/fixture.js';
import { ListeningSocket } from './support/socket.js';

/** What these tests could leave open. (A thread of Node's own may read certificates at the same time.) */
function openHere(): string[] {
  return auditDescriptors().filter((line) => /socket:|\/dev\/null/.test(line));
}

/** Every 'listening' and 'close' that a user of the server gets to see. */
function eventsOf(server: net.Server): string[] {
  const seen: string[] = [];
  for (const event of ['listening', 'close', 'error']) server.on(event, () => seen.push(event));
  return seen;
}

function listeningSocket(t: TestContext, backlog?: number): ListeningSocket {
  const socket = new ListeningSocket(backlog);
  t.after(() => {
    socket[Symbol.dispose]();
  });
  return socket;
}

const kinds: Record<string, () => net.Server> = {
  net: () => net.createServer((socket) => socket.end()),
  tls: () => tls.createServer(certificate, (socket) => socket.end()),
  http: () => http.createServer((_request, response) => response.end('served\n')),
  https: () => https.createServer(certificate, (_request, response) => response.end('served\n')),
  'clear text http2': () => http2.createServer((_request, response) => response.end('served\n')),
  'secure http2': () => http2.createSecureServer(certificate, (_request, response) => response.end('served\n')),
  'secure http2 that allows HTTP/1': () => http2.createSecureServer({ ...certificate, allowHTTP1: true }),
};

for (const [kind, create] of Object.entries(kinds)) {
  test(`${kind}: two pauses are unseen: one 'listening', one 'close', and nothing of ours is left on the server`, async (t) => {
    const socket = listeningSocket(t);
    const server = create();
    const seen = eventsOf(server);
    const descriptors = openHere();
    const serving = new Serving(server, socket);

    assert.equal(serving.state, 'attached');
    await serving.start();
    assert.equal(serving.state, 'accepting');
    for (let pauses = 0; pauses < 2; pauses++) {
      serving.pause();
      assert.equal(serving.state, 'paused');
      await turn();
      await serving.resume();
      assert.equal(serving.state, 'accepting');
    }
    assert.deepEqual(seen, ['listening']);
    assert.deepEqual([Object.hasOwn(server, 'emit'), Object.hasOwn(server, 'close')], [false, false]);
    serving.release();
    assert.equal(serving.state, 'released');
    await once(server, 'close');
    await turn();

    assert.deepEqual(seen, ['listening', 'close']);
    assert.deepEqual([Object.hasOwn(server, 'emit'), Object.hasOwn(server, 'close')], [false, false]);
    assert.deepEqual(openHere(), descriptors);
  });
}

test('a server that listens, or is attached already, is refused', async (t) => {
  const socket = listeningSocket(t);
  const listens = http.createServer().listen(0, '127.0.0.1');
  await once(listens, 'listening');
  const attached = http.createServer();
  const serving = new Serving(attached, socket);

  assert.throws(() => new Serving(listens, socket), { code: 'ERR_SERVER_ALREADY_LISTEN', message: /listens already/ });
  assert.throws(() => new Serving(attached, { dup: socket.dup, backlog: 1, label: 'listener "web"' }), {
    code: 'ERR_SERVER_ALREADY_LISTEN',
    message: /attached to a listener already.*\(listener "web"\)/,
  });
  assert.equal(servingOf(attached), serving);

  listens.close();
  serving.release();
  await once(attached, 'close');
  const again = new Serving(attached, socket);
  await again.start();
  assert.equal(servingOf(attached), again);
  again.release();
  await once(attached, 'close');
});

test('the type of the socket is checked against the server', (t) => {
  const socket = listeningSocket(t);
  const options = { dup: socket.dup, backlog: 1 };
  const datagrams = dgram.createSocket('udp4');
  t.after(() => datagrams.close());

  assert.throws(() => new Serving(http.createServer(), { ...options, type: 'dgram' }), {
    code: 'ERR_FDPASS_TYPE',
    expected: 'dgram',
    got: 'stream',
  });
  assert.throws(() => new Serving(datagrams, { ...options, type: 'stream' }), {
    code: 'ERR_FDPASS_TYPE',
    expected: 'stream',
    got: 'dgram',
  });
  assert.throws(() => new Serving(http.createServer(), { ...options, type: 'seqpacket' }), { code: 'ENOTSUP' });
  assert.throws(() => new Serving(Object.create(null) as net.Server, options), {
    code: 'ERR_FDPASS_TYPE',
    message: /not by \[Object: null prototype\]/,
  });
  assert.deepEqual(socket.given, []);
});

test('the queue of the socket keeps its length through start and resume', async (t) => {
  const socket = listeningSocket(t, 77);
  const serving = new Serving(http.createServer(), socket);

  await serving.start();
  assert.equal(raw.listenQueue(socket.fd).backlog, 77);
  serving.pause();
  await serving.resume();

  assert.equal(raw.listenQueue(socket.fd).backlog, 77);
  serving.release();
});

test('a pause leaves connections in peace, an idle keep-alive one too, and new ones wait in the queue', async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer((_request, response) => response.end('served\n'));
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);
  await serving.start();
  using idle = await Connection.open(socket);
  await idle.request();

  serving.pause();
  await turn();
  using waiting = await Connection.open(socket);
  const answer = waiting.request();
  assert.equal((await idle.request()).body, 'served\n');
  assert.equal(await promisify(server.getConnections.bind(server))(), 1);
  assert.equal(waiting.received.length, 0);
  await serving.resume();

  assert.equal((await answer).body, 'served\n');
  assert.deepEqual(seen, ['listening']);
  serving.release();
  idle.close();
  waiting.close();
  await once(server, 'close');
});

test("the last connection's end during a pause is no 'close'; a release after it is", async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer((_request, response) => response.end('served\n'));
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);
  await serving.start();
  using connection = await Connection.open(socket);
  await connection.request();

  serving.pause();
  connection.close();
  while ((await promisify(server.getConnections.bind(server))()) > 0) await turn();
  await turn();
  assert.deepEqual(seen, ['listening']);
  serving.release();
  await once(server, 'close');
  await turn();

  assert.deepEqual(seen, ['listening', 'close']);
});

test('pause, resume and release in one tick: one close, no descriptor left', async (t) => {
  const socket = listeningSocket(t);
  const before = openHere();
  const server = http.createServer();
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);

  const started = serving.start();
  serving.pause();
  const resumed = serving.resume();
  serving.pause();
  const again = serving.resume();
  serving.release();
  await Promise.all([started, resumed, again, once(server, 'close')]);
  await turn();

  assert.equal(seen.at(-1), 'close');
  assert.ok(seen.length <= 2); // with io_uring 'listening' may come first
  assert.deepEqual(openHere(), before);
});

test("a pause from the user's own 'listening' listener holds", async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer((_request, response) => response.end('served\n'));
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);
  server.once('listening', () => {
    serving.pause();
  });

  await serving.start();
  assert.equal(serving.state, 'paused');
  await serving.resume();

  assert.equal(await get(`http://127.0.0.1:${socket.port}/`), 'served\n');
  assert.deepEqual(seen, ['listening']);
  serving.release();
  await once(server, 'close');
});

for (const when of ['accepting', 'paused', 'released'] as const) {
  test(`server.close(callback) by the user while ${when}: called back once, without error, idle connections closed as ever`, async (t) => {
    const socket = listeningSocket(t);
    const server = http.createServer((_request, response) => response.end('served\n'));
    const seen = eventsOf(server);
    const serving = new Serving(server, socket);
    await serving.start();
    using idle = await Connection.open(socket);
    await idle.request();
    if (when === 'paused') serving.pause();
    if (when === 'released') serving.release();
    await turn();

    const calls: unknown[] = [];
    const closed = once(server, 'close');
    assert.equal(
      server.close((error) => calls.push(error)),
      server,
    );
    await closed;
    await turn();

    assert.equal(await idle.ended(), 'eof');
    assert.deepEqual(calls, [undefined]);
    assert.deepEqual(seen, ['listening', 'close']);
    assert.equal(serving.state, 'released');
    await serving.resume(); // too late, and no error
    assert.equal(server.listening, false);
  });

  test(`await using of a server while ${when} waits for its end`, async (t) => {
    const socket = listeningSocket(t);
    const server = net.createServer((connection) => connection.end('hello'));
    const seen = eventsOf(server);
    const serving = new Serving(server, socket);
    await serving.start();
    if (when === 'paused') serving.pause();
    if (when === 'released') serving.release();

    await server[Symbol.asyncDispose]();

    assert.deepEqual(seen, ['listening', 'close']);
  });
}

test("a release after the user's own close, while a connection lives: one 'close'", async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer((_request, response) => response.write('half'));
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);
  await serving.start();
  using connection = await Connection.open(socket);
  connection.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await once(connection.socket, 'data');

  server.close();
  assert.equal(serving.state, 'released');
  serving.release();
  connection.close();
  await once(server, 'close');
  await turn();

  assert.deepEqual(seen, ['listening', 'close']);
});

test('any order of start, pause, resume, release, close, turns and connections: at most one of each event, and nothing left', async (t) => {
  const socket = listeningSocket(t);
  const before = openHere();
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000) || 1;
  let random = seed;
  const pick = <Item>(items: readonly Item[]): Item => {
    random = (random * 48_271) % 2_147_483_647; // Lehmer's generator
    return items[random % items.length] as Item;
  };
  const steps = [
    'pause',
    'pause',
    'resume',
    'resume',
    'resume',
    'turn',
    'turn',
    'tick',
    'connect',
    'hang up',
    'start',
    'release',
    'close',
  ];

  for (let run = 0; run < 250; run++) {
    const server = http.createServer((_request, response) => response.end('served\n'));
    const seen = eventsOf(server);
    const serving = new Serving(server, socket);
    const calls: unknown[] = [];
    const clients: net.Socket[] = [];
    const waits = [serving.start()];
    const done: string[] = [];
    const closed = once(server, 'close');
    let closes = 0;
    const canClose = (): boolean => closes === 0 && !seen.includes('close') && ++closes === 1; // a second is Node's own affair
    for (let step = 0; step < 12; step++) {
      const what = pick(steps);
      done.push(what);
      if (what === 'pause') serving.pause();
      else if (what === 'resume') waits.push(serving.resume());
      else if (what === 'start') waits.push(serving.start());
      else if (what === 'turn') await turn();
      else if (what === 'tick') await Promise.resolve();
      else if (what === 'release' && pick([0, 1, 2]) === 0) serving.release();
      else if (what === 'close' && pick([0, 1, 2]) === 0 && canClose()) server.close((error) => calls.push(error));
      else if (what === 'connect' && serving.state === 'accepting') {
        const accepted = Promise.race([once(server, 'connection'), closed]);
        clients.push(net.connect(socket.port, '127.0.0.1').on('error', () => undefined));
        await accepted;
      } else if (what === 'hang up') clients.pop()?.destroy();
    }
    await Promise.all(waits);
    serving.release();
    for (const client of clients) client.destroy();
    await closed;
    await turn();
    await turn();

    const story = `SEED=${seed}, run ${run}: ${done.join(', ')}; seen ${seen.join(', ')}; called back with ${String(calls)}`;
    assert.ok(seen.join() === 'listening,close' || seen.join() === 'close', story);
    assert.ok(calls.length === closes && calls[0] === undefined, story);
    assert.deepEqual([Object.hasOwn(server, 'emit'), Object.hasOwn(server, 'close')], [false, false], story);
    assert.equal(serving.state, 'released', story);
  }
  while (openHere().length > before.length) await turn();
  assert.deepEqual(openHere(), before);
});

test("server.close() before the start is Node's own, and nothing starts afterwards", async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer();
  const serving = new Serving(server, socket);

  const [error] = await new Promise<unknown[]>((resolve) => server.close((...args) => resolve(args)));
  await serving.start();

  assert.equal((error as NodeJS.ErrnoException).code, 'ERR_SERVER_NOT_RUNNING');
  assert.equal(serving.state, 'released');
  assert.equal(server.listening, false);
  assert.deepEqual(socket.given, []);
});

test('a server that its user closes and lets listen again is as it was', async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer((_request, response) => response.end('served\n'));
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);
  await serving.start();
  serving.pause();
  await promisify(server.close.bind(server))();

  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  assert.equal(await get(`http://127.0.0.1:${(server.address() as net.AddressInfo).port}/`), 'served\n');
  await promisify(server.close.bind(server))();

  assert.deepEqual(seen, ['listening', 'close', 'listening', 'close']);
});

/** The first Node refuses before listen(2), and leaves open; the second listen(2) refuses, and Node closes. */
const failures: Record<string, () => number> = {
  'a file': () => fs.openSync('/dev/null', 'r'),
  'a socket that is connected': () => {
    const [fd, other] = raw.socketPair('stream');
    raw.close(other);
    return fd;
  },
  'a number that is not open': () => 9_999,
};
for (const [what, fd] of Object.entries(failures)) {
  test(`${what} for a descriptor: rejects, closes it once, emits no 'error', and can be tried again`, async (t) => {
    const socket = listeningSocket(t);
    const server = http.createServer();
    const seen = eventsOf(server);
    const before = openHere();
    let next: (() => number) | undefined = fd;
    const dup = (): number => (next ? next() : socket.dup());
    const serving = new Serving(server, { dup, backlog: 511, label: 'listener "web"' });

    await assert.rejects(serving.start(), { code: 'EINVAL', message: /listen.*\(listener "web"\)/ });
    assert.equal(serving.state, 'attached');
    assert.deepEqual(openHere(), before);
    next = undefined;
    await serving.start();

    assert.equal(serving.state, 'accepting');
    assert.deepEqual(seen, ['listening']);
    serving.release();
    await once(server, 'close');
  });
}

test('a resume that fails leaves the server paused', async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer();
  const seen = eventsOf(server);
  let fails = false;
  const serving = new Serving(server, {
    dup: () => (fails ? fs.openSync('/dev/null', 'r') : socket.dup()),
    backlog: 511,
  });
  await serving.start();
  serving.pause();
  fails = true;

  await assert.rejects(serving.resume(), { code: 'EINVAL' });
  assert.equal(serving.state, 'paused');
  fails = false;
  await serving.resume();

  assert.equal(serving.state, 'accepting');
  assert.deepEqual(seen, ['listening']);
  serving.release();
  await once(server, 'close');
});

test('connects without end, and a pause and resume every few ms: every one is answered', async (t) => {
  const socket = listeningSocket(t);
  const server = http.createServer((_request, response) => response.end('served\n'));
  const seen = eventsOf(server);
  const serving = new Serving(server, socket);
  await serving.start();
  let done = 0;
  let stop = false;
  const clients = Array.from({ length: 8 }, async () => {
    while (!stop) {
      assert.equal(await get(`http://127.0.0.1:${socket.port}/`), 'served\n');
      done++;
    }
  });
  const failed = Promise.all(clients);

  let pauses = 0;
  while (done < 1_500) {
    await Promise.race([turn(), failed]);
    serving.pause();
    pauses++;
    for (let turns = 0; turns < 3; turns++) await turn();
    await serving.resume();
    for (let turns = 0; turns < 20; turns++) await turn();
  }
  stop = true;
  await failed;

  assert.ok(pauses > 3);
  assert.deepEqual(seen, ['listening']);
  serving.release();
  await once(server, 'close');
});

test('two servers on one socket: while one pauses the other accepts', async (t) => {
  const socket = listeningSocket(t);
  const servings = ['a', 'b'].map(
    (name) =>
      new Serving(
        http.createServer((_request, response) => response.end(name)),
        socket,
      ),
  );
  await Promise.all(servings.map((serving) => serving.start()));

  servings[0]?.pause();
  await turn();
  for (let count = 0; count < 10; count++) assert.equal(await get(`http://127.0.0.1:${socket.port}/`), 'b');
  await servings[0]?.resume();
  servings[1]?.release();
  await turn();

  assert.equal(await get(`http://127.0.0.1:${socket.port}/`), 'a');
  servings[0]?.release();
});

test('stopAccepting of a server that listens by itself leaves connections in peace; one that never listened is left alone', async () => {
  const server = http.createServer((_request, response) => response.end('served\n'));
  const seen = eventsOf(server);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  using connection = await Connection.open({ port: (server.address() as net.AddressInfo).port });
  await connection.request();
  const untouched = http.createServer();
  const nothing = eventsOf(untouched);

  stopAccepting(server);
  stopAccepting(untouched);
  assert.equal(server.listening, false);
  assert.equal((await connection.request()).body, 'served\n');
  connection.close();
  await once(server, 'close');
  await turn();

  assert.deepEqual(seen, ['listening', 'close']);
  assert.deepEqual(nothing, []);
});

test('a dgram socket is bound, cannot be paused, and is closed by release', async (t) => {
  const bound = raw.socket('IPv4', 'dgram');
  t.after(() => raw.close(bound));
  raw.bind(bound, { family: 'IPv4', address: '127.0.0.1', port: 0 });
  const address = raw.localAddress(bound);
  assert.notEqual(address.family, 'unix');
  const socket = dgram.createSocket('udp4');
  const serving = new Serving(socket, { dup: () => raw.dup(bound), backlog: 0, type: 'dgram' });

  assert.equal(isListening(socket), false);
  await serving.start();
  assert.equal(serving.state, 'accepting');
  const got = once(socket, 'message');
  const client = dgram.createSocket('udp4');
  client.send('hello', 'port' in address ? address.port : 0, '127.0.0.1', () => client.close());
  const [message] = (await got) as [Buffer];
  assert.equal(message.toString(), 'hello');
  assert.throws(() => serving.pause(), { code: 'ENOTSUP' });
  assert.throws(() => new Serving(socket, { dup: () => raw.dup(bound), backlog: 0 }), {
    code: 'ERR_SERVER_ALREADY_LISTEN',
  });
  serving.release();
  await once(socket, 'close');

  assert.equal(serving.state, 'released');
  assert.equal(raw.describe(bound).kind, 'socket');
});

test('a dgram socket that cannot be bound to its descriptor: rejects, and closes it', async (t) => {
  const socket = dgram.createSocket('udp4');
  t.after(() => socket.close());
  const before = openHere();
  const serving = new Serving(socket, { dup: () => fs.openSync('/dev/null', 'r'), backlog: 0 });

  await assert.rejects(serving.start(), { code: 'ERR_INVALID_FD_TYPE' });

  assert.deepEqual(openHere(), before);
});

/** Runs a program in a process of its own; it finds our modules by url(path), relative to this file. */
function run(t: TestContext, program: string, env: Record<string, string> = {}): string {
  const file = path.join(temporaryDirectory(t), 'program.mjs');
  fs.writeFileSync(file, `const url = (path) => new URL(path, ${JSON.stringify(import.meta.url)}).href;\n${program}`);
  const options = { encoding: 'utf8', timeout: 20_000, env: { ...process.env, ...env } } as const;
  const { stdout, stderr } = spawnSync(process.execPath, [file], options);
  return stdout + stderr;
}

test("in a cluster worker the descriptor is this process's own, and the primary is not asked", (t) => {
  const program = `
    import cluster from 'node:cluster';
    import { once } from 'node:events';
    import http from 'node:http';
    if (cluster.isPrimary) {
      const worker = cluster.fork();
      cluster.on('listening', () => console.log('the primary was asked'));
      const [code] = await once(worker, 'exit');
      console.log('worker ended with ' + code);
    } else {
      const { Serving } = await import(url('../lib/serving.js'));
      const { ListeningSocket } = await import(url('./support/socket.js'));
      const { get } = await import(url('./support/client.js'));
      const socket = new ListeningSocket(33);
      const server = http.createServer((request, response) => response.end('worker'));
      const serving = new Serving(server, socket);
      await serving.start();
      console.log(await get('http://127.0.0.1:' + socket.port + '/'));
      serving.pause();
      await serving.resume();
      console.log(await get('http://127.0.0.1:' + socket.port + '/'));
      serving.release();
      await once(server, 'close');
      process.exit(7);
    }`;

  assert.equal(run(t, program), 'worker\nworker\nworker ended with 7\n');
});

test('with io_uring too a pause inside an event leaves nothing behind that wakes the loop', (t) => {
  const program = `
    import { once } from 'node:events';
    import http from 'node:http';
    import net from 'node:net';
    import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
    const { Serving } = await import(url('../lib/serving.js'));
    const { ListeningSocket } = await import(url('./support/socket.js'));
    const { get } = await import(url('./support/client.js'));
    const socket = new ListeningSocket();
    const address = 'http://127.0.0.1:' + socket.port + '/';
    const events = [];
    const server = http.createServer((request, response) => response.end('served'));
    for (const event of ['listening', 'close']) server.on(event, () => events.push(event));
    const serving = new Serving(server, socket);
    const started = serving.start();
    serving.pause(); // in the same tick
    await serving.resume();
    await started;
    serving.pause();
    await serving.resume();
    console.log(serving.state, await get(address));
    server.once('connection', () => serving.pause()); // inside an event
    await get(address);
    await turn();
    const waiting = net.connect(socket.port, '127.0.0.1'); // nobody accepts it
    await once(waiting, 'connect');
    const before = performance.nodeTiming.uvMetricsInfo.loopCount;
    await sleep(200);
    console.log(serving.state, performance.nodeTiming.uvMetricsInfo.loopCount - before < 100);
    waiting.destroy();
    await serving.resume();
    console.log(serving.state, await get(address));
    serving.pause();
    serving.release();
    await once(server, 'close');
    await turn();
    console.log(serving.state, ...events);
  `;

  const expected = 'accepting served\npaused true\naccepting served\nreleased listening close\n';
  assert.equal(run(t, program, { UV_USE_IO_URING: '1' }), expected);
  assert.equal(run(t, program), expected);
});

test('intercept: events are held back, delayed, let through, and the emitter is as before in the end', () => {
  const emitter = new EventEmitter();
  const seen: unknown[] = [];
  emitter.on('a', (value) => seen.push(['a', value])).on('b', (value) => seen.push(['b', value]));
  let later: (() => boolean) | undefined;

  const first = intercept(emitter, (event, _args, pass) => (event === 'a' ? false : pass()));
  const second = intercept(emitter, (event, _args, pass) => {
    if (event !== 'b') return pass();
    later = pass;
    return true;
  });
  assert.equal(emitter.emit('a', 1), false);
  assert.equal(emitter.emit('b', 2), true);
  assert.deepEqual(seen, []);
  first[Symbol.dispose]();
  assert.equal(emitter.emit('a', 3), true);
  later?.();
  second[Symbol.dispose]();
  second[Symbol.dispose]();

  assert.deepEqual(seen, [
    ['a', 3],
    ['b', 2],
  ]);
  assert.equal(Object.hasOwn(emitter, 'emit'), false);
});

test('intercept: what others put over it and under it stays', () => {
  const emitter = new EventEmitter();
  const calls: string[] = [];
  const under = function (this: EventEmitter, ...args: [string]): boolean {
    calls.push('under');
    return EventEmitter.prototype.emit.apply(this, args);
  };
  emitter.emit = under;
  const first = intercept(emitter, (_event, _args, pass) => pass());
  const ours = emitter.emit.bind(emitter);
  emitter.emit = (...args: [string]) => {
    calls.push('over');
    return ours(...args);
  };

  first[Symbol.dispose]();
  emitter.emit('a');
  assert.deepEqual(calls, ['over', 'under']);
  const second = intercept(emitter, () => false);
  emitter.emit('a');
  second[Symbol.dispose]();

  assert.deepEqual(calls, ['over', 'under', 'over']);
});
