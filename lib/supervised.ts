/**
 * Whether the exit of this process would end the service: who watches its pid, and what to use instead.
 * Pure but for the last functions, which look at this process. Source: the manuals of the supervisors, systemd.exec(5), docs/supervisors/README.md.
 */
import cluster from 'node:cluster';
import fs from 'node:fs';

import { FdpassError } from './errors.js';

/** A process above this one. */
export interface Ancestor {
  pid: number;
  /** proc_pid_comm(5): at most 15 characters, and what the program made of it, as in `npm start`. */
  name: string;
}

/** What there is to see of who watches this process. */
export interface Surroundings {
  pid: number;
  isClusterWorker: boolean;
  environment: Readonly<Record<string, string | undefined>>;
  /** The parent first. */
  ancestors: readonly Ancestor[];
}

/** Inits of containers that end with the one child that they started. */
const CONTAINER_INITS = /^(tini|docker-init|dumb-init|catatonit|podman-init|pod-init)$/;

/** Supervisors that start their child anew when it has ended, whatever its code, and what to use instead. proc_pid_comm(5) cuts names. */
const RESTARTERS: Readonly<Record<string, string>> = {
  start_server: 'send HUP to start_server',
  's6-supervise': 'use `s6-svc -r`, with the listener in s6-fdholder-daemon',
  runsv: 'run it under systemd (Type=notify), or without a supervisor',
  supervise: 'run it under systemd (Type=notify), or without a supervisor',
  'supervise-daemo': 'run it under systemd (Type=notify), or without a supervisor',
};

/** Programs that only wait for the one that they started, and end with it. */
const RUNNERS = /^(npm|npx|pnpm|yarn|bun)\b/;
const SHELLS = /^(sh|dash|bash|ash|busybox|zsh|ksh)$/;

/**
 * Why a restart by handoff would end the service here.
 *
 * @returns A sentence with what to use instead; undefined where nothing speaks against it.
 */
export function whySupervised(surroundings: Surroundings): string | undefined {
  const { pid, environment, ancestors } = surroundings;
  const whatever = whyStartedAnew(surroundings);
  if (whatever !== undefined) return whatever;
  if (pid === 1) {
    return (
      'it is pid 1, and its exit ends the container: start the new one as a container of its own, or run a supervisor that ' +
      'follows a changing pid as pid 1'
    );
  }
  const waiting = ancestors.slice(0, countWaiting(ancestors));
  const init = ancestors.at(waiting.length);
  const first = [...waiting, init].find((ancestor) => ancestor?.pid === 1);
  if (first !== undefined && (waiting.includes(first) || CONTAINER_INITS.test(first.name))) {
    return `${first.name} is pid 1, ends with this process, and the container with it: start the new one as a container of its own`;
  }
  if (environment['NOTIFY_SOCKET'] !== undefined) return undefined;
  if (environment['SYSTEMD_EXEC_PID'] === String(pid)) {
    return 'it is the main process of a systemd unit that does not hear of a successor: set Type=notify in the unit';
  }
  const runner = wrapperOfUnit(surroundings);
  if (runner !== undefined && RUNNERS.test(runner.name)) {
    return (
      `${runner.name} (pid ${runner.pid}), the main process of the systemd unit, ends with it: let ExecStart= be node itself, ` +
      'with Type=notify'
    );
  }
  return undefined;
}

/**
 * Why a systemd unit does not hear of this process, or loses it with a restart: a shell or npm stays between the two. A shell may also stay
 * for another reason, so this is no refusal.
 *
 * @returns A sentence with what to do; undefined where this process is the main one, or nothing is known of a unit.
 */
export function whyUnheard(surroundings: Surroundings): string | undefined {
  const { pid, environment } = surroundings;
  const wrapper = wrapperOfUnit(surroundings);
  if (wrapper === undefined) return undefined;
  const what =
    environment['NOTIFY_SOCKET'] === undefined
      ? 'a restart ends with the exit of this one, and the unit as soon as that one ends'
      : 'what this one says (READY=1, MAINPID=) is heard with NotifyAccess=all alone, and $MAINPID in ExecReload= is that one';
  const who = `${wrapper.name} (pid ${wrapper.pid}) is the main process of the systemd unit, and this one (pid ${pid}) is not`;
  return `${who}: ${what}. Let ExecStart= be node itself, or the script end in exec, with Type=notify`;
}

/** The shell or npm that systemd started, and that waits for this process. */
function wrapperOfUnit({ environment, ancestors }: Surroundings): Ancestor | undefined {
  const main = environment['SYSTEMD_EXEC_PID'];
  return ancestors.slice(0, countWaiting(ancestors)).find(({ pid }) => String(pid) === main);
}

