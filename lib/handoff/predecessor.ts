/**
 * The old side of a handoff: starts a successor, hands it the listeners, and lets go once it has proved itself.
 * Carries out what the pure machine says: starts and ends the successor, talks over the channel, closes the listeners that were
 * handed over. Until then nothing here stops accepting. Main thread alone. Source: docs/protocol.md.
 */
import fs from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';

import { ownCommand } from '../command.js';
import { Channel } from '../channel.js';
import { writeFdpass } from '../conventions/fdpass.js';
import { LISTEN_FDS_START } from '../conventions/systemd.js';
import { FdpassError, type FdpassErrorCode, HandoffError, type HandoffPhase, type SuccessorFacts } from '../errors.js';
import { Deferred } from '../deferred.js';
import { lendPath, type Listener, openListeners, relinquish, stopAccepting } from '../listener.js';
import { checkName } from '../names.js';
import { notify } from '../notify.js';
import * as raw from '../raw.js';
import { publish } from '../report.js';
import { type Child, spawn, type StdioOption } from '../spawn.js';
import { commonVersion, type Item, type Message, type OfferedState, VERSIONS } from './frame.js';
import {
  deliver,
  type FromSuccessor,
  type Mail,
  newPredecessor,
  predecessor,
  type PredecessorDeadline,
  type PredecessorEffect,
  type PredecessorEvent,
  type PredecessorState,
  type PredecessorWish,
  PROBATION,
  READY_TIMEOUT,
  type Step,
  type Wake,
} from './machine.js';
import { type Readiness, type Watcher, watchReadiness } from './readiness.js';
import { thisGeneration } from './successor.js';
import { Wire } from './wire.js';

export type { Readiness } from './readiness.js';

/** Whom to start, what to hand over, and how long to wait. */
export interface HandoffOptions {
  /** Default: all that are open. Those that are not handed over stay open here. */
  listeners?: readonly Listener[] | undefined;
  /** The program and its arguments. Default: this program, as it was started. */
  command?: readonly [string, ...string[]] | undefined;
  /** Default: where this process was started, as the user named it. */
  cwd?: string | undefined;
  /** Default: process.env. The variables of every convention are set by the handoff itself. */
  env?: Readonly<Record<string, string | undefined>> | undefined;
  /** Default: 'inherit'. */
  stdio?: StdioOption | undefined;
  /** How a successor that is not an fdpass program finds its listeners: systemd's LISTEN_FDS is always written. */
  convention?: 'systemd' | undefined;
  /** Default: 'channel', for a successor that calls ready(). */
  readiness?: Readiness | undefined;
  /** ms until it must be ready. Default 30 000. */
  readyTimeout?: number | undefined;
  /** ms that it must serve before this process lets go. Default 1 000. */
  probation?: number | undefined;
  /** For inheritedState() in the successor: JSON, or bytes. */
  state?: unknown;
  /** Takes the handoff back: ERR_FDPASS_ABORTED, and this process goes on. */
  signal?: AbortSignal | undefined;
  /**
   * What a second call does while one is under way: the same promise (`join`, the default), a new successor in place of one
   * that is not yet ready (`supersede`), or ERR_FDPASS_ABORTED (`reject`).
   */
  overlap?: 'join' | 'supersede' | 'reject' | undefined;
}

/** A successor that serves. It was started by this process, and goes on without it. */
export interface Successor {
  readonly pid: number;
  readonly generation: number;
  /** Resolves when it ends, should this process live to see it. */
  readonly exited: Promise<{ exitCode: number | null; signal: NodeJS.Signals | null }>;
}

/** State above this goes in a memory file: OFFER must fit into the channel before anybody reads it. Bytes. */
const INLINE_STATE = 32_768;

/** Room for OFFER in the channel, bytes. The kernel may give less (net.core.wmem_max). */
const SEND_BUFFER = 1_048_576;

/** How long a handoff that failed waits for the exit status of a successor that has ended, ms. */
const STATUS_WAIT = 1_000;

/** The first number at which a successor finds a listener. sd_listen_fds(3) */
const FIRST = LISTEN_FDS_START;

let current: Transaction | undefined;
let queued: Promise<Successor> | undefined;
let done: Successor | undefined;

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
 * TypeError, RangeError: an option, before anything has changed. `ERR_FDPASS_THREAD`: not in the main thread.
 * @see docs/protocol.md; sd_listen_fds(3) for what a successor of another kind finds
 */
