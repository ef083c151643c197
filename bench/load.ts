/**
 * (d) Restarts under load: what is lost, how long the slowest replies take meanwhile, and what two processes hold in memory while both run.
 * Against the plain program under the same load, stopped by SIGTERM and started again: it closes politely, and is away for a while.
 */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { startProcess, startServer, type Scope } from '../test/support/fixture.js';
import { type GoodReply, type Load, type Report, startLoad } from '../test/support/load.js';
import { type Figure, median, root, type Row } from './measure.js';

const LOAD = { newPerSecond: 500, keepAlive: 64, requestsPerSecond: 15 };
const WARM_UP = 1000; // ms; also behind the last restart
const PERIOD = 1000; // ms from one trigger to the next, at least
const WINDOW = 500; // ms from the trigger: what was due then counts as during the restart
const DEADLINE = 15_000; // ms for each step of a restart
const MIB = 2 ** 20;

/** In bytes. RSS counts a page once for each process that has it, PSS in parts. */
interface Memory {
  rss: number;
  pss: number;
}

interface Outcome {
  report: Report;
  replies: GoodReply[];
  /** When each restart was triggered. */
  triggers: number[];
}

export const load: Figure = async ({ quick, scope }) => {
  const restarts = quick ? 2 : 20;
  const { outcome: fdpass, alone, pair } = await restartByFdpass(scope, restarts);
  const other = await stopAndStart(scope, restarts);
  const against = 'stop and start';
  const worst = { new: 'new connections', keepAlive: 'keep-alive requests' } as const;
  const rows: Row[] = [];
  for (const kind of ['new', 'keepAlive'] as const) {
    rows.push({
      figure: `lost ${worst[kind]}, ${restarts} restarts`,
      unit: '',
      fdpass: fdpass.report[kind].lost,
      other: other.report[kind].lost,
      against,
      wanted: { atMost: 0 },
      samples: fdpass.report[kind].sent,
      note: describe(fdpass.report, kind, fdpass.report[kind].lost),
    });
  }
  for (const kind of ['new', 'keepAlive'] as const) {
    const during = slowest(fdpass, kind, true);
    rows.push({
      figure: `p99.9 during restarts, ${worst[kind]}`,
      unit: 'ms',
      fdpass: during.value,
      other: slowest(other, kind, true).value,
      against,
      samples: during.count,
      note: `between restarts ${slowest(fdpass, kind, false).value.toFixed(1)} ms; ${lateness(fdpass.report)}`,
    });
  }
  for (const key of ['rss', 'pss'] as const) {
    const both = median(pair.map((memory) => memory[key])) / MIB;
    const one = median(alone.map((memory) => memory[key])) / MIB;
    rows.push({
      figure: `${key.toUpperCase()} of old and new at the overlap`,
      ...{ unit: 'MiB', fdpass: both, other: one, against: 'one alone', ratio: both / one, ratioOf: 'fdpass / other' },
      samples: pair.length,
    });
  }
  return rows;
};

async function restartByFdpass(
  scope: Scope,
  restarts: number,
): Promise<{ outcome: Outcome; alone: Memory[]; pair: Memory[] }> {
  const server = await startServer(scope, path.join(root, 'examples/http.mjs'), { deadline: DEADLINE });
  const replies: GoodReply[] = [];
  const running = begin(scope, server.port, replies);
  const triggers: number[] = [];
  const alone: Memory[] = [];
  const pair: Memory[] = [];
  await sleep(WARM_UP);
  for (let i = 0; i < restarts; i++) {
    const old = server.newest;
    alone.push(memoryOf(old));
    const began = performance.now();
    triggers.push(began);
    const [reply] = await Promise.all([
      running.waitForReply(`a reply of a new process, restart ${i + 1}`, ({ pid }) => pid !== old, 2 * DEADLINE),
      server.restart(DEADLINE), // fails first, and shows what the server said
    ]);
    const [one, two] = [memoryOf(old), memoryOf(reply.pid)];
    pair.push({ rss: one.rss + two.rss, pss: one.pss + two.pss });
    await server.gone(old, DEADLINE);
    await sleep(began + PERIOD - performance.now());
  }
  await sleep(WARM_UP);
  const report = await running.stop();
  await server.stop(DEADLINE);
  return { outcome: { report, replies, triggers }, alone, pair };
}

async function stopAndStart(scope: Scope, restarts: number): Promise<Outcome> {
  const script = path.join(root, 'bench/fixtures/plain.mjs');
  let server = await startServer(scope, script, { deadline: DEADLINE });
  const { port } = server;
  const replies: GoodReply[] = [];
  const running = begin(scope, port, replies);
  const triggers: number[] = [];
  await sleep(WARM_UP);
  for (let i = 0; i < restarts; i++) {
    const began = performance.now();
    triggers.push(began);
    server.signal('SIGTERM');
    await server.gone(server.pid, DEADLINE);
    await server.kill(); // nobody is left; it lets go of the pipes
    server = startProcess(scope, script, { env: { PORT: String(port) } });
    await server.waitFor('listening on', { from: 0, deadline: DEADLINE });
    await sleep(began + PERIOD - performance.now());
  }
  await sleep(WARM_UP);
  const report = await running.stop();
  await server.kill();
  return { report, replies, triggers };
}

function begin(scope: Scope, port: number, replies: GoodReply[]): Load {
  const running = startLoad({ port, ...LOAD, onReply: (reply) => void replies.push(reply) });
  scope.after(async () => {
    await running.stop();
  });
  return running;
}

/** The p99.9 of what was due in the windows behind the triggers, or outside of them. */
function slowest(
  { replies, triggers }: Outcome,
  kind: 'new' | 'keepAlive',
  during: boolean,
): { value: number; count: number } {
  const isIn = (due: number): boolean => triggers.some((at) => due >= at && due < at + WINDOW) === during;
  const times = replies.filter((reply) => reply.kind === kind && isIn(reply.due)).map(({ due, at }) => at - due);
  times.sort((a, b) => a - b);
  return { value: times[Math.ceil(0.999 * times.length) - 1] ?? NaN, count: times.length };
}

function describe(report: Report, kind: 'new' | 'keepAlive', lost: number): string {
  const reasons = Object.entries(report[kind].reasons).map(([reason, count]) => `${reason} ${count}`);
  const load = `${LOAD.newPerSecond} new connections/s, ${LOAD.keepAlive} keep-alive x ${LOAD.requestsPerSecond} requests/s`;
  return `${lost} of ${report[kind].sent}${lost > 0 ? ` (${reasons.join(', ')})` : ''}; ${load}`;
}

function lateness({ generator }: Report): string {
  const doubt = generator.behind ? ': TOO SLOW, the latencies say nothing' : '';
  return `the load was at most ${generator.late.max.toFixed(0)} ms late, p99 ${generator.late.p99.toFixed(1)} ms${doubt}`;
}

/** proc(5). Fields in kB that are KiB. */
function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'latin1');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1]) * 1024;
  return { rss: field('Rss'), pss: field('Pss') };
}
