import assert from 'node:assert/strict';
import { once } from 'node:events';
import http2 from 'node:http2';
import net from 'node:net';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';

import { drain } from '../../lib/drain/drain.js';
import { Serving } from '../../lib/serving.js';
import { certificate } from '../support/certificate.js';
import { ListeningSocket } from '../support/socket.js';

const LONG = 60_000;

const kinds: Record<string, { create: () => http2.Http2Server | http2.Http2SecureServer; scheme: string }> = {
  'clear text': { create: () => http2.createServer(), scheme: 'http' },
  secure: { create: () => http2.createSecureServer(certificate), scheme: 'https' },
};

/** Waits until a drain that was asked for has begun. */
async function begun(server: net.Server): Promise<void> {
  while (server.listening) await turn();
}

async function text(stream: http2.ClientHttp2Stream): Promise<string> {
  let all = '';
  for await (const chunk of stream.setEncoding('utf8')) all += chunk as string;
  return all;
}

for (const [kind, { create, scheme }] of Object.entries(kinds)) {
  test(`${kind}: streams in flight finish, GOAWAY is seen at once; an idle session ends after the grace`, async (t) => {
    using socket = new ListeningSocket();
    const server = create();
    const streams: http2.ServerHttp2Stream[] = [];
    server.on('stream', (stream: http2.ServerHttp2Stream) => {
      stream.respond({ ':status': 200 });
      stream.write('first half, ');
      streams.push(stream);
    });
    let closes = 0;
    server.on('close', () => closes++);
    await new Serving(server, socket).start();
    const clients = [1, 2].map(() =>
      http2.connect(`${scheme}://localhost:${socket.port}`, { rejectUnauthorized: false }),
    );
    t.after(() => {
      for (const client of clients) client.destroy();
      server.close();
    });
    const [busy, idle] = clients as [http2.ClientHttp2Session, http2.ClientHttp2Session];
    const goaways: [number, number][] = [];
    for (const client of clients) client.on('goaway', (code: number, last: number) => goaways.push([code, last]));
    const requests = [busy.request({ ':path': '/1' }), busy.request({ ':path': '/2' })];
    await Promise.all([...requests.map((request) => once(request, 'data')), once(idle, 'remoteSettings')]);
    const answers = requests.map(text);

    const report = drain(server, { idleGrace: 150, timeout: LONG });
    await once(busy, 'goaway');
    assert.equal(idle.closed, false);
    await once(idle, 'close');
    assert.equal(busy.destroyed, false);
    for (const stream of streams) stream.end('second half');
    const bodies = await Promise.all(answers);

    assert.deepEqual(bodies, ['second half', 'second half']);
    const { announced, finished, closedIdle, forced } = await report;
    assert.deepEqual(
      { announced, finished, closedIdle, forced },
      { announced: 2, finished: 0, closedIdle: 0, forced: 0 },
    );
    assert.ok(goaways.length >= 2);
    assert.ok(goaways.every(([code]) => code === 0));
    assert.equal(closes, 1);
  });

  test(`${kind}: requests without end from clients that open a new session at GOAWAY: none is lost`, async (t) => {
    using socket = new ListeningSocket();
    const servers = [create(), create()];
    for (const server of servers) {
      server.on('stream', (stream: http2.ServerHttp2Stream) => {
        stream.respond({ ':status': 200 });
        setImmediate(() => stream.end('served'));
      });
      t.after(() => server.close());
    }
    const [old, fresh] = servers.map((server) => new Serving(server, socket)) as [Serving, Serving];
    await old.start();
    let stop = false;
    let done = 0;
    const clients = Array.from({ length: 6 }, async () => {
      let session: http2.ClientHttp2Session | undefined;
      while (!stop) {
        if (session === undefined || session.closed || session.destroyed) {
          session = http2.connect(`${scheme}://localhost:${socket.port}`, { rejectUnauthorized: false });
          await once(session, 'connect');
        }
        if (session.closed) continue;
        assert.equal(await text(session.request({ ':path': '/' })), 'served'); // rejects when refused or reset
        done++;
      }
      session?.destroy();
    });
    const failed = Promise.all(clients);
    while (done < 100) await Promise.race([turn(), failed]);

    await fresh.start();
    const report = await drain(servers[0] as http2.Http2Server, { timeout: LONG });
    const before = done;
    while (done < before + 100) await Promise.race([turn(), failed]);
    stop = true;
    await failed;

    assert.equal(report.announced, 6);
    assert.equal(report.forced, 0);
  });

  test(`${kind}: a stream that never ends is forced at the deadline`, async (t) => {
    using socket = new ListeningSocket();
    const server = create();
    server.on('stream', (stream: http2.ServerHttp2Stream) => {
      stream.on('error', () => undefined);
      stream.respond({ ':status': 200 });
    });
    await new Serving(server, socket).start();
    const client = http2.connect(`${scheme}://localhost:${socket.port}`, { rejectUnauthorized: false });
    t.after(() => {
      client.destroy();
      server.close();
    });
    client.on('error', () => undefined);
    const request = client.request({ ':path': '/' });
    request.on('error', () => undefined);
    await once(request, 'response');

    const report = await drain(server, { timeout: 100 });

    assert.deepEqual([report.forced, report.announced], [1, 0]);
    if (!client.destroyed) await once(client, 'close');
  });
}

