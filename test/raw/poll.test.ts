/**
 * Readiness on the event loop: what a watch tells, how it ends, and what a callback may do.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { AsyncLocalStorage } from 'node:async_hooks';
import { test } from 'node:test';

import * as raw from '../../lib/raw.js';
import {
  closeAfter,
  listenLoopback,
  openList,
  runScript,
  scriptOutput,
  skipUnlessLinux,
  throwsSystem,
  until,
} from './support.js';

/** Calls back, in order, and lets a test wait for the next one. */
function recorder(): { callback: (events: raw.WatchEvents) => void; next: () => Promise<raw.WatchEvents> } {
  const waiting: ((events: raw.WatchEvents) => void)[] = [];
  return {
    callback: (events) => waiting.shift()?.(events),
    next: () => new Promise((resolve) => waiting.push(resolve)),
  };
}

/** Lets the event loop poll. */
async function turn(times = 3): Promise<void> {
  for (let count = 0; count < times; count++) await new Promise((resolve) => setImmediate(resolve));
}

test('a watch tells when there is something to read, again and again until it is read', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const { callback, next } = recorder();
  using watch = raw.watch(right, { readable: true }, callback);
  raw.send(left, Buffer.from('x'));

  const first = await next();
  const second = await next();
  raw.receive(right, 1);
  let calls = 0;
  watch.close();
  using quiet = raw.watch(right, { readable: true }, () => calls++);
  await turn();

  assert.ok(quiet instanceof raw.Watch);
  assert.deepEqual(first, { readable: true, writable: false, error: false });
  assert.deepEqual(second, first);
  assert.equal(calls, 0);
});

test('writable alone, and both at once', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.send(left, Buffer.from('x'));
  const { callback, next } = recorder();
  using watch = raw.watch(right, { writable: true }, callback);

  const alone = await next();
  watch.update({ readable: true, writable: true });
  const both = await next();

  assert.deepEqual(alone, { readable: false, writable: true, error: false });
  assert.deepEqual(both, { readable: true, writable: true, error: false });
});

test('a watch of nothing rests until it is updated', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.send(left, Buffer.from('x'));
  let calls = 0;
  const { callback, next } = recorder();
  using watch = raw.watch(right, {}, (events) => {
    calls++;
    callback(events);
  });
  await turn();
  assert.equal(calls, 0);

  watch.update({ readable: true });
  await next();
  watch.update({});
  const before = calls;
  await turn();

  assert.equal(calls, before);
});

test('the other end is gone: readable and error, whatever was asked for', async (t) => {
  for (const interest of [{ readable: true }, { writable: true }, { readable: true, writable: true }]) {
    const [left, right] = raw.socketPair('stream');
    closeAfter(t, right);
    raw.close(left);
    const { callback, next } = recorder();
    using watch = raw.watch(right, interest, callback);

    const events = await next();

    assert.ok(watch instanceof raw.Watch);
    assert.equal(events.readable, true);
    assert.equal(events.error, true);
    assert.deepEqual(raw.receive(right, 1)?.bytes.length, 0);
  }
});

test('an error that waits is told as often as it takes; libuv alone would stop after the first', async (t) => {
  const { fd: listener, address } = listenLoopback(t);
  raw.close(listener);
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);
  raw.connect(fd, address);
  const { callback, next } = recorder();
  using watch = raw.watch(fd, { writable: true }, callback);

  const first = await next();
  const second = await next();

  assert.ok(watch instanceof raw.Watch);
  assert.equal(first.error && first.readable, true);
  assert.equal(second.error && second.readable, true);
});

test('a UDP socket goes on after the error of one datagram', { skip: skipUnlessLinux }, async (t) => {
  const sender = raw.socket('IPv4', 'dgram');
  const receiver = raw.socket('IPv4', 'dgram');
  closeAfter(t, sender, receiver);
  raw.bind(sender, { family: 'IPv4', address: '127.0.0.1', port: 0 });
  raw.bind(receiver, { family: 'IPv4', address: '127.0.0.1', port: 0 });
  const address = raw.localAddress(receiver);
  raw.close(receiver);
  raw.connect(sender, address);
  const { callback, next } = recorder();
  using watch = raw.watch(sender, { readable: true }, callback);

  raw.send(sender, Buffer.from('to nobody'));
  const failed = await next();
  throwsSystem(() => raw.receive(sender, 1), 'ECONNREFUSED', 'recvmsg', /fd/); // takes the error
  const again = raw.socket('IPv4', 'dgram');
  closeAfter(t, again);
  raw.bind(again, address);
  raw.send(again, Buffer.from('from somebody'), [], raw.localAddress(sender));
  const good = await next();

  assert.ok(watch instanceof raw.Watch);
  assert.equal(failed.error, true);
  assert.deepEqual(good, { readable: true, writable: false, error: false });
});

