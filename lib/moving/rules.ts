/**
 * Who owns a connection that is being moved, at every moment: both sides as pure functions, (state, event) -> { state, effects }.
 * Plain data in and out: no clock, no I/O, no descriptor. sender.ts and receiver.ts carry the effects out;
 * test/moving/explorer.ts walks every interleaving of these very functions. Source: docs/protocol.md.
 *
 * The rules
 * - The old side lets go of the socket when the kernel has its batch, and keeps a dup until the answer.
 * - The new side answers before it reads from any of the batch. An answer counts once the kernel has it, not while it waits in a queue.
 * - A refusal gives the old side back what was refused; the end of the new one gives it back all that was not answered, once every
 *   answer before that end was read: nobody has read from it, and nobody else will.
 * - Silence gives nothing back: two readers would tear a request apart. An old side that cannot wait any longer closes the channel and
 *   gives up what is not answered. A new one whose answer fails, because the channel is closed, adopts.
 */

/** One message with connections. */
export interface Batch {
  readonly batch: number;
  /** How many connections. */
  readonly count: number;
}

/** What the new side says of one batch. */
export interface Answer {
  readonly batch: number;
  /** Indexes of those that it does not take; it takes the others. */
  readonly refused: readonly number[];
}

export interface Step<State, Effect> {
  readonly state: State;
  readonly effects: readonly Effect[];
}

// ---- The old side ----------------------------------------------------------------------------------------------------

export interface SenderState {
  /** The number of the next batch. */
  readonly next: number;
  /** Sent, and not answered, in order. */
  readonly unanswered: readonly Batch[];
  /** The channel is open, as far as is known here. */
  readonly open: boolean;
}

export type SenderEvent =
  /** So many connections can go now. */
  | { readonly type: 'send'; readonly count: number }
  /** The kernel has taken nothing of this batch: there is no room, or the other side has ended. */
  | { readonly type: 'notSent'; readonly batch: number }
  /** ALL that the channel holds now: the answers first, then its end. `garbage`: something in it is no answer. */
  | {
      readonly type: 'mail';
      readonly answers: readonly Answer[];
      readonly garbage: boolean;
      readonly ended: boolean;
      /** A part of the last batch has not reached the kernel yet. */
      readonly unsent: boolean;
    }
  /** This side cannot wait any longer. `unsent`: a part of the last batch has not reached the kernel, and never will. */
  | { readonly type: 'close'; readonly unsent: boolean };

export type SenderEffect =
  /** Send it now, and let go of its sockets if the kernel has taken it; else say `notSent` at once. */
  | { readonly type: 'transmit'; readonly batch: number; readonly count: number }
  /** Nothing has gone: close its dups, its sockets go on as they are. */
  | { readonly type: 'keep'; readonly batch: number }
  /** They are the other side's: close their dups. */
  | { readonly type: 'letGo'; readonly batch: number; readonly indexes: readonly number[] }
  /** Nobody has read from them, and nobody else will: serve them here, from their dups. */
  | {
      readonly type: 'takeBack';
      readonly batch: number;
      readonly indexes: readonly number[];
      readonly why: 'refused' | 'ended' | 'closed';
    }
  /** Close the channel. It was seen to its end, or what comes of it is of no interest. */
  | { readonly type: 'closeChannel' };

export const NEW_SENDER: SenderState = { next: 1, unanswered: [], open: true };

/** One step of the old side. Total: every event has a meaning in every state. */
export function sender(state: SenderState, event: SenderEvent): Step<SenderState, SenderEffect> {
  if (!state.open) return { state, effects: [] };
  switch (event.type) {
    case 'send': {
      const batch = { batch: state.next, count: event.count };
      return {
        state: { ...state, next: state.next + 1, unanswered: [...state.unanswered, batch] },
        effects: [{ type: 'transmit', ...batch }],
      };
    }
    case 'notSent': {
      const unanswered = state.unanswered.filter(({ batch }) => batch !== event.batch);
      return { state: { ...state, unanswered }, effects: [{ type: 'keep', batch: event.batch }] };
    }
    case 'mail':
      return senderReads(state, event);
    case 'close':
      return closeSender(state, event.unsent);
    default:
      return never(event);
  }
}

function senderReads(
  before: SenderState,
  { answers, garbage, ended, unsent }: Extract<SenderEvent, { type: 'mail' }>,
): Step<SenderState, SenderEffect> {
  let state = before;
  const effects: SenderEffect[] = [];
  let isGarbage = garbage;
  for (const answer of answers) {
    const found = state.unanswered.find(({ batch }) => batch === answer.batch);
    if (found === undefined || answer.refused.some((index) => index >= found.count)) {
      isGarbage = true; // an answer to what was never asked
      break;
    }
    state = { ...state, unanswered: state.unanswered.filter((batch) => batch !== found) };
    const refused = new Set(answer.refused);
    const all = indexesOf(found);
    const taken = all.filter((index) => !refused.has(index));
    if (taken.length > 0) effects.push({ type: 'letGo', batch: found.batch, indexes: taken });
    if (refused.size > 0) {
      effects.push({ type: 'takeBack', batch: found.batch, indexes: [...refused], why: 'refused' });
    }
  }
  // One that says what it cannot say may have taken anything.
  if (isGarbage) {
    const closed = closeSender(state, unsent);
    return { state: closed.state, effects: [...effects, ...closed.effects] };
  }
  if (!ended) return { state, effects };
  for (const batch of state.unanswered) {
    effects.push({ type: 'takeBack', batch: batch.batch, indexes: indexesOf(batch), why: 'ended' });
  }
  effects.push({ type: 'closeChannel' });
  return { state: { ...state, unanswered: [], open: false }, effects };
}

