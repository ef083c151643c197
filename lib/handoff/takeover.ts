/**
 * The handoff between processes that are not parent and child. The old one offers it at a Unix path, the new one connects there and
 * receives the listeners by SCM_RIGHTS. Opens, accepts and connects Unix sockets. The dialog itself stands in transaction.ts (old
 * side) and successor.ts (new side). Main thread alone. Source: docs/protocol.md; unix(7).
 */
import fs from 'node:fs';
import { resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';

import { Deferred } from '../deferred.js';
import { FdpassError, type FdpassErrorCode, type SuccessorFacts } from '../errors.js';
import { adoptFromParent, assertMainThread, hasAdopted, inheritListener } from '../inherit.js';
import { Link } from '../link.js';
import { beforeClose, type Listener } from '../listener.js';
import * as raw from '../raw.js';
import { publish } from '../report.js';
import { type Frame, MAX_RIGHTS, VERSIONS } from './frame.js';
import { checkOffer, checkState, checkTime, describeItem, refuse, storeState } from './manifest.js';
import { takeOver, thisGeneration } from './successor.js';
import { offerTickets } from './tickets.js';
import {
  type Candidate,
  currentTransaction,
  type Offering,
  refusalToBegin,
  type Successor,
  transact,
  type TransactionOptions,
} from './transaction.js';
import { checkDirectory, checkPeer, checkTrusted, type Trusted } from './trust.js';
import { discard, Wire } from './wire.js';

/** The name under which the listener of an offer travels with the others. */
const NAME = 'fdpass.takeover';

/** How long a newcomer may take to say HELLO, ms. */
const HELLO_TIMEOUT = 5_000;

/** How many newcomers may be about to say it. */
const MAX_NEWCOMERS = 16;

/** How soon a batch that found no room in the kernel is tried again, ms: nothing tells when descriptors have arrived. */
const RETRY = 10;

/** How soon accepting is tried again after it failed, ms. */
const ACCEPT_AGAIN = 100;

/** How long the batches may find no room, ms: less than the other side waits (ADOPT_TIMEOUT), so that it hears why. */
const FULL_TIMEOUT = 4_000;

// ---- The old side --------------------------------------------------------------------------------------------------------

/** What a takeover offer needs to know. */
export interface TakeoverOfferOptions extends Omit<TransactionOptions, 'signal'>, Trusted {
  /** Permissions of the path. Default: 0o600; 0o666 where `uids` or `gids` are given: the credentials are what counts. */
  mode?: number | undefined;
  /** For inheritedState() in the successor: JSON, or bytes; or a function that gives it at that moment. */
  state?: unknown;
}

/** An offer that stands. */
export class TakeoverOffer implements Disposable {
  /** As it was given, made absolute; `@name` is abstract. */
  readonly path: string;
  readonly #listener: Listener;
  readonly #options: TakeoverOfferOptions;
  readonly #onTaken: (taken: Promise<Successor>) => void;
  readonly #newcomers = new Set<Newcomer>();
  #watch: raw.Watch | undefined;

  /** @internal */
  constructor(
    path: string,
    listener: Listener,
    options: TakeoverOfferOptions,
    onTaken: (taken: Promise<Successor>) => void,
  ) {
    this.path = path;
    this.#listener = listener;
    this.#options = options;
    this.#onTaken = onTaken;
    beforeClose(listener, () => {
      this.#stop(); // with the offer, or because a successor has it
    });
    // Until then those who come belong to the predecessor, which accepts from the same queue.
    void thisGeneration().alone.then(() => {
      this.#accept();
    });
  }

  get closed(): boolean {
    return this.#listener.closed;
  }

  #accept(): void {
    if (this.closed) return;
    const watch = raw.watch(this.#listener.fd, { readable: true }, () => {
      // Outside the loop's poll phase: see NextGeneration.
      setImmediate(() => {
        if (this.#watch === watch) this.#acceptAll(watch);
      });
    });
    watch.unref(); // an offer keeps no process alive
    this.#watch = watch;
  }

  #acceptAll(watch: raw.Watch): void {
    for (;;) {
      let fd: number | undefined;
      try {
        fd = raw.accept(this.#listener.fd);
      } catch (error) {
        // EMFILE and the like: whoever asks waits in the queue. Nothing tells when there is room again.
        publish({ event: 'refused', path: this.path, why: String(error), uid: undefined, peer: undefined });
        watch.update({});
        setTimeout(() => {
          if (this.#watch === watch) watch.update({ readable: true });
        }, ACCEPT_AGAIN).unref();
        return;
      }
      if (fd === undefined) return;
      this.#greet(new Wire(new Link(fd)));
    }
  }

  /** Looks at who it is before a byte is read, then waits for its HELLO. */
  #greet(wire: Wire): void {
    let peer: raw.Credentials;
    try {
      peer = checkPeer(wire.fd, 'The process that asks to take over', this.#options);
      if (this.#newcomers.size >= MAX_NEWCOMERS) {
        throw new FdpassError('ERR_FDPASS_BUSY', `${MAX_NEWCOMERS} processes are about to ask already`);
      }
    } catch (error) {
      this.#refuse(wire, error);
      return;
    }
    const newcomer = new Newcomer(wire, (outcome) => {
      this.#newcomers.delete(newcomer);
      if (outcome instanceof FdpassError) this.#refuse(wire, outcome);
      else if (outcome === undefined) wire.close();
      else this.#begin(wire, peer, outcome);
    });
    this.#newcomers.add(newcomer);
  }

  #refuse(wire: Wire, error: unknown): void {
    const code: FdpassErrorCode = error instanceof FdpassError ? error.code : 'ERR_FDPASS_ABORTED';
    const message = error instanceof Error ? error.message : String(error);
    let credentials: raw.Credentials | undefined;
    try {
      credentials = raw.peerCredentials(wire.fd);
    } catch {
      // It is refused because nothing is known of it.
    }
    publish({ event: 'refused', path: this.path, why: message, uid: credentials?.uid, peer: credentials?.pid });
    wire.sendNow({ type: 'ABORT', code, message }); // best effort: it is closed in any case
    wire.close();
  }

  #begin(wire: Wire, peer: raw.Credentials, hello: Frame<number>): void {
    const refused = busy() ?? (this.closed ? takenBack() : refusalToBegin());
    if (refused !== undefined) {
      this.#refuse(wire, refused);
      return;
    }
    wire.putBack([hello]);
    // The path goes along, whatever else does: or the successor could not offer there.
    const { listeners, state } = this.#options;
    const whole = listeners && [...new Set([...listeners, this.#listener])];
    const taken = transact(new ConnectedCandidate(wire, peer, state), { ...this.#options, listeners: whole });
    taken.catch(() => undefined); // a failure is told by onTaken
    this.#onTaken(taken);
  }

  #stop(): void {
    this.#watch?.close();
    this.#watch = undefined;
    // An end without a word would be taken for the end of this process, and the addresses for free.
    const why = busy() ?? takenBack();
    for (const newcomer of [...this.#newcomers]) newcomer.dismiss(why);
  }

  /** Takes the offer back, and unlinks the path where it is this process's. A takeover that is under way goes on. Idempotent. */
  close(): void {
    this.#listener.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Why whoever asks must come again. */
function busy(): FdpassError | undefined {
  const current = currentTransaction();
  if (current === undefined) return undefined;
  return new FdpassError('ERR_FDPASS_BUSY', `A handoff to pid ${current.pid ?? 'unknown'} is under way already`);
}

function takenBack(): FdpassError {
  return new FdpassError('ERR_FDPASS_ABORTED', 'The offer was taken back');
}

/** What a newcomer comes to: its HELLO; why it is sent away; undefined where nobody is there to be told, or no peer of ours. */
type NewcomerOutcome = Frame<number> | FdpassError | undefined;

/** One who has connected and not yet said HELLO. */
class Newcomer {
  readonly #wire: Wire;
  readonly #timer: NodeJS.Timeout;
  readonly #done: (outcome: NewcomerOutcome) => void;
  #over = false;

  /** `done` is called once, and the wire is its own from then on. */
  constructor(wire: Wire, done: (outcome: NewcomerOutcome) => void) {
    this.#wire = wire;
    this.#done = done;
    this.#timer = setTimeout(() => {
      this.dismiss(new FdpassError('ERR_FDPASS_ABORTED', `HELLO did not come within ${HELLO_TIMEOUT} ms`));
    }, HELLO_TIMEOUT).unref();
    wire.listen(() => {
      setImmediate(() => {
        this.#read();
      });
    });
    wire.unref();
  }

  #read(): void {
    if (this.#over) return;
    const { frames, malformed, ended } = this.#wire.readAll();
    const [hello, ...rest] = frames;
    if (hello?.message.type === 'HELLO' && malformed === undefined) {
      this.#wire.putBack(rest);
      this.#finish(hello);
      return;
    }
    for (const frame of frames) discard(frame);
    if (hello !== undefined || malformed !== undefined || ended) this.#finish(undefined);
  }

  #finish(outcome: NewcomerOutcome): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#done(outcome);
  }

  /** It is not heard any more, and told why. */
  dismiss(why: FdpassError): void {
    // What it has said already counts where it comes to the same moment: a deadline reads first, and judges then.
    this.#read();
    this.#finish(why);
  }
}

/** A successor that came by itself. All that is known of it is its end of the channel. */
class ConnectedCandidate implements Candidate {
  readonly birth = 'takeover';
  readonly wire: Wire;
  readonly pid: number;
  readonly gone = Promise.resolve();
  readonly #state: unknown;
  readonly #exited = new Deferred<{ exitCode: null; signal: null }>();
  #offering: Offering | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** The number of the batch whose answer is awaited, and of the first listener behind it. */
  #batch = 0;
  #next = 0;
  #fullSince: number | undefined;

  constructor(wire: Wire, { pid }: raw.Credentials, state: unknown) {
    this.wire = wire;
    this.pid = pid;
    this.#state = state;
  }

  get facts(): SuccessorFacts {
    return { pid: this.pid, exitCode: null, signal: null };
  }

  begin(offering: Offering): void {
    this.#offering = offering;
    this.wire.ref();
  }

  hello(_pid: number, compatible: boolean): void {
    if (compatible && this.#offering !== undefined) this.#offer(this.#offering);
  }

  #offer({ listeners, generation, probation, cancel }: Offering): void {
    let file: number | undefined;
    try {
      const value: unknown = typeof this.#state === 'function' ? (this.#state as () => unknown)() : this.#state;
      checkState(value);
      const stored = storeState(value, null);
      file = stored.file;
      const outcome = this.wire.sendNow(
        {
          type: 'OFFER',
          versions: VERSIONS,
          pid: process.pid,
          generation,
          probation,
          count: listeners.length,
          items: [],
          ...(stored.state === undefined ? {} : { state: stored.state }),
          tickets: offerTickets(listeners),
        },
        file === undefined ? [] : [file],
      );
      if (outcome === 'full') cancel('ERR_FDPASS_LIMIT', 'the offer does not fit into the channel');
      if (outcome === 'sent') this.#sendBatch();
    } catch (error) {
      cancel('ERR_FDPASS_ABORTED', `the offer could not be made: ${String(error)}`);
    } finally {
      if (file !== undefined) raw.close(file);
    }
  }

  /** The next listeners, as many as a frame takes. They stay open here: what is sent is a copy. */
  #sendBatch(): void {
    const { listeners, cancel } = this.#offering ?? {};
    if (listeners === undefined || cancel === undefined || this.#next >= listeners.length) return;
    const batch = listeners.slice(this.#next, this.#next + MAX_RIGHTS);
    const closed = batch.find((listener) => listener.closed);
    if (closed !== undefined) {
      cancel('ERR_FDPASS_ABORTED', `the listener "${closed.name}" was closed meanwhile`);
      return;
    }
    const items = batch.map(describeItem);
    const fds = batch.map((listener) => listener.fd);
    let outcome: 'sent' | 'full' | 'ended';
    try {
      outcome = this.wire.sendNow({ type: 'FDS', batch: this.#batch, items }, fds);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ETOOMANYREFS')) {
        cancel('ERR_FDPASS_LIMIT', `the listeners could not be sent: ${String(error)}`);
        return;
      }
      outcome = 'full'; // as many as this user may have on their way are on their way
    }
    if (outcome === 'sent') {
      this.#next += batch.length;
      this.#fullSince = undefined;
    }
    if (outcome !== 'full') return;
    this.#fullSince ??= performance.now();
    if (performance.now() - this.#fullSince > FULL_TIMEOUT) {
      cancel('ERR_FDPASS_LIMIT', `the kernel has taken no descriptors for ${FULL_TIMEOUT} ms (ETOOMANYREFS)`);
      return;
    }
    this.#timer = setTimeout(() => {
      this.#sendBatch();
    }, RETRY);
  }

  take({ message }: Frame<number>): boolean | string {
    const count = this.#offering?.listeners.length ?? 0;
    if (message.type === 'READY' && (this.#next < count || this.#batch * MAX_RIGHTS < count)) {
      return 'The successor said READY before it had every listener';
    }
    if (message.type !== 'FDS_ACK') return false;
    if (message.batch !== this.#batch || this.#batch * MAX_RIGHTS >= this.#next) {
      return `The successor acknowledged batch ${message.batch}, which is not on its way`;
    }
    this.#batch += 1;
    this.#sendBatch();
    return true;
  }

  /** Its end is the end of the channel. */
  hasEnded(): boolean {
    return false;
  }

  terminate(): void {
    // Not this process's to end.
  }

  kill(): void {
    // Likewise.
  }

  released(): undefined {
    return undefined; // whoever started it knows of it: no manager of this process's can follow it
  }

  succeeded(generation: number): Successor {
    return { pid: this.pid, generation, exited: this.#exited.promise };
  }

  end(): void {
    clearTimeout(this.#timer);
    this.#offering = undefined;
  }

  close(): void {
    this.#exited.resolve({ exitCode: null, signal: null });
  }
}

/** Opens the path, or takes it from the predecessor, and offers. `onTaken` hears of every takeover that begins. */
export async function openOffer(
  path: string,
  options: TakeoverOfferOptions,
  onTaken: (taken: Promise<Successor>) => void,
): Promise<TakeoverOffer> {
  const where = checkPath(path);
  checkOffer(options);
  checkTrusted(options);
  if (typeof options.state !== 'function') checkState(options.state);
  const { uids, gids, mode = uids === undefined && gids === undefined ? 0o600 : 0o666 } = options;
  checkDirectory(where, options);
  const listener = await inheritListener({ name: NAME, path: where, mode });
  try {
    // The predecessor may have chosen another. Who is not the owner of the file cannot, and need not where it is the same.
    if (!where.startsWith('@') && (fs.statSync(where).mode & 0o7777) !== mode) fs.chmodSync(where, mode);
    return new TakeoverOffer(where, listener, options, onTaken);
  } catch (error) {
    listener.close();
    throw error;
  }
}

function checkPath(path: unknown): string {
  if (typeof path !== 'string' || path === '' || path === '@') {
    const message = `path must be that of a Unix socket, or @name for an abstract one; it is ${JSON.stringify(path)}`;
    throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
  }
  return path.startsWith('@') ? path : resolve(path);
}

// ---- The new side --------------------------------------------------------------------------------------------------------

/** How to take over, and what to do where nobody is. */
export interface TakeoverOptions extends Trusted {
  /** Where nobody offers: reject (`fail`, the default), or go on as the first generation (`start`). */
  orElse?: 'fail' | 'start' | undefined;
  /** ms to wait for one's turn where another handoff is under way there. Default 0: ERR_FDPASS_BUSY at once. */
  wait?: number | undefined;
  /** Gives up, and leaves the process as it was. Heeded until the listeners are here. */
  signal?: AbortSignal | undefined;
}

/** How this process came to its listeners. */
export interface Takeover {
  /** `takeover`: over the path. `spawn`: a predecessor started it, and its listeners were here from birth. `start`: from nobody. */
  readonly from: 'takeover' | 'spawn' | 'start';
  /** 1 for `start`. */
  readonly generation: number;
}

/** How soon a busy predecessor, or one that hung up, is asked again, ms. */
const ASK_AGAIN = 100;

/** How often one that hangs up is asked again. */
const MAX_VANISHED = 10;

/**
 * Takes over from the process that offers at the path: its listeners come here, and inheritListener() finds them as if that process
 * had started this one. Nothing accepts yet; that begins with ready(), as after a spawn.
 *
 * Call it first, and wait for it. In a process that a predecessor has started it does nothing: so one program can be started either way.
 *
 * @param path - Of the offer; `@name` is abstract.
 * @returns Where the listeners came from, when all of them are here.
 * @throws {@link FdpassError} `ERR_FDPASS_NO_PREDECESSOR`: nobody offers there, or it ended in the middle (not with `orElse: 'start'`).
 * `ERR_FDPASS_BUSY`: it hands over to another at the moment. `ERR_FDPASS_REFUSED`: it does not trust this process, or this one not it
 * or the directory. `ERR_FDPASS_VERSION`, `_LIMIT`, `_PROTOCOL`, `_MISMATCH`, `_ABORTED`: the dialog failed, and the other goes on.
 * `ERR_FDPASS_CLAIMED`: this process has looked for listeners already. `ERR_FDPASS_THREAD`. RangeError, TypeError: an argument.
 * @see docs/protocol.md; unix(7)
 */
export async function takeover(path: string, options: TakeoverOptions = {}): Promise<Takeover> {
  assertMainThread('takeover()');
  const { orElse = 'fail', wait = 0, signal } = options;
  const where = checkPath(path);
  checkTrusted(options);
  checkTime('wait', wait);
  if (!['fail', 'start'].includes(orElse)) refuse('orElse', "'fail' or 'start'", orElse);
  signal?.throwIfAborted();
  if (hasAdopted() && !adoptFromParent()) {
    const message =
      'takeover() comes first: this process has looked already for what was handed down, and may have bound afresh';
    throw new FdpassError('ERR_FDPASS_CLAIMED', message);
  }
  if (adoptFromParent()) return { from: 'spawn', generation: thisGeneration().number };
  const deadline = performance.now() + wait;
  let vanished = 0;
  for (;;) {
    try {
      return { from: 'takeover', generation: await attempt(where, options) };
    } catch (error) {
      const code = error instanceof FdpassError ? error.code : undefined;
      if (code === 'ERR_FDPASS_NO_PREDECESSOR' && orElse === 'start') {
        if (isEmpty(error)) return { from: 'start', generation: 1 };
        // It hung up. If it is about to end, its sockets close a moment later; if it is not, the addresses are taken.
        vanished += 1;
        if (vanished > MAX_VANISHED) throw error;
      } else if (code !== 'ERR_FDPASS_BUSY' || performance.now() + ASK_AGAIN > deadline) throw error;
      await delay(ASK_AGAIN, undefined, signal === undefined ? {} : { signal }).catch(() => signal?.throwIfAborted());
    }
  }
}

/** Whether nobody listens at the path: the cause is what the system said. Otherwise somebody did, and hung up. */
function isEmpty(error: unknown): boolean {
  return error instanceof Error && error.cause !== undefined;
}

async function attempt(path: string, options: TakeoverOptions): Promise<number> {
  const { signal } = options;
  try {
    return await takeOver(connectTo(path, options), signal);
  } catch (error) {
    signal?.throwIfAborted();
    throw error;
  }
}

/** Connected to one who is trusted. */
function connectTo(path: string, trusted: Trusted): Wire {
  const nobody = (cause: unknown): FdpassError => {
    const why = cause instanceof Error ? cause.message : String(cause);
    const message = `Nobody offers a takeover at ${path} (${why}). Start the old process with offerTakeover(), or say orElse: 'start'`;
    return new FdpassError('ERR_FDPASS_NO_PREDECESSOR', message, { cause });
  };
  if (!path.startsWith('@')) {
    if (fs.lstatSync(path, { throwIfNoEntry: false }) === undefined) throw nobody('no such file');
    checkDirectory(path, trusted);
  }
  const fd = raw.socket('unix', 'stream');
  try {
    raw.connect(fd, { family: 'unix', path });
    checkPeer(fd, `The process that offers a takeover at ${path}`, trusted);
    return new Wire(new Link(fd));
  } catch (error) {
    raw.close(fd);
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code === 'ENOENT' || code === 'ECONNREFUSED') throw nobody(error);
    if (code === 'EACCES' || code === 'EPERM') {
      const message = `This process (uid ${process.geteuid?.() ?? 'unknown'}) may not ask at ${path}: ${String(error)}`;
      throw new FdpassError('ERR_FDPASS_REFUSED', message, { cause: error });
    }
    if (code === 'EAGAIN') {
      const message = `The queue of those who ask at ${path} is full: another takeover is under way`;
      throw new FdpassError('ERR_FDPASS_BUSY', message, { cause: error });
    }
    throw error;
  }
}
