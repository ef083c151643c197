// Server-Sent Events that go on through restarts: the endless response moves to the next process, and its client misses nothing.
//   PORT=8080 node examples/events.mjs       then: curl -N http://127.0.0.1:8080/
import http from 'node:http';
import { drainOn, inheritListener, moveResponses, ready, restartOn } from 'fdpass';

const PERIOD = 100; // ms
const streams = new Map(); // by response: the number of the next event, and the timer

const server = http.createServer((request, response) => {
  response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store' });
  moving.add(response);
  const last = Number(request.headers['last-event-id'] ?? 0); // from a client that comes again after a cut
  start(response, { next: last + 1 });
});

const moving = moveResponses(server, {
  pause: (response) => {
    const { next } = streams.get(response);
    stop(response);
    return { next };
  },
  adopt: start,
});

function start(response, { next }) {
  const tick = () => response.write(`id: ${stream.next++}\ndata: process ${process.pid}\n\n`);
  const stream = { next, timer: setInterval(tick, PERIOD) };
  streams.set(response, stream);
  response.on('close', () => stop(response));
}

function stop(response) {
  clearInterval(streams.get(response)?.timer);
  streams.delete(response);
}

const listener = await inheritListener({ name: 'events', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
restartOn('SIGUSR2');
drainOn(['SIGTERM', 'SIGINT'], server, { timeout: 1000 });
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
