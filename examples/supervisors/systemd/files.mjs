// A server that takes what OpenFile= has opened for it: a file that it could not open itself, and a connection to a Unix socket.
import fs from 'node:fs';
import http from 'node:http';
import { drainOn, inheritConnection, inheritDescriptor, inheritListener, ready } from 'fdpass';

const key = inheritDescriptor('key');
const bytes = fs.readFileSync(key).length;
fs.closeSync(key); // it is ours
const database = inheritConnection('database');
database.on('error', () => process.exit(1));

const server = http.createServer((request, response) => response.end(`${process.pid}\n`));
const listener = await inheritListener({ name: 'web', port: 8080 });
listener.serve(server);
drainOn(['SIGTERM', 'SIGINT'], server);
const { generation } = await ready();
database.write(`a key of ${bytes} bytes\n`);
console.log(`listening on :${listener.port}, pid ${process.pid}, generation ${generation}`);
