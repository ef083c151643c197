/** `Notifications` with real senders (systemd-notify, Python, our own), and with hostile ones. Descriptors are compared as whole lists. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test, type TestContext } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';

import { Notifications, type NotificationsOptions } from '../../lib/notifications.js';
import { notify } from '../../lib/notify.js';
import * as raw from '../../lib/raw.js';
import { spawn } from '../../lib/spawn.js';
import { temporaryDirectory } from '../support/fixture.js';
import { openList, python, run, skipUnlessLinux, skipWithoutPython, skipWithoutSystemdNotify } from './support.js';

const isRoot = process.geteuid?.() === 0;

function open(t: TestContext, options?: NotificationsOptions): Notifications {
  const notifications = new Notifications(options);
  t.after(() => {
    notifications.close();
  });
  return notifications;
}

/** Sends bytes as they are, with descriptors. */
function send(notifications: Notifications, text: string | Uint8Array, fds: readonly number[] = []): void {
  const fd = raw.socket('unix', 'dgram');
  try {
    const to: raw.SocketAddress = { family: 'unix', path: notifications.path };
    assert.notEqual(raw.send(fd, typeof text === 'string' ? Buffer.from(text) : text, fds, to), undefined);
  } finally {
    raw.close(fd);
  }
}

/** A file in memory by this name, closed with the test. */
function file(t: TestContext, name: string): number {
  const fd = raw.memoryFile(name);
  t.after(() => raw.close(fd));
  return fd;
}

/** What a number of this process names. */
function target(fd: number): string {
  return fs.readlinkSync(`/proc/self/fd/${fd}`).replace(' (deleted)', '');
}

describe('systemd-notify', { skip: skipWithoutSystemdNotify }, () => {
  test('READY=1, STATUS and own fields come with the sender, and its barrier lets it end', async (t) => {
    const notifications = open(t);
    let ended = false;
    const program = run(t, 'systemd-notify', ['--ready', '--status=on the way', 'X_A=1'], notifications.env());
    void program.then(() => (ended = true));

    const message = await notifications.receive();
    for (let turns = 0; turns < 20; turns++) await turn();
    assert.equal(ended, false); // it waits for its barrier: nobody has asked for what comes next
    const next = notifications.receive();
    const { code, stderr } = await program;

    assert.deepEqual({ code, stderr }, { code: 0, stderr: '' });
    assert.deepEqual({ ...message?.fields }, { READY: '1', STATUS: 'on the way', X_A: '1' });
    assert.equal(message?.uid, process.geteuid?.());
    assert.equal(notifications.dropped, 0);
    notifications.close();
    assert.equal(await next, undefined);
  });

  test('--pid says MAINPID', async (t) => {
    const notifications = open(t);

    const program = run(t, 'systemd-notify', ['--no-block', '--ready', `--pid=${process.pid}`], notifications.env());

    const message = await notifications.receive();
    assert.equal(message?.fields['MAINPID'], String(process.pid));
    assert.equal((await program).code, 0);
  });

  test('at a path too', async (t) => {
    const directory = temporaryDirectory(t);
    const notifications = open(t, { path: path.join(directory, 'notify.sock') });

    const program = run(t, 'systemd-notify', ['--no-block', '--status=x'], notifications.env());

    assert.equal((await notifications.receive())?.fields['STATUS'], 'x');
    assert.equal((await program).code, 0);
    notifications.close();
    assert.deepEqual(fs.readdirSync(directory), []);
  });
});

const PYTHON = `
import array, os, socket, struct, sys
def address(): return '\\0' + sys.argv[1][1:] if sys.argv[1][0] == '@' else sys.argv[1]
def say(text, fds=[], credentials=None):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
    if credentials: control.append((socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack('3i', *credentials)))
    s.sendmsg([text if isinstance(text, bytes) else text.encode()], control, 0, address())
`;

