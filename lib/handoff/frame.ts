/**
 * Frames of the handoff channel: messages to bytes, and bytes and descriptors back to messages. Source: docs/protocol.md.
 * Pure: it reads and writes no socket, and never touches a descriptor; what must be closed it hands back to the caller.
 *
 *     byte  0-2   'FDP'
 *           3     version of this layout: 1. The versions of the dialog are named by HELLO, whose layout never changes.
 *           4     type (see TYPES). From 128 on: may be ignored by one that does not know it.
 *           5     number of descriptors, at most 253. They travel in the sendmsg of the first byte.
 *           6-7   reserved: 0
 *           8-11  length of the payload, big-endian, at most 1 MiB
 *           12-   payload: one JSON object, UTF-8. Fields that are not known are ignored.
 */
import { FdpassError } from '../errors.js';

/** Bytes of the header. */
export const HEADER_LENGTH = 12;
/** The longest payload: 1 MiB. */
export const MAX_PAYLOAD = 1_048_576;
/** The most descriptors of one frame. */
export const MAX_RIGHTS = 253; // SCM_MAX_FD, unix(7)

/** Versions of the dialog, both ends included. */
export interface VersionRange {
  min: number;
  max: number;
}

/** What this release speaks: its own version and the one before (version 1 is the first). */
export const VERSIONS: Readonly<VersionRange> = { min: 1, max: 1 };

/** The highest version that both speak; undefined where the ranges do not meet. */
export function commonVersion(a: Readonly<VersionRange>, b: Readonly<VersionRange>): number | undefined {
  const version = Math.min(a.max, b.max);
  return version >= a.min && version >= b.min ? version : undefined;
}

/** An address as getsockname(2) says it. */
export type ItemAddress =
  | { family: 'IPv4'; address: string; port: number }
  | { family: 'IPv6'; address: string; port: number; scopeId?: number }
  | { family: 'unix'; path: string }; // '' unnamed, '@name' abstract

/** One entry of the manifest: what the descriptor must turn out to be. */
export interface Item {
  name: string;
  type: 'stream' | 'dgram' | 'seqpacket';
  address: ItemAddress;
  /** Decimal digits: st_ino and st_dev of fstat(2) do not fit a JSON number. */
  inode: string;
  device: string;
  /** Of sockets that listen. */
  backlog?: number;
  /** A supervisor handed it to the first generation, and owns its address in every later one. */
  supervised?: boolean;
  /** That supervisor is systemd. Absent in offers of 0.1, which knew no other. */
  systemd?: boolean;
}

/** An item of a spawned successor, at the number it was born with. */
export interface SpawnedItem extends Item {
  fd: number;
}

/**
 * The state for the successor: in the frame, or in a memory file of `length` bytes; `fd` is its number in a spawned
 * successor, null where the file travels with the frame (takeover).
 */
export type OfferedState = { json: unknown } | { fd: number | null; length: number; encoding: 'json' | 'bytes' };

/** The session ticket keys of one TLS server: secret. `keys`: base64. `context`: what a client's session is bound to besides. */
export interface OfferedTickets {
  listener: string;
  address: string;
  server: number;
  keys: string;
  context: string;
}

/** Everything that travels, by type (the table in docs/protocol.md). */
export type Message =
  | { type: 'HELLO'; versions: VersionRange; pid: number; features: string[] }
  | {
      type: 'OFFER';
      versions: VersionRange;
      pid: number;
      /** Of the successor, if it commits. */
      generation: number;
      /** ms. */
      probation: number;
      /** Items of the whole set. */
      count: number;
      /** spawn: all of them. takeover: none, they follow in FDS. */
      items: SpawnedItem[];
      state?: OfferedState;
      tickets?: OfferedTickets[];
    }
  | { type: 'FDS'; batch: number; items: Item[] } // one descriptor an item
  | { type: 'FDS_ACK'; batch: number }
  | { type: 'READY' }
  | { type: 'COMMIT'; probation: number } // ms
  | { type: 'SERVING'; split: boolean } // split: COMMIT had not come
  | { type: 'RELEASE' }
  | { type: 'RELEASED' }
  | { type: 'CONNECTION'; batch: number; items: Record<string, unknown>[] } // one descriptor an item
  | { type: 'CONNECTION_ACK'; batch: number; refused: number[] } // refused: indexes into the items
  | { type: 'ABORT'; code: string; message: string };

export type MessageType = Message['type'];

