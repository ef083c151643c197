/**
 * How a child learns of the descriptors it is given: from a list of descriptors and the conventions that were asked for to variables,
 * arguments, and the pipes that some conventions want. What each writes stands in conventions/; this looks at the sockets for them.
 * Opens what a convention wants to hear by; the caller owns it. Source: docs/supervisors/README.md.
 */
import { formatAddress } from './address.js';
import { writeArguments } from './conventions/argv.js';
import { type GivenDescriptor, MAX_INT, type Writing } from './conventions/convention.js';
import { writeEinhorn } from './conventions/einhorn.js';
import { writeFpm } from './conventions/fpm.js';
import { writeGunicorn } from './conventions/gunicorn.js';
import { writeNginx } from './conventions/nginx.js';
import { writePuma } from './conventions/puma.js';
import { writeServerStarter } from './conventions/serverStarter.js';
import { LISTEN_FDS_START, writeSystemd } from './conventions/systemd.js';
import {
  NAMES_PIPE,
  READY_PIPE,
  TABLEFLIP_START,
  type TableflipSocket,
  writeTableflip,
} from './conventions/tableflip.js';
import { writeUnicorn } from './conventions/unicorn.js';
import { FdpassError } from './errors.js';
import { UNNAMED } from './names.js';
import * as raw from './raw.js';
import { listenForAcknowledgement, type ReadySignal, tableflipPipes } from './readySignal.js';

/** systemd: LISTEN_FDS, LISTEN_FDNAMES and LISTEN_PID. */
export interface SystemdConvention {
  readonly type: 'systemd';
  /**
   * Where the descriptors begin, from 3 on: LISTEN_FDS_FIRST_FD, as systemfd writes it. listenfd of Rust reads that, and sd_listen_fds(3) does
   * not. Default: at 3, and nothing is said.
   */
  readonly first?: number | undefined;
  /** 'omit': no LISTEN_PID, for a child behind a wrapper (sh, npm) that would never see its own there. Default 'exact'. */
  readonly pid?: 'exact' | 'omit' | undefined;
}

/** Server::Starter: SERVER_STARTER_PORT and SERVER_STARTER_GENERATION. */
export interface ServerStarterConvention {
  readonly type: 'server-starter';
  /** Counted from 1. Default: 1; in a handoff that of the successor. */
  readonly generation?: number | undefined;
}

/** einhorn: EINHORN_FD_COUNT and EINHORN_FD_0 ..., EINHORN_FDS. */
export interface EinhornConvention {
  readonly type: 'einhorn';
  /** Listen for the acknowledgement of the worker at EINHORN_SOCK_PATH: `ready` of the Child. Default false. */
  readonly ackServer?: boolean | undefined;
}

/** puma: PUMA_INHERIT_0, ... */
export interface PumaConvention {
  readonly type: 'puma';
  /** One a descriptor, each byte for byte that of a `-b`. Default: `tcp://` or `unix://` and the address. */
  readonly urls?: readonly string[] | undefined;
}

/** tableflip, of Go: the descriptors at 5, 6, ..., a pipe for its readiness at 3 (`ready` of the Child), their names at 4. */
export interface TableflipConvention {
  readonly type: 'tableflip';
  /** What the child says to Listen, one a descriptor, letter by letter. Default: `tcp` and the address, and so on. */
  readonly listen?: readonly { readonly network: string; readonly address: string }[] | undefined;
}

/** The number in the arguments. */
export interface ArgvConvention {
  readonly type: 'argv';
  /**
   * What stands for the number. With `NAME` in it: for that of the descriptor of that name. Default: `{fd}` for the only one, and
   * `{fd:NAME}`.
   */
  readonly token?: string | undefined;
}

/** Those that have no options. `stdin`: the one descriptor is 0. */
export type PlainConvention = 'nginx' | 'fpm' | 'gunicorn' | 'unicorn' | 'stdin';

/** How a child can learn of its descriptors, where there is something to say about it. */
export type ConventionWithOptions =
  | SystemdConvention
  | ServerStarterConvention
  | EinhornConvention
  | PumaConvention
  | TableflipConvention
  | ArgvConvention
  | { readonly type: PlainConvention };

/** How a child can learn of its descriptors. */
export type SpawnConvention = ConventionWithOptions['type'] | ConventionWithOptions;

/** A descriptor for a child. */
export interface Entry {
  source: number;
  target: number;
  name: string | undefined;
}

/** What a child gets besides the descriptors. */
export interface Giving extends Writing {
  args: string[];
  /** More descriptors, which are the convention's; `source` belongs to `signal`. */
  entries: Entry[];
  /** By which the child will say that it is ready. The caller closes it. */
  signal: ReadySignal | undefined;
}

const NAMES: ReadonlySet<string> = new Set<ConventionWithOptions['type']>([
  ...(['systemd', 'server-starter', 'einhorn', 'puma', 'tableflip', 'argv'] as const),
  ...(['nginx', 'fpm', 'gunicorn', 'unicorn', 'stdin'] as const),
]);

