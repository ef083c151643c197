/**
 * The beat that a service manager waits for where WatchdogSec= is set: sent while the event loop really turns, and not otherwise.
 * Reads WATCHDOG_USEC and WATCHDOG_PID. Its timers keep no process alive. Source: sd_watchdog_enabled(3), systemd.service(5).
 */
import { FdpassError } from '../errors.js';

/** What {@link readWatchdog} reads. */
export type Environment = Readonly<Record<string, string | undefined>>;

const LONGEST_TIMEOUT = 2 ** 31 - 1; // of setTimeout
const UINT64_MAX = 2n ** 64n - 1n;

/**
 * Within which time the manager wants a beat of this process, ms. Undefined: it wants none, or none of this process.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`: a variable is malformed.
 */
export function readWatchdog(environment: Environment, pid: number): number | undefined {
  const { WATCHDOG_USEC: usec, WATCHDOG_PID: owner } = environment;
  if (usec === undefined) return undefined;
  if (owner !== undefined) {
    const number = decimal('WATCHDOG_PID', owner);
    if (number > 2n ** 31n - 1n) throw malformed('WATCHDOG_PID', owner, 'is no pid');
    if (number !== BigInt(pid)) return undefined; // meant for the parent, or for a predecessor
  }
  const number = decimal('WATCHDOG_USEC', usec);
  if (number >= UINT64_MAX) throw malformed('WATCHDOG_USEC', usec, 'is no time');
  return Number(number) / 1000;
}

function decimal(variable: string, value: string): bigint {
  if (!/^\d{1,20}$/.test(value)) throw malformed(variable, value, 'is not a whole number in decimal digits');
  const number = BigInt(value);
  if (number === 0n) throw malformed(variable, value, 'is not above 0');
  return number;
}

function malformed(variable: string, value: string, why: string): FdpassError {
  return new FdpassError('ERR_FDPASS_ENV', `${variable}: "${value}" ${why}`, { variable, value });
}

/** How {@link Beat} beats. */
export interface BeatOptions {
  /** ms between two beats. */
  interval: number;
  /** Sends a beat. Resolves when it has gone. */
  send: () => Promise<unknown>;
  /** Asked before each beat: false, a rejection, or no answer, and there is none. */
  check?: (() => boolean | Promise<boolean>) | undefined;
}

/**
 * A beat that has begun: the first at once, then one an interval, each behind a whole turn of the event loop: timers that fire do not
 * prove that the loop gets to its I/O. A loop that is blocked, or never gets past its timers, is silent.
 */
export class Beat {
  readonly #options: BeatOptions;
  readonly #timer: NodeJS.Timeout;
  #turn: NodeJS.Immediate | undefined;
  #busy = false;
  #stopped = false;

  constructor(options: BeatOptions) {
    this.#options = options;
    this.#timer = setInterval(
      () => {
        this.#turn ??= setImmediate(() => {
          this.#turn = undefined;
          void this.#beat();
        }).unref();
      },
      Math.min(Math.max(1, Math.floor(options.interval)), LONGEST_TIMEOUT),
    ).unref();
    void this.#beat();
  }

  async #beat(): Promise<void> {
    if (this.#busy) return; // the last one waits for an answer, or for room: one more would be no news
    this.#busy = true;
    try {
      const { check, send } = this.#options;
      if (check !== undefined && !(await check())) return;
      if (!this.#stopped) await send();
    } catch {
      // the check says that it is not well, or the manager is gone: either way there is no beat
    } finally {
      this.#busy = false;
    }
  }

  stop(): void {
    this.#stopped = true;
    clearInterval(this.#timer);
    clearImmediate(this.#turn);
    this.#turn = undefined;
  }
}
