/**
 * What a supervisor, or another program that is the parent, hands down to this process: goes through the conventions in order, looks at
 * the descriptors of the first that speaks to this process, and marks them close-on-exec. All are looked at before anything is changed.
 * Sees the environment that it is given. Knows nothing of claims and of predecessors: inherit.ts does.
 * Source: sd_listen_fds(3), inetd(8), the manuals of those in conventions/.
 */
import fs from 'node:fs';

import {
  type Environment,
  type Identity,
  type NamedDescriptor,
  nothing,
  type Reading,
  type Stranger,
} from './conventions/convention.js';
import { CONNECTION } from './conventions/stdin.js';
import { readSystemd } from './conventions/systemd.js';
import { AUTOMATIC, conventionEntry, GUESSED, SUPERVISOR_CONVENTIONS } from './conventions/table.js';
import type { SupervisorConvention } from './conventions/table.js';
import { FdpassError } from './errors.js';
import { describeListener, type ListenerOrigin } from './listener.js';
import { UNNAMED } from './names.js';
import { channelDescriptor } from './nodeInternals.js';
import { pidfdId } from './pidfs.js';
import * as raw from './raw.js';
import { adoptTableflip, type TableflipParent } from './tableflip.js';

/** A listener that was handed down. */
export interface Item {
  /** As the supervisor called it, or its address as the supervisor wrote it; else 'unknown'. */
  name: string;
  /** The other names that it came under: from a socket unit and from the fd store. */
  aliases: string[];
  /** Whether somebody called it so. Else any name will do. */
  named: boolean;
  address: raw.SocketAddress;
  type: raw.SocketType;
  origin: Exclude<ListenerOrigin, 'bound' | 'fd'>;
  fd: number;
  backlog: number;
  claimed: boolean;
}

/** A descriptor that was handed down and is no listener: a connection, a file, a pipe, a socket that is not bound. */
export interface OtherItem {
  name: string;
  aliases: string[];
  fd: number;
  description: raw.Description;
  claimed: boolean;
  /** Perhaps one of Node's own, at a number that was announced and never handed down: not ours to close unless it is claimed. */
  doubtful: boolean;
}

/** A convention that was not looked at, though its variables are there. */
export interface IgnoredConvention {
  convention: SupervisorConvention;
  variables: string[];
}

/** All that was found. */
export interface Discovery {
  /** Undefined: none of them speaks to this process. */
  convention: SupervisorConvention | undefined;
  items: Item[];
  others: OtherItem[];
  /** Why there is nothing, one sentence a convention. */
  notes: string[];
  /** Those of them that tell of listeners which are meant for another process. */
  foreign: string[];
  ignored: IgnoredConvention[];
  /** What was announced and is not open, where that is no error. */
  missing: NamedDescriptor[];
  /** Which of its processes this one is, where the supervisor counts them. */
  generation: number | undefined;
  /** The parent that waits for a word, and whose end can be seen. */
  parent: TableflipParent | undefined;
}

/** Where to look. */
export interface Search {
  order: readonly SupervisorConvention[];
  /** The caller has named them: what they say is believed, and what others say is an error. */
  isNamed: boolean;
  environment: Environment;
  /** What is not open is left out, and is no error. */
  partial: boolean;
  /** Takes variables off the environment of this process. */
  takeOff: (variables: readonly string[]) => void;
}

/** What was found at a number. */
interface Found extends NamedDescriptor {
  description: raw.Description;
  facts: ReturnType<typeof describeListener> | undefined;
}

/**
 * Looks for what was handed down.
 *
 * @throws FdpassError `ERR_FDPASS_ENV`, `_NAMES`: a variable is malformed. `_BADFD`: a descriptor is not open. `_TYPE`: a named
 * convention gives descriptors that cannot be listeners. `_MISMATCH`: it is meant for another process, or another convention is there.
 * `_PROTOCOL`, `_LIMIT`: what tableflip says. Nothing is changed then, but variables that were looked at are gone.
 */
