// Holds a socket for a program that wants it blocking, and accepts nothing itself. SIGUSR2 starts the program anew: the next one first,
// then the old one is told to finish and leave. Where the program ends by itself, so does this one.
//   PORT=9000 CONVENTION=fpm STOP=SIGQUIT READINESS=notify node hold.mjs php-fpm8.2 -F -y php-fpm.conf
// CONVENTION: how the program learns of the socket. READINESS: how it is known that it serves: notify, or a time in ms.
import { setTimeout as delay } from 'node:timers/promises';
import { inheritListener, Notifications, ready, spawn } from 'fdpass';

const [program, ...args] = process.argv.slice(2);
/** @type {any} */
const { CONVENTION: convention, STOP: stop = 'SIGTERM', READINESS: readiness = '300', PORT = '8080' } = process.env;
const listener = await inheritListener({ name: 'held', host: '127.0.0.1', port: Number(PORT) });

const running = new Set();
let stopping = false;

async function start() {
  const notifications = new Notifications();
  const variables = readiness === 'notify' ? notifications.env() : {};
  let child;
  try {
    child = spawn(program, args, { fds: [listener], convention, blocking: true, variables });
    running.add(child);
    void child.exited.then(({ exitCode, signal }) => {
      running.delete(child);
      if (!stopping) console.error(`${program}, pid ${child.pid}, has ended: ${signal ?? exitCode}`);
      if (running.size === 0) process.exit(stopping ? 0 : 1);
    });
    await Promise.race([readiness === 'notify' ? saysReady(notifications) : delay(Number(readiness)), child.exited]);
  } finally {
    notifications.close(); // what nobody reads would hold the program up some day
  }
  if (!running.has(child)) return; // nothing has changed: the old one goes on
  console.log(`${program} serves, pid ${child.pid}`);
  for (const other of running) if (other !== child) other.kill(stop);
}

async function saysReady(notifications) {
  for await (const message of notifications) if (message.has('READY=1')) return;
}

let starting = start();
process.on('SIGUSR2', () => {
  starting = starting.then(start).catch((error) => console.error(error.message)); // one after the other
});
process.on('SIGTERM', () => {
  stopping = true;
  for (const child of running) child.kill(stop);
});
await starting;
await ready();
