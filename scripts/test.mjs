/**
 * The tests: builds what is out of date, lints, then runs dist/test/**\/*.test.js on node's own runner.
 *
 *     npm test                      everything
 *     npm test -- handoff channel   the files with one of these in their path, without the lint
 *
 * One process a file; the small ones two at a time, then those that need the machine for themselves one at a time.
 * Runs on any Node we support (`some-other-node scripts/test.mjs`): the lint belongs to the one that npm came with.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { build } from './build.mjs';
import { lint } from './lint.mjs';
import { onceOrphaned, root } from './native.mjs';

const ONE_AT_A_TIME =
  /^test\/((demo|e2e|faults|interop|moving|package|torture)\/|examples\/(chat|frontProxy|testHarness|workerPool)\.)/;
const SLOW = /^test\/interop\/(?!(haproxy|notify)\.)/;
const FILE_LIMIT = 120_000; // ms; twice that for those that run alone
const GUARD = path.join(root, 'dist/test/support/guard.js');
const DEADLINE = 900_000; // ms, for all of them together

const words = process.argv.slice(2);
delete process.env.NODE_TEST_CONTEXT; // set where a test runs this script; the runner would take itself for a test file
onceOrphaned(stop);
process.once('disconnect', stop); // scripts/interop.mjs was killed

const built = build();
const linted = words.length > 0 || !process.env.npm_execpath || (await lint());
if (built) await test();
if (!built || !linted) {
  console.error(built ? 'The lint found something: see above the tests.' : 'No test ran: the build failed.');
  process.exitCode = 1;
}
process.exit(); // whatever a test left behind with our pipes

async function test() {
  const files = testFiles();
  if (files.length === 0) throw new Error(`No test file has ${words.join(' or ')} in its path`);
  const small = files.filter((file) => !ONE_AT_A_TIME.test(file));
  const large = files.filter((file) => ONE_AT_A_TIME.test(file));
  const events = watch(joined([running(small, 2), running(large, 1)]));
  await pipeline(Readable.from(events), new spec(), process.stdout, { end: false });
  killDescendants();
}

/**
 * The sources say which files there are: dist/ may hold some whose source is gone. Of the tests with foreign programs only the quick ones
 * belong to everything; `npm run test:interop` has all of them.
 */
function testFiles() {
  return readdirSync(path.join(root, 'test'), { recursive: true })
    .map((name) => `test/${name}`)
    .filter((file) => file.endsWith('.test.ts'))
    .filter((file) => (words.length === 0 ? !SLOW.test(file) : words.some((word) => file.includes(word))))
    .sort();
}

async function* running(files, concurrency) {
  if (files.length === 0) return;
  const compiled = files.map((file) => path.join(root, 'dist', file.replace(/\.ts$/, '.js')));
  yield* run({ files: compiled, concurrency });
}

/** The events of several runs, one after the other, with one summary of all of them at the end. */
async function* joined(runs) {
  const totals = new Map();
  for (const events of runs) {
    for await (const event of events) {
      const [, name, count] = /^(\w+) ([\d.]+)$/.exec(event.data.message) ?? [];
      if (event.type === 'test:diagnostic' && event.data.file === undefined && name !== undefined) {
        totals.set(name, (totals.get(name) ?? 0) + Number(count));
      } else if (event.type !== 'test:summary') {
        yield event;
      }
    }
  }
  for (const [name, count] of totals) yield diagnostic(`${name} ${count}`);
}

/** Passes the events on. A failure becomes our exit code; what hangs is named, and ended with all that it started. */
async function* watch(events) {
  const open = new Set();
  const limits = new Map();
  const deadline = setTimeout(() => {
    console.error(`\nThe tests took longer than ${DEADLINE / 1000} s. Not finished: ${[...open].join(', ')}`);
    killDescendants();
    process.exit(1);
  }, DEADLINE);
  for await (const event of events) {
    const { file, name, todo, skip } = event.data;
    const isFile = file !== undefined && name === file;
    const shown = file && path.relative(path.join(root, 'dist'), file);
    const test = isFile ? shown : `${shown}: ${name}`;
    if (event.type === 'test:dequeue') {
      open.add(test);
      if (isFile) limits.set(file, setTimeout(tooLong, FILE_LIMIT * (ONE_AT_A_TIME.test(shown) ? 2 : 1), file, shown));
    }
    if (event.type === 'test:complete') {
      open.delete(test);
      if (isFile) clearTimeout(limits.get(file));
    }
    if (event.type === 'test:fail' && todo === undefined && skip === undefined) process.exitCode = 1;
    yield event;
    if (event.type === 'test:fail' && isFile) {
      const unfinished = [...open].filter((other) => other.startsWith(`${test}: `));
      for (const other of unfinished) open.delete(other);
      if (unfinished.length > 0) yield diagnostic(`not finished: ${unfinished.join(', ')}`);
    }
  }
  clearTimeout(deadline);
}

function tooLong(file, shown) {
  console.error(`${shown} takes too long: killed`);
  killDescendants(file);
}

/** Nobody is left who would read the results. */
function stop() {
  killDescendants();
  process.exit(1);
}

function diagnostic(message) {
  return { type: 'test:diagnostic', data: { nesting: 0, message } };
}

/**
 * Ends what the tests started, and what that started: all, or those with `word` in their command line and their children. Not the guards of
 * test/support/guard.ts: these end what has left the family, and then themselves.
 */
function killDescendants(word = '') {
  const processes = allProcesses();
  const isGuard = ({ command }) => command.includes(GUARD);
  const childrenOf = (pid) => processes.filter((process) => process.parent === pid && !isGuard(process));
  const doomed = childrenOf(process.pid).filter(({ command }) => command.includes(word));
  for (const { pid } of doomed) {
    doomed.push(...childrenOf(pid));
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // ended by itself meanwhile, as ps did
    }
  }
}

function allProcesses() {
  const { stdout } = spawnSync('ps', ['-A', '-o', 'pid=,ppid=,args='], { encoding: 'utf8', maxBuffer: Infinity });
  if (stdout === null && existsSync('/proc/self/stat')) return readdirSync('/proc').flatMap(readProcess); // no ps: a small Debian
  return [...(stdout ?? '').matchAll(/^ *(\d+) +(\d+) (.*)$/gm)].map(([, pid, parent, command]) => ({
    pid: Number(pid),
    parent: Number(parent),
    command,
  }));
}

/** proc_pid_stat(5). */
function readProcess(pid) {
  if (!/^\d+$/.test(pid)) return [];
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const [, parent] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const command = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
    return [{ pid: Number(pid), parent: Number(parent), command }];
  } catch {
    return []; // it has ended meanwhile
  }
}
