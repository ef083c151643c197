// A worker of pool.mjs: serves what comes over its channel, connections or a listener, until the channel ends; then it answers what it has
// begun, and exits.
import http from 'node:http';
import { Channel, connectionsOf, drain } from 'fdpass';

const server = http.createServer((request, response) => {
  const body = `${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});
server.emit('listening'); // it may never listen, but its timeouts (headersTimeout, requestTimeout) begin with this
connectionsOf(server); // they are followed from here on: drain() knows those too that were accepted elsewhere

process.on('SIGINT', () => {}); // Ctrl-C is for the whole group; the pool says when
const channel = Channel.from(3);
await channel.send('ready');
for await (const message of channel) {
  const [descriptor] = message.fds;
  if (message.bytes.toString() === 'listener') {
    await descriptor.asServer(server);
  } else {
    server.emit('connection', descriptor.asSocket({ allowHalfOpen: true }));
  }
}
await drain(server);
process.exit(0);
