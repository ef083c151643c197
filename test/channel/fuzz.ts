/**
 * The fuzzer of both frame readers, that of Channel and that of the handoff: streams that are right, in every cut, and streams in which
 * something was changed. Descriptors are plain numbers: nothing is opened. All follows from the seed.
 *
 * A reader must give back every message of a right stream, must agree with a second, simple reader on what is wrong with the others, must
 * never throw, and must hand back each descriptor exactly once.
 */
import assert from 'node:assert/strict';

import {
  ChannelFrameReader,
  HEADER_LENGTH,
  MAX_PAYLOAD,
  MAX_RIGHTS,
  type ReadFailure,
  type ReadMessage,
  writeHeader,
} from '../../lib/channel/frames.js';
import { encodeFrame, FrameReader, type Item, type Message, rightsOf } from '../../lib/handoff/frame.js';
import { Random } from './random.js';

/** One sendmsg, and one recvmsg. */
interface Piece {
  bytes: Buffer;
  fds: number[];
  /** Of a recvmsg: the next one said that nothing waits. */
  last: boolean;
}

const LIMITS = { maxBytes: 4_000, maxDescriptors: 600 };

/** Runs one case. Throws with the seed in its message where a reader fails. */
export function fuzzOnce(seed: number): void {
  const random = new Random(seed);
  try {
    if (random.oneIn(3)) fuzzHandoff(random);
    else if (random.oneIn(4)) fuzzPackets(random);
    else fuzzStream(random);
  } catch (cause) {
    throw new Error(`fuzz: the case of seed ${seed} fails; run it alone with: npm run fuzz -- --seed ${seed}`, {
      cause,
    });
  }
}

// ---- Channel --------------------------------------------------------------------------------------------------------------

function fuzzStream(random: Random): void {
  let next = 3;
  const messages: ReadMessage[] = [];
  const sent: Piece[] = [];
  const isRight = random.oneIn(2);
  const most = isRight ? LIMITS.maxDescriptors : 900;
  for (let count = random.below(6); count >= 0; count--) {
    const message = {
      bytes: random.bytes(random.size(3_000)),
      fds: Array.from({ length: random.size(most) }, () => next++),
    };
    messages.push(message);
    sent.push(...sendmsgs(message, random));
  }
  const wrong = isRight ? sent : spoil(sent, random, () => next++);
  const ends = isRight || random.oneIn(2);
  const pieces = receive(random.oneIn(2) ? together(wrong, random) : wrong, random);

  const outcome = runChannel(pieces, ends);
  const expected = readSlowly(pieces, ends);

  assert.deepEqual(describe(outcome), describe(expected));
  if (isRight) {
    assert.equal(outcome.failure, undefined);
    assert.deepEqual(describe(outcome).messages, describe({ ...outcome, messages }).messages);
  }
}

function fuzzPackets(random: Random): void {
  const reader = new ChannelFrameReader(LIMITS);
  const messages: ReadMessage[] = [];
  const given: number[] = [];
  let failure: ReadFailure | undefined;
  for (let count = random.below(8); count >= 0; count--) {
    const payload = random.bytes(random.size(200));
    const fds = Array.from({ length: random.size(5) }, () => given.push(given.length + 3) + 2);
    const rights = random.oneIn(6) ? random.below(8) : fds.length;
    let packet: Buffer = Buffer.concat([head(random.oneIn(4), rights, payload.length), payload]);
    if (random.oneIn(8)) packet = flip(packet, random);
    if (random.oneIn(8))
      packet = Buffer.concat([packet, head(false, 0, 0).subarray(0, 1 + random.below(HEADER_LENGTH))]);
    if (random.oneIn(12)) packet = packet.subarray(0, random.below(packet.length + 1));
    const isWhole =
      packet.length >= HEADER_LENGTH &&
      packet.length === HEADER_LENGTH + packet.readUInt32BE(8) &&
      packet[5] === fds.length;
    for (const fd of fds) reader.queue(fd);
    const before = failure;
    failure ??= reader.pushPacket(packet, 0, packet.length, messages);
    if (before === undefined && !isWhole && packet.length > 0) assert.ok(failure, 'a packet that is not one frame');
  }
  const back = [...messages.flatMap(({ fds }) => fds), ...reader.drop()];
  assert.deepEqual(back, given);
}

