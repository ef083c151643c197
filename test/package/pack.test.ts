/**
 * The npm package as users get it: what is in it, and that it works where nothing can be compiled.
 * Asks no registry but one of its own, on this machine: it serves our tarball, and the two dependencies from node_modules.
 */
import assert from 'node:assert/strict';
import { type ExecFileException, execFile } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';

const root = path.resolve(import.meta.dirname, '../../..');
const platform = `${process.platform}-${process.arch}`;
const folder = mkdtempSync(path.join(tmpdir(), 'fdpass-pack-'));
const bin = path.join(folder, 'bin'); // the whole PATH of our users
const packages = new Map<string, Packed>();
const registry = createServer();
let packed: string[]; // the paths in our tarball

before(async () => {
  await succeed(process.execPath, [path.join(root, 'scripts/prebuild.mjs')]);
  for (const source of ['', 'node_modules/node-addon-api', 'node_modules/node-gyp-build']) {
    const result = await pack(path.join(root, source));
    packages.set(result.name, result);
  }
  packed = tarball('fdpass').files.map((file) => file.path);

  mkdirSync(bin);
  symlinkSync(process.execPath, path.join(bin, 'node'));
  for (const name of ['sh', 'env', 'npm']) symlinkSync(find(name), path.join(bin, name));
  serveRegistry();
  registry.listen(0, '127.0.0.1');
  await once(registry, 'listening');
});

after(() => {
  registry.close();
  registry.closeAllConnections();
  rmSync(folder, { recursive: true });
});

test('the package holds what it needs and nothing else', () => {
  const allowed = [
    /^(package\.json|README\.md|CHANGELOG\.md|LICENSE|binding\.gyp|exports\.map|scripts\/native\.mjs)$/,
    /^docs\/[\w/-]+\.(md|svg)$/,
    /^native\/\w+\.(cc|h)$/,
    /^lib\/[\w/-]+\.ts$/,
    /^dist\/lib\/[\w/-]+\.d\.ts$/,
    /^dist\/package\/[\w-]+\.(js|js\.map)$/,
    /^prebuilds\/(README\.md|\w+-\w+\/fdpass(\.\w+)?\.node)$/,
  ];
  const others = packed.filter((file) => !allowed.some((pattern) => pattern.test(file)));

  assert.deepEqual(others, []);
  assert.ok(packed.some((file) => file.startsWith(`prebuilds/${platform}/`)));
});

test('every file that the package points to is in it: entry points, declarations, and the sources of the maps', () => {
  const { exports } = readJson('package.json') as { exports: Record<string, string | Record<string, string>> };
  const entries = Object.values(exports).flatMap((entry) => (typeof entry === 'string' ? entry : Object.values(entry)));
  const sources = packed
    .filter((file) => file.endsWith('.js.map'))
    .flatMap((map) =>
      (readJson(map) as { sources: string[] }).sources.map((file) => path.join(path.dirname(map), file)),
    );
  const missing = [...entries, ...sources].filter((file) => !packed.includes(path.normalize(file)));

  assert.deepEqual(missing, []);
});

const noVersionScript = process.platform === 'linux' ? false : 'the version script is for the linker of Linux';
test('the addon exports its two entry points and nothing of the C++ runtime', { skip: noVersionScript }, async () => {
  const binaries = packed.filter((file) => file.startsWith(`prebuilds/${platform}/`) && file.endsWith('.node'));

  for (const binary of binaries) {
    const symbols = await succeed('nm', ['-D', '--defined-only', '--format=just-symbols', path.join(root, binary)]);
    assert.deepEqual(symbols.trim().split('\n').sort(), [
      'napi_register_module_v1',
      'node_api_module_get_api_version_v1',
    ]);
  }
});

test('the tarball works where nothing can be compiled, with install scripts and without', async () => {
  for (const options of [[], ['--ignore-scripts']]) {
    const consumer = makeConsumer();

    await succeed('npm', ['install', tarball('fdpass').file, ...options], asUser(consumer));

    assert.equal(await use(consumer), 'served true\n');
  }
});

test('from a registry it installs without a word, also where no install script may run', async () => {
  const consumer = makeConsumer();

  const words = await succeed('npm', ['install', 'fdpass', '--strict-allow-scripts'], asUser(consumer));

  assert.match(words, /^\s*added 3 packages in \S+\s*$/);
  assert.equal(await use(consumer), 'served true\n');
});

test('a program that uses the package type-checks, the declarations too', async () => {
  const consumer = makeConsumer();
  await succeed('npm', ['install', 'fdpass'], asUser(consumer));
  const program = `
    import { listen, type Listener } from 'fdpass';
    import * as raw from 'fdpass/raw';
    export const listener: Listener = await listen({ port: 0 });
    export const copy: number = raw.dup(listener.fd, 20);`;
  writeFileSync(path.join(consumer, 'program.mts'), program);
  const compilerOptions = {
    ...{ module: 'nodenext', target: 'es2023', lib: ['es2023', 'esnext.disposable'], strict: true, noEmit: true },
    ...{ types: ['node'], typeRoots: [path.join(root, 'node_modules/@types')] },
  };
  writeFileSync(path.join(consumer, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['program.mts'] }));

  await succeed(process.execPath, [path.join(root, 'node_modules/typescript/bin/tsc'), '-p', consumer]);
});

