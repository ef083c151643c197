/**
 * What the tests of Channel share: foreign programs (Python, C), lists of descriptors, frames as somebody else might write them.
 * Starts processes and ends each of them after its test.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import type { TestContext } from 'node:test';

import type { Channel } from '../../lib/channel.js';
import * as raw from '../../lib/raw.js';
import { Waiting } from '../support/waiting.js';

export const root: string = path.resolve(import.meta.dirname, '../../..');
export const channelUrl: string = new URL('../../lib/channel.js', import.meta.url).href;
export const isRoot: boolean = process.getuid?.() === 0;
export const skipWithoutPython: string | false = runs('python3', '--version') ? false : 'python3 is not here';
export const skipWithoutC: string | false = runs('cc', '--version') ? false : 'cc is not here';
export const skipWithoutGo: string | false = runs('go', 'version') ? false : 'go is not here';

function runs(program: string, argument: string): boolean {
  return spawnSync(program, [argument], { stdio: 'ignore' }).status === 0;
}

net.connect({ path: '/' }).on('error', () => undefined); // libuv opens /dev/null for its first stream, and keeps it

/** The open descriptors, as text. */
export function table(): string[] {
  return raw.openDescriptors().map(({ fd, target }) => `${fd} ${target}`);
}

/**
 * Takes the list now; `check()` waits until nothing is open that is not in it, for a turn of the event loop or two after the last close.
 * What an earlier test was about to close may be gone by then.
 */
export function watchTable(): { check: () => Promise<void> } {
  const before = table();
  const opened = (): string[] => table().filter((line) => !before.includes(line));
  return {
    check: async () => {
      const end = performance.now() + 2_000;
      while (opened().length > 0 && performance.now() < end) await new Promise((resolve) => setImmediate(resolve));
      assert.deepEqual(opened(), []);
    },
  };
}

/** Closes channels at the end of the test, whether it closed them itself or not. */
export function closing(t: TestContext, ...channels: Channel[]): void {
  t.after(() => {
    for (const channel of channels) channel.close();
  });
}

/** A fresh directory, removed at the end of the test. */
export function temporaryDirectory(t: TestContext): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'fdpass-channel-'));
  t.after(() => {
    fs.rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** A header of docs/protocol.md, with whatever fields. */
export function header(
  fields: { magic?: string; layout?: number; flags?: number; rights?: number; reserved?: number; length?: number } = {},
): Buffer {
  const { magic = 'FDC', layout = 1, flags = 0, rights = 0, reserved = 0, length = 0 } = fields;
  const bytes = Buffer.alloc(12);
  bytes.write(magic, 'latin1');
  bytes.set([layout, flags, rights], 3);
  bytes.writeUInt16BE(reserved, 6);
  bytes.writeUInt32BE(length, 8);
  return bytes;
}

/** A frame as somebody else might write it. */
export function frame(payload: string | Buffer, fields: { rights?: number; flags?: number } = {}): Buffer {
  const body = Buffer.from(payload);
  return Buffer.concat([header({ ...fields, length: body.length }), body]);
}

/** A program that was started, and what it says line by line. */
export class Program {
  readonly child: ChildProcess;
  readonly lines: string[] = [];
  readonly exited: Promise<number | string>;
  #errors = '';
  #next = 0;
  #ended = false;
  readonly #waiting = new Waiting(() => `it said ${JSON.stringify(this.lines)} ${this.#errors}`);

  /** `fds`: what it has as 3, 4, ... */
  constructor(t: TestContext, command: readonly string[], fds: readonly number[] = []) {
    const [file = '', ...args] = command;
    const env = { ...process.env };
    delete env['NODE_TEST_CONTEXT'];
    this.child = spawn(file, args, { env, stdio: ['pipe', 'pipe', 'pipe', ...fds] });
    t.after(() => this.child.kill('SIGKILL'));
    const { stdout, stderr } = this.child;
    assert.ok(stdout !== null && stderr !== null);
    readline.createInterface({ input: stdout }).on('line', (line) => {
      this.lines.push(line);
      this.#waiting.wake();
    });
    stderr.on('data', (chunk) => (this.#errors += String(chunk)));
    this.exited = once(this.child, 'close').then(() => {
      this.#ended = true;
      this.#waiting.wake();
      return this.child.signalCode ?? this.child.exitCode ?? -1;
    });
  }

  /** What it says next. Rejects when it has ended without. */
  line(deadline = 20_000): Promise<string> {
    return this.#waiting.until('a line', deadline, () => {
      const line = this.lines[this.#next];
      if (line !== undefined) {
        this.#next++;
        return line;
      }
      if (this.#ended) throw new Error(`it has ended; it said ${JSON.stringify(this.lines)} ${this.#errors}`);
      return undefined;
    });
  }

  /** Writes a line to it. */
  tell(line: string): void {
    this.child.stdin?.write(`${line}\n`);
  }

  /** Its end, which must be a good one. */
  async ends(): Promise<void> {
    assert.equal(await this.exited, 0, this.#errors);
  }
}

/** A program in Python. It has `socket`, `os`, `array`, `struct`, `sys`, and `say(...)` for a line that we read. */
export function python(
  t: TestContext,
  source: string,
  fds: readonly number[] = [],
  args: readonly string[] = [],
): Program {
  const head = `
import array, os, socket, struct, sys
def say(*what): print(*what, flush=True)
def given(number=3, kind=socket.SOCK_STREAM): return socket.socket(socket.AF_UNIX, kind, 0, number)
def frame(payload=b'', rights=0, flags=0, length=None):
    return b'FDC' + bytes([1, flags, rights, 0, 0]) + struct.pack('>I', len(payload) if length is None else length) + payload
def send(s, data, fds=()):
    return s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else [])
`;
  return new Program(t, ['python3', '-c', `${head}\n${source}`, ...args], fds);
}

/** A module in a fresh Node, with Channel and raw imported. `prefix`: a command that execs the rest. */
export function node(
  t: TestContext,
  source: string,
  options: { fds?: readonly number[]; execArgv?: readonly string[]; prefix?: readonly string[] } = {},
): Program {
  const { fds = [], execArgv = [], prefix = [] } = options;
  const module = `
    import { Channel, Descriptor } from ${JSON.stringify(channelUrl)};
    import * as raw from ${JSON.stringify(new URL('raw.js', channelUrl).href)};
    const table = () => raw.openDescriptors().map(({ fd, target }) => fd + ' ' + target).join();
    const opened = (before) => table().split(',').filter((line) => !before.split(',').includes(line)).join() || 'nothing';
    const say = (...what) => console.log(...what);
    void process.stdout; // a stream: libuv opens /dev/null for its first one, and keeps it
    ${source}`;
  return new Program(t, [...prefix, process.execPath, ...execArgv, '--input-type=module', '-e', module], fds);
}

/** Compiles test/support/rights.c, and gives the path of the program. */
export function compileC(t: TestContext): string {
  const program = path.join(temporaryDirectory(t), 'rights');
  execFileSync('cc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', program, path.join(root, 'test/support/rights.c')]);
  return program;
}
