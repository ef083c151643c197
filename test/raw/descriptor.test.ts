/**
 * Descriptors: dup, close, flags, describe, isSame, the list; files in memory and locks.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { inspect } from 'node:util';

import * as raw from '../../lib/raw.js';
import {
  badDescriptors,
  closeAfter,
  closedDescriptor,
  isLinux,
  listenLoopback,
  openList,
  skipUnlessLinux,
  temporaryDirectory,
  throws,
  throwsSystem,
  until,
} from './support.js';

test('dup gives a second number for the same socket, at or above the lowest asked for', (t) => {
  const { fd } = listenLoopback(t);

  const copy = raw.dup(fd);
  const high = raw.dup(fd, 500);
  closeAfter(t, copy, high);

  assert.ok(high >= 500);
  assert.notEqual(copy, fd);
  assert.equal(raw.describe(copy).inode, raw.describe(fd).inode);
  assert.equal(raw.describe(high).inode, raw.describe(fd).inode);
});

test('dup and close leave the list of open descriptors as it was', () => {
  const before = openList();

  for (let round = 0; round < 100; round++) raw.close(raw.dup(0, round));

  assert.deepEqual(openList(), before);
});

test('dup at a number above the limit is EINVAL', () => {
  throwsSystem(() => raw.dup(0, 2 ** 31 - 1), 'EINVAL', 'fcntl', /dup of fd 0/);
});

test('dupTo takes exactly the number, and closes what was there', (t) => {
  const { fd } = listenLoopback(t);
  const target = raw.dup(0, 600);
  closeAfter(t, target);

  const result = raw.dupTo(fd, target);

  assert.equal(result, target);
  assert.ok(raw.isSame(fd, target));
  assert.ok(!raw.isSame(0, target));
});

test('dupTo onto itself is EINVAL, and closes nothing', (t) => {
  const { fd } = listenLoopback(t);

  throwsSystem(() => raw.dupTo(fd, fd), 'EINVAL', 'dup3', /dup of fd \d+ to fd \d+/);

  assert.equal(raw.describe(fd).kind, 'socket');
});

test('dupTo above the limit is EBADF', () => {
  throwsSystem(() => raw.dupTo(0, 2 ** 31 - 1), 'EBADF', 'dup3', /to fd 2147483647/);
});

test('close frees the number: a second close is EBADF, and says which', () => {
  const fd = raw.dup(0, 700);
  raw.close(fd);

  throwsSystem(
    () => raw.close(fd),
    'EBADF',
    'close',
    new RegExp(`^EBADF: bad file descriptor, close \\(.*fd ${fd}\\)$`),
  );
});

test('an error of the system names the descriptor in a field too', () => {
  const fd = closedDescriptor();

  assert.throws(() => raw.dup(fd), { code: 'EBADF', errno: -9, syscall: 'fcntl', fd });
});

test('closeAll closes each: those that follow each other, those that do not, and passes over what is not open', () => {
  const before = openList();
  const fds = [700, 701, 702, 710, 705, 704, 720].map((lowest) => raw.dup(0, lowest));
  raw.close(701);

  raw.closeAll(fds);
  raw.closeAll([]);

  assert.deepEqual(openList(), before);
});
test('closeAll closes nothing where one of them is no descriptor', (t) => {
  const fd = raw.dup(0, 700);
  closeAfter(t, fd);
  throws(() => raw.closeAll([fd, -1]), RangeError, 'ERR_OUT_OF_RANGE', /"fds\[1\]"/);
  throws(() => raw.closeAll([fd, 1.5]), RangeError, 'ERR_OUT_OF_RANGE', /"fds\[1\]"/);
  throws(() => raw.closeAll([fd, '3' as unknown as number]), TypeError, 'ERR_INVALID_ARG_TYPE', /"fds\[1\]"/);
  throws(
    () => raw.closeAll(fd as unknown as number[]),
    TypeError,
    'ERR_INVALID_ARG_TYPE',
    /"fds" argument must be an array/,
  );
  assert.ok(raw.isSame(fd, 0));
});
test('close-on-exec is of one number, not of its dups', (t) => {
  const fd = raw.dup(0);
  const copy = raw.dup(fd);
  closeAfter(t, fd, copy);
  assert.equal(raw.getCloseOnExec(fd), true);

  raw.setCloseOnExec(fd, false);

  assert.equal(raw.getCloseOnExec(fd), false);
  assert.equal(raw.getCloseOnExec(copy), true);
  raw.setCloseOnExec(fd, true);
  assert.equal(raw.getCloseOnExec(fd), true);
});

test('non-blocking is of the description, and so of every dup', (t) => {
  const { fd } = listenLoopback(t);
  const copy = raw.dup(fd);
  closeAfter(t, copy);
  assert.equal(raw.getNonBlocking(copy), true);

  raw.setNonBlocking(fd, false);

  assert.equal(raw.getNonBlocking(copy), false);
  raw.setNonBlocking(copy, true);
  assert.equal(raw.getNonBlocking(fd), true);
});

test('describe tells all of a TCP listener', (t) => {
  const fd = raw.socket('IPv6', 'stream');
  closeAfter(t, fd);
  raw.setOption(fd, 'reuseAddress', true);
  raw.setOption(fd, 'ipv6Only', true);
  raw.bind(fd, { family: 'IPv6', address: '::1', port: 0 });
  raw.listen(fd, 5);

  const { socket, ...rest } = raw.describe(fd);

  const facts = fs.fstatSync(fd, { bigint: true });
  assert.deepEqual(rest, {
    fd,
    kind: 'socket',
    device: facts.dev,
    inode: facts.ino,
    closeOnExec: true,
    nonBlocking: true,
  });
  assert.ok(socket);
  assert.equal(socket.domain, 'IPv6');
  assert.equal(socket.type, 'stream');
  assert.equal(socket.protocol, 6);
  assert.equal(socket.listening, true);
  assert.deepEqual(socket.localAddress, raw.localAddress(fd));
  assert.equal(socket.peerAddress, undefined);
  assert.equal(socket.options.reuseAddress, true);
  assert.equal(socket.options.ipv6Only, true);
  assert.equal(socket.options.reusePort, false);
  if (isLinux) {
    assert.equal(typeof socket.cookie, 'bigint');
    assert.equal(socket.options.bindToDevice, '');
    assert.equal(socket.options.deferAccept, 0);
  }
});

test('describe tells the peer of a connection, and no options that such a socket has not', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  const { socket } = raw.describe(left);

  assert.ok(socket);
  assert.equal(socket.domain, 'unix');
  assert.equal(socket.listening, false);
  assert.equal(socket.protocol, 0);
  assert.deepEqual(socket.peerAddress, { family: 'unix', path: '' });
  assert.equal(socket.options.noDelay, undefined);
  assert.equal(socket.options.ipv6Only, undefined);
});

test('describe of a UDP socket: protocol 17, not listening', (t) => {
  const fd = raw.socket('IPv4', 'dgram');
  closeAfter(t, fd);

  const { socket } = raw.describe(fd);

  assert.equal(socket?.protocol, 17);
  assert.equal(socket.type, 'dgram');
  assert.equal(socket.listening, false);
});

test('describe does not take the pending error of a socket', { skip: skipUnlessLinux }, async (t) => {
  const { fd: listener, address } = listenLoopback(t);
  raw.close(listener);
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);
  assert.equal(raw.connect(fd, address), false);
  await until(fd, 'writable');

  raw.describe(fd);

  assert.equal(raw.getOption(fd, 'error'), 111); // ECONNREFUSED
  assert.equal(raw.getOption(fd, 'error'), 0);
});

for (const [what, kind, open] of [
  ['a program', 'file', () => fs.openSync(process.execPath, 'r')],
  ['/', 'directory', () => fs.openSync('/', 'r')],
  ['/dev/null', 'character', () => fs.openSync('/dev/null', 'r')],
  ['memory', 'file', () => raw.memoryFile('of the test')],
] as const) {
  test(`describe calls ${what} a ${kind}`, (t) => {
    const fd = open();
    closeAfter(t, fd);

    const description = raw.describe(fd);

    assert.equal(description.kind, kind);
    assert.equal(description.socket, undefined);
  });
}

test('describe knows a pipe, and what has no type', { skip: skipUnlessLinux }, (t) => {
  const pipe = raw.openDescriptors().find(({ target }) => target.startsWith('pipe:'));
  const epoll = raw.openDescriptors().find(({ target }) => target === 'anon_inode:[eventpoll]');
  const pidfd = raw.pidfdOpen(process.pid);
  closeAfter(t, pidfd);

  assert.equal(raw.describe(pipe?.fd ?? -1).kind, 'pipe');
  assert.equal(raw.describe(epoll?.fd ?? -1).kind, 'anonymous');
  assert.equal(raw.describe(pidfd).kind, 'anonymous');
});

test('isSame: a dup is, another socket at the same address is not', (t) => {
  const { fd } = listenLoopback(t);
  const copy = raw.dup(fd);
  const other = raw.socket('IPv4', 'stream');
  closeAfter(t, copy, other);

  assert.equal(raw.isSame(fd, copy), true);
  assert.equal(raw.isSame(fd, fd), true);
  assert.equal(raw.isSame(fd, other), false);
  assert.equal(raw.isSame(fd, 0), false);
});

test('isSame: the two ends of a pair are not one', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  assert.equal(raw.isSame(left, right), false);
});

test('isSame of a closed descriptor is EBADF, on either side, and against itself', () => {
  const fd = closedDescriptor();

  throwsSystem(() => raw.isSame(0, fd), 'EBADF', 'fstat', new RegExp(`fd ${fd}`));
  throwsSystem(() => raw.isSame(fd, 0), 'EBADF', 'fstat', new RegExp(`fd ${fd}`));
  throwsSystem(() => raw.isSame(fd, fd), 'EBADF', 'fstat', new RegExp(`fd ${fd}`));
});

test('openDescriptors is what /proc/self/fd says, less the number that reads it', { skip: skipUnlessLinux }, (t) => {
  const { fd } = listenLoopback(t);

  const list = raw.openDescriptors();

  const numbers = fs.readdirSync('/proc/self/fd').map(Number);
  const open = numbers.filter((number) => fs.existsSync(`/proc/self/fdinfo/${number}`)); // not the directory itself
  assert.deepEqual(
    list.map((entry) => entry.fd),
    open.sort((a, b) => a - b),
  );
  assert.equal(list.find((entry) => entry.fd === fd)?.target, `socket:[${raw.describe(fd).inode}]`);
});

test('memoryFile gives an empty file that can be written and read', (t) => {
  const fd = raw.memoryFile('state of the predecessor');
  closeAfter(t, fd);

  fs.writeSync(fd, 'kept', 0);

  assert.equal(fs.fstatSync(fd).size, 4);
  const bytes = Buffer.alloc(4);
  fs.readSync(fd, bytes, 0, 4, 0);
  assert.equal(bytes.toString(), 'kept');
});

test('memoryFile refuses a name that is too long, and a NUL in it', () => {
  throws(() => raw.memoryFile('x'.repeat(250)), RangeError, 'ERR_OUT_OF_RANGE', /"name".*249 bytes.*250 bytes/);
  throws(() => raw.memoryFile('a\0b'), TypeError, 'ERR_INVALID_ARG_VALUE', /'name'.*without null bytes/);
});

test('flock: another description has to wait, a dup has not', (t) => {
  const file = path.join(temporaryDirectory(t), 'lock');
  const first = fs.openSync(file, 'w');
  const second = fs.openSync(file, 'r');
  const copy = raw.dup(first);
  closeAfter(t, first, second, copy);

  assert.equal(raw.flock(first, 'exclusive'), true);
  assert.equal(raw.flock(copy, 'exclusive'), true);
  assert.equal(raw.flock(second, 'exclusive'), false);
  assert.equal(raw.flock(second, 'shared'), false);
  assert.equal(raw.flock(copy, 'unlock'), true);
  assert.equal(raw.flock(second, 'shared'), true);
  assert.equal(raw.flock(first, 'shared'), true);
  assert.equal(raw.flock(first, 'exclusive'), false);
});

test('flock refuses a word it does not know', () => {
  throws(() => raw.flock(0, 'both' as 'shared'), TypeError, 'ERR_INVALID_ARG_VALUE', /'operation'.*'unlock'.*'both'/);
});

test('every descriptor is close-on-exec from birth', { skip: skipUnlessLinux }, async (t) => {
  const { fd: listener, address } = listenLoopback(t);
  const [left, right] = raw.socketPair('stream');
  const client = raw.socket('IPv4', 'stream');
  raw.connect(client, address);
  await until(listener, 'readable');
  const accepted = raw.accept(listener) ?? -1;
  raw.send(left, Buffer.from('x'), [listener]);
  const received = raw.receive(right, 1)?.fds[0] ?? -1;
  const copy = raw.dup(0);
  const placed = raw.dupTo(0, raw.dup(0, 800));
  const memory = raw.memoryFile('birth');
  const pidfd = raw.pidfdOpen(process.pid);
  const born = { listener, left, right, client, accepted, received, copy, placed, memory, pidfd };
  closeAfter(t, ...Object.values(born));

  for (const [name, fd] of Object.entries(born)) {
    const flags = /^flags:\s*([0-7]+)$/m.exec(fs.readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '';
    assert.notEqual(parseInt(flags, 8) & 0o2000000, 0, `${name} has O_CLOEXEC`);
    assert.equal(raw.describe(fd).closeOnExec, true, name);
  }
  const seen = spawnSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' }).stdout;
  for (const [name, fd] of Object.entries(born)) {
    const { kind, inode } = raw.describe(fd);
    if (kind === 'socket') assert.ok(!seen.includes(`socket:[${inode}]`), `${name} did not reach a child`);
  }
});

/** Every operation whose first argument is a descriptor, with good values for the rest. */
const operations: Record<string, (fd: number) => unknown> = {
  dup: (fd) => raw.dup(fd),
  dupTo: (fd) => raw.dupTo(fd, 801),
  close: raw.close,
  getCloseOnExec: raw.getCloseOnExec,
  setCloseOnExec: (fd) => {
    raw.setCloseOnExec(fd, true);
  },
  getNonBlocking: raw.getNonBlocking,
  setNonBlocking: (fd) => {
    raw.setNonBlocking(fd, true);
  },
  describe: raw.describe,
  flock: (fd) => raw.flock(fd, 'shared'),
  bind: (fd) => {
    raw.bind(fd, { family: 'IPv4', address: '127.0.0.1', port: 0 });
  },
  listen: (fd) => {
    raw.listen(fd, 1);
  },
  connect: (fd) => raw.connect(fd, { family: 'IPv4', address: '127.0.0.1', port: 1 }),
  localAddress: raw.localAddress,
  peerAddress: raw.peerAddress,
  accept: raw.accept,
  getOption: (fd) => raw.getOption(fd, 'type'),
  setOption: (fd) => {
    raw.setOption(fd, 'keepAlive', true);
  },
  listenQueue: raw.listenQueue,
  peerCredentials: raw.peerCredentials,
  send: (fd) => raw.send(fd, Buffer.from('x')),
  receive: (fd) => raw.receive(fd, 1),
  watch: (fd) => raw.watch(fd, { readable: true }, () => undefined),
};

