/**
 * A raw HTTP/1.1 client for tests: it writes the bytes it is told to write and shows exactly what came back, retrying nothing.
 * It opens sockets and nothing else; no http.Agent, which would hide a closed connection by opening another.
 * Source: RFC 9112 (head, body length, chunked coding).
 */
import net from 'node:net';

import { Waiting } from './waiting.js';

/** Where a server listens: a TCP port, or the path of a Unix socket ('\0name' is abstract). */
export interface Target {
  port?: number;
  host?: string;
  path?: string;
}

/** What is not a reply we can believe in. */
export class BadReply extends Error {}

/** The first part of a reply. */
export interface Head {
  statusLine: string;
  status: number;
  /** Names in lower case; a header that came twice is joined by ', '. */
  headers: Map<string, string>;
  /** The bytes of the head, its empty line included. */
  size: number;
}

/** A whole reply. */
export interface Reply {
  status: number;
  headers: Map<string, string>;
  body: string;
}

/** How the other side ended a connection. */
export type Ending = 'eof' | 'reset';

const MAX_HEAD = 16384; // bytes; as Node's own parser (--max-http-header-size)

/** `net.connect` options of a target; 127.0.0.1 where no host is named. */
export function connectOptions(target: Target): net.NetConnectOpts {
  if (target.path !== undefined) return { path: target.path };
  if (target.port === undefined) throw new TypeError('a target needs a port or a path');
  return { port: target.port, host: target.host ?? '127.0.0.1', noDelay: true };
}

/**
 * Reads the head of a reply.
 *
 * @returns undefined while the empty line that ends it has not come.
 * @throws {@link BadReply} when it cannot become one.
 */
export function readHead(bytes: Buffer): Head | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) {
    if (bytes.length > MAX_HEAD) throw new BadReply(`no end of the head in ${bytes.length} bytes`);
    const start = bytes.toString('latin1', 0, 9);
    if (start !== 'HTTP/1.1 '.slice(0, start.length)) throw new BadReply(`starts with ${JSON.stringify(start)}`);
    return undefined;
  }
  const [statusLine = '', ...lines] = bytes.toString('latin1', 0, end).split('\r\n');
  const status = /^HTTP\/1\.1 (\d{3}) /.exec(statusLine)?.[1];
  if (status === undefined) throw new BadReply(`status line ${JSON.stringify(statusLine)}`);
  const headers = new Map<string, string>();
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon < 1) throw new BadReply(`header line ${JSON.stringify(line)}`);
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    const before = headers.get(name);
    headers.set(name, before === undefined ? value : `${before}, ${value}`);
  }
  return { statusLine, status: Number(status), headers, size: end + 4 };
}

/** Whether the sender of this head will close the connection after it. */
export function saysClose(head: { headers: Map<string, string> }): boolean {
  return (head.headers.get('connection') ?? '')
    .toLowerCase()
    .split(/\s*,\s*/)
    .includes('close');
}

/**
 * Reads the one reply a fixture server gives: `HTTP/1.1 200 OK` (hypercorn leaves the OK away), a Content-Length, the replying process's pid in the body, and not a byte more.
 *
 * @param body - The whole body; its first group is the pid.
 * @returns undefined while bytes are missing.
 * @throws {@link BadReply} as soon as one byte is not as it must be.
 */
export function readPidReply(bytes: Buffer, body: RegExp): { pid: number; close: boolean } | undefined {
  const head = readHead(bytes);
  if (!head) return undefined;
  if (!/^HTTP\/1\.1 200 (OK)?$/.test(head.statusLine))
    throw new BadReply(`status line ${JSON.stringify(head.statusLine)}`);
  const length = head.headers.get('content-length') ?? '';
  if (!/^\d{1,6}$/.test(length)) throw new BadReply(`Content-Length ${JSON.stringify(length)}`);
  if (head.headers.has('transfer-encoding')) throw new BadReply('both Content-Length and Transfer-Encoding');
  const end = head.size + Number(length);
  if (bytes.length < end) return undefined;
  if (bytes.length > end) throw new BadReply(`${bytes.length - end} bytes after the end of the reply`);
  const text = bytes.toString('latin1', head.size);
  const pid = body.exec(text)?.[1];
  if (pid === undefined) throw new BadReply(`body ${JSON.stringify(text.slice(0, 80))}`);
  return { pid: Number(pid), close: saysClose(head) };
}

