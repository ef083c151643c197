/**
 * What sd_is_socket(3), sd_is_socket_inet(3), sd_is_socket_unix(3), sd_is_fifo(3) and sd_is_special(3) ask of a descriptor: raw.describe() has
 * the answer, and a listener is told from what only looks like one.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test, type TestContext } from 'node:test';

import { FdpassError } from '../../lib/errors.js';
import { describeListener } from '../../lib/listener.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';

const skipUnlessLinux = process.platform === 'linux' ? false : 'Linux alone';

/** A socket, bound, and listening where a backlog is given. */
function open(type: raw.SocketType, address?: raw.SocketAddress, backlog?: number): number {
  const fd = raw.socket(address?.family ?? 'IPv4', type);
  if (address !== undefined) raw.bind(fd, address);
  if (backlog !== undefined) raw.listen(fd, backlog);
  return fd;
}

const loopback = { family: 'IPv4', address: '127.0.0.1', port: 0 } as const;

interface Facts {
  kind: raw.Description['kind'];
  domain?: raw.SocketDomain | 'other';
  type?: raw.SocketType | 'other';
  listening?: boolean;
  /** sun_path, whole: a path that begins alike is another one. */
  path?: string;
}

type Vector = [what: string, open: (directory: string) => number, facts: Facts, isListener: boolean];

const SOCKETS: Vector[] = [
  [
    'a TCP listener',
    () => open('stream', loopback, 1),
    { kind: 'socket', domain: 'IPv4', type: 'stream', listening: true },
    true,
  ],
  [
    'TCP that is bound and does not listen',
    () => open('stream', loopback),
    { kind: 'socket', domain: 'IPv4', type: 'stream', listening: false },
    false,
  ],
  [
    'TCP that is neither',
    () => open('stream'),
    { kind: 'socket', domain: 'IPv4', type: 'stream', listening: false },
    false,
  ],
  [
    'UDP that is bound: no stream, and does not listen',
    () => open('dgram', loopback),
    { kind: 'socket', domain: 'IPv4', type: 'dgram', listening: false },
    true,
  ],
  ['UDP that is not', () => open('dgram'), { kind: 'socket', domain: 'IPv4', type: 'dgram', listening: false }, false],
  [
    'a listener at :: for both families: not of IPv4',
    () => open('stream', { family: 'IPv6', address: '::', port: 0 }, 1),
    { kind: 'socket', domain: 'IPv6', type: 'stream', listening: true },
    true,
  ],
  [
    'a listener at a path',
    (directory) => open('stream', { family: 'unix', path: path.join(directory, 'a') }, 1),
    { kind: 'socket', domain: 'unix', type: 'stream', listening: true, path: 'a' },
    true,
  ],
  [
    'a datagram socket at a path that begins alike',
    (directory) => open('dgram', { family: 'unix', path: path.join(directory, 'ab') }),
    { kind: 'socket', domain: 'unix', type: 'dgram', listening: false, path: 'ab' },
    true,
  ],
  [
    'a Unix socket without a name',
    () => raw.socket('unix', 'dgram'),
    { kind: 'socket', domain: 'unix', type: 'dgram', listening: false, path: '' },
    false,
  ],
];

const OTHERS: Vector[] = [
  [
    'a FIFO',
    (directory) => {
      execFileSync('mkfifo', [path.join(directory, 'fifo')]);
      return fs.openSync(path.join(directory, 'fifo'), fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
    },
    { kind: 'pipe' },
    false,
  ],
  ['a device', () => fs.openSync('/dev/null', 'r'), { kind: 'character' }, false],
  ['a file', (directory) => fs.openSync(path.join(directory, 'file'), 'w'), { kind: 'file' }, false],
  ['a directory', (directory) => fs.openSync(directory, 'r'), { kind: 'directory' }, false],
];

for (const [what, make, facts, isListener] of [...SOCKETS, ...OTHERS]) {
  test(`${what} is ${JSON.stringify(facts)}, and ${isListener ? 'can be' : 'cannot be'} a listener`, (t) => {
    const directory = temporaryDirectory(t);
    const fd = make(directory);
    t.after(() => raw.close(fd));

    const { kind, socket } = raw.describe(fd);

    const { path: name, ...expected } = facts;
    const address = socket?.localAddress;
    assert.deepEqual(
      socket === undefined ? { kind } : { kind, domain: socket.domain, type: socket.type, listening: socket.listening },
      expected,
    );
    if (name !== undefined) {
      assert.ok(address?.family === 'unix');
      assert.equal(address.path, name === '' ? '' : path.join(directory, name));
    }
    assert.equal(canListen(fd), isListener);
  });
}

function canListen(fd: number): boolean {
  try {
    describeListener(fd);
    return true;
  } catch (error) {
    assert.ok(error instanceof FdpassError && error.code === 'ERR_FDPASS_TYPE');
    return false;
  }
}

test(
  'an abstract name is as long as it is: one that begins alike is another',
  { skip: skipUnlessLinux },
  (t: TestContext) => {
    const name = `@${path.basename(temporaryDirectory(t))}`;
    const names = [name, `${name}b`].map((each) => {
      const fd = open('stream', { family: 'unix', path: each }, 1);
      t.after(() => raw.close(fd));
      return raw.describe(fd).socket?.localAddress;
    });

    assert.deepEqual(names, [
      { family: 'unix', path: name },
      { family: 'unix', path: `${name}b` },
    ]);
  },
);

test('a number that is not open is EBADF, and one that can be none an error of its own', () => {
  assert.throws(() => raw.describe(99_999), { code: 'EBADF' });
  assert.throws(() => raw.describe(-1), { code: 'ERR_OUT_OF_RANGE' });
});