for (const [name, operation] of Object.entries(operations)) {
  for (const { value, code, type } of badDescriptors) {
    test(`${name}(${inspect(value)}) is a ${type.name} that names fd`, () => {
      throws(() => operation(value as number), type, code, /"fd"/);
    });
  }

  test(`${name} of a closed descriptor is EBADF`, { skip: name === 'listenQueue' && skipUnlessLinux }, () => {
    const fd = closedDescriptor();

    assert.throws(
      () => operation(fd),
      (error: NodeJS.ErrnoException) => {
        assert.equal(error.code, 'EBADF');
        assert.ok(error.errno !== undefined && error.errno < 0);
        assert.equal(typeof error.syscall, 'string');
        return true;
      },
    );
  });
}

for (const name of [
  'listen',
  'accept',
  'localAddress',
  'peerAddress',
  'bind',
  'connect',
  'getOption',
  'setOption',
  'send',
  'receive',
  'peerCredentials',
]) {
  test(`${name} of a regular file is ENOTSOCK`, (t) => {
    const fd = fs.openSync(process.execPath, 'r');
    closeAfter(t, fd);

    assert.throws(() => operations[name]?.(fd), { code: 'ENOTSOCK' });
  });
}

for (const [name, argument, received, act] of [
  ['dup', 'lowest', '-1', () => raw.dup(0, -1)],
  ['dup', 'lowest', '0.5', () => raw.dup(0, 0.5)],
  ['dupTo', 'target', '-2', () => raw.dupTo(0, -2)],
  ['isSame', 'b', '-3', () => raw.isSame(0, -3)],
  ['isSame', 'a', 'NaN', () => raw.isSame(NaN, 0)],
  ['pidfdOpen', 'pid', '0', () => raw.pidfdOpen(0)],
  ['pidfdOpen', 'pid', '-5', () => raw.pidfdOpen(-5)],
  ['pidfdSignal', 'signal', '65', () => raw.pidfdSignal(0, 65)],
  ['listen', 'backlog', '-1', () => raw.listen(0, -1)],
  ['listen', 'backlog', '2147483648', () => raw.listen(0, 2 ** 31)],
  ['socket', 'protocol', '-1', () => raw.socket('IPv4', 'stream', -1)],
  ['receive', 'size', '0', () => raw.receive(0, 0)],
  ['receive', 'size', '2147483648', () => raw.receive(0, 2 ** 31)],
] as const) {
  test(`${name} names "${argument}" when that is ${received}`, () => {
    throws(act, RangeError, 'ERR_OUT_OF_RANGE', new RegExp(`"${argument}".*Received ${received}$`));
  });
}

