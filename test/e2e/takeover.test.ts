// Takeovers between processes that no other has started: server.mjs again and again at one path, each a family of its own.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { auditDescriptors, openSockets } from '../support/audit.js';
import { Connection, get } from '../support/client.js';
import { type Family, type Scope, startProcess, startServer, temporaryDirectory } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { Host } from '../support/peer.js';
import { ask, askHandoff, assertTidy, FIXTURES, startTaker, startTaking } from './drive.js';

const LOAD = { host: '127.0.0.1', newPerSecond: 100, keepAlive: 8, requestsPerSecond: 10 };
const ROOT = path.resolve(FIXTURES, '../../..');

function offerPath(t: Scope): string {
  return path.join(temporaryDirectory(t), 'takeover.sock');
}

/** Waits until this one is the only one that is left of the row: the one before has exited by itself. */
async function settled(before: Family, now: Family): Promise<void> {
  await now.waitFor(`pid ${now.newest} is alone`, { from: 0 });
  await before.gone(before.newest);
  assert.equal((await before.exited).code, 0, before.sofar());
}

test('a process that no other has started takes over, and nothing is lost', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file);
  const load = startLoad({ ...LOAD, port: old.port });
  await load.waitForReply('a reply of the first', ({ pid }) => pid === old.pid);

  const young = await startTaking(t, file);
  await settled(old, young);
  await load.waitForReply('a reply of the second', (reply) => reply.pid === young.pid && reply.kind === 'keepAlive');

  assert.equal(young.address, old.address);
  assert.equal(young.generations[0]?.generation, 2);
  await young.waitFor(`pid ${young.pid} comes from takeover, generation 2`, { from: 0 });
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  assertTidy(young.pid);
  await young.stop();
  assert.equal(fs.existsSync(file), false, 'the last one takes the path with it');
});

test('twenty takeovers in a row, 500 new connections and 960 requests a second: nothing is lost, nothing piles up', async (t) => {
  const file = offerPath(t);
  // On a busy machine the load comes in bursts: a queue that holds them, and patient clients. What is lost then is lost for good.
  const LISTENERS = JSON.stringify([{ name: 'web', host: '127.0.0.1', port: 0, backlog: 4096 }]);
  const env = { LISTENERS, PROBATION: '100' };
  let old = await startTaking(t, file, { env });
  const rates = { newPerSecond: 500, keepAlive: 64, requestsPerSecond: 15, requestTimeout: 40_000 };
  const load = startLoad({ ...rates, port: old.port });
  const held: string[][] = [];

  for (let generation = 2; generation <= 21; generation++) {
    const young = await startTaking(t, file, { env });
    await settled(old, young);
    assert.equal(young.generations[0]?.generation, generation);
    const kept = openSockets(young.pid).filter(({ protocol, state }) => protocol === 'unix' || state === 'LISTEN');
    held.push(kept.map(({ protocol, state, local }) => `${protocol} ${state} ${local}`).sort());
    old = young;
  }

  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses.slice(0, 10)));
  assert.ok(report.new.ok > 1_000 && report.keepAlive.ok > 1_000);
  // The end of the channel to the one before comes a moment after its exit.
  const listening = held.map((lines) => lines.filter((line) => line.includes('LISTEN')));
  for (const each of listening) assert.deepEqual(each, listening[0]);
  assertTidy(old.pid);
});

