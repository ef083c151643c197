/**
 * What is said to a service manager, as text: from a state to a message, from a message to its fields, from the text of NOTIFY_SOCKET to
 * an address. Pure: it sends nothing and looks at nothing but its arguments.
 * Source: sd_notify(3); systemd's src/libsystemd/sd-daemon/sd-daemon.c and src/core/manager.c for what is refused.
 */
import { constants } from 'node:os';

/** Fields of one's own, which the manager ignores: a name that begins with `X_`, capitals, digits and `_`. */
type OwnFields = Readonly<Record<`X_${string}`, string | undefined>>;

/** What a service manager can be told. What is absent, false or undefined is not said. */
export interface ServiceState extends OwnFields {
  /** READY: the start, or a reload, is done. */
  ready?: boolean | undefined;
  /** RELOADING, with the time of the call: a reload has begun; `ready` must follow. */
  reloading?: boolean | undefined;
  /** STOPPING: this service ends. Not for an old process that hands over: the service goes on. */
  stopping?: boolean | undefined;
  /** STATUS: one line for people. Line breaks and other control characters become blanks; what does not fit is cut. */
  status?: string | undefined;
  /** ERRNO: why it failed, a number of errno(3), positive or negative as Node has it. */
  errno?: number | undefined;
  /** BUSERROR: the name of an error of D-Bus. */
  busError?: string | undefined;
  /** VARLINKERROR: the name of an error of Varlink. systemd 257 */
  varlinkError?: string | undefined;
  /** EXIT_STATUS: what the process will exit with. systemd 254 */
  exitStatus?: number | undefined;
  /**
   * MAINPID: the process that is the service from here on. The manager heeds it from the one that is the service now. With MAINPIDFDID,
   * which tells it from a later process with the same number, where the kernel has such a thing (Linux 6.9; systemd 257 looks at it).
   */
  mainPid?: number | undefined;
  /** WATCHDOG: true is one beat; 'trigger' asks the manager to do at once what it does when beats are missing. */
  watchdog?: true | 'trigger' | undefined;
  /** WATCHDOG_USEC: beats are due within this time from here on, ms. */
  watchdogTimeout?: number | undefined;
  /** EXTEND_TIMEOUT_USEC: the start, the reload or the stop needs so much longer, from now, ms. Repeat it before it is over. */
  extendTimeout?: number | undefined;
  /** NOTIFYACCESS: whose messages the manager takes from here on. systemd 254 */
  notifyAccess?: 'none' | 'main' | 'exec' | 'all' | undefined;
  /** RESTART_RESET: the manager counts the restarts from zero again. systemd 258 */
  restartReset?: boolean | undefined;
}

/** What a message needs to know of the world. */
export interface Surroundings {
  /** CLOCK_MONOTONIC, microseconds. */
  now: bigint;
  /** The lasting inode of the pidfd of a process; undefined where there is none. */
  pidfdId: (pid: number) => string | undefined;
}

/** The largest message, bytes: the manager's buffer is PIPE_BUF, and older ones need room for a NUL. */
export const MAX_MESSAGE = 4095;

/** The most descriptors of one message. SCM_MAX_FD, unix(7) */
export const MAX_DESCRIPTORS = 253;

const ANY_CID = 2 ** 32 - 1; // VMADDR_CID_ANY: no machine
const MAX_PATH = 107; // sun_path is 108 bytes with its NUL, unix(7)
const MAX_PID = 2 ** 31 - 1;
const ACCESS = ['none', 'main', 'exec', 'all'];

const KEYS: ReadonlySet<string> = new Set<keyof ServiceState>([
  'ready',
  'reloading',
  'stopping',
  'status',
  'errno',
  'busError',
  'varlinkError',
  'exitStatus',
  'mainPid',
  'watchdog',
  'watchdogTimeout',
  'extendTimeout',
  'notifyAccess',
  'restartReset',
]);

/**
 * The text of a state.
 *
 * @throws TypeError, RangeError: a property that is unknown, of a wrong type or out of range, or nothing that could be said.
 * `EMSGSIZE`: longer than the manager takes.
 */
