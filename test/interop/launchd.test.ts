/**
 * The job of examples/supervisors/launchd under the launchd of this user. macOS alone. The job is removed with the test.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';

import { listen } from '../../lib/index.js';
import { get } from '../support/client.js';
import { install, run, siteDirectory } from './support.js';

const LABEL = 'org.example.web';

/** A port that was free just now. */
async function portOnce(): Promise<number> {
  using listener = await listen({ name: 'free', host: '127.0.0.1', port: 0 });
  assert.ok(listener.port !== undefined);
  return listener.port;
}

test(
  'launchd: the server takes its listener by name; kickstart -k starts the next one, and who connects meanwhile waits',
  { skip: process.platform === 'darwin' ? false : 'launchd is of macOS alone' },
  async (t) => {
    const site = siteDirectory(t);
    const port = await portOnce();
    const label = `${LABEL}.test-${process.pid}`;
    const plist = path.join(site, `${label}.plist`);
    const domain = `gui/${process.getuid?.() ?? 0}`;
    install('launchd/server.mjs', path.join(site, 'server.mjs'));
    install('launchd/org.example.web.plist', plist, {
      [LABEL]: label,
      '/usr/local/bin/node': process.execPath,
      '/srv/web': site,
      '8080': String(port),
    });
    await run('launchctl', ['bootstrap', domain, plist], { timeout: 10_000 });
    t.after(() => run('launchctl', ['bootout', `${domain}/${label}`], { timeout: 60_000 }).then(() => undefined));
    const url = `http://127.0.0.1:${port}/`;
    const first = await get(url);

    await run('launchctl', ['kickstart', '-k', `${domain}/${label}`], { timeout: 60_000 });
    const second = await get(url);

    assert.match(first, /^\d+\n$/);
    assert.match(second, /^\d+\n$/);
    assert.notEqual(second, first);
  },
);
