/**
 * Frames of a Channel: messages to bytes, and bytes and descriptors back to messages. Source: docs/protocol.md, "Channel frames".
 * Pure: it reads and writes no socket and closes no descriptor; what must be closed it hands back to the caller.
 *
 *     byte  0-2   'FDC'
 *           3     version of this layout: 1
 *           4     flags: bit 0 MORE, the message goes on in the next frame; the others are 0
 *           5     number of descriptors of this frame, at most 253. They travel in the sendmsg of its first byte.
 *           6-7   reserved: 0
 *           8-11  length of the payload, big-endian, at most 1 MiB
 *           12-   payload: bytes of the message
 */
import type { FdpassErrorCode } from '../errors.js';

/** Bytes of the header. */
export const HEADER_LENGTH = 12;
/** The longest payload of a frame: 1 MiB. */
export const MAX_PAYLOAD = 1_048_576;
/** The most descriptors of a frame. */
export const MAX_RIGHTS = 253; // SCM_MAX_FD, unix(7)

const MAGIC = [0x46, 0x44, 0x43] as const; // 'FDC'
const LAYOUT = 1;
const MORE = 1;
const RIGHTS_OFFSET = 5;

/** Writes a header at `at`. The payload follows it. */
export function writeHeader(target: Buffer, at: number, more: boolean, rights: number, length: number): void {
  target[at] = MAGIC[0];
  target[at + 1] = MAGIC[1];
  target[at + 2] = MAGIC[2];
  target[at + 3] = LAYOUT;
  target[at + 4] = more ? MORE : 0;
  target[at + RIGHTS_OFFSET] = rights;
  target[at + 6] = 0;
  target[at + 7] = 0;
  target.writeUInt32BE(length, at + 8);
}

/** A message as it came. Its descriptors belong to whoever takes it. */
export interface ReadMessage {
  bytes: Buffer;
  fds: number[];
}

/** Why a reader ended: a sentence, and the code of the error that it becomes. */
export interface ReadFailure {
  code: Extract<FdpassErrorCode, 'ERR_FDPASS_PROTOCOL' | 'ERR_FDPASS_LIMIT'>;
  message: string;
}

/** What one message may have. */
export interface ReadLimits {
  /** Bytes. */
  maxBytes: number;
  maxDescriptors: number;
}

/**
 * Cuts what comes into messages, whatever the sizes of the pieces.
 *
 * Descriptors queue in order, and each frame takes the number it names when it is complete. recvmsg(2) gives the rights with the first
 * byte of the sendmsg that carried them, may put plain bytes that were sent earlier in front, and never puts later ones behind. So fewer
 * than a complete frame names is an error; and whenever all was read that there is, what waits must be what the frame in progress names.
 *
 * After a failure nothing more is read: take what {@link drop} gives, and close it.
 */
export class ChannelFrameReader {
  readonly #limits: ReadLimits;
  #waiting: number[] = []; // descriptors that no frame has taken
  readonly #header: Buffer = Buffer.alloc(HEADER_LENGTH);
  #have = 0; // bytes of the header of the frame in progress
  #left = 0; // bytes of its payload that have not come
  #body: Buffer | undefined; // of the message in progress; longer than what is in it
  #length = 0; // bytes in #body
  #fds: number[] = []; // of the frames of the message in progress that are complete
  #inMessage = false; // a frame with MORE was the last one
  #frames = 0;
  #failure: ReadFailure | undefined;

  constructor(limits: ReadLimits) {
    this.#limits = limits;
  }

  /** True where nothing waits here: no part of a message, and no descriptor. */
  get isEmpty(): boolean {
    return this.#have === 0 && !this.#inMessage && this.#waiting.length === 0;
  }

  /** Queues a descriptor that came with the piece that is pushed next. It is the reader's until it stands in a message, or is dropped. */
  queue(fd: number): void {
    this.#waiting.push(fd);
  }

