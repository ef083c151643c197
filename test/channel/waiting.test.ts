/** What waits: room for messages that cannot go, mail that has not come, signals that end a wait, and the end of the channel. */
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { describe, test } from 'node:test';

import { Channel } from '../../lib/channel.js';
import * as raw from '../../lib/raw.js';
import { skipUnlessLinux } from '../raw/support.js';
import { closing, node, python, skipWithoutPython, table, watchTable } from './support.js';

/** Lets the event loop turn: whatever could happen by now has happened. */
async function turns(count = 20): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function isPending(promise: Promise<unknown>): Promise<boolean> {
  const pending = Symbol('pending');
  await turns();
  return (await Promise.race([promise, Promise.resolve(pending)])) === pending;
}

describe('a reader that never reads', () => {
  for (const highWater of [{ bytes: 30_000 }, { descriptors: 20 }]) {
    test(`send is pending where the kernel has no room, refuses what is above ${JSON.stringify(highWater)}, and takes as much again afterwards`, async (t) => {
      const [a, b] = Channel.pair({ highWater });
      closing(t, a, b);
      const sendUntilRefused = async (): Promise<{ sent: Promise<void>[]; refusal: Error; before: string[] }> => {
        const sent: Promise<void>[] = [];
        for (let count = 0; count < 10_000; count++) {
          const before = table();
          const one = a.send(Buffer.alloc(1_000), [0, 1]);
          try {
            await Promise.race([one, turns(1)]);
          } catch (refusal) {
            return { sent, refusal: refusal as Error, before };
          }
          sent.push(one);
        }
        throw new Error('never refused');
      };
      const receiveAll = async (sent: Promise<void>[]): Promise<void> => {
        for (let count = 0; count < sent.length; count++) (await b.receive())?.close();
        await Promise.all(sent);
      };

      const { sent, refusal, before } = await sendUntilRefused();

      assert.equal((refusal as NodeJS.ErrnoException).code, 'ERR_FDPASS_LIMIT');
      assert.match(refusal.message, /wait for the promise of send/);
      assert.deepEqual(table(), before);
      assert.ok(await isPending(sent.at(-1) ?? Promise.resolve()));
      await receiveAll(sent);
      const again = await sendUntilRefused(); // there is room for as many as before
      assert.equal(again.sent.length, sent.length);
      await receiveAll(again.sent);
    });
  }

  test('a message above highWater may go alone', async (t) => {
    const [a, b] = Channel.pair({ highWater: { bytes: 10, descriptors: 1 } });
    closing(t, a, b);
    const large = a.send(Buffer.alloc(2_000_000), Array<number>(300).fill(0));
    await assert.rejects(a.send('a byte more, behind it'), { code: 'ERR_FDPASS_LIMIT' });
    const message = await b.receive();
    await large;
    assert.deepEqual([message?.bytes.length, message?.fds.length], [2_000_000, 300]);
    message?.close();
  });

  test('the event loop goes on meanwhile, and close ends the wait and closes the duplicates', async (t) => {
    const { check } = watchTable();
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const first = a.send(Buffer.alloc(3_000_000), 0);
    const second = a.send('behind it', [0, 1, 2]);
    assert.ok(await isPending(first));

    const settled = Promise.allSettled([first, second]);
    a.close();

    for (const each of await settled) {
      assert.equal(each.status === 'rejected' && (each.reason as { code: string }).code, 'ERR_FDPASS_CLOSED');
    }
    await assert.rejects(b.receive(), { code: 'ERR_FDPASS_PROTOCOL', message: /in the middle of/ });
    await check();
  });

  test('sizes above maxBytes and maxDescriptors are refused before anything is sent', async (t) => {
    const [a, b] = Channel.pair({ maxBytes: 10, maxDescriptors: 2 });
    closing(t, a, b);
    await assert.rejects(a.send('12345678901'), { code: 'ERR_FDPASS_LIMIT', message: /11 bytes, at most 10/ });
    await assert.rejects(a.send('x', [0, 0, 0]), { code: 'ERR_FDPASS_LIMIT', message: /3 descriptors, at most 2/ });
    await a.send('1234567890', [0, 0]);
    const message = await b.receive();
    assert.deepEqual([message?.bytes.length, message?.fds.length], [10, 2]);
    message?.close();
  });
});

