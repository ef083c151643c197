/**
 * Two processes with a socket between them, over which descriptors pass: fixtures/rights.c, .py and .ts, each the same in its own way.
 * Starts them, tells them what to do, and reads what it took: a line to each, and one line back.
 *
 *     send COUNT BATCH | receive COUNT | ping COUNT | pong COUNT
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';

import * as raw from '../lib/raw.js';
import { type Scope, temporaryDirectory } from '../test/support/fixture.js';
import { root } from './measure.js';

/** What one end says of what it did: when, on the clock that all processes share, in ns; its processor time, in us; round trips in us. */
export interface Answer {
  began: number;
  ended: number;
  cpu: number;
  p50: number;
  p99: number;
}

/** What it took to pass descriptors one way: how many went in a second, and what one took of the processors, of both ends, in us. */
export interface Rate {
  perSecond: number;
  cpu: number;
}

const DEADLINE = 60_000; // ms, of one answer
const NODE = fileURLToPath(new URL('./fixtures/rights.js', import.meta.url));

/** The ways to pass a descriptor. */
export type Way = 'C' | 'fdpass' | 'fdpass/raw' | 'Python' | 'usocket' | 'send(handle)';

/**
 * A pair of this way.
 *
 * @returns A string: why there is none here.
 */
export function startPair(scope: Scope, way: Way): Pair | string {
  switch (way) {
    case 'C': {
      const program = compile(scope, 'rights.c');
      return program === undefined ? 'no C compiler' : new Pair(scope, [program]);
    }
    case 'Python':
      if (spawnSync('python3', ['-c', 'from socket import send_fds']).status !== 0) return 'no Python 3.9 or later';
      return new Pair(scope, ['python3', path.join(root, 'bench/fixtures/rights.py')]);
    case 'usocket':
      try {
        createRequire(import.meta.url).resolve('usocket');
      } catch {
        return 'not installed: npm install --no-save usocket@1.1.0';
      }
      return new Pair(scope, [process.execPath, NODE, 'usocket']);
    case 'send(handle)':
      return new Pair(scope, [process.execPath, NODE, 'handle'], 1);
    case 'fdpass':
    case 'fdpass/raw':
      // V8 doubles its young generation some time in the first minutes: with all of it from the start, what grows is a leak.
      return new Pair(scope, [
        process.execPath,
        '--min-semi-space-size=16',
        NODE,
        way === 'fdpass' ? 'channel' : 'raw',
      ]);
  }
}

/** A program of fixtures/, compiled. Undefined where there is no compiler. */
export function compile(scope: Scope, source: string): string | undefined {
  if (spawnSync('cc', ['--version']).status !== 0) return undefined;
  const program = path.join(temporaryDirectory(scope), path.basename(source, '.c'));
  const { status, stderr } = spawnSync('cc', ['-O2', '-o', program, path.join(root, 'bench/fixtures', source)]);
  if (status !== 0) throw new Error(`cc ${source}: ${String(stderr)}`);
  return program;
}

/** The two ends of one way. */
export class Pair {
  readonly #ends: End[];

  /** @param ends - 1: the process starts the other one by itself. */
  constructor(scope: Scope, [file = '', ...args]: readonly string[], ends: 1 | 2 = 2) {
    const sockets = raw.socketPair('stream');
    this.#ends = sockets.slice(0, ends).map((socket) => new End(file, args, socket));
    for (const socket of sockets) raw.close(socket);
    scope.after(() => this.stop());
  }

  /** The processes at both ends. */
  get pids(): number[] {
    return this.#ends.map(({ pid }) => pid);
  }

  /** Passes so many, so many in a message, and waits for no answer but at the end. */
  async stream(count: number, batch: number): Promise<Rate> {
    const [sender, receiver] = await this.#both(`receive ${count}`, `send ${count} ${batch}`);
    const seconds = (receiver.ended - sender.began) / 1e9;
    return { perSecond: count / seconds, cpu: (sender.cpu + receiver.cpu) / count };
  }

  /** Passes one there and one back, so often. In us. */
  async pingPong(count: number): Promise<{ p50: number; p99: number }> {
    const [{ p50, p99 }] = await this.#both(`pong ${count}`, `ping ${count}`);
    return { p50, p99 };
  }

  /** The sender's answer first. The one end that answers for both is both. */
  async #both(receive: string, send: string): Promise<[Answer, Answer]> {
    const [sender, receiver] = this.#ends;
    if (sender === undefined) throw new Error('unreachable: a pair without ends');
    if (receiver === undefined) {
      const both = await sender.ask(send);
      return [both, { ...both, cpu: 0 }];
    }
    const received = receiver.ask(receive);
    const sent = sender.ask(send);
    return await Promise.all([sent, received]);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#ends.map((end) => end.stop()));
  }
}

/** One process of a pair; `socket` becomes its descriptor 3. */
class End {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;
  readonly #ended: Promise<void>;
  readonly #name: string;
  readonly pid: number;

  constructor(file: string, args: readonly string[], socket: number) {
    this.#name = [file, ...args].map((part) => path.basename(part)).join(' ');
    const child = spawn(file, args, { stdio: ['pipe', 'pipe', 'inherit', socket] });
    if (child.pid === undefined) throw new Error(`${this.#name} could not be started`);
    this.pid = child.pid;
    this.#child = child;
    this.#ended = new Promise((resolve) => void child.once('close', () => resolve()));
    if (child.stdout === null || child.stdin === null) throw new Error('unreachable: both are pipes');
    this.#lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
    child.stdin.on('error', () => undefined); // it has ended: then no answer comes, and that is told
  }

  async ask(line: string): Promise<Answer> {
    this.#child.stdin?.write(`${line}\n`);
    const late = AbortSignal.timeout(DEADLINE);
    late.onabort = () => this.#child.kill('SIGKILL');
    const next = await this.#lines.next();
    late.onabort = null;
    if (next.done === true) throw new Error(`${this.#name} ended, or did not answer within ${DEADLINE} ms: ${line}`);
    return JSON.parse(next.value) as Answer;
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#ended;
  }
}
