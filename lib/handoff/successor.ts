/**
 * This process as a generation: how it came to be, when it accepts, and when it is alone. The new side of a handoff, or a cold start.
 * Carries out what the pure machine says: talks over the channel that it inherited, starts and stops accepting, ends the
 * process when its predecessor takes the handoff back. Main thread alone. Source: docs/protocol.md.
 */
import { Deferred } from '../deferred.js';
import { drain } from '../drain/drain.js';
import { FdpassError, type FdpassErrorCode } from '../errors.js';
import { adopt, assertMainThread, beginTakeover, closeUnclaimed, tellParent } from '../inherit.js';
import { claimPath, openListeners, relinquish, servedServers, startAccepting, stopAccepting } from '../listener.js';
import { expect, Receiver } from '../moving/receiver.js';
import { tellForsaken, tellReady } from '../notify/upgrade.js';
import { publish } from '../report.js';
import { type Arrived, Arriving } from './arriving.js';
import { commonVersion, type Frame, type Message, type OfferedTickets, VERSIONS } from './frame.js';
import {
  deliver,
  type FromPredecessor,
  type Mail,
  newSuccessor,
  type Step,
  successor,
  type SuccessorBirth,
  type SuccessorEffect,
  type SuccessorEvent,
  type SuccessorState,
  type SuccessorWish,
  type Wake,
  type SuccessorDeadline,
} from './machine.js';
import { takeTickets } from './tickets.js';
import { discard, TAKES_CONNECTIONS, type Wire } from './wire.js';

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

type Offer = Extract<Message, { type: 'OFFER' }>;

/** This process, as one in a row of generations. */
export interface Generation {
  readonly number: number;
  readonly phase: GenerationPhase;
  /** What the predecessor said in `handoff({ state })`. */
  readonly state: unknown;
  ready(): Promise<Ready>;
  /** Resolves when no other generation accepts, and this one does. */
  readonly alone: Promise<void>;
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
  if (predecessor === undefined) return (generation = new FirstGeneration());
  const next = new NextGeneration(predecessor.wire, 'spawn');
  generation = next;
  next.born(predecessor.offer, predecessor.state);
  return next;
}

/**
 * Takes over from the process at the other end: it becomes this process's predecessor.
 *
 * @param wire - Connected; the other side was looked at. It belongs to the generation from here on.
 * @param signal - Takes it back until the set is complete: ABORT is said, and nothing is left.
 * @returns The generation of this process, when every listener is here.
 * @throws {@link FdpassError} as the predecessor says, or `ERR_FDPASS_NO_PREDECESSOR`: it ended before the set was complete. Nothing is
 * left open then, and this process is as it was.
 */
export async function takeOver(wire: Wire, signal?: AbortSignal): Promise<number> {
  const { adopt: adoptTaken, giveUp } = beginTakeover();
  const next = new NextGeneration(wire, 'takeover');
  generation = next;
  const stop = (): void => {
    next.stop();
  };
  signal?.addEventListener('abort', stop);
  try {
    await next.arrive((arrived) => {
      adoptTaken({ wire, ...arrived });
    });
    return next.number;
  } catch (error) {
    giveUp();
    generation = undefined;
    throw error;
  } finally {
    signal?.removeEventListener('abort', stop);
  }
}

/** Closes what nobody claimed, now that nobody else accepts from it either. */
function settle(): void {
  for (const listener of openListeners()) if (listener.origin === 'predecessor') claimPath(listener);
  const { closed: listeners, forsaken } = closeUnclaimed();
  if (listeners.length === 0) return;
  tellForsaken(forsaken);
  publish({ event: 'unclaimed', listeners });
  process.emitWarning(`Inherited, claimed by nobody, and closed: ${listeners.join(', ')}`, {
    code: 'FDPASS_UNCLAIMED',
  });
}

/** Everything that came from the predecessor, which goes on with it. */
function closeInherited(): void {
  stopAccepting();
  for (const listener of openListeners()) {
    if (['predecessor', 'systemd', 'supervisor'].includes(listener.origin)) relinquish(listener);
  }
  closeUnclaimed();
}