describe('a sender in Python', { skip: skipWithoutPython }, () => {
  test('stores a listener, says READY=1, and knows by its barrier that both were processed', async (t) => {
    const notifications = open(t);
    const script = `${PYTHON}
l = socket.socket(); l.bind(('127.0.0.1', 0)); l.listen()
say('FDSTORE=1\\nFDNAME=web', [l.fileno()])
say('READY=1')
r, w = os.pipe()
say('BARRIER=1', [w]); os.close(w)
import select
p = select.poll(); p.register(r, 0); print(p.poll(10000)[0][1], l.getsockname()[1])`;
    const program = python(t, script, notifications.path);

    const stored = await notifications.receive();
    const ready = await notifications.receive();
    const end = notifications.receive();
    const [hangUp, port] = (await program).stdout.trim().split(' ');

    assert.equal(stored?.has('FDSTORE=1'), true);
    assert.equal(ready?.has('READY=1'), true);
    assert.equal(stored.pid, ready.pid);
    assert.equal(hangUp, '16'); // POLLHUP
    const [descriptor] = notifications.take('web');
    assert.ok(descriptor);
    const listener = descriptor.asListener();
    assert.equal(listener.port, Number(port));
    listener.close();
    assert.deepEqual(notifications.stored, []);
    notifications.close();
    await end;
  });

  test(
    'of another user is dropped, and cannot pass for this one',
    { skip: isRoot ? false : 'needs root, to start one' },
    async (t) => {
      const dropped: string[] = [];
      const notifications = open(t, { onDropped: (reason) => void dropped.push(reason) });
      const before = openList();
      const script = `${PYTHON}
os.setgid(65534); os.setuid(65534)
l = socket.socket()
say('READY=1', [l.fileno()])
for forged in [(${process.pid}, 0, 0), (os.getpid(), 0, 65534), (1, 65534, 65534)]:
    try: say('READY=1', [], forged); print('sent')
    except PermissionError: print('EPERM')
`;
      const reading = notifications.receive();
      const { stdout } = await python(t, script, notifications.path);
      while (notifications.dropped < 1) await turn();

      assert.equal(stdout, 'EPERM\nEPERM\nEPERM\n');
      assert.equal(dropped.length, 1);
      assert.match(dropped[0] ?? '', /^its sender \(pid \d+, uid 65534\) is not allowed to$/);
      await notify.ready(undefined, { address: notifications.path });
      assert.equal((await reading)?.pid, process.pid);
      assert.deepEqual(openList(), before);
    },
  );

  test(
    "of another user is taken with allow: 'all', and tells its uid",
    { skip: isRoot ? false : 'needs root, to start one' },
    async (t) => {
      const notifications = open(t, { allow: 'all' });

      await python(t, `${PYTHON}\nos.setgid(65534); os.setuid(65534); say('READY=1')`, notifications.path);

      const message = await notifications.receive();
      assert.deepEqual([message?.uid, message?.gid], [65534, 65534]);
    },
  );
});

