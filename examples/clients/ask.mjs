// How the examples talk to their own servers: one connection for each question, read until the server closes it.
import net from 'node:net';
import { text } from 'node:stream/consumers';

/** What the server at this port of 127.0.0.1 says. Rejects where it refuses, resets, or says nothing for 5 s. */
export async function ask(port) {
  const socket = net.connect(port, '127.0.0.1');
  socket.setTimeout(5_000, () => socket.destroy(new Error('no answer within 5 s')));
  return (await text(socket)).trim();
}

/** Asks, eight at a time, until each of these names was the answer. Returns how often each was. */
export async function askUntilAll(port, names) {
  const counts = Object.fromEntries(names.map((name) => [name, 0]));
  for (let round = 0; round < 1_000 && Object.values(counts).includes(0); round++) {
    const answers = await Promise.all(Array.from({ length: 8 }, () => ask(port)));
    for (const name of answers) counts[name]++;
  }
  return counts;
}
