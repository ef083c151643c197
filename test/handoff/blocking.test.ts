/**
 * Listeners for programs that accept without expecting EAGAIN: why a handoff cannot make them blocking, and the way there is. O_NONBLOCK is of
 * the open file description, which both processes share. Real processes. Source: fcntl(2), accept(2).
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import readline from 'node:readline';
import { test, type TestContext } from 'node:test';

import { type Child, listen, type Listener, spawn } from '../../lib/index.js';
import { programOf } from '../support/handed.js';
import { skipWithoutPython } from '../notify/support.js';

/** A client, and the first that it hears. */
function connect(t: TestContext, listener: Listener): Promise<string> {
  const client = net.connect({ host: '127.0.0.1', port: listener.port ?? 0 });
  t.after(() => client.destroy());
  client.setTimeout(10_000, () => client.destroy(new Error('no answer within 10 s')));
  return once(client, 'data').then(([data]) => String(data));
}

function start(t: TestContext, code: string, fds: Listener[]): { child: Child; lines: AsyncIterableIterator<string> } {
  const child = spawn(process.execPath, programOf(code), {
    fds,
    convention: 'systemd',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  assert.ok(child.stdout);
  return { child, lines: readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]() };
}

async function next(lines: AsyncIterableIterator<string>): Promise<unknown> {
  const line = await lines.next();
  return JSON.parse(String(line.value));
}

test('who accepts from a blocking listener that another one accepts from too stands still until the next client comes', async (t) => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  // Two accept loops, as an old process and its successor have them: both are woken by one client, and one of them finds nobody.
  const { lines } = start(
    t,
    `const net = await import('node:net');
     const listener = await inheritListener();
     let clients = 0;
     let turned = () => undefined;
     const over = new Promise((resolve) => (turned = resolve));
     for (let index = 0; index < 2; index++) {
       listener.serve(net.createServer((socket) => {
         socket.end('served');
         print(++clients);
         if (clients === 1) setImmediate(() => { print('the event loop turns'); turned(); });
       }));
     }
     await ready();
     raw.setNonBlocking(listener.fd, false);
     print('ready');
     await over;`,
    [web],
  );
  assert.equal(await next(lines), 'ready');

  assert.equal(await connect(t, web), 'served');
  const second = connect(t, web);

  // Not in between: it was in accept(2).
  assert.deepEqual([await next(lines), await next(lines), await next(lines)], [1, 2, 'the event loop turns']);
  assert.equal(await second, 'served');
});

/** Accepts as a program does that knows of no other: waits in accept(2), and ends at EAGAIN. */
const BLOCKING = `
import socket
listener = socket.socket(fileno=3)
for _ in range(2):
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b'served by Python')
`;

/** A server that gives its listener away on SIGUSR2, without a moment in which both accept. */
const GIVE = (file: string, ...args: string[]): string => `
  const net = await import('node:net');
  const { once } = await import('node:events');
  const listener = await inheritListener('web');
  const server = net.createServer((socket) => socket.end('served by Node'));
  listener.serve(server);
  const asked = once(process, 'SIGUSR2');
  await ready();
  print('ready');
  await asked;
  listener.pause(); // who connects from here on waits in the queue
  const child = fdpass.spawn(${JSON.stringify(file)}, ${JSON.stringify(args)}, { fds: [listener], convention: 'systemd', blocking: true });
  print({ nonBlocking: raw.getNonBlocking(listener.fd) });
  const { exitCode } = await child.exited;
  print({ exitCode });
  if (exitCode !== 0) {
    const served = once(server, 'connection');
    await listener.resume();
    print({ nonBlocking: raw.getNonBlocking(listener.fd) });
    const [socket] = await served;
    await once(socket, 'close');
  }
`;

test(
  'pause, spawn with blocking, and close: a program that waits in accept(2) goes on, and who came meanwhile is served',
  { skip: skipWithoutPython },
  async (t) => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
    const { child, lines } = start(t, GIVE('python3', '-c', BLOCKING), [web]);
    assert.equal(await next(lines), 'ready');
    assert.equal(await connect(t, web), 'served by Node');

    child.kill('SIGUSR2');
    assert.deepEqual(await next(lines), { nonBlocking: false });

    assert.equal(await connect(t, web), 'served by Python');
    assert.equal(await connect(t, web), 'served by Python');
    assert.deepEqual(await next(lines), { exitCode: 0 });
  },
);

test('where that program fails, resume() takes the listener back, and makes it non-blocking again', async (t) => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const { child, lines } = start(t, GIVE('sh', '-c', 'exit 3'), [web]);
  assert.equal(await next(lines), 'ready');

  child.kill('SIGUSR2');
  assert.deepEqual(await next(lines), { nonBlocking: false });
  const waiting = connect(t, web);

  assert.deepEqual(await next(lines), { exitCode: 3 });
  assert.deepEqual(await next(lines), { nonBlocking: true });
  assert.equal(await waiting, 'served by Node');
});
