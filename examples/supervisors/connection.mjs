// A program for one connection: of a socket unit with Accept=yes, of inetd's nowait, of socat. It lives as long as its connection.
import http from 'node:http';
import { inheritConnection } from 'fdpass';

const socket = inheritConnection({ convention: ['systemd', 'stdin'] }); // as LISTEN_FDS says, else descriptor 0
const server = http.createServer((request, response) => {
  response.setHeader('Connection', 'close');
  response.end(`${process.pid}\n`);
});
server.emit('connection', socket);
