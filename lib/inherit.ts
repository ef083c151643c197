/**
 * What was handed down to this process: finds it once, and gives each listener to the one who claims it.
 * Reads process.env and takes the variables it has read off it; looks at the descriptors that they name, and marks them
 * close-on-exec. Binds afresh, through listener.ts, where nothing was handed down.
 * Source: sd_listen_fds(3), docs/protocol.md.
 */
import fs from 'node:fs';
import { isMainThread } from 'node:worker_threads';

import { agrees, candidates, checkListenOptions, formatAddress, type ListenOptions, type Wanted } from './address.js';
import type { NamedDescriptor } from './conventions/convention.js';
import { type ChannelReference, FDPASS_VARIABLES, readFdpass } from './conventions/fdpass.js';
import { readSystemd } from './conventions/systemd.js';
import { FdpassError } from './errors.js';
import type { Message } from './handoff/frame.js';
import { discard, Wire } from './handoff/wire.js';
import { Link } from './link.js';
import { describeListener, inherited, listen, type Listener } from './listener.js';
import * as raw from './raw.js';

/** The conventions by which listeners can arrive, in the order in which they are looked for. */
export type InheritConvention = 'fdpass' | 'systemd';

/** What {@link inheritListener} needs to know besides where it would bind. */
export interface InheritOptions extends ListenOptions {
  /**
   * Whose listeners to take: that of a predecessor (`fdpass`) or of a supervisor (`systemd`). Others that are there are then an
   * error, and never bound afresh over. Default: the one that is there.
   */
  convention?: InheritConvention | undefined;
  /** Never bind afresh: reject where nothing that was handed down fits. Default: false. */
  strict?: boolean | undefined;
  /** Take the variables that were read off process.env, so that children do not claim what they name. Default: true. */
  unsetEnv?: boolean | undefined;
}

/** A listener that was handed down and that nobody has claimed yet. */
export interface InheritedListener {
  readonly name: string;
  readonly address: raw.SocketAddress;
  readonly type: raw.SocketType;
  readonly origin: 'predecessor' | 'systemd';
}

type OfferMessage = Extract<Message, { type: 'OFFER' }>;

interface Item extends InheritedListener {
  fd: number;
  backlog: number;
  claimed: boolean;
}

/** All that this process was born with. */
export interface Adoption {
  convention: InheritConvention | undefined;
  items: Item[];
  /** Descriptors that were announced and are no listeners: a connection, a file. Closed with what is not claimed. */
  others: NamedDescriptor[];
  /** Why there is nothing: for the message of {@link inheritListener}. */
  notes: string[];
  /** The control channel of the handoff that this process is the successor of, with what came after OFFER unread. */
  predecessor: { wire: Wire; offer: OfferMessage; state: unknown } | undefined;
}

let adoption: Adoption | undefined;
let failure: unknown;
let unset = true;

/** Signals, environment and identity belong to the process: `ERR_FDPASS_THREAD` in a worker. */
export function assertMainThread(what: string): void {
  if (isMainThread) return;
  const message = `${what} works in the main thread alone; a worker can use listen(), Listener.from() and spawn()`;
  throw new FdpassError('ERR_FDPASS_THREAD', message);
}

/**
 * Everything that was handed down, found on the first call and the same ever after.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`, `_NAMES`: a variable is malformed. `_BADFD`, `_MISMATCH`: a descriptor is not what it
 * was said to be. `_PROTOCOL`: the channel brought no OFFER. Nothing is adopted then, and every later call throws the same.
 */
export function adopt(): Adoption {
  if (failure !== undefined) throw failure; // eslint-disable-line @typescript-eslint/only-throw-error -- it was caught
  try {
    return (adoption ??= fromPredecessor() ?? fromSystemd());
  } catch (error) {
    failure = error;
    throw error;
  }
}

