// Express: its app is a request handler, so make the server yourself and let the listener serve it. koa is the same
// (http.createServer(app.callback())), and so is ws (new WebSocketServer({ server })): whoever takes a server, or gives you a handler.
//   PORT=8080 node examples/express.mjs
import http from 'node:http';
import express from 'express';
import { drainOn, inheritListener, ready, restartOn } from 'fdpass';

const app = express();
app.get('/', (request, response) => response.type('text').send(`${process.pid}\n`));

const server = http.createServer(app); // instead of app.listen()
const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
restartOn('SIGUSR2');
drainOn(['SIGTERM', 'SIGINT']);
const { generation } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
