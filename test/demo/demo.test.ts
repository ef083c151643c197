/** The demo as a program: in a pipe, for machines, and interrupted on a terminal. */
import assert from 'node:assert/strict';
import { spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { allProcesses, isZombie, type ProcessEntry } from '../support/audit.js';
import { temporaryDirectory, type Scope } from '../support/fixture.js';

const DEMO = fileURLToPath(new URL('../../demo/demo.js', import.meta.url));
const LIMIT = 60_000; // ms
const PTY = `import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))`;
const hasPython = spawnSync('python3', ['-c', 'import os, pty; os.waitstatus_to_exitcode']).status === 0;

/** The environment of a demo, which all that it starts inherits; its temporary files are in a directory of its own. */
function surroundings(t: Scope): { env: NodeJS.ProcessEnv; temporary: string; left: () => ProcessEntry[] } {
  const mark = `DEMO_TEST=${randomUUID()}`;
  const temporary = temporaryDirectory(t);
  const [name = '', value = ''] = mark.split('=');
  const env = { ...process.env, [name]: value, TMPDIR: temporary, TERM: 'xterm', LC_ALL: 'C.UTF-8', NO_COLOR: '' };
  const left = (): ProcessEntry[] =>
    allProcesses().filter((entry) => !isZombie(entry) && environmentOf(entry).includes(mark));
  t.after(() => left().forEach(({ pid }) => process.kill(pid, 'SIGKILL')));
  return { env, temporary, left };
}

function environmentOf({ pid }: ProcessEntry): string {
  try {
    return readFileSync(`/proc/${pid}/environ`, 'latin1');
  } catch {
    return ''; // gone, or of another user
  }
}

/** Once it has ended and all it wrote is here. */
async function exitCode(child: ChildProcess): Promise<number | null> {
  const [code] = (await once(child, 'close')) as [number | null];
  return code;
}

test('in a pipe: plain lines, a table, exit code 0, and a picture on request', async (t) => {
  const { env, temporary, left } = surroundings(t);
  const picture = path.join(temporaryDirectory(t), 'demo.svg');
  const child = spawn(process.execPath, [DEMO, '--restarts', '1', '--svg', picture], { env, timeout: LIMIT });

  const [output, errors, code] = await Promise.all([text(child.stdout), text(child.stderr), exitCode(child)]);

  assert.equal(code, 0, `${output}${errors}`);
  assert.doesNotMatch(output, /\x1b/); // eslint-disable-line no-control-regex
  assert.match(output, /^ +1 +2 +\d+ -> \d+ +\d+ ms +\d+ ms +0$/m);
  assert.match(output, /^ +1 +2 +\d+ stays +\d+ ms +- +0\n +fdpass: the restart failed: /m);
  assert.match(output, /^fdpass restarts +1 of 1 +[\d,]+ +0 +0 +0 +32 /m); // lost, lost, reconnects, carried
  assert.match(output, /^fdpass crash +2 of 2 +[\d,]+ +0 +0 +0 +32 /m);
  assert.match(output, /^plain restarts +[1-3] of 3 /m);
  assert.match(
    output,
    /^OK: fdpass lost nothing, and carried open connections from one process to the next 32 times\./m,
  );
  assert.match(readFileSync(picture, 'utf8'), /^<svg [^]*fdpass restarts[^]*<\/svg>\n$/);
  assert.deepEqual(left(), []);
  assert.deepEqual(readdirSync(temporary), []);
});

test('--json: one document and nothing else; a server that is none fails the demo, and it says so there', async (t) => {
  const { env, left } = surroundings(t);
  const server = fileURLToPath(new URL('../../../demo/plain-server.mjs', import.meta.url)); // SIGUSR2 ends it
  const child = spawn(process.execPath, [DEMO, '--json', '--restarts', '1', server], { env, timeout: LIMIT });

  const [output, code] = await Promise.all([text(child.stdout), exitCode(child)]);

  const { ok, failures, acts } = JSON.parse(output) as {
    ok: boolean;
    failures: string[];
    acts: { title: string; done: number; new?: { sent: number; lost: number } }[];
  };
  assert.equal(code, 1);
  assert.equal(ok, false);
  assert.ok(failures.length > 0);
  assert.deepEqual(
    acts.map(({ title }) => title),
    ['fdpass: restarts', 'fdpass: a release crashes', 'plain: stop and start'],
  );
  assert.equal(acts[0]?.done, 0);
  assert.ok((acts[0].new?.sent ?? 0) > 0);
  assert.deepEqual(left(), []);
});

test('arguments that make no sense: exit code 2 and the usage', () => {
  const { status, stderr } = spawnSync(process.execPath, [DEMO, '--restarts', 'many'], { encoding: 'utf8' });

  assert.equal(status, 2);
  assert.match(stderr, /^--restarts many: not a number[^]*--json/);
});

const skip = hasPython ? false : 'no python3 of 3.9 or later: no pseudo-terminal';
test('Ctrl-C on a terminal: the cursor is back, nobody is left, exit code 130', { skip }, async (t) => {
  const { env, temporary, left } = surroundings(t);
  const inside = ['sh', '-c', 'stty cols 80 rows 24 && exec "$0" "$@"', process.execPath, DEMO];
  const child = spawn('python3', ['-c', PTY, ...inside], { env, timeout: LIMIT });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    const hadBegun = output.includes('generation 2');
    output += chunk;
    if (!hadBegun && output.includes('generation 2')) child.stdin.write('\x03'); // in the middle of a restart
  });

  const code = await exitCode(child);

  assert.equal(code, 130, output);
  assert.ok(output.includes('\x1b[?25l'), 'the cursor was hidden');
  assert.ok(output.lastIndexOf('\x1b[?25h') > output.lastIndexOf('\x1b[?25l'), 'and is there again');
  assert.ok(output.lastIndexOf('\x1b[?1049l') > output.lastIndexOf('\x1b[?1049h'), 'on the screen it came from');
  assert.match(output, /SIGINT: stopped/);
  assert.deepEqual(left(), []);
  assert.deepEqual(readdirSync(temporary), []);
});
