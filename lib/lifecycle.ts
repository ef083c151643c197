/**
 * The life of a server process in three calls: ready(), restartOn(), drainOn().
 * Listens to signals, ends the process. Main thread alone. What they are made of stands in handoff/ and drain/.
 * Source: signal(7).
 */
import { constants } from 'node:os';
import { setImmediate as nextTurn } from 'node:timers/promises';

import { Deferred } from './deferred.js';
import { drain, type DrainOptions, type DrainReport } from './drain/drain.js';
import { FdpassError } from './errors.js';
import { handoff, type HandoffOptions, type Successor } from './handoff/predecessor.js';
import { type Ready, thisGeneration } from './handoff/successor.js';
import { openOffer, type TakeoverOffer, type TakeoverOfferOptions } from './handoff/takeover.js';
import { stopHandoff } from './handoff/transaction.js';
import { adopt, assertMainThread } from './inherit.js';
import { openListeners, servedServers, whenServed } from './listener.js';
import { repeatReloading, tellFailed, tellReloading } from './notify/upgrade.js';
import { isListening, type Servable } from './serving.js';
import { assertNotSupervised, warnUnheard } from './supervised.js';

export type { Ready } from './handoff/successor.js';

/** How long a server may be served without ready() before the user is told, ms. */
const REMIND_AFTER = 3_000;
/**
 * A stop that is said again so soon is the same one, ms: systemd sends its own SIGTERM right behind an ExecStop= that sent one, and a
 * process group and a wrapper tell it twice.
 */
const SAME_STOP = 1_000;

let readyCalled = false;
/** restartOn() was called: what a restart would end matters. */
let restarts = false;
let reminder: NodeJS.Timeout | undefined;
/** Resolves when ready() has: what must not happen earlier waits for it. */
const served = new Deferred<void>();

/**
 * Everything that is served starts to accept, here and now.
 *
 * In a successor it says so to the predecessor, waits until that one lets it, and accepts beside it; the predecessor lets go when
 * the probation is over (`alone`). What was handed down and nobody has claimed is closed then, and reported. A service manager
 * that asked to be told is told. Twice is the same promise.
 *
 * @returns When this process serves.
 * @throws {@link FdpassError} `ERR_FDPASS_ABORTED`, `_VERSION`, `_PROTOCOL`: the predecessor took the handoff back, and goes on; this
 * process should end. `ERR_FDPASS_THREAD`: not in the main thread. The system's errors where a server cannot listen.
 * @see docs/protocol.md; sd_notify(3), READY=1
 */
export function ready(): Promise<Ready> {
  assertMainThread('ready()');
  const isFirst = !readyCalled;
  readyCalled = true;
  clearTimeout(reminder);
  process.off('beforeExit', remind);
  const promise = thisGeneration().ready();
  promise.then(({ generation }) => {
    if (isFirst && generation === 1 && (restarts || process.env['NOTIFY_SOCKET'] !== undefined)) warnUnheard();
    served.resolve();
  }, served.reject);
  return promise;
}

function remind(): void {
  clearTimeout(reminder);
  process.off('beforeExit', remind);
  const names = openListeners().map((listener) => `"${listener.name}"`);
  const message = `A server is served by ${names.join(', ')}, and ready() was not called: nothing is accepted until it is`;
  process.emitWarning(message, { code: 'FDPASS_NOT_READY' });
}

whenServed(() => {
  if (readyCalled || reminder !== undefined) return;
  reminder = setTimeout(remind, REMIND_AFTER).unref();
  process.on('beforeExit', remind);
});

/**
 * What the predecessor said in `handoff({ state })`: JSON, or bytes. Undefined where there was nothing, or no predecessor.
 *
 * @throws {@link FdpassError} As `inheritListener`, of what was handed down; `ERR_FDPASS_THREAD`: not in the main thread.
 * @see docs/restarts.md; memfd_create(2) for what is too large for a frame
 */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- the caller's word for what the predecessor sent
export function inheritedState<T>(): T | undefined {
  assertMainThread('inheritedState()');
  return adopt().predecessor?.state as T | undefined;
}

/** What {@link restartOn} tells. */
export type RestartEvent =
  | { type: 'handedOver'; successor: Successor }
  | { type: 'drained'; report: DrainReport }
  | { type: 'failed'; error: Error };

