import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import tls from 'node:tls';

import { drain } from '../../lib/drain/drain.js';
import { Serving } from '../../lib/serving.js';
import { auditDescriptors } from '../support/audit.js';
import { certificate } from '../support/certificate.js';
import { Connection } from '../support/client.js';
import { temporaryDirectory } from '../support/fixture.js';
import { ListeningSocket } from '../support/socket.js';

const LONG = 60_000;

function portOf(server: net.Server): number {
  return (server.address() as net.AddressInfo).port;
}

test('net: raw connections are told nothing and finish by themselves, silent ones too', async (t) => {
  using socket = new ListeningSocket();
  const before = auditDescriptors().filter((line) => line.includes('socket:'));
  const server = net.createServer((connection) => {
    connection.on('error', () => undefined);
    connection.pipe(connection);
  });
  t.after(() => server.close());
  let closes = 0;
  server.on('close', () => closes++);
  await new Serving(server, socket).start();
  using talker = await Connection.open(socket);
  using silent = await Connection.open(socket);
  while ((await new Promise((resolve) => server.getConnections((_error, count) => resolve(count)))) !== 2) await turn();

  const report = drain(server, { idleGrace: 1, timeout: LONG });
  await turn();
  await new Promise((resolve) => setTimeout(resolve, 50)); // many graces
  talker.write('echo');
  while (talker.received.length < 4) await once(talker.socket, 'data');
  talker.socket.end();
  assert.equal(await talker.ended(), 'eof');
  silent.close();
  const { finished, announced, closedIdle, forced } = await report;

  assert.deepEqual(
    { finished, announced, closedIdle, forced },
    { finished: 2, announced: 0, closedIdle: 0, forced: 0 },
  );
  assert.equal(talker.received.toString(), 'echo');
  assert.equal(closes, 1);
  talker.close();
  await turn();
  assert.deepEqual(
    auditDescriptors().filter((line) => line.includes('socket:')),
    before,
  );
});

test('tls: the same, and what is left at the deadline is forced', async (t) => {
  using socket = new ListeningSocket();
  const server = tls.createServer(certificate, (connection) => {
    connection.on('error', () => undefined);
    connection.pipe(connection);
  });
  t.after(() => server.close());
  await new Serving(server, socket).start();
  const options = { port: socket.port, host: '127.0.0.1', rejectUnauthorized: false };
  const clients = [tls.connect(options), tls.connect(options)] as const;
  for (const client of clients) client.on('error', () => undefined);
  await Promise.all(clients.map((client) => once(client, 'secureConnect')));
  clients[1].resume();

  const report = drain(server, { idleGrace: 1, timeout: 300 });
  await turn();
  clients[0].write('echo');
  const [data] = (await once(clients[0], 'data')) as [Buffer];
  clients[0].end();
  const { finished, forced } = await report;

  assert.equal(data.toString(), 'echo');
  assert.deepEqual([finished, forced], [1, 1]);
  if (!clients[1].closed) await once(clients[1], 'close');
});

