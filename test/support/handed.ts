/**
 * Programs that were handed something, for tests: a module in a fresh process, started by spawn(), that says in lines of JSON what it found.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

import { spawn, type SpawnOptions } from '../../lib/index.js';

const LIB = new URL('../../lib/index.js', import.meta.url).href;
const PACKAGE = fileURLToPath(new URL('../../..', import.meta.url));

/** What stands in front of each program: `print(value)` is a line of JSON, `attempt(action)` makes a value of an error. */
const HEAD = `
  import * as fdpass from ${JSON.stringify(LIB)};
  const { inheritConnection, inheritDescriptor, inheritedDescriptors, inheritedFrom, inheritListener, inheritedListeners, ready, raw } = fdpass;
  const print = (value) => process.stdout.write(JSON.stringify(value) + '\\n');
  const attempt = async (action) => { try { return await action(); } catch (error) {
    const { code, message, variable, value, expected, got, fd, listenPid, pid } = error;
    return { code, message, variable, value, expected, got, fd, listenPid, pid }; } };
  const show = ({ name, address, origin, fd, type }) => ({ name, address, origin, fd, type });
`;

/** The arguments of Node for such a program. */
export function programOf(code: string): string[] {
  return ['--input-type=module', '-e', `${HEAD}\n${code}\nprocess.exit(0);`];
}

/** Runs it to its end, which must be a good one, and gives what it printed. */
export async function runProgram(code: string, options: SpawnOptions & { args?: string[] } = {}): Promise<unknown[]> {
  const { args = [], ...rest } = options;
  const child = spawn(process.execPath, [...programOf(code), ...args], {
    cwd: PACKAGE,
    stdio: ['ignore', 'pipe', 'inherit'],
    ...rest,
  });
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const closed = child.stdout === null ? undefined : once(child.stdout, 'close');
  const status = await child.exited;
  await closed;
  assert.deepEqual(status, { exitCode: 0, signal: null }, text);
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as unknown);
}
