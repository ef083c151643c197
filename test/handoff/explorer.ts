/**
 * The explorer: walks every interleaving of the two machines of a handoff and checks in every state what must hold in every
 * run (docs/protocol.md). It runs the very functions of lib/handoff/machine.ts, reducers and `deliver` alike, against a
 * model of what surrounds them: processes that die and freeze, channels, timers, an operator, an application.
 *
 * The model
 * - Up to three processes. G1 serves; whoever is alone may start a successor, again and again, while a slot is free. So
 *   G1 -> G2 -> G3 is in it, with G2 in both roles at once, and G1 -> G2 that fails -> another try with G3.
 * - A channel is two queues in order. What was sent is read at any later time, all of it at once, as the drivers do: a
 *   reader that finds only a part has read before the rest was sent, which is another interleaving. The end of a process is
 *   EOF behind what it had sent; a send to one that has ended fails.
 * - A deadline that is armed may fire at any time, before mail that waits too. Times do not exist otherwise: what holds
 *   here holds for every choice of them, and for clocks that run at any speed.
 * - Faults, within a budget: a process dies (SIGKILL) or freezes and thaws (SIGSTOP, SIGCONT), between two steps or in the
 *   middle of one, after any of its effects. One that is frozen reads nothing and no timer of it fires; when it thaws it
 *   has timers and mail before it, in either order. Further scenarios: a process writes garbage; a peer that is no program of
 *   ours says whatever it likes; a calm run, in which nothing is left that could excuse a failure.
 * - At any time, as often as they like: the operator stops a process (SIGTERM) or asks it for a restart (one signal to the
 *   whole group is the same, process by process), the caller cancels or supersedes, the application becomes ready, or fails,
 *   or exits. TERM and KILL of an aborted successor strike at any time after the effect. As the drivers do, a process reads its
 *   mail before it heeds a deadline or a wish (cancel, supersede, stop, exit).
 *
 * What is left out, and why nothing is lost by it
 * - A process that has failed or leaves, and has closed listeners and channel, exits at once: nobody can see it any more.
 *   That it has closed them is checked first.
 * - Nothing of a dead process is kept but what it has written. Mail to it is dropped.
 * - The texts of ABORT and the numbers of milliseconds are made equal: the machines only pass them on (machine.test.ts).
 * - Freezing in the middle of a step is one state with the rest of the step in it: only what the others do meanwhile
 *   matters, and one that is frozen does nothing.
 * - Over the takeover path the whole set comes in one event, at any time after HELLO was said, also when the old one is frozen, or dead with
 *   its end unread. The steps between (OFFER, FDS, FDS_ACK) are no states of the machines: until the set is whole they know but one,
 *   and all that can end it is in the walk. What becomes of the descriptors of a part of it: arriving.test.ts.
 * - Slots are not used again after a death: two handoffs a run, which is three generations in a row.
 * - Garbage over the takeover path is not in any scenario. An old one that writes garbage after RELEASE, then says ABORT (which
 *   cannot be read any more) and closes the channel leaves a newcomer behind that takes this for its end: both believe to be
 *   the only one. They both accept, so nothing is lost; a spawned one would be killed.
 *
 * The invariants are stated in terms of what a process does (effects, and what it had read) and never of the machines' own
 * phases, so that a wrong machine cannot vouch for itself.
 */
import type {
  FromPredecessor,
  FromSuccessor,
  Mail,
  PredecessorDeadline,
  PredecessorEffect,
  PredecessorEvent,
  PredecessorState,
  PredecessorWish,
  SuccessorDeadline,
  SuccessorEffect,
  SuccessorEvent,
  SuccessorState,
  SuccessorWish,
  Wake,
} from '../../lib/handoff/machine.js';
import * as machine from '../../lib/handoff/machine.js';

// ---- The face ------------------------------------------------------------------------------------------------------------

/** What is explored: the real functions, or ones with a rule broken. */
export interface Rules {
  newPredecessor: typeof machine.newPredecessor;
  newSuccessor: typeof machine.newSuccessor;
  predecessor: typeof machine.predecessor;
  successor: typeof machine.successor;
  deliver: typeof machine.deliver;
}

export const RULES: Rules = {
  newPredecessor: machine.newPredecessor,
  newSuccessor: machine.newSuccessor,
  predecessor: machine.predecessor,
  successor: machine.successor,
  deliver: machine.deliver,
};

export interface Scenario {
  name: string;
  birth: 'spawn' | 'takeover' | 'foreign';
  /** Processes at most. */
  processes: 2 | 3;
  deaths: number;
  freezes: number;
  /** How often a process may write garbage. */
  garbage: number;
  /** Nobody fails, gives up or is asked to, and no deadline fires that need not: then every handoff must succeed. */
  calm?: boolean;
  /** The successor (of birth spawn) is no fdpass program: it says what it likes, as often as this. */
  rude?: number;
  /** The predecessor is: one handoff, in which only the successor runs the machine. */
  rudeOld?: number;
}

/** What the tests walk: together some seconds. */
export const SCENARIOS: readonly Scenario[] = [
  { name: 'spawn, calm', birth: 'spawn', processes: 3, deaths: 0, freezes: 2, garbage: 0, calm: true },
  { name: 'takeover, calm', birth: 'takeover', processes: 2, deaths: 0, freezes: 1, garbage: 0, calm: true },
  { name: 'foreign, calm', birth: 'foreign', processes: 3, deaths: 0, freezes: 1, garbage: 0, calm: true },
  { name: 'spawn, one handoff', birth: 'spawn', processes: 2, deaths: 2, freezes: 2, garbage: 0 },
  { name: 'takeover, one handoff', birth: 'takeover', processes: 2, deaths: 2, freezes: 1, garbage: 0 },
  { name: 'foreign, two handoffs', birth: 'foreign', processes: 3, deaths: 2, freezes: 1, garbage: 0 },
  { name: 'spawn, rude successor', birth: 'spawn', processes: 2, deaths: 1, freezes: 0, garbage: 0, rude: 5 },
  { name: 'spawn, rude predecessor', birth: 'spawn', processes: 2, deaths: 1, freezes: 0, garbage: 0, rudeOld: 4 },
  {
    name: 'takeover, rude predecessor',
    birth: 'takeover',
    processes: 2,
    deaths: 1,
    freezes: 0,
    garbage: 0,
    rudeOld: 4,
  },
  { name: 'spawn, garbage', birth: 'spawn', processes: 2, deaths: 2, freezes: 1, garbage: 1 },
  { name: 'spawn, three generations', birth: 'spawn', processes: 3, deaths: 2, freezes: 1, garbage: 0 },
];

/** Larger ones, for a change of the rules: FDPASS_EXPLORE=full. A minute or two, and some 300 MB. */
export const LARGE_SCENARIOS: readonly Scenario[] = [
  { name: 'spawn, two freezes', birth: 'spawn', processes: 3, deaths: 2, freezes: 2, garbage: 0 },
  { name: 'spawn, garbage, three generations', birth: 'spawn', processes: 3, deaths: 2, freezes: 1, garbage: 1 },
  { name: 'takeover, three generations', birth: 'takeover', processes: 3, deaths: 2, freezes: 1, garbage: 0 },
];

export const INVARIANTS = {
  accepts: 'somebody accepts, or will by its own next step, unless all are dead, frozen or told to leave',
  proof: 'a side stops accepting only with proof, given after the probation, that the other accepts',
  told: 'a successor accepts when it is told to, or when nobody else will; not before, and never on an order taken back',
  paths: 'at most one generation owns the Unix paths, and nobody is alone beside one that accepts',
  holders: 'at most two processes hold a listener',
  leak: 'nothing outlives its transaction on the losing side',
  deadline: 'every wait has a deadline, and a finished transaction has none',
  mailFirst: 'a deadline reads first and judges then',
  final: 'ABORT is final for its sender',
  alone: 'only a generation that is alone starts a successor',
  outcome: 'a transaction has one outcome, on each side',
  heeded: 'what was said and stands is heeded',
  success: 'undisturbed, a handoff succeeds; a freeze costs nothing but time',
  progress: 'with nobody frozen or dying any more, a state where one serves alone and the rest has left is reached',
  total: 'every event has a meaning in every state',
} as const;

export type Invariant = keyof typeof INVARIANTS;

export interface Result {
  states: number;
  transitions: number;
  /** Of the clock, and of the processor. */
  ms: number;
  cpuMs: number;
  /** What has happened at least once: a walk in which nothing happens would find nothing wrong. */
  reached: string[];
  violation: { invariant: Invariant; text: string; trace: string[] } | undefined;
}

// ---- The world: one byte a field -----------------------------------------------------------------------------------------

const SLOTS = 3;
const STRIDE = 9; // fields of a process
const STATUS = 0; // ABSENT, ALIVE, FROZEN, DEAD
const KID = 1; // 1 + number of the successor machine's state; 0: none
const PARENT = 2; // 1 + number of the predecessor machine's state; 0: no transaction
const CHILD = 3; // slot of the successor of the transaction
const BODY = 4;
const SAID = 5; // what it has said and heard as a successor
const ASPARENT = 6; // ... as a predecessor, in the transaction that it has
const APP = 7;
const ARMED = 8; // low half: deadline of the successor machine, high half: of the predecessor machine
const TO_PARENT = SLOTS * STRIDE - 1; // + slot: queue from that successor to its predecessor
const TO_CHILD = TO_PARENT + 2; // + slot: the other way
const PARENT_OF_LAST = TO_CHILD + 3; // who started slot 2
const DEATHS = PARENT_OF_LAST + 1;
const FREEZES = DEATHS + 1;
const GARBAGE = FREEZES + 1;
const RUDENESS = GARBAGE + 1; // what a rude successor may still say
const HEARD = RUDENESS + 1; // + process: how much of HELLO, READY, SERVING, RELEASE it has heard, in this order
const OTHERS = HEARD + SLOTS; // a bit a process: it speaks other versions
const PENDING = OTHERS + 1; // two bytes a process: 1 + number of the rest of a step that a freeze has cut; 0: none
const FIELDS = 48; // a multiple of 4
const WORDS = FIELDS / 4;

const ABSENT = 0;
const ALIVE = 1;
const FROZEN = 2;
const DEAD = 3;

// BODY
const ACCEPTING = 1;
const HOLDS = 2; // a listener
const PATHS = 4;
const TOLD = 8; // to leave: by the operator, or by its own application
const LOST = 16; // as a successor: it has read or said ABORT, or failed
const ALONE = 32;
const DONE = 64; // it has let go, and only leaves
const TERMED = 128; // TERM and KILL are under way: it may end at any time

// SAID
const SAID_READY = 1;
const HEARD_COMMIT = 2;
const HEARD_END = 4; // or RELEASED
const SAID_SERVING = 8;
const SAID_RELEASE = 16;
const SAID_ABORT = 32;
const ACCEPTED = 64; // it accepts, or did
const HEARD_GARBAGE = 128; // nothing can be read any more

// ASPARENT
const P_ABORT = 1; // said
const P_FAILED = 2;
const P_SUCCEEDED = 4;
const P_RELEASED = 8; // said
const P_HEARD_END = 16;
const P_OPEN = 32; // its end of the channel
const P_COMMIT = 64; // said
const P_SEEN = 128; // that its foreign successor accepts

