/**
 * Clients of every kind, which never retry and write down how each request ended. They open sockets and read the clock; what a loss
 * means is for judge.ts to say. No request has a time-out of its own: who waits for a frozen server waits until the end of the history.
 */
import dgram from 'node:dgram';
import net from 'node:net';

import { raw } from '../../lib/index.js';
import { now, type Request } from './judge.js';
import type { ListenerName } from './history.js';

/** Where the listeners of the family are. The path of a Unix socket has port 0. */
export type Addresses = Partial<Record<ListenerName, number>>;

/** ms between two requests of one client: some 100 requests a second in all. */
const PAUSE = { new: 40, keepAlive: 120, post: 900, hello: 60, unix: 60, datagram: 60 } as const;
const KEPT = 4; // connections that are kept
const POST_CHUNKS = 8;

type Kind = Request['kind'];

/** A connection for many requests: the one that opened it, and the one that waits. */
interface Kept {
  socket: net.Socket;
  opened: Request;
  current: Request | undefined;
}

export class Clients {
  readonly requests: Request[] = [];
  /** Undefined: nobody to talk to. Set by the tester when a generation says that it is alone. */
  addresses: Addresses = {};
  readonly #path: string;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #open = new Set<Disposable>();
  readonly #datagram = dgram.createSocket('udp4');
  readonly #kept: (() => void)[] = [];
  #count = 0;
  #stopping = false;
  #closed = false;

  /** @param path - Of the family's Unix socket. */
  constructor(path: string) {
    this.#path = path;
    this.#datagram.on('message', (message) => {
      const [, pid, id] = /^(\d+) (.+)$/.exec(message.toString()) ?? [];
      const request = this.requests.find((each) => each.id === id);
      if (request === undefined || pid === undefined) return;
      request.servedBy = pid;
      finish(request, 'ok');
    });
    this.#datagram.on('error', () => undefined);
  }

  start(): void {
    this.#datagram.bind(0, '127.0.0.1');
    this.#every('new', 'web', (request) => this.#once(request, 'GET'));
    this.#every('unix', 'unix', (request) => this.#once(request, 'GET'));
    this.#every('hello', 'hello', (request) => this.#hello(request));
    this.#every('post', 'web', (request) => this.#once(request, 'POST'));
    this.#every('datagram', 'udp', (request) => {
      this.#datagram.send(request.id, request.port, '127.0.0.1');
    });
    for (let i = 0; i < KEPT; i++) this.#keep();
  }

  get waiting(): Request[] {
    return this.requests.filter(({ outcome }) => outcome === undefined);
  }

  /** No new requests; those that wait go on waiting. */
  stop(): void {
    this.#stopping = true;
    for (const timer of this.#timers) clearInterval(timer);
    for (const endIdle of this.#kept) endIdle();
  }

  /** Closes everything, whoever still waits. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.stop();
    for (const each of [...this.#open]) each[Symbol.dispose]();
    this.#datagram.close();
  }

  /** A timer that is late sends after the loop has read what is there: not on a connection whose end has long come. */
  #repeat(ms: number, action: () => void): void {
    this.#timers.add(
      setInterval(() => {
        setImmediate(() => {
          if (!this.#stopping) action();
        });
      }, ms),
    );
  }

  #every(kind: Kind, listener: ListenerName, send: (request: Request) => void): void {
    this.#repeat(PAUSE[kind], () => {
      const request = this.#begin(kind, listener);
      if (request !== undefined) send(request);
    });
  }

  #begin(kind: Kind, listener: ListenerName): Request | undefined {
    const port = this.addresses[listener];
    if (port === undefined) return undefined;
    const at = now();
    const request: Request = { id: `r${++this.#count}`, kind, listener, port, peer: '', openedAt: at, sentAt: at };
    this.requests.push(request);
    return request;
  }

  /** One connection, one request; the server is asked to close. A POST takes its time over the body. */
  #once(request: Request, method: 'GET' | 'POST'): void {
    const socket = this.#connect(request);
    if (socket === undefined) return;
    const length = method === 'GET' ? 0 : POST_CHUNKS;
    const head = `${method} /${request.id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n`;
    socket.write(method === 'GET' ? `${head}\r\n` : `${head}Content-Length: ${length}\r\n\r\n`);
    if (method === 'POST') this.#slowly(socket, length);
    readReplies(
      socket,
      () => request,
      (body) => {
        if (body !== undefined) judgeBody(request, body, length);
        socket.destroy();
      },
    );
  }

  #slowly(socket: net.Socket, chunks: number): void {
    let left = chunks;
    const timer = setInterval(() => {
      if (left-- > 0 && socket.writable) socket.write('x');
      else clearInterval(timer);
    }, 250);
    socket.once('close', () => {
      clearInterval(timer);
    });
  }

  #hello(request: Request): void {
    const socket = this.#connect(request);
    if (socket === undefined) return;
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk.toString();
    });
    socket.on('end', () => {
      if (/^\d+\n$/.test(text)) finish(request, 'ok');
      else finish(request, text === '' ? 'eof' : 'bad', text);
    });
  }

  /** A connection that is kept over many requests, and replaced when the server has announced that it closes it, or has closed it idle. */
  #keep(): void {
    let kept: Kept | undefined;
    this.#kept.push(() => {
      if (kept?.current === undefined) kept?.socket.end();
    });
    this.#repeat(PAUSE.keepAlive, () => {
      if (kept?.current !== undefined) return;
      const request = this.#begin('keepAlive', 'web');
      if (request === undefined) return;
      if (kept === undefined)
        kept = this.#openKept(request, (ended) => {
          if (kept === ended) kept = undefined;
        });
      else {
        // The same connection: the process that accepted it answers for this request too.
        const { peer, openedAt, port } = kept.opened;
        Object.assign(request, { peer, openedAt, port });
        kept.current = request;
      }
      kept?.socket.write(`GET /${request.id} HTTP/1.1\r\nHost: x\r\n\r\n`);
    });
  }

  /** @param gone - Called when no further request can be sent. */
  #openKept(request: Request, gone: (kept: Kept) => void): Kept | undefined {
    let kept: Kept | undefined; // what comes late on this connection is not the next one's
    const socket = this.#connect(request, () => kept?.current);
    if (socket === undefined) return undefined;
    const made: Kept = (kept = { socket, opened: request, current: request });
    for (const event of ['end', 'error', 'close']) {
      socket.once(event, () => {
        gone(made);
      });
    }
    readReplies(
      socket,
      () => made.current,
      (body, closing) => {
        const answered = made.current;
        made.current = undefined;
        if (body !== undefined && answered !== undefined) judgeBody(answered, body, 0);
        if (closing) gone(made);
        if (closing || this.#stopping) socket.end();
      },
    );
    return made;
  }

  /** @param waiting - Whose loss it is when the connection ends; undefined: nobody's. */
  #connect(request: Request, waiting: () => Request | undefined = () => request): net.Socket | undefined {
    let socket: net.Socket;
    if (request.listener === 'unix') {
      const fd = this.#connectPath(request);
      if (fd === undefined) return undefined;
      socket = new net.Socket({ fd });
    } else {
      socket = net.connect({ host: '127.0.0.1', port: request.port, noDelay: true });
    }
    let connected = request.listener === 'unix';
    const handle = { [Symbol.dispose]: () => socket.destroy() };
    this.#open.add(handle);
    socket.once('connect', () => {
      connected = true;
      request.peer = String(socket.localPort);
    });
    socket.on('error', (error) => {
      const lost = waiting();
      const { code = '' } = error as NodeJS.ErrnoException;
      if (lost !== undefined) finish(lost, connected ? 'reset' : 'refused', code);
    });
    socket.on('end', () => {
      setImmediate(() => {
        const lost = waiting();
        if (lost !== undefined) finish(lost, 'eof');
        socket.destroy();
      });
    });
    socket.once('close', () => {
      this.#open.delete(handle);
    });
    return socket;
  }

  /** From an address of its own, so that the server's log can name it. unix(7): a full queue is EAGAIN, and this client's loss if it lasts. */
  #connectPath(request: Request): number | undefined {
    request.peer = `@torture-${process.pid}-${request.id}`;
    const fd = raw.socket('unix', 'stream');
    try {
      raw.bind(fd, { family: 'unix', path: request.peer });
      raw.connect(fd, { family: 'unix', path: this.#path });
      return fd;
    } catch (error) {
      raw.close(fd);
      const { code = '' } = error as NodeJS.ErrnoException;
      if (code === 'EAGAIN')
        this.requests.splice(this.requests.indexOf(request), 1); // never came to the server
      else finish(request, 'refused', code);
      return undefined;
    }
  }
}

