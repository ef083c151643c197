/**
 * Every interleaving of the two machines, in every scenario: no invariant is broken. FDPASS_EXPLORE=full walks larger ones too.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { explore, INVARIANTS, LARGE_SCENARIOS, type Result, RULES, type Scenario, SCENARIOS } from './explorer.js';

const scenarios: readonly Scenario[] =
  process.env['FDPASS_EXPLORE'] === 'full' ? [...SCENARIOS, ...LARGE_SCENARIOS] : SCENARIOS;

/** What must have happened at least once in the walk of three generations, or it has proved nothing. */
const HAPPENED: readonly string[] = [
  'G1 succeed',
  'G2 alone',
  'G2 succeed',
  'G3 alone',
  'reports split',
  'reports lateCommit',
  'reports notReleased',
  'refuseRestart',
  'startSuccessor',
  'closeAll',
  'stopAccepting',
  'leave',
  'kill',
  'clear',
  'offered: ERR_FDPASS_READY_TIMEOUT',
  'offered: ERR_FDPASS_SUCCESSOR_EXITED',
  'offered: ERR_FDPASS_SUPERSEDED',
  'offered: ERR_FDPASS_VERSION',
  'offered: ERR_FDPASS_ABORTED',
  'committing: ERR_FDPASS_COMMIT_TIMEOUT',
  'committing: ERR_FDPASS_SUCCESSOR_EXITED',
  'committing: ERR_FDPASS_ABORTED',
  'probation: ERR_FDPASS_PROBATION',
  'probation: ERR_FDPASS_ABORTED',
  'adopted: ERR_FDPASS_ABORTED',
  'ready: ERR_FDPASS_ABORTED',
];

for (const scenario of scenarios) {
  test(`no run breaks a rule: ${scenario.name}`, (t) => {
    const result = explore(RULES, scenario);

    const { states, transitions, ms, cpuMs } = result;
    t.diagnostic(
      `${states} states, ${transitions} transitions, ${Math.round(ms)} ms (${Math.round(cpuMs)} ms of processor)`,
    );
    assert.equal(result.violation, undefined, explain(result));
    if (scenario.name === 'spawn, three generations') {
      const missing = HAPPENED.filter((event) => !result.reached.includes(event));
      assert.deepEqual(missing, [], 'the walk does not come by everything that it should');
    }
  });
}

/** A counterexample, to be read from the top. */
function explain({ violation }: Result): string {
  if (violation === undefined) return '';
  const { invariant, text, trace } = violation;
  return [`Broken: ${INVARIANTS[invariant]} (${invariant}).`, `${text}.`, ...trace].join('\n');
}
