// From a listener to its descriptor and back to a listener, in one process: both accept, from the same queue.
//   node examples/refile.mjs
import net from 'node:net';
import { listen, Listener, ready } from 'fdpass';
import { ask, askUntilAll } from './clients/ask.mjs';

const first = await listen({ name: 'first', host: '127.0.0.1', port: process.env.PORT ?? 0 });
const second = Listener.from(first.dup(), { name: 'second' });
console.log(`first: descriptor ${first.fd}, second: descriptor ${second.fd}, both on port ${second.port}`);

for (const listener of [first, second]) {
  listener.serve(net.createServer((socket) => socket.end(`${listener.name}\n`)));
}
await ready();
const { port } = second;
console.log('connections:', await askUntilAll(port, ['first', 'second']));

first.close(); // only its own descriptor: the other accepts on
console.log(`after first.close(): ${await ask(port)}`);
second.close();
