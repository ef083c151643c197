/**
 * A real systemd for tests: a user manager in a mount, PID and cgroup namespace of its own, which ends with the test.
 * Needs root, for the namespaces and a cgroup. Makes one cgroup and removes it.
 * Source: systemd(1), systemctl(1), unshare(1), nsenter(1), cgroups(7).
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import fs from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { descendants, type ProcessEntry } from '../support/audit.js';
import { Cleanup, type Family, type Scope, startProgram, temporaryDirectory } from '../support/fixture.js';
import { guardControlGroup, removeControlGroup } from '../support/guard.js';
import { listening, program, run, without } from './support.js';

/** Runs as pid 1 of the namespaces. $1: the manager. /run is empty there: no other manager can be met. */
const INIT = `
mount --make-rprivate / && umount -l /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup && mount -t tmpfs run /run || exit 1
mkdir -p /run/systemd/system /run/user/0
"$1" --user &
wait
`;
const START_DEADLINE = 20_000; // ms
const POLL = 10; // ms: without D-Bus systemctl has no event for us

export interface Answer {
  code: number;
  stdout: string;
  stderr: string;
}

/** Why no manager can be had here; false where one can. */
export function withoutManager(): string | false {
  const missing = without('systemd', 'systemctl', 'unshare', 'nsenter');
  if (missing !== false) return missing;
  if (process.getuid?.() !== 0) return 'a manager in namespaces of its own needs root';
  if (cgroupMount() === undefined) return 'no cgroup2 is mounted: a manager has to have one';
  if (!mounts().some(({ target }) => target === '/')) {
    return 'this is a chroot: / is no mount of its own here, and a manager needs mounts that nobody else sees';
  }
  try {
    const trial = [
      '-m',
      '-p',
      '-C',
      '-f',
      '--mount-proc',
      'sh',
      '-c',
      'mount --make-rprivate / && mount -t tmpfs run /run',
    ];
    execFileSync(program('unshare'), trial, { stdio: 'pipe' });
    return false;
  } catch (error) {
    return `no namespaces for a manager here: ${(error as Error).message}`;
  }
}

/** Why tests of what a later release brought are skipped: the release that is here. False: it is late enough. */
export function olderThan(version: number): string | false {
  const text = execFileSync(program('systemctl'), ['--version'], { encoding: 'utf8' });
  const here = Number(/^systemd (\d+)/.exec(text)?.[1]);
  return here >= version ? false : `systemd ${version} or later; this is ${here}`;
}

export class Manager {
  /** $HOME of the manager and of its units. */
  readonly home: string;
  readonly #family: Family;
  readonly #init: number;

  private constructor(home: string, family: Family, init: number) {
    this.home = home;
    this.#family = family;
    this.#init = init;
  }

  /** Starts one, which ends with `t`. */
  static async start(t: Scope): Promise<Manager> {
    const cleanup = new Cleanup(); // its order: the processes, their cgroup, their files
    t.after(() => cleanup.run());
    const home = temporaryDirectory(cleanup);
    const group = makeGroup(cleanup);
    fs.mkdirSync(path.join(home, '.config/systemd/user/service.d'), { recursive: true });
    // No journal in there: what a service prints goes to a file, which is how a test follows it.
    const log = `[Service]\nStandardOutput=append:${home}/output\nStandardError=append:${home}/output\n`;
    fs.writeFileSync(path.join(home, '.config/systemd/user/service.d/log.conf'), log);
    fs.writeFileSync(path.join(home, 'output'), '');

    const unshare = [program('unshare'), '-m', '-p', '-C', '-f', '--mount-proc', '--kill-child'];
    const script = `echo $$ >${group}/cgroup.procs && exec "$@"`;
    const family = startProgram(cleanup, 'sh', {
      args: ['-c', script, 'sh', ...unshare, 'sh', '-c', INIT, 'sh', program('systemd')],
      env: {
        HOME: home,
        XDG_RUNTIME_DIR: '/run/user/0',
        DBUS_SESSION_BUS_ADDRESS: undefined,
        XDG_CONFIG_HOME: undefined,
      },
    });
    const end = performance.now() + START_DEADLINE;
    for (;;) {
      const init = descendants(family.pid)[0]; // once unshare has forked it
      if (init !== undefined) {
        const manager = new Manager(home, family, init.pid);
        const { stdout } = await manager.systemctl('is-system-running');
        if (/^(running|degraded)\n$/.test(stdout)) return manager;
      }
      if (performance.now() > end) throw new Error(`no manager within ${START_DEADLINE} ms; ${family.sofar()}`);
      await delay(POLL);
    }
  }

  /** Writes a unit, and has the manager read it. */
  async write(name: string, text: string): Promise<void> {
    fs.writeFileSync(this.unitPath(name), text);
    await this.succeed('daemon-reload');
  }

  unitPath(name: string): string {
    return path.join(this.home, '.config/systemd/user', name);
  }

  /** systemctl --user, in there. */
  async systemctl(...args: string[]): Promise<Answer> {
    return this.run(program('systemctl'), '--user', ...args);
  }

