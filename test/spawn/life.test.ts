/** From the start of a child to its end: how it ended, signals, AbortSignal, ref and unref, many at once, worker threads. */
import assert from 'node:assert/strict';
import { execFile, spawn as spawnOfNode } from 'node:child_process';
import { once } from 'node:events';
import os from 'node:os';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';

import { type Child, spawn, spawnBy } from '../../lib/spawn.js';
import * as raw from '../../lib/raw.js';
import { auditDescriptors, isAlive, readProcess, zombiesOf } from '../support/audit.js';
import { directory, fixture, LIBRARY, reporter, WAYS } from './support.js';

/** Of the ways to start, only the pidfd matters from there on. */
const AFTERWARDS = WAYS.filter(([way]) => way === 'clone' || way === 'clone, no pidfd');

function started(t: TestContext, child: Child): Child {
  t.after(() => void child.kill('SIGKILL'));
  return child;
}

/** Descriptors of this process, once what Node closes in the next round of its loop is closed. */
async function settled(): Promise<string[]> {
  await new Promise((resolve) => setImmediate(resolve));
  return auditDescriptors();
}

/** Nothing is open that was not: what a thread of an earlier test was about to close may be gone by now. */
async function assertNothingNew(before: readonly string[]): Promise<void> {
  const now = await settled();
  assert.deepEqual(
    now.filter((line) => !before.includes(line)),
    [],
  );
}

