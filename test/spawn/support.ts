/**
 * What the tests of spawn() have in common: programs that report how they were started, and files that can be told apart.
 * Compiles a C program into a temporary directory; leaves nothing open and nobody running.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { type Child, spawnBy, type SpawnFallback, type SpawnOptions } from '../../lib/spawn.js';
import * as raw from '../../lib/raw.js';

/** What fixtures/report.c and report.py write. */
export interface Report {
  pid: number;
  session: number;
  directory: string;
  arguments: string[];
  /** 'NAME=value' each, in order. */
  environment: string[];
  /** `file`: device and inode. */
  fds: { fd: number; nonBlocking: boolean; file: string }[];
  /** SigBlk, SigIgn, SigCgt of proc(5), in hexadecimal. */
  signals: Record<string, string>;
}

/** Every way to start a child that this kernel has. */
export const WAYS: readonly (readonly [string, SpawnFallback])[] = [
  ['clone', {}],
  ['clone, descriptors from /proc', { marking: 'list' }],
  ['clone, no pidfd', { pidfd: false }],
  ['fork', { fork: true }],
  ['fork, descriptors from /proc, no pidfd', { fork: true, marking: 'list', pidfd: false }],
  ['fork, every number', { fork: true, marking: 'each' }],
];

/** A file of test/spawn/fixtures, in the sources. */
export function fixture(name: string): string {
  let root = path.dirname(fileURLToPath(import.meta.url));
  while (!fs.existsSync(path.join(root, 'package.json'))) root = path.dirname(root);
  return path.join(root, 'test/spawn/fixtures', name);
}

/** The compiled library, for programs outside of dist/. */
export const LIBRARY: string = new URL('../../lib/', import.meta.url).href;

/** A directory that goes with this process, and in it report.c compiled. */
export const directory: string = fs.mkdtempSync(path.join(tmpdir(), 'fdpass-spawn-'));
process.once('exit', () => fs.rmSync(directory, { recursive: true, force: true }));

let compiled: string | undefined;

/** The path of the C program. */
export function reporter(): string {
  if (compiled === undefined) {
    compiled = path.join(directory, 'report');
    execFileSync('cc', ['-O1', '-o', compiled, fixture('report.c')], { stdio: 'inherit' });
  }
  return compiled;
}

let reports = 0;

/** Starts the C program, or the Python one, and waits until it has told. */
export async function report(
  options: SpawnOptions & { language?: 'c' | 'python'; way?: SpawnFallback; args?: readonly string[] } = {},
): Promise<Report> {
  const { language = 'c', way = {}, args = [], ...rest } = options;
  const file = path.join(directory, `report-${reports++}`);
  const command = language === 'c' ? [reporter()] : ['python3', fixture('report.py')];
  const child = spawnBy(way, command[0] ?? '', [...command.slice(1), file, ...args], rest);
  assert.deepEqual(await child.exited, { exitCode: 0, signal: null });
  const text = fs.readFileSync(file, 'utf8');
  fs.unlinkSync(file);
  const told = JSON.parse(text) as Report;
  told.fds.sort((a, b) => a.fd - b.fd);
  assert.equal(told.pid, child.pid);
  return told;
}

/** What a number of this process names, as a report says it. */
export function fileOf(fd: number): string {
  const { device, inode } = raw.describe(fd);
  return `${device}:${inode}`;
}

/** What /dev/null is. */
export function nullFile(): string {
  const { dev, ino } = fs.statSync('/dev/null', { bigint: true });
  return `${dev}:${ino}`;
}

/** A file that no other number names, at exactly this number; closed with the scope that it is declared in. */
export class File implements Disposable {
  readonly fd: number;
  /** As a report says it. */
  readonly file: string;

  constructor(fd?: number) {
    const any = raw.memoryFile('test');
    this.fd = fd ?? any;
    if (fd !== undefined) {
      assert.ok(!raw.openDescriptors().some((open) => open.fd === fd), `fd ${fd} is taken`);
      raw.dupTo(any, fd);
      raw.close(any);
    }
    this.file = fileOf(this.fd);
  }

  [Symbol.dispose](): void {
    raw.close(this.fd);
  }
}

/** Names by number: what the child has open. */
export function table({ fds }: Report): Record<number, string> {
  return Object.fromEntries(fds.map(({ fd, file }) => [fd, file]));
}

/** The value of a variable; fails where it is there twice. */
export function variable({ environment }: Report, name: string): string | undefined {
  const found = environment.filter((entry) => entry.startsWith(`${name}=`));
  assert.ok(found.length <= 1, `${name} is there ${found.length} times`);
  return found[0]?.slice(name.length + 1);
}

/** Resolves with everything that a child writes to its stdout. */
export async function output(child: Child): Promise<string> {
  assert.ok(child.stdout);
  let text = '';
  for await (const chunk of child.stdout) text += String(chunk);
  return text;
}
