// A server in a container of its own: ready when it accepts, gone when it has drained. The next release is another container.
import http from 'node:http';
import { drainOn, inheritListener, ready } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', port: 8080 });
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']); // stop accepting, drain, exit 0
const { generation } = await ready(); // until now the readiness probe was refused
console.log(`listening on :${listener.port}, pid ${process.pid}, generation ${generation}`);
