import assert from 'node:assert/strict';
import { test } from 'node:test';

import { run } from './support.js';

test('generations: one command shows ten of them come and go, and a client that notices nothing', async (t) => {
  const lines = await run(t, 'generations.mjs');

  const has = (pattern: RegExp): number => lines.filter((line) => pattern.test(line)).length;
  assert.equal(has(/^listening on 127\.0\.0\.1:\d+, pid \d+, generation \d+$/), 10);
  assert.equal(has(/^\d+ has its listener at descriptor 3, predecessor$/), 9);
  assert.equal(has(/^client: hello from \d+$/), 10);
  assert.equal(has(/^\d+ has handed over to \d+$/), 9);
  assert.equal(has(/^client: ok \d+, failed 0$/), 1);
  assert.equal(has(/goes on/), 0);
  assert.equal(lines.at(-1), '10 generations came, and all have left');
});
