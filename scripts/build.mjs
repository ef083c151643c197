/**
 * What a checkout needs before anything in it runs: the addon, and the TypeScript compiled to dist/.
 * Does what is out of date and no more. `npm ci` runs it as `prepare`, the tests and the demo before they start.
 */
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { buildSync } from 'esbuild';
import { addon, buildNative, isFresh, isMain, nativeSources, root, runQuietly, seconds } from './native.mjs';

const STAMP = 'dist/built'; // as old as the last compilation that found no error
const SOURCES = ['lib', 'test', 'demo', 'bench', 'tsconfig.json', 'package.json'];

/** True where everything is up to date now. */
export function build() {
  return (isFresh(addon, nativeSources) || buildNative()) && (isFresh(STAMP, SOURCES) || compile());
}

function compile() {
  const started = Date.now();
  if (!runQuietly('node_modules/typescript/bin/tsc', ['-p', '.'])) return false;
  removeOrphans();
  bundle();
  writeFileSync(path.join(root, STAMP), '');
  console.log(`compiled dist/ in ${seconds(started)}`);
  return true;
}

/**
 * What users import: all of lib/ in as few files as can be. A successor is ready that much sooner, for Node spends more on each file than
 * on what stands in it. dist/lib/ stays what the tests import, and has the declarations.
 */
function bundle() {
  buildSync({
    absWorkingDir: root,
    entryPoints: ['dist/lib/index.js', 'dist/lib/raw.js', 'dist/lib/ws.js'],
    outdir: 'dist/package',
    bundle: true,
    splitting: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    packages: 'external',
    sourcemap: true,
    sourcesContent: false,
    minifySyntax: true,
    minifyWhitespace: true,
    lineLimit: 160, // Node shows the whole line of an error that nobody catches: a long one would bury the message
    logLevel: 'warning',
  });
}

/** Removes what was compiled from a source that is gone: it would be tested, and packed, for ever. */
function removeOrphans() {
  const dist = path.join(root, 'dist');
  for (const file of readdirSync(dist, { recursive: true })) {
    const source = file.replace(/(\.d\.ts|\.js|\.js\.map)$/, '.ts');
    if (source !== file && !existsSync(path.join(root, source))) rmSync(path.join(dist, file));
  }
}

if (isMain(import.meta.url) && !build()) process.exitCode = 1;
