/**
 * npm run bench: measures, prints a table and writes the same as JSON. Nothing is asserted: the table says what is wanted and what was met.
 *
 *     npm run bench                         everything, about six minutes; best on a machine that does nothing else
 *     npm run bench -- spawn throughput     these alone: spawn, restart, throughput, load, footprint, channel, memory,
 *                                           takeover, moving, reconnects
 *     npm run bench -- --json FILE          where the JSON goes, build/bench.json
 *     npm run bench -- --quick              few samples: whether it runs, not what it says
 *
 * Linux: it reads /proc.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { parseArgs } from 'node:util';

import type { Scope } from '../test/support/fixture.js';
import { channel, memory } from './channel.js';
import { footprint } from './footprint.js';
import { load } from './load.js';
import { type Figure, formatTable, isMet, root, type Row } from './measure.js';
import { moving } from './moving.js';
import { reconnects } from './reconnects.js';
import { restart } from './restart.js';
import { spawn } from './spawn.js';
import { takeover } from './takeover.js';
import { throughput } from './throughput.js';

const CHANNELS = { channel, memory, takeover };
const FIGURES: Record<string, Figure> = {
  spawn,
  restart,
  throughput,
  load,
  footprint,
  ...CHANNELS,
  moving,
  reconnects,
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string', default: path.join(root, 'build/bench.json') },
    quick: { type: 'boolean', default: false },
  },
});
const { json, quick } = values;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => process.exit(1));

const names = positionals.length > 0 ? positionals : Object.keys(FIGURES);
const machine = { cpu: os.cpus()[0]?.model, cpus: os.cpus().length, memory: os.totalmem(), kernel: os.release() };
console.log(`Node ${process.version}, ${machine.cpus} x ${machine.cpu ?? 'unknown'}, Linux ${machine.kernel}`);
const rows: (Row & { group: string; met: boolean | null; machineLoad: number })[] = [];
const failures: { group: string; message: string }[] = [];
for (const group of names) await measure(group);

console.log(`\n${formatTable(rows)}`);
for (const { group, message } of failures) console.log(`\nFAILED: ${group}: ${message}`);
mkdirSync(path.dirname(path.resolve(json)), { recursive: true });
const date = new Date().toISOString();
writeFileSync(json, `${JSON.stringify({ date, node: process.version, machine, quick, rows, failures }, null, 2)}\n`);
console.log(`\nWritten to ${path.relative('', json)}`);
process.exitCode = failures.length > 0 ? 1 : 0;

/** Measures one figure. Where it fails the others still run. */
async function measure(group: string): Promise<void> {
  const ends: (() => void | Promise<void>)[] = [];
  const scope: Scope = { after: (action) => void ends.push(action) };
  const began = performance.now();
  const before = machineLoad();
  try {
    const figure = new Map(Object.entries(FIGURES)).get(group);
    if (figure === undefined) throw new Error(`there is no such figure: ${Object.keys(FIGURES).join(', ')}`);
    for (const row of await figure({ quick, scope })) {
      rows.push({ group, ...row, met: isMet(row) ?? null, machineLoad: before });
    }
  } catch (error) {
    failures.push({ group, message: error instanceof Error ? error.message : String(error) });
  } finally {
    for (const end of ends.reverse()) await end();
  }
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  console.log(
    `${group}: ${seconds} s; the machine's load was ${before.toFixed(1)} before, ${machineLoad().toFixed(1)} after`,
  );
}

/** How many processes wanted to run, on average over the last minute. */
function machineLoad(): number {
  return os.loadavg()[0] ?? NaN;
}
