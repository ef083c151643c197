/**
 * The two sides of a handoff as pure functions: (state, event) -> { state, effects }. Source: docs/protocol.md.
 * Plain data in and out: no clock, no I/O, no descriptor. predecessor.ts and successor.ts carry the effects out;
 * test/handoff/explorer.ts walks every interleaving of these very functions.
 *
 * How a driver uses it:
 * 1. One state a transaction: `newPredecessor(options)` or `newSuccessor(options)`, then the event `start`.
 * 2. The events adopted, ready, accepting, restartRequested and failed go to the reducer at once.
 * 3. All else goes through {@link deliver}. Whatever wakes the driver (the channel or the pidfd is readable, a deadline fires,
 *    a send fails with EPIPE, or somebody wants the handoff to end: cancel, supersede, stop, exit), it first reads ALL that
 *    channel and pidfd hold at that moment into one list, and hands over the whole list with the reason. The end of the peer
 *    (EOF, ECONNRESET, pidfd) is the entry `ended`.
 * 4. Effects are carried out in order and synchronously. A send that fails does not stop the list; after the list the driver
 *    reads everything again and calls `deliver(..., 'sendFailed')`. If `accept` throws, the rest of the list is dropped and
 *    the event `failed` follows: SERVING must not be said by one that does not accept. Where `accept` takes a while, all else
 *    waits behind it, as it would if the process were frozen in the middle of the step.
 */
import type { FdpassErrorCode } from '../errors.js';

// ---- Deadlines -----------------------------------------------------------------------------------------------------

/** READY not said this long after the start: the old side gives up. Default of `readyTimeout`, ms. */
export const READY_TIMEOUT = 30_000;
/** Old side: no SERVING this long after COMMIT. New side: no COMMIT this long after READY. ms. */
export const COMMIT_TIMEOUT = 5_000;
/** How long the new side accepts before it says RELEASE. Default of `probation`, ms. */
export const PROBATION = 1_000;
/** The old side gives up when no RELEASE came this long after the probation should have been over. ms. */
export const RELEASE_MARGIN = 5_000;
/** New side: RELEASED not heard this long after RELEASE: whoever waits for it is told so, and the wait begins again. ms. */
export const RELEASED_TIMEOUT = 5_000;
/** New side, takeover: the set is not complete this long after HELLO. ms. */
export const ADOPT_TIMEOUT = 5_000;
/** Old side, takeover, and asked to stop itself: how long it still waits for READY. ms. */
export const STOPPING_READY_TIMEOUT = 5_000;
/** Old side: an aborted successor that gave no sign (EOF, exit) of having let go after this long is killed. ms. */
export const GONE_TIMEOUT = 5_000;
/** An aborted successor that may have accepted connections: how long after the ABORT it may finish them before TERM. ms. */
export const FINISH_TIMEOUT = 35_000;
/** From TERM to KILL. ms. */
export const KILL_AFTER = 5_000;

export type PredecessorDeadline = 'ready' | 'commit' | 'release' | 'probation' | 'gone';
export type SuccessorDeadline = 'adopt' | 'commit' | 'probation' | 'released';

// ---- What travels (the machines' view; the whole payloads stand in frame.ts) ------------------------------------------

export type FromSuccessor =
  | { type: 'HELLO'; compatible: boolean } // compatible: the two ranges of versions meet
  | { type: 'READY' }
  | { type: 'SERVING'; split: boolean } // split: it accepted without having heard COMMIT
  | { type: 'RELEASE' }
  | { type: 'ABORT'; code: string; message: string };

export type FromPredecessor =
  { type: 'COMMIT'; probation: number } | { type: 'RELEASED' } | { type: 'ABORT'; code: string; message: string };

/**
 * What channel and pidfd hold. `malformed`: bytes that are no frame, or a frame that cannot come this way; `dying` is set by
 * {@link deliver} when the peer's end stands behind it. `ended`: EOF, ECONNRESET or the pidfd, in the middle of a frame too.
 */
export type Mail<Message> =
  { type: 'message'; message: Message } | { type: 'malformed'; why: string; dying?: boolean } | { type: 'ended' };

// ---- The old side ----------------------------------------------------------------------------------------------------

/**
 * How the successor came to be: started by this process with a channel, or without one (a program that is not fdpass:
 * sd_notify, first connection or a time say when it accepts), or by itself, over the takeover path.
 */