interface Outcome {
  messages: ReadMessage[];
  failure: ReadFailure | undefined;
  dropped: number[];
}

function describe({ messages, failure, dropped }: Outcome): Record<string, unknown> & { messages: unknown } {
  return {
    messages: messages.map(({ bytes, fds }) => [bytes.toString('hex'), fds]),
    code: failure?.code,
    dropped,
  };
}

function runChannel(pieces: readonly Piece[], ends: boolean): Outcome {
  const reader = new ChannelFrameReader(LIMITS);
  const messages: ReadMessage[] = [];
  let failure: ReadFailure | undefined;
  for (const { bytes, fds, last } of pieces) {
    for (const fd of fds) reader.queue(fd);
    // Out of a larger memory that is used again, as a Channel does it.
    const memory = Buffer.concat([Buffer.from([1, 2, 3]), bytes, Buffer.from([4])]);
    failure ??= reader.push(memory, 3, 3 + bytes.length, messages);
    memory.fill(0xee);
    if (last) failure ??= reader.settle();
  }
  if (ends) failure ??= reader.end();
  return { messages, failure, dropped: reader.drop() };
}

/** The same rules, written to be seen through and not to be fast: it reads all bytes again for every piece. */
function readSlowly(pieces: readonly Piece[], ends: boolean): Outcome {
  let bytes = Buffer.alloc(0);
  let waiting: number[] = [];
  let message: { bytes: Buffer[]; fds: number[] } | undefined;
  const messages: ReadMessage[] = [];
  const fail = (code: ReadFailure['code'], rest: readonly Piece[]): Outcome => ({
    messages,
    failure: { code, message: '' },
    dropped: [...(message?.fds ?? []), ...waiting, ...rest.flatMap(({ fds }) => fds)],
  });
  for (const [index, piece] of pieces.entries()) {
    const rest = pieces.slice(index + 1);
    bytes = Buffer.concat([bytes, piece.bytes]);
    waiting = [...waiting, ...piece.fds];
    while (bytes.length > 0) {
      const right = Buffer.from([0x46, 0x44, 0x43, 1]);
      if (!bytes.subarray(0, 4).equals(right.subarray(0, bytes.length))) return fail('ERR_FDPASS_PROTOCOL', rest);
      const flags = bytes[4] ?? 0;
      const rights = bytes[5] ?? 0;
      if (flags > 1 || rights > MAX_RIGHTS || (bytes[6] ?? 0) > 0 || (bytes[7] ?? 0) > 0) {
        return fail('ERR_FDPASS_PROTOCOL', rest);
      }
      if (bytes.length < HEADER_LENGTH) break;
      const length = bytes.readUInt32BE(8);
      const before = message?.bytes.reduce((sum, part) => sum + part.length, 0) ?? 0;
      if (length > MAX_PAYLOAD) return fail('ERR_FDPASS_PROTOCOL', rest);
      if (before + length > LIMITS.maxBytes) return fail('ERR_FDPASS_LIMIT', rest);
      if ((message?.fds.length ?? 0) + rights > LIMITS.maxDescriptors) return fail('ERR_FDPASS_LIMIT', rest);
      if (flags === 1 && length === 0 && rights === 0) return fail('ERR_FDPASS_PROTOCOL', rest);
      if (bytes.length < HEADER_LENGTH + length) break;
      if (waiting.length < rights) return fail('ERR_FDPASS_PROTOCOL', rest);
      message ??= { bytes: [], fds: [] };
      message.bytes.push(bytes.subarray(HEADER_LENGTH, HEADER_LENGTH + length));
      message.fds.push(...waiting.splice(0, rights));
      bytes = bytes.subarray(HEADER_LENGTH + length);
      if (flags === 1) continue;
      messages.push({ bytes: Buffer.concat(message.bytes), fds: message.fds });
      message = undefined;
    }
    const named = bytes.length > 5 ? bytes[5] : undefined;
    if (waiting.length > MAX_RIGHTS + (named ?? 0)) return fail('ERR_FDPASS_PROTOCOL', rest);
    if (!piece.last) continue;
    if (bytes.length === 0 && waiting.length > 0) return fail('ERR_FDPASS_PROTOCOL', rest);
    if (named === undefined && waiting.length > MAX_RIGHTS) return fail('ERR_FDPASS_PROTOCOL', rest);
    if (named !== undefined && waiting.length !== named) return fail('ERR_FDPASS_PROTOCOL', rest);
  }
  if (ends && (bytes.length > 0 || message !== undefined || waiting.length > 0)) return fail('ERR_FDPASS_PROTOCOL', []);
  return { messages, failure: undefined, dropped: [...(message?.fds ?? []), ...waiting] };
}

