/**
 * What was handed down to this process: finds it once, and gives each listener to the one who claims it (inheritOther.ts: connections and
 * files). Reads process.env and takes the variables it has read off it. What a predecessor gave it looks at itself, what a supervisor gave
 * is found by discover.ts. Binds afresh, through listener.ts, where nothing was handed down.
 * Source: sd_listen_fds(3), docs/protocol.md, docs/supervisors/README.md.
 */
import fs from 'node:fs';

import { agrees, candidates, checkListenOptions, formatAddress, type ListenOptions, type Wanted } from './address.js';
import { type Environment, MAX_INT } from './conventions/convention.js';
import { type ChannelReference, FDPASS_VARIABLES, readFdpass } from './conventions/fdpass.js';
import { SYSTEMD_VARIABLES } from './conventions/systemd.js';
import { AUTOMATIC, GUESSED, SUPERVISOR_CONVENTIONS, type SupervisorConvention } from './conventions/table.js';
import { discover, type Discovery, type IgnoredConvention, type Item, moveUp, nameKind } from './discover.js';
import { FdpassError } from './errors.js';
import type { Item as ManifestItem, Message } from './handoff/frame.js';
import { discard, Wire } from './handoff/wire.js';
import { Link } from './link.js';
import { describeListener, inherited, listen, type Listener } from './listener.js';
import { isCarried, UNNAMED } from './names.js';
import * as raw from './raw.js';
import { assertMainThread } from './thread.js';

export { assertMainThread } from './thread.js';

/**
 * The conventions by which listeners can arrive. Looked for without being named, in this order: `fdpass` (a predecessor), `systemd`,
 * `server-starter`, `einhorn` (socketmaster too), `systemd-nopid` (LISTEN_FDS or LISTEN_FD without LISTEN_PID; only where all that it
 * names are listeners), `stdin` (a listener at descriptor 0). The others only where they are named.
 */
export type InheritConvention = 'fdpass' | SupervisorConvention;

/** Whose descriptors to take, and what to do with the variables that say so. */
export interface AdoptOptions {
  /**
   * One convention, or several in the order in which to look for them. What others hand down is then an error, and never bound afresh
   * over. A predecessor is always heard first. Default: see {@link InheritConvention}.
   */
  convention?: InheritConvention | readonly InheritConvention[] | undefined;
  /**
   * Take only what is proven to be meant for this process: neither `systemd-nopid` nor `stdin`, unless they are named. And never bind
   * afresh. Default: false.
   */
  strict?: boolean | undefined;
  /**
   * Take what is there, where a descriptor that was announced is not open: {@link inheritedFrom} names what is missing. LISTEN_FDS is a mere
   * count, and is believed up to the first that is missing. A variable that is malformed is an error all the same. Default: false, and
   * nothing is taken then.
   */
  partial?: boolean | undefined;
  /** Take the variables that were read off process.env, so that children do not claim what they name. Default: true. */
  unsetEnv?: boolean | undefined;
}

/** What {@link inheritListener} needs to know besides where it would bind. */
export interface InheritOptions extends ListenOptions, AdoptOptions {
  /**
   * The number of a listener that came without a convention, as in `--fd 3`: that very descriptor, in place of host, port and path. Digits
   * in a string too. From a predecessor the listener comes under its name, and the number counts for nothing.
   */
  fd?: number | string | undefined;
}

/** A listener that was handed down and that nobody has claimed yet. */
export interface InheritedListener {
  readonly name: string;
  readonly address: raw.SocketAddress;
  readonly type: raw.SocketType;
  readonly origin: 'predecessor' | 'systemd' | 'supervisor';
}

/** Where what was handed down came from, and what else there was. */
export interface InheritanceReport {
  /** Undefined: nothing was handed down. */
  readonly convention: InheritConvention | undefined;
  /** Conventions whose variables are set, and that were not looked at: the first one that speaks to this process wins. */
  readonly ignored: readonly IgnoredConvention[];
  /** Why nothing was handed down: a sentence for each convention that was looked at. */
  readonly notes: readonly string[];
  /** What was announced and is not open: with `partial` no error. Of a count the first alone. */
  readonly missing: readonly { readonly name: string; readonly fd: number }[];
  /** Server::Starter counts the processes that it has started: which one this is, from 1. Undefined: nobody says so. */
  readonly generation: number | undefined;
}

