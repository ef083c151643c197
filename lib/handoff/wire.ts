/**
 * A channel that speaks frames: messages in, messages out.
 * Owns the channel. Closes descriptors that come with it and belong to no message. Knows the order of no dialog.
 */
import { Channel } from '../channel.js';
import * as raw from '../raw.js';
import { encodeFrame, FrameReader, type Message } from './frame.js';

/** Everything that a channel held when it was read. */
export interface WireMail {
  messages: Message[];
  /** Bytes that are not ours: nothing behind them is read any more. */
  malformed: string | undefined;
  /** The other side has ended; nothing of it is left. */
  ended: boolean;
}

/** One end of the control channel of a handoff. */
export class Wire implements Disposable {
  readonly #channel: Channel;
  readonly #reader = new FrameReader();
  #unread: Message[] = [];

  /** Takes the channel over. */
  constructor(channel: Channel) {
    this.#channel = channel;
  }

  get closed(): boolean {
    return this.#channel.closed;
  }

  /** False: the other side has ended, and nothing was sent. */
  send(message: Message): boolean {
    return this.#channel.send(Buffer.from(encodeFrame(message)));
  }

  /** Bytes that the kernel has not taken yet. */
  get unsent(): number {
    return this.#channel.unsent;
  }

  /** Reads all that is there, without waiting. */
  readAll(): WireMail {
    const mail: WireMail = { messages: this.#unread, malformed: undefined, ended: true };
    this.#unread = [];
    if (this.closed) return mail;
    const { arrived, ended } = this.#channel.readAll();
    for (const { bytes, fds } of arrived) {
      const { frames, close, failure } = this.#reader.push(bytes, fds);
      for (const frame of frames) {
        mail.messages.push(frame.message);
        close.push(...frame.fds); // no message of this dialog carries descriptors yet
      }
      for (const fd of close) raw.close(fd);
      mail.malformed ??= failure;
    }
    mail.ended = ended;
    return mail;
  }

  /** The first of these messages comes first when the channel is read again. */
  putBack(messages: readonly Message[]): void {
    this.#unread = [...messages, ...this.#unread];
  }

  /** Calls `onReadable` whenever there is mail or the other side has ended. */
  listen(onReadable: () => void): void {
    this.#channel.listen(onReadable);
  }

  ref(): void {
    this.#channel.ref();
  }

  unref(): void {
    this.#channel.unref();
  }

  close(): void {
    this.#channel.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