export type PredecessorBirth = 'spawn' | 'foreign' | 'takeover';

export type PredecessorPhase = 'serving' | 'offered' | 'committing' | 'probation' | 'released';

export interface PredecessorState {
  readonly phase: PredecessorPhase;
  readonly birth: PredecessorBirth;
  /** ms. */
  readonly readyTimeout: number;
  /** ms. */
  readonly probation: number;
  /** HELLO has come. */
  readonly hello: boolean;
  /** This process was asked to stop and waits for a newcomer that may take its place (takeover). */
  readonly stopping: boolean;
  /** The transaction failed: `phase` is serving again, for good. Whatever still comes is dropped. */
  readonly over: boolean;
  /** `over`, and the aborted successor may still hold the listeners: no new handoff before the effect `clear`. */
  readonly remains: boolean;
  /** It was sent SIGKILL for not reacting. */
  readonly killed: boolean;
  readonly deadline: PredecessorDeadline | null;
}

export type PredecessorEvent =
  /** The successor runs (spawn: OFFER written before the exec; takeover: the newcomer is connected and its HELLO is awaited). */
  | { type: 'start' }
  | Mail<FromSuccessor>
  /** A successor without a channel accepts, as far as can be known (birth 'foreign'). */
  | { type: 'accepting' }
  | { type: 'deadline'; deadline: PredecessorDeadline }
  /** A send failed with EPIPE or ECONNRESET. Only {@link deliver} makes this event. */
  | { type: 'sendFailed' }
  /** The caller gives up (AbortSignal), or this side cannot go on (EMFILE, ETOOMANYREFS): before `released`, in any phase. */
  | { type: 'cancel'; code: FdpassErrorCode; message: string }
  /** Another request takes this one's place: heeded before READY only, ignored after. */
  | { type: 'supersede' }
  /** This process was asked to stop (SIGTERM). spawn, foreign: the handoff is given up. takeover: it goes on, within a bound. */
  | { type: 'stop' }
  /** This process exits by its own will, code 0: ABORT must be said in this very tick. */
  | { type: 'exit' };

/** Events of people. They go through {@link deliver}. */
export type PredecessorWish = Extract<PredecessorEvent, { type: 'cancel' | 'supersede' | 'stop' | 'exit' }>;

export type PredecessorEffect =
  | { type: 'send'; message: FromPredecessor }
  | { type: 'arm'; deadline: PredecessorDeadline; ms: number } // replaces the one that is armed
  | { type: 'disarm' }
  /** Stop accepting and close every listener that was handed over; Unix paths stay. Always before RELEASED. */
  | { type: 'closeListeners' }
  /**
   * A spawned successor that failed or was aborted: SIGTERM after `termAfter` ms (0: now), SIGKILL `killAfter` ms later;
   * nothing once it is reaped. `gently`: it may have accepted connections, and finishes them first.
   */
  | { type: 'terminate'; gently: boolean; termAfter: number; killAfter: number }
  /** SIGKILL now: it did not react to ABORT. */
  | { type: 'kill' }
  /** The handoff failed; this process accepts as before. `phase`: how far it had come. */
  | { type: 'fail'; code: FdpassErrorCode; message: string; phase: PredecessorPhase }
  /** The failed successor no longer holds the listeners: the next handoff may start. Close the channel and forget it. */
  | { type: 'clear' }
  /** The handoff is done: the successor is alone. Keep the channel for CONNECTION until the drain is over. */
  | { type: 'succeed' };

// ---- The new side ----------------------------------------------------------------------------------------------------

export type SuccessorBirth = 'spawn' | 'takeover';

/**
 * failed: ended before it accepted, nothing is left open. leaving: aborted or stopped after it accepted: no longer accepts,
 * finishes what it has, exits 0.
 */
export type SuccessorPhase = 'starting' | 'adopted' | 'ready' | 'serving' | 'alone' | 'failed' | 'leaving';

export interface SuccessorState {
  readonly phase: SuccessorPhase;
  readonly birth: SuccessorBirth;
  /** ms; from OFFER until COMMIT names it. */
  readonly probation: number;
  /** The application called ready() before the set was complete. */
  readonly readyWanted: boolean;
  /** The old one ended (or closed) before ready(): promote as soon as the application is ready. */
  readonly ended: boolean;
  /** It accepted without a COMMIT, and none has come since. */
  readonly split: boolean;
  /** RELEASE was said. */
  readonly released: boolean;
  /** A restart of this generation was asked for, and waits until it is alone. */
  readonly restart: boolean;
  /** RELEASED is overdue, and that was reported. */
  readonly overdue: boolean;
  /** The channel brought garbage after RELEASE: nothing more is read, only the end of the old one counts. */
  readonly deaf: boolean;
  readonly deadline: SuccessorDeadline | null;
}