export function discover(search: Search): Discovery {
  const { order, isNamed, environment, takeOff } = search;
  const self = identify(environment);
  const notes: string[] = [];
  const foreign: string[] = [];
  const strangers: Stranger[] = [];

  for (const [index, convention] of order.entries()) {
    const later = SUPERVISOR_CONVENTIONS.filter((other) => !order.slice(0, index + 1).includes(other));
    const isLater = (other: SupervisorConvention): boolean => order.indexOf(other) > index;
    if (convention === 'systemd' && environment['LISTEN_PID'] === '' && isLater('systemd-nopid')) continue; // there it counts as absent
    const answer = convention === 'tableflip' ? readTableflip(search) : readOne(convention, search, self);
    const { reading, found, missing = [], parent } = answer;
    if (found !== undefined) {
      takeOff(reading.variables);
      const ignored = ignoredOf(later, environment, reading.variables);
      const { generation } = reading;
      const taken = take(convention, reading.named, found);
      return { convention, ...taken, notes: [], foreign, ignored, missing, generation, parent };
    }
    notes.push(reading.note);
    if (reading.stranger === undefined) continue;
    strangers.push(reading.stranger);
    foreign.push(reading.note);
  }

  if (isNamed) refuseOthers(order, strangers, environment, self);
  const rest = SUPERVISOR_CONVENTIONS.filter((name) => !order.includes(name));
  const ignored = ignoredOf(rest, environment, []);
  return {
    convention: undefined,
    items: [],
    others: [],
    notes: [...new Set(notes)].filter(Boolean),
    foreign,
    ignored,
    missing: [],
    generation: undefined,
    parent: undefined,
  };
}

/** What one convention has to say. */
interface Answer {
  reading: Reading;
  /** What stands at its numbers; undefined where it does not speak to this process. */
  found?: Found[];
  missing?: NamedDescriptor[];
  parent?: TableflipParent | undefined;
}

function readOne(
  convention: Exclude<SupervisorConvention, 'tableflip'>,
  { isNamed, environment, partial, takeOff }: Search,
  self: Identity,
): Answer {
  const entry = conventionEntry(convention);
  // LISTEN_* goes once it is looked at, whatever it says: as sd_listen_fds(1) does.
  if (convention === 'systemd' || convention === 'systemd-nopid') takeOff(entry.variables(environment));
  const isGuess = convention === 'systemd-nopid' && !isNamed;
  // An empty LISTEN_PID counts as absent for a guess that comes true, and as damage otherwise: this throws.
  const rejectEmpty = (): void => {
    if (isGuess && environment['LISTEN_PID'] === '') readSystemd(environment, self);
  };
  let reading: Reading;
  try {
    reading = entry.read(environment, self, isNamed);
  } catch (error) {
    if (!isGuess || !(error instanceof FdpassError)) throw error;
    rejectEmpty();
    return { reading: nothing(error.message, []) };
  }
  if (reading.descriptors === undefined) return { reading };
  if (convention === 'stdin') return atStdin(reading, isNamed);
  if (reading.unproven !== true || isNamed) {
    const isSystemd = convention === 'systemd' || convention === 'systemd-nopid';
    return { reading, ...lookAtAll(reading, partial, isSystemd ? 'anything' : 'sockets') };
  }

  const found = lookQuietly(reading);
  if (typeof found !== 'string') return { reading, found };
  rejectEmpty();
  return { reading: nothing(`${reading.variables.join(', ')} may be meant for another process: ${found}`, []) };
}

function readTableflip({ environment, partial, takeOff }: Search): Answer {
  const variables = conventionEntry('tableflip').variables(environment);
  const parent = adoptTableflip(environment);
  if (parent === undefined) return { reading: nothing('TABLEFLIP_HAS_PARENT_7DIU3 is not set', []) };
  takeOff(variables);
  const reading: Reading = { descriptors: parent.descriptors, note: '', variables, named: false };
  try {
    return { reading, ...lookAtAll(reading, partial, 'anything'), parent };
  } catch (error) {
    parent.close();
    throw error;
  }
}

/**
 * Every descriptor, or an error; where a part will do, those that are there.
 *
 * @param what - Which a supervisor of this kind hands down. What is no socket then was closed by a program between, and opened anew for
 * something else: npm, for one, is a Node that gives its own children nothing but the first three.
 */
