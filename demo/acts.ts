/**
 * The three acts of the demo: restarts; a release that crashes at its start; and, for contrast, a server that is stopped and started.
 * Starts processes through test/support/fixture.ts and puts load on them. Prints nothing: it tells what happens.
 */
import { renameSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { zombiesOf } from '../test/support/audit.js';
import { startServer, temporaryDirectory, type Family, type Scope } from '../test/support/fixture.js';
import type { Load } from '../test/support/load.js';
import type { Act } from './act.js';

export const LOAD = { newPerSecond: 200, keepAlive: 32, requestsPerSecond: 10 }; // gentle: two cores run the load and two servers

const REQUEST_TIMEOUT = 5000; // ms
const WARM_UP = 500; // ms; also behind the last restart of an act
const PAUSE = 400; // ms between the end of an old process and the next restart
const DEADLINE = 15000; // ms for each step of a restart
const STOP_DEADLINE = 10000; // ms for the last generation to end after SIGTERM
const HURRY = 25000; // ms after the start: from here on no pauses, and from twice that one stop is contrast enough
const FAILED = /^fdpass: the restart failed: /;

/** One step of an act, for the record. Times are ms since its signal. */
export interface Step {
  what: 'restarted' | 'survived' | 'stopped and started';
  generation: number;
  old: number;
  /** Who answered first afterwards; the old one itself where the new release crashed. */
  pid: number;
  firstReply: number;
  /** Until the old process was gone, or the crashed one. */
  gone: number;
  /** Of the act, up to here. */
  lost: number;
}

export interface Stage {
  scope: Scope;
  /** performance.now() of the start. */
  began: number;
  onStep: (act: Act, step: Step) => void;
}

/** The server of the first two acts, started through a symlink that can be pointed to another release. */
export interface Release {
  server: Family;
  point: (to: 'good' | 'broken') => void;
}

export async function startRelease(scope: Scope, script: string): Promise<Release> {
  const directory = temporaryDirectory(scope);
  const current = path.join(directory, 'current.mjs');
  const broken = path.join(directory, 'broken.mjs');
  writeFileSync(broken, `throw new Error('this release crashes at its start, on purpose');\n`);
  const point: Release['point'] = (to) => {
    symlinkSync(to === 'good' ? path.resolve(script) : broken, `${current}.next`);
    renameSync(`${current}.next`, current);
  };
  point('good');
  return { server: await startServer(scope, current, { deadline: DEADLINE }), point };
}

/** Restarts it as often as the act has steps, the newest process each time. */
export async function restarts(stage: Stage, act: Act, { server }: Release): Promise<void> {
  await underLoad(stage, act, server, async (load) => {
    while (act.done < act.total) {
      const step = await restart(act, server, load);
      act.done++;
      stage.onStep(act, step);
      if (act.done < act.total) await pause(stage);
    }
  });
}

/** A release that crashes must cost nothing; the one that repairs it takes over. */
export async function crash(stage: Stage, act: Act, { server, point }: Release): Promise<void> {
  await underLoad(stage, act, server, async (load) => {
    point('broken');
    const old = server.newest;
    const began = performance.now();
    act.mark();
    server.signal('SIGUSR2');
    const { text } = await server.waitFor(FAILED, { what: 'the line that the restart failed', deadline: DEADLINE });
    act.note = text;
    const gone = performance.now() - began;
    const reply = await load.waitForReply('a reply of the old process', ({ pid }) => pid === old, DEADLINE);
    const { generation = 1 } = server.generations.at(-1) ?? {};
    act.done++;
    const firstReply = reply.at - began;
    stage.onStep(act, { what: 'survived', generation, old, pid: old, firstReply, gone, lost: load.lost });
    await sleep(2 * WARM_UP);

    point('good');
    const step = await restart(act, server, load);
    act.done++;
    stage.onStep(act, step);
  });
}

/** Ends the server of the first two acts. @returns How many processes were left behind: 0, or it is an error of ours. */
export async function finish({ server }: Release): Promise<number> {
  const others = server.running().filter(({ pid }) => pid !== server.newest).length;
  const zombies = zombiesOf(server.newest).length;
  await server.stop(STOP_DEADLINE);
  return others + zombies;
}

/** Stop, wait for the exit, start on the same port. */
export async function stopAndStart(stage: Stage, act: Act, script: string): Promise<void> {
  const { scope } = stage;
  let server = await startOnOwnPort(scope, script);
  const { port } = server;
  await underLoad(stage, act, server, async (load) => {
    while (act.done < act.total && (act.done === 0 || performance.now() - stage.began < 2 * HURRY)) {
      const old = server.pid;
      const began = performance.now();
      act.mark();
      server.signal('SIGTERM');
      await server.gone(old, DEADLINE);
      const gone = performance.now() - began;
      const env = { PORT: String(port), START: String(act.done + 2) };
      const answered = load.waitForReply('a reply of the next process', ({ pid }) => pid !== old, DEADLINE);
      [server] = await Promise.all([startServer(scope, script, { deadline: DEADLINE, env }), answered]);
      const { at, pid } = await answered;
      act.done++;
      const firstReply = at - began;
      const what = 'stopped and started';
      stage.onStep(act, { what, generation: act.done + 1, old, pid, firstReply, gone, lost: load.lost });
      await pause(stage);
    }
  });
  await server.stop(STOP_DEADLINE);
}

/** While the server is down its port must not become some client's: so it is one that the system hands to nobody by itself. */
async function startOnOwnPort(scope: Scope, script: string, attempts = 5): Promise<Family> {
  const env = { PORT: String(20000 + Math.floor(10000 * Math.random())) }; // ip_local_port_range begins at 32768, ip(7)
  try {
    return await startServer(scope, script, { deadline: DEADLINE, env });
  } catch (error) {
    if (attempts === 1) throw error;
    return await startOnOwnPort(scope, script, attempts - 1); // it was taken
  }
}

/** An error ends the act, not the demo: it stands in act.failures. */
async function underLoad(
  { scope }: Stage,
  act: Act,
  server: Family,
  action: (load: Load) => Promise<void>,
): Promise<void> {
  const load = act.begin(scope, { port: server.port, ...LOAD, requestTimeout: REQUEST_TIMEOUT });
  if (act.isFdpass) act.generationOf = (pid) => server.generations.find((each) => each.pid === pid)?.generation;
  try {
    await load.waitForReply('a first reply', () => true, DEADLINE);
    await sleep(WARM_UP);
    await action(load);
    await sleep(WARM_UP);
  } catch (error) {
    act.failures.push((error as Error).message);
  }
  await act.end();
}

/** One restart: until the new process answers, and the old one is gone. */
async function restart(act: Act, server: Family, load: Load): Promise<Step> {
  const old = server.newest;
  const seen = new Set(load.pids.keys());
  const began = performance.now();
  act.mark();
  const [reply, next] = await Promise.all([
    load.waitForReply(`a reply of a new process (restart ${act.done + 1})`, ({ pid }) => !seen.has(pid), DEADLINE),
    server.restart(DEADLINE),
  ]);
  if (next.pid !== reply.pid) throw new Error(`pid ${reply.pid} replies, but pid ${next.pid} says that it listens`);
  await server.gone(old, DEADLINE);
  const gone = performance.now() - began;
  const { generation, pid } = next;
  return { what: 'restarted', generation, old, pid, firstReply: reply.at - began, gone, lost: load.lost };
}

async function pause({ began }: Stage): Promise<void> {
  await sleep(performance.now() - began < HURRY ? PAUSE : 0);
}
