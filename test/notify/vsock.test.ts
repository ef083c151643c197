/**
 * NOTIFY_SOCKET=vsock:CID:PORT. A machine seldom has a vsock with somebody at the other end: a library that is loaded before the C library
 * turns it into Unix sockets, and all else is real. Starts Node with it, and listens as the manager on the host.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

import { notify } from '../../lib/notify.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';
import { node, openList, skipUnlessLinux } from './support.js';

const SOURCE = fileURLToPath(new URL('../../../test/notify/vsock.c', import.meta.url));
const skip =
  skipUnlessLinux || (spawnSync('cc', ['--version']).status === 0 ? false : 'cc (package gcc) is not installed');

/** A manager on the host, at CID 2, port 1234; and the environment in which a process finds it. */
class Manager {
  readonly env: Record<string, string>;
  readonly #name = `fdpass-vsock-${randomUUID()}`;
  readonly #fd: number;
  readonly #type: raw.SocketType;

  constructor(t: TestContext, type: raw.SocketType, variables: Record<string, string> = {}) {
    const library = path.join(temporaryDirectory(t), 'vsock.so');
    const compiled = spawnSync('cc', ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-o', library, SOURCE, '-ldl']);
    assert.equal(compiled.status, 0, String(compiled.stderr));
    this.env = { LD_PRELOAD: library, VSOCK_NAME: this.#name, NOTIFY_SOCKET: 'vsock:2:1234', ...variables };
    this.#type = type;
    this.#fd = raw.socket('unix', type);
    t.after(() => {
      raw.close(this.#fd);
    });
    raw.bind(this.#fd, { family: 'unix', path: `@${this.#name}-2-1234` });
    if (type !== 'dgram') raw.listen(this.#fd, 16);
  }

  /** The next message, whole, and the port that it came from. The connection ends when it was read. */
  async next(): Promise<{ text: string; port: string | undefined }> {
    if (this.#type === 'dgram') {
      const { bytes, from } = await this.#when(this.#fd, () => raw.receive(this.#fd, 8192, { from: true }));
      return { text: String(bytes), port: portOf(from) };
    }
    const connection = await this.#when(this.#fd, () => raw.accept(this.#fd));
    try {
      const port = portOf(raw.peerAddress(connection));
      let text = '';
      for (;;) {
        const { bytes } = await this.#when(connection, () => raw.receive(connection, 8192));
        if (bytes.length === 0) return { text, port };
        text += String(bytes);
      }
    } finally {
      raw.close(connection);
    }
  }

  /** Accepts and reads nothing, until the test has ended. */
  async hold(t: TestContext): Promise<void> {
    const connection = await this.#when(this.#fd, () => raw.accept(this.#fd));
    t.after(() => {
      raw.close(connection);
    });
  }

  #when<T>(fd: number, act: () => T | undefined): Promise<T> {
    return new Promise((resolve) => {
      const watch = raw.watch(fd, { readable: true }, () => {
        const result = act();
        if (result === undefined) return;
        watch.close();
        resolve(result);
      });
    });
  }
}

function portOf(address: raw.SocketAddress | undefined): string | undefined {
  return address?.family === 'unix' ? /-4294967295-(\d+)$/.exec(address.path)?.[1] : undefined;
}

describe('a manager on the host of a virtual machine', { skip, timeout: 60_000 }, () => {
  const kinds: [string, raw.SocketType, string, Record<string, string>][] = [
    ['named: a stream', 'stream', 'vsock-stream:2:1234', {}],
    ['named: packets in order', 'seqpacket', 'vsock-seqpacket:2:1234', {}],
    ['named: datagrams', 'dgram', 'vsock-dgram:2:1234', {}],
    ['not named: datagrams first', 'dgram', 'vsock:2:1234', {}],
    ['not named, no datagrams: packets', 'seqpacket', 'vsock:2:1234', { VSOCK_REFUSES: 'dgram' }],
    ['not named, neither: a stream', 'stream', 'vsock:2:1234', { VSOCK_REFUSES: 'dgram seqpacket' }],
    [
      'not named, packets that the way to the host does not carry: a stream',
      'stream',
      'vsock:2:1234',
      { VSOCK_REFUSES: 'dgram', VSOCK_CANNOT_CONNECT: 'seqpacket' },
    ],
  ];
  for (const [name, type, address, variables] of kinds) {
    test(`${name}: each message arrives whole, in order, from a privileged port that is free`, async (t) => {
      const manager = new Manager(t, type, { NOTIFY_SOCKET: address, VSOCK_TAKEN: '1023', ...variables });
      const ended = node(
        t,
        `const before = JSON.stringify(raw.openDescriptors());
         const said = [notify.reloading(), notify.ready('a'.repeat(3000)), notify.mainPid(7)];
         console.log(JSON.stringify(await Promise.all(said)), before === JSON.stringify(raw.openDescriptors()));`,
        manager.env,
      );

      const messages = [await manager.next(), await manager.next(), await manager.next()];
      const { code, stdout, stderr } = await ended;

      const texts = messages.map(({ text }) => text);
      assert.match(texts[0] ?? '', /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
      assert.equal(texts[1], `READY=1\nSTATUS=${'a'.repeat(3000)}`);
      assert.match(texts[2] ?? '', /^MAINPID=7/);
      assert.deepEqual(
        messages.map(({ port }) => port),
        ['1022', '1022', '1022'],
      );
      assert.deepEqual([code, stdout, stderr], [0, '[true,true,true] true\n', '']);
    });
  }

  test('who may not bind a privileged port speaks from another', async (t) => {
    const manager = new Manager(t, 'stream', { NOTIFY_SOCKET: 'vsock-stream:2:1234', VSOCK_TAKEN: '-1' });
    const ended = node(t, `console.log(await notify.ready());`, manager.env);

    assert.deepEqual(await manager.next(), { text: 'READY=1', port: undefined });
    assert.equal((await ended).stdout, 'true\n');
  });

  test('barrier resolves when the manager has ended what was sent before, and not before', async (t) => {
    const manager = new Manager(t, 'stream', { NOTIFY_SOCKET: 'vsock-stream:2:1234' });
    const ended = node(
      t,
      `const order = [];
       notify.status('1').then(() => order.push('first'));
       notify.status('2').then(() => order.push('second'));
       await notify.barrier();
       console.log(order.join(' '));`,
      manager.env,
    );

    assert.equal((await manager.next()).text, 'STATUS=1');
    assert.equal((await manager.next()).text, 'STATUS=2');
    assert.equal((await ended).stdout, 'first second\n');
  });

  test('a manager that accepts and reads nothing: ETIMEDOUT, what waits behind it too, and nothing stays open', async (t) => {
    const manager = new Manager(t, 'stream', { NOTIFY_SOCKET: 'vsock-stream:2:1234' });
    const ended = node(
      t,
      `const before = JSON.stringify(raw.openDescriptors());
       const outcome = (promise) => promise.then(String, ({ code, message }) => code + ' ' + message);
       const said = await Promise.all([
         outcome(notify.ready('x', { timeout: 300 })),
         outcome(notify.status('y', { timeout: 100 })),
         outcome(notify.barrier({ timeout: 100 })),
         outcome(notify.status('z', { signal: AbortSignal.abort(new Error('enough')) })),
         outcome(notify.barrier({ signal: AbortSignal.abort(new Error('no barrier')) })),
       ]);
       await new Promise(setImmediate);
       console.log(said.join('\\n') + '\\n' + (before === JSON.stringify(raw.openDescriptors())));`,
      manager.env,
    );
    await manager.hold(t);

    const lines = (await ended).stdout.trim().split('\n');

    assert.match(
      lines[0] ?? '',
      /^ETIMEDOUT .*vsock-stream:2:1234.*within 300 ms: "READY=1 STATUS=x" may not have been read$/,
    );
    assert.match(lines[1] ?? '', /^ETIMEDOUT .*within 100 ms/);
    assert.match(lines[2] ?? '', /^ETIMEDOUT .*within 100 ms: what was sent before may not have been processed$/);
    assert.deepEqual(lines.slice(3), ['undefined enough', 'undefined no barrier', 'true']);
  });

  test('nobody listens: the error of connect, which ends no process', async (t) => {
    const manager = new Manager(t, 'stream', { NOTIFY_SOCKET: 'vsock-stream:2:4321' });
    const { code, stdout } = await node(
      t,
      `notify.ready();
       console.log(await notify.status('x').catch(({ code, syscall }) => code + ' ' + syscall));`,
      manager.env,
    );

    assert.deepEqual([code, stdout], [0, 'ECONNREFUSED connect\n']);
  });

  test('what needs descriptors says that they cannot go there, and so does a barrier that nothing would answer', async (t) => {
    const manager = new Manager(t, 'dgram');
    const { stdout } = await node(
      t,
      `const outcome = (promise) => promise.then(String, ({ code, message }) => code + ' ' + message);
       console.log(await outcome(notify.storeDescriptors('web', 0)));
       console.log(await outcome(notify.barrier()));`,
      manager.env,
    );

    const [store, barrier] = stdout.split('\n');
    assert.match(store ?? '', /^ENOTSUP .*descriptors cannot go by vsock, to vsock:2:1234: nothing was sent$/);
    assert.match(barrier ?? '', /^ENOTSUP .*datagrams of vsock/);
  });
});

test(
  'the vsock of this machine, where nobody answers: an error in time, and nothing stays open',
  { skip: skipUnlessLinux },
  async () => {
    await notify.ready('once', { address: '' });
    const before = openList();

    await assert.rejects(
      notify.ready('x', { address: 'vsock-stream:2:4294967290', timeout: 500 }),
      (error: NodeJS.ErrnoException) => {
        assert.match(
          error.code ?? '',
          /^E(TIMEDOUT|CONNREFUSED|CONNRESET|NODEV|AFNOSUPPORT|NETUNREACH|HOSTUNREACH|PERM|ACCES)$/,
        );
        return true;
      },
    );
    await new Promise(setImmediate);

    assert.deepEqual(openList(), before);
  },
);

test('the addresses of vsock are checked, each number by its name', { skip: skipUnlessLinux }, () => {
  const fd = 0;
  for (const [cid, port, name] of [
    [-1, 1, 'address.cid'],
    [2 ** 32, 1, 'address.cid'],
    [1, 1.5, 'address.port'],
    [1, 2 ** 32, 'address.port'],
  ] as const) {
    const expected = (error: Error): boolean => error instanceof RangeError && error.message.includes(name);
    assert.throws(() => raw.connect(fd, { family: 'vsock', cid, port }), expected);
  }
});