export type SuccessorEvent =
  | { type: 'start' }
  /** OFFER was read and every descriptor verified: the set is complete. */
  | { type: 'adopted'; probation: number }
  /** The application called ready(). */
  | { type: 'ready' }
  | Mail<FromPredecessor>
  | { type: 'deadline'; deadline: SuccessorDeadline }
  | { type: 'sendFailed' }
  /** A restart of this generation is asked for: it starts a successor of its own once it is alone. */
  | { type: 'restartRequested' }
  /** The application failed, a descriptor is not what OFFER says, the versions do not meet, `accept` threw. */
  | { type: 'failed'; code: FdpassErrorCode; message: string }
  /** This process was asked to stop (SIGTERM), or exits. */
  | { type: 'stop' };

/** Events of people. They go through {@link deliver}. */
export type SuccessorWish = Extract<SuccessorEvent, { type: 'stop' }>;

export type SuccessorEffect =
  | { type: 'send'; message: { type: 'HELLO' } | Exclude<FromSuccessor, { type: 'HELLO' }> }
  | { type: 'arm'; deadline: SuccessorDeadline; ms: number }
  | { type: 'disarm' }
  /** Everything served starts to accept, now; ready() resolves. If it throws: see the head of this file. */
  | { type: 'accept' }
  /** The old one has let go or ended: Unix paths, pid file and MAINPID are ours; unclaimed listeners are closed; `alone` resolves. */
  | { type: 'alone' }
  /** Start the successor that was asked for: this generation is alone. */
  | { type: 'startSuccessor' }
  /** The restart that was asked for cannot be had now: the old one does not let go. */
  | { type: 'refuseRestart'; code: FdpassErrorCode; message: string }
  /** Never accepted: close every descriptor of the transaction, the channel last. */
  | { type: 'closeAll' }
  /** ready() rejects. `ended`: the old one was gone before the set was complete, a cold start may be right. */
  | { type: 'fail'; code: FdpassErrorCode; message: string; phase: SuccessorPhase; ended: boolean }
  /** Stop accepting and close the listeners, then the channel. */
  | { type: 'stopAccepting' }
  /** Finish what was accepted, then exit 0. */
  | { type: 'leave'; code: string; message: string }
  /** For the report and for diagnostics_channel. */
  | { type: 'report'; what: 'split' | 'lateCommit' | 'notReleased' | 'garbage' };

// ---- Functions ---------------------------------------------------------------------------------------------------------

export interface Step<State, Effect> {
  readonly state: State;
  readonly effects: readonly Effect[];
}

/** What woke the driver. `event`: a wish of the caller, the operator or the application. */
export type Wake<Deadline, Event = never> = 'readable' | 'sendFailed' | { deadline: Deadline } | { event: Event };

/** The state before `start`. One for each transaction; it holds no clock: `ms` only travel into the effects. */
export function newPredecessor(options: {
  birth: PredecessorBirth;
  /** ms, default {@link READY_TIMEOUT}. */
  readyTimeout?: number;
  /** ms, default {@link PROBATION}. */
  probation?: number;
}): PredecessorState {
  const { birth, readyTimeout = READY_TIMEOUT, probation = PROBATION } = options;
  return {
    phase: 'serving',
    birth,
    readyTimeout,
    probation,
    hello: false,
    stopping: false,
    over: false,
    remains: false,
    killed: false,
    deadline: null,
  };
}

/** The state before `start`, in the process that takes over. */
export function newSuccessor(options: { birth: SuccessorBirth }): SuccessorState {
  return {
    phase: 'starting',
    birth: options.birth,
    probation: PROBATION,
    readyWanted: false,
    ended: false,
    split: false,
    released: false,
    restart: false,
    overdue: false,
    deaf: false,
    deadline: null,
  };
}

/**
 * Reads what has come, in the light of what stands behind it, and only then judges why the driver woke: a deadline, and a
 * wish, meet the state that the mail leaves, so that what was said in time counts even where the timer came first (after
 * SIGCONT, a long collection, a synchronous second). Both drivers and the explorer go through here.
 *
 * @param mail - ALL that channel and pidfd hold now, in order.
 */