describe('a reader that sleeps', { skip: skipWithoutPython }, () => {
  test('gets everything, in order, whatever the sizes of its reads (EAGAIN in the middle)', async (t) => {
    const [ours, theirs] = raw.socketPair('stream');
    raw.setNonBlocking(theirs, false);
    raw.setOption(ours, 'sendBuffer', 40_000);
    const channel = Channel.from(ours);
    closing(t, channel);
    const program = python(
      t,
      `
import time, zlib
s = given()
data, fds, frames, taken, check = b'', 0, 0, 0, 0
while True:
    time.sleep(0.0005)
    more, received, flags, address = socket.recv_fds(s, 30011, 253)
    if not more: break
    data += more
    fds += len(received)
    for fd in received: os.close(fd)
    while len(data) >= 12:
        length, = struct.unpack('>I', data[8:12])
        if len(data) < 12 + length: break
        taken += data[5]
        assert taken <= fds
        check = zlib.crc32(data[12:12 + length], check)
        data = data[12 + length:]
        frames += data[:0] == b''
say(frames, taken, fds, len(data), check)
`,
      [theirs],
    );
    raw.close(theirs);

    const { crc32 } = (await import('node:zlib')) as { crc32?: (data: Buffer, value: number) => number };
    let sum = 0;
    for (let index = 0; index < 60; index++) {
      const bytes = Buffer.alloc(index % 9 === 0 ? 200_000 + index : index, index);
      if (crc32 !== undefined) sum = crc32(bytes, sum);
      await channel.send(bytes, Array<number>(index % 5).fill(0));
    }
    channel.close();

    const [frames, taken, fds, rest, check] = (await program.line()).split(' ').map(Number);
    assert.deepEqual([frames, taken, fds, rest], [60, 120, 120, 0]);
    if (crc32 !== undefined) assert.equal(check, sum); // Node 22 and later
    await program.ends();
  });

  test(
    'with the smallest of buffers, on two channels at once, descriptors and frames stay together',
    { skip: skipUnlessLinux },
    async (t) => {
      const { check } = watchTable();
      const bytesOf = (index: number, which: number): Buffer => Buffer.alloc(index * 200, index + 100 * which);
      const passAll = async (which: number): Promise<void> => {
        const [ours, theirs] = raw.socketPair('stream');
        raw.setOption(ours, 'sendBuffer', 1);
        const [a, b] = [Channel.from(ours, { highWater: { descriptors: 2_000 } }), Channel.from(theirs)];
        closing(t, a, b);
        const sent = Array.from({ length: 60 }, (_, index) =>
          a.send(bytesOf(index, which), Array<number>(index).fill(0)),
        );
        for (let index = 0; index < 60; index++) {
          const message = await b.receive();
          assert.ok(message);
          assert.ok(message.bytes.equals(bytesOf(index, which)), `message ${index}`);
          assert.equal(message.fds.length, index);
          message.close();
        }
        await Promise.all(sent);
        a.close();
        b.close();
      };

      await Promise.all([passAll(0), passAll(1)]);

      await check();
    },
  );
});

describe('signals', () => {
  test('receive is aborted, and the message goes to the next one', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const controller = new AbortController();
    const [aborted, other] = [b.receive({ signal: controller.signal }), b.receive()];

    controller.abort(new Error('enough'));
    await assert.rejects(aborted, { name: 'AbortError', code: 'ABORT_ERR' });
    await a.send('for the other one');

    assert.equal((await other)?.bytes.toString(), 'for the other one');
    await assert.rejects(b.receive({ signal: controller.signal }), { name: 'AbortError' });
    await assert.rejects(a.send('x', [], { signal: controller.signal }), { name: 'AbortError' });
  });

  test('a send that waits is taken back, with its descriptors', async (t) => {
    const { check } = watchTable();
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const first = a.send(Buffer.alloc(2_000_000));
    const controller = new AbortController();
    const second = a.send('taken back', [0, 1], { signal: controller.signal });
    const third = a.send('third');

    controller.abort();

    await assert.rejects(second, { name: 'AbortError', code: 'ABORT_ERR' });
    assert.equal((await b.receive())?.bytes.length, 2_000_000);
    assert.equal((await b.receive())?.bytes.toString(), 'third');
    await Promise.all([first, third]);
    a.close();
    b.close();
    await check();
  });

  test('one that has begun is completed, though its promise is rejected: half a message would spoil the channel', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const controller = new AbortController();
    const bytes = Buffer.alloc(2_000_000, 7);
    const sent = a.send(bytes, [0, 1], { signal: controller.signal });

    controller.abort();

    await assert.rejects(sent, { name: 'AbortError' });
    bytes.fill(9); // they are the caller's again
    const message = await b.receive();
    assert.ok(message);
    assert.ok(message.bytes.equals(Buffer.alloc(2_000_000, 7)));
    assert.equal(message.fds.length, 2);
    message.close();
    await a.send('next');
    assert.equal((await b.receive())?.bytes.toString(), 'next');
  });

  test('a signal that comes when all is over does nothing, and nothing listens to it any more', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const { signal } = new AbortController();
    const received = [b.receive({ signal }), b.receive({ signal })];
    await a.send(Buffer.alloc(1_000_000), 0, { signal });
    await a.send('x', [], { signal });
    for (const message of await Promise.all(received)) message?.close();

    assert.deepEqual(getEventListeners(signal, 'abort'), []);
  });
});

