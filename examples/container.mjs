// Two processes without a common parent, as in two containers that share a volume: the new one takes over by a path on it, and the
// manager that stops the old one meanwhile does no harm. No signal starts anything; whoever deploys starts the new one beside the old.
//   PORT=8080 node examples/container.mjs /tmp/app/takeover.sock      the same command again takes over; mkdir -m 700 /tmp/app first
import http from 'node:http';
import { drainOn, inheritListener, offerTakeover, ready, takeover } from 'fdpass';

const path = process.argv[2] ?? '/tmp/app/takeover.sock';

const { from } = await takeover(path, { orElse: 'start', wait: 10_000 }); // first of all; from nobody where nobody offers

const server = http.createServer((request, response) => {
  const body = `${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});
const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']); // while a takeover runs: it goes on, for at most 5 s until the new one is ready
await offerTakeover(path); // to whoever comes next; drains and exits with 0 when it has taken over
const { generation, alone } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
console.log(`pid ${process.pid} comes from ${from}`);
await alone;
console.log(`pid ${process.pid} is alone`);