test('a listener and a pidfd can be watched', { skip: skipUnlessLinux }, async (t) => {
  const { fd: listener, address } = listenLoopback(t);
  const client = raw.socket('IPv4', 'stream');
  closeAfter(t, client);
  const { spawn } = await import('node:child_process');
  const child = spawn('cat');
  const pidfd = raw.pidfdOpen(child.pid ?? -1);
  closeAfter(t, pidfd);

  raw.connect(client, address);
  const connection = await until(listener, 'readable');
  const ended = until(pidfd, 'readable');
  child.stdin.end();

  assert.deepEqual(connection, { readable: true, writable: false, error: false });
  assert.equal((await ended).readable, true);
});

test('close inside the callback: no further call, a second close does nothing', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.send(left, Buffer.from('x'));
  let calls = 0;

  await new Promise<void>((resolve) => {
    const watch = raw.watch(right, { readable: true }, () => {
      calls++;
      watch.close();
      watch.close();
      resolve();
    });
  });
  await turn();

  assert.equal(calls, 1);
});

test('close inside the callback of another watch that is ready in the same turn', async (t) => {
  const pairs = [raw.socketPair('stream'), raw.socketPair('stream'), raw.socketPair('stream')] as const;
  closeAfter(t, ...pairs.flat());
  let calls = 0;
  const watches: raw.Watch[] = [];

  await new Promise<void>((resolve) => {
    for (const [left, right] of pairs) {
      raw.send(left, Buffer.from('x'));
      watches.push(
        raw.watch(right, { readable: true }, () => {
          calls++;
          for (const watch of watches) watch.close();
          resolve();
        }),
      );
    }
  });
  await turn();

  assert.equal(calls, 1);
});

test('the descriptor may be closed in the callback, after its watch', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left);
  const before = openList().filter((line) => !line.startsWith(`${right} `));
  raw.send(left, Buffer.from('x'));

  await new Promise<void>((resolve) => {
    const watch = raw.watch(right, { readable: true }, () => {
      watch.close();
      raw.close(right);
      resolve();
    });
  });
  await turn();

  assert.deepEqual(openList(), before);
});

test('a closed watch can be made anew at the same number, at once', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.send(left, Buffer.from('x'));
  for (let round = 0; round < 100; round++) raw.watch(right, { readable: true }, () => undefined).close();

  const events = await until(right, 'readable');

  assert.equal(events.readable, true);
});

test('a second watch of one descriptor is EEXIST, a resting one too', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  using active = raw.watch(right, { readable: true }, () => undefined);
  using resting = raw.watch(left, {}, () => undefined);

  assert.ok(active instanceof raw.Watch && resting instanceof raw.Watch);
  throwsSystem(() => raw.watch(right, {}, () => undefined), 'EEXIST', 'uv_poll', new RegExp(`watch of fd ${right}`));
  throwsSystem(() => raw.watch(left, { writable: true }, () => undefined), 'EEXIST', 'uv_poll', /watch of fd/);
});

test('a file or directory cannot be watched: EPERM', { skip: skipUnlessLinux }, (t) => {
  for (const name of [process.execPath, '/']) {
    const fd = fs.openSync(name, 'r');
    closeAfter(t, fd);

    throwsSystem(() => raw.watch(fd, { readable: true }, () => undefined), 'EPERM', 'uv_poll', new RegExp(`fd ${fd}`));
    // and the number is not taken for watched afterwards
    throwsSystem(() => raw.watch(fd, { readable: true }, () => undefined), 'EPERM', 'uv_poll', new RegExp(`fd ${fd}`));
  }
});

test('after close: update is EBADF, ref and unref do nothing', (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const watch = raw.watch(right, { readable: true }, () => undefined);
  watch.close();

  throwsSystem(
    () => {
      watch.update({ readable: true });
    },
    'EBADF',
    'uv_poll',
    new RegExp(`watch of fd ${right}`),
  );
  watch.ref();
  watch.unref();
  watch[Symbol.dispose]();
});

test('update names what is wrong, and leaves the watch as it was', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const { callback, next } = recorder();
  using watch = raw.watch(right, { readable: true }, callback);

  assert.throws(
    () => {
      watch.update({ writable: 'yes' as unknown as boolean });
    },
    { code: 'ERR_INVALID_ARG_TYPE', message: /"events.writable"/ },
  );
  raw.send(left, Buffer.from('x'));

  assert.deepEqual(await next(), { readable: true, writable: false, error: false });
});

