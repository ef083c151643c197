// A server whose listeners a haproxy that starts can take: `haproxy -x /run/web/offer.sock -f haproxy.cfg`. Then stop this one.
import http from 'node:http';
import { drainOn, inheritListener, ready, serveHaproxy } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: 8080 });
listener.serve(server);
const offer = await serveHaproxy('/run/web/offer.sock', [listener]);
drainOn(['SIGTERM', 'SIGINT'], undefined, { beforeExit: () => offer.close() });
await ready();
console.log(`listening on ${listener.port}, pid ${process.pid}, generation 1`);
