// A server whose listener outlives it in s6-fdholder-daemon: `s6-svc -r` ends this process and starts the next, which finds it there.
import http from 'node:http';
import { drainOn, FdHolder, listen, Listener, notify, ready } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const holder = await FdHolder.connect('/service/fdholder/socket');
let listener;
try {
  listener = Listener.from(await holder.retrieve('web'));
} catch (error) {
  if (error.code !== 'ENOENT') throw error; // it is not there yet: this is the first process
  listener = await listen({ name: 'web', port: 8080 });
  await holder.store('web', listener);
}
holder.close();
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']); // s6-svc -r sends SIGTERM: drain, exit
await ready();
await notify.s6(3); // the number in the file notification-fd
console.log(`listening on ${listener.port}, pid ${process.pid}, generation 1`);