export function deliver<State, Message extends { type: string }, Deadline, Effect, Event = never>(
  machine: (state: State, event: Delivered<Message, Deadline> | Event) => Step<State, Effect>,
  state: State,
  mail: readonly Mail<Message>[],
  why: Wake<Deadline, Event>,
): Step<State, Effect> {
  const effects: Effect[] = [];
  const events: (Delivered<Message, Deadline> | Event)[] = standing(mail);
  if (why === 'sendFailed') events.push({ type: 'sendFailed' });
  else if (why !== 'readable') events.push('event' in why ? why.event : { type: 'deadline', deadline: why.deadline });
  for (const event of events) {
    const step = machine(state, event);
    state = step.state;
    effects.push(...step.effects);
  }
  return { state, effects };
}

type Delivered<Message, Deadline> = Mail<Message> | { type: 'deadline'; deadline: Deadline } | { type: 'sendFailed' };

/**
 * What still stands of a list of mail:
 * - The end comes last, wherever the pidfd put it: what the dead one said before is in the channel.
 * - ABORT is final for its sender. What it said before and nobody has read is void (a COMMIT that is taken back is never
 *   acted on), but for RELEASED: listeners that are closed stay closed. What it says after is dropped.
 * - After garbage nothing can be read but the end.
 * - RELEASE must be the last word: with anything behind it, the end above all, it is no proof that somebody accepts.
 */
function standing<Message extends { type: string }>(mail: readonly Mail<Message>[]): Mail<Message>[] {
  const dead = mail.some((item) => item.type === 'ended');
  let heard: Mail<Message>[] = [];
  for (const item of mail) {
    if (item.type === 'ended') continue;
    if (isMessage(item, 'ABORT')) heard = heard.filter((earlier) => isMessage(earlier, 'RELEASED'));
    heard.push(item.type === 'malformed' && dead ? { ...item, dying: true } : item);
    if (item.type === 'malformed' || isMessage(item, 'ABORT')) break;
  }
  if (dead) heard.push({ type: 'ended' });
  return heard.filter((item, index) => !isMessage(item, 'RELEASE') || index === heard.length - 1);
}

function isMessage<Message extends { type: string }>(item: Mail<Message>, type: string): boolean {
  return item.type === 'message' && item.message.type === type;
}

// ---- The old side: serving -> offered -> committing -> probation -> released ---------------------------------------------

/** One step of the old side. Total: every event has a meaning in every state. It accepts in every phase but `released`. */
export function predecessor(
  state: PredecessorState,
  event: PredecessorEvent,
): Step<PredecessorState, PredecessorEffect> {
  if (state.over) return clearing(state, event);
  switch (state.phase) {
    case 'serving':
      if (event.type !== 'start') return stay(state);
      return enter(state, 'offered', 'ready', state.readyTimeout);
    case 'offered':
    case 'committing':
    case 'probation':
      return inHandoff(state, state.phase, event);
    case 'released':
      return stay(state); // done: the end of the new one, its ABORT, our own signals change nothing here any more
    default:
      return never(state.phase);
  }
}

function inHandoff(
  state: PredecessorState,
  phase: 'offered' | 'committing' | 'probation',
  event: PredecessorEvent,
): Step<PredecessorState, PredecessorEffect> {
  switch (event.type) {
    case 'start':
      return stay(state);
    case 'message':
      return heardFromSuccessor(state, phase, event.message);
    case 'malformed':
      return giveUp(state, 'ERR_FDPASS_PROTOCOL', event.why);
    case 'ended':
    case 'sendFailed':
      return phase === 'probation'
        ? giveUp(state, 'ERR_FDPASS_PROBATION', 'it ended during its probation', 'ended')
        : giveUp(state, 'ERR_FDPASS_SUCCESSOR_EXITED', 'it ended before it was serving', 'ended');
    case 'accepting':
      if (state.birth !== 'foreign' || phase !== 'offered') return stay(state);
      return enter(state, 'probation', 'probation', state.probation);
    case 'deadline':
      if (event.deadline !== state.deadline) return stay(state); // it was disarmed while it fired
      switch (event.deadline) {
        case 'ready':
          return giveUp(state, 'ERR_FDPASS_READY_TIMEOUT', 'it was not ready in time');
        case 'commit':
          return giveUp(state, 'ERR_FDPASS_COMMIT_TIMEOUT', 'it was told to accept and did not answer in time');
        case 'release':
          return giveUp(state, 'ERR_FDPASS_PROBATION', 'it fell silent during its probation');
        case 'probation':
          return release(state); // without a channel the clock ends the probation
        case 'gone':
          return stay(state);
        default:
          return never(event.deadline);
      }
    case 'cancel':
      return giveUp(state, event.code, event.message);
    case 'supersede':
      if (phase !== 'offered') return stay(state);
      return giveUp(state, 'ERR_FDPASS_SUPERSEDED', 'another handoff takes its place');
    case 'stop':
      if (state.birth !== 'takeover') return giveUp(state, 'ERR_FDPASS_ABORTED', 'the predecessor was asked to stop');
      if (phase !== 'offered' || state.stopping) return stay({ ...state, stopping: true });
      return enter({ ...state, stopping: true }, 'offered', 'ready', STOPPING_READY_TIMEOUT);
    case 'exit':
      return giveUp(state, 'ERR_FDPASS_ABORTED', 'the predecessor exits');
    default:
      return never(event);
  }
}

