import assert from 'node:assert/strict';
import { test } from 'node:test';

import { startLoad } from '../support/load.js';
import { restarted, startMoving } from './drive.js';

/** Of each test; MOVING_RESTARTS=100 for a longer run. */
const wanted = Number(process.env['MOVING_RESTARTS'] ?? 0);

for (const [connections, usual, rate] of [
  [64, 20, 10],
  [1000, 5, 1],
] as const) {
  const restarts = wanted || usual;
  test(`${connections} keep-alive connections through ${restarts} restarts: every request answered once, none lost, no reconnect`, async (t) => {
    const server = await startMoving(t);
    const load = startLoad({ port: server.port, keepAlive: connections, requestsPerSecond: rate, newPerSecond: 20 });
    await load.waitForReply('the first reply', () => true);
    while (load.keepAlive.connections < connections) await load.waitForReply('all connections', () => true);

    let moved = 0;
    for (let i = 0; i < restarts; i++) {
      const report = await restarted(server);
      moved += report.moved;
      assert.deepEqual(report.refusedToMove, {});
    }

    const { keepAlive, new: fresh, stray, losses, pids } = await load.stop();
    assert.equal(keepAlive.lost + fresh.lost, 0, JSON.stringify(losses.slice(0, 5)));
    const { connections: opened, announced, closedIdle } = keepAlive;
    assert.deepEqual(
      { opened, announced, closedIdle, stray },
      { opened: connections, announced: 0, closedIdle: 0, stray: 0 },
    );
    assert.equal(keepAlive.ok, keepAlive.sent);
    assert.ok(moved >= connections * restarts * 0.9, `${moved} moved`);
    assert.ok(pids.length > restarts / 2, `${pids.length} processes answered`);
    t.diagnostic(`${keepAlive.ok} requests, ${moved} moves`);
    await server.stop();
  });
}