function head(more: boolean, rights: number, length: number): Buffer {
  const header = Buffer.alloc(HEADER_LENGTH);
  writeHeader(header, 0, more, rights, length);
  return header;
}

/** A message as somebody might send it: frames of any size, and what does not fit at once without rights behind it. */
function sendmsgs({ bytes, fds }: ReadMessage, random: Random): Piece[] {
  const pieces: Piece[] = [];
  let at = 0;
  let fdAt = 0;
  for (let more = true; more;) {
    const payload = random.oneIn(3) ? random.below(bytes.length - at + 1) : bytes.length - at;
    const rights = Math.min(MAX_RIGHTS, random.oneIn(3) ? random.below(fds.length - fdAt + 1) : fds.length - fdAt);
    const isAll = at + payload === bytes.length && fdAt + rights === fds.length;
    if (!isAll && payload === 0 && rights === 0) continue;
    more = !isAll;
    const frame = Buffer.concat([head(more, rights, payload), bytes.subarray(at, at + payload)]);
    const cut = random.oneIn(4) ? 1 + random.below(frame.length) : frame.length;
    pieces.push({ bytes: frame.subarray(0, cut), fds: fds.slice(fdAt, fdAt + rights), last: false });
    if (cut < frame.length) pieces.push({ bytes: frame.subarray(cut), fds: [], last: false });
    at += payload;
    fdAt += rights;
  }
  return pieces;
}

/** Several whole frames in one sendmsg, with the descriptors of all of them. */
function together(sent: readonly Piece[], random: Random): Piece[] {
  const joined: Piece[] = [];
  for (const piece of sent) {
    const before = joined.at(-1);
    const isWhole = (bytes: Buffer): boolean => bytes.length >= HEADER_LENGTH && isFrames(bytes);
    const fits = before !== undefined && before.fds.length + piece.fds.length <= MAX_RIGHTS;
    if (fits && random.oneIn(2) && isWhole(before.bytes) && isWhole(piece.bytes)) {
      before.bytes = Buffer.concat([before.bytes, piece.bytes]);
      before.fds = [...before.fds, ...piece.fds];
    } else {
      joined.push({ ...piece });
    }
  }
  return joined;
}

function isFrames(bytes: Buffer): boolean {
  let at = 0;
  while (at + HEADER_LENGTH <= bytes.length) at += HEADER_LENGTH + bytes.readUInt32BE(at + 8);
  return at === bytes.length;
}

/** What recvmsg makes of it: plain bytes in front of rights merge with them, none behind; rights come with the first byte. */
function receive(sent: readonly Piece[], random: Random): Piece[] {
  const received: Piece[] = [];
  const room = random.oneIn(3) ? 1 + random.below(30) : 65_536;
  let now: Piece = { bytes: Buffer.alloc(0), fds: [], last: false };
  const finish = (last: boolean): void => {
    if (now.bytes.length > 0 || now.fds.length > 0) received.push({ ...now, last });
    else if (last && received.length > 0) (received.at(-1) as Piece).last = true;
    now = { bytes: Buffer.alloc(0), fds: [], last: false };
  };
  for (const piece of sent) {
    let { bytes, fds } = piece;
    if (bytes.length === 0 && fds.length === 0) continue;
    do {
      if (now.fds.length > 0 || now.bytes.length >= room) finish(false);
      const taken = Math.min(bytes.length, room - now.bytes.length);
      now.bytes = Buffer.concat([now.bytes, bytes.subarray(0, taken)]);
      now.fds = fds;
      if (fds.length > 0) finish(false);
      fds = [];
      bytes = bytes.subarray(taken);
    } while (bytes.length > 0);
    if (random.oneIn(3)) finish(true); // the reader was faster
  }
  finish(true);
  return received;
}

