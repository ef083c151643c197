/** systemd-notify at our notification sockets: what a shell script says through it is heard, with the sender's credentials. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { Notifications, spawn } from '../../lib/index.js';
import { program, without } from './support.js';

describe('systemd-notify', { skip: without('systemd-notify') }, () => {
  test('READY, STATUS and MAINPID of a script arrive, and its barrier is answered', async (t) => {
    using notifications = new Notifications();
    const script = `"$1" --ready --status="at your service" --pid=$$ && echo done`;
    const child = spawn('/bin/sh', ['-c', script, 'sh', program('systemd-notify')], {
      variables: notifications.env(),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => child.kill('SIGKILL'));

    let heard: Readonly<Record<string, string>> | undefined;
    for await (const message of notifications) {
      if (message.has('READY=1')) heard = message.fields;
      if (heard !== undefined) break;
    }
    // systemd-notify waits for its barrier: it is answered when the next message is asked for.
    const next = notifications.receive({ signal: AbortSignal.timeout(5000) }).catch(() => undefined);
    const { exitCode } = await child.exited;
    notifications.close();
    await next;

    assert.equal(exitCode, 0);
    assert.equal(heard?.['STATUS'], 'at your service');
    assert.equal(heard['MAINPID'], String(child.pid));
  });
});