describe('stored descriptors', { skip: skipUnlessLinux }, () => {
  /** Stores files by these names of descriptors, in this order. */
  async function store(t: TestContext, notifications: Notifications, ...messages: string[]): Promise<void> {
    for (const [index, text] of messages.entries()) {
      send(notifications, text, [file(t, `file${index}`)]);
      await notifications.receive();
    }
  }
  const names = (notifications: Notifications): string[] =>
    notifications.stored.map(({ name, fd }) => `${name} ${target(fd).replace('/memfd:', '')}`);

  test('come newest first: a, b, c are handed down as c, b, a', async (t) => {
    const notifications = open(t);

    await store(t, notifications, ...['a', 'b', 'c'].map((name) => `FDSTORE=1\nFDNAME=${name}`));

    assert.deepEqual(names(notifications), ['c file2', 'b file1', 'a file0']);
  });

  test('a child gets them as systemd would hand them down', async (t) => {
    const notifications = open(t);
    await store(t, notifications, 'FDSTORE=1\nFDNAME=a', 'FDSTORE=1\nFDNAME=b');

    const child = spawn('sh', ['-c', 'echo $LISTEN_FDNAMES; readlink /proc/$$/fd/3 /proc/$$/fd/4'], {
      fds: notifications.stored,
      convention: 'systemd',
      variables: notifications.env(),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let said = '';
    child.stdout?.on('data', (chunk: Buffer) => (said += chunk.toString()));
    await child.exited;
    while (!said.endsWith('\n') || said.split('\n').length < 4) await turn();

    assert.equal(said, 'b:a\n/memfd:file1 (deleted)\n/memfd:file0 (deleted)\n');
    assert.equal(notifications.stored.length, 2); // they stay its own
  });

  const invalid: [string, string][] = [
    ['FDSTORE=1', 'stored'],
    ['FDSTORE=1\nFDNAME=a:b', 'stored'],
    ['FDSTORE=1\nFDNAME=é', 'stored'],
    [`FDSTORE=1\nFDNAME=${'x'.repeat(256)}`, 'stored'],
    ['FDSTORE=1\nFDNAME=', ''],
    ['FDSTORE=1\nFDNAME=a\nFDNAME=b', 'a'],
    ['FDNAME=late\nFDPOLL=0\nFDSTORE=1', 'late'],
  ];
  for (const [text, name] of invalid) {
    test(`${JSON.stringify(text).slice(0, 60)} is stored as "${name}"`, async (t) => {
      const notifications = open(t);

      await store(t, notifications, text);

      assert.deepEqual(
        notifications.stored.map((each) => each.name),
        [name],
      );
    });
  }

  test('a file that is stored already, under any name, is dropped', async (t) => {
    const reasons: string[] = [];
    const notifications = open(t, { onDropped: (reason) => void reasons.push(reason) });
    const fd = file(t, 'one');
    const copy = raw.dup(fd);
    t.after(() => raw.close(copy));
    send(notifications, 'FDSTORE=1\nFDNAME=a', [fd, copy]);
    await notifications.receive();
    const before = openList();

    send(notifications, 'FDSTORE=1\nFDNAME=b', [copy]);
    const message = await notifications.receive();

    assert.deepEqual(names(notifications), ['a one']);
    assert.deepEqual(openList(), before);
    assert.equal(reasons.length, 2);
    assert.deepEqual(
      message?.fds.map((each) => each.fd).filter((each) => each >= 0),
      [],
    );
  });

  /** A connection whose other end is ours. */
  async function storeConnection(notifications: Notifications, text: string): Promise<number> {
    const [ours, theirs] = raw.socketPair('stream');
    raw.send(ours, Buffer.from('data that nobody reads')); // is no hang-up, nor is the end of one direction
    raw.shutdown(ours, 'write');
    send(notifications, text, [theirs]);
    raw.close(theirs);
    await notifications.receive();
    for (let count = 0; count < 5; count++) await turn();
    return ours;
  }

  test('what hangs up is dropped and closed, as the manager does it', { skip: skipUnlessLinux }, async (t) => {
    let tell: (reason: string) => void = () => undefined;
    const told = new Promise<string>((resolve) => (tell = resolve));
    const notifications = open(t, { onDropped: (reason) => tell(reason) });
    send(notifications, 'FDSTORE=1\nFDNAME=file', [file(t, 'one')]); // which cannot hang up
    await notifications.receive();
    const before = openList();
    const other = await storeConnection(notifications, 'FDSTORE=1\nFDNAME=connection');
    const [stored] = notifications.stored;
    assert.deepEqual([stored?.name, stored?.fd !== -1], ['connection', true]);

    raw.close(other);
    const deadline = setTimeout(() => {
      tell('nothing, in 10 s');
    }, 10_000); // and what is stored keeps no process alive
    const reason = await told;
    clearTimeout(deadline);

    assert.equal(reason, 'what was stored as "connection" has hung up');
    assert.deepEqual(names(notifications), ['file one']);
    assert.equal(stored?.fd, -1);
    assert.deepEqual(
      openList().filter((each) => !before.includes(each)),
      [], // an earlier test's child may have had its pipes closed meanwhile
    );
  });

  for (const [how, text, take] of [
    ['was stored with FDPOLL=0 stays', 'FDSTORE=1\nFDPOLL=0\nFDNAME=connection', false],
    ['was taken is nobody’s but the taker’s', 'FDSTORE=1\nFDNAME=connection', true],
  ] as const) {
    test(`what hangs up and ${how}`, { skip: skipUnlessLinux }, async (t) => {
      const reasons: string[] = [];
      const notifications = open(t, { onDropped: (reason) => void reasons.push(reason) });
      const other = await storeConnection(notifications, text);
      const taken = take ? notifications.take('connection') : [];

      raw.close(other);
      for (let count = 0; count < 10; count++) await turn();

      const fd = take ? taken[0]?.fd : notifications.stored[0]?.fd;
      assert.equal(raw.describe(fd ?? -1).kind, 'socket');
      assert.deepEqual(reasons, []);
      for (const each of taken) each.close();
    });
  }

  test('what is over storeMax is closed; 0 stores nothing', async (t) => {
    const reasons: string[] = [];
    const notifications = open(t, { storeMax: 2, onDropped: (reason) => void reasons.push(reason) });
    const fds = ['a', 'b', 'c'].map((name) => file(t, name));
    const nothing = open(t, { storeMax: 0 });
    const before = openList();

    send(notifications, 'FDSTORE=1', fds);
    await notifications.receive();
    send(nothing, 'FDSTORE=1', fds);
    await nothing.receive();

    assert.deepEqual(names(notifications), ['stored b', 'stored a']);
    assert.deepEqual(nothing.stored, []);
    assert.match(reasons.join(), /^no room for another descriptor, "stored": 2 are stored$/);
    assert.equal(openList().length, before.length + 2);
  });

  test('FDSTOREREMOVE closes all of that name, and only with a valid one', async (t) => {
    const notifications = open(t);
    const before = openList();
    await store(t, notifications, ...['a', 'b', 'a'].map((name) => `FDSTORE=1\nFDNAME=${name}`));

    for (const text of [
      'FDSTOREREMOVE=1',
      'FDSTOREREMOVE=1\nFDNAME=b:',
      'FDSTOREREMOVE=1\nFDNAME=a',
      'FDSTOREREMOVE=1\nFDNAME=a',
    ]) {
      send(notifications, text);
      await notifications.receive();
    }

    assert.deepEqual(names(notifications), ['b file1']);
    notifications.close();
    const files = openList().filter((line) => line.includes('memfd'));
    assert.equal(files.length, 3 + before.filter((line) => line.includes('memfd')).length); // those of the test itself
  });

  test('taken ones are the caller, oldest first; close() closes the others', async (t) => {
    const notifications = open(t);
    await store(t, notifications, ...['a', 'b', 'a'].map((name) => `FDSTORE=1\nFDNAME=${name}`));
    const [, b, a1] = notifications.stored.map(({ fd }) => fd);

    const taken = notifications.take('a');
    notifications.close();

    assert.deepEqual(
      taken.map(({ fd }) => target(fd)),
      ['/memfd:file0', '/memfd:file2'],
    );
    assert.equal(taken[0]?.fd, a1);
    assert.throws(() => raw.getCloseOnExec(b ?? -1), { code: 'EBADF' });
    assert.deepEqual(notifications.take('b'), []);
    for (const descriptor of taken) descriptor.close();
  });

  test('descriptors without FDSTORE=1 are the message, until the next one is asked for', async (t) => {
    const notifications = open(t);
    const fds = [file(t, 'a'), file(t, 'b')];
    const before = openList();

    send(notifications, 'READY=1', fds);
    const message = await notifications.receive();
    const kept = message?.fds[1]?.take() ?? -1;
    assert.equal(openList().length, before.length + 2);
    send(notifications, 'STATUS=x');
    await notifications.receive();

    assert.equal(openList().length, before.length + 1);
    assert.equal(target(kept), '/memfd:b');
    assert.equal(message?.fds[0]?.fd, -1);
    raw.close(kept);
    assert.deepEqual(openList(), before);
  });
});

describe('hostile messages', { skip: skipUnlessLinux }, () => {
  const NUL = '\0';
  const hostile: [string, string | Uint8Array, number, RegExp][] = [
    ['4097 bytes', `READY=1\nX_A=${'x'.repeat(4085)}`, 1, /longer than the 4096 bytes/],
    ['a NUL in the middle', `READY=1${NUL}STATUS=x`, 1, /a NUL/],
    ['a NUL in the middle of a barrier', `BARRIER=1${NUL}x`, 1, /a NUL/],
    ['nothing', '', 1, /empty/],
    ['a barrier that is not alone', 'BARRIER=1\nREADY=1', 1, /must be alone/],
    ['a barrier without a descriptor', 'BARRIER=1', 0, /with one descriptor, and this one with 0/],
    ['a barrier with two', 'BARRIER=1', 2, /with one descriptor, and this one with 2/],
    ['a store behind a barrier', 'BARRIER=1\nFDSTORE=1', 3, /must be alone/],
  ];
  for (const [what, bytes, count, reason] of hostile) {
    test(`${what}: dropped, its descriptors closed, and the next message comes`, async (t) => {
      const reasons: string[] = [];
      const notifications = open(t, { onDropped: (each) => void reasons.push(each) });
      const fds = Array.from({ length: count }, (_, index) => file(t, `file${index}`));
      const before = openList();

      send(notifications, bytes, fds);
      send(notifications, 'STATUS=next');
      const message = await notifications.receive();

      assert.deepEqual(message?.lines, ['STATUS=next']);
      assert.equal(notifications.dropped, 1);
      assert.match(reasons.join(), reason);
      assert.deepEqual(openList(), before);
      assert.deepEqual(notifications.stored, []);
    });
  }

  test('4096 bytes, garbage that is no UTF-8, keys of objects: taken as they are', async (t) => {
    const notifications = open(t);
    const longest = `X_A=${'x'.repeat(4092)}`;
    send(notifications, longest);
    send(notifications, Buffer.from([0xff, 0x3d, 0xfe]));
    send(notifications, '__proto__=1\nconstructor=2');

    assert.equal((await notifications.receive())?.fields['X_A']?.length, 4092);
    assert.deepEqual((await notifications.receive())?.lines, ['\ufffd=\ufffd']);
    const last = await notifications.receive();
    assert.equal(last?.fields['__proto__'], '1');
    assert.equal(Object.getPrototypeOf(last.fields), null);
  });

  test('253 descriptors in each message, and nobody takes them: no more than those of one are ever open', async (t) => {
    const notifications = open(t);
    const fds = Array<number>(253).fill(file(t, 'many'));
    const before = openList();

    for (let round = 0; round < 10; round++) {
      send(notifications, round % 2 === 0 ? 'STATUS=x' : 'BARRIER=1\nX=1', fds);
      if (round % 2 === 0) await notifications.receive();
      assert.ok(openList().length <= before.length + 253);
    }

    const end = notifications.receive();
    await turn();
    assert.deepEqual(openList(), before);
    notifications.close();
    await end;
  });

  test('a stranger who is never done does not hold the loop', async (t) => {
    let sent = 0;
    let turned = false;
    setImmediate(() => (turned = true));
    const turnedAt: number[] = [];
    const notifications = open(t, {
      onDropped: () => {
        if (turned && turnedAt.length === 0) turnedAt.push(sent);
        if (++sent < 500)
          send(notifications, 'a\0b'); // there is always one more
        else send(notifications, 'READY=1');
      },
    });
    send(notifications, 'a\0b');

    const message = await notifications.receive();

    assert.deepEqual(message?.lines, ['READY=1']);
    assert.ok((turnedAt[0] ?? 500) < 500, 'the loop turned in the middle of it');
  });

  test('a flood of garbage holds neither the loop nor the message behind it', async (t) => {
    const notifications = open(t);
    const fd = raw.socket('unix', 'dgram');
    t.after(() => raw.close(fd));
    raw.connect(fd, { family: 'unix', path: notifications.path });
    let turns = 0;
    const counting = setInterval(() => turns++, 1);
    t.after(() => clearInterval(counting));
    const reading = notifications.receive();

    for (let sent = 0; sent < 2000;) {
      if (raw.send(fd, Buffer.from('a\0b')) === undefined) await turn();
      else sent++;
    }
    while (raw.send(fd, Buffer.from('READY=1')) === undefined) await turn();

    assert.deepEqual((await reading)?.lines, ['READY=1']);
    assert.equal(notifications.dropped, 2000);
    assert.ok(turns > 0);
  });

  test('a function that throws loses the message, not the descriptors', async (t) => {
    const notifications = open(t, {
      allow: () => {
        throw new Error('mine');
      },
    });
    const fd = file(t, 'a');
    const before = openList();
    send(notifications, 'READY=1', [fd]);

    await assert.rejects(notifications.receive(), /mine/);

    assert.deepEqual(openList(), before);
  });
});

describe('reading', { skip: skipUnlessLinux }, () => {
  test('for await gives each in order; a loop that is left does not close it', async (t) => {
    const notifications = open(t);
    for (const status of ['a', 'b', 'c']) send(notifications, `STATUS=${status}`);
    const seen: (string | undefined)[] = [];

    for await (const { fields } of notifications) if (seen.push(fields['STATUS']) === 2) break;
    for await (const { fields } of notifications) {
      seen.push(fields['STATUS']);
      notifications.close();
    }

    assert.deepEqual(seen, ['a', 'b', 'c']);
  });

  test('several wait: each gets one, in order', async (t) => {
    const notifications = open(t);
    const waiting = [1, 2, 3].map(() => notifications.receive());

    for (const status of ['a', 'b', 'c']) send(notifications, `STATUS=${status}`);

    const seen = (await Promise.all(waiting)).map((message) => message?.fields['STATUS']);
    assert.deepEqual(seen, ['a', 'b', 'c']);
  });

  test('a wait that is aborted loses nothing', async (t) => {
    const notifications = open(t);
    const controller = new AbortController();
    const aborted = notifications.receive({ signal: controller.signal });
    const next = notifications.receive();
    controller.abort();

    send(notifications, 'STATUS=a');

    await assert.rejects(aborted, { name: 'AbortError' });
    assert.equal((await next)?.fields['STATUS'], 'a');
    await assert.rejects(notifications.receive({ signal: controller.signal }), { name: 'AbortError' });
  });

  test('close ends every wait with undefined, closes what the last message brought, and is idempotent', async (t) => {
    const fd = file(t, 'a');
    const before = openList();
    const notifications = open(t);
    send(notifications, 'READY=1', [fd]);
    await notifications.receive();
    send(notifications, 'STATUS=unread', [fd]);
    const first = notifications.receive();
    const waiting = [notifications.receive(), notifications.receive()];
    await first;

    notifications.close();
    notifications.close();

    assert.deepEqual(await Promise.all(waiting), [undefined, undefined]);
    assert.equal(await notifications.receive(), undefined);
    assert.equal(notifications.closed, true);
    assert.deepEqual(openList(), before);
  });

  test('a signal closes it', async (t) => {
    const controller = new AbortController();
    const notifications = open(t, { signal: controller.signal });
    const waiting = notifications.receive();

    controller.abort();

    assert.equal(await waiting, undefined);
    assert.throws(() => new Notifications({ signal: controller.signal }), { name: 'AbortError' });
  });

  test('it keeps a process alive while somebody waits, and not longer', async (t) => {
    const index = new URL('../../lib/', import.meta.url).href;
    const script = `
      const { Notifications } = await import('${index}notifications.js');
      const notifications = new Notifications();
      setTimeout(() => notifications.close(), 30).unref();
      console.log(await notifications.receive());
      new Notifications();`;

    const { code, stdout, stderr } = await run(t, process.execPath, ['--input-type=module', '-e', script]);

    assert.deepEqual({ code, stdout, stderr }, { code: 0, stdout: 'undefined\n', stderr: '' });
  });
});

describe('where it listens', { skip: skipUnlessLinux }, () => {
  test('env() is what a child needs', (t) => {
    const notifications = open(t);

    assert.match(notifications.path, /^@fdpass-notify-\d+-/);
    assert.deepEqual(notifications.env(), { NOTIFY_SOCKET: notifications.path });
    assert.deepEqual(notifications.env({ watchdog: 1500 }), {
      NOTIFY_SOCKET: notifications.path,
      WATCHDOG_USEC: '1500000',
    });
    for (const watchdog of [0, -1, NaN, Infinity]) {
      assert.throws(() => notifications.env({ watchdog }), { code: 'ERR_INVALID_ARG_VALUE' });
    }
  });

  test('a path is for this user alone, that of a dead one is taken over, that of a live one is not', (t) => {
    const directory = temporaryDirectory(t);
    const name = path.join(directory, 'notify');
    const dead = raw.socket('unix', 'dgram');
    raw.bind(dead, { family: 'unix', path: name });
    raw.close(dead);

    const first = open(t, { path: name });
    const before = openList();
    assert.equal(fs.statSync(name).mode & 0o777, 0o600);
    assert.throws(() => new Notifications({ path: name }), { code: 'EADDRINUSE' });
    assert.deepEqual(openList(), before);

    first.close();
    assert.deepEqual(fs.readdirSync(directory), []);
    const open_ = open(t, { path: name, mode: 0o666 });
    assert.equal(fs.statSync(name).mode & 0o777, 0o666);
    fs.unlinkSync(name);
    fs.writeFileSync(name, 'not ours');
    assert.throws(() => new Notifications({ path: name }), { code: 'EADDRINUSE' });
    open_.close();
    assert.equal(fs.readFileSync(name, 'utf8'), 'not ours');
  });

  const bad: [NotificationsOptions, string][] = [
    [{ path: '/nonexistent/notify' }, 'ENOENT'],
    [{ path: '' }, 'ERR_INVALID_ARG_VALUE'],
    [{ path: `/${'x'.repeat(120)}` }, 'ERR_OUT_OF_RANGE'],
    [{ storeMax: -1 }, 'ERR_INVALID_ARG_VALUE'],
    [{ storeMax: 1.5 }, 'ERR_INVALID_ARG_VALUE'],
    [{ allow: 'nobody' as 'all' }, 'ERR_INVALID_ARG_VALUE'],
  ];
  for (const [options, code] of bad) {
    test(`${JSON.stringify(options).slice(0, 50)} is ${code}, and nothing stays open`, () => {
      const before = openList();

      assert.throws(() => new Notifications(options), { code });

      assert.deepEqual(openList(), before);
    });
  }
});
