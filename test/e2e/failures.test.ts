// Successors that fail in every way there is. Each time the predecessor serves on under load, and is as it was before.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { get } from '../support/client.js';
import { type Family, type Scope, temporaryDirectory } from '../support/fixture.js';
import { type Load, startLoad } from '../support/load.js';
import { ask, askHandoff, assertTidy, FIXTURES, type Outcome, startDriven } from './drive.js';

const LOAD = { host: '127.0.0.1', newPerSecond: 100, keepAlive: 8, requestsPerSecond: 10 };

/** A server under load, and what it holds before anything happens to it. */
async function startLoaded(t: Scope): Promise<{ server: Family; load: Load; before: string[] }> {
  const server = await startDriven(t);
  const before = (await ask(server, '/descriptors')) as string[];
  const load = startLoad({ ...LOAD, port: server.port });
  return { server, load, before };
}

/** The predecessor never noticed: nothing lost, nothing left open, nobody left behind. */
async function assertUnharmed(server: Family, load: Load, before: string[], hadAccepted = false): Promise<void> {
  const report = await load.stop();
  // What the dead one had accepted is lost with it; nobody is refused, or left to wait.
  const wronged = report.losses.filter(({ reason }) => !hadAccepted || (reason !== 'reset' && reason !== 'eof'));
  assert.deepEqual(wronged, []);
  while (server.running().length > 1) await new Promise((resolve) => setImmediate(resolve));
  assert.equal(await get(server.url), `${server.pid}\n`);
  const sockets = (list: string[]): number => list.filter((line) => !line.includes('socket:')).length;
  const after = (await ask(server, '/descriptors')) as string[];
  assert.equal(sockets(after), sockets(before), `${after.join('\n')}\n-- before --\n${before.join('\n')}`);
  assertTidy(server.pid);
}

const SUCCESSORS: [name: string, options: object, expected: Partial<Outcome>, exit: Partial<Outcome['successor']>][] = [
  [
    'throws at import',
    { env: { MISBEHAVE: 'throw' } },
    { code: 'ERR_FDPASS_SUCCESSOR_EXITED', phase: 'offered' },
    { exitCode: 1 },
  ],
  [
    'exits with code 3',
    { env: { MISBEHAVE: 'exit-3' } },
    { code: 'ERR_FDPASS_SUCCESSOR_EXITED', phase: 'offered' },
    { exitCode: 3 },
  ],
  [
    'exits with code 0 before it is ready',
    { env: { MISBEHAVE: 'exit-0' } },
    { code: 'ERR_FDPASS_SUCCESSOR_EXITED' },
    { exitCode: 0 },
  ],
  [
    'dies of SIGSEGV',
    { env: { MISBEHAVE: 'segfault' } },
    { code: 'ERR_FDPASS_SUCCESSOR_EXITED' },
    { signal: 'SIGSEGV' },
  ],
  [
    'hangs before HELLO',
    { env: { MISBEHAVE: 'hang-before-hello' }, readyTimeout: 500 },
    { code: 'ERR_FDPASS_READY_TIMEOUT', phase: 'offered' },
    {},
  ],
  [
    'never calls ready()',
    { env: { MISBEHAVE: 'hang-before-ready' }, readyTimeout: 800 },
    { code: 'ERR_FDPASS_READY_TIMEOUT' },
    {},
  ],
  [
    'writes garbage on the channel',
    { env: { MISBEHAVE: 'garbage' } },
    { code: 'ERR_FDPASS_PROTOCOL', phase: 'offered' },
    {},
  ],
  ['closes the channel', { env: { MISBEHAVE: 'close-channel' } }, { code: 'ERR_FDPASS_SUCCESSOR_EXITED' }, {}],
  [
    'dies in its probation',
    { env: { MISBEHAVE: 'die-in-probation' }, probation: 5_000 },
    { code: 'ERR_FDPASS_PROBATION', phase: 'probation' },
    { signal: 'SIGKILL' },
  ],
  [
    'exits as soon as it serves',
    { env: { MISBEHAVE: 'die-when-serving' }, probation: 5_000 },
    { code: 'ERR_FDPASS_PROBATION' },
    { exitCode: 9 },
  ],
  [
    'is a program that does not exist',
    { command: ['/nonexistent/server'] },
    { code: 'ERR_FDPASS_SPAWN', phase: 'serving' },
    {},
  ],
  ['is a directory', { command: ['/tmp'] }, { code: 'ERR_FDPASS_SPAWN' }, {}],
  ['is to run in a directory that does not exist', { cwd: '/nonexistent' }, { code: 'ERR_FDPASS_SPAWN' }, {}],
];
for (const [name, options, expected, exit] of SUCCESSORS) {
  test(`a successor that ${name} costs nothing: the predecessor serves on`, async (t) => {
    const { server, load, before } = await startLoaded(t);

    const outcome = await askHandoff(server, options);

    for (const [key, value] of Object.entries(expected))
      assert.equal(outcome[key as keyof Outcome], value, outcome.message);
    for (const [key, value] of Object.entries(exit ?? {})) {
      assert.equal(outcome.successor?.[key as 'signal'], value, outcome.message);
    }
    assert.equal(outcome.name, `HandoffError [${expected.code}]`);
    assert.match(outcome.message ?? '', /goes on accepting/);
    await assertUnharmed(server, load, before, outcome.phase === 'probation');
  });
}

