/**
 * What a checkout needs before anything in it runs: the addon, and the TypeScript compiled to dist/.
 * Does what is out of date and no more. `npm ci` runs it as `prepare`, the tests and the demo before they start.
 */
import { existsSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
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
  writeFileSync(path.join(root, STAMP), '');
  console.log(`compiled dist/ in ${seconds(started)}`);
  return true;
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