test('an error that nobody catches is not buried under the line of the bundle that Node shows before it', async () => {
  const consumer = makeConsumer();
  await succeed('npm', ['install', tarball('fdpass').file, '--ignore-scripts'], asUser(consumer));
  const program = `import { inheritListener } from 'fdpass'; await inheritListener({ strict: true });`;
  writeFileSync(path.join(consumer, 'program.mjs'), program);

  const { output } = await execute(process.execPath, ['program.mjs'], asUser(consumer));

  const [before = '', after = ''] = output.split('FdpassError [ERR_FDPASS_MISMATCH]: A stream listener was looked for');
  assert.notEqual(after, '', output);
  assert.ok(before.length < 2_000, `${before.length} characters come before the message`);
});

test('without a binary the import names the platform and the one command that builds it, and that builds it', async () => {
  const consumer = makeConsumer();
  await succeed('npm', ['install', 'fdpass'], asUser(consumer));
  rmSync(path.join(consumer, 'node_modules/fdpass/prebuilds'), { recursive: true });

  const failure = await use(consumer);
  const command = /"(npm .+)"/.exec(failure)?.[1];

  assert.match(failure, /ERR_FDPASS_PLATFORM/);
  assert.match(failure, new RegExp(`${platform}\\b`));
  assert.ok(command !== undefined, failure);
  await succeed('sh', ['-c', command]);
  assert.equal(await use(consumer), 'served true\n');
});

interface Packed {
  name: string;
  version: string;
  filename: string;
  integrity: string;
  files: { path: string }[];
  /** The whole path of the tarball, and what the package.json in it says. */
  file: string;
  manifest: object;
}

async function pack(source: string): Promise<Packed> {
  const options = ['--ignore-scripts', '--json', '--loglevel=error', '--pack-destination', folder];
  const [result] = JSON.parse(await succeed('npm', ['pack', source, ...options])) as [Packed];
  const manifest = JSON.parse(readFileSync(path.join(source, 'package.json'), 'utf8')) as object;
  return { ...result, file: path.join(folder, result.filename), manifest };
}

function tarball(name: string): Packed {
  const found = packages.get(name);
  assert.ok(found !== undefined, name);
  return found;
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(path.join(root, file), 'utf8'));
}

/** GET /name: what the package's versions are; GET /name.tgz: the one there is. */
function serveRegistry(): void {
  registry.on('request', (request, response) => {
    const [, name = '', ending] = /^\/([\w-]+)(\.tgz)?$/.exec(request.url ?? '') ?? [];
    const found = packages.get(name);
    if (found === undefined) {
      response.writeHead(404).end();
    } else if (ending !== undefined) {
      response.end(readFileSync(found.file));
    } else {
      const { version, integrity, manifest } = found;
      const dist = { tarball: `${registryUrl()}${name}.tgz`, integrity };
      response.setHeader('content-type', 'application/json');
      response.end(
        JSON.stringify({ name, 'dist-tags': { latest: version }, versions: { [version]: { ...manifest, dist } } }),
      );
    }
  });
}

function registryUrl(): string {
  return `http://127.0.0.1:${(registry.address() as AddressInfo).port}/`;
}

function find(name: string): string {
  const found = (process.env['PATH'] ?? '')
    .split(':')
    .map((place) => path.join(place, name))
    .find((file) => existsSync(file));
  assert.ok(found !== undefined, `${name} is not in the PATH`);
  return realpathSync(found);
}

function makeConsumer(): string {
  return mkdtempSync(path.join(folder, 'consumer-'));
}

/** Runs a program of a user; returns what it says. */
async function use(consumer: string): Promise<string> {
  const program = `
    import http from 'node:http';
    import { listen, ready } from 'fdpass';
    import * as raw from 'fdpass/raw';
    const server = http.createServer((request, response) => response.end('served'));
    const listener = await listen({ host: '127.0.0.1', port: 0 });
    listener.serve(server);
    await ready();
    const response = await fetch('http://127.0.0.1:' + listener.port);
    const copy = listener.dup();
    console.log(await response.text(), raw.isSame(copy, listener.fd));
    process.exit();`;
  writeFileSync(path.join(consumer, 'program.mjs'), program);
  return (await execute(process.execPath, ['program.mjs'], asUser(consumer))).output;
}

interface Surroundings {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
}

/** sh, env, node and npm are there, no compiler and no Python; our own registry, and no setting of this machine. */
function asUser(cwd: string): Surroundings {
  const npm = { npm_config_registry: registryUrl(), npm_config_update_notifier: 'false', npm_config_audit: 'false' };
  return { cwd, env: { PATH: bin, HOME: folder, npm_config_fund: 'false', ...npm } };
}

async function succeed(file: string, parameters: string[], surroundings?: Surroundings): Promise<string> {
  const { failure, output } = await execute(file, parameters, surroundings);
  assert.equal(failure, null, output);
  return output;
}

interface Result {
  failure: ExecFileException | null;
  output: string;
}

/** Runs a program to its end. It does not take itself for a test file. */
function execute(file: string, parameters: string[], surroundings: Surroundings = {}): Promise<Result> {
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
  return new Promise((resolve) => {
    execFile(file, parameters, { env, ...surroundings }, (failure, stdout, stderr) => {
      resolve({ failure, output: stdout + stderr });
    });
  });
}