describe('close', () => {
  test('where somebody else watches the number, who waits is told, and the channel is closed', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const watch = raw.watch(b.fd, { readable: true }, () => undefined);
    t.after(() => watch.close());

    await assert.rejects(b.receive(), { code: 'EEXIST' });

    assert.equal(b.closed, true);
  });

  test('who waits for a message is told, what was received and not taken is closed, a second time does nothing', async (t) => {
    const { check } = watchTable();
    const [a, b] = Channel.pair();
    closing(t, a);
    for (let index = 0; index < 10; index++) await a.send('x', [0, 1]);
    (await b.receive())?.close(); // the other nine have been read with it
    const [c, d] = Channel.pair();
    const waiting = [d.receive(), d.receive()];

    b.close();
    b.close();
    c.close();
    d.close();

    for (const each of waiting) await assert.rejects(each, { code: 'ERR_FDPASS_CLOSED' });
    await assert.rejects(b.receive(), { code: 'ERR_FDPASS_CLOSED' });
    assert.throws(() => b.release(), { code: 'ERR_FDPASS_CLOSED' });
    assert.throws(() => b.peer, { code: 'ERR_FDPASS_CLOSED' });
    a.close();
    await check();
  });

  test('Symbol.asyncDispose waits until what was sent has gone', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, b);
    const sent = a.send(Buffer.alloc(2_000_000), 0);

    const disposed = a[Symbol.asyncDispose]();
    assert.equal(a.closed, false);
    const message = await b.receive();
    await Promise.all([disposed, sent]);

    assert.equal(message?.bytes.length, 2_000_000);
    message.close();
    assert.equal(a.closed, true);
    assert.equal(await b.receive(), undefined);
  });
});

describe('the process', () => {
  test('ends though a channel is open, where nothing waits', async (t) => {
    const program = node(t, `const [a, b] = Channel.pair(); await a.send('x'); await b.receive(); say('done');`);
    assert.equal(await program.line(), 'done');
    await program.ends();
  });

  test("stays while somebody waits, and does not where the channel is unref'd", async (t) => {
    const stays = node(
      t,
      `
      const [a, b] = Channel.pair();
      const child = Channel.from(3);
      say('waits');
      const message = await child.receive();
      say(message.bytes.toString());
      `,
      { fds: [...given(t)] },
    );
    assert.equal(await stays.line(), 'waits');
    await here?.send('now');
    assert.equal(await stays.line(), 'now');
    await stays.ends();

    const goes = node(
      t,
      `
      const [a, b] = Channel.pair();
      b.receive(); b.unref();
      a.unref(); a.send(Buffer.alloc(3_000_000)).catch(() => undefined);
      say('goes');
      `,
    );
    assert.equal(await goes.line(), 'goes');
    await goes.ends();
  });

  let here: Channel | undefined;
  function* given(t: Parameters<typeof closing>[0]): Generator<number> {
    const [a, b] = Channel.pair();
    here = a;
    closing(t, a, b);
    yield b.fd;
  }

  test('a sender that awaits each promise leaves their turn to timers and to others, though there is always room', async (t) => {
    const [ours, theirs] = raw.socketPair('stream');
    raw.setOption(ours, 'sendBuffer', 2 ** 20); // the kernel makes of it what it allows: room for 300 at least
    const [a, b] = [Channel.from(ours), Channel.from(theirs)];
    closing(t, a, b);
    let turn = 0;
    setImmediate(() => turn++);

    for (let index = 0; index < 300; index++) await a.send('x');

    assert.equal(turn, 1);
    for (let index = 0; index < 300; index++) assert.equal((await b.receive())?.bytes.toString(), 'x');
  });
});