/** For what has no event here; the runner's timeout ends it. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 5));
}

for (const [way, fallback] of WAYS) {
  test(`${way}: exit codes and signals are told as they are, and nothing is left`, async () => {
    const before = await settled();
    const status = async (script: string) => {
      const child = spawnBy(fallback, 'sh', ['-c', script]);
      assert.equal(child.exitStatus, undefined);
      const told = await child.exited;
      assert.equal(child.exitStatus, told);
      assert.equal(child.poll(), told);
      return [told.exitCode, told.signal];
    };

    assert.deepEqual(await status('exit 0'), [0, null]);
    assert.deepEqual(await status('exit 1'), [1, null]);
    assert.deepEqual(await status('exit 255'), [255, null]);
    for (const signal of ['SIGTERM', 'SIGKILL', 'SIGABRT', 'SIGUSR1', 'SIGHUP', 'SIGSEGV'] as const) {
      assert.deepEqual(await status(`kill -${os.constants.signals[signal]} $$; sleep 100`), [null, signal]);
    }
    assert.deepEqual(await status('kill -40 $$; sleep 100'), [null, 'SIG40']);
    await assertNothingNew(before);
    assert.deepEqual(zombiesOf(process.pid), []);
  });
}

for (const [way, fallback] of AFTERWARDS) {
  test(`${way}: kill reaches the child, and says false once it has ended`, async (t) => {
    const child = started(t, spawnBy(fallback, 'sleep', ['100']));

    assert.equal(child.kill(0), true);
    assert.equal(child.kill('SIGCONT'), true);
    assert.equal(child.kill(), true);
    assert.deepEqual(await child.exited, { exitCode: null, signal: 'SIGTERM' });
    assert.equal(child.kill(), false);
    assert.equal(child.kill(0), false);
    assert.throws(() => child.kill('SIGNOTHING' as 'SIGINT'), { code: 'ERR_UNKNOWN_SIGNAL' });
  });

  test(`${way}: kill finds out by itself that the child has ended, before the event loop does`, async () => {
    const child = spawnBy(fallback, 'true');
    while (readProcess(child.pid)?.state !== 'Z'); // no turn of the loop: nobody has reaped it

    assert.equal(child.kill('SIGKILL'), false);
    assert.deepEqual(child.exitStatus, { exitCode: 0, signal: null });
    assert.deepEqual(await child.exited, { exitCode: 0, signal: null });
  });

  test(`${way}: where somebody else has reaped the child, both are null, and kill harms nobody`, async () => {
    const child = spawnBy(fallback, 'true');
    while (readProcess(child.pid)?.state !== 'Z');
    assert.deepEqual(raw.reap(child.pid), { exitCode: 0, signal: null });
    assert.throws(() => raw.reap(child.pid), { code: 'ECHILD' });

    assert.equal(child.kill('SIGKILL'), false);
    assert.deepEqual(await child.exited, { exitCode: null, signal: null });
  });

  test(`${way}: an AbortSignal sends SIGTERM, and is let go at the end`, async (t) => {
    const controller = new AbortController();
    const child = started(t, spawnBy(fallback, 'sleep', ['100'], { signal: controller.signal }));
    controller.abort();
    assert.deepEqual(await child.exited, { exitCode: null, signal: 'SIGTERM' });

    const later = new AbortController();
    const other = spawnBy(fallback, 'true', [], { signal: later.signal });
    await other.exited;
    later.abort();
    assert.deepEqual(other.exitStatus, { exitCode: 0, signal: null });
  });

  test(`${way}: disposing of a child sends SIGTERM`, async () => {
    let child: Child;
    {
      using disposable = spawnBy(fallback, 'sleep', ['100']);
      child = disposable;
    }
    assert.deepEqual(await child.exited, { exitCode: null, signal: 'SIGTERM' });
  });

  test(`${way}: 200 children, and 50 of child_process beside them, all with their own status`, async () => {
    const before = await settled();
    const ours: Promise<unknown>[] = [];
    const nodes: Promise<unknown>[] = [];
    for (let index = 0; index < 200; index++) {
      const script = index % 5 === 0 ? 'kill -KILL $$' : `exit ${index}`;
      ours.push(spawnBy(fallback, 'sh', ['-c', script], { stdio: 'ignore' }).exited);
      if (index % 4 !== 0) continue;
      const child = spawnOfNode('sh', ['-c', index % 8 === 0 ? 'kill -USR2 $$' : `exit ${index}`], { stdio: 'ignore' });
      nodes.push(once(child, 'exit'));
    }

    const ended = await Promise.all(ours);
    const endedOfNode = await Promise.all(nodes);

    for (const [index, status] of ended.entries()) {
      const killed = index % 5 === 0;
      assert.deepEqual(status, { exitCode: killed ? null : index, signal: killed ? 'SIGKILL' : null });
    }
    for (const [index, status] of endedOfNode.entries()) {
      assert.deepEqual(status, index % 2 === 0 ? [null, 'SIGUSR2'] : [index * 4, null]);
    }
    await assertNothingNew(before);
    assert.deepEqual(zombiesOf(process.pid), []);
  });

  for (const [what, mode, expected] of [
    ['a child keeps the process alive', 'ref', 'status 3\n'],
    ["a child that is unref'd does not", 'unref', ''],
    ["a child that is unref'd and ref'd again does", 'unref-ref', 'status 3\n'],
  ] as const) {
    test(`${way}: ${what}`, async () => {
      const script = fixture('reference.mjs');
      const parameters = [script, LIBRARY, mode, JSON.stringify(fallback)];
      const { stdout } = await promisify(execFile)(process.execPath, parameters, {
        env: { PATH: process.env['PATH'] },
        timeout: 20_000,
      });
      assert.equal(stdout, expected);
    });
  }

  test(`${way}: a worker starts children of its own, and gets their status`, async () => {
    const before = zombiesOf(process.pid);
    const workers = [1, 2, 3].map((number) => work({ mode: 'statuses', fallback, number }));
    const ended = workers.map((worker) => once(worker, 'exit'));

    const told = await Promise.all(workers.map(async (worker) => (await once(worker, 'message')) as unknown[]));

    for (const [index, [statuses]] of told.entries())
      assert.deepEqual(
        statuses,
        [0, 1, 2, 3, 4].map((code) => code + index + 1),
      );
    await Promise.all(ended);
    assert.deepEqual(zombiesOf(process.pid), before);
  });

  for (const end of ['terminate', 'exit'] as const) {
    test(`${way}: a worker that ends by ${end} harms neither its child nor this process, and leaves nothing`, async (t) => {
      const before = await settled();
      const worker = work({ mode: end, fallback, number: 0 });
      const ended = once(worker, 'exit');
      const [{ pid }] = (await once(worker, 'message')) as [{ pid: number }];
      const child = readProcess(pid);
      assert.ok(child);
      t.after(() => {
        if (readProcess(pid)?.startTime === child.startTime) process.kill(pid, 'SIGKILL');
      });

      if (end === 'terminate') await worker.terminate();
      await ended;

      assert.equal(isAlive(child), true);
      process.kill(pid, 'SIGTERM');
      await until(() => readProcess(pid) === undefined); // reaped, by a thread that the addon left behind
      await until(() => auditDescriptors().every((line) => before.includes(line))); // another one closes its end of a pipe
    });
  }
}

test('a program that only a worker has loaded the addon of goes on when the worker is gone, and its threads are not', async () => {
  const { code, output } = await new Promise<{ code: unknown; output: string }>((resolve) => {
    const parameters = [fixture('worker-alone.mjs'), LIBRARY, fixture('worker.mjs')];
    execFile(
      process.execPath,
      parameters,
      { env: { PATH: process.env['PATH'] }, timeout: 20_000 },
      (error, stdout, stderr) =>
        resolve({ code: error === null ? 0 : (error.signal ?? error.code), output: stdout + stderr }),
    );
  });
  assert.deepEqual({ code, output }, { code: 0, output: 'fine\n' });
});

test('watchExit of raw tells once, and can be closed', async () => {
  const before = await settled();
  const { pid } = raw.spawnProcess({ file: '/bin/sh', args: ['sh', '-c', 'exit 9'], env: [], fds: [] });
  assert.deepEqual(await new Promise((resolve) => raw.watchExit(pid, resolve)), { exitCode: 9, signal: null });

  const other = raw.spawnProcess({ file: '/bin/sh', args: ['sh', '-c', 'exit 8'], env: [], fds: [] });
  const watch = raw.watchExit(other.pid, () => assert.fail('it was closed'));
  watch.close();
  while (readProcess(other.pid)?.state !== 'Z') await settled();
  assert.deepEqual(raw.reap(other.pid, other.pidfd), { exitCode: 8, signal: null });
  assert.throws(() => raw.reap(other.pid), { code: 'ECHILD' });
  await until(() => auditDescriptors().every((line) => before.includes(line))); // the thread behind it closes its end of the pipe
});

test('a process that ends with children of every state ends as it should', async () => {
  const child = spawn(process.execPath, [fixture('reference.mjs'), LIBRARY, 'exit', '{}'], {
    env: { PATH: process.env['PATH'] },
  });

  assert.deepEqual(await child.exited, { exitCode: 5, signal: null });
});

test('a child that is not collected is followed though nobody holds it', async () => {
  // node --expose-gc is not needed: many children, none held, and garbage between them.
  const told = await Promise.all(
    Array.from({ length: 50 }, (_, index) => {
      const { exited } = spawn('sh', ['-c', `sleep 0.2; exit ${index}`], { stdio: 'ignore' });
      return exited;
    }),
  );
  assert.deepEqual(
    told.map(({ exitCode }) => exitCode),
    [...told.keys()],
  );
});

function work(workerData: object): Worker {
  return new Worker(fixture('worker.mjs'), {
    workerData: { library: LIBRARY, reporter: reporter(), directory: path.join(directory), ...workerData },
  });
}

test(
  "a sibling is the child of this process's parent, its end is seen here, and its status is told to that one alone",
  { skip: process.platform !== 'linux' && 'clone(2) with CLONE_PARENT is of Linux alone' },
  async () => {
    // The shell is the parent, and reaps whatever ends.
    const script = ['-c', '"$0" "$@"; true', process.execPath, fixture('sibling.mjs'), LIBRARY];
    const { stdout } = await promisify(execFile)('sh', script);
    const told = JSON.parse(stdout) as Record<string, unknown>;
    assert.equal(told['parent'], told['own']);
    assert.deepEqual([told['runs'], told['status'], told['after']], [true, { exitCode: null, signal: null }, false]);
  },
);