function lookAtAll(
  { descriptors = [], counted = false, variables }: Reading,
  partial: boolean,
  what: 'sockets' | 'anything',
): { found: Found[]; missing: NamedDescriptor[] } {
  const found: Found[] = [];
  const missing: NamedDescriptor[] = [];
  for (const { name, fd } of descriptors) {
    const description = describe(fd);
    const isThere = 'kind' in description && (what === 'anything' || description.socket !== undefined);
    if (isThere) {
      found.push({ name, fd, description, facts: listenerAt(fd) });
      continue;
    }
    if (!partial) {
      throw 'kind' in description ? noSocket(variables, name, description) : notOpen(fd, name, description.cause);
    }
    missing.push({ name, fd });
    if (counted) break; // what stands behind it may be Node's own
  }
  return { found, missing };
}

/** Every descriptor where all are listeners; else a sentence that says which is not. */
function lookQuietly({ descriptors = [] }: Reading): Found[] | string {
  const found: Found[] = [];
  for (const { name, fd } of descriptors) {
    let description: raw.Description;
    try {
      description = raw.describe(fd);
    } catch {
      return `descriptor ${fd} is not open`;
    }
    const facts = listenerAt(fd);
    if (facts === undefined) return `descriptor ${fd} is no listener, but ${nameKind(description)}`;
    found.push({ name, fd, description, facts });
  }
  return found;
}

/** Descriptor 0: a listener; where the caller has named the convention, any socket. */
function atStdin(reading: Reading, isNamed: boolean): Answer {
  let description: raw.Description;
  try {
    description = raw.describe(0);
  } catch {
    return { reading: nothing('descriptor 0 is not open', []) };
  }
  const facts = listenerAt(0);
  const isOurs = isNamed ? description.socket !== undefined : description.socket?.listening === true;
  if (!isOurs) return { reading: nothing(`descriptor 0 is no listener, but ${nameKind(description)}`, []) };
  return { reading, found: [{ name: facts === undefined ? CONNECTION : UNNAMED, fd: 0, description, facts }] };
}

/** Now they are this process's own. */
function take(
  convention: SupervisorConvention,
  named: boolean,
  found: readonly Found[],
): { items: Item[]; others: OtherItem[] } {
  const origin = convention === 'systemd' || convention === 'systemd-nopid' ? 'systemd' : 'supervisor';
  const items: Item[] = [];
  const others: OtherItem[] = [];
  const surplus: number[] = [];
  for (const { name, fd, description, facts } of found) {
    const same = [...items, ...others].find((item) => item.fd === fd || raw.isSame(item.fd, fd));
    if (same !== undefined) {
      same.aliases.push(name); // the same socket from a socket unit and from the fd store
      if (same.fd !== fd) surplus.push(fd);
    } else if (facts !== undefined) {
      items.push({ name, aliases: [], named, ...facts, origin, fd, claimed: false });
    } else {
      others.push({ name, aliases: [], fd, description, claimed: false, doubtful: isAnonymousPipe(description) });
    }
  }
  for (const fd of surplus) {
    if (fd > 2) raw.close(fd);
    else putNull(fd);
  }
  for (const item of [...items, ...others]) {
    if (item.fd <= 2) item.fd = moveUp(item.fd);
    raw.setCloseOnExec(item.fd, true);
  }
  return { items, others };
}

/**
 * Takes a descriptor away from the first three: libuv closes none of those, and whatever is opened next would come to stand there. /dev/null
 * stands there from now on, at the others of the three too where they are the same socket (inetd).
 *
 * @returns The new number, close-on-exec.
 */
export function moveUp(fd: number): number {
  const moved = raw.dup(fd, 3);
  for (const standard of [0, 1, 2]) if (isSameHere(standard, moved)) putNull(standard);
  return moved;
}

function isSameHere(fd: number, other: number): boolean {
  try {
    return raw.isSame(fd, other);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EBADF') return false;
    throw error;
  }
}

function putNull(fd: number): void {
  const empty = fs.openSync('/dev/null', 'r+');
  try {
    raw.dupTo(empty, fd);
    raw.setCloseOnExec(fd, false); // children expect the first three
  } finally {
    fs.closeSync(empty);
  }
}

/** Without a path: perhaps one of Node's own, at a number that was announced and never handed down. */
function isAnonymousPipe({ kind, fd }: raw.Description): boolean {
  if (kind !== 'pipe') return false;
  try {
    return fs.readlinkSync(`/proc/self/fd/${fd}`).startsWith('pipe:');
  } catch {
    return true; // no /proc here: nothing says that it is not
  }
}

