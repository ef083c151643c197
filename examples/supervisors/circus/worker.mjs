// A worker of circus, or of any parent that names the number of the socket: node worker.mjs 5
import http from 'node:http';
import { drainOn, inheritListener, ready } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ fd: Number(process.argv[2]) });
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']); // stop accepting, drain, exit
const { generation } = await ready();
console.log(`listening on ${listener.port}, pid ${process.pid}, generation ${generation}`);