/** The numbers of the types on the wire. */
export const TYPES: Readonly<Record<MessageType, number>> = {
  HELLO: 1,
  OFFER: 2,
  FDS: 3,
  FDS_ACK: 4,
  READY: 5,
  COMMIT: 6,
  SERVING: 7,
  RELEASE: 8,
  RELEASED: 9,
  CONNECTION: 10,
  CONNECTION_ACK: 11,
  ABORT: 12,
};

const NAMES = new Map<number, MessageType>((Object.keys(TYPES) as MessageType[]).map((name) => [TYPES[name], name]));
const MAGIC = [0x46, 0x44, 0x50] as const; // 'FDP'
const LAYOUT = 1;
const FIRST_IGNORABLE = 128;
const RIGHTS_OFFSET = 5; // of the byte that names the number of descriptors
const MAX_TEXT = 4096; // characters of a name, a code or a sentence; a path is shorter

/** How many descriptors travel with a message. */
export function rightsOf(message: Message): number {
  if (message.type === 'FDS' || message.type === 'CONNECTION') return message.items.length;
  if (message.type === 'OFFER' && message.state !== undefined && 'fd' in message.state && message.state.fd === null) {
    return 1;
  }
  return 0;
}

/**
 * The bytes of a frame. The caller sends them with {@link rightsOf} descriptors in one sendmsg that holds at least the
 * first byte, and goes on after a short write without descriptors.
 *
 * @throws {@link FdpassError} `ERR_FDPASS_LIMIT`: the payload is above 1 MiB, or more than 253 descriptors.
 * @throws {@link FdpassError} `ERR_FDPASS_PROTOCOL`: a field that our own reader would refuse.
 */
export function encodeFrame(message: Message): Buffer {
  const { type, ...fields } = message;
  const rights = rightsOf(message);
  if (rights > MAX_RIGHTS) {
    throw new FdpassError('ERR_FDPASS_LIMIT', `${type}: ${rights} descriptors in one frame, at most ${MAX_RIGHTS}`);
  }
  const json = JSON.stringify(fields);
  const read = parsePayload(type, JSON.parse(json), rights); // what the other side will see: JSON drops undefined
  if (typeof read === 'string') throw new FdpassError('ERR_FDPASS_PROTOCOL', read);
  const payload = Buffer.from(json);
  if (payload.length > MAX_PAYLOAD) {
    throw new FdpassError('ERR_FDPASS_LIMIT', `${type}: ${payload.length} bytes in one frame, at most ${MAX_PAYLOAD}`);
  }
  const bytes = Buffer.alloc(HEADER_LENGTH + payload.length);
  bytes.set([...MAGIC, LAYOUT, TYPES[type], rights]);
  bytes.writeUInt32BE(payload.length, 8);
  bytes.set(payload, HEADER_LENGTH);
  return bytes;
}

/** A message and the descriptors that came with it, in the order of its items. The caller owns them. */
export interface Frame<Fd> {
  message: Message;
  fds: Fd[];
}

/** What one push gave: take the frames in order, close what is in `close`, then heed `failure`. */
export interface Arrival<Fd> {
  frames: Frame<Fd>[];
  /** Descriptors that belong to no frame of `frames`. The caller closes them. */
  close: Fd[];
  /** A sentence: what came is not ours. The reader is finished; what is pushed later comes back in `close`. */
  failure: string | undefined;
}

/**
 * Cuts a stream into frames, whatever the sizes of the pieces.
 *
 * Descriptors queue in order, and each frame takes the number it names when it is complete. recvmsg(2) gives the rights
 * with the first byte of their sendmsg, and may put plain bytes that were sent earlier in front of it, never bytes that
 * were sent later behind it. So rights belong to the last frame that a piece touches, and at the end of every piece the
 * queue must hold what the frame in progress names: fewer cannot come any more, and more belong to nobody.
 */
export class FrameReader<Fd = number> {
  #chunks: Uint8Array[] = []; // not yet taken; joined once a frame is complete
  #length = 0; // bytes in #chunks
  #fds: Fd[] = [];
  #finished = false;

