/**
 * The old side of a handoff to a child: handoff(), which starts a successor and hands it the listeners.
 * Starts and ends that process, and writes what it is born with. The dialog itself stands in transaction.ts; until it is over
 * nothing here stops accepting. Main thread alone. Source: docs/protocol.md.
 */
import { setTimeout as delay } from 'node:timers/promises';

import { formatAddress } from '../address.js';
import { ownCommand } from '../command.js';
import { writeFdpass } from '../conventions/fdpass.js';
import { FdpassError, HandoffError, type SuccessorFacts } from '../errors.js';
import { checkConventions, type ConventionWithOptions, firstDescriptor, type SpawnConvention } from '../giving.js';
import { Link } from '../link.js';
import { ensureReloading, tellReleased, writeWatchdog } from '../notify/upgrade.js';
import * as raw from '../raw.js';
import { assertStartsAlike, isChildOfSystemd } from '../supervised.js';
import { type Child, spawn, type StdioOption } from '../spawn.js';
import { type OfferedState, VERSIONS } from './frame.js';
import { checkOffer, checkState, checkTime, describeItem, refuse, storeState } from './manifest.js';
import { droppedBy, type Readiness, type Watcher, watchReadiness } from './readiness.js';
import { offerTickets } from './tickets.js';
import {
  type Candidate,
  currentTransaction,
  type Offering,
  refusal,
  refusalToBegin,
  type Successor,
  transact,
  type Transaction,
  type TransactionOptions,
} from './transaction.js';
import { Wire } from './wire.js';

export type { Readiness } from './readiness.js';
export type { Successor } from './transaction.js';

/** Whom to start, what to hand over, and how long to wait. */
export interface HandoffOptions extends TransactionOptions {
  /** The program and its arguments. Default: this program, as it was started. */
  command?: readonly [string, ...string[]] | undefined;
  /** Default: where this process was started, as the user named it. */
  cwd?: string | undefined;
  /** Default: process.env. The variables of every convention are set by the handoff itself. */
  env?: Readonly<Record<string, string | undefined>> | undefined;
  /** Default: 'inherit'. */
  stdio?: StdioOption | undefined;
  /**
   * How a successor that is not an fdpass program finds its listeners, as in spawn(). 'fdpass': by the channel alone. A successor that calls
   * ready() finds them by the channel in any case, where `readiness` is 'channel'. Default: 'systemd'.
   */
  convention?: 'fdpass' | SpawnConvention | readonly SpawnConvention[] | undefined;
  /** Default: 'channel', for a successor that calls ready(); 'convention' for tableflip, and for einhorn with `ackServer`. */
  readiness?: Readiness | undefined;
  /** For inheritedState() in the successor: JSON, or bytes. */
  state?: unknown;
  /**
   * What a second call does while one is under way: the same promise (`join`, the default), a new successor in place of one
   * that is not yet ready (`supersede`), or ERR_FDPASS_ABORTED (`reject`).
   */
  overlap?: 'join' | 'supersede' | 'reject' | undefined;
}

/** Room for OFFER in the channel, bytes. The kernel may give less (net.core.wmem_max). */
const SEND_BUFFER = 1_048_576;

/** How long a successor that has closed its pipe may take to end, ms. */
const STATUS_WAIT = 1_000;

let queued: Promise<Successor> | undefined;

/**
 * Starts a successor and hands the listeners over.
 *
 * This process accepts until the successor has served through its probation. Whatever fails before costs nothing: the promise
 * rejects, and this process goes on.
 *
 * @returns The successor, when it serves, has lived through its probation, and this process has stopped accepting. Connections
 * that are open here stay: drain() ends them.
 * @throws {@link HandoffError} with the phase and what is known of the successor: `ERR_FDPASS_SPAWN`, `_SUCCESSOR_EXITED`,
 * `_READY_TIMEOUT`, `_COMMIT_TIMEOUT`, `_PROBATION`, `_ABORTED`, `_PROTOCOL`, `_VERSION`, `_SUPERSEDED`, `_NOT_READY`, `_LIMIT`.
 * TypeError, RangeError: an option, before anything has changed. `ERR_FDPASS_THREAD`: not in the main thread. `ERR_FDPASS_SUPERVISED`:
 * this is a cluster worker, and `command` names no other program.
 * @see docs/protocol.md; sd_listen_fds(3) for what a successor of another kind finds
 */