test('somebody listens at the path at every moment of five takeovers', async (t) => {
  const file = offerPath(t);
  let old = await startTaking(t, file, { env: { PROBATION: '50' } });
  const { ino } = fs.statSync(file);
  let connects = 0;
  const failures: string[] = [];
  let polling = true;
  const poll = async (): Promise<void> => {
    while (polling) {
      const socket = net.connect(file);
      try {
        await once(socket, 'connect');
        connects++;
      } catch (error) {
        failures.push(String(error));
      }
      socket.destroy();
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  };
  const polled = poll();

  for (let round = 0; round < 5; round++) {
    const young = await startTaking(t, file, { env: { PROBATION: '50' } });
    await settled(old, young);
    old = young;
  }

  polling = false;
  await polled;
  assert.deepEqual(failures, []);
  assert.ok(connects > 100, `${connects} connects`);
  assert.equal(fs.statSync(file).ino, ino);
});

test('restarts by signal and takeovers take turns: one row of generations', async (t) => {
  const file = offerPath(t);
  const first = await startTaking(t, file);
  const load = startLoad({ ...LOAD, port: first.port });

  const second = await startTaking(t, file); // 2, by takeover
  await settled(first, second);
  const third = await second.restart(); // 3, a child
  await second.waitFor(`pid ${third.pid} is alone`, { from: 0 });
  await second.waitFor(`pid ${third.pid} comes from spawn, generation 3`, { from: 0 });
  await second.gone(second.pid);
  const fourth = await startTaking(t, file); // 4, by takeover from the child
  await fourth.waitFor(`pid ${fourth.pid} is alone`, { from: 0 });
  await second.gone(third.pid);
  const fifth = await fourth.restart();
  await fourth.waitFor(`pid ${fifth.pid} is alone`, { from: 0 });

  const generations = [first, second, fourth].flatMap((family) => family.generations.map((each) => each.generation));
  assert.deepEqual(generations, [1, 2, 3, 4, 5]);
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  assert.equal(await get(first.url), `${fifth.pid}\n`);
  assertTidy(fifth.pid);
});

test('a signal to the old one while a takeover is under way joins it: one successor', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file, { env: { PROBATION: '1000' } });
  const young = await startTaking(t, file);

  old.signal('SIGUSR2', old.pid); // in the probation of the newcomer

  await settled(old, young);
  assert.equal(old.generations.length, 1);
});

for (const count of [1, 253, 254, 600]) {
  test(`${count} listeners go over, each with its name and address`, async (t) => {
    const file = offerPath(t);
    const names = Array.from({ length: count - 1 }, (_, index) => ({ name: `n${index}`, host: '127.0.0.1', port: 0 }));
    // With the path itself and the one that is asked over HTTP.
    const listeners = JSON.stringify([{ name: 'web', host: '127.0.0.1', port: 0 }, ...names]);
    const old = await startTaking(t, file, { env: { LISTENERS: listeners } });
    const addresses = (family: Family): string[] | undefined =>
      family.lines.find(({ text }) => text.startsWith('also on '))?.text.split(' ');
    if (count > 1) await old.waitFor(/^also on /, { from: 0 });

    const young = await startTaking(t, file, { env: { LISTENERS: listeners } });
    await settled(old, young);

    assert.equal(young.address, old.address);
    assert.deepEqual(addresses(young), addresses(old));
    assert.equal(await get(old.url), `${young.pid}\n`);
    assertTidy(young.pid);
  });
}

const STATES: [name: string, offered: object, arrived: unknown][] = [
  ['none', {}, null],
  ['a little JSON', { state: { visits: 41 } }, { visits: 41 }],
  ['much JSON', { state: { text: 'x'.repeat(90_000) } }, { text: 'x'.repeat(90_000) }],
  ['3 MB', { state: { bytes: 3_000_000 } }, { length: 3_000_000, sum: 21_000_000 }],
  ['what a function gives at that moment', { stateOf: ['later'] }, ['later']],
];
for (const [name, offered, arrived] of STATES) {
  test(`the state arrives: ${name}`, async (t) => {
    const file = offerPath(t);
    const old = await startTaking(t, file, { env: { OFFER_OPTIONS: JSON.stringify(offered) } });

    const young = await startTaking(t, file);
    await settled(old, young);

    assert.deepEqual(await ask(young, '/state'), arrived);
    assertTidy(young.pid);
  });
}

