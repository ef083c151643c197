import assert from 'node:assert/strict';
import { test } from 'node:test';

import { zombiesOf } from '../support/audit.js';
import { startServer } from '../support/fixture.js';
import { example, lasting, Loop, until } from './support.js';

test('through 10 generations the connect loop sees no failure, each holds the same descriptors, and the old ones leave', async (t) => {
  const server = await startServer(t, example('generations.mjs'), { args: ['--serve'] });
  const loop = new Loop(t, 'Python', server.port);
  await loop.begun();
  const first = lasting(server.pid);
  let second: string[] | undefined;

  for (let generation = 2; generation <= 10; generation++) {
    const old = server.newest;
    const { pid } = await server.restart();
    await server.waitFor(`${old} is drained, and leaves`, { from: 0 });
    await server.waitFor(`${pid} is alone`, { from: 0 });
    await server.gone(old);
    // The channel to the old one is closed when its end is read, a moment after that.
    await until('as many descriptors as in the first generation', () => lasting(pid).length === first.length);
    second ??= lasting(pid);
    assert.deepEqual(lasting(pid), second);
    assert.deepEqual(zombiesOf(pid), []);
    assert.deepEqual(
      server.running().map((each) => each.pid),
      [pid],
    );
  }

  loop.interrupt();
  const { code, lines } = await loop.ended();
  assert.match(lines.at(-1) ?? '', /^ok \d+, failed 0$/);
  assert.equal(code, 0);
  const met = lines.slice(0, -1);
  assert.deepEqual(
    met,
    server.generations.map(({ pid }) => `hello from ${pid}`),
  );
  const kinds = (list: string[]): string[] => list.map((line) => line.replace(/^\d+ /, '')).sort();
  assert.deepEqual(kinds(second ?? []), kinds(first));
  assert.ok(second?.some((line) => /^3 socket:\[\d+\] rw nonblock cloexec$/.test(line)));
  const inherited = server.lines.filter(({ text }) => text.endsWith('has its listener at descriptor 3, predecessor'));
  assert.equal(inherited.length, 9);
  await server.stop();
});
