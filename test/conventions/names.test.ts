/** What a listener is called that came with an address for a name: no convention that a handoff writes could carry that. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';

import { startServer } from '../support/fixture.js';

const STARTER = path.resolve(import.meta.dirname, '../../../test/conventions/fixtures/starter.mjs');

for (const [NAME, called] of [
  [undefined, 'unknown'],
  ['web', 'web'],
] as const) {
  test(`a listener of Server::Starter is called "${called}" where it is claimed ${NAME ? 'by that name' : 'without a name'}: it can be handed on`, async (t) => {
    const server = await startServer(t, STARTER, { env: { NAME } });
    const first = server.newest;

    const { pid, generation } = await server.restart();
    await server.gone(first);

    assert.equal(generation, 2);
    assert.equal(server.newest, pid);
    const names = server.lines.filter(({ text }) => text.startsWith('"')).map(({ text }) => text);
    assert.deepEqual(names, [`"${called}", supervisor`, `"${called}", supervisor`]);
  });
}