/** Options of {@link restartOn}: those of handoff() and of drain(), and what happens around them. */
export interface RestartOptions extends Omit<HandoffOptions, 'signal'>, Omit<DrainOptions, 'signal' | 'to'> {
  /** Open connections move to the successor, as in `drain({ to })`; false: they are drained. Default: true. */
  move?: boolean | undefined;
  /** Exit with code 0 after the drain. Default: true. */
  exit?: boolean | undefined;
  /** Instead of a line on stderr when a restart fails. */
  report?: ((event: RestartEvent) => void) | undefined;
  /** Waited for between the drain and the exit: for what else the application has to close. */
  beforeExit?: (() => void | Promise<void>) | undefined;
}

/**
 * On the signal: starts a successor, hands over, moves the open connections to it, drains what stays, exits with code 0. When that fails: a line on stderr, and this process
 * goes on. Call it before ready(): a signal that comes earlier is kept until then.
 *
 * @param signal - Default: SIGUSR2. SIGUSR1 works too: Node's inspector gives way to a handler.
 * @param servers - What is drained. Default: all that a Listener serves.
 * @returns Dispose to listen no more.
 * @throws {@link FdpassError} `ERR_FDPASS_SUPERVISED`: the exit of this process would end the service; the message says what to use
 * instead. Not with `exit: false`. `ERR_FDPASS_THREAD`: not in the main thread. RangeError: not a signal.
 * @see signal(7); docs/restarts.md, docs/supervisors/README.md
 */
export function restartOn(
  signal: NodeJS.Signals = 'SIGUSR2',
  servers?: Servable | Iterable<Servable>,
  options: RestartOptions = {},
): Disposable {
  assertMainThread('restartOn()');
  checkSignal(signal);
  const { exit = true, report = reportToStderr, beforeExit, idleGrace, timeout, move, ...handoffOptions } = options;
  if (exit) assertNotSupervised();
  restarts ||= exit;

  let underWay = false;
  const restart = async (): Promise<void> => {
    await served.promise;
    tellReloading();
    const successor = await handoff(handoffOptions);
    underWay = false; // whoever asks while this process drains hears who took over
    await leave(successor, servers, { exit, report, beforeExit, idleGrace, timeout, move });
  };
  const onSignal = (): void => {
    if (underWay && handoffOptions.overlap !== 'supersede') {
      repeatReloading(); // it joins
      return;
    }
    underWay = true;
    restart().catch((error: unknown) => {
      underWay = false;
      tellFailed(error instanceof Error ? error.message : String(error)); // where no handoff began
      report({ type: 'failed', error: error instanceof Error ? error : new Error(String(error)) });
    });
  };
  process.on(signal, onSignal);
  return { [Symbol.dispose]: () => process.off(signal, onSignal) };
}

/** What comes after a handoff, in the order in which it is told. */
async function leave(
  successor: Successor,
  servers: Servable | Iterable<Servable> | undefined,
  options: Pick<RestartOptions, 'exit' | 'beforeExit' | 'idleGrace' | 'timeout' | 'move'> & {
    report: (event: RestartEvent) => void;
  },
): Promise<void> {
  const { exit = true, report, beforeExit, idleGrace, timeout, move = true } = options;
  report({ type: 'handedOver', successor });
  const to = move ? successor : undefined;
  const drained = await drain(servers ?? servedServers(), { idleGrace, timeout, to });
  report({ type: 'drained', report: drained });
  await beforeExit?.();
  if (exit) process.exit(0);
}

/** Options of {@link offerTakeover}: who may take over, those of drain(), and what happens around them. */
export interface OfferOptions
  extends TakeoverOfferOptions, Pick<RestartOptions, 'exit' | 'report' | 'beforeExit' | 'move'> {
  /** What is drained. Default: all that a Listener serves. */
  servers?: Servable | Iterable<Servable> | undefined;
  /** As in drain(), ms. */
  idleGrace?: number | undefined;
  /** As in drain(), ms. */
  timeout?: number | undefined;
}

/**
 * Offers the listeners of this process to whoever comes to the path with takeover(): the restart in which the new process is no child
 * of the old one. Once one has taken over and lived through its probation, this process drains and exits with code 0. When a takeover
 * fails: a line on stderr, and this process goes on.
 *
 * The path is bound as `listen()` does it: one that nobody listens at any more is taken over, that of a live process never is. It is
 * one of the listeners that are handed on, so that somebody listens there at every moment; the successor calls offerTakeover() with
 * the same path, and serves those who come once it is alone. One takeover at a time: another is told ERR_FDPASS_BUSY.
 *
 * @param path - Of a Unix socket, in a directory that nobody else can write to; `@name` is abstract (Linux).
 * @returns The offer. It stands from when this process is alone; close() takes it back.
 * @throws {@link FdpassError} `ERR_FDPASS_REFUSED`: the directory; `ERR_FDPASS_SUPERVISED`: this process would be started anew when it
 * exits (not with `exit: false`); `ERR_FDPASS_THREAD`. EADDRINUSE: a live process offers there: takeover() takes it over. TypeError,
 * RangeError: an argument. What `listen()` throws.
 * @see docs/protocol.md, docs/restarts.md; unix(7), SO_PEERCRED
 */
