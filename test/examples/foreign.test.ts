import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { after, before, test } from 'node:test';

import { get } from '../support/client.js';
import { startServer, temporaryDirectory } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { assertNobody, example } from './support.js';

const program = path.join(temporaryDirectory({ after }), 'successor');
const hasCompiler = process.platform === 'linux' && spawnSync('cc', ['--version']).status === 0;
before(() => {
  if (!hasCompiler) return;
  const flags = ['-std=c11', '-O2', '-Wall', '-Wextra', '-Wpedantic', '-Werror'];
  const { status, stderr } = spawnSync('cc', [...flags, '-o', program, example('successor.c')]);
  assert.equal(status, 0, String(stderr));
});

const PYTHON = ['python3', example('successor.py')];
const C = [program];
const cases: [string, string[], string][] = [
  ['Python, which says READY=1', PYTHON, 'notify'],
  ['C, which says READY=1', C, 'notify'],
  ['C, seen to accept its first connection', C, 'connection'],
  ['C, given a time', C, '300'],
];

for (const [name, command, readiness] of cases) {
  test(`a successor in ${name}: nothing is lost`, { skip: command === C && !hasCompiler }, async (t) => {
    const server = await startServer(t, example('foreign.mjs'), { args: command, env: { READINESS: readiness } });
    const load = startLoad({ port: server.port, newPerSecond: 60, keepAlive: 4, requestsPerSecond: 10 });
    await load.waitForReply('a reply of the first', ({ pid }) => pid === server.pid);

    server.signal('SIGUSR2');
    const { text } = await server.waitFor(/ has taken over, pid \d+$/, { from: 0 });
    const pid = Number(/\d+$/.exec(text)?.[0]);
    await server.gone(server.pid);
    await load.waitForReply('a reply of the successor', (reply) => reply.pid === pid && reply.kind === 'keepAlive');

    const report = await load.stop();
    assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
    assert.deepEqual(await server.exited, { code: 0, signal: null });
    assert.equal(await get(server.url), `${pid}\n`);
    server.signal('SIGTERM', pid);
    await server.gone(pid);
    assertNobody(server);
    await assert.rejects(get(server.url), { code: 'ECONNREFUSED' });
  });
}

test('a successor that ends before it is ready: the first goes on', async (t) => {
  const server = await startServer(t, example('foreign.mjs'), { args: ['sh', '-c', 'exit 7'] });

  server.signal('SIGUSR2');

  await server.waitFor(/The successor \(pid \d+\) exited with code 7 before it was serving; this process goes on/);
  assert.equal(await get(server.url), `${server.pid}\n`);
});

test('a successor whose worker accepts, and not the process that was started, is seen by its first connection', async (t) => {
  const args = ['python3', path.join(import.meta.dirname, '../../../test/examples/fixtures/prefork.py')];
  const server = await startServer(t, example('foreign.mjs'), { args, env: { READINESS: 'connection' } });
  const load = startLoad({ port: server.port, newPerSecond: 60 });
  await load.waitForReply('a reply of the first', ({ pid }) => pid === server.pid);

  server.signal('SIGUSR2');
  const { text } = await server.waitFor(/ has taken over, pid \d+$/, { from: 0 });
  const pid = Number(/\d+$/.exec(text)?.[0]);
  await server.gone(server.pid);
  const { pid: worker } = await load.waitForReply('a reply of the worker', (reply) => reply.pid !== server.pid);

  assert.notEqual(worker, pid);
  const report = await load.stop();
  assert.equal(report.new.lost, 0, JSON.stringify(report.losses));
});

test('a successor that lives, and has closed the listener that it was given, does not get the service', async (t) => {
  const args = ['sh', '-c', 'exec 3<&-; exec sleep 30'];
  const server = await startServer(t, example('foreign.mjs'), { args, env: { READINESS: '300' } });

  server.signal('SIGUSR2');

  await server.waitFor(/it has closed what it was given: "web" \(127.0.0.1:\d+\).*this process goes on accepting/);
  assert.equal(await get(server.url), `${server.pid}\n`);
});

test('without a listener handed down both say so, and end', { skip: !hasCompiler }, () => {
  for (const [file = '', ...args] of [PYTHON, C]) {
    const { status, stderr } = spawnSync(file, args, { env: { ...process.env, LISTEN_PID: '1', LISTEN_FDS: '1' } });

    assert.equal(status, 1);
    assert.match(String(stderr), /^no listener was handed down/);
  }
});
