/**
 * A load that cannot fail proves nothing: faults are planted, and both generators (load.ts and load.c) must count each of them exactly.
 */
import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { text } from 'node:stream/consumers';
import test, { after, before, describe, type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { setTimeout as sleep } from 'node:timers/promises';

import { openSockets } from './audit.js';
import { startFaulty, SLOW, type Fault } from './faulty.js';
import { startServer, temporaryDirectory, type Family } from './fixture.js';
import type { Latency } from './latency.js';
import { startLoad, type Kind, type LoadOptions, type Report, type Tally } from './load.js';

/** What both generators report alike. */
type Outcome = Pick<Report, 'new' | 'keepAlive' | 'stray' | 'latency'> & { seconds: number; late: number };
/** Runs until `enough` resolves. */
type Generator = (t: TestContext, options: LoadOptions, enough: Promise<unknown>) => Promise<Outcome>;

const SOURCE = path.join(path.dirname(fileURLToPath(import.meta.url)), '../../../test/support/load.c');

async function runTs(_t: TestContext, options: LoadOptions, enough: Promise<unknown>): Promise<Outcome> {
  const load = startLoad(options);
  await enough;
  const report = await load.stop();
  return { ...report, seconds: (report.to - report.from) / 1000, late: report.generator.late.max };
}

async function runC(t: TestContext, options: LoadOptions, enough: Promise<unknown>): Promise<Outcome> {
  const {
    port,
    newPerSecond = 0,
    keepAlive = 0,
    requestsPerSecond = 10,
    closedLoopNew = 0,
    requestTimeout = 5000,
  } = options;
  const words = [port, 60, newPerSecond, keepAlive, requestsPerSecond, closedLoopNew].map(String);
  const load = startC(t, [...words, '--timeout', String(requestTimeout)]);
  await enough;
  return await load.report();
}

/** `report` interrupts it, and takes what it then prints. */
function startC(t: TestContext, args: string[]): { child: ChildProcess; report: () => Promise<Outcome & Report> } {
  const child = spawn(program, [...args, '--settle', '0'], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => child.kill('SIGKILL'));
  const output = text(child.stdout);
  const report = async (): Promise<Outcome & Report> => {
    child.kill('SIGINT');
    const parsed = JSON.parse(await output) as Record<Kind, { latency: Latency }> & Outcome & Report;
    return {
      ...parsed,
      late: parsed.generator.late.max,
      latency: { new: parsed.new.latency, keepAlive: parsed.keepAlive.latency },
    };
  };
  return { child, report };
}

const hasCompiler = process.platform === 'linux' && existsSync(SOURCE) && spawnSync('cc', ['--version']).status === 0;
const program = hasCompiler ? path.join(temporaryDirectory({ after }), 'load') : '';
before(() => {
  if (!hasCompiler) return;
  const { status, stderr } = spawnSync('cc', ['-O2', '-Wall', '-Wextra', '-o', program, SOURCE, '-lm']);
  assert.equal(status, 0, String(stderr));
});

const generators: [string, Generator][] = [['load.ts', runTs]];
if (hasCompiler) generators.push(['load.c', runC]);

/** Every fault in turn, a good reply before each, for the first `count` requests of this kind. */
function inTurn(faults: Fault[], count: number): (kind: Kind, n: number) => Fault {
  return (_kind, n) => (n < count && n % 2 === 1 ? (faults[((n - 1) / 2) % faults.length] ?? 'none') : 'none');
}

function sum(counts: Partial<Record<Fault, number>>, ...faults: Fault[]): number {
  return faults.reduce((total, fault) => total + (counts[fault] ?? 0), 0);
}

const LOST: Fault[] = ['reset', 'eof', 'partial', 'wrong body', 'wrong length', 'wrong status', 'stall'];

/**
 * What is planted in ms means nothing where this process or the load stands still for longer: then the test is skipped, and says so.
 * Both the faulty server and load.ts live in this process.
 */
const loopDelay = monitorEventLoopDelay({ resolution: 10 });
loopDelay.enable();
function isTooBusy(t: TestContext, { late }: Outcome): boolean {
  const longest = Math.max(late || 0, loopDelay.max / 1e6);
  if (longest < 200) return false;
  t.skip(`this machine is too busy: a standstill of ${Math.round(longest)} ms`);
  return true;
}

describe('planted faults', { concurrency: 4 }, () => {
  for (const [name, run] of generators) {
    test(`${name}: a good server loses nothing, and all that was due was sent`, async (t) => {
      const server = await startFaulty(t, (_kind, n) => (n % 10 === 9 ? 'dribble' : 'none'));

      const report = await run(
        t,
        { port: server.port, newPerSecond: 100, keepAlive: 8, requestsPerSecond: 20 },
        server.seen('keepAlive', 160),
      );
      if (isTooBusy(t, report)) return;

      assert.deepEqual([report.new.lost, report.keepAlive.lost, report.stray], [0, 0, 0]);
      assert.deepEqual([report.new.ok, report.keepAlive.ok], [server.requests.new, server.requests.keepAlive]);
      // Not counted as unsent is what became due in the last 50 ms.
      const isAll = (tally: Tally, rate: number): boolean =>
        Math.abs(tally.sent + tally.unsent - rate * (report.seconds - 0.025)) <= rate * 0.025 + 1;
      assert.ok(isAll(report.new, 100), `new: ${report.new.sent} in ${report.seconds} s`);
      assert.ok(isAll(report.keepAlive, 160), `keepAlive: ${report.keepAlive.sent} in ${report.seconds} s`);
      assert.equal(report.keepAlive.connections, 8);
      assert.equal(report.latency.new.count, report.new.ok);
    });

    test(`${name}: each planted loss of a new connection is counted, with its reason`, async (t) => {
      const server = await startFaulty(t, inTurn(LOST, 112));

      const report = await run(
        t,
        { port: server.port, newPerSecond: 75, requestTimeout: 2000 },
        server.seen('new', 112),
      );
      if (isTooBusy(t, report)) return;

      const planted = server.planted.new;
      assert.equal(sum(planted, ...LOST), 56);
      assert.deepEqual(report.new.reasons, {
        reset: sum(planted, 'reset'),
        eof: sum(planted, 'eof', 'partial'),
        'bad reply': sum(planted, 'wrong body', 'wrong length', 'wrong status'),
        timeout: sum(planted, 'stall'),
      });
      assert.equal(report.new.lost, 56);
      assert.equal(report.new.ok, sum(planted, 'none'));
      assert.equal(report.new.sent, server.requests.new);
    });

    test(`${name}: each planted loss of a keep-alive request is counted, with its reason`, async (t) => {
      const server = await startFaulty(t, inTurn(LOST, 112));

      const report = await run(
        t,
        { port: server.port, keepAlive: 10, requestsPerSecond: 10, requestTimeout: 2000 },
        server.seen('keepAlive', 130),
      );
      if (isTooBusy(t, report)) return;

      const planted = server.planted.keepAlive;
      assert.equal(sum(planted, ...LOST), 56);
      assert.deepEqual(report.keepAlive.reasons, {
        reset: sum(planted, 'reset'),
        eof: sum(planted, 'eof', 'partial'),
        'bad reply': sum(planted, 'wrong body', 'wrong length', 'wrong status'),
        timeout: sum(planted, 'stall'),
      });
      assert.equal(report.keepAlive.lost, 56);
      assert.equal(report.keepAlive.ok, sum(planted, 'none'));
      assert.equal(report.keepAlive.connections, server.connections);
      assert.deepEqual([report.keepAlive.announced, report.keepAlive.closedIdle, report.stray], [0, 0, 0]);
    });

    test(`${name}: an announced close and a close between two requests are no loss, and each is counted`, async (t) => {
      const server = await startFaulty(t, inTurn(['announce', 'close idle', 'reset idle'], 90));

      const report = await run(
        t,
        { port: server.port, keepAlive: 50, requestsPerSecond: 2 },
        server.seen('keepAlive', 150), // a whole turn behind the last fault
      );
      if (isTooBusy(t, report)) return;

      const planted = server.planted.keepAlive;
      assert.equal(report.keepAlive.lost, 0);
      assert.equal(report.keepAlive.announced, sum(planted, 'announce'));
      assert.equal(report.keepAlive.closedIdle, sum(planted, 'close idle', 'reset idle'));
      // libuv shows a reset as EOF where it finds it together with the bytes before; the machine must be busy for that.
      const seen = report.keepAlive.resetIdle;
      assert.ok(seen > 0 && seen <= sum(planted, 'reset idle'), `resets: ${seen} of ${sum(planted, 'reset idle')}`);
      assert.equal(report.keepAlive.connections, server.connections);
    });

    test(`${name}: a byte that nobody asked for is seen`, async (t) => {
      const server = await startFaulty(t, inTurn(['stray'], 40));

      const report = await run(
        t,
        { port: server.port, keepAlive: 20, requestsPerSecond: 2, newPerSecond: 20 },
        server.seen('keepAlive', 65), // a whole turn behind the last fault
      );
      if (isTooBusy(t, report)) return;

      // On a busy machine it may come together with the reply, which is then a bad one.
      assert.ok(report.stray > 0);
      assert.equal(report.stray + (report.keepAlive.reasons['bad reply'] ?? 0), sum(server.planted.keepAlive, 'stray'));
      assert.equal(report.new.reasons['bad reply'], sum(server.planted.new, 'stray')); // it came before the EOF that was due
    });

    test(`${name}: latency counts from the time a request was due, not from when it could be sent`, async (t) => {
      const server = await startFaulty(t, (_kind, n) => (n === 10 ? 'slow' : 'none'));

      const report = await run(
        t,
        { port: server.port, keepAlive: 1, requestsPerSecond: 50 },
        server.seen('keepAlive', 50),
      );
      if (isTooBusy(t, report)) return;

      assert.equal(report.keepAlive.lost, 0);
      assert.ok(report.keepAlive.queued >= 15, `queued: ${report.keepAlive.queued}`); // 20 were due while one took 400 ms
      assert.ok(report.latency.keepAlive.max >= SLOW - 1);
      assert.ok(report.latency.keepAlive.p99 >= SLOW - 50, `p99 ${report.latency.keepAlive.p99}`); // the next in the line waited almost as long
    });

    test(`${name}: where nobody listens, every request is refused`, async (t) => {
      const server = net.createServer().listen(0, '127.0.0.1');
      await new Promise((resolve) => server.once('listening', resolve));
      const { port } = server.address() as net.AddressInfo;
      await new Promise((resolve) => server.close(resolve));

      const report = await run(t, { port, newPerSecond: 50, keepAlive: 4, requestsPerSecond: 10 }, sleep(800));
      if (isTooBusy(t, report)) return;

      assert.deepEqual(report.new.reasons, { refused: report.new.sent });
      assert.deepEqual(report.keepAlive.reasons, { refused: report.keepAlive.sent });
      assert.ok(report.new.sent > 0 && report.keepAlive.sent > 0);
    });

    test(`${name}: the closed loop counts as exactly`, async (t) => {
      const server = await startFaulty(t, inTurn(['reset', 'eof', 'wrong body'], 60));

      const report = await run(t, { port: server.port, closedLoopNew: 8 }, server.seen('new', 500));
      if (isTooBusy(t, report)) return;

      assert.ok(server.requests.new > 60);
      assert.deepEqual(report.new.reasons, { reset: 10, eof: 10, 'bad reply': 10 });
      assert.equal(report.new.ok, server.requests.new - 30);
    });
  }
});

// A server with little patience. Not keepAliveTimeout: Node adds a second to it.
const CLOSES_IDLE = `
import http from 'node:http';
const server = http.createServer((request, response) => {
  const { socket } = request;
  clearTimeout(socket.patience);
  socket.patience = setTimeout(() => socket.end(), 200);
  response.end(process.pid + '\\n');
});
server.listen(0, '127.0.0.1', () => console.log('listening on 127.0.0.1:%d, pid %d, generation 1', server.address().port, process.pid));
`;
const STANDSTILL = 800; // ms: longer than the server keeps an idle connection, and than the time-out
const MOST = 3000; // ms
const OPTIONS = { newPerSecond: 30, keepAlive: 8, requestsPerSecond: 20, requestTimeout: 700 };

async function startImpatient(t: TestContext): Promise<Family> {
  const script = path.join(temporaryDirectory(t), 'server.mjs');
  writeFileSync(script, CLOSES_IDLE);
  return await startServer(t, script);
}

/**
 * Whether the server still has a connection that it did not end: then a standstill goes on, for MOST at most, or a busy machine would
 * make the race true. (One may stay: connected by the kernel, its request not yet written by us.)
 */
function isStanding(began: number, pid: number): boolean {
  const passed = performance.now() - began;
  return passed < STANDSTILL || (passed < MOST && openSockets(pid).some(({ state }) => state === 'ESTABLISHED'));
}

test('load.ts: its own standstill is in the report, and no loss: no false time-out, no write to what had long ended', async (t) => {
  const server = await startImpatient(t);
  const load = startLoad({ port: server.port, ...OPTIONS });
  await load.waitForReply('a reply', () => load.keepAlive.ok > 20);

  const began = performance.now();
  while (isStanding(began, server.pid));
  const before = load.keepAlive.ok;
  await load.waitForReply('replies after the standstill', () => load.keepAlive.ok > before + 150);
  const report = await load.stop();

  assert.deepEqual(report.losses, []);
  assert.equal(report.keepAlive.closedIdle, 8);
  assert.ok(report.generator.longestStall > STANDSTILL - 100, `${report.generator.longestStall}`);
  assert.ok(report.generator.late.max > STANDSTILL - 100);
  assert.equal(report.generator.behind, true);
  assert.ok(report.latency.new.max > STANDSTILL - 100); // what was due meanwhile was sent late, and says so
});

test('load.c: the same, stopped and continued by signals', { skip: !hasCompiler }, async (t) => {
  const server = await startImpatient(t);
  const words = [server.port, 60, OPTIONS.newPerSecond, OPTIONS.keepAlive, OPTIONS.requestsPerSecond].map(String);
  const load = startC(t, [...words, '--timeout', String(OPTIONS.requestTimeout)]);

  await sleep(500);
  load.child.kill('SIGSTOP');
  const began = performance.now();
  while (isStanding(began, server.pid)) await sleep(10);
  load.child.kill('SIGCONT');
  await sleep(700);
  const report = await load.report();

  assert.deepEqual([report.new.reasons, report.keepAlive.reasons], [{}, {}]);
  assert.equal(report.keepAlive.closedIdle, 8);
  assert.ok(report.generator.stalls >= 1);
  assert.equal(report.generator.behind, true);
});

test('load.ts: a window holds what was due in it', async (t) => {
  const server = await startFaulty(t, (_kind, n) => (n >= 20 && n < 25 ? 'reset' : 'none'));

  const load = startLoad({ port: server.port, newPerSecond: 100 });
  await load.waitForReply('30 replies', () => load.new.ok >= 30);
  const report = await load.stop();

  const first = report.losses[0]?.due ?? NaN;
  const last = report.losses[4]?.due ?? NaN;
  assert.equal(report.window(first, last + 1).new.lost, 5);
  assert.equal(report.window(first, last).new.lost, 4);
  assert.equal(report.window(first, last + 1).new.latency.count, 0);
  assert.equal(report.window(report.from, first).new.latency.count, 20);
  assert.equal(report.pids[0]?.pid, process.pid);
  assert.equal(report.losses[0]?.reason, 'reset');
});
