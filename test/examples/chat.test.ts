/** examples/websocket-chat: what is said comes to every page once and in order, through restarts, on one WebSocket each. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { WebSocket } from 'ws';

import { Browser, chromium, type Page } from '../support/chromium.js';
import { type Family, type Scope, startServer, temporaryDirectory } from '../support/fixture.js';
import { example } from './support.js';

const RESTARTS = 3;
const PERIOD = 10; // ms between two messages of a page

/** Its file is in a directory of this test. `every`: ms between two restarts; 0: it waits to be told. */
async function startChat(t: Scope, every: number): Promise<{ server: Family; temporary: string }> {
  const temporary = temporaryDirectory(t);
  const env = { EVERY: String(every), TMPDIR: temporary };
  return { server: await startServer(t, example('websocket-chat/server.mjs'), { env }), temporary };
}

/** Until the process of this generation has left, and nothing had to be cut or to stay behind. */
async function left(server: Family, generation: number): Promise<void> {
  const pid = server.generations[generation - 1]?.pid ?? 0;
  const { text } = await server.waitFor(`pid ${pid} leaves: `, { from: 0, deadline: 20_000 });
  const { forced, refusedToMove } = JSON.parse(text.replace(/^.*?: /, '')) as Record<string, unknown>;
  assert.deepEqual([forced, refusedToMove], [0, {}]);
}

/** Everybody was told the same, and of each speaker all that it said, in its order. */
function assertTold(told: readonly string[][], said: readonly string[][]): void {
  for (const each of told) assert.deepEqual(each, told[0]);
  for (const [i, lines] of said.entries()) {
    assert.deepEqual(
      told[0]?.filter((line) => line.startsWith(`${i}: `)),
      lines,
    );
  }
}

test('two WebSockets through restarts: none closes, and every message comes once', async (t) => {
  const { server, temporary } = await startChat(t, 0);
  const told: string[][] = [[], []];
  const said: string[][] = [[], []];
  const processes = new Set<number>();
  const ends: unknown[] = [];
  const sockets = told.map((lines) => {
    const socket = new WebSocket(`ws://127.0.0.1:${server.port}/`);
    t.after(() => socket.terminate());
    socket.on('message', (data) => {
      const message = JSON.parse((data as Buffer).toString()) as { text?: string; process: number };
      if (message.text === undefined) processes.add(message.process);
      else lines.push(message.text);
    });
    socket.on('close', (code) => ends.push(code)).on('error', (error) => ends.push(error));
    return socket;
  });
  await Promise.all(sockets.map((socket) => once(socket, 'open', { signal: AbortSignal.timeout(10_000) })));
  const timer = setInterval(() => {
    for (const [i, socket] of sockets.entries()) {
      const text = `${i}: ${said[i]?.length ?? 0}`;
      said[i]?.push(text);
      socket.send(text);
    }
  }, PERIOD);
  t.after(() => clearInterval(timer));

  for (let generation = 1; generation <= RESTARTS; generation++) {
    await server.restart();
    await left(server, generation);
  }

  clearInterval(timer);
  // The last generation names itself when it has the connections, which can be after the one before has left.
  const isTold = (): boolean => processes.size > RESTARTS && told.every((lines) => lines.length >= said.flat().length);
  const end = performance.now() + 10_000;
  while (!isTold() && performance.now() < end) await delay(5);
  assert.deepEqual(ends, []);
  assertTold(told, said);
  assert.ok(processes.size > RESTARTS, `${processes.size} processes`);
  for (const socket of sockets) socket.close();
  await server.stop();
  assert.deepEqual(readdirSync(temporary), []);
});

const skip = chromium === undefined ? 'no chromium on this machine (apt-get install chromium)' : false;
test(
  'two pages in a browser through restarts: onclose never fires, and every message comes once',
  { skip },
  async (t) => {
    const { server } = await startChat(t, 200);
    const browser = await Browser.start(t, chromium ?? '');
    const pages: Page[] = [];
    for (const who of [0, 1]) {
      const page = await browser.open(server.url);
      await page.until('the WebSocket is open', 'socket.readyState === WebSocket.OPEN');
      await page.evaluate(`{
      globalThis.closes = 0;
      globalThis.said = [];
      globalThis.processes = new Set();
      socket.addEventListener('close', () => closes++);
      socket.addEventListener('message', () => processes.add(visit.process));
      form.who.value = '${who}';
      globalThis.timer = setInterval(() => {
        form.text.value = String(said.length);
        said.push('${who}: ' + said.length);
        form.requestSubmit();
      }, ${PERIOD});
    }`);
      pages.push(page);
    }

    for (let generation = 1; generation <= RESTARTS; generation++) await left(server, generation);

    const said = await Promise.all(pages.map((page) => page.evaluate<string[]>('(clearInterval(timer), said)')));
    const count = said.flat().length;
    for (const page of pages) await page.until('all has come', `document.querySelectorAll('li').length >= ${count}`);
    const told = await Promise.all(
      pages.map((page) => page.evaluate<string[]>(`[...document.querySelectorAll('li')].map((li) => li.textContent)`)),
    );
    assertTold(told, said);
    assert.ok(count > 10, `${count} messages`);
    for (const page of pages) {
      assert.equal(await page.evaluate('closes'), 0);
      assert.ok((await page.evaluate<number>('processes.size')) > RESTARTS - 1);
      assert.match(await page.evaluate('state.textContent'), /^One connection, open for \d+ s\. Process \d+ serves it/);
    }
  },
);