function heardFromSuccessor(
  state: PredecessorState,
  phase: 'offered' | 'committing' | 'probation',
  message: FromSuccessor,
): Step<PredecessorState, PredecessorEffect> {
  switch (message.type) {
    case 'HELLO':
      if (phase !== 'offered' || state.hello) break;
      if (message.compatible) return stay({ ...state, hello: true });
      return giveUp(state, 'ERR_FDPASS_VERSION', 'the two sides share no version of the protocol');
    case 'READY': {
      if (phase !== 'offered' || !state.hello) break;
      const { state: committing, effects } = enter(state, 'committing', 'commit', COMMIT_TIMEOUT);
      return {
        state: committing,
        effects: [{ type: 'send', message: { type: 'COMMIT', probation: state.probation } }, ...effects],
      };
    }
    case 'SERVING':
      if (phase !== 'committing') break;
      return enter(state, 'probation', 'release', state.probation + RELEASE_MARGIN);
    case 'RELEASE':
      if (phase !== 'probation') break;
      return release(state);
    case 'ABORT': {
      const code = message.code === 'ERR_FDPASS_VERSION' ? message.code : 'ERR_FDPASS_ABORTED';
      return giveUp(state, code, `it said ABORT: ${message.code}, ${message.message}`, 'aborted');
    }
    default:
      return never(message);
  }
  return giveUp(state, 'ERR_FDPASS_PROTOCOL', `${message.type} came while the handoff was in the phase ${phase}`);
}

function enter(
  state: PredecessorState,
  phase: PredecessorPhase,
  deadline: PredecessorDeadline,
  ms: number,
): Step<PredecessorState, PredecessorEffect> {
  return { state: { ...state, phase, deadline }, effects: [{ type: 'arm', deadline, ms }] };
}

/** The one way out of accepting. RELEASED is said by one that has closed already. */
function release(state: PredecessorState): Step<PredecessorState, PredecessorEffect> {
  const effects: PredecessorEffect[] = [{ type: 'disarm' }, { type: 'closeListeners' }];
  if (state.birth !== 'foreign') effects.push({ type: 'send', message: { type: 'RELEASED' } });
  effects.push({ type: 'succeed' });
  return { state: { ...state, phase: 'released', deadline: null }, effects };
}

/**
 * Back to serving, for good. Who gave up first tells what is left to do: one that `ended` needs no ABORT and holds nothing;
 * one that `aborted` needs none either, and lets go by itself; to the others ABORT is said.
 */
function giveUp(
  state: PredecessorState,
  code: FdpassErrorCode,
  message: string,
  first: 'we' | 'ended' | 'aborted' = 'we',
): Step<PredecessorState, PredecessorEffect> {
  const { phase, birth } = state;
  // One that was told to accept may have connections to finish; so may one that says ABORT: it may have accepted in a split.
  const gently = phase === 'committing' || phase === 'probation' || first === 'aborted';
  const effects: PredecessorEffect[] = [];
  if (first === 'we' && birth !== 'foreign') effects.push({ type: 'send', message: { type: 'ABORT', code, message } });
  // Without a channel TERM is all that tells it to finish.
  if (birth === 'spawn')
    effects.push({ type: 'terminate', gently, termAfter: gently ? FINISH_TIMEOUT : 0, killAfter: KILL_AFTER });
  if (birth === 'foreign')
    effects.push({ type: 'terminate', gently, termAfter: 0, killAfter: gently ? FINISH_TIMEOUT : KILL_AFTER });
  effects.push({ type: 'fail', code, message, phase });
  const over: PredecessorState = { ...state, phase: 'serving', over: true, remains: first !== 'ended', deadline: null };
  if (!over.remains) return { state: over, effects: [...effects, { type: 'disarm' }, { type: 'clear' }] };
  const ms = birth === 'foreign' && gently ? FINISH_TIMEOUT : GONE_TIMEOUT;
  return { state: { ...over, deadline: 'gone' }, effects: [...effects, { type: 'arm', deadline: 'gone', ms }] };
}

