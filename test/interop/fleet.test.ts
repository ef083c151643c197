/**
 * The files of examples/fleet: two backends behind haproxy and behind nginx on one machine, restarted in turn under load, and a server as
 * pid 1 of a PID namespace, as in a container. Nothing is lost.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { descendants } from '../support/audit.js';
import { Connection } from '../support/client.js';
import { type Family, type Scope, startProgram, startServer } from '../support/fixture.js';
import type { Load } from '../support/load.js';
import {
  assertNothingLost,
  freePort,
  installFile,
  program,
  run,
  siteDirectory,
  steadyLoad,
  untilListens,
  without,
} from './support.js';

interface Fleet {
  directory: string;
  port: number;
  ports: [number, number];
  agents: [number, number];
  backends: [Family, Family];
  stats: string;
}

/** Two backends, and the ports and paths that the files name. */
async function startFleet(t: Scope): Promise<Fleet> {
  const directory = siteDirectory(t);
  const [port, a, b, c, d] = await Promise.all([0, 1, 2, 3, 4].map(() => freePort()));
  assert.ok(port !== undefined && a !== undefined && b !== undefined && c !== undefined && d !== undefined);
  installFile('fleet/backend.mjs', path.join(directory, 'backend.mjs'));
  const fleet = { directory, port, ports: [a, b], agents: [c, d], stats: path.join(directory, 'admin.sock') } as const;
  const backends: [Family, Family] = [await startBackend(t, fleet, 0), await startBackend(t, fleet, 1)];
  return { ...fleet, ports: [a, b], agents: [c, d], backends };
}

function startBackend(
  t: Scope,
  fleet: Pick<Fleet, 'directory'> & { ports: readonly number[]; agents: readonly number[] },
  index: 0 | 1,
): Promise<Family> {
  const env = { PORT: String(fleet.ports[index]), AGENT_PORT: String(fleet.agents[index]) };
  return startServer(t, path.join(fleet.directory, 'backend.mjs'), { env, cwd: fleet.directory });
}

async function startHaproxy(t: Scope, { directory, port, ports, agents, stats }: Fleet): Promise<Family> {
  const config = path.join(directory, 'haproxy.cfg');
  installFile('fleet/haproxy.cfg', config, {
    '/run/haproxy/admin.sock': stats,
    ':8080': `:${port}`,
    ':8081': `:${ports[0]}`,
    ':8082': `:${ports[1]}`,
    ' 9081': ` ${agents[0]}`,
    ' 9082': ` ${agents[1]}`,
  });
  const haproxy = startProgram(t, program('haproxy'), { args: ['-db', '-f', config] });
  await untilListens(haproxy, port);
  return haproxy;
}

/** Asks haproxy's runtime API by the program of the page. */
async function runtime({ directory, stats }: Fleet, ...args: string[]): Promise<void> {
  installFile('fleet/runtime.mjs', path.join(directory, 'runtime.mjs'));
  await run(process.execPath, [path.join(directory, 'runtime.mjs'), stats, ...args], { timeout: 20_000 });
}

/** Restarts both by handoff, twice. */
async function restartBoth({ backends }: Fleet, load: Load): Promise<void> {
  await load.waitForReply('answers of both', () => load.pids.size === 2);
  for (const backend of [...backends, ...backends]) {
    const old = backend.newest;
    const next = load.waitForReply('an answer of the next generation', ({ first }) => first);
    await backend.restart();
    await next;
    await backend.gone(old, 20_000);
  }
}

describe('two backends behind haproxy', { skip: without('haproxy') }, () => {
  test('both restart by handoff, twice: haproxy notices nothing, and nothing is lost', async (t) => {
    const fleet = await startFleet(t);
    await startHaproxy(t, fleet);
    const load = steadyLoad(t, { port: fleet.port });

    await restartBoth(fleet, load);

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 6);
  });

  test('both are stopped and started in turn, taken out by the runtime API before: nothing is lost', async (t) => {
    const fleet = await startFleet(t);
    await startHaproxy(t, fleet);
    const load = steadyLoad(t, { port: fleet.port });

    for (const index of [0, 1] as const) {
      const name = `app/${index === 0 ? 'a' : 'b'}`;
      const backend = fleet.backends[index];
      await runtime(fleet, name, 'drain');
      await backend.stop();
      const next = await startBackend(t, fleet, index);
      const answer = load.waitForReply('an answer of the new one', ({ pid }) => pid === next.pid);
      await runtime(fleet, name, 'ready');
      await answer;
    }

    await assertNothingLost(load);
  });

  test('both are stopped and started in turn, and say so themselves by agent-check before: nothing is lost', async (t) => {
    const fleet = await startFleet(t);
    await startHaproxy(t, fleet);
    const load = steadyLoad(t, { port: fleet.port });
    await load.waitForReply('answers of both', () => load.pids.size === 2);

    for (const index of [0, 1] as const) {
      const backend = fleet.backends[index];
      backend.signal('SIGUSR1');
      const quietFor = 1000; // ms: several rounds of the check
      await load.waitForReply(
        'nothing more from it',
        ({ at }) => at - (load.pids.get(backend.pid)?.last ?? 0) > quietFor,
      );
      await backend.stop();
      const next = await startBackend(t, fleet, index);
      await load.waitForReply('an answer of the new one', ({ pid }) => pid === next.pid);
    }

    await assertNothingLost(load);
  });
});

