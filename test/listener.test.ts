import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';

import { listen, Listener, openListeners, ready } from '../lib/index.js';
import * as raw from '../lib/raw.js';
import { auditDescriptors } from './support/audit.js';
import { get } from './support/client.js';
import { temporaryDirectory } from './support/fixture.js';

await ready(); // this process has no predecessor: whatever is served accepts at once

async function oneConnection(server: net.Server, port: number | undefined): Promise<void> {
  const accepted = once(server, 'connection');
  const client = net.connect({ host: '127.0.0.1', port: port ?? 0 });
  const [socket] = (await accepted) as [net.Socket];
  socket.destroy();
  client.destroy();
}

test('listen binds, serve accepts, and closing the server leaves the Listener open', async () => {
  using listener = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const server = http.createServer((_request, response) => response.end('served\n'));
  listener.serve(server);
  const url = `http://127.0.0.1:${listener.port}/`;
  assert.equal(await get(url), 'served\n');

  server.close();
  await once(server, 'close');

  assert.equal(raw.describe(listener.fd).socket?.listening, true);
  const second = http.createServer((_request, response) => response.end('again\n'));
  listener.serve(second);
  assert.equal(await get(url), 'again\n');
});

test('without a host both IPv4 and IPv6 clients are served, as in Node', async (t) => {
  using listener = await listen({ port: 0 });
  if (listener.address.family !== 'IPv6') {
    t.skip('this machine has no IPv6');
    return;
  }
  const server = net.createServer((socket) => socket.end('hello'));
  listener.serve(server);

  await oneConnection(server, listener.port);
  const [data] = (await once(net.connect({ host: '::1', port: listener.port ?? 0 }), 'data')) as [Buffer];

  assert.equal(data.toString(), 'hello');
});

test('a second listen on one address is EADDRINUSE with the call, the address and the name; nothing is left open', async () => {
  using listener = await listen({ host: '127.0.0.1', port: 0 });
  const before = auditDescriptors();

  await assert.rejects(
    listen({ name: 'second', host: '127.0.0.1', port: listener.port }),
    (error: NodeJS.ErrnoException) => {
      assert.equal(error.code, 'EADDRINUSE');
      assert.equal(error.syscall, 'bind');
      assert.match(error.message, new RegExp(`127\\.0\\.0\\.1:${listener.port}`));
      assert.match(error.message, /"second"/);
      return true;
    },
  );

  assert.deepEqual(auditDescriptors(), before);
});

const BAD: [options: Record<string, unknown>, named: RegExp][] = [
  [{ port: -1 }, /options\.port .* -1/],
  [{ port: 65_536 }, /options\.port .* 65536/],
  [{ port: '80a' }, /options\.port .* "80a"/],
  [{ port: NaN }, /options\.port .* NaN/],
  [{ port: 1.5 }, /options\.port .* 1\.5/],
  [{ port: {} }, /options\.port/],
  [{ host: '', port: 0 }, /options\.host .* ""/],
  [{ host: 7, port: 0 }, /options\.host .* 7/],
  [{ host: '127.0.0.1' }, /options\.port/],
  [{ path: 'x'.repeat(108) }, /options\.path .* 108/],
  [{ path: '' }, /options\.path/],
  [{ path: 'a\0b' }, /options\.path/],
  [{ path: '/a', port: 1 }, /options\.path/],
  [{ port: 0, backlog: 0 }, /options\.backlog .* 0/],
  [{ port: 0, type: 'raw' }, /options\.type .* "raw"/],
  [{ port: 0, reusePort: 'yes' }, /options\.reusePort .* "yes"/],
  [{ port: 0, name: 'a:b' }, /"a:b"/],
  [{}, /port or a path/],
];
for (const [options, named] of BAD) {
  test(`listen(${JSON.stringify(options).slice(0, 40)}) is refused by name and value, and opens nothing`, async () => {
    const before = auditDescriptors();

    await assert.rejects(listen(options), (error: NodeJS.ErrnoException) => {
      assert.match(String(error.code), /^ERR_(INVALID_ARG_(TYPE|VALUE)|FDPASS_NAMES)$/);
      assert.match(error.message, named);
      return true;
    });

    assert.deepEqual(auditDescriptors(), before);
  });
}

test('every option reaches the socket', async () => {
  using listener = await listen({
    host: '127.0.0.1',
    port: 0,
    reusePort: true,
    backlog: 7,
    deferAccept: 3,
    fastOpen: 5,
    freeBind: true,
  });

  const { socket } = raw.describe(listener.fd);
  assert.ok(socket !== undefined);
  const { options } = socket;

  assert.equal(options.reusePort, true);
  assert.equal(options.reuseAddress, true);
  assert.equal(options.freeBind, true);
  assert.ok((options.deferAccept ?? 0) > 0);
  assert.equal(options.fastOpen, 5);
  assert.equal(raw.listenQueue(listener.fd).backlog, 7);
});

