// Workers of node:cluster, and a primary that restarts by handoff: the next primary brings its own workers, and these drain.
import cluster from 'node:cluster';
import { once } from 'node:events';
import http from 'node:http';
import { drain, drainOn, inheritListener, ready, restartOn } from 'fdpass';

cluster.schedulingPolicy = cluster.SCHED_NONE; // the workers accept: what a primary has accepted for them would be lost with it

if (cluster.isPrimary) {
  const listener = await inheritListener({ name: 'web', port: 8080 });
  const fd = listener.dup(); // for the workers, and not the Listener's own: cluster closes it
  for (let i = 0; i < 2; i++) cluster.fork({ WEB_FD: String(fd) });
  await once(cluster, 'listening');
  const beforeExit = async () => {
    const workers = Object.values(cluster.workers ?? {});
    for (const worker of workers) worker?.send('drain');
    await Promise.all(workers.map((worker) => worker && once(worker, 'exit')));
  };
  restartOn('SIGUSR2', [], { beforeExit });
  drainOn(['SIGTERM', 'SIGINT'], [], { beforeExit });
  const { generation } = await ready();
  console.log(`listening on :${listener.port}, pid ${process.pid}, generation ${generation}`);
} else {
  const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
  server.listen({ fd: Number(process.env.WEB_FD) }); // in a worker this is the primary's number
  process.once('message', async () => {
    await drain(server);
    process.exit(0);
  });
}
