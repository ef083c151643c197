// A worker of PM2's cluster mode: the primary owns the socket and starts the next worker; `pm2 reload` sends SIGINT to the old one.
import { once } from 'node:events';
import http from 'node:http';
import { drainOn } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
server.listen(8080);
drainOn(['SIGINT', 'SIGTERM'], server); // stop accepting, drain, exit
await once(server, 'listening');
process.send?.('ready');
