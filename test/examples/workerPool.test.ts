/** examples/worker-pool: workers are replaced one by one under load. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { auditDescriptors } from '../support/audit.js';
import { get } from '../support/client.js';
import { type Family, startServer } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { assertNobody, example, until } from './support.js';

const POOL = example('worker-pool/pool.mjs');

for (const mode of ['connections', 'listener']) {
  const skip = process.platform !== 'linux';
  test(`${mode}: all workers are replaced under load, three times, and nothing is lost`, { skip }, async (t) => {
    const pool = await startServer(t, POOL, { env: { MODE: mode, WORKERS: '3' } });
    const first = workersOf(pool);
    const before = auditDescriptors(pool.pid).length;
    const seen = new Set<number>();
    const load = startLoad({
      ...{ port: pool.port, newPerSecond: 200, keepAlive: 16, requestsPerSecond: 15 },
      onReply: ({ pid }) => void seen.add(pid),
    });
    await load.waitForReply('a reply of a worker', ({ pid }) => first.includes(pid));

    for (let round = 0; round < 3; round++) {
      const from = pool.lines.length;
      pool.signal('SIGHUP', pool.pid);
      await pool.waitFor('all are replaced', { from, deadline: 60_000 });
      const now = workersOf(pool);
      assert.equal(now.length, 3);
      for (const worker of now) await load.waitForReply(`a reply of ${worker}`, ({ pid }) => pid === worker);
    }

    const report = await load.stop();
    assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
    assert.ok(report.new.ok > 0 && report.keepAlive.ok > 0);
    assert.equal(seen.has(pool.pid), false);
    assert.equal(seen.size, 12);
    await until('the pool holds what it held', () => auditDescriptors(pool.pid).length === before);
    const errors = pool.lines.filter(({ stream }) => stream === 'stderr');
    assert.deepEqual(errors, []);
    pool.signal('SIGTERM', pool.pid);
    assert.deepEqual(await pool.exited, { code: 0, signal: null });
    assertNobody(pool);
  });

  test(`${mode}: a worker that is killed is replaced, and the pool serves on`, { skip }, async (t) => {
    const pool = await startServer(t, POOL, { env: { MODE: mode, WORKERS: '2' } });
    const [victim = 0] = workersOf(pool);

    pool.signal('SIGKILL', victim);
    await pool.waitFor(`worker ${victim} ended with SIGKILL`, { from: 0 });
    await until('there are two again', () => pool.running().length === 3);

    for (let i = 0; i < 20; i++) assert.notEqual(await get(pool.url), `${victim}\n`);
    pool.signal('SIGTERM', pool.pid);
    assert.deepEqual(await pool.exited, { code: 0, signal: null });
  });
}

function workersOf(pool: Family): number[] {
  const pids = pool.running().map(({ pid }) => pid);
  return pids.filter((pid) => pid !== pool.pid);
}
