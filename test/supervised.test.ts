import assert from 'node:assert/strict';
import { test } from 'node:test';

import { isSystemd, type Surroundings, whySupervised, whyUnheard } from '../lib/supervised.js';

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
  ['a worker of start_server', { ancestors: [{ pid: 9, name: 'start_server' }] }, /HUP to start_server/],
  [
    'a service of s6 behind a shell',
    {
      ancestors: [
        { pid: 18, name: 'sh' },
        { pid: 9, name: 's6-supervise' },
      ],
    },
    /s6-svc -r/,
  ],
  ['a service of runit', { ancestors: [{ pid: 9, name: 'runsv' }] }, /runsv starts it anew/],
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
    /npm start \(pid 7\).* ExecStart= be node itself, with Type=notify/,
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

for (const [name, pid] of [
  ['sh', 18],
  ['npm start', 7],
] as const) {
  const ancestors = [
    { pid: 18, name: 'sh' },
    { pid: 7, name: 'npm start' },
    { pid: 1, name: 'systemd' },
  ];
  const below = { ...TERMINAL, ancestors, environment: { SYSTEMD_EXEC_PID: String(pid) } };

  test(`below ${name} that is the main process of a unit: who is heard, whom $MAINPID reaches, and what to do`, () => {
    const environment = { ...below.environment, NOTIFY_SOCKET: '/run/systemd/notify' };

    const why = whyUnheard({ ...below, environment }) ?? '';

    assert.ok(why.startsWith(`${name} (pid ${pid}) is the main process`), why);
    assert.match(why, /NotifyAccess=all .*\$MAINPID .*ExecStart= be node itself/);
  });

  test(`below ${name} that is the main process of a unit without Type=notify: what ends it, and what to do`, () => {
    assert.match(whyUnheard(below) ?? '', /the unit as soon as that one ends.*ExecStart= be node itself/);
  });
}

test('the main process of a unit, one below another program of it, and one that knows of no unit have nothing to hear', () => {
  for (const main of ['4711', '98', '55', undefined]) {
    assert.equal(whyUnheard({ ...TERMINAL, environment: { SYSTEMD_EXEC_PID: main, NOTIFY_SOCKET: '/x' } }), undefined);
  }
});

test('the parent is systemd by its name; where ProtectProc= hides it, as pid 1; a hidden parent with another pid is not', () => {
  assert.equal(isSystemd(1, { pid: 1, name: 'systemd' }), true);
  assert.equal(isSystemd(812, { pid: 812, name: 'systemd' }), true, 'a user manager');
  assert.equal(isSystemd(1, undefined), true);
  assert.equal(isSystemd(1, { pid: 1, name: 'tini' }), false);
  assert.equal(isSystemd(812, undefined), false);
});
