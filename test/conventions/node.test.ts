/**
 * Node's own way to hand a listener over: `send(message, server)` between a parent and what it has forked, where one of the two knows nothing of
 * fdpass. Real processes. Source: the documentation of child_process, subprocess.send().
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { Listener, listen } from '../../lib/index.js';
import * as raw from '../../lib/raw.js';
import { get } from '../support/client.js';
import { startProcess, temporaryDirectory } from '../support/fixture.js';

const LIB = JSON.stringify(new URL('../../lib/index.js', import.meta.url).href);

/** Forks FILE, gives it its server, and closes its own. */
const STOCK_PARENT = `
  import { fork } from 'node:child_process';
  import net from 'node:net';
  const server = net.createServer((socket) => socket.end('parent')).listen(0, '127.0.0.1', () => {
    const child = fork(process.argv[2]);
    console.log('port ' + server.address().port);
    child.send('web', server, () => server.close(() => console.log('closed')));
    child.on('exit', () => process.exit(0));
  });
`;

const OURS = `
  import http from 'node:http';
  import { Listener, ready } from ${LIB};
  process.once('message', async (name, server) => {
    const listener = Listener.from(server, { name });
    server.close(); // it has accepted nothing yet
    listener.serve(http.createServer((request, response) => {
      response.end([listener.name, listener.origin, listener.port].join(' '));
      if (request.url === '/end') response.on('close', () => process.exit(0));
    }));
    await ready();
    console.log('serves');
  });
`;

test('a server that a parent without fdpass sends becomes a Listener, which outlives the server', async (t) => {
  const directory = temporaryDirectory(t);
  const [parent, child] = ['parent.mjs', 'child.mjs'].map((name) => path.join(directory, name));
  assert.ok(parent !== undefined && child !== undefined);
  fs.writeFileSync(parent, STOCK_PARENT);
  fs.writeFileSync(child, OURS);

  const family = startProcess(t, parent, { args: [child] });
  const { text } = await family.waitFor(/^port \d+$/, { from: 0 });
  const port = text.slice('port '.length);
  await family.waitFor('serves', { from: 0 });
  await family.waitFor('closed', { from: 0 });

  assert.equal(await get(`http://127.0.0.1:${port}/`), `web fd ${port}`);
  await get(`http://127.0.0.1:${port}/end`);
  assert.deepEqual(await family.exited, { code: 0, signal: null });
});

const STOCK_CHILD = `
  process.once('message', (message, server) => {
    server.on('connection', (socket) => socket.end('HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: 5\\r\\n\\r\\nchild'));
    process.send('accepts');
  });
`;

const GIVER = `
  import { fork } from 'node:child_process';
  import { once } from 'node:events';
  import http from 'node:http';
  import { listen, ready } from ${LIB};
  const listener = await listen({ host: '127.0.0.1', port: 0 });
  listener.serve(http.createServer((request, response) => response.end('parent')));
  await ready();
  console.log('port ' + listener.port);
  const child = fork(process.argv[2]);
  child.send('web', listener.servers[0]);
  await once(child, 'message');
  listener.close();
  console.log('closed');
`;

test('a child without fdpass takes a server that a Listener serves, and accepts when the Listener is closed', async (t) => {
  const directory = temporaryDirectory(t);
  const [giver, child] = ['giver.mjs', 'child.cjs'].map((name) => path.join(directory, name));
  assert.ok(giver !== undefined && child !== undefined);
  fs.writeFileSync(giver, GIVER);
  fs.writeFileSync(child, STOCK_CHILD);

  const family = startProcess(t, giver, { args: [child] });
  const { text } = await family.waitFor(/^port \d+$/, { from: 0 });
  await family.waitFor('closed', { from: 0 });

  assert.equal(await get(`http://127.0.0.1:${text.slice('port '.length)}/`), 'child');
});

test('Listener.from a server is a duplicate: each is closed by itself, and nothing stays open', async () => {
  const server = http.createServer((_request, response) => response.end('server')).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const before = raw.openDescriptors().map(({ target }) => target);

  const listener = Listener.from(server, { name: 'web' });

  assert.deepEqual([listener.name, listener.port, listener.origin], ['web', port, 'fd']);
  assert.equal(raw.getCloseOnExec(listener.fd), true);
  listener.close();
  assert.deepEqual(
    raw.openDescriptors().map(({ target }) => target),
    before,
  );
  assert.equal(await get(`http://127.0.0.1:${port}/`), 'server');
  server.close();
});

test('Listener.from a server that does not listen, or no longer, is refused', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const closed = net.createServer();
  web.serve(closed);
  closed.close();

  for (const server of [net.createServer(), closed]) {
    assert.throws(() => Listener.from(server), { code: 'ERR_FDPASS_TYPE', message: /does not listen/ });
  }
});
