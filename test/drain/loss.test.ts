/** Drains one after another under load: two servers share a listening socket, as two generations do. Not one request may be lost. */
import assert from 'node:assert/strict';
import http from 'node:http';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { drain, type DrainReport } from '../../lib/drain/drain.js';
import { Serving } from '../../lib/serving.js';
import { Connection, saysClose } from '../support/client.js';
import { ListeningSocket } from '../support/socket.js';

/** xorshift32: the same run for the same seed. */
function generator(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % below;
  };
}

/** Answers at once, in the next turn, or ms later, by the path; after the whole body, or before. */
function server(): http.Server {
  return http.createServer((request, response) => {
    const [, when, id] = (request.url ?? '').split('/');
    const answer = (): void => {
      response.end(`answer to ${id}`);
    };
    if (when === 'now') answer();
    else if (when === 'turn') setImmediate(answer);
    else if (when === 'later') setTimeout(answer, 3);
    else request.resume().once('end', answer);
  });
}

const WHEN = ['now', 'turn', 'later', 'body'];

/** One request, in one of the ways to write it. */
function requestBytes(random: (below: number) => number, id: number): string {
  const path = `/${WHEN[random(WHEN.length)]}/${id}`;
  const body = 'x'.repeat(random(3_000));
  switch (random(4)) {
    case 0:
      return `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    case 1: {
      const chunk = body === '' ? '' : `${body.length.toString(16)}\r\n${body}\r\n`;
      return `POST ${path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n${chunk}0\r\n\r\n`;
    }
    case 2:
      return `GET ${path} HTTP/1.1\r\nHost:localhost\r\nX-Odd:   spaces  \r\n\r\n`;
    default:
      return `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  }
}

test('keep-alive, pipelines, uploads, packets cut anywhere, through ten drains: every request has its answer', async () => {
  using socket = new ListeningSocket();
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000) || 1;
  const random = generator(seed);
  let current = server();
  await new Serving(current, socket).start();
  let stop = false;
  let answered = 0;
  const announcements = { early: 0, last: 0 };

  const client = async (): Promise<void> => {
    let connection: Connection | undefined;
    while (!stop) {
      connection ??= await Connection.open(socket);
      const ids = Array.from({ length: random(3) === 0 ? 1 + random(6) : 1 }, () => random(1_000_000));
      const requests = ids.map((id) => requestBytes(random, id));
      const bytes = requests.join('');
      // Anywhere but between two requests: behind a whole one the server may say close, and that is right
      const ends = requests.map((_, index) => requests.slice(0, index + 1).join('').length);
      const at = random(2) === 0 ? random(bytes.length) : 0;
      const cut = ends.includes(at) ? 0 : at;
      connection.write(bytes.slice(0, cut));
      if (cut > 0) await sleep(random(4));
      connection.write(bytes.slice(cut));
      let isEnded = false;
      for (const [index, id] of ids.entries()) {
        const reply = await connection.reply(); // rejects on a reset or an EOF before it
        assert.equal(reply.body, `answer to ${id}`);
        answered++;
        if (!saysClose(reply)) continue;
        announcements[index === ids.length - 1 ? 'last' : 'early']++;
        isEnded = true;
      }
      if (isEnded) {
        assert.equal(await connection.ended(), 'eof');
        connection = undefined;
      }
      await sleep(random(15));
    }
    connection?.close();
  };
  const clients = Promise.all(Array.from({ length: 24 }, client));

  const reports: DrainReport[] = [];
  for (let count = 0; count < 10; count++) {
    await Promise.race([sleep(60), clients]);
    const old = current;
    current = server();
    await new Serving(current, socket).start();
    reports.push(await drain(old, { idleGrace: 2_000, timeout: 20_000 }));
  }
  stop = true;
  await clients.catch((error: unknown) => {
    throw new Error(`SEED=${seed}`, { cause: error });
  });
  await drain(current);

  assert.ok(answered > 500, `${answered} answered`);
  assert.equal(announcements.early, 0);
  for (const { forced, closedIdle, announced } of reports) {
    assert.deepEqual({ forced, closedIdle }, { forced: 0, closedIdle: 0 });
    assert.ok(announced > 0);
  }
});
