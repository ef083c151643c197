/**
 * HTTP/2: the announcement, which is GOAWAY, and the end of a session after its last stream.
 * Acts on one session; knows nothing of servers. http2's own server.close() sends no GOAWAY on Node 20 and 22.
 * Source: RFC 9113 section 6.8; lib/internal/http2/core.js of Node 20 to 26; session_allow_incoming_new_stream and
 * nghttp2_session_want_read of nghttp2.
 */
import type { ServerHttp2Session, ServerHttp2Stream } from 'node:http2';

import type { TrackedConnection } from '../connections.js';
import { intercept } from '../intercept.js';

/**
 * Ends one session: GOAWAY with the number of the last stream; streams finish; then the session ends.
 *
 * A stream that its client opens while the GOAWAY is on its way is refused; the number tells the client that it may ask again
 * elsewhere, but not every client does. (The first of two GOAWAYs, which refuses none, as the RFC has it, is no help here: nghttp2
 * ignores new streams after any.) So a session without a stream is not told at once, but when its client opens the next one, before
 * that one is answered: whoever asks one thing at a time is never refused. If none comes in the grace the session is told then.
 */
export class SessionEnd implements Disposable {
  readonly #connection: TrackedConnection;
  readonly #session: ServerHttp2Session;
  readonly #onAnnounce: () => void;
  readonly #interception: Disposable;
  readonly #timer: NodeJS.Timeout;
  /** Streams that have come and wait for the GOAWAY. */
  readonly #held: (() => void)[] = [];

  /**
   * @param grace - How long a session without a stream is left open, in ms.
   * @param onAnnounce - Called before the GOAWAY.
   */
  constructor(connection: TrackedConnection, session: ServerHttp2Session, grace: number, onAnnounce: () => void) {
    this.#connection = connection;
    this.#session = session;
    this.#onAnnounce = onAnnounce;
    this.#interception = intercept(session, (event, [stream], pass) => {
      if (event !== 'stream') return pass();
      this.#held.push(() => {
        if (!(stream as ServerHttp2Stream).destroyed) pass();
      });
      // not now: more streams may stand behind it in what was read, and GOAWAY must name the last of them
      if (this.#held.length === 1) setImmediate(this.#close);
      return true;
    });
    // not now, if it ends with the grace: first what waits in the kernel is read, and a stream among it wins
    this.#timer = setTimeout(() => {
      setImmediate(() => {
        if (this.#connection.streams === 0 && this.#held.length === 0) this.#close();
      });
    }, grace).unref();
    if (connection.streams > 0) this.#close();
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
    this.#interception[Symbol.dispose]();
  }

  readonly #close = (): void => {
    this[Symbol.dispose]();
    if (!this.#session.destroyed) {
      this.#onAnnounce();
      this.#session.close();
    }
    for (const pass of this.#held.splice(0)) pass();
  };
}
