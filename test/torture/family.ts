/**
 * A family of real processes under torture: starts the first, signals any, follows the log that they all write.
 * Signals only what has written its pid into that log and is still the same process. Linux alone.
 */
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { isAlive, MARK_VARIABLE, markedProcesses, type ProcessEntry, readProcess } from '../support/audit.js';
import type { History, Plan, Strike } from './history.js';
import { type Act, type Event, hangs, type Life, livesOf, now, parseEvents } from './judge.js';

const SERVER = fileURLToPath(new URL('../../../test/torture/fixtures/server.mjs', import.meta.url));
const STRIPPED =
  /^(NODE_(TEST_CONTEXT|OPTIONS|V8_COVERAGE|CHANNEL_.*|UNIQUE_ID)|LISTEN_.*|NOTIFY_SOCKET|WATCHDOG_.*|FDPASS_CHANNEL)$/;

/** Descriptors each process may have: few enough that a full table is filled in no time. */
const DESCRIPTOR_LIMIT = 256;
const POLL = 10; // ms

export class Family {
  readonly directory: string;
  readonly mark: string;
  readonly acts: Act[] = [];
  events: Event[] = [];
  lives: Map<number, Life> = new Map();
  readonly #history: History;
  readonly #entries = new Map<number, ProcessEntry>();
  readonly #thaws = new Map<number, NodeJS.Timeout>();
  /** How long a process stays frozen that a strike has frozen, ms. */
  #strikeThaw = 0;
  #read = 0;
  #rest = '';

  /** @param directory - Empty, and the family's own. */
  constructor(directory: string, history: History) {
    this.directory = directory;
    this.mark = `torture-${process.pid}-${history.seed}-${Math.random().toString(36).slice(2)}`;
    this.#history = history;
  }

  get socketPath(): string {
    return `${this.directory}/socket`;
  }

  get output(): string {
    return fs.existsSync(`${this.directory}/output`) ? fs.readFileSync(`${this.directory}/output`, 'utf8') : '';
  }

  /** Starts a first generation: nobody goes before it. */
  start(): void {
    const { set, probation, readyTimeout, overlap, pad } = this.#history;
    const own = Object.entries(process.env).filter(([name]) => !STRIPPED.test(name));
    const output = fs.openSync(`${this.directory}/output`, 'a');
    this.#act('start', 0);
    const child = spawn('/bin/sh', ['-c', `ulimit -n ${DESCRIPTOR_LIMIT}; exec "$0" "$1"`, process.execPath, SERVER], {
      env: {
        ...Object.fromEntries(own),
        TORTURE: JSON.stringify({ directory: this.directory, set, probation, readyTimeout, overlap, pad }),
        [MARK_VARIABLE]: this.mark,
      },
      stdio: ['ignore', output, output],
    });
    fs.closeSync(output);
    child.unref();
  }