test('to serve keeps the backlog of the socket', async () => {
  using listener = await listen({ host: '127.0.0.1', port: 0, backlog: 33 });
  const server = net.createServer();

  listener.serve(server);
  await once(server, 'listening');

  assert.equal(raw.listenQueue(listener.fd).backlog, 33);
});

test('a Unix path is bound with its mode and unlinked at close', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  const listener = await listen({ path: file, mode: 0o600 });
  assert.equal(fs.statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(listener.address, { family: 'unix', path: file });

  listener.close();

  assert.equal(fs.existsSync(file), false);
});

test('the path of a live server is never taken', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  using listener = await listen({ path: file });

  await assert.rejects(listen({ path: file }), { code: 'EADDRINUSE' });

  const server = net.createServer((socket) => {
    socket.on('error', () => undefined); // the connection by which the second listen looked whether anybody is here
    socket.end('still here');
  });
  listener.serve(server);
  const [data] = (await once(net.connect(file), 'data')) as [Buffer];
  assert.equal(data.toString(), 'still here');
});

test('a live server with a full queue is a live server', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  using listener = await listen({ path: file, backlog: 1 });
  const clients: number[] = [];
  t.after(() => {
    for (const fd of clients) raw.close(fd);
  });
  assert.throws(
    () => {
      for (let i = 0; i < 16; i++) {
        const fd = raw.socket('unix', 'stream');
        clients.push(fd);
        raw.connect(fd, { family: 'unix', path: file });
      }
    },
    { code: 'EAGAIN' },
  );

  await assert.rejects(listen({ path: file }), { code: 'EADDRINUSE' });
  assert.ok(!listener.closed);
});

test('the path of a dead server is taken over', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  const dead = raw.socket('unix', 'stream');
  raw.bind(dead, { family: 'unix', path: file });
  raw.listen(dead, 1);
  raw.close(dead); // the file stays, as after a crash

  using listener = await listen({ path: file });

  const server = net.createServer((socket) => socket.end('new'));
  listener.serve(server);
  const [data] = (await once(net.connect(file), 'data')) as [Buffer];
  assert.equal(data.toString(), 'new');
});

test('a file that is no socket is never unlinked', async (t) => {
  const file = path.join(temporaryDirectory(t), 'precious');
  fs.writeFileSync(file, 'data');

  await assert.rejects(listen({ path: file }), { code: 'EADDRINUSE' });

  assert.equal(fs.readFileSync(file, 'utf8'), 'data');
});

test('twenty that bind one dead path at once: one gets it, the others hear EADDRINUSE', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  const dead = raw.socket('unix', 'stream');
  raw.bind(dead, { family: 'unix', path: file });
  raw.listen(dead, 1);
  raw.close(dead);

  const results = await Promise.allSettled(Array.from({ length: 20 }, () => listen({ path: file })));

  const winners = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
  assert.equal(winners.length, 1);
  for (const result of results) if (result.status === 'rejected') assert.match(String(result.reason), /EADDRINUSE/);
  winners[0]?.close();
});

test('close does not unlink a path that is another server’s by now', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  const first = await listen({ path: file });
  fs.unlinkSync(file);
  using second = await listen({ path: file });

  first.close();

  assert.ok(fs.existsSync(file));
  assert.ok(!second.closed);
});

test(
  'an abstract name is bound without a file',
  { skip: process.platform !== 'linux' && 'abstract names are Linux alone' },
  async () => {
    const name = `@fdpass-test-${process.pid}`;
    using listener = await listen({ path: name });
    const server = net.createServer((socket) => socket.end('abstract'));
    listener.serve(server);

    const client = raw.socket('unix', 'stream'); // Node 20 cannot connect to an abstract name that it has not bound itself
    raw.connect(client, { family: 'unix', path: name });

    const [data] = (await once(new net.Socket({ fd: client, readable: true, writable: true }), 'data')) as [Buffer];
    assert.equal(data.toString(), 'abstract');
  },
);

test('a dgram Listener serves a dgram socket; it cannot be paused', async () => {
  using listener = await listen({ type: 'dgram', host: '127.0.0.1', port: 0 });
  const socket = dgram.createSocket('udp4');
  listener.serve(socket);
  await once(socket, 'listening');
  const client = dgram.createSocket('udp4');
  const received = once(socket, 'message');
  client.send('ping', listener.port ?? 0, '127.0.0.1');

  const [message] = (await received) as [Buffer];

  assert.equal(message.toString(), 'ping');
  assert.throws(
    () => {
      listener.pause();
    },
    { code: 'ENOTSUP' },
  );
  client.close();
});

