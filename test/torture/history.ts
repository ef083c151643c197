/**
 * A random history: what happens to a family of servers, and when. Pure: the same seed is the same history, on every machine.
 * Knows nothing of processes; family.ts carries it out. The moments are random where the machine is: a seed repeats the steps, not the race.
 */

/** The listeners of the fixture. `web` is always served, so that there is somebody to ask. */
export type ListenerName = 'web' | 'hello' | 'unix' | 'udp';

/** What a successor does wrong. The fixture has the same list. */
export type Wrong =
  | 'throw'
  | 'exit-0'
  | 'exit-3'
  | 'segfault'
  | 'hang'
  | 'garbage'
  | 'close-channel'
  | 'slow'
  | 'never-ready'
  | 'full-table'
  | 'exit-serving'
  | 'crash-serving'
  | 'block';

/** For the next generation that starts. `ms`: how slow, how long blocked, when it dies. `left`: descriptors left free. */
export interface Plan {
  wrong?: Wrong;
  ms?: number;
  left?: number;
  set?: ListenerName[];
}

/** A signal at the very moment at which one side of a handoff enters a phase. */
export interface Strike {
  side: 'old' | 'new';
  phase: string;
  target: 'self' | 'peer';
  signal: 'SIGKILL' | 'SIGSTOP';
}

/** `pick` chooses among the processes that live then: its remainder is the index. */
export type Action =
  | { type: 'restart'; pick: number | 'newest'; plan: Plan; full?: number; strike?: Strike; thawAfter?: number }
  | { type: 'kill'; pick: number | 'newest' }
  | { type: 'freeze'; pick: number | 'newest'; ms: number };

/** After `delay` ms, counted from the step before, or from the event `upon` where it comes within a while. */
export interface Step {
  delay: number;
  upon?: string;
  action: Action;
}

export interface History {
  seed: number;
  set: ListenerName[];
  /** ms. */
  probation: number;
  /** ms. */
  readyTimeout: number;
  overlap: 'join' | 'supersede' | 'reject';
  /** Bytes of state that each generation hands to the next. */
  pad: number;
  steps: Step[];
  /** At the end, when all is quiet: one more restart, which must succeed. */
  finalRestart: boolean;
}

/** Numbers that look random, from 0 up to 1. mulberry32 by Tommy Ettinger, public domain. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** Those that die when they serve are the most dangerous: twice. */
const DEADLY: readonly Wrong[] = [
  'exit-serving',
  'crash-serving',
  'throw',
  'exit-0',
  'exit-3',
  'segfault',
  'hang',
  'garbage',
  'close-channel',
  'never-ready',
  'full-table',
  'exit-serving',
  'crash-serving',
];

/** A successor that does this never serves, and does not end by itself either. */
export const HANGS: readonly Wrong[] = ['hang', 'garbage', 'close-channel', 'never-ready'];

const PHASES = {
  old: ['offered', 'committing', 'probation', 'released'],
  new: ['ready', 'serving', 'alone'],
} as const;

/** A handoff is over, one way or the other. */
const OVER = 'over';
const OVER_EVENTS = ['handedOver', 'failed'];

/** Whether an event of the log is the one that a step waits for. */
export function isAwaited(upon: string, event: string): boolean {
  return upon === OVER ? OVER_EVENTS.includes(event) : event === upon;
}

/** What a step may wait for: lines of the fixture's log. */
const UPON = [
  'start',
  'handlers',
  'old offered',
  'old committing',
  'old probation',
  'new ready',
  'new serving',
  'serving',
];

