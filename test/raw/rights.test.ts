/**
 * Rights: descriptors over a Unix socket. What arrives, what is cut, and that nothing leaks.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { test } from 'node:test';

import { FdpassError } from '../../lib/errors.js';
import * as raw from '../../lib/raw.js';
import {
  closeAfter,
  closedDescriptor,
  isLinux,
  listenLoopback,
  openList,
  runScript,
  scriptOutput,
  skipUnlessLinux,
  throws,
  throwsSystem,
} from './support.js';

const types: raw.SocketType[] = isLinux ? ['stream', 'dgram', 'seqpacket'] : ['stream', 'dgram'];

/** What `receive` must give here; fails where nothing waits. */
function received(fd: number, size = 1000): raw.Message {
  const message = raw.receive(fd, size);
  assert.ok(message, 'a message waits');
  return message;
}

function closeAll(fds: readonly number[]): void {
  for (const fd of fds) raw.close(fd);
}

for (const type of types) {
  test(`${type}: bytes and descriptors arrive, in order, as the same sockets`, (t) => {
    const [left, right] = raw.socketPair(type);
    const { fd } = listenLoopback(t);
    closeAfter(t, left, right);
    const before = openList();

    assert.equal(raw.send(left, Buffer.from('take these'), [fd, 0, left]), 10);
    const { bytes, fds } = received(right);

    assert.equal(bytes.toString(), 'take these');
    assert.equal(fds.length, 3);
    assert.deepEqual(
      fds.map((copy, index) => raw.isSame(copy, [fd, 0, left][index] ?? -1)),
      [true, true, true],
    );
    assert.ok(fds.every((copy) => raw.getCloseOnExec(copy)));
    closeAll(fds);
    assert.deepEqual(openList(), before);
  });

  test(`${type}: nothing there is undefined, no room is undefined`, (t) => {
    const [left, right] = raw.socketPair(type);
    closeAfter(t, left, right);

    assert.equal(raw.receive(right, 1), undefined);
    const chunk = Buffer.alloc(4096);
    while (raw.send(left, chunk) !== undefined); // until the buffer is full

    assert.equal(raw.send(left, chunk), undefined);
    assert.equal(raw.send(left, chunk, [0]), undefined);
  });

  test(`${type}: 253 descriptors go and come, 254 are a RangeError`, (t) => {
    const [left, right] = raw.socketPair(type);
    closeAfter(t, left, right);
    const before = openList();

    raw.send(left, Buffer.from('x'), Array<number>(253).fill(0));
    const { fds } = received(right);

    assert.equal(fds.length, 253);
    assert.equal(new Set(fds).size, 253);
    assert.ok(raw.isSame(fds[252] ?? -1, 0));
    closeAll(fds);
    throws(
      () => raw.send(left, Buffer.from('x'), Array<number>(254).fill(0)),
      RangeError,
      'ERR_OUT_OF_RANGE',
      /"fds.length".*<= 253.*254/,
    );
    assert.equal(raw.receive(right, 1), undefined);
    assert.deepEqual(openList(), before);
  });
}

test(
  'stream: bytes sent before a message with rights merge with it, bytes after it do not',
  { skip: skipUnlessLinux },
  (t) => {
    const [left, right] = raw.socketPair('stream');
    closeAfter(t, left, right);

    raw.send(left, Buffer.from('AA'));
    raw.send(left, Buffer.from('BB'), [0]);
    raw.send(left, Buffer.from('CC'));
    raw.send(left, Buffer.from('DD'), [0, 0]);

    const seen = [received(right), received(right)];
    closeAll(seen.flatMap(({ fds }) => fds));
    assert.deepEqual(
      seen.map(({ bytes, fds }) => [bytes.toString(), fds.length]),
      [
        ['AABB', 1],
        ['CCDD', 2],
      ],
    );
  },
);