  async succeed(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.systemctl(...args);
    assert.equal(code, 0, `systemctl ${args.join(' ')}: ${stderr}${stdout}; ${this.output()}\n${this.#family.sofar()}`);
    return stdout;
  }

  /** Any program, in there. 30 s. */
  async run(...command: string[]): Promise<Answer> {
    const env = { PATH: process.env['PATH'], HOME: this.home, XDG_RUNTIME_DIR: '/run/user/0' };
    try {
      const all = ['-t', String(this.#init), '-m', '-p', '-C', ...command];
      return { code: 0, ...(await run(program('nsenter'), all, { env, timeout: 30_000 })) };
    } catch (error) {
      const { code, stdout = '', stderr = '' } = error as { code?: unknown; stdout?: string; stderr?: string };
      if (typeof code !== 'number') throw error;
      return { code, stdout, stderr };
    }
  }

  /** Properties of a unit, by name. */
  async show(unit: string, ...properties: string[]): Promise<Record<string, string>> {
    const text = await this.succeed('show', unit, ...properties.map((name) => `--property=${name}`));
    const pairs = text.trim().split('\n');
    return Object.fromEntries(
      pairs.map((line) => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
    );
  }

  async mainPid(unit: string): Promise<number> {
    return Number((await this.show(unit, 'MainPID'))['MainPID']);
  }

  /** Asks until a property has a value. `deadline` in ms. */
  async until(unit: string, property: string, matches: (value: string) => boolean, deadline = 10_000): Promise<string> {
    const end = performance.now() + deadline;
    for (;;) {
      const value = (await this.show(unit, property))[property] ?? '';
      if (matches(value)) return value;
      if (performance.now() > end) {
        throw new Error(
          `not within ${deadline} ms: ${property} of ${unit} is ${value}; ${this.output()}\n${this.#family.sofar()}`,
        );
      }
      await delay(POLL);
    }
  }

  /** Waits until a service has printed this. `deadline` in ms. */
  async printed(text: RegExp, deadline = 10_000): Promise<RegExpExecArray> {
    const end = performance.now() + deadline;
    for (;;) {
      const match = text.exec(this.output());
      if (match !== null) return match;
      if (performance.now() > end) throw new Error(`not within ${deadline} ms: ${String(text)} in ${this.output()}`);
      await delay(POLL);
    }
  }

  /** All that services have printed. */
  output(): string {
    return fs.readFileSync(path.join(this.home, 'output'), 'utf8');
  }

  /** The processes of a unit, by the pids that they have in there. */
  async processes(unit: string): Promise<number[]> {
    const { ControlGroup = '' } = await this.show(unit, 'ControlGroup');
    if (ControlGroup === '') return [];
    const { code, stdout } = await this.run('cat', `/sys/fs/cgroup${ControlGroup}/cgroup.procs`);
    return code === 0 ? stdout.split('\n').filter(Boolean).map(Number) : [];
  }

  /** Whether a process in there holds a listening socket at this port. False where it has ended. */
  listens(pid: number, port: number): boolean {
    const outside = this.#outside(pid);
    return outside !== undefined && listening(outside.pid, port).length > 0;
  }

  /** Sends a signal to a process in there, in this very turn. */
  kill(signal: NodeJS.Signals, pid: number): void {
    const outside = this.#outside(pid);
    assert.ok(outside !== undefined, `no process has the pid ${pid} in there`);
    process.kill(outside.pid, signal);
  }

  #outside(pid: number): ProcessEntry | undefined {
    return descendants(this.#family.pid).find((entry) => insidePid(entry.pid) === pid);
  }
}

/** The pid that a process has in its own namespace: proc_pid_status(5), NSpid. */
function insidePid(pid: number): number | undefined {
  try {
    const line = /^NSpid:\s(.*)$/m.exec(fs.readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return line === undefined ? undefined : Number(line.trim().split(/\s+/).at(-1));
  } catch {
    return undefined; // it has ended meanwhile
  }
}

/** Those that this process can see: proc_pid_mounts(5). */
function mounts(): { target: string; type: string }[] {
  const lines = fs.readFileSync('/proc/self/mounts', 'utf8').split('\n').filter(Boolean);
  return lines.map((line) => line.split(' ')).map(([, target = '', type = '']) => ({ target, type }));
}

function cgroupMount(): string | undefined {
  return mounts().find(({ type }) => type === 'cgroup2')?.target;
}

/** A cgroup for the manager and all that it starts, removed when those have gone. */
function makeGroup(t: Scope): string {
  const mount = cgroupMount();
  assert.ok(mount !== undefined);
  const group = path.join(mount, `fdpass-test-${randomUUID()}`);
  guardControlGroup(group);
  fs.mkdirSync(group);
  t.after(async () => {
    const end = performance.now() + 5000;
    while (!removeControlGroup(group)) {
      if (performance.now() > end) throw new Error(`processes are left in ${group}`);
      await delay(POLL);
    }
  });
  return group;
}