/** What an environment with a channel of ours in it hands down. Another socket at that number: it was meant for a parent. */
function fromPredecessor(): Adoption | undefined {
  const environment = { ...process.env };
  takeOff(FDPASS_VARIABLES);
  const reference = readFdpass(environment);
  if (reference === undefined || !isThere(reference)) return undefined;
  takeOff(['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDNAMES']);

  raw.setCloseOnExec(reference.fd, true);
  const wire = new Wire(new Link(reference.fd));
  try {
    const offer = readOffer(wire);
    const items = itemsOf(offer);
    for (const { fd } of items) raw.setCloseOnExec(fd, true);
    return {
      convention: 'fdpass',
      items,
      others: [],
      notes: [],
      predecessor: { wire, offer, state: readState(offer) },
    };
  } catch (error) {
    wire.close(); // the predecessor learns at once that nothing comes of it
    throw error;
  }
}

/** What was offered, each looked at: the very socket that the predecessor named. */
function itemsOf(offer: OfferMessage): Item[] {
  return offer.items.map((item): Item => {
    const facts = lookAt(item.fd, item.name);
    const { inode } = raw.describe(item.fd);
    if (facts === undefined || String(inode) !== item.inode) {
      const message = `Descriptor ${item.fd} is not what the predecessor offered as "${item.name}"`;
      throw new FdpassError('ERR_FDPASS_MISMATCH', message, { fd: item.fd, expected: item.inode, got: String(inode) });
    }
    const { name, fd, backlog = facts.backlog } = item;
    const origin = item.supervised === true ? 'systemd' : 'predecessor';
    return { name, address: facts.address, type: facts.type, origin, fd, backlog, claimed: false };
  });
}

function isThere({ fd, inode }: ChannelReference): boolean {
  try {
    const { kind, inode: there } = raw.describe(fd);
    return kind === 'socket' && there === inode;
  } catch {
    return false; // closed by whoever stood between: ours is not there
  }
}

/** OFFER was written before the exec: it is there, whole, from this process's first moment. */
function readOffer(wire: Wire): OfferMessage {
  const { frames, malformed, ended } = wire.readAll();
  wire.putBack(frames.slice(1));
  const offer = frames[0]?.message;
  if (offer?.type === 'OFFER') return offer;
  for (const frame of frames.slice(0, 1)) discard(frame);
  const why = malformed ?? (ended ? 'it was closed' : offer === undefined ? 'it is empty' : `${offer.type} came first`);
  throw new FdpassError('ERR_FDPASS_PROTOCOL', `The channel of the predecessor brought no OFFER: ${why}`);
}

/** What the predecessor said in `handoff({ state })`. */
function readState({ state }: OfferMessage): unknown {
  if (state === undefined) return undefined;
  if ('json' in state) return state.json;
  if (state.fd === null) return undefined; // travels with the frame in a takeover
  const bytes = Buffer.alloc(state.length);
  try {
    const read = fs.readSync(state.fd, bytes, 0, state.length, 0);
    if (read !== state.length) {
      const message = `The state of the predecessor is ${state.length} bytes, and ${read} could be read`;
      throw new FdpassError('ERR_FDPASS_PROTOCOL', message);
    }
  } finally {
    raw.close(state.fd);
  }
  return state.encoding === 'bytes' ? new Uint8Array(bytes) : (JSON.parse(bytes.toString()) as unknown);
}

/** What systemd, or who speaks as it does, hands down. All is looked at before anything is marked. */
function fromSystemd(): Adoption {
  const environment = { ...process.env };
  const { LISTEN_PIDFDID } = environment;
  const self = { pid: process.pid, pidfdId: LISTEN_PIDFDID === undefined ? undefined : ownPidfdId() };
  takeOff(['LISTEN_FDS', 'LISTEN_PID', 'LISTEN_PIDFDID', 'LISTEN_FDNAMES']);
  const { descriptors, note } = readSystemd(environment, self);
  if (descriptors === undefined) {
    return { convention: undefined, items: [], others: [], notes: [note], predecessor: undefined };
  }
  const items: Item[] = [];
  const others: NamedDescriptor[] = [];
  for (const { name, fd } of descriptors) {
    const facts = lookAt(fd, name);
    const kind = facts === undefined ? raw.describe(fd).kind : 'socket';
    // Node took the number for an epoll or eventfd of its own: nothing stood there at the exec.
    if (kind === 'anonymous') throw notOpen(fd, name);
    if (kind === 'pipe') continue; // perhaps Node's own as well, and never a listener
    if (facts === undefined) others.push({ name, fd });
    else if (!items.some((item) => raw.isSame(item.fd, fd)))
      items.push({ name, ...facts, fd, origin: 'systemd', claimed: false });
    else others.push({ name, fd }); // the same socket from a socket unit and from the fd store
  }
  for (const { fd } of [...items, ...others]) raw.setCloseOnExec(fd, true);
  return { convention: 'systemd', items, others, notes: [], predecessor: undefined };
}

