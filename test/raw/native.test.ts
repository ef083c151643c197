/**
 * The loader: which binary it takes, and what it says where there is none.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import fs from 'node:fs/promises';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

import { skipUnlessLinux, temporaryDirectory } from './support.js';

const lib = fileURLToPath(new URL('../../lib', import.meta.url));

/** The directory above `from` that has an entry of this name. */
function above(from: string, name: string): string {
  for (let directory = from; ; directory = path.dirname(directory)) {
    const candidate = path.join(directory, name);
    if (existsSync(candidate)) return candidate;
    if (directory === path.dirname(directory)) throw new Error(`no ${name} above ${from}`);
  }
}

const built = above(lib, path.join('build', 'Release', 'fdpass.node'));

/** A package as a user has it: package.json, dist/lib, its dependencies, and these binaries. Gives its root. */
async function installed(t: TestContext, binaries: Record<string, 'good' | 'broken'>): Promise<string> {
  const root = await fs.realpath(temporaryDirectory(t));
  await fs.copyFile(above(lib, 'package.json'), path.join(root, 'package.json'));
  await fs.mkdir(path.join(root, 'dist'));
  await fs.cp(lib, path.join(root, 'dist', 'lib'), { recursive: true });
  await fs.symlink(above(lib, 'node_modules'), path.join(root, 'node_modules'));
  for (const [name, quality] of Object.entries(binaries)) {
    const file = path.join(root, name);
    await fs.mkdir(path.dirname(file), { recursive: true });
    if (quality === 'good') await fs.copyFile(built, file);
    else await fs.writeFile(file, 'not a binary');
  }
  return root;
}

/** Imports raw.js of that package in a fresh process; gives what it printed of itself. */
async function load(root: string, env: Record<string, string> = {}, before = ''): Promise<string> {
  const source = `${before}
    try {
      const raw = await import(${JSON.stringify(path.join(root, 'dist', 'lib', 'raw.js'))});
      raw.close(raw.dup(0));
      console.log('loaded', process.env.LIBC);
    } catch (error) { console.log(error.code, error.message, '| cause:', error.cause?.message); }`;
  const clean = { ...process.env, ...env };
  delete clean['NODE_TEST_CONTEXT'];
  return await new Promise((resolve, reject) => {
    execFile(process.execPath, ['--input-type=module', '-e', source], { env: clean }, (error, stdout, stderr) => {
      if (error) reject(new Error(stderr, { cause: error }));
      else resolve(stdout.trim());
    });
  });
}

const folder = `prebuilds/${process.platform}-${process.arch}`;

test('no binary: one sentence with platform, Node and the command that builds it', async (t) => {
  const root = await installed(t, {});

  const said = await load(root);

  assert.match(said, /^ERR_FDPASS_PLATFORM There is no binary of fdpass that loads here/);
  assert.ok(said.includes(`${process.platform}-${process.arch}`), said);
  assert.ok(said.includes(`Node ${process.versions.node}`), said);
  assert.ok(said.includes(`to build it, run "npm --prefix ${root} run build:native"`), said);
  if (process.platform === 'linux') assert.match(said, /-(glibc|musl), Node/);
});

test('a build is taken', async (t) => {
  assert.equal(await load(await installed(t, { 'build/Release/fdpass.node': 'good' })), 'loaded undefined');
});

test('a build goes before a prebuild', async (t) => {
  const root = await installed(t, { 'build/Release/fdpass.node': 'good', [`${folder}/fdpass.node`]: 'broken' });

  assert.equal(await load(root), 'loaded undefined');
});

test('of two C libraries the one that this Node has', { skip: skipUnlessLinux }, async (t) => {
  const report = process.report.getReport() as { header: { glibcVersionRuntime?: string } };
  const [ours, other] = report.header.glibcVersionRuntime === undefined ? ['musl', 'glibc'] : ['glibc', 'musl'];
  const root = await installed(t, {
    [`${folder}/fdpass.${ours}.node`]: 'good',
    [`${folder}/fdpass.${other}.node`]: 'broken',
  });

  assert.equal(await load(root), 'loaded undefined');
  const inWorker = `import { Worker, isMainThread } from 'node:worker_threads';
    const code = 'const raw = await import(' + ${JSON.stringify(JSON.stringify(pathToFileURL(path.join(root, 'dist', 'lib', 'raw.js')).href))} + ');';
    const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(code)));
    await new Promise((resolve, reject) => worker.on('exit', resolve).on('error', reject));`;
  assert.equal(await load(root, {}, inWorker), 'loaded undefined');
  // Another package has loaded node-gyp-build before, and keeps its own.
  const early = `import { createRequire } from 'node:module';
    const require = createRequire(${JSON.stringify(path.join(root, 'x.js'))});
    process.env.LIBC = ${JSON.stringify(other)};
    const first = require('node-gyp-build');
    delete process.env.LIBC;
    process.on('exit', () => console.log(require('node-gyp-build') === first));`;
  assert.equal(await load(root, {}, early), 'loaded undefined\ntrue');
});

test(
  'LIBC of the user goes before what was detected, and what does not load is the cause',
  { skip: skipUnlessLinux },
  async (t) => {
    const root = await installed(t, {
      [`${folder}/fdpass.glibc.node`]: 'good',
      [`${folder}/fdpass.musl.node`]: 'broken',
    });

    const said = await load(root, { LIBC: 'musl' });

    assert.match(said, /^ERR_FDPASS_PLATFORM .*cause: .*fdpass\.musl\.node: (file too short|invalid ELF header)/);
  },
);

test('a platform that is not ours: one line', async (t) => {
  const root = await installed(t, {});

  const said = await load(root, {}, `Object.defineProperty(process, 'platform', { value: 'win32' });`);

  assert.equal(said, 'ERR_FDPASS_PLATFORM fdpass runs on Linux and macOS, not on win32 | cause: undefined');
});