test('from another directory, with a Unix path among the listeners: it stays where it is, and goes with the last', async (t) => {
  const file = offerPath(t);
  const app = path.join(path.dirname(file), 'app.sock');
  const LISTENERS = JSON.stringify([
    { name: 'web', host: '127.0.0.1', port: 0 },
    { name: 'app', path: app },
  ]);
  const old = await startTaking(t, file, { env: { LISTENERS } });
  const { ino } = fs.statSync(app);

  const young = await startTaking(t, path.basename(file), { env: { LISTENERS }, cwd: path.dirname(file) });
  await settled(old, young);

  assert.equal(fs.statSync(app).ino, ino);
  const [data] = (await once(net.connect(app), 'data')) as [Buffer];
  assert.equal(data.toString(), `${young.pid}\n`);
  await young.stop();
  assert.deepEqual(fs.readdirSync(path.dirname(file)), []);
});

test('an abstract name: no file, and the same dialog', { skip: process.platform !== 'linux' }, async (t) => {
  const name = `@${path.basename(temporaryDirectory(t))}`;
  const old = await startTaking(t, name);

  const young = await startTaking(t, name);

  await settled(old, young);
  assert.equal(await get(old.url), `${young.pid}\n`);
});

test('what a supervisor handed down stays its own through a takeover: the name alone decides', async (t) => {
  const file = offerPath(t);
  const old = await startServer(t, `${FIXTURES}supervisor.mjs`, { env: { TAKEOVER: file } });

  const LISTENERS = JSON.stringify([{ name: 'web', host: '127.0.0.1', port: 1 }]);
  const young = await startTaking(t, file, { env: { LISTENERS } });

  await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
  assert.equal(young.address, old.address);
  await old.gone(old.newest);
});

test('a newcomer that a supervisor has started takes what both bring, and closes and names what nobody claims', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file);

  const young = await startServer(t, `${FIXTURES}supervisor.mjs`, {
    env: { TAKEOVER: file, LISTENERS: JSON.stringify([{ name: 'web', host: '127.0.0.1', port: old.port }]) },
  });
  await young.waitFor(`pid ${young.newest} is alone`, { from: 0 });

  assert.equal(young.address, old.address); // the predecessor's comes first: that of the supervisor has the same name
  await young.waitFor(/FDPASS_UNCLAIMED.*"web" \(127\.0\.0\.1:\d+\)/, { from: 0 });
  assert.equal(await get(old.url), `${young.newest}\n`);
  assertTidy(young.newest);
});

test('a changed port, a listener that is new and one that nobody claims: as in a restart', async (t) => {
  const file = offerPath(t);
  const [web, gone] = [
    { name: 'web', host: '127.0.0.1', port: 0 },
    { name: 'gone', host: '127.0.0.1', port: 0 },
  ];
  const old = await startTaking(t, file, { env: { LISTENERS: JSON.stringify([web, gone]) } });

  const added = { name: 'added', host: '127.0.0.1', port: 0 };
  const young = await startTaking(t, file, { env: { LISTENERS: JSON.stringify([web, added]) } });
  await settled(old, young);

  await young.waitFor(/FDPASS_UNCLAIMED.*"gone"/, { from: 0 });
  assert.equal(await get(old.url), `${young.pid}\n`);
});

test('the path goes along where only some of the listeners are offered: the next takeover finds somebody there', async (t) => {
  const file = offerPath(t);
  const OFFER_OPTIONS = JSON.stringify({ only: 'web' });
  const first = await startTaking(t, file, { env: { OFFER_OPTIONS } });

  const second = await startTaking(t, file, { env: { OFFER_OPTIONS } });
  await settled(first, second);
  const third = await startTaking(t, file);
  await settled(second, third);

  assert.equal(third.generations[0]?.generation, 3);
  assert.equal(await get(first.url), `${third.pid}\n`);
});

