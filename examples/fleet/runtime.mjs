// One server of a haproxy backend in or out of rotation, by the runtime API; out: waits until nobody uses it.
//   node runtime.mjs /run/haproxy/admin.sock app/a drain      and then: app/a ready
import { once } from 'node:events';
import net from 'node:net';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';

const [path, server, state] = process.argv.slice(2);

async function ask(command) {
  const socket = net.connect(path);
  await once(socket, 'connect');
  socket.end(`${command}\n`);
  return text(socket);
}

/** The sessions that the server has now. */
async function sessions() {
  const [head, ...rows] = (await ask('show stat')).trim().split('\n');
  const names = head.replace('# ', '').split(',');
  const row = rows.map((line) => line.split(',')).find(([proxy, name]) => `${proxy}/${name}` === server);
  return Number(row[names.indexOf('scur')]);
}

const answer = (await ask(`set server ${server} state ${state}`)).trim();
if (answer !== '') throw new Error(answer);
while (state === 'drain' && (await sessions()) > 0) await delay(50);
console.log(`${server}: ${state}`);
