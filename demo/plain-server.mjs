// For contrast: the same server as examples/http.mjs, stopped and started as it is usually done. It stops as well as a server can without
// handing over: accepts no more, answers what it has read, closes what is idle, exits.
import http from 'node:http';

const server = http.createServer((request, response) => {
  const body = `${process.pid}\n`;
  response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
  response.end(body);
});

process.on('SIGTERM', () => {
  server.close(() => process.exit(0));
  setInterval(() => server.closeIdleConnections(), 20);
});
server.listen(Number(process.env.PORT ?? 8080), '127.0.0.1', () => {
  const { START = 1 } = process.env;
  console.log(`listening on 127.0.0.1:${server.address().port}, pid ${process.pid}, generation ${START}`);
});
