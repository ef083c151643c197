import assert from 'node:assert/strict';
import { test } from 'node:test';

import { commandOf, type Start } from '../lib/command.js';

const START: Start = {
  execPath: '/usr/bin/node',
  execArgv: [],
  argv: ['/usr/bin/node', '/srv/releases/1/server.js', '--graceful'],
  typed: ['node', 'server.js', '--graceful'],
  directory: '/srv/current',
  physical: '/srv/releases/1',
};

test('a script typed relative to a symlinked directory is started through the symlink', () => {
  assert.deepEqual(commandOf(START), {
    file: '/usr/bin/node',
    args: ['/srv/current/server.js', '--graceful'],
    cwd: '/srv/current',
  });
});

test('a script typed as an absolute path through a symlink stays so', () => {
  const argv = ['/usr/bin/node', '/srv/current/server.js'];
  const start = { ...START, argv, typed: ['node', '/srv/current/server.js'], directory: '/', physical: '/' };

  assert.deepEqual(commandOf(start).args, ['/srv/current/server.js']);
});

test('a script typed as a physical path stays on that release', () => {
  assert.deepEqual(commandOf({ ...START, typed: ['node', '/srv/releases/1/server.js', '--graceful'] }).args, [
    '/srv/releases/1/server.js',
    '--graceful',
  ]);
});

test('loaders and flags of Node are kept, before the script', () => {
  const execArgv = ['--import', './loader.mjs', '--max-old-space-size=256'];
  const start = { ...START, execArgv, typed: ['node', ...execArgv, 'server.js', '--graceful'] };

  assert.deepEqual(commandOf(start).args, [...execArgv, '/srv/current/server.js', '--graceful']);
});

test('where the system does not tell what was typed, the script is the absolute one', () => {
  assert.deepEqual(commandOf({ ...START, typed: undefined }).args[0], '/srv/releases/1/server.js');
});

test('a program given as text is started again as text', () => {
  const start = { ...START, execArgv: ['-e', 'code'], argv: ['/usr/bin/node'], typed: ['node', '-e', 'code'] };

  assert.deepEqual(commandOf(start).args, ['-e', 'code']);
});

test('a program from standard input cannot be started again: a clear error', () => {
  assert.throws(() => commandOf({ ...START, argv: ['/usr/bin/node'], typed: ['node'] }), { code: 'ERR_FDPASS_SPAWN' });
});
