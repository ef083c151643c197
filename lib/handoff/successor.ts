/**
 * This process as a generation: how it came to be, when it accepts, and when it is alone. The new side of a handoff, or a cold start.
 * Carries out what the pure machine says: talks over the channel that it inherited, starts and stops accepting, ends the
 * process when its predecessor takes the handoff back. Main thread alone. Source: docs/protocol.md.
 */
import { Deferred } from '../deferred.js';
import { drain } from '../drain/drain.js';
import { FdpassError } from '../errors.js';
import { adopt, assertMainThread, closeUnclaimed } from '../inherit.js';
import { claimPath, openListeners, relinquish, servedServers, startAccepting, stopAccepting } from '../listener.js';
import { notify } from '../notify.js';
import { publish } from '../report.js';
import { commonVersion, type Message, VERSIONS } from './frame.js';
import {
  deliver,
  type FromPredecessor,
  type Mail,
  newSuccessor,
  type Step,
  successor,
  type SuccessorEffect,
  type SuccessorEvent,
  type SuccessorState,
  type SuccessorWish,
  type Wake,
  type SuccessorDeadline,
} from './machine.js';
import { discard, type Wire } from './wire.js';

/** What {@link ready} resolves with. */
export interface Ready {
  /** 1 for a process that was started afresh; counted up at each commit. */
  generation: number;
  /**
   * Resolves when no other generation accepts: start schedulers and take locks then. At once after a cold start. Never rejects: where
   * the predecessor takes the handoff back it stays pending, and this process drains and exits by itself.
   */
  alone: Promise<void>;
}

/** starting: before ready(). leaving: handed over, told to leave, or failed. */
export type GenerationPhase = 'starting' | 'ready' | 'serving' | 'alone' | 'leaving';

/** This process, as one in a row of generations. */
export interface Generation {
  readonly number: number;
  readonly phase: GenerationPhase;
  /** What the predecessor said in `handoff({ state })`. */
  readonly state: unknown;
  ready(): Promise<Ready>;
  /** Resolves when this generation may start a successor; its predecessor is asked to let go at once. */
  whenAlone(): Promise<void>;
  /** This process was asked to stop: a predecessor that still accepts goes on. */
  stop(): void;
}

let generation: Generation | undefined;

/** This process's place in the row. The first call finds what it was born with: errors as `inheritListener`. */
export function thisGeneration(): Generation {
  assertMainThread('A handoff');
  if (generation !== undefined) return generation;
  const { predecessor } = adopt();
  return (generation = predecessor === undefined ? new FirstGeneration() : new NextGeneration(predecessor));
}

/** Closes what nobody claimed, now that nobody else accepts from it either. */
function settle(): void {
  for (const listener of openListeners()) if (listener.origin === 'predecessor') claimPath(listener);
  const listeners = closeUnclaimed();
  if (listeners.length === 0) return;
  publish({ event: 'unclaimed', listeners });
  process.emitWarning(`Inherited, claimed by nobody, and closed: ${listeners.join(', ')}`, {
    code: 'FDPASS_UNCLAIMED',
  });
}

/** Everything that came from the predecessor, which goes on with it. */
function closeInherited(): void {
  stopAccepting();
  for (const listener of openListeners()) {
    if (listener.origin === 'predecessor' || listener.origin === 'systemd') relinquish(listener);
  }
  closeUnclaimed();
}

/** Nobody went before, or somebody who speaks another convention: it accepts as soon as it is ready. */
class FirstGeneration implements Generation {
  readonly number = 1;
  readonly state = undefined;
  phase: GenerationPhase = 'starting';
  #ready: Promise<Ready> | undefined;

  ready(): Promise<Ready> {
    return (this.#ready ??= this.#start());
  }

  async #start(): Promise<Ready> {
    this.phase = 'ready';
    await startAccepting();
    this.phase = 'alone';
    publish({ event: 'generation', phase: 'alone', generation: 1 });
    settle();
    notify({ ready: true });
    return { generation: 1, alone: Promise.resolve() };
  }

  async whenAlone(): Promise<void> {
    await this.#ready;
  }

  stop(): void {
    this.phase = 'leaving';
  }
}

/** The successor of a process that is, or was, there. */
class NextGeneration implements Generation {
  readonly number: number;
  readonly state: unknown;
  readonly #wire: Wire;
  readonly #ready = new Deferred<Ready>();
  readonly #alone = new Deferred<void>();
  #release = new Deferred<void>();
  #machine: SuccessorState = newSuccessor({ birth: 'spawn' });
  #timer: NodeJS.Timeout | undefined;
  /** Set while the servers begin to accept, which takes a turn of the loop: what comes meanwhile waits. */
  #waiting: (() => void)[] | undefined;
  #scheduled = false;
  #readyCalled = false;
  #stopping = false;

  constructor({ wire, offer, state }: { wire: Wire; offer: Extract<Message, { type: 'OFFER' }>; state: unknown }) {
    this.number = offer.generation;
    this.state = state;
    this.#wire = wire;
    wire.listen(() => {
      this.#wake();
    });
    wire.unref(); // until ready() is called, the application's own start keeps the process
    this.#event({ type: 'start' });
    this.#deliver('readable');
    if (commonVersion(offer.versions, VERSIONS) === undefined && !this.#machine.ended) {
      const message =
        `The predecessor (pid ${offer.pid}) speaks versions ${offer.versions.min} to ${offer.versions.max} of the protocol, ` +
        `and this process ${VERSIONS.min} to ${VERSIONS.max}`;
      this.#event({ type: 'failed', code: 'ERR_FDPASS_VERSION', message });
    } else {
      this.#event({ type: 'adopted', probation: offer.probation });
    }
  }

