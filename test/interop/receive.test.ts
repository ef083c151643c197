/** Real supervisors that hold a socket and hand it down: the program of examples/supervisors takes it, under load where they restart. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { get } from '../support/client.js';
import { type Family, type Scope, startProgram } from '../support/fixture.js';
import {
  assertNothingLost,
  freePort,
  install,
  listening,
  program,
  run,
  siteDirectory,
  steadyLoad,
  untilListens,
  without,
} from './support.js';

const NODE = process.execPath;

/** A site with one program of examples/supervisors in it. */
function site(
  t: Scope,
  script: string,
  replacements: Record<string, string> = {},
): { directory: string; script: string } {
  const directory = siteDirectory(t);
  const file = path.join(directory, path.basename(script));
  install(script, file, replacements);
  return { directory, script: file };
}

/** Waits for a line that says who listens, and returns the pid. */
async function whoListens(family: Family, options: { from?: number } = {}): Promise<number> {
  const { text } = await family.waitFor(/^listening on .*, pid \d+/, { from: 0, ...options });
  return Number(/pid (\d+)/.exec(text)?.[1]);
}

describe('systemd-socket-activate', { skip: without('systemd-socket-activate') }, () => {
  test('starts the server with the first connection; restarts by handoff keep its socket, and lose nothing', async (t) => {
    const { script } = site(t, 'server.mjs');
    const port = await freePort();
    const activate = [`--listen=127.0.0.1:${port}`, '--fdname=web', NODE, script];
    const family = startProgram(t, program('systemd-socket-activate'), { args: activate });
    await family.waitFor(/Listening on/, { from: 0 });

    const url = `http://127.0.0.1:${port}/`;
    assert.equal(await get(url), `${family.pid}\n`, 'it has become the server: its pid is the same');
    const before = listening(family.pid, port);
    const load = steadyLoad(t, { port });
    for (let generation = 2; generation <= 4; generation++) {
      const old = family.newest;
      const { pid } = await family.restart();
      await family.gone(old);
      assert.deepEqual(listening(pid, port), before, 'the very socket of systemd-socket-activate, and no other');
    }

    await assertNothingLost(load);
    await family.stop();
  });

  test('--accept: a process for each connection, which it takes as its own', async (t) => {
    const { script } = site(t, 'connection.mjs');
    const port = await freePort();
    const activate = ['--accept', `--listen=127.0.0.1:${port}`, NODE, script];
    const family = startProgram(t, program('systemd-socket-activate'), { args: activate });
    await family.waitFor(/Listening on/, { from: 0 });

    const bodies = await Promise.all([1, 2, 3].map(() => get(`http://127.0.0.1:${port}/`)));

    assert.equal(new Set(bodies).size, 3);
    assert.ok(bodies.every((body) => body !== `${family.pid}\n`));
  });
});

describe('Server::Starter', { skip: without('start_server') }, () => {
  test('HUP starts the next worker before the old one leaves: three times under load, nothing is lost', async (t) => {
    const { directory, script } = site(t, 'worker.mjs');
    const port = await freePort();
    const status = path.join(directory, 'status');
    const args = [`--port=127.0.0.1:${port}`, `--status-file=${status}`, '--interval=1', '--', NODE, script];
    const family = startProgram(t, program('start_server'), { args });
    await whoListens(family);
    const load = steadyLoad(t, { port });
    await load.waitForReply('an answer', () => true);

    for (let generation = 2; generation <= 4; generation++) {
      const old = load.newest;
      const next = load.waitForReply('an answer of the next worker', ({ first }) => first);
      family.signal('SIGHUP', family.pid);
      await next;
      await family.gone(Number(old));
      const lines = fs.readFileSync(status, 'utf8');
      assert.match(lines, new RegExp(`^${generation}:${String(load.newest)}\n`, 'm'));
    }

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 4);
    family.signal('SIGTERM', family.pid);
    assert.equal((await family.exited).code, 0);
    assert.deepEqual(family.running(), []);
  });

  test('every form of address is found by what start_server calls it: a port, [::1], a path', async (t) => {
    const { directory } = site(t, 'worker.mjs');
    const file = path.join(directory, 'several.mjs');
    const [v4, v6] = [await freePort(), await freePort()];
    const unix = path.join(directory, 'web.sock');
    fs.writeFileSync(
      file,
      `import { inheritedListeners, inheritListener } from 'fdpass';
       const found = inheritedListeners().map(({ name, origin }) => name + ' ' + origin);
       await inheritListener({ host: '127.0.0.1', port: ${v4}, strict: true });
       await inheritListener({ host: '::1', port: ${v6}, strict: true });
       await inheritListener({ path: ${JSON.stringify(unix)}, strict: true });
       console.log('took ' + JSON.stringify(found));
       setInterval(() => {}, 1000);`,
    );
    const ports = [`--port=127.0.0.1:${v4}`, `--port=[::1]:${v6}`, `--path=${unix}`];
    const family = startProgram(t, program('start_server'), { args: [...ports, '--', NODE, file] });

    const { text } = await family.waitFor(/^took /, { from: 0 });

    const expected = [`127.0.0.1:${v4} supervisor`, `[::1]:${v6} supervisor`, `${unix} supervisor`];
    assert.deepEqual((JSON.parse(text.slice('took '.length)) as string[]).sort(), expected.sort());
  });
});

