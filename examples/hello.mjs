// The smallest server: writes `hello` to whoever connects, and closes. Runs until Ctrl-C.
//   PORT=8080 node examples/hello.mjs
//   python3 examples/clients/loop.py 8080       (or: node examples/clients/loop.mjs 8080)
import net from 'node:net';
import { drainOn, listen, ready } from 'fdpass';

const server = net.createServer((socket) => {
  socket.on('error', () => {}); // a client that went away is no news
  socket.end('hello\n');
});

const listener = await listen({ name: 'hello', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']);
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
