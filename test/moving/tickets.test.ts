import assert from 'node:assert/strict';
import { once } from 'node:events';
import https from 'node:https';
import { test } from 'node:test';
import tls from 'node:tls';

import { offerTickets, takeTickets } from '../../lib/handoff/tickets.js';
import { listen, type Listener, startAccepting } from '../../lib/listener.js';
import { certificate } from '../support/certificate.js';
import type { Scope } from '../support/fixture.js';

async function served(
  t: Scope,
  options: https.ServerOptions = {},
): Promise<{ listener: Listener; server: https.Server }> {
  await startAccepting();
  const listener = await listen({ name: 'secure', host: '127.0.0.1', port: 0 });
  const server = https.createServer({ ...certificate, ...options }, (_request, response) => response.end('served'));
  server.on('secureConnection', (socket: tls.TLSSocket) => socket.on('error', () => undefined));
  listener.serve(server);
  if (!server.listening) await once(server, 'listening');
  t.after(() => {
    listener.close();
    server.closeAllConnections();
  });
  return { listener, server };
}

type Version = 'TLSv1.2' | 'TLSv1.3';

/** One request; the session that the client could resume. */
async function visit(
  listener: Listener,
  version: Version,
  session?: Buffer,
): Promise<{ session: Buffer; resumed: boolean }> {
  const options: tls.ConnectionOptions = { port: listener.port, host: '127.0.0.1', rejectUnauthorized: false };
  const socket = tls.connect({
    ...options,
    minVersion: version,
    maxVersion: version,
    ...(session === undefined ? {} : { session }),
  });
  const ticket = once(socket, 'session') as Promise<[Buffer]>;
  ticket.catch(() => undefined);
  await once(socket, 'secureConnect');
  const resumed = socket.isSessionReused();
  socket.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  socket.resume();
  const given = resumed ? (session ?? Buffer.alloc(0)) : (await ticket)[0]; // a resumed session may bring no other
  socket.destroy();
  return { session: given, resumed };
}

for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
  test(`${version}: a client of the old server resumes at the new one, which has its keys, and at no other`, async (t) => {
    const old = await served(t);
    const fresh = await served(t);
    const other = await served(t);
    const { session } = await visit(old.listener, version);
    assert.equal((await visit(old.listener, version, session)).resumed, true);

    const tickets = offerTickets([old.listener]).map((ticket) => ({
      ...ticket,
      address: `127.0.0.1:${fresh.listener.port}`,
    }));
    takeTickets(JSON.parse(JSON.stringify(tickets)) as typeof tickets, [fresh.listener]);

    assert.equal((await visit(fresh.listener, version, session)).resumed, true);
    assert.equal((await visit(other.listener, version, session)).resumed, false);
  });
}

test('a server with ticketKeys of its own keeps them; one of plain TCP is passed over; garbage is not set', async (t) => {
  const own = Buffer.alloc(48, 7);
  const { listener, server } = await served(t, { ticketKeys: own });
  const plain = await served(t);
  const before = plain.server.getTicketKeys();
  const [ticket] = offerTickets([plain.listener]);
  assert.ok(ticket);

  takeTickets([{ ...ticket, keys: Buffer.alloc(48, 1).toString('base64') }], [listener]);
  takeTickets([{ ...ticket, keys: 'short' }], [plain.listener]);

  assert.deepEqual(server.getTicketKeys(), own);
  assert.deepEqual(plain.server.getTicketKeys(), before);
});

test('another session context is warned of: the keys alone resume nothing', async (t) => {
  const old = await served(t, { sessionIdContext: 'one' });
  const fresh = await served(t, { sessionIdContext: 'two' });
  const warning = once(process, 'warning') as Promise<[Error & { code: string }]>;

  takeTickets(offerTickets([old.listener]), [fresh.listener]);

  const [{ code, message }] = await warning;
  assert.equal(code, 'FDPASS_SESSION_CONTEXT');
  assert.match(message, /sessionIdContext/);
});