/** Undefined: open, and no listener. */
function lookAt(fd: number, name: string): ReturnType<typeof describeListener> | undefined {
  try {
    return describeListener(fd);
  } catch (error) {
    if (error instanceof FdpassError && error.code === 'ERR_FDPASS_TYPE') return undefined;
    throw notOpen(fd, name, error);
  }
}

function notOpen(fd: number, name: string, cause?: unknown): FdpassError {
  const message = `Descriptor ${fd}, which was announced as "${name}", was not handed down: it is not open`;
  return new FdpassError('ERR_FDPASS_BADFD', message, { fd, cause });
}

/** The inode of this process's pidfd where it lasts as long as the process (pidfs). pidfd_open(2), Linux 6.9 */
function ownPidfdId(): string | undefined {
  const PIDFS_MAGIC = 0x50494446; // linux/magic.h
  let fd: number;
  try {
    fd = raw.pidfdOpen(process.pid);
  } catch {
    return undefined; // an older kernel, or none of Linux: then the pid alone must do, as in libsystemd
  }
  try {
    const { type } = fs.statfsSync(`/proc/self/fd/${fd}`);
    return type === PIDFS_MAGIC ? String(raw.describe(fd).inode) : undefined;
  } finally {
    raw.close(fd);
  }
}

function takeOff(variables: readonly string[]): void {
  if (!unset) return;
  // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- assigning undefined would set "undefined"
  for (const variable of variables) delete process.env[variable];
}

/**
 * The listeners that were handed down and that nobody has claimed. Main thread. Errors as {@link inheritListener}.
 *
 * @see sd_listen_fds(3)
 */
export function inheritedListeners(): InheritedListener[] {
  assertMainThread('inheritedListeners()');
  return adopt()
    .items.filter((item) => !item.claimed)
    .map(({ name, address, type, origin }) => ({ name, address, type, origin }));
}

/**
 * Takes a listener that was handed down to this process, by a predecessor or a supervisor; else binds it afresh.
 *
 * From a supervisor a name that agrees is enough: it owns the address. From a predecessor name and address must both agree, so
 * that a changed port takes effect. Without a name: by address; without either: the only one there is. Each can be claimed once.
 * The Listener belongs to the caller.
 *
 * @param name - Of the listener, or all the options.
 * @param options - Where to bind when nothing was handed down, as in {@link listen}; which convention; `strict`.
 * @returns The Listener. It accepts nothing before ready().
 * @throws {@link FdpassError} `ERR_FDPASS_MISMATCH`: nothing fits, and the options do not say where to bind; the message says what
 * was looked for and what is there. `ERR_FDPASS_CLAIMED`: it was claimed before. `ERR_FDPASS_ENV`, `_NAMES`, `_BADFD`,
 * `_PROTOCOL`: what was handed down is damaged, and nothing was adopted. `ERR_FDPASS_THREAD`: not in the main thread.
 * What {@link listen} throws.
 * @see sd_listen_fds(3); docs/protocol.md
 */
