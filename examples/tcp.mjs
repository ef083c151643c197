// A TCP server that writes `hello` and its pid, and closes. It restarts without its clients noticing: kill -USR2 the newest process.
//   PORT=8080 node examples/tcp.mjs
import net from 'node:net';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const server = net.createServer((socket) => {
  socket.on('error', () => {}); // a client that went away is no news
  socket.end(`hello ${process.pid}\n`);
});

const listener = await inheritListener({ name: 'hello', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
restartOn('SIGUSR2');
drainOn(['SIGTERM', 'SIGINT']);
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
