// Stopping an HTTP server without losing a request, and why that alone is no restart: who comes in the gap is refused.
//   node examples/shutdown.mjs
// SLOW: how long the slow request takes, LIMIT: how long a stop may take; ms.
import http from 'node:http';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import { drain, listen, onConnectionState, ready } from 'fdpass';

const SLOW = Number(process.env.SLOW ?? 500);
const LIMIT = Number(process.env.LIMIT ?? 10_000);

const port = await stop();
console.log('restart by stop and listen:', await restart(port, { stays: false }));
console.log('the same, the listener stays:', await restart(port, { stays: true }));

/** No new connections, idle ones get a moment, requests are answered, and the limit ends what is left. */
async function stop() {
  const listener = await listen({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 0 });
  const server = createServer();
  listener.serve(server);
  await ready();
  const numbers = new Map();
  onConnectionState(server, (state, connection) => {
    if (!numbers.has(connection)) numbers.set(connection, numbers.size + 1);
    console.log(`connection ${numbers.get(connection)}: ${state}`);
  });

  const { port } = listener;
  const agent = new http.Agent({ keepAlive: true });
  const slow = get(port, '/slow', agent).catch((error) => error.code);
  await get(port, '/', agent); // answered; its connection stays open, idle

  console.log(`stopping, within ${LIMIT} ms`);
  listener.close();
  const { closedIdle, announced, forced } = await drain(server, { timeout: LIMIT, idleGrace: 200 });
  console.log('stopped:', { closedIdle, announced, forced }, 'the slow request:', await slow);
  return port;
}

/** Replaces a server that is at work by another one, while a client connects every 5 ms. Counts how the client fared. */
async function restart(port, { stays }) {
  let listener = await listen({ name: 'web', host: '127.0.0.1', port });
  const old = createServer();
  listener.serve(old);
  const slow = get(port, '/slow').catch(() => {}); // the old server is not gone before this is answered
  await get(port); // connected after the slow one, and answered: so that one is at work
  const attempts = [];
  const client = setInterval(() => attempts.push(outcomeOf(get(port))), 5);
  await delay(100);

  if (!stays) listener.close();
  await drain(old, { timeout: LIMIT });
  if (!stays) listener = await listen({ name: 'web', host: '127.0.0.1', port });
  const next = createServer();
  listener.serve(next);

  await delay(100);
  clearInterval(client);
  const counts = { answered: 0, refused: 0, reset: 0 };
  for (const outcome of await Promise.all(attempts)) counts[outcome]++;
  await slow;
  listener.close();
  await drain(next, { idleGrace: 0 });
  return counts;
}

function outcomeOf(request) {
  return request.then(
    () => 'answered',
    (error) => (error.code === 'ECONNREFUSED' ? 'refused' : 'reset'),
  );
}

function createServer() {
  return http.createServer(async (request, response) => {
    if (request.url === '/slow') await delay(SLOW, undefined, { ref: false });
    response.end('done');
  });
}

/** On a connection of its own, or one of the agent's. */
function get(port, path = '/', agent = false) {
  return new Promise((resolve, reject) => {
    http.get({ host: '127.0.0.1', port, path, agent }, (response) => resolve(text(response))).on('error', reject);
  });
}
