/**
 * What the demo knows of one of its acts, and the picture's data made of it: counters, a timeline of latencies, marks.
 * Runs a load and reads clocks; starts no process and prints nothing.
 */
import type { Scope } from '../test/support/fixture.js';
import type { Latency } from '../test/support/latency.js';
import {
  startLoad,
  type GoodReply,
  type Living,
  type Load,
  type LoadOptions,
  type Report,
} from '../test/support/load.js';

export const SLOT = 125; // ms of the timeline
const SECOND = 1000 / SLOT; // slots

/** A piece of the timeline, of the requests that were due in it. `max`: ms, 0 where nothing was answered. */
export interface Slot {
  max: number;
  answered: number;
  lost: number;
  /** A restart began here. */
  isMarked: boolean;
}

export interface Pair {
  new: number;
  keepAlive: number;
}

/** One moment of an act. */
export interface ActView {
  title: string;
  /** Its name in the table. */
  name: string;
  /** False: the contrast. What it loses is expected. */
  isFdpass: boolean;
  state: 'waiting' | 'running' | 'done';
  /** Steps of it, one a restart. */
  done: number;
  total: number;
  pid: number | undefined;
  generation: number | undefined;
  perSecond: number;
  sent: Pair;
  lost: Pair;
  /** The keep-alive connections: how many there should be, and how many were opened until now. Equal: nobody had to connect again. */
  kept: { wanted: number; opened: number };
  /** How often a restart carried one of them, open, from one process to the next. */
  carried: number;
  /** Of those that are open; undefined: none is. */
  oldest: Living | undefined;
  /** ms; of new and keep-alive requests together. */
  max: number;
  /** Of each kind; undefined until the act is done. */
  latency: { new: Latency; keepAlive: Latency } | undefined;
  slots: readonly Slot[];
  /** What a process had to say. */
  note: string | undefined;
}

/** All that is drawn. */
export interface Snapshot {
  script: string;
  address: string;
  load: { newPerSecond: number; keepAlive: number; requestsPerSecond: number };
  /** ms since the start. */
  elapsed: number;
  acts: readonly ActView[];
}

export class Act {
  readonly title: string;
  readonly name: string;
  readonly isFdpass: boolean;
  readonly total: number;
  readonly failures: string[] = [];
  done = 0;
  pid: number | undefined;
  note: string | undefined;
  report: Report | undefined;
  /** The generation of a pid, where processes count them. */
  generationOf: (pid: number) => number | undefined = () => undefined;
  readonly #slots: Slot[] = [];
  #load: Load | undefined;
  #wanted = 0;
  #lost = 0;
  #max = 0;

  constructor(options: { title: string; name: string; isFdpass: boolean; total: number }) {
    this.title = options.title;
    this.name = options.name;
    this.isFdpass = options.isFdpass;
    this.total = options.total;
  }

  /** Puts the load on. It ends with end(), or with the scope. */
  begin(scope: Scope, options: LoadOptions): Load {
    const load = startLoad({ ...options, onReply: (reply) => this.#onReply(reply) });
    this.#load = load;
    this.#wanted = options.keepAlive ?? 0;
    const timer = setInterval(() => this.#count(), SLOT);
    scope.after(async () => {
      clearInterval(timer);
      await load.stop();
    });
    return load;
  }

  /** A restart begins. */
  mark(): void {
    this.#slotAt(performance.now()).isMarked = true;
  }

  async end(): Promise<Report | undefined> {
    if (!this.#load) return undefined;
    this.report = await this.#load.stop();
    this.#count();
    return this.report;
  }

  view(): ActView {
    const { title, name, isFdpass, done, total, pid, note, report } = this;
    const load = this.#load;
    const pair = (of: 'sent' | 'lost'): Pair => ({ new: load?.new[of] ?? 0, keepAlive: load?.keepAlive[of] ?? 0 });
    const state = report ? 'done' : load ? 'running' : 'waiting';
    const slots = this.#slots;
    if (state === 'running') this.#slotAt(performance.now()); // time goes on where nothing is answered
    const lastSecond = slots.slice(-SECOND - 1, -1);
    const generation = pid === undefined ? undefined : this.generationOf(pid);
    return {
      ...{ title, name, isFdpass, state, done, total, pid, generation, slots, note },
      ...{ sent: pair('sent'), lost: pair('lost'), max: this.#max, latency: report?.latency },
      kept: { wanted: this.#wanted, opened: load?.keepAlive.connections ?? 0 },
      carried: load?.carried ?? 0,
      oldest: report === undefined ? load?.oldest : report.oldest,
      perSecond:
        lastSecond.reduce((sum, { answered }) => sum + answered, 0) * (SECOND / Math.max(1, lastSecond.length)),
    };
  }

  #onReply({ pid, due, at, first }: GoodReply): void {
    const slot = this.#slotAt(due);
    slot.answered++;
    slot.max = Math.max(slot.max, at - due);
    this.#max = Math.max(this.#max, at - due);
    if (first) this.pid = pid;
  }

  #count(): void {
    const lost = this.#load?.lost ?? 0;
    if (lost > this.#lost) this.#slotAt(performance.now() - SLOT).lost += lost - this.#lost;
    this.#lost = lost;
  }

  #slotAt(time: number): Slot {
    const index = Math.max(0, Math.floor((time - (this.#load?.started ?? time)) / SLOT));
    while (this.#slots.length <= index) this.#slots.push({ max: 0, answered: 0, lost: 0, isMarked: false });
    return this.#slots[index] as Slot; // the line above has made it
  }
}
