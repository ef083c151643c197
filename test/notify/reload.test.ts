/**
 * A restart by handoff under Type=notify-reload, which systemd has since 253: the manager sends the signal, and believes only a RELOADING
 * that is later. fixtures/manager.py stands in for it.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { describe, test, type TestContext } from 'node:test';

import { get } from '../support/client.js';
import { temporaryDirectory } from '../support/fixture.js';
import { Waiting } from '../support/waiting.js';
import { skipWithoutPython } from './support.js';

const MANAGER = path.resolve(import.meta.dirname, '../../../test/notify/fixtures/manager.py');
const LIB = new URL('../../lib/index.js', import.meta.url).href;

/** What the manager says. */
interface Event {
  event: 'state' | 'message' | 'barrier' | 'ignored' | 'refused';
  state: string;
  main: number;
  pid?: number;
  lines?: string[];
  status?: string | null;
  why?: string;
}

const DEADLINE = 15_000; // ms

/** One service, and the manager that it is of. */
class Unit {
  readonly events: Event[] = [];
  /** What the service prints, and the manager where it fails. */
  readonly lines: string[] = [];
  readonly #manager: ChildProcess;
  readonly #waiting = new Waiting(() => JSON.stringify([this.events, this.lines], undefined, 1));

  constructor(t: TestContext, program: string, env: Record<string, string> = {}) {
    const directory = temporaryDirectory(t);
    const script = path.join(directory, 'server.mjs');
    fs.writeFileSync(script, program);
    const own: NodeJS.ProcessEnv = { ...process.env, ...env };
    delete own['NODE_TEST_CONTEXT'];
    const args = [MANAGER, path.join(directory, 'notify'), process.execPath, script];
    this.#manager = spawn('python3', args, { env: own, stdio: 'pipe' });
    const ended = once(this.#manager, 'exit');
    t.after(async () => {
      this.#manager.stdin?.end(); // the service ends with its manager
      await ended;
    });
    const { stdout, stderr } = this.#manager;
    assert.ok(stdout && stderr);
    readline.createInterface({ input: stdout }).on('line', (line) => {
      this.events.push(JSON.parse(line) as Event);
      this.#waiting.wake();
    });
    readline.createInterface({ input: stderr }).on('line', (line) => {
      this.lines.push(line);
      this.#waiting.wake();
    });
  }

  ask(word: 'reload' | 'stop'): void {
    this.#manager.stdin?.write(`${word}\n`);
  }

  /** The first event of the kind from this one on. */
  async until(what: string, from: number, isIt: (event: Event) => boolean): Promise<Event> {
    return this.#waiting.until(what, DEADLINE, () => this.events.slice(from).find(isIt));
  }

  async enters(state: string, from = 0): Promise<Event> {
    return this.until(`state ${state}`, from, (event) => event.event === 'state' && event.state === state);
  }

  async prints(match: RegExp): Promise<string> {
    return this.#waiting.until(String(match), DEADLINE, () => {
      for (const line of this.lines) {
        const [, found] = match.exec(line) ?? [];
        if (found !== undefined) return found;
      }
      return undefined;
    });
  }

  /** The states from this event on. */
  states(from: number): string[] {
    return this.events.slice(from).flatMap(({ event, state }) => (event === 'state' ? [state] : []));
  }

  /** What the manager did not believe. */
  get ignored(): Event[] {
    return this.events.filter(({ event }) => event === 'ignored');
  }
}

/** Restarts by handoff on SIGHUP, and on SIGUSR2 for whoever is not the manager. Where the file BAD is, the next process fails. */
const SERVER = `
  import fs from 'node:fs';
  import http from 'node:http';
  import { drainOn, inheritListener, ready, restartOn } from '${LIB}';
  if (fs.existsSync(process.env.BAD)) process.exit(3);
  const server = http.createServer((request, response) => response.end(process.pid + ''));
  const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
  listener.serve(server);
  restartOn('SIGHUP', undefined, { probation: 50, report: () => undefined });
  restartOn('SIGUSR2', undefined, { probation: 50 });
  drainOn('SIGTERM');
  await ready();
  console.log('serves at http://127.0.0.1:' + listener.port + '/');
`;

/** A service that answers SIGHUP itself, in its own way. */
const OWN = (onSignal: string): string => `
  import { notify, raw } from '${LIB}';
  const say = (text) => {
    const fd = raw.socket('unix', 'dgram');
    raw.connect(fd, { family: 'unix', path: process.env.NOTIFY_SOCKET });
    raw.send(fd, Buffer.from(text));
    raw.close(fd);
  };
  process.on('SIGHUP', () => { ${onSignal} });
  process.on('SIGTERM', () => process.exit(0));
  setInterval(() => undefined, 1_000);
  await notify.ready();
`;

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

