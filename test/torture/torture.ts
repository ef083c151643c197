/**
 * The random tester: histories of restarts, crashes and freezes against real servers with real clients, each from one number.
 *
 *     npm run torture                      five minutes
 *     npm run torture -- --minutes 60
 *     npm run torture -- --seed 4711       that history, once
 *     npm run torture -- --verbose         with what was seen, where all was well too
 *
 * A violation ends it with code 1, and prints the seed, the history and what was seen. Linux alone.
 */
import { parseArgs } from 'node:util';

import { describeHistory, historyOf } from './history.js';
import { now } from './judge.js';
import { type Outcome, runHistory } from './run.js';

const MAX_SEED = 2 ** 32 - 1;

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    minutes: { type: 'string', default: '5' },
    verbose: { type: 'boolean', default: false },
  },
});
const seed = values.seed === undefined ? undefined : Number(values.seed);
const minutes = Number(values.minutes);
if ((seed !== undefined && !isSeed(seed)) || !(minutes > 0)) {
  console.error(`--seed takes a whole number from 0 to ${MAX_SEED}, --minutes a number above 0`);
  process.exit(2);
}

if (seed !== undefined) {
  console.log(describeHistory(historyOf(seed)));
  finish(await runHistory(historyOf(seed)));
} else {
  const end = now() + minutes * 60_000;
  for (let next = Math.floor(Math.random() * MAX_SEED); now() < end; next = (next + 1) % MAX_SEED) {
    console.log(`seed ${next}`);
    finish(await runHistory(historyOf(next)));
  }
}

function isSeed(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= MAX_SEED;
}

function finish(outcome: Outcome): void {
  const { history, violations, evidence, requests, excused, processes, coldStarts, duration } = outcome;
  const seconds = (duration / 1000).toFixed(1);
  const counted = `${processes} processes, ${coldStarts} cold starts, ${requests} requests, ${excused} lost as they may be`;
  if (violations.length === 0) {
    if (values.verbose) console.log(evidence);
    console.log(`seed ${history.seed}: ${counted}, ${seconds} s: ok`);
    return;
  }
  console.error(describeHistory(history));
  console.error(evidence);
  console.error(`seed ${history.seed}: ${counted}, ${seconds} s: ${violations.length} violations`);
  for (const violation of violations.slice(0, 20)) console.error(`  ${violation}`);
  console.error(`Again: npm run torture -- --seed ${history.seed}`);
  process.exit(1);
}
