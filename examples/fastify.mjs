// Fastify: it makes a server of its own, so give that one to the listener, once its plugins and onReady hooks are through.
// Its onListen hooks do not run: it never listens by itself.
//   PORT=8080 node examples/fastify.mjs
import Fastify from 'fastify';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const app = Fastify();
app.get('/', () => `${process.pid}\n`);

await app.ready(); // instead of app.listen()
const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(app.server);
const beforeExit = () => app.close(); // its onClose hooks, once the connections are drained
restartOn('SIGUSR2', undefined, { beforeExit });
drainOn(['SIGTERM', 'SIGINT'], undefined, { beforeExit });
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