describe('Type=notify-reload', { skip: skipWithoutPython }, () => {
  test('a reload is believed, moves MAINPID at its end, and the end of the old process is not that of the service: three times', async (t) => {
    const unit = new Unit(t, SERVER, { BAD: path.join(temporaryDirectory(t), 'bad') });
    let { main } = await unit.enters('running');
    const url = await unit.prints(/^serves at (.*)$/);

    for (let round = 0; round < 3; round++) {
      const from = unit.events.length;
      unit.ask('reload');
      const running = await unit.enters('running', from);
      await unit.until('the barrier', from, ({ event }) => event === 'barrier');

      assert.deepEqual(unit.states(from), ['reload-signal', 'reload-notify', 'running']);
      assert.notEqual(running.main, main);
      const [reloading, released, ...more] = unit.events.slice(from).filter(({ event }) => event === 'message');
      assert.deepEqual(more, []);
      // One datagram, and the time of the call
      assert.match(reloading?.lines?.join('\n') ?? '', /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
      assert.deepEqual([reloading?.pid, reloading?.main], [main, main]); // it is the main process until the release
      assert.equal(released?.pid, main);
      assert.ok(released.lines?.includes('READY=1') && released.lines.includes(`MAINPID=${running.main}`));
      assert.equal(await get(url), String(running.main));
      ({ main } = running);
    }

    const from = unit.events.length;
    unit.ask('stop');
    await unit.enters('dead', from);
    assert.deepEqual(unit.ignored, []);
    assert.ok(!unit.states(0).slice(0, -1).includes('dead'));
  });

  test('a reload that fails ends too: the service runs on, says why, and the next reload works', async (t) => {
    const bad = path.join(temporaryDirectory(t), 'bad');
    const unit = new Unit(t, SERVER, { BAD: bad });
    const { main } = await unit.enters('running');
    fs.writeFileSync(bad, '');
    let from = unit.events.length;

    unit.ask('reload');
    const failed = await unit.enters('running', from);

    assert.deepEqual(unit.states(from), ['reload-signal', 'reload-notify', 'running']);
    assert.equal(failed.main, main);
    assert.match(failed.status ?? '', /^upgrade failed: .*code 3/);
    fs.rmSync(bad);
    from = unit.events.length;
    unit.ask('reload');
    assert.notEqual((await unit.enters('running', from)).main, main);
    assert.deepEqual(unit.ignored, []);
  });

  test('a restart that the manager did not ask for is a reload by the service itself; the next one of the manager works', async (t) => {
    const unit = new Unit(t, SERVER, { BAD: path.join(temporaryDirectory(t), 'bad') });
    const { main } = await unit.enters('running');
    let from = unit.events.length;

    process.kill(main, 'SIGUSR2');
    const running = await unit.enters('running', from);

    assert.deepEqual(unit.states(from), ['reload-notify', 'running']);
    assert.notEqual(running.main, main);
    from = unit.events.length;
    unit.ask('reload');
    assert.notEqual((await unit.enters('running', from)).main, running.main);
    assert.deepEqual(unit.ignored, []);
    assert.ok(isAlive(unit.events.at(-1)?.main ?? 0));
  });

  test('notify.reloading() and notify.ready() are a reload, in two messages or in one', async (t) => {
    for (const [onSignal, states] of [
      ['notify.reloading(); notify.ready();', ['reload-signal', 'reload-notify', 'running']],
      ['notify({ reloading: true, ready: true });', ['reload-signal', 'running']],
    ] as const) {
      const unit = new Unit(t, OWN(onSignal));
      await unit.enters('running');
      const from = unit.events.length;

      unit.ask('reload');
      await unit.enters('running', from);

      assert.deepEqual(unit.states(from), states);
    }
  });

  // What the stand-in must not believe: else the tests above would prove nothing.
  for (const lines of ['RELOADING=1', 'RELOADING=1\\nMONOTONIC_USEC=1', 'READY=1']) {
    test(`"${lines}" alone is no answer to the signal`, async (t) => {
      const unit = new Unit(t, OWN(`say('${lines}'); say('X_LAST=1');`));
      await unit.enters('running');
      const from = unit.events.length;

      unit.ask('reload');
      const last = await unit.until('the last message', from, (event) => event.lines?.join() === 'X_LAST=1');

      assert.equal(last.state, 'reload-signal');
    });
  }
});