test('the async context of watch() is that of the callback', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  const storage = new AsyncLocalStorage<string>();

  const seen = await new Promise((resolve) => {
    storage.run('of the maker', () => {
      const watch = raw.watch(right, { readable: true }, () => {
        watch.close();
        resolve(storage.getStore());
      });
    });
    raw.send(left, Buffer.from('x'));
  });

  assert.equal(seen, 'of the maker');
});

test('ticks and microtasks of the callback run before the next event', async (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.send(left, Buffer.from('x'));
  const order: string[] = [];

  await new Promise<void>((resolve) => {
    const watch = raw.watch(right, { readable: true }, () => {
      order.push('call');
      process.nextTick(() => order.push('tick'));
      queueMicrotask(() => order.push('microtask'));
      if (order.length > 3) {
        watch.close();
        resolve();
      }
    });
  });

  assert.deepEqual(order.slice(0, 4), ['call', 'tick', 'microtask', 'call']);
});

const readyPair = `
  const [left, right] = raw.socketPair('stream');
  raw.send(left, Buffer.from('x'));
`;

test('an exception of the callback is an uncaughtException, and the watch goes on', async (t) => {
  const output = await scriptOutput(
    t,
    `${readyPair}
    let calls = 0;
    process.on('uncaughtException', (error, origin) => console.log(error.message, origin));
    const watch = raw.watch(right, { readable: true }, () => {
      if (++calls === 2) watch.close();
      throw new Error('of call ' + calls);
    });`,
  );

  assert.equal(output, 'of call 1 uncaughtException\nof call 2 uncaughtException\n');
});

test('what is thrown may be anything', async (t) => {
  const output = await scriptOutput(
    t,
    `${readyPair}
    const thrown = [undefined, null, 7, 'text', Symbol.for('s'), Object.freeze({})];
    process.on('uncaughtException', (error) => console.log(typeof error, String(error)));
    const watch = raw.watch(right, { readable: true }, () => {
      const value = thrown.shift();
      if (thrown.length === 0) watch.close();
      throw value;
    });`,
  );

  assert.equal(
    output,
    'undefined undefined\nobject null\nnumber 7\nstring text\nsymbol Symbol(s)\nobject [object Object]\n',
  );
});

test('an exception that nobody catches ends the process with its stack', async (t) => {
  const { code, stderr } = await runScript(
    t,
    `${readyPair} raw.watch(right, { readable: true }, function ofTheUser() { throw new Error('nobody catches'); });`,
  );

  assert.equal(code, 1);
  assert.match(stderr, /Error: nobody catches\n\s+at .*ofTheUser/);
});

test('an open watch keeps the process alive; unref lets it end', { timeout: 20_000 }, async (t) => {
  const idle = `const [left, right] = raw.socketPair('stream');`;

  await scriptOutput(t, `${idle} raw.watch(right, { readable: true }, () => {}).unref();`);
  const output = await scriptOutput(
    t,
    `${idle}
    const watch = raw.watch(right, { readable: true }, () => { console.log('alive'); watch.close(); });
    watch.unref();
    watch.ref();
    setTimeout(() => raw.send(left, Buffer.from('x')), 20).unref();
    `,
  );

  assert.equal(output, 'alive\n');
});

for (const [name, end] of [
  ['process.exit', 'process.exit(0)'],
  ['process.exit in a callback', `raw.send(left, Buffer.from('x'))`],
  ['the natural end', 'for (const watch of watches) watch.unref()'],
  ['a close of all', 'for (const watch of watches) watch.close()'],
  ['a close, and process.exit before libuv has closed', 'for (const watch of watches) watch.close(); process.exit(0)'],
] as const) {
  test(`the process ends clean with open watches: ${name}`, async (t) => {
    const output = await scriptOutput(
      t,
      `
      const watches = [];
      let left, right;
      for (let count = 0; count < 20; count++) {
        [left, right] = raw.socketPair('stream');
        watches.push(raw.watch(right, { readable: true }, () => process.exit(0)));
      }
      process.on('exit', () => console.log('end'));
      ${end};`,
    );

    assert.equal(output, 'end\n');
  });
}

