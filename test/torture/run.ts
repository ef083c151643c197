/**
 * Carries a history out, with clients of every kind all along, and looks at what is left: who lives, what it holds, what stands on disk.
 */
import fs from 'node:fs';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

import { inheritableDescriptors, openDescriptors, openSockets, zombiesOf } from '../support/audit.js';
import { type Addresses, Clients } from './clients.js';
import { Family } from './family.js';
import { type Action, type History, isAwaited, type ListenerName } from './history.js';
import { judge, now } from './judge.js';

export interface Outcome {
  history: History;
  violations: string[];
  /** What was seen, for whoever has to understand it. */
  evidence: string;
  requests: number;
  excused: number;
  processes: number;
  coldStarts: number;
  /** ms. */
  duration: number;
}

// Deadlines for a machine that has much else to do, ms. Where all is well nobody waits for them.
const START = 60_000;
const SETTLE = 90_000;
const ANSWER = 30_000;
const LONGEST_FREEZE = 9_000;
const CALM = 600; // nothing must happen for so long
const TRIGGER = 2_500; // how long a step waits for the event that it goes by
const SOCKETS_PER_LISTENER = 2; // the Listener's own, and the one its server accepts from

export async function runHistory(history: History): Promise<Outcome> {
  const began = now();
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'torture-'));
  const family = new Family(directory, history);
  const clients = new Clients(family.socketPath);
  const run = new Run(history, family, clients);
  const violations: string[] = [];
  try {
    violations.push(...(await run.all()));
    family.look();
  } finally {
    clients.close();
    await family.destroy();
  }
  const verdict = judge(history, { requests: clients.requests, events: family.events, acts: family.acts });
  violations.push(...verdict.violations);
  const evidence = describeEvidence(family);
  fs.rmSync(directory, { recursive: true, force: true });
  return {
    ...{
      history,
      violations,
      evidence,
      excused: verdict.excused,
      requests: clients.requests.length,
      processes: family.lives.size,
    },
    ...{ coldStarts: family.acts.filter(({ type }) => type === 'start').length, duration: now() - began },
  };
}

/** The log without the connections, the tester's acts among it, and what the processes printed. */
function describeEvidence(family: Family): string {
  const lines = [
    ...family.events.filter(({ name }) => name !== 'accept' && name !== 'datagram'),
    ...family.acts.map(({ at, pid, type }) => ({ at, pid, name: `<${type}>`, detail: '' })),
  ].sort((a, b) => a.at - b.at);
  const log = lines.map(({ at, pid, name, detail }) => `  ${at.toFixed(1)} ${pid} ${name} ${detail}`);
  return ['what happened:', ...log, 'what the processes printed:', family.output].join('\n');
}

class Run {
  readonly #history: History;
  readonly #family: Family;
  readonly #clients: Clients;
  readonly #violations: string[] = [];
  #seen = 0;

  constructor(history: History, family: Family, clients: Clients) {
    this.#history = history;
    this.#family = family;
    this.#clients = clients;
  }

  async all(): Promise<string[]> {
    try {
      await this.#coldStart();
      this.#clients.start();
      for (const { delay, upon, action } of this.#history.steps) {
        const from = this.#family.events.length;
        const came = (): boolean =>
          this.#family.events.slice(from).some(({ name }) => upon !== undefined && isAwaited(upon, name));
        if (upon !== undefined) await this.#pause(TRIGGER, came);
        await this.#pause(delay, () => false);
        // Nobody to ask while the only one that is left still starts.
        if (action.type === 'restart') await this.#pause(TRIGGER, () => this.#able().length > 0);
        this.#act(action);
      }
      await this.#pause(700, () => false);
      await this.#pause(LONGEST_FREEZE, () => !this.#family.hasFrozen);
      await this.#settle();
      if (this.#history.finalRestart && this.#violations.length === 0) await this.#finalRestart();
      await this.#quieten();
      if (this.#violations.length === 0) await this.#inspect();
      if (this.#violations.length === 0) await this.#stop();
    } catch (error) {
      this.#violations.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
    }
    return this.#violations;
  }

  /** Follows the log meanwhile: the clients hear where the listeners are. */
  #until(ms: number, condition: () => boolean): Promise<boolean> {
    return this.#family.until(ms, () => {
      const { events } = this.#family;
      for (; this.#seen < events.length; this.#seen++) {
        const { name, detail } = events[this.#seen]!;
        if (name === 'alone') this.#clients.addresses = JSON.parse(detail) as Addresses;
      }
      return condition();
    });
  }

  async #coldStart(): Promise<void> {
    this.#clients.addresses = {};
    const before = this.#family.events.length;
    this.#family.start();
    const alone = (): boolean => this.#family.events.slice(before).some(({ name }) => name === 'alone');
    if (!(await this.#until(START, alone))) throw new Error(`nothing served ${START} ms after a start`);
  }

  /** Waits for `ms`, or for something to be the case. When nobody is left who could serve meanwhile, one is started, as by a supervisor. */
  async #pause(ms: number, condition: () => boolean): Promise<void> {
    for (let left = ms; left >= 0;) {
      const from = now();
      const came = await this.#until(left, () => condition() || this.#family.isLost());
      left -= now() - from;
      if (this.#family.isLost()) await this.#coldStart();
      else if (came) return;
    }
  }

  #act(action: Action): void {
    const family = this.#family;
    const choose = (pids: number[], pick: number | 'newest'): number | undefined =>
      pick === 'newest' ? pids.at(-1) : pids[pick % pids.length];
    if (action.type === 'restart') {
      const able = this.#able();
      const holding = able.filter((pid) => family.holders().includes(pid));
      const pid = choose(action.pick === 'newest' ? holding : able, action.pick);
      if (pid !== undefined) family.restart(pid, action);
      return;
    }
    const pid = choose(family.living(), action.pick);
    if (pid === undefined) return;
    if (action.type === 'kill') family.kill(pid);
    else family.freeze(pid, action.ms);
  }

  /** Those that a signal to restart would not kill. */
  #able(): number[] {
    return this.#family.living().filter((pid) => this.#family.has(pid, 'handlers'));
  }

