/**
 * What the tests of 'fdpass/raw' share: lists of descriptors, bad values, scripts in a process of their own.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';

import * as raw from '../../lib/raw.js';

export const isLinux: boolean = process.platform === 'linux';

/** For `skip` of a test of what Linux alone has. */
export const skipUnlessLinux: string | false = isLinux ? false : 'Linux alone';

/** The open descriptors as text, one a line: "18 socket:[8121]". Whole lists are compared, not their lengths. */
export function openList(): string[] {
  return raw.openDescriptors().map(({ fd, target }) => `${fd} ${target}`);
}

/** Closes the descriptor at the end of the test, unless the test has done so. */
export function closeAfter(t: TestContext, ...fds: number[]): void {
  t.after(() => {
    for (const fd of fds) {
      try {
        raw.close(fd);
      } catch {
        // the test has closed it
      }
    }
  });
}

/** A fresh directory, removed at the end of the test. */
export function temporaryDirectory(t: TestContext): string {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'fdpass-raw-'));
  t.after(() => {
    fs.rmSync(directory, { recursive: true, force: true });
  });
  return directory;
}

/** A number that is not open: the lowest free one above 900. */
export function closedDescriptor(): number {
  const fd = raw.dup(0, 900);
  raw.close(fd);
  return fd;
}

/** What is no descriptor, and the code of the error that says so. */
export const badDescriptors: { value: unknown; code: string; type: typeof TypeError | typeof RangeError }[] = [
  { value: -1, code: 'ERR_OUT_OF_RANGE', type: RangeError },
  { value: 2 ** 31, code: 'ERR_OUT_OF_RANGE', type: RangeError },
  { value: 2 ** 53, code: 'ERR_OUT_OF_RANGE', type: RangeError },
  { value: 1.5, code: 'ERR_OUT_OF_RANGE', type: RangeError },
  { value: NaN, code: 'ERR_OUT_OF_RANGE', type: RangeError },
  { value: Infinity, code: 'ERR_OUT_OF_RANGE', type: RangeError },
  { value: '3', code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
  { value: 3n, code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
  { value: true, code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
  { value: null, code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
  { value: undefined, code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
  { value: {}, code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
  { value: Symbol('fd'), code: 'ERR_INVALID_ARG_TYPE', type: TypeError },
];

/** Fails unless `act` throws an error of this class and code whose message matches. */
export function throws(
  act: () => unknown,
  type: ErrorConstructor | typeof TypeError,
  code: string,
  says: RegExp,
): void {
  assert.throws(act, (error: unknown) => {
    assert.ok(error instanceof type, `${String(error)} is no ${type.name}`);
    assert.equal((error as NodeJS.ErrnoException).code, code);
    assert.match(error.message, says);
    return true;
  });
}

/** Fails unless `act` throws an error of the system with these fields, and a message that begins with the code. */
export function throwsSystem(act: () => unknown, code: string, syscall: string, says: RegExp): void {
  assert.throws(act, (error: unknown) => {
    assert.ok(error instanceof Error);
    const { code: actual, errno, syscall: call } = error as NodeJS.ErrnoException;
    assert.equal(actual, code, String(error));
    assert.equal(call, syscall);
    assert.ok(typeof errno === 'number' && errno < 0, 'errno is negative, as in Node');
    assert.ok(error.message.startsWith(`${code}: `), error.message);
    assert.match(error.message, says);
    return true;
  });
}

/** A listener on a free port of the loopback. */
export function listenLoopback(t: TestContext, backlog = 16): { fd: number; address: raw.SocketAddress } {
  const fd = raw.socket('IPv4', 'stream');
  closeAfter(t, fd);
  raw.bind(fd, { family: 'IPv4', address: '127.0.0.1', port: 0 });
  raw.listen(fd, backlog);
  return { fd, address: raw.localAddress(fd) };
}

/** Resolves when the descriptor is readable, or writable. */
export function until(fd: number, event: 'readable' | 'writable'): Promise<raw.WatchEvents> {
  return new Promise((resolve) => {
    const watch = raw.watch(fd, { [event]: true }, (events) => {
      watch.close();
      resolve(events);
    });
  });
}

/** How a script ended, and what it said. */
export interface Outcome {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** How a script is run. */
export interface ScriptOptions {
  execArgv?: string[];
  /** A command that execs the rest, for example `['nice']`. */
  prefix?: string[];
  /** Our descriptor that the script has as number 3. */
  third?: number;
}

/** Runs a module in a fresh Node, with `raw` imported. Resolves when it has ended. */
export async function runScript(t: TestContext, source: string, options: ScriptOptions = {}): Promise<Outcome> {
  const rawUrl = new URL('../../lib/raw.js', import.meta.url).href;
  const module = `import * as raw from ${JSON.stringify(rawUrl)};\n${source}`;
  const command = [...(options.prefix ?? []), process.execPath, ...(options.execArgv ?? [])];
  const env = { ...process.env };
  delete env['NODE_TEST_CONTEXT'];
  const child = spawn(command[0] ?? '', [...command.slice(1), '--input-type=module', '-e', module], {
    env,
    stdio: ['ignore', 'pipe', 'pipe', options.third ?? 'ignore'],
  });
  t.after(() => child.kill('SIGKILL'));
  const [stdout, stderr] = await Promise.all([
    text(child.stdout as Readable),
    text(child.stderr as Readable),
    once(child, 'close'),
  ]);
  return { code: child.exitCode, signal: child.signalCode, stdout, stderr };
}

/** Runs a script that is to succeed, and gives what it wrote. */
export async function scriptOutput(t: TestContext, source: string, options: ScriptOptions = {}): Promise<string> {
  const outcome = await runScript(t, source, options);
  assert.equal(outcome.code, 0, `${outcome.signal ?? ''} ${outcome.stderr}`);
  return outcome.stdout;
}
