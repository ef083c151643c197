/** The bounded run of the fuzzer: `npm run fuzz` is the long one. */
import { test } from 'node:test';

import { fuzzOnce } from './fuzz.js';

const CASES = 3_000;

test(`both frame readers live through ${CASES} streams, right and wrong, and lose no descriptor`, () => {
  for (let seed = 1; seed <= CASES; seed++) fuzzOnce(seed);
});
