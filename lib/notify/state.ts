/**
 * What this process and its service manager have to do with each other: where it listens, whether it still wants to hear of this
 * process, who beats. One of a process, for notify.ts and upgrade.ts. Reads process.env. Source: sd_notify(3).
 */
import { Beat, type BeatOptions, readWatchdog } from './watchdog.js';

/** As einhorn wrote it: its convention takes the variables off the environment when it is read. */
const einhorn = Object.fromEntries(
  ['EINHORN_MASTER_PID', 'EINHORN_SOCK_PATH', 'EINHORN_SOCK_FD'].map((name) => [name, process.env[name]]),
);

/** The variables of einhorn, as this process was born with them. */
export function einhornEnvironment(): Readonly<Record<string, string | undefined>> {
  return { ...einhorn, ...process.env };
}

let silenced = false;
let timeout: number | undefined;
const beats = new Set<{ beat: Beat; options: Omit<BeatOptions, 'interval'> }>();

/** Where to send; undefined: nobody asked, or a successor is the service now. */
export function managerAddress(): string | undefined {
  return silenced ? undefined : process.env['NOTIFY_SOCKET'];
}

/**
 * From here on this process says nothing: the manager follows another one, logs every message of this one as a breach, and where it
 * takes them from all processes of the unit (NotifyAccess=all) a STOPPING=1 of this one would end the service.
 */
export function fallSilent(): void {
  silenced = true;
  for (const { beat } of beats) beat.stop();
  beats.clear();
}

/** Names under which the manager keeps something that this process itself has sent. */
const stored = new Set<string>();

/** This process sends something to the manager's store under this name. */
export function noteStored(name: string): void {
  stored.add(name);
}

/** Whether it did: then that name is not to be forgotten. */
export function hasStored(name: string): boolean {
  return stored.has(name);
}

/** Within which time a beat is due, ms; undefined: none is. Errors as {@link readWatchdog}. */
export function watchdogTimeout(): number | undefined {
  if (silenced) return undefined;
  return timeout ?? readWatchdog(process.env, process.pid);
}

/** The manager was told of another time, ms: who beats, beats at half of that. */
export function changeWatchdogTimeout(ms: number): void {
  timeout = ms;
  for (const running of beats) {
    running.beat.stop();
    running.beat = new Beat({ ...running.options, interval: ms / 2 });
  }
}

/** Begins to beat at half of the time. Returns how to end it. */
export function startBeat(ms: number, options: Omit<BeatOptions, 'interval'>): () => void {
  const running = { beat: new Beat({ ...options, interval: ms / 2 }), options };
  beats.add(running);
  return () => {
    running.beat.stop();
    beats.delete(running);
  };
}

/** Whether somebody beats. */
export function isBeating(): boolean {
  return beats.size > 0;
}
