/**
 * What a process holds and leaves behind: its descriptors with their flags, its sockets, its children, its orphans.
 * Reads /proc and changes nothing; Linux alone. Source: proc(5).
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/**
 * Set by fixture.ts in the environment of what it starts, so that a whole family can be found by it, orphans too.
 * Not FDPASS_...: those do not reach a successor, spawn() strips them.
 */
export const MARK_VARIABLE = 'TEST_FAMILY_MARK';

export interface Descriptor {
  fd: number;
  /** As in /proc/PID/fd: `socket:[8121]`, `/dev/null`, `anon_inode:[eventpoll]`. */
  target: string;
  access: 'r' | 'w' | 'rw';
  closeOnExec: boolean;
  nonBlocking: boolean;
}

/** A socket among the descriptors of a process. `local` and `peer`: `127.0.0.1:80`, `[::1]:80`, a path, `@name`, or ''. */
export interface OpenSocket {
  fd: number;
  inode: number;
  protocol: 'tcp' | 'tcp6' | 'udp' | 'udp6' | 'unix' | 'other';
  state: string;
  local: string;
  peer: string;
}

/** pid and startTime together name one process for ever; a pid alone is used again. */
export interface ProcessEntry {
  pid: number;
  startTime: string;
  parent: number;
  /** R, S, D, T, Z, ...: proc(5). */
  state: string;
  command: string;
}

type Pid = number | 'self';

const O_ACCMODE = 0o3; // asm-generic/fcntl.h; the same on x64 and arm64, as are the next two
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;

/** The open descriptors of a process, by number. Of this process: without the one that reading them takes. */
export function openDescriptors(pid: Pid = 'self'): Descriptor[] {
  const numbers = readdirSync(`/proc/${pid}/fd`).map(Number);
  const found = numbers.map((fd) => readDescriptor(pid, fd)).filter((descriptor) => descriptor !== undefined);
  return found.sort((a, b) => a.fd - b.fd);
}

/** The same as text, one line each, to be compared whole: `19 socket:[8121] rw nonblock cloexec`. */
export function auditDescriptors(pid: Pid = 'self'): string[] {
  return openDescriptors(pid).map(describe);
}

/**
 * What an exec in this process would pass on, beyond 0, 1 and 2. Must be empty: nothing leaks.
 * Not counted: what the shell or the runner had left open for us already, and so for all that we start.
 */
export function inheritableDescriptors(pid: Pid = 'self'): string[] {
  const leaking = openDescriptors(pid).filter(({ fd, closeOnExec }) => fd > 2 && !closeOnExec);
  return leaking.map(describe).filter((line) => !INHERITED.has(line));
}

/**
 * What two audits do not share.
 *
 * @param ignore - Lines to leave out, such as what Node opens when it first needs it.
 */
export function compareDescriptors(
  before: readonly string[],
  after: readonly string[],
  ignore: RegExp = /(?!)/,
): { opened: string[]; closed: string[] } {
  const missing = (from: readonly string[], other: readonly string[]): string[] =>
    from.filter((line) => !other.includes(line) && !ignore.test(line));
  return { opened: missing(after, before), closed: missing(before, after) };
}

/** The sockets of a process, by descriptor, as its network namespace lists them. */
export function openSockets(pid: Pid = 'self'): OpenSocket[] {
  const table = socketTable(pid);
  return openDescriptors(pid).flatMap(({ fd, target }) => {
    const inode = /^socket:\[(\d+)\]$/.exec(target)?.[1];
    if (inode === undefined) return [];
    const entry = table.get(inode) ?? { protocol: 'other' as const, state: '', local: '', peer: '' };
    return [{ fd, inode: Number(inode), ...entry }];
  });
}

/** Every process of the machine that this one may see. */
export function allProcesses(): ProcessEntry[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map((pid) => readProcess(Number(pid))).filter((entry) => entry !== undefined);
}

/** One process; undefined when there is none of this pid. */
export function readProcess(pid: number): ProcessEntry | undefined {
  const stat = read(`/proc/${pid}/stat`);
  if (!stat) return undefined;
  const end = stat.lastIndexOf(')'); // a name may hold any character, ')' and space too
  const fields = stat.slice(end + 2).split(' ');
  return {
    pid,
    command: read(`/proc/${pid}/cmdline`)?.replaceAll('\0', ' ').trim() || stat.slice(stat.indexOf('('), end + 1),
    state: fields[0] ?? '',
    parent: Number(fields[1]),
    startTime: fields[19] ?? '',
  };
}

/** Whether it still runs. A zombie does not; nor does another process that has got its pid since. */
export function isAlive(entry: Pick<ProcessEntry, 'pid' | 'startTime'>): boolean {
  const now = readProcess(entry.pid);
  return now !== undefined && now.startTime === entry.startTime && !isZombie(now);
}

/** The children of a process, and theirs. */
export function descendants(pid: number, all: ProcessEntry[] = allProcesses()): ProcessEntry[] {
  const children = all.filter(({ parent }) => parent === pid);
  return children.flatMap((child) => [child, ...descendants(child.pid, all)]);
}

