// A server that restarts itself by handoff, for a supervisor that follows a changing pid, or for none: a terminal.
import http from 'node:http';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', port: 8080 }); // the supervisor's, or bound here
listener.serve(server);
restartOn('SIGUSR2'); // start the next generation, hand over, drain, exit
drainOn(['SIGTERM', 'SIGINT']); // stop: drain, exit
const { generation } = await ready(); // from here on it accepts, and whoever waits for its start is told
console.log(`listening on :${listener.port}, pid ${process.pid}, generation ${generation}`);
