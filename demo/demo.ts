/**
 * npm run demo: a real server under real load, restarted ten times; then a release that crashes, and for contrast a server that is
 * stopped and started. Ends with 0 only if fdpass lost nothing, every restart switched, and nobody was left behind.
 *
 * This file: arguments, the order of the acts, and every way out. The load runs in this process, which does little else.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import type { Scope } from '../test/support/fixture.js';
import { Act, type Snapshot } from './act.js';
import { crash, finish, LOAD, restarts, startRelease, stopAndStart, type Stage, type Step } from './acts.js';
import { ASCII, frame, number, paragraph, table, UNICODE, type Line } from './layout.js';
import { actHeading, introduction, stepLine } from './plain.js';
import { Screen, sizeOf, terminalText } from './screen.js';
import { svg } from './svg.js';
import { document, failuresOf, lossLines } from './verdict.js';

const USAGE = `npm run demo -- [options] [SCRIPT]
  SCRIPT      another server that prints the same line as examples/http.mjs
  --plain     lines in place of the live picture, also on a terminal
  --json      one JSON document at the end, and nothing else on stdout
  --svg FILE  writes the last picture there, too`;
const STOPS = 3;
const SVG_COLUMNS = 92;

const options = readArguments();
const { stdout, env } = process;
const isLive = stdout.isTTY && env['TERM'] !== 'dumb' && !options.plain && !options.json;
const useColour = isLive && !env['NO_COLOR'];
const glyphs = /utf-?8/i.test(env['LC_ALL'] || env['LC_CTYPE'] || env['LANG'] || '') ? UNICODE : ASCII;

const began = performance.now();
const acts: [Act, Act, Act] = [
  new Act({ title: 'fdpass: restarts', name: 'fdpass restarts', isFdpass: true, total: options.restarts }),
  new Act({ title: 'fdpass: a release crashes', name: 'fdpass crash', isFdpass: true, total: 2 }),
  new Act({ title: 'plain: stop and start', name: 'plain restarts', isFdpass: false, total: STOPS }),
];
const steps = new Map<Act, Step[]>(acts.map((act) => [act, []]));
const script = options.script ?? fileOfRepository('examples/http.mjs');
let address = '...';
let elapsed: number | undefined;

const screen = new Screen(stdout, useColour, ({ columns, rows }) => frame(snapshot(), glyphs, columns, rows));
const ends: (() => void | Promise<void>)[] = [];
const scope: Scope = { after: (action) => void ends.push(action) };

process.exitCode = 1; // until all is well
prepareExits();
if (isLive) screen.open();
const errors: string[] = [];
let leftBehind = 0;
try {
  await play();
} catch (error) {
  errors.push((error as Error).message);
}
for (const end of ends.reverse()) await end();
conclude();

async function play(): Promise<void> {
  const stage: Stage = {
    scope,
    began,
    onStep: (act, step) => {
      steps.get(act)?.push(step);
      say(() => stepLine(act.view(), step));
    },
  };
  const [restarting, crashing, contrast] = acts;
  const release = await startRelease(scope, script);
  address = release.server.address;
  say(() => `${introduction(snapshot())}\n${actHeading(1, restarting.view())}`);
  await restarts(stage, restarting, release);
  if (restarting.failures.length === 0) {
    say(() => actHeading(2, crashing.view()));
    await crash(stage, crashing, release);
  }
  leftBehind = await finish(release);
  say(() => actHeading(3, contrast.view()));
  await stopAndStart(stage, contrast, fileOfRepository('demo/plain-server.mjs')).catch((error: unknown) => {
    contrast.failures.push((error as Error).message); // no failure of fdpass
  });
}

/** A line where there is no picture. */
function say(text: () => string): void {
  if (!isLive && !options.json) console.log(text());
}

function snapshot(): Snapshot {
  const views = acts.map((act) => act.view());
  const name = options.script === undefined ? 'examples/http.mjs' : path.basename(script);
  return { script: name, address, load: LOAD, elapsed: elapsed ?? performance.now() - began, acts: views };
}