test('two that ask at once: one is served, the other is told that the old one is busy, and has its turn where it waits', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file, { env: { OFFER_OPTIONS: '{"probation":2000}' } });
  const load = startLoad({ ...LOAD, port: old.port });
  const young = await startTaking(t, file); // serves, in its probation

  const refused = startTaker(t, file);
  const patient = await startTaking(t, file, { env: { TAKEOVER_OPTIONS: '{"wait":20000}' } });

  assert.equal((await refused.exited).code, 4);
  await refused.waitFor(new RegExp(`^takeover failed: ERR_FDPASS_BUSY, .*pid ${young.pid} is under way`), { from: 0 });
  await refused.waitFor('descriptors as before', { from: 0 });
  await settled(old, young);
  await settled(young, patient);
  assert.equal(patient.generations[0]?.generation, 3);
  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
});

test('nobody offers: orElse decides; a path that a dead one has left is used again', async (t) => {
  const file = offerPath(t);
  const alone = startTaker(t, file, { env: { TAKEOVER_OPTIONS: '{"orElse":"fail"}' } });
  assert.equal((await alone.exited).code, 4);
  await alone.waitFor(/ERR_FDPASS_NO_PREDECESSOR, Nobody offers a takeover at .*no such file.*orElse: 'start'/, {
    from: 0,
  });
  const dead = await startTaking(t, file);
  dead.signal('SIGKILL');
  await dead.exited;

  const stale = startTaker(t, file, { env: { TAKEOVER_OPTIONS: '{"orElse":"fail"}' } });
  assert.equal((await stale.exited).code, 4);
  await stale.waitFor(/ERR_FDPASS_NO_PREDECESSOR, .*ECONNREFUSED/, { from: 0 });
  const next = await startTaking(t, file);

  await next.waitFor(`pid ${next.pid} comes from start, generation 1`, { from: 0 });
  await settled(next, await startTaking(t, file));
});

/** A program of a few lines, which finds this package. */
function program(t: Scope, text: string): string {
  const file = path.join(temporaryDirectory(t), 'program.mjs');
  fs.writeFileSync(file, `import * as fdpass from ${JSON.stringify(path.join(ROOT, 'dist/lib/index.js'))};\n${text}`);
  return file;
}

test('the path of a live process is never stolen: to offer there without a takeover is EADDRINUSE', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file);
  const { ino } = fs.statSync(file);
  const text = `await fdpass.offerTakeover(${JSON.stringify(file)}).catch(({ code }) => console.log(code));`;

  const thief = startProcess(t, program(t, text));

  assert.deepEqual(await thief.exited, { code: 0, signal: null });
  await thief.waitFor(/^EADDRINUSE$/, { from: 0 });
  assert.equal(fs.statSync(file).ino, ino);
  await settled(old, await startTaking(t, file));
});

test('takeover() comes first: after inheritListener() it is refused, and the old one is not asked', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file);
  const text = `
    await fdpass.inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
    await fdpass.takeover(${JSON.stringify(file)}).catch(({ code }) => console.log(code));`;

  const late = startProcess(t, program(t, text));

  await late.waitFor(/^ERR_FDPASS_CLAIMED$/, { from: 0 });
  assert.equal(await get(old.url), `${old.pid}\n`);
});

test('while a takeover is under way nothing can be looked for: ERR_FDPASS_NOT_READY; a signal takes it back', async (t) => {
  const file = offerPath(t);
  // Somebody who listens there and says nothing.
  new Host(t, file);
  const text = `
    const controller = new AbortController();
    const pending = fdpass.takeover(${JSON.stringify(file)}, { orElse: 'start', signal: controller.signal });
    await fdpass.inheritListener({ name: 'web', port: 0 }).catch(({ code }) => console.log(code));
    controller.abort(new Error('enough'));
    await pending.catch(({ message }) => console.log(message));
    const listener = await fdpass.inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
    console.log('and then', listener.origin);
    listener.close();`;

  const taker = startProcess(t, program(t, text));

  await taker.waitFor(/^and then bound$/, { from: 0 });
  assert.deepEqual(
    taker.lines.map((line) => line.text),
    ['ERR_FDPASS_NOT_READY', 'enough', 'and then bound'],
  );
});

