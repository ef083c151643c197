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
  run,
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

  test('a program of haproxy’s own finds the stats socket by itself', async (t) => {
    const { stdout } = await run(program('haproxy'), ['-v']);
    const version = Number(/version (\d+\.\d+)/.exec(stdout)?.[1]);
    if (version >= 3.1) {
      t.skip(`haproxy ${version} says nothing of its sockets to its programs; 3.3 has none`);
      return;
    }
    const directory = siteDirectory(t);
    const port = await freePort();
    const config = path.join(directory, 'haproxy.cfg');
    const script = path.join(directory, 'take.mjs');
    install('haproxy/haproxy.cfg', config, {
      '/run/haproxy/stats.sock': path.join(directory, 'stats.sock'),
      ':8080': `:${port}`,
      'frontend web': `program node\n  command ${process.execPath} ${script}\nfrontend web`,
    });
    install('haproxy/take.mjs', script, { "'/run/haproxy/stats.sock'": '', '8080': String(port) });

    const haproxy = startProgram(t, program('haproxy'), { args: ['-W', '-db', '-f', config], cwd: directory });
    const { text } = await haproxy.waitFor(/^listening on \d+, pid \d+/, { from: 0 });
    const pid = Number(/pid (\d+)/.exec(text)?.[1]);

    assert.equal(listening(pid, port).length, 1);
    assert.equal(listening(haproxy.pid, port).length, 0, 'the master listens for nobody');
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
