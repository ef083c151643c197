/**
 * Children with exactly the descriptors they are given: checks what was asked for, writes the environment, follows the child
 * to its end. Touches process.env only to read it. Knows nothing of listeners and handoffs, only of numbers.
 * Source: execve(2), environ(7), pidfd_open(2), waitid(2); sd_listen_fds(3).
 */
import net from 'node:net';
import os from 'node:os';

import type { Writing } from './conventions/convention.js';
import { stripConventions } from './conventions/strip.js';
import { FdpassError } from './errors.js';
import { checkConventions, type Entry, firstDescriptor, give, type Giving, type SpawnConvention } from './giving.js';
import { native, type NativeSpawnOptions } from './native.js';
import * as raw from './raw.js';
import type { ReadySignal } from './readySignal.js';

/** What one of the first three descriptors of a child is; a number is a descriptor of this process. */
export type StdioEntry = 'inherit' | 'ignore' | 'pipe' | number;

/** One for all three, or stdin, stdout and stderr. */
export type StdioOption = 'inherit' | 'ignore' | 'pipe' | readonly [StdioEntry, StdioEntry, StdioEntry];

/**
 * A descriptor for a child. A number, or an object that has one (a Listener): at 3 and its place in the list (tableflip: 5; stdin: 0).
 * `source` and `target`: at `target`, 0, 1 and 2 included; it goes before `stdio` there.
 */
export type SpawnDescriptor =
  | number
  | { readonly fd: number; readonly name?: string | undefined }
  | { readonly source: number; readonly target: number; readonly name?: string | undefined };

/** How {@link spawn} starts a child. */
export interface SpawnOptions {
  /** argv[0]. Default: `file`. */
  argv0?: string | undefined;
  /** What the child has besides stdio, and nothing else. They stay this process's, open and close-on-exec as they are. */
  fds?: readonly SpawnDescriptor[] | undefined;
  /**
   * The names of the first descriptors, for the convention; it speaks of so many. Descriptors behind those are the child's too, and the
   * convention says nothing of them. Default: all of them (systemd: all that follow each other from 3 on), by their `name`, or 'unknown'.
   */
  names?: readonly string[] | undefined;
  /**
   * How the child learns of its descriptors: as the program that it is meant for knows it. 'systemd', 'server-starter' and 'einhorn' go
   * together, for a child of which nobody knows what it reads. Default 'none'.
   */
  convention?: 'none' | SpawnConvention | readonly SpawnConvention[] | undefined;
  /**
   * Make the descriptors of `fds` blocking, for a program that accepts without expecting EAGAIN (Perl, Ruby, inetd's). They become so for
   * all who hold the same sockets: this process must not accept from them any more. Default false.
   */
  blocking?: boolean | undefined;
  /**
   * Default: process.env. Without the variables of every convention, which are this process's own (LISTEN_*, FDPASS_*,
   * NODE_CHANNEL_FD, ...), and without NOTIFY_SOCKET.
   */
  env?: Readonly<Record<string, string | undefined>> | undefined;
  /** Keep NOTIFY_SOCKET: the child shall speak to who watches this process. Default false. */
  keepNotifySocket?: boolean | undefined;
  /** Set after everything else, and whatever their names: for a convention of one's own. */
  variables?: Readonly<Record<string, string>> | undefined;
  /** Variables of which the child's own pid becomes the value, as WATCHDOG_PID. Its convention adds its own. */
  pidVariables?: readonly string[] | undefined;
  /** Default: that of this process. A relative `file`, and relative parts of PATH, start from there. */
  cwd?: string | undefined;
  /** 'pipe': a socket pair, the child's end blocking. 'inherit' of what is closed here is 'ignore': /dev/null. Default 'inherit'. */
  stdio?: StdioOption | undefined;
  /** A session of its own, without a terminal: setsid(2). Default false. */
  newSession?: boolean | undefined;
  /**
   * A child of this process's parent, as for a manager that waits for its own children alone. That one reaps it: its exit status is
   * not told here. Linux 5.2; elsewhere, and in the init of a container, it is a child as ever. Default false.
   */
  sibling?: boolean | undefined;
  /** Aborted: the child gets SIGTERM. */
  signal?: AbortSignal | undefined;
}

/** How a child ended: one of the two is null. Both are where somebody else has reaped it. */
export interface ExitStatus {
  exitCode: number | null;
  /** A signal without a name is 'SIG' and its number. */
  signal: NodeJS.Signals | null;
}

