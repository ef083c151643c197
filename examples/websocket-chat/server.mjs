// A chat whose server restarts every five seconds, while the pages stay connected: their WebSockets move from process to process.
//   npm install ws; PORT=8080 node examples/websocket-chat/server.mjs       then open http://127.0.0.1:8080/ in two windows
// EVERY: ms from one restart to the next, 5000; 0: on SIGUSR2 alone.
//
// In a restart some pages are with the old process still, and others with the new one. So all that is said goes to a file that both append to
// and read. How far a page has been told of it is all that has to travel with its connection.
import fs from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { drainOn, inheritedState, inheritListener, ready, restartOn } from 'fdpass';
import { moveWebSockets } from 'fdpass/ws';
import { WebSocketServer } from 'ws';

const EVERY = Number(process.env.EVERY ?? 5000);
const page = fs.readFileSync(path.join(import.meta.dirname, 'index.html'));
const folder = inheritedState()?.folder ?? fs.mkdtempSync(path.join(os.tmpdir(), 'chat-'));
const log = fs.openSync(path.join(folder, 'log'), 'a+');

const server = http.createServer((request, response) => {
  if (request.url !== '/') return void response.writeHead(404).end();
  response.writeHead(200, { 'Content-Type': 'text/html; charset=utf-8', 'Content-Length': page.length }).end(page);
});
const sockets = new WebSocketServer({ server, maxPayload: 2000 });
const visits = new Map(); // the page at the other end of each: { told: how many lines, process: who serves it, processes: how many did }

sockets.on('connection', (socket) => welcome(socket, { told: 0, process: 0, processes: 0 }));
moveWebSockets(server, sockets, {
  pause: (socket) => {
    const visit = visits.get(socket);
    visits.delete(socket);
    return visit;
  },
  adopt: welcome,
});

function welcome(socket, visit) {
  if (visit.process !== process.pid) visit.processes++; // the same: it could not move, and is here again
  visit.process = process.pid;
  visits.set(socket, visit);
  socket.on('message', (text) => fs.writeSync(log, `${JSON.stringify(String(text))}\n`)); // one write: lines do not mix
  socket.on('close', () => visits.delete(socket));
  socket.on('error', () => {}); // 'close' follows
  socket.send(JSON.stringify(visit));
  tell();
}

const lines = [];
let position = 0;
let rest = Buffer.alloc(0);
fs.watch(path.join(folder, 'log'), tell);

/** Reads what is new in the file, and tells each page what it has not been told. */
function tell() {
  const buffer = Buffer.alloc(65_536);
  for (let size = read(); size > 0; size = read()) position += size;
  function read() {
    const size = fs.readSync(log, buffer, 0, buffer.length, position);
    rest = Buffer.concat([rest, buffer.subarray(0, size)]);
    return size;
  }
  for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
    lines.push(JSON.parse(rest.subarray(0, end)));
    rest = rest.subarray(end + 1);
  }
  for (const [socket, visit] of visits) {
    for (const text of lines.slice(visit.told)) socket.send(JSON.stringify({ text }));
    visit.told = lines.length;
  }
}

function report(event) {
  if (event.type === 'failed') console.error(event.error.message);
  if (event.type === 'drained') console.log(`pid ${process.pid} leaves: ${JSON.stringify(event.report)}`);
}

const listener = await inheritListener({ name: 'chat', host: '127.0.0.1', port: process.env.PORT ?? 8080 });
listener.serve(server);
restartOn('SIGUSR2', server, { state: { folder }, report });
drainOn(['SIGTERM', 'SIGINT'], server, { timeout: 1000, beforeExit: () => fs.rmSync(folder, { recursive: true }) });
const { generation, alone } = await ready();
console.log(`listening on 127.0.0.1:${listener.port}, pid ${process.pid}, generation ${generation}`);
await alone;
if (EVERY > 0) setTimeout(() => process.kill(process.pid, 'SIGUSR2'), EVERY);
