/** examples/events.mjs: one endless response through restarts. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { startServer } from '../support/fixture.js';
import { example } from './support.js';

test('events.mjs: one response through restarts: no event is missing, none comes twice, and it does not end', async (t) => {
  const server = await startServer(t, example('events.mjs'));
  const request = http.get(server.url);
  t.after(() => request.destroy());
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  let received = '';
  let isOver = false;
  response.setEncoding('utf8').on('data', (chunk: string) => (received += chunk));
  response.on('close', () => (isOver = true)).on('error', () => (isOver = true));
  const processes = (): string[] => [...new Set(received.match(/process \d+/g))];
  const heardFrom = async (pid: number): Promise<void> => {
    const end = performance.now() + 10_000;
    while (!processes().includes(`process ${pid}`)) {
      assert.ok(!isOver && performance.now() < end, `no event of ${pid}: ${received.slice(-200)}`);
      await delay(5);
    }
  };

  await heardFrom(server.pid);
  for (let restart = 0; restart < 3; restart++) {
    const old = server.newest;
    const { pid } = await server.restart();
    await heardFrom(pid);
    await server.gone(old);
  }

  assert.equal(isOver, false);
  const pids = server.generations.map(({ pid }) => `process ${pid}`);
  assert.deepEqual(processes(), pids);
  const ids = [...received.matchAll(/^id: (\d+)$/gm)].map(({ 1: id }) => Number(id));
  assert.deepEqual(
    ids,
    ids.map((_, i) => i + 1),
  );
  request.destroy();
  await server.stop();
});
