/** What can be sent, and as what it can be received: every kind, what is refused, and that a socket loses nothing on its way. */
import assert from 'node:assert/strict';
import dgram from 'node:dgram';
import { once } from 'node:events';
import fs from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { describe, test, type TestContext } from 'node:test';
import tls from 'node:tls';

import { Channel, type ChannelMessage, Descriptor, type Sendable } from '../../lib/channel.js';
import { FdpassError } from '../../lib/errors.js';
import { listen } from '../../lib/listener.js';
import * as raw from '../../lib/raw.js';
import { certificate } from '../support/certificate.js';
import { closing, table, temporaryDirectory, watchTable } from './support.js';

function pair(t: TestContext): [Channel, Channel] {
  const [a, b] = Channel.pair();
  closing(t, a, b);
  return [a, b];
}

/** Sends one thing, and gives what came of it. */
async function pass(a: Channel, b: Channel, item: Sendable): Promise<Descriptor> {
  const [message] = await Promise.all([b.receive(), a.send('x', item)]);
  const descriptor = message?.fds[0];
  assert.ok(descriptor);
  return descriptor;
}

/** A TCP connection: both ends as sockets of Node's. */
async function connection(t: TestContext): Promise<{ here: net.Socket; client: net.Socket; port: number }> {
  const server = net.createServer({ pauseOnConnect: true }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const client = net.connect(port, '127.0.0.1');
  const [here] = (await once(server, 'connection')) as [net.Socket];
  server.close();
  t.after(() => {
    client.destroy();
    here.destroy();
  });
  return { here, client, port };
}

/** Reads until so many bytes are there. */
async function read(socket: net.Socket, length: number): Promise<string> {
  const chunks: Buffer[] = [];
  for (let size = 0; size < length;) {
    const [chunk] = (await once(socket, 'data')) as [Buffer];
    chunks.push(chunk);
    size += chunk.length;
  }
  return Buffer.concat(chunks).toString();
}

describe("what can be sent stays open here and the caller's", () => {
  test('a number, a Listener, a FileHandle, a Channel, a Descriptor, a net.Server, a dgram.Socket', async (t) => {
    const [a, b] = pair(t);
    const listener = await listen({ host: '127.0.0.1', port: 0 });
    const handle = await fs.open('/dev/null');
    const server = net.createServer().listen(0, '127.0.0.1');
    const socket = dgram.createSocket('udp4').bind(0, '127.0.0.1');
    await Promise.all([once(server, 'listening'), once(socket, 'listening')]);
    const descriptor = await pass(a, b, 0);
    t.after(async () => {
      listener.close();
      server.close();
      socket.close();
      await handle.close();
      descriptor.close();
    });
    const before = table();
    const warnings: Error[] = [];
    process.on('warning', (warning) => warnings.push(warning));

    const items: Sendable[] = [1, listener, handle, a, descriptor, server, socket];
    const [message] = await Promise.all([b.receive(), a.send('all', items)]);

    assert.ok(message);
    const own = [1, listener.fd, handle.fd, a.fd, descriptor.fd];
    own.forEach((fd, index) => assert.ok(raw.isSame(message.fds[index]?.fd ?? -1, fd), `item ${index}`));
    assert.deepEqual(message.fds[5]?.describe().socket?.localAddress, {
      family: 'IPv4',
      address: '127.0.0.1',
      port: (server.address() as net.AddressInfo).port,
    });
    assert.deepEqual(message.fds[6]?.describe().socket?.localAddress, {
      family: 'IPv4',
      address: '127.0.0.1',
      port: socket.address().port,
    });
    message.close();
    assert.deepEqual(table(), before);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(warnings, []);
  });

  test('the caller may close his own as soon as send has returned, even where it waits', async (t) => {
    const [a, b] = pair(t);
    const directory = temporaryDirectory(t);
    const first = a.send(Buffer.alloc(3_000_000));
    const handle = await fs.open(path.join(directory, 'file'), 'w+');
    await handle.writeFile('content');

    const second = a.send('a file', handle);
    await handle.close();
    const other = await fs.open('/dev/null'); // very likely at the number that has become free

    await b.receive();
    const message = await b.receive();
    await Promise.all([first, second]);
    const received = await message?.fds[0]?.asFileHandle();
    assert.ok(received);
    assert.equal((await received.read(Buffer.alloc(7), 0, 7, 0)).buffer.toString(), 'content');
    await received.close();
    await other.close();
  });
});

test('the caller may close his own behind a send that finds nothing before it and no room', async (t) => {
  const [a, b] = pair(t);
  const directory = temporaryDirectory(t);
  const file = path.join(directory, 'file');
  await fs.writeFile(file, 'content');
  let sent = 0;
  for (let isWaiting = false; !isWaiting; sent++) {
    const handle = await fs.open(file);
    const sending = a.send('a file', handle);
    await handle.close();
    const others = [await fs.open('/dev/null'), await fs.open('/dev/null')]; // very likely at the number that has become free
    isWaiting = await Promise.race([
      sending.then(() => false),
      new Promise<true>((resolve) => setImmediate(resolve, true)),
    ]);
    for (const other of others) await other.close();
  }

  for (; sent > 0; sent--) {
    const message = await b.receive();
    assert.equal(message?.fds[0]?.kind, 'file');
    message.close();
  }
});

describe('what has no descriptor is a TypeError that names it', () => {
  const wrong: [name: string, item: () => unknown, says: RegExp][] = [
    ['a negative number', () => -1, /fds\[1\].*the number -1/],
    ['a string', () => '3', /fds\[1\].*'3'/],
    ['undefined', () => undefined, /fds\[1\].*undefined/],
    ['an object without fd', () => ({}), /fds\[1\].*an Object without a descriptor/],
    ['a server that does not listen', () => net.createServer(), /fds\[1\].*a Server without a descriptor/],
    ['a socket that was never connected', () => new net.Socket(), /fds\[1\].*a Socket without a descriptor/],
    ['a closed channel', closedChannel, /fds\[1\].*a Channel without a descriptor/],
  ];
  for (const [name, item, says] of wrong) {
    test(name, async (t) => {
      const [a, b] = pair(t);
      await assert.rejects(a.send('x', [0, item() as Sendable]), {
        name: 'TypeError',
        code: 'ERR_INVALID_ARG_TYPE',
        message: says,
      });
      await a.send('next');
      assert.equal((await b.receive())?.bytes.toString(), 'next');
    });
  }

  test('a number that is not open is EBADF, and nothing was sent', async (t) => {
    const [a, b] = pair(t);
    await assert.rejects(a.send('x', [0, 999_999]), { code: 'EBADF' });
    await a.send('next');
    assert.equal((await b.receive())?.bytes.toString(), 'next');
  });

  function closedChannel(): Channel {
    const [a, b] = Channel.pair();
    a.close();
    b.close();
    return a;
  }
});

describe('a net.Socket moves', () => {
  test('with what the client has sent already, and nothing of it is lost; here it is destroyed, and the client sees no end', async (t) => {
    const [a, b] = pair(t);
    const { here, client } = await connection(t);
    client.write('sent before the move');
    let ended = false;
    client.on('end', () => (ended = true));
    const closed = once(here, 'close');

    const descriptor = await pass(a, b, here);
    await closed;

    assert.equal(here.destroyed, true);
    const moved = descriptor.asSocket();
    t.after(() => moved.destroy());
    assert.equal(descriptor.fd, -1);
    client.write(' and after it');
    assert.equal(await read(moved, 33), 'sent before the move and after it');
    moved.write('answer');
    assert.equal(await read(client, 6), 'answer');
    assert.equal(ended, false);
  });

  test('reading stops in the very call: what comes later stays in the kernel', async (t) => {
    const [a, b] = pair(t);
    const { here, client } = await connection(t);
    const lost: Buffer[] = [];
    here.on('data', (chunk) => lost.push(chunk));
    here.resume();
    void a.send(Buffer.alloc(3_000_000)); // so that the next one waits

    const sent = a.send('the socket', here);
    await new Promise((resolve) => client.write('while it waits', resolve));
    for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));

    assert.equal(here.destroyed, false);
    await b.receive();
    const message = await b.receive();
    await sent;
    const moved = message?.fds[0]?.asSocket();
    assert.ok(moved);
    t.after(() => moved.destroy());
    assert.equal(await read(moved, 14), 'while it waits');
    assert.deepEqual(lost, []);
    assert.equal(here.destroyed, true);
  });

  test('with bytes that Node has read it is refused, and they are still there', async (t) => {
    const [a] = pair(t);
    const { here, client } = await connection(t);
    client.write('read by Node');
    here.once('readable', () => undefined);
    await once(here, 'readable');

    await assert.rejects(a.send('x', here), {
      code: 'ERR_FDPASS_UNREAD',
      message: /fds\[0\].*12 bytes of it were read/,
    });

    assert.equal(here.destroyed, false);
    assert.equal(String(here.read()), 'read by Node');
    client.write('more');
    assert.equal(await read(here, 4), 'more');
  });

  test('with bytes that are not written it is refused, and they are written', async (t) => {
    const [a] = pair(t);
    const { here, client } = await connection(t);
    here.write(Buffer.alloc(8_000_000, 1));

    await assert.rejects(a.send('x', here), { code: 'ERR_FDPASS_UNREAD', message: /bytes of it are not yet written/ });

    here.end();
    assert.equal((await buffer(client)).length, 8_000_000);
  });

  test('that is destroyed, connecting, of an HTTP server, or twice in a message is refused', async (t) => {
    const [a] = pair(t);
    const { here, client, port } = await connection(t);
    await assert.rejects(a.send('x', [here, here]), { name: 'TypeError', message: /twice/ });
    const connecting = net.connect(port, '127.0.0.1');
    connecting.on('error', () => undefined);
    await assert.rejects(a.send('x', connecting), { code: 'ERR_FDPASS_UNREAD', message: /connecting/ });
    connecting.destroy();
    here.destroy();
    await assert.rejects(a.send('x', here), { code: 'ERR_FDPASS_UNREAD', message: /destroyed/ });
    client.destroy();

    const server = http.createServer((_request, response) => response.end('ok')).listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    const accepted = once(server, 'connection');
    const answer = fetch(`http://127.0.0.1:${(server.address() as net.AddressInfo).port}`, {
      headers: { connection: 'close' },
    });
    const [socket] = (await accepted) as [net.Socket];
    await assert.rejects(a.send('x', socket), { code: 'ERR_FDPASS_UNREAD', message: /HTTP/ });
    assert.equal(await (await answer).text(), 'ok');
  });

  test('of TLS can never move', async (t) => {
    const [a] = pair(t);
    const server = tls.createServer(certificate).listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.after(() => server.close());
    const client = tls.connect({
      port: (server.address() as net.AddressInfo).port,
      host: '127.0.0.1',
      rejectUnauthorized: false,
    });
    const [secure] = (await once(server, 'secureConnection')) as [tls.TLSSocket];
    t.after(() => {
      client.destroy();
      secure.destroy();
    });

    await assert.rejects(a.send('x', secure), { code: 'ERR_FDPASS_UNREAD', message: /TLS/ });

    secure.write('still here');
    assert.equal(await read(client, 10), 'still here');
  });

  test('where sending fails it reads on here as if nothing had been', async (t) => {
    const [a, b] = pair(t);
    const { here, client } = await connection(t);
    here.resume();
    b.close();

    await assert.rejects(a.send('x', here), { code: 'EPIPE' });

    assert.equal(here.destroyed, false);
    client.write('hello');
    assert.equal(await read(here, 5), 'hello');
  });

  test('where it waits and the channel is closed, or the send is aborted, it reads on here', async (t) => {
    for (const way of ['close', 'abort']) {
      const [a] = pair(t);
      const { here, client } = await connection(t);
      here.resume();
      const first = a.send(Buffer.alloc(3_000_000));
      first.catch(() => undefined);
      const controller = new AbortController();
      const sent = a.send('x', here, { signal: controller.signal });

      if (way === 'close') a.close();
      else controller.abort();

      await assert.rejects(sent, { code: way === 'close' ? 'ERR_FDPASS_CLOSED' : 'ABORT_ERR' });
      client.write('hello');
      assert.equal(await read(here, 5), 'hello');
    }
  });

  test('one that cannot move keeps the other one in its message from moving', async (t) => {
    const [a] = pair(t);
    const good = await connection(t);
    const bad = await connection(t);
    good.here.resume();
    bad.here.destroy();

    await assert.rejects(a.send('x', [good.here, bad.here]), { code: 'ERR_FDPASS_UNREAD', message: /fds\[1\]/ });

    good.client.write('hello');
    assert.equal(await read(good.here, 5), 'hello');
  });
});