/** Other ways to do the same, that this kernel does not need: for tests. */
export type SpawnFallback = NonNullable<NativeSpawnOptions['fallback']>;

/** What a {@link Child} is made of. */
interface Birth {
  pid: number;
  pidfd: number | undefined;
  pipes: readonly Pipe[];
  signal: AbortSignal | undefined;
  word: ReadySignal | undefined;
}

interface Pipe {
  target: number;
  theirs: number;
  /** A number until a socket owns it. */
  ours: number | net.Socket;
}

/**
 * Starts a program, with exactly these descriptors at exactly these numbers and nothing else open.
 *
 * Returns when the program runs: what keeps it from running is thrown here, with the errno of the call that failed in the
 * child, and leaves nothing behind. That takes as long as an exec takes, however large this process is. Every signal has
 * its default meaning in the child, and none is blocked.
 *
 * @param file - A path, or a name that is looked for in the PATH of `env`, from `cwd`. No shell.
 * @param args - Without argv[0].
 * @throws {@link FdpassError} `ERR_FDPASS_BADFD`: a descriptor that is not open, or no number; a target twice.
 * `ERR_FDPASS_NAMES`: a name or an address that the convention cannot carry, or more names than descriptors; `argv`: an argument that
 * is missing. `ERR_FDPASS_TYPE`: the convention needs the address of a socket, and this is none. `ERR_FDPASS_LIMIT`: more than it carries.
 * @throws AbortError: `signal` was aborted before.
 * @throws `ENOENT`, `EACCES`, `ENOEXEC`, `E2BIG`, ... of execve(2), with `path`; of chdir(2), with `path`; `EAGAIN`: too many
 * processes; `EMFILE`; `ENOMEM`. A TypeError or RangeError that names the argument.
 * @see execve(2), environ(7), sd_listen_fds(3)
 */
export function spawn(file: string, args: readonly string[] = [], options: SpawnOptions = {}): Child {
  return spawnBy({}, file, args, options);
}

/** As {@link spawn}, by ways that older kernels need. */
export function spawnBy(
  fallback: SpawnFallback,
  file: string,
  args: readonly string[] = [],
  options: SpawnOptions = {},
): Child {
  const { argv0 = file, cwd, newSession = false, sibling = false, signal } = options;
  if (signal?.aborted === true) throw abortError(signal, `${file} was not started`);
  const conventions = checkConventions(options.convention);
  const entries = entriesOf(options.fds ?? [], firstDescriptor(conventions));
  const given = entries.map(({ source }) => source);
  const stdio = stdioOf(options.stdio ?? 'inherit').map((entry, target) => ({ entry, target }));
  const free = stdio.filter(({ target }) => !entries.some((entry) => entry.target === target));
  for (const { entry: source, target } of free) {
    if (typeof source === 'number') {
      checkOpen(source, `stdio[${target}]`);
      entries.push({ source, target, name: undefined });
    } else if (source === 'inherit' && isOpen(target)) {
      entries.push({ source: target, target, name: undefined });
    }
  }

  const pipes: Pipe[] = [];
  const giving = give(conventions, { entries: entries.slice(0, given.length), names: options.names, args });
  let restore: (() => void) | undefined;
  try {
    const env = environmentOf(options, giving);
    addEntries(entries, giving);
    for (const { target } of free.filter(({ entry }) => entry === 'pipe')) {
      const [end, theirs] = raw.socketPair('stream');
      const pipe: Pipe = { target, theirs, ours: end };
      pipes.push(pipe);
      if (end <= 2) {
        pipe.ours = raw.dup(end, 3); // libuv closes none of the first three
        raw.close(end);
      }
      raw.setNonBlocking(theirs, false); // a program that reads its stdin does not expect EAGAIN
      entries.push({ source: theirs, target, name: undefined });
    }
    if (options.blocking === true) restore = makeBlocking(given);
    const { pid, pidfd } = native.spawnProcess({
      file,
      args: [argv0, ...giving.args],
      env,
      ...(cwd === undefined ? {} : { cwd }),
      fds: entries,
      pidVariable: [...giving.pidVariables, ...(options.pidVariables ?? [])],
      newSession,
      sibling,
      fallback,
    });
    try {
      for (const pipe of pipes) pipe.ours = socketOf(pipe);
      giving.signal?.started(pid);
      return Child.of({ pid, pidfd, pipes, signal, word: giving.signal });
    } catch (error) {
      process.kill(pid, 'SIGKILL'); // it runs, and nobody would know; it is not reaped, so the pid is its own
      throw error;
    }
  } catch (error) {
    giving.signal?.close();
    restore?.();
    for (const { ours } of pipes) {
      if (typeof ours === 'number') raw.close(ours);
      else ours.destroy();
    }
    throw error;
  } finally {
    for (const { theirs } of pipes) raw.close(theirs);
  }
}

