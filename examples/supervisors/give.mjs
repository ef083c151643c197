// On SIGUSR2 its listener goes to another program, in whatever way that one takes it; this process drains, and exits.
//   PORT=8080 CONVENTION=nginx READINESS=300 node give.mjs nginx -p . -c nginx.conf
// CONVENTION: how the program learns of the socket. READINESS: how it is known that it serves: notify, connection, convention, or ms.
import http from 'node:http';
import { drain, drainOn, handoff, inheritListener, ready } from 'fdpass';

const [program, ...args] = process.argv.slice(2);
/** @type {any} */
const { CONVENTION: convention, READINESS = 'connection', PORT = '8080' } = process.env;
const readiness = Number(READINESS) > 0 ? { after: Number(READINESS) } : READINESS;

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: Number(PORT) });
listener.serve(server);
process.on('SIGUSR2', async () => {
  try {
    const { pid } = await handoff({ command: [program, ...args], convention, readiness });
    console.log(`${program} has taken over, pid ${pid}`);
    await drain(server);
    process.exit(0);
  } catch (error) {
    console.error(error.message); // nothing has changed: this process goes on
  }
});
drainOn(['SIGTERM', 'SIGINT']);
const { generation } = await ready();
console.log(`listening on ${listener.port}, pid ${process.pid}, generation ${generation}`);
