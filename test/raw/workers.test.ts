/**
 * Worker threads: the addon loads in several at once, each has its own state, and the end of one harms nobody.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';

import * as raw from '../../lib/raw.js';
import { openList, scriptOutput, skipUnlessLinux } from './support.js';

const rawUrl = new URL('../../lib/raw.js', import.meta.url).href;

interface Running {
  worker: Worker;
  /** Its exit code. Asked for at the start: the event may come before a test waits for it. */
  exited: Promise<number>;
}

/** A worker that runs this source, with `raw` and `parentPort` at hand. */
function startWorker(source: string): Running {
  const code = `
    import * as raw from ${JSON.stringify(rawUrl)};
    import { parentPort, workerData } from 'node:worker_threads';
    ${source}`;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`));
  const exited = new Promise<number>((resolve) => worker.once('exit', resolve));
  return { worker, exited };
}

async function message({ worker }: Running): Promise<unknown> {
  const [value] = (await once(worker, 'message')) as [unknown];
  return value;
}

/** Every kind of thing a worker can be in the middle of: idle watches, ready ones, rights on the way. */
const busy = `
  const pairs = Array.from({ length: 8 }, () => raw.socketPair('stream'));
  const watches = pairs.map(([, right]) => raw.watch(right, { readable: true }, () => { calls++; }));
  let calls = 0;
  raw.send(pairs[0][0], Buffer.from('x'), [0, 0]);
  pairs.slice(4).forEach(([, right], index) => watches[4 + index].close());
  parentPort.postMessage(pairs.flat());
`;

test('eight workers load the addon at once, use it, and end by themselves', async () => {
  const workers = Array.from({ length: 8 }, () =>
    startWorker(`
      const [left, right] = raw.socketPair('stream');
      const watch = raw.watch(right, { readable: true }, () => {
        const { bytes, fds } = raw.receive(right, 100);
        watch.close();
        for (const fd of [left, right, ...fds]) raw.close(fd);
        parentPort.postMessage(bytes.toString() + fds.length);
      });
      raw.send(left, Buffer.from('x'), [left, right]);
    `),
  );

  const said = await Promise.all(workers.map(message));

  assert.deepEqual(said, Array<string>(8).fill('x2'));
  assert.deepEqual(await Promise.all(workers.map(({ exited }) => exited)), Array<number>(8).fill(0));
});

test('eight workers terminated with open watches, again and again: nobody is harmed', async () => {
  for (let round = 0; round < 4; round++) {
    const workers = Array.from({ length: 8 }, () => startWorker(busy));
    const fds = (await Promise.all(workers.map(message))) as number[][];

    await Promise.all(workers.map(({ worker }) => worker.terminate()));

    for (const fd of fds.flat()) raw.close(fd); // descriptors are the process's: they outlive the thread
  }
});

test('the end of a worker closes what its watches opened for themselves', { skip: skipUnlessLinux }, async () => {
  const source = `
    const [left, right] = raw.socketPair('stream');
    for (let count = 0; count < 4; count++) raw.watch(right, { hangUp: true }, () => undefined);
    const [gone, here] = raw.socketPair('stream');
    raw.watch(here, { hangUp: true }, () => undefined);
    raw.close(gone);
    setTimeout(() => parentPort.postMessage([left, right, here]), 5);`;
  const epolls = (): number => raw.openDescriptors().filter(({ target }) => target.includes('eventpoll')).length;
  const before = epolls();

  const running = startWorker(source);
  const fds = (await message(running)) as number[];
  assert.ok(epolls() >= before + 5);
  await running.worker.terminate();

  assert.equal(epolls(), before);
  for (const fd of fds) raw.close(fd);
});

/** A script of the main thread for a process of its own: what a terminated worker held is lost with that process. */
const inOwnProcess = (workerSource: string, act: string): string => `
  import { once } from 'node:events';
  import { Worker } from 'node:worker_threads';
  const code = 'import * as raw from ' + ${JSON.stringify(JSON.stringify(rawUrl))} + ';' +
    'import { parentPort } from "node:worker_threads";' + ${JSON.stringify(workerSource)};
  const start = () => new Worker(new URL('data:text/javascript,' + encodeURIComponent(code)));
  ${act}
  console.log('end');
`;

test('a worker terminated while it loads', async (t) => {
  const act = `
    for (let round = 0; round < 16; round++) {
      const worker = start();
      await once(worker, 'online');
      await worker.terminate();
    }`;

  assert.equal(await scriptOutput(t, inOwnProcess(busy, act)), 'end\n');
});

test('a worker terminated in the middle of a loop of calls that throw and calls that open', async (t) => {
  const loop = `
    parentPort.postMessage('ready');
    while (true) {
      try { raw.dup(100_000_000); } catch {}
      try { raw.bind(0, { family: 'IPv4', address: 'x', port: 1 }); } catch {}
      const [left, right] = raw.socketPair('stream');
      raw.send(left, Buffer.from('x'), [0, 0]);
      for (const fd of [left, right, ...raw.receive(right, 10).fds]) raw.close(fd);
    }`;
  const act = `
    for (let round = 0; round < 4; round++) {
      const workers = [start(), start(), start(), start()];
      await Promise.all(workers.map((worker) => once(worker, 'message')));
      await Promise.all(workers.map((worker) => worker.terminate()));
    }`;

  assert.equal(await scriptOutput(t, inOwnProcess(loop, act)), 'end\n');
});

test('a worker that ends inside the callback of a watch: process.exit, terminate, throw', async () => {
  const ready = `
    const [left, right] = raw.socketPair('stream');
    raw.send(left, Buffer.from('x'));
    raw.watch(right, { readable: true }, () => { END });`;

  const exits = startWorker(ready.replace('END', 'process.exit(7)'));
  const throwing = startWorker(ready.replace('END', `throw new Error('of the callback')`));
  const endless = startWorker(ready.replace('END', `parentPort.postMessage('in'); while (true);`));
  const entered = message(endless);
  const [code, [error]] = (await Promise.all([exits.exited, once(throwing.worker, 'error')])) as [number, Error[]];
  await entered;
  await endless.worker.terminate();

  assert.equal(code, 7);
  assert.equal(error?.message, 'of the callback');
});

test('each thread has its own watches: the same descriptor can be watched in two', async (t) => {
  const [left, right] = raw.socketPair('stream');
  t.after(() => {
    raw.close(left);
    raw.close(right);
  });
  using watch = raw.watch(right, { readable: true }, () => undefined);
  const worker = startWorker(`
    const watch = raw.watch(${right}, { readable: true }, (events) => { watch.close(); parentPort.postMessage(events); });
  `);

  raw.send(left, Buffer.from('x'));

  assert.ok(watch instanceof raw.Watch);
  assert.deepEqual(await message(worker), { readable: true, writable: false, error: false });
  await worker.exited;
});

test('workers leave the list of descriptors as it was', async () => {
  const use = async (): Promise<void> => {
    const { exited } = startWorker(`
      const watches = [0, 1].map(() => raw.socketPair('stream')).map(([a, b]) => [raw.watch(a, { readable: true }, () => {}), a, b]);
      for (const [watch, a, b] of watches) { watch.close(); raw.close(a); raw.close(b); }
    `);
    await exited;
  };
  await use(); // Node opens things of its own for the first one
  const before = openList();

  for (let round = 0; round < 3; round++) await use();

  assert.deepEqual(openList(), before);
});

test('a process that exits while its workers have open watches ends clean', async (t) => {
  const act = `
    const workers = Array.from({ length: 8 }, start);
    await Promise.all(workers.map((worker) => once(worker, 'message')));
    process.on('exit', () => console.log('exits'));
    process.exit(0);`;

  assert.equal(await scriptOutput(t, inOwnProcess(busy, act)), 'exits\n');
});