/** After the end of the transaction: only whether the other has let go is still of interest. */
function clearing(state: PredecessorState, event: PredecessorEvent): Step<PredecessorState, PredecessorEffect> {
  if (!state.remains) return stay(state);
  const clear = (): Step<PredecessorState, PredecessorEffect> => ({
    state: { ...state, remains: false, deadline: null },
    effects: [{ type: 'disarm' }, { type: 'clear' }],
  });
  switch (event.type) {
    case 'ended':
    case 'sendFailed':
      return clear();
    case 'deadline':
      if (event.deadline !== 'gone' || state.deadline !== 'gone') return stay(state);
      if (state.birth === 'takeover' || state.killed) return clear(); // not ours to kill, or beyond the reach of KILL
      return {
        state: { ...state, killed: true },
        effects: [{ type: 'kill' }, { type: 'arm', deadline: 'gone', ms: GONE_TIMEOUT }],
      };
    case 'start':
    case 'message':
    case 'malformed':
    case 'accepting':
    case 'cancel':
    case 'supersede':
    case 'stop':
    case 'exit':
      return stay(state);
    default:
      return never(event);
  }
}

// ---- The new side: starting -> adopted -> ready -> serving -> alone -------------------------------------------------------

/** One step of the new side. Total: every event has a meaning in every state. It accepts in `serving` and `alone`. */
export function successor(state: SuccessorState, event: SuccessorEvent): Step<SuccessorState, SuccessorEffect> {
  switch (state.phase) {
    case 'starting':
    case 'adopted':
    case 'ready':
      return beforeServing(state, state.phase, event);
    case 'serving':
      return whileServing(state, event);
    case 'alone':
      return event.type === 'restartRequested' ? { state, effects: [{ type: 'startSuccessor' }] } : stay(state);
    case 'failed':
    case 'leaving':
      return event.type === 'restartRequested'
        ? { state, effects: [refuseRestart('this process leaves')] }
        : stay(state);
    default:
      return never(state.phase);
  }
}

function beforeServing(
  state: SuccessorState,
  phase: 'starting' | 'adopted' | 'ready',
  event: SuccessorEvent,
): Step<SuccessorState, SuccessorEffect> {
  switch (event.type) {
    case 'start': {
      const effects: SuccessorEffect[] = [{ type: 'send', message: { type: 'HELLO' } }];
      // Spawned, the set is complete from birth: nothing is waited for.
      if (state.birth === 'spawn') return { state, effects };
      effects.push({ type: 'arm', deadline: 'adopt', ms: ADOPT_TIMEOUT });
      return { state: { ...state, deadline: 'adopt' }, effects };
    }
    case 'adopted': {
      if (phase !== 'starting') return stay(state);
      const adopted: SuccessorState = { ...state, phase: 'adopted', probation: event.probation, deadline: null };
      const effects: SuccessorEffect[] = state.deadline === null ? [] : [{ type: 'disarm' }];
      if (!state.readyWanted) return { state: adopted, effects };
      const next = sayReady(adopted);
      return { state: next.state, effects: [...effects, ...next.effects] };
    }
    case 'ready':
      if (phase === 'starting') return stay({ ...state, readyWanted: true });
      return phase === 'adopted' ? sayReady(state) : stay(state);
    case 'message':
      switch (event.message.type) {
        case 'COMMIT':
          if (phase !== 'ready') return fail(state, 'ERR_FDPASS_PROTOCOL', 'COMMIT came before READY', 'we');
          return serve({ ...state, probation: event.message.probation }, false);
        case 'RELEASED':
          return predecessorEnded(state, phase); // it has closed: as good as its end
        case 'ABORT':
          return fail(
            state,
            codeOf(event.message),
            `The predecessor said ABORT: ${event.message.code}, ${event.message.message}`,
          );
        default:
          return never(event.message);
      }
    case 'malformed':
      if (isDying(state, event)) return stay(state); // its end comes next
      return fail(state, 'ERR_FDPASS_PROTOCOL', event.why, 'we');
    case 'ended':
    case 'sendFailed':
      return predecessorEnded(state, phase);
    case 'deadline':
      if (event.deadline !== state.deadline) return stay(state);
      switch (event.deadline) {
        case 'adopt':
          return fail(state, 'ERR_FDPASS_ABORTED', 'The predecessor did not hand over its listeners in time', 'we');
        case 'commit':
          return serve(state, true); // two that accept do no harm, none that accepts does
        case 'probation':
        case 'released':
          return stay(state);
        default:
          return never(event.deadline);
      }
    case 'restartRequested':
      // Kept, and without haste: a signal to the whole group reaches both sides, and must not cost the probation.
      return stay({ ...state, restart: true });
    case 'failed':
      return fail(state, event.code, event.message, 'we');
    case 'stop':
      return fail(state, 'ERR_FDPASS_ABORTED', 'The successor was asked to stop', 'we');
    default:
      return never(event);
  }
}

