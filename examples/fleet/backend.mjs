// One backend of a fleet: its answers, its health, and the word of its agent for haproxy's agent-check.
import http from 'node:http';
import net from 'node:net';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const { PORT = '8081', AGENT_PORT = '9081' } = process.env;
let leaving = false;

const server = http.createServer((request, response) => {
  if (request.url === '/ready') response.statusCode = leaving ? 503 : 200;
  response.end(`${process.pid}\n`);
});
const agent = net.createServer((socket) => {
  socket.on('error', () => {}); // a checker that went away is no news
  socket.end(leaving ? 'drain\n' : 'up ready\n');
});

const web = await inheritListener({ name: 'web', host: '127.0.0.1', port: Number(PORT) });
web.serve(server);
const word = await inheritListener({ name: 'agent', host: '127.0.0.1', port: Number(AGENT_PORT) });
word.serve(agent);
restartOn('SIGUSR2', server); // a restart on this machine: the fleet need not know
process.on('SIGUSR1', () => (leaving = true)); // about to stop: whoever balances the load hears it first
drainOn(['SIGTERM', 'SIGINT'], server);
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${web.port}, pid ${process.pid}, generation ${generation}`);
