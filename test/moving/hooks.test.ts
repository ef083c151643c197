import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { test } from 'node:test';
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises';

import { connectionsOf } from '../../lib/connections.js';
import { moveConnections, type MovingHooks } from '../../lib/moving/hooks.js';
import { Connection } from '../support/client.js';
import { Pair, type Side } from './pair.js';

const LONG = 60_000;

interface State {
  count: number;
  rest: string;
}

/** Answers each line with the side, a counter that the connection keeps, and the line. */
class Lines {
  readonly states: WeakMap<net.Socket, State> = new WeakMap();
  readonly stays: string[] = [];

  speak(side: Side, socket: net.Socket, state: State): void {
    this.states.set(socket, state);
    socket.on('error', () => undefined);
    socket.on('data', (chunk: Buffer) => {
      state.rest += chunk.toString('latin1');
      for (let end = state.rest.indexOf('\n'); end >= 0; end = state.rest.indexOf('\n')) {
        socket.write(`${side} ${state.count++} ${state.rest.slice(0, end)}\n`);
        state.rest = state.rest.slice(end + 1);
      }
    });
  }

  hooks(side: Side, more: Partial<MovingHooks<State>> = {}): MovingHooks<State> {
    return {
      pause: (socket) => this.states.get(socket) ?? { count: -1, rest: '' },
      adopt: (socket, state) => this.speak(side, socket, state),
      stay: (_socket, reason) => this.stays.push(reason),
      ...more,
    };
  }

  make(more: Partial<MovingHooks<State>> = {}, sides: readonly Side[] = ['old', 'new']): (side: Side) => net.Server {
    return (side) => {
      const server = net.createServer((socket) => this.speak(side, socket, { count: 0, rest: '' }));
      if (sides.includes(side)) moveConnections(server, 'lines', this.hooks(side, more));
      return server;
    };
  }
}

async function talk(client: Connection, text: string, count = text.split('\n').length - 1): Promise<string[]> {
  client.write(text);
  const end = Date.now() + 5_000;
  while (client.received.toString().split('\n').length - 1 < count) {
    assert.ok(Date.now() < end, `only ${client.received.toString()}`);
    await turn();
  }
  const lines = client.received.toString().trimEnd().split('\n');
  client.received = Buffer.alloc(0);
  return lines;
}

async function accepted(pair: Pair): Promise<Connection> {
  const connection = once(pair.old, 'connection');
  const client = await Connection.open({ port: pair.port });
  await connection;
  return client;
}

test('raw TCP: the state travels, half a line too, and the successor goes on counting', async (t) => {
  const pair = await Pair.start(t, new Lines().make());
  using client = await accepted(pair);
  assert.deepEqual(await talk(client, 'a\nb\nhal'), ['old 0 a', 'old 1 b']);

  pair.receive();
  const { moved, refusedToMove } = await pair.move();

  assert.deepEqual(await talk(client, 'f\nc\n'), ['new 2 half', 'new 3 c']);
  assert.deepEqual({ moved, refusedToMove }, { moved: 1, refusedToMove: {} });
  assert.equal(connectionsOf(pair.fresh)[0]?.state, 'active');
  assert.equal(client.ending, undefined);
});

test('bytes that the stream has read and the application has not travel along, before those in the kernel', async (t) => {
  const make = (side: Side): net.Server => {
    const server = net.createServer((socket) => void socket.on('error', () => undefined)); // reads nothing by itself
    moveConnections(server, 'silent', {
      pause: () => undefined,
      adopt: (socket) => void socket.on('data', (chunk) => socket.write(`${side}:${chunk.toString()}`)),
    });
    return server;
  };
  const pair = await Pair.start(t, make);
  using client = await accepted(pair);
  client.write('first ');
  const [connection] = pair.connections;
  while ((connection?.socket.readableLength ?? 0) < 6) await turn();

  pair.receive();
  const report = pair.move();
  client.write('second ');
  await report;
  client.write('third');
  while (!client.received.includes('third')) await once(client.socket, 'data');

  assert.equal(client.received.toString().replaceAll('new:', ''), 'first second third');
});