/** What is there and was not looked at. */
function ignoredOf(
  conventions: readonly SupervisorConvention[],
  environment: Environment,
  read: readonly string[],
): IgnoredConvention[] {
  // With a pid in it LISTEN_FDS is systemd's alone.
  const isOfNobody = (environment['LISTEN_PID'] ?? '') === '';
  return conventions
    .filter((convention) => convention !== 'systemd-nopid' || isOfNobody)
    .map((convention) => ({ convention, variables: conventionEntry(convention).variables(environment) }))
    .map(({ convention, variables }) => ({ convention, variables: variables.filter((name) => !read.includes(name)) }))
    .filter(({ variables }) => variables.length > 0);
}

/** The caller has named conventions, and none of them speaks to this process: what is there instead must not be bound over. */
function refuseOthers(
  order: readonly SupervisorConvention[],
  [stranger]: readonly Stranger[],
  environment: Environment,
  self: Identity,
): void {
  if (stranger !== undefined) {
    const { variable, value, own } = stranger;
    const message = `${variable} is ${value}, and for this process it would be ${own}: the listeners are meant for another one`;
    const isPid = variable === 'LISTEN_PID' && /^\d+$/.test(value); // 'auto' of shellflip is none
    const pids = isPid ? { listenPid: Number(value), pid: self.pid } : {};
    throw new FdpassError('ERR_FDPASS_MISMATCH', message, { variable, value, expected: own, got: value, ...pids });
  }
  for (const convention of AUTOMATIC) {
    if (order.includes(convention) || GUESSED.includes(convention)) continue;
    const entry = conventionEntry(convention);
    const reading = entry.read(environment, self, false);
    if (reading.descriptors === undefined || reading.unproven === true) continue;
    const got = `${convention} (${entry.variables(environment).join(', ')})`;
    const message = `Listeners were handed down by ${got}, and options.convention asks for ${order.join(', ')}`;
    throw new FdpassError('ERR_FDPASS_MISMATCH', message, { expected: order.join(', '), got: convention });
  }
}

/** Undefined: no listener. */
function listenerAt(fd: number): ReturnType<typeof describeListener> | undefined {
  try {
    return describeListener(fd);
  } catch (error) {
    if (error instanceof FdpassError && error.code === 'ERR_FDPASS_TYPE') return undefined;
    throw error;
  }
}

/** What was handed down at this number; or why nothing was. */
function describe(fd: number): raw.Description | { cause: unknown } {
  try {
    const description = raw.describe(fd);
    // Node took the number for an epoll or eventfd of its own: nothing stood there at the exec. Or it is how Node speaks to its parent.
    const isOfNode = description.kind === 'anonymous' || fd === channelDescriptor();
    return isOfNode ? { cause: undefined } : description;
  } catch (cause) {
    return { cause };
  }
}

function notOpen(fd: number, name: string, cause?: unknown): FdpassError {
  const message = `Descriptor ${fd}, which was announced as "${name}", was not handed down: it is not open`;
  return new FdpassError('ERR_FDPASS_BADFD', message, { fd, cause });
}

function noSocket([variable = '']: readonly string[], name: string, description: raw.Description): FdpassError {
  const { fd } = description;
  const got = nameKind(description);
  const what = `Descriptor ${fd}, which ${variable} announces as "${name}", is no socket, but ${got}`;
  const message = `${what}: a program between the supervisor and this process has closed it (npm does; start node itself, or by exec)`;
  return new FdpassError('ERR_FDPASS_TYPE', message, { fd, expected: 'a socket', got });
}

/** For people. */
export function nameKind({ kind, socket }: raw.Description): string {
  if (kind === 'character') return 'a terminal or another device';
  if (kind === 'anonymous') return 'an epoll or eventfd of Node’s own';
  if (socket === undefined) return `a ${kind}`;
  return socket.peerAddress === undefined
    ? `a ${socket.type} socket that does not listen`
    : `a ${socket.type} connection`;
}

function identify(environment: Environment): Identity {
  const { LISTEN_PIDFDID: announced } = environment;
  const { pid, ppid } = process;
  return { pid, ppid, pidfdId: announced === undefined ? undefined : pidfdId(pid), channel: channelDescriptor() };
}