test('a server of the wrong kind is refused, and so is one that listens already', async () => {
  using stream = await listen({ host: '127.0.0.1', port: 0 });
  using datagrams = await listen({ type: 'dgram', host: '127.0.0.1', port: 0 });
  const busy = net.createServer().listen(0, '127.0.0.1');
  await once(busy, 'listening');

  assert.throws(() => stream.serve(dgram.createSocket('udp4')), { code: 'ERR_FDPASS_TYPE' });
  assert.throws(() => datagrams.serve(net.createServer()), { code: 'ERR_FDPASS_TYPE' });
  assert.throws(() => stream.serve(busy), { code: 'ERR_SERVER_ALREADY_LISTEN' });
  busy.close();
});

test(
  'a seqpacket Listener has no server in Node: serve says ENOTSUP',
  { skip: process.platform !== 'linux' && 'Linux alone' },
  async () => {
    using listener = await listen({ type: 'seqpacket', path: `@fdpass-seq-${process.pid}` });

    assert.throws(() => listener.serve(net.createServer()), { code: 'ENOTSUP' });
  },
);

test('while paused connections wait in the queue, and none is lost', async () => {
  using listener = await listen({ host: '127.0.0.1', port: 0 });
  const server = net.createServer((socket) => socket.end('served'));
  let closes = 0;
  server.on('close', () => closes++);
  listener.serve(server);
  await oneConnection(server, listener.port);

  listener.pause();
  const client = net.connect({ host: '127.0.0.1', port: listener.port ?? 0 });
  await once(client, 'connect');
  assert.equal(server.listening, false);
  await listener.resume();

  const [data] = (await once(client, 'data')) as [Buffer];
  assert.equal(data.toString(), 'served');
  assert.equal(closes, 0);
});

test('two servers on one Listener both get connections', async () => {
  using listener = await listen({ host: '127.0.0.1', port: 0 });
  const counts = [0, 0];
  for (const index of [0, 1]) {
    listener.serve(
      net.createServer((socket) => {
        counts[index] = (counts[index] ?? 0) + 1;
        socket.end('x');
      }),
    );
  }

  const deadline = performance.now() + 30_000;
  while (counts.some((count) => count === 0) && performance.now() < deadline) {
    const clients = Array.from({ length: 16 }, () => net.connect({ host: '127.0.0.1', port: listener.port ?? 0 }));
    await Promise.all(clients.map((client) => once(client.resume(), 'close')));
  }

  assert.ok(
    counts.every((count) => count > 0),
    `connections: ${counts.join(', ')}`,
  );
});

test('a worker thread accepts from a duplicate of the same socket', async () => {
  using listener = await listen({ host: '127.0.0.1', port: 0 });
  const lib = new URL('../lib/index.js', import.meta.url).href;
  const worker = new Worker(
    `const { workerData, parentPort } = require('node:worker_threads');
     import(workerData.lib).then(({ Listener }) => {
       const listener = Listener.from(workerData.fd, { name: 'shared' });
       const server = require('node:net').createServer((socket) => socket.end('from the worker'));
       server.on('listening', () => parentPort.postMessage('listening'));
       listener.serve(server);
     });`,
    { eval: true, workerData: { lib, fd: listener.dup() } },
  );
  await once(worker, 'message');

  const [data] = (await once(net.connect({ host: '127.0.0.1', port: listener.port ?? 0 }), 'data')) as [Buffer];

  assert.equal(data.toString(), 'from the worker');
  await worker.terminate();
});

test('Listener.from takes a descriptor over; what is no listener is refused and stays open', async (t) => {
  using listener = await listen({ host: '127.0.0.1', port: 0 });
  const again = Listener.from(listener.dup(), { name: 'again' });
  assert.deepEqual(again.address, listener.address);
  assert.ok(raw.isSame(again.fd, listener.fd));
  again.close();

  const file = fs.openSync(path.join(temporaryDirectory(t), 'file'), 'w');
  assert.throws(() => Listener.from(file), { code: 'ERR_FDPASS_TYPE', fd: file });
  const unbound = raw.socket('IPv4', 'stream');
  assert.throws(() => Listener.from(unbound), { code: 'ERR_FDPASS_TYPE' });
  raw.close(unbound);
  fs.closeSync(file); // EBADF if it had been taken
  for (const fd of [-1, 2 ** 31, 1.5, NaN]) assert.throws(() => Listener.from(fd), RangeError);
  assert.throws(() => Listener.from(file), { code: 'EBADF' });
});

test('close is idempotent, and everything after it says ERR_FDPASS_CLOSED', async () => {
  const before = auditDescriptors();
  const listener = await listen({ host: '127.0.0.1', port: 0 });
  assert.ok(openListeners().includes(listener));

  listener.close();
  listener.close();

  assert.ok(!openListeners().includes(listener));
  assert.equal(listener.fd, -1);
  for (const action of [
    (): unknown => listener.dup(),
    (): unknown => listener.serve(net.createServer()),
    (): void => {
      listener.pause();
    },
  ]) {
    assert.throws(action, { code: 'ERR_FDPASS_CLOSED' });
  }
  assert.deepEqual(auditDescriptors(), before);
});