test('busy is asked again; cannot, setEncoding and too much state stay, are told, and counted', async (t) => {
  const lines = new Lines();
  let isBusy = true;
  const cannot: net.Socket[] = [];
  const pair = await Pair.start(
    t,
    lines.make({
      busy: () => (isBusy ? 'in a transaction' : ''),
      cannot: (socket) => (cannot.includes(socket) ? 'by its own word' : undefined),
    }),
  );
  const clients: Connection[] = [];
  for (let i = 0; i < 4; i++) clients.push(await accepted(pair));
  for (const client of clients) await talk(client, 'a\n');
  const sockets = pair.connections.map(({ socket }) => socket);
  assert.ok(sockets[1] && sockets[2] && sockets[3]);
  cannot.push(sockets[1]);
  sockets[2].setEncoding('utf8');
  const state = lines.states.get(sockets[3]);
  assert.ok(state);
  state.rest = 'x'.repeat(300_000);

  pair.receive();
  const report = pair.move({ timeout: 400 });
  await delay(50);
  assert.equal(connectionsOf(pair.old).length, 4);
  isBusy = false;
  assert.deepEqual(await talk(clients[0] as Connection, 'b\n'), ['old 1 b']);
  while (pair.connections.length > 3) await turn();

  assert.deepEqual(await talk(clients[0] as Connection, 'c\n'), ['new 2 c']);
  assert.match((await talk(clients[3] as Connection, 'y\n'))[0] ?? '', /^old 1 x+y$/); // it goes on as if nothing had been
  const { moved, forced, refusedToMove } = await report;
  assert.deepEqual({ moved, forced }, { moved: 1, forced: 3 });
  assert.deepEqual(refusedToMove, { 'by its own word': 1, setEncoding: 1, 'more state than can travel': 1 });
  assert.deepEqual(lines.stays.sort(), ['by its own word', 'more state than can travel', 'setEncoding']);
  for (const client of clients) client.close();
});

test('a successor without these hooks refuses: the state comes back with the connection, and it is served here', async (t) => {
  const lines = new Lines();
  const pair = await Pair.start(t, lines.make({}, ['old']));
  using client = await accepted(pair);
  await talk(client, 'a\nhal');

  pair.receive();
  const report = pair.move({ timeout: LONG });
  while (lines.stays.length === 0) await turn();

  assert.deepEqual(lines.stays, ['refused by the successor']);
  assert.deepEqual(await talk(client, 'f\n'), ['old 1 half']);
  client.close();
  const { finished, refusedToMove } = await report;
  assert.deepEqual({ finished, refusedToMove }, { finished: 1, refusedToMove: { 'refused by the successor': 1 } });
});

test('hooks that throw: pause() leaves the connection here, adopt() ends it; others go on', async (t) => {
  const warnings: string[] = [];
  const onWarning = (warning: Error): void => void warnings.push(warning.message.split('\n')[0] ?? '');
  process.on('warning', onWarning);
  t.after(() => process.off('warning', onWarning));
  const throwsIn = { pause: true, adopt: false };
  const lines = new Lines();
  const make = (side: Side): net.Server => {
    const server = net.createServer((socket) => lines.speak(side, socket, { count: 0, rest: '' }));
    moveConnections(server, 'lines', {
      ...lines.hooks(side),
      pause: (socket) => {
        if (throwsIn.pause) throw new Error('in pause');
        return lines.hooks(side).pause(socket);
      },
      adopt: (socket, state) => {
        if (throwsIn.adopt) throw new Error('in adopt');
        lines.speak(side, socket, state);
      },
    });
    return server;
  };
  const pair = await Pair.start(t, make);
  using first = await accepted(pair);
  await talk(first, 'a\n');
  pair.receive();
  const report = pair.move({ timeout: 500 });
  while (lines.stays.length === 0) await turn();
  assert.deepEqual(await talk(first, 'b\n'), ['old 1 b']);
  first.close();

  const { refusedToMove, finished } = await report;

  assert.deepEqual({ refusedToMove, finished }, { refusedToMove: { 'its hooks threw': 1 }, finished: 1 });
  assert.match(warnings.join(), /pause\(\) of the hooks "lines" failed: Error: in pause/);
});

test('arguments: what is no server, no name or no hooks is a TypeError; a name is there once, until it is disposed of', () => {
  const server = net.createServer();
  const hooks: MovingHooks = { pause: () => undefined, adopt: () => undefined };

  assert.throws(() => Reflect.apply(moveConnections, undefined, [{}, 'a', hooks]), {
    code: 'ERR_INVALID_ARG_TYPE',
    message: /server/,
  });
  assert.throws(() => moveConnections(server, '', hooks), { code: 'ERR_INVALID_ARG_TYPE', message: /name/ });
  assert.throws(() => Reflect.apply(moveConnections, undefined, [server, 'a', { pause: () => undefined }]), {
    message: /hooks\.adopt/,
  });
  const registration = moveConnections(server, 'a', hooks);
  assert.throws(() => moveConnections(server, 'a', hooks), { code: 'ERR_INVALID_ARG_VALUE' });
  registration[Symbol.dispose]();
  moveConnections(server, 'a', hooks);
});