/** A process that was started by {@link spawn}. It keeps this process alive, unless {@link unref} was called. */
export class Child implements Disposable {
  readonly pid: number;
  /** This process's ends, where `stdio` is 'pipe'. Each keeps this process alive as long as it is read from. */
  readonly stdin: net.Socket | null;
  readonly stdout: net.Socket | null;
  readonly stderr: net.Socket | null;
  /** Resolves when it has ended; does not reject. Its pipes may hold bytes that are not read yet. */
  readonly exited: Promise<ExitStatus>;
  /**
   * Resolves when the child says by its convention that it is ready: tableflip's pipe, einhorn's acknowledgement (`ackServer`). Rejects with
   * `ERR_FDPASS_SUCCESSOR_EXITED` when it ends without; that nobody waits is no error. Undefined where the convention has no word for it.
   */
  readonly ready: Promise<void> | undefined;
  readonly #word: ReadySignal | undefined;
  readonly #pidfd: number | undefined;
  /** The pidfd, or what a thread closes that waits for the child: readable at its end. The addon's, closed by reap. */
  readonly #ending: number;
  #status: ExitStatus | undefined;
  readonly #watch: raw.Watch;
  readonly #resolve: (status: ExitStatus) => void;
  readonly #signal: AbortSignal | undefined;
  readonly #abort = (): void => {
    this.kill('SIGTERM');
  };

  private constructor({ pid, pidfd, pipes, signal, word }: Birth) {
    this.pid = pid;
    this.#word = word;
    this.ready = word?.ready;
    this.#pidfd = pidfd;
    this.#signal = signal;
    let resolve: (status: ExitStatus) => void = () => undefined;
    this.exited = new Promise<ExitStatus>((settle) => (resolve = settle));
    this.#resolve = resolve;
    this.#ending = pidfd ?? native.watchExit(pid);
    this.#watch = raw.watch(this.#ending, { readable: true }, () => void this.poll());
    const socket = (target: number): net.Socket | null => {
      const ours = pipes.find((pipe) => pipe.target === target)?.ours;
      return ours instanceof net.Socket ? ours : null;
    };
    this.stdin = socket(0);
    this.stdout = socket(1);
    this.stderr = socket(2);
    signal?.addEventListener('abort', this.#abort, { once: true });
  }

  /** @internal */
  static of(birth: Birth): Child {
    return new Child(birth);
  }

  /** How it ended; undefined until this process has learnt of it. {@link poll} asks. */
  get exitStatus(): ExitStatus | undefined {
    return this.#status;
  }

  /** Asks the kernel whether it has ended, now, without waiting for the event loop. Undefined: it runs. */
  poll(): ExitStatus | undefined {
    if (this.#status === undefined && native.hasEnded(this.pid, this.#ending)) this.#settle();
    return this.#status;
  }

  /**
   * Sends it a signal. Never reaches another process: it goes by the pidfd, else by the pid as long as that is not reaped.
   *
   * @param signal - A name, or a number; 0 only asks. Default SIGTERM.
   * @returns False where it has ended.
   * @throws `EPERM`: it runs as another user by now. A TypeError `ERR_UNKNOWN_SIGNAL`.
   */
  kill(signal: NodeJS.Signals | number = 'SIGTERM'): boolean {
    const number = signalNumber(signal);
    if (this.poll() !== undefined) return false;
    try {
      if (this.#pidfd === undefined) process.kill(this.pid, number);
      else raw.pidfdSignal(this.#pidfd, number);
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
      throw error;
    }
  }

  /** Keeps this process alive again. */
  ref(): void {
    this.#watch.ref();
  }

  /** Lets this process end before the child. Pipes that are read from are their own: unref those too. */
  unref(): void {
    this.#watch.unref();
  }

  /** SIGTERM, where it still runs; does not wait. */
  [Symbol.dispose](): void {
    this.kill('SIGTERM');
  }

  #settle(): void {
    this.#watch.close(); // before the descriptor below it goes
    let status: raw.ProcessExit | undefined;
    try {
      status = native.reap(this.pid, this.#ending);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ECHILD') throw error;
    }
    this.#status = (status ?? { exitCode: null, signal: null }) as ExitStatus;
    this.#signal?.removeEventListener('abort', this.#abort);
    this.#word?.close();
    this.stdin?.destroy(); // nobody reads it any more
    this.#resolve(this.#status);
  }
}

function entriesOf(fds: readonly SpawnDescriptor[], first: number): Entry[] {
  const entries: Entry[] = [];
  for (const [index, descriptor] of fds.entries()) {
    const { source, target, name } = entryOf(descriptor, first + index);
    if (!Number.isInteger(target) || target < 0) {
      throw badDescriptor(target, `fds[${index}]: ${String(target)} cannot be the number of a descriptor in the child`);
    }
    checkOpen(source, `fds[${index}]`);
    if (entries.some((other) => other.target === target)) {
      throw badDescriptor(target, `fds[${index}]: fd ${target} of the child is given twice`);
    }
    entries.push({ source, target, name });
  }
  return entries;
}

function entryOf(descriptor: SpawnDescriptor, place: number): Entry {
  if (typeof descriptor === 'number') return { source: descriptor, target: place, name: undefined };
  if ('source' in descriptor) return { source: descriptor.source, target: descriptor.target, name: descriptor.name };
  return { source: descriptor.fd, target: place, name: descriptor.name };
}

/** The pipes of a convention stand where it says, whatever else was to stand there. */
function addEntries(entries: Entry[], { entries: more }: Giving): void {
  for (const entry of more) {
    if (entries.some(({ target }) => target === entry.target)) {
      throw badDescriptor(entry.target, `fds: fd ${entry.target} of the child is the convention's own`);
    }
    entries.push(entry);
  }
}

/** Returns what takes it back. */
function makeBlocking(fds: readonly number[]): () => void {
  const changed = fds.filter((fd) => raw.getNonBlocking(fd));
  for (const fd of changed) raw.setNonBlocking(fd, false);
  return () => {
    for (const fd of changed) raw.setNonBlocking(fd, true);
  };
}

/** 'NAME=value' each, without those of any convention but ours. */
function environmentOf(options: SpawnOptions, convention: Writing): string[] {
  const { env = process.env, keepNotifySocket, variables } = options;
  const all = { ...stripConventions(env, { keepNotifySocket }), ...convention.variables, ...variables };
  return Object.entries(all).map(([name, value]) => {
    if (name === '' || /[=\0]/.test(name) || value.includes('\0')) {
      const message = `The environment variable ${JSON.stringify(name)} cannot be passed on: no name is empty or has "=" in it, and no null bytes`;
      throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
    }
    return `${name}=${value}`;
  });
}

function stdioOf(option: StdioOption): readonly StdioEntry[] {
  const entries: readonly unknown[] = Array.isArray(option) ? option : [option, option, option];
  const isEntry = (entry: unknown): entry is StdioEntry =>
    entry === 'inherit' || entry === 'ignore' || entry === 'pipe' || typeof entry === 'number';
  if (entries.length !== 3 || !entries.every(isEntry) || typeof option === 'number') {
    const message = `The "stdio" option must be 'inherit', 'ignore' or 'pipe', or three of those or of descriptors`;
    throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
  }
  return entries;
}

/** This process's end; the socket owns the descriptor from here on. */
function socketOf({ target, ours }: Pipe): net.Socket {
  if (typeof ours !== 'number') return ours;
  return new net.Socket({ fd: ours, readable: target !== 0, writable: target === 0 });
}

function isOpen(fd: number): boolean {
  try {
    raw.getCloseOnExec(fd);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EBADF') return false;
    throw error;
  }
}

function checkOpen(fd: number, where: string): void {
  if (!Number.isInteger(fd) || fd < 0)
    throw badDescriptor(fd, `${where}: ${String(fd)} is not the number of a descriptor`);
  if (!isOpen(fd)) throw badDescriptor(fd, `${where}: fd ${fd} is not open in this process`);
}

function badDescriptor(fd: number, message: string): FdpassError {
  return new FdpassError('ERR_FDPASS_BADFD', message, { fd });
}

function signalNumber(signal: NodeJS.Signals | number): number {
  const number = typeof signal === 'number' ? signal : (os.constants.signals as Record<string, number>)[signal];
  if (number !== undefined) return number;
  throw Object.assign(new TypeError(`Unknown signal: ${signal}`), { code: 'ERR_UNKNOWN_SIGNAL' });
}

function abortError(signal: AbortSignal, what: string): Error {
  const error = new Error(`The operation was aborted: ${what}`, { cause: signal.reason });
  return Object.assign(error, { name: 'AbortError', code: 'ABORT_ERR' });
}
