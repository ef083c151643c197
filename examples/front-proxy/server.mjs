// A web server without a port: a front process accepts, reads the first bytes, and passes each connection here with what it has read.
// From then on the client speaks to this process alone. As many fronts as you like connect to the path. SIGTERM stops it: another server
// that waits at the path by then gets what comes next, and no client notices.
//   SOCKET=/tmp/front.sock node examples/front-proxy/server.mjs
//   python3 examples/front-proxy/front.py /tmp/front.sock 8080
import http from 'node:http';
import { Channel, connectionsOf, drain } from 'fdpass';

// Without framing: one packet is one connection, the descriptor and the bytes, as any language sends it. Or FRAMING=fdpass: messages of
// the channel on a stream, for larger ones, and for systems without SOCK_SEQPACKET. front.c speaks both.
const { SOCKET = '@front', FRAMING = 'plain' } = process.env;
const type = FRAMING === 'plain' ? 'seqpacket' : 'stream';

const server = http.createServer((request, response) => response.end(`${process.pid} ${request.url}\n`));
server.emit('listening'); // nobody listens, but its timeouts (headersTimeout, requestTimeout) begin with this
connectionsOf(server); // they are followed from here on: drain() knows all of them

const fronts = await Channel.listen(SOCKET, { type, framing: FRAMING, mode: 0o600 });
const channels = new Map(); // and when all of each is read
process.once('SIGTERM', async () => {
  fronts.close(); // another server may take the path
  console.log(`${process.pid} stops`);
  for (const channel of channels.keys()) await channel.send('stop').catch(() => {}); // the front ends it: until then connections come
  setTimeout(() => channels.forEach((_, channel) => channel.close()), 5_000).unref(); // one that does not listen
  await Promise.all(channels.values());
  await drain(server);
  process.exit(0);
});
console.log(`waiting at ${fronts.path}, pid ${process.pid}`);
for await (const channel of fronts) channels.set(channel, serve(channel));

async function serve(channel) {
  try {
    for await (const message of channel) accept(message);
  } catch (error) {
    console.error(error.message);
  } finally {
    channels.delete(channel);
    channel.close();
  }
}

function accept(message) {
  try {
    const socket = message.fds[0].asSocket({ allowHalfOpen: true }); // as http's own sockets are
    socket.unshift(message.bytes); // what the front has read is read first here
    server.emit('connection', socket);
  } catch (error) {
    console.error(`not a connection: ${error.message}`); // the front has sent something else, or the client is gone again
  } finally {
    message.close(); // what was not taken
  }
}