export function writeMessage(state: ServiceState, { now, pidfdId }: Surroundings): string {
  if (typeof state !== 'object' || (state as unknown) === null) {
    throw invalid(TypeError, 'state', 'an object, as in { ready: true }', state);
  }
  const lines: string[] = [];
  const say = (key: string, value: string | number | bigint): void => void lines.push(`${key}=${value}`);
  const { mainPid, watchdog, notifyAccess } = state;

  if (flag(state, 'stopping')) say('STOPPING', 1);
  if (flag(state, 'reloading')) {
    say('RELOADING', 1);
    say('MONOTONIC_USEC', now);
  }
  if (mainPid !== undefined) {
    say('MAINPID', whole(mainPid, 'mainPid', 1, MAX_PID));
    const id = pidfdId(mainPid);
    if (id !== undefined) say('MAINPIDFDID', id);
  }
  if (flag(state, 'ready')) say('READY', 1);
  if (state.errno !== undefined) say('ERRNO', Math.abs(whole(state.errno, 'errno', -4095, 4095)));
  if (state.busError !== undefined) say('BUSERROR', line(state.busError, 'busError'));
  if (state.varlinkError !== undefined) say('VARLINKERROR', line(state.varlinkError, 'varlinkError'));
  if (state.exitStatus !== undefined) say('EXIT_STATUS', whole(state.exitStatus, 'exitStatus', 0, 255));
  if (watchdog === true) say('WATCHDOG', 1);
  else if (watchdog === 'trigger') say('WATCHDOG', 'trigger');
  else if ((watchdog as unknown) !== undefined) throw invalid(TypeError, 'watchdog', "true or 'trigger'", watchdog);
  if (state.watchdogTimeout !== undefined) {
    say('WATCHDOG_USEC', microseconds(state.watchdogTimeout, 'watchdogTimeout'));
  }
  if (state.extendTimeout !== undefined) {
    say('EXTEND_TIMEOUT_USEC', microseconds(state.extendTimeout, 'extendTimeout'));
  }
  if (notifyAccess !== undefined) {
    if (!ACCESS.includes(notifyAccess)) throw invalid(TypeError, 'notifyAccess', ACCESS.join(', '), notifyAccess);
    say('NOTIFYACCESS', notifyAccess);
  }
  if (flag(state, 'restartReset')) say('RESTART_RESET', 1);
  for (const [key, value] of Object.entries(state) as [string, unknown][]) {
    if (KEYS.has(key) || value === undefined) continue;
    if (!/^X_[A-Z0-9_]+$/.test(key)) {
      const message = `state.${key} is not known: see ServiceState; a field of your own has a name as X_PHASE`;
      throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
    }
    say(key, line(value, key));
  }
  if (state.status !== undefined) {
    if (typeof state.status !== 'string') throw invalid(TypeError, 'status', 'a string', state.status);
    const taken = Buffer.byteLength([...lines, 'STATUS='].join('\n'));
    const at = lines.findIndex((each) => each === 'READY=1') + 1 || lines.length; // where a reader looks for it
    lines.splice(at, 0, `STATUS=${statusLine(state.status, Math.max(0, MAX_MESSAGE - taken))}`);
  }
  if (lines.length === 0) throw invalid(TypeError, 'state', 'something to say, as in { ready: true }', state);
  return checkLength(lines.join('\n'));
}

/** FDSTORE: the manager keeps the descriptors that go with it, under this name. A name has been checked. */
export function writeStore(name: string, poll: boolean): string {
  return `FDSTORE=1\nFDNAME=${name}${poll ? '' : '\nFDPOLL=0'}`;
}

/** FDSTOREREMOVE: the manager forgets all descriptors of this name. */
export function writeRemove(name: string): string {
  return `FDSTOREREMOVE=1\nFDNAME=${name}`;
}

/** What the manager reads of a message. */
export interface Reading {
  /** In their order; empty ones are left out. */
  lines: string[];
  /** KEY to VALUE: of a key that stands there twice the first. No prototype: any key is a key. */
  fields: Readonly<Record<string, string>>;
}

/**
 * Reads a message by the rules of systemd's manager.
 *
 * @returns A string where the manager ignores all of it: why.
 */
export function readMessage(bytes: Buffer): Reading | string {
  if (bytes.length === 0) return 'it is empty';
  const zero = bytes.indexOf(0);
  if (zero >= 0 && zero < bytes.length - 1) return 'a NUL stands in it'; // a last one is passed over
  const lines = bytes
    .toString('utf8', 0, zero < 0 ? bytes.length : zero)
    .split(/[\r\n]+/)
    .filter((each) => each !== '');
  const fields = Object.create(null) as Record<string, string>;
  for (const each of lines) {
    const at = each.indexOf('=');
    if (at > 0) fields[each.slice(0, at)] ??= each.slice(at + 1);
  }
  return { lines, fields };
}

/** The name under which the manager keeps a descriptor whose own is missing or invalid. */
export const STORED = 'stored';

/** systemd's fdname_is_valid: a sender's own rule is stricter (checkName), as a backslash does not come back whole. */
export function isValidName(name: string): boolean {
  return /^[\x20-\x7e]{0,255}$/.test(name) && !name.includes(':');
}

/** Where a service manager listens. */
export type ManagerAddress =
  | { kind: 'unix'; path: string }
  | { kind: 'vsock'; type: 'stream' | 'dgram' | 'seqpacket' | undefined; cid: number; port: number };

