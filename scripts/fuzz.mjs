/**
 * The long run of the fuzzer of the frame readers (test/channel/fuzz.ts). A failure names its seed, which repeats it alone.
 *
 *     npm run fuzz                      for a minute, from a seed of its own
 *     npm run fuzz -- --seconds 3600    for an hour
 *     npm run fuzz -- --seed 4711       this one case
 */
import { parseArgs } from 'node:util';
import { build } from './build.mjs';
import { seconds as elapsed } from './native.mjs';

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, seed: { type: 'string' } } });

if (!build()) {
  process.exitCode = 1;
} else {
  const { fuzzOnce } = await import('../dist/test/channel/fuzz.js');
  const started = Date.now();
  if (values.seed !== undefined) {
    fuzzOnce(Number(values.seed));
    console.log(`the case of seed ${values.seed} is right`);
  } else {
    const first = started % 2 ** 31;
    let seed = first;
    while (Date.now() - started < Number(values.seconds) * 1000) fuzzOnce(seed++);
    console.log(`${seed - first} cases from seed ${first} on, ${elapsed(started)}: all right`);
  }
}
