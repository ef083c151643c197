/**
 * The explorer of the moving rules: walks every interleaving of two processes that move connections over one channel, and checks in
 * every state what must hold. It runs the very functions of lib/moving/rules.ts.
 *
 * The model
 * - An old process with two groups of connections, of two and of one; it sends each as a batch, again where the kernel had no room.
 *   The new one takes all of a batch, or refuses its first.
 * - A channel is two queues in order. What was sent is read at any later time, all of it at once. A frame may be in the kernel by a
 *   part: the rest follows between two steps of its sender, or never, where its sender closes or dies.
 * - A send meets room, or none, or the other side's end. An answer too.
 * - Each process may close its end at any time, and die between any two effects of a step. The new one may say nonsense once.
 * - There is no clock: nothing here depends on a time.
 */
import {
  NEW_RECEIVER,
  NEW_SENDER,
  receiver,
  type ReceiverEffect,
  type ReceiverEvent,
  type ReceiverState,
  sender,
  type SenderEffect,
  type SenderEvent,
  type SenderState,
} from '../../lib/moving/rules.js';

/** What is explored: the real functions, or ones with a rule broken. */
export interface Rules {
  sender: typeof sender;
  receiver: typeof receiver;
  /** How the old side's driver reads: in the right order, the answers come before the end. */
  forgetsAnswers?: boolean;
}

export const RULES: Rules = { sender, receiver };

export const INVARIANTS = {
  torn: 'no connection has two readers, nor one after the other has begun to read',
  lost: 'no connection is closed while one of the two lives that could serve it',
  leak: 'when nothing is left to do, no descriptor is held that nobody reads from',
  total: 'every event has a meaning in every state',
} as const;

export interface Violation {
  invariant: keyof typeof INVARIANTS;
  text: string;
  trace: string[];
}

export interface Result {
  states: number;
  transitions: number;
  reached: string[];
  violation: Violation | undefined;
}

const GROUPS: readonly (readonly number[])[] = [[0, 1], [2]];
const CONNECTIONS = [0, 1, 2] as const;
const TRIES = 3; // batches in all

interface Frame {
  batch: number;
  connections: readonly number[];
  whole: boolean;
}

interface Answered {
  batch: number;
  refused: readonly number[];
  garbage?: boolean;
}

interface World {
  oldAlive: boolean;
  newAlive: boolean;
  /** Its end of the channel is open. */
  oldEnd: boolean;
  newEnd: boolean;
  sender: SenderState;
  receiver: ReceiverState;
  oldTodo: SenderEffect[];
  newTodo: (ReceiverEffect | ReceiverEvent)[];
  toNew: Frame[];
  toOld: Answered[];
  /** What each side has of each connection. */
  old: ('socket' | 'dup' | 'none')[];
  fresh: ('none' | 'held' | 'reading')[];
  /** Of each batch: its connections. */
  batches: number[][];
  hasRead: boolean[];
  /** The new side has answered for it, or adopted it without. */
  isTaken: boolean[];
  isRefused: boolean[];
  isWhole: boolean[];
  /** It closed by itself, as it may. */
  oldGaveUp: boolean;
  newGaveUp: boolean;
  nonsense: boolean;
}

function begin(): World {
  const each = <Value>(value: Value): Value[] => CONNECTIONS.map(() => value);
  return {
    oldAlive: true,
    newAlive: true,
    oldEnd: true,
    newEnd: true,
    sender: NEW_SENDER,
    receiver: NEW_RECEIVER,
    oldTodo: [],
    newTodo: [],
    toNew: [],
    toOld: [],
    old: each('socket'),
    fresh: each('none'),
    batches: [],
    hasRead: each(false),
    isTaken: each(false),
    isRefused: each(false),
    isWhole: each(false),
    oldGaveUp: false,
    newGaveUp: false,
    nonsense: false,
  };
}

/** One thing that can happen; it changes the world that it is given. */
interface Action {
  name: string;
  run: (world: World) => void;
}

class Broken extends Error {
  readonly invariant: keyof typeof INVARIANTS;