export async function handoff(options: HandoffOptions = {}): Promise<Successor> {
  checkOptions(options);
  const { command, signal, overlap = 'join' } = options;
  if (command === undefined) assertStartsAlike();
  const refused = refusalToBegin();
  if (refused !== undefined) throw refused;
  signal?.throwIfAborted();
  const current = currentTransaction();
  if (current === undefined) return transact(new SpawnedCandidate(options), options);
  if (overlap === 'join') return current.promise;
  if (overlap === 'reject') {
    throw refusal(
      'ERR_FDPASS_ABORTED',
      `A handoff to pid ${current.pid ?? 'unknown'} is under way, and options.overlap is 'reject'`,
    );
  }
  current.wish({ type: 'supersede' });
  return (queued ??= afterwards(current, options));
}

/** The one that waits for the current one's end. Further requests are the same promise. */
async function afterwards(before: Transaction, options: HandoffOptions): Promise<Successor> {
  const outcome = await before.promise.then(
    (successor) => successor,
    () => undefined,
  );
  queued = undefined;
  if (outcome !== undefined) return outcome; // it was ready already, and has taken over
  return handoff({ ...options, overlap: 'join' });
}

/** A successor that this process starts. It finds its listeners at 3, 4, ..., and the channel behind them. */
class SpawnedCandidate implements Candidate {
  readonly birth: 'spawn' | 'foreign';
  readonly #options: HandoffOptions;
  #child: Child | undefined;
  /** Of the successor. */
  #generation = 0;
  #wire: Wire | undefined;
  #watcher: Watcher | undefined;
  readonly #ending = new AbortController();
  #killTimer: NodeJS.Timeout | undefined;
  #wake: () => void = () => undefined;
  /** The process that speaks where it is not the one that was started (a shell, npm), and whether it has ended. */
  #other: { pid: number; pidfd: number; watch: raw.Watch; ended: boolean } | undefined;

  constructor(options: HandoffOptions) {
    this.#options = options;
    this.birth = readinessOf(options) === 'channel' ? 'spawn' : 'foreign';
  }

  get pid(): number | undefined {
    return this.#other?.pid ?? this.#child?.pid;
  }

  get wire(): Wire | undefined {
    return this.#wire;
  }

  get gone(): Promise<unknown> {
    return this.#child?.exited ?? Promise.resolve();
  }

  get facts(): SuccessorFacts {
    const status = this.#child?.poll();
    return { pid: this.pid, exitCode: status?.exitCode ?? null, signal: status?.signal ?? null };
  }

  /** Everything is opened, written and started here, in one go. */
  begin(offering: Offering): void {
    const { command, cwd, env = process.env, stdio = 'inherit' } = this.#options;
    const readiness = readinessOf(this.#options);
    const { listeners } = offering;
    this.#generation = offering.generation;
    ensureReloading();
    const conventions = conventionsOf(this.#options).map((convention) =>
      convention.type === 'server-starter'
        ? { ...convention, generation: convention.generation ?? offering.generation }
        : convention,
    );
    const first = firstDescriptor(conventions);
    const own = command === undefined ? ownCommand() : { file: command[0], args: command.slice(1), cwd: undefined };
    const where = cwd ?? own.cwd ?? process.cwd();
    const fds = listeners.map((listener, index) => ({ source: listener.fd, target: first + index }));
    const names = listeners.map((listener) => listener.name);
    const theirs: number[] = []; // ours until the successor has its copies
    const watchdog = writeWatchdog();
    let variables: Record<string, string>;
    this.#wake = offering.wake;
    try {
      if (readiness === 'channel') {
        const [link, end] = Link.pair();
        this.#wire = new Wire(link);
        theirs.push(end);
        const number = first + fds.length;
        fds.push({ source: end, target: number });
        const stored = storeState(this.#options.state, number + 1);
        if (stored.file !== undefined) {
          theirs.push(stored.file);
          fds.push({ source: stored.file, target: number + 1 });
        }
        raw.setOption(link.fd, 'sendBuffer', SEND_BUFFER);
        this.#offer(this.#wire, offering, first, stored.state);
        variables = writeFdpass({ fd: number, inode: raw.describe(end).inode }).variables;
      } else if (readiness === 'convention') {
        variables = {};
      } else {
        this.#watcher = watchReadiness(readiness, listeners);
        variables = this.#watcher.variables;
      }
      this.#child = spawn(own.file, own.args, {
        fds,
        ...(conventions.length === 0 ? {} : { names, convention: conventions }),
        env: { ...env, PWD: where },
        keepNotifySocket: true, // a service manager follows the successor, once it is told
        sibling: isChildOfSystemd(), // which stops only its own children with patience
        variables: { ...variables, ...watchdog.variables },
        pidVariables: watchdog.pidVariables, // the beat is the successor's, once the manager follows it
        cwd: where,
        stdio,
      });
    } catch (error) {
      throw this.#spawnFailure(error, own.file);
    } finally {
      for (const fd of theirs) raw.close(fd);
    }
    const child = this.#child;
    void child.exited.then(offering.wake);
    const accepting = (): void => {
      this.#checkHeld(child.pid, offering);
    };
    this.#watcher?.wait(child.pid, this.#ending.signal).then(accepting, (error: unknown) => {
      if (this.#ending.signal.aborted) return; // it is over: nobody waits any more
      offering.cancel('ERR_FDPASS_ABORTED', `its readiness could not be watched: ${String(error)}`);
    });
    if (readiness === 'convention') {
      child.ready?.then(accepting, async (error: unknown) => {
        // A pipe closes before the process has ended, and how it ended says more.
        await Promise.race([child.exited, delay(STATUS_WAIT, undefined, { ref: false })]);
        if (this.#ending.signal.aborted || child.poll() !== undefined) return; // it is heard elsewhere
        offering.cancel('ERR_FDPASS_ABORTED', error instanceof Error ? error.message : String(error));
      });
    }
  }

