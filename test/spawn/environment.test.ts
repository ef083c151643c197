/** What else a child starts with: its environment, arguments, working directory, signals, session. */
import assert from 'node:assert/strict';
import { spawn as spawnOfNode } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { spawn } from '../../lib/spawn.js';
import * as raw from '../../lib/raw.js';
import { directory, File, fixture, LIBRARY, output, report, reporter, variable, WAYS } from './support.js';

for (const language of ['c', 'python'] as const) {
  for (const [way, fallback] of WAYS) {
    if (language === 'python' && way !== 'clone') continue;
    test(`${language}, ${way}: LISTEN_PID is the pid of the child, with LISTEN_FDS and LISTEN_FDNAMES`, async () => {
      using file = new File();
      using other = new File();
      const fds = [{ fd: file.fd, name: 'web' }, other];

      const told = await report({ language, way: fallback, fds, convention: 'systemd', names: ['web', 'admin 2'] });

      assert.equal(variable(told, 'LISTEN_PID'), String(told.pid));
      assert.equal(variable(told, 'LISTEN_FDS'), '2');
      assert.equal(variable(told, 'LISTEN_FDNAMES'), 'web:admin 2');
    });

    test(`${language}, ${way}: no signal is blocked or ignored, whatever this process does`, async () => {
      const handler = (): void => undefined;
      process.on('SIGUSR2', handler);
      process.on('SIGHUP', handler);
      try {
        const told = await report({ language, way: fallback });

        assert.equal(BigInt(`0x${told.signals['SigBlk'] ?? ''}`), 0n);
        // Python itself ignores SIGPIPE (13) and SIGXFSZ (25), and handles SIGINT (2).
        const [ignored, caught] = language === 'c' ? [0n, 0n] : [(1n << 12n) | (1n << 24n), 1n << 1n];
        assert.equal(BigInt(`0x${told.signals['SigIgn'] ?? ''}`), ignored);
        assert.equal(BigInt(`0x${told.signals['SigCgt'] ?? ''}`), caught);
      } finally {
        process.off('SIGUSR2', handler);
        process.off('SIGHUP', handler);
      }
    });
  }
}

test('this thread has the signal mask that it had, after a success and after a failure', async () => {
  const mask = () => /SigBlk:\s*(\w+)/.exec(fs.readFileSync('/proc/thread-self/status', 'utf8'))?.[1];
  const before = mask();

  await spawn('true').exited;
  assert.equal(mask(), before);
  assert.throws(() => spawn('/nothing'));
  assert.equal(mask(), before);
});

test('a signal that this process ignores, by exec from its parent, has its default meaning in the child', async () => {
  // Node resets what it was born with, except SIGPIPE and SIGXFSZ, which it ignores by itself.
  const status = fs.readFileSync('/proc/self/status', 'utf8');
  assert.notEqual(BigInt(`0x${/SigIgn:\s*(\w+)/.exec(status)?.[1] ?? ''}`), 0n);

  const child = spawn('sh', ['-c', 'kill -PIPE $$; sleep 100']);

  assert.deepEqual(await child.exited, { exitCode: null, signal: 'SIGPIPE' });
});

test('SIGUSR2 ends a child though this process handles it', async () => {
  const handler = (): void => assert.fail('it reached this process');
  process.on('SIGUSR2', handler);
  const child = spawn('sleep', ['100']);

  child.kill('SIGUSR2');

  assert.deepEqual(await child.exited, { exitCode: null, signal: 'SIGUSR2' });
  process.off('SIGUSR2', handler);
});

test('the environment is that of this process, without any variable of a convention', async () => {
  process.env['FDPASS_SPAWN_TEST'] = '1';
  process.env['LISTEN_FDS'] = '7';
  process.env['NOTIFY_SOCKET'] = '/run/notify';
  process.env['SPAWN_TEST'] = 'kept, with = and ü';
  try {
    const told = await report();

    assert.equal(variable(told, 'SPAWN_TEST'), 'kept, with = and ü');
    assert.equal(variable(told, 'PATH'), process.env['PATH']);
    for (const name of ['FDPASS_SPAWN_TEST', 'LISTEN_FDS', 'LISTEN_PID', 'NOTIFY_SOCKET']) {
      assert.equal(variable(told, name), undefined);
    }
    assert.equal(variable(await report({ keepNotifySocket: true }), 'NOTIFY_SOCKET'), '/run/notify');
  } finally {
    for (const name of ['FDPASS_SPAWN_TEST', 'LISTEN_FDS', 'NOTIFY_SOCKET', 'SPAWN_TEST']) {
      Reflect.deleteProperty(process.env, name);
    }
  }
});

