import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { checkDirectory, checkPeer, checkTrusted } from '../../lib/handoff/trust.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';

const OWN = process.geteuid?.() ?? -1;
const OTHER = 54_321;

for (const ids of [[], [0], [1000, 4_294_967_294], undefined]) {
  test(`ids that could be: ${JSON.stringify(ids)}`, () => {
    checkTrusted({ uids: ids, gids: ids });
  });
}

for (const ids of ['0', [-1], [0.5], ['0'], [NaN], 0, null, { 0: 0 }]) {
  test(`ids that cannot be are refused, with the option and the value: ${JSON.stringify(ids)}`, () => {
    for (const option of ['uids', 'gids'] as const) {
      assert.throws(() => checkTrusted({ [option]: ids }), {
        name: 'RangeError',
        code: 'ERR_INVALID_ARG_VALUE',
        message: new RegExp(`^options\\.${option} must be an array of ids`),
      });
    }
  });
}

test('a peer of this user is trusted, and told', () => {
  const [here, there] = raw.socketPair('stream');

  const peer = checkPeer(here, 'The other', {});

  assert.equal(peer.uid, OWN);
  assert.equal(peer.pid, process.platform === 'linux' ? process.pid : peer.pid);
  for (const fd of [here, there]) raw.close(fd);
});

test(
  'a peer of another user is refused, with who it is and who would be trusted; its uid or its gid in a list is enough',
  { skip: OWN !== 0 && 'only root can become another user' },
  (t) => {
    process.seteuid?.(OTHER);
    const [here, there] = raw.socketPair('stream'); // its credentials are those of this moment
    process.seteuid?.(0);
    t.after(() => {
      for (const fd of [here, there]) raw.close(fd);
    });
    const gid = process.getegid?.() ?? -1;

    assert.throws(() => checkPeer(here, 'The newcomer', { uids: [7], gids: [8] }), {
      code: 'ERR_FDPASS_REFUSED',
      message: `The newcomer runs as uid ${OTHER}, gid ${gid}; trusted are uid 0, uid 7, gid 8`,
    });
    assert.equal(checkPeer(here, 'The newcomer', { uids: [7, OTHER] }).uid, OTHER);
    assert.equal(checkPeer(here, 'The newcomer', { gids: [gid] }).uid, OTHER);
  },
);

test('what is no connected Unix socket has no peer: the system says so', () => {
  const fd = raw.memoryFile('no socket');
  assert.throws(() => checkPeer(fd, 'The other', {}), { code: 'ENOTSOCK' });
  raw.close(fd);
});

for (const mode of [0o700, 0o500, 0o711, 0o755]) {
  test(`a directory of this user's is trusted with mode ${mode.toString(8)}`, (t) => {
    const directory = temporaryDirectory(t);
    fs.chmodSync(directory, mode);

    checkDirectory(path.join(directory, 'takeover.sock'), {});

    fs.chmodSync(directory, 0o700);
  });
}

for (const mode of [0o720, 0o702, 0o777, 0o1777, 0o2775]) {
  test(`a directory that others can write to is refused, with its mode: ${mode.toString(8)}`, (t) => {
    const directory = temporaryDirectory(t);
    fs.chmodSync(directory, mode);

    assert.throws(() => checkDirectory(path.join(directory, 'takeover.sock'), { uids: [OTHER], gids: [OTHER] }), {
      code: 'ERR_FDPASS_REFUSED',
      message: new RegExp(`^The directory ${directory} .*mode ${mode.toString(8).padStart(4, '0')}`),
    });
  });
}

test(
  'a directory of another user is refused, unless the user is listed',
  { skip: OWN !== 0 && 'only root can give a directory away' },
  (t) => {
    const directory = temporaryDirectory(t);
    fs.chownSync(directory, OTHER, OTHER);
    const file = path.join(directory, 'takeover.sock');

    assert.throws(() => checkDirectory(file, {}), { code: 'ERR_FDPASS_REFUSED', message: /belongs to uid 54321/ });
    assert.throws(() => checkDirectory(file, { gids: [OTHER] }), { code: 'ERR_FDPASS_REFUSED' });
    checkDirectory(file, { uids: [OTHER] });
  },
);

test('an abstract name has no directory; one that is not there is the system’s to tell', () => {
  checkDirectory('@fdpass-nowhere', {});
  assert.throws(() => checkDirectory('/nonexistent/takeover.sock', {}), { code: 'ENOENT' });
});
