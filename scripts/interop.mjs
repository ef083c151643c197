/**
 * The tests with real foreign programs, test/interop: which Debian packages they want, which of them are missing, and then the tests.
 *
 *     npm run test:interop                   as root on Debian it installs what is missing; elsewhere it says what to install
 *     npm run test:interop -- --no-install   only says it
 *     npm run test:interop -- systemd        the files with this word in their name
 *
 * A test whose program is missing is skipped, and says so. What npm has goes to build/interop, and nowhere else.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { root } from './native.mjs';

const FOLDER = path.join(root, 'build/interop');
const programs = Object.entries(JSON.parse(readFileSync(path.join(root, 'test/interop/programs.json'), 'utf8')));
const folders = [
  ...process.env.PATH.split(':'),
  ...['/usr/local/sbin', '/usr/sbin', '/sbin', path.join(FOLDER, 'node_modules/.bin')],
];

const options = process.argv.slice(2).filter((word) => word.startsWith('--'));
const words = process.argv.slice(2).filter((word) => !word.startsWith('--'));
if (options.some((option) => option !== '--no-install'))
  throw new Error(`${options.join(' ')}: only --no-install is known`);

report();
if (!options.includes('--no-install')) install();

const files = words.length === 0 ? ['test/interop/'] : words.map((word) => `test/interop/${word}`);
const { status } = spawnSync(process.execPath, [path.join(root, 'scripts/test.mjs'), ...files], { stdio: 'inherit' });
process.exitCode = status ?? 1;

function isHere([name, { paths }]) {
  return (paths ?? folders.map((folder) => path.join(folder, name))).some((file) => existsSync(file));
}

/** The packages of some programs, each once. */
function packagesOf(list, kind) {
  return [...new Set(list.flatMap(([, program]) => program[kind]?.split(' ') ?? []))].sort();
}

function report() {
  const missing = programs.filter((program) => !isHere(program));
  console.log(`Debian packages: ${packagesOf(programs, 'package').join(' ')}`);
  console.log(`npm packages: ${packagesOf(programs, 'npm').join(' ')}`);
  if (missing.length === 0) console.log('All programs are here.');
  for (const [name, program] of missing) console.log(`missing: ${name} (${program.package ?? `npm: ${program.npm}`})`);
}

function install() {
  const missing = programs.filter((program) => !isHere(program));
  const debian = packagesOf(missing, 'package');
  const npm = packagesOf(missing, 'npm');
  if (debian.length > 0 && process.getuid() === 0 && existsSync('/usr/bin/apt-get')) {
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    run('apt-get', ['update', '-qq'], { env });
    run('apt-get', ['install', '-yqq', '--no-install-recommends', ...debian], { env });
  } else if (debian.length > 0) {
    console.log(`To run the tests that are skipped: apt-get install --no-install-recommends ${debian.join(' ')}`);
  }
  if (npm.length > 0) {
    mkdirSync(FOLDER, { recursive: true });
    run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', FOLDER, ...npm]);
  }
}

/** What fails is told, and the tests that want it are skipped. */
function run(command, parameters, settings = {}) {
  console.log(`${command} ${parameters.join(' ')}`);
  const { status, error } = spawnSync(command, parameters, { stdio: ['ignore', 'ignore', 'inherit'], ...settings });
  if (status !== 0) console.log(`${command} failed: ${error?.message ?? `exit code ${status}`}`);
}
