/**
 * TLS session tickets: the keys of the old side's servers go to the new one's, so that clients resume their sessions there. (The
 * connections themselves do not move: their keys are in OpenSSL.)
 * Reads and sets the keys of servers. 48 secret bytes a server; they travel in OFFER, over a channel that no one else reads.
 * Source: Node's documentation, tls.Server.getTicketKeys and setTicketKeys; RFC 5077, RFC 8446 section 4.6.1.
 */
import { formatAddress } from '../address.js';
import type { Listener, Servable } from '../listener.js';
import type { OfferedTickets } from './frame.js';

const KEY_LENGTH = 48; // bytes: name, HMAC key and AES key of 16 each

/** A server of TLS, as far as it is needed here. Not by instanceof: tls and crypto would be loaded for it. */
interface TlsServer {
  getTicketKeys(): Buffer;
  setTicketKeys(keys: Buffer): void;
}

function isTls(server: Servable): server is Servable & TlsServer {
  return typeof Reflect.get(server, 'getTicketKeys') === 'function';
}

/** The keys of all TLS servers of these listeners. */
export function offerTickets(listeners: readonly Listener[]): OfferedTickets[] {
  return listeners.flatMap(({ name, address, servers }) =>
    servers.flatMap((server, index): OfferedTickets[] => {
      if (!isTls(server)) return [];
      const place = { listener: name, address: formatAddress(address), server: index };
      return [{ ...place, keys: server.getTicketKeys().toString('base64'), context: contextOf(server) }];
    }),
  );
}

/**
 * Gives each TLS server of these listeners the keys of its predecessor: before it accepts. One that was made with `ticketKeys` of its
 * own keeps them.
 *
 * Warns (FDPASS_SESSION_CONTEXT) where the keys are of no use: the session context differs. Node makes it of the arguments of the
 * process, unless the server has a `sessionIdContext`.
 */
export function takeTickets(tickets: readonly OfferedTickets[], listeners: readonly Listener[]): void {
  for (const { name, address, servers } of listeners) {
    const text = formatAddress(address);
    const here = tickets.filter((ticket) => ticket.listener === name);
    for (const [index, server] of servers.entries()) {
      if (!isTls(server) || Reflect.get(server, 'ticketKeys') !== undefined) continue;
      const ofPlace = here.filter((ticket) => ticket.server === index);
      const ticket = ofPlace.find((each) => each.address === text) ?? (ofPlace.length === 1 ? ofPlace[0] : undefined);
      if (ticket === undefined) continue;
      const keys = Buffer.from(ticket.keys, 'base64');
      if (keys.length === KEY_LENGTH) server.setTicketKeys(keys);
      if (ticket.context === contextOf(server)) continue;
      const message =
        `TLS clients of the listener "${name}" cannot resume their sessions: the session context of this process is another than that ` +
        'of its predecessor. Give the server a sessionIdContext of its own: else it is made of the arguments of the process';
      process.emitWarning(message, { code: 'FDPASS_SESSION_CONTEXT' });
    }
  }
}

function contextOf(server: Servable): string {
  const context: unknown = Reflect.get(server, 'sessionIdContext');
  return typeof context === 'string' ? context : '';
}