/** The history of a seed, a number from 0 to 2**32 - 1. */
export function historyOf(seed: number): History {
  const next = random(seed);
  const chance = (probability: number): boolean => next() < probability;
  const below = (limit: number): number => Math.floor(next() * limit);
  const between = (low: number, high: number): number => low + below(high - low + 1);
  const oneOf = <T>(list: readonly T[]): T => list[below(list.length)]!;
  const someListeners = (): ListenerName[] => [
    'web',
    ...(['hello', 'unix', 'udp'] as const).filter((name) => chance(name === 'unix' ? 0.9 : 0.75)),
  ];

  const history: Omit<History, 'steps'> = {
    seed,
    set: someListeners(),
    probation: oneOf([50, 200, 400]),
    readyTimeout: oneOf([2000, 4000, 8000]),
    overlap: oneOf(['join', 'supersede', 'reject']),
    pad: oneOf([0, 100, 70_000]),
    finalRestart: chance(0.5),
  };

  const makePlan = (): Plan => {
    const plan: Plan = {};
    if (chance(0.45)) {
      plan.wrong = chance(0.3) ? oneOf(['slow', 'block'] as const) : oneOf(DEADLY);
      if (plan.wrong === 'slow') plan.ms = between(100, 2000);
      if (plan.wrong === 'block') plan.ms = between(100, 1500);
      if (plan.wrong === 'exit-serving' || plan.wrong === 'crash-serving') plan.ms = between(0, history.probation);
      if (plan.wrong === 'full-table') plan.left = below(6);
    }
    if (chance(0.35)) plan.set = someListeners();
    return plan;
  };
  const makeStrike = (): Strike => {
    const side = oneOf(['old', 'new'] as const);
    return {
      side,
      phase: oneOf<string>(PHASES[side]),
      target: oneOf(['self', 'peer'] as const),
      signal: oneOf(['SIGKILL', 'SIGSTOP'] as const),
    };
  };
  const freezeTime = (): number => (chance(0.2) ? between(5500, 7500) : between(50, 1500));
  const makeAction = (): Action => {
    const kind = next();
    // 60 is divisible by 1 to 6: no process is chosen more often than another.
    const pick = chance(0.6) ? 'newest' : below(60);
    if (kind < 0.6) {
      const restart: Action = { type: 'restart', pick, plan: makePlan() };
      if (chance(0.15)) restart.full = below(9);
      else if (chance(0.35)) {
        restart.strike = makeStrike();
        if (restart.strike.signal === 'SIGSTOP') restart.thawAfter = freezeTime();
      }
      return restart;
    }
    return kind < 0.82 ? { type: 'kill', pick } : { type: 'freeze', pick, ms: freezeTime() };
  };

  const steps: Step[] = [];
  const count = between(3, 6);
  while (steps.length < count) {
    const action = steps.length === 0 ? ({ type: 'restart', pick: 'newest', plan: makePlan() } as const) : makeAction();
    // A restart overlaps the one before, or comes when that is over.
    const upon = action.type === 'restart' ? OVER : oneOf(UPON);
    const waits = steps.length > 0 && chance(action.type === 'restart' ? 0.5 : 0.7);
    if (!waits) steps.push({ delay: between(0, 900), action });
    else steps.push({ delay: chance(0.5) ? 0 : between(0, 120), upon, action });
  }
  return { ...history, steps };
}

/** The history in words, to be read next to its evidence. */
export function describeHistory(history: History): string {
  const { seed, set, probation, readyTimeout, overlap, pad, steps, finalRestart } = history;
  const head = `history ${seed}: ${set.join(', ')}; probation ${probation} ms, readyTimeout ${readyTimeout} ms, overlap ${overlap}, state of ${pad} bytes`;
  const lines = steps.map(({ delay, upon, action }, index) => {
    const when = upon === undefined ? `${delay} ms later` : `${delay} ms after "${upon}"`;
    return `  ${index + 1}. ${when}: ${describeAction(action)}`;
  });
  return [head, ...lines, ...(finalRestart ? ['  at last: a restart that must succeed'] : [])].join('\n');
}

function describeAction(action: Action): string {
  if (action.type === 'kill') return `SIGKILL to ${describePick(action.pick)}`;
  if (action.type === 'freeze') return `SIGSTOP to ${describePick(action.pick)}, SIGCONT after ${action.ms} ms`;
  const { pick, plan, full, strike, thawAfter } = action;
  const words = [`restart of ${describePick(pick)}`];
  if (full !== undefined) words.push(`its descriptor table full but for ${full}`);
  if (Object.keys(plan).length > 0) words.push(`the next one: ${JSON.stringify(plan)}`);
  if (strike !== undefined) {
    const thaw = thawAfter === undefined ? '' : `, SIGCONT after ${thawAfter} ms`;
    words.push(`${strike.signal} to its ${strike.target} when the ${strike.side} is ${strike.phase}${thaw}`);
  }
  return words.join('; ');
}

function describePick(pick: number | 'newest'): string {
  return pick === 'newest' ? 'the newest' : `one (${pick})`;
}