export async function offerTakeover(path: string, options: OfferOptions = {}): Promise<TakeoverOffer> {
  assertMainThread('offerTakeover()');
  const { exit = true, report = reportToStderr, beforeExit, servers, idleGrace, timeout, move, ...offer } = options;
  if (exit) assertNotSupervised('newcomer');
  return openOffer(path, offer, (taken) => {
    taken
      .then((successor) => leave(successor, servers, { exit, report, beforeExit, idleGrace, timeout, move }))
      .catch((error: unknown) => {
        report({ type: 'failed', error: error instanceof Error ? error : new Error(String(error)) });
      });
  });
}

function reportToStderr(event: RestartEvent): void {
  if (event.type === 'failed') process.stderr.write(`fdpass: the restart failed: ${describe(event.error)}\n`);
}

function describe(error: Error): string {
  return error instanceof FdpassError ? `${error.message} [${error.code}]` : (error.stack ?? error.message);
}

/** Options of {@link drainOn}. */
export interface DrainOnOptions extends Omit<DrainOptions, 'signal' | 'to'> {
  /** Told what became of the connections, before the exit. */
  report?: ((report: DrainReport) => void) | undefined;
  /** Waited for between the drain and the exit: for what else the application has to close. */
  beforeExit?: (() => void | Promise<void>) | undefined;
}

/**
 * On a signal: stops accepting, drains, exits with code 0. Another signal, 1 000 ms or more after the first, exits at once, with 128 and
 * its number; not SIGTERM under systemd, which has a limit of its own (TimeoutStopSec=). A handoff that is under way is taken back first;
 * a successor that is not yet alone leaves the listeners to its predecessor.
 *
 * @param signals - Default: SIGTERM and SIGINT.
 * @param servers - What is drained. Default: all that a Listener serves.
 * @returns Dispose to listen no more.
 * @throws {@link FdpassError} `ERR_FDPASS_THREAD`: not in the main thread. RangeError: not a signal.
 * @see signal(7); docs/restarts.md
 */
export function drainOn(
  signals: NodeJS.Signals | readonly NodeJS.Signals[] = ['SIGTERM', 'SIGINT'],
  servers?: Servable | Iterable<Servable>,
  options: DrainOnOptions = {},
): Disposable {
  assertMainThread('drainOn()');
  const list = typeof signals === 'string' ? [signals] : signals;
  for (const signal of list) checkSignal(signal);
  const { report, beforeExit, ...drainOptions } = options;

  let since: number | undefined;
  const stop = async (): Promise<void> => {
    const targets = servers ?? servedServers();
    const over = stopHandoff();
    thisGeneration().stop();
    await over; // a newcomer that takes over may come to its READY: its listeners are its own then
    const draining = drain(targets, drainOptions);
    // What waits in the kernel's queue is accepted first; a listener that closes resets it.
    const list = Symbol.iterator in targets ? [...targets] : [targets];
    while (list.some(isListening)) await nextTurn();
    for (const listener of openListeners()) listener.close();
    const drained = await draining;
    report?.(drained);
    await beforeExit?.();
    process.exit(0);
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    const now = performance.now();
    if (since !== undefined) {
      if (now - since >= SAME_STOP && !isRepeated(signal)) process.exit(128 + constants.signals[signal]);
      return;
    }
    since = now;
    stop().catch((error: unknown) => {
      process.stderr.write(`fdpass: the drain failed: ${error instanceof Error ? describe(error) : String(error)}\n`);
      process.exit(1);
    });
  };
  for (const signal of list) process.on(signal, onSignal);
  return {
    [Symbol.dispose]: () => {
      for (const signal of list) process.off(signal, onSignal);
    },
  };
}

/**
 * systemd says SIGTERM once more to what is left of a unit when its main process has ended: to an old one that still drains, too. Source:
 * service_enter_signal in src/core/service.c, FINAL_SIGTERM.
 */
function isRepeated(signal: NodeJS.Signals): boolean {
  return signal === 'SIGTERM' && process.env['SYSTEMD_EXEC_PID'] !== undefined;
}

function checkSignal(signal: NodeJS.Signals): void {
  if (Object.hasOwn(constants.signals, signal) && signal !== 'SIGKILL' && signal !== 'SIGSTOP') return;
  const message = `signal must be the name of one that can be caught, as in SIGUSR2; it is ${signal}`;
  throw Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}
