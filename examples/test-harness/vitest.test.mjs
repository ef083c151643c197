// With vitest: the same, one server for all tests of the file, and many in one test.
//   npx vitest run --root examples/test-harness
import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startServer } from './harness.mjs';

const SERVER = path.join(import.meta.dirname, 'server.mjs');
const COUNT = Number(process.env.COUNT ?? 200);
const TIMEOUT = 120_000; // ms: so many processes start at once

let server;
beforeAll(async () => {
  server = await startServer(SERVER);
});
afterAll(() => server.stop());

test('the first request is answered, though nobody waited for the server', async () => {
  const response = await fetch(`${server.url}/first`);

  expect(await response.text()).toBe(`${server.pid} /first\n`);
});

test(`${COUNT} servers at once: each has a port of its own, and answers there`, { timeout: TIMEOUT }, async () => {
  const servers = await Promise.all(Array.from({ length: COUNT }, () => startServer(SERVER)));
  try {
    const answers = await Promise.all(servers.map(async ({ url }) => (await fetch(url)).text()));

    expect(new Set(servers.map(({ port }) => port)).size).toBe(COUNT);
    expect(answers).toEqual(servers.map(({ pid }) => `${pid} /\n`));
  } finally {
    await Promise.all(servers.map((each) => each.stop()));
  }
});