test('stream: rights come with the first byte that is read of their message', { skip: skipUnlessLinux }, (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  raw.send(left, Buffer.from('abc'), [0]);

  const first = received(right, 1);
  const rest = received(right);
  closeAll(first.fds);
  assert.deepEqual([first.bytes.toString(), first.fds.length], ['a', 1]);
  assert.deepEqual([rest.bytes.toString(), rest.fds.length], ['bc', 0]);
});

test('stream: descriptors without a byte are refused: the kernel would lose them', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);

  throws(() => raw.send(left, Buffer.alloc(0), [0]), RangeError, 'ERR_OUT_OF_RANGE', /"bytes.length".*>= 1/);

  assert.equal(raw.send(left, Buffer.alloc(0)), 0);
  assert.equal(raw.receive(right, 1), undefined);
});

test('datagram: descriptors without a byte arrive', (t) => {
  const [left, right] = raw.socketPair('dgram');
  closeAfter(t, left, right);

  raw.send(left, Buffer.alloc(0), [0]);

  const { bytes, fds } = received(right);
  closeAll(fds);
  assert.deepEqual([bytes.length, fds.length], [0, 1]);
});

test('receive says from which address, where it is asked and the sender has one', { skip: skipUnlessLinux }, (t) => {
  const [here, named, unnamed] = [0, 1, 2].map(() => raw.socket('unix', 'dgram')) as [number, number, number];
  closeAfter(t, here, named, unnamed);
  const to = { family: 'unix', path: `@fdpass-from-${process.pid}` } as const;
  const from = { family: 'unix', path: `@fdpass-to-${process.pid}` } as const;
  raw.bind(here, to);
  raw.bind(named, from);
  for (const fd of [named, unnamed, named]) raw.send(fd, Buffer.from('x'), [], to);

  assert.deepEqual(raw.receive(here, 10, { from: true })?.from, from);
  assert.ok(
    [undefined, ''].includes((raw.receive(here, 10, { from: true })?.from as { path?: string } | undefined)?.path),
  );
  assert.equal(raw.receive(here, 10)?.from, undefined);
});

test('the end of a stream is an empty message without descriptors', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, right);
  raw.send(left, Buffer.from('last'));
  raw.close(left);

  assert.equal(received(right).bytes.toString(), 'last');
  assert.deepEqual(raw.receive(right, 10), { bytes: Buffer.alloc(0), fds: [] });
  assert.deepEqual(raw.receive(right, 10), { bytes: Buffer.alloc(0), fds: [] });
  throwsSystem(() => raw.send(right, Buffer.from('x'), [0]), 'EPIPE', 'sendmsg', /1 byte and 1 descriptor on fd \d+/);
});

test('a message larger than the stack of the addon arrives whole', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.setOption(left, 'sendBuffer', 1_000_000);
  const bytes = Buffer.alloc(150_000, 'fdpass');

  const sent = raw.send(left, bytes, [0]) ?? 0;
  const parts: Buffer[] = [];
  while (Buffer.concat(parts).length < sent) {
    const message = received(right, 1_000_000);
    parts.push(message.bytes);
    closeAll(message.fds);
  }

  assert.ok(sent > 65_536);
  assert.ok(Buffer.concat(parts).equals(bytes.subarray(0, sent)));
});

test('bytes may be a part of an ArrayBuffer, and of length 0', (t) => {
  const [left, right] = raw.socketPair('dgram');
  closeAfter(t, left, right);
  const whole = new Uint8Array([1, 2, 3, 4, 5]);

  raw.send(left, whole.subarray(1, 3));
  raw.send(left, new Uint8Array());

  assert.deepEqual([...received(right).bytes], [2, 3]);
  assert.equal(received(right).bytes.length, 0);
});

test('a closed descriptor among the rights is EBADF, and nothing is sent', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const closed = closedDescriptor();
  const before = openList();

  throwsSystem(() => raw.send(left, Buffer.from('x'), [0, closed, 0]), 'EBADF', 'sendmsg', /3 descriptors/);

  assert.equal(raw.receive(right, 1), undefined);
  assert.deepEqual(openList(), before);
});

