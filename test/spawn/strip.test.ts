/** stripConventions: which variables go, which stay. Pure. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { stripConventions } from '../../lib/conventions/strip.js';

const STRIPPED = [
  ...['LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_FDS_FIRST_FD', 'LISTEN_FD'],
  ...['SERVER_STARTER_PORT', 'SERVER_STARTER_GENERATION', 'EINHORN_FD_0', 'EINHORN_MASTER_PID', 'EINHORN_'],
  ...['SOCKETMASTER_FD', 'GUNICORN_PID', 'GUNICORN_FD', 'UNICORN_FD', 'PUMA_INHERIT_0', 'PUMA_INHERIT_12', 'NGINX'],
  ...[
    'FPM_SOCKETS',
    'FPM_SOCKETS_1',
    'TABLEFLIP_HAS_PARENT_7DIU3',
    'ENDLESS_CONTINUE',
    'ENDLESS_SOCKET_ORDER',
    'OVERSEER_IS_SLAVE',
  ],
  ...['GO_UPGRADE_BIN_CHECK', 'ECDYSIS_RUST_X', 'OXY_X', 'UPSTART_EVENTS', 'UPSTART_FDS', 'NODE_CHANNEL_FD'],
  ...['NODE_CHANNEL_SERIALIZATION_MODE', 'NODE_UNIQUE_ID', 'WATCHDOG_PID', 'WATCHDOG_USEC'],
  ...['FDPASS_CHANNEL', 'FDPASS_', 'FDPASS_ANYTHING', 'NOTIFY_SOCKET'],
];

const KEPT = [
  ...['PATH', 'HOME', 'NODE_OPTIONS', 'NODE_ENV', 'NGINX_PORT', 'MY_LISTEN_FDS', 'LISTEN_ADDRESS', 'listen_fds'],
  ...['UPSTART_JOB', 'GUNICORN_CMD_ARGS', 'PUMA_PERSISTENT_TIMEOUT', 'FDPASS', 'WATCHDOG', 'PORT', '__proto__'],
];

for (const name of STRIPPED) {
  test(`${name} goes`, () => assert.deepEqual(stripConventions({ [name]: '1', A: '2' }), { A: '2' }));
}

for (const name of KEPT) {
  test(`${name} stays`, () => assert.deepEqual(Object.entries(stripConventions({ [name]: '1' })), [[name, '1']]));
}

test('NOTIFY_SOCKET stays where that is asked for, and nothing else does', () => {
  const environment = { NOTIFY_SOCKET: '/run/notify', WATCHDOG_USEC: '1' };

  assert.deepEqual(stripConventions(environment, { keepNotifySocket: true }), { NOTIFY_SOCKET: '/run/notify' });
});

test('what is given is not changed; what is undefined is left out, what is empty is not', () => {
  const environment = Object.freeze({ A: '', B: undefined, LISTEN_FDS: '1' });

  assert.deepEqual(stripConventions(environment), { A: '' });
});