for (const [argument, received, act] of [
  ['on', 'type number (1)', () => raw.setCloseOnExec(0, 1 as unknown as boolean)],
  ['on', "type string ('yes')", () => raw.setNonBlocking(0, 'yes' as unknown as boolean)],
  ['name', 'type number (7)', () => raw.memoryFile(7 as unknown as string)],
  ['bytes', "type string ('text')", () => raw.send(0, 'text' as unknown as Uint8Array)],
  ['bytes', 'an object', () => raw.send(0, new Uint16Array(2) as unknown as Uint8Array)],
  ['fds', 'type number (3)', () => raw.send(0, Buffer.from('x'), 3 as unknown as number[])],
  ['fds[1]', "type string ('3')", () => raw.send(0, Buffer.from('x'), [0, '3'] as unknown as number[])],
  ['options.credentials', 'type number (1)', () => raw.receive(0, 1, { credentials: 1 as unknown as boolean })],
  ['address', "type string ('x')", () => raw.bind(0, 'x' as unknown as raw.SocketAddress)],
  ['address', 'null', () => raw.bind(0, null as unknown as raw.SocketAddress)],
  ['address.family', 'undefined', () => raw.bind(0, {} as unknown as raw.SocketAddress)],
  ['events.readable', 'type number (1)', () => raw.watch(0, { readable: 1 as unknown as boolean }, () => undefined)],
  ['events', 'undefined', () => raw.watch(0, undefined as unknown as object, () => undefined)],
  ['callback', 'undefined', () => raw.watch(0, {}, undefined as unknown as () => undefined)],
] as const) {
  test(`"${argument}" that is ${received} is a TypeError that says so`, () => {
    assert.throws(act, (error: NodeJS.ErrnoException) => {
      assert.ok(error instanceof TypeError);
      assert.equal(error.code, 'ERR_INVALID_ARG_TYPE');
      assert.ok(error.message.includes(`"${argument}" argument must be`), error.message);
      assert.ok(error.message.endsWith(`Received ${received}`), error.message);
      return true;
    });
  });
}

