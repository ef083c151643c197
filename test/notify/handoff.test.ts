/** What a service manager hears of a restart by handoff, and in which order; it is played by `Notifications`. Real processes. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test, type TestContext } from 'node:test';

import { Notifications, type Notification } from '../../lib/notifications.js';
import { askHandoff, startDriven, startTaking } from '../e2e/drive.js';
import { get } from '../support/client.js';
import { startServer, temporaryDirectory } from '../support/fixture.js';
import { node, skipUnlessLinux } from './support.js';

const DEADLINE = 10_000;

function open(t: TestContext): Notifications {
  const manager = new Notifications();
  t.after(() => {
    manager.close();
  });
  return manager;
}

async function hear(manager: Notifications): Promise<Notification> {
  const message = await manager.receive({ signal: AbortSignal.timeout(DEADLINE) });
  assert.ok(message);
  return message;
}

/** The lines without what differs from run to run. */
function said({ lines }: Notification): string[] {
  return lines
    .filter((line) => !line.startsWith('MAINPIDFDID='))
    .map((line) => line.replace(/^MONOTONIC_USEC=\d+$/, 'MONOTONIC_USEC=now'));
}

describe('a handoff under a service manager', { skip: skipUnlessLinux }, () => {
  test('RELOADING at the start, MAINPID with READY at the release, and the successor is alone when that was processed', async (t) => {
    const manager = open(t);
    const server = await startDriven(t, { env: manager.env() });
    assert.deepEqual(said(await hear(manager)), ['READY=1']);
    const from = server.lines.length;

    server.signal('SIGUSR2');
    const reloading = await hear(manager);
    const released = await hear(manager);

    const next = server.newest;
    assert.notEqual(next, server.pid);
    assert.deepEqual(said(reloading), ['RELOADING=1', 'MONOTONIC_USEC=now']);
    assert.deepEqual(said(released), [`MAINPID=${next}`, 'READY=1', `STATUS=generation 2 serves (pid ${next})`]);
    assert.deepEqual([reloading.pid, released.pid], [server.pid, server.pid]); // by the one that is the main process so far
    const answers = new Set<string>();
    for (let request = 0; request < 20; request++) answers.add(await get(server.url));
    assert.deepEqual([...answers], [`${next}\n`]); // the old one does not accept any more
    assert.ok(!server.lines.some(({ text }) => text === `pid ${next} is alone`), server.sofar());

    const rest = hear(manager); // the barrier is reached here
    await server.waitFor(`pid ${next} is alone`, { from });
    await server.gone(server.pid);
    server.signal('SIGTERM', next);
    await server.gone(next);
    manager.close();
    await assert.rejects(rest); // nothing else was said, by neither
  });

  test('a process that takes over tells the manager that started it that it is ready, and the other manager hears nothing', async (t) => {
    const [its, other] = [open(t), open(t)];
    const file = path.join(temporaryDirectory(t), 'takeover.sock');
    const old = await startTaking(t, file, { env: other.env() });
    assert.deepEqual(said(await hear(other)), ['READY=1']);

    const young = await startTaking(t, file, { env: its.env() });
    const ready = await hear(its);
    await old.gone(old.pid);

    assert.deepEqual(said(ready), ['READY=1']);
    assert.equal(ready.pid, young.pid);
    const rest = hear(other);
    other.close();
    await assert.rejects(rest);
  });

  test('a manager that never comes to the barrier costs 4 s, and a warning', async (t) => {
    const manager = open(t);
    const server = await startDriven(t, { env: manager.env() });
    const from = server.lines.length;

    const outcome = await askHandoff(server, { probation: 10 });

    assert.equal(outcome.generation, 2);
    await server.waitFor(/FDPASS_NOTIFY\] Warning: .*BARRIER=1.*ETIMEDOUT/, { from });
    await server.waitFor(`pid ${outcome.pid} is alone`, { from });
  });

  test('one that fails is told: READY and why, and the process goes on; the next one succeeds', async (t) => {
    const manager = open(t);
    const server = await startDriven(t, { env: manager.env() });
    await hear(manager);

    const failed = await askHandoff(server, { env: { MISBEHAVE: 'exit-3' } });
    const messages = [await hear(manager), await hear(manager)];

    assert.equal(failed.code, 'ERR_FDPASS_SUCCESSOR_EXITED');
    assert.deepEqual(messages.map(said), [
      ['RELOADING=1', 'MONOTONIC_USEC=now'],
      ['READY=1', `STATUS=upgrade failed: ${failed.message}`],
    ]);
    const second = askHandoff(server, { probation: 10 });
    assert.deepEqual(said(await hear(manager)), ['RELOADING=1', 'MONOTONIC_USEC=now']);
    const released = await hear(manager);
    const rest = manager.receive();
    assert.deepEqual(said(released)[0], `MAINPID=${(await second).pid}`);
    manager.close();
    await rest;
  });

  test('a command that cannot be started is told as well', async (t) => {
    const manager = open(t);
    const server = await startDriven(t, { env: manager.env() });
    await hear(manager);

    const failed = await askHandoff(server, { command: ['/nonexistent/program'] });

    assert.equal(failed.code, 'ERR_FDPASS_SPAWN');
    assert.deepEqual(said(await hear(manager)), ['RELOADING=1', 'MONOTONIC_USEC=now']);
    assert.deepEqual(said(await hear(manager)), ['READY=1', `STATUS=upgrade failed: ${failed.message}`]);
  });

  test('a second signal is a reload with a later time, of which the same READY is the end', async (t) => {
    const manager = open(t);
    const server = await startDriven(t, { env: { ...manager.env(), PROBATION: '1000' } });
    await hear(manager);

    server.signal('SIGUSR2', server.pid);
    const first = await hear(manager);
    server.signal('SIGUSR2', server.pid);
    const second = await hear(manager);
    const released = await hear(manager);
    const rest = manager.receive();

    const stamps = [first, second].map(({ fields }) => Number(fields['MONOTONIC_USEC']));
    assert.ok((stamps[0] ?? 0) < (stamps[1] ?? 0), stamps.join());
    assert.equal(said(released)[1], 'READY=1');
    await server.gone(server.pid);
    manager.close();
    await rest;
  });

  test('the beat goes over with MAINPID: the old one beats once more and then never, the new one has a pid of its own', async (t) => {
    const manager = open(t);
    const index = new URL('../../lib/index.js', import.meta.url).href;
    const file = path.join(temporaryDirectory(t), 'server.mjs');
    fs.writeFileSync(
      file,
      `import http from 'node:http';
       const { drainOn, inheritListener, ready, restartOn } = await import('${index}');
       const { notify } = await import('${new URL('../../lib/notify.js', import.meta.url).href}');
       const server = http.createServer((request, response) => response.end(String(process.pid)));
       const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
       listener.serve(server);
       restartOn('SIGUSR2', undefined, { probation: 10, beforeExit: () => notify.stopping('must not be heard') });
       drainOn('SIGTERM');
       const { generation } = await ready();
       notify.watchdog.start();
       console.log('listening on 127.0.0.1:' + listener.port + ', pid ' + process.pid + ', generation ' + generation);`,
    );
    const env = manager.env({ watchdog: 200 });
    // WATCHDOG_PID names the pid of the first process, as systemd writes it: exec keeps the pid.
    const launcher = path.join(path.dirname(file), 'launch.mjs');
    fs.writeFileSync(
      launcher,
      `process.env.WATCHDOG_PID ??= String(process.pid); await import(${JSON.stringify(file)});`,
    );
    const server = await startServer(t, launcher, { env });
    await hear(manager);

    server.signal('SIGUSR2');
    let released: Notification;
    do released = await hear(manager);
    while (released.fields['MAINPID'] === undefined);
    const next = Number(released.fields['MAINPID']);
    const after: Notification[] = [];
    while (after.filter(({ pid }) => pid === next).length < 4) after.push(await hear(manager));
    await server.gone(server.pid);

    assert.ok(released.has('WATCHDOG=1') && released.pid === server.pid);
    assert.ok(
      after.every(({ pid, lines }) => pid === next && lines.join() === 'WATCHDOG=1'),
      after.map((each) => `${each.pid} ${each.lines.join()}`).join('; '),
    );
    const environment = fs.readFileSync(`/proc/${next}/environ`, 'utf8').split('\0');
    assert.ok(environment.includes(`WATCHDOG_PID=${next}`) && environment.includes('WATCHDOG_USEC=200000'));
  });
});

