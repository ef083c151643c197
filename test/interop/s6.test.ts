/** FdHolder against the real s6-fdholder-daemon, with other rules than those of the page: several entries, a deadline, and who may what. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { FdHolder, listen, type Listener } from '../../lib/index.js';
import * as raw from '../../lib/raw.js';
import { type Scope, startProgram, temporaryDirectory } from '../support/fixture.js';
import { program, without } from './support.js';

/** A daemon whose rules let this user do what these variables say. */
async function startHolder(t: Scope, rules: Record<string, string>): Promise<FdHolder> {
  const directory = temporaryDirectory(t);
  const own = path.join(directory, 'rules/uid/self');
  fs.mkdirSync(path.join(own, 'env'), { recursive: true });
  fs.writeFileSync(path.join(own, 'allow'), '');
  for (const [name, value] of Object.entries(rules)) fs.writeFileSync(path.join(own, 'env', name), value);
  const socket = path.join(directory, 'socket');
  const args = ['-1', '-i', path.join(directory, 'rules'), socket];
  const PATH = [path.dirname(program('s6-fdholder-daemon')), process.env['PATH']].join(':');
  const family = startProgram(t, program('s6-fdholder-daemon'), { args, env: { PATH } });
  await family.waitFor(/^$/, { from: 0, what: 'the newline of -1' });
  const holder = await FdHolder.connect(socket);
  t.after(() => {
    holder.close();
  });
  return holder;
}

async function ownListener(t: Scope): Promise<Listener> {
  const listener = await listen({ host: '127.0.0.1', port: 0 });
  t.after(() => {
    listener.close();
  });
  return listener;
}

const ALL = { S6_FDHOLDER_STORE_REGEX: '.*', S6_FDHOLDER_RETRIEVE_REGEX: '.*', S6_FDHOLDER_LIST: '1' };

describe('s6-fdholder-daemon', { skip: without('s6-fdholder-daemon') }, () => {
  test('what has a deadline is there until then, and gone afterwards; what has none stays', async (t) => {
    const holder = await startHolder(t, ALL);
    const listener = await ownListener(t);

    await holder.store('for ever', listener);
    await holder.store('for a moment', listener, { until: new Date(Date.now() + 2_000) });
    await holder.store('for longer', listener, { until: new Date(Date.now() + 60_000) });

    assert.deepEqual((await holder.list()).sort(), ['for a moment', 'for ever', 'for longer']);
    const end = performance.now() + 10_000;
    while ((await holder.list()).includes('for a moment')) {
      assert.ok(performance.now() < end, 'it is still there 8 s after its deadline');
      await delay(50);
    }
    assert.deepEqual((await holder.list()).sort(), ['for ever', 'for longer']);
    await assert.rejects(holder.retrieve('for a moment'), { code: 'ENOENT' });
    const fd = await holder.retrieve('for longer', { remove: true });
    assert.ok(raw.isSame(fd, listener.fd));
    raw.close(fd);
  });

  test('what its rules forbid is EPERM, a name that is taken EBUSY, and the dialog goes on', async (t) => {
    const holder = await startHolder(t, { ...ALL, S6_FDHOLDER_STORE_REGEX: '^web' });
    const listener = await ownListener(t);

    await assert.rejects(holder.store('other', listener), { code: 'EPERM', message: /refuses to store "other"/ });
    await holder.store('web', listener);
    await assert.rejects(holder.store('web', listener), { code: 'EBUSY' });
    await holder.remove('web');

    assert.deepEqual(await holder.list(), []);
  });
});
