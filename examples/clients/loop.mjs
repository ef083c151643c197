// A connect loop without end: connects, reads until the server closes, starts over. Prints each new answer and each new error once.
// Ctrl-C ends it, or --count; then it says how many went well, and exits with 1 where one failed.
//   node examples/clients/loop.mjs 8080 --count 1000
import { setTimeout as delay } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { ask } from './ask.mjs';

const { positionals, values } = parseArgs({ allowPositionals: true, options: { count: { type: 'string' } } });
const port = Number(positionals[0] ?? process.env.PORT ?? 8080);
const count = Number(values.count ?? Infinity);

let running = true;
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => (running = false));

const said = new Set();
function say(line) {
  if (!said.has(line)) console.log(line);
  said.add(line);
}

let ok = 0;
let failed = 0;
while (running && ok + failed < count) {
  try {
    const answer = await ask(port);
    if (!answer.startsWith('hello')) throw new Error(`the answer is "${answer}"`);
    ok++;
    say(answer);
  } catch (error) {
    failed++;
    say(`failed: ${error.message}`);
  }
  await delay(1);
}
console.log(`ok ${ok}, failed ${failed}`);
process.exitCode = failed > 0 ? 1 : 0;
