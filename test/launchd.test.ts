import assert from 'node:assert/strict';
import { test } from 'node:test';

import { takeFromLaunchd } from '../lib/index.js';

test(
  'takeFromLaunchd says ENOTSUP where there is no launchd, and which name was asked for',
  { skip: process.platform === 'darwin' && 'here launchd itself would have to start this test' },
  () => {
    assert.throws(() => takeFromLaunchd('web'), {
      code: 'ENOTSUP',
      syscall: 'launch_activate_socket',
      message: /launch_activate_socket \("web"\)/,
    });
    assert.throws(() => takeFromLaunchd('a:b'), { code: 'ERR_FDPASS_NAMES' });
  },
);