/** The last picture, the table, what failed, the exit code. */
function conclude(): void {
  elapsed = performance.now() - began;
  screen.close();
  const failures = failuresOf(acts, leftBehind, errors);
  const last = snapshot();
  const ending = (columns: number): Line[] => [[], ...table(last.acts, columns), [], ...verdict(failures, columns)];

  if (options.json) {
    const facts = { script: last.script, load: LOAD, seconds: elapsed / 1000, leftBehind, failures };
    console.log(JSON.stringify(document(acts, steps, facts), undefined, 2));
  } else {
    const { columns } = isLive ? sizeOf(stdout) : { columns: 100 };
    const lines = [...(isLive ? frame(last, glyphs, columns) : []), ...ending(columns)];
    for (const line of lines) console.log(terminalText(line, useColour));
    for (const line of lossLines(acts)) console.log(line);
  }
  if (options.svg !== undefined) {
    const lines = [...frame(last, UNICODE, SVG_COLUMNS), ...ending(SVG_COLUMNS)];
    writeFileSync(options.svg, svg(lines, SVG_COLUMNS, 'The last picture of npm run demo'));
  }
  process.exit(failures.length === 0 ? 0 : 1); // an act that failed may leave deadlines behind
}

function verdict(failures: readonly string[], columns: number): Line[] {
  const [restarting, , contrast] = acts;
  const { lost } = contrast.view();
  const { carried } = restarting.view();
  const moved =
    carried > 0 ? `, and carried open connections from one process to the next ${number(carried)} times` : '';
  const slow = acts.some((act) => act.isFdpass && act.report?.generator.behind);
  const lines =
    failures.length === 0
      ? paragraph(
          `OK: fdpass lost nothing${moved}. Stop and start lost ${lost.new + lost.keepAlive} requests in ${contrast.done} restarts.`,
          columns,
          'good',
        )
      : [`FAILED:`, ...failures.map((failure) => `- ${failure}`)].flatMap((text) => paragraph(text, columns, 'bad'));
  const trouble = contrast.failures.map((failure) => `The contrast did not come to its end: ${failure}`);
  if (slow) trouble.push('The machine was too busy for this load: the counts hold, the latencies say little.');
  return [...lines, ...trouble.flatMap((text) => paragraph(text, columns, 'dim'))];
}

/** What was started ends with this process: fixture.ts sees to that at its exit. The rest is here. */
function prepareExits(): void {
  process.on('exit', () => {
    screen.close();
    for (const end of ends.splice(0).reverse()) void end(); // their first, synchronous part is enough here
  });
  process.on('uncaughtExceptionMonitor', () => {
    screen.close(); // before the error is printed
  });
  stdout.on('error', () => process.exit(1)); // nobody reads us any more
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const) {
    process.once(signal, () => {
      screen.close();
      console.error(`${signal}: stopped`);
      process.exit(128 + constants.signals[signal]);
    });
  }
  process.on('SIGTSTP', () => {
    screen.close();
    process.once('SIGCONT', () => {
      if (isLive && elapsed === undefined) screen.open();
    });
    process.kill(process.pid, 'SIGSTOP');
  });
}

function readArguments(): { json: boolean; plain: boolean; svg?: string; restarts: number; script?: string } {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        plain: { type: 'boolean', default: false },
        svg: { type: 'string' },
        restarts: { type: 'string', default: '10' }, // for the tests
        help: { type: 'boolean', short: 'h', default: false },
      },
    });
    if (values.help) {
      console.log(USAGE);
      process.exit(0);
    }
    const { restarts: wanted, json, plain, svg } = values;
    if (!/^[1-9]\d{0,3}$/.test(wanted)) throw new Error(`--restarts ${wanted}: not a number from 1 to 9999`);
    const [first, ...more] = positionals;
    if (more.length > 0) throw new Error(`one script at most, not ${positionals.join(' ')}`);
    const named = { ...(svg !== undefined && { svg }), ...(first !== undefined && { script: first }) };
    return { json, plain, restarts: Number(wanted), ...named };
  } catch (error) {
    console.error(`${(error as Error).message}\n${USAGE}`);
    process.exit(2);
  }
}

/** From dist/demo, and from demo itself. */
function fileOfRepository(name: string): string {
  const here = path.dirname(fileURLToPath(import.meta.url));
  const found = ['../..', '..'].map((up) => path.join(here, up, name)).find((file) => existsSync(file));
  if (found === undefined) throw new Error(`${name} was not found from ${here}`);
  return found;
}
