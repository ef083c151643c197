// An HTTP server that restarts without its clients noticing: kill -USR2 the newest process.
//   PORT=8080 node examples/http.mjs
import http from 'node:http';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const server = http.createServer((request, response) => {
  const body = `${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});

const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
restartOn('SIGUSR2'); // start the next generation, hand over, drain, exit
drainOn(['SIGTERM', 'SIGINT']); // stop: drain, exit
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