test('a file that is not executable is reported with its errno, and costs nothing', async (t) => {
  const { server, load, before } = await startLoaded(t);
  const file = path.join(temporaryDirectory(t), 'server');
  fs.writeFileSync(file, '#!/bin/sh\n', { mode: 0o644 });

  const outcome = await askHandoff(server, { command: [file] });

  assert.equal(outcome.code, 'ERR_FDPASS_SPAWN');
  assert.match(outcome.message ?? '', /EACCES/);
  await assertUnharmed(server, load, before);
});

test('a successor that floods stdout gets through', async (t) => {
  const { server, load } = await startLoaded(t);

  const outcome = await askHandoff(server, { env: { MISBEHAVE: 'flood' } });

  assert.equal(outcome.generation, 2, outcome.message);
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
});

test('a successor that is frozen before it is ready is killed, and nothing is lost', async (t) => {
  const { server, load, before } = await startLoaded(t);
  const asked = askHandoff(server, { env: { MISBEHAVE: 'hang-before-ready' }, readyTimeout: 1_000 });
  let successor: number | undefined;
  while (successor === undefined) {
    await new Promise((resolve) => setImmediate(resolve));
    successor = server.running().find(({ pid }) => pid !== server.pid)?.pid;
  }
  process.kill(successor, 'SIGSTOP');

  const outcome = await asked;

  assert.equal(outcome.code, 'ERR_FDPASS_READY_TIMEOUT');
  await assertUnharmed(server, load, before); // SIGTERM waits for a frozen process; SIGKILL does not
});

test('after a failure the next handoff succeeds', async (t) => {
  const { server, load } = await startLoaded(t);

  const failed = await askHandoff(server, { env: { MISBEHAVE: 'exit-3' } });
  const outcome = await askHandoff(server, { env: { MISBEHAVE: undefined } });

  assert.equal(failed.code, 'ERR_FDPASS_SUCCESSOR_EXITED');
  assert.equal(outcome.generation, 2, outcome.message);
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
});

test('the predecessor is killed while the successor starts: the successor is promoted, and takes its place', async (t) => {
  const server = await startDriven(t, { env: { PROBATION: '30000' } });
  server.signal('SIGUSR2');
  while (server.running().length < 2) await new Promise((resolve) => setImmediate(resolve));

  server.signal('SIGKILL', server.pid);

  await server.waitFor(/generation 2$/, { from: 0 });
  const line = await server.waitFor(/^pid \d+ is alone$/, { from: 0 });
  assert.ok(line);
  assert.equal(await get(server.url), `${server.newest}\n`);
  await server.restart(); // and the row goes on
});

test('the predecessor is killed in the probation of its successor: no new connection is lost', async (t) => {
  const server = await startDriven(t, { env: { PROBATION: '30000' } });
  await server.restart();
  const load = startLoad({ ...LOAD, keepAlive: 0, port: server.port });

  server.signal('SIGKILL', server.pid);

  await server.waitFor(`pid ${server.newest} is alone`, { from: 0 });
  const report = await load.stop();
  const others = report.losses.filter(({ reason }) => reason === 'refused' || reason === 'timeout');
  assert.deepEqual(others, [], 'only what the killed process had accepted can be lost');
  assert.equal(await get(server.url), `${server.newest}\n`);
});

test('a peer of another version is refused by both sides in words, and the predecessor serves on', async (t) => {
  const { server, load, before } = await startLoaded(t);
  // A recorded HELLO of a release that speaks versions 90 to 91 alone: the header of this release's frames, then its payload.
  const script = `
    import fs from 'node:fs';
    import { encodeFrame } from ${JSON.stringify(path.resolve(FIXTURES, '../../../dist/lib/handoff/frame.js'))};
    const channel = Number(process.env.FDPASS_CHANNEL.split(':')[0]);
    fs.writeSync(channel, encodeFrame({ type: 'HELLO', versions: { min: 90, max: 91 }, pid: process.pid, features: [] }));
    setInterval(() => {}, 1000);`;
  const file = path.join(temporaryDirectory(t), 'future.mjs');
  fs.writeFileSync(file, script);

  const outcome = await askHandoff(server, { command: [process.execPath, file] });

  assert.equal(outcome.code, 'ERR_FDPASS_VERSION', outcome.message);
  await assertUnharmed(server, load, before);
});
