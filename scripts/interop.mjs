/**
 * The tests with real foreign programs, test/interop: which Debian packages they want, which of them are missing, and then the tests.
 *
 *     npm run test:interop                   as root on Debian it installs what is missing; elsewhere it says what to install
 *     npm run test:interop -- --no-install   only says it
 *     npm run test:interop -- systemd        the files with this word in their name
 *
 * A test whose program is missing is skipped, and says so. What npm has goes to build/interop, and nowhere else. What neither Debian nor npm
 * has is never installed: its tests run where it is in PATH.
 */
import { fork, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { onceOrphaned, root } from './native.mjs';

const FOLDER = path.join(root, 'build/interop');
const programs = Object.entries(JSON.parse(readFileSync(path.join(root, 'test/interop/programs.json'), 'utf8')));
const folders = [
  ...(process.env.PATH ?? '').split(':'),
  ...['/usr/local/sbin', '/usr/sbin', '/sbin', path.join(FOLDER, 'node_modules/.bin')],
];

const options = process.argv.slice(2).filter((word) => word.startsWith('--'));
const words = process.argv.slice(2).filter((word) => !word.startsWith('--'));
if (options.some((option) => option !== '--no-install'))
  throw new Error(`${options.join(' ')}: only --no-install is known`);

if (!existsSync(path.join(root, 'node_modules'))) throw new Error('There is no node_modules: `npm ci` comes first');

console.log(`Debian packages: ${wanted(programs, 'package').join(' ')}`);
console.log(`npm packages: ${wanted(programs, 'npm').join(' ')}`);
console.log(`Neither has: ${wanted(programs, 'elsewhere', ', ').join(', ')}`);
if (!options.includes('--no-install')) install();
report();

// By its channel the other one knows when this process has been killed, and ends then, with all that it started.
const files = words.length === 0 ? ['test/interop/'] : words.map((word) => `test/interop/${word}`);
const tests = fork(path.join(root, 'scripts/test.mjs'), files);
tests.once('exit', (code) => {
  process.exitCode = code ?? 1;
});
onceOrphaned(() => process.exit(1));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => tests.kill(signal));

function missing() {
  return programs.filter(([name, { paths }]) => {
    const places = paths ?? folders.map((folder) => path.join(folder, name));
    return !places.some((file) => existsSync(file));
  });
}

/** What some programs want of one kind, each once. */
function wanted(list, kind, separator = ' ') {
  return [...new Set(list.flatMap(([, program]) => program[kind]?.split(separator) ?? []))].sort();
}

/** What is not here, and so what is skipped. */
function report() {
  const list = missing();
  if (list.length === 0) console.log('All programs are here.');
  for (const [name, { package: debian, npm, elsewhere }] of list) {
    const how = elsewhere === undefined ? (debian ?? `npm: ${npm}`) : `no Debian package: ${elsewhere}`;
    console.log(`missing, its tests are skipped: ${name} (${how})`);
  }
  const debian = wanted(list, 'package');
  if (debian.length > 0) console.log(`To have them: apt-get install --no-install-recommends ${debian.join(' ')}`);
}

function install() {
  const debian = wanted(missing(), 'package');
  if (debian.length > 0) installDebian(debian);
  const npm = wanted(missing(), 'npm');
  if (npm.length > 0) {
    mkdirSync(FOLDER, { recursive: true });
    run('npm', ['install', '--no-save', '--no-audit', '--no-fund', '--prefix', FOLDER, ...npm]);
  }
}

function installDebian(packages) {
  if (!existsSync('/usr/bin/apt-get')) {
    console.log('Nothing is installed: there is no apt-get here.');
  } else if (process.getuid() !== 0) {
    console.log('Nothing is installed by apt-get: that needs root.');
  } else {
    const apt = ['install', '-yqq', '--no-install-recommends'];
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
    run('apt-get', ['update', '-qq'], { env });
    if (run('apt-get', [...apt, ...packages], { env }) || packages.length === 1) return;
    for (const each of packages) run('apt-get', [...apt, each], { env }); // one that is unknown keeps apt-get from all
  }
}

/** What fails is told, and the tests that want it are skipped. */
function run(command, parameters, settings = {}) {
  console.log(`${command} ${parameters.join(' ')}`);
  const { status, error } = spawnSync(command, parameters, { stdio: ['ignore', 'ignore', 'inherit'], ...settings });
  if (status !== 0) console.log(`${command} failed: ${error?.message ?? `exit code ${status}`}`);
  return status === 0;
}