  /** Reads what the processes have written since, and who has ended. */
  look(): void {
    const file = `${this.directory}/events`;
    if (fs.existsSync(file)) {
      const fd = fs.openSync(file, 'r');
      const size = fs.fstatSync(fd).size - this.#read;
      const bytes = Buffer.alloc(Math.max(0, size));
      this.#read += fs.readSync(fd, bytes, 0, bytes.length, this.#read);
      fs.closeSync(fd);
      const lines = (this.#rest + bytes.toString()).split('\n');
      this.#rest = lines.pop() ?? '';
      const fresh = parseEvents(lines.join('\n'));
      this.events.push(...fresh);
      for (const { name, pid } of fresh) {
        const entry = name === 'start' ? readProcess(pid) : undefined;
        if (entry !== undefined) this.#entries.set(pid, entry);
        if (name === 'start' && entry === undefined) this.#act('gone', pid);
      }
      for (const event of fresh) this.#thawLater(event);
    }
    for (const [pid, entry] of this.#entries) {
      if (isAlive(entry)) continue;
      this.#entries.delete(pid);
      this.#act('gone', pid);
    }
    this.lives = livesOf(this.events, this.acts);
  }

  /** pids of those that have said something and still run, oldest first. */
  living(): number[] {
    return [...this.#entries.keys()];
  }

  /** Whether one is frozen that is to be thawed. */
  get hasFrozen(): boolean {
    return this.#thaws.size > 0;
  }

  /** Those that hold the listeners: not one that has handed over, or leaves. */
  holders(): number[] {
    return this.living().filter((pid) => this.lives.get(pid)?.heldUntil === Infinity);
  }

  /** Whether this process has done that, as its log says. */
  has(pid: number, name: string): boolean {
    return this.events.some((event) => event.pid === pid && event.name === name);
  }

  /** Waits until something is the case; false when `ms` are over. */
  async until(ms: number, condition: () => boolean): Promise<boolean> {
    const end = now() + ms;
    for (;;) {
      this.look();
      if (condition()) return true;
      if (now() > end) return false;
      await sleep(POLL);
    }
  }

  kill(pid: number): void {
    this.#signal('kill', pid, 'SIGKILL');
  }

  freeze(pid: number, ms: number): void {
    if (!this.#signal('freeze', pid, 'SIGSTOP')) return;
    this.#thawAfter(pid, ms);
  }

  terminate(pid: number): void {
    this.#signal('term', pid, 'SIGTERM');
  }

  /** Asks a process that listens for the signal to restart. */
  restart(pid: number, orders: { plan: Plan; full?: number; strike?: Strike; thawAfter?: number }): void {
    this.#strikeThaw = orders.thawAfter ?? 500;
    this.#order('plan', orders.plan);
    this.#order('fill', orders.full);
    this.#order('strike', orders.strike);
    this.#signal(undefined, pid, 'SIGUSR2');
  }

  /** Nothing that was ordered and not yet taken happens any more, and everybody runs. */
  calm(): void {
    for (const order of ['plan', 'fill', 'strike']) this.#order(order, undefined);
    for (const timer of this.#thaws.values()) clearTimeout(timer);
    this.look();
    for (const pid of [...this.#thaws.keys(), ...this.living()]) this.#thaw(pid);
  }

  /** Nobody holds the listeners, or will: whether that may be is for the judge to say. Ends those that were meant never to serve. */
  isLost(): boolean {
    this.endLostCause();
    return this.holders().length === 0 && this.running().every(({ pid }) => this.lives.has(pid));
  }

  /** Where all that is left was meant never to serve, by its plan: ends it. */
  endLostCause(): void {
    const holders = this.holders();
    if (!holders.every((pid) => this.#isHopeless(pid))) return;
    for (const pid of holders) this.#signal('mercy', pid, 'SIGKILL');
  }

  /** Never serves, and will be ended by nobody. */
  #isHopeless(pid: number): boolean {
    const life = this.lives.get(pid);
    return life !== undefined && hangs(life) && life.hasPredecessor;
  }

  /** Every process of the family that runs, orphans and those that never said anything too. */
  running(): ProcessEntry[] {
    return markedProcesses(this.mark);
  }

  async destroy(): Promise<void> {
    for (const timer of this.#thaws.values()) clearTimeout(timer);
    for (let left = this.running(); left.length > 0; left = this.running()) {
      for (const { pid } of left) send(pid, 'SIGKILL');
      await sleep(POLL);
    }
  }

  #isFrozen(pid: number): boolean {
    return readProcess(pid)?.state === 'T';
  }

  #thawLater({ name, detail }: Event): void {
    if (name !== 'strike' || !detail.startsWith('SIGSTOP')) return;
    this.#thawAfter(Number(detail.split(' ')[1]), this.#strikeThaw);
  }

  #thawAfter(pid: number, ms: number): void {
    clearTimeout(this.#thaws.get(pid));
    this.#thaws.set(
      pid,
      setTimeout(() => {
        this.#thaw(pid);
      }, ms),
    );
  }

  #thaw(pid: number): void {
    this.#thaws.delete(pid);
    if (this.#isFrozen(pid)) this.#signal('thaw', pid, 'SIGCONT');
  }

  #signal(type: Act['type'] | undefined, pid: number, signal: NodeJS.Signals): boolean {
    const entry = this.#entries.get(pid);
    if (entry === undefined || !isAlive(entry)) return false;
    if (type !== undefined && type !== 'thaw') this.#act(type, pid); // before it: what it causes comes later
    send(pid, signal);
    if (type === 'thaw') this.#act(type, pid);
    return true;
  }

  #act(type: Act['type'], pid: number): void {
    this.acts.push({ at: now(), type, pid });
  }

  /** Appears all at once: whoever looks finds it whole or not at all. */
  #order(name: string, value: unknown): void {
    const file = path.join(this.directory, name);
    if (value === undefined) {
      fs.rmSync(file, { force: true });
      return;
    }
    fs.writeFileSync(`${file}.new`, JSON.stringify(value));
    fs.renameSync(`${file}.new`, file);
  }
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch {
    // it has ended by itself
  }
}
