// A pool of workers without cluster: this process holds the port, each worker a channel. SIGHUP replaces them one by one, and no client
// notices; one that crashes is replaced too. MODE: what a worker gets
//   connections   each connection, one by one, from here, where it can be chosen who gets it
//   listener      the listener itself, once: the kernel chooses, and nothing goes through this process
//   MODE=connections PORT=8080 node examples/worker-pool/pool.mjs
import net from 'node:net';
import path from 'node:path';
import { Channel, listen, ready, spawn } from 'fdpass';

const { MODE = 'connections', WORKERS = '2', PORT = '8080' } = process.env;
const program = path.join(import.meta.dirname, 'worker.mjs');
const listener = await listen({ name: 'web', host: '127.0.0.1', port: PORT });
const workers = []; // those that get connections
let stopping = false;

for (let i = 0; i < Number(WORKERS); i++) workers.push(await startWorker());
if (MODE === 'connections') {
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }, pass); // nothing is read here
  listener.serve(server);
}
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);

let replacing = Promise.resolve();
process.on('SIGHUP', () => (replacing = replacing.then(replaceAll)));
process.once('SIGTERM', async () => {
  stopping = true;
  listener.close();
  await Promise.all(workers.map(stopWorker));
  process.exit(0);
});

/** Starts one, and waits until it serves. What it needs it gets over its channel, which is its descriptor 3. */
async function startWorker() {
  const [channel, theirs] = Channel.pair();
  const child = spawn(process.execPath, [program], { fds: [theirs] });
  theirs.close(); // the child has its own
  const worker = { child, channel };
  if (MODE === 'listener') await channel.send('listener', listener);
  const word = await channel.receive({ signal: AbortSignal.timeout(30_000) });
  if (word === undefined) throw new Error(`worker ${child.pid} ended before it served`);
  child.exited.then(({ exitCode, signal }) => onExit(worker, signal ?? exitCode));
  return worker;
}

/** In turn. A socket whose worker is gone is still here, and untouched: the next one gets it. */
async function pass(socket) {
  for (let tries = 0; tries < workers.length; tries++) {
    const worker = workers.shift();
    workers.push(worker);
    try {
      return await worker.channel.send('connection', socket);
    } catch (error) {
      console.error(`worker ${worker.child.pid}: ${error.message}`);
    }
  }
  socket.destroy();
}

async function replaceAll() {
  for (const old of [...workers]) {
    const worker = await startWorker();
    workers.splice(workers.indexOf(old), 1, worker); // from here on the old one gets nothing more
    await stopWorker(old);
    console.log(`${old.child.pid} is replaced by ${worker.child.pid}`);
  }
  console.log('all are replaced');
}

/** Its end of the channel says so. It reads first what was sent before, serves that, and exits. */
async function stopWorker({ child, channel }) {
  channel.close();
  await child.exited;
}

function onExit(worker, how) {
  const at = workers.indexOf(worker);
  worker.channel.close();
  if (at < 0 || stopping) return; // it was told to
  console.error(`worker ${worker.child.pid} ended with ${how}`);
  workers.splice(at, 1);
  startWorker().then((next) => workers.push(next), console.error);
}