/** Why whoever takes over would meet this process again, though it is no child of it: it is started anew when it exits. */
function whyStartedAnew({ isClusterWorker, environment, ancestors }: Surroundings): string | undefined {
  if (environment['pm_id'] !== undefined && environment['PM2_HOME'] !== undefined) {
    return 'PM2 starts it anew when it exits: use `pm2 reload`, or start it without PM2';
  }
  if (isClusterWorker) {
    return 'it is a cluster worker, and the primary owns the socket: restart by handoff in the primary, or do without cluster';
  }
  if (environment['SUPERVISOR_ENABLED'] !== undefined) {
    return 'supervisord starts it anew when it exits: run it under systemd (Type=notify), or without a supervisor';
  }
  const { name = '' } = ancestors.at(countWaiting(ancestors)) ?? {};
  const instead = Object.hasOwn(RESTARTERS, name) ? RESTARTERS[name] : undefined;
  if (instead !== undefined) return `${name} starts it anew when it exits: ${instead}`;
  return undefined;
}

/** How many of the ancestors, the parent first, only wait for this process. */
function countWaiting(ancestors: readonly Ancestor[]): number {
  const other = ancestors.findIndex(({ name }) => !RUNNERS.test(name) && !SHELLS.test(name));
  return other === -1 ? ancestors.length : other;
}

/**
 * Refuses what would end the service: `ERR_FDPASS_SUPERVISED`.
 *
 * @param successor - `child`: this process starts it. `newcomer`: others do, and know that this one exits.
 */
export function assertNotSupervised(successor: 'child' | 'newcomer' = 'child'): void {
  const surroundings = ownSurroundings();
  const why = successor === 'child' ? whySupervised(surroundings) : whyStartedAnew(surroundings);
  if (why === undefined) return;
  const message = `A restart by handoff ends with the exit of this process (pid ${process.pid}), and ${why}`;
  throw new FdpassError('ERR_FDPASS_SUPERVISED', message);
}

/**
 * Refuses what would bring up this program as something else: a worker of cluster that is started again by anybody but its primary is a
 * primary, and starts workers, which would do the same.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_SUPERVISED`.
 */
export function assertStartsAlike(): void {
  if (!cluster.isWorker) return;
  const message =
    `A handoff starts this program again, and this process (pid ${process.pid}) is a cluster worker: its successor would be one more ` +
    'primary. Restart by handoff in the primary, or name another program in options.command';
  throw new FdpassError('ERR_FDPASS_SUPERVISED', message);
}

/** Says {@link whyUnheard}, once: the unit would only time out, or end. */
export function warnUnheard(): void {
  if (process.env['SYSTEMD_EXEC_PID'] === undefined) return;
  const why = whyUnheard(ownSurroundings());
  if (why !== undefined) process.emitWarning(why, { code: 'FDPASS_SUPERVISED' });
}

function ownSurroundings(): Surroundings {
  return {
    pid: process.pid,
    isClusterWorker: cluster.isWorker,
    environment: process.env,
    ancestors: ancestorsOf(process.ppid),
  };
}

/**
 * Whether a systemd manager started this process and hears of its successors. Such a manager waits, when the unit is stopped, for a main
 * process that is its own child; one that is not ("alien") it kills right after the first signal (service.c, unit_kill_context).
 */
export function isChildOfSystemd(): boolean {
  if (process.env['NOTIFY_SOCKET'] === undefined) return false;
  return isSystemd(process.ppid, ancestorsOf(process.ppid)[0]);
}

/** Whether a parent that wants to be told is systemd, pure. A pid 1 that is hidden is: its own ProtectProc= hides it from other users. */
export function isSystemd(pid: number, seen: Ancestor | undefined): boolean {
  return seen === undefined ? pid === 1 : seen.name === 'systemd';
}

/** As far as /proc shows them; none where there is no /proc. proc_pid_stat(5) */
function ancestorsOf(parent: number): Ancestor[] {
  const ancestors: Ancestor[] = [];
  try {
    for (let pid = parent; pid > 0;) {
      const stat = fs.readFileSync(`/proc/${pid}/stat`, 'utf8');
      const end = stat.lastIndexOf(')'); // a name may hold anything, a parenthesis too
      ancestors.push({ pid, name: stat.slice(stat.indexOf('(') + 1, end) });
      pid = Number(stat.slice(end + 2).split(' ')[1]);
    }
  } catch {
    // no /proc here, or not ours to read: what was seen so far must do
  }
  return ancestors;
}