  constructor(invariant: keyof typeof INVARIANTS, text: string) {
    super(text);
    this.invariant = invariant;
  }
}

/** Walks all of it, breadth first: the first violation has the shortest trace. */
export function explore(rules: Rules): Result {
  const first = begin();
  const seen = new Map<string, { from: string; by: string } | undefined>([[JSON.stringify(first), undefined]]);
  const reached = new Set<string>();
  let transitions = 0;
  const walk = (end: string, last?: string): string[] => {
    const trace: string[] = last === undefined ? [] : [last];
    for (let at = seen.get(end); at !== undefined; at = seen.get(at.from)) trace.unshift(at.by);
    return trace;
  };
  for (const [key] of seen) {
    const world = JSON.parse(key) as World;
    for (const { name, run } of actions(rules, world)) {
      const next = structuredClone(world);
      transitions++;
      reached.add(name);
      try {
        run(next);
        check(next);
      } catch (error) {
        const invariant = error instanceof Broken ? error.invariant : 'total';
        const text = error instanceof Error ? error.message : String(error);
        return {
          states: seen.size,
          transitions,
          reached: [...reached],
          violation: { invariant, text, trace: walk(key, name) },
        };
      }
      const nextKey = JSON.stringify(next);
      if (!seen.has(nextKey)) seen.set(nextKey, { from: key, by: name });
    }
  }
  return { states: seen.size, transitions, reached: [...reached], violation: undefined };
}

function actions(rules: Rules, world: World): Action[] {
  return [...oldActions(rules, world), ...newActions(rules, world)];
}

function oldActions(rules: Rules, world: World): Action[] {
  if (!world.oldAlive) return [];
  const step = (next: World, event: SenderEvent): void => {
    const { state, effects } = rules.sender(next.sender, event);
    next.sender = state;
    next.oldTodo.unshift(...effects);
  };
  const list: Action[] = [
    {
      name: 'old dies',
      run: (next) => {
        next.oldAlive = false;
        next.oldEnd = false;
        next.oldTodo = [];
        next.toOld = [];
        next.old = next.old.map(() => 'none');
      },
    },
  ];
  const torn = world.toNew.find((frame) => !frame.whole);
  if (torn !== undefined && world.oldEnd && world.oldTodo.length === 0) {
    list.push({
      name: 'the rest of a frame goes',
      run: (next) => {
        for (const frame of next.toNew) {
          frame.whole = true;
          for (const connection of frame.connections) next.isWhole[connection] = true;
        }
      },
    });
  }
  const [effect] = world.oldTodo;
  if (effect?.type === 'transmit') {
    const outcomes = world.newEnd ? (['sent', 'full', 'part'] as const) : (['ended'] as const);
    for (const outcome of outcomes) {
      list.push({
        name: `old sends batch ${effect.batch}: ${outcome}`,
        run: (next) => {
          next.oldTodo.shift();
          if (outcome === 'full' || outcome === 'ended') {
            step(next, { type: 'notSent', batch: effect.batch });
            return;
          }
          const connections = next.batches[effect.batch] ?? [];
          const whole = outcome === 'sent';
          next.toNew.push({ batch: effect.batch, connections, whole });
          for (const connection of connections) {
            next.old[connection] = 'dup';
            next.isWhole[connection] = whole;
          }
        },
      });
    }
    return list;
  }
  if (effect !== undefined) {
    list.push({
      name: `old: ${effect.type}${'batch' in effect ? ` ${effect.batch}` : ''}`,
      run: (next) => {
        next.oldTodo.shift();
        carryOutOld(next, effect);
      },
    });
    return list;
  }
  for (const group of GROUPS) {
    const isHere = group.every((connection) => world.old[connection] === 'socket' && !world.isRefused[connection]);
    if (!isHere || torn !== undefined || !world.sender.open || world.sender.next > TRIES) continue;
    list.push({
      name: `old moves ${group.join(' and ')}`,
      run: (next) => {
        next.batches[next.sender.next] = [...group];
        step(next, { type: 'send', count: group.length });
      },
    });
  }
  if (world.oldEnd && (world.toOld.length > 0 || !world.newEnd)) {
    list.push({
      name: `old reads ${world.toOld.length} answers${world.newEnd ? '' : ' and the end'}`,
      run: (next) => {
        const mail = next.toOld.splice(0);
        const answers = mail.filter((answer) => answer.garbage !== true);
        const garbage = mail.length > answers.length;
        if (garbage) next.oldGaveUp = true;
        const heard = rules.forgetsAnswers === true && !next.newEnd ? [] : answers;
        const unsent = next.toNew.some((frame) => !frame.whole);
        step(next, { type: 'mail', answers: heard, garbage, ended: !next.newEnd, unsent });
      },
    });
  }
  if (world.oldEnd) {
    list.push({
      name: 'old closes',
      run: (next) => {
        next.oldGaveUp = true;
        step(next, { type: 'close', unsent: next.toNew.some((frame) => !frame.whole) });
      },
    });
  }
  return list;
}

