import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Surroundings, whySupervised } from '../lib/supervised.js';

const TERMINAL: Surroundings = {
  pid: 4711,
  isClusterWorker: false,
  environment: {},
  ancestors: [
    { pid: 99, name: 'bash' },
    { pid: 98, name: 'sshd' },
    { pid: 1, name: 'systemd' },
  ],
};

test('started from a terminal, nothing speaks against a restart', () => {
  assert.equal(whySupervised(TERMINAL), undefined);
});

const REFUSED: [who: string, surroundings: Partial<Surroundings>, instead: RegExp][] = [
  ['a cluster worker', { isClusterWorker: true }, /primary/],
  ['pid 1 of a container', { pid: 1 }, /container/],
  ['a process of PM2', { environment: { pm_id: '0', PM2_HOME: '/home/x/.pm2' } }, /pm2 reload/],
  ['a process of supervisord', { environment: { SUPERVISOR_ENABLED: '1' } }, /systemd/],
  ['a cluster worker of PM2', { isClusterWorker: true, environment: { pm_id: '0', PM2_HOME: '/x' } }, /pm2 reload/],
  ['the child of tini', { ancestors: [{ pid: 1, name: 'tini' }] }, /tini/],
  ['the child of docker --init', { ancestors: [{ pid: 1, name: 'docker-init' }] }, /docker-init/],
  ['the child of a shell that is pid 1', { ancestors: [{ pid: 1, name: 'sh' }] }, /sh is pid 1/],
  [
    'a program that npm runs as pid 1',
    {
      ancestors: [
        { pid: 18, name: 'sh' },
        { pid: 1, name: 'npm start' },
      ],
    },
    /npm start is pid 1/,
  ],
  [
    'a program below npm below tini',
    {
      ancestors: [
        { pid: 18, name: 'sh' },
        { pid: 7, name: 'npm start' },
        { pid: 1, name: 'tini' },
      ],
    },
    /tini is pid 1/,
  ],
  [
    'a program that npm runs as the main process of a unit that is not Type=notify',
    {
      environment: { SYSTEMD_EXEC_PID: '7' },
      ancestors: [
        { pid: 18, name: 'sh' },
        { pid: 7, name: 'npm start' },
        { pid: 1, name: 'systemd' },
      ],
    },
    /Type=notify/,
  ],
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

test('a grandchild of a unit, an orphan under an init that stays, and a shell of a desktop session are not refused', () => {
  assert.equal(whySupervised({ ...TERMINAL, environment: { SYSTEMD_EXEC_PID: '55' } }), undefined);
  assert.equal(whySupervised({ ...TERMINAL, ancestors: [{ pid: 1, name: 'systemd' }] }), undefined);
  assert.equal(whySupervised({ ...TERMINAL, environment: { SYSTEMD_EXEC_PID: '98' } }), undefined);
});

test('where the system shows no ancestors, what is known of this process decides', () => {
  assert.equal(whySupervised({ ...TERMINAL, ancestors: [] }), undefined);
});