export type { IgnoredConvention, Item } from './discover.js';

type OfferMessage = Extract<Message, { type: 'OFFER' }>;

/** All that this process was born with. */
export interface Adoption extends Omit<Discovery, 'convention'> {
  convention: InheritConvention | undefined;
  /** The control channel of the handoff that this process is the successor of, with what came after OFFER unread. */
  predecessor: { wire: Wire; offer: OfferMessage; state: unknown } | undefined;
}

let adoption: Adoption | undefined;
let failure: unknown;
/** A takeover is under way: what it brings is not here yet. */
let pending = false;
let unset = true;
/** The environment as it was before anything was taken off. */
let born: Environment | undefined;

/** Listeners that were taken by their number. */
const explicit = new Set<Listener>();

/**
 * Everything that was handed down, found on the first call and the same ever after.
 *
 * @param options - Where to look: those of the first call decide. A later call that asks for another convention is refused.
 * @throws {@link FdpassError} `ERR_FDPASS_ENV`, `_NAMES`: a variable is malformed. `_BADFD`, `_MISMATCH`: a descriptor is not what it
 * was said to be. `_PROTOCOL`: the channel brought no OFFER. Nothing is adopted then, and every later call throws the same.
 */
export function adopt(options: AdoptOptions = {}): Adoption {
  if (pending) {
    const message = 'A takeover is under way: wait for takeover() before you look for what it brings';
    throw new FdpassError('ERR_FDPASS_NOT_READY', message);
  }
  const named = namedConventions(options);
  unset = options.unsetEnv ?? true;
  if (failure !== undefined) throw failure; // eslint-disable-line @typescript-eslint/only-throw-error -- it was caught
  try {
    adoption ??= fromPredecessor() ?? fromSupervisor(named, options);
    // Nothing was there by itself, and now somebody names what is never looked for by itself.
    if (adoption.convention === undefined && named !== undefined) adoption = fromSupervisor(named, options);
  } catch (error) {
    failure = error;
    throw error;
  }
  assertNamed(adoption, named);
  return adoption;
}

function namedConventions({ convention }: AdoptOptions): readonly InheritConvention[] | undefined {
  if (convention === undefined) return undefined;
  const list: readonly unknown[] = Array.isArray(convention) ? convention : [convention];
  const known: readonly unknown[] = ['fdpass', ...SUPERVISOR_CONVENTIONS];
  for (const each of list) {
    if (known.includes(each)) continue;
    const message = `options.convention must be one or several of ${known.join(', ')}; it is ${String(each)}`;
    throw Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
  }
  return list as readonly InheritConvention[];
}

/** What was adopted at the first call may be something else than what this one asks for. */
function assertNamed({ convention }: Adoption, named: readonly InheritConvention[] | undefined): void {
  if (named === undefined || convention === undefined || convention === 'fdpass' || named.includes(convention)) return;
  const asked = named.join(', ');
  const message = `Listeners were handed down by ${convention}, and options.convention asks for ${asked}`;
  throw new FdpassError('ERR_FDPASS_MISMATCH', message, { expected: asked, got: convention });
}

/** What this caller may see of it: who asks for proof does not see what is guessed. */
export function offered(options: AdoptOptions): Adoption {
  const all = adopt(options);
  const { convention } = all;
  const isGuess = convention !== undefined && (GUESSED as readonly InheritConvention[]).includes(convention);
  if (options.strict !== true || options.convention !== undefined || !isGuess) return all;
  return { ...all, items: [], others: [], notes: [`${convention} proves nothing, and options.strict is set`] };
}

/** Whether this process has adopted what it was born with, or begun to. */
export function hasAdopted(): boolean {
  return pending || adoption !== undefined || failure !== undefined;
}

/** Whether a predecessor started this process. Looks for its channel alone, and leaves what a supervisor hands down. */
export function adoptFromParent(): boolean {
  if (hasAdopted()) return adopt().predecessor !== undefined;
  try {
    adoption = fromPredecessor();
  } catch (error) {
    failure = error;
    throw error;
  }
  return adoption !== undefined;
}

