import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Surroundings, whySupervised } from '../lib/supervised.js';

const TERMINAL: Surroundings = { pid: 4711, isClusterWorker: false, environment: {}, init: undefined };

test('started from a terminal, nothing speaks against a restart', () => {
  assert.equal(whySupervised(TERMINAL), undefined);
});

const REFUSED: [who: string, surroundings: Partial<Surroundings>, instead: RegExp][] = [
  ['a cluster worker', { isClusterWorker: true }, /primary/],
  ['pid 1 of a container', { pid: 1 }, /container/],
  ['a process of PM2', { environment: { pm_id: '0', PM2_HOME: '/home/x/.pm2' } }, /pm2 reload/],
  ['a process of supervisord', { environment: { SUPERVISOR_ENABLED: '1' } }, /systemd/],
  ['the child of tini', { init: 'tini' }, /tini/],
  ['the child of docker --init', { init: 'docker-init' }, /docker-init/],
  ['the main process of a unit that is not Type=notify', { environment: { SYSTEMD_EXEC_PID: '4711' } }, /Type=notify/],
];
for (const [who, surroundings, instead] of REFUSED) {
  test(`${who} is refused, and told what to use instead`, () => {
    assert.match(whySupervised({ ...TERMINAL, ...surroundings }) ?? '', instead);
  });
}

test('a unit that hears of a new main process is not refused', () => {
  const environment = { SYSTEMD_EXEC_PID: '4711', NOTIFY_SOCKET: '/run/systemd/notify' };

  assert.equal(whySupervised({ ...TERMINAL, environment }), undefined);
});

test('a grandchild of a unit, and an orphan under an init that stays, are not refused', () => {
  assert.equal(whySupervised({ ...TERMINAL, environment: { SYSTEMD_EXEC_PID: '99' } }), undefined);
  assert.equal(whySupervised({ ...TERMINAL, init: 'systemd' }), undefined);
});
