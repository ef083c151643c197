/**
 * Every check that needs no running program: ESLint, Prettier and, for native/, clang-format. With --fix they mend what they can.
 * Each says something only where it found something.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import path from 'node:path';
import { isMain, root, seconds } from './native.mjs';

/** True where nothing was found. */
export async function lint({ fix = false } = {}) {
  const started = Date.now();
  const native = readdirSync(path.join(root, 'native'), { recursive: true })
    .filter((name) => /\.(cc|h)$/.test(name))
    .map((name) => `native/${name}`);
  const eslint = () => run('eslint/bin/eslint.js', ['.', '--max-warnings=0', ...(fix ? ['--fix'] : [])]);
  const prettier = () => run('prettier/bin/prettier.cjs', ['.', '--log-level=warn', fix ? '--write' : '--check']);
  const clangFormat = () =>
    run('clang-format-node/build/cli.js', [...(fix ? ['-i'] : ['--dry-run', '-Werror']), ...native]);
  const both = fix ? [await eslint(), await prettier()] : await Promise.all([eslint(), prettier()]); // two writers would race
  const clean = [...both, await clangFormat()].every(Boolean);
  if (clean) console.log(`${fix ? 'formatted' : 'checked'} in ${seconds(started)}`);
  return clean;
}

async function run(script, parameters) {
  const child = spawn(process.execPath, [path.join('node_modules', script), ...parameters], {
    cwd: root,
    stdio: ['ignore', 'inherit', 'inherit'],
  });
  const [code] = await once(child, 'exit');
  return code === 0;
}

if (isMain(import.meta.url) && !(await lint({ fix: process.argv.includes('--fix') }))) process.exitCode = 1;
