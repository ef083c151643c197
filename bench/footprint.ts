/**
 * (e) What it costs to have fdpass: the time that a program takes longer to start when it imports it, and the room on disk.
 * Runs node and npm; npm packs nothing, it only lists.
 */
import { spawnSync } from 'node:child_process';
import { readFileSync, readdirSync, statSync } from 'node:fs';
import path from 'node:path';

import { type Figure, median, medianDifference, type Pairs, root, type Row, samplePairs } from './measure.js';

const MIB = 2 ** 20;

export const footprint: Figure = async ({ quick }) => {
  const processor: Pairs = { fdpass: [], other: [] };
  const time = (code: string, used: number[]): number => {
    const began = performance.now();
    const output = run(process.execPath, [
      '--input-type=module',
      '-e',
      `${code}; console.log(JSON.stringify(process.cpuUsage()))`,
    ]);
    const { user, system } = JSON.parse(output) as NodeJS.CpuUsage;
    used.push((user + system) / 1000);
    return performance.now() - began;
  };
  const withIt = (used: number[]) => (): number => time("await import('fdpass')", used);
  const withoutIt = (used: number[]) => (): number => time('', used);
  await samplePairs(1, withIt([]), withoutIt([])); // in memory now
  const wall = await samplePairs(quick ? 3 : 15, withIt(processor.fdpass), withoutIt(processor.other));
  const difference = (figure: string, { fdpass, other }: Pairs, what: string): Row => ({
    ...{ figure, unit: 'ms', fdpass: medianDifference(fdpass, other), samples: fdpass.length },
    note: `${what}: node with it ${median(fdpass).toFixed(0)} ms, without ${median(other).toFixed(0)} ms`,
  });

  const [packed] = JSON.parse(run('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'])) as Packed[];
  if (packed === undefined) throw new Error('npm pack says nothing of the package');
  const binaries = packed.files.filter((file) => file.path.endsWith('.node')).length;
  const dependencies = dependencyNames();
  const others = dependencies.reduce((sum, name) => sum + folderSize(path.join(root, 'node_modules', name)), 0);
  return [
    difference('import of fdpass', wall, 'start to end'),
    difference('import of fdpass, processor time', processor, 'user and system'),
    {
      ...{ figure: 'installed size', unit: 'MiB', fdpass: packed.unpackedSize / MIB, samples: 1 },
      note:
        `${packed.files.length} files, ${binaries} prebuilt binaries among them; ` +
        `${dependencies.join(' and ')} beside it ${(others / MIB).toFixed(2)} MiB`,
    },
  ];
};

interface Packed {
  unpackedSize: number; // bytes
  files: { path: string }[];
}

function run(file: string, args: readonly string[]): string {
  const { status, signal, stdout, stderr, error } = spawnSync(file, args, { cwd: root, encoding: 'utf8' });
  if (status === 0) return stdout;
  const how = error?.message ?? signal ?? `exit code ${status}`;
  throw new Error(`${file} ${args.join(' ')}: ${how}\n${stderr}`);
}

/** What npm installs with it. */
function dependencyNames(): string[] {
  const text = readFileSync(path.join(root, 'package.json'), 'utf8');
  const { dependencies = {} } = JSON.parse(text) as { dependencies?: Record<string, string> };
  return Object.keys(dependencies);
}

/** The bytes of all files below. */
function folderSize(folder: string): number {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) =>
    statSync(path.join(folder, name)),
  );
  return files.reduce((sum, facts) => sum + (facts.isFile() ? facts.size : 0), 0);
}