function whileServing(state: SuccessorState, event: SuccessorEvent): Step<SuccessorState, SuccessorEffect> {
  switch (event.type) {
    case 'start':
    case 'adopted':
    case 'ready':
      return stay(state);
    case 'message':
      if (state.deaf) return stay(state);
      switch (event.message.type) {
        case 'COMMIT':
          if (!state.split) return stay(state); // said twice: nothing it could mean but what is done
          return { state: { ...state, split: false }, effects: [{ type: 'report', what: 'lateCommit' }] };
        case 'RELEASED':
          return alone(state);
        case 'ABORT':
          return leave(state, event.message.code, `The predecessor said ABORT: ${event.message.message}`);
        default:
          return never(event.message);
      }
    case 'malformed':
      if (isDying(state, event) || state.deaf) return stay(state);
      // Until RELEASE was said the old one accepts, whatever it writes. After that nobody may be left but this one.
      if (!state.released) return leave(state, 'ERR_FDPASS_PROTOCOL', event.why, 'we');
      return { state: { ...state, deaf: true }, effects: [{ type: 'report', what: 'garbage' }] };
    case 'ended':
    case 'sendFailed':
      return alone(state);
    case 'deadline':
      if (event.deadline !== state.deadline) return stay(state);
      switch (event.deadline) {
        case 'probation':
          return sayRelease(state);
        case 'released': {
          const effects: SuccessorEffect[] = [{ type: 'arm', deadline: 'released', ms: RELEASED_TIMEOUT }];
          if (!state.overdue) effects.push({ type: 'report', what: 'notReleased' });
          if (state.restart) effects.push(refuseRestart('its predecessor has not let go yet'));
          return { state: { ...state, overdue: true, restart: false }, effects };
        }
        case 'adopt':
        case 'commit':
          return stay(state);
        default:
          return never(event.deadline);
      }
    case 'restartRequested': {
      const wanted: SuccessorState = { ...state, restart: true };
      return state.released ? stay(wanted) : sayRelease(wanted);
    }
    case 'failed':
      return leave(state, event.code, event.message, 'we');
    case 'stop':
      return leave(state, 'ERR_FDPASS_ABORTED', 'The successor was asked to stop', 'we');
    default:
      return never(event);
  }
}

/**
 * The last words of a dying one are its end. Not so over the takeover path, where the end may be no death: an old one that
 * gives up closes the channel, and lives; and what is not fdpass at all must not be taken for one that has left the address.
 */
function isDying(state: SuccessorState, event: { dying?: boolean }): boolean {
  return event.dying === true && state.birth === 'spawn';
}

function sayReady(state: SuccessorState): Step<SuccessorState, SuccessorEffect> {
  if (state.ended) return promote(state);
  return {
    state: { ...state, phase: 'ready', deadline: 'commit' },
    effects: [
      { type: 'send', message: { type: 'READY' } },
      { type: 'arm', deadline: 'commit', ms: COMMIT_TIMEOUT },
    ],
  };
}

