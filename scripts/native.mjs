/**
 * Builds the addon with node-gyp: native/, binding.gyp and exports.map to build/Release/fdpass.node.
 * Stands in the npm package too, and needs nothing but npm there: where no prebuilt binary fits, `npm run build:native`
 * in the package's folder builds one. The other scripts take their common parts from here.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, realpathSync, statSync, utimesSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

/** The folder of the package. */
export const root = fileURLToPath(new URL('..', import.meta.url));

/** The addon, and everything that it is made of. */
export const addon = 'build/Release/fdpass.node';
export const nativeSources = ['binding.gyp', 'exports.map', 'native'];

/** The folder in which include/node holds the headers of the running node. Undefined: node-gyp has to fetch them. */
export function headersFolder() {
  const folder = path.resolve(process.execPath, '../..');
  return existsSync(path.join(folder, 'include/node/node_api.h')) ? folder : undefined;
}

/** True where `output` is there, and no file in `sources` (files and folders, from the package's folder) is newer. */
export function isFresh(output, sources) {
  const made = statSync(path.join(root, output), { throwIfNoEntry: false })?.mtimeMs;
  return made !== undefined && sources.every((source) => newest(path.join(root, source)) <= made);
}

/** True where the module of this URL is the one that node was started with. */
export function isMain(url) {
  return realpathSync(process.argv[1]) === fileURLToPath(url);
}

/** Runs a script with this node. Says nothing where it succeeds, everything where it fails; tells which it was. */
export function runQuietly(script, parameters, options = {}) {
  const result = spawnSync(process.execPath, [script, ...parameters], {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: Infinity,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...options,
  });
  if (result.status === 0) return true;
  process.stderr.write(`${result.stdout}${result.stderr}`);
  process.stderr.write(
    `${path.basename(script)} ${parameters.join(' ')}: ${result.signal ?? `exit code ${result.status}`}\n`,
  );
  return false;
}

/** Builds what changed since the last time, or with `all` everything. */
export function buildNative({ all = false } = {}) {
  const started = Date.now();
  const folder = headersFolder();
  const parameters = [...(all ? ['rebuild'] : ['configure', 'build']), '--jobs=2'];
  if (folder !== undefined) parameters.push(`--nodedir=${folder}`);
  if (!runQuietly(nodeGyp(), parameters)) return false;
  utimesSync(path.join(root, addon), new Date(), new Date()); // make left it alone where nothing in it changed
  console.log(`built ${addon} in ${seconds(started)}`);
  return true;
}

/** Calls `action` once when the npm that runs this script has ended without it, as by SIGKILL. Without npm never. */
export function onceOrphaned(action) {
  if (process.env.npm_lifecycle_event === undefined) return;
  const npm = npmProcess();
  const timer = setInterval(() => {
    if (npmProcess() === npm) return;
    clearInterval(timer);
    action();
  }, 500);
  timer.unref();
}

/** The pid of npm: this one's parent, or, where that is the shell of a script, its parent. proc_pid_cmdline(5), proc_pid_status(5). */
function npmProcess() {
  const { ppid } = process;
  try {
    const [, option] = readFileSync(`/proc/${ppid}/cmdline`, 'utf8').split('\0');
    if (option !== '-c') return ppid;
    return Number(/^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${ppid}/status`, 'utf8'))[1]);
  } catch {
    return ppid; // no /proc
  }
}

/** The time since `started`, for people. */
export function seconds(started) {
  return `${((Date.now() - started) / 1000).toFixed(1)} s`;
}

/** When the file, or whatever changed last below the folder, was written. A folder counts too: a file may be gone. */
function newest(file) {
  const facts = statSync(file, { throwIfNoEntry: false });
  if (facts === undefined) return 0;
  if (!facts.isDirectory()) return facts.mtimeMs;
  return Math.max(facts.mtimeMs, ...readdirSync(file).map((name) => newest(path.join(file, name))));
}

/** In a checkout node-gyp is a dependency; in an installed package npm brings its own and says where it is. */
function nodeGyp() {
  try {
    return createRequire(import.meta.url).resolve('node-gyp/bin/node-gyp.js');
  } catch (error) {
    if (process.env.npm_config_node_gyp) return process.env.npm_config_node_gyp;
    throw new Error('node-gyp is not here: run this through npm, as in `npm run build:native`', { cause: error });
  }
}

if (isMain(import.meta.url) && !buildNative({ all: true })) process.exitCode = 1;