  /**
   * Takes one piece of a stream: what one recvmsg gave, or a part of it.
   *
   * @param bytes - From `from` up to `to`. They stay the caller's: what is kept is copied.
   * @param messages - What is complete is put at its end.
   * @returns Why the reader has ended; the messages before that are good.
   */
  push(bytes: Uint8Array, from: number, to: number, messages: ReadMessage[]): ReadFailure | undefined {
    let at = from;
    while (at < to && this.#failure === undefined) at = this.#take(bytes, at, to, messages);
    if (this.#failure !== undefined) return this.#failure;
    const named = this.#named() ?? 0;
    if (this.#waiting.length > MAX_RIGHTS + named) {
      return this.#fail(`${count(this.#waiting.length)} came where the frame names ${named}`);
    }
    return undefined;
  }

  /** Takes one packet: exactly one frame, with its descriptors. Of one that is not nothing is taken. */
  pushPacket(bytes: Uint8Array, from: number, to: number, messages: ReadMessage[]): ReadFailure | undefined {
    const before = { frames: this.#frames, messages: messages.length };
    this.push(bytes, from, to, messages);
    if (this.#failure === undefined && (this.#have > 0 || this.#frames !== before.frames + 1)) {
      this.#fail('a packet is not exactly one frame');
    }
    const failure = this.settle();
    if (failure !== undefined) {
      const fds = messages.splice(before.messages).flatMap((message) => message.fds);
      this.#fds.unshift(...fds);
    }
    return failure;
  }

  /** Everything was read that there is: what waits must be what the frame in progress names. */
  settle(): ReadFailure | undefined {
    if (this.#failure !== undefined) return this.#failure;
    const waiting = this.#waiting.length;
    if (this.#have === 0) {
      return waiting === 0 ? undefined : this.#fail(`${count(waiting)} came that no frame names`);
    }
    const named = this.#named();
    if (named === undefined) return undefined; // not yet known
    return named === waiting ? undefined : this.#fail(`a frame names ${count(named)} and came with ${waiting}`);
  }

  /** The other side has ended. */
  end(): ReadFailure | undefined {
    if (this.#failure !== undefined) return this.#failure;
    if (this.#have > 0) return this.#fail('the other side ended in the middle of a frame');
    if (this.#inMessage) return this.#fail('the other side ended in the middle of a message');
    return this.settle();
  }

  /** Ends the reader. @returns The descriptors that are in no message: the caller closes them. */
  drop(): number[] {
    const all = [...this.#fds, ...this.#waiting];
    this.#fds = [];
    this.#waiting = [];
    this.#body = undefined;
    this.#length = 0;
    this.#have = 0;
    this.#left = 0;
    this.#inMessage = false;
    this.#failure ??= { code: 'ERR_FDPASS_PROTOCOL', message: 'the reader has ended' };
    return all;
  }

  /** How many descriptors the frame in progress names; undefined where that has not come yet. */
  #named(): number | undefined {
    return this.#have > RIGHTS_OFFSET ? this.#header[RIGHTS_OFFSET] : undefined;
  }

  #fail(message: string, code: ReadFailure['code'] = 'ERR_FDPASS_PROTOCOL'): ReadFailure {
    return (this.#failure = { code, message });
  }

  /** Takes from `bytes` what belongs to the frame in progress, and ends it where it is complete. @returns Where it stopped. */
  #take(bytes: Uint8Array, from: number, to: number, messages: ReadMessage[]): number {
    let at = from;
    if (this.#have < HEADER_LENGTH) {
      at = Math.min(to, from + HEADER_LENGTH - this.#have);
      for (let index = from; index < at; index++) this.#header[this.#have++] = bytes[index] ?? 0;
      this.#checkHeader();
      if (this.#failure !== undefined || this.#have < HEADER_LENGTH) return at;
    }
    const end = Math.min(to, at + this.#left);
    this.#left -= end - at;
    const more = this.#header[4] === MORE;
    if (this.#left === 0 && !more && this.#body === undefined) {
      this.#finish(copy(bytes, at, end), messages); // nearly every frame: a whole message in one piece
      return end;
    }
    this.#keep(bytes, at, end);
    if (this.#left > 0) return end;
    if (!more) {
      const body = this.#body?.subarray(0, this.#length) ?? Buffer.alloc(0);
      this.#body = undefined;
      this.#length = 0;
      this.#finish(body, messages);
    } else if (this.#takeRights()) {
      this.#inMessage = true;
    }
    return end;
  }

  /** As much of a header as is there: the first wrong byte ends it, before anything is waited for or stored. */
  #checkHeader(): void {
    const header = this.#header;
    const have = this.#have;
    for (let index = 0; index < MAGIC.length && index < have; index++) {
      if (header[index] !== MAGIC[index]) {
        this.#fail('the bytes do not begin with FDC: the other side does not speak frames of a Channel');
        return;
      }
    }
    const [, , , layout = 0, flags = 0, rights = 0, reserved, reserved2] = header;
    if (have > 3 && layout !== LAYOUT) this.#fail(`frame layout ${layout}, known is ${LAYOUT}`);
    else if (have > 4 && (flags & ~MORE) !== 0) this.#fail(`unknown flags of a frame: ${flags}`);
    else if (have > 5 && rights > MAX_RIGHTS) this.#fail(`a frame names ${rights} descriptors, at most ${MAX_RIGHTS}`);
    else if ((have > 6 && reserved !== 0) || (have > 7 && reserved2 !== 0)) {
      this.#fail('reserved bytes of a frame are not 0');
    }
    if (this.#failure !== undefined || have < HEADER_LENGTH) return;
    const length = header.readUInt32BE(8);
    const { maxBytes, maxDescriptors } = this.#limits;
    if (length > MAX_PAYLOAD) {
      this.#fail(`a frame of ${length} bytes, at most ${MAX_PAYLOAD}`);
    } else if (this.#length + length > maxBytes) {
      this.#fail(`a message of more than ${maxBytes} bytes (maxBytes)`, 'ERR_FDPASS_LIMIT');
    } else if (this.#fds.length + rights > maxDescriptors) {
      this.#fail(`a message of more than ${maxDescriptors} descriptors (maxDescriptors)`, 'ERR_FDPASS_LIMIT');
    } else if (flags === MORE && length === 0 && rights === 0) {
      this.#fail('a frame with nothing in it and MORE behind it'); // else a message could go on for ever
    }
    this.#left = length;
  }

  /** Puts bytes behind those of the message in progress. The room doubles: it stays in proportion to what has really come. */
  #keep(bytes: Uint8Array, from: number, to: number): void {
    const needed = this.#length + to - from;
    if (needed > (this.#body?.length ?? 0)) {
      const body = Buffer.allocUnsafeSlow(Math.min(Math.max(needed, 2 * this.#length), this.#limits.maxBytes));
      this.#body?.copy(body, 0, 0, this.#length);
      this.#body = body;
    }
    this.#body?.set(bytes.subarray(from, to), this.#length);
    this.#length = needed;
  }

  #finish(bytes: Buffer, messages: ReadMessage[]): void {
    if (!this.#takeRights()) return;
    messages.push({ bytes, fds: this.#fds });
    this.#fds = [];
    this.#inMessage = false;
  }

  /** The frame is complete: it takes what it names. */
  #takeRights(): boolean {
    const named = this.#header[RIGHTS_OFFSET] ?? 0;
    this.#have = 0;
    this.#frames++;
    const waiting = this.#waiting;
    if (waiting.length < named) {
      this.#fail(`a frame names ${count(named)} and came with ${waiting.length}`);
      return false;
    }
    if (named === 0) return true;
    if (waiting.length === named && this.#fds.length === 0) {
      this.#fds = waiting;
      this.#waiting = [];
    } else {
      this.#fds.push(...waiting.splice(0, named));
    }
    return true;
  }
}

function copy(bytes: Uint8Array, from: number, to: number): Buffer {
  const own = Buffer.allocUnsafe(to - from);
  for (let index = from; index < to; index++) own[index - from] = bytes[index] ?? 0;
  return own;
}

function count(descriptors: number): string {
  return descriptors === 1 ? '1 descriptor' : `${descriptors} descriptors`;
}