function serve(state: SuccessorState, split: boolean): Step<SuccessorState, SuccessorEffect> {
  const effects: SuccessorEffect[] = [
    { type: 'accept' },
    { type: 'send', message: { type: 'SERVING', split } },
    { type: 'arm', deadline: 'probation', ms: state.probation },
  ];
  if (split) effects.push({ type: 'report', what: 'split' });
  return { state: { ...state, phase: 'serving', split, deadline: 'probation' }, effects };
}

function sayRelease(state: SuccessorState): Step<SuccessorState, SuccessorEffect> {
  return {
    state: { ...state, released: true, deadline: 'released' },
    effects: [
      { type: 'send', message: { type: 'RELEASE' } },
      { type: 'arm', deadline: 'released', ms: RELEASED_TIMEOUT },
    ],
  };
}

/** The old one ended, or closed, before this one accepts. */
function predecessorEnded(
  state: SuccessorState,
  phase: 'starting' | 'adopted' | 'ready',
): Step<SuccessorState, SuccessorEffect> {
  switch (phase) {
    case 'starting':
      if (state.birth === 'spawn') return stay({ ...state, ended: true });
      return fail(
        state,
        'ERR_FDPASS_ABORTED',
        'The predecessor ended before it had handed over its listeners',
        'ended',
      );
    case 'adopted':
      return stay({ ...state, ended: true });
    case 'ready':
      return promote(state);
    default:
      return never(phase);
  }
}

/** Accept because nobody else does, or soon will. */
function promote(state: SuccessorState): Step<SuccessorState, SuccessorEffect> {
  const next = alone(state);
  return { state: next.state, effects: [{ type: 'accept' }, ...next.effects] };
}

function alone(state: SuccessorState): Step<SuccessorState, SuccessorEffect> {
  const effects: SuccessorEffect[] = [{ type: 'disarm' }, { type: 'alone' }];
  if (state.restart) effects.push({ type: 'startSuccessor' });
  return { state: { ...state, phase: 'alone', ended: true, restart: false, deadline: null }, effects };
}

/** It never accepted. The old one does, and is told so unless it knows. */
function fail(
  state: SuccessorState,
  code: FdpassErrorCode,
  message: string,
  first: 'we' | 'aborted' | 'ended' = 'aborted',
): Step<SuccessorState, SuccessorEffect> {
  const effects: SuccessorEffect[] = [];
  if (first === 'we' && !state.ended) effects.push({ type: 'send', message: { type: 'ABORT', code, message } });
  effects.push({ type: 'disarm' }, { type: 'closeAll' });
  if (state.restart) effects.push(refuseRestart('this process leaves'));
  effects.push({ type: 'fail', code, message, phase: state.phase, ended: first === 'ended' });
  return { state: { ...state, phase: 'failed', restart: false, deadline: null }, effects };
}

/** It accepted. It finishes what it has. */
function leave(
  state: SuccessorState,
  code: string,
  message: string,
  first: 'we' | 'aborted' = 'aborted',
): Step<SuccessorState, SuccessorEffect> {
  const effects: SuccessorEffect[] = [];
  if (first === 'we') effects.push({ type: 'send', message: { type: 'ABORT', code, message } });
  effects.push({ type: 'disarm' }, { type: 'stopAccepting' });
  if (state.restart) effects.push(refuseRestart('this process leaves'));
  effects.push({ type: 'leave', code, message });
  return { state: { ...state, phase: 'leaving', restart: false, deadline: null }, effects };
}

function refuseRestart(why: string): SuccessorEffect {
  return {
    type: 'refuseRestart',
    code: 'ERR_FDPASS_NOT_READY',
    message: `This generation cannot start a successor: ${why}`,
  };
}

/** What it says of itself is kept; all else is its own affair. */
function codeOf({ code }: { code: string }): FdpassErrorCode {
  const kept = KEPT_CODES.find((known) => known === code);
  return kept ?? 'ERR_FDPASS_ABORTED';
}

const KEPT_CODES = [
  'ERR_FDPASS_VERSION',
  'ERR_FDPASS_BUSY',
  'ERR_FDPASS_REFUSED',
  'ERR_FDPASS_SUPERSEDED',
  'ERR_FDPASS_NOT_READY',
] as const satisfies readonly FdpassErrorCode[];

// ---- Helpers -------------------------------------------------------------------------------------------------------------

function stay<State>(state: State): Step<State, never> {
  return { state, effects: [] };
}

/** The compiler sees that nothing can come here. */
function never(value: never): never {
  throw new TypeError(`not a case: ${JSON.stringify(value)}`);
}
