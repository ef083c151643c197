import assert from 'node:assert/strict';
import { channel } from 'node:diagnostics_channel';
import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';
import net from 'node:net';
import { test } from 'node:test';
import tls from 'node:tls';

import { type Connection as Tracked, connectionsOf, onConnectionState } from '../../lib/connections.js';
import { certificate } from '../support/certificate.js';
import { Connection } from '../support/client.js';

/** Records the states of each connection, in order. */
class States implements Disposable {
  readonly byConnection = new Map<Tracked, string[]>();
  readonly #subscription: Disposable;
  #wake: () => void = () => undefined;

  constructor(server: net.Server) {
    this.#subscription = onConnectionState(server, (state, connection) => {
      assert.equal(connection.state === state || state === 'new', true, `${connection.state} while ${state} is told`);
      const states = this.byConnection.get(connection) ?? [];
      this.byConnection.set(connection, [...states, state]);
      this.#wake();
    });
  }

  get all(): string[] {
    return [...this.byConnection.values()].map((states) => states.join(' '));
  }

  async until(...expected: string[]): Promise<void> {
    while (this.all.join() !== expected.join()) {
      const deadline = new Promise<never>((_resolve, reject) => {
        setTimeout(() => reject(new Error(`${this.all.join()} instead of ${expected.join()}`)), 5_000).unref();
      });
      await Promise.race([new Promise<void>((resolve) => (this.#wake = resolve)), deadline]);
    }
  }

  [Symbol.dispose](): void {
    this.#subscription[Symbol.dispose]();
  }
}

async function listening<Server extends net.Server>(server: Server): Promise<{ server: Server; port: number }> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { server, port: (server.address() as net.AddressInfo).port };
}

test('http: new, active, idle, active, idle, closed, as in Go', async (t) => {
  const { server, port } = await listening(http.createServer((_request, response) => response.end('served')));
  t.after(() => server.close());
  using states = new States(server);

  using client = await Connection.open({ port });
  await states.until('new');
  await client.request();
  await states.until('new active idle');
  const [connection] = connectionsOf(server);
  assert.ok(connection);
  assert.equal(connection.server, server);
  assert.equal(connection.socket.remotePort, client.socket.localPort);
  assert.equal(connection.state, 'idle');
  await client.request();
  await states.until('new active idle active idle');
  client.close();

  await states.until('new active idle active idle closed');
  assert.equal(connection.state, 'closed');
  assert.deepEqual(connectionsOf(server), []);
});

test('http: a pipelined batch is active once; the last response is not followed by idle; checkContinue counts', async (t) => {
  const { server, port } = await listening(
    http.createServer((_request, response) => setImmediate(() => response.end('served'))),
  );
  server.on('checkContinue', (_request, response: http.ServerResponse) => response.end());
  t.after(() => server.close());
  using states = new States(server);

  using client = await Connection.open({ port });
  client.write('GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n');
  await states.until('new active idle');
  client.write('GET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  await states.until('new active idle active closed');
  using second = await Connection.open({ port });
  second.write('PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n');

  await states.until('new active idle active closed', 'new active closed');
});

test('http: an upgrade is active to its end, and no upgrade is accepted because we listen', async (t) => {
  const { server, port } = await listening(http.createServer((_request, response) => response.end('served')));
  t.after(() => server.close());
  using states = new States(server);
  const hello = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n';

  using first = await Connection.open({ port });
  first.write(hello);
  assert.equal((await first.reply()).status, 200); // as Node answers without an 'upgrade' listener
  first.close();
  await states.until('new active idle closed');
  server.once('upgrade', (_request: http.IncomingMessage, socket: net.Socket) =>
    socket
      .resume()
      .on('end', () => socket.end())
      .write('HTTP/1.1 101 Go on\r\n\r\n'),
  );
  assert.equal(server.listenerCount('upgrade'), 2);
  using second = await Connection.open({ port });
  second.write(hello);
  await second.reply();
  await states.until('new active idle closed', 'new active');
  assert.equal(server.listenerCount('upgrade'), 0);
  using third = await Connection.open({ port });
  third.write(hello);
  assert.equal((await third.reply()).status, 200);
  second.close();

  await states.until('new active idle closed', 'new active closed', 'new active idle');
  server.on('upgrade', () => undefined);
  server.removeAllListeners('upgrade');
  assert.equal(server.listenerCount('upgrade'), 0);
  server.on('connect', () => undefined);
  assert.equal(server.listenerCount('connect'), 2);
});

test('net and tls: active from the start, or from the end of the handshake', async (t) => {
  const plain = await listening(net.createServer((socket) => socket.resume().on('error', () => undefined)));
  const secure = await listening(
    tls.createServer(certificate, (socket) => socket.resume().on('error', () => undefined)),
  );
  t.after(() => {
    plain.server.close();
    secure.server.close();
  });
  using plainStates = new States(plain.server);
  using secureStates = new States(secure.server);

  using client = await Connection.open({ port: plain.port });
  await plainStates.until('new active');
  client.close();
  await plainStates.until('new active closed');
  using silent = await Connection.open({ port: secure.port });
  await secureStates.until('new');
  silent.close();
  await secureStates.until('new closed');
  const handshaken = tls.connect({ port: secure.port, host: '127.0.0.1', rejectUnauthorized: false });
  await once(handshaken, 'secureConnect');
  await secureStates.until('new closed', 'new active');
  assert.ok(connectionsOf(secure.server)[0]?.socket instanceof tls.TLSSocket);
  handshaken.destroy();

  await secureStates.until('new closed', 'new active closed');
});

test('https: one connection for the TLS socket and what lies below it', async (t) => {
  const { server, port } = await listening(
    https.createServer(certificate, (_request, response) => response.end('served')),
  );
  t.after(() => server.close());
  using states = new States(server);
  const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });

  for (let count = 0; count < 2; count++) {
    const request = https.get({ port, host: '127.0.0.1', agent, rejectUnauthorized: false });
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    await once(response.resume(), 'end');
  }
  await states.until('new active idle active idle');
  assert.equal(connectionsOf(server).length, 1);
  agent.destroy();

  await states.until('new active idle active idle closed');
});

for (const [kind, create, scheme] of [
  ['clear text', () => http2.createServer(), 'http'],
  ['secure', () => http2.createSecureServer(certificate), 'https'],
] as const) {
  test(`http2, ${kind}: active while a stream is open`, async (t) => {
    const { server, port } = await listening<http2.Http2Server | http2.Http2SecureServer>(create());
    const streams: http2.ServerHttp2Stream[] = [];
    server.on('stream', (stream: http2.ServerHttp2Stream) => {
      stream.respond();
      streams.push(stream);
    });
    t.after(() => server.close());
    using states = new States(server);
    const client = http2.connect(`${scheme}://localhost:${port}`, { rejectUnauthorized: false });
    await once(client, 'remoteSettings');
    await states.until('new');

    const requests = [client.request({ ':path': '/1' }), client.request({ ':path': '/2' })];
    await Promise.all(requests.map((request) => once(request.resume(), 'response')));
    await states.until('new active');
    streams[0]?.end();
    if (requests[0]) await once(requests[0], 'close');
    streams[1]?.end();
    await states.until('new active idle');
    client.close();

    await states.until('new active idle closed');
  });
}

test('what is not observed costs nothing, and is known all the same when somebody asks', async (t) => {
  const held: http.ServerResponse[] = [];
  const { server, port } = await listening(http.createServer((_request, response) => held.push(response)));
  t.after(() => server.close());
  const states = (): string[] => connectionsOf(server).map(({ state }) => state);

  const accepted = once(server, 'connection');
  using client = await Connection.open({ port });
  await accepted;
  assert.equal(channel('http.server.request.start').hasSubscribers, false);
  assert.deepEqual(states(), ['new']);
  const requested = once(server, 'request');
  const answer = client.request();
  await requested;
  assert.deepEqual(states(), ['active']);
  using observed = new States(server); // begins in the middle of a request
  assert.equal(channel('http.server.request.start').hasSubscribers, true);
  assert.deepEqual(states(), ['active']);
  held[0]?.end();
  await answer;
  await observed.until('idle');
  observed[Symbol.dispose]();

  assert.equal(channel('http.server.request.start').hasSubscribers, false);
  assert.deepEqual(states(), ['idle']);
});

test('after dispose nothing more is told', async (t) => {
  const { server, port } = await listening(http.createServer((_request, response) => response.end('served')));
  t.after(() => server.close());
  const states = new States(server);
  using client = await Connection.open({ port });
  await states.until('new');

  states[Symbol.dispose]();
  await client.request();

  assert.deepEqual(states.all, ['new']);
});
