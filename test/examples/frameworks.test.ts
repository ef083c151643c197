import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';

import { get } from '../support/client.js';
import { startProcess, startServer } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { EXAMPLES, example } from './support.js';

for (const name of ['express.mjs', 'fastify.mjs']) {
  test(`${name}: restarts under load lose nothing`, async (t) => {
    const server = await startServer(t, example(name));
    const load = startLoad({ port: server.port, newPerSecond: 60, keepAlive: 4, requestsPerSecond: 10 });

    for (let restart = 0; restart < 2; restart++) {
      const old = server.newest;
      const { pid } = await server.restart();
      await load.waitForReply('a reply of the newest', (reply) => reply.pid === pid);
      await server.gone(old);
    }

    const report = await load.stop();
    assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
    assert.equal(await get(server.url), `${server.newest}\n`);
    assert.deepEqual(await server.exited, { code: 0, signal: null });
    await server.stop();
  });
}

test('fastify: onReady runs before the first request; app.close() after a drain runs preClose and onClose', async (t) => {
  const program = startProcess(t, path.join(EXAMPLES, '../test/examples/fixtures/fastify-hooks.mjs'));

  const { code } = await program.exited;

  assert.equal(code, 0, program.sofar());
  assert.deepEqual(
    program.lines.map((line) => line.text),
    ['onReady', 'request', 'hello', 'drained', 'preClose', 'onClose', 'closed'],
  );
});
