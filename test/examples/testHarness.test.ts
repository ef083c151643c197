/** examples/test-harness: the tests in it run, with both runners, and 200 servers at once do not collide. */
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';

import { allProcesses } from '../support/audit.js';
import { example } from './support.js';

const HARNESS = example('test-harness');
const SERVER = path.join(HARNESS, 'server.mjs');

/** vitest's command; undefined where it is not installed. */
function vitest(): string | undefined {
  try {
    return path.join(path.dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  } catch {
    return undefined;
  }
}

test('with node:test: 200 servers at once have 200 ports, each known before its server runs', async () => {
  const output = await run(['--test', '--test-reporter=tap', path.join(HARNESS, 'node-test.mjs')], 200);

  assert.match(output, /^ok 1 - the first request is answered, though nobody waited for the server$/m);
  assert.match(output, /^ok 2 - 200 servers at once: each has a port of its own, and answers there$/m);
  assert.match(output, /^ok 3 - a server that ends refuses/m);
});

const command = vitest();
const skip = command === undefined && 'vitest is not installed';
test('with vitest: 50 servers at once have 50 ports, each known before its server runs', { skip }, async () => {
  const output = await run([command ?? '', 'run', '--root', HARNESS, '--reporter=tap-flat'], 50);

  assert.match(output, /^ok 1 - .*the first request is answered, though nobody waited for the server/m);
  assert.match(output, /^ok 2 - .*50 servers at once: each has a port of its own, and answers there/m);
});

/** Runs a runner to its end, which must be a good one that leaves no server. */
async function run(args: readonly string[], count: number): Promise<string> {
  const child = spawn(process.execPath, args, {
    env: { ...process.env, NODE_TEST_CONTEXT: undefined, COUNT: String(count), NO_COLOR: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit') as Promise<[number | null]>;
  const output = await text(child.stdout);
  const [code] = await exited;
  assert.equal(code, 0, output);
  const left = allProcesses().filter(({ command }) => command.endsWith(SERVER));
  assert.deepEqual(left, []);
  return output;
}
