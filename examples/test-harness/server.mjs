// The server under test: takes the listener that it is handed, or binds PORT where nobody hands it one. Nothing in it is for the tests.
import http from 'node:http';
import { drainOn, inheritListener, ready } from 'fdpass';

const server = http.createServer((request, response) => response.end(`${process.pid} ${request.url}\n`));
const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
drainOn('SIGTERM');
await ready();
