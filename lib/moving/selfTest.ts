/**
 * Whether connections can move in this Node: the private fields that moving needs are there, and mean what they should.
 * Moves one HTTP/1 connection, over a socket pair, from a server to itself, once a process and only when something is to move. Opens
 * no port; leaves nothing open.
 */
import http from 'node:http';
import { setImmediate as turn } from 'node:timers/promises';

import { type ConnectionTracker, trackConnections } from '../connections.js';
import { descriptorOf, httpSockets } from '../nodeInternals.js';
import * as raw from '../raw.js';
import { adoptHttp, Between, dupOf, verdictOf } from './http1.js';

const DEADLINE = 2_000; // ms; it takes some turns of the loop

let result: Promise<string | undefined> | undefined;

/** Undefined where all is well; else what is not, in a few words. */
export function whyNotMovable(): Promise<string | undefined> {
  return (result ??= selfTest().then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error.message : String(error)),
  ));
}

async function selfTest(): Promise<void> {
  const responses: http.ServerResponse[] = [];
  const server = http.createServer((_request, response) => responses.push(response));
  const tracker = trackConnections(server);
  const observation = tracker.observe({
    opened: () => undefined,
    requested: () => undefined,
    found: () => undefined,
    answered: () => undefined,
    upgraded: () => undefined,
    closed: () => undefined,
  });
  const [ours, client] = raw.socketPair('stream');
  const until = Date.now() + DEADLINE;
  const wait = async (what: string, isTrue: () => boolean): Promise<void> => {
    while (!isTrue()) {
      if (Date.now() > until) throw new Error(`Node ${process.versions.node}: ${what} not seen`);
      await turn();
    }
  };
  const expect = (what: string, isTrue: boolean): void => {
    if (!isTrue) throw new Error(`Node ${process.versions.node}: ${what}`);
  };
  try {
    server.emit('listening'); // what sets up the list of its connections; it never listens
    const socket = adoptHttp(server, ours, false);
    expect('the descriptor of a socket is unknown', descriptorOf(socket) === ours);
    expect('a fresh connection cannot be told', verdict(tracker, server) === 'go');

    raw.send(client, Buffer.from('GET / HTTP/1.1\r\nHo'));
    await wait('half a request', () => socket.bytesRead > 0);
    await turn();
    expect('half a request is taken for none', verdict(tracker, server) === 'wait');
    raw.send(client, Buffer.from('st: a\r\n\r\n'));
    await wait('a request', () => responses.length === 1);
    expect('a request is taken for none', verdict(tracker, server) === 'wait');
    responses[0]?.end();
    await wait('the end of a response', () => verdict(tracker, server) === 'go');
    expect('an idle connection cannot be told', httpSockets(server, 'between')?.has(socket) === true);

    const received = read(client);
    const copy = dupOf(socket);
    socket.destroy();
    await turn();
    await turn();
    expect('a connection ends though a duplicate is open', received.startsWith('HTTP/1.1 200') && read(client) === '');
    adoptHttp(server, copy, true);
    raw.send(client, Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n'));
    await wait('a request of an adopted connection', () => responses.length === 2);
    responses[1]?.end();
    await wait('the response of an adopted connection', () => read(client).startsWith('HTTP/1.1 200'));
  } finally {
    observation[Symbol.dispose]();
    for (const { socket } of [...tracker.connections]) socket.destroy();
    raw.close(client);
    server.close(() => undefined); // it never listened: this ends its timer
  }
}

function verdict(tracker: ConnectionTracker, server: http.Server): string {
  const [connection] = tracker.connections;
  return connection === undefined ? 'gone' : verdictOf(connection, new Between(server));
}

/** What has come by now. */
function read(fd: number): string {
  const message = raw.receive(fd, 65_536);
  if (message?.bytes.length === 0)
    throw new Error(`Node ${process.versions.node}: a connection ended though a duplicate is open`);
  return message?.bytes.toString('latin1') ?? '';
}
