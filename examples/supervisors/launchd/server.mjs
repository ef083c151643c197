// A server whose listener belongs to launchd: it is asked for by its name in the plist.
import http from 'node:http';
import { drainOn, ready, takeFromLaunchd } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listeners = takeFromLaunchd('web'); // one for each address that the plist names
for (const listener of listeners) listener.serve(server);
drainOn(['SIGTERM', 'SIGINT']); // stop accepting, drain, exit; launchd starts the next one
const { generation } = await ready();
console.log(`listening on ${listeners[0].port}, pid ${process.pid}, generation ${generation}`);