/** Changes one thing, or a few. */
function spoil(sent: readonly Piece[], random: Random, another: () => number): Piece[] {
  const pieces: Piece[] = sent.map(({ bytes, fds, last }) => ({ bytes: Buffer.from(bytes), fds: [...fds], last }));
  for (let times = random.below(3); times >= 0; times--) {
    const index = random.below(pieces.length);
    const piece = pieces[index];
    if (piece === undefined) continue;
    const ways: (() => unknown)[] = [
      () => (piece.bytes = flip(piece.bytes, random)),
      () => (piece.bytes = piece.bytes.subarray(0, random.below(piece.bytes.length + 1))),
      () => piece.fds.pop(),
      () => piece.fds.push(...Array.from({ length: 1 + random.size(300) }, another)),
      () => pieces.splice(index, 1),
      () => pieces.splice(index, 0, { bytes: head(true, 0, 0), fds: [], last: false }),
      () => pieces.splice(index, 0, { bytes: random.bytes(1 + random.size(100)), fds: [another()], last: false }),
      () => pieces.splice(random.below(pieces.length), 0, ...pieces.splice(index, 1)),
      () => {
        if (piece.bytes.length >= HEADER_LENGTH)
          piece.bytes.writeUInt32BE(random.pick([0, 1, 3_999, 4_001, 2 ** 20, 2 ** 30]), 8);
      },
    ];
    random.pick(ways)();
  }
  return pieces.map((piece) => ({ ...piece, fds: piece.fds.slice(0, MAX_RIGHTS) }));
}

function flip(bytes: Buffer, random: Random): Buffer {
  const changed = Buffer.from(bytes);
  // The head more often than chance would have it: there the rules are.
  const at = random.oneIn(2) ? random.below(Math.min(changed.length, HEADER_LENGTH)) : random.below(changed.length);
  if (changed.length > 0)
    changed[at] = random.oneIn(2) ? random.below(256) : (changed[at] ?? 0) ^ (1 << random.below(8));
  return changed;
}

// ---- The handoff -----------------------------------------------------------------------------------------------------------

const item: Item = {
  name: 'web',
  type: 'stream',
  address: { family: 'IPv4', address: '127.0.0.1', port: 8080 },
  inode: '1',
  device: '8',
};

function anyMessage(random: Random): Message {
  const items = Array.from({ length: random.size(253) }, () => item);
  return random.pick<Message>([
    { type: 'HELLO', versions: { min: 1, max: 1 }, pid: 1 + random.below(1_000), features: [] },
    { type: 'FDS', batch: random.below(9), items },
    { type: 'FDS_ACK', batch: random.below(9) },
    { type: 'READY' },
    { type: 'COMMIT', probation: random.below(5_000) },
    { type: 'SERVING', split: random.oneIn(2) },
    { type: 'CONNECTION', batch: 1, items: items.map((_, index) => ({ index })) },
    { type: 'ABORT', code: 'X', message: 'x'.repeat(random.size(500)) },
  ]);
}

function fuzzHandoff(random: Random): void {
  let next = 3;
  const messages = Array.from({ length: random.below(6) }, () => anyMessage(random));
  const frames = messages.map((message) => ({
    bytes: encodeFrame(message),
    fds: Array.from({ length: rightsOf(message) }, () => next++),
    last: false,
  }));
  const isRight = random.oneIn(2);
  const pieces = receive(isRight ? frames : spoil(frames, random, () => next++), random);

  const reader = new FrameReader();
  const got: Message[] = [];
  const back: number[] = [];
  let failure: string | undefined;
  for (const { bytes, fds } of pieces) {
    const arrival = reader.push(bytes, fds);
    got.push(...arrival.frames.map(({ message }) => message));
    back.push(...arrival.frames.flatMap((frame) => frame.fds), ...arrival.close);
    failure ??= arrival.failure;
  }
  const end = reader.end();
  back.push(...end.close);
  failure ??= end.failure;

  const given = pieces.flatMap(({ fds }) => fds);
  assert.deepEqual(
    back.toSorted((a, b) => a - b),
    given.toSorted((a, b) => a - b),
  );
  if (!isRight) return;
  assert.equal(failure, undefined);
  assert.deepEqual(got, messages);
}
