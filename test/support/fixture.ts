/**
 * Real processes for tests: starts a program, follows what it and all its successors print (they share one stdout), and lets none of
 * them outlive the test. Signals only processes that it knows by their mark, their parent or their own line, never a name.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import { allProcesses, descendants, isAlive, isZombie, MARK_VARIABLE, markedProcesses, readProcess } from './audit.js';
import type { ProcessEntry } from './audit.js';
import { guardMark, guardProcess } from './guard.js';
import { Waiting } from './waiting.js';

/** Who is told when all is over: the `t` of a test, or a `Cleanup`. */
export interface Scope {
  after(action: () => void | Promise<void>): void;
}

/** A scope of its own, for what several tests share: run it in their `after`. What came last is undone first. */
export class Cleanup implements Scope {
  readonly #actions: (() => void | Promise<void>)[] = [];

  after(action: () => void | Promise<void>): void {
    this.#actions.unshift(action);
  }

  async run(): Promise<void> {
    for (const action of this.#actions.splice(0)) await action();
  }
}

export interface StartOptions {
  /** On top of this process's own, without what the test runner and supervisors put there. undefined removes. */
  env?: Record<string, string | undefined>;
  args?: readonly string[];
  /** Node's own arguments, before the script. */
  execArgv?: readonly string[];
  cwd?: string;
  /** Which Node. This one. */
  execPath?: string;
  /** A command that starts it: Node, its arguments and the script stand behind these words. */
  through?: readonly string[];
  /** ms to wait for the first `listening on` line, 10 000. */
  deadline?: number;
}

/** One line of the family's output. `at`: performance.now() when it was read. */
export interface Line {
  index: number;
  text: string;
  stream: 'stdout' | 'stderr';
  at: number;
}

/** What a server printed once it served: `listening on ADDRESS, pid PID, generation N`. */
export interface Generation {
  address: string;
  pid: number;
  generation: number;
  at: number;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export type LineMatch = RegExp | string | ((text: string) => boolean);

const LISTENING = /^listening on (.+), pid (\d+), generation (\d+)$/;
/**
 * Not for those we start: the runner's, the coverage's, a supervisor's. And certificates: Node opens that file in a thread of its own, at
 * some time after its start, which would be a descriptor more in a list.
 */
const STRIPPED =
  /^(NODE_(TEST_CONTEXT|OPTIONS|EXTRA_CA_CERTS|V8_COVERAGE|CHANNEL_.*|UNIQUE_ID)|NYC_.*|C8_.*|LISTEN_.*|NOTIFY_SOCKET|WATCHDOG_.*|FDPASS_.*)$/;
const POLL = 5; // ms: the end of a process that is not our child has no event

/** Starts a script with this Node and does not wait for anything. It and its successors are killed after the test. */
export function startProcess(t: Scope, script: string, options: StartOptions = {}): Family {
  const { execPath = process.execPath, through = [], execArgv = [], args = [] } = options;
  const [program = execPath, ...rest] = [...through, execPath, ...execArgv, script, ...args];
  return startProgram(t, program, { ...options, args: rest });
}

/** Starts any program, with `args` behind it, under the same care. */
export function startProgram(t: Scope, program: string, options: Omit<StartOptions, 'execArgv'> = {}): Family {
  const family = new Family([program, ...(options.args ?? [])], options);
  watch(family);
  t.after(() => family.kill());
  return family;
}

/** Starts a server (PORT=0 unless `env` says otherwise) and waits until it listens. */
export async function startServer(t: Scope, script: string, options: StartOptions = {}): Promise<Family> {
  const family = startProcess(t, script, { ...options, env: { PORT: '0', ...options.env } });
  await family.waitFor(LISTENING, {
    what: 'the line "listening on ..."',
    deadline: options.deadline ?? 10000,
    from: 0,
  });
  return family;
}

/** A fresh directory, removed after the test. Its path is short enough for a Unix socket in it. */
export function temporaryDirectory(t: Scope): string {
  const directory = mkdtempSync(path.join(tmpdir(), 'fdpass-'));
  t.after(() => rmSync(directory, { recursive: true, force: true, maxRetries: 3 }));
  return directory;
}

/** A process, and all that descends from it by restarts or otherwise. */
export class Family {
  /** The first process. */
  readonly pid: number;
  /** The value of MARK_VARIABLE in its environment. */
  readonly mark: string = randomUUID();
  readonly lines: Line[] = [];
  /** Those that served, in the order they said so. */
  readonly generations: Generation[] = [];
  /** The end of the first process. Of successors only the end can be seen, not the code: they are not our children. */
  readonly exited: Promise<Exit>;
  readonly #child: ChildProcess;
  readonly #known = new Map<number, ProcessEntry>();
  readonly #waiting = new Waiting(() => this.sofar());
  #exit: Exit | undefined;
  #openStreams = 2;

