/** einhorn's acknowledgement and s6's notification descriptor: their bytes, and what is refused. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { buffer, text } from 'node:stream/consumers';
import { describe, test, type TestContext } from 'node:test';

import { acknowledge, acknowledgement } from '../../lib/notify/einhorn.js';
import { notifyS6 } from '../../lib/notify/s6.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';
import { openList, run, skipUnlessLinux } from './support.js';

const self = { pid: 42, ppid: 7 };

/** einhorn's side: takes connections, and closes each when its line is there, without an answer. */
async function master(t: TestContext): Promise<{ path: string; line: Promise<string> }> {
  const socket = path.join(temporaryDirectory(t), 'einhorn.sock');
  let resolve: (line: string) => void = () => undefined;
  const line = new Promise<string>((settle) => (resolve = settle));
  const server = net.createServer(
    (connection) => void buffer(connection).then((bytes) => resolve(bytes.toString('hex'))),
  );
  server.listen(socket);
  await once(server, 'listening');
  t.after(() => server.close());
  return { path: socket, line };
}

test("einhorn's line is the one that its own worker writes", () => {
  assert.equal(
    Buffer.from(acknowledgement(42)).toString('hex'),
    '7b22636f6d6d616e64223a22776f726b65723a61636b222c22706964223a34327d0a',
  );
});

describe('einhorn', () => {
  test('by path: one line, no answer waited for, nothing stays open', async (t) => {
    const { path: EINHORN_SOCK_PATH, line } = await master(t);
    const before = openList();

    const told = await acknowledge({ EINHORN_MASTER_PID: '7', EINHORN_SOCK_PATH, EINHORN_SOCK_FD: '99' }, self);

    assert.equal(told, true);
    assert.deepEqual(openList(), before);
    assert.equal(await line, Buffer.from(acknowledgement(42)).toString('hex'));
  });

  test('by descriptor: the same line; the descriptor stays open', async (t) => {
    const [ours, theirs] = raw.socketPair('stream');
    t.after(() => [ours, theirs].forEach(raw.close));

    assert.equal(await acknowledge({ EINHORN_MASTER_PID: '7', EINHORN_SOCK_FD: String(theirs) }, self), true);

    assert.equal(raw.receive(ours, 100)?.bytes.toString(), acknowledgement(42));
    assert.equal(raw.receive(ours, 100), undefined); // no end
  });

  const none: Record<string, string>[] = [
    {},
    { EINHORN_SOCK_PATH: '/nonexistent' },
    { EINHORN_MASTER_PID: '8', EINHORN_SOCK_PATH: '/nonexistent' }, // a grandchild
    { EINHORN_MASTER_PID: '07', EINHORN_SOCK_PATH: '/nonexistent' },
    { EINHORN_MASTER_PID: '7' },
    { EINHORN_MASTER_PID: '7', EINHORN_SOCK_PATH: '' },
  ];
  for (const environment of none) {
    test(`${JSON.stringify(environment)} is no worker: false`, async () => {
      assert.equal(await acknowledge(environment, self), false);
    });
  }

  const bad: [Record<string, string>, string][] = [
    [{ EINHORN_SOCK_PATH: '/nonexistent/sock' }, 'ENOENT'],
    [{ EINHORN_SOCK_FD: 'x' }, 'ERR_FDPASS_ENV'],
    [{ EINHORN_SOCK_FD: '-1' }, 'ERR_FDPASS_ENV'],
    [{ EINHORN_SOCK_FD: '99999' }, 'ERR_FDPASS_BADFD'],
  ];
  for (const [environment, code] of bad) {
    test(`${JSON.stringify(environment)} rejects with ${code}`, async () => {
      const before = openList();

      await assert.rejects(acknowledge({ EINHORN_MASTER_PID: '7', ...environment }, self), { code });

      assert.deepEqual(openList(), before);
    });
  }

  test('a file under the number of the connection is refused', async (t) => {
    const fd = raw.memoryFile('file');
    t.after(() => raw.close(fd));

    const environment = { EINHORN_MASTER_PID: '7', EINHORN_SOCK_FD: String(fd) };
    await assert.rejects(acknowledge(environment, self), { code: 'ERR_FDPASS_TYPE', got: 'file' });
  });

  test('a listener under the number of the connection is refused', async (t) => {
    const fd = raw.socket('unix', 'stream');
    t.after(() => raw.close(fd));
    raw.bind(fd, { family: 'unix', path: path.join(temporaryDirectory(t), 'sock') });
    raw.listen(fd, 1);

    const environment = { EINHORN_MASTER_PID: '7', EINHORN_SOCK_FD: String(fd) };
    await assert.rejects(acknowledge(environment, self), { code: 'ERR_FDPASS_TYPE', fd });
  });

  test('a worker that calls ready() has told einhorn, also when its convention took the variables off', async (t) => {
    const { path: socket, line } = await master(t);
    const index = new URL('../../lib/', import.meta.url).href;
    const script = `
      const { ready } = await import('${index}lifecycle.js');
      for (const name of Object.keys(process.env)) if (name.startsWith('EINHORN_')) delete process.env[name];
      await ready();
      console.log(process.pid);`;

    const { stdout, stderr } = await run(t, process.execPath, ['--input-type=module', '-e', script], {
      EINHORN_MASTER_PID: String(process.pid),
      EINHORN_SOCK_PATH: socket,
    });

    assert.equal(stderr, '');
    assert.equal(Buffer.from(await line, 'hex').toString(), acknowledgement(Number(stdout)));
  });
});