/** Nobody went before, or somebody who speaks another convention: it accepts as soon as it is ready. */
class FirstGeneration implements Generation {
  readonly number = 1;
  readonly state = undefined;
  phase: GenerationPhase = 'starting';
  readonly #alone = new Deferred<void>();
  #ready: Promise<Ready> | undefined;

  get alone(): Promise<void> {
    return this.#alone.promise;
  }

  ready(): Promise<Ready> {
    return (this.#ready ??= this.#start());
  }

  async #start(): Promise<Ready> {
    this.phase = 'ready';
    await startAccepting();
    this.phase = 'alone';
    publish({ event: 'generation', phase: 'alone', generation: 1 });
    settle();
    tellReady();
    tellParent().then(this.#alone.resolve, this.#alone.reject);
    return { generation: 1, alone: this.#alone.promise };
  }

  async whenAlone(): Promise<void> {
    await this.#ready;
  }

  stop(): void {
    this.phase = 'leaving';
  }
}

interface SetOnItsWay {
  set: Arriving;
  adopt: (arrived: Arrived) => void;
  outcome: Deferred<void>;
}

/** The successor of a process that is, or was, there. */
class NextGeneration implements Generation {
  number = 0;
  state: unknown;
  readonly #wire: Wire;
  readonly #ready = new Deferred<Ready>();
  readonly #alone = new Deferred<void>();
  #release = new Deferred<void>();
  #machine: SuccessorState;
  #timer: NodeJS.Timeout | undefined;
  /** Set while the servers begin to accept, which takes a turn of the loop: what comes meanwhile waits. */
  #waiting: (() => void)[] | undefined;
  #scheduled = false;
  #readyCalled = false;
  #stopping = false;
  /** Takes the connections that follow RELEASED, until the channel ends. */
  #receiver: Receiver | undefined;
  #tickets: readonly OfferedTickets[] = [];
  /** Until the set of a takeover is complete. */
  #arriving: SetOnItsWay | undefined;

  constructor(wire: Wire, birth: SuccessorBirth) {
    this.#machine = newSuccessor({ birth });
    this.#wire = wire;
    wire.listen(() => {
      this.#wake();
    });
    wire.unref(); // until ready() is called, the application's own start keeps the process
  }

  /** Says HELLO, and waits for the whole set; `adopt` is called with it before anything that came behind it counts. */
  arrive(adopt: (arrived: Arrived) => void): Promise<void> {
    const outcome = new Deferred<void>();
    this.#arriving = { set: new Arriving(), adopt, outcome };
    this.#wire.ref(); // the application waits for it
    this.#event({ type: 'start' });
    return outcome.promise;
  }

  /** The set is complete, and adopted. */
  born(offer: Offer, state: unknown): void {
    this.number = offer.generation;
    this.state = state;
    this.#tickets = offer.tickets ?? [];
    if (this.#machine.birth === 'spawn') {
      // The set was there before this process was.
      this.#event({ type: 'start' });
      this.#deliver('readable');
    }
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

  get alone(): Promise<void> {
    return this.#alone.promise;
  }

  whenAlone(): Promise<void> {
    if (this.#machine.phase === 'alone') return Promise.resolve();
    this.#event({ type: 'restartRequested' });
    return this.#release.promise;
  }

  stop(): void {
    this.#stopping = true;
    this.#deliver({ event: { type: 'stop' } });
    this.#receiver?.close(); // what has come is finished here, the rest where it is
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
      const { mail, connections } = this.#wire.closed ? { mail: [], connections: [] } : this.#readMail();
      this.#step(deliver(successor, this.#machine, mail, why));
      this.#receive(connections, mail);
    });
  }

  #expectConnections(): void {
    if (this.#wire.closed) return; // it has ended: nothing comes
    this.#receiver = new Receiver(this.#wire);
    expect(this.#receiver);
  }

  /** Connections come behind RELEASED, and only there. */
  #receive(connections: readonly Frame<number>[], mail: readonly Mail<FromPredecessor>[]): void {
    const receiver = this.#receiver;
    for (const frame of connections) {
      if (receiver === undefined) discard(frame);
      else receiver.take(frame);
    }
    if (mail.some(({ type }) => type === 'malformed')) receiver?.close();
    if (mail.some(({ type }) => type === 'ended')) receiver?.ended();
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

  #readMail(): { mail: Mail<FromPredecessor>[]; connections: Frame<number>[] } {
    const { frames, malformed, overflowed, ended } = this.#wire.readAll();
    const rest = this.#arriving === undefined ? frames : this.#arrived(this.#arriving, frames);
    const connections: Frame<number>[] = [];
    let isReleased = this.#receiver !== undefined;
    const mail = rest.flatMap((frame): Mail<FromPredecessor>[] => {
      const { message } = frame;
      isReleased ||= message.type === 'RELEASED';
      if (message.type === 'CONNECTION' && isReleased) {
        connections.push(frame);
        return [];
      }
      discard(frame);
      if (message.type === 'COMMIT' || message.type === 'RELEASED' || message.type === 'ABORT') {
        return [{ type: 'message', message }];
      }
      return [{ type: 'malformed', why: `The predecessor said ${message.type}, which is not its to say here` }];
    });
    if (overflowed && this.#arriving !== undefined) {
      const count = this.#arriving.set.expected ?? 'unknown';
      const message = `The set of the predecessor (listeners: ${count}) does not fit into this process: ${malformed}`;
      this.#event({ type: 'failed', code: 'ERR_FDPASS_LIMIT', message });
    }
    if (malformed !== undefined) mail.push({ type: 'malformed', why: malformed });
    if (ended) {
      mail.push({ type: 'ended' });
      this.#wire.close(); // an end stays readable for ever: a watch on it would never rest
    }
    return { mail, connections };
  }

  /** Takes what belongs to the set of a takeover out of what has come. */
  #arrived(arriving: SetOnItsWay, frames: readonly Frame<number>[]): Frame<number>[] {
    const { set, adopt, outcome } = arriving;
    const rest: Frame<number>[] = [];
    try {
      for (const frame of frames) {
        const answer = rest.length > 0 ? false : set.take(frame);
        if (answer === false) rest.push(frame);
        else if (answer !== undefined) this.#wire.send(answer); // an end shows when the channel is read
      }
      const { complete } = set;
      // ABORT voids what came before it: a set that is taken back is never adopted.
      if (complete === undefined || rest.some(({ message }) => message.type === 'ABORT')) return rest;
      adopt(complete);
      this.#arriving = undefined;
      this.#wire.unref();
      this.born(complete.offer, complete.state);
      outcome.resolve();
      return rest;
    } catch (error) {
      for (const frame of frames) discard(frame);
      const code = error instanceof FdpassError ? error.code : 'ERR_FDPASS_PROTOCOL';
      this.#event({ type: 'failed', code, message: error instanceof Error ? error.message : String(error) });
      return [];
    }
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
      takeTickets(this.#tickets, openListeners());
      await startAccepting();
    } catch (error) {
      const message = `This process could not start to accept: ${error instanceof Error ? error.message : String(error)}`;
      failure = new FdpassError('ERR_FDPASS_ABORTED', message, { cause: error });
    }
    const waiting = this.#waiting;
    this.#waiting = undefined;
    if (failure === undefined) {
      this.#ready.resolve({ generation: this.number, alone: this.#alone.promise });
      // Whoever started this process knows nothing of the old one, and waits; of a child the old one speaks itself (MAINPID=).
      if (this.#machine.birth === 'takeover') tellReady();
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
      message.type === 'HELLO'
        ? { type: 'HELLO', versions: VERSIONS, pid: process.pid, features: [TAKES_CONNECTIONS] }
        : message;
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
        this.#expectConnections();
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
        if (this.#arriving === undefined) closeInherited();
        else this.#arriving.set.close();
        this.#wire.close();
        break;
      case 'fail':
        this.#fail(effect.code, effect.message, effect.ended);
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

  #fail(code: FdpassErrorCode, message: string, ended: boolean): void {
    this.#ready.reject(new FdpassError(code, message));
    // Whoever owned the addresses is gone: a start afresh may be right.
    this.#arriving?.outcome.reject(new FdpassError(ended ? 'ERR_FDPASS_NO_PREDECESSOR' : code, message));
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
