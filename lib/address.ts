/**
 * Where a listener listens: checks what the user asked for, resolves names, and compares addresses as the kernel writes them.
 * Touches the resolver and the list of interfaces alone. Opens and closes nothing.
 */
import { isIP, SocketAddress as NodeAddress } from 'node:net';
import { networkInterfaces } from 'node:os';
import { resolve } from 'node:path';

import { checkName } from './names.js';
import type { SocketAddress, SocketType } from './raw.js';

/** Where to listen, and how. Everything has a default but the address: `port`, or `path`. */
export interface ListenOptions {
  /** The name under which the listener is handed on and claimed. Printable ASCII without `:` and `\`. Default: `unknown`. */
  name?: string | undefined;
  /** An address, or a name to look up. Default: `::` with IPv4 too, where there is IPv6; else `0.0.0.0`. */
  host?: string | undefined;
  /** 0 to 65535; 0 lets the kernel choose. Digits in a string do as well: they come from the environment. */
  port?: number | string | undefined;
  /** Of a Unix socket; at most 107 bytes on Linux, 103 on macOS. `@name` is abstract (Linux). Not together with a port. */
  path?: string | undefined;
  /** Default: `stream`. */
  type?: SocketType | undefined;
  /** The kernel's queue of connections not yet accepted. Default: 511, as in Node. listen(2) */
  backlog?: number | undefined;
  /** SO_REUSEADDR: bind while old connections linger. Default: true for TCP, else false. socket(7) */
  reuseAddress?: boolean | undefined;
  /** SO_REUSEPORT: several sockets on one address. No substitute for a handoff: closing one resets what waits in its queue. socket(7) */
  reusePort?: boolean | undefined;
  /** IPV6_V6ONLY: no IPv4 on an IPv6 socket. Default: false. ipv6(7) */
  ipv6Only?: boolean | undefined;
  /** Permissions of a Unix path, as in 0o660. Default: what the umask leaves. */
  mode?: number | undefined;
  /** IP_FREEBIND: bind an address that is not there yet. Linux. ip(7) */
  freeBind?: boolean | undefined;
  /** TCP_DEFER_ACCEPT: wake at the first bytes, not at the handshake; seconds. Linux. tcp(7) */
  deferAccept?: number | undefined;
  /** TCP_FASTOPEN: length of its queue. Linux. tcp(7) */
  fastOpen?: number | undefined;
  /** SO_BINDTODEVICE: the name of an interface, as in `eth0`. Linux. socket(7) */
  bindToDevice?: string | undefined;
}

/** What {@link ListenOptions} say of the address, checked. */
export type Wanted =
  { kind: 'inet'; host: string | undefined; port: number } | { kind: 'unix'; path: string } | { kind: 'anything' };

/** TypeError for the wrong type, RangeError for the wrong value: with Node's codes, naming the option and the value. */
function invalid(kind: 'type' | 'value', option: string, expected: string, value: unknown): Error {
  const got = typeof value === 'string' ? JSON.stringify(value) : String(value);
  const message = `options.${option} must be ${expected}; it is ${got}`;
  if (kind === 'type') return Object.assign(new TypeError(message), { code: 'ERR_INVALID_ARG_TYPE' });
  return Object.assign(new RangeError(message), { code: 'ERR_INVALID_ARG_VALUE' });
}

/**
 * Checks every option before anything is opened.
 *
 * @returns What was asked for; `anything` where neither a port, a host nor a path was given.
 * @throws TypeError `ERR_INVALID_ARG_TYPE` or RangeError `ERR_INVALID_ARG_VALUE`, naming the option and its value.
 */
export function checkListenOptions(options: ListenOptions): Wanted {
  const { name, host, port, path, type, backlog, mode, deferAccept, fastOpen, bindToDevice } = options;
  if (name !== undefined && typeof name !== 'string') throw invalid('type', 'name', 'a string', name);
  if (name !== undefined) checkName(name);
  if (type !== undefined && !['stream', 'dgram', 'seqpacket'].includes(type)) {
    throw invalid('value', 'type', "'stream', 'dgram' or 'seqpacket'", type);
  }
  checkWhole('backlog', backlog, 1, 2_147_483_647);
  checkWhole('mode', mode, 0, 0o7777);
  checkWhole('deferAccept', deferAccept, 0, 2_147_483_647);
  checkWhole('fastOpen', fastOpen, 0, 2_147_483_647);
  if (bindToDevice !== undefined && typeof bindToDevice !== 'string') {
    throw invalid('type', 'bindToDevice', 'the name of an interface', bindToDevice);
  }
  for (const option of ['reuseAddress', 'reusePort', 'ipv6Only', 'freeBind'] as const) {
    const value: unknown = options[option];
    if (value !== undefined && typeof value !== 'boolean') throw invalid('type', option, 'true or false', value);
  }

  if (path !== undefined) {
    if (typeof path !== 'string') throw invalid('type', 'path', 'a string', path);
    if (path === '' || path.includes('\0')) throw invalid('value', 'path', 'a path without NUL, or @name', path);
    if (port !== undefined || host !== undefined) {
      throw invalid('value', 'path', 'given without a host and a port', path);
    }
    const limit = process.platform === 'linux' ? 107 : 103; // sun_path less its NUL, unix(7)
    const length = Buffer.byteLength(path);
    if (length > limit) throw invalid('value', 'path', `at most ${limit} bytes long, and has ${length}`, path);
    return { kind: 'unix', path };
  }
  if (host !== undefined) {
    if (typeof host !== 'string') throw invalid('type', 'host', 'a string', host);
    if (host.trim() === '') throw invalid('value', 'host', 'an address or a name, or left out', host);
    if (port === undefined) throw invalid('value', 'port', 'given where there is a host', port);
  }
  if (port === undefined) return { kind: 'anything' };
  return { kind: 'inet', host, port: checkPort(port) };
}