test('an offer that is taken back: the path is gone, and this process serves on', async (t) => {
  const file = offerPath(t);
  const text = `
    const listener = await fdpass.listen({ name: 'web', host: '127.0.0.1', port: 0 });
    await fdpass.ready();
    const offer = await fdpass.offerTakeover(${JSON.stringify(file)}, { exit: false });
    console.log(offer.path, offer.closed, fdpass.openListeners().length);
    offer.close();
    console.log(fdpass.openListeners().length, listener.closed);
    listener.close();`;

  const program_ = startProcess(t, program(t, text));

  assert.deepEqual(await program_.exited, { code: 0, signal: null }); // an offer keeps no process
  assert.deepEqual(
    program_.lines.map((line) => line.text),
    [`${file} false 2`, '1 false'],
  );
  assert.equal(fs.existsSync(file), false);
});

test('with exit: false the old process stays, without its listeners, and names who took over', async (t) => {
  const file = offerPath(t);
  const text = `
    import http from 'node:http';
    const server = http.createServer((request, response) => response.end('old'));
    const listener = await fdpass.listen({ name: 'web', host: '127.0.0.1', port: 0 });
    listener.serve(server);
    const tell = ({ type, successor }) => console.log(type, successor?.pid, successor?.generation, listener.closed);
    await fdpass.offerTakeover(${JSON.stringify(file)}, { exit: false, probation: 100, report: tell });
    const { generation } = await fdpass.ready();
    console.log('listening on 127.0.0.1:' + listener.port + ', pid ' + process.pid + ', generation ' + generation);
    setInterval(async () => {
      await fdpass.handoff().catch(({ code }) => console.log(code));
    }, 500);`;
  const old = await startServer(t, program(t, text));

  const young = await startTaking(t, file);

  await old.waitFor(`handedOver ${young.pid} 2 true`, { from: 0 });
  await old.waitFor('drained undefined undefined true', { from: 0 });
  await old.waitFor('ERR_FDPASS_SUPERSEDED', { from: 0 });
});

const NODES = (process.env['FDPASS_TEST_NODES'] ?? '').split(':').filter(Boolean);
test(
  'from one version of Node to the next, and back',
  { skip: NODES.length === 0 && 'FDPASS_TEST_NODES=/path/to/node:/path/to/another names no other Node' },
  async (t) => {
    const file = offerPath(t);
    let old = await startTaking(t, file);
    const load = startLoad({ ...LOAD, port: old.port });

    for (const execPath of [...NODES, process.execPath]) {
      const young = await startTaking(t, file, { execPath });
      await settled(old, young);
      old = young;
    }

    const report = await load.stop();
    assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  },
);

test('keep-alive connections of the old one are told to close, and requests in flight are answered by it', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file);
  using connection = await Connection.open({ host: '127.0.0.1', port: old.port });
  connection.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1');

  const young = await startTaking(t, file);
  await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
  const reply = await connection.write('2').reply();

  assert.equal(reply.body, '12');
  await settled(old, young);
});

test('a takeover does not change what the newcomer holds otherwise, and each socket is held once', async (t) => {
  const file = offerPath(t);
  const old = await startTaking(t, file);

  const young = await startTaking(t, file);
  await settled(old, young);

  const kinds = (family: Family): string[] =>
    auditDescriptors(family.newest)
      .map((line) => line.replace(/^\d+ /, '').replace(/\[\d+\]/, ''))
      .sort();
  const fresh = await startTaking(t, offerPath(t));
  const end = performance.now() + 5_000; // the end of the channel is read a moment after the other is gone
  while (kinds(young).length !== kinds(fresh).length && performance.now() < end) await ask(young, '/state');
  assert.deepEqual(kinds(young), kinds(fresh));
  const failed = await askHandoff(young, { command: ['/nonexistent'] });
  assert.equal(failed.code, 'ERR_FDPASS_SPAWN');
});