/** Children that have ended and that this process never reaped. Must be empty. */
export function zombiesOf(pid: number): ProcessEntry[] {
  return allProcesses().filter((entry) => entry.parent === pid && isZombie(entry));
}

/** Running processes whose environment carries this mark, whoever their parent is. A zombie has no environment left. */
export function markedProcesses(mark: string): ProcessEntry[] {
  const variable = `\0${MARK_VARIABLE}=${mark}\0`;
  return allProcesses().filter(({ pid }) => `\0${environment(pid)}`.includes(variable));
}

export function isZombie({ state }: ProcessEntry): boolean {
  return state === 'Z' || state === 'X';
}

function describe({ fd, target, access, nonBlocking, closeOnExec }: Descriptor): string {
  return `${fd} ${target} ${access}${nonBlocking ? ' nonblock' : ''}${closeOnExec ? ' cloexec' : ''}`;
}

function inherited(): ReadonlySet<string> {
  const open = openDescriptors().filter(({ fd, closeOnExec }) => fd > 2 && !closeOnExec);
  return new Set(open.map(describe));
}

function readDescriptor(pid: Pid, fd: number): Descriptor | undefined {
  const target = attempt(() => readlinkSync(`/proc/${pid}/fd/${fd}`));
  const flags = /^flags:\s*([0-7]+)/m.exec(read(`/proc/${pid}/fdinfo/${fd}`) ?? '')?.[1];
  if (target === undefined || flags === undefined) return undefined; // closed meanwhile, as the one of readdir
  const bits = Number.parseInt(flags, 8);
  return {
    fd,
    target,
    access: (['r', 'w', 'rw'] as const)[bits & O_ACCMODE] ?? 'rw',
    nonBlocking: (bits & O_NONBLOCK) !== 0,
    closeOnExec: (bits & O_CLOEXEC) !== 0,
  };
}

type SocketEntry = Omit<OpenSocket, 'fd' | 'inode'>;

const TCP_STATES = // include/net/tcp_states.h, from 1
  'ESTABLISHED SYN_SENT SYN_RECV FIN_WAIT1 FIN_WAIT2 TIME_WAIT CLOSE CLOSE_WAIT LAST_ACK LISTEN CLOSING'.split(' ');

function socketTable(pid: Pid): Map<string, SocketEntry> {
  const table = new Map<string, SocketEntry>();
  for (const protocol of ['tcp', 'tcp6', 'udp', 'udp6'] as const) {
    for (const fields of rows(pid, protocol)) {
      const [, local = '', peer = '', state = ''] = fields;
      const name = TCP_STATES[Number.parseInt(state, 16) - 1] ?? state;
      table.set(fields[9] ?? '', { protocol, state: name, local: address(local), peer: address(peer) });
    }
  }
  for (const [, , , flags = '0', , state, inode = '', ...path] of rows(pid, 'unix')) {
    const listens = (Number.parseInt(flags, 16) & 0x10000) !== 0; // __SO_ACCEPTCON
    const name = listens ? 'LISTEN' : state === '03' ? 'ESTABLISHED' : 'UNCONNECTED';
    table.set(inode, { protocol: 'unix', state: name, local: path.join(' '), peer: '' });
  }
  return table;
}

function rows(pid: Pid, protocol: string): string[][] {
  const lines = (read(`/proc/${pid}/net/${protocol}`) ?? '').split('\n').slice(1);
  return lines.filter(Boolean).map((line) => line.trim().split(/\s+/));
}

/** `0100007F:1F90`: words of 32 bits in the byte order of the machine (little on all we run on), the port as it is written. */
function address(text: string): string {
  const [hex = '', port = '0'] = text.split(':');
  const bytes = Buffer.from(hex, 'hex');
  for (let word = 0; word < bytes.length; word += 4) bytes.subarray(word, word + 4).reverse();
  const number = Number.parseInt(port, 16);
  if (bytes.length === 4) return `${bytes.join('.')}:${number}`;
  const groups = Array.from({ length: 8 }, (_, i) => bytes.readUInt16BE(2 * i).toString(16)).join(':');
  return `${new URL(`http://[${groups}]/`).hostname}:${number}`; // the URL parser shortens the zeros
}

/** '' for that of another user: it is none of ours. */
function environment(pid: number): string {
  return attempt(() => readFileSync(`/proc/${pid}/environ`, 'latin1'), 'EACCES', 'EPERM') ?? '';
}

function read(path: string): string | undefined {
  return attempt(() => readFileSync(path, 'latin1'));
}

/** undefined for what has gone while we looked. */
function attempt<T>(action: () => T, ...more: string[]): T | undefined {
  try {
    return action();
  } catch (error) {
    if (['ENOENT', 'ESRCH', ...more].includes((error as NodeJS.ErrnoException).code ?? '')) return undefined;
    throw error;
  }
}

// Behind all that it uses: it is filled while this file is loaded.
const INHERITED: ReadonlySet<string> = process.platform === 'linux' ? inherited() : new Set();
