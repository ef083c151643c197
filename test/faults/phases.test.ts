// Death, frost and full tables, in every phase of a handoff: whoever is left serves on, and everybody is gone who should be.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { describe, test, type TestContext } from 'node:test';

import { assertTidy, ask, askHandoff, startDriven } from '../e2e/drive.js';
import { readProcess } from '../support/audit.js';
import { Connection, get } from '../support/client.js';
import type { Family } from '../support/fixture.js';
import { type Load, startLoad } from '../support/load.js';

/** A frozen process keeps its clients waiting: they are patient, so that what is lost is lost for good. */
const LOAD = { host: '127.0.0.1', newPerSecond: 50, keepAlive: 8, requestsPerSecond: 5, requestTimeout: 40_000 };

function startPatient(t: TestContext, server: Family, rates: object = {}): Load {
  const load = startLoad({ ...LOAD, ...rates, port: server.port });
  t.after(() => load.stop());
  return load;
}

/** The end, or the frost, of a process that is no child of ours has no event. */
async function until(what: string, server: Family, holds: () => boolean, deadline = 30_000): Promise<void> {
  const end = performance.now() + deadline;
  while (!holds()) {
    if (performance.now() > end) assert.fail(`Not within ${deadline} ms: ${what}; ${server.sofar()}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const isFrozen = (pid: number): boolean => readProcess(pid)?.state === 'T';

/** Waits until exactly this many of the family run. */
async function running(server: Family, count: number): Promise<void> {
  await until(`${count} run`, server, () => server.running().length === count);
}

/** The one that is left serves, holds nothing that it should not, and can hand over in its turn. */
async function assertSettled(server: Family): Promise<void> {
  await running(server, 1);
  const [last] = server.running();
  assert.ok(last !== undefined);
  assert.equal(await get(server.url), `${last.pid}\n`);
  assertTidy(last.pid);
}

// Most of the time is spent waiting for deadlines: several at once.
describe('in every phase', { concurrency: 4 }, () => {
  for (const phase of ['offered', 'committing', 'probation', 'released']) {
    test(`the predecessor is killed when it is ${phase}: the successor takes its place, and no client is refused`, async (t) => {
      const server = await startDriven(t, { env: { SIGNAL_AT: `handoff:${phase}:SIGKILL` } });
      const load = startPatient(t, server);

      server.signal('SIGUSR2');
      await server.waitFor(/generation 2$/, { from: 0 });
      await server.waitFor(/is alone$/, { from: server.lines.findIndex(({ text }) => text.endsWith('generation 2')) });

      await assertSettled(server);
      const report = await load.stop();
      // The killed process takes with it what it had accepted; everybody else is served.
      const wronged = report.losses.filter(({ reason }) => reason !== 'reset' && reason !== 'eof');
      assert.deepEqual(wronged, []);
      assert.ok(report.losses.length <= LOAD.keepAlive + LOAD.newPerSecond, `${report.losses.length} lost`);
    });

    test(`the predecessor is frozen when it is ${phase}, and thawed with the mail waiting: nothing is lost at all`, async (t) => {
      const server = await startDriven(t, { env: { SIGNAL_AT: `handoff:${phase}:SIGSTOP` } });
      const load = startPatient(t, server);

      server.signal('SIGUSR2');
      await server.waitFor(/generation 2$/, { from: 0, deadline: 20_000 }); // when it is offered: only after 5 s without COMMIT
      await load.waitForReply('a reply of generation 2', ({ pid }) => pid === server.newest, 20_000);
      await until('the predecessor is frozen', server, () => isFrozen(server.pid));
      server.signal('SIGCONT', server.pid);

      await server.waitFor(`pid ${server.newest} is alone`, { from: 0 });
      await assertSettled(server);
      const report = await load.stop();
      assert.deepEqual(report.losses, []);
    });
  }

  test('a successor frozen right after SERVING and thawed ten seconds later: it finishes what it had accepted, and leaves', async (t) => {
    const server = await startDriven(t);
    const load = startPatient(t, server);

    const asked = askHandoff(server, { env: { MISBEHAVE: 'freeze-when-serving' }, probation: 300 });
    await server.waitFor(/generation 2$/, { from: 0 });
    const frozen = server.newest;
    const outcome = await asked;
    assert.equal(outcome.code, 'ERR_FDPASS_PROBATION', outcome.message);
    assert.equal(await get(server.url), `${server.pid}\n`);
    await new Promise((resolve) => setTimeout(resolve, 4_700)); // an input, not a wait: of the ten seconds, about 5.3 have gone
    server.signal('SIGCONT', frozen);

    await server.gone(frozen);
    await assertSettled(server);
    const report = await load.stop();
    assert.deepEqual(report.losses, []);
  });

  test('a successor frozen after SERVING and never thawed is killed in the end', async (t) => {
    const server = await startDriven(t);

    const outcome = await askHandoff(server, { env: { MISBEHAVE: 'freeze-when-serving' }, probation: 100 });

    assert.equal(outcome.code, 'ERR_FDPASS_PROBATION', outcome.message);
    await assertSettled(server);
  });

  for (const phase of ['ready', 'serving']) {
    test(`the successor dies when it is ${phase}: the predecessor serves on, and no client is refused`, async (t) => {
      const server = await startDriven(t);
      const load = startPatient(t, server);

      const outcome = await askHandoff(server, { env: { SIGNAL_AT: `generation:${phase}:SIGKILL` }, probation: 5_000 });

      assert.match(outcome.code ?? '', /^ERR_FDPASS_(SUCCESSOR_EXITED|PROBATION)$/);
      assert.equal(outcome.successor?.signal, 'SIGKILL');
      await assertSettled(server);
      const report = await load.stop();
      assert.deepEqual(
        report.losses.filter(({ reason }) => reason !== 'reset' && reason !== 'eof'),
        [],
      );
    });

    test(`the successor hangs when it is ${phase}: the predecessor serves on, and nothing is lost`, async (t) => {
      const server = await startDriven(t);
      const load = startPatient(t, server);

      const outcome = await askHandoff(server, {
        env: { SIGNAL_AT: `generation:${phase}:SIGSTOP` },
        probation: 100,
        readyTimeout: 2_000,
      });

      assert.match(outcome.code ?? '', /^ERR_FDPASS_(READY_TIMEOUT|COMMIT_TIMEOUT)$/);
      await assertSettled(server);
      const report = await load.stop();
      assert.deepEqual(report.losses, []);
    });
  }

  test('both are killed at once: nobody is left behind', async (t) => {
    const server = await startDriven(t, { env: { PROBATION: '30000' } });
    await server.restart();

    server.signal('SIGKILL', server.pid);
    server.signal('SIGKILL', server.newest);

    await running(server, 0);
  });

  test('a second and a third signal during a handoff join it: one successor', async (t) => {
    const server = await startDriven(t);
    const load = startPatient(t, server);

    server.signal('SIGUSR2');
    await running(server, 2);
    server.signal('SIGUSR2', server.pid);
    server.signal('SIGUSR2', server.pid);
    await server.waitFor(/generation 2$/, { from: 0 });

    await server.gone(server.pid);
    await assertSettled(server);
    assert.equal(server.generations.length, 2);
    assert.deepEqual((await load.stop()).losses, []);
  });

  test('two generations drain at the same time, and both leave when their last connection is done', async (t) => {
    const server = await startDriven(t);
    const connections: Connection[] = [];
    for (let generation = 1; generation <= 2; generation++) {
      const connection = await Connection.open({ host: '127.0.0.1', port: server.port });
      connection.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1');
      connections.push(connection);
      await server.restart();
      await server.waitFor(`pid ${server.newest} is alone`, { from: 0 });
    }
    await running(server, 3);

    await Promise.all(connections.map((connection) => connection.write('2').reply()));

    await assertSettled(server);
  });

  test('a hundred generations in a row, under load: nothing is lost, nothing piles up, nobody is left behind', async (t) => {
    const server = await startDriven(t, { env: { PROBATION: '20' } });
    // Five sockets: stdout, stderr, the Listener's, its server's, and that of the client who asks. Those of the load come and go, and
    // the end of the channel to a predecessor that is gone comes a moment after it.
    const kinds = async (): Promise<string[]> => {
      const end = performance.now() + 5_000;
      for (;;) {
        const list = (await ask(server, '/descriptors')) as string[];
        const found = list.map((line) => line.replace(/^\d+ /, '').replace(/\[\d+\]/, '')).sort();
        if (found.filter((kind) => kind === 'socket:').length === 5 || performance.now() > end) return found;
      }
    };
    const load = startPatient(t, server, { newPerSecond: 20, keepAlive: 0 });
    let second: string[] = [];

    for (let generation = 2; generation <= 101; generation++) {
      const old = server.newest;
      await server.restart();
      await server.gone(old);
      if (generation === 2) second = await kinds();
    }

    assert.equal(second.filter((kind) => kind === 'socket:').length, 5);
    assert.deepEqual(await kinds(), second);
    await assertSettled(server);
    assert.deepEqual((await load.stop()).losses, []);
  });

  const TABLE = '80'; // descriptors: enough to serve, soon full

  function limit(pid: number): void {
    execFileSync('prlimit', [`--nofile=${TABLE}:${TABLE}`, '--pid', String(pid)]);
  }

  test('the predecessor has no descriptor left when it is asked: the handoff fails, and it serves on', async (t) => {
    const server = await startDriven(t);
    limit(server.pid);
    const before = (await ask(server, '/descriptors')) as string[];

    const outcome = await askHandoff(server, { full: true });

    assert.match(`${outcome.code} ${outcome.message}`, /EMFILE/);
    assert.equal(((await ask(server, '/descriptors')) as string[]).length, before.length);
    await assertSettled(server);
    const again = await askHandoff(server);
    assert.equal(again.generation, 2, again.message);
  });

  for (const phase of ['offered', 'committing', 'probation']) {
    test(`the predecessor runs out of descriptors when it is ${phase}: the handoff goes on, and somebody serves`, async (t) => {
      const server = await startDriven(t, { env: { FILL_AT: `handoff:${phase}` } });
      limit(server.pid);

      server.signal('SIGUSR2');

      await server.waitFor(`pid ${server.pid} is full: EMFILE`, { from: 0 });
      await server.waitFor(/generation 2$/, { from: 0 });
      await server.gone(server.pid);
      await assertSettled(server);
    });
  }

  for (const misbehaviour of ['full', 'full-at-serving']) {
    test(`the successor has no descriptor left (${misbehaviour}): the predecessor serves on, and nothing is lost`, async (t) => {
      const server = await startDriven(t);
      limit(server.pid);
      const load = startPatient(t, server, { newPerSecond: 20, keepAlive: 4 });

      const env = misbehaviour === 'full' ? { MISBEHAVE: 'full' } : { FILL_AT: 'generation:ready' };
      const outcome = await askHandoff(server, { env, probation: 100 });

      assert.match(outcome.code ?? '', /^ERR_FDPASS_(ABORTED|SUCCESSOR_EXITED)$/, outcome.message);
      await assertSettled(server);
      assert.deepEqual((await load.stop()).losses, []);
    });
  }
});
