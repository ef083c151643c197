/**
 * (b) From the trigger of a restart to the first reply of the successor, against the same program without fdpass, from its start
 * to its first reply. A new process has to start either way, and that is most of it. Nothing but the client that asks runs beside it.
 */
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { BadReply, readPidReply } from '../test/support/client.js';
import { type Family, startProcess, startServer } from '../test/support/fixture.js';
import { type Figure, pairRow, type Pairs, root, samplePairs } from './measure.js';
import { processorTime } from './processor.js';

const POLL = 2; // ms between the end of one question and the next
const DEADLINE = 30_000; // ms
const SETTLE = 100; // ms: what the last sample has left to the kernel is not the next one's

export const restart: Figure = async ({ quick, scope }) => {
  const server = await startServer(scope, path.join(root, 'examples/http.mjs'), { deadline: DEADLINE });
  let time: Pairs = { fdpass: [], other: [] };
  const fdpass = async (): Promise<number> => {
    const old = server.newest;
    const began = performance.now();
    server.signal('SIGUSR2');
    const { pid, at } = await firstReply(server.port, (other) => other !== old);
    time.fdpass.push(processorTime(pid) / 1000);
    await generationOf(server, pid);
    await server.gone(old, DEADLINE);
    await sleep(SETTLE);
    return at - began;
  };
  const other = async (): Promise<number> => {
    const port = await freePort();
    const began = performance.now();
    const plain = startProcess(scope, path.join(root, 'bench/fixtures/plain.mjs'), { env: { PORT: String(port) } });
    const { at } = await firstReply(port, (pid) => pid === plain.pid);
    time.other.push(processorTime(plain.pid) / 1000);
    await plain.kill();
    await sleep(SETTLE);
    return at - began;
  };
  await samplePairs(1, fdpass, other); // what is read from disk once is in memory now
  time = { fdpass: [], other: [] };
  const pairs = await samplePairs(quick ? 2 : 15, fdpass, other);
  await server.stop();
  return [
    pairRow(pairs, {
      figure: 'restart: trigger to first reply',
      unit: 'ms',
      against: 'plain start',
      ratioOf: 'fdpass / other',
      wanted: { atMost: 1.25 },
    }),
    pairRow(time, {
      figure: 'processor time to the first reply',
      unit: 'ms',
      against: 'plain start',
      ratioOf: 'fdpass / other',
      note: 'main thread of the new process',
    }),
  ];
};

/** It says that it listens about when it first replies, a moment before or after. */
async function generationOf(server: Family, pid: number): Promise<void> {
  if (server.newest !== pid) await server.waitFor(`pid ${pid}, `, { from: 0, deadline: DEADLINE });
}

/** Asks again and again, each time on a new connection, until such a process replies. */
async function firstReply(port: number, wanted: (pid: number) => boolean): Promise<{ pid: number; at: number }> {
  const end = performance.now() + DEADLINE;
  while (performance.now() < end) {
    const pid = await pidAt(port);
    if (pid !== undefined && wanted(pid)) return { pid, at: performance.now() };
    await sleep(POLL);
  }
  throw new Error(`No new process replied at port ${port} within ${DEADLINE} ms`);
}

/** Who replies; undefined where nobody does. */
async function pidAt(port: number): Promise<number | undefined> {
  return await new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
    let received = Buffer.alloc(0);
    socket.on('data', (bytes) => {
      received = Buffer.concat([received, bytes]);
      try {
        const reply = readPidReply(received, /^(\d+)\n$/);
        if (reply === undefined) return;
        resolve(reply.pid);
      } catch (error) {
        reject(error instanceof BadReply ? error : new Error('unreachable', { cause: error }));
      }
      socket.destroy();
    });
    socket.on('error', () => resolve(undefined));
    socket.on('close', () => resolve(undefined));
    socket.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n');
  });
}

/** A port that nobody has now: the client of a plain start must know it before the program says it. */
export async function freePort(): Promise<number> {
  const server = net.createServer().listen({ port: 0, host: '127.0.0.1' });
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