  constructor(command: readonly [string, ...string[]], options: Omit<StartOptions, 'args' | 'execArgv'> = {}) {
    const [program, ...args] = command;
    const own = Object.entries(process.env).filter(([name]) => !STRIPPED.test(name));
    const env = { ...Object.fromEntries(own), ...options.env, [MARK_VARIABLE]: this.mark };
    guardMark(this.mark);
    this.#child = spawn(program, args, {
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    if (this.#child.pid === undefined) {
      this.#child.once('error', () => undefined); // it is told here
      throw new Error(`${command.join(' ')} could not be started: is there no ${program}?`);
    }
    this.pid = this.#child.pid;
    this.#remember(this.pid);
    this.exited = new Promise((resolve) => {
      this.#child.once('exit', (code, signal) => {
        this.#exit = { code, signal };
        resolve(this.#exit);
        this.#waiting.wake();
      });
    });
    for (const stream of ['stdout', 'stderr'] as const) {
      const input = this.#child[stream];
      if (!input) throw new Error('unreachable');
      const reader = readline.createInterface({ input, crlfDelay: Infinity });
      reader.on('line', (text) => this.#onLine(text, stream));
      reader.on('close', () => {
        this.#openStreams--;
        this.#waiting.wake();
      });
    }
  }

  /** The generation that said last that it serves; the first process before any did. */
  get newest(): number {
    return this.generations.at(-1)?.pid ?? this.pid;
  }

  /** host:port, [host]:port or a path, as the first generation said it. */
  get address(): string {
    const first = this.generations[0];
    if (!first) throw new Error(`nothing listens yet; ${this.sofar()}`);
    return first.address;
  }

  get port(): number {
    const port = /:(\d+)$/.exec(this.address)?.[1];
    if (port === undefined) throw new Error(`${this.address} has no port`);
    return Number(port);
  }

  get url(): string {
    return `http://${this.address}/`;
  }

  /**
   * Waits for a line of any of the family.
   *
   * @param from - Index of the first line that counts. As a default only lines that come from now on do; 0: all.
   * @param deadline - ms, 10 000. Rejects earlier when the last process that could print has gone.
   */
  async waitFor(match: LineMatch, options: { what?: string; deadline?: number; from?: number } = {}): Promise<Line> {
    const { what = `a line ${String(match)}`, deadline = 10000 } = options;
    let next = options.from ?? this.lines.length;
    return await this.#waiting.until(what, deadline, () => {
      while (next < this.lines.length) {
        const line = this.lines[next++];
        if (line && matches(match, line.text)) return line;
      }
      if (this.#openStreams > 0 || !this.#exit) return undefined;
      throw new Error(`${what} will not come: nobody is left to write it; ${this.sofar()}`);
    });
  }

  /** Sends a signal to the newest generation, or to another process of the family that still runs. */
  signal(signal: NodeJS.Signals, pid: number = this.newest): void {
    const entry = this.#known.get(pid) ?? this.running().find((process) => process.pid === pid);
    if (!entry || !isAlive(entry))
      throw new Error(`${signal}: pid ${pid} is gone or not of this family; ${this.sofar()}`);
    process.kill(pid, signal);
  }

  /** Sends SIGUSR2 to the newest generation and waits for the next one to say that it serves. `deadline` in ms. */
  async restart(deadline = 15000): Promise<Generation> {
    const before = this.generations.length;
    this.signal('SIGUSR2');
    const what = `generation ${before + 1} after SIGUSR2 to pid ${this.newest}`;
    await this.waitFor(LISTENING, { what, deadline });
    const generation = this.generations[before];
    if (!generation) throw new Error('unreachable');
    return generation;
  }

  /**
   * Counts a process to the family that cannot be found by its mark: nginx and perl write over their environment. The caller knows that it
   * is of the family; of what it says itself only a process that is found by mark or parent is counted.
   */
  follow(pid: number): void {
    this.#remember(pid);
  }

  /** Waits until a process of the family runs no more. `deadline` in ms. */
  async gone(pid: number, deadline = 10000): Promise<void> {
    const entry = this.#known.get(pid) ?? this.running().find((process) => process.pid === pid);
    if (!entry) return;
    const end = performance.now() + deadline;
    while (isAlive(entry)) {
      if (performance.now() > end) throw new Error(`pid ${pid} still runs after ${deadline} ms; ${this.sofar()}`);
      await sleep(POLL);
    }
  }