describe('two backends behind nginx', { skip: without('nginx') }, () => {
  test('both restart by handoff, twice: nginx notices nothing, and nothing is lost', async (t) => {
    const fleet = await startFleet(t);
    const { directory, port, ports } = fleet;
    installFile('fleet/nginx.conf', path.join(directory, 'nginx.conf'), {
      ':8080': `:${port}`,
      ':8081': `:${ports[0]}`,
      ':8082': `:${ports[1]}`,
    });
    const nginx = startProgram(t, program('nginx'), { args: ['-p', directory, '-c', 'nginx.conf'], cwd: directory });
    await untilListens(nginx, port);
    const load = steadyLoad(t, { port });

    await restartBoth(fleet, load);

    const report = await assertNothingLost(load);
    assert.equal(report.pids.length, 6);
    assert.deepEqual(
      nginx.lines.filter(({ text }) => text.includes('[error]')),
      [],
    );
  });
});

const isRoot = process.getuid?.() === 0;
const withoutNamespaces = without('unshare') || (!isRoot && 'a PID namespace needs root');

/** Waits until nobody accepts at a port any more. 10 s. */
async function untilQuiet(port: number): Promise<void> {
  const end = performance.now() + 10_000;
  for (;;) {
    try {
      (await Connection.open({ host: 'localhost', port })).socket.destroy();
    } catch {
      return; // refused: it has stopped accepting
    }
    assert.ok(performance.now() < end, `somebody still accepts at port ${port}`);
    await delay(5);
  }
}

describe('pid 1, as in a container', { skip: withoutNamespaces }, () => {
  async function startPod(t: Scope, script: string): Promise<{ family: Family; port: number }> {
    const directory = siteDirectory(t);
    const port = await freePort();
    installFile(script, path.join(directory, 'server.mjs'), { 'port: 8080': `port: ${port}` });
    const own = ['-p', '-f', '--mount-proc', '--propagation', 'unchanged', '--kill-child']; // its default fails in a chroot
    const args = [...own, process.execPath, path.join(directory, 'server.mjs')];
    const family = startProgram(t, program('unshare'), { args, cwd: directory });
    await family.waitFor(/^listening on|ERR_FDPASS/, { from: 0 }); // what it calls its pid is 1
    return { family, port };
  }

  test('SIGTERM: open connections are answered and told, those that wait too, and the exit code is 0', async (t) => {
    const { family, port } = await startPod(t, 'fleet/pod.mjs');
    const request = 'GET / HTTP/1.1\r\nHost: localhost\r\n\r\n';
    const opening = Array.from({ length: 16 }, () => Connection.open({ host: 'localhost', port }));
    const connections = await Promise.all(opening);
    t.after(() => {
      for (const connection of connections) connection.socket.destroy();
    });
    for (const connection of connections.slice(0, 8)) {
      connection.write(request);
      assert.equal((await connection.reply()).body, '1\n');
    }

    const [server] = descendants(family.pid);
    assert.ok(server !== undefined, 'unshare has a child');
    for (const connection of connections.slice(8)) connection.write(request);
    family.signal('SIGTERM', server.pid);
    await untilQuiet(port);
    for (const connection of connections.slice(0, 8)) connection.write(request); // within the grace of idle ones
    const replies = await Promise.all(connections.map((connection) => connection.reply()));
    const { code } = await family.exited; // unshare ends as its child did

    assert.ok(replies.every(({ status, body }) => status === 200 && body === '1\n'));
    for (const { headers } of replies.slice(0, 8)) assert.equal(headers.get('connection'), 'close');
    assert.equal(code, 0);
  });

  test('restartOn refuses there, and says what to use', async (t) => {
    const { family } = await startPod(t, 'supervisors/server.mjs');

    await family.waitFor(/ERR_FDPASS_SUPERVISED/, { from: 0 });

    assert.ok(family.lines.some(({ text }) => text.includes('it is pid 1, and its exit ends the container')));
  });
});

test('the manifest of the pod keeps its own arithmetic: the grace is above the sleep and the drain together', () => {
  const text = fs.readFileSync(path.join(import.meta.dirname, '../../../examples/fleet/pod.yaml'), 'utf8');
  const [grace, sleep] = [/GracePeriodSeconds: (\d+)/, /'sleep', '(\d+)'/].map((each) => Number(each.exec(text)?.[1]));
  assert.ok(grace !== undefined && sleep !== undefined && grace >= sleep + 30);
});