  /** Until one generation is left, which is alone. */
  async #settle(): Promise<void> {
    const family = this.#family;
    family.calm();
    this.#clients.stop();
    const settled = (): boolean => {
      family.endLostCause();
      const [only, ...others] = family.living();
      if (only === undefined) return family.isLost();
      if (others.length > 0 || !family.has(only, 'alone') || family.holders().length !== 1) return false;
      return family.running().length === 1;
    };
    // A signal that came while it was frozen is heard now: it must stay settled, and have been through its loop meanwhile.
    for (const end = now() + SETTLE; ;) {
      if (await this.#until(end - now(), settled)) {
        const [only] = family.living();
        if (only === undefined) break;
        await this.#ask('web', this.#clients.addresses.web ?? 0);
        if (!(await this.#until(CALM, () => !settled()))) break;
      } else {
        const who = family.living().map((pid) => `pid ${pid} (${this.#whatItSaidLast(pid)})`);
        throw new Error(`${SETTLE} ms after the last step there is not one generation: ${who.join(', ') || 'nobody'}`);
      }
    }
    if (family.living().length === 0) await this.#coldStart();
  }

  #whatItSaidLast(pid: number): string {
    const last = this.#family.events.findLast(
      (event) => event.pid === pid && event.name !== 'accept' && event.name !== 'datagram',
    );
    return `${last?.name ?? 'nothing'} ${last?.detail ?? ''}`.trim();
  }

  async #finalRestart(): Promise<void> {
    const family = this.#family;
    const [before] = family.living();
    if (before === undefined) throw new Error('unreachable: it has settled');
    let asked = -1;
    const done = (): boolean => {
      // On a machine with much else to do a start can take longer than this history's readyTimeout: then once more.
      const failures = family.events.filter(
        ({ pid, name, detail }) => pid === before && name === 'failed' && detail.startsWith('ERR_'),
      );
      const failedLate = failures.at(-1)?.detail.includes('ERR_FDPASS_READY_TIMEOUT') === true;
      if (asked < 0 || (failedLate && failures.length > asked)) {
        asked = failures.length;
        family.restart(before, { plan: {} });
      }
      const [only, ...others] = family.living();
      return only !== undefined && only !== before && others.length === 0 && family.has(only, 'alone');
    };
    if (await this.#until(SETTLE, done)) return;
    const who = family.living().map((pid) => `pid ${pid} (${this.#whatItSaidLast(pid)})`);
    this.#violations.push(`a last restart of pid ${before} did not succeed: ${who.join(', ')}`);
  }

  /** Every request that still waits has its time. What waits after it is lost: the judge sees it without an end. */
  async #quieten(): Promise<void> {
    await this.#until(ANSWER, () => this.#clients.waiting.filter(({ kind }) => kind !== 'datagram').length === 0);
    await this.#until(1_000, () => this.#clients.waiting.length === 0); // a datagram that is lost has no end
  }

  /** What the one that is left holds, and that it serves. */
  async #inspect(): Promise<void> {
    const [pid] = this.#family.living();
    if (pid === undefined) throw new Error('unreachable: it has settled');
    const addresses = JSON.parse(
      this.#family.events.findLast(({ name }) => name === 'alone')?.detail ?? '{}',
    ) as Addresses;

    for (const [name, port] of Object.entries(addresses) as [ListenerName, number][]) {
      const answer = await this.#ask(name, port);
      if (answer !== `${pid}`) this.#violations.push(`"${name}" should be served by pid ${pid}, and answers ${answer}`);
    }
    this.#clients.close(); // what is kept open would be counted

    let problems: string[] = [];
    const clean = (): boolean => (problems = this.#problemsOf(pid, addresses)).length === 0;
    if (!(await this.#until(ANSWER, clean))) this.#violations.push(...problems);
  }

  #problemsOf(pid: number, addresses: Addresses): string[] {
    const problems: string[] = [];
    const descriptors = openDescriptors(pid);
    const list = (): string => descriptors.map(({ fd, target }) => `${fd} ${target}`).join(', ');
    const inheritable = inheritableDescriptors(pid);
    if (inheritable.length > 0) problems.push(`pid ${pid} would pass on ${inheritable.join(', ')}`);

    const sockets = openSockets(pid);
    for (const [name, port] of Object.entries(addresses) as [ListenerName, number][]) {
      const own = sockets.filter(({ local, protocol }) =>
        name === 'unix'
          ? local === this.#family.socketPath
          : local === `127.0.0.1:${port}` && protocol === (name === 'udp' ? 'udp' : 'tcp'),
      );
      if (own.length !== SOCKETS_PER_LISTENER)
        problems.push(`pid ${pid} has ${own.length} descriptors of "${name}", not ${SOCKETS_PER_LISTENER}: ${list()}`);
    }
    const expected = Object.keys(addresses).length * SOCKETS_PER_LISTENER;
    if (sockets.length !== expected) {
      const found = sockets.map(
        ({ fd, protocol, state, local, peer }) => `${fd} ${protocol} ${state} ${local} ${peer}`,
      );
      problems.push(`pid ${pid} has ${sockets.length} sockets, not ${expected}: ${found.join(', ')}`);
    }
    const nothing = descriptors.filter(({ target }) => target === '/dev/null').slice(2); // stdin, and one that libuv keeps
    const odd = [...nothing, ...descriptors.filter(({ target }) => /pidfd|memfd|\(deleted\)/.test(target))];
    if (odd.length > 0)
      problems.push(`pid ${pid} has kept ${odd.map(({ fd, target }) => `${fd} ${target}`).join(', ')}`);

    const family = this.#family.running().filter((other) => other.pid !== pid);
    if (family.length > 0) problems.push(`besides pid ${pid} there is ${family.map((other) => other.pid).join(', ')}`);
    const zombies = zombiesOf(pid);
    if (zombies.length > 0)
      problems.push(`pid ${pid} has not reaped ${zombies.map((zombie) => zombie.pid).join(', ')}`);
    return problems;
  }

  /** The pid that serves, or what happened instead. */
  async #ask(name: ListenerName, port: number): Promise<string> {
    if (name === 'udp') return await this.#askDatagram(port);
    const target = name === 'unix' ? { path: this.#family.socketPath } : { host: '127.0.0.1', port };
    return await new Promise((resolve) => {
      const socket = net.connect(target);
      let text = '';
      socket.setTimeout(ANSWER, () => {
        resolve('nothing');
        socket.destroy();
      });
      socket.on('data', (chunk) => (text += chunk.toString()));
      socket.on('error', (error) => {
        resolve(error.message);
      });
      socket.on('close', () => {
        resolve(/(\d+)(?: \S+ 0)?\n$/.exec(text)?.[1] ?? JSON.stringify(text));
      });
      if (name !== 'hello') socket.write('GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
    });
  }

  async #askDatagram(port: number): Promise<string> {
    const clients = new Clients('');
    clients.addresses = { udp: port };
    clients.start();
    const answered = await this.#until(ANSWER, () => clients.requests.some(({ outcome }) => outcome === 'ok'));
    clients.close();
    return answered ? (clients.requests.find(({ outcome }) => outcome === 'ok')?.servedBy ?? '') : 'nothing';
  }

  /** SIGTERM: it ends, and leaves nothing behind. */
  async #stop(): Promise<void> {
    const family = this.#family;
    const [pid] = family.living();
    if (pid === undefined) throw new Error('unreachable: it has settled');
    family.terminate(pid);
    if (!(await this.#until(ANSWER, () => family.living().length === 0 && family.running().length === 0))) {
      const left = family.running().map((entry) => entry.pid);
      this.#violations.push(`${ANSWER} ms after SIGTERM to pid ${pid} there is still ${left.join(', ')}`);
    }
    if (fs.existsSync(family.socketPath) && family.has(pid, 'alone') && this.#servesPath(pid)) {
      this.#violations.push(`pid ${pid} has ended, and the path of its Unix socket is still there`);
    }
  }

  #servesPath(pid: number): boolean {
    const line = this.#family.events.find((event) => event.pid === pid && event.name === 'alone');
    return (JSON.parse(line?.detail ?? '{}') as Addresses).unix !== undefined;
  }
}
