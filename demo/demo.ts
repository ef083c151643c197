/**
 * npm run demo: a real server under real load, restarted ten times by SIGUSR2. It counts every connection and every request, and ends
 * with 0 only if none was lost, every restart switched to a new process and nobody was left behind.
 *
 * The server is examples/http.mjs; the load runs in this process, which does little else. `node dist/demo/demo.js OTHER.mjs` restarts
 * another one that prints the same line.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { zombiesOf } from '../test/support/audit.js';
import { startServer, type Family, type Scope } from '../test/support/fixture.js';
import type { Latency } from '../test/support/latency.js';
import { startLoad, type Load, type Report } from '../test/support/load.js';

const RESTARTS = 10;
const LOAD = { newPerSecond: 200, keepAlive: 32, requestsPerSecond: 10 }; // gentle: two cores run the load and two servers
const WARM_UP = 1000; // ms; also behind the last restart
const PAUSE = 250; // ms between the end of an old process and the next restart
const DEADLINE = 15000; // ms for each step of a restart
const STOP_DEADLINE = 10000; // ms for the last generation to end after SIGTERM

process.exitCode = 1; // until all is well
const ends: (() => void | Promise<void>)[] = [];
const scope: Scope = { after: (action) => void ends.push(action) };
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    console.log(`\n${signal}: stopped`);
    process.exit(1); // and what was started ends with us: fixture.ts
  });
}
try {
  if (await run()) process.exitCode = 0;
} catch (error) {
  console.log(`\nFAILED: ${(error as Error).message}`);
} finally {
  for (const end of ends.reverse()) await end();
}

async function run(): Promise<boolean> {
  const script = process.argv[2] ?? exampleServer();
  const server = await startServer(scope, script, { deadline: DEADLINE });
  console.log(`${path.basename(script)} listens on ${server.address}, pid ${server.pid}`);
  console.log(
    `Load: ${LOAD.newPerSecond} new connections/s; ` +
      `${LOAD.keepAlive} keep-alive connections x ${LOAD.requestsPerSecond} requests/s`,
  );

  const load = startLoad({ port: server.port, ...LOAD, requestTimeout: 5000 });
  scope.after(async () => {
    await load.stop();
  });
  await load.waitForReply('a reply of the first generation', () => true, DEADLINE);
  await sleep(WARM_UP);

  console.log(`Restarting it ${RESTARTS} times by SIGUSR2, the newest process each time\n`);
  console.log('restart   generation   pid old -> new       first reply   old gone after   lost');
  let switched = 0;
  const failures: string[] = [];
  const attempt = async (action: () => Promise<void>): Promise<void> => {
    await action().catch((error: unknown) => failures.push((error as Error).message));
  };
  await attempt(async () => {
    while (switched < RESTARTS) {
      await restart(switched + 1, server, load);
      switched++;
      await sleep(switched < RESTARTS ? PAUSE : WARM_UP);
    }
  });

  const leftBehind = server.running().filter(({ pid }) => pid !== server.newest).length;
  const report = await load.stop();
  const zombies = zombiesOf(server.newest).length;
  await attempt(() => server.stop(STOP_DEADLINE));
  printReport(report, switched, leftBehind + zombies);
  return verdict(report, switched, leftBehind + zombies, failures);
}

/** One restart: until the new process answers, and the old one is gone. */
async function restart(n: number, server: Family, load: Load): Promise<void> {
  const old = server.newest;
  const seen = new Set(load.pids.keys());
  const began = performance.now();
  const [reply, next] = await Promise.all([
    load.waitForReply(`a reply of a new process (restart ${n})`, ({ pid }) => !seen.has(pid), DEADLINE),
    server.restart(DEADLINE),
  ]);
  if (next.pid !== reply.pid) throw new Error(`pid ${reply.pid} replies, but pid ${next.pid} says that it listens`);
  await server.gone(old, DEADLINE);

  const columns = [
    String(n).padStart(7),
    String(next.generation).padStart(10),
    `${String(old).padStart(7)} -> ${String(reply.pid).padEnd(7)}`,
    `${ms(reply.at - began)} ms`.padStart(12),
    `${ms(performance.now() - began)} ms`.padStart(14),
    String(load.lost).padStart(4),
  ];
  console.log(columns.join('   '));
}

function printReport(report: Report, switched: number, leftBehind: number): void {
  const { new: fresh, keepAlive, latency, generator } = report;
  const seconds = (report.to - report.from) / 1000;
  const lost = (tally: { lost: number; reasons: object }): string => {
    const reasons = Object.entries(tally.reasons).map(([reason, count]) => `${reason} ${String(count)}`);
    return `${tally.lost} lost${reasons.length > 0 ? ` (${reasons.join(', ')})` : ''}`;
  };
  console.log(`
After ${seconds.toFixed(1)} s:
new connections        ${fresh.sent} sent, ${lost(fresh)}
keep-alive requests    ${keepAlive.sent} sent, ${lost(keepAlive)}
keep-alive connections ${keepAlive.connections} opened, ${keepAlive.announced} closes announced, ${keepAlive.closedIdle} closed idle
latency, new           ${latencies(latency.new)}
latency, keep-alive    ${latencies(latency.keepAlive)}
the load itself        at most ${ms(generator.late.max)} ms late${generator.behind ? ': TOO SLOW, the latencies say nothing' : ''}
restarts               ${switched} of ${RESTARTS} switched
processes left behind  ${leftBehind}`);
}

/** Says what failed; true: nothing. */
function verdict(report: Report, switched: number, leftBehind: number, errors: string[]): boolean {
  const { new: fresh, keepAlive, stray } = report;
  const failures = [
    ...errors,
    fresh.lost > 0 && `${fresh.lost} new connections were lost`,
    keepAlive.lost > 0 && `${keepAlive.lost} keep-alive requests were lost`,
    fresh.ok === 0 || keepAlive.ok === 0 ? 'the load did not run' : false,
    stray > 0 && `${stray} times bytes came that nobody had asked for`,
    switched < RESTARTS && `${RESTARTS - switched} restarts did not switch`,
    leftBehind > 0 && `${leftBehind} processes were left behind`,
  ].filter((failure) => failure !== false);
  console.log(failures.length === 0 ? '\nOK: nothing was lost' : `\nFAILED:\n- ${failures.join('\n- ')}`);
  for (const { kind, reason, detail, due, sent, at } of report.losses.slice(0, 10)) {
    const times = `due ${ms(due - report.from)}, sent ${ms(sent - report.from)}, lost ${ms(at - report.from)} ms`;
    console.log(`  ${kind}: ${reason} (${detail}), ${times}`);
  }
  return failures.length === 0;
}

function latencies({ p50, p99, max }: Latency): string {
  return `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, max ${max.toFixed(1)} ms`;
}

function ms(value: number): string {
  return value.toFixed(0);
}

/** From dist/demo, and from demo itself. */
function exampleServer(): string {
  const here = path.dirname(fileURLToPath(import.meta.url));
  const found = ['../..', '..'].map((up) => path.join(here, up, 'examples/http.mjs')).find((file) => existsSync(file));
  if (found === undefined) throw new Error(`examples/http.mjs was not found from ${here}`);
  return found;
}
