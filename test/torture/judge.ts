/**
 * What was seen in a history, and whether the rules allow it. Pure: requests, lines of the fixtures' log and the tester's own acts in,
 * sentences out. The rule: a request may be lost if the process that had accepted it, or to which its connection had moved, was killed, and
 * in no other case while anybody holds the listeners.
 */
import { HANGS, type History, type ListenerName, type Plan } from './history.js';

/** ms on the monotonic clock that all processes share. clock_gettime(2), CLOCK_MONOTONIC */
export function now(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/** A line of the fixtures' log: `test/torture/fixtures/server.mjs` says which there are. */
export interface Event {
  at: number;
  pid: number;
  /** With the phase, for `old` and `new`: "old committing". */
  name: string;
  detail: string;
}

/** What the tester did or saw. `mercy`: killed because it was planned that it never serves, and nobody else was left. */
export interface Act {
  at: number;
  type: 'start' | 'kill' | 'mercy' | 'freeze' | 'thaw' | 'gone' | 'term';
  pid: number;
}

/** One request of a client. */
export interface Request {
  id: string;
  kind: 'new' | 'keepAlive' | 'post' | 'hello' | 'unix' | 'datagram';
  listener: ListenerName;
  /** Port; 0 for the Unix path. */
  port: number;
  /** As the server's log names the client: its port, or its abstract address. '' where no connection came about. */
  peer: string;
  /** When the connection was asked for. The datagram: sent. */
  openedAt: number;
  sentAt: number;
  endedAt?: number;
  /** Undefined: still waiting. */
  outcome?: 'ok' | 'refused' | 'reset' | 'eof' | 'bad';
  detail?: string;
  /** The pid in the reply to a datagram. */
  servedBy?: string;
}

export interface Verdict {
  violations: string[];
  /** Requests that were lost and were allowed to be. */
  excused: number;
}

/** How long a connection may wait for anybody to accept it, besides the time in which something is frozen, ms. For a loaded machine. */
const ACCEPT_LIMIT = 15_000;
/** A loss this long before the log says that a listener went, ms: the line comes after the fact. */
const LATE_LINE = 3_000;
/** A process that was frozen longer may have been killed by its predecessor, which gave it up. ms. */
const LONG_FREEZE = 4_000;
/** It has that long after the thaw to be seen ended; later it was let live, and must behave. ms. */
const THAWED = 2_000;
/** A kill can hit between accept(2) and the line in the log; the client hears of it at most so much later, ms. */
const KILL_ECHO = 2_000;
/** How many datagrams a process can have read, and not yet looked at. UV__MMSG_MAXWIDTH, libuv */
const DATAGRAM_BATCH = 20;

export function parseEvents(text: string): Event[] {
  return text
    .split('\n')
    .map((line) => /^([\d.]+) (\d+) (old \w+|new \w+|\S+) ?(.*)$/.exec(line))
    .filter((match) => match !== null)
    .map(([, at, pid, name = '', detail = '']) => ({ at: Number(at), pid: Number(pid), name, detail }));
}

/** One process of the family, as log and acts tell it. */
export interface Life {
  pid: number;
  /** Not of the family where its predecessor had ended before it could look. */
  parent: number;
  hasPredecessor: boolean;
  plan: Plan;
  startedAt: number;
  /** Infinity: alive. */
  endedAt: number;
  /** killed: by the tester, or by a strike that it had ordered. planned: as its plan says. */
  cause: 'alive' | 'killed' | 'planned' | 'exited' | 'vanished';
  exitCode?: string;
  /** It was frozen so long that its predecessor may have killed it, and ended then or right after. */
  endedFrozen: boolean;
  /** It no longer holds the listeners, or is about to let go, from here on. */
  heldUntil: number;
  handedOver: boolean;
  aborted: boolean;
}

export function livesOf(events: readonly Event[], acts: readonly Act[]): Map<number, Life> {
  const lives = new Map<number, Life>();
  for (const { at, pid, name, detail } of events) {
    if (name !== 'start') continue;
    const { parent, plan, hasPredecessor } = JSON.parse(detail) as Pick<Life, 'parent' | 'plan' | 'hasPredecessor'>;
    lives.set(pid, {
      ...{ pid, parent, plan, hasPredecessor, startedAt: at, endedAt: Infinity, cause: 'alive', endedFrozen: false },
      ...{ heldUntil: Infinity, handedOver: false, aborted: false },
    });
  }
  const end = (pid: number, at: number, cause: Life['cause'], exitCode?: string): void => {
    const life = lives.get(pid);
    if (life === undefined) return;
    // What comes first is the cause; but that it has gone is seen late, and says nothing of the cause.
    if (life.cause !== 'alive' && life.cause !== 'vanished' && (life.endedAt <= at || cause === 'vanished')) return;
    life.endedAt = at;
    life.cause = cause;
    if (exitCode !== undefined) life.exitCode = exitCode;
  };
  for (const { at, pid, name, detail } of events) {
    const life = lives.get(pid);
    if (name === 'dying') end(pid, at, 'planned');
    if (name === 'exit') end(pid, at, 'exited', detail);
    if (name === 'strike' && detail.startsWith('SIGKILL')) end(Number(detail.split(' ')[1]), at, 'killed');
    if (name === 'failed') {
      const successor = /\(pid (\d+)\)|to pid (\d+)/.exec(detail);
      const other = lives.get(Number(successor?.[1] ?? successor?.[2]));
      if (other !== undefined && other.parent === pid) other.aborted = true;
    }
    if (life === undefined) continue;
    if (name === 'aborted' || name === 'new leaving') life.aborted = true;
    if (name === 'handedOver') life.handedOver = true;
    if (name === 'handedOver' || name === 'new leaving' || name === 'old released')
      life.heldUntil = Math.min(life.heldUntil, at);
  }
  for (const { at, pid, type } of acts) {
    if (type === 'kill' || type === 'mercy') end(pid, at, 'killed');
    if (type === 'gone') end(pid, at, 'vanished');
  }
  for (const life of lives.values()) {
    life.endedFrozen = freezes(events, acts, life.pid).some(
      ([from, to]) => Math.min(to, life.endedAt) - from > LONG_FREEZE && life.endedAt <= to + THAWED,
    );
    life.heldUntil = Math.min(life.heldUntil, life.endedAt);
  }
  return lives;
}

/** From when to when a process, or any of them, was frozen. Infinity: it still is. */
function freezes(events: readonly Event[], acts: readonly Act[], pid?: number): [from: number, to: number][] {
  const stops = [
    ...acts.filter(({ type }) => type === 'freeze').map(({ at, pid }) => ({ at, pid })),
    ...events
      .filter(({ name, detail }) => name === 'strike' && detail.startsWith('SIGSTOP'))
      .map(({ at, detail }) => ({ at, pid: Number(detail.split(' ')[1]) })),
  ];
  return stops
    .filter((stop) => pid === undefined || stop.pid === pid)
    .map(({ at, pid }) => {
      const thaw = acts.find(
        (act) => act.pid === pid && act.at >= at && ['thaw', 'kill', 'mercy', 'gone'].includes(act.type),
      );
      return [at, thaw?.at ?? Infinity];
    });
}

/** Whether a process was meant never to serve, and not to end by itself. */
export function hangs({ plan }: Life): boolean {
  return plan.wrong !== undefined && HANGS.includes(plan.wrong);
}

/** Judges a history that is over: everything is thawed, and every client has waited long enough. */
export function judge(
  history: History,
  seen: { requests: readonly Request[]; events: readonly Event[]; acts: readonly Act[] },
): Verdict {
  const { requests, events, acts } = seen;
  const lives = livesOf(events, acts);
  const violations: string[] = [];
  let excused = 0;

  for (const life of lives.values()) {
    const why = unexplained(life, lives, history, acts);
    if (why !== undefined) violations.push(why);
  }
  for (const { name, pid, detail } of events) {
    if (name !== 'inherited') continue;
    const state = JSON.parse(detail) as { pid?: number; pad?: number };
    const { parent = 0 } = lives.get(pid) ?? {};
    const from = lives.has(parent) ? state.pid === parent : lives.has(state.pid ?? 0);
    if (!from || state.pad !== history.pad) violations.push(`pid ${pid} inherited the wrong state: ${detail}`);
  }

  const epochs = epochsOf(lives, acts);
  const accepts = events.filter(({ name }) => name === 'accept');
  const datagrams = new Map(events.filter(({ name }) => name === 'datagram').map((event) => [event.detail, event]));
  const unlogged = new Map<number, number>(); // kill -> how many losses it explains
  const frozen = freezes(events, acts);

  for (const request of requests) {
    const accepted = request.kind === 'datagram' ? datagrams.get(request.id) : acceptOf(request, accepts);
    if (request.outcome === 'ok') {
      if (request.kind === 'datagram' || accepted === undefined) continue;
      const waited = accepted.at - request.openedAt - overlap(frozen, request.openedAt, accepted.at);
      if (waited > ACCEPT_LIMIT)
        violations.push(`${describeRequest(request)}: nobody accepted it for ${Math.round(waited)} ms`);
      continue;
    }
    const holder = accepted && (holderOf(request, accepts) ?? accepted);
    const problem = holder === undefined ? lostByNobody(request) : lostBy(request, holder);
    if (problem === undefined) excused++;
    else violations.push(`${describeRequest(request)}: ${problem}`);
  }
  return { violations, excused };

  function lostBy({ endedAt = Infinity, kind, outcome }: Request, { pid }: Event): string | undefined {
    const life = lives.get(pid);
    if (life === undefined) return `pid ${pid} had accepted it, of which nothing else is known`;
    if (outcome === undefined && kind !== 'datagram')
      return `pid ${pid} (${life.cause}) had accepted it, and its client still waits`;
    const died = life.cause === 'killed' || life.cause === 'planned' || (life.cause === 'vanished' && life.endedFrozen);
    if (died && endedAt >= life.endedAt) return undefined;
    // It was on its way to a successor, which had taken it, and died before its server saw it.
    const successor = events.find((event) => event.name === 'handedOver' && event.pid === pid)?.detail;
    const movedTo = lives.get(Number(successor));
    const wasKilled = movedTo?.cause === 'killed' || movedTo?.cause === 'planned';
    if (wasKilled && endedAt >= movedTo.endedAt && endedAt <= movedTo.endedAt + KILL_ECHO) return undefined;
    return `pid ${pid} had accepted it, and ${life.cause === 'alive' ? 'lives' : `${life.cause} at ${life.endedAt.toFixed(1)}`}`;
  }

  function lostByNobody(request: Request): string | undefined {
    const { openedAt, endedAt = Infinity, listener, port, outcome, kind } = request;
    const epoch = epochs.findLast(({ from }) => from <= openedAt);
    if (epoch !== undefined && endedAt >= epoch.to - LATE_LINE) return undefined; // nobody was left to hold the listeners
    const dropped = events.find(({ at, name, detail }) => {
      if (name !== 'alone' || at < openedAt - LATE_LINE) return false;
      return (JSON.parse(detail) as Partial<Record<ListenerName, number>>)[listener] !== port;
    });
    if (dropped !== undefined && endedAt >= dropped.at - LATE_LINE) return undefined; // a generation does without it
    if (starving(endedAt)) return undefined; // Node closes what it has no descriptor for
    if (outcome === 'refused') return 'nobody listened, though a process lives that should';
    const limit = kind === 'datagram' ? DATAGRAM_BATCH : 1;
    for (const life of lives.values()) {
      if (life.cause !== 'killed' || life.endedAt < openedAt || life.endedAt > endedAt) continue;
      if (kind !== 'datagram' && endedAt > life.endedAt + KILL_ECHO) continue;
      const used = unlogged.get(life.pid) ?? 0;
      if (used >= limit) continue;
      unlogged.set(life.pid, used + 1);
      return undefined;
    }
    return 'nobody had accepted it, and none that could have was killed';
  }

  function starving(at: number): boolean {
    return events.some(({ name, pid, at: from }) => {
      if (name !== 'starved') return false;
      const to = events.find((event) => event.pid === pid && event.name === 'fed')?.at ?? lives.get(pid)?.endedAt ?? 0;
      return at >= from && at <= to + 200;
    });
  }
}

/** What a process's end needs: a reason. */
function unexplained(
  life: Life,
  lives: ReadonlyMap<number, Life>,
  { overlap, readyTimeout }: History,
  acts: readonly Act[],
): string | undefined {
  const { pid, cause, plan, handedOver, aborted, exitCode, startedAt, parent, hasPredecessor } = life;
  if (cause === 'alive' || cause === 'killed' || cause === 'planned' || aborted) return undefined;
  if (handedOver && (cause !== 'exited' || exitCode === '0')) return undefined;
  if (acts.some((act) => act.type === 'term' && act.pid === pid) && exitCode === '0') return undefined;
  if (hasPredecessor && plan.wrong !== undefined && plan.wrong !== 'slow' && plan.wrong !== 'block') return undefined;
  if (cause === 'vanished' && life.endedFrozen) return undefined;
  // Its predecessor gave it up, and was killed before it could say so.
  const before = lives.get(parent);
  const gaveUp = overlap === 'supersede' || (before?.endedAt ?? 0) - startedAt > readyTimeout * 0.8;
  if (before?.cause === 'killed' && gaveUp) return undefined;
  const how = cause === 'exited' ? `exited with code ${exitCode ?? ''}` : 'was ended by a signal';
  return `pid ${pid} ${how}, and nobody had asked it to`;
}

/** From one cold start until nobody holds the listeners any more. */
function epochsOf(lives: ReadonlyMap<number, Life>, acts: readonly Act[]): { from: number; to: number }[] {
  const starts = acts.filter(({ type }) => type === 'start').map(({ at }) => at);
  return starts.map((from, index) => {
    const next = starts[index + 1] ?? Infinity;
    const members = [...lives.values()].filter(({ startedAt }) => startedAt >= from && startedAt < next);
    return { from, to: members.length === 0 ? from : Math.max(...members.map(({ heldUntil }) => heldUntil)) };
  });
}

/** The line of the process that accepted the connection of a request. A port can be used again, later. */
function acceptOf(
  { listener, peer, openedAt, endedAt = Infinity }: Request,
  accepts: readonly Event[],
): Event | undefined {
  if (peer === '') return undefined;
  const detail = `${listener} ${peer}`;
  return accepts.find((event) => event.detail === detail && event.at >= openedAt && event.at <= endedAt + ACCEPT_LIMIT);
}

/** The line of the process that had the connection last: those to which it moved have logged it as well. */
function holderOf(
  { listener, peer, openedAt, endedAt = Infinity }: Request,
  accepts: readonly Event[],
): Event | undefined {
  const detail = `${listener} ${peer}`;
  return accepts.findLast((event) => event.detail === detail && event.at >= openedAt && event.at <= endedAt);
}

function overlap(spans: readonly (readonly [number, number])[], from: number, to: number): number {
  return spans.reduce((sum, [start, end]) => sum + Math.max(0, Math.min(end, to) - Math.max(start, from)), 0);
}

function describeRequest({ id, kind, listener, peer, openedAt, sentAt, endedAt, outcome, detail }: Request): string {
  const ended = endedAt === undefined ? 'never answered' : `${outcome ?? ''} at ${endedAt.toFixed(1)}`;
  const times = `opened at ${openedAt.toFixed(1)}, sent at ${sentAt.toFixed(1)}, ${ended}`;
  return `${kind} request ${id} to "${listener}" from ${peer || 'nowhere'}, ${times}${detail === undefined ? '' : ` (${detail})`}`;
}
