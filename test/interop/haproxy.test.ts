/** haproxy's own way to hand listeners over, `haproxy -x`, both ways, under load: nothing is lost. */
import assert from 'node:assert/strict';
import path from 'node:path';
import { describe, test } from 'node:test';

import { startProgram, startServer } from '../support/fixture.js';
import {
  assertNothingLost,
  freePort,
  install,
  listening,
  program,
  siteDirectory,
  steadyLoad,
  untilListens,
  without,
} from './support.js';

describe('haproxy -x', { skip: without('haproxy') }, () => {
  test('from haproxy to Node: the sockets of a running haproxy are taken, and it is stopped', async (t) => {
    const directory = siteDirectory(t);
    const port = await freePort();
    const stats = path.join(directory, 'stats.sock');
    const config = path.join(directory, 'haproxy.cfg');
    install('haproxy/haproxy.cfg', config, { '/run/haproxy/stats.sock': stats, ':8080': `:${port}` });
    install('haproxy/take.mjs', path.join(directory, 'take.mjs'), {
      '/run/haproxy/stats.sock': stats,
      '8080': String(port),
    });
    const haproxy = startProgram(t, program('haproxy'), { args: ['-db', '-f', config] });
    await untilListens(haproxy, port);
    const load = steadyLoad(t, { port }, { keepAlive: 0 }); // haproxy ends kept connections when it stops
    await load.waitForReply('an answer of haproxy', ({ pid }) => pid === haproxy.pid);
    const before = listening(haproxy.pid, port);

    const node = await startServer(t, path.join(directory, 'take.mjs'), { cwd: directory });
    await load.waitForReply('an answer of Node', ({ pid }) => pid === node.pid);
    haproxy.signal('SIGUSR1', haproxy.pid); // stop accepting, finish, exit
    await haproxy.exited;
    await load.waitForReply('answers afterwards', ({ pid }) => pid === node.pid);

    assert.deepEqual(listening(node.pid, port), before, 'the very socket');
    await assertNothingLost(load);
  });

  test('from Node to haproxy: `haproxy -x` finds ours, binds nothing itself, and Node is stopped', async (t) => {
    const directory = siteDirectory(t);
    const port = await freePort();
    const offer = path.join(directory, 'offer.sock');
    const stats = path.join(directory, 'stats.sock');
    const config = path.join(directory, 'haproxy.cfg');
    install('haproxy/haproxy.cfg', config, { '/run/haproxy/stats.sock': stats, ':8080': `:${port}` });
    install('haproxy/offer.mjs', path.join(directory, 'offer.mjs'), {
      '/run/web/offer.sock': offer,
      'port: 8080': `port: ${port}`,
    });
    const node = await startServer(t, path.join(directory, 'offer.mjs'), { cwd: directory });
    const before = listening(node.pid, port);
    const load = steadyLoad(t, { port });
    await load.waitForReply('an answer of Node', ({ pid }) => pid === node.pid);

    const haproxy = startProgram(t, program('haproxy'), { args: ['-db', '-f', config, '-x', offer] });
    await load.waitForReply('an answer of haproxy', ({ pid }) => pid === haproxy.pid);
    node.signal('SIGTERM');
    assert.equal((await node.exited).code, 0);
    await load.waitForReply('answers afterwards', ({ pid }) => pid === haproxy.pid);

    assert.deepEqual(listening(haproxy.pid, port), before, 'the very socket');
    await assertNothingLost(load);
  });
});
