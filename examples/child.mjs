// The listener goes to a child, as its descriptor 3; the child is this same program, started with --graceful.
//   node examples/child.mjs
import net from 'node:net';
import { drainOn, listen, Listener, ready, spawn } from 'fdpass';
import { ask } from './clients/ask.mjs';

const graceful = process.argv.includes('--graceful');
const listener = graceful
  ? Listener.from(3)
  : await listen({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 0 });

const who = `${graceful ? 'child' : 'parent'} ${process.pid}`;
listener.serve(net.createServer((socket) => socket.end(`hello from ${who}\n`)));
drainOn('SIGTERM');
await ready();
console.log(`${who} listens on descriptor ${listener.fd}`);

if (!graceful) {
  const { port } = listener;
  console.log(await ask(port));

  const child = spawn(process.execPath, [import.meta.filename, '--graceful'], { fds: [listener] });
  listener.close(); // the child has its own: whoever connects before it accepts waits in the queue of the socket
  try {
    console.log(await ask(port));
  } finally {
    child.kill('SIGTERM');
    const { exitCode } = await child.exited;
    console.log(`child ${child.pid} has ended, code ${exitCode}`);
  }
}
