/**
 * (g) What clients with open connections see of a restart: how many have to connect again, and how many requests are lost. The same load
 * on each way to restart, a restart a second; the load retries nothing. nginx where it is installed (Debian: nginx-light).
 */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { startProcess, startProgram, startServer, type Scope, temporaryDirectory } from '../test/support/fixture.js';
import { type Load, type Report, startLoad } from '../test/support/load.js';
import { type Figure, root, type Row } from './measure.js';
import { freePort } from './restart.js';

const LOAD = { newPerSecond: 100, keepAlive: 64, requestsPerSecond: 10 };
const WARM_UP = 1000; // ms; also behind the last restart
const PERIOD = 1000; // ms from one restart to the next, at least
const DEADLINE = 20_000; // ms for each step

/** One server, and how it is restarted: resolves when the new one serves and the old one is gone. */
interface Contender {
  port: number;
  restart(load: Load): Promise<unknown>;
  stop(): Promise<void>;
}

type Start = (scope: Scope) => Promise<Contender | string>;

export const reconnects: Figure = async ({ quick, scope }) => {
  const restarts = quick ? 1 : 10;
  const fdpass = reportOf(await underLoad(scope, byFdpass('examples/http.mjs'), restarts), restarts);
  if (typeof fdpass === 'string') throw new Error(fdpass);
  const rows: Row[] = [];
  const others: [name: string, start: Start][] = [
    ['announced, then closed', byFdpass('bench/fixtures/announce.mjs')],
    ['server.close(), start', stopAndStart],
    ['node:cluster', cluster],
    ['nginx reload', nginx],
  ];
  const load = `${LOAD.newPerSecond} new/s, ${LOAD.keepAlive} keep-alive x ${LOAD.requestsPerSecond} requests/s`;
  const each = { samples: restarts, unit: '', wanted: { atMost: 0 } } as const;
  rows.push(
    { ...each, figure: 'reconnects a restart', fdpass: fdpass.reconnects, note: `${fdpass.text}; ${load}` },
    { ...each, figure: 'requests lost a restart', fdpass: fdpass.lost },
  );
  for (const [against, start] of others) {
    const other = reportOf(await underLoad(scope, start, restarts), restarts);
    if (typeof other === 'string') {
      console.log(`reconnects: left out: ${other}`);
      continue;
    }
    const row = { samples: restarts, unit: '', against } as const;
    const figure = `beside ${against}`;
    rows.push(
      {
        ...{ ...row, figure: `${figure}: reconnects`, fdpass: fdpass.reconnects, other: other.reconnects },
        note: other.text,
      },
      { ...row, figure: `${figure}: lost`, fdpass: fdpass.lost, other: other.lost },
    );
  }
  return rows;
};

/** What one restart cost on average. */
function reportOf(
  report: Report | string,
  restarts: number,
): { reconnects: number; lost: number; text: string } | string {
  if (typeof report === 'string') return report;
  const { new: fresh, keepAlive, generator } = report;
  const again = Math.max(0, keepAlive.connections - LOAD.keepAlive);
  const lost = fresh.lost + keepAlive.lost;
  const doubt = generator.behind ? '; THE LOAD WAS TOO SLOW' : '';
  const { announced, closedIdle } = keepAlive;
  const text =
    `in ${restarts} restarts lost ${fresh.lost} of ${fresh.sent} new, ${keepAlive.lost} of ${keepAlive.sent} keep-alive; ` +
    `${announced} announced, ${closedIdle} closed at rest; carried ${report.carried} times${doubt}`;
  return { reconnects: again / restarts, lost: lost / restarts, text };
}

/** A string: why there is nothing to measure. */
async function underLoad(scope: Scope, start: Start, restarts: number): Promise<Report | string> {
  const contender = await start(scope);
  if (typeof contender === 'string') return contender;
  const load = startLoad({ port: contender.port, ...LOAD });
  scope.after(async () => {
    await load.stop();
  });
  await sleep(WARM_UP);
  for (let i = 0; i < restarts; i++) {
    const began = performance.now();
    await contender.restart(load);
    await sleep(began + PERIOD - performance.now());
  }
  await sleep(WARM_UP);
  const report = await load.stop();
  await contender.stop();
  return report;
}

function byFdpass(script: string): Start {
  return async (scope) => {
    const server = await startServer(scope, path.join(root, script), { deadline: DEADLINE });
    return {
      port: server.port,
      restart: async () => {
        const old = server.newest;
        await server.restart(DEADLINE);
        await server.gone(old, DEADLINE);
      },
      stop: () => server.kill(),
    };
  };
}

const stopAndStart: Start = async (scope) => {
  const script = path.join(root, 'bench/fixtures/plain.mjs');
  let server = await startServer(scope, script, { deadline: DEADLINE });
  const { port } = server;
  return {
    port,
    restart: async () => {
      server.signal('SIGTERM');
      await server.gone(server.pid, DEADLINE);
      await server.kill(); // nobody is left; it lets go of the pipes
      server = startProcess(scope, script, { env: { PORT: String(port) } });
      await server.waitFor('listening on', { from: 0, deadline: DEADLINE });
    },
    stop: () => server.kill(),
  };
};

const cluster: Start = async (scope) => {
  const env = { PORT: String(await freePort()) };
  const server = await startServer(scope, path.join(root, 'bench/fixtures/cluster.mjs'), { deadline: DEADLINE, env });
  return {
    port: server.port,
    restart: async () => {
      const from = server.lines.length;
      server.signal('SIGUSR2', server.pid);
      await server.waitFor(/^replaced, /, { from, deadline: DEADLINE });
    },
    stop: () => server.kill(),
  };
};

/** One worker, whose reply is its pid as well. */
const nginx: Start = async (scope) => {
  if (spawnSync('nginx', ['-v']).status !== 0) return 'nginx is not installed (Debian: apt-get install nginx-light)';
  const port = await freePort();
  const folder = temporaryDirectory(scope);
  const file = path.join(folder, 'nginx.conf');
  const log = path.join(folder, 'error.log');
  const user = process.getuid?.() === 0 ? 'user root;' : '';
  writeFileSync(
    file,
    `daemon off; ${user} worker_processes 1; pid ${folder}/pid; error_log ${log};
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 1000000; default_type text/plain;
  server { listen 127.0.0.1:${port}; location / { return 200 "$pid\\n"; } }
}
`,
  );
  const server = startProgram(scope, 'nginx', { args: ['-c', file, '-p', folder, '-e', log] });
  const probe = startLoad({ port, closedLoopNew: 1 });
  await probe.waitForReply('a reply of nginx', () => true, DEADLINE);
  await probe.stop();
  return {
    port,
    restart: async (load) => {
      const seen = new Set(load.pids.keys());
      server.signal('SIGHUP', server.pid);
      await load.waitForReply('a reply of the new worker', ({ pid }) => !seen.has(pid), DEADLINE);
      const last = [...seen].at(-1);
      if (last !== undefined) await server.gone(last, DEADLINE);
    },
    stop: () => server.kill(),
  };
};