test(
  'rights on a socket of the internet are EINVAL: the kernel would drop them without a word',
  { skip: skipUnlessLinux },
  (t) => {
    const fd = raw.socket('IPv4', 'dgram');
    closeAfter(t, fd);
    raw.bind(fd, { family: 'IPv4', address: '127.0.0.1', port: 0 });

    throwsSystem(
      () => raw.send(fd, Buffer.from('x'), [0], raw.localAddress(fd)),
      'EINVAL',
      'sendmsg',
      /to 127.0.0.1:\d+, not a Unix socket/,
    );
  },
);

test(
  'a datagram that is too long is lost with a sentence, and its descriptors are closed',
  { skip: skipUnlessLinux },
  (t) => {
    for (const type of ['dgram', 'seqpacket'] as const) {
      const [left, right] = raw.socketPair(type);
      closeAfter(t, left, right);
      const before = openList();
      raw.send(left, Buffer.from('0123456789'), [0, 0]);
      raw.send(left, Buffer.from('next'));

      assert.throws(
        () => raw.receive(right, 4),
        (error: unknown) => {
          assert.ok(error instanceof FdpassError);
          assert.equal(error.code, 'ERR_FDPASS_LIMIT');
          assert.equal(error.syscall, 'recvmsg');
          assert.match(error.message, /longer than the 4 bytes.*2 descriptors came with it and are closed/);
          return true;
        },
      );

      assert.equal(received(right).bytes.toString(), 'next');
      assert.deepEqual(openList(), before);
    }
  },
);

test('the rights of a message that is never received are closed with the socket', (t) => {
  const { fd, address } = listenLoopback(t);
  const [left, right] = raw.socketPair('stream');
  const before = openList();
  raw.send(left, Buffer.from('x'), [fd]);
  raw.close(fd); // on its way: the only one that is left

  raw.close(left);
  raw.close(right);

  const again = raw.socket('IPv4', 'stream');
  closeAfter(t, again);
  raw.bind(again, address); // the address is free, so the listener is gone
  raw.close(again);
  assert.deepEqual(
    openList(),
    before.filter((line) => ![fd, left, right].includes(Number.parseInt(line, 10))),
  );
});

/** Runs the rest of the command with few descriptors: at most a hundred. */
const few = ['sh', '-c', 'ulimit -n 100; exec "$@"', 'sh'];

/** Receives two messages on 3, the first of which has too many rights for this process, and tells what came of it. */
const shortOfDescriptors = `
  import assert from 'node:assert/strict';
  const list = () => raw.openDescriptors().map(({ fd, target }) => fd + ' ' + target);
  const fillers = [];
  for (let count = 0; count < FILL; count++) {
    try { fillers.push(raw.dup(0)); } catch (error) { assert.equal(error.code, 'EMFILE'); }
  }
  raw.close(fillers.pop()); // the list needs one
  const before = list();
  let failure;
  try { raw.receive(3, 100); } catch (error) { failure = error; }
  assert.deepEqual(list(), before, 'nothing leaks');
  const next = raw.receive(3, 100);
  console.log(JSON.stringify({ code: failure?.code, message: failure?.message, syscall: failure?.syscall,
    next: next.bytes.toString(), fds: next.fds.length }));
`;

for (const type of types) {
  for (const [name, fill] of [
    ['some descriptors to spare', 4],
    ['one descriptor to spare', 1000],
  ] as const) {
    test(
      `${type}: EMFILE while 253 rights arrive, ${name}: said, counted, and nothing leaks`,
      { skip: skipUnlessLinux },
      async (t) => {
        const [left, right] = raw.socketPair(type);
        closeAfter(t, left, right);
        raw.send(left, Buffer.from('first'), Array<number>(253).fill(0));
        raw.send(left, Buffer.from('second'), [0]);
        const script = shortOfDescriptors.replace('FILL', String(fill));

        const output = await scriptOutput(t, script, { prefix: few, third: right });

        const { code, message, syscall, next, fds } = JSON.parse(output) as Record<string, string | number>;
        assert.equal(code, 'ERR_FDPASS_LIMIT');
        assert.equal(syscall, 'recvmsg');
        const arrived = Number(/(\d+) descriptors? came with it and (are|is) closed/.exec(String(message))?.[1]);
        if (fill === 1000) assert.equal(arrived, 1);
        else assert.ok(arrived > 1 && arrived < 100, String(message));
        assert.match(String(message), /limit of open descriptors is 100$/);
        assert.deepEqual([next, fds], ['second', 1], 'the next message is whole');
      },
    );
  }
}

