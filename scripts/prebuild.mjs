/**
 * Makes the binary that goes into the npm package, for this platform: see prebuilds/README.md.
 * prebuildify does the work, on a copy of the sources: it moves its result out of build/, which the checkout runs from.
 */
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { headersFolder, isFresh, nativeSources, root, runQuietly, seconds } from './native.mjs';

const onLinux = process.platform === 'linux';
// Only a Node that runs on glibc names its version.
const libc = process.report.getReport().header.glibcVersionRuntime === undefined ? 'musl' : 'glibc';
const output = `prebuilds/${process.platform}-${process.arch}/fdpass${onLinux ? `.${libc}` : ''}.node`;

if (isFresh(output, nativeSources)) {
  console.log(`${output} is up to date`);
} else if (!make()) {
  process.exitCode = 1;
}

function make() {
  const started = Date.now();
  const copy = mkdtempSync(path.join(tmpdir(), 'fdpass-prebuild-'));
  try {
    for (const name of [...nativeSources, 'package.json'])
      cpSync(path.join(root, name), path.join(copy, name), { recursive: true });
    symlinkSync(path.join(root, 'node_modules'), path.join(copy, 'node_modules'));
    const parameters = ['--napi', '--strip', `--target=${process.versions.node}`, `--cwd=${copy}`, `--out=${root}`];
    if (onLinux) parameters.push('--tag-libc', `--libc=${libc}`);
    const env = { ...process.env, JOBS: '2' };
    const folder = headersFolder();
    if (folder !== undefined) env.npm_package_config_node_gyp_nodedir = folder;
    if (!runQuietly('node_modules/prebuildify/bin.js', parameters, { env })) return false;
  } finally {
    rmSync(copy, { recursive: true });
  }
  console.log(`made ${output} in ${seconds(started)}`);
  return true;
}