// APP
const BOOTED = 1;
const ADOPTED = 2;
const READY_CALLED = 4;
const RESTART_WANTED = 8;
const C_OPEN = 16; // its end of the channel to its predecessor
const C_HEARD_END = 32; // EOF was read
const C_SEND_FAILED = 64;
const P_SEND_FAILED = 128;

const LETTERS: readonly { name: string; mail: Mail<FromSuccessor | FromPredecessor> }[] = [
  { name: 'HELLO', mail: { type: 'message', message: { type: 'HELLO', compatible: true } } },
  { name: 'HELLO of another version', mail: { type: 'message', message: { type: 'HELLO', compatible: false } } },
  { name: 'READY', mail: { type: 'message', message: { type: 'READY' } } },
  { name: 'SERVING', mail: { type: 'message', message: { type: 'SERVING', split: false } } },
  { name: 'RELEASE', mail: { type: 'message', message: { type: 'RELEASE' } } },
  { name: 'ABORT', mail: { type: 'message', message: { type: 'ABORT', code: 'ERR_FDPASS_ABORTED', message: '' } } },
  { name: 'garbage', mail: { type: 'malformed', why: 'garbage' } },
  { name: 'COMMIT', mail: { type: 'message', message: { type: 'COMMIT', probation: 1 } } },
  { name: 'RELEASED', mail: { type: 'message', message: { type: 'RELEASED' } } },
];
const L = {
  HELLO: 0,
  OTHER: 1,
  READY: 2,
  SERVING: 3,
  RELEASE: 4,
  ABORT: 5,
  GARBAGE: 6,
  COMMIT: 7,
  RELEASED: 8,
} as const;

const KID_DEADLINES: readonly SuccessorDeadline[] = ['adopt', 'commit', 'probation', 'released'];
const PARENT_DEADLINES: readonly PredecessorDeadline[] = ['ready', 'commit', 'release', 'probation', 'gone'];

type Effect = PredecessorEffect | SuccessorEffect;

/** Effects that somebody else can see: a death or a freeze between two of them makes a difference. */
const VISIBLE: ReadonlySet<Effect['type']> = new Set([
  'send',
  'closeListeners',
  'terminate',
  'kill',
  'clear',
  'succeed',
  'accept',
  'alone',
  'startSuccessor',
  'closeAll',
  'stopAccepting',
] as const);

/** What made a machine take its step. */
interface Cause {
  role: 'kid' | 'parent';
  /** What it read: letters, and whether the end stood behind them. */
  mail: readonly number[];
  ended: boolean;
  /** 'mail', 'sendFailed', the name of a deadline, or the type of another event. */
  why: string;
}

/** What can happen. An action is kind + 32 * process + 128 * cut + 2048 * how; cut: after so many visible effects. */
const K = {
  READ_OLD: 0,
  READ_NEW: 1,
  DEADLINE_OLD: 2,
  DEADLINE_NEW: 3,
  SEND_FAILED_OLD: 4,
  SEND_FAILED_NEW: 5,
  BOOT: 6,
  BOOT_OTHER: 7,
  ADOPT: 8,
  CALL_READY: 9,
  APP_FAILS: 10,
  STOP: 11,
  RESTART: 12,
  CANCEL: 13,
  SUPERSEDE: 14,
  EXIT: 15,
  LEAVE: 16,
  TERMINATED: 17,
  DIE: 18,
  FREEZE: 19,
  THAW: 20,
  GARBAGE_OLD: 21,
  GARBAGE_NEW: 22,
  FOREIGN_ACCEPTS: 23,
  FOREIGN_SEEN: 24,
  SAY: 25, // + letter, up to garbage: a rude one says it
} as const;

const ACTION_TEXTS: Readonly<Record<number, string>> = {
  [K.READ_OLD]: 'reads the channel to its predecessor',
  [K.READ_NEW]: 'reads the channel to its successor',
  [K.DEADLINE_OLD]: 'has a deadline',
  [K.DEADLINE_NEW]: 'has a deadline',
  [K.SEND_FAILED_OLD]: 'learns that a send to its predecessor failed',
  [K.SEND_FAILED_NEW]: 'learns that a send to its successor failed',
  [K.BOOT]: 'boots',
  [K.BOOT_OTHER]: 'boots, and speaks other versions',
  [K.ADOPT]: 'has the whole set',
  [K.CALL_READY]: 'calls ready()',
  [K.APP_FAILS]: 'fails: its application does',
  [K.STOP]: 'is asked to stop (SIGTERM)',
  [K.RESTART]: 'is asked for a restart',
  [K.CANCEL]: 'cancels its handoff (the caller does)',
  [K.SUPERSEDE]: 'supersedes its handoff (the caller does)',
  [K.EXIT]: 'exits with code 0',
  [K.LEAVE]: 'leaves',
  [K.TERMINATED]: 'is ended by TERM or KILL of its predecessor',
  [K.DIE]: 'dies (SIGKILL)',
  [K.FREEZE]: 'freezes (SIGSTOP)',
  [K.THAW]: 'thaws (SIGCONT)',
  [K.GARBAGE_OLD]: 'writes garbage to its predecessor',
  [K.GARBAGE_NEW]: 'writes garbage to its successor',
  [K.FOREIGN_ACCEPTS]: 'accepts (it is not an fdpass program)',
  [K.FOREIGN_SEEN]: 'hears that its successor accepts',
};

/** What a calm scenario has, besides deadlines. */
const CALM: ReadonlySet<number> = new Set([
  K.READ_OLD,
  K.READ_NEW,
  K.SEND_FAILED_OLD,
  K.SEND_FAILED_NEW,
  K.BOOT,
  K.ADOPT,
  K.CALL_READY,
  K.RESTART,
  K.LEAVE,
  K.FREEZE,
  K.THAW,
  K.FOREIGN_ACCEPTS,
  K.FOREIGN_SEEN,
]);

/** What a process does by itself once nothing goes wrong any more. What a person or an application may leave undone is not here. */
const OWN_STEPS: ReadonlySet<number> = new Set([
  K.READ_OLD,
  K.READ_NEW,
  K.DEADLINE_OLD,
  K.DEADLINE_NEW,
  K.SEND_FAILED_OLD,
  K.SEND_FAILED_NEW,
  K.LEAVE,
]);

const CUT_DIES = 1;
const CUT_FREEZES = 2;

class Violation extends Error {
  readonly invariant: Invariant;

  constructor(invariant: Invariant, text: string) {
    super(text);
    this.invariant = invariant;
  }
}

/** A fault of the explorer, not of the machines. */
class TooMany extends Error {}

/** Gives each different value a number that fits its field of the world. */
class Numbers<T> {
  readonly #most: number;
  readonly #numbers = new Map<string, number>();
  readonly #values: T[] = [];

  constructor(most = 254) {
    this.#most = most;
  }

  of(value: T): number {
    const key = JSON.stringify(value);
    let number = this.#numbers.get(key);
    if (number === undefined) {
      number = this.#values.length;
      if (number > this.#most) throw new TooMany(`more than ${this.#most} different values: the field is too small`);
      this.#numbers.set(key, number);
      this.#values.push(value);
    }
    return number;
  }

  at(number: number): T {
    return this.#values[number] as T;
  }
}

/** A step of a machine, with the number of the state that it leads to. */
interface Outcome {
  state: number;
  effects: readonly Effect[];
}

// ---- The explorer ----------------------------------------------------------------------------------------------------------

/** Walks the whole scenario, breadth first: the violation it finds has a shortest trace. */
export function explore(rules: Rules, scenario: Scenario): Result {
  return new Explorer(rules, scenario).run();
}

class Explorer {
  readonly #rules: Rules;
  readonly #scenario: Scenario;
  readonly #kidStates = new Numbers<SuccessorState>();
  readonly #parentStates = new Numbers<PredecessorState>();
  readonly #queues = new Numbers<number[]>();
  readonly #pendings = new Numbers<{ effects: Effect[]; cause: Cause }>(65_534);
  readonly #outcomes = new Map<number, Outcome>();
  readonly #eventNumbers = new Numbers<unknown>();
  readonly #pushed = new Map<number, number>();
  readonly #canAccept = new Map<number, boolean>();

  /** The world that is worked on. */
  readonly #w = new Uint8Array(FIELDS);
  readonly #words = new Uint32Array(this.#w.buffer);
  #log: string[] | undefined;

  // The step that is being done.
  #cutAfter = 0;
  #cutHow = 0;
  #visible = 0; // effects so far
  #cut = false;
  #resumed = false; // it goes on with what a freeze has cut
  #fails: string | undefined; // the code that a handoff has ended with
  #heardAbort = false;

  // Every state once, in the order it was found.
  #count = 0;
  #store = new Uint32Array(WORDS << 14);
  #table = new Int32Array(1 << 16).fill(-1);
  #from = new Int32Array(1 << 14);
  #by = new Int32Array(1 << 14);
  #transitions = 0;
  readonly #reached = new Set<string>();

  // The graph of own steps.
  #goal = new Uint8Array(1 << 14); // 1: good, or somebody is frozen and nothing is asked
  #edgeStart = new Int32Array(1 << 14);
  #edges = new Int32Array(1 << 16);
  #edgeCount = 0;

  constructor(rules: Rules, scenario: Scenario) {
    this.#rules = rules;
    this.#scenario = scenario;
    this.#queues.of([]);
  }

