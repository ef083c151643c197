/** `notify` against real receivers: in Python, and our own. Descriptors are compared as whole lists. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';

import { Notifications } from '../../lib/notifications.js';
import { notify } from '../../lib/notify.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';
import { node, openList, receiver, skipUnlessLinux, skipWithoutPython } from './support.js';

function open(t: TestContext): Notifications {
  const notifications = new Notifications();
  t.after(() => {
    notifications.close();
  });
  return notifications;
}

/** A socket that takes nothing, with a full queue: as a manager that hangs. */
function fullSocket(t: TestContext): { address: string; fd: number; close: () => void } {
  const address = path.join(temporaryDirectory(t), 'notify');
  let fd = raw.socket('unix', 'dgram');
  raw.bind(fd, { family: 'unix', path: address });
  const close = (): void => {
    if (fd >= 0) raw.close(fd);
    fd = -1;
  };
  t.after(close);
  // The queue may be longer (net.unix.max_dgram_qlen: 10, and 512 under systemd) than what one sender may have on its way.
  for (let sent = 1; sent > 0;) {
    const sender = raw.socket('unix', 'dgram');
    raw.connect(sender, { family: 'unix', path: address });
    for (sent = 0; raw.send(sender, Buffer.from('X_FILL=1')) !== undefined;) sent++;
    raw.close(sender);
  }
  return { address, fd, close };
}

