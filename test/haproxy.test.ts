/**
 * The dialog of haproxy's -x on both sides: with each other, and with peers that say something else. The real haproxy is for test/interop.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { listen, openListeners, serveHaproxy, takeFromHaproxy } from '../lib/index.js';
import * as raw from '../lib/raw.js';
import { type Scope, temporaryDirectory } from './support/fixture.js';

test('what is served is taken: the very sockets, with their interface, and nothing else stays open', async (t) => {
  const before = raw.openDescriptors();
  const file = path.join(temporaryDirectory(t), 'haproxy.sock');
  using one = await listen({ host: '127.0.0.1', port: 0 });
  using two = await listen({ host: '::1', port: 0, bindToDevice: 'lo' });
  using server = await serveHaproxy(file, [one, two]);

  const taken = await takeFromHaproxy(file);

  assert.deepEqual(
    taken.map(({ listener, namespace, interface: device }) => [listener.address, namespace, device]),
    [
      [one.address, '', ''],
      [two.address, '', 'lo'],
    ],
  );
  assert.deepEqual(
    taken.map(({ listener }, index) => raw.isSame(listener.fd, [one, two][index]?.fd ?? -1)),
    [true, true],
  );
  assert.equal(server.handedOver, 1);
  assert.equal(fs.statSync(file).mode & 0o777, 0o600);
  for (const { listener } of taken) listener.close();
  for (const each of [one, two]) each.close();
  server.close();
  assert.equal(fs.existsSync(file), false);
  assert.deepEqual(raw.openDescriptors(), before);
});

test('its own path is no Listener that a handoff would hand over', async (t) => {
  const before = openListeners();

  using server = await serveHaproxy(path.join(temporaryDirectory(t), 'haproxy.sock'), []);

  assert.ok(server.path.endsWith('haproxy.sock'));
  assert.deepEqual(openListeners(), before);
});

test('a Unix path that haproxy has taken is its own: closing the Listener here does not remove it', async (t) => {
  const directory = temporaryDirectory(t);
  const [taken, kept] = ['taken.sock', 'kept.sock'].map((name) => path.join(directory, name));
  assert.ok(taken !== undefined && kept !== undefined);
  const one = await listen({ path: taken });
  const other = await listen({ path: kept });
  using server = await serveHaproxy(path.join(directory, 'haproxy.sock'), [one]);

  const [got] = await takeFromHaproxy(server.path);
  one.close();
  other.close();

  assert.equal(fs.existsSync(taken), true);
  assert.equal(fs.existsSync(kept), false);
  got?.listener.close();
});

test('a Unix path is told as the configuration has it: haproxy binds it with its pid behind, and renames it', async (t) => {
  const file = path.join(temporaryDirectory(t), 'web.sock');
  using bound = await listen({ path: `${file}.4711.tmp` });
  using web = await listen({ host: '127.0.0.1', port: 0 });
  using server = await serveHaproxy(path.join(temporaryDirectory(t), 'haproxy.sock'), [bound, web]);

  const taken = await takeFromHaproxy(server.path);

  assert.deepEqual(
    taken.map((each) => each.path),
    [file, undefined],
  );
  for (const { listener } of taken) listener.close();
});

test('600 listeners go in batches of 252', async (t) => {
  const file = path.join(temporaryDirectory(t), 'haproxy.sock');
  const directory = temporaryDirectory(t);
  const paths = Array.from({ length: 600 }, (_, index) => path.join(directory, String(index)));
  const listeners = await Promise.all(paths.map((each) => listen({ path: each })));
  t.after(() => {
    for (const listener of listeners) listener.close();
  });
  using server = await serveHaproxy(file, listeners);

  const taken = await takeFromHaproxy(server.path);

  for (const { listener } of taken) listener.close();
  assert.deepEqual(
    taken.map(({ listener: { address } }) => address.family === 'unix' && address.path),
    paths,
  );
});

test('the bytes are those of haproxy: the number, and six null bytes for a plain socket', async (t) => {
  using one = await listen({ host: '127.0.0.1', port: 0 });
  using two = await listen({ host: '127.0.0.1', port: 0 });
  using server = await serveHaproxy(path.join(temporaryDirectory(t), 'haproxy.sock'), [one, two]);
  const client = net.connect(server.path);
  let text = '';
  client.setEncoding('hex').on('data', (chunk: string) => (text += chunk));

  client.write('_getsocks\n');
  await once(client, 'data');
  client.write(Buffer.alloc(4));
  await once(client, 'close');

  assert.equal(text, '02000000' + '000000000000'.repeat(2));
});

test('without listeners there is the end and no number, and that is no error', async (t) => {
  using server = await serveHaproxy(path.join(temporaryDirectory(t), 'haproxy.sock'), []);

  assert.deepEqual(await takeFromHaproxy(server.path), []);
});

test('another command is answered in words', async (t) => {
  using server = await serveHaproxy(path.join(temporaryDirectory(t), 'haproxy.sock'), []);
  const client = net.connect(server.path);

  client.write('show info\n');
  const [data] = (await once(client, 'data')) as [Buffer];

  client.destroy();
  assert.match(data.toString(), /^Unknown command/);
});

/** A peer at a path that sends these bytes, with these descriptors, and ends. */
async function peer(t: Scope, bytes: Buffer, fds: number[], ends = true): Promise<string> {
  const file = path.join(temporaryDirectory(t), 'peer.sock');
  const fd = raw.socket('unix', 'stream');
  raw.bind(fd, { family: 'unix', path: file });
  raw.listen(fd, 5);
  const open = [fd];
  const watch = raw.watch(fd, { readable: true }, () => {
    const connection = raw.accept(fd);
    if (connection === undefined) return;
    if (bytes.length > 0) raw.send(connection, bytes, fds);
    if (ends) raw.close(connection);
    else open.push(connection);
  });
  t.after(() => {
    watch.close();
    for (const each of open) raw.close(each);
  });
  return Promise.resolve(file);
}