describe('what upgrade.ts says', { skip: skipUnlessLinux }, () => {
  test('without a manager nothing, and nothing is waited for', async (t) => {
    const { stdout, stderr } = await node(
      t,
      `const upgrade = await load('notify/upgrade.js');
       upgrade.tellReady(); upgrade.tellReloading(); upgrade.tellFailed('x');
       console.log(upgrade.tellReleased(1, 'x'), JSON.stringify(upgrade.writeWatchdog()));`,
    );

    assert.deepEqual({ stdout, stderr }, { stdout: 'undefined {"variables":{},"pidVariables":[]}\n', stderr: '' });
  });

  test('a manager that is gone is a warning, and no error', async (t) => {
    const { code, stderr } = await node(
      t,
      `const upgrade = await load('notify/upgrade.js');
       upgrade.tellReady(); upgrade.tellReloading(); await upgrade.tellReleased(process.pid, 'x');`,
      { NOTIFY_SOCKET: '/nonexistent/notify' },
    );

    assert.equal(code, 0);
    assert.equal(
      stderr.match(/FDPASS_NOTIFY\] Warning: The service manager \(\/nonexistent\/notify\) was not told/g)?.length,
      4,
    );
  });

  test('a successor whose pid is not known: the manager stays with this process, which goes on to speak', async (t) => {
    const manager = open(t);
    const ended = node(
      t,
      `const upgrade = await load('notify/upgrade.js');
       await upgrade.tellReleased(0, 'elsewhere'); await notify.status('still here');`,
      manager.env(),
    );

    assert.deepEqual(said(await hear(manager)), ['READY=1', 'STATUS=elsewhere']);
    assert.deepEqual(said(await hear(manager)), ['STATUS=still here']);
    assert.equal((await ended).code, 0);
  });

  test('a malformed WATCHDOG_USEC keeps no handoff from happening', async (t) => {
    const { stdout } = await node(
      t,
      `const upgrade = await load('notify/upgrade.js'); console.log(JSON.stringify(upgrade.writeWatchdog()));`,
      { WATCHDOG_USEC: 'x' },
    );

    assert.equal(stdout, '{"variables":{},"pidVariables":[]}\n');
  });
});
