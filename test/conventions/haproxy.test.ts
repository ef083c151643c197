/** HAPROXY_CLI, as haproxy 2.6 writes it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { readHaproxyCli } from '../../lib/conventions/haproxy.js';
import { takeFromHaproxy } from '../../lib/index.js';

const VALUES: [value: string | undefined, path: string | undefined][] = [
  [undefined, undefined],
  ['unix@/run/haproxy/stats.sock', '/run/haproxy/stats.sock'],
  ['ipv4@127.0.0.1:9999;unix@/run/a.sock;unix@/run/b.sock;sockpair@4', '/run/a.sock'],
  ['abns@haproxy;unix@/run/a.sock', '@haproxy'],
];
for (const [value, path] of VALUES) {
  test(`${value ?? 'not set'}: ${path ?? 'nothing'}`, () => {
    assert.equal(readHaproxyCli({ HAPROXY_CLI: value }), path);
  });
}

for (const value of ['', 'sockpair@4', 'ipv4@127.0.0.1:9999', 'unix@', '/run/a.sock']) {
  test(`"${value}" names no Unix socket, and is an error with the variable`, () => {
    assert.throws(() => readHaproxyCli({ HAPROXY_CLI: value }), {
      code: 'ERR_FDPASS_ENV',
      variable: 'HAPROXY_CLI',
      value,
    });
  });
}

test('takeFromHaproxy without a path, and not started by haproxy, says what is missing', async () => {
  await assert.rejects(takeFromHaproxy(), { name: 'TypeError', message: /path must be.*HAPROXY_CLI/ });
});