/** What the other side has not answered is its own from here on. A batch that is torn by the close never reaches it. */
function closeSender(state: SenderState, unsent: boolean): Step<SenderState, SenderEffect> {
  const torn = unsent ? state.unanswered.at(-1) : undefined;
  const effects: SenderEffect[] = [{ type: 'closeChannel' }]; // first: no answer may come behind it
  for (const batch of state.unanswered) {
    const indexes = indexesOf(batch);
    if (batch === torn) effects.push({ type: 'takeBack', batch: batch.batch, indexes, why: 'closed' });
    else effects.push({ type: 'letGo', batch: batch.batch, indexes });
  }
  return { state: { ...state, unanswered: [], open: false }, effects };
}

function indexesOf({ count }: Batch): number[] {
  return Array.from({ length: count }, (_, index) => index);
}

// ---- The new side ----------------------------------------------------------------------------------------------------

/** A batch that has come, and is not answered. */
export interface Waiting {
  readonly batch: number;
  /** Indexes of those that can be served here. */
  readonly takes: readonly number[];
  readonly refuses: readonly number[];
}

export interface ReceiverState {
  /** In order; the first one's answer is under way. */
  readonly waiting: readonly Waiting[];
  readonly open: boolean;
}

export type ReceiverEvent =
  | ({ readonly type: 'batch' } & Waiting)
  /** What became of the answer to the first batch that waits. `full`: the kernel has not taken it; say `retry` later. */
  | { readonly type: 'answered'; readonly outcome: 'sent' | 'full' | 'ended' }
  | { readonly type: 'retry' }
  /** The old side has ended or closed the channel; everything that it sent has been read. */
  | { readonly type: 'ended' }
  /** This side takes nothing more: it leaves, or could not read what came. */
  | { readonly type: 'close' };

export type ReceiverEffect =
  /** Send it now, and say `answered` at once. */
  | { readonly type: 'answer'; readonly batch: number; readonly refused: readonly number[] }
  /** Begin to read from them. */
  | { readonly type: 'adopt'; readonly batch: number; readonly indexes: readonly number[] }
  /** Close them. */
  | { readonly type: 'drop'; readonly batch: number; readonly indexes: readonly number[] }
  | { readonly type: 'closeChannel' };

export const NEW_RECEIVER: ReceiverState = { waiting: [], open: true };

/** One step of the new side. Total: every event has a meaning in every state. */
export function receiver(state: ReceiverState, event: ReceiverEvent): Step<ReceiverState, ReceiverEffect> {
  switch (event.type) {
    case 'batch': {
      const { batch, takes, refuses } = event;
      // It came behind our own close: the old side takes it back.
      if (!state.open) return { state, effects: [{ type: 'drop', batch, indexes: [...takes, ...refuses] }] };
      const isFirst = state.waiting.length === 0;
      const next = { ...state, waiting: [...state.waiting, { batch, takes, refuses }] };
      return { state: next, effects: isFirst ? answerFirst(next) : [] };
    }
    case 'answered': {
      const [first, ...rest] = state.waiting;
      if (first === undefined || event.outcome === 'full') return { state, effects: [] };
      const next = { ...state, waiting: rest };
      return { state: next, effects: [...taking(first), ...answerFirst(next)] };
    }
    case 'retry':
      return { state, effects: state.open ? answerFirst(state) : [] };
    case 'ended': {
      if (!state.open) return { state, effects: [] };
      // No answer can reach it. It gave up what was not answered when it closed, or is dead.
      const effects: ReceiverEffect[] = state.waiting.flatMap(taking);
      return { state: { waiting: [], open: false }, effects: [...effects, { type: 'closeChannel' }] };
    }
    case 'close': {
      if (!state.open) return { state, effects: [] };
      // Dropped first: the old side takes them back as soon as it sees the end.
      const effects = state.waiting.flatMap(({ batch, takes, refuses }): ReceiverEffect[] => [
        { type: 'drop', batch, indexes: [...takes, ...refuses] },
      ]);
      return { state: { waiting: [], open: false }, effects: [...effects, { type: 'closeChannel' }] };
    }
    default:
      return never(event);
  }
}

function answerFirst({ waiting }: ReceiverState): ReceiverEffect[] {
  const [first] = waiting;
  return first === undefined ? [] : [{ type: 'answer', batch: first.batch, refused: first.refuses }];
}

function taking({ batch, takes, refuses }: Waiting): ReceiverEffect[] {
  const effects: ReceiverEffect[] = [];
  if (takes.length > 0) effects.push({ type: 'adopt', batch, indexes: takes });
  if (refuses.length > 0) effects.push({ type: 'drop', batch, indexes: refuses });
  return effects;
}

/** The compiler sees that nothing can come here. */
function never(value: never): never {
  throw new TypeError(`not a case: ${JSON.stringify(value)}`);
}
