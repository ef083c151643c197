/** The life of what was received: the net for what nobody closes, worker threads, and a worker that is ended in the middle. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Worker } from 'node:worker_threads';

import { Channel } from '../../lib/channel.js';
import { channelUrl, closing, node, watchTable } from './support.js';

const collecting = { execArgv: ['--expose-gc'] };
/** Collects until the finalizers have run. */
const collect = `
  const warnings = [];
  process.on('warning', (warning) => warnings.push(warning));
  async function collected(until) {
    const end = performance.now() + 10_000;
    // To look at a WeakRef keeps what it names until the end of the turn: collect before.
    do { await new Promise((resolve) => setTimeout(resolve, 1)); gc(); } while (!until() && performance.now() < end);
  }
`;

describe('the net', () => {
  test('descriptors of a message that nobody holds are closed, with one warning that says how many and of which channel', async (t) => {
    const program = node(
      t,
      `
      ${collect}
      const [a, b] = Channel.pair();
      await a.send('x'); await b.receive();
      const before = table();
      await (async () => { for (let i = 0; i < 3; i++) { await a.send('lost', [0, 1]); void (await b.receive()).fds[0]; } })();
      say(opened(before) === 'nothing');
      await collected(() => opened(before) === 'nothing');
      await new Promise((resolve) => setImmediate(resolve));
      say(opened(before) === 'nothing', warnings.length, warnings[0]?.code, /^2 descriptors of a message of the channel on fd \\d+/.test(warnings[0]?.message));
      `,
      collecting,
    );
    assert.equal(await program.line(), 'false');
    assert.equal(await program.line(), 'true 3 FDPASS_LEAK true');
    await program.ends();
  });

  test('what somebody holds is left alone: one descriptor of a message keeps all of it', async (t) => {
    const program = node(
      t,
      `
      ${collect}
      const [a, b] = Channel.pair();
      const held = await (async () => { await a.send('x', [0, 1, 2]); return (await b.receive()).fds[1]; })();
      let sentinel = new WeakRef({});
      await collected(() => sentinel.deref() === undefined);
      for (let i = 0; i < 5; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 1)); }
      say(held.fd >= 0 && raw.isSame(held.fd, 1), warnings.length);
      held.close();
      `,
      collecting,
    );
    assert.equal(await program.line(), 'true 0');
    await program.ends();
  });

  test("what was taken or closed is nobody's business: no warning, and the number is not closed again", async (t) => {
    const program = node(
      t,
      `
      ${collect}
      const [a, b] = Channel.pair();
      const taken = [];
      let marker;
      await (async () => {
        for (let i = 0; i < 50; i++) {
          await a.send('x', [0, 1, 2]);
          const message = await b.receive();
          if (i === 0) marker = new WeakRef(message);
          taken.push(message.fds[1].take());
          await new Promise((resolve) => setImmediate(resolve)); // it is registered by now
          message.close();
        }
      })();
      await collected(() => marker.deref() === undefined);
      for (let i = 0; i < 5; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 1)); }
      say(marker.deref() === undefined, taken.every((fd) => raw.isSame(fd, 1)), warnings.length);
      `,
      collecting,
    );
    assert.equal(await program.line(), 'true true 0');
    await program.ends();
  });

  test('memory stays flat over many messages', async (t) => {
    const program = node(
      t,
      `
      const [a, b] = Channel.pair();
      async function pass(count) {
        const sending = (async () => { for (let i = 0; i < count; i++) await a.send('sixteen bytes...', 0); })();
        for (let i = 0; i < count; i++) (await b.receive()).close();
        await sending;
      }
      const memory = () => { gc(); gc(); const { heapUsed, arrayBuffers } = process.memoryUsage(); return heapUsed + arrayBuffers; };
      await pass(20_000);
      const before = memory();
      await pass(100_000);
      say((memory() - before) < 1_000_000);
      `,
      collecting,
    );
    assert.equal(await program.line(), 'true');
    await program.ends();
  });
});

describe('worker threads', () => {
  function worker(source: string, workerData: unknown): Worker {
    const code = `
      import { Channel } from ${JSON.stringify(channelUrl)};
      import { parentPort, workerData } from 'node:worker_threads';
      ${source}`;
    return new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData });
  }

  test('a channel between two threads, with descriptors, in four workers at once', async (t) => {
    const { check } = watchTable();
    const ends = await Promise.all(
      [0, 1, 2, 3].map(async (index) => {
        const [here, there] = Channel.pair();
        closing(t, here);
        const thread = worker(
          `
          const channel = Channel.from(workerData);
          for await (const message of channel) {
            await channel.send('echo ' + message.bytes, message.fds);
            message.close();
          }
          channel.close();
          `,
          there.release(),
        );
        const exited = new Promise<number>((resolve) => thread.once('exit', resolve));
        for (let round = 0; round < 50; round++) {
          await here.send(`${index}.${round}`, Array<number>(round).fill(0));
          const message = await here.receive();
          assert.deepEqual([message?.bytes.toString(), message?.fds.length], [`echo ${index}.${round}`, round]);
          message?.close();
        }
        here.close();
        return exited;
      }),
    );
    assert.deepEqual(ends, [0, 0, 0, 0]);
    await check();
  });

  test('workers that are ended in the middle, with all that can wait, harm nobody', async (t) => {
    for (let round = 0; round < 5; round++) {
      const [here, there] = Channel.pair();
      closing(t, here, there);
      const thread = worker(
        `
        const channel = Channel.from(workerData);
        const [a, b] = Channel.pair();
        a.receive(); b.send(Buffer.alloc(3_000_000), 0).catch(() => undefined);
        const [c, d] = Channel.pair();
        await c.send('x', [0, 1, 2]);
        const held = await d.receive();
        d.receive();
        parentPort.postMessage('in the middle');
        for await (const message of channel) message.close();
        `,
        there.fd,
      );
      await new Promise((resolve) => thread.once('message', resolve));
      void here.send('go on', 0);
      await thread.terminate();
      assert.equal(here.closed, false);
      await here.send('still works');
    }
  });
});
