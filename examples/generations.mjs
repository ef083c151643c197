// Ten generations of one server under a connect loop that sees no failure: on SIGUSR2 the newest process starts its successor,
// hands it the listener as descriptor 3, answers what it has begun, and leaves.
//   node examples/generations.mjs
//   PORT=8080 node examples/generations.mjs --serve       the server alone; then kill -USR2 the newest pid
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';
import { start } from './clients/program.mjs';

const GENERATIONS = 10;

if (process.argv[2] === '--serve') await serve();
else await demonstrate();

async function serve() {
  const server = net.createServer((socket) => {
    socket.on('error', () => {}); // a client that went away is no news
    socket.end(`hello from ${process.pid}\n`);
  });
  const listener = await inheritListener({ name: 'hello', host: '127.0.0.1', port: process.env.PORT ?? 0 });
  listener.serve(server);
  console.log(`${process.pid} has its listener at descriptor ${listener.fd}, ${listener.origin}`);
  restartOn('SIGUSR2', server, { probation: 300, report }); // ms that a successor must serve before this process lets go
  drainOn();
  const { generation, alone } = await ready();
  console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
  alone.then(
    () => console.log(`${process.pid} is alone`),
    () => {}, // the predecessor took the handoff back: it goes on, and this process leaves
  );
}

function report({ type, successor, error, report: connections }) {
  if (type === 'handedOver') console.log(`${process.pid} has handed over to ${successor.pid}`);
  if (type === 'drained') {
    console.log(`${process.pid} is drained, and leaves`);
    console.log(`${process.pid}: its connections ${JSON.stringify(connections)}`); // moved, finished, announced, ...
  }
  if (type === 'failed') console.log(`${process.pid} goes on: ${error.message}`);
}

/** Starts the server and the loop. Each generation that the loop has met is told to restart, the last one to stop. */
async function demonstrate() {
  const server = start('', import.meta.filename, '--serve');
  const living = new Set();
  server.lines.on('line', (line) => {
    const [, came, left] = /pid (\d+), generation|^(\d+) is drained/.exec(line) ?? [];
    if (came) living.add(Number(came));
    if (left) living.delete(Number(left));
  });
  let client;
  try {
    const [, port] = await server.says(/^listening on .*:(\d+),/);
    client = start('client: ', path.join(import.meta.dirname, 'clients/loop.mjs'), port);
    const meet = async () => Number((await client.says(/^hello from (\d+)/))[1]);

    let newest = await meet();
    for (let generation = 1; generation < GENERATIONS; generation++) {
      process.kill(newest, 'SIGUSR2');
      newest = await meet();
    }
    await server.says(`${newest} is alone`); // a successor that is told to stop before gives the listener back
    client.process.kill('SIGINT');
    const [, failed] = await client.says(/^ok \d+, failed (\d+)/);
    process.exitCode = failed === '0' ? 0 : 1;
  } finally {
    client?.process.kill('SIGINT');
    for (const pid of living) stop(pid);
  }
  await once(server.process.stdout, 'close'); // all generations write to this one pipe: now nobody holds it
  console.log(`${GENERATIONS} generations came, and all have left`);
}

function stop(pid) {
  try {
    process.kill(pid, 'SIGTERM');
  } catch {
    // it has left by itself
  }
}
