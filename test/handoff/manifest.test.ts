/** What can travel as the state of a handoff is told before anything has begun. */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { checkState } from '../../lib/handoff/manifest.js';

test('a state that cannot travel is refused, and the message says why: a function, a cycle, a promise', () => {
  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  const refused: [unknown, RegExp][] = [
    [() => 1, /it is 'function'/],
    [cycle, /circular/],
    [Promise.resolve({ a: 1 }), /not a promise of them: wait for it first/],
  ];
  for (const [state, message] of refused) {
    assert.throws(
      () => {
        checkState(state);
      },
      { name: 'RangeError', code: 'ERR_INVALID_ARG_VALUE', message },
    );
  }
  for (const state of [undefined, null, 0, 'text', { a: [1] }, new Uint8Array(3)]) checkState(state);
});