/** One connection, driven by hand: write any bytes at any time, take replies one by one. It never reconnects. */
export class Connection {
  readonly socket: net.Socket;
  /** How the other side ended it; undefined while it has not. */
  ending: Ending | undefined;
  /** What has come and was not yet taken by reply(). */
  received: Buffer = Buffer.alloc(0);
  readonly #waiting = new Waiting(() => `received so far: ${this.#sofar()}`);

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.received = Buffer.concat([this.received, chunk]);
      this.#waiting.wake();
    });
    socket.on('end', () => this.#end('eof'));
    socket.on('error', () => this.#end('reset'));
  }

  /** Opens a connection; `deadline` in ms. It stays half open after an EOF until close(). */
  static async open(target: Target, deadline: number = 5000): Promise<Connection> {
    const socket = net.connect({ ...connectOptions(target), allowHalfOpen: true });
    const connection = new Connection(socket);
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(() => {
        socket.destroy();
        reject(new Error(`no connection to ${JSON.stringify(target)} within ${deadline} ms`));
      }, deadline);
      socket.once('connect', resolve).once('error', reject);
      socket.once('connect', () => clearTimeout(timer)).once('error', () => clearTimeout(timer));
    });
    return connection;
  }

  /** Writes these bytes now. */
  write(bytes: string | Uint8Array): this {
    this.socket.write(bytes);
    return this;
  }

  /** Writes a GET (or what `method` says) with a body if there is one, and waits for the reply. */
  async request(
    path = '/',
    options: { method?: string; headers?: Record<string, string>; body?: string } = {},
  ): Promise<Reply> {
    const headers: Record<string, string> = { Host: 'localhost', ...options.headers };
    if (options.body !== undefined) headers['Content-Length'] = String(Buffer.byteLength(options.body));
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
    this.write(`${options.method ?? 'GET'} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${options.body ?? ''}`);
    return this.reply();
  }

  /** Waits for the next whole reply; bytes that follow it stay in `received`. `deadline` in ms. */
  async reply(deadline = 5000): Promise<Reply> {
    const { reply, used } = await this.#waiting.until('a whole reply', deadline, () => {
      const found = readReply(this.received, this.ending === 'eof');
      if (found || !this.ending) return found;
      throw new Error(`${this.ending} before a whole reply; received so far: ${this.#sofar()}`);
    });
    this.received = this.received.subarray(used);
    return reply;
  }

  /** Waits until the other side has ended the connection, and says how. `deadline` in ms. */
  async ended(deadline = 5000): Promise<Ending> {
    return await this.#waiting.until('the end of the connection', deadline, () => this.ending);
  }

  close(): void {
    this.socket.destroy();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #sofar(): string {
    return JSON.stringify(this.received.toString('latin1').slice(0, 400));
  }

  #end(ending: Ending): void {
    this.ending ??= ending;
    this.#waiting.wake();
  }
}

/** Asks once, on a connection of its own that the server is told to close; the reply must be the last the server says. */
export async function request(target: Target, path = '/', deadline = 5000): Promise<Reply> {
  using connection = await Connection.open(target, deadline);
  connection.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
  return await connection.reply(deadline);
}

/** The body of `GET url`, which must be answered by 200. */
export async function get(url: string, deadline = 5000): Promise<string> {
  const { hostname, port, pathname } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, '');
  const reply = await request({ host, port: Number(port || 80) }, pathname, deadline);
  if (reply.status !== 200) throw new Error(`GET ${url}: status ${reply.status}`);
  return reply.body;
}

function readReply(bytes: Buffer, atEnd: boolean): { reply: Reply; used: number } | undefined {
  const head = readHead(bytes);
  if (!head) return undefined;
  const done = (body: string, used: number): { reply: Reply; used: number } => ({
    reply: { status: head.status, headers: head.headers, body },
    used,
  });
  if (head.status < 200 || head.status === 204 || head.status === 304) return done('', head.size);
  const length = head.headers.get('content-length');
  if (length !== undefined) {
    const end = head.size + Number(length);
    return bytes.length < end ? undefined : done(bytes.toString('utf8', head.size, end), end);
  }
  if (head.headers.get('transfer-encoding') === 'chunked') return readChunks(bytes, head.size, done);
  return atEnd ? done(bytes.toString('utf8', head.size), bytes.length) : undefined;
}

function readChunks<T>(bytes: Buffer, start: number, done: (body: string, used: number) => T): T | undefined {
  const parts: Buffer[] = [];
  for (let at = start; ;) {
    const line = bytes.indexOf('\r\n', at);
    if (line < 0) return undefined;
    const size = Number.parseInt(bytes.toString('latin1', at, line), 16);
    if (!(size >= 0)) throw new BadReply(`chunk size ${JSON.stringify(bytes.toString('latin1', at, line))}`);
    const end = line + 2 + size + 2; // no trailers: no server of ours sends them
    if (bytes.length < end) return undefined;
    if (size === 0) return done(Buffer.concat(parts).toString(), end);
    parts.push(bytes.subarray(line + 2, line + 2 + size));
    at = end;
  }
}