function carryOutOld(next: World, effect: Exclude<SenderEffect, { type: 'transmit' }>): void {
  switch (effect.type) {
    case 'keep':
      break;
    case 'letGo':
    case 'takeBack':
      for (const index of effect.indexes) {
        const connection = next.batches[effect.batch]?.[index];
        if (connection === undefined || next.old[connection] !== 'dup') {
          throw new Broken('leak', `old: ${effect.type} of what it has no dup of`);
        }
        next.old[connection] = effect.type === 'letGo' ? 'none' : 'socket';
      }
      break;
    case 'closeChannel':
      next.oldEnd = false;
      next.toOld = [];
      break;
  }
}

function newActions(rules: Rules, world: World): Action[] {
  if (!world.newAlive) return [];
  const step = (next: World, event: ReceiverEvent): void => {
    const { state, effects } = rules.receiver(next.receiver, event);
    next.receiver = state;
    next.newTodo.unshift(...effects);
  };
  const list: Action[] = [
    {
      name: 'new dies',
      run: (next) => {
        next.newAlive = false;
        next.newEnd = false;
        next.newTodo = [];
        next.toNew = [];
        next.fresh = next.fresh.map(() => 'none');
      },
    },
  ];
  const [todo] = world.newTodo;
  if (todo?.type === 'answer') {
    const outcomes = world.oldEnd ? (['sent', 'full'] as const) : (['ended'] as const);
    for (const outcome of outcomes) {
      list.push({
        name: `new answers batch ${todo.batch}: ${outcome}`,
        run: (next) => {
          next.newTodo.shift();
          const connections = next.batches[todo.batch] ?? [];
          if (outcome === 'sent') next.toOld.push({ batch: todo.batch, refused: todo.refused });
          if (outcome !== 'full') {
            for (const [index, connection] of connections.entries()) {
              if (!todo.refused.includes(index)) next.isTaken[connection] = true;
            }
          }
          step(next, { type: 'answered', outcome });
        },
      });
    }
    return list;
  }
  if (todo !== undefined) {
    list.push({
      name: `new: ${todo.type}${'batch' in todo ? ` ${todo.batch}` : ''}`,
      run: (next) => {
        next.newTodo.shift();
        if (todo.type === 'adopt' || todo.type === 'drop' || todo.type === 'closeChannel') carryOutNew(next, todo);
        else step(next, todo);
      },
    });
    return list;
  }
  const whole = world.toNew.filter((frame) => frame.whole);
  if (world.newEnd && (whole.length > 0 || !world.oldEnd)) {
    // Each batch is taken whole, or its first is refused
    for (let choice = 0; choice < 2 ** whole.length; choice++) {
      const refusals = whole.map((_, index) => (choice & (1 << index)) !== 0);
      list.push({
        name: `new reads ${whole.length} batches${refusals.includes(true) ? ', and cannot take all,' : ''}${world.oldEnd ? '' : ' and the end'}`,
        run: (next) => {
          const frames = next.toNew.filter((frame) => frame.whole);
          next.toNew = next.oldEnd ? next.toNew.filter((frame) => !frame.whole) : [];
          for (const [index, frame] of frames.entries()) {
            const all = frame.connections.map((_, at) => at);
            const refuses = refusals[index] === true ? [0] : [];
            const takes = all.filter((at) => !refuses.includes(at));
            for (const [at, connection] of frame.connections.entries()) {
              next.fresh[connection] = 'held';
              if (refuses.includes(at)) next.isRefused[connection] = true;
            }
            next.newTodo.push({ type: 'batch', batch: frame.batch, takes, refuses });
          }
          if (!next.oldEnd) next.newTodo.push({ type: 'ended' });
        },
      });
    }
  }
  if (world.receiver.waiting.length > 0) {
    list.push({ name: 'new tries again', run: (next) => step(next, { type: 'retry' }) });
  }
  if (world.newEnd) {
    list.push({
      name: 'new closes',
      run: (next) => {
        next.newGaveUp = true;
        step(next, { type: 'close' });
      },
    });
    if (!world.nonsense && world.oldEnd) {
      list.push({
        name: 'new says nonsense',
        run: (next) => {
          next.nonsense = true;
          next.toOld.push({ batch: 0, refused: [], garbage: true });
        },
      });
    }
  }
  return list;
}

