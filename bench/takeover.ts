/**
 * (g) How long it takes to take over ten thousand listeners from a process that is no relative, beside a C program that passes as many, in
 * batches of as many, each answered. Each new process takes over from the one before.
 */
import { spawnSync } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { type Family, startProcess, temporaryDirectory } from '../test/support/fixture.js';
import type { TakeoverTimes } from './fixtures/takeover.js';
import { type Figure, median, pairRow, type Pairs, type Row } from './measure.js';
import { compile } from './pairs.js';

const LISTENERS = 10_000;
const SAMPLES = 3;
const DEADLINE = 60_000; // ms
const SCRIPT = fileURLToPath(new URL('./fixtures/takeover.js', import.meta.url));

export const takeover: Figure = async ({ quick, scope }) => {
  const count = quick ? 500 : LISTENERS;
  const offer = path.join(temporaryDirectory(scope), 'offer');
  const program = compile(scope, 'takeover.c');
  const start = async (): Promise<{ generation: Family; times: TakeoverTimes }> => {
    const generation = startProcess(scope, SCRIPT, { args: [offer, String(count)] });
    const { text } = await generation.waitFor(/^\{/, { from: 0, deadline: DEADLINE });
    return { generation, times: JSON.parse(text) as TakeoverTimes };
  };

  let { generation: old } = await start();
  const arrived: Pairs = { fdpass: [], other: [] };
  const later: Record<'claimed' | 'serving', number[]> = { claimed: [], serving: [] };
  for (let i = 0; i < (quick ? 1 : SAMPLES); i++) {
    const { generation, times } = await start();
    const { code, signal } = await old.exited;
    if (times.from !== 'takeover' || code !== 0) throw new Error(`${times.from}, ${signal ?? code}: ${old.sofar()}`);
    arrived.fdpass.push(times.arrived);
    later.claimed.push(times.claimed);
    later.serving.push(times.serving);
    if (program !== undefined) arrived.other.push(passByC(program, count));
    old = generation;
  }
  await old.kill();

  const figure = `${count} listeners taken over`;
  const row = (what: string, values: readonly number[]): Row => ({
    ...{ figure: `${figure}: ${what}`, unit: 'ms', fdpass: median(values), samples: values.length },
  });
  return [
    program === undefined
      ? row('all are here', arrived.fdpass)
      : pairRow(arrived, { figure: `${figure}: all are here`, unit: 'ms', against: 'C', ratioOf: 'fdpass / other' }),
    row('claimed by the application', later.claimed),
    row('all accept', later.serving),
  ];
};

function passByC(program: string, count: number): number {
  const { status, stdout, stderr } = spawnSync(program, [String(count)], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`takeover.c: ${stderr}`);
  return Number(stdout);
}
