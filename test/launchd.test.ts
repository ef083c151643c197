import assert from 'node:assert/strict';
import { test } from 'node:test';

import { takeFromLaunchd } from '../lib/index.js';

test('takeFromLaunchd says ENOTSUP, which name was asked for, and what to do instead on macOS', async () => {
  const message = process.platform === 'darwin' ? /"web".*inetdCompatibility/ : /"web".*no launchd/;

  await assert.rejects(takeFromLaunchd('web'), { code: 'ENOTSUP', syscall: 'launch_activate_socket', message });
});