test(
  'no descriptor free at all: the message is lost, said with 0 descriptors',
  { skip: skipUnlessLinux },
  async (t) => {
    const script = `
    const [left, right] = raw.socketPair('stream');
    raw.send(left, Buffer.from('x'), [0, 0]);
    const fillers = [];
    try { while (true) fillers.push(raw.dup(0)); } catch {}
    try { raw.receive(right, 100); } catch (error) { console.log(error.code, error.message); }
  `;

    const output = await scriptOutput(t, script, { prefix: few });

    assert.match(output, /^ERR_FDPASS_LIMIT .*: 0 descriptors came with it/);
  },
);

test('a descriptor that nobody asked for (SO_PASSPIDFD) does not leak', { skip: skipUnlessLinux }, async (t) => {
  // 76 is SO_PASSPIDFD, Linux 6.5. Python sets it: raw has no such option, but a foreign program may.
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const { spawnSync } = await import('node:child_process');
  const python = spawnSync(
    'python3',
    ['-c', 'import socket; socket.socket(fileno=3).setsockopt(socket.SOL_SOCKET, 76, 1)'],
    { stdio: ['ignore', 'ignore', 'ignore', right] },
  );
  if (python.status !== 0) {
    t.skip('no python3, or a kernel before 6.5');
    return;
  }
  const before = openList();

  raw.send(left, Buffer.from('x'), [0]);
  const { fds } = received(right);
  closeAll(fds);

  assert.equal(fds.length, 1);
  assert.deepEqual(openList(), before);
});

test('ten thousand messages with rights leave no descriptor behind', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const before = openList();

  for (let round = 0; round < 10_000; round++) {
    raw.send(left, Buffer.from('x'), [left, right, 0]);
    closeAll(received(right).fds);
  }

  assert.deepEqual(openList(), before);
});

test('code of the user that runs inside send cannot move the bytes away', (t) => {
  const [left, right] = raw.socketPair('dgram');
  closeAfter(t, left, right);
  const bytes = new Uint8Array([1, 2, 3]);
  const fds = [0];
  Object.defineProperty(fds, 0, {
    get() {
      structuredClone(bytes, { transfer: [bytes.buffer] }); // detaches the memory
      return 0;
    },
  });

  raw.send(left, bytes, fds);

  const message = received(right);
  closeAll(message.fds);
  assert.equal(message.bytes.length, 0);
  assert.equal(message.fds.length, 1);
});

test('the death of the receiver with rights on the way: the sender lives, and sees EPIPE', async (t) => {
  const outcome = await runScript(
    t,
    `
    const [left, right] = raw.socketPair('stream');
    raw.send(left, Buffer.from('x'), Array(253).fill(0));
    raw.close(right);
    try { raw.send(left, Buffer.from('x')); } catch (error) { console.log(error.code); }
  `,
  );

  assert.deepEqual([outcome.code, outcome.stdout], [0, 'EPIPE\n']);
});

test('a file travels too, with its offset', (t) => {
  const [left, right] = raw.socketPair('stream');
  const file = raw.memoryFile('travels');
  closeAfter(t, left, right, file);
  fs.writeSync(file, 'state');

  raw.send(left, Buffer.from('x'), [file]);
  const [copy = -1] = received(right).fds;
  closeAfter(t, copy);

  assert.equal(fs.readFileSync(`/dev/fd/${copy}`, 'utf8'), 'state');
});