export async function inheritListener(
  name?: string | InheritOptions,
  options: Omit<InheritOptions, 'name'> = {},
): Promise<Listener> {
  assertMainThread('inheritListener()');
  const wish: InheritOptions = typeof name === 'object' ? name : name === undefined ? options : { ...options, name };
  const wanted = checkListenOptions(wish);
  unset = wish.unsetEnv ?? true;
  const { items, convention } = adopt();

  if (wish.convention !== undefined && convention !== undefined && wish.convention !== convention) {
    const message = `Listeners were handed down by ${convention}, and options.convention asks for ${wish.convention}`;
    throw new FdpassError('ERR_FDPASS_MISMATCH', message, { expected: wish.convention, got: convention });
  }
  const fitting = await fits(items, wish, wanted);
  const free = fitting.filter((item) => !item.claimed);
  const [item, second] = free;
  if (item !== undefined) {
    if (second !== undefined && wish.name === undefined) throw mismatch(wish, wanted, 'several fit');
    return claim(item);
  }
  if (fitting.length > 0) {
    const message = `${describeWish(wish, wanted)} was claimed before: each listener that was handed down can be taken once`;
    throw new FdpassError('ERR_FDPASS_CLAIMED', message);
  }
  if (wanted.kind === 'anything' || wish.strict === true) throw mismatch(wish, wanted, 'nothing fits');
  return listen(wish);
}

async function fits(items: readonly Item[], wish: InheritOptions, wanted: Wanted): Promise<Item[]> {
  const addresses = wanted.kind === 'anything' ? undefined : await candidates(wanted);
  const type = wish.type ?? (addresses === undefined ? undefined : 'stream');
  const ofType = items.filter((item) => type === undefined || item.type === type);
  const here = (item: Item): boolean => addresses?.some((address) => agrees(address, item.address)) ?? true;
  if (wish.name === undefined) return ofType.filter(here);

  const named = ofType.filter((item) => item.name === wish.name && (item.origin === 'systemd' || here(item)));
  if (named.length > 0 || addresses === undefined) return named;
  // The supervisor holds that very address under another name: to bind it afresh could only fail.
  return ofType.filter((item) => item.origin === 'systemd' && exactly(item, addresses));
}

function exactly(item: Item, addresses: readonly raw.SocketAddress[]): boolean {
  return addresses.some(
    (address) => (address.family === 'unix' || address.port !== 0) && agrees(address, item.address),
  );
}

function claim(item: Item): Listener {
  item.claimed = true;
  const { fd, name, address, type, origin, backlog } = item;
  return inherited(fd, { name, address, type, origin, backlog });
}

function describeWish({ name, type = 'stream' }: InheritOptions, wanted: Wanted): string {
  const where =
    wanted.kind === 'unix'
      ? ` at ${wanted.path}`
      : wanted.kind === 'inet'
        ? ` at ${wanted.host ?? '*'}:${wanted.port}`
        : '';
  return name === undefined ? `A ${type} listener${where}` : `A ${type} listener "${name}"${where}`;
}

function mismatch(wish: InheritOptions, wanted: Wanted, what: string): FdpassError {
  const { items, notes } = adopt();
  const there = items.map(
    ({ name, address, type, claimed }) => `"${name}" (${type}, ${formatAddress(address)}${claimed ? ', claimed' : ''})`,
  );
  const have = there.length > 0 ? `there is: ${there.join('; ')}` : `nothing was handed down (${notes.join('; ')})`;
  const how =
    wanted.kind === 'anything' && what === 'nothing fits' ? '. Give a port or a path to bind it here instead' : '';
  return new FdpassError('ERR_FDPASS_MISMATCH', `${describeWish(wish, wanted)} was looked for, ${what}: ${have}${how}`);
}

/**
 * Closes what was handed down and nobody claimed: a listener from which nobody accepts swallows its clients.
 *
 * @returns What was closed, for the report.
 */
export function closeUnclaimed(): string[] {
  const { items, others } = adopt();
  const left = items.filter((item) => !item.claimed);
  const closed = [
    ...left.map((item) => `"${item.name}" (${formatAddress(item.address)})`),
    ...others.map(({ name, fd }) => `"${name}" (descriptor ${fd})`),
  ];
  for (const item of left) item.claimed = true;
  for (const { fd } of [...left, ...others.splice(0)]) raw.close(fd);
  return closed;
}
