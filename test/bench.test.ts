/** The bench runs: its fastest figure prints a table and writes JSON. What it measures is not asserted anywhere. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { startProcess, temporaryDirectory } from './support/fixture.js';

const BENCH = fileURLToPath(new URL('../bench/bench.js', import.meta.url));
const SOURCES = fileURLToPath(new URL('../../bench/fixtures/', import.meta.url));
const skip = process.platform !== 'linux' || spawnSync('cc', ['--version']).status !== 0;

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

test(
  'the figure `moving`: every connection moves, and is answered by the successor',
  { skip: process.platform !== 'linux' },
  async (t) => {
    const file = path.join(temporaryDirectory(t), 'bench.json');
    const bench = startProcess(t, BENCH, { args: ['moving', '--quick', '--json', file] });

    const { code } = await bench.exited;

    assert.equal(code, 0, bench.sofar());
    const { rows } = JSON.parse(readFileSync(file, 'utf8')) as { rows: { figure: string; fdpass: number }[] };
    const value = (figure: string): number | undefined => rows.find((row) => row.figure.startsWith(figure))?.fdpass;
    assert.equal(value('move 1,000: closed, or not answered'), 0);
    assert.ok((value('move 1,000, sender: one connection') ?? 0) > 0);
    assert.ok((value('move 1,000, receiver: one connection') ?? 0) > 0);
  },
);

test(
  'descriptors and takeovers are measured beside C, whose programs compile without a warning',
  { skip },
  async (t) => {
    const directory = temporaryDirectory(t);
    for (const source of ['rights.c', 'takeover.c']) {
      const flags = [
        '-std=c11',
        '-O2',
        '-Wall',
        '-Wextra',
        '-Wpedantic',
        '-Werror',
        '-o',
        path.join(directory, 'program'),
      ];
      const { status, stderr } = spawnSync('cc', [...flags, path.join(SOURCES, source)], { encoding: 'utf8' });
      assert.equal(status, 0, stderr);
    }
    const file = path.join(directory, 'bench.json');
    const bench = startProcess(t, BENCH, { args: ['channel', 'takeover', '--quick', '--json', file] });

    const { code } = await bench.exited;

    assert.equal(code, 0, bench.sofar());
    const { rows } = JSON.parse(readFileSync(file, 'utf8')) as {
      rows: { figure: string; against: string; ratio: number }[];
    };
    for (const figure of ['descriptors, one at a time', 'descriptors, 253 in a message']) {
      const row = rows.find((each) => each.figure === figure && each.against === 'C');
      assert.ok(row !== undefined && row.ratio > 0, JSON.stringify(rows));
    }
    assert.ok(rows.some((each) => each.figure === '500 listeners taken over: all accept'));
  },
);