test('a watch whose object was collected goes on, and the end of the process finds it closed', async (t) => {
  const output = await scriptOutput(
    t,
    `
    const [left, right] = raw.socketPair('stream');
    let told;
    const done = new Promise((resolve) => (told = resolve));
    (() => {
      let watch = raw.watch(right, { readable: true }, () => { console.log('told'); raw.receive(right, 10); told(); });
      registry = new FinalizationRegistry(() => console.log('collected'));
      registry.register(watch, 0);
      watch.unref();
      watch = undefined;
    })();
    var registry;
    for (let round = 0; round < 10; round++) { globalThis.gc(); await new Promise((resolve) => setImmediate(resolve)); }
    raw.send(left, Buffer.from('x'));
    await new Promise((resolve) => setImmediate(resolve));
    await done;
    `,
    { execArgv: ['--expose-gc'] },
  );

  assert.equal(output, 'collected\ntold\n');
});

test('many watches, closed and collected in any order, leave nothing', async (t) => {
  const output = await scriptOutput(
    t,
    `
    const list = () => raw.openDescriptors().map(({ fd, target }) => fd + ' ' + target).join();
    const before = list();
    for (let round = 0; round < 50; round++) {
      const pairs = Array.from({ length: 20 }, () => raw.socketPair('stream'));
      let watches = pairs.map(([, right], index) => raw.watch(right, index % 3 ? { readable: true } : {}, () => {}));
      for (const [left] of pairs) raw.send(left, Buffer.from('x'));
      await new Promise((resolve) => setImmediate(resolve));
      if (round % 2) globalThis.gc();
      for (const watch of watches) watch.close();
      watches = undefined;
      if (round % 3) globalThis.gc();
      for (const fd of pairs.flat()) raw.close(fd);
    }
    console.log(list() === before);
    `,
    { execArgv: ['--expose-gc'] },
  );

  assert.equal(output, 'true\n');
});

test(
  'hangUp waits for the end of the other side and for nothing else, beside another watch',
  { skip: skipUnlessLinux },
  async (t) => {
    const before = openList();
    const [left, right] = raw.socketPair('stream');
    closeAfter(t, left, right);
    let told = (): void => undefined;
    const hungUp = new Promise<void>((resolve) => (told = resolve));
    const events: raw.WatchEvents[] = [];
    using watch = raw.watch(right, { hangUp: true }, (each) => {
      events.push(each);
      told();
    });
    using second = raw.watch(right, { hangUp: true }, () => undefined); // each has a descriptor of its own
    const { callback, next } = recorder();
    using reader = raw.watch(right, { readable: true }, callback);

    raw.send(left, Buffer.from('x'));
    assert.deepEqual(await next(), { readable: true, writable: false, error: false });
    raw.shutdown(left, 'write');
    raw.shutdown(right, 'read');
    await turn(10);
    assert.deepEqual(events, []);
    reader.close();

    raw.close(left);
    await hungUp;
    assert.deepEqual(events[0], { readable: true, writable: false, error: true });
    await turn();
    assert.ok(events.length > 1, 'level-triggered');
    watch.update({});
    const { length } = events;
    await turn();
    assert.equal(events.length, length);

    watch.close();
    second.close();
    raw.close(right);
    assert.deepEqual(openList(), before);
  },
);

test('hangUp leaves the descriptor as it was: blocking', { skip: skipUnlessLinux }, (t) => {
  const [left, right] = raw.socketPair('stream');
  closeAfter(t, left, right);
  raw.setNonBlocking(right, false);

  raw.watch(right, { hangUp: true }, () => undefined).close();

  assert.equal(raw.getNonBlocking(right), false);
});

test('hangUp stands alone, and for life; a file cannot hang up', { skip: skipUnlessLinux }, (t) => {
  const [left, right] = raw.socketPair('stream');
  const file = raw.memoryFile('x');
  closeAfter(t, left, right, file);
  const before = openList();
  const nothing = (): void => undefined;
  using hangUp = raw.watch(left, { hangUp: true }, nothing);
  using plain = raw.watch(right, { readable: true }, nothing);
  const refused = { name: 'TypeError', code: 'ERR_INVALID_ARG_VALUE', message: /'events' must/ };

  assert.throws(() => raw.watch(left, { hangUp: true, readable: true }, nothing), refused);
  assert.throws(() => {
    hangUp.update({ writable: true });
  }, refused);
  assert.throws(() => {
    plain.update({ hangUp: true });
  }, refused);
  assert.throws(() => raw.watch(file, { hangUp: true }, nothing), { code: 'EPERM', syscall: 'epoll_ctl', fd: file });

  hangUp.close();
  plain.close();
  assert.deepEqual(openList(), before);
});