const count = (number: number): Buffer => Buffer.from(Int32Array.of(number).buffer);

const BROKEN: [what: string, bytes: Buffer, rights: number, message: RegExp][] = [
  ['text', Buffer.from('Unknown command.\n'), 0, /Unknown command/],
  ['text that is too short to be a number', Buffer.from('No'), 0, /"No"/],
  ['a number that is too large', count(65_537), 0, /haproxy does/],
  ['a negative number', count(-1), 0, /haproxy does/],
  ['an end before all have come', Buffer.concat([count(2), Buffer.alloc(6)]), 1, /after 1 of 2/],
  ['fewer descriptors than items', Buffer.concat([count(2), Buffer.alloc(12)]), 1, /1 sockets/],
  ['more descriptors than items', Buffer.concat([count(1), Buffer.alloc(6)]), 2, /2 sockets/],
  ['bytes left over', Buffer.concat([count(1), Buffer.alloc(8)]), 1, /2 bytes too many/],
];
for (const [what, bytes, rights, message] of BROKEN) {
  test(`takeFromHaproxy: ${what} is refused, and what came is closed`, async (t) => {
    using web = await listen({ host: '127.0.0.1', port: 0 });
    const file = await peer(t, bytes, Array<number>(rights).fill(web.fd));
    const before = raw.openDescriptors();

    await assert.rejects(takeFromHaproxy(file), { code: 'ERR_FDPASS_PROTOCOL', message });

    assert.deepEqual(raw.openDescriptors(), before);
  });
}

test('takeFromHaproxy: silence ends at the deadline, and with the signal', async (t) => {
  const file = await peer(t, Buffer.alloc(0), [], false);

  await assert.rejects(takeFromHaproxy(file, { timeout: 50 }), {
    code: 'ERR_FDPASS_LIMIT',
    message: /says nothing for 50 ms/,
  });
  const reason = new Error('enough');
  const abort = new AbortController();
  const taking = takeFromHaproxy(file, { signal: abort.signal });
  abort.abort(reason);
  await assert.rejects(taking, reason);
});

test('takeFromHaproxy: what is no listener is closed and left out; namespace and interface are read', async (t) => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const [end, other] = raw.socketPair('stream');
  t.after(() => {
    for (const fd of [end, other]) raw.close(fd);
  });
  const items = Buffer.concat([Buffer.from('036e7331046574683000000000', 'hex'), Buffer.alloc(6)]);
  const file = await peer(t, Buffer.concat([count(2), items]), [web.fd, end]);

  const taken = await takeFromHaproxy(file);

  assert.deepEqual(
    taken.map(({ namespace, interface: device, listener }) => [namespace, device, listener.port]),
    [['ns1', 'eth0', web.port]],
  );
  for (const { listener } of taken) listener.close();
});
