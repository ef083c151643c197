// A server that systemd ends and starts anew when its event loop no longer turns.
import http from 'node:http';
import { drainOn, inheritListener, notify, ready, restartOn } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', port: 8080 });
listener.serve(server);
restartOn('SIGUSR2');
drainOn(['SIGTERM', 'SIGINT']);
const { generation } = await ready();
notify.watchdog.start(); // beats at half of WatchdogSec, as long as the event loop turns; a successor beats in its place
console.log(`listening on :${listener.port}, pid ${process.pid}, generation ${generation}`);
