/**
 * One side of a takeover that a test speaks by hand, frame by frame and as wrongly as it likes; the other side is a real process.
 * Opens Unix sockets, and owns every descriptor that comes. Linux and macOS. Source: docs/protocol.md.
 */
import * as raw from '../../lib/raw.js';
import { encodeFrame, type Frame, FrameReader, type Message, type MessageType } from '../../lib/handoff/frame.js';
import type { Scope } from './fixture.js';
import { Waiting } from './waiting.js';

/** HELLO as this release says it. */
export const HELLO: Message = { type: 'HELLO', versions: { min: 1, max: 1 }, pid: process.pid, features: [] };

/** One end of the channel. Closed after the test. */
export class Peer {
  /** What has come and was not yet taken. */
  readonly frames: Frame<number>[] = [];
  /** The other side has closed, or ended. */
  ended = false;
  readonly #fd: number;
  readonly #watch: raw.Watch;
  readonly #reader = new FrameReader();
  readonly #waiting = new Waiting(() => {
    const types = this.frames.map(({ message }) => message.type).join(', ');
    return `came and not taken: ${types || 'nothing'}${this.ended ? '; the other side has ended' : ''}`;
  });
  #closed = false;

  /** Takes the descriptor over. */
  constructor(t: Scope, fd: number) {
    this.#fd = fd;
    this.#watch = raw.watch(fd, { readable: true }, () => {
      this.#read();
    });
    t.after(() => {
      this.close();
    });
  }

  static connect(t: Scope, path: string): Peer {
    const fd = raw.socket('unix', 'stream');
    raw.connect(fd, { family: 'unix', path });
    return new Peer(t, fd);
  }

  /** One frame, or several in one write. */
  say(...messages: Message[]): this {
    return this.write(Buffer.concat(messages.map((message) => encodeFrame(message))));
  }

  /** Bytes as they are, with descriptors, which stay the caller's. */
  write(bytes: Uint8Array, fds: readonly number[] = []): this {
    raw.send(this.#fd, bytes, [...fds]);
    return this;
  }

  /** The next frame, which must be of this type. Its descriptors are the caller's. */
  async hear(type: MessageType, deadline = 8_000): Promise<Frame<number>> {
    return this.#waiting.until(type, deadline, () => {
      const frame = this.frames.shift();
      if (frame === undefined && this.ended) throw new Error(`the end came in the place of ${type}`);
      if (frame !== undefined && frame.message.type !== type) {
        throw new Error(`${JSON.stringify(frame.message)} came in the place of ${type}`);
      }
      return frame;
    });
  }

  /** The code of the ABORT that comes next, behind which the other side must close. */
  async heardAbort(deadline = 8_000): Promise<string> {
    const { message } = await this.hear('ABORT', deadline);
    await this.end();
    return message.type === 'ABORT' ? `${message.code}: ${message.message}` : '';
  }

  async end(deadline = 8_000): Promise<void> {
    await this.#waiting.until('the end', deadline, () => (this.ended ? true : undefined));
  }

  /** Says HELLO, takes all listeners, acknowledges, and closes its copies: as far as READY. */
  async adopt(): Promise<{ count: number; generation: number }> {
    const { message: offer } = await this.say(HELLO).hear('OFFER');
    if (offer.type !== 'OFFER') throw new Error('unreachable');
    for (let have = 0, batch = 0; have < offer.count; batch++) {
      const { message, fds } = await this.hear('FDS');
      if (message.type !== 'FDS') throw new Error('unreachable');
      for (const fd of fds) raw.close(fd);
      have += message.items.length;
      this.say({ type: 'FDS_ACK', batch });
    }
    return offer;
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    for (const { fds } of this.frames.splice(0)) for (const fd of fds) raw.close(fd);
    for (const fd of this.#reader.end().close) raw.close(fd);
    raw.close(this.#fd);
  }

  #read(): void {
    try {
      for (;;) {
        const got = raw.receive(this.#fd, 65_536);
        if (got === undefined) break;
        if (got.bytes.length === 0) throw new Error('the end');
        const { frames, close, failure } = this.#reader.push(got.bytes, got.fds);
        this.frames.push(...frames);
        for (const fd of close) raw.close(fd);
        if (failure !== undefined) throw new Error(failure);
      }
    } catch {
      this.ended = true; // EOF, ECONNRESET, or no frames of ours: nothing more comes
      this.#watch.close();
    }
    this.#waiting.wake();
  }
}

/** Somebody who listens at the path of an offer, for newcomers to meet. */
export class Host {
  readonly #fd: number;
  readonly #watch: raw.Watch;
  readonly #guests: Peer[] = [];
  readonly #waiting = new Waiting(() => 'nobody has connected');
  #closed = false;

  constructor(t: Scope, path: string) {
    this.#fd = raw.socket('unix', 'stream');
    raw.bind(this.#fd, { family: 'unix', path });
    raw.listen(this.#fd, 16);
    this.#watch = raw.watch(this.#fd, { readable: true }, () => {
      for (let fd = raw.accept(this.#fd); fd !== undefined; fd = raw.accept(this.#fd)) {
        this.#guests.push(new Peer(t, fd));
      }
      this.#waiting.wake();
    });
    t.after(() => {
      this.close();
    });
  }

  /** The path stays, and nobody listens there any more. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#watch.close();
    raw.close(this.#fd);
  }

  /** The next that connects, once it has said HELLO. */
  async guest(deadline = 10_000): Promise<Peer> {
    const peer = await this.#waiting.until('a newcomer', deadline, () => this.#guests.shift());
    await peer.hear('HELLO');
    return peer;
  }
}