/** From here on nothing can be adopted until the takeover has brought what there is, or has come to nothing. */
export function beginTakeover(): { adopt: (taken: TakenOver) => void; giveUp: () => void } {
  pending = true;
  return {
    adopt: (taken) => {
      pending = false;
      adoption = fromTakeover(taken);
    },
    giveUp: () => {
      pending = false;
      adoption = undefined;
    },
  };
}

/** What a takeover brought: every descriptor was looked at by {@link receiveItem}. */
export interface TakenOver {
  wire: Wire;
  offer: OfferMessage;
  state: unknown;
  items: Item[];
}

/** What a supervisor handed down to this process joins it, each socket once. */
function fromTakeover({ wire, offer, state, items }: TakenOver): Adoption {
  const own = fromSupervisor(undefined, {});
  const isTaken = ({ fd }: { fd: number }): boolean => items.some((item) => raw.isSame(item.fd, fd));
  for (const { fd } of own.items.filter(isTaken)) raw.close(fd);
  return {
    ...own,
    convention: 'fdpass',
    items: [...items, ...own.items.filter((item) => !isTaken(item))],
    notes: [],
    predecessor: { wire, offer, state },
  };
}

/** What a supervisor, or another parent, hands down. */
function fromSupervisor(
  named: readonly InheritConvention[] | undefined,
  { strict = false, partial = false }: AdoptOptions,
): Adoption {
  const isSupervisor = (each: InheritConvention): each is SupervisorConvention => each !== 'fdpass';
  const automatic = AUTOMATIC.filter((each) => !strict || !GUESSED.includes(each));
  const found = discover({
    order: named === undefined ? automatic : named.filter(isSupervisor),
    isNamed: named !== undefined,
    environment: (born ??= { ...process.env }),
    partial,
    takeOff,
  });
  return { ...found, predecessor: undefined };
}

/** What an environment with a channel of ours in it hands down. Another socket at that number: it was meant for a parent. */
function fromPredecessor(): Adoption | undefined {
  born ??= { ...process.env };
  takeOff(FDPASS_VARIABLES);
  const reference = readFdpass(born);
  if (reference === undefined || !isThere(reference)) return undefined;
  takeOff(SYSTEMD_VARIABLES);

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
      foreign: [],
      ignored: [],
      missing: [],
      generation: undefined,
      parent: undefined,
      predecessor: { wire, offer, state: readState(offer.state) },
    };
  } catch (error) {
    wire.close(); // the predecessor learns at once that nothing comes of it
    throw error;
  }
}

/** What was offered, each looked at: the very socket that the predecessor named. */
function itemsOf(offer: OfferMessage): Item[] {
  return offer.items.map((item) => receiveItem(item.fd, item));
}

/**
 * The listener that came at `fd`, if it is what its entry in the manifest says. The descriptor stays the caller's.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_MISMATCH`: it is another socket; `ERR_FDPASS_BADFD`: it is not open.
 */
