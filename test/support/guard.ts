/**
 * Ends what a test file has started, where that file was killed (SIGKILL) before it could do so itself: a process waits for the end of a
 * pipe, whose other end dies with the test file, and kills then what it was told of. So nothing that a test starts outlives it for long.
 * And a test file whose runner was killed does not go on by itself.
 * Kills only what it was told of: processes by pid and start time, their children, and whoever has a mark in his environment.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { allProcesses, descendants, isAlive, markedProcesses, type ProcessEntry } from './audit.js';

const PARENT_POLL = 500; // ms: the end of the parent has no event
const ROUND = 20; // ms between two rounds of SIGKILL
const DEADLINE = 10_000; // ms, for all of them to end

/** One thing to end or to remove, a line of JSON each. */
type Charge = { mark: string } | { process: Pick<ProcessEntry, 'pid' | 'startTime'> } | { controlGroup: string };

let guard: ChildProcess | undefined;
const told = new Set<string>();

/** Whoever has this mark in his environment is killed. */
export function guardMark(mark: string): void {
  tell({ mark });
}

/** This process is killed, with its children. */
export function guardProcess({ pid, startTime }: ProcessEntry): void {
  tell({ process: { pid, startTime } });
}

/** This directory of a cgroup file system is removed, once nobody is in it. */
export function guardControlGroup(directory: string): void {
  tell({ controlGroup: directory });
}

/**
 * Removes a cgroup, from the leaves up.
 *
 * @returns Whether it is gone: EBUSY while a process is in it. cgroups(7).
 */
export function removeControlGroup(directory: string): boolean {
  try {
    for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
      if (entry.isDirectory() && !removeControlGroup(path.join(directory, entry.name))) return false;
    }
    fs.rmdirSync(directory);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT') return true;
    if (code === 'EBUSY') return false;
    throw error;
  }
}

/** What was written is in the kernel when this returns, and is read when this process has been killed meanwhile. */
function tell(charge: Charge): void {
  const line = JSON.stringify(charge);
  if (told.has(line)) return;
  told.add(line);
  guard ??= start();
  guard.stdin?.write(`${line}\n`);
}

function start(): ChildProcess {
  // A shell waits, which is small; Node comes when there is something to do. A session of its own: Ctrl-C is not for it.
  const script = 'charges=$(cat) && printf "%s\\n" "$charges" | "$0" "$1"';
  const child = spawn('/bin/sh', ['-c', script, process.execPath, fileURLToPath(import.meta.url)], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
  });
  child.once('error', () => undefined); // no shell: nothing is guarded, and all works as before
  child.unref();
  child.stdin.on('error', () => undefined); // somebody has killed it: the same
  if (child.stdin instanceof net.Socket) child.stdin.unref();
  process.once('exit', () => child.kill('SIGKILL')); // an orderly end: fixture.ts has left nobody behind
  if (process.env['NODE_TEST_CONTEXT'] !== undefined) followParent();
  return child;
}

/** Where the runner was killed nobody reads the results, and nobody would end this process if it hung. */
function followParent(): void {
  const parent = process.ppid;
  const timer = setInterval(() => {
    if (process.ppid !== parent) process.kill(process.pid, 'SIGKILL');
  }, PARENT_POLL);
  timer.unref();
}

async function end(charges: readonly Charge[]): Promise<void> {
  const marks = charges.flatMap((charge) => ('mark' in charge ? [charge.mark] : []));
  const processes = charges.flatMap((charge) => ('process' in charge ? [charge.process] : []));
  const groups = charges.flatMap((charge) => ('controlGroup' in charge ? [charge.controlGroup] : []));
  const until = performance.now() + DEADLINE;
  for (;;) {
    const first = [...marks.flatMap(markedProcesses), ...processes.filter(isAlive)];
    const running = allProcesses();
    const all = new Set(first.flatMap(({ pid }) => [pid, ...descendants(pid, running).map((entry) => entry.pid)]));
    for (const pid of all) kill(pid);
    const left = groups.filter((group) => !removeControlGroup(group));
    if ((all.size === 0 && left.length === 0) || performance.now() > until) return;
    await sleep(ROUND);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // it has ended by itself, or is not ours to kill
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const lines = fs.readFileSync(0, 'utf8').split('\n').filter(Boolean);
  await end(lines.map((line) => JSON.parse(line) as Charge));
}