export async function handoff(options: HandoffOptions = {}): Promise<Successor> {
  checkOptions(options);
  const generation = thisGeneration();
  const { signal, overlap = 'join' } = options;
  if (done !== undefined)
    throw refusal('ERR_FDPASS_SUPERSEDED', `The successor (pid ${done.pid}) has taken over already`);
  if (generation.phase === 'leaving')
    throw refusal('ERR_FDPASS_ABORTED', 'This process leaves: it starts no successor');
  if (generation.phase === 'starting') {
    throw refusal('ERR_FDPASS_NOT_READY', 'A handoff needs a process that serves: call ready() first, and wait for it');
  }
  signal?.throwIfAborted();
  if (current === undefined) return begin(options);
  if (overlap === 'join') return current.promise;
  if (overlap === 'reject') {
    throw refusal(
      'ERR_FDPASS_ABORTED',
      `A handoff to pid ${current.pid ?? 'unknown'} is under way, and options.overlap is 'reject'`,
    );
  }
  current.supersede();
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

async function begin(options: HandoffOptions): Promise<Successor> {
  const transaction = new Transaction(options);
  current = transaction;
  try {
    done = await transaction.promise;
    return done;
  } finally {
    if (current === transaction) current = undefined;
  }
}

/** Takes back a handoff that is under way: this process was asked to stop. */
export function stopHandoff(): void {
  current?.wish({ type: 'stop' });
}

function refusal(code: FdpassErrorCode, message: string): HandoffError {
  return new HandoffError(code, message, {
    phase: 'serving',
    successor: { pid: undefined, exitCode: null, signal: null },
  });
}

let aftermath: Promise<void> = Promise.resolve();

/** One handoff, from the request to its end. */
class Transaction {
  readonly #outcome = new Deferred<Successor>();
  readonly #options: HandoffOptions;
  readonly #generation = thisGeneration().number + 1;
  #machine: PredecessorState;
  #listeners: readonly Listener[] = [];
  #takeBack: (() => void)[] = [];
  #child: Child | undefined;
  #wire: Wire | undefined;
  #watcher: Watcher | undefined;
  readonly #ending = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #killTimer: NodeJS.Timeout | undefined;
  #scheduled = false;
  /** The process that speaks where it is not the one that was started (a shell, npm), and whether it has ended. */
  #other: { pid: number; pidfd: number; watch: raw.Watch; ended: boolean } | undefined;
  /** Resolves when nothing is left of the successor, or it has taken over. */
  readonly #cleared = new Deferred<void>();

  constructor(options: HandoffOptions) {
    this.#options = options;
    const { readiness = 'channel', readyTimeout = READY_TIMEOUT, probation = PROBATION } = options;
    this.#machine = newPredecessor({ birth: readiness === 'channel' ? 'spawn' : 'foreign', readyTimeout, probation });
    this.#start().catch((error: unknown) => {
      this.#releaseAll();
      this.#outcome.reject(error);
    });
  }

  get promise(): Promise<Successor> {
    return this.#outcome.promise;
  }

  get pid(): number | undefined {
    return this.#other?.pid ?? this.#child?.pid;
  }

  supersede(): void {
    this.wish({ type: 'supersede' });
  }

  /** Somebody wants the handoff to end: what the successor has said already comes first. */
  wish(event: PredecessorWish): void {
    this.#deliver({ event });
  }

  #event(event: PredecessorEvent): void {
    this.#step(predecessor(this.#machine, event));
  }

  async #start(): Promise<void> {
    await aftermath; // a successor that failed may still hold the listeners
    await thisGeneration()
      .whenAlone()
      .catch((error: unknown) => {
        throw error instanceof FdpassError ? refusal(error.code, error.message) : error;
      });
    const { signal } = this.#options;
    if (signal?.aborted === true)
      throw refusal('ERR_FDPASS_ABORTED', 'The caller took the handoff back before it began');
    if (thisGeneration().phase === 'leaving')
      throw refusal('ERR_FDPASS_ABORTED', 'This process leaves: it starts no successor');

    this.#listeners = (this.#options.listeners ?? openListeners()).filter((listener) => !listener.closed);
    aftermath = this.#cleared.promise;
    this.#spawn();
    this.#takeBack = this.#listeners.map(lendPath);
    signal?.addEventListener('abort', this.#abort);
    process.on('exit', this.#exit);
    this.#event({ type: 'start' });
  }

  readonly #abort = (): void => {
    const reason: unknown = this.#options.signal?.reason;
    const message = `the caller took it back (${reason instanceof Error ? reason.message : String(reason)})`;
    this.wish({ type: 'cancel', code: 'ERR_FDPASS_ABORTED', message });
  };

  readonly #exit = (code: number): void => {
    if (code === 0) this.wish({ type: 'exit' }); // after a crash the successor goes on instead
  };

  /** Everything is opened, written and started here, in one go; what fails leaves nothing behind. */
  #spawn(): void {
    const { command, cwd, env = process.env, stdio = 'inherit', readiness = 'channel' } = this.#options;
    const own = command === undefined ? ownCommand() : { file: command[0], args: command.slice(1), cwd: undefined };
    const where = cwd ?? own.cwd ?? process.cwd();
    const fds = this.#listeners.map((listener, index) => ({ source: listener.fd, target: FIRST + index }));
    const names = this.#listeners.map((listener) => listener.name);
    const theirs: number[] = []; // ours until the successor has its copies
    let variables: Record<string, string>;
    try {
      if (readiness === 'channel') {
        const [channel, end] = Channel.pair();
        this.#wire = new Wire(channel);
        theirs.push(end);
        const number = FIRST + fds.length;
        fds.push({ source: end, target: number });
        const stored = storeState(this.#options.state, number + 1);
        if (stored.file !== undefined) {
          theirs.push(stored.file);
          fds.push({ source: stored.file, target: number + 1 });
        }
        raw.setOption(channel.fd, 'sendBuffer', SEND_BUFFER);
        this.#offer(stored.state);
        variables = writeFdpass({ fd: number, inode: raw.describe(end).inode }).variables;
      } else {
        this.#watcher = watchReadiness(readiness, this.#listeners);
        variables = this.#watcher.variables;
      }
      this.#child = spawn(own.file, own.args, {
        fds,
        names,
        convention: 'systemd',
        env: { ...env, PWD: where },
        keepNotifySocket: true, // a service manager follows the successor, once it is told
        variables,
        cwd: where,
        stdio,
      });
    } catch (error) {
      throw this.#spawnFailure(error, own.file);
    } finally {
      for (const fd of theirs) raw.close(fd);
    }
    const child = this.#child;
    this.#wire?.listen(() => {
      this.#wake();
    });
    void child.exited.then(() => {
      this.#wake();
    });
    this.#watcher?.wait(child.pid, this.#ending.signal).then(
      () => {
        this.#event({ type: 'accepting' });
      },
      (error: unknown) => {
        if (this.#ending.signal.aborted) return; // it is over: nobody waits any more
        this.wish({
          type: 'cancel',
          code: 'ERR_FDPASS_ABORTED',
          message: `its readiness could not be watched: ${String(error)}`,
        });
      },
    );
  }

  #spawnFailure(error: unknown, file: string): unknown {
    if (error instanceof FdpassError || error instanceof TypeError || error instanceof RangeError) return error;
    const why = error instanceof Error ? error.message : String(error);
    const message = `The successor (${file}) could not be started: ${why}; this process goes on accepting`;
    return new HandoffError('ERR_FDPASS_SPAWN', message, { phase: 'serving', successor: this.#facts(), cause: error });
  }

  #offer(state: OfferedState | undefined): void {
    const items = this.#listeners.map((listener, index): Item & { fd: number } => {
      const { inode, device } = raw.describe(listener.fd);
      const { name, type, address, backlog } = listener;
      return {
        fd: FIRST + index,
        name,
        type,
        address,
        inode: String(inode),
        device: String(device),
        backlog,
        supervised: listener.origin === 'systemd',
      };
    });
    const offer: Message = {
      type: 'OFFER',
      versions: VERSIONS,
      pid: process.pid,
      generation: this.#generation,
      probation: this.#machine.probation,
      count: items.length,
      items,
      ...(state === undefined ? {} : { state }),
    };
    this.#wire?.send(offer);
    const unsent = this.#wire?.unsent ?? 0;
    if (unsent > 0) {
      const message = `The offer of ${items.length} listeners does not fit into the channel (${unsent} bytes too many): raise net.core.wmem_max`;
      throw new FdpassError('ERR_FDPASS_LIMIT', message);
    }
  }

  /** Mail is read outside the loop's poll phase: see NextGeneration. */
  #wake(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#deliver('readable');
    });
  }

  #deliver(why: Wake<PredecessorDeadline, PredecessorWish>): void {
    const mail = this.#readMail();
    this.#step(deliver(predecessor, this.#machine, mail, why));
    const ended = mail.some((item) => item.type === 'ended');
    if (ended && this.#machine.phase === 'released') this.#releaseAll();
  }

  /** All that channel and pidfd hold. */
  #readMail(): Mail<FromSuccessor>[] {
    const mail: Mail<FromSuccessor>[] = [];
    const { messages, malformed, ended } = this.#wire?.readAll() ?? {
      messages: [],
      malformed: undefined,
      ended: false,
    };
    for (const message of messages) {
      switch (message.type) {
        case 'HELLO':
          if (message.pid !== this.#child?.pid) this.#watchOther(message.pid);
          mail.push({
            type: 'message',
            message: { type: 'HELLO', compatible: commonVersion(message.versions, VERSIONS) !== undefined },
          });
          break;
        case 'READY':
        case 'SERVING':
        case 'RELEASE':
        case 'ABORT':
          mail.push({ type: 'message', message });
          break;
        default:
          mail.push({ type: 'malformed', why: `The successor said ${message.type}, which is not its to say here` });
      }
    }
    if (malformed !== undefined) mail.push({ type: 'malformed', why: malformed });
    if (ended || this.#hasExited()) mail.push({ type: 'ended' });
    return mail;
  }

  #hasExited(): boolean {
    return this.#other === undefined ? this.#child?.poll() !== undefined : this.#other.ended;
  }

  /** The program that speaks is not the one that was started, but a child of it: its death counts, not that of the shell. */
  #watchOther(pid: number): void {
    if (this.#other !== undefined || process.platform !== 'linux') return;
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

  #step({ state, effects }: Step<PredecessorState, PredecessorEffect>): void {
    const { phase } = this.#machine;
    this.#machine = state;
    let failed = false;
    for (const effect of effects) {
      if (effect.type === 'send') failed = this.#wire?.send(effect.message) === false || failed;
      else this.#do(effect);
    }
    if (state.phase !== phase && !state.over) {
      publish({ event: 'handoff', phase: state.phase, successor: this.pid, generation: this.#generation });
    }
    if (failed)
      setImmediate(() => {
        this.#deliver('sendFailed');
      });
  }

  #do(effect: Exclude<PredecessorEffect, { type: 'send' }>): void {
    switch (effect.type) {
      case 'arm': {
        clearTimeout(this.#timer);
        const { deadline } = effect;
        this.#timer = setTimeout(() => {
          this.#deliver({ deadline });
        }, effect.ms);
        break;
      }
      case 'disarm':
        clearTimeout(this.#timer);
        break;
      case 'closeListeners':
        stopAccepting();
        for (const listener of this.#listeners) relinquish(listener);
        // Not before: once the manager follows the successor, its death ends the service, and this process with it.
        if (this.pid !== undefined) notify({ mainPid: this.pid, ready: true });
        break;
      case 'terminate':
        this.#terminate(effect.termAfter, effect.killAfter);
        break;
      case 'kill':
        this.#child?.kill('SIGKILL');
        break;
      case 'fail':
        void this.#fail(effect.code, effect.message, effect.phase);
        break;
      case 'clear':
        this.#releaseAll();
        break;
      case 'succeed':
        this.#succeed();
        break;
    }
  }

  #terminate(termAfter: number, killAfter: number): void {
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

  async #fail(code: FdpassErrorCode, message: string, phase: HandoffPhase): Promise<void> {
    this.#end();
    for (const takeBack of this.#takeBack) takeBack(); // the successor has let go of the Unix paths, or never had them
    const child = this.#child;
    if (child !== undefined && code !== 'ERR_FDPASS_ABORTED') {
      await Promise.race([child.exited, delay(this.#hasEnded() ? STATUS_WAIT : 0, undefined, { ref: false })]);
    }
    const successor = this.#facts();
    const text = `${describeFailure(code, message, successor)}; this process goes on accepting`;
    publish({ event: 'failed', code, message: text, phase, successor });
    this.#outcome.reject(new HandoffError(code, text, { phase, successor }));
  }

  #hasEnded(): boolean {
    return !this.#machine.remains;
  }

  #succeed(): void {
    this.#end();
    const child = this.#child;
    if (child === undefined) return; // it was started, or there would be no success
    child.unref();
    this.#other?.watch.unref();
    this.#wire?.unref(); // open until its end: connections can go this way
    this.#outcome.resolve({ pid: this.#other?.pid ?? child.pid, generation: this.#generation, exited: child.exited });
  }

  /** Nothing is waited for any more, except the end of what may be left of the successor. */
  #end(): void {
    this.#options.signal?.removeEventListener('abort', this.#abort);
    process.off('exit', this.#exit);
    this.#ending.abort();
    this.#watcher?.[Symbol.dispose]();
    this.#watcher = undefined;
  }

  #releaseAll(): void {
    clearTimeout(this.#timer);
    this.#end();
    this.#wire?.close();
    this.#other?.watch.close();
    if (this.#other !== undefined) raw.close(this.#other.pidfd);
    this.#other = undefined;
    this.#child?.unref();
    this.#cleared.resolve();
  }

  #facts(): SuccessorFacts {
    const status = this.#child?.poll();
    return { pid: this.pid, exitCode: status?.exitCode ?? null, signal: status?.signal ?? null };
  }
}

/** The state as OFFER carries it: itself where it is small, else in a memory file that the successor finds at `number`. */
function storeState(state: unknown, number: number): { state: OfferedState | undefined; file: number | undefined } {
  if (state === undefined) return { state: undefined, file: undefined };
  const isBytes = state instanceof Uint8Array;
  const bytes = isBytes ? state : Buffer.from(JSON.stringify(state));
  if (!isBytes && bytes.length <= INLINE_STATE) return { state: { json: state }, file: undefined };
  const file = raw.memoryFile('fdpass-state');
  try {
    for (let written = 0; written < bytes.length;) written += fs.writeSync(file, bytes, written);
  } catch (error) {
    raw.close(file);
    throw error;
  }
  return { state: { fd: number, length: bytes.length, encoding: isBytes ? 'bytes' : 'json' }, file };
}

/** A sentence with the facts. What happens now is added by the caller. */
function describeFailure(code: FdpassErrorCode, why: string, { pid, exitCode, signal }: SuccessorFacts): string {
  const who = `The successor (pid ${pid ?? 'none'})`;
  const end =
    exitCode !== null ? `exited with code ${exitCode}` : signal !== null ? `was ended by ${signal}` : undefined;
  if (code === 'ERR_FDPASS_SUCCESSOR_EXITED' && end !== undefined) return `${who} ${end} before it was serving`;
  if (code === 'ERR_FDPASS_PROBATION' && end !== undefined) return `${who} ${end} during its probation`;
  return `The handoff to pid ${pid ?? 'none'} failed: ${why}`;
}

/** Everything that can be said of the options before anything is done. */
function checkOptions(options: HandoffOptions): void {
  const { listeners, command, readiness, overlap, state, convention } = options;
  checkTime('readyTimeout', options.readyTimeout);
  checkTime('probation', options.probation);
  if (readiness !== undefined && !['channel', 'notify', 'connection'].includes(readiness as string)) {
    if (typeof readiness !== 'object')
      refuse('readiness', "'channel', 'notify', 'connection' or { after: ms }", readiness);
    checkTime('readiness.after', readiness.after);
  }
  if (overlap !== undefined && !['join', 'supersede', 'reject'].includes(overlap)) {
    refuse('overlap', "'join', 'supersede' or 'reject'", overlap);
  }
  if (convention !== undefined && (convention as string) !== 'systemd') refuse('convention', "'systemd'", convention);
  if (command !== undefined && (!Array.isArray(command) || command.length === 0)) {
    refuse('command', 'the program and its arguments', command);
  }
  if (state !== undefined && !(state instanceof Uint8Array)) {
    let json: unknown; // undefined for a function, whatever the compiler says
    try {
      json = JSON.stringify(state);
    } catch (error) {
      refuse('state', `JSON or bytes (${String(error)})`, typeof state);
    }
    if (json === undefined) refuse('state', 'JSON or bytes', typeof state);
  }
  for (const listener of listeners ?? []) {
    checkName(listener.name);
    if (!listener.closed) continue;
    throw new FdpassError('ERR_FDPASS_CLOSED', `options.listeners holds "${listener.name}", which was closed`);
  }
}

function checkTime(option: string, value: unknown): void {
  if (value === undefined) return;
  const MAX_TIMER = 2_147_483_647; // setTimeout's own
  if (typeof value !== 'number' || !Number.isFinite(value) || value < 0 || value > MAX_TIMER) {
    refuse(option, `a number of ms from 0 to ${MAX_TIMER}`, value);
  }
}

function refuse(option: string, expected: string, value: unknown): never {
  const message = `options.${option} must be ${expected}; it is ${typeof value === 'string' ? `'${value}'` : String(value)}`;
  throw Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}