  get phase(): GenerationPhase {
    if (this.#stopping) return 'leaving';
    const { phase } = this.#machine;
    if (phase === 'starting' || phase === 'adopted') return 'starting';
    return phase === 'failed' ? 'leaving' : phase;
  }

  ready(): Promise<Ready> {
    if (!this.#readyCalled) {
      this.#readyCalled = true;
      this.#wire.ref();
      this.#event({ type: 'ready' });
    }
    return this.#ready.promise;
  }

  whenAlone(): Promise<void> {
    if (this.#machine.phase === 'alone') return Promise.resolve();
    this.#event({ type: 'restartRequested' });
    return this.#release.promise;
  }

  stop(): void {
    this.#stopping = true;
    this.#deliver({ event: { type: 'stop' } });
  }

  /** Mail is read outside the loop's poll phase: a descriptor that is closed there could stay registered (libuv before 1.49, io_uring). */
  #wake(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      this.#deliver('readable');
    });
  }

  #deliver(why: Wake<SuccessorDeadline, SuccessorWish>): void {
    this.#serially(() => {
      const mail = this.#wire.closed ? [] : this.#readMail();
      this.#step(deliver(successor, this.#machine, mail, why));
    });
  }

  #event(event: SuccessorEvent): void {
    this.#serially(() => {
      this.#step(successor(this.#machine, event));
    });
  }

  #serially(action: () => void): void {
    if (this.#waiting === undefined) action();
    else this.#waiting.push(action);
  }

  #readMail(): Mail<FromPredecessor>[] {
    const { frames, malformed, ended } = this.#wire.readAll();
    const mail: Mail<FromPredecessor>[] = frames.map((frame) => {
      const { message } = frame;
      discard(frame);
      if (message.type === 'COMMIT' || message.type === 'RELEASED' || message.type === 'ABORT') {
        return { type: 'message', message };
      }
      return { type: 'malformed', why: `The predecessor said ${message.type}, which is not its to say here` };
    });
    if (malformed !== undefined) mail.push({ type: 'malformed', why: malformed });
    if (ended) {
      mail.push({ type: 'ended' });
      this.#wire.close(); // an end stays readable for ever: a watch on it would never rest
    }
    return mail;
  }

  #step({ state, effects }: Step<SuccessorState, SuccessorEffect>): void {
    const before = this.phase;
    this.#machine = state;
    if (this.phase !== before) publish({ event: 'generation', phase: this.phase, generation: this.number });
    this.#carryOut([...effects]);
  }

  #carryOut(effects: SuccessorEffect[]): void {
    let failed = false;
    for (let effect = effects.shift(); effect !== undefined; effect = effects.shift()) {
      if (effect.type === 'accept') {
        void this.#accept(effects);
        break;
      }
      if (effect.type === 'send') failed = !this.#send(effect.message) || failed;
      else this.#do(effect);
    }
    if (failed)
      setImmediate(() => {
        this.#deliver('sendFailed');
      });
  }

  /** SERVING must not be said by one that does not accept: the effects behind this one wait. */
  async #accept(rest: SuccessorEffect[]): Promise<void> {
    this.#waiting = [];
    let failure: FdpassError | undefined;
    try {
      await startAccepting();
    } catch (error) {
      const message = `This process could not start to accept: ${error instanceof Error ? error.message : String(error)}`;
      failure = new FdpassError('ERR_FDPASS_ABORTED', message, { cause: error });
    }
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (failure === undefined) {
      this.#ready.resolve({ generation: this.number, alone: this.#alone.promise });
      this.#wire.unref(); // its servers keep it from here on
      this.#carryOut(rest);
    } else {
      this.#ready.reject(failure);
      this.#event({ type: 'failed', code: failure.code, message: failure.message });
    }
    for (const action of waiting) this.#serially(action);
  }

  #send(message: Extract<SuccessorEffect, { type: 'send' }>['message']): boolean {
    const whole: Message =
      message.type === 'HELLO' ? { type: 'HELLO', versions: VERSIONS, pid: process.pid, features: [] } : message;
    return this.#wire.send(whole);
  }

  #do(effect: Exclude<SuccessorEffect, { type: 'send' | 'accept' }>): void {
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
      case 'alone':
        settle();
        this.#alone.resolve();
        break;
      case 'startSuccessor':
        this.#settleRelease((release) => {
          release.resolve();
        });
        break;
      case 'refuseRestart':
        this.#settleRelease((release) => {
          release.reject(new FdpassError(effect.code, effect.message));
        });
        break;
      case 'closeAll':
        closeInherited();
        this.#wire.close();
        break;
      case 'fail':
        this.#ready.reject(new FdpassError(effect.code, effect.message));
        break;
      case 'stopAccepting':
        closeInherited();
        for (const listener of openListeners()) listener.close(); // bound here: nobody else has them
        this.#wire.close();
        break;
      case 'leave':
        this.#leave(effect.code, effect.message);
        break;
      case 'report':
        publish({ event: 'odd', what: effect.what, generation: this.number });
        break;
    }
  }

  #settleRelease(how: (release: Deferred<void>) => void): void {
    const release = this.#release;
    this.#release = new Deferred();
    how(release);
  }

  /** The predecessor accepts; what this process accepted is finished here. */
  #leave(code: string, message: string): void {
    // `alone` stays pending: a rejection that nobody expects would end the process in the middle of its drain.
    if (this.#stopping) return; // whoever stopped it drains
    process.stderr.write(`fdpass: generation ${this.number} (pid ${process.pid}) leaves: ${message} [${code}]\n`);
    drain(servedServers()).then(
      () => process.exit(0),
      (error: unknown) => {
        process.stderr.write(`fdpass: the drain failed: ${String(error)}\n`);
        process.exit(1);
      },
    );
  }
}
