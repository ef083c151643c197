/** The bench runs: its fastest figure prints a table and writes JSON. What it measures is not asserted anywhere. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startProcess, temporaryDirectory } from './support/fixture.js';

const BENCH = fileURLToPath(new URL('../bench/bench.js', import.meta.url));

test('npm run bench prints a table and writes the same as JSON', { skip: process.platform !== 'linux' }, async (t) => {
  const file = path.join(temporaryDirectory(t), 'bench.json');
  const bench = startProcess(t, BENCH, { args: ['spawn', '--quick', '--json', file] });

  const { code } = await bench.exited;

  assert.equal(code, 0, bench.sofar());
  const { rows } = JSON.parse(readFileSync(file, 'utf8')) as { rows: { figure: string; ratio: number }[] };
  const [row] = rows;
  assert.equal(row?.figure, 'spawn blocks the loop, 50 MiB');
  assert.equal(typeof row.ratio, 'number');
  await bench.waitFor(/^figure +fdpass +other +ratio +wanted +met/, { from: 0 });
  await bench.waitFor(/^spawn blocks the loop, 50 MiB +[\d.]+ ms +[\d.]+ ms child_process +[\d.]+ /, { from: 0 });
});