function finish(request: Request, outcome: NonNullable<Request['outcome']>, detail?: string): void {
  if (request.outcome !== undefined) return;
  request.outcome = outcome;
  request.endedAt = now();
  if (detail !== undefined) request.detail = detail;
}

function judgeBody(request: Request, body: string, length: number): void {
  const [, id, got] = /^\d+ (\S+) (\d+)\n$/.exec(body) ?? [];
  if (id === request.id && Number(got) === length) finish(request, 'ok');
  else finish(request, 'bad', JSON.stringify(body));
}

/** Calls `done` with the body of each reply, or with undefined for what is none. */
function readReplies(
  socket: net.Socket,
  waiting: () => Request | undefined,
  done: (body: string | undefined, closing: boolean) => void,
): void {
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk.toString('latin1');
    const end = text.indexOf('\r\n\r\n');
    if (end < 0) return;
    const head = text.slice(0, end).toLowerCase();
    const length = /^content-length: (\d+)$/m.exec(head)?.[1];
    if (!head.startsWith('http/1.1 200 ') || length === undefined) {
      const lost = waiting();
      if (lost !== undefined) finish(lost, 'bad', JSON.stringify(text.slice(0, 200)));
      done(undefined, true);
      return;
    }
    if (text.length < end + 4 + Number(length)) return;
    const body = text.slice(end + 4, end + 4 + Number(length));
    text = text.slice(end + 4 + Number(length));
    done(body, /^connection: close$/m.test(head));
  });
}