describe('as what it is received', () => {
  test('asListener: the socket that listens, with its name and address', async (t) => {
    const [a, b] = pair(t);
    const listener = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
    const descriptor = await pass(a, b, listener);

    const received = descriptor.asListener({ name: 'other' });
    listener.close();

    t.after(() => received.close());
    assert.deepEqual([received.name, received.address, descriptor.fd], ['other', listener.address, -1]);
    const client = net.connect(received.port ?? 0, '127.0.0.1');
    await once(client, 'connect');
    client.destroy();
  });

  test("asServer: a server of one's own kind accepts from it, and owns it", async (t) => {
    const [a, b] = pair(t);
    const { check } = watchTable();
    const listener = await listen({ host: '127.0.0.1', port: 0 });
    const descriptor = await pass(a, b, listener);
    const { port } = listener;
    listener.close();

    const server = await descriptor.asServer(http.createServer((_request, response) => response.end('served')));

    assert.equal(descriptor.fd, -1);
    assert.equal(await get(port), 'served');
    const closed = once(server, 'close');
    server.close();
    await closed;
    await assert.rejects(get(port), { code: 'ECONNREFUSED' });
    await check();
  });

  test('asServer: a net.Server by itself; one that listens already is refused, and the descriptor stays', async (t) => {
    const [a, b] = pair(t);
    const listener = await listen({ host: '127.0.0.1', port: 0 });
    const descriptor = await pass(a, b, listener);
    const busy = net.createServer().listen(0);
    await once(busy, 'listening');
    await assert.rejects(descriptor.asServer(busy), { code: 'ERR_SERVER_ALREADY_LISTEN' });
    busy.close();
    assert.ok(descriptor.fd >= 0);

    const server = await descriptor.asServer();

    t.after(() => server.close());
    listener.close();
    const client = net.connect(listener.port ?? 0, '127.0.0.1');
    const [socket] = (await once(server, 'connection')) as [net.Socket];
    socket.end('hello');
    assert.equal(await text(client), 'hello');
  });

  test('asFileHandle: the very file, at the same position', async (t) => {
    const [a, b] = pair(t);
    const { check } = watchTable();
    const handle = await fs.open(path.join(temporaryDirectory(t), 'file'), 'w+');
    await handle.write('0123456789');
    const descriptor = await pass(a, b, handle);
    await handle.close();

    const received = await descriptor.asFileHandle();

    await received.write('ABC');
    assert.equal((await received.read(Buffer.alloc(13), 0, 13, 0)).buffer.toString(), '0123456789ABC');
    assert.ok(raw.getCloseOnExec(received.fd));
    await received.close();
    await check();
  });

  test('asSocket: a Unix stream too, and half open where it is asked for', async (t) => {
    const [a, b] = pair(t);
    const [left, right] = raw.socketPair('stream');
    const socket = (await pass(a, b, right)).asSocket({ allowHalfOpen: true });
    t.after(() => socket.destroy());
    raw.close(right);
    raw.send(left, Buffer.from('hello'));
    assert.equal(await read(socket, 5), 'hello');
    assert.equal(socket.allowHalfOpen, true);
    raw.close(left);
  });

  test("what it is not is ERR_FDPASS_TYPE with what it is, and the descriptor stays its message's", async (t) => {
    const [a, b] = pair(t);
    const { check } = watchTable();
    const listener = await listen({ host: '127.0.0.1', port: 0 });
    const [left, right] = raw.socketPair('dgram');
    const opened = await fs.open(import.meta.filename); // the standard ones may be sockets
    const [message] = await Promise.all([b.receive(), a.send('x', [opened, listener, left])]);
    await opened.close();
    const [file, listening, packets] = (message as ChannelMessage).fds as [Descriptor, Descriptor, Descriptor];

    const wrong: [() => unknown, RegExp][] = [
      [() => file.asSocket(), /not a connected stream socket: it is a descriptor of kind/],
      [() => file.asListener(), /not a listener/],
      [() => file.asServer(), /not a listener/],
      [() => listening.asSocket(), /it is a stream socket that listens/],
      [() => listening.asFileHandle(), /not a file.*: it is/],
      [() => packets.asSocket(), /it is a dgram socket/],
      [() => packets.asListener(), /not a listener/],
      [() => packets.asServer(), /not a listener/],
    ];
    for (const [act, says] of wrong) {
      await assert.rejects(
        () => Promise.resolve().then(act),
        (error: unknown) => {
          assert.ok(error instanceof FdpassError);
          assert.equal(error.code, 'ERR_FDPASS_TYPE');
          assert.match(error.message, says);
          return true;
        },
      );
    }

    assert.ok([file, listening, packets].every(({ fd }) => fd >= 0));
    message?.close();
    assert.ok([file, listening, packets].every(({ fd }) => fd === -1));
    listener.close();
    raw.close(left);
    raw.close(right);
    await check();
  });

  test('take gives the number up once; after that the message does not close it', async (t) => {
    const [a, b] = pair(t);
    const [message] = await Promise.all([b.receive(), a.send('x', [0, 0, 0])]);
    const [first, second, third] = (message as ChannelMessage).fds as [Descriptor, Descriptor, Descriptor];

    const fd = second.take();
    first.close();
    first.close();
    message?.close();
    message?.close();

    assert.ok(raw.isSame(fd, 0));
    raw.close(fd);
    for (const descriptor of [first, second, third]) {
      assert.equal(descriptor.fd, -1);
      assert.throws(() => descriptor.take(), { code: 'ERR_FDPASS_CLOSED' });
      await assert.rejects(descriptor.asFileHandle(), { code: 'ERR_FDPASS_CLOSED' });
    }
  });

  test('what is made by hand is refused: a descriptor has its owner from birth', () => {
    assert.throws(() => new Descriptor({ numbers: [0] }, 0), TypeError);
  });
});

function get(port: number | undefined): Promise<string> {
  return new Promise((resolve, reject) => {
    http.get({ port, host: '127.0.0.1', agent: false }, (response) => resolve(text(response))).on('error', reject);
  });
}
