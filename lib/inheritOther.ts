/**
 * What was handed down and is no listener: connections, files, FIFOs, and who claims them.
 * Makes a socket of Node's of a connection; what was handed down, and how it was found, stands in inherit.ts. Main thread alone.
 * Source: sd_listen_fds(3); systemd.socket(5), Accept=; systemd.service(5), OpenFile=; inetd(8).
 */
import net from 'node:net';

import { formatAddress } from './address.js';
import { nameKind, type OtherItem } from './discover.js';
import { FdpassError } from './errors.js';
import { type AdoptOptions, offered } from './inherit.js';
import type * as raw from './raw.js';
import { assertMainThread } from './thread.js';

/** A descriptor that was handed down, is no listener, and that nobody has claimed yet: a connection, a file, a pipe. */
export interface InheritedDescriptor {
  readonly name: string;
  /** Where it is now. It is the caller's only once it is claimed. */
  readonly fd: number;
  readonly kind: raw.Description['kind'];
  /** For a socket. */
  readonly socket?: raw.SocketDescription | undefined;
}

/** What {@link inheritConnection} needs to know. */
export interface InheritConnectionOptions extends AdoptOptions {
  /** Default: the only connection there is. */
  name?: string | undefined;
  /** As in net.Server: this side stays open when the other has ended. Default: false. */
  allowHalfOpen?: boolean | undefined;
}

/**
 * What was handed down besides listeners, and nobody has claimed: the connection of a unit with `Accept=yes`, files of `OpenFile=`, FIFOs,
 * connections of the fd store. Main thread. Errors as inheritListener.
 *
 * @param options - Whose: as in inheritListener.
 * @see sd_listen_fds(3); systemd.socket(5), Accept=; systemd.service(5), OpenFile=
 */
export function inheritedDescriptors(options: AdoptOptions = {}): InheritedDescriptor[] {
  assertMainThread('inheritedDescriptors()');
  return offered(options)
    .others.filter((item) => !item.claimed)
    .map(({ name, fd, description: { kind, socket } }) => ({ name, fd, kind, socket }));
}

/**
 * Takes a connection that was handed down to this process: of a systemd unit with `Accept=yes`, of inetd with `nowait` (where
 * `convention: 'stdin'` must be named), of the fd store. A server takes it with `server.emit('connection', socket)`.
 *
 * @param name - As systemd calls it: `connection`, unless the unit says otherwise. Or all the options.
 * @returns A socket that belongs to the caller. Of the three copies of inetd it is the only one left: at 0, 1 and 2 stands /dev/null.
 * @throws {@link FdpassError} `ERR_FDPASS_MISMATCH`: there is none of that name, or several and no name; the message says what is there.
 * `ERR_FDPASS_TYPE`: it is no stream. `ERR_FDPASS_CLAIMED`: it was claimed before. What inheritListener says of what is damaged.
 * @see sd_listen_fds(3); systemd.socket(5), Accept=; inetd(8)
 */
export function inheritConnection(
  name?: string | InheritConnectionOptions,
  options: Omit<InheritConnectionOptions, 'name'> = {},
): net.Socket {
  assertMainThread('inheritConnection()');
  const wish: InheritConnectionOptions = typeof name === 'object' ? name : { ...options, name };
  const item = find('connection', wish.name, wish, ({ socket }) => socket?.peerAddress !== undefined);
  const { fd, description } = item;
  if (description.socket?.type !== 'stream') {
    const got = nameKind(description);
    const message = `The connection "${item.name}" is no stream, but ${got}: inheritDescriptor() gives the bare number`;
    throw new FdpassError('ERR_FDPASS_TYPE', message, { fd, expected: 'a stream', got });
  }
  item.claimed = true;
  const { allowHalfOpen = false } = wish;
  return new net.Socket({ fd, readable: true, writable: true, allowHalfOpen });
}

/**
 * Takes a descriptor that was handed down to this process and is no listener, whatever it is: a file of `OpenFile=`, a FIFO, a connection
 * of any type.
 *
 * @param name - As the supervisor calls it. Default: the only one there is.
 * @param options - Whose: as in inheritListener.
 * @returns The descriptor, close-on-exec; the caller's to close.
 * @throws {@link FdpassError} `ERR_FDPASS_MISMATCH`: there is none of that name, or several and no name; the message says what is there.
 * `ERR_FDPASS_CLAIMED`: it was claimed before. What inheritListener says of what is damaged.
 * @see sd_listen_fds(3); systemd.service(5), OpenFile=
 */
export function inheritDescriptor(name?: string, options: AdoptOptions = {}): number {
  assertMainThread('inheritDescriptor()');
  const item = find('descriptor', name, options, () => true);
  item.claimed = true;
  return item.fd;
}

function find(
  what: string,
  name: string | undefined,
  options: AdoptOptions,
  isOne: (description: raw.Description) => boolean,
): OtherItem {
  const { others, items, notes } = offered(options);
  const isCalled = (item: OtherItem): boolean =>
    name === undefined || item.name === name || item.aliases.includes(name);
  const fitting = others.filter((item) => isOne(item.description) && isCalled(item));
  const [item, second] = fitting.filter(({ claimed }) => !claimed);
  if (item !== undefined && (second === undefined || name !== undefined)) return item;
  const label = name === undefined ? `A ${what}` : `A ${what} "${name}"`;
  if (item === undefined && fitting.length > 0) {
    const message = `${label} was claimed before: each that was handed down can be taken once`;
    throw new FdpassError('ERR_FDPASS_CLAIMED', message);
  }
  const there = [
    ...others.map((each) => `"${each.name}" (${nameKind(each.description)}${each.claimed ? ', claimed' : ''})`),
    ...items.map((each) => `"${each.name}" (a listener, ${formatAddress(each.address)})`),
  ];
  const have = there.length > 0 ? `there is: ${there.join('; ')}` : `nothing was handed down (${notes.join('; ')})`;
  const why = second === undefined ? 'nothing fits' : 'several fit';
  throw new FdpassError('ERR_FDPASS_MISMATCH', `${label} was looked for, ${why}: ${have}`);
}