for (const kind of ['a path', 'an abstract name']) {
  test(
    `a receiver in Python at ${kind} gets each message in one datagram, with this process's pid`,
    { skip: skipWithoutPython },
    async (t) => {
      const directory = temporaryDirectory(t);
      const address = kind === 'a path' ? path.join(directory, 'notify.sock') : `@${path.basename(directory)}`;
      const before = openList();
      const { seen } = await receiver(t, address, 12);
      const options = { address };

      const fd = raw.memoryFile('state');
      const answers = [
        notify({ ready: true, status: 'a\nb', X_A: '1' }, options),
        notify.ready('up', options),
        notify.reloading(undefined, options),
        notify.stopping(undefined, options),
        notify.status('s', options),
        notify.extendTimeout(1000, options),
        notify.errno(Object.assign(new Error(), { errno: -2 }), options),
        notify.notifyAccess('all', options),
        notify.watchdog(options),
        notify.watchdog.trigger(options),
        notify.storeDescriptors('web', [fd, { fd }], { ...options, poll: false }),
        notify.removeDescriptors('web', options),
      ];
      raw.close(fd);

      assert.deepEqual(
        await Promise.all(answers),
        answers.map(() => true),
      );
      const all = await seen;
      assert.deepEqual(
        all.map(({ text }) => text.replace(/MONOTONIC_USEC=\d+$/, 'MONOTONIC_USEC=now')),
        [
          'READY=1\nSTATUS=a b\nX_A=1',
          'READY=1\nSTATUS=up',
          'RELOADING=1\nMONOTONIC_USEC=now',
          'STOPPING=1',
          'STATUS=s',
          'EXTEND_TIMEOUT_USEC=1000000',
          'ERRNO=2',
          'NOTIFYACCESS=all',
          'WATCHDOG=1',
          'WATCHDOG=trigger',
          'FDSTORE=1\nFDNAME=web\nFDPOLL=0',
          'FDSTOREREMOVE=1\nFDNAME=web',
        ],
      );
      assert.ok(all.every(({ pid, uid }) => pid === process.pid && uid === process.geteuid?.()));
      assert.deepEqual(
        all.map(({ fds }) => fds),
        all.map(({ text }) => (text.startsWith('FDSTORE=') ? 2 : 0)),
      );
      assert.deepEqual(
        openList().filter((line) => !/pipe:|socket:\[/.test(line)),
        before.filter((line) => !/pipe:|socket:\[/.test(line)),
      );
    },
  );
}

test('MONOTONIC_USEC is CLOCK_MONOTONIC at the call', { skip: skipUnlessLinux }, async (t) => {
  const notifications = open(t);
  const uptime = (): number => Number(process.hrtime.bigint() / 1000n);

  const earliest = uptime();
  await notify.reloading('again', { address: notifications.path });
  const latest = uptime();

  const message = await notifications.receive();
  const stamp = Number(message?.fields['MONOTONIC_USEC']);
  assert.ok(earliest <= stamp && stamp <= latest, `${earliest} ${stamp} ${latest}`);
  assert.equal(message?.fields['STATUS'], 'again');
});

test('MAINPIDFDID is the inode of the pidfd, where it lasts', { skip: skipUnlessLinux }, async (t) => {
  const notifications = open(t);
  const pidfd = raw.pidfdOpen(process.pid);
  const lasts = fs.statfsSync(`/proc/self/fd/${pidfd}`).type === 0x50494446;
  const { inode } = raw.describe(pidfd);
  raw.close(pidfd);

  await notify.mainPid(process.pid, { address: notifications.path });

  const message = await notifications.receive();
  assert.deepEqual(
    message?.lines,
    lasts ? [`MAINPID=${process.pid}`, `MAINPIDFDID=${inode}`] : [`MAINPID=${process.pid}`],
  );
});

test('nobody asked: false, and nothing is opened', async () => {
  const before = openList();

  const answers = [
    await notify.ready(),
    await notify.ready('x', { address: '' }),
    await notify.barrier({ address: '' }),
    await notify.storeDescriptors('web', 0, { address: '' }),
    await notify.einhorn(),
  ];

  assert.deepEqual(
    answers,
    answers.map(() => false),
  );
  assert.deepEqual(openList(), before);
});

describe('an address that is none', () => {
  const cases: [string, string, RegExp][] = [
    ['foo', 'EAFNOSUPPORT', /NOTIFY_SOCKET "foo" is neither a path, nor @name, nor vsock/],
    [`/${'x'.repeat(107)}`, 'E2BIG', /108 bytes/],
    ['vsock:x', 'EINVAL', /vsock:CID:PORT/],
    ['/nonexistent/notify', 'ENOENT', /connect \(\/nonexistent\/notify\)/],
  ];
  for (const [address, code, message] of cases) {
    test(`${address.slice(0, 40)} rejects with ${code}, and nothing stays open`, async () => {
      const before = openList();

      await assert.rejects(notify.ready('x', { address }), { code, message });
      await assert.rejects(notify.barrier({ address }), { code, message });

      assert.deepEqual(openList(), before);
    });
  }
});

test('a manager that is gone ends no process: a rejection that nobody looks at is none', async (t) => {
  const { code, stdout, stderr } = await node(
    t,
    `notify.ready(); notify.status('on'); notify.barrier(); notify.watchdog();
     setTimeout(() => console.log('lives'), 20);`,
    { NOTIFY_SOCKET: '/nonexistent/notify' },
  );

  assert.deepEqual({ code, stdout, stderr }, { code: 0, stdout: 'lives\n', stderr: '' });
});

test('what is wrong with the call is no less an error where nobody looks', async (t) => {
  const { code, stderr } = await node(t, `notify({ redy: true }); setTimeout(() => console.log('lives'), 20);`);

  assert.equal(code, 1);
  assert.match(stderr, /state\.redy is not known/);
});

test('a message has gone when the call returns: also at the exit', { skip: skipUnlessLinux }, async (t) => {
  const notifications = open(t);

  await node(t, `process.on('exit', () => notify.stopping('bye')); process.exit(0);`, notifications.env());

  const message = await notifications.receive();
  assert.deepEqual(message?.lines, ['STOPPING=1', 'STATUS=bye']);
});

describe('descriptors', { skip: skipUnlessLinux }, () => {
  test('253 go in one message, 254 are E2BIG, and stay the caller', async (t) => {
    const notifications = open(t);
    const fd = raw.memoryFile('state');
    t.after(() => raw.close(fd));
    const address = notifications.path;

    await assert.rejects(notify.storeDescriptors('a', Array<number>(254).fill(fd), { address }), {
      code: 'E2BIG',
      message: /254 descriptors.*253: nothing was stored/,
    });
    await notify.storeDescriptors('a', Array<number>(253).fill(fd), { address });

    await notifications.receive();
    assert.equal(notifications.stored.length, 1); // all the same file: duplicates are dropped
  });

  const bad: [unknown, unknown, string][] = [
    ['a:b', 1, 'ERR_FDPASS_NAMES'],
    ['a\nREADY=1', 1, 'ERR_FDPASS_NAMES'],
    ['x'.repeat(256), 1, 'ERR_FDPASS_NAMES'],
    ['web', [], 'ERR_INVALID_ARG_VALUE'],
    ['web', [-1], 'ERR_INVALID_ARG_VALUE'],
    ['web', '3', 'ERR_INVALID_ARG_VALUE'],
    ['web', null, 'ERR_INVALID_ARG_VALUE'],
    ['web', [{ fd: undefined }], 'ERR_INVALID_ARG_VALUE'],
    ['web', 99_999, 'EBADF'],
  ];
  for (const [name, fds, code] of bad) {
    test(`${JSON.stringify(name).slice(0, 20)}, ${JSON.stringify(fds)} is ${code}, and nothing is sent`, async (t) => {
      const notifications = open(t);
      const before = openList();

      await assert.rejects(notify.storeDescriptors(name as string, fds as number, { address: notifications.path }), {
        code,
      });

      assert.deepEqual(openList(), before);
      await notify.status('next', { address: notifications.path });
      assert.equal((await notifications.receive())?.fields['STATUS'], 'next');
    });
  }
});

describe('a full queue', { skip: skipUnlessLinux }, () => {
  test('EAGAIN once the time is over, with what to look at; nothing stays open', async (t) => {
    const { address } = fullSocket(t);
    await notify.ready(undefined, { address, timeout: 1 }).catch(() => undefined);
    const before = openList();

    await assert.rejects(notify.ready('x', { address, timeout: 30 }), {
      code: 'EAGAIN',
      syscall: 'sendmsg',
      message: /is full since 30 ms \(net\.unix\.max_dgram_qlen\): "READY=1 STATUS=x" was not sent/,
    });
    await assert.rejects(notify.ready('x', { address, timeout: 0 }), { code: 'EAGAIN' });

    assert.deepEqual(openList(), before);
  });

  test('what waits goes in order as soon as there is room, with its descriptors, which the caller may have closed', async (t) => {
    const { address, fd: manager } = fullSocket(t);
    const before = openList();
    const file = raw.memoryFile('kept');

    const sent = [
      notify.reloading(undefined, { address }),
      notify.storeDescriptors('kept', file, { address }),
      notify.ready(undefined, { address }),
    ];
    raw.close(file);
    await turn();
    const texts: string[] = [];
    const kept: string[] = [];
    while (texts.length < 3) {
      const message = raw.receive(manager, 4096);
      if (message === undefined) {
        await turn();
        continue;
      }
      for (const each of message.fds) {
        kept.push(fs.readlinkSync(`/proc/self/fd/${each}`));
        raw.close(each);
      }
      if (!message.bytes.toString().startsWith('X_FILL')) texts.push(message.bytes.toString().split('\n')[0] ?? '');
    }

    assert.deepEqual(await Promise.all(sent), [true, true, true]);
    assert.deepEqual(texts, ['RELOADING=1', 'FDSTORE=1', 'READY=1']);
    assert.match(kept.join(), /memfd:kept/);
    assert.deepEqual(openList(), before);
  });

  test('what comes when there is room again goes behind what waits', async (t) => {
    const { address, fd: manager } = fullSocket(t);
    const first = notify.status('first', { address });
    while (raw.receive(manager, 4096) !== undefined); // room, of which the loop does not know yet

    const second = notify.status('second', { address });
    await Promise.all([first, second]);

    const texts = [1, 2].map(() => raw.receive(manager, 4096)?.bytes.toString());
    assert.deepEqual(texts, ['STATUS=first', 'STATUS=second']);
  });

  test('the wait costs no time: the loop rests', async (t) => {
    const { address } = fullSocket(t);
    const waiting = notify.ready(undefined, { address, timeout: 300 });
    const { user, system } = process.cpuUsage();

    await assert.rejects(waiting, { code: 'EAGAIN' });

    const used = process.cpuUsage({ user, system });
    assert.ok(used.user + used.system < 150_000, `${used.user + used.system} us of CPU in 300 ms`);
  });

  test('a signal ends the wait, and the message is not sent; those behind it are', async (t) => {
    const { address, fd: manager } = fullSocket(t);
    const controller = new AbortController();
    const aborted = notify.status('never', { address, signal: controller.signal });
    const next = notify.status('next', { address });

    controller.abort(new Error('enough'));

    await assert.rejects(aborted, /enough/);
    const texts: string[] = [];
    while (!texts.includes('STATUS=next')) {
      const message = raw.receive(manager, 4096);
      if (message === undefined) await turn();
      else texts.push(message.bytes.toString());
    }
    assert.ok(await next);
    assert.ok(!texts.includes('STATUS=never'));
  });

  test('at most 64 messages wait; the next is EAGAIN at once', async (t) => {
    const { address, close } = fullSocket(t);
    const waiting = Array.from({ length: 64 }, () => notify.status('x', { address }));

    await assert.rejects(notify.status('y', { address }), { code: 'EAGAIN', message: /64 messages wait already/ });

    close();
    const outcomes = await Promise.allSettled(waiting);
    assert.ok(outcomes.every(({ status }) => status === 'rejected')); // ECONNREFUSED, once the manager is gone
  });

  test('a manager that dies while messages wait: each rejects, and nothing stays open', async (t) => {
    const before = openList();
    const { address, close } = fullSocket(t);
    const waiting = [notify.ready(undefined, { address }), notify.storeDescriptors('a', 0, { address })];

    close();

    for (const each of waiting) await assert.rejects(each, { code: 'ECONNREFUSED' });
    assert.deepEqual(openList(), before);
  });
});

describe('barrier', { skip: skipUnlessLinux }, () => {
  test('it is answered when what came before was processed, and not earlier', async (t) => {
    const notifications = open(t);
    const address = notifications.path;
    const order: string[] = [];
    await notify.status('one', { address });
    await notify.status('two', { address });
    const barrier = notify.barrier({ address }).then((answer) => order.push(`barrier ${answer}`));

    for (let count = 0; count < 2; count++) {
      const message = await notifications.receive();
      await turn();
      await turn();
      order.push(message?.fields['STATUS'] ?? '');
    }
    const next = notifications.receive();
    await barrier;

    assert.deepEqual(order, ['one', 'two', 'barrier true']);
    notifications.close();
    assert.equal(await next, undefined);
  });

  test('nobody reads: ETIMEDOUT after the time, and nothing stays open', async (t) => {
    const notifications = open(t);
    const before = openList();

    await assert.rejects(notify.barrier({ address: notifications.path, timeout: 20 }), {
      code: 'ETIMEDOUT',
      message: /has not come to the barrier within 20 ms/,
    });

    assert.deepEqual(openList(), before);
  });

  test('a receiver that dies answers too: nothing is left to wait for', async (t) => {
    const notifications = open(t);
    const barrier = notify.barrier({ address: notifications.path });

    notifications.close();

    assert.equal(await barrier, true);
  });

  test('an answer that came while the loop was blocked counts, though the deadline has passed', async (t) => {
    const notifications = open(t);
    const barrier = notify.barrier({ address: notifications.path, timeout: 50 });
    const reading = notifications.receive(); // reads it at once, and closes its descriptor
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);

    assert.equal(await barrier, true);
    notifications.close();
    await reading;
  });

  test('a signal ends it', async (t) => {
    const notifications = open(t);
    const before = openList();

    const barrier = notify.barrier({ address: notifications.path, signal: AbortSignal.timeout(5) });

    await assert.rejects(barrier, { name: 'TimeoutError' });
    assert.deepEqual(openList(), before);
    await assert.rejects(notify.barrier({ address: notifications.path, signal: AbortSignal.abort() }), {
      name: 'AbortError',
    });
  });

  test('it is alone in its message, with one descriptor', { skip: skipWithoutPython }, async (t) => {
    const address = path.join(temporaryDirectory(t), 'notify');
    const { seen } = await receiver(t, address, 1);

    assert.equal(await notify.barrier({ address }), true); // it ends after the message, and with it the descriptor

    assert.deepEqual(
      (await seen).map(({ text, fds }) => ({ text, fds })),
      [{ text: 'BARRIER=1', fds: 1 }],
    );
  });
});

test('options.timeout that is no time is refused', async () => {
  for (const timeout of [-1, NaN, 'x' as unknown as number]) {
    await assert.rejects(notify.ready(undefined, { timeout }), {
      code: 'ERR_INVALID_ARG_VALUE',
      message: /options\.timeout/,
    });
  }
});

test('in a worker: ERR_FDPASS_THREAD', async () => {
  const url = new URL('../../lib/notify.js', import.meta.url).href;
  const script = `
    const { parentPort } = require('node:worker_threads');
    import(${JSON.stringify(url)}).then(async ({ notify }) => {
      const calls = [() => notify.ready(), () => notify({ ready: true }), () => notify.barrier(), () => notify.s6(3), () => notify.einhorn()];
      const codes = [];
      for (const call of calls) codes.push(await call().then(() => 'none', (error) => error.code));
      try { notify.watchdog.start(); } catch (error) { codes.push(error.code); }
      parentPort.postMessage(codes);
    });`;

  const worker = new Worker(script, { eval: true });
  const codes = await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });

  assert.deepEqual(codes, Array(6).fill('ERR_FDPASS_THREAD'));
  await worker.terminate();
});
