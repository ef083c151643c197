// A second listen on the same address: an error that says what and where. The first listener does not notice.
//   node examples/twice.mjs
import net from 'node:net';
import { listen, ready } from 'fdpass';
import { ask } from './clients/ask.mjs';

const listener = await listen({ name: 'first', host: '127.0.0.1', port: process.env.PORT ?? 0 });
const server = net.createServer((socket) => socket.end('hello from the first\n'));
listener.serve(server);
await ready();

try {
  await listen({ name: 'second', host: '127.0.0.1', port: listener.port });
} catch (error) {
  console.log(error.message);
  console.log(`code ${error.code}, address ${error.address}:${error.port}`);
}
console.log(await ask(listener.port));

listener.close();
