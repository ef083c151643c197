/**
 * One handoff on the old side, whatever its birth: carries out what the pure machine says until the successor has taken over, or is
 * given up. Talks over the channel, closes the listeners that were handed over, keeps the deadlines. How the successor came to be, and
 * how it is ended, is its Candidate's business (predecessor.ts, takeover.ts). Main thread alone. Source: docs/protocol.md.
 */
import { setTimeout as delay } from 'node:timers/promises';

import { Deferred } from '../deferred.js';
import { FdpassError, type FdpassErrorCode, HandoffError, type HandoffPhase, type SuccessorFacts } from '../errors.js';
import { lendPath, type Listener, openListeners, relinquish, stopAccepting } from '../listener.js';
import { tellFailed } from '../notify/upgrade.js';
import { publish } from '../report.js';
import { commonVersion, type Frame, type Message, VERSIONS } from './frame.js';
import {
  deliver,
  type FromSuccessor,
  type Mail,
  newPredecessor,
  predecessor,
  type PredecessorBirth,
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
import { thisGeneration } from './successor.js';
import { discard, entrust, type Successor, TAKES_CONNECTIONS, type Wire } from './wire.js';

export type { Successor } from './wire.js';

/** What a handoff carries, and how long it waits: common to every birth. */
export interface TransactionOptions {
  /** Default: all that are open. Those that are not handed over stay open here. */
  listeners?: readonly Listener[] | undefined;
  /** ms until the successor must be ready. Default 30 000. */
  readyTimeout?: number | undefined;
  /** ms that it must serve before this process lets go. Default 1 000. */
  probation?: number | undefined;
  /** Takes the handoff back: ERR_FDPASS_ABORTED, and this process goes on. */
  signal?: AbortSignal | undefined;
}

/** What there is to hand over, and who asks to be woken. */
export interface Offering {
  readonly listeners: readonly Listener[];
  /** Of the successor. */
  readonly generation: number;
  /** ms. */
  readonly probation: number;
  /** Something may have come: channel and candidate are read soon. */
  wake: () => void;
  /** The candidate without a channel accepts, as far as can be known. */
  accepting: () => void;
  /** This side cannot go on. */
  cancel: (code: FdpassErrorCode, message: string) => void;
}

/** The process that is to become the successor, and how it is reached. Owns what it takes to reach it. */
export interface Candidate {
  readonly birth: PredecessorBirth;
  readonly pid: number | undefined;
  /** The channel; undefined for one that has none. */
  readonly wire: Wire | undefined;
  readonly facts: SuccessorFacts;
  /** Starts the successor, or the dialog with it; what fails leaves nothing behind. */
  begin(offering: Offering): void;
  /** A frame of the dialog that is this birth's own. True: it was; a string: it was, and says what is wrong with it. */
  take(frame: Frame<number>): boolean | string;
  /** HELLO has come, from this process; `compatible`: the two share a version. */
  hello(pid: number, compatible: boolean): void;
  hasEnded(): boolean;
  /** Resolves when its status is known, or cannot be. */
  readonly gone: Promise<unknown>;
  terminate(termAfter: number, killAfter: number): void;
  kill(): void;
  /** The listeners here are closed; RELEASED is said when this resolves, at once where it is undefined. Does not reject. */
  released(): Promise<void> | undefined;
  /** It has taken over, and goes on without this process. */
  succeeded(generation: number): Successor;
  /** Nothing is waited for any more but its end. */
  end(): void;
  /** Closes everything but the channel. */
  close(): void;
}

/** How long a handoff that failed waits for the exit status of a successor that has ended, ms. */
const STATUS_WAIT = 1_000;

let current: Transaction | undefined;
let done: Successor | undefined;
let aftermath: Promise<void> = Promise.resolve();

/** The handoff that is under way, if any. */
export function currentTransaction(): Transaction | undefined {
  return current;
}

/** The successor that has taken over, if any. */
export function takenOver(): Successor | undefined {
  return done;
}

/**
 * This process was asked to stop: the handoff that is under way is taken back, or brought to its end where the newcomer cannot be
 * (takeover, at most 5 s until its READY). Resolves when no handoff is under way any more.
 */
export async function stopHandoff(): Promise<void> {
  const transaction = current;
  if (transaction === undefined) return;
  transaction.wish({ type: 'stop' });
  await transaction.promise.catch(() => undefined); // whoever began it hears why it failed
}

/** Why no handoff can begin here; undefined: one can, as soon as nobody else is at it. */
export function refusalToBegin(): HandoffError | undefined {
  const generation = thisGeneration();
  if (done !== undefined)
    return refusal('ERR_FDPASS_SUPERSEDED', `The successor (pid ${done.pid}) has taken over already`);
  if (generation.phase === 'leaving')
    return refusal('ERR_FDPASS_ABORTED', 'This process leaves: it starts no successor');
  if (generation.phase === 'starting')
    return refusal(
      'ERR_FDPASS_NOT_READY',
      'A handoff needs a process that serves: call ready() first, and wait for it',
    );
  return undefined;
}

/** A handoff that did not begin. */
export function refusal(code: FdpassErrorCode, message: string): HandoffError {
  return new HandoffError(code, message, {
    phase: 'serving',
    successor: { pid: undefined, exitCode: null, signal: null },
  });
}

/** Begins a handoff. One at a time: the caller has looked at {@link currentTransaction}. */
export async function transact(candidate: Candidate, options: TransactionOptions): Promise<Successor> {
  const transaction = new Transaction(candidate, options);
  current = transaction;
  try {
    done = await transaction.promise;
    return done;
  } finally {
    if (current === transaction) current = undefined;
  }
}

/** One handoff, from the request to its end. */
export class Transaction {
  readonly #outcome = new Deferred<Successor>();
  readonly #candidate: Candidate;
  readonly #options: TransactionOptions;
  readonly #generation = thisGeneration().number + 1;
  #machine: PredecessorState;
  #listeners: readonly Listener[] = [];
  #takeBack: (() => void)[] = [];
  #timer: NodeJS.Timeout | undefined;
  #scheduled = false;
  /** Set while the service manager is told that it is the successor's turn: what comes meanwhile waits. */
  #waiting: (() => void)[] | undefined;
  #begun = false;
  /** The channel is another's: connections go over it. */
  #isEntrusted = false;
  #takesConnections = false;
  /** Resolves when nothing is left of the candidate, or it has taken over. */
  readonly #cleared = new Deferred<void>();

  constructor(candidate: Candidate, options: TransactionOptions) {
    this.#candidate = candidate;
    this.#options = options;
    const { readyTimeout = READY_TIMEOUT, probation = PROBATION } = options;
    this.#machine = newPredecessor({ birth: candidate.birth, readyTimeout, probation });
    this.#start().catch((error: unknown) => {
      tellFailed(error instanceof Error ? error.message : String(error));
      this.#releaseAll();
      this.#outcome.reject(error);
    });
  }

  get promise(): Promise<Successor> {
    return this.#outcome.promise;
  }

  get pid(): number | undefined {
    return this.#candidate.pid;
  }

  /** Somebody wants the handoff to end: what the successor has said already comes first. */
  wish(event: PredecessorWish): void {
    if (this.#begun) this.#deliver({ event });
    else if (event.type === 'stop')
      this.#outcome.reject(refusal('ERR_FDPASS_ABORTED', 'This process was asked to stop'));
  }

  #event(event: PredecessorEvent): void {
    this.#serially(() => {
      this.#step(predecessor(this.#machine, event));
    });
  }

  /** What comes while an effect takes its time waits behind it. */
  #serially(action: () => void): void {
    if (this.#waiting === undefined) action();
    else this.#waiting.push(action);
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
    this.#begun = true;
    this.#candidate.begin({
      listeners: this.#listeners,
      generation: this.#generation,
      probation: this.#machine.probation,
      wake: () => {
        this.#wake();
      },
      accepting: () => {
        this.#event({ type: 'accepting' });
      },
      cancel: (code, message) => {
        this.wish({ type: 'cancel', code, message });
      },
    });
    this.#candidate.wire?.listen(() => {
      this.#wake();
    });
    this.#takeBack = this.#listeners.map(lendPath);
    signal?.addEventListener('abort', this.#abort);
    process.on('exit', this.#exit);
    this.#event({ type: 'start' });
    this.#wake(); // a newcomer has said HELLO already
  }

  readonly #abort = (): void => {
    const reason: unknown = this.#options.signal?.reason;
    const message = `the caller took it back (${reason instanceof Error ? reason.message : String(reason)})`;
    this.wish({ type: 'cancel', code: 'ERR_FDPASS_ABORTED', message });
  };

  readonly #exit = (code: number): void => {
    if (code === 0) this.wish({ type: 'exit' }); // after a crash the successor goes on instead
  };

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
    this.#serially(() => {
      const mail = this.#readMail();
      this.#step(deliver(predecessor, this.#machine, mail, why));
      const ended = mail.some((item) => item.type === 'ended');
      if (!ended || this.#machine.phase !== 'released') return;
      this.#serially(() => {
        this.#releaseAll();
      });
    });
  }

  /** All that channel and candidate hold. */
  #readMail(): Mail<FromSuccessor>[] {
    const mail: Mail<FromSuccessor>[] = [];
    const nothing = { frames: [], malformed: undefined, ended: false };
    const { frames, malformed, ended } = (this.#isEntrusted ? undefined : this.#candidate.wire?.readAll()) ?? nothing;
    for (const frame of frames) mail.push(...this.#readFrame(frame));
    if (malformed !== undefined) mail.push({ type: 'malformed', why: malformed });
    if (ended || this.#candidate.hasEnded()) mail.push({ type: 'ended' });
    return mail;
  }

  #readFrame(frame: Frame<number>): Mail<FromSuccessor>[] {
    const taken = this.#candidate.take(frame);
    discard(frame); // nothing that carries descriptors comes this way
    if (taken === true) return [];
    if (typeof taken === 'string') return [{ type: 'malformed', why: taken }];
    const { message } = frame;
    switch (message.type) {
      case 'HELLO':
        return [{ type: 'message', message: { type: 'HELLO', compatible: this.#greet(message) } }];
      case 'READY':
      case 'SERVING':
      case 'RELEASE':
      case 'ABORT':
        return [{ type: 'message', message }];
      default:
        return [{ type: 'malformed', why: `The successor said ${message.type}, which is not its to say here` }];
    }
  }

  #greet({ pid, versions, features }: Extract<Message, { type: 'HELLO' }>): boolean {
    this.#takesConnections = features.includes(TAKES_CONNECTIONS);
    const compatible = commonVersion(versions, VERSIONS) !== undefined;
    this.#candidate.hello(pid, compatible);
    return compatible;
  }

  #step({ state, effects }: Step<PredecessorState, PredecessorEffect>): void {
    const { phase } = this.#machine;
    this.#machine = state;
    this.#carryOut([...effects], () => {
      if (state.phase === phase || state.over) return;
      publish({ event: 'handoff', phase: state.phase, successor: this.pid, generation: this.#generation });
    });
  }

  #carryOut(effects: PredecessorEffect[], done: () => void): void {
    let failed = false;
    for (let effect = effects.shift(); effect !== undefined; effect = effects.shift()) {
      if (effect.type === 'send') failed = this.#candidate.wire?.send(effect.message) === false || failed;
      else if (effect.type !== 'closeListeners') this.#do(effect);
      else {
        const released = this.#closeListeners();
        if (released === undefined) continue;
        // The machine sees what it would see were this process frozen here: its listeners are closed, and RELEASED not said.
        this.#waiting = [];
        void released.then(() => {
          const waiting = this.#waiting ?? [];
          this.#waiting = undefined;
          this.#carryOut(effects, done);
          for (const action of waiting) this.#serially(action);
        });
        return;
      }
    }
    done();
    if (failed)
      setImmediate(() => {
        this.#deliver('sendFailed');
      });
  }

  /** Undefined: there is nobody to be told of it. */
  #closeListeners(): Promise<void> | undefined {
    stopAccepting();
    for (const listener of this.#listeners) relinquish(listener);
    return this.#candidate.released();
  }

  #do(effect: Exclude<PredecessorEffect, { type: 'send' | 'closeListeners' }>): void {
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
      case 'terminate':
        this.#candidate.terminate(effect.termAfter, effect.killAfter);
        break;
      case 'kill':
        this.#candidate.kill();
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

  async #fail(code: FdpassErrorCode, message: string, phase: HandoffPhase): Promise<void> {
    this.#end();
    for (const takeBack of this.#takeBack) takeBack(); // the successor has let go of the Unix paths, or never had them
    if (code !== 'ERR_FDPASS_ABORTED') {
      const hasEnded = !this.#machine.remains;
      await Promise.race([this.#candidate.gone, delay(hasEnded ? STATUS_WAIT : 0, undefined, { ref: false })]);
    }
    const successor = this.#candidate.facts;
    const text = `${describeFailure(code, message, successor)}; this process goes on accepting`;
    publish({ event: 'failed', code, message: text, phase, successor });
    tellFailed(text);
    this.#outcome.reject(new HandoffError(code, text, { phase, successor }));
  }

  #succeed(): void {
    this.#end();
    const successor = this.#candidate.succeeded(this.#generation);
    const { wire } = this.#candidate;
    wire?.unref(); // open until its end: connections can go this way
    if (wire !== undefined && this.#takesConnections) {
      this.#isEntrusted = true;
      entrust(successor, wire);
    }
    this.#outcome.resolve(successor);
  }

  /** Nothing is waited for any more, except the end of what may be left of the successor. */
  #end(): void {
    this.#options.signal?.removeEventListener('abort', this.#abort);
    process.off('exit', this.#exit);
    this.#candidate.end();
  }

  #releaseAll(): void {
    clearTimeout(this.#timer);
    this.#end();
    if (!this.#isEntrusted) this.#candidate.wire?.close();
    this.#candidate.close();
    this.#cleared.resolve();
  }
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