/**
 * Reads the text of NOTIFY_SOCKET: a path, `@name`, `vsock:CID:PORT`, or `vsock-stream:`, `vsock-dgram:`, `vsock-seqpacket:`.
 *
 * @returns Undefined for the empty text: nobody asked.
 * @throws `EAFNOSUPPORT`: none of the three; `E2BIG`: the path is longer than a Unix socket's can be; `EINVAL`: no name, or not numbers.
 */
export function readAddress(text: string): ManagerAddress | undefined {
  if (text === '') return undefined;
  const vsock = /^vsock(?:-(stream|dgram|seqpacket))?:(.*)$/.exec(text);
  if (vsock !== null) {
    const numbers = /^(\d{1,10}):(\d{1,10})$/.exec(vsock[2] ?? '');
    const [cid, port] = [Number(numbers?.[1]), Number(numbers?.[2])];
    if (!(cid < ANY_CID && port < 2 ** 32)) {
      throw systemError('EINVAL', 'connect', `NOTIFY_SOCKET "${text}" is not vsock:CID:PORT, as in vsock:2:1234`);
    }
    const type = vsock[1] as 'stream' | 'dgram' | 'seqpacket' | undefined;
    return { kind: 'vsock', type, cid, port };
  }
  if (!/^[/@]/.test(text)) {
    const message = `NOTIFY_SOCKET "${text}" is neither a path, nor @name, nor vsock:CID:PORT`;
    throw systemError('EAFNOSUPPORT', 'connect', message);
  }
  if (text.length === 1) throw systemError('EINVAL', 'connect', `NOTIFY_SOCKET "${text}" has no name`);
  const length = Buffer.byteLength(text);
  if (length > MAX_PATH) {
    const message = `NOTIFY_SOCKET "${text}" is ${length} bytes, and the path of a Unix socket has at most ${MAX_PATH}`;
    throw systemError('E2BIG', 'connect', message);
  }
  return { kind: 'unix', path: text };
}

/** An error with the fields that those of system calls have, where no system call was made, or none said it. */
export function systemError(code: keyof typeof constants.errno, syscall: string, what: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${what}`), { code, errno: -constants.errno[code], syscall });
}

function checkLength(text: string): string {
  const length = Buffer.byteLength(text);
  if (length <= MAX_MESSAGE) return text;
  const what = `a message to the service manager has at most ${MAX_MESSAGE} bytes, and this one ${length}`;
  throw systemError('EMSGSIZE', 'sendmsg', `${what}: ${text.slice(0, 60)}...`);
}

/** One line, no longer than so many bytes, cut between two characters. */
function statusLine(status: string, bytes: number): string {
  // eslint-disable-next-line no-control-regex -- those are what must not reach a terminal, or end the line
  const text = status.replace(/[\u0000-\u001f\u007f-\u009f]+/g, ' ');
  const all = Buffer.from(text);
  if (all.length <= bytes) return text;
  let end = bytes;
  while (end > 0 && ((all[end] ?? 0) & 0xc0) === 0x80) end--; // a continuation byte of UTF-8
  return all.toString('utf8', 0, end);
}

function flag(state: ServiceState, name: 'ready' | 'reloading' | 'stopping' | 'restartReset'): boolean {
  const value: unknown = state[name];
  if (value === undefined || typeof value === 'boolean') return value === true;
  throw invalid(TypeError, name, 'true or false', value);
}

function line(value: unknown, name: string): string {
  if (typeof value !== 'string') throw invalid(TypeError, name, 'a string', value);
  // eslint-disable-next-line no-control-regex -- a line break would begin another field
  if (/[\u0000-\u001f\u007f]/.test(value)) throw invalid(TypeError, name, 'one line without control characters', value);
  return value;
}

function whole(value: number, name: string, lowest: number, highest: number): number {
  if (typeof value !== 'number') throw invalid(TypeError, name, 'a number', value);
  if (Number.isInteger(value) && value >= lowest && value <= highest) return value;
  throw invalid(RangeError, name, `a whole number from ${lowest} to ${highest}`, value);
}

function microseconds(value: number, name: string): bigint {
  if (typeof value !== 'number') throw invalid(TypeError, name, 'a number of ms', value);
  const longest = Number.MAX_SAFE_INTEGER / 1000;
  if (value > 0 && value <= longest) return BigInt(Math.max(1, Math.round(value * 1000)));
  throw invalid(RangeError, name, 'a number of ms above 0', value);
}

function invalid(type: typeof TypeError | typeof RangeError, name: string, expected: string, got: unknown): Error {
  const shown = typeof got === 'string' ? JSON.stringify(got) : String(got);
  const message = `${name === 'state' ? name : `state.${name}`} must be ${expected}; it is ${shown}`;
  return Object.assign(new type(message), {
    code: type === RangeError ? 'ERR_OUT_OF_RANGE' : 'ERR_INVALID_ARG_VALUE',
  });
}
