/**
 * What a restart by handoff tells the service manager, and in which order: it follows MAINPID at the release and not before, as the
 * death of a successor that it follows already would end the unit, and this process with it.
 * For lib/handoff and lib/lifecycle.ts. Nothing here fails: a manager that cannot be told is a warning, and no reason to lose a client.
 * Source: systemd's service_notify_message in src/core/service.c; sd_notify(3), systemd.service(5).
 */
import type { Writing } from '../conventions/convention.js';
import { pidfdId } from '../pidfs.js';
import { waitForBarrier } from './barrier.js';
import { acknowledge } from './einhorn.js';
import { type ServiceState, writeMessage, writeRemove } from './message.js';
import { post } from './outbox.js';
import { einhornEnvironment, fallSilent, hasStored, isBeating, managerAddress, watchdogTimeout } from './state.js';

/** How long the release waits for the manager, ms. Below the 5 s after which the successor reports that RELEASED is overdue. */
const RELEASE_TIMEOUT = 4_000;

/** RELOADING was said, and no READY since. */
let reloading = false;

/** This process serves, and went without a predecessor, or with one that spoke for nobody: whoever waits for its start is told. */
export function tellReady(): void {
  reloading = false;
  say({ ready: true });
  acknowledge(einhornEnvironment(), process).catch((error: unknown) => {
    warn('einhorn', 'worker:ack', error);
  });
}

/** A restart was asked for, just now: a manager that sent the signal waits for a time that is later than that (Type=notify-reload). */
export function tellReloading(): void {
  reloading = true;
  say({ reloading: true });
}

/** Asked for once more while one is under way: it is the same reload, and the manager waits for a later time. */
export function repeatReloading(): void {
  if (reloading) tellReloading();
}

/** A handoff begins, by a signal that was told already or otherwise. */
export function ensureReloading(): void {
  if (!reloading) tellReloading();
}

/** The restart came to nothing, and this process goes on. Nothing where no RELOADING waits for its READY. */
export function tellFailed(why: string): void {
  if (!reloading) return;
  reloading = false;
  say({ ready: true, status: `upgrade failed: ${why}` });
}

/**
 * The listeners here are closed, the successor serves: the manager follows it from here on. This process says nothing afterwards, and
 * must not end before this resolves: the manager would take its end for that of the service.
 *
 * @param pid - 0: it cannot be known (another PID namespace), and the manager stays with this process.
 * @returns When the manager has processed it, 4 s at most; undefined where there is no manager. Never rejects.
 */
export function tellReleased(pid: number, status: string): Promise<void> | undefined {
  reloading = false;
  const address = managerAddress();
  if (address === undefined || address === '') return undefined;
  // A last beat: the successor's first may come half of the time later, and this process's was half of it ago.
  const beat: ServiceState = isBeating() ? { watchdog: true } : {};
  say({ ...(pid > 0 ? { mainPid: pid } : {}), ready: true, status, ...beat });
  const processed = waitForBarrier(address, { timeout: RELEASE_TIMEOUT });
  if (pid > 0) fallSilent();
  return processed.then(
    () => undefined,
    (error: unknown) => {
      warn(address, 'BARRIER=1', error);
    },
  );
}

/**
 * Nobody wants what came under these names, and it is closed here: where it came out of the manager's store, that keeps a duplicate, and would
 * hold a port open from which nobody accepts. Other things of these names, of a socket unit, are not touched by it; what this process has
 * stored itself under one of them would be, so that name stays.
 */
export function tellForsaken(names: readonly string[]): void {
  const address = managerAddress();
  const tell = async (): Promise<void> => {
    // One after the other: there may be more than can wait
    for (const name of names.filter((each) => !hasStored(each))) await post(address, writeRemove(name));
  };
  tell().catch((error: unknown) => {
    warn(address ?? '', 'FDSTOREREMOVE=1', error);
  });
}

/** What a successor needs to beat in the place of this process: the same time, and its own pid. Empty where no beat is asked for. */
export function writeWatchdog(): Writing {
  let ms: number | undefined;
  try {
    ms = watchdogTimeout();
  } catch {
    // malformed: who asks for it (notify.watchdog) hears so
  }
  if (ms === undefined) return { variables: {}, pidVariables: [] };
  return { variables: { WATCHDOG_USEC: String(Math.round(ms * 1000)) }, pidVariables: ['WATCHDOG_PID'] };
}

function say(state: ServiceState): void {
  const address = managerAddress();
  if (address === undefined) return;
  const text = writeMessage(state, { now: process.hrtime.bigint() / 1000n, pidfdId });
  post(address, text).catch((error: unknown) => {
    warn(address, text, error);
  });
}

function warn(whom: string, text: string, error: unknown): void {
  const why = error instanceof Error ? error.message : String(error);
  const what = `The service manager (${whom}) was not told "${text.replaceAll('\n', ' ')}": ${why}`;
  process.emitWarning(what, { code: 'FDPASS_NOTIFY' });
}
