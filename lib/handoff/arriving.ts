/**
 * What comes to a process that takes over, until the set is complete: OFFER, then the listeners in batches, each acknowledged.
 * Owns the descriptors that have come, and closes them all when the takeover comes to nothing. Source: docs/protocol.md.
 */
import { FdpassError } from '../errors.js';
import { type Item, readState, receiveItem } from '../inherit.js';
import * as raw from '../raw.js';
import { commonVersion, type Frame, type Message, VERSIONS } from './frame.js';
import { discard } from './wire.js';

type Offer = Extract<Message, { type: 'OFFER' }>;

/** The set, complete and looked at. */
export interface Arrived {
  offer: Offer;
  state: unknown;
  items: Item[];
}

/** The listeners of a takeover on their way. */
export class Arriving {
  #offer: Offer | undefined;
  #state: unknown;
  #items: Item[] = [];
  #batches = 0;

  /** How many listeners are to come, once that is known. */
  get expected(): number | undefined {
    return this.#offer?.count;
  }

  /** The whole set, once it is here. */
  get complete(): Arrived | undefined {
    const offer = this.#offer;
    if (offer?.count !== this.#items.length) return undefined;
    return { offer, state: this.#state, items: this.#items };
  }

  /**
   * Takes a frame of this part of the dialog.
   *
   * @returns The answer to it; undefined where there is none to give; false where the frame belongs to a later part.
   * @throws {@link FdpassError} What came is not what it should be. Nothing of the frame is kept; {@link close} does the rest.
   */
  take(frame: Frame<number>): Message | undefined | false {
    const { message } = frame;
    if (message.type !== 'OFFER' && message.type !== 'FDS') return false;
    try {
      if (message.type === 'FDS') return this.#takeBatch(frame, message);
      this.#takeOffer(frame, message);
      return undefined;
    } finally {
      discard(frame); // what was not taken out of it
    }
  }

  #takeOffer(frame: Frame<number>, offer: Offer): void {
    if (this.#offer !== undefined) throw outOfOrder('OFFER came twice');
    if (commonVersion(offer.versions, VERSIONS) === undefined) {
      const { min, max } = offer.versions;
      const message = `The predecessor (pid ${offer.pid}) speaks versions ${min} to ${max} of the protocol, and this process ${VERSIONS.min} to ${VERSIONS.max}`;
      throw new FdpassError('ERR_FDPASS_VERSION', message);
    }
    if (offer.items.length > 0) throw outOfOrder('OFFER names descriptors that only a child can have');
    this.#state = readState(offer.state, frame.fds.shift());
    this.#offer = offer;
  }

  #takeBatch(frame: Frame<number>, { batch, items }: Extract<Message, { type: 'FDS' }>): Message {
    if (this.#offer === undefined) throw outOfOrder('FDS came before OFFER');
    if (batch !== this.#batches) throw outOfOrder(`FDS brought batch ${batch}, expected was ${this.#batches}`);
    if (this.#items.length + items.length > this.#offer.count) {
      throw outOfOrder(`FDS brought more than the ${this.#offer.count} listeners that OFFER names`);
    }
    for (const item of items) {
      const [fd] = frame.fds;
      if (fd === undefined) throw outOfOrder('FDS brought fewer descriptors than items');
      this.#items.push(receiveItem(fd, item));
      frame.fds.shift();
    }
    this.#batches += 1;
    return { type: 'FDS_ACK', batch };
  }

  /** It comes to nothing. */
  close(): void {
    for (const { fd } of this.#items.splice(0)) raw.close(fd);
    this.#offer = undefined;
  }
}

function outOfOrder(why: string): FdpassError {
  return new FdpassError('ERR_FDPASS_PROTOCOL', why);
}
