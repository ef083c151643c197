/**
 * To which server a connection belongs, said so that another process finds its own: the name of the listener, the place among its
 * servers, the kind. Reads what listener.ts knows; opens and closes nothing.
 */
import net from 'node:net';

import { formatAddress } from '../address.js';
import { type ServerKind, trackConnections } from '../connections.js';
import { openListeners, placeOf } from '../listener.js';

/** Kinds of servers whose connections can move. */
type Kind = 'http1' | 'raw';

/** A server, as it travels. */
export interface Place {
  /** Name of its listener. */
  listener: string;
  /** Address of its listener, as text: it tells two of one name apart. */
  address: string;
  /** Which of the listener's servers. */
  server: number;
  kind: Kind;
}

/** Where the server stands; undefined: no Listener served it. */
export function placeOfServer(server: net.Server): Place | undefined {
  const place = placeOf(server);
  const kind = kindOf(trackConnections(server).kind);
  if (place === undefined || kind === undefined) return undefined;
  const { name, address } = place.listener;
  return { listener: name, address: formatAddress(address), server: place.index, kind };
}

/** Undefined: TLS, whose keys are Node's own, and HTTP/2, which ends by GOAWAY. */
function kindOf({ tls, http1, http2 }: ServerKind): Kind | undefined {
  if (tls || http2) return undefined;
  return http1 ? 'http1' : 'raw';
}

/** The servers of this process that connections can come to. One that was known stays so when its listener has been handed on. */
export class Places {
  readonly #servers = new Map<string, net.Server[]>();

  constructor() {
    this.refresh();
  }

  /** Learns what is served by now. */
  refresh(): void {
    for (const { name, address, servers } of openListeners()) {
      const streams = servers.filter((server) => server instanceof net.Server);
      if (streams.length > 0) this.#servers.set(`${name} ${formatAddress(address)}`, streams);
    }
  }

  /**
   * The server for a connection: that of the same name, address and place. The address may have changed, where the name is clear; the
   * place too: servers of one kind on one listener get its connections by chance anyway.
   */
  find(place: Place): net.Server | undefined {
    const exact = this.#servers.get(`${place.listener} ${place.address}`);
    const named = [...this.#servers].filter(([key]) => key.startsWith(`${place.listener} `));
    const servers = exact ?? (named.length === 1 ? named[0]?.[1] : undefined) ?? [];
    const isOfKind = (server: net.Server | undefined): boolean =>
      server !== undefined && kindOf(trackConnections(server).kind) === place.kind;
    const same = servers[place.server];
    return isOfKind(same) ? same : servers.find(isOfKind);
  }
}

/** Reads a place that has travelled; undefined: it is none. */
export function readPlace(fields: Record<string, unknown>): Place | undefined {
  const { listener, address, server, kind } = fields;
  if (typeof listener !== 'string' || typeof address !== 'string') return undefined;
  if (typeof server !== 'number' || (kind !== 'http1' && kind !== 'raw')) return undefined;
  return { listener, address, server, kind };
}
