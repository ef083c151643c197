// A Node server in the place of the program that nginx, gunicorn, unicorn or tableflip would start at an upgrade: it takes their sockets
// in their own format. These are looked for only where they are named.
import http from 'node:http';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({
  name: 'web',
  host: '127.0.0.1',
  port: 8080,
  convention: ['nginx', 'gunicorn', 'unicorn', 'tableflip'],
});
listener.serve(server);
restartOn('SIGUSR2');
drainOn(['SIGTERM', 'SIGINT', 'SIGQUIT']);
const { generation } = await ready();
console.log(`listening on ${listener.port}, pid ${process.pid}, generation ${generation}`);
