// A server whose supervisor holds the socket and starts the next process itself: this one only has to leave well.
import http from 'node:http';
import { drainOn, inheritListener, ready } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener(); // the one that was handed down, whatever its name
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT', 'SIGUSR2']); // stop accepting, drain, exit; SIGUSR2 is einhorn's word for it
const { generation } = await ready(); // from here on it accepts, and whoever waits for its start is told
console.log(`listening on ${listener.port ?? listener.name}, pid ${process.pid}, generation ${generation}`);
