/**
 * What the tests with real programs share: which of them are here, the files of examples/supervisors as an operator would install them,
 * and the load that none of their clients may notice.
 * Looks into PATH, writes into directories of the test.
 */
import assert from 'node:assert/strict';
import { execFile, type ExecFileOptions } from 'node:child_process';
import { randomInt, randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';

import { listen } from '../../lib/index.js';
import { MARK_VARIABLE, type OpenSocket, openSockets } from '../support/audit.js';
import { type Family, type Scope, temporaryDirectory } from '../support/fixture.js';
import { guardMark } from '../support/guard.js';
import { type Load, type LoadOptions, type Report, startLoad } from '../support/load.js';

export const root: string = path.resolve(import.meta.dirname, '../../..');

const execute = promisify(execFile);

/** By which guard.ts finds what `run` started. */
const MARK = randomUUID();

/** Runs a program to its end; rejects, as execFile does, when it fails. */
export function run(file: string, args: readonly string[], options: ExecFileOptions = {}): Promise<Output> {
  guardMark(MARK);
  const env = { ...(options.env ?? process.env), [MARK_VARIABLE]: MARK };
  return execute(file, args, { encoding: 'utf8', ...options, env }) as Promise<Output>;
}

export interface Output {
  stdout: string;
  stderr: string;
}

interface Program {
  package?: string;
  npm?: string;
  /** How to have what is in neither. Nothing installs it: its tests run where it is in PATH. */
  elsewhere?: string;
  /** Where it stands, when not in PATH. */
  paths?: string[];
}

const programs = JSON.parse(fs.readFileSync(path.join(root, 'test/interop/programs.json'), 'utf8')) as Record<
  string,
  Program
>;

/** Where scripts/interop.mjs installs what npm has. */
const NPM_BIN = path.join(root, 'build/interop/node_modules/.bin');
/** Daemons stand in sbin, which not every user has in the PATH. */
const FOLDERS = [...(process.env['PATH'] ?? '').split(':'), '/usr/local/sbin', '/usr/sbin', '/sbin', NPM_BIN];

/** Where a program of programs.json is; undefined when it is not here. */
export function find(name: string): string | undefined {
  const places = programs[name]?.paths ?? FOLDERS.map((folder) => path.join(folder, name));
  return places.find((file) => fs.existsSync(file));
}

/** Where it is; for tests that are skipped when it is not. */
export function program(name: string): string {
  const file = find(name);
  assert.ok(file !== undefined, `${name} is not here`);
  return file;
}

/** Why a test is skipped: the programs that are not here, and where they come from. False: all are. */
export function without(...names: string[]): string | false {
  const missing = names.filter((name) => find(name) === undefined);
  if (missing.length === 0) return false;
  const how = missing.map((name) => {
    const { package: debian, npm, elsewhere } = programs[name] ?? {};
    if (elsewhere !== undefined) return `${elsewhere} (no Debian package)`;
    return debian === undefined ? `npm run test:interop installs ${npm ?? name}` : `apt-get install ${debian}`;
  });
  return `${missing.join(', ')} not found: ${[...new Set(how)].join(', ')}`;
}

/**
 * A port that nobody listens at, for a file that must name one: not one of those that the kernel gives to clients, who would take it while
 * the server is down. Another server may still take it first: then the test fails, and says so.
 */
export async function freePort(): Promise<number> {
  const range = fs.readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8');
  const lowest = 10_000;
  const highest = Math.max(lowest + 1000, Number(range.trim().split(/\s/)[0]));
  for (let attempt = 0; ; attempt++) {
    const port = randomInt(lowest, highest);
    try {
      using listener = await listen({ name: 'free', port });
      assert.equal(listener.port, port);
      return port;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || attempt > 100) throw error;
    }
  }
}

/** How the files of examples/supervisors are made to fit a test: what stands in the file, and what is written in its place. */
export type Replacements = Readonly<Record<string, string>>;

/** {@link installFile} of examples/supervisors. */
export function install(file: string, target: string, replacements: Replacements = {}): void {
  installFile(path.join('supervisors', file), target, replacements);
}

/**
 * Copies a file of examples/, and replaces what names the operator's machine: paths, ports. Each replacement must be there, or the file
 * and its test have parted.
 */
export function installFile(file: string, target: string, replacements: Replacements = {}): void {
  let text = fs.readFileSync(path.join(root, 'examples', file), 'utf8');
  for (const [from, to] of Object.entries(replacements)) {
    assert.ok(text.includes(from), `${file} has no ${from}`);
    text = text.replaceAll(from, to);
  }
  fs.mkdirSync(path.dirname(target), { recursive: true });
  fs.writeFileSync(target, text);
}

/** A fresh directory in which programs find fdpass, those too that were started by root and go on as another user. */
export function siteDirectory(t: Scope): string {
  const directory = temporaryDirectory(t);
  fs.chmodSync(directory, 0o755);
  fs.mkdirSync(path.join(directory, 'node_modules'));
  fs.symlinkSync(root, path.join(directory, 'node_modules/fdpass'));
  return directory;
}

/** The inodes of the sockets that a process listens on, at a port or a path: the same inode is the same socket. None once it has ended. */
export function listening(pid: number, where: number | string): number[] {
  const end = typeof where === 'number' ? `:${where}` : where;
  let sockets: OpenSocket[];
  try {
    sockets = openSockets(pid).filter(({ state, local }) => state === 'LISTEN' && local.endsWith(end));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) return [];
    throw error;
  }
  return [...new Set(sockets.map(({ inode }) => inode))].sort((a, b) => a - b);
}

/** Waits until a process that says nothing of it listens at a port. 10 s. */
export async function untilListens(family: Family, port: number, pid: number = family.pid): Promise<void> {
  const end = performance.now() + 10_000;
  while (listening(pid, port).length === 0) {
    if (performance.now() > end) throw new Error(`pid ${pid} does not listen at port ${port}; ${family.sofar()}`);
    await delay(10);
  }
}

/**
 * New connections and kept ones, for a server that answers with its pid. It ends with the test, where that has not ended it.
 *
 * @param more - Other rates.
 */
export function steadyLoad(
  t: Scope,
  target: Pick<LoadOptions, 'host' | 'port' | 'path' | 'body'>,
  more: Partial<LoadOptions> = {},
): Load {
  const load = startLoad({ newPerSecond: 100, keepAlive: 8, requestsPerSecond: 10, ...target, ...more });
  t.after(async () => {
    await load.stop();
  });
  return load;
}

/** Ends the load: nothing was lost, and both kinds were served. */
export async function assertNothingLost(load: Load): Promise<Report> {
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses.slice(0, 10)));
  assert.ok(report.new.ok > 0, 'no new connection was answered');
  if (report.keepAlive.connections > 0) assert.ok(report.keepAlive.ok > 0, 'no kept connection was answered');
  return report;
}