/** Their variables are disjoint, and the numbers the same. */
const COMBINABLE: ReadonlySet<string> = new Set(['systemd', 'server-starter', 'einhorn']);

/**
 * The conventions of an option, each with its options.
 *
 * @throws TypeError `ERR_INVALID_ARG_VALUE`: one that is not known, or that does not go together with another.
 */
export function checkConventions(option: unknown): ConventionWithOptions[] {
  if (option === undefined || option === 'none') return [];
  const list: readonly unknown[] = Array.isArray(option) ? option : [option];
  const conventions = list.map((each): ConventionWithOptions => {
    const whole: unknown = typeof each === 'string' ? { type: each } : each;
    const type: unknown = typeof whole === 'object' && whole !== null && 'type' in whole ? whole.type : undefined;
    if (typeof type !== 'string' || !NAMES.has(type)) {
      throw invalid(`one of 'none', ${[...NAMES].map((name) => `'${name}'`).join(', ')}`, type ?? each);
    }
    checkOptions(whole as ConventionWithOptions);
    return whole as ConventionWithOptions;
  });
  const types = conventions.map(({ type }) => type);
  if (types.length > 1 && (new Set(types).size < types.length || !types.every((type) => COMBINABLE.has(type)))) {
    throw invalid("a single one: only 'systemd', 'server-starter' and 'einhorn' go together", types.join(', '));
  }
  return conventions;
}

function checkOptions(convention: ConventionWithOptions): void {
  const { type } = convention;
  if (type === 'systemd' && ![undefined, 'exact', 'omit'].includes(convention.pid)) {
    throw invalid("of 'systemd' with a pid that is 'exact' or 'omit'", convention.pid);
  }
  if (type === 'systemd' && convention.first !== undefined) {
    const { first } = convention;
    if (!Number.isInteger(first) || first < LISTEN_FDS_START || first > MAX_INT) {
      throw invalid("of 'systemd' with a first that is the number of a descriptor from 3 on", first);
    }
  }
  if (type === 'server-starter' && convention.generation !== undefined) {
    const { generation } = convention;
    if (!Number.isSafeInteger(generation) || generation < 1) {
      throw invalid("of 'server-starter' with a generation that is a whole number from 1 on", generation);
    }
  }
}

function invalid(expected: string, value: unknown): TypeError {
  const message = `options.convention must be ${expected}; it is ${typeof value === 'string' ? `'${value}'` : String(value)}`;
  return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}

/** At which number of the child the first descriptor stands that names none of its own. */
export function firstDescriptor(conventions: readonly ConventionWithOptions[]): number {
  const types = conventions.map(({ type }) => type);
  if (types.includes('stdin')) return 0;
  return types.includes('tableflip') ? TABLEFLIP_START : firstOfSystemd(conventions);
}

function firstOfSystemd(conventions: readonly ConventionWithOptions[]): number {
  const first = conventions.map((convention) => (convention.type === 'systemd' ? convention.first : undefined));
  return first.find((number) => number !== undefined) ?? LISTEN_FDS_START;
}

/**
 * What the child gets so that it learns of its descriptors.
 *
 * @param names - Of the first of them; those behind are not spoken of. Default: all, by their own names.
 * @throws {@link FdpassError} `ERR_FDPASS_NAMES`: a name or an address that the convention cannot carry, more names than descriptors.
 * `ERR_FDPASS_TYPE`: it needs the address of a socket, and this is none. `ERR_FDPASS_LIMIT`: too many. `ERR_FDPASS_BADFD`: it wants them at
 * other numbers. What was opened is closed then.
 */
export function give(
  conventions: readonly ConventionWithOptions[],
  {
    entries,
    names,
    args,
  }: { entries: readonly Entry[]; names: readonly string[] | undefined; args: readonly string[] },
): Giving {
  const giving: Giving = { variables: {}, pidVariables: [], args: [...args], entries: [], signal: undefined };
  if (conventions.length === 0) {
    if (names === undefined) return giving;
    throw new FdpassError('ERR_FDPASS_NAMES', "The convention is 'none', which carries no names: 'systemd' does");
  }
  const isSystemd = conventions.some(({ type }) => type === 'systemd');
  const first = isSystemd ? firstOfSystemd(conventions) : undefined;
  const given = named(first === undefined ? entries : following(entries, first), names, first);
  try {
    for (const convention of conventions) add(giving, convention, given);
    return giving;
  } catch (error) {
    giving.signal?.close();
    throw error;
  }
}

/** All that follow each other from the first on: systemd counts, and names no numbers. */
function following(entries: readonly Entry[], first: number): Entry[] {
  const listed: Entry[] = [];
  for (;;) {
    const next = entries.find(({ target }) => target === first + listed.length);
    if (next === undefined) return listed;
    listed.push(next);
  }
}