  /** A program that is not ours says that it serves, or was seen to: what it has closed, nobody would accept from. */
  #checkHeld(pid: number, { listeners, accepting, cancel }: Offering): void {
    const dropped = this.#child?.poll() === undefined ? (droppedBy(pid, listeners) ?? []) : [];
    const names = dropped.map(({ name, address }) => `"${name}" (${formatAddress(address)})`).join(', ');
    if (dropped.length > 0 && dropped.length === listeners.filter(({ closed }) => !closed).length) {
      const why = 'does its configuration name another address?';
      cancel('ERR_FDPASS_ABORTED', `it has closed what it was given: ${names}; ${why}`);
      return;
    }
    if (dropped.length > 0) {
      const warning = `The successor (pid ${pid}) has closed what it was given, and nobody will accept there: ${names}`;
      process.emitWarning(warning, { code: 'FDPASS_UNCLAIMED' });
    }
    accepting();
  }

  #spawnFailure(error: unknown, file: string): unknown {
    if (error instanceof FdpassError || error instanceof TypeError || error instanceof RangeError) return error;
    const why = error instanceof Error ? error.message : String(error);
    const message = `The successor (${file}) could not be started: ${why}; this process goes on accepting`;
    return new HandoffError('ERR_FDPASS_SPAWN', message, { phase: 'serving', successor: this.facts, cause: error });
  }

  /** Written before the exec: it is there from the successor's first moment. */
  #offer(
    wire: Wire,
    { listeners, generation, probation }: Offering,
    first: number,
    state: OfferedState | undefined,
  ): void {
    const items = listeners.map((listener, index) => ({ fd: first + index, ...describeItem(listener) }));
    wire.send({
      type: 'OFFER',
      versions: VERSIONS,
      pid: process.pid,
      generation,
      probation,
      count: items.length,
      items,
      ...(state === undefined ? {} : { state }),
      tickets: offerTickets(listeners),
    });
    if (wire.unsent > 0) {
      const message = `The offer of ${items.length} listeners does not fit into the channel (${wire.unsent} bytes too many): raise net.core.wmem_max`;
      throw new FdpassError('ERR_FDPASS_LIMIT', message);
    }
  }

  take(): boolean {
    return false;
  }

  /** Perhaps the program that speaks is not the one that was started, but a child of it: its death counts, not that of the shell. */
  hello(pid: number): void {
    if (pid === this.#child?.pid || this.#other !== undefined || process.platform !== 'linux') return;
    let pidfd: number | undefined;
    try {
      pidfd = raw.pidfdOpen(pid);
      const watch = raw.watch(pidfd, { readable: true }, () => {
        if (this.#other !== undefined) this.#other.ended = true;
        watch.close();
        this.#wake();
      });
      this.#other = { pid, pidfd, watch, ended: false };
    } catch {
      if (pidfd !== undefined) raw.close(pidfd);
      this.#wake(); // it has ended already: the channel says so
    }
  }

  hasEnded(): boolean {
    return this.#other === undefined ? this.#child?.poll() !== undefined : this.#other.ended;
  }

  terminate(termAfter: number, killAfter: number): void {
    const child = this.#child;
    if (child === undefined) return;
    const after = (ms: number, action: () => void): void => {
      this.#killTimer = setTimeout(action, ms).unref();
    };
    const term = (): void => {
      child.kill('SIGTERM');
      after(killAfter, () => child.kill('SIGKILL'));
    };
    if (termAfter === 0) term();
    else after(termAfter, term);
    void child.exited.then(() => {
      clearTimeout(this.#killTimer);
    });
  }

  kill(): void {
    this.#child?.kill('SIGKILL');
  }

  released(): Promise<void> | undefined {
    // Not before: once the manager follows the successor, its death ends the service, and this process with it.
    const { pid } = this;
    return pid === undefined ? undefined : tellReleased(pid, `generation ${this.#generation} serves (pid ${pid})`);
  }

  succeeded(generation: number): Successor {
    const child = this.#child;
    if (child === undefined) throw new Error('unreachable: it was started, or there would be no success');
    child.unref();
    this.#other?.watch.unref();
    return { pid: this.#other?.pid ?? child.pid, generation, exited: child.exited };
  }

  end(): void {
    this.#ending.abort();
    this.#watcher?.[Symbol.dispose]();
    this.#watcher = undefined;
  }

  close(): void {
    this.#other?.watch.close();
    if (this.#other !== undefined) raw.close(this.#other.pidfd);
    this.#other = undefined;
    this.#child?.unref();
  }
}

/** Everything that can be said of the options before anything is done. */
function checkOptions(options: HandoffOptions): void {
  const { command, readiness, overlap, state } = options;
  checkOffer(options);
  if (readiness !== undefined && !['channel', 'notify', 'connection', 'convention'].includes(readiness as string)) {
    if (typeof readiness !== 'object')
      refuse('readiness', "'channel', 'notify', 'connection', 'convention' or { after: ms }", readiness);
    checkTime('readiness.after', readiness.after);
  }
  if (overlap !== undefined && !['join', 'supersede', 'reject'].includes(overlap)) {
    refuse('overlap', "'join', 'supersede' or 'reject'", overlap);
  }
  checkConvention(options);
  // An option of spawn. Here this process accepts from the same sockets until the release, and would stand still in accept(2).
  const blocking: unknown = Reflect.get(options, 'blocking');
  if (blocking !== undefined && blocking !== false) {
    const instead =
      'left to spawn(), after listener.pause(): as long as this process accepts, its listeners are non-blocking';
    refuse('blocking', instead, blocking);
  }
  if (command !== undefined && (!Array.isArray(command) || command.length === 0)) {
    refuse('command', 'the program and its arguments', command);
  }
  checkState(state);
}

/** How the successor finds its listeners, beside the channel. */
function conventionsOf({ convention = 'systemd' }: HandoffOptions): ConventionWithOptions[] {
  const list: readonly ('fdpass' | SpawnConvention)[] = [convention].flat();
  return checkConventions(list.filter((each) => each !== 'fdpass'));
}

/** Whether it has a word of its own for its readiness. */
function hasWord(conventions: readonly ConventionWithOptions[]): boolean {
  return conventions.some(
    (convention) => convention.type === 'tableflip' || (convention.type === 'einhorn' && convention.ackServer === true),
  );
}

function readinessOf(options: HandoffOptions): Readiness {
  return options.readiness ?? (hasWord(conventionsOf(options)) ? 'convention' : 'channel');
}

/** Convention and readiness must go together. */
function checkConvention(options: HandoffOptions): void {
  const conventions = conventionsOf(options);
  const readiness = readinessOf(options);
  if (readiness === 'convention' && !hasWord(conventions)) {
    refuse('readiness', "something else than 'convention': this convention has no word for it", readiness);
  }
  const types = conventions.map(({ type }) => type);
  if (readiness === 'channel' && (types.includes('tableflip') || types.includes('stdin'))) {
    refuse('readiness', `given, and not 'channel', for the convention ${types.join(', ')}`, readiness);
  }
  if (readiness !== 'channel' && conventions.length === 0) {
    refuse('readiness', "'channel' for the convention 'fdpass', which has nothing else", 'another');
  }
}
