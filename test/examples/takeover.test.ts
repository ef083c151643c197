import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { readProcess } from '../support/audit.js';
import { get } from '../support/client.js';
import { type Family, type Scope, startProgram, startServer, temporaryDirectory } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { assertNobody, example, until } from './support.js';

const RATES = { newPerSecond: 100, keepAlive: 16, requestsPerSecond: 10 };

function startContainer(t: Scope, file: string): Promise<Family> {
  return startServer(t, example('container.mjs'), { args: [file] });
}

async function startPython(t: Scope, file: string): Promise<Family> {
  const family = startProgram(t, 'python3', { args: [example('takeover_successor.py'), file] });
  await family.waitFor(/^listening on /, { from: 0 });
  return family;
}

test('container.mjs: the same command again takes over; nothing is lost, and the last one leaves nothing behind', async (t) => {
  const file = path.join(temporaryDirectory(t), 'takeover.sock');
  let old = await startContainer(t, file);
  const load = startLoad({ ...RATES, port: old.port });

  for (let generation = 2; generation <= 4; generation++) {
    const young = await startContainer(t, file);
    await young.waitFor(`pid ${young.pid} comes from takeover`, { from: 0 });
    await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
    assert.deepEqual(await old.exited, { code: 0, signal: null });
    assert.equal(young.generations[0]?.generation, generation);
    old = young;
  }

  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  await old.stop();
  assertNobody(old);
  assert.equal(fs.existsSync(file), false);
});

test('container.mjs: SIGTERM to the old one while the takeover runs is survived', async (t) => {
  const file = path.join(temporaryDirectory(t), 'takeover.sock');
  const old = await startContainer(t, file);
  const load = startLoad({ ...RATES, port: old.port });
  const hook = path.join(path.dirname(file), 'freeze.mjs');
  // The new one is frozen when it is about to say READY: the old one waits for it.
  fs.writeFileSync(
    hook,
    `import { subscribe } from 'node:diagnostics_channel';
     subscribe('fdpass', ({ event, phase }) => {
       if (event === 'generation' && phase === 'ready') process.kill(process.pid, 'SIGSTOP');
     });`,
  );
  const args = ['--import', hook, example('container.mjs'), file];
  const young = startProgram(t, process.execPath, { args, env: { PORT: '0' } });
  await until('the new one is frozen', () => readProcess(young.pid)?.state === 'T');

  old.signal('SIGTERM');
  young.signal('SIGCONT', young.pid);

  await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
  assert.deepEqual(await old.exited, { code: 0, signal: null });
  assert.equal(await get(old.url), `${young.pid}\n`);
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
});

test('takeover_successor.py takes over from Node, and Node from it, and Python from Python, under load: nothing is lost', async (t) => {
  const file = path.join(temporaryDirectory(t), 'takeover.sock');
  let old = await startContainer(t, file);
  const { url } = old;
  const load = startLoad({ ...RATES, port: old.port });

  for (const start of [startPython, startContainer, startPython, startPython, startContainer]) {
    const young = await start(t, file);
    await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
    assert.deepEqual(await old.exited, { code: 0, signal: null }, old.sofar());
    await load.waitForReply('a reply of the new one', ({ pid, kind }) => pid === young.pid && kind === 'keepAlive');
    old = young;
  }

  assert.equal(old.generations[0]?.generation, 6);
  assert.equal(await get(url), `${old.pid}\n`);
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  await old.stop();
  assert.equal(fs.existsSync(file), false);
});

test('takeover_successor.py: an old one that is killed in its probation leaves it alone; killed itself, it costs nothing', async (t) => {
  const file = path.join(temporaryDirectory(t), 'takeover.sock');
  const first = await startContainer(t, file);
  const dead = await startPython(t, file);
  dead.signal('SIGKILL');
  await first.waitFor(/ERR_FDPASS_PROBATION/, { from: 0 });
  assert.equal(await get(first.url), `${first.pid}\n`);

  const second = await startPython(t, file);
  first.signal('SIGKILL');

  await second.waitFor(`pid ${second.pid} is alone`, { from: 0 });
  assert.equal(await get(first.url), `${second.pid}\n`);
  await second.stop();
  assert.equal(fs.existsSync(file), false);
});

test('takeover_successor.py, as the old one: a newcomer that dies in any phase costs nothing', async (t) => {
  const file = path.join(temporaryDirectory(t), 'takeover.sock');
  const first = await startContainer(t, file);
  const python = await startPython(t, file);
  await python.waitFor(`pid ${python.pid} is alone`, { from: 0 });
  const hook = path.join(path.dirname(file), 'die.mjs');
  fs.writeFileSync(
    hook,
    `import { subscribe } from 'node:diagnostics_channel';
     subscribe('fdpass', ({ event, phase }) => {
       if (event === 'generation' && phase === process.env.DIE_AT) process.kill(process.pid, 'SIGKILL');
     });`,
  );

  for (const phase of ['ready', 'serving']) {
    const args = ['--import', hook, example('container.mjs'), file];
    const young = startProgram(t, process.execPath, { args, env: { PORT: '0', DIE_AT: phase } });
    assert.equal((await young.exited).signal, 'SIGKILL');
    assert.equal(await get(first.url), `${python.pid}\n`);
  }

  const next = await startContainer(t, file);
  await next.waitFor(`pid ${next.pid} is alone`, { from: 0 });
  assert.deepEqual(await python.exited, { code: 0, signal: null }, python.sofar());
});

test('takeover_successor.py: where nobody offers it says so, and ends', async (t) => {
  const family = startProgram(t, 'python3', { args: [example('takeover_successor.py'), '/nonexistent/takeover.sock'] });

  assert.equal((await family.exited).code, 1);
  await family.waitFor(/^nothing was taken over: .*No such file/, { from: 0 });
});