  run(): Result {
    const began = performance.now();
    const before = process.cpuUsage();
    const cpu = (): number => {
      const { user, system } = process.cpuUsage(before);
      return (user + system) / 1000;
    };
    const result = (violation: Result['violation']): Result => ({
      states: this.#count,
      transitions: this.#transitions,
      ms: performance.now() - began,
      cpuMs: cpu(),
      reached: [...this.#reached].sort(),
      violation,
    });
    let current = 0;
    let action = -1;
    try {
      this.#begin();
      this.#enter(-1, -1, false);
      const world = new Uint8Array(FIELDS);
      for (; current < this.#count; current += 1) {
        this.#load(current);
        world.set(this.#w);
        const thawed = !this.#anyFrozen();
        this.#edgeStart[current] = this.#edgeCount;
        this.#goal[current] = !thawed || this.#isGood() ? 1 : 0;
        for (const whole of this.#actions()) {
          action = whole;
          const own = thawed && this.#isOwnStep(whole);
          this.#perform(world, whole);
          const visible = this.#visible;
          this.#enter(current, whole, own);
          for (let cut = 1; cut < visible; cut += 1) {
            for (const how of [CUT_DIES, CUT_FREEZES]) {
              if ((how === CUT_DIES ? world[DEATHS] : world[FREEZES]) === 0) continue;
              action = whole + 128 * cut + 2048 * how;
              this.#perform(world, action);
              this.#enter(current, action, false);
            }
          }
        }
      }
      action = -1;
      current = this.#findStuck();
      if (current >= 0) throw new Violation('progress', 'from here no such state is reached');
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      return result({ invariant: error.invariant, text: error.message, trace: this.#trace(current, action) });
    }
    return result(undefined);
  }

  // ---- Storage -------------------------------------------------------------------------------------------------------------

  #load(index: number): void {
    this.#words.set(this.#store.subarray(index * WORDS, (index + 1) * WORDS));
  }

  /** Puts the world among the states, checked. */
  #enter(from: number, action: number, own: boolean): void {
    if (from >= 0) this.#transitions += 1;
    const words = this.#words;
    let hash = 0;
    for (let i = 0; i < WORDS; i += 1) hash = Math.imul(hash ^ (words[i] as number), 0x9e3779b1) ^ (hash >>> 15);
    hash ^= hash >>> 13;
    const mask = this.#table.length - 1;
    let slot = hash & mask;
    let index = this.#table[slot] as number;
    while (index >= 0) {
      let i = 0;
      const base = index * WORDS;
      while (i < WORDS && this.#store[base + i] === words[i]) i += 1;
      if (i === WORDS) break;
      slot = (slot + 1) & mask;
      index = this.#table[slot] as number;
    }
    if (index < 0) {
      this.#check();
      index = this.#count;
      this.#count += 1;
      if ((index + 1) * WORDS > this.#store.length) this.#growStates();
      this.#store.set(words, index * WORDS);
      this.#from[index] = from;
      this.#by[index] = action;
      this.#table[slot] = index;
      if (this.#count * 2 > this.#table.length) this.#growTable();
    }
    if (own) {
      if (this.#edgeCount === this.#edges.length)
        this.#edges = grown(this.#edges, new Int32Array(2 * this.#edges.length));
      this.#edges[this.#edgeCount] = index;
      this.#edgeCount += 1;
    }
  }

  #growStates(): void {
    const states = (2 * this.#store.length) / WORDS;
    this.#store = grown(this.#store, new Uint32Array(states * WORDS));
    this.#from = grown(this.#from, new Int32Array(states));
    this.#by = grown(this.#by, new Int32Array(states));
    this.#goal = grown(this.#goal, new Uint8Array(states));
    this.#edgeStart = grown(this.#edgeStart, new Int32Array(states));
  }

  #growTable(): void {
    const table = new Int32Array(2 * this.#table.length).fill(-1);
    const mask = table.length - 1;
    for (let index = 0; index < this.#count; index += 1) {
      let hash = 0;
      for (let i = 0; i < WORDS; i += 1) {
        hash = Math.imul(hash ^ (this.#store[index * WORDS + i] as number), 0x9e3779b1) ^ (hash >>> 15);
      }
      hash ^= hash >>> 13;
      let slot = hash & mask;
      while ((table[slot] as number) >= 0) slot = (slot + 1) & mask;
      table[slot] = index;
    }
    this.#table = table;
  }

  /** A state from which own steps alone lead to no good one; -1: there is none. */
  #findStuck(): number {
    const goal = this.#goal;
    for (let changed = true; changed;) {
      changed = false;
      for (let index = this.#count - 1; index >= 0; index -= 1) {
        if (goal[index] === 1) continue;
        const end = index + 1 < this.#count ? (this.#edgeStart[index + 1] as number) : this.#edgeCount;
        for (let edge = this.#edgeStart[index] as number; edge < end; edge += 1) {
          if (goal[this.#edges[edge] as number] !== 1) continue;
          goal[index] = 1;
          changed = true;
          break;
        }
      }
    }
    return goal.subarray(0, this.#count).indexOf(0);
  }

  /** The way to a state, and the step from there that breaks a rule, told again with all that was said and done. */
  #trace(state: number, action: number): string[] {
    const actions = action < 0 ? [] : [action];
    for (let at = state; (this.#from[at] as number) >= 0; at = this.#from[at] as number)
      actions.unshift(this.#by[at] as number);
    const log = (this.#log = ['G1 serves']);
    this.#load(0);
    const before = new Uint8Array(FIELDS);
    try {
      for (const one of actions) {
        before.set(this.#w);
        this.#perform(before, one);
        this.#check();
      }
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
    }
    this.#log = undefined;
    return log.map((line, index) => (index === 0 ? line : `${index}. ${line}`));
  }

  // ---- The world -----------------------------------------------------------------------------------------------------------

  #begin(): void {
    this.#w[STATUS] = ALIVE;
    this.#w[BODY] = ACCEPTING | HOLDS | PATHS | ALONE;
    this.#w[DEATHS] = this.#scenario.deaths;
    this.#w[FREEZES] = this.#scenario.freezes;
    this.#w[GARBAGE] = this.#scenario.garbage;
    this.#w[RUDENESS] = this.#scenario.rude ?? this.#scenario.rudeOld ?? 0;
    if (this.#scenario.rudeOld === undefined) return;
    this.#putSuccessor(0, 1);
    this.#put(0, CHILD, 1);
    this.#put(0, ASPARENT, P_OPEN);
  }

  #get(process: number, field: number): number {
    return this.#w[process * STRIDE + field] as number;
  }

  #put(process: number, field: number, value: number): void {
    this.#w[process * STRIDE + field] = value;
  }

  #has(process: number, field: number, bits: number): boolean {
    return ((this.#w[process * STRIDE + field] as number) & bits) !== 0;
  }

  #set(process: number, field: number, bits: number): void {
    const at = process * STRIDE + field;
    this.#w[at] = (this.#w[at] as number) | bits;
  }

  #unset(process: number, field: number, bits: number): void {
    const at = process * STRIDE + field;
    this.#w[at] = (this.#w[at] as number) & ~bits;
  }

  #lives(process: number): boolean {
    const status = this.#get(process, STATUS);
    return status === ALIVE || status === FROZEN;
  }

  #parentOf(child: number): number {
    return child === 2 ? (this.#w[PARENT_OF_LAST] as number) : 0;
  }

  /** Whether the predecessor's end of the channel to `child` is open. */
  #parentEnd(child: number): boolean {
    const parent = this.#parentOf(child);
    return this.#lives(parent) && this.#get(parent, CHILD) === child && this.#has(parent, ASPARENT, P_OPEN);
  }

  /** Whether the successor's end is open. A foreign one has no channel, but its death is seen. */
  #childEnd(child: number): boolean {
    return this.#lives(child) && (this.#scenario.birth === 'foreign' || this.#has(child, APP, C_OPEN));
  }

  /** Successors are not programs of ours. */
  #isAlien(): boolean {
    return this.#scenario.birth === 'foreign' || this.#scenario.rude !== undefined;
  }

  #queue(field: number): readonly number[] {
    return this.#queues.at(this.#w[field] as number);
  }

  #push(field: number, letter: number): void {
    const key = ((this.#w[field] as number) << 4) | letter;
    let next = this.#pushed.get(key);
    if (next === undefined) {
      next = this.#queues.of([...this.#queue(field), letter]);
      this.#pushed.set(key, next);
    }
    this.#w[field] = next;
  }

  #anyFrozen(): boolean {
    for (let p = 0; p < SLOTS; p += 1) if (this.#get(p, STATUS) === FROZEN) return true;
    return false;
  }

  /** In a transaction that is neither won nor lost. */
  #inTransaction(process: number): boolean {
    return this.#get(process, PARENT) !== 0 && !this.#has(process, ASPARENT, P_FAILED | P_SUCCEEDED);
  }

  #canStart(process: number): boolean {
    return (
      this.#get(process, PARENT) === 0 &&
      !this.#has(process, BODY, TOLD | DONE) &&
      this.#freeSlot() < this.#scenario.processes
    );
  }

  #freeSlot(): number {
    let slot = 1;
    while (slot < SLOTS && this.#get(slot, STATUS) !== ABSENT) slot += 1;
    return slot;
  }

  #actions(): number[] {
    const actions: number[] = [];
    const add = (kind: number, process: number): void => {
      if (this.#scenario.calm !== true || this.#isCalm(kind, process)) actions.push(kind + 32 * process);
    };
    for (let p = 0; p < SLOTS; p += 1) {
      const status = this.#get(p, STATUS);
      if (p === 0 && this.#scenario.rudeOld !== undefined) {
        if (status === ALIVE) this.#rudeOldActions(add);
        continue;
      }
      if (status === ALIVE) {
        if (this.#get(p, KID) !== 0) this.#kidActions(p, add);
        else if (this.#scenario.rude !== undefined && p > 0) this.#rudeActions(p, add);
        else if (p > 0 && !this.#has(p, SAID, ACCEPTED)) add(K.FOREIGN_ACCEPTS, p);
        if (this.#get(p, PARENT) !== 0) this.#parentActions(p, add);
        if (!this.#has(p, BODY, TOLD)) add(K.STOP, p);
        if (this.#has(p, BODY, ALONE) ? this.#canStart(p) : this.#has(p, APP, BOOTED)) add(K.RESTART, p);
        if (this.#has(p, BODY, DONE)) add(K.LEAVE, p);
        if (this.#w[FREEZES] !== 0) add(K.FREEZE, p);
      }
      if (status === FROZEN) add(K.THAW, p);
      if (status === ALIVE || status === FROZEN) {
        if (this.#has(p, BODY, TERMED)) add(K.TERMINATED, p);
        if (this.#w[DEATHS] !== 0) add(K.DIE, p);
      }
    }
    return actions;
  }

  #kidActions(p: number, add: (kind: number, process: number) => void): void {
    if (!this.#has(p, APP, BOOTED)) {
      add(K.BOOT, p);
      add(K.BOOT_OTHER, p);
      return;
    }
    if (this.#has(p, APP, C_OPEN)) {
      const ended = !this.#parentEnd(p) && !this.#has(p, APP, C_HEARD_END);
      if (ended || this.#w[TO_CHILD + p] !== 0) add(K.READ_OLD, p);
      if (this.#has(p, APP, C_SEND_FAILED)) add(K.SEND_FAILED_OLD, p);
      if (this.#w[GARBAGE] !== 0 && !this.#has(p, SAID, SAID_ABORT)) add(K.GARBAGE_OLD, p);
    }
    if ((this.#get(p, ARMED) & 15) !== 0) add(K.DEADLINE_OLD, p);
    if (!this.#has(p, APP, ADOPTED) && (this.#scenario.birth === 'spawn' || !this.#has(p, APP, C_HEARD_END)))
      add(K.ADOPT, p);
    if (!this.#has(p, APP, READY_CALLED)) add(K.CALL_READY, p);
    if (!this.#has(p, BODY, ALONE)) add(K.APP_FAILS, p);
  }

  #rudeOldActions(add: (kind: number, process: number) => void): void {
    add(K.DIE, 0);
    if (this.#w[RUDENESS] === 0 || !this.#has(0, ASPARENT, P_OPEN) || this.#queue(TO_CHILD + 1).length === 2) return;
    for (let index = 0; index < OLD_LETTERS.length; index += 1) add(K.SAY + index, 0);
  }

  #rudeActions(p: number, add: (kind: number, process: number) => void): void {
    if (this.#w[RUDENESS] === 0 || this.#queue(TO_PARENT + p).length === 2) return; // more at once is no worse
    for (let letter = 0; letter <= L.GARBAGE; letter += 1) add(K.SAY + letter, p);
  }

  /**
   * What happens where nothing goes wrong: a process may freeze, and a deadline may come before mail that answers it; but
   * one that waits for the other side fires only where that is frozen, and then the other one's turn it is to be patient.
   */
  #isCalm(kind: number, p: number): boolean {
    switch (kind) {
      case K.DEADLINE_OLD: {
        const deadline = KID_DEADLINES[(this.#get(p, ARMED) & 15) - 1];
        if (deadline !== 'commit') return deadline !== 'adopt';
        return this.#get(this.#parentOf(p), STATUS) === FROZEN || this.#queue(TO_CHILD + p).includes(L.COMMIT);
      }
      case K.DEADLINE_NEW: {
        const deadline = PARENT_DEADLINES[(this.#get(p, ARMED) >> 4) - 1] ?? '';
        if (deadline === 'probation') return true;
        const awaited = AWAITED[deadline];
        return awaited !== undefined && this.#queue(TO_PARENT + this.#get(p, CHILD)).includes(awaited);
      }
      default:
        return CALM.has(kind);
    }
  }

  #parentActions(p: number, add: (kind: number, process: number) => void): void {
    const child = this.#get(p, CHILD);
    if (this.#has(p, ASPARENT, P_OPEN)) {
      const ended = !this.#childEnd(child) && !this.#has(p, ASPARENT, P_HEARD_END);
      if (ended || this.#w[TO_PARENT + child] !== 0) add(K.READ_NEW, p);
      if (this.#has(p, APP, P_SEND_FAILED)) add(K.SEND_FAILED_NEW, p);
      if (this.#w[GARBAGE] !== 0 && this.#scenario.birth !== 'foreign' && !this.#has(p, ASPARENT, P_ABORT))
        add(K.GARBAGE_NEW, p);
    }
    if (this.#get(p, ARMED) >> 4 !== 0) add(K.DEADLINE_NEW, p);
    add(K.CANCEL, p);
    add(K.SUPERSEDE, p);
    add(K.EXIT, p);
    const foreign = this.#scenario.birth === 'foreign';
    if (foreign && this.#has(child, SAID, ACCEPTED) && !this.#has(p, ASPARENT, P_SEEN)) add(K.FOREIGN_SEEN, p);
  }

  /** An application that is not yet ready may stay so; but where its predecessor has ended it is all that is left. */
  #isOwnStep(action: number): boolean {
    const kind = action & 31;
    if (OWN_STEPS.has(kind)) return true;
    if (this.#scenario.calm === true) return kind !== K.RESTART;
    if (kind === K.TERMINATED) return this.#isAlien(); // TERM is all that it heeds
    if (kind !== K.BOOT && kind !== K.ADOPT && kind !== K.CALL_READY && kind !== K.FOREIGN_ACCEPTS) return false;
    return !this.#parentEnd((action >> 5) & 3);
  }

  // ---- One step ------------------------------------------------------------------------------------------------------------

  #perform(before: Uint8Array, action: number): void {
    this.#w.set(before);
    this.#visible = 0;
    this.#cut = false;
    this.#fails = undefined;
    this.#heardAbort = false;
    this.#cutAfter = (action >> 7) & 15;
    this.#cutHow = action >> 11;
    const kind = action & 31;
    const p = (action >> 5) & 3;
    if (kind < K.SAY) this.#say(`G${p + 1} ${ACTION_TEXTS[kind] ?? ''}`);
    switch (kind) {
      case K.READ_OLD:
        this.#deliverToKid(p, 'readable');
        break;
      case K.READ_NEW:
        this.#deliverToParent(p, 'readable');
        break;
      case K.SEND_FAILED_OLD:
        this.#deliverToKid(p, 'sendFailed');
        break;
      case K.SEND_FAILED_NEW:
        this.#deliverToParent(p, 'sendFailed');
        break;
      case K.DEADLINE_OLD: {
        const deadline = KID_DEADLINES[(this.#get(p, ARMED) & 15) - 1] as SuccessorDeadline;
        this.#put(p, ARMED, this.#get(p, ARMED) & 0xf0);
        this.#deliverToKid(p, { deadline });
        break;
      }
      case K.DEADLINE_NEW: {
        const deadline = PARENT_DEADLINES[(this.#get(p, ARMED) >> 4) - 1] as PredecessorDeadline;
        this.#put(p, ARMED, this.#get(p, ARMED) & 15);
        this.#deliverToParent(p, { deadline });
        break;
      }
      case K.BOOT:
        this.#set(p, APP, BOOTED);
        this.#kidEvent(p, { type: 'start' });
        break;
      case K.BOOT_OTHER:
        this.#set(p, APP, BOOTED);
        this.#w[OTHERS] = (this.#w[OTHERS] as number) | (1 << p);
        this.#kidEvent(p, { type: 'start' });
        this.#w[TO_PARENT + p] = this.#queues.of(this.#queue(TO_PARENT + p).map((l) => (l === L.HELLO ? L.OTHER : l)));
        break;
      case K.ADOPT:
        if (((this.#w[OTHERS] as number) & (1 << p)) !== 0) {
          this.#set(p, BODY, TOLD);
          this.#kidEvent(p, { type: 'failed', code: 'ERR_FDPASS_VERSION', message: '' }); // OFFER names versions too
          break;
        }
        this.#set(p, APP, ADOPTED);
        this.#set(p, BODY, HOLDS);
        this.#kidEvent(p, { type: 'adopted', probation: 1 });
        break;
      case K.CALL_READY:
        this.#set(p, APP, READY_CALLED);
        this.#kidEvent(p, { type: 'ready' });
        break;
      case K.APP_FAILS:
        this.#set(p, BODY, TOLD);
        this.#kidEvent(p, { type: 'failed', code: 'ERR_FDPASS_ABORTED', message: '' });
        this.#checkGone(p);
        break;
      case K.STOP:
        this.#stop(p);
        break;
      case K.RESTART:
        this.#restart(p);
        break;
      case K.CANCEL:
        this.#deliverToParent(p, { event: { type: 'cancel', code: 'ERR_FDPASS_ABORTED', message: '' } });
        this.#checkGivenUp(p);
        break;
      case K.SUPERSEDE:
        this.#deliverToParent(p, { event: { type: 'supersede' } });
        if (!this.#has(p, ASPARENT, P_COMMIT | P_SEEN)) this.#checkGivenUp(p);
        break;
      case K.EXIT:
        this.#exit(p);
        break;
      case K.LEAVE:
      case K.TERMINATED:
        this.#end(p);
        break;
      case K.DIE:
        this.#w[DEATHS] = Math.max(0, (this.#w[DEATHS] as number) - 1);
        this.#end(p);
        break;
      case K.FREEZE:
        this.#w[FREEZES] = (this.#w[FREEZES] as number) - 1;
        this.#put(p, STATUS, FROZEN);
        break;
      case K.THAW:
        this.#put(p, STATUS, ALIVE);
        this.#finishPending(p);
        break;
      case K.GARBAGE_OLD:
        this.#w[GARBAGE] = (this.#w[GARBAGE] as number) - 1;
        this.#send(p, 'kid', L.GARBAGE);
        break;
      case K.GARBAGE_NEW:
        this.#w[GARBAGE] = (this.#w[GARBAGE] as number) - 1;
        this.#send(p, 'parent', L.GARBAGE);
        break;
      case K.FOREIGN_ACCEPTS:
        this.#set(p, BODY, ACCEPTING);
        this.#set(p, SAID, ACCEPTED);
        break;
      case K.FOREIGN_SEEN:
        this.#set(p, ASPARENT, P_SEEN);
        this.#parentEvent(p, { type: 'accepting' });
        break;
      default:
        this.#sayRudely(p, kind - K.SAY);
    }
  }

  #sayRudely(p: number, index: number): void {
    this.#w[RUDENESS] = (this.#w[RUDENESS] as number) - 1;
    const letter = p === 0 ? (OLD_LETTERS[index] as number) : index;
    this.#say(`G${p + 1} says ${LETTERS[letter]?.name ?? '?'}`);
    // That much it keeps to: it says RELEASED when it has closed. Else there is nothing that could be asked of the other.
    if (letter === L.RELEASED) this.#unset(p, BODY, ACCEPTING | HOLDS | PATHS);
    if (letter === L.RELEASED) this.#set(p, BODY, DONE);
    this.#send(p, p === 0 ? 'parent' : 'kid', letter);
  }

  #exit(p: number): void {
    this.#set(p, BODY, TOLD);
    this.#deliverToParent(p, { event: { type: 'exit' } });
    this.#checkGivenUp(p);
    if (!this.#cut) this.#end(p);
  }

  #checkGone(p: number): void {
    if (this.#cut || !this.#lives(p) || this.#has(p, BODY, DONE)) return;
    throw new Violation('heeded', `G${p + 1} was asked to stop, or has failed, and goes on`);
  }

  #checkGivenUp(p: number): void {
    if (this.#cut || !this.#lives(p) || !this.#inTransaction(p)) return;
    throw new Violation('heeded', `G${p + 1} is asked to give its handoff up, and goes on with it`);
  }

  #stop(p: number): void {
    this.#set(p, BODY, TOLD);
    const kid = this.#get(p, KID) !== 0;
    if (p > 0 && !(kid && this.#has(p, APP, BOOTED)) && !this.#has(p, BODY, ALONE)) {
      this.#end(p); // no handler yet, or not a program of ours
    } else if (kid && !this.#has(p, BODY, ALONE)) {
      this.#deliverToKid(p, { event: { type: 'stop' } });
      this.#checkGone(p);
    } else if (this.#get(p, PARENT) !== 0) {
      const open = this.#inTransaction(p);
      this.#deliverToParent(p, { event: { type: 'stop' } });
      if (this.#scenario.birth !== 'takeover') this.#checkGivenUp(p);
      else if (open && this.#fails === 'ERR_FDPASS_ABORTED' && !this.#heardAbort) {
        throw new Violation('heeded', `G${p + 1} was asked to stop, and does not wait for the newcomer`);
      }
    } else {
      this.#settle(p, { role: 'parent', mail: [], ended: false, why: 'stop' });
    }
  }

  #restart(p: number): void {
    if (this.#get(p, KID) === 0) {
      this.#startSuccessor(p);
      return;
    }
    this.#set(p, APP, RESTART_WANTED);
    this.#kidEvent(p, { type: 'restartRequested' });
    if (this.#cut || this.#has(p, BODY, ALONE)) return;
    if (!this.#has(p, APP, RESTART_WANTED))
      throw new Violation('heeded', `G${p + 1} refuses a restart that it could have`);
    if (!this.#has(p, SAID, ACCEPTED)) return;
    if (!this.#has(p, SAID, SAID_RELEASE))
      throw new Violation('heeded', `G${p + 1} was asked for a restart, and says no RELEASE`);
  }

  #startSuccessor(p: number): void {
    if (!this.#canStart(p)) return; // one is under way, or no slot is left
    const slot = this.#freeSlot();
    const { birth } = this.#scenario;
    this.#putSuccessor(p, slot);
    this.#put(p, CHILD, slot);
    this.#put(p, ASPARENT, P_OPEN);
    this.#w[HEARD + p] = 0;
    this.#put(p, PARENT, 1 + this.#parentStates.of(this.#rules.newPredecessor({ birth })));
    this.#parentEvent(p, { type: 'start' });
  }

  #putSuccessor(p: number, slot: number): void {
    const { birth, rude } = this.#scenario;
    if (slot === 2) this.#w[PARENT_OF_LAST] = p;
    this.#put(slot, STATUS, ALIVE);
    this.#put(slot, BODY, birth === 'takeover' ? 0 : HOLDS);
    if (birth === 'foreign') return;
    this.#put(slot, APP, C_OPEN);
    if (rude === undefined) this.#put(slot, KID, 1 + this.#kidStates.of(this.#rules.newSuccessor({ birth })));
  }

  // ---- Machines: their steps, kept by number ---------------------------------------------------------------------------------

  #kidEvent(p: number, event: SuccessorEvent): void {
    const state = this.#get(p, KID) - 1;
    const key = 1 + 4 * (state + 256 * this.#eventNumbers.of(event));
    const outcome = this.#outcome(key, () => {
      const step = this.#rules.successor(this.#kidStates.at(state), event);
      return { state: this.#kidStates.of(step.state), effects: step.effects };
    });
    this.#put(p, KID, 1 + outcome.state);
    this.#run(p, outcome.effects, { role: 'kid', mail: [], ended: false, why: event.type });
  }

  #parentEvent(p: number, event: PredecessorEvent): void {
    const state = this.#get(p, PARENT) - 1;
    const key = 2 + 4 * (state + 256 * this.#eventNumbers.of(event));
    const outcome = this.#outcome(key, () => {
      const step = this.#rules.predecessor(this.#parentStates.at(state), event);
      return { state: this.#parentStates.of(step.state), effects: step.effects };
    });
    this.#put(p, PARENT, 1 + outcome.state);
    this.#run(p, outcome.effects, { role: 'parent', mail: [], ended: false, why: event.type });
  }

  #deliverToKid(p: number, wake: Wake<SuccessorDeadline, SuccessorWish>): void {
    const queue = this.#w[TO_CHILD + p] as number;
    const ended = this.#has(p, APP, C_OPEN) && !this.#parentEnd(p) && !this.#has(p, APP, C_HEARD_END);
    const letters = this.#queues.at(queue);
    this.#w[TO_CHILD + p] = 0;
    if (ended) this.#set(p, APP, C_HEARD_END);
    if (ended || wake === 'sendFailed') this.#unset(p, APP, C_SEND_FAILED);
    const state = this.#get(p, KID) - 1;
    const outcome = this.#delivered(0, state, queue, ended, wake, () => {
      const mail = this.#mail<FromPredecessor>(letters, ended);
      const step = this.#rules.deliver(this.#rules.successor, this.#kidStates.at(state), mail, wake);
      return { state: this.#kidStates.of(step.state), effects: step.effects };
    });
    const cause: Cause = { role: 'kid', mail: letters, ended, why: nameOf(wake) };
    const before = { said: this.#get(p, SAID), alone: this.#has(p, BODY, ALONE) };
    this.#hearAsKid(p, cause);
    this.#put(p, KID, 1 + outcome.state);
    this.#run(p, outcome.effects, cause);
    if (!this.#cut) this.#checkKidHeeded(p, cause, before);
  }

  #deliverToParent(p: number, wake: Wake<PredecessorDeadline, PredecessorWish>): void {
    const child = this.#get(p, CHILD);
    const queue = this.#w[TO_PARENT + child] as number;
    const ended = this.#has(p, ASPARENT, P_OPEN) && !this.#childEnd(child) && !this.#has(p, ASPARENT, P_HEARD_END);
    const letters = this.#queues.at(queue);
    this.#w[TO_PARENT + child] = 0;
    if (ended) this.#set(p, ASPARENT, P_HEARD_END);
    if (ended || wake === 'sendFailed') this.#unset(p, APP, P_SEND_FAILED);
    const state = this.#get(p, PARENT) - 1;
    const outcome = this.#delivered(3, state, queue, ended, wake, () => {
      const mail = this.#mail<FromSuccessor>(letters, ended);
      const step = this.#rules.deliver(this.#rules.predecessor, this.#parentStates.at(state), mail, wake);
      return { state: this.#parentStates.of(step.state), effects: step.effects };
    });
    const cause: Cause = { role: 'parent', mail: letters, ended, why: nameOf(wake) };
    const open = this.#inTransaction(p);
    this.#hearAsParent(p, cause);
    this.#put(p, PARENT, 1 + outcome.state);
    this.#run(p, outcome.effects, cause);
    if (!this.#cut && open) this.#checkParentHeeded(p, cause);
  }

  #mail<Message>(letters: readonly number[], ended: boolean): Mail<Message>[] {
    const mail = letters.map((letter) => LETTERS[letter]?.mail as Mail<Message>);
    return ended ? [...mail, { type: 'ended' }] : mail;
  }

  #delivered(
    tag: number,
    state: number,
    queue: number,
    ended: boolean,
    wake: Wake<SuccessorDeadline | PredecessorDeadline, unknown>,
    compute: () => Outcome,
  ): Outcome {
    let why = wake === 'readable' ? 0 : 1;
    if (typeof wake === 'object') {
      why = 2 + ('event' in wake ? 7 + this.#eventNumbers.of(wake.event) : WAKES.indexOf(wake.deadline));
    }
    return this.#outcome(tag + 4 * (state + 256 * (queue + 256 * (why + 32 * (ended ? 1 : 0)))), compute);
  }

  #outcome(key: number, compute: () => Outcome): Outcome {
    let outcome = this.#outcomes.get(key);
    if (outcome === undefined) {
      outcome = withoutThrowing(compute);
      this.#outcomes.set(key, outcome);
    }
    return outcome;
  }

  // ---- Effects -------------------------------------------------------------------------------------------------------------

  /** Carries out the effects of a step, or as many as come before the cut, and what follows from them. */
  #run(p: number, effects: readonly Effect[], cause: Cause): void {
    if (this.#log !== undefined) this.#describe(effects, cause);
    for (let index = 0; index < effects.length; index += 1) {
      const effect = effects[index] as Effect;
      this.#apply(p, effect, cause);
      if (!VISIBLE.has(effect.type)) continue;
      this.#visible += 1;
      if (this.#cutHow === 0 || this.#visible !== this.#cutAfter) continue;
      this.#cut = true;
      if (this.#cutHow === CUT_DIES) {
        this.#say(`    and dies (SIGKILL) right after its ${textOf(effect)}`);
        this.#w[DEATHS] = (this.#w[DEATHS] as number) - 1;
        this.#end(p);
      } else {
        this.#say(`    and freezes (SIGSTOP) right after its ${textOf(effect)}`);
        this.#w[FREEZES] = (this.#w[FREEZES] as number) - 1;
        this.#put(p, STATUS, FROZEN);
        this.#setPending(p, 1 + this.#pendings.of({ effects: effects.slice(index + 1), cause }));
      }
      return;
    }
    this.#settle(p, cause);
  }

  #finishPending(p: number): void {
    const pending = this.#pending(p);
    if (pending === undefined) return;
    this.#setPending(p, 0);
    this.#resumed = true;
    this.#run(p, pending.effects, pending.cause);
    this.#resumed = false;
  }

  /** The rest of the step that `p` is in the middle of. */
  #pending(p: number): { effects: Effect[]; cause: Cause } | undefined {
    const at = PENDING + 2 * p;
    const number = (this.#w[at] as number) + 256 * (this.#w[at + 1] as number);
    return number === 0 ? undefined : this.#pendings.at(number - 1);
  }

  #setPending(p: number, number: number): void {
    this.#w[PENDING + 2 * p] = number & 255;
    this.#w[PENDING + 2 * p + 1] = number >> 8;
  }

  #apply(p: number, effect: Effect, cause: Cause): void {
    const me = `G${p + 1}`;
    if (cause.role === 'parent' && this.#has(p, ASPARENT, P_ABORT) && !AFTER_ABORT.has(effect.type)) {
      throw new Violation('final', `${me} has said ABORT, and then: ${textOf(effect)}`);
    }
    if (
      cause.role === 'kid' &&
      this.#has(p, SAID, SAID_ABORT) &&
      (effect.type === 'send' || effect.type === 'accept')
    ) {
      throw new Violation('final', `${me} has said ABORT, and then: ${textOf(effect)}`);
    }
    this.#reached.add(milestone(p, effect));
    switch (effect.type) {
      case 'send':
        this.#applySend(p, effect.message.type, cause);
        break;
      case 'arm':
        if (cause.role === 'kid') {
          const number = 1 + KID_DEADLINES.indexOf(effect.deadline as SuccessorDeadline);
          this.#put(p, ARMED, (this.#get(p, ARMED) & 0xf0) | number);
        } else {
          const number = 1 + PARENT_DEADLINES.indexOf(effect.deadline as PredecessorDeadline);
          this.#put(p, ARMED, (this.#get(p, ARMED) & 15) | (number << 4));
        }
        break;
      case 'disarm':
        this.#put(p, ARMED, this.#get(p, ARMED) & (cause.role === 'kid' ? 0xf0 : 15));
        break;
      case 'closeListeners':
        this.#checkProofOfParent(p, cause);
        this.#unset(p, BODY, ACCEPTING | HOLDS | PATHS);
        this.#set(p, BODY, DONE);
        break;
      case 'terminate':
        this.#terminate(p, effect.gently, cause);
        break;
      case 'kill':
        if (cause.why !== 'gone' || cause.ended)
          throw new Violation('outcome', `${me} kills its successor on ${cause.why}`);
        this.#end(this.#get(p, CHILD));
        break;
      case 'fail':
        if (this.#scenario.calm === true) throw new Violation('success', `${me} fails with ${effect.code}`);
        if (cause.role === 'kid') {
          if (this.#has(p, SAID, ACCEPTED)) throw new Violation('outcome', `${me} accepted, and rejects ready()`);
          if ('ended' in effect && effect.ended && !this.#mayStartCold(p, cause)) {
            throw new Violation('outcome', `${me} says that its predecessor was gone, and may start cold`);
          }
          this.#set(p, BODY, LOST | DONE);
        } else {
          if (!this.#inTransaction(p))
            throw new Violation('outcome', `${me} ends its handoff a second time, with ${effect.code}`);
          this.#checkVerdict(p, effect, cause);
          this.#fails = effect.code;
          this.#set(p, ASPARENT, P_FAILED);
        }
        break;
      case 'succeed':
        if (!this.#inTransaction(p))
          throw new Violation('outcome', `${me} ends its handoff a second time, with success`);
        if (this.#has(p, BODY, ACCEPTING | HOLDS))
          throw new Violation('outcome', `${me} has let go of nothing, and reports success`);
        if (this.#scenario.birth !== 'foreign' && !this.#has(p, ASPARENT, P_RELEASED)) {
          throw new Violation('outcome', `${me} has not said RELEASED, and reports success`);
        }
        this.#set(p, ASPARENT, P_SUCCEEDED);
        break;
      case 'clear':
        if (this.#inTransaction(p)) throw new Violation('outcome', `${me} clears a handoff that is under way`);
        if (!this.#has(p, ASPARENT, P_HEARD_END) && this.#scenario.birth !== 'takeover') {
          throw new Violation('leak', `${me} forgets its successor, which has not let go`);
        }
        this.#closeParentEnd(p);
        break;
      case 'accept':
        this.#checkAccept(p, cause);
        this.#set(p, BODY, ACCEPTING);
        this.#set(p, SAID, ACCEPTED);
        break;
      case 'alone':
        this.#checkAlone(p);
        this.#set(p, BODY, ALONE | PATHS);
        break;
      case 'startSuccessor':
        if (!this.#has(p, BODY, ALONE))
          throw new Violation('alone', `${me} starts a successor, and its predecessor has not let go`);
        this.#checkWanted(p);
        this.#startSuccessor(p);
        break;
      case 'refuseRestart':
        if (this.#has(p, BODY, ALONE)) throw new Violation('heeded', `${me} is alone, and refuses a restart`);
        if (cause.why === 'released' && this.#has(p, SAID, HEARD_END) && !this.#has(p, BODY, LOST)) {
          throw new Violation(
            'mailFirst',
            `${me} refuses a restart for want of an answer, and the answer was in its mail`,
          );
        }
        this.#checkWanted(p);
        break;
      case 'closeAll':
        if (this.#has(p, SAID, ACCEPTED)) throw new Violation('proof', `${me} accepted, and closes everything`);
        this.#checkWord(p, cause);
        this.#unset(p, BODY, HOLDS);
        this.#closeChildEnd(p);
        break;
      case 'stopAccepting':
        this.#checkProofOfKid(p, cause);
        this.#checkWord(p, cause);
        this.#unset(p, BODY, ACCEPTING | HOLDS);
        this.#closeChildEnd(p);
        break;
      case 'leave':
        if (!this.#has(p, SAID, ACCEPTED)) throw new Violation('outcome', `${me} never accepted, and leaves in peace`);
        this.#set(p, BODY, LOST | DONE);
        break;
      case 'report':
        if (effect.what === 'split') this.#checkSplit(p, cause);
        break;
      default:
        throw new Violation('total', `no effect ${JSON.stringify(effect satisfies never)}`);
    }
  }

  /** TERM at once is for one that cannot have accepted anything, as far as can be known. */
  #terminate(p: number, gently: boolean, cause: Cause): void {
    const child = this.#get(p, CHILD);
    if (this.#scenario.birth === 'takeover') throw new Violation('outcome', `G${p + 1} ends one that is not its child`);
    if (!this.#lives(child)) return;
    const known = this.#scenario.birth !== 'foreign' || this.#has(p, ASPARENT, P_SEEN);
    if (!gently && known && this.#has(child, SAID, ACCEPTED) && !cause.mail.includes(L.GARBAGE)) {
      throw new Violation('outcome', `G${p + 1} ends G${child + 1} at once, and it has accepted connections`);
    }
    if (gently && !heard(cause).includes(L.ABORT) && !this.#has(p, ASPARENT, P_COMMIT | P_SEEN)) {
      throw new Violation('outcome', `G${p + 1} lets G${child + 1} finish what it cannot have`);
    }
    this.#set(child, BODY, TERMED);
  }

  #applySend(p: number, type: string, cause: Cause): void {
    const me = `G${p + 1}`;
    switch (type) {
      case 'HELLO':
        this.#send(p, 'kid', L.HELLO);
        break;
      case 'READY':
        if (!this.#has(p, APP, ADOPTED) || !this.#has(p, APP, READY_CALLED)) {
          throw new Violation('told', `${me} says READY, and is not`);
        }
        if (this.#has(p, SAID, SAID_READY)) throw new Violation('outcome', `${me} says READY twice`);
        this.#set(p, SAID, SAID_READY);
        this.#send(p, 'kid', L.READY);
        break;
      case 'SERVING':
        if (!this.#has(p, BODY, ACCEPTING)) throw new Violation('proof', `${me} says SERVING, and does not accept`);
        if (this.#has(p, SAID, SAID_SERVING)) throw new Violation('outcome', `${me} says SERVING twice`);
        this.#set(p, SAID, SAID_SERVING);
        this.#send(p, 'kid', L.SERVING);
        break;
      case 'RELEASE':
        if (!this.#has(p, BODY, ACCEPTING) || !this.#has(p, SAID, SAID_SERVING)) {
          throw new Violation('proof', `${me} says RELEASE, and does not accept or has not said SERVING`);
        }
        if (cause.why !== 'probation' && cause.why !== 'restartRequested') {
          throw new Violation('proof', `${me} says RELEASE before its probation is over (on ${cause.why})`);
        }
        if (this.#has(p, SAID, SAID_RELEASE)) throw new Violation('outcome', `${me} says RELEASE twice`);
        this.#set(p, SAID, SAID_RELEASE);
        this.#send(p, 'kid', L.RELEASE);
        break;
      case 'COMMIT':
        if (this.#has(p, ASPARENT, P_COMMIT)) throw new Violation('outcome', `${me} says COMMIT twice`);
        this.#set(p, ASPARENT, P_COMMIT);
        this.#send(p, 'parent', L.COMMIT);
        break;
      case 'RELEASED':
        if (this.#has(p, BODY, ACCEPTING | HOLDS | PATHS)) {
          throw new Violation('paths', `${me} says RELEASED, and has not closed its listeners yet`);
        }
        this.#set(p, ASPARENT, P_RELEASED);
        this.#send(p, 'parent', L.RELEASED);
        break;
      case 'ABORT':
        if (this.#scenario.calm === true) throw new Violation('success', `${me} says ABORT`);
        if (cause.role === 'kid') {
          this.#set(p, SAID, SAID_ABORT);
          this.#set(p, BODY, LOST);
          this.#send(p, 'kid', L.ABORT);
        } else {
          if (!this.#has(p, BODY, ACCEPTING))
            throw new Violation('accepts', `${me} says ABORT, and does not accept itself`);
          this.#set(p, ASPARENT, P_ABORT);
          this.#send(p, 'parent', L.ABORT);
        }
        break;
      default:
        throw new Violation('total', `no message ${type}`);
    }
  }

  #send(p: number, role: 'kid' | 'parent', letter: number): void {
    if (role === 'kid') {
      if (this.#parentEnd(p)) this.#push(TO_PARENT + p, letter);
      else if (this.#has(p, APP, C_OPEN)) this.#set(p, APP, C_SEND_FAILED);
      return;
    }
    if (this.#scenario.birth === 'foreign') throw new Violation('total', `G${p + 1} speaks to one that has no channel`);
    const child = this.#get(p, CHILD);
    if (!this.#childEnd(child)) this.#set(p, APP, P_SEND_FAILED);
    else if (!this.#has(child, SAID, HEARD_GARBAGE)) this.#push(TO_CHILD + child, letter);
  }

  #closeChildEnd(p: number): void {
    this.#unset(p, APP, C_OPEN | C_SEND_FAILED);
    this.#w[TO_CHILD + p] = 0;
  }

  /** The transaction is forgotten. */
  #closeParentEnd(p: number): void {
    this.#w[TO_PARENT + this.#get(p, CHILD)] = 0;
    this.#put(p, CHILD, 0);
    this.#put(p, PARENT, 0);
    this.#put(p, ASPARENT, 0);
    this.#w[HEARD + p] = 0;
    this.#unset(p, APP, P_SEND_FAILED);
  }

  /** The end of a process: nothing is left of it but what it has written. */
  #end(p: number): void {
    if (p > 0) this.#w[TO_CHILD + p] = 0;
    const child = this.#get(p, CHILD);
    if (child !== 0) this.#w[TO_PARENT + child] = 0;
    const accepted = this.#scenario.birth === 'foreign' ? this.#get(p, SAID) & ACCEPTED : 0;
    this.#w.fill(0, p * STRIDE, (p + 1) * STRIDE);
    this.#put(p, STATUS, DEAD);
    this.#put(p, SAID, accepted);
    this.#w[HEARD + p] = 0;
    this.#w[OTHERS] = (this.#w[OTHERS] as number) & ~(1 << p);
    this.#setPending(p, 0);
  }

  /** What follows by itself once a step is done: the aborted and the stopped close what they have, and go. */
  #settle(p: number, cause: Cause): void {
    if (!this.#lives(p)) return;
    const alone = this.#has(p, BODY, ALONE);
    if (this.#get(p, KID) !== 0 && !alone) {
      if (!this.#has(p, BODY, DONE)) return;
      if (this.#has(p, BODY, HOLDS | ACCEPTING) || this.#has(p, APP, C_OPEN) || (this.#get(p, ARMED) & 15) !== 0) {
        throw new Violation('leak', `G${p + 1} leaves, and has not closed what it held, or has a timer`);
      }
      if (this.#has(p, APP, RESTART_WANTED))
        throw new Violation('heeded', `G${p + 1} leaves, and leaves a restart request unanswered`);
      if (!this.#excused(p, cause)) throw new Violation('accepts', `G${p + 1} gives up, and nobody has told it to`);
      this.#end(p);
    } else if (this.#has(p, BODY, TOLD) && !this.#has(p, BODY, DONE) && !this.#inTransaction(p)) {
      this.#unset(p, BODY, ACCEPTING | HOLDS | PATHS);
      this.#set(p, BODY, DONE);
    }
  }

  // ---- Invariants of a step -------------------------------------------------------------------------------------------------

  #hearAsKid(p: number, cause: Cause): void {
    const letters = heard(cause);
    if (letters.includes(L.COMMIT)) this.#set(p, SAID, HEARD_COMMIT);
    if (cause.ended || letters.includes(L.RELEASED)) this.#set(p, SAID, HEARD_END);
    if (cause.mail.includes(L.GARBAGE) && !letters.includes(L.ABORT)) this.#set(p, SAID, HEARD_GARBAGE);
    if (letters.includes(L.ABORT) && !letters.includes(L.RELEASED) && !this.#has(p, BODY, ALONE))
      this.#set(p, BODY, LOST);
  }

  /** HELLO, READY, SERVING, RELEASE: in this order, or it is no word of ours. */
  #hearAsParent(p: number, cause: Cause): void {
    const letters = heard(cause);
    this.#heardAbort = letters.includes(L.ABORT);
    for (const letter of letters) {
      const at = this.#w[HEARD + p] as number;
      if (letter === L.ABORT || at >= OTHER_VERSION) continue;
      if (ORDER[at] === letter) this.#w[HEARD + p] = at + 1;
      else this.#w[HEARD + p] = at + (letter === L.OTHER && at === 0 ? OTHER_VERSION : NONSENSE);
    }
  }

  #checkAccept(p: number, cause: Cause): void {
    const me = `G${p + 1}`;
    if (this.#has(p, SAID, ACCEPTED)) throw new Violation('outcome', `${me} begins to accept twice`);
    if (!this.#has(p, APP, ADOPTED) || !this.#has(p, APP, READY_CALLED))
      throw new Violation('told', `${me} accepts before it is ready`);
    if (this.#has(p, BODY, LOST)) throw new Violation('told', `${me} accepts, and ABORT was read or said`);
    if (this.#has(p, SAID, HEARD_END)) return;
    if (!this.#has(p, SAID, SAID_READY)) throw new Violation('told', `${me} accepts, and has not said READY`);
    if (heard(cause).includes(L.COMMIT)) return;
    if (this.#has(p, SAID, HEARD_COMMIT))
      throw new Violation('heeded', `${me} was told to accept, and then waited in vain`);
    if (cause.why === 'commit') return;
    throw new Violation('told', `${me} accepts without COMMIT, though its predecessor has not ended`);
  }

  #checkAlone(p: number): void {
    const me = `G${p + 1}`;
    if (this.#has(p, BODY, ALONE)) throw new Violation('outcome', `${me} becomes alone twice`);
    if (!this.#has(p, BODY, ACCEPTING)) throw new Violation('accepts', `${me} is alone, and does not accept`);
    if (this.#has(p, BODY, LOST)) throw new Violation('paths', `${me} calls itself alone, and ABORT was read or said`);
    for (let other = 0; other < SLOTS; other += 1) {
      if (other === p || !this.#lives(other)) continue;
      if (this.#has(other, BODY, PATHS))
        throw new Violation('paths', `${me} takes the Unix paths, and G${other + 1} still owns them`);
      if (this.#parentOf(p) === other && this.#has(other, BODY, ACCEPTING)) {
        throw new Violation('paths', `${me} calls itself alone, and G${other + 1} still accepts`);
      }
    }
  }

  #checkSplit(p: number, cause: Cause): void {
    const letters = heard(cause);
    if (cause.ended || letters.includes(L.COMMIT) || letters.includes(L.ABORT)) {
      throw new Violation(
        'mailFirst',
        `G${p + 1} accepts for want of an answer, and the answer was in its mail: ${mailText(cause)}`,
      );
    }
  }

  /** The one way for the old side to stop accepting. */
  #checkProofOfParent(p: number, cause: Cause): void {
    const me = `G${p + 1}`;
    const child = this.#get(p, CHILD);
    const other = `G${child + 1}`;
    if (this.#scenario.birth === 'foreign') {
      if (cause.why !== 'probation' || !this.#has(p, ASPARENT, P_SEEN))
        throw new Violation('proof', `${me} stops accepting before ${other} has lived through its probation`);
      if (cause.ended)
        throw new Violation('mailFirst', `${me} stops accepting, and the end of ${other} was there to be seen`);
    } else if (!heard(cause).includes(L.RELEASE) || this.#w[HEARD + p] !== ORDER.length) {
      throw new Violation(
        'proof',
        `${me} stops accepting, and RELEASE does not stand in what it read: ${mailText(cause)}`,
      );
    }
    if (this.#scenario.rude !== undefined) return; // a lie that is well told is believed
    if (this.#resumed) return; // frozen between the proof and the deed: what happened meanwhile it cannot know
    if (!this.#lives(child) || !this.#has(child, BODY, ACCEPTING))
      throw new Violation('proof', `${me} stops accepting, and ${other} does not accept`);
    if (this.#scenario.birth !== 'foreign' && !this.#has(child, SAID, SAID_RELEASE)) {
      throw new Violation('proof', `${me} stops accepting, and ${other} is still on probation`);
    }
  }

  /** The new side stops when it is stopped, when the old one says that it goes on, or shows that it is out of its mind. */
  #checkProofOfKid(p: number, cause: Cause): void {
    if (this.#has(p, BODY, TOLD)) return;
    if (this.#has(p, BODY, ALONE)) throw new Violation('proof', `G${p + 1} is alone, and stops accepting`);
    if (heard(cause).includes(L.ABORT)) return;
    const dying = cause.ended && this.#scenario.birth === 'spawn';
    if (cause.mail.includes(L.GARBAGE) && !dying && !this.#has(p, SAID, SAID_RELEASE)) return;
    throw new Violation('proof', `G${p + 1} stops accepting, and nobody has said ABORT`);
  }

  #checkWanted(p: number): void {
    if (!this.#has(p, APP, RESTART_WANTED))
      throw new Violation('heeded', `G${p + 1} answers a request that nobody has made`);
    this.#unset(p, APP, RESTART_WANTED);
  }

  /** Who gives up says so, to one that lives and has not said it first. */
  #checkWord(p: number, cause: Cause): void {
    if (this.#has(p, SAID, SAID_ABORT | HEARD_END) || heard(cause).includes(L.ABORT)) return;
    throw new Violation('heeded', `G${p + 1} gives up without a word`);
  }

  /** Over the takeover path, where the old one has left before it had handed over; not where it never was one of ours. */
  #mayStartCold(p: number, cause: Cause): boolean {
    if (this.#scenario.birth === 'spawn' || this.#has(p, APP, ADOPTED)) return false;
    if (heard(cause).includes(L.RELEASED)) return true;
    return !cause.mail.includes(L.GARBAGE) && (cause.ended || cause.why === 'sendFailed');
  }

  /** A successor that gives up had better been told to: else it should have gone on, in case the old one ends. */
  #excused(p: number, cause: Cause): boolean {
    if (this.#has(p, BODY, TOLD) || heard(cause).includes(L.ABORT)) return true;
    if (heard(cause).includes(L.COMMIT) && !this.#has(p, SAID, SAID_READY)) return true; // of a rude one
    if (this.#scenario.birth === 'takeover' && !this.#has(p, APP, ADOPTED)) return true; // it never had the set
    if (cause.mail.includes(L.GARBAGE)) return this.#scenario.birth === 'takeover' || !cause.ended;
    return false;
  }

  /** The caller learns what happened, and how far the handoff had come. A silence is judged with all mail read. */
  #checkVerdict(p: number, effect: { code: string; phase: string }, cause: Cause): void {
    const text = `G${p + 1} ends its handoff in ${effect.phase} with ${effect.code}, and it had read: ${mailText(cause)}`;
    const said = this.#w[HEARD + p] as number;
    let phase = this.#has(p, ASPARENT, P_COMMIT) ? 'committing' : 'offered';
    if (this.#has(p, ASPARENT, P_SEEN) || said % OTHER_VERSION >= 3) phase = 'probation';
    const silence = PARENT_DEADLINES.includes(cause.why as PredecessorDeadline) ? SILENCES[phase] : undefined;
    let code = silence?.code ?? ASKED_FOR[cause.why] ?? 'none';
    if (cause.why === 'supersede' && phase !== 'offered') code = 'none';
    if (cause.ended || cause.why === 'sendFailed') {
      code = phase === 'probation' ? 'ERR_FDPASS_PROBATION' : 'ERR_FDPASS_SUCCESSOR_EXITED';
    }
    if (cause.mail.includes(L.GARBAGE) || said >= NONSENSE) code = 'ERR_FDPASS_PROTOCOL';
    if (said >= OTHER_VERSION && said < NONSENSE) code = 'ERR_FDPASS_VERSION';
    if (heard(cause).includes(L.ABORT)) code = 'ERR_FDPASS_ABORTED';
    if (effect.code === silence?.code && (effect.code !== code || heard(cause).includes(silence.letter))) {
      throw new Violation('mailFirst', text);
    }
    if (effect.code !== code || effect.phase !== phase)
      throw new Violation('outcome', `${text}: ${phase}, ${code} would be right`);
  }

  #checkKidHeeded(p: number, cause: Cause, before: { said: number; alone: boolean }): void {
    if (!this.#lives(p) || before.alone) return;
    const me = `G${p + 1}`;
    const letters = heard(cause);
    const text = `${me} has read ${mailText(cause)}, and does not act on it`;
    const released = letters.includes(L.RELEASED);
    if (letters.includes(L.ABORT) && !released) throw new Violation('leak', text);
    const garbage = cause.mail.includes(L.GARBAGE) && !released;
    const dying = cause.ended && this.#scenario.birth === 'spawn'; // over the takeover path the end may be no death
    if (garbage && (before.said & SAID_RELEASE) === 0 && !dying) throw new Violation('heeded', text);
    if ((before.said & SAID_READY) === 0) return;
    if (letters.includes(L.COMMIT) && !this.#has(p, SAID, ACCEPTED)) throw new Violation('heeded', text);
    if ((cause.ended || released) && !this.#has(p, BODY, ALONE)) throw new Violation('heeded', text);
  }

  #checkParentHeeded(p: number, cause: Cause): void {
    if (!this.#lives(p) || !this.#inTransaction(p)) return; // it has given up, or let go
    const letters = heard(cause);
    const text = `G${p + 1} has read ${mailText(cause)}, and does not act on it`;
    if (cause.ended || letters.includes(L.ABORT) || cause.mail.includes(L.GARBAGE)) throw new Violation('heeded', text);
    if ((this.#w[HEARD + p] as number) >= OTHER_VERSION) throw new Violation('heeded', text);
    if (letters.includes(L.READY) && !this.#has(p, ASPARENT, P_COMMIT)) throw new Violation('heeded', text);
    if (letters.includes(L.RELEASE)) throw new Violation('heeded', text);
  }

  // ---- Invariants of a state -------------------------------------------------------------------------------------------------

  #check(): void {
    let holders = 0;
    for (let p = 0; p < SLOTS; p += 1) {
      if (!this.#lives(p)) continue;
      if (this.#has(p, BODY, HOLDS) && !this.#isOutOfReach(p)) holders += 1;
      if (this.#pending(p) !== undefined) continue; // in the middle of a step
      this.#checkKid(p);
      this.#checkParent(p);
    }
    if (holders > 2) throw new Violation('holders', `${holders} processes hold the listener`);
    this.#checkSomebodyAccepts();
  }

  /**
   * A newcomer over the takeover path that was given up, and is frozen: it is not its predecessor's to kill, and to wait for
   * it would let it block every later one.
   */
  #isOutOfReach(p: number): boolean {
    if (this.#scenario.birth !== 'takeover' || p === 0 || this.#has(p, BODY, ALONE)) return false;
    return this.#has(p, BODY, LOST) || this.#abortWaits(p) || !this.#parentEnd(p);
  }

  #checkKid(p: number): void {
    if (this.#get(p, KID) === 0) return;
    const me = `G${p + 1}`;
    const armed = (this.#get(p, ARMED) & 15) !== 0;
    if (this.#has(p, BODY, ALONE)) {
      if (armed) throw new Violation('deadline', `${me} is alone, and a deadline of the handoff is armed`);
      if (this.#has(p, APP, RESTART_WANTED))
        throw new Violation('heeded', `${me} is alone, and does not start the successor that was asked for`);
      return;
    }
    if (this.#has(p, BODY, LOST) && (this.#has(p, BODY, HOLDS | ACCEPTING) || this.#has(p, APP, C_OPEN))) {
      throw new Violation('leak', `${me} has lost, and still holds what it was given`);
    }
    if (armed) {
      if (this.#has(p, APP, ADOPTED) && !this.#has(p, SAID, SAID_READY)) {
        throw new Violation('deadline', `${me} waits for nothing but its application, and a deadline is armed`);
      }
      return;
    }
    if (this.#has(p, SAID, SAID_READY))
      throw new Violation('deadline', `${me} waits for its predecessor without a deadline`);
    if (this.#scenario.birth === 'takeover' && this.#has(p, APP, BOOTED) && !this.#has(p, APP, ADOPTED)) {
      throw new Violation('deadline', `${me} waits for the set without a deadline`);
    }
  }

  #checkParent(p: number): void {
    const me = `G${p + 1}`;
    const armed = this.#get(p, ARMED) >> 4 !== 0;
    if (this.#get(p, PARENT) === 0 || this.#has(p, ASPARENT, P_SUCCEEDED)) {
      if (armed) throw new Violation('deadline', `${me} has no handoff under way, and a deadline of it is armed`);
    } else if (!armed) {
      throw new Violation('deadline', `${me} waits for its successor without a deadline`);
    }
    if (!this.#has(p, ASPARENT, P_FAILED)) return;
    if (this.#has(p, ASPARENT, P_HEARD_END))
      throw new Violation('leak', `${me} knows of its successor's end, and keeps its handoff`);
    const child = this.#get(p, CHILD);
    if (this.#scenario.birth !== 'takeover' && this.#lives(child) && !this.#has(child, BODY, TERMED)) {
      throw new Violation('leak', `${me} has given up G${child + 1}, and leaves it running`);
    }
  }

  /** Somebody has to answer for the service: everyone who lives and was not told to leave. */
  #checkSomebodyAccepts(): void {
    let responsible = 0;
    let awake = 0;
    let frozenOnes = 0;
    for (let p = 0; p < SLOTS; p += 1) {
      if (!this.#lives(p) || !this.#isResponsible(p)) continue;
      responsible += 1;
      const able = this.#has(p, BODY, ACCEPTING) || this.#willAccept(p);
      if (this.#get(p, STATUS) === FROZEN) {
        if (able) frozenOnes += 1;
        continue;
      }
      if (able) return;
      awake += 1;
    }
    if (responsible === 0) return;
    if (awake === 0 && frozenOnes > 0) return;
    throw new Violation('accepts', 'nobody accepts, or will by its own next step');
  }

  #isResponsible(p: number): boolean {
    if (this.#has(p, BODY, TOLD | DONE | TERMED | LOST)) return false;
    if (p === 0 || this.#has(p, BODY, ALONE)) return true;
    if (this.#scenario.rude !== undefined) return false;
    if (this.#scenario.birth === 'foreign') return this.#has(p, SAID, ACCEPTED);
    if (this.#scenario.birth === 'takeover' && !this.#has(p, APP, ADOPTED)) return false;
    if (this.#abortWaits(p)) return false;
    // Garbage is the word of a predecessor that lives, and goes on, where its end does not stand behind it.
    if (this.#queue(TO_CHILD + p).includes(L.GARBAGE)) {
      return this.#scenario.birth === 'spawn' && !this.#parentEnd(p);
    }
    return true;
  }

  #abortWaits(p: number): boolean {
    return p > 0 && this.#queue(TO_CHILD + p).includes(L.ABORT);
  }

  /** Whether a successor comes to accept by nothing but its own steps, with the mail that it has now. */
  #willAccept(p: number): boolean {
    const state = this.#get(p, KID);
    if (state === 0) return false;
    const queue = this.#w[TO_CHILD + p] as number;
    const ended = this.#has(p, APP, C_OPEN) && !this.#parentEnd(p) && !this.#has(p, APP, C_HEARD_END);
    const app = this.#get(p, APP) & (BOOTED | ADOPTED | READY_CALLED);
    const armed = this.#get(p, ARMED) & 15;
    const key = state + 256 * (queue + 256 * (app + 8 * (armed + 16 * (ended ? 1 : 0))));
    let answer = this.#canAccept.get(key);
    if (answer === undefined) {
      const mail = this.#mail<FromPredecessor>(this.#queues.at(queue), ended);
      const kid = this.#kidStates.at(state - 1);
      answer = withoutThrowing(() => this.#comesToAccept(kid, mail, app, armed));
      this.#canAccept.set(key, answer);
    }
    return answer;
  }

  #comesToAccept(state: SuccessorState, mail: Mail<FromPredecessor>[], app: number, armed: number): boolean {
    const { successor, deliver } = this.#rules;
    const visited = new Set<string>();
    const walk = (at: SuccessorState, letters: Mail<FromPredecessor>[], done: number, timer: number): boolean => {
      const key = JSON.stringify([at, letters.length, done, timer]);
      if (visited.has(key)) return false;
      visited.add(key);
      const follow = (
        step: machine.Step<SuccessorState, SuccessorEffect>,
        rest: Mail<FromPredecessor>[],
        now: number,
        clock: number,
      ): boolean => {
        for (const effect of step.effects) {
          if (effect.type === 'accept') return true;
          if (effect.type === 'fail' || effect.type === 'leave') return false;
          if (effect.type === 'arm') clock = 1 + KID_DEADLINES.indexOf(effect.deadline);
          if (effect.type === 'disarm') clock = 0;
        }
        return walk(step.state, rest, now, clock);
      };
      if ((done & BOOTED) === 0) return follow(successor(at, { type: 'start' }), letters, done | BOOTED, timer);
      if (letters.length > 0 && follow(deliver(successor, at, letters, 'readable'), [], done, timer)) return true;
      const deadline = KID_DEADLINES[timer - 1];
      if (deadline !== undefined && follow(deliver(successor, at, letters, { deadline }), [], done, 0)) return true;
      if ((done & ADOPTED) === 0)
        return follow(successor(at, { type: 'adopted', probation: 1 }), letters, done | ADOPTED, timer);
      if ((done & READY_CALLED) === 0)
        return follow(successor(at, { type: 'ready' }), letters, done | READY_CALLED, timer);
      return false;
    };
    return walk(state, mail, app, armed);
  }

  /** One serves, alone and with all that goes with it, and nobody else is left. Or all have gone. */
  #isGood(): boolean {
    if (this.#scenario.rudeOld !== undefined) return true; // it may keep the other waiting for ever
    let one = -1;
    for (let p = 0; p < SLOTS; p += 1) {
      if (!this.#lives(p)) continue;
      if (one >= 0) return false;
      one = p;
    }
    if (one < 0) return true;
    if (this.#has(one, BODY, DONE) || this.#get(one, PARENT) !== 0) return false;
    if (one > 0 && this.#scenario.rude !== undefined) return true;
    const whole = one > 0 && this.#scenario.birth === 'foreign' ? ACCEPTING | HOLDS : ACCEPTING | HOLDS | PATHS | ALONE;
    return (this.#get(one, BODY) & whole) === whole;
  }

  // ---- Telling ---------------------------------------------------------------------------------------------------------------

  #say(line: string): void {
    this.#log?.push(line);
  }

  #describe(effects: readonly Effect[], cause: Cause): void {
    const log = this.#log;
    if (log === undefined) return;
    const read = cause.mail.length > 0 || cause.ended ? ` (reads: ${mailText(cause)})` : '';
    const why = log.at(-1)?.endsWith('has a deadline') === true ? ` "${cause.why}"` : '';
    const done = effects.map(textOf);
    log[log.length - 1] += `${why}${read}: ${done.length > 0 ? done.join(', ') : 'nothing follows'}`;
  }
}

const WAKES: readonly string[] = [
  ...KID_DEADLINES,
  ...PARENT_DEADLINES.filter((name) => name !== 'commit' && name !== 'probation'),
];

/** What a predecessor can say. */
const OLD_LETTERS: readonly number[] = [L.COMMIT, L.RELEASED, L.ABORT, L.GARBAGE];

/** The whole dialog of a successor. Once something else has come, OTHER_VERSION or NONSENSE is added to what was right. */
const ORDER: readonly number[] = [L.HELLO, L.READY, L.SERVING, L.RELEASE];
const OTHER_VERSION = 8;
const NONSENSE = 16;

/** How the old side calls an end that somebody has asked for. */
const ASKED_FOR: Readonly<Record<string, string>> = {
  cancel: 'ERR_FDPASS_ABORTED',
  stop: 'ERR_FDPASS_ABORTED',
  exit: 'ERR_FDPASS_ABORTED',
  supersede: 'ERR_FDPASS_SUPERSEDED',
};

/** What the old side waits for in each phase, and how it calls its not coming. */
const SILENCES: Readonly<Record<string, { letter: number; code: string }>> = {
  offered: { letter: L.READY, code: 'ERR_FDPASS_READY_TIMEOUT' },
  committing: { letter: L.SERVING, code: 'ERR_FDPASS_COMMIT_TIMEOUT' },
  probation: { letter: L.RELEASE, code: 'ERR_FDPASS_PROBATION' },
};

/** The deadlines of the old side that something in the mail can answer. */
const AWAITED: Readonly<Record<string, number>> = { ready: L.READY, commit: L.SERVING, release: L.RELEASE };

/** What one that has said ABORT may still do: see to it that the other lets go. */
const AFTER_ABORT: ReadonlySet<Effect['type']> = new Set([
  'terminate',
  'kill',
  'fail',
  'clear',
  'arm',
  'disarm',
] as const);

/** A machine has a meaning for everything. */
function withoutThrowing<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw error instanceof TooMany ? error : new Violation('total', `a machine threw: ${String(error)}`);
  }
}

function nameOf(wake: Wake<string, { type: string }>): string {
  if (wake === 'readable') return 'mail';
  if (wake === 'sendFailed') return wake;
  return 'event' in wake ? wake.event.type : wake.deadline;
}

/**
 * What stands of the mail, by the rules and not by the code that is tested: nothing after ABORT or garbage; an ABORT takes
 * back all but RELEASED; RELEASE must be the last word.
 */
function heard(cause: Cause): readonly number[] {
  const { mail, ended } = cause;
  if (mail.length === 0) return mail;
  const garbage = mail.indexOf(L.GARBAGE);
  const readable = garbage < 0 ? mail : mail.slice(0, garbage);
  const abort = readable.indexOf(L.ABORT);
  if (abort >= 0) return [...readable.slice(0, abort).filter((letter) => letter === L.RELEASED), L.ABORT];
  const last = garbage >= 0 || ended ? -1 : readable.length - 1;
  return readable.filter((letter, index) => letter !== L.RELEASE || index === last);
}

function mailText(cause: Cause): string {
  const names = cause.mail.map((letter) => LETTERS[letter]?.name ?? '?');
  if (cause.ended) names.push('EOF');
  return names.length > 0 ? names.join(', ') : 'nothing';
}

function milestone(p: number, effect: Effect): string {
  if (effect.type === 'fail') return `${effect.phase}: ${effect.code}`;
  return effect.type === 'alone' || effect.type === 'succeed' ? `G${p + 1} ${effect.type}` : textOf(effect);
}

function textOf(effect: Effect): string {
  switch (effect.type) {
    case 'send':
      return effect.message.type;
    case 'arm':
      return `deadline ${effect.deadline}`;
    case 'fail':
      return `fails with ${effect.code}`;
    case 'report':
      return `reports ${effect.what}`;
    default:
      return effect.type;
  }
}

function grown<Numbers extends Int32Array | Uint32Array | Uint8Array>(from: Numbers, to: Numbers): Numbers {
  to.set(from);
  return to;
}
