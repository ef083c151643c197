// Takes the listeners of a running haproxy, as `haproxy -x` would: both accept then, until haproxy is told to stop (SIGUSR1).
import http from 'node:http';
import { drainOn, ready, takeFromHaproxy } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
for (const { listener } of await takeFromHaproxy('/run/haproxy/stats.sock')) {
  if (listener.port === 8080) listener.serve(server);
  else listener.close(); // haproxy's own stats socket is among them
}
drainOn(['SIGTERM', 'SIGINT']);
await ready();
console.log(`listening on 8080, pid ${process.pid}, generation 1`);
