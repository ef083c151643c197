/** Runs the programs of examples/ as their reader would, and looks at what they print and leave behind. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import readline from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

import { auditDescriptors, openDescriptors, openSockets } from '../support/audit.js';
import { type Family, type Scope, startProcess } from '../support/fixture.js';

/** Examples are plain scripts: they stand in the source tree. */
export const EXAMPLES: string = path.resolve(import.meta.dirname, '../../../examples');

export function example(name: string): string {
  return path.join(EXAMPLES, name);
}

/** Runs a demonstration to its end, which must be a good one that leaves no process. Returns what it printed. */
export async function run(t: Scope, name: string, env: Record<string, string> = {}): Promise<string[]> {
  const family = startProcess(t, example(name), { env });

  const exit = await family.exited;

  assert.deepEqual(exit, { code: 0, signal: null }, family.sofar());
  assertNobody(family);
  await assert.rejects(family.waitFor('no more'), /nobody is left to write it/); // all that was written has been read
  assert.deepEqual(
    family.lines.filter(({ stream }) => stream === 'stderr').map((line) => line.text),
    [],
  );
  return family.lines.map((line) => line.text);
}

export function assertNobody(family: Family): void {
  const left = family.running().map(({ pid, command }) => `pid ${pid} (${command})`);
  assert.deepEqual(left, [], family.sofar());
}

/** The connect loop of clients/, in one of its languages. */
export class Loop {
  readonly #child: ChildProcess;
  readonly #lines: string[] = [];
  readonly #first: Promise<unknown>;
  readonly #ended: Promise<unknown[]>;

  constructor(t: Scope, language: 'Python' | 'Node', ...args: (string | number)[]) {
    const script = example(language === 'Python' ? 'clients/loop.py' : 'clients/loop.mjs');
    const command = [script, ...args.map(String)];
    const child = spawn(language === 'Python' ? 'python3' : process.execPath, command, {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => void child.kill('SIGKILL'));
    this.#child = child;
    const reader = readline.createInterface({ input: child.stdout });
    reader.on('line', (line) => this.#lines.push(line));
    this.#first = once(reader, 'line', { signal: AbortSignal.timeout(20_000) });
    this.#ended = once(child, 'close');
  }

  /** Its first line: from then on it has connected. */
  async begun(): Promise<void> {
    await this.#first;
  }

  /** Ctrl-C. */
  interrupt(): void {
    this.#child.kill('SIGINT');
  }

  /** Its end: the exit code and all its lines. */
  async ended(): Promise<{ code: unknown; lines: string[] }> {
    const [code] = await this.#ended;
    return { code, lines: this.#lines };
  }
}

/**
 * What a process holds and keeps: without the connections that it accepts, which come and go while we look, and without what this
 * process itself passes on to all it starts. Pipes of its own without their number, which is another in every process; the first three
 * without O_NONBLOCK, which is the last writer's.
 */
export function lasting(pid: number): string[] {
  const kept = openSockets(pid).filter(({ protocol, state }) => protocol === 'unix' || state === 'LISTEN');
  const sockets = new Set(kept.map(({ inode }) => `socket:[${inode}]`));
  const passedOn = openDescriptors('self').filter(({ fd, closeOnExec }) => fd > 2 && !closeOnExec);
  const ours = new Set(passedOn.map(({ fd, target }) => `${fd} ${target}`));
  return auditDescriptors(pid)
    .filter((line) => {
      const [fd = '', target = ''] = line.split(' ');
      return (sockets.has(target) || !target.startsWith('socket:')) && !ours.has(`${fd} ${target}`);
    })
    .map((line) => (/^[012] /.test(line) ? line.replace(' nonblock', '') : line.replace(/pipe:\[\d+\]/, 'pipe')));
}

/** Waits until a look at another process shows what it must: its descriptors have no event. */
export async function until(what: string, holds: () => boolean, deadline = 10_000): Promise<void> {
  const end = performance.now() + deadline;
  while (!holds()) {
    if (performance.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await delay(5);
  }
}

export function isListening(pid: number): boolean {
  return openSockets(pid).some(({ state }) => state === 'LISTEN');
}