  /** Takes the outcome of one recvmsg. The bytes stay the caller's: what must be kept is copied. */
  push(bytes: Uint8Array, fds: readonly Fd[] = []): Arrival<Fd> {
    if (this.#finished) return { frames: [], close: [...fds], failure: undefined };
    const arrival: Arrival<Fd> = { frames: [], close: [], failure: undefined };
    this.#fds.push(...fds);
    if (bytes.length > 0) {
      this.#chunks.push(Uint8Array.from(bytes));
      this.#length += bytes.length;
    }
    try {
      while (this.#takeFrame(arrival));
      this.#checkRights();
    } catch (error) {
      if (!(error instanceof Garbage)) throw error;
      return this.#finish(arrival, error.message);
    }
    return arrival;
  }

  /** The stream has ended. In the middle of a frame, `failure` says so: for the machines it is the peer's end, not garbage. */
  end(): Arrival<Fd> {
    const arrival: Arrival<Fd> = { frames: [], close: [], failure: undefined };
    if (this.#finished) return arrival;
    const left = this.#length;
    return this.#finish(
      arrival,
      left > 0 ? `the stream ended in the middle of a frame, after ${left} bytes of it` : undefined,
    );
  }

  #finish(arrival: Arrival<Fd>, failure: string | undefined): Arrival<Fd> {
    arrival.close.push(...this.#fds);
    arrival.failure = failure;
    this.#finished = true;
    this.#chunks = [];
    this.#length = 0;
    this.#fds = [];
    return arrival;
  }

  /** One frame out of the buffer into `arrival`; false: more bytes are needed. */
  #takeFrame(arrival: Arrival<Fd>): boolean {
    const header = this.#peek(Math.min(this.#length, HEADER_LENGTH));
    checkHeader(header);
    if (header.length < HEADER_LENGTH) return false;
    const length = header.readUInt32BE(8);
    if (this.#length < HEADER_LENGTH + length) return false;

    const whole = this.#peek(HEADER_LENGTH + length);
    this.#drop(HEADER_LENGTH + length);
    const code = whole.readUInt8(4);
    const rights = whole.readUInt8(RIGHTS_OFFSET);
    const name = NAMES.get(code);
    if (this.#fds.length < rights) {
      throw new Garbage(`${name ?? `type ${code}`} names ${count(rights)} and came with ${this.#fds.length}`);
    }
    const value = parseJson(whole.subarray(HEADER_LENGTH), name ?? `type ${code}`);
    if (name === undefined) {
      arrival.close.push(...this.#fds.splice(0, rights)); // one of those that may be ignored
      return true;
    }
    const message = parsePayload(name, value, rights);
    if (typeof message === 'string') throw new Garbage(message);
    arrival.frames.push({ message, fds: this.#fds.splice(0, rights) });
    return true;
  }

  /** At the end of a piece: the descriptors that wait are those of the frame in progress, all of them and no other. */
  #checkRights(): void {
    const waiting = this.#fds.length;
    if (this.#length <= RIGHTS_OFFSET) {
      if (this.#length === 0 && waiting > 0) throw new Garbage(`${count(waiting)} came that no frame names`);
      if (waiting > MAX_RIGHTS) throw new Garbage(`${count(waiting)} came with one frame, at most ${MAX_RIGHTS}`);
      return; // how many it names is not yet known
    }
    const named = this.#peek(RIGHTS_OFFSET + 1).readUInt8(RIGHTS_OFFSET);
    if (named !== waiting) throw new Garbage(`a frame names ${count(named)} and came with ${waiting}`);
  }

  /** The first bytes, in one piece. */
  #peek(length: number): Buffer {
    const first = this.#chunks[0];
    if (first === undefined || first.length < length) {
      if (this.#chunks.length > 1) this.#join(length);
    }
    return Buffer.from((this.#chunks[0] ?? new Uint8Array()).subarray(0, length));
  }

  /** Joins as many chunks as `length` needs: byte by byte, a frame is copied a few times and not once a byte. */
  #join(length: number): void {
    let sum = 0;
    let chunks = 0;
    while (sum < length) {
      sum += this.#chunks[chunks]?.length ?? length;
      chunks += 1;
    }
    this.#chunks.splice(0, chunks, Buffer.concat(this.#chunks.slice(0, chunks)));
  }

  #drop(length: number): void {
    const first = this.#chunks[0];
    if (first === undefined) return;
    this.#length -= length;
    if (first.length === length) this.#chunks.shift();
    else this.#chunks[0] = first.subarray(length);
  }
}

/** What ends a reader. Never leaves this file. */
class Garbage extends Error {}

function count(descriptors: number): string {
  return descriptors === 1 ? '1 descriptor' : `${descriptors} descriptors`;
}

/** As much of a header as is there: the first wrong byte ends it, before anything is waited for or stored. */
function checkHeader(header: Buffer): void {
  for (const [index, byte] of MAGIC.entries()) {
    const found = header[index];
    if (found !== undefined && found !== byte) throw new Garbage('the bytes do not begin with FDP: not an fdpass peer');
  }
  const [, , , layout, code, rights, reserved, reserved2] = header;
  if (layout !== undefined && layout !== LAYOUT) throw new Garbage(`frame layout ${layout}, known is ${LAYOUT}`);
  if (code !== undefined && code < FIRST_IGNORABLE && !NAMES.has(code)) throw new Garbage(`unknown frame type ${code}`);
  if (rights !== undefined && rights > MAX_RIGHTS) {
    throw new Garbage(`a frame names ${rights} descriptors, at most ${MAX_RIGHTS}`);
  }
  if ((reserved ?? 0) !== 0 || (reserved2 ?? 0) !== 0) throw new Garbage('reserved bytes of a frame are not 0');
  if (header.length >= HEADER_LENGTH && header.readUInt32BE(8) > MAX_PAYLOAD) {
    throw new Garbage(`a frame of ${header.readUInt32BE(8)} bytes, at most ${MAX_PAYLOAD}`);
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function parseJson(payload: Uint8Array, name: string): unknown {
  try {
    return JSON.parse(utf8.decode(payload));
  } catch {
    throw new Garbage(`${name}: the payload is not JSON in UTF-8`);
  }
}

// ---- Payloads: hand-written validators. Each gives the message with the known fields alone, or a sentence. ---------------

type Fields = Record<string, unknown>;

/** The message of a decoded payload; a string says what is wrong with it. `rights`: the number its header names. */
export function parsePayload(type: MessageType, value: unknown, rights: number): Message | string {
  try {
    const message = readMessage(type, object(value, type));
    const expected = rightsOf(message);
    if (expected !== rights) return `${type} needs ${count(expected)} and names ${rights}`;
    return message;
  } catch (error) {
    if (error instanceof Garbage) return error.message;
    throw error;
  }
}

function readMessage(type: MessageType, fields: Fields): Message {
  switch (type) {
    case 'HELLO':
      return {
        type,
        versions: versions(fields['versions'], `${type}.versions`),
        pid: integer(fields['pid'], `${type}.pid`, 1),
        features: fields['features'] === undefined ? [] : list(fields['features'], `${type}.features`, text),
      };
    case 'OFFER': {
      const items = fields['items'] === undefined ? [] : list(fields['items'], `${type}.items`, spawnedItem);
      const message: Message = {
        type,
        versions: versions(fields['versions'], `${type}.versions`),
        pid: integer(fields['pid'], `${type}.pid`, 1),
        generation: integer(fields['generation'], `${type}.generation`, 1),
        probation: milliseconds(fields['probation'], `${type}.probation`),
        count: integer(fields['count'], `${type}.count`),
        items,
      };
      if (items.length > 0 && items.length !== message.count) {
        throw new Garbage(`${type}.count is ${message.count} and ${items.length} items are there`);
      }
      const numbers = new Set(items.map((item) => item.fd));
      if (numbers.size !== items.length) throw new Garbage(`${type}.items: two of them have the same fd`);
      if (fields['state'] !== undefined) message.state = offeredState(fields['state'], `${type}.state`);
      if (fields['tickets'] !== undefined) message.tickets = list(fields['tickets'], `${type}.tickets`, offeredTickets);
      return message;
    }
    case 'FDS':
      return {
        type,
        batch: integer(fields['batch'], `${type}.batch`),
        items: list(fields['items'], `${type}.items`, item),
      };
    case 'FDS_ACK':
      return { type, batch: integer(fields['batch'], `${type}.batch`) };
    case 'COMMIT':
      return { type, probation: milliseconds(fields['probation'], `${type}.probation`) };
    case 'SERVING':
      return { type, split: fields['split'] === undefined ? false : boolean(fields['split'], `${type}.split`) };
    case 'READY':
    case 'RELEASE':
    case 'RELEASED':
      return { type };
    case 'CONNECTION':
      return {
        type,
        batch: integer(fields['batch'], `${type}.batch`),
        items: list(fields['items'], `${type}.items`, object),
      };
    case 'CONNECTION_ACK':
      return {
        type,
        batch: integer(fields['batch'], `${type}.batch`),
        refused: fields['refused'] === undefined ? [] : list(fields['refused'], `${type}.refused`, integer),
      };
    case 'ABORT':
      return { type, code: text(fields['code'], `${type}.code`), message: text(fields['message'], `${type}.message`) };
    default:
      return never(type);
  }
}

function item(value: unknown, what: string): Item {
  const fields = object(value, what);
  const type = fields['type'];
  if (type !== 'stream' && type !== 'dgram' && type !== 'seqpacket')
    throw wrong(what, 'type', 'stream, dgram or seqpacket');
  const entry: Item = {
    name: text(fields['name'], `${what}.name`),
    type,
    address: address(fields['address'], `${what}.address`),
    inode: digits(fields['inode'], `${what}.inode`),
    device: digits(fields['device'], `${what}.device`),
  };
  if (fields['backlog'] !== undefined) entry.backlog = integer(fields['backlog'], `${what}.backlog`);
  if (fields['supervised'] === true) entry.supervised = true;
  if (typeof fields['systemd'] === 'boolean') entry.systemd = fields['systemd'];
  return entry;
}

function spawnedItem(value: unknown, what: string): SpawnedItem {
  return { ...item(value, what), fd: descriptor(object(value, what)['fd'], `${what}.fd`) };
}

function address(value: unknown, what: string): ItemAddress {
  const fields = object(value, what);
  const family = fields['family'];
  switch (family) {
    case 'unix':
      return { family, path: text(fields['path'], `${what}.path`) };
    case 'IPv4':
    case 'IPv6': {
      const host = text(fields['address'], `${what}.address`);
      const port = integer(fields['port'], `${what}.port`, 0, 65_535);
      if (family === 'IPv4') return { family, address: host, port };
      if (fields['scopeId'] === undefined) return { family, address: host, port };
      return { family, address: host, port, scopeId: integer(fields['scopeId'], `${what}.scopeId`, 0, 2 ** 32 - 1) };
    }
    default:
      throw wrong(what, 'family', 'IPv4, IPv6 or unix');
  }
}

function offeredState(value: unknown, what: string): OfferedState {
  const fields = object(value, what);
  if ('json' in fields) return { json: fields['json'] };
  const encoding = fields['encoding'];
  if (encoding !== 'json' && encoding !== 'bytes') throw wrong(what, 'encoding', 'json or bytes');
  const fd = fields['fd'] === null ? null : descriptor(fields['fd'], `${what}.fd`);
  return { fd, length: integer(fields['length'], `${what}.length`), encoding };
}

function offeredTickets(value: unknown, what: string): OfferedTickets {
  const fields = object(value, what);
  return {
    listener: text(fields['listener'], `${what}.listener`),
    address: text(fields['address'], `${what}.address`),
    server: integer(fields['server'], `${what}.server`),
    keys: text(fields['keys'], `${what}.keys`),
    context: text(fields['context'], `${what}.context`),
  };
}

function versions(value: unknown, what: string): VersionRange {
  const fields = object(value, what);
  const range = { min: integer(fields['min'], `${what}.min`, 1), max: integer(fields['max'], `${what}.max`, 1) };
  if (range.min > range.max) throw new Garbage(`${what}: min ${range.min} is above max ${range.max}`);
  return range;
}

function object(value: unknown, what: string): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw new Garbage(`${what} is not an object`);
  return value as Fields;
}

function list<Entry>(value: unknown, what: string, read: (entry: unknown, what: string) => Entry): Entry[] {
  if (!Array.isArray(value)) throw new Garbage(`${what} is not an array`);
  return value.map((entry, index) => read(entry, `${what}[${index}]`));
}

function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw new Garbage(`${what} is not a string`);
  if (value.length > MAX_TEXT) throw new Garbage(`${what} is longer than ${MAX_TEXT} characters`);
  return value;
}

function boolean(value: unknown, what: string): boolean {
  if (typeof value !== 'boolean') throw new Garbage(`${what} is not true or false`);
  return value;
}

function digits(value: unknown, what: string): string {
  if (typeof value !== 'string' || !/^\d{1,20}$/.test(value)) throw new Garbage(`${what} is not a string of digits`);
  return value;
}

function integer(value: unknown, what: string, min = 0, max: number = Number.MAX_SAFE_INTEGER): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
    throw new Garbage(`${what} is not a whole number from ${min} to ${max}`);
  }
  return value;
}

/** The longest that a timer of Node takes: 2^31 - 1 ms. */
function milliseconds(value: unknown, what: string): number {
  return integer(value, what, 0, 2 ** 31 - 1);
}

function descriptor(value: unknown, what: string): number {
  return integer(value, what, 0, 2 ** 31 - 1);
}

function wrong(what: string, field: string, expected: string): Garbage {
  return new Garbage(`${what}.${field} is not ${expected}`);
}

function never(value: never): never {
  throw new TypeError(`not a case: ${JSON.stringify(value)}`);
}