/** A client of HTTP/2 frames, in the clear. */
class Frames {
  readonly seen: { type: number; stream: number; payload: Buffer }[] = [];
  readonly socket: net.Socket;
  readonly ended: Promise<unknown>;
  #bytes = Buffer.alloc(0);
  #wake: () => void = () => undefined;

  constructor(port: number) {
    this.socket = net.connect(port, '127.0.0.1');
    this.ended = once(this.socket, 'end');
    this.socket.on('data', (chunk) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      while (this.#bytes.length >= 9 && this.#bytes.length >= 9 + this.#bytes.readUIntBE(0, 3)) {
        const size = this.#bytes.readUIntBE(0, 3);
        const payload = this.#bytes.subarray(9, 9 + size);
        this.seen.push({ type: this.#bytes[3] ?? -1, stream: this.#bytes.readUInt32BE(5), payload });
        this.#bytes = this.#bytes.subarray(9 + size);
      }
      this.#wake();
    });
  }

  send(type: number, flags: number, stream: number, payload: Uint8Array = Buffer.alloc(0)): this {
    const head = Buffer.alloc(9);
    head.writeUIntBE(payload.length, 0, 3);
    head.writeUInt8(type, 3);
    head.writeUInt8(flags, 4);
    head.writeUInt32BE(stream, 5);
    this.socket.write(Buffer.concat([head, payload]));
    return this;
  }

  /** GET / on this stream, with the static table alone. */
  get(stream: number): this {
    return this.send(HEADERS, 0x5, stream, Buffer.from([0x82, 0x86, 0x84, 0x41, 1, 0x61]));
  }

  async take(type: number): Promise<{ stream: number; payload: Buffer }> {
    for (;;) {
      const index = this.seen.findIndex((frame) => frame.type === type);
      const [frame] = index < 0 ? [] : this.seen.splice(index, 1);
      if (frame !== undefined) return frame;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}

const HEADERS = 1;
const SETTINGS = 4;
const GOAWAY = 7;
const ACK = 1;

test('idle: GOAWAY comes with the next streams, names the last of them, and stands before their answers', async (t) => {
  using socket = new ListeningSocket();
  const server = http2.createServer((_request, response) => response.end('served'));
  t.after(() => server.close());
  await new Serving(server, socket).start();
  const client = new Frames(socket.port);
  client.socket.write('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  client.send(SETTINGS, 0, 0);
  await client.take(SETTINGS);
  client.send(SETTINGS, ACK, 0).get(1);
  await client.take(HEADERS);

  const report = drain(server, { idleGrace: LONG, timeout: LONG });
  await begun(server);
  client.socket.cork();
  client.get(3).get(5).socket.uncork();
  await client.ended;

  const kinds = client.seen.filter(({ type }) => type === GOAWAY || type === HEADERS);
  assert.deepEqual(kinds.map(({ type, stream }) => [type, stream]).slice(0, 3), [
    [GOAWAY, 0],
    [HEADERS, 3],
    [HEADERS, 5],
  ]);
  const [goaway] = kinds;
  assert.deepEqual([goaway?.payload.readUInt32BE(0), goaway?.payload.readUInt32BE(4)], [5, 0]);
  assert.equal((await report).announced, 1);
});

test('a client that has connected and never spoke is closed after the grace', async (t) => {
  using socket = new ListeningSocket();
  const server = http2.createServer();
  t.after(() => server.close());
  await new Serving(server, socket).start();
  const session = once(server, 'session');
  const silent = net.connect(socket.port, '127.0.0.1').resume();
  await session;

  const report = drain(server, { idleGrace: 100, timeout: LONG });
  await once(silent, 'end');

  assert.equal((await report).announced, 1);
});

test('secure: a handshake that ends after the drain began: its first stream is answered, and GOAWAY said', async (t) => {
  using socket = new ListeningSocket();
  const server = http2.createSecureServer(certificate, (_request, response) => response.end('served'));
  t.after(() => server.close());
  await new Serving(server, socket).start();
  // A relay that holds the client's first bytes back
  const relay = net.createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1');
  await once(relay, 'listening');
  t.after(() => relay.close());
  const relayed = once(relay, 'connection');
  const client = http2.connect(`https://localhost:${(relay.address() as net.AddressInfo).port}`, {
    rejectUnauthorized: false,
  });
  client.on('error', () => undefined);
  const [near] = (await relayed) as [net.Socket];
  const accepted = once(server, 'connection');
  const far = net.connect(socket.port, '127.0.0.1');
  for (const end of [near, far]) end.on('error', () => undefined);
  await accepted;

  const report = drain(server, { idleGrace: LONG, timeout: LONG });
  await begun(server);
  const goaway = once(client, 'goaway');
  near.pipe(far).pipe(near);
  assert.equal(await text(client.request({ ':path': '/' })), 'served');
  const [code] = (await goaway) as [number];
  await once(client, 'close');

  assert.equal(code, 0);
  assert.equal((await report).announced, 1);
});