describe('s6', () => {
  /** A child with a pipe as descriptor 3, whose end is read here. */
  async function child(
    t: TestContext,
    script: string,
    third: 'pipe' | 'ignore' = 'pipe',
  ): Promise<{ said: string; out: string }> {
    const index = new URL('../../lib/', import.meta.url).href;
    const source = `const { notify } = await import('${index}notify.js'); const raw = await import('${index}raw.js');\n${script}`;
    const env = { ...process.env };
    delete env['NODE_TEST_CONTEXT'];
    const started = spawn(process.execPath, ['--input-type=module', '-e', source], {
      env,
      stdio: ['ignore', 'pipe', 'inherit', third],
    });
    t.after(() => started.kill('SIGKILL'));
    const third_ = started.stdio[3] as Readable | null | undefined;
    const [said, out] = await Promise.all([
      third_ == null ? '' : text(third_),
      text(started.stdout as Readable),
      once(started, 'close'),
    ]);
    return { said, out };
  }

  test('a newline, then the end', async (t) => {
    const { said, out } = await child(
      t,
      `console.log(await notify.s6(3), raw.openDescriptors().some(({ fd }) => fd === 3));`,
    );

    assert.deepEqual({ said, out }, { said: '\n', out: 'true false\n' });
  });

  test('a number that nobody handed down is not touched: ERR_FDPASS_BADFD', { skip: skipUnlessLinux }, async (t) => {
    const { out } = await child(
      t,
      `const before = raw.openDescriptors();
       // Not what the one who started the tests has left open for all: that was handed down.
       const own = before.filter(({ fd, target }) => fd > 2 && /^anon_inode|^pipe/.test(target) && raw.getCloseOnExec(fd));
       const codes = new Set();
       for (const { fd } of [...own, { fd: 999 }]) codes.add(await notify.s6(fd).then(() => 'written', (error) => error.code));
       const after = raw.openDescriptors();
       console.log(own.length > 2, [...codes].join(), JSON.stringify(before) === JSON.stringify(after));`,
      'ignore',
    );

    assert.equal(out, 'true ERR_FDPASS_BADFD true\n');
  });

  test(
    '0, 1 and 2 become /dev/null: the next socket must not be what console.log writes to',
    { skip: skipUnlessLinux },
    async (t) => {
      const { out } = await child(
        t,
        `const { readlinkSync } = await import('node:fs');
       await notify.s6(1);
       console.log('lost');
       notify.status('x');
       console.error = () => undefined;
       process.exitCode = readlinkSync('/proc/self/fd/1') === '/dev/null' ? 0 : 1;`,
      );

      assert.equal(out, '\n');
    },
  );

  test('nobody listens any more: EPIPE, and the descriptor is closed', { skip: skipUnlessLinux }, () => {
    const [ours, theirs] = raw.socketPair('stream');
    raw.close(theirs);

    assert.throws(() => notifyS6(ours), { code: 'EPIPE' });

    assert.ok(!fs.existsSync(`/proc/self/fd/${ours}`));
  });

  for (const value of [-1, 1.5, NaN, '3', undefined]) {
    test(`${String(value)} is no descriptor`, () => {
      assert.throws(() => notifyS6(value as number), { code: /ERR_OUT_OF_RANGE|ERR_INVALID_ARG_TYPE/ });
    });
  }
});