function checkPort(port: unknown): number {
  if (typeof port !== 'number' && typeof port !== 'string') throw invalid('type', 'port', 'a number', port);
  const number = typeof port === 'number' ? port : /^\d{1,5}$/.test(port) ? Number(port) : NaN;
  if (!Number.isInteger(number) || number < 0 || number > 65_535) {
    throw invalid('value', 'port', 'a whole number from 0 to 65535', port);
  }
  return number;
}

function checkWhole(option: string, value: unknown, lowest: number, highest: number): void {
  if (value === undefined) return;
  if (typeof value !== 'number') throw invalid('type', option, 'a number', value);
  if (!Number.isInteger(value) || value < lowest || value > highest) {
    throw invalid('value', option, `a whole number from ${lowest} to ${highest}`, value);
  }
}

/**
 * The addresses to bind, the first that works being the one: what was asked for with its name looked up,
 * or Node's default (`::` with IPv4 too, then `0.0.0.0`) where no host was named.
 */
export async function candidates(wanted: Exclude<Wanted, { kind: 'anything' }>): Promise<SocketAddress[]> {
  if (wanted.kind === 'unix') return [{ family: 'unix', path: wanted.path }];
  const { host, port } = wanted;
  if (host === undefined) {
    return [
      { family: 'IPv6', address: '::', port },
      { family: 'IPv4', address: '0.0.0.0', port },
    ];
  }
  const bare = host.startsWith('[') && host.endsWith(']') ? host.slice(1, -1) : host;
  return [inetAddress(isIP(bare) === 0 ? await lookUp(bare) : bare, port)];
}

/** The resolver is loaded when it is needed: a successor is ready that much sooner. */
async function lookUp(name: string): Promise<string> {
  const { lookup } = await import('node:dns/promises');
  return (await lookup(name)).address;
}

/** With the text that the kernel would give for it: `::1` for `0:0:0:0:0:0:0:1`. */
function inetAddress(text: string, port: number): SocketAddress {
  if (isIP(text) === 4) return { family: 'IPv4', address: text, port };
  const [address = text, scope] = text.split('%'); // fe80::1%eth0
  const canonical = new NodeAddress({ address, port, family: 'ipv6' }).address;
  if (scope === undefined) return { family: 'IPv6', address: canonical, port };
  const scopeId = /^\d+$/.test(scope) ? Number(scope) : networkInterfaces()[scope]?.find((at) => at.scopeid)?.scopeid;
  if (scopeId === undefined)
    throw invalid('value', 'host', `an address of this machine (no interface "${scope}")`, text);
  return { family: 'IPv6', address: canonical, port, scopeId };
}

/** Whether a socket that listens at `actual` is what somebody who would bind `candidate` asks for. Port 0 agrees with any. */
export function agrees(candidate: SocketAddress, actual: SocketAddress): boolean {
  if (candidate.family === 'unix') {
    if (actual.family !== 'unix' || actual.path === '') return false;
    if (candidate.path.startsWith('@') || actual.path.startsWith('@')) return candidate.path === actual.path;
    return resolve(candidate.path) === resolve(actual.path);
  }
  if (actual.family !== candidate.family) return false;
  if (candidate.family === 'IPv6' && actual.family === 'IPv6' && (candidate.scopeId ?? 0) !== (actual.scopeId ?? 0))
    return false;
  return candidate.address === actual.address && (candidate.port === 0 || candidate.port === actual.port);
}

/** For people: `127.0.0.1:8080`, `[::]:8080`, `/run/app.sock`, `@name`. */
export function formatAddress(address: SocketAddress): string {
  if (address.family === 'unix') return address.path === '' ? 'an unnamed Unix socket' : address.path;
  return address.family === 'IPv6' ? `[${address.address}]:${address.port}` : `${address.address}:${address.port}`;
}
