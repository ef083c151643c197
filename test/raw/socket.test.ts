/**
 * Sockets: make, bind, listen, connect, accept; addresses, options, the queue, the peer.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { inspect } from 'node:util';

import * as raw from '../../lib/raw.js';
import {
  closeAfter,
  isLinux,
  listenLoopback,
  openList,
  skipUnlessLinux,
  temporaryDirectory,
  throws,
  throwsSystem,
  until,
} from './support.js';

const loopback = { family: 'IPv4', address: '127.0.0.1', port: 0 } as const;
const longest = isLinux ? 107 : 103; // sun_path, less its NUL

test('a TCP listener: bound to a free port, accepts a connection, and both ends agree', async (t) => {
  const { fd: listener, address } = listenLoopback(t);
  assert.ok(address.family === 'IPv4' && address.port > 0);
  const client = raw.socket('IPv4', 'stream');
  closeAfter(t, client);

  raw.connect(client, address);
  await until(listener, 'readable');
  const connection = raw.accept(listener) ?? -1;
  closeAfter(t, connection);

  assert.deepEqual(raw.peerAddress(connection), raw.localAddress(client));
  assert.deepEqual(raw.peerAddress(client), raw.localAddress(connection));
  assert.equal(raw.getNonBlocking(connection), true);
  assert.equal(raw.describe(connection).socket?.listening, false);
  assert.equal(raw.accept(listener), undefined);
});

test('an IPv6 listener, with its own kind of address', async (t) => {
  const listener = raw.socket('IPv6', 'stream');
  const client = raw.socket('IPv6', 'stream');
  closeAfter(t, listener, client);
  raw.bind(listener, { family: 'IPv6', address: '::1', port: 0 });
  raw.listen(listener, 1);

  raw.connect(client, raw.localAddress(listener));
  await until(listener, 'readable');
  const connection = raw.accept(listener) ?? -1;
  closeAfter(t, connection);

  assert.deepEqual(raw.peerAddress(client), raw.localAddress(listener));
  assert.deepEqual(Object.keys(raw.localAddress(listener)), ['family', 'address', 'port']);
});

test('one socket serves both families unless ipv6Only says no', async (t) => {
  const dual = raw.socket('IPv6', 'stream');
  const six = raw.socket('IPv6', 'stream');
  const client = raw.socket('IPv4', 'stream');
  closeAfter(t, dual, six, client);
  raw.setOption(dual, 'ipv6Only', false);
  raw.setOption(six, 'ipv6Only', true);
  raw.bind(dual, { family: 'IPv6', address: '::', port: 0 });
  raw.listen(dual, 1);
  const address = raw.localAddress(dual);
  assert.ok(address.family === 'IPv6');

  raw.connect(client, { ...loopback, port: address.port });
  await until(dual, 'readable');
  const connection = raw.accept(dual) ?? -1;
  closeAfter(t, connection);

  const peer = raw.peerAddress(connection);
  assert.ok(peer.family === 'IPv6' && peer.address === '::ffff:127.0.0.1');
  assert.equal(raw.getOption(dual, 'ipv6Only'), 0);
  assert.equal(raw.getOption(six, 'ipv6Only'), 1);
});

test('the scope of a link-local address goes in and is checked by the kernel', { skip: skipUnlessLinux }, (t) => {
  const fd = raw.socket('IPv6', 'dgram');
  closeAfter(t, fd);
  const address = { family: 'IPv6', address: 'fe80::1', port: 0, scopeId: 4_000_000_000 } as const;

  throwsSystem(
    () => {
      raw.bind(fd, address);
    },
    'ENODEV',
    'bind',
    /\[fe80::1%4000000000\]:0/,
  );
});

test('a Unix listener at a path', (t) => {
  const file = path.join(temporaryDirectory(t), 'a.sock');
  const listener = raw.socket('unix', 'stream');
  const client = raw.socket('unix', 'stream');
  closeAfter(t, listener, client);

  raw.bind(listener, { family: 'unix', path: file });
  raw.listen(listener, 1);
  const connected = raw.connect(client, { family: 'unix', path: file });
  const connection = raw.accept(listener) ?? -1;
  closeAfter(t, connection);

  assert.equal(connected, true);
  assert.ok(fs.statSync(file).isSocket());
  assert.deepEqual(raw.localAddress(listener), { family: 'unix', path: file });
  assert.deepEqual(raw.peerAddress(client), { family: 'unix', path: file });
  assert.deepEqual(raw.peerAddress(connection), { family: 'unix', path: '' });
});

test('a path of the longest length works, and comes back whole', (t) => {
  const directory = temporaryDirectory(t);
  const file = path.join(directory, 'x'.repeat(longest - directory.length - 1));
  assert.equal(file.length, longest);
  const listener = raw.socket('unix', 'stream');
  closeAfter(t, listener);

  raw.bind(listener, { family: 'unix', path: file });

  assert.deepEqual(raw.localAddress(listener), { family: 'unix', path: file });
});

test('a longer path is a RangeError that names its length; bytes count, not characters', (t) => {
  const fd = raw.socket('unix', 'stream');
  closeAfter(t, fd);

  for (const [file, bytes] of [
    [`/${'x'.repeat(longest)}`, longest + 1],
    [`/${'ü'.repeat(60)}`, 121],
  ] as const) {
    throws(
      () => {
        raw.bind(fd, { family: 'unix', path: file });
      },
      RangeError,
      'ERR_OUT_OF_RANGE',
      new RegExp(`"address.path".*at most ${longest} bytes.*${bytes} bytes`),
    );
  }
});

test('an abstract name leaves no file, and goes with its socket', { skip: skipUnlessLinux }, (t) => {
  const name = `@fdpass-test-${process.pid}-${'n'.repeat(60)}`;
  const listener = raw.socket('unix', 'seqpacket');
  const client = raw.socket('unix', 'seqpacket');
  closeAfter(t, listener, client);

  raw.bind(listener, { family: 'unix', path: name });
  raw.listen(listener, 1);

  assert.deepEqual(raw.localAddress(listener), { family: 'unix', path: name });
  assert.ok(!fs.existsSync(name));
  assert.equal(raw.connect(client, { family: 'unix', path: name }), true);
  raw.close(listener);
  const late = raw.socket('unix', 'seqpacket');
  closeAfter(t, late);
  throwsSystem(() => raw.connect(late, { family: 'unix', path: name }), 'ECONNREFUSED', 'connect', new RegExp(name));
});

test('an abstract name has the same limit as a path', { skip: skipUnlessLinux }, (t) => {
  const fd = raw.socket('unix', 'stream');
  closeAfter(t, fd);
  const name = `@${`${process.pid}`.padEnd(107, 'n')}`;

  raw.bind(fd, { family: 'unix', path: name });

  assert.deepEqual(raw.localAddress(fd), { family: 'unix', path: name });
  throws(
    () => {
      raw.bind(fd, { family: 'unix', path: `${name}n` });
    },
    RangeError,
    'ERR_OUT_OF_RANGE',
    /108 bytes/,
  );
});

test('an unbound socket answers with the empty path', (t) => {
  const fd = raw.socket('unix', 'stream');
  closeAfter(t, fd);

  assert.deepEqual(raw.localAddress(fd), { family: 'unix', path: '' });
  throwsSystem(() => raw.peerAddress(fd), 'ENOTCONN', 'getpeername', new RegExp(`fd ${fd}`));
});

test('datagrams between two Unix sockets, by address', { skip: skipUnlessLinux }, (t) => {
  const left = raw.socket('unix', 'dgram');
  const right = raw.socket('unix', 'dgram');
  closeAfter(t, left, right);
  const address = { family: 'unix', path: `@fdpass-dgram-${process.pid}` } as const;
  raw.bind(right, address);

  assert.equal(raw.send(left, Buffer.from('READY=1'), [], address), 7);

  assert.equal(raw.receive(right, 100)?.bytes.toString(), 'READY=1');
});

test('a UDP socket sends and receives', async (t) => {
  const left = raw.socket('IPv4', 'dgram');
  const right = raw.socket('IPv4', 'dgram');
  closeAfter(t, left, right);
  raw.bind(right, loopback);

  raw.send(left, Buffer.from('hello'), [], raw.localAddress(right));
  await until(right, 'readable');

  assert.equal(raw.receive(right, 100)?.bytes.toString(), 'hello');
});

test('an address in use: the message says where, the fields as in Node', (t) => {
  const { address } = listenLoopback(t);
  assert.ok(address.family === 'IPv4');
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);

  assert.throws(
    () => {
      raw.bind(fd, address);
    },
    {
      code: 'EADDRINUSE',
      syscall: 'bind',
      address: '127.0.0.1',
      port: address.port,
      message: `EADDRINUSE: address already in use, bind (127.0.0.1:${address.port})`,
    },
  );
});

test('a path in use: nothing is unlinked', (t) => {
  const file = path.join(temporaryDirectory(t), 'mine');
  fs.writeFileSync(file, 'kept');
  const fd = raw.socket('unix', 'stream');
  closeAfter(t, fd);

  assert.throws(
    () => {
      raw.bind(fd, { family: 'unix', path: file });
    },
    { code: 'EADDRINUSE', address: file, message: `EADDRINUSE: address already in use, bind (${file})` },
  );
  assert.equal(fs.readFileSync(file, 'utf8'), 'kept');
});

test('connect to nobody: refused at a path at once, on TCP by the option error', async (t) => {
  const { fd: listener, address } = listenLoopback(t);
  raw.close(listener);
  const unix = raw.socket('unix', 'stream');
  const tcp = raw.socket('IPv4', 'stream');
  closeAfter(t, unix, tcp);
  const missing = path.join(temporaryDirectory(t), 'missing');

  throwsSystem(() => raw.connect(unix, { family: 'unix', path: missing }), 'ENOENT', 'connect', /missing/);
  assert.equal(raw.connect(tcp, address), false);
  const events = await until(tcp, 'writable');

  assert.equal(events.error, true);
  assert.equal(events.readable, true);
  assert.notEqual(raw.getOption(tcp, 'error'), 0);
});

test('a full queue of a Unix listener is EAGAIN for connect', { skip: skipUnlessLinux }, (t) => {
  const address = { family: 'unix', path: `@fdpass-full-${process.pid}` } as const;
  const listener = raw.socket('unix', 'stream');
  closeAfter(t, listener);
  raw.bind(listener, address);
  raw.listen(listener, 0);
  const first = raw.socket('unix', 'stream');
  const second = raw.socket('unix', 'stream');
  closeAfter(t, first, second);

  raw.connect(first, address);

  throwsSystem(() => raw.connect(second, address), 'EAGAIN', 'connect', /fdpass-full/);
});

test('listen on a datagram socket is ENOTSUP, on an unbound Unix socket EINVAL, and each says where', (t) => {
  const dgram = raw.socket('IPv4', 'dgram');
  const unix = raw.socket('unix', 'stream');
  closeAfter(t, dgram, unix);
  raw.bind(dgram, loopback);

  throwsSystem(
    () => {
      raw.listen(dgram, 1);
    },
    'ENOTSUP',
    'listen',
    new RegExp(`fd ${dgram}, 127.0.0.1:`),
  );
  throwsSystem(
    () => {
      raw.listen(unix, 1);
    },
    'EINVAL',
    'listen',
    /unnamed/,
  );
});

test('accept on what does not listen is EINVAL', (t) => {
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);

  throwsSystem(() => raw.accept(fd), 'EINVAL', 'accept', new RegExp(`fd ${fd}`));
});

test('a family or type that does not go together is refused by the kernel, and said in words', () => {
  throwsSystem(() => raw.socket('IPv4', 'stream', 17), 'EPROTONOSUPPORT', 'socket', /IPv4 stream, protocol 17/);
});

test('a listener of ours is one that Node serves', async (t) => {
  const { fd, address } = listenLoopback(t);
  assert.ok(address.family === 'IPv4');
  const server = net.createServer((connection) => connection.end('served'));
  t.after(() => server.close());
  server.listen({ fd: raw.dup(fd) });
  await once(server, 'listening');

  const client = net.connect(address.port, '127.0.0.1');
  const [data] = (await once(client, 'data')) as [Buffer];

  assert.equal(data.toString(), 'served');
});

test('reuseAddress, reusePort, keepAlive, noDelay: off, on, off', (t) => {
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);

  for (const name of ['reuseAddress', 'reusePort', 'keepAlive', 'noDelay'] as const) {
    assert.equal(raw.getOption(fd, name), 0, name);
    raw.setOption(fd, name, true);
    assert.equal(raw.getOption(fd, name), 1, name);
    raw.setOption(fd, name, 0);
    assert.equal(raw.getOption(fd, name), 0, name);
  }
});

test('two sockets with reusePort listen at one address', (t) => {
  const first = raw.socket('IPv4', 'stream');
  const second = raw.socket('IPv4', 'stream');
  closeAfter(t, first, second);
  raw.setOption(first, 'reusePort', true);
  raw.setOption(second, 'reusePort', true);

  raw.bind(first, loopback);
  raw.listen(first, 1);
  raw.bind(second, raw.localAddress(first));
  raw.listen(second, 1);

  assert.deepEqual(raw.localAddress(second), raw.localAddress(first));
});

test('freeBind: an address that is not here', { skip: skipUnlessLinux }, (t) => {
  for (const [family, address] of [
    ['IPv4', '192.0.2.7'],
    ['IPv6', '2001:db8::7'],
  ] as const) {
    const strict = raw.socket(family, 'stream');
    const free = raw.socket(family, 'stream');
    closeAfter(t, strict, free);
    raw.setOption(free, 'freeBind', true);

    throwsSystem(
      () => {
        raw.bind(strict, { family, address, port: 0 });
      },
      'EADDRNOTAVAIL',
      'bind',
      /7/,
    );
    raw.bind(free, { family, address, port: 0 });

    assert.equal(raw.getOption(free, 'freeBind'), 1);
  }
});

test('deferAccept in seconds, fastOpen a length, bindToDevice a name', { skip: skipUnlessLinux }, (t) => {
  const { fd } = listenLoopback(t);

  raw.setOption(fd, 'deferAccept', 3);
  raw.setOption(fd, 'fastOpen', 16);
  raw.setOption(fd, 'bindToDevice', 'lo');

  assert.ok(raw.getOption(fd, 'deferAccept') >= 3); // the kernel rounds up to its retries
  assert.equal(raw.getOption(fd, 'fastOpen'), 16);
  assert.equal(raw.getOption(fd, 'bindToDevice'), 'lo');
  if (process.getuid?.() === 0) {
    raw.setOption(fd, 'bindToDevice', '');
    assert.equal(raw.getOption(fd, 'bindToDevice'), '');
  }
  const free = raw.socket('IPv4', 'stream');
  closeAfter(t, free);
  throwsSystem(
    () => {
      raw.setOption(free, 'bindToDevice', 'no-such-if');
    },
    'ENODEV',
    'setsockopt',
    /bindToDevice = no-such-if, fd/,
  );
});

test('sendBuffer and receiveBuffer grow', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  raw.setOption(left, 'sendBuffer', 65_536);
  raw.setOption(left, 'receiveBuffer', 65_536);

  assert.ok(raw.getOption(left, 'sendBuffer') >= 65_536);
  assert.ok(raw.getOption(left, 'receiveBuffer') >= 65_536);
});

test('type and acceptConnections tell a listener from others', (t) => {
  const { fd } = listenLoopback(t);
  const dgram = raw.socket('IPv4', 'dgram');
  closeAfter(t, dgram);

  assert.deepEqual([raw.getOption(fd, 'type'), raw.getOption(fd, 'acceptConnections')], [1, 1]);
  assert.deepEqual([raw.getOption(dgram, 'type'), raw.getOption(dgram, 'acceptConnections')], [2, 0]);
});

test('what can only be read cannot be set', (t) => {
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);

  for (const name of ['error', 'type', 'acceptConnections'] as const) {
    throws(
      () => {
        raw.setOption(fd, name, 1);
      },
      TypeError,
      'ERR_INVALID_ARG_VALUE',
      new RegExp(`'name'.*'${name}'`),
    );
  }
});

for (const [name, value, code] of [
  ['reuseAddress', 2, 'ERR_OUT_OF_RANGE'],
  ['reuseAddress', 'on', 'ERR_INVALID_ARG_TYPE'],
  ['deferAccept', true, 'ERR_INVALID_ARG_TYPE'],
  ['deferAccept', -1, 'ERR_OUT_OF_RANGE'],
  ['sendBuffer', 1.5, 'ERR_OUT_OF_RANGE'],
  ['sendBuffer', 2 ** 31, 'ERR_OUT_OF_RANGE'],
  ['bindToDevice', 1, 'ERR_INVALID_ARG_TYPE'],
  ['bindToDevice', 'an-interface-name', 'ERR_OUT_OF_RANGE'],
  ['bindToDevice', 'l\0', 'ERR_INVALID_ARG_VALUE'],
] as const) {
  test(`${name} = ${inspect(value)} is refused: ${code}`, (t) => {
    const fd = raw.socket('IPv4', 'stream');
    closeAfter(t, fd);

    assert.throws(
      () => {
        raw.setOption(fd, name as 'deferAccept', value as number);
      },
      { code, message: /value/ },
    );
  });
}

test('an option that is not of this socket, and one that is of none', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  assert.throws(() => raw.getOption(left, 'ipv6Only'), /getsockopt \(ipv6Only of fd \d+\)$/);
  assert.throws(
    () => {
      raw.setOption(left, 'noDelay', true);
    },
    { syscall: 'setsockopt' },
  );
  throws(() => raw.getOption(left, 'linger' as 'type'), TypeError, 'ERR_INVALID_ARG_VALUE', /'reuseAddress'.*'linger'/);
});

test('listenQueue counts who waits, and says how many may', { skip: skipUnlessLinux }, async (t) => {
  const { fd, address } = listenLoopback(t, 7);
  assert.deepEqual(raw.listenQueue(fd), { length: 0, backlog: 7 });

  const clients = [0, 1, 2].map(() => raw.socket('IPv4', 'stream'));
  closeAfter(t, ...clients);
  for (const client of clients) {
    raw.connect(client, address);
    await until(client, 'writable');
  }

  assert.deepEqual(raw.listenQueue(fd), { length: 3, backlog: 7 });
  raw.listen(fd, 9);
  closeAfter(t, raw.accept(fd) ?? -1);
  assert.deepEqual(raw.listenQueue(fd), { length: 2, backlog: 9 });
});

test('listenQueue: ENOTSUP where it is not TCP, EINVAL where it does not listen', { skip: skipUnlessLinux }, (t) => {
  const [left, right] = raw.socketPair('stream');
  const udp = raw.socket('IPv4', 'dgram');
  const idle = raw.socket('IPv4', 'stream');
  closeAfter(t, left, right, udp, idle);

  throwsSystem(() => raw.listenQueue(left), 'ENOTSUP', 'getsockopt', /queue of fd/);
  throwsSystem(() => raw.listenQueue(udp), 'ENOTSUP', 'getsockopt', /queue of fd/);
  throwsSystem(() => raw.listenQueue(idle), 'EINVAL', 'getsockopt', /queue of fd/);
});

test('peerCredentials of a pair are our own', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  const peer = raw.peerCredentials(left);

  assert.equal(peer.uid, process.getuid?.());
  assert.equal(peer.gid, process.getgid?.());
  if (isLinux) assert.equal(peer.pid, process.pid);
});

test('peerCredentials without a peer is ENOTCONN, never a user', { skip: skipUnlessLinux }, (t) => {
  const unix = raw.socket('unix', 'stream');
  const tcp = raw.socket('IPv4', 'stream');
  closeAfter(t, unix, tcp);

  throwsSystem(() => raw.peerCredentials(unix), 'ENOTCONN', 'getsockopt', new RegExp(`fd ${unix}`));
  throwsSystem(() => raw.peerCredentials(tcp), 'ENOTCONN', 'getsockopt', new RegExp(`fd ${tcp}`));
});

test('passCredentials: a datagram says who sent it', { skip: skipUnlessLinux }, (t) => {
  const [left, right] = raw.socketPair('dgram');
  closeAfter(t, left, right);
  raw.send(right, Buffer.from('before'));
  raw.setOption(left, 'passCredentials', true);
  raw.send(right, Buffer.from('asked'));
  raw.send(right, Buffer.from('not asked'));

  assert.equal(raw.receive(left, 100, { credentials: true })?.credentials?.pid, 0); // sent before: nobody
  const own = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() };
  assert.deepEqual(raw.receive(left, 100, { credentials: true })?.credentials, own);
  assert.deepEqual(Object.keys(raw.receive(left, 100) ?? {}), ['bytes', 'fds']);
});

for (const [address, code, says] of [
  [{ family: 'IPv4', address: '127.0.0.1', port: 65_536 }, 'ERR_OUT_OF_RANGE', /"address.port".*65536/],
  [{ family: 'IPv4', address: '127.0.0.1', port: -1 }, 'ERR_OUT_OF_RANGE', /"address.port".*-1/],
  [{ family: 'IPv4', address: '127.0.0.1', port: 1.5 }, 'ERR_OUT_OF_RANGE', /"address.port".*1\.5/],
  [{ family: 'IPv4', address: '127.0.0.1', port: '80' }, 'ERR_INVALID_ARG_TYPE', /"address.port".*'80'/],
  [{ family: 'IPv4', address: '127.0.0.1' }, 'ERR_INVALID_ARG_TYPE', /"address.port".*undefined/],
  [{ family: 'IPv4', address: 'localhost', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'.*'localhost'/],
  [{ family: 'IPv4', address: '127.1', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'.*'127.1'/],
  [{ family: 'IPv4', address: '127.0.0.1 ', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'/],
  [{ family: 'IPv4', address: '::1', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'.*'::1'/],
  [{ family: 'IPv4', address: '', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'.*''/],
  [{ family: 'IPv4', address: '127.0.0.1\0', port: 1 }, 'ERR_INVALID_ARG_VALUE', /null bytes/],
  [{ family: 'IPv6', address: '127.0.0.1', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'.*'127.0.0.1'/],
  [{ family: 'IPv6', address: 'fe80::1%lo', port: 1 }, 'ERR_INVALID_ARG_VALUE', /'address.address'.*'fe80::1%lo'/],
  [{ family: 'IPv6', address: '::1', port: 1, scopeId: -1 }, 'ERR_OUT_OF_RANGE', /"address.scopeId".*-1/],
  [{ family: 'IPv6', address: '::1', port: 1, scopeId: 2 ** 32 }, 'ERR_OUT_OF_RANGE', /"address.scopeId"/],
  [{ family: 'IPv6', address: '::1', port: 1, scopeId: 'lo' }, 'ERR_INVALID_ARG_TYPE', /"address.scopeId".*'lo'/],
  [{ family: 'unix', path: '' }, 'ERR_INVALID_ARG_VALUE', /'address.path'.*empty/],
  [{ family: 'unix', path: '@' }, 'ERR_INVALID_ARG_VALUE', /'address.path'.*empty/],
  [{ family: 'unix', path: '/tmp/a\0b' }, 'ERR_INVALID_ARG_VALUE', /'address.path'.*null bytes/],
  [{ family: 'unix', path: '@a\0b' }, 'ERR_INVALID_ARG_VALUE', /'address.path'.*null bytes/],
  [{ family: 'unix' }, 'ERR_INVALID_ARG_TYPE', /"address.path".*undefined/],
  [{ family: 'IPv5', path: '' }, 'ERR_INVALID_ARG_VALUE', /'address.family'.*'IPv5'/],
  [{ family: 4, path: '' }, 'ERR_INVALID_ARG_TYPE', /"address.family".*4/],
] as const) {
  test(`bind, connect and send refuse ${inspect(address)}`, (t) => {
    const fd = raw.socket('IPv4', 'dgram');
    closeAfter(t, fd);
    const bad = address as unknown as raw.SocketAddress;

    assert.throws(
      () => {
        raw.bind(fd, bad);
      },
      { code, message: says },
    );
    assert.throws(() => raw.connect(fd, bad), { code, message: says });
    assert.throws(() => raw.send(fd, Buffer.from('x'), [], bad), { code, message: /to\./ });
  });
}

for (const [act, code, says] of [
  [() => raw.socket('ipv4' as 'IPv4', 'stream'), 'ERR_INVALID_ARG_VALUE', /'domain'.*'IPv4', 'IPv6', 'unix'.*'ipv4'/],
  [() => raw.socket('IPv4', 'raw' as 'stream'), 'ERR_INVALID_ARG_VALUE', /'type'.*'seqpacket'.*'raw'/],
  [() => raw.socket(2 as unknown as 'IPv4', 'stream'), 'ERR_INVALID_ARG_TYPE', /"domain"/],
  [() => raw.socketPair('streams' as 'stream'), 'ERR_INVALID_ARG_VALUE', /'type'.*'streams'/],
] as const) {
  test(`a word that is not known is refused: ${says.source}`, () => {
    throws(act, TypeError, code, says);
  });
}

test('what throws leaks nothing', (t) => {
  const { address } = listenLoopback(t);
  const before = openList();

  for (let round = 0; round < 20; round++) {
    const fd = raw.socket('IPv4', 'stream');
    assert.throws(() => {
      raw.bind(fd, address);
    });
    raw.close(fd);
    assert.throws(() => raw.socket('IPv4', 'seqpacket'));
    assert.throws(() => raw.socketPair('nothing' as 'stream'));
  }

  assert.deepEqual(openList(), before);
});

test('an address may be an object with getters, or a Proxy; what they throw comes out', (t) => {
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);
  const failing = {
    family: 'IPv4',
    get address(): string {
      throw new Error('of the getter');
    },
    port: 0,
  } as const;

  raw.bind(fd, new Proxy({ ...loopback }, {}));

  assert.throws(() => raw.connect(fd, failing), /^Error: of the getter$/);
});