test('peerPidfd names the process at the other end, close-on-exec', { skip: skipUnlessLinux }, (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  let pidfd: number;
  try {
    pidfd = raw.peerPidfd(left);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'ENOPROTOOPT', 'a kernel before 6.5');
    return;
  }
  closeAfter(t, pidfd);

  raw.pidfdSignal(pidfd, 0);
  assert.equal(raw.getCloseOnExec(pidfd), true);
  assert.match(fs.readFileSync(`/proc/self/fdinfo/${pidfd}`, 'utf8'), new RegExp(`^Pid:\\s*${process.pid}$`, 'm'));
  throwsSystem(() => raw.peerPidfd(999_999), 'EBADF', 'getsockopt', /pidfd of the peer of fd 999999/);
});

test('pidfdSignal 0 asks whether the process is there', { skip: skipUnlessLinux }, (t) => {
  const pidfd = raw.pidfdOpen(process.pid);
  closeAfter(t, pidfd);

  raw.pidfdSignal(pidfd, 0);

  throwsSystem(
    () => {
      raw.pidfdSignal(0, 0);
    },
    'EBADF',
    'pidfd_send_signal',
    /pidfd 0/,
  );
  throwsSystem(() => raw.pidfdOpen(2 ** 31 - 1), 'ESRCH', 'pidfd_open', /pid 2147483647/);
});
