/**
 * (f) What it costs to move open connections to the successor: the time of one, on either side, and how long the event loops stand
 * still meanwhile. Beside the bare system calls, and beside the loop's own longest tick while it has nothing to do.
 * Times are those of the processor, so that other programs disturb them less; a connection's is its batch's, in equal parts.
 */
import path from 'node:path';

import { type Family, type Scope, startServer } from '../test/support/fixture.js';
import type { HoldersReply, HoldersRequest } from './fixtures/holders.js';
import type { PrimitivesReply } from './fixtures/primitives.js';
import { startHelper } from './helper.js';
import { type Figure, median, quantile, root, type Row } from './measure.js';

const DEADLINE = 60_000; // ms
/** How many connections, and how many moves of all of them. */
const SIZES: [connections: number, moves: number][] = [
  [10, 8],
  [1_000, 6],
  [10_000, 4],
];
const QUICK: [connections: number, moves: number][] = [
  [10, 1],
  [1_000, 1],
];
const BESIDE = 'bare calls';
const MOST_BARE = 2_000; // three descriptors each, in one process

type Samples = [connections: number, us: number][];

/** One side of one move. ms. */
interface Side {
  samples: Samples;
  tick: number;
  /** By processor time, all threads. */
  busy: number;
  duration: number;
}

interface Moved {
  sent: Side[];
  received: Side[];
  /** The longest tick without work, of each process. */
  idle: number[];
  closed: number;
}

export const moving: Figure = async ({ quick, scope }) => {
  const rows: Row[] = [];
  for (const [connections, moves] of quick ? QUICK : SIZES) {
    const bare = await primitives(scope, connections);
    const moved = await move(scope, connections, moves);
    rows.push(...rowsOf(connections, moves, moved, bare));
  }
  return rows;
};

async function primitives(scope: Scope, connections: number): Promise<PrimitivesReply> {
  const count = String(Math.min(connections, MOST_BARE));
  const helper = startHelper<never, PrimitivesReply>(scope, 'fixtures/primitives', [count]);
  const reply = await helper.ask();
  await helper.stop();
  return reply;
}

async function move(scope: Scope, connections: number, moves: number): Promise<Moved> {
  const env = { COUNT: String(connections) };
  const server = await startServer(scope, path.join(root, 'bench/fixtures/moving.mjs'), { deadline: DEADLINE, env });
  const clients = startHelper<HoldersRequest, HoldersReply>(scope, 'fixtures/holders');
  await clients.ask({ port: server.port, connections });
  const moved: Moved = { sent: [], received: [], idle: [], closed: 0 };
  moved.idle.push(await said<number>(server, 'idle', 0));
  for (let i = 0; i < moves; i++) {
    const from = server.lines.length;
    const old = server.newest;
    await server.restart(DEADLINE);
    moved.sent.push(await said<Side>(server, 'sent', from));
    moved.received.push(await said<Side>(server, 'received', from));
    const { answered, closed } = await clients.ask('ask');
    moved.closed = Math.max(closed, connections - answered);
    if (moved.closed > 0) break; // no idle second comes
    moved.idle.push(await said<number>(server, 'idle', from));
    await server.gone(old, DEADLINE);
  }
  await clients.stop();
  await server.kill();
  return moved;
}

/** What a process of the server says behind this word. */
async function said<T>(server: Family, word: string, from: number): Promise<T> {
  const { text } = await server.waitFor(new RegExp(`^${word} `), { from, deadline: DEADLINE });
  return JSON.parse(text.slice(word.length)) as T;
}

function rowsOf(connections: number, moves: number, moved: Moved, bare: PrimitivesReply): Row[] {
  const name = connections.toLocaleString('en-US');
  const idle = Math.max(...moved.idle);
  const samples = connections * moves;
  const isSmall = connections < 100; // what comes once is most of it
  const rows: Row[] = [];
  for (const [side, sides, others, most] of [
    ['sender', moved.sent, bare.sent, 25],
    ['receiver', moved.received, bare.received, 50],
  ] as const) {
    const each = eachConnection(sides.flatMap((one) => one.samples));
    const other = eachConnection(others);
    rows.push({
      ...{ figure: `move ${name}, ${side}: one connection`, unit: 'us', fdpass: median(each), other: median(other) },
      ...{ against: BESIDE, samples, ...(isSmall ? {} : { wanted: { atMost: most } }) },
      note:
        `p99 ${quantile(each, 0.99).toFixed(0)} us, ${BESIDE} ${quantile(other, 0.99).toFixed(0)} us; all of them in ` +
        `${median(sides.map(({ duration }) => duration)).toFixed(0)} ms` +
        (isSmall ? '; with what comes once in a process, the self-test and code that had never run' : ''),
    });
  }
  for (const [side, sides] of [
    ['sender', moved.sent],
    ['receiver', moved.received],
  ] as const) {
    const longest = Math.max(...sides.map(({ tick }) => tick));
    rows.push({
      ...{ figure: `move ${name}, ${side}: longest tick above idle`, unit: 'ms', fdpass: Math.max(0, longest - idle) },
      ...{ wanted: { atMost: 20 }, samples: moves },
      note:
        `${longest.toFixed(1)} ms; the longest of all idle ones was ${idle.toFixed(1)} ms; in processor time the longest was ` +
        `${Math.max(...sides.map(({ busy }) => busy)).toFixed(1)} ms, with what the other threads used (collection, compiler)`,
    });
  }
  rows.push({
    ...{ figure: `move ${name}: closed, or not answered after ${moves} moves`, unit: '', fdpass: moved.closed },
    ...{ wanted: { atMost: 0 }, samples },
  });
  if (connections === 10_000) {
    const duration = median(moved.sent.map((side) => side.duration));
    rows.push({
      ...{ figure: `move ${name}: all of them`, unit: 'ms', fdpass: duration },
      ...{ wanted: { atMost: 1_000 }, samples: moves, note: 'from the call of drain() to its end' },
    });
  }
  return rows;
}

/** The time of each connection: its batch's, in equal parts. */
function eachConnection(samples: Samples): number[] {
  return samples.flatMap(([count, us]) => Array.from({ length: count }, () => us / count));
}
