// One listening socket, two accept loops: two servers in one thread, then one of them in a worker thread. Both get connections.
//   node examples/shared.mjs
import { once } from 'node:events';
import net from 'node:net';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { listen, Listener, ready } from 'fdpass';
import { askUntilAll } from './clients/ask.mjs';

/** A server that says its name. */
function named(name) {
  return net.createServer((socket) => socket.end(`${name}\n`));
}

if (isMainThread) {
  const listener = await listen({ name: 'shared', host: '127.0.0.1', port: process.env.PORT ?? 0 });
  const server1 = named('server1');
  const server2 = named('server2');
  listener.serve(server1).serve(server2);
  await ready();
  console.log('in one thread:', await askUntilAll(listener.port, ['server1', 'server2']));

  server2.close();
  const worker = new Worker(new URL(import.meta.url), { workerData: listener.dup() }); // the duplicate is the worker's
  await once(worker, 'message');
  console.log('in two threads:', await askUntilAll(listener.port, ['server1', 'server2']));

  worker.postMessage('stop');
  listener.close();
} else {
  const listener = Listener.from(workerData);
  const server2 = named('server2');
  listener.serve(server2);
  await once(server2, 'listening');
  parentPort.once('message', () => listener.close());
  parentPort.postMessage('listening');
}