test('env replaces it, is stripped too, and variables come last', async () => {
  const env = { A: '1', B: undefined, C: '', LISTEN_PID: '1', NGINX: '3;', FDPASS_CHANNEL: '9:9' };

  const told = await report({ env, variables: { FDPASS_CHANNEL: '4:81204', A: '2' } });

  assert.deepEqual(told.environment, ['A=2', 'C=', 'FDPASS_CHANNEL=4:81204']);
});

test('names say how many descriptors the convention counts; what stands behind them is left out', async () => {
  using file = new File();
  const fds = [0, 1, 2].map((index) => ({ source: file.fd, target: 3 + index }));

  const some = await report({ fds, names: ['a', 'b'], convention: 'systemd' });
  assert.deepEqual([variable(some, 'LISTEN_FDS'), variable(some, 'LISTEN_FDNAMES')], ['2', 'a:b']);
  const all = await report({ fds: [...fds, { source: file.fd, target: 9 }], convention: 'systemd' });
  assert.deepEqual([variable(all, 'LISTEN_FDS'), variable(all, 'LISTEN_FDNAMES')], ['3', 'unknown:unknown:unknown']);
  const named = await report({ fds: [{ fd: file.fd, name: 'x' }, file.fd], convention: 'systemd' });
  assert.equal(variable(named, 'LISTEN_FDNAMES'), 'x:unknown');
  const none = await report({ convention: 'systemd' });
  assert.equal(variable(none, 'LISTEN_FDS'), undefined);
  assert.equal(variable(none, 'LISTEN_PID'), undefined);
});

test('several variables can hold the pid, and the one that was there goes', async () => {
  const file = path.join(directory, 'several');
  const { pid } = raw.spawnProcess({
    file: reporter(),
    args: ['report', file],
    env: ['A=1', 'LISTEN_PID=1', 'LISTEN_PIDX=2', 'WATCHDOG_PID=3'],
    fds: [],
    pidVariable: ['LISTEN_PID', 'WATCHDOG_PID'],
  });
  await new Promise((resolve) => raw.watchExit(pid, resolve));

  const { environment } = JSON.parse(fs.readFileSync(file, 'utf8')) as { environment: string[] };
  assert.deepEqual(environment, ['A=1', 'LISTEN_PIDX=2', `LISTEN_PID=${pid}`, `WATCHDOG_PID=${pid}`]);
});

test('arguments and argv[0] arrive as they are', async () => {
  const args = ['', ' ', '--x=y', 'a"b\\c', 'ü€😀', '$HOME', 'x'.repeat(100_000)];

  const told = await report({ argv0: 'another name', args });

  assert.equal(told.arguments[0], 'another name');
  assert.deepEqual(told.arguments.slice(2), args);
});

test('the working directory is set, and relative programs are found from there', async () => {
  const inner = path.join(directory, 'inner');
  fs.mkdirSync(path.join(inner, 'bin'), { recursive: true });
  fs.copyFileSync(reporter(), path.join(inner, 'bin', 'here'));

  assert.equal((await report()).directory, process.cwd());
  assert.equal((await report({ cwd: inner })).directory, fs.realpathSync(inner));
  assert.equal((await spawn('./bin/here', ['told'], { cwd: inner }).exited).exitCode, 0);
  assert.equal((await spawn('here', ['told'], { cwd: inner, env: { PATH: '/nothing:bin' } }).exited).exitCode, 0);
  assert.equal(
    (await spawn('here', ['told'], { cwd: path.join(inner, 'bin'), env: { PATH: ':/x' } }).exited).exitCode,
    0,
  );
  assert.throws(() => spawn('here', ['told'], { env: { PATH: '/nothing:bin' } }), { code: 'ENOENT' });
});

test('newSession: the child leads a session of its own', async () => {
  const own = await report({ newSession: true });
  assert.equal(own.session, own.pid);
  assert.notEqual((await report()).session, process.pid);
});

test('everything works where this process has no 0, 1 and 2', async () => {
  // Node itself opens /dev/null there when it starts: so the program closes them later.
  const child = spawnOfNode(process.execPath, [fixture('without-standard.mjs'), LIBRARY, directory, reporter()], {
    env: { PATH: process.env['PATH'] },
    stdio: ['ignore', 'ignore', 'ignore'],
  });
  const code = await new Promise((resolve) => child.once('exit', resolve));

  const told = fs.readFileSync(path.join(directory, 'without-standard'), 'utf8');
  assert.equal(told, 'fine\n');
  assert.equal(code, 0);
});

test("the child's pipes carry bytes both ways, and end", async () => {
  const child = spawn('sh', ['-c', 'cat; echo error >&2; exit 7'], { stdio: 'pipe' });
  assert.ok(child.stdin && child.stderr);
  child.stderr.resume();
  child.stdin.write('x'.repeat(1_000_000));
  child.stdin.end('end');

  const text = await output(child);

  assert.equal(text.length, 1_000_003);
  assert.deepEqual(await child.exited, { exitCode: 7, signal: null });
});