describe('einhorn', { skip: without('einhorn') }, () => {
  test('HUP starts the next worker, waits for its acknowledgement, and tells the old one to leave: three times under load, nothing is lost', async (t) => {
    const { directory, script } = site(t, 'worker.mjs');
    const port = await freePort();
    const own = (name: string): string => path.join(directory, name);
    const files = ['-d', own('einhorn.sock'), '-e', own('einhorn.pid'), '-f', own('einhorn.lock')];
    const args = ['-b', `127.0.0.1:${port}`, '-m', 'manual', ...files, NODE, script];
    const family = startProgram(t, program('einhorn'), { args, cwd: directory });
    await whoListens(family);
    const before = listening(family.newest, port);
    const load = steadyLoad(t, { port });
    await load.waitForReply('an answer', () => true);
    await family.waitFor(/[Uu]p to 1 \/ 1|manual ACK/, { from: 0, what: 'the acknowledgement' });

    for (let round = 0; round < 3; round++) {
      const old = Number(load.newest);
      const next = load.waitForReply('an answer of the next worker', ({ first }) => first, 20_000);
      family.signal('SIGHUP', family.pid);
      const { pid } = await next;
      await family.gone(old, 20_000);
      assert.deepEqual(listening(pid, port), before, 'the very socket of einhorn');
    }

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 4);
  });
});

describe('socketmaster', { skip: without('socketmaster') }, () => {
  test('HUP starts the next worker before the old one leaves: three times under load, nothing is lost', async (t) => {
    const { script } = site(t, 'worker.mjs');
    const port = await freePort();
    const args = ['-listen', `tcp://127.0.0.1:${port}`, '-start', '1000', '-command', NODE, script];
    const family = startProgram(t, program('socketmaster'), { args });
    await untilListens(family, port);
    const load = steadyLoad(t, { port });
    const { pid: first } = await load.waitForReply('an answer', () => true);
    const before = listening(first, port);

    for (let round = 0; round < 3; round++) {
      const old = Number(load.newest);
      const next = load.waitForReply('an answer of the next worker', (reply) => reply.first);
      family.signal('SIGHUP', family.pid);
      const { pid } = await next;
      await family.gone(old);
      assert.deepEqual(listening(pid, port), before, 'the very socket of socketmaster');
    }

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 4);
    family.signal('SIGTERM', family.pid); // passed on; it ends with the last of its workers
    assert.equal((await family.exited).code, 0);
  });
});

describe('circus', { skip: without('circusd', 'circusctl') }, () => {
  test('circusctl reload starts the next workers before the old ones leave: three times under load, nothing is lost', async (t) => {
    const { directory } = site(t, 'circus/worker.mjs');
    const port = await freePort();
    const config = path.join(directory, 'circus.ini');
    install('circus/circus.ini', config, {
      '/run/circus': directory,
      '/usr/bin/node': NODE,
      '/srv/web': directory,
      'port = 8080': `port = ${port}`,
    });
    const family = startProgram(t, program('circusd'), { args: [config], cwd: directory });
    await untilListens(family, port);
    const load = steadyLoad(t, { port });
    await load.waitForReply('answers of both', () => load.pids.size === 2, 20_000);
    const before = listening(family.pid, port);

    for (let round = 2; round <= 4; round++) {
      const old = [...load.pids.keys()].slice(-2);
      const next = load.waitForReply('answers of the next two', () => load.pids.size === 2 * round, 20_000);
      const endpoint = `ipc://${directory}/endpoint`;
      await run(program('circusctl'), ['--endpoint', endpoint, 'reload', 'web', '--waiting'], { timeout: 30_000 });
      const { pid } = await next;
      for (const each of old) await family.gone(each, 20_000);
      assert.deepEqual(listening(pid, port), before, 'the very socket of circus');
    }

    await assertNothingLost(load);
    await run(program('circusctl'), ['--endpoint', `ipc://${directory}/endpoint`, 'quit'], { timeout: 30_000 });
    assert.equal((await family.exited).code, 0);
  });
});