test('a server that was never attached, and one that never listened', async () => {
  const server = http.createServer((_request, response) => response.end('served'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  using client = await Connection.open({ port: portOf(server) });
  await client.request();
  let closes = 0;
  server.on('close', () => closes++);
  const idle = http.createServer();
  idle.on('close', () => closes++);

  const report = drain([server, idle], { idleGrace: LONG, timeout: LONG });
  while (server.listening) await turn();
  assert.equal((await client.request()).headers.get('connection'), 'close');
  const { announced } = await report;
  await turn();

  assert.equal(announced, 1);
  assert.equal(closes, 1);
});

test('connections that wait in the kernel when the drain begins are accepted and answered', async () => {
  const server = http.createServer((_request, response) => response.end('served'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  // Not one turn of the loop between the connects and the drain: the handshakes happen in the kernel
  const clients = Array.from({ length: 20 }, () => Connection.open({ port: portOf(server) }));
  const report = drain(server, { idleGrace: LONG, timeout: LONG });

  const replies = await Promise.all(clients.map(async (client) => (await client).request()));
  for (const client of clients) (await client).close();

  assert.deepEqual(
    replies.map(({ body }) => body),
    Array(20).fill('served'),
  );
  const { announced, finished } = await report;
  assert.equal(announced + finished, 20); // some were answered before it began
});

test('two drains of a server are one promise; several servers are one report', async () => {
  const servers = [net.createServer(), net.createServer()];
  const clients = servers.map(async (server) => {
    server.on('connection', (socket) => socket.resume().on('error', () => undefined));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const accepted = once(server, 'connection');
    const client = await Connection.open({ port: portOf(server) });
    await accepted;
    return client;
  });
  const open = await Promise.all(clients);
  const [first, second] = servers as [net.Server, net.Server];

  const one = drain(first, { timeout: LONG });
  assert.equal(drain(first, { timeout: 1 }), one);
  assert.equal(drain([first]), one);
  const both = drain(new Set([first, second, first]));
  while (first.listening || second.listening) await turn();
  for (const client of open) client.close();

  assert.equal((await both).finished, 2);
  assert.equal((await one).finished, 1);
  assert.equal(drain(first), one);
  assert.deepEqual(await drain([]), {
    moved: 0,
    finished: 0,
    announced: 0,
    closedIdle: 0,
    forced: 0,
    refusedToMove: {},
    duration: 0,
  });
});

test('the signal ends the wait, forces nothing, and the drain goes on', async () => {
  const server = http.createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const requested = once(server, 'request');
  using client = await Connection.open({ port: portOf(server) });
  client.write('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const [, response] = (await requested) as [http.IncomingMessage, http.ServerResponse];
  const controller = new AbortController();

  const aborted = drain(server, { signal: controller.signal, timeout: LONG });
  const other = drain(server);
  while (server.listening) await turn();
  controller.abort('enough');
  await assert.rejects(aborted, { name: 'AbortError', code: 'ABORT_ERR', cause: 'enough' });
  response.end('answered all the same');

  assert.equal((await client.reply()).body, 'answered all the same');
  assert.equal((await other).announced, 1);
  await assert.rejects(drain(net.createServer(), { signal: AbortSignal.abort() }), { name: 'AbortError' });
});

test('an already aborted signal begins nothing', async () => {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');

  await assert.rejects(drain(server, { signal: AbortSignal.abort() }), { name: 'AbortError' });
  await turn();
  await turn();

  assert.equal(server.listening, true);
  server.close();
});

const bad: [string, Parameters<typeof drain>, object][] = [
  [
    'idleGrace: a string',
    [[], { idleGrace: '5' as never }],
    { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message: /"options\.idleGrace".*'5'/ },
  ],
  [
    'idleGrace: negative',
    [[], { idleGrace: -1 }],
    { name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message: /"options\.idleGrace".*-1/ },
  ],
  [
    'timeout: NaN',
    [[], { timeout: NaN }],
    { name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message: /"options\.timeout".*NaN/ },
  ],
  [
    'timeout: more than a timer takes',
    [[], { timeout: 2 ** 31 }],
    { name: 'RangeError', code: 'ERR_OUT_OF_RANGE', message: /"options\.timeout".*2147483648/ },
  ],
  ['servers: an object', [{} as never], { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message: /"servers"/ }],
  ['servers: null', [null as never], { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message: /"servers"/ }],
  [
    'servers: one of them',
    [[net.createServer(), 'web' as never]],
    { name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE', message: /"servers".*'web'/ },
  ],
];
for (const [what, args, expected] of bad) {
  test(`bad argument, ${what}`, async () => {
    await assert.rejects(drain(...args), expected);
  });
}

test('a dgram socket is closed', async () => {
  const socket = dgram.createSocket('udp4');
  socket.bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const closed = once(socket, 'close');

  const report = await drain(socket);
  await closed;

  assert.equal(report.forced, 0);
});

/** Runs a program that imports ours, and returns what it printed. */
async function run(directory: string, program: string): Promise<{ code: number | null; output: string }> {
  const file = path.join(directory, 'program.mjs');
  const url = (name: string): string => new URL(`../../${name}`, import.meta.url).href;
  fs.writeFileSync(
    file,
    program.replaceAll(/LIB\/([\w/]+)/g, (_all, name: string) => url(`lib/${name}.js`)),
  );
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'pipe'], timeout: 20_000 });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, output };
}

test('a process lives as long as it drains, and ends right after', async (t) => {
  const { code, output } = await run(
    temporaryDirectory(t),
    `
    import net from 'node:net';
    import http from 'node:http';
    import { once } from 'node:events';
    import { drain } from 'LIB/drain/drain';
    const server = http.createServer((request, response) => response.end('served'));
    server.on('connection', (socket) => socket.unref()); // not even the connections hold the process
    await once(server.listen(0), 'listening');
    const client = net.connect(server.address().port).unref();
    client.on('error', () => {}).resume();
    await once(server, 'connection');
    drain(server, { timeout: 300 }).then(({ forced }) => console.log('forced', forced));
    process.on('exit', () => console.log('exit', performance.now() < 5000));
  `,
  );

  assert.equal(output, 'forced 1\nexit true\n');
  assert.equal(code, 0);
});

test('a server that listened before the library was loaded is drained as well', async (t) => {
  const { code, output } = await run(
    temporaryDirectory(t),
    `
    import net from 'node:net';
    import http from 'node:http';
    import { once } from 'node:events';
    const answers = [];
    const server = http.createServer((request, response) => request.url === '/slow' ? answers.push(response) : response.end('prompt'));
    const raw = net.createServer((socket) => socket.on('error', () => {}));
    await Promise.all([once(server.listen(0), 'listening'), once(raw.listen(0), 'listening')]);
    const clients = [0, 1, 2, 3].map((index) => net.connect((index < 3 ? server : raw).address().port).on('error', () => {}));
    const texts = clients.map(() => '');
    clients.forEach((client, index) => client.setEncoding('latin1').on('data', (text) => (texts[index] += text)));
    const GET = (path) => 'GET ' + path + ' HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n';
    clients[0].write(GET('/slow'));
    clients[1].write(GET('/'));
    clients[2].write(GET('/'));
    await Promise.all([once(server, 'request'), once(clients[1], 'data'), once(clients[2], 'data')]);

    const { drain } = await import('LIB/drain/drain');
    const report = drain([server, raw], { idleGrace: 200, timeout: 600 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    answers[0].end('slow'); // begun before we knew of it: not announced, then idle
    clients[1].write(GET('/again'));
    const { finished, announced, closedIdle, forced } = await report;
    console.log(finished, announced, closedIdle, forced, server.listening);
    console.log(texts[0].includes('slow'), texts[1].match(/Connection: \\S+/g).join());
    process.exit();
  `,
  );

  assert.equal(output, '0 1 2 1 false\ntrue Connection: keep-alive,Connection: close\n');
  assert.equal(code, 0);
});
