// With node:test: every test starts a server of its own, and they run side by side.
//   node --test examples/test-harness/node-test.mjs
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { startServer } from './harness.mjs';

const SERVER = path.join(import.meta.dirname, 'server.mjs');
const COUNT = Number(process.env.COUNT ?? 200);

test('the first request is answered, though nobody waited for the server', async (t) => {
  const server = await startServer(SERVER);
  t.after(() => server.stop());

  const response = await fetch(`${server.url}/first`);

  assert.equal(await response.text(), `${server.pid} /first\n`);
});

test(`${COUNT} servers at once: each has a port of its own, and answers there`, async (t) => {
  const servers = await Promise.all(Array.from({ length: COUNT }, () => startServer(SERVER)));
  t.after(() => Promise.all(servers.map((server) => server.stop())));

  const answers = await Promise.all(servers.map(async ({ url }) => (await fetch(url)).text()));

  assert.equal(new Set(servers.map(({ port }) => port)).size, COUNT);
  assert.deepEqual(answers, servers.map(({ pid }) => `${pid} /\n`)); // prettier-ignore
});

test('a server that ends refuses: the test fails at once, and does not hang', async () => {
  const server = await startServer(path.join(import.meta.dirname, 'no such script.mjs'));
  const { exitCode } = await server.exited;

  assert.equal(exitCode, 1);
  await assert.rejects(fetch(server.url), /fetch failed/);
});