  /** Those of the family that run now. After a restart: the newest alone. */
  running(): ProcessEntry[] {
    const all = allProcesses();
    const known = [...this.#known.values()].filter(isAlive);
    const found = [...known, ...markedProcesses(this.mark)];
    const family = [...found, ...found.flatMap(({ pid }) => descendants(pid, all))];
    return [...new Map(family.map((entry) => [entry.pid, entry])).values()].filter((entry) => !isZombie(entry));
  }

  /** SIGTERM to the newest, and waits until nobody is left. Rejects, and kills, when somebody is after `deadline` ms. */
  async stop(deadline = 10000): Promise<void> {
    const end = performance.now() + deadline;
    if (this.running().some(({ pid }) => pid === this.newest)) this.signal('SIGTERM');
    for (let left = this.running(); left.length > 0; left = this.running()) {
      if (performance.now() > end) {
        const names = left.map(({ pid, command }) => `pid ${pid} (${command})`).join(', ');
        await this.kill();
        throw new Error(`left behind ${deadline} ms after SIGTERM: ${names}; ${this.sofar()}`);
      }
      await sleep(4 * POLL);
    }
  }

  /** Kills all of the family that still runs, and waits until it has ended. No error if there is nobody. */
  async kill(): Promise<void> {
    const end = performance.now() + 5000;
    while (this.killNow() && performance.now() < end) await sleep(POLL);
    this.#child.stdout?.destroy();
    this.#child.stderr?.destroy();
    unwatch(this);
  }

  /** One round of SIGKILL. @returns Whether there was anybody: then do it again, a process may have been about to fork. */
  killNow(): boolean {
    const left = this.running();
    for (const { pid } of left) {
      if (isAncestor(pid)) throw new Error(`pid ${pid} was about to be killed, which has started this test`);
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // it has ended by itself
      }
    }
    return left.length > 0;
  }

  /** What was seen, for the message of an error. */
  sofar(): string {
    const first = this.#exit ? `exited with ${this.#exit.signal ?? this.#exit.code}` : 'runs';
    const shown = this.lines.slice(-20).map(({ text, stream }) => `\n  ${stream === 'stderr' ? '! ' : '  '}${text}`);
    return `pid ${this.pid} ${first}; output so far (${this.lines.length} lines)${shown.join('') || ': none'}`;
  }

  #remember(pid: number): void {
    const entry = readProcess(pid);
    if (!entry) return;
    if (isAncestor(pid))
      throw new Error(`pid ${pid} (${entry.command}) has started this test: it is not of the family`);
    this.#known.set(pid, entry);
    guardProcess(entry);
  }

  #onLine(text: string, stream: Line['stream']): void {
    const at = performance.now();
    const [, address, pid, generation] = LISTENING.exec(text) ?? [];
    if (address !== undefined) {
      // In a PID namespace of its own it says a pid that is somebody else's here: all that is remembered is killed in the end.
      const said = this.running().find((process) => process.pid === Number(pid));
      if (said) this.#known.set(said.pid, said);
      this.generations.push({ address, pid: Number(pid), generation: Number(generation), at });
    }
    this.lines.push({ index: this.lines.length, text, stream, at });
    this.#waiting.wake();
  }
}

/** Whether this process descends from it: pid 1, a shell, the runner. */
function isAncestor(pid: number): boolean {
  for (let own = readProcess(process.pid); own; own = readProcess(own.parent)) if (own.pid === pid) return true;
  return false;
}

function matches(match: LineMatch, text: string): boolean {
  if (typeof match === 'string') return text.includes(match);
  return match instanceof RegExp ? match.test(text) : match(text);
}

// This process may itself be ended in the middle of a test: by the runner's time limit, by Ctrl-C, by process.exit(). guard.ts: by SIGKILL.
const families = new Set<Family>();
const ENDINGS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

function watch(family: Family): void {
  if (families.size === 0) {
    process.on('exit', killAllNow);
    for (const signal of ENDINGS) process.on(signal, onEnding);
  }
  families.add(family);
}

function unwatch(family: Family): void {
  families.delete(family);
  if (families.size > 0) return;
  process.off('exit', killAllNow);
  for (const signal of ENDINGS) process.off(signal, onEnding);
}

function killAllNow(): void {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let round = 0; round < 100; round++) {
    const left = [...families].filter((family) => family.killNow());
    if (left.length === 0) return;
    Atomics.wait(pause, 0, 0, POLL);
  }
}

function onEnding(signal: NodeJS.Signals): void {
  killAllNow();
  for (const ending of ENDINGS) process.off(ending, onEnding);
  process.kill(process.pid, signal); // the end that it would have been without us
}