describe('inetd', { skip: without('inetd') }, () => {
  const user = os.userInfo().username;

  async function startInetd(t: Scope, directory: string, line: string): Promise<Family> {
    const file = path.join(directory, 'inetd.conf');
    fs.writeFileSync(file, `${line}\n`);
    const family = startProgram(t, program('inetd'), { args: ['-i', '-d', file] });
    await family.waitFor(/ADD|REDO|registered|server=/, { from: 0, what: 'the line of the service' });
    return family;
  }

  test('wait: the server takes the listener from descriptor 0, and serves until it is stopped', async (t) => {
    const { directory, script } = site(t, 'worker.mjs');
    const port = await freePort();
    const family = await startInetd(t, directory, `127.0.0.1:${port} stream tcp wait ${user} ${NODE} node ${script}`);

    const body = await get(`http://127.0.0.1:${port}/`);

    assert.notEqual(body, `${family.pid}\n`);
    assert.equal(await get(`http://127.0.0.1:${port}/`), body, 'one process for all');
  });

  test('nowait: a process for each connection', async (t) => {
    const { directory, script } = site(t, 'connection.mjs');
    const port = await freePort();
    await startInetd(t, directory, `127.0.0.1:${port} stream tcp nowait ${user} ${NODE} node ${script}`);

    const bodies = await Promise.all([1, 2, 3].map(() => get(`http://127.0.0.1:${port}/`)));

    assert.equal(new Set(bodies).size, 3);
  });
});

describe('socat', { skip: without('socat') }, () => {
  test('nofork: the connection it accepted is the program’s own', async (t) => {
    const { script } = site(t, 'connection.mjs');
    const port = await freePort();
    const listen = `TCP-LISTEN:${port},bind=127.0.0.1,reuseaddr`;
    const family = startProgram(t, program('socat'), { args: ['-d', '-d', listen, `EXEC:${NODE} ${script},nofork`] });
    await family.waitFor(/listening on/, { from: 0 });

    assert.equal(await get(`http://127.0.0.1:${port}/`), `${family.pid}\n`);
  });
});

describe('s6', { skip: without('s6-svscan', 's6-fdholder-daemon', 's6-ipcserver-socketbinder') }, () => {
  test('s6-ipcserver-socketbinder: the listener is descriptor 0; restarts by handoff under load lose nothing', async (t) => {
    const { directory, script } = site(t, 'server.mjs', { "{ name: 'web', port: 8080 }": '' });
    const unix = path.join(directory, 'web.sock');
    const args = ['-a', '0600', unix, NODE, script];
    const family = startProgram(t, program('s6-ipcserver-socketbinder'), { args });
    await whoListens(family);
    const before = listening(family.pid, unix);
    const load = steadyLoad(t, { path: unix });

    for (let generation = 2; generation <= 3; generation++) {
      const old = family.newest;
      const { pid } = await family.restart();
      await family.gone(old);
      assert.deepEqual(listening(pid, unix), before);
    }

    await assertNothingLost(load);
    await family.stop();
  });

  test('s6-svc -r with the listener in s6-fdholder-daemon: three times under load, nothing is lost', async (t) => {
    const directory = siteDirectory(t);
    const port = await freePort();
    const scan = path.join(directory, 'scan');
    const holder = path.join(scan, 'fdholder');
    const web = path.join(scan, 'web');
    const here = { '/service': scan, '/usr/bin/node': NODE, '/srv/web': directory };
    for (const name of ['fdholder', 'web']) {
      install(`s6/${name}/run`, path.join(scan, name, 'run'), name === 'web' ? here : { '/service': scan });
      fs.chmodSync(path.join(scan, name, 'run'), 0o755);
    }
    install('s6/web/notification-fd', path.join(web, 'notification-fd'));
    install('s6/server.mjs', path.join(directory, 'server.mjs'), { '/service': scan, 'port: 8080': `port: ${port}` });
    fs.mkdirSync(path.join(holder, 'rules/uid/self/env'), { recursive: true });
    fs.mkdirSync(path.join(holder, 'rules/uid/default'), { recursive: true });
    fs.writeFileSync(path.join(holder, 'rules/uid/self/allow'), '');
    for (const name of ['S6_FDHOLDER_STORE_REGEX', 'S6_FDHOLDER_RETRIEVE_REGEX']) {
      fs.writeFileSync(path.join(holder, 'rules/uid/self/env', name), '^web$');
    }
    const PATH = [path.dirname(program('s6-svscan')), process.env['PATH']].join(':');
    const family = startProgram(t, program('s6-svscan'), { args: [scan], env: { PATH } });
    const svc = (name: string, ...args: string[]): Promise<unknown> => run(program(name), args, { timeout: 20_000 });
    await family.waitFor(/^listening on/, { from: 0 });
    await svc('s6-svwait', '-U', '-t', '10000', web);
    const load = steadyLoad(t, { port, host: 'localhost' });
    await load.waitForReply('an answer', () => true);

    for (let round = 0; round < 3; round++) {
      const next = load.waitForReply('an answer of the next process', ({ first }) => first);
      await svc('s6-svc', '-wR', '-T', '10000', '-r', web);
      await next;
    }

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 4);
  });
});