export function receiveItem(fd: number, item: ManifestItem): Item {
  const facts = lookAt(fd, item.name);
  const { inode } = raw.describe(fd);
  if (facts === undefined || String(inode) !== item.inode) {
    const message = `Descriptor ${fd} is not what the predecessor offered as "${item.name}"`;
    throw new FdpassError('ERR_FDPASS_MISMATCH', message, { fd, expected: item.inode, got: String(inode) });
  }
  const { name, backlog = facts.backlog } = item;
  const supervisor = item.systemd === false ? 'supervisor' : 'systemd';
  const origin = item.supervised === true ? supervisor : 'predecessor';
  const { address, type } = facts;
  return { name, aliases: [], named: true, address, type, origin, fd, backlog, claimed: false };
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

/**
 * What the predecessor said in `handoff({ state })`.
 *
 * @param file - A memory file that travelled with the frame; closed here.
 */
export function readState(state: OfferMessage['state'], file?: number): unknown {
  if (state === undefined) return undefined;
  if ('json' in state) return state.json;
  const fd = file ?? state.fd;
  if (fd === null) throw new FdpassError('ERR_FDPASS_PROTOCOL', 'OFFER names a state that did not come with it');
  const bytes = Buffer.alloc(state.length);
  try {
    const read = fs.readSync(fd, bytes, 0, state.length, 0);
    if (read !== state.length) {
      const message = `The state of the predecessor is ${state.length} bytes, and ${read} could be read`;
      throw new FdpassError('ERR_FDPASS_PROTOCOL', message);
    }
  } finally {
    raw.close(fd);
  }
  return state.encoding === 'bytes' ? new Uint8Array(bytes) : (JSON.parse(bytes.toString()) as unknown);
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

function takeOff(variables: readonly string[]): void {
  if (!unset) return;
  // eslint-disable-next-line @typescript-eslint/no-dynamic-delete -- assigning undefined would set "undefined"
  for (const variable of variables) delete process.env[variable];
}

/**
 * The listeners that were handed down and that nobody has claimed. Main thread. Errors as {@link inheritListener}.
 *
 * @param options - Whose: as in {@link inheritListener}.
 * @see sd_listen_fds(3)
 */
export function inheritedListeners(options: AdoptOptions = {}): InheritedListener[] {
  assertMainThread('inheritedListeners()');
  return offered(options)
    .items.filter((item) => !item.claimed)
    .map(({ name, address, type, origin }) => ({ name, address, type, origin }));
}

/**
 * Where what was handed down came from; what else there was, and was not looked at; or why there is nothing. Main thread. Errors as
 * {@link inheritListener}.
 *
 * @param options - Whose: as in {@link inheritListener}.
 * @see docs/supervisors/README.md
 */
export function inheritedFrom(options: AdoptOptions = {}): InheritanceReport {
  assertMainThread('inheritedFrom()');
  const { convention, ignored, notes, missing, generation } = adopt(options);
  return { convention, ignored, notes, missing, generation };
}

/**
 * Takes a listener that was handed down to this process, by a predecessor or a supervisor; else binds it afresh.
 *
 * From a supervisor a name that agrees is enough: it owns the address. Where it gave no names (only systemd does), an address must agree
 * if there is one in the options, and else the only listener is taken. From a predecessor name and address must both agree, so that a
 * changed port takes effect. Without a name: by address; without either: the only one there is. Each can be claimed once. The Listener
 * belongs to the caller.
 *
 * @param name - Of the listener, or all the options.
 * @param options - Where to bind when nothing was handed down, as in {@link listen}; which convention; `strict`; `fd`.
 * @returns The Listener. It accepts nothing before ready().
 * @throws {@link FdpassError} `ERR_FDPASS_MISMATCH`: nothing fits, and the options do not say where to bind; the message says what
 * was looked for and what is there. Or `convention` names one, and another is there, or what is there is meant for another process.
 * `ERR_FDPASS_CLAIMED`: it was claimed before. `ERR_FDPASS_TYPE`: `fd` is no listener. `ERR_FDPASS_ENV`, `_NAMES`, `_BADFD`,
 * `_PROTOCOL`: what was handed down is damaged, and nothing was adopted. `ERR_FDPASS_THREAD`: not in the main thread. What
 * {@link listen} throws.
 * @see sd_listen_fds(3); docs/protocol.md, docs/supervisors/README.md
 */
export async function inheritListener(
  name?: string | InheritOptions,
  options: Omit<InheritOptions, 'name'> = {},
): Promise<Listener> {
  assertMainThread('inheritListener()');
  const wish: InheritOptions = typeof name === 'object' ? name : name === undefined ? options : { ...options, name };
  const wanted = checkListenOptions(wish);
  const number = checkNumber(wish);
  const { items, predecessor } = offered(wish);
  if (number !== undefined && predecessor === undefined) return takeByNumber(number, items, wish);

  const fitting = await fits(items, wish, wanted);
  const free = fitting.filter((item) => !item.claimed);
  const [item, second] = free;
  if (item !== undefined) {
    if (second !== undefined && (wish.name === undefined || !isCalled(item, wish.name)) && !areAlike(free)) {
      throw mismatch(wish, wanted, 'several fit');
    }
    return claim(item, wish.name);
  }
  if (fitting.length > 0) {
    const message = `${describeWish(wish, wanted)} was claimed before: each listener that was handed down can be taken once`;
    throw new FdpassError('ERR_FDPASS_CLAIMED', message);
  }
  if (wanted.kind === 'anything' || wish.strict === true) throw mismatch(wish, wanted, 'nothing fits');
  try {
    return await listen(wish);
  } catch (error) {
    // It may well be the address of what was handed down, and did not reach this process.
    const [why] = offered(wish).foreign;
    if (why !== undefined && error instanceof Error) {
      error.message += `. Listeners were handed down, but not to this process: ${why}`;
    }
    // Or it is what was handed down under another name: that of the unit, where it has no FileDescriptorName=.
    const left = items.filter(({ claimed, origin }) => !claimed && origin !== 'predecessor');
    if (left.length > 0 && error instanceof Error) {
      error.message += `. Handed down, and claimed by nobody: ${left.map(describeItem).join('; ')}: claim it by that name`;
    }
    throw error;
  }
}

/** Sockets at one address, each with a queue of its own (SO_REUSEPORT): one is as good as the other, and each is claimed once. */
function areAlike([first, ...others]: readonly Item[]): boolean {
  const text = (item: Item): string => `${item.type} ${formatAddress(item.address)}`;
  return first !== undefined && others.every((item) => text(item) === text(first));
}

function checkNumber({ fd, host, port, path }: InheritOptions): number | undefined {
  if (fd === undefined) return undefined;
  const shown = typeof fd === 'string' ? `'${fd}'` : String(fd);
  const refuse = (what: string): TypeError =>
    Object.assign(new TypeError(`options.fd must be ${what}; it is ${shown}`), { code: 'ERR_INVALID_ARG_VALUE' });
  const number = typeof fd === 'string' && /^\d{1,10}$/.test(fd) ? Number(fd) : fd;
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 0 || number > MAX_INT) {
    throw refuse('the number of a descriptor');
  }
  if (host !== undefined || port !== undefined || path !== undefined) {
    throw refuse('given without a host, a port and a path: the socket has its address');
  }
  return number;
}

/** Nobody says in words what it is: the descriptor itself must. */
function takeByNumber(fd: number, items: readonly Item[], { name = UNNAMED, type }: InheritOptions): Listener {
  const item = items.find((each) => each.fd === fd);
  if (item?.claimed === true || [...explicit].some((listener) => listener.fd === fd)) {
    const message = `Descriptor ${fd} was claimed before: each listener that was handed down can be taken once`;
    throw new FdpassError('ERR_FDPASS_CLAIMED', message, { fd });
  }
  if (item !== undefined) return claim(item, name);
  const facts = lookAt(fd, `options.fd: ${fd}`);
  if (facts === undefined || (type !== undefined && facts.type !== type)) {
    const got = facts === undefined ? nameKind(raw.describe(fd)) : `a ${facts.type} socket`;
    const expected = type === undefined ? 'a listener' : `a ${type} listener`;
    throw new FdpassError('ERR_FDPASS_TYPE', `Descriptor ${fd} is not ${expected}: it is ${got}`, {
      fd,
      expected,
      got,
    });
  }
  const own = fd <= 2 ? moveUp(fd) : fd;
  raw.setCloseOnExec(own, true);
  const listener = inherited(own, { name, origin: 'fd', ...facts });
  explicit.add(listener);
  return listener;
}

async function fits(items: readonly Item[], wish: InheritOptions, wanted: Wanted): Promise<Item[]> {
  const addresses = wanted.kind === 'anything' ? undefined : await candidates(wanted);
  const type = wish.type ?? (addresses === undefined ? undefined : 'stream');
  const isOfType = (item: Item): boolean => type === undefined || item.type === type;
  const here = (item: Item): boolean => addresses?.some((address) => agrees(address, item.address)) ?? true;
  const { name } = wish;
  if (name === undefined) return items.filter((item) => isOfType(item) && here(item));

  const isOwned = (item: Item): boolean => item.origin !== 'predecessor';
  // The name first: it is compared soonest, and thousands may be claimed one by one.
  const called = items.filter((item) => isCalled(item, name) && isOfType(item) && (isOwned(item) || here(item)));
  if (called.length > 0) return called;
  const nameless = items.filter((item) => !item.named && isOfType(item) && here(item));
  if (nameless.length > 0 || addresses === undefined) return nameless;
  // The supervisor holds that very address under another name: to bind it afresh could only fail.
  return items.filter((item) => isOfType(item) && isOwned(item) && exactly(item, addresses));
}

function isCalled(item: Item, name: string): boolean {
  return item.name === name || item.aliases.includes(name);
}

function exactly(item: Item, addresses: readonly raw.SocketAddress[]): boolean {
  return addresses.some(
    (address) => (address.family === 'unix' || address.port !== 0) && agrees(address, item.address),
  );
}

/**
 * What nobody has called anything is called as the claimer calls it. An address, or a name with a colon that was escaped, is none that a
 * handoff could carry.
 */
function claim(item: Item, wished: string | undefined): Listener {
  item.claimed = true;
  const { fd, address, type, origin, backlog } = item;
  // Under the name by which it was asked for, it can be asked for in the next generation too.
  const isWished = wished !== undefined && (!item.named || isCalled(item, wished));
  const name = isWished ? wished : isCarried(item.name) ? item.name : UNNAMED;
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

function describeItem({ name, address, type, claimed }: Item): string {
  return `"${name}" (${type}, ${formatAddress(address)}${claimed ? ', claimed' : ''})`;
}

function mismatch(wish: InheritOptions, wanted: Wanted, what: string): FdpassError {
  const { items, others: rest, notes, ignored, missing } = offered(wish);
  const there = [
    ...items.map(describeItem),
    ...rest.map(({ name, fd, description }) => `"${name}" (descriptor ${fd}, ${nameKind(description)})`),
  ];
  const have = there.length > 0 ? `there is: ${there.join('; ')}` : `nothing was handed down (${notes.join('; ')})`;
  const unread = ignored.map(({ convention, variables }) => `${convention} (${variables.join(', ')})`);
  const others = unread.length === 0 ? '' : `. Not looked at: ${unread.join('; ')}`;
  const lost = missing.map(({ name, fd }) => `"${name}" (descriptor ${fd})`);
  const gone = lost.length === 0 ? '' : `. Announced, and not open: ${lost.join('; ')}`;
  const how =
    wanted.kind === 'anything' && what === 'nothing fits' ? '. Give a port or a path to bind it here instead' : '';
  const message = `${describeWish(wish, wanted)} was looked for, ${what}: ${have}${gone}${others}${how}`;
  return new FdpassError('ERR_FDPASS_MISMATCH', message);
}

/**
 * This process serves: a parent that waits for a word of it is told.
 *
 * @returns Resolves when such a parent has ended; at once where there is none.
 */
export async function tellParent(): Promise<void> {
  const { parent } = adopt();
  parent?.tellReady();
  await parent?.ended;
}

/**
 * Closes what was handed down and nobody claimed: a listener from which nobody accepts swallows its clients.
 *
 * @returns What was closed, for the report; and the names by which systemd knows nothing else of this process.
 */
export function closeUnclaimed(): { closed: string[]; forsaken: string[] } {
  const { convention, items, others } = adopt();
  const left = items.filter((item) => !item.claimed);
  const unclaimed = others.filter((item) => !item.claimed && !item.doubtful);
  const closed = [
    ...left.map((item) => `"${item.name}" (${formatAddress(item.address)})`),
    ...unclaimed.map(({ name, fd }) => `"${name}" (descriptor ${fd})`),
  ];
  const ofSystemd = [
    ...left.filter(({ origin, named }) => origin === 'systemd' && named),
    ...(convention === 'systemd' ? unclaimed : []),
  ];
  const kept = new Set([...items, ...others].filter(({ claimed }) => claimed).flatMap(namesOf));
  const forsaken = new Set(
    ofSystemd.flatMap(namesOf).filter((name) => name !== UNNAMED && isCarried(name) && !kept.has(name)),
  );
  for (const item of [...left, ...unclaimed]) {
    item.claimed = true;
    raw.close(item.fd);
  }
  return { closed, forsaken: [...forsaken] };
}

function namesOf({ name, aliases }: { name: string; aliases: string[] }): string[] {
  return [name, ...aliases];
}
