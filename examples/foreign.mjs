// A successor in another language: on SIGUSR2 the listener goes to the program that was named, as LISTEN_FDS says (fd 3).
//   PORT=8080 node examples/foreign.mjs python3 examples/successor.py
//   cc -o build/successor examples/successor.c && PORT=8080 node examples/foreign.mjs build/successor
// READINESS: how it is known that the program serves: notify (it says READY=1), connection (its first one), or a number of ms.
import http from 'node:http';
import { drain, drainOn, handoff, inheritListener, ready } from 'fdpass';

const command = process.argv.slice(2);
const { READINESS = 'notify' } = process.env;
const readiness = Number(READINESS) > 0 ? { after: Number(READINESS) } : READINESS;

const server = http.createServer((request, response) => {
  const body = `${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});

const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);

process.on('SIGUSR2', async () => {
  try {
    const { pid } = await handoff({ command, readiness });
    console.log(`${command.join(' ')} has taken over, pid ${pid}`);
    await drain(server);
    process.exit(0);
  } catch (error) {
    console.error(error.message); // nothing has changed: this process goes on
  }
});
drainOn(['SIGTERM', 'SIGINT']);
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
