// A server whose listener outlives it without a socket unit: systemd keeps a duplicate, and hands it to the next process by its name.
import http from 'node:http';
import { drainOn, inheritListener, notify, ready } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', port: 8080 }); // out of the store, or bound here
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']); // `systemctl restart` sends SIGTERM: drain, exit
await ready();
await notify.storeDescriptors(listener.name, listener); // what is stored already is not stored twice
console.log(`listening on :${listener.port}, pid ${process.pid}, generation 1`);