/** Of a convention that only counts, from `first` on, the numbers are told. */
function named(entries: readonly Entry[], names: readonly string[] | undefined, first: number | undefined): Entry[] {
  if (names === undefined) return [...entries];
  if (names.length > entries.length) {
    const last = (first ?? 0) + entries.length - 1;
    const counted =
      first === undefined ? `${entries.length} descriptor(s)` : `descriptors from fd ${first} to fd ${last}`;
    const there = entries.length === 0 ? `no descriptor at fd ${first ?? LISTEN_FDS_START}` : counted;
    throw new FdpassError('ERR_FDPASS_NAMES', `${names.length} name(s) are given, and the child has ${there}`);
  }
  return entries.slice(0, names.length).map((entry, index) => ({ ...entry, name: names[index] }));
}

function add(giving: Giving, convention: ConventionWithOptions, entries: readonly Entry[]): void {
  const bare = entries.map(({ target: fd, name = UNNAMED }): GivenDescriptor => ({ fd, name, address: '' }));
  const addressed = (): GivenDescriptor[] =>
    entries.map((entry) => ({
      fd: entry.target,
      name: entry.name ?? UNNAMED,
      address: formatAddress(socketOf(entry).address),
    }));
  const write = ({ variables, pidVariables }: Writing): void => {
    Object.assign(giving.variables, variables);
    giving.pidVariables.push(...pidVariables);
  };
  switch (convention.type) {
    case 'systemd':
      write(
        writeSystemd(
          bare.map(({ name }) => name),
          convention,
        ),
      );
      break;
    case 'server-starter':
      write(writeServerStarter(addressed(), convention.generation ?? 1));
      break;
    case 'einhorn': {
      const server = convention.ackServer === true ? listenForAcknowledgement() : undefined;
      giving.signal = server?.signal;
      write(writeEinhorn(bare, process, server?.path));
      break;
    }
    case 'nginx':
      write(writeNginx(bare));
      break;
    case 'fpm':
      write(writeFpm(addressed()));
      break;
    case 'gunicorn':
      write(writeGunicorn(bare, process));
      break;
    case 'unicorn':
      write(writeUnicorn(bare));
      break;
    case 'puma':
      write(writePuma(convention.urls === undefined ? addressed() : bare, convention.urls));
      break;
    case 'argv':
      giving.args = writeArguments(giving.args, bare, convention.token);
      break;
    case 'stdin':
      checkStdin(bare);
      break;
    case 'tableflip':
      addTableflip(giving, convention, entries, write);
      break;
  }
}

function checkStdin(given: readonly GivenDescriptor[]): void {
  const [only] = given;
  if (given.length !== 1 || only === undefined) {
    const message = `The convention 'stdin' gives one descriptor, and there are ${given.length}`;
    throw new FdpassError('ERR_FDPASS_LIMIT', message);
  }
  if (only.fd === 0) return;
  const message = `The convention 'stdin' gives descriptor 0, and the one that is given is to be ${only.fd}`;
  throw new FdpassError('ERR_FDPASS_BADFD', message, { fd: only.fd });
}

function addTableflip(
  giving: Giving,
  { listen }: TableflipConvention,
  entries: readonly Entry[],
  write: (writing: Writing) => void,
): void {
  if (listen !== undefined && listen.length !== entries.length) {
    const message = `convention.listen has ${listen.length} entries, and there are ${entries.length} descriptor(s)`;
    throw new FdpassError('ERR_FDPASS_NAMES', message);
  }
  const sockets = entries.map((entry, index): TableflipSocket => {
    const { target: fd, name = UNNAMED } = entry;
    if (fd !== TABLEFLIP_START + index) {
      const message = `tableflip looks for its descriptors at ${TABLEFLIP_START}, ${TABLEFLIP_START + 1}, ..., and one is to be ${fd}`;
      throw new FdpassError('ERR_FDPASS_BADFD', message, { fd });
    }
    const { address, type } = socketOf(entry);
    const networks =
      address.family === 'unix'
        ? { stream: 'unix', dgram: 'unixgram', seqpacket: 'unixpacket' }
        : { stream: 'tcp', dgram: 'udp', seqpacket: 'sctp' };
    const said = listen?.[index] ?? { network: networks[type], address: formatAddress(address) };
    return { fd, name, kind: type === 'dgram' ? 'packet' : 'listener', ...said };
  });
  const writing = writeTableflip(sockets);
  const { signal, ready, names } = tableflipPipes(writing.names);
  giving.signal = signal;
  giving.entries.push({ source: ready, target: READY_PIPE, name: undefined });
  giving.entries.push({ source: names, target: NAMES_PIPE, name: undefined });
  write(writing);
}

/** A convention that speaks of addresses can give nothing but sockets. */
function socketOf({ source, target }: Entry): { address: raw.SocketAddress; type: raw.SocketType } {
  const { kind, socket } = raw.describe(source);
  const address = socket?.localAddress;
  const type = socket?.type;
  if (address !== undefined && type !== undefined && type !== 'other') return { address, type };
  const got = socket === undefined ? `a ${kind}` : 'a socket of another family';
  const message = `Descriptor ${source} (${target} in the child) has no address that the convention could name: it is ${got}`;
  throw new FdpassError('ERR_FDPASS_TYPE', message, { fd: source, expected: 'a socket', got });
}
