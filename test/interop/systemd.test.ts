/**
 * The units of examples/supervisors/systemd under a real manager: start, reload, failures, restart, watchdog, fd store, stop.
 * Each test has a port and a site of its own; they share one manager, which needs root.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { get } from '../support/client.js';
import { Cleanup, type Scope } from '../support/fixture.js';
import type { Load } from '../support/load.js';
import { Manager, olderThan, withoutManager } from './manager.js';
import { assertNothingLost, freePort, install, siteDirectory, steadyLoad } from './support.js';

const skip = withoutManager();
const skipBefore = (version: number): string | false => skip || olderThan(version);

const CLD_KILLED = 2; // waitid(2)

/** A service of a test: a site with a release that `current` points to, and its unit. */
interface Service {
  unit: string;
  port: number;
  site: string;
  url: string;
}

describe('systemd', { skip }, () => {
  const cleanup = new Cleanup();
  let manager: Manager;
  let count = 0;

  before(async () => {
    manager = await Manager.start(cleanup);
  });
  after(() => cleanup.run());

  /**
   * Installs a unit and its program as the pages tell an operator to: /srv/web, with a symlink to the current release.
   *
   * @param change - Lines of the unit, and what stands there instead.
   */
  async function prepare(
    t: Scope,
    files: { service: string; script: string; socket?: string },
    change: Record<string, string> = {},
  ): Promise<Service> {
    const site = siteDirectory(t);
    const port = await freePort();
    const name = `test${++count}`;
    const { service, script, socket } = files;
    const to = { '/usr/bin/node': process.execPath, '/srv/web': site, ...change };
    fs.mkdirSync(path.join(site, 'releases/1'), { recursive: true });
    fs.symlinkSync('releases/1', path.join(site, 'current'));
    install(script, path.join(site, 'releases/1', path.basename(script)), { 'port: 8080': `port: ${port}` });
    install(service, manager.unitPath(`${name}.service`), to);
    if (socket !== undefined) {
      install(socket, manager.unitPath(`${name}.socket`), { '=8080': `=127.0.0.1:${port}` });
    }
    await manager.succeed('daemon-reload');
    t.after(async () => {
      await manager.systemctl('stop', `${name}.socket`, `${name}.service`);
      await manager.systemctl('reset-failed', `${name}.socket`, `${name}.service`);
    });
    return { unit: `${name}.service`, port, site, url: `http://localhost:${port}/` };
  }

  const WEB = { service: 'systemd/web.service', script: 'server.mjs' };

  async function start(t: Scope, { unit, port }: Service): Promise<{ pid: number; load: Load }> {
    await manager.succeed('start', unit);
    return { pid: await manager.mainPid(unit), load: steadyLoad(t, { port, host: 'localhost' }) };
  }

  /** What an operator looks at, and no client: the unit is up, and was not started anew. */
  async function assertUntouched(unit: string, pid: number): Promise<void> {
    const shown = await manager.show(unit, 'ActiveState', 'SubState', 'MainPID', 'NRestarts', 'Result');
    const expected = {
      ActiveState: 'active',
      SubState: 'running',
      MainPID: String(pid),
      NRestarts: '0',
      Result: 'success',
    };
    assert.deepEqual(shown, expected, manager.output());
  }

  for (const socket of [undefined, 'systemd/web.socket']) {
    const how = socket === undefined ? 'that binds its port' : 'with a socket unit';
    test(`three reloads of a service ${how}: MAINPID moves at the release and not before, nothing is lost`, async (t) => {
      const service = await prepare(t, socket === undefined ? WEB : { ...WEB, socket });
      const { unit, port, site } = service;
      if (socket !== undefined) await manager.succeed('start', unit.replace('.service', '.socket'));
      const { pid: first, load } = await start(t, service);
      await load.waitForReply('an answer', ({ pid }) => pid === first);

      let old = first;
      for (let release = 2; release <= 4; release++) {
        fs.cpSync(path.join(site, 'current/'), path.join(site, `releases/${release}`), { recursive: true });
        fs.symlinkSync(`releases/${release}`, path.join(site, 'next'));
        fs.renameSync(path.join(site, 'next'), path.join(site, 'current'));
        const next = load.waitForReply('an answer of the successor', (reply) => reply.first);
        const reload = manager.succeed('reload', unit); // returns now or at the release: RELOADING=1 races with the end of ExecReload=
        const { pid: successor } = await next;

        // In its probation both accept, and the unit stands and falls with the old one. Once it stands with the new one, the old has let go.
        await manager.until(unit, 'MainPID', (value) => {
          if (value === String(successor)) return true;
          assert.equal(value, String(old));
          return false;
        });
        assert.equal(manager.listens(old, port), false, 'the old one has closed its listener by then');
        assert.equal(manager.listens(successor, port), true);
        await reload;
        await manager.until(unit, 'SubState', (value) => value === 'running');
        await assertUntouched(unit, successor);
        const { stdout } = await manager.run('readlink', `/proc/${successor}/cwd`);
        assert.equal(stdout.trim(), site);
        old = successor;
      }

      const report = await assertNothingLost(load);
      assert.equal(report.pids.length, 4);
      await manager.succeed('stop', unit);
      // It has drained: a manager kills a main process that is not its child at once, and so the successor is born as one.
      const { ActiveState, Result, ExecMainCode } = await manager.show(unit, 'ActiveState', 'Result', 'ExecMainCode');
      assert.deepEqual({ ActiveState, Result }, { ActiveState: 'inactive', Result: 'success' }, manager.output());
      assert.notEqual(ExecMainCode, String(CLD_KILLED));
      assert.deepEqual(await manager.processes(unit), []);
    });
  }

  test('a reload to a release that throws: the service stays up, says why, and nothing is lost', async (t) => {
    const service = await prepare(t, WEB);
    const { unit, site } = service;
    const { pid, load } = await start(t, service);
    const script = path.join(site, 'current/server.mjs');
    const good = fs.readFileSync(script, 'utf8');

    fs.writeFileSync(script, 'throw new Error("a bad release");\n');
    await manager.succeed('reload', unit);
    await manager.printed(/fdpass: the restart failed: .*this process goes on accepting/);

    await manager.until(unit, 'StatusText', (value) => value.startsWith('upgrade failed: '));
    await assertUntouched(unit, pid);
    fs.writeFileSync(script, good);
    await manager.succeed('reload', unit);
    await manager.until(unit, 'MainPID', (value) => value !== String(pid));
    await assertNothingLost(load);
  });

  test('a successor that is killed in its probation: the service stays as it was, and the next reload works', async (t) => {
    const service = await prepare(t, WEB);
    const { unit, port } = service;
    await manager.succeed('start', unit);
    const pid = await manager.mainPid(unit);
    const load = steadyLoad(t, { host: 'localhost', port });

    const next = load.waitForReply('an answer of the successor', (reply) => reply.first && reply.pid !== pid);
    const reload = manager.succeed('reload', unit);
    const { pid: successor } = await next;
    manager.kill('SIGKILL', successor);
    await reload;
    await manager.until(unit, 'StatusText', (value) => value.includes('upgrade failed'));
    await load.stop(); // what the killed one had accepted is lost, as with every server

    await assertUntouched(unit, pid);
    const second = steadyLoad(t, { host: 'localhost', port });
    await manager.succeed('reload', unit);
    await manager.until(unit, 'MainPID', (value) => value !== String(pid));
    await assertNothingLost(second);
  });

  test('the new main process crashes after a reload: Restart= starts another, and the socket unit loses nobody who waits', async (t) => {
    const service = await prepare(t, { ...WEB, socket: 'systemd/web.socket' });
    const { unit, url } = service;
    await manager.succeed('start', unit.replace('.service', '.socket'));
    await manager.succeed('start', unit);
    const first = await manager.mainPid(unit);
    await manager.succeed('reload', unit);
    const second = Number(await manager.until(unit, 'MainPID', (value) => value !== String(first)));
    await manager.until(unit, 'SubState', (value) => value === 'running');

    manager.kill('SIGKILL', second);
    const answer = await get(url); // comes while nobody serves, and waits in the queue of the socket

    const { MainPID, NRestarts } = await manager.show(unit, 'MainPID', 'NRestarts');
    assert.equal(answer, `${MainPID}\n`);
    assert.equal(NRestarts, '1');
    assert.ok(Number(MainPID) !== second);
  });

  test('the fd store keeps the listener across a full restart, under load: nothing is lost, nothing is stored twice', async (t) => {
    const service = await prepare(t, { service: 'systemd/store.service', script: 'systemd/store.mjs' });
    const { unit } = service;
    const { load } = await start(t, service);
    await manager.until(unit, 'NFileDescriptorStore', (value) => value === '1');

    for (let round = 0; round < 3; round++) {
      const before = await manager.mainPid(unit);
      await manager.succeed('restart', unit);
      const now = await manager.mainPid(unit);
      assert.notEqual(now, before);
      await load.waitForReply('an answer of the next process', ({ pid }) => pid === now);
      const { NFileDescriptorStore } = await manager.show(unit, 'NFileDescriptorStore');
      assert.equal(NFileDescriptorStore, '1');
    }

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 4);
  });

  for (const stdin of [false, true]) {
    const how = stdin ? 'at descriptor 0 (StandardInput=socket)' : 'by LISTEN_FDS';
    test(`Accept=yes: a process for each connection, which it takes ${how}`, async (t) => {
      const site = siteDirectory(t);
      const port = await freePort();
      const name = `each${++count}`;
      const exec = stdin ? 'StandardInput=socket\nStandardOutput=null\nExecStart=' : 'ExecStart=';
      const to = { '/usr/bin/node': process.execPath, '/srv/web': site, 'ExecStart=': exec };
      install('connection.mjs', path.join(site, 'connection.mjs'));
      install('systemd/each.socket', manager.unitPath(`${name}.socket`), { '=8080': `=127.0.0.1:${port}` });
      install('systemd/each@.service', manager.unitPath(`${name}@.service`), to);
      await manager.succeed('daemon-reload');
      t.after(() => manager.systemctl('stop', `${name}.socket`, `${name}@*.service`).then(() => undefined));
      await manager.succeed('start', `${name}.socket`);

      const bodies = await Promise.all([1, 2, 3].map(() => get(`http://127.0.0.1:${port}/`)));

      assert.equal(new Set(bodies).size, 3);
      assert.deepEqual(await manager.show(`${name}.socket`, 'NAccepted'), { NAccepted: '3' });
    });
  }

  test('the watchdog: beats keep a service up, across a reload too; one whose loop stands still is ended and started anew', async (t) => {
    const service = await prepare(
      t,
      { service: 'systemd/watchdog.service', script: 'systemd/watchdog.mjs' },
      { 'WatchdogSec=10': 'WatchdogSec=2' },
    );
    const { unit } = service;
    const { pid: first, load } = await start(t, service);
    await manager.succeed('reload', unit);
    const second = Number(await manager.until(unit, 'MainPID', (value) => value !== String(first)));
    const began = performance.now();
    await load.waitForReply('an answer after twice the time', () => performance.now() - began > 4500);

    await assertUntouched(unit, second);
    await assertNothingLost(load);
    manager.kill('SIGSTOP', second); // its loop turns no more
    await manager.until(unit, 'NRestarts', (value) => value === '1');
    await manager.until(unit, 'ActiveState', (value) => value === 'active');
  });

  test(
    'Type=notify-reload: `systemctl reload` returns when the successor serves alone, three times under load',
    { skip: skipBefore(253) },
    async (t) => {
      const service = await prepare(t, {
        service: 'systemd/reload.service',
        script: 'server.mjs',
        socket: 'systemd/web.socket',
      });
      const { unit, port } = service;
      await manager.succeed('start', unit.replace('.service', '.socket'));
      const { pid: first, load } = await start(t, service);

      let old = first;
      for (let round = 0; round < 3; round++) {
        await manager.succeed('reload', unit); // until READY=1, behind a RELOADING=1 whose time is not before the signal's
        const pid = await manager.mainPid(unit);
        assert.notEqual(pid, old);
        assert.equal(manager.listens(old, port), false);
        await assertUntouched(unit, pid);
        old = pid;
      }

      const report = await assertNothingLost(load);
      assert.equal(report.pids.length, 4);
      await manager.succeed('stop', unit);
      assert.deepEqual(await manager.processes(unit), []);
    },
  );

  test(
    'Type=notify-reload to a release that throws: `systemctl reload` comes back, and the service is as it was',
    { skip: skipBefore(253) },
    async (t) => {
      const service = await prepare(t, { service: 'systemd/reload.service', script: 'server.mjs' });
      const { unit, site } = service;
      const { pid, load } = await start(t, service);

      fs.writeFileSync(path.join(site, 'current/server.mjs'), 'throw new Error("a bad release");\n');
      await manager.succeed('reload', unit);

      const { StatusText } = await manager.show(unit, 'StatusText');
      assert.match(StatusText ?? '', /^upgrade failed: /);
      await assertUntouched(unit, pid);
      await assertNothingLost(load);
    },
  );

  test(
    'OpenFile=: a file and a connection, each by its name, beside the listener of a socket unit',
    { skip: skipBefore(253) },
    async (t) => {
      const files = { service: 'systemd/files.service', script: 'systemd/files.mjs', socket: 'systemd/web.socket' };
      const service = await prepare(t, files);
      const { unit, site, url } = service;
      fs.writeFileSync(path.join(site, 'key.pem'), 'x'.repeat(1234));
      const database = net.createServer().listen(path.join(site, 'database.sock'));
      t.after(() => database.close());
      const connected = once(database, 'connection') as Promise<[net.Socket]>;
      await manager.succeed('start', unit.replace('.service', '.socket'));

      await manager.succeed('start', unit);
      const [connection] = await connected;
      t.after(() => connection.destroy());
      const [said] = (await once(connection, 'data')) as [Buffer];

      assert.equal(String(said), 'a key of 1234 bytes\n');
      assert.equal(await get(url), `${await manager.mainPid(unit)}\n`);
    },
  );

  test(
    'FileDescriptorStorePreserve=: the listener outlives a stopped service',
    { skip: skipBefore(254) },
    async (t) => {
      const kept = { 'FileDescriptorStoreMax=8': 'FileDescriptorStoreMax=8\nFileDescriptorStorePreserve=yes' };
      const service = await prepare(t, { service: 'systemd/store.service', script: 'systemd/store.mjs' }, kept);
      const { unit, url } = service;
      await manager.succeed('add-wants', 'default.target', unit); // 257 forgets a stopped unit, store and all, that nobody wants
      t.after(async () => {
        await manager.systemctl('clean', '--what=fdstore', unit);
        await manager.systemctl('disable', unit);
      });
      await manager.succeed('start', unit);
      await manager.until(unit, 'NFileDescriptorStore', (value) => value === '1');
      await manager.succeed('stop', unit);

      const waiting = get(url); // while nobody serves
      await manager.succeed('start', unit);

      assert.equal(await waiting, `${await manager.mainPid(unit)}\n`);
    },
  );
});