function carryOutNew(next: World, effect: Exclude<ReceiverEffect, { type: 'answer' }>): void {
  if (effect.type === 'closeChannel') {
    next.newEnd = false;
    next.toNew = [];
    return;
  }
  for (const index of effect.indexes) {
    const connection = next.batches[effect.batch]?.[index];
    const isHere =
      next.fresh[connection ?? -1] === 'held' ||
      (effect.type === 'adopt' && next.fresh[connection ?? -1] === 'reading');
    if (connection === undefined || !isHere) {
      throw new Broken('leak', `new: ${effect.type} of what it does not hold`);
    }
    next.fresh[connection] = effect.type === 'adopt' ? 'reading' : 'none';
    if (effect.type !== 'adopt') continue;
    next.hasRead[connection] = true;
    next.isTaken[connection] = true;
  }
}

function check(world: World): void {
  for (const connection of CONNECTIONS) {
    if (world.old[connection] === 'socket' && world.hasRead[connection] === true) {
      throw new Broken('torn', `both read from connection ${connection}`);
    }
    const isOnItsWay = world.newEnd && world.toNew.some((frame) => frame.connections.includes(connection));
    const isHeld = world.old[connection] !== 'none' || world.fresh[connection] !== 'none' || isOnItsWay;
    if (!isHeld && !mayEnd(world, connection)) throw new Broken('lost', `connection ${connection} is closed`);
  }
  if (!isQuiet(world)) return;
  for (const connection of CONNECTIONS) {
    if (world.old[connection] === 'dup')
      throw new Broken('leak', `old holds a dup of connection ${connection} for ever`);
    if (world.fresh[connection] === 'held')
      throw new Broken('leak', `new holds connection ${connection} and does not read`);
  }
}

/** Whether the end of this connection is nobody's fault but that of those who died or gave up. */
function mayEnd(world: World, connection: number): boolean {
  const isOver = !world.newAlive || world.newGaveUp;
  if (!world.oldAlive && (isOver || world.isRefused[connection] === true || world.isWhole[connection] !== true))
    return true;
  if (!world.newAlive && world.isTaken[connection] === true) return true; // as in any crash
  if (world.oldGaveUp && (world.isRefused[connection] === true || isOver)) return true;
  return false;
}

/** Nothing can happen any more but faults, wishes, and new batches. */
function isQuiet(world: World): boolean {
  const oldRests =
    !world.oldAlive ||
    (world.oldTodo.length === 0 && world.toOld.length === 0 && (!world.oldEnd || world.newEnd || !world.sender.open));
  const newRests =
    !world.newAlive ||
    (world.newTodo.length === 0 &&
      world.toNew.length === 0 &&
      world.receiver.waiting.length === 0 &&
      (!world.newEnd || world.oldEnd));
  return oldRests && newRests;
}
