import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';

import { auditDescriptors, openSockets } from '../support/audit.js';
import { Connection, get } from '../support/client.js';
import { type Family, startProcess, startServer, temporaryDirectory } from '../support/fixture.js';
import { startLoad } from '../support/load.js';
import { ask, askHandoff, assertTidy, FIXTURES, startDriven } from './drive.js';

const LOAD = { host: '127.0.0.1', newPerSecond: 100, keepAlive: 8, requestsPerSecond: 10 };

test('ten restarts under load: nothing is lost, every generation has the same descriptors, nobody is left behind', async (t) => {
  const server = await startDriven(t);
  const load = startLoad({ ...LOAD, port: server.port });
  const seen: string[][] = [];

  for (let i = 0; i < 10; i++) {
    const old = server.newest;
    const { pid } = await server.restart();
    await server.waitFor(`pid ${pid} is alone`, { from: 0 });
    await server.gone(old);
    assertTidy(pid);
    // The one that the Listener owns, at the number where it was inherited, and the one of its server.
    const listening = openSockets(pid).filter(({ state }) => state === 'LISTEN');
    seen.push(listening.map(({ fd, local }) => `${fd === 3 ? 'first' : 'other'} ${local}`));
  }

  const report = await load.stop();
  assert.equal(report.new.lost + report.keepAlive.lost, 0, JSON.stringify(report.losses));
  assert.ok(report.new.ok > 0 && report.keepAlive.ok > 0);
  for (const each of seen) assert.deepEqual(each, [`first ${server.address}`, `other ${server.address}`]);
  assert.deepEqual(
    server.running().map(({ pid }) => pid),
    [server.newest],
  );
  await server.stop();
});

test('the generation is counted up at each commit, and the state of the predecessor arrives', async (t) => {
  const server = await startDriven(t);

  const outcome = await askHandoff(server, { state: { visits: 41 } });

  assert.equal(outcome.generation, 2);
  await server.gone(server.pid);
  assert.deepEqual(await ask(server, '/state'), { visits: 41 });
});

for (const length of [1, 70_000, 3_000_000]) {
  test(`state of ${length} bytes arrives whole`, async (t) => {
    const server = await startDriven(t);

    const outcome = await askHandoff(server, { bytes: length });

    assert.equal(outcome.code, undefined, outcome.message);
    await server.gone(server.pid);
    assert.deepEqual(await ask(server, '/state'), { length, sum: 7 * length });
    assertTidy(server.newest);
  });
}

test('large JSON state arrives, by a memory file that nobody keeps open', async (t) => {
  const server = await startDriven(t);
  const state = { text: 'x'.repeat(200_000) };

  const outcome = await askHandoff(server, { state });

  assert.equal(outcome.code, undefined, outcome.message);
  await server.gone(server.pid);
  assert.deepEqual(await ask(server, '/state'), state);
  assert.ok(!auditDescriptors(server.newest).some((line) => line.includes('fdpass-state')));
});

test('a changed port takes effect, a removed listener is closed and named, an added one is bound: in one restart', async (t) => {
  const at = (name: string, port = 0): object => ({ name, host: '127.0.0.1', port });
  const server = await startDriven(t, { env: { LISTENERS: JSON.stringify([at('web'), at('moved'), at('removed')]) } });
  const line = await server.waitFor(/^also on /, { from: 0 });
  const [moved = '', removed = ''] = line.text.slice('also on '.length).split(' ');
  const fresh = await freePort();

  const outcome = await askHandoff(server, {
    env: { LISTENERS: JSON.stringify([at('web'), at('moved', fresh), at('added')]) },
  });

  assert.equal(outcome.code, undefined, outcome.message);
  await server.gone(server.pid);
  const sockets = openSockets(server.newest).filter(({ state }) => state === 'LISTEN');
  const listening = [...new Set(sockets.map(({ local }) => local))];
  assert.ok(listening.includes(server.address));
  assert.ok(listening.includes(`127.0.0.1:${fresh}`));
  assert.ok(!listening.includes(moved) && !listening.includes(removed), listening.join(' '));
  assert.equal(listening.length, 3);
  await server.waitFor(new RegExp(`FDPASS_UNCLAIMED.*"moved".*"removed" \\(${removed}\\)`), { from: 0 });
  await assert.rejects(get(`http://${removed}/`));
});

async function freePort(): Promise<number> {
  const { createServer } = await import('node:net');
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  server.close();
  await once(server, 'close');
  return typeof address === 'object' && address !== null ? address.port : 0;
}

test('a listener of a supervisor keeps its address in every generation, whatever port the program names', async (t) => {
  const server = await startServer(t, `${FIXTURES}supervisor.mjs`);
  const { address } = server;

  for (let generation = 2; generation <= 3; generation++) {
    const old = server.newest;
    await server.restart();
    await server.gone(old);
    assert.equal(await get(server.url), `${server.newest}\n`);
  }

  assert.deepEqual([...new Set(server.generations.map((each) => each.address))], [address]);
  assert.ok(!server.lines.some(({ text }) => text.includes('FDPASS_UNCLAIMED')));
});

test('Node itself, reached through a symlink that was re-pointed, is started anew through it', async (t) => {
  const directory = temporaryDirectory(t);
  const link = path.join(directory, 'node');
  fs.symlinkSync(process.execPath, link);
  const server = await startServer(t, `${FIXTURES}server.mjs`, { execPath: link });

  fs.symlinkSync('next', `${link}.new`);
  fs.copyFileSync(process.execPath, path.join(directory, 'next'));
  fs.renameSync(`${link}.new`, link);
  const { pid } = await server.restart();

  assert.equal(fs.readlinkSync(`/proc/${pid}/exe`), path.join(directory, 'next'));
});

test('a symlink to a release that was re-pointed takes effect; flags of Node are kept', async (t) => {
  const directory = temporaryDirectory(t);
  const root = path.resolve(FIXTURES, '../../..');
  for (const release of ['1', '2']) {
    const folder = path.join(directory, 'releases', release);
    fs.mkdirSync(path.join(folder, 'node_modules'), { recursive: true });
    fs.symlinkSync(root, path.join(folder, 'node_modules', 'fdpass'));
    const script = `
      import { inheritListener, ready, restartOn } from 'fdpass';
      import net from 'node:net';
      const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
      listener.serve(net.createServer((socket) => socket.end('${release}')));
      restartOn();
      const { generation } = await ready();
      console.log('release ${release} with ' + process.execArgv.join(' ') + ' and ' + process.argv.slice(2).join(' '));
      console.log(\`listening on 127.0.0.1:\${listener.port}, pid \${process.pid}, generation \${generation}\`);`;
    fs.writeFileSync(path.join(folder, 'server.mjs'), script);
  }
  const current = path.join(directory, 'current');
  fs.symlinkSync('releases/1', current);
  const server = await startServer(t, 'server.mjs', {
    cwd: current,
    env: { PWD: current },
    execArgv: ['--no-deprecation', '--stack-size=900'],
    args: ['--color', 'a b'],
  });
  await server.waitFor(/^release 1 /, { from: 0 });

  fs.symlinkSync('releases/2', `${current}.new`);
  fs.renameSync(`${current}.new`, current);
  await server.restart();

  await server.waitFor('release 2 with --no-deprecation --stack-size=900 and --color a b', { from: 0 });
});

test('SIGUSR1 restarts when asked for, and the inspector stays away', async (t) => {
  const server = await startDriven(t, { env: { RESTART_SIGNAL: 'SIGUSR1' } });

  server.signal('SIGUSR1');

  await server.waitFor(/generation 2$/, { from: 0 });
  await server.gone(server.pid);
  assert.ok(!server.lines.some(({ text }) => text.includes('Debugger listening')));
});

test('a second request during a handoff joins it; afterwards it hears who took over', async (t) => {
  const server = await startDriven(t);
  const { address } = server;

  const [first, second] = await Promise.all([askHandoff(server, {}, address), askHandoff(server, {}, address)]);

  assert.deepEqual(first, second);
  assert.equal(first.generation, 2, first.message);
});

test('overlap: reject refuses a second request while one is under way', async (t) => {
  const server = await startDriven(t);
  const { address } = server;

  const outcomes = await Promise.all([
    askHandoff(server, { overlap: 'reject' }, address),
    askHandoff(server, { overlap: 'reject' }, address),
  ]);

  assert.deepEqual(outcomes.map(({ code }) => code).sort(), ['ERR_FDPASS_ABORTED', undefined].sort());
});

test('overlap: supersede puts a new successor in the place of one that is not ready', async (t) => {
  const server = await startDriven(t);
  const { address } = server;
  const hanging = askHandoff(server, { env: { MISBEHAVE: 'hang-before-ready' } }, address);
  // The first one is under way once the process that hangs runs.
  while (server.running().length < 2) await new Promise((resolve) => setImmediate(resolve));

  const outcome = await askHandoff(server, { overlap: 'supersede' }, address);

  assert.equal((await hanging).code, 'ERR_FDPASS_SUPERSEDED');
  assert.equal(outcome.code, undefined, outcome.message);
  assert.equal(outcome.generation, 2);
  await server.gone(server.pid);
  assert.deepEqual(
    server.running().map(({ pid }) => pid),
    [outcome.pid],
  );
});

test('a handoff that its caller takes back leaves the predecessor as it was, and no process', async (t) => {
  const server = await startDriven(t);
  const before = (await ask(server, '/descriptors')) as string[];

  const outcome = await askHandoff(server, { abortAfter: 200, env: { MISBEHAVE: 'hang-before-ready' } });

  assert.equal(outcome.code, 'ERR_FDPASS_ABORTED');
  while (server.running().length > 1) await new Promise((resolve) => setImmediate(resolve));
  let after: string[];
  const end = performance.now() + 5_000; // it may not have heard yet of the end of its child
  do after = (await ask(server, '/descriptors')) as string[];
  while (after.length > before.length && performance.now() < end);
  assert.equal(after.length, before.length, after.join('\n'));
  assertTidy(server.pid);
});

test('a signal to one that has handed over and drains is answered: it names who took over', async (t) => {
  const server = await startDriven(t);
  using idle = await Connection.open({ host: '127.0.0.1', port: server.port });
  await idle.request(); // kept alive: the old generation waits for it
  await server.restart();
  await server.waitFor(`pid ${server.newest} is alone`, { from: 0 });

  server.signal('SIGUSR2', server.pid);

  const line = await server.waitFor(/ERR_FDPASS_SUPERSEDED/, { from: 0 });
  assert.ok(line.text.includes(`pid ${server.newest}`), line.text);
});

test('SIGTERM lets a request in flight be answered, exits with code 0, and starts no successor any more', async (t) => {
  const server = await startDriven(t);
  using connection = await Connection.open({ host: '127.0.0.1', port: server.port });
  connection.write('POST /handoff HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{'); // half a body
  const before = server.lines.length;
  while (((await ask(server, '/descriptors')) as string[]).length === 0);
  server.signal('SIGTERM');
  server.signal('SIGUSR2');
  await server.waitFor(/ERR_FDPASS_ABORTED/, { from: before });

  connection.write('}');
  const reply = await connection.reply();

  assert.match(reply.body, /ERR_FDPASS_ABORTED/); // the very handoff that it asked for is refused
  assert.equal((await server.exited).code, 0);
  assert.equal(server.generations.length, 1);
});

/** A server that has been told to stop, and waits for the rest of a request. */
async function startStopping(
  t: TestContext,
  env: Record<string, string | undefined> = {},
): Promise<{ server: Family; connection: Connection }> {
  const server = await startDriven(t, { env });
  const connection = await Connection.open({ host: '127.0.0.1', port: server.port });
  t.after(() => connection.socket.destroy());
  connection.write('POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{');
  await ask(server, '/descriptors'); // the half request is there by now: it came before this one
  server.signal('SIGTERM');
  while (openSockets(server.pid).some(({ state }) => state === 'LISTEN')) await new Promise((r) => setImmediate(r));
  return { server, connection };
}

test('the same stop said twice, as by ExecStop= and by systemd behind it, is one: what has begun is answered', async (t) => {
  const { server, connection } = await startStopping(t);

  server.signal('SIGTERM');
  connection.write('}');

  assert.equal((await connection.reply()).body, '{}');
  assert.equal((await server.exited).code, 0);
});

test('a second SIGTERM, a second after the first, ends the drain: exit code 143', async (t) => {
  const { server } = await startStopping(t, { SYSTEMD_EXEC_PID: undefined });

  await delay(1_100);
  server.signal('SIGTERM');

  assert.equal((await server.exited).code, 143);
});

test('systemd says SIGTERM again when the main process has ended: one that still answers goes on, and systemd has its own limit', async (t) => {
  const { server, connection } = await startStopping(t, { SYSTEMD_EXEC_PID: '1' });

  await delay(1_100);
  server.signal('SIGTERM');
  connection.write('}');

  assert.equal((await connection.reply()).body, '{}');
  assert.equal((await server.exited).code, 0);
});

test('SIGTERM to the predecessor in the middle of a handoff stops both', async (t) => {
  const server = await startDriven(t);
  const outcome = askHandoff(server, { env: { MISBEHAVE: 'hang-before-ready' } });
  while (server.running().length < 2) await new Promise((resolve) => setImmediate(resolve));

  server.signal('SIGTERM', server.pid);

  assert.equal((await outcome).code, 'ERR_FDPASS_ABORTED');
  assert.equal((await server.exited).code, 0);
  while (server.running().length > 0) await new Promise((resolve) => setImmediate(resolve));
});

test('a restart that is asked of a generation in its own probation waits until it is alone, and happens', async (t) => {
  const server = await startDriven(t);

  const pending = askHandoff(server, { probation: 60_000 });
  await server.waitFor(/generation 2$/, { from: 0 });
  server.signal('SIGUSR2', server.newest);
  await server.waitFor(/generation 3$/, { from: 0 });

  assert.equal((await pending).generation, 2);
  for (const { pid } of server.generations.slice(0, -1)) await server.gone(pid);
  assert.equal(await get(server.url), `${server.newest}\n`);
});

test('a Unix path stays where it is through restarts, and goes with the last generation', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  const listeners = [
    { name: 'web', host: '127.0.0.1', port: 0 },
    { name: 'unix', path: file },
  ];
  const server = await startDriven(t, { env: { LISTENERS: JSON.stringify(listeners) } });
  const { ino } = fs.statSync(file);

  for (let i = 0; i < 3; i++) {
    const old = server.newest;
    await server.restart();
    await server.gone(old);
  }

  assert.equal(fs.statSync(file).ino, ino);
  await server.stop();
  assert.equal(fs.existsSync(file), false);
});

test('a Listener that is closed in the middle of a handoff leaves its Unix path to the successor, who holds it', async (t) => {
  const file = path.join(temporaryDirectory(t), 'app.sock');
  const listeners = [
    { name: 'web', host: '127.0.0.1', port: 0 },
    { name: 'unix', path: file },
  ];
  const server = await startDriven(t, { env: { LISTENERS: JSON.stringify(listeners) } });
  using toTheOld = await Connection.open({ host: '127.0.0.1', port: server.port });
  await toTheOld.request();
  const pending = askHandoff(server, { probation: 1_000 });
  await server.waitFor(/generation 2$/, { from: 0 });

  await toTheOld.request('/close-others');

  assert.ok(fs.existsSync(file));
  assert.equal((await pending).generation, 2);
  const [data] = (await once(net.connect(file), 'data')) as [Buffer];
  assert.equal(data.toString(), `${server.newest}\n`);
});

test('a server attached and no ready(): a warning says so', async (t) => {
  const root = path.resolve(FIXTURES, '../../..');
  const file = path.join(temporaryDirectory(t), 'forgot.mjs');
  fs.writeFileSync(
    file,
    `import { listen } from ${JSON.stringify(path.join(root, 'dist/lib/index.js'))};
     import net from 'node:net';
     (await listen({ name: 'web', port: 0 })).serve(net.createServer());`,
  );

  const program = startProcess(t, file);

  await program.waitFor(/FDPASS_NOT_READY.*"web".*ready\(\) was not called/, { from: 0 });
  assert.equal((await program.exited).code, 0);
});

test('in a cluster worker restartOn is refused, and says what to use instead', async (t) => {
  const root = path.resolve(FIXTURES, '../../..');
  const file = path.join(temporaryDirectory(t), 'cluster.mjs');
  fs.writeFileSync(
    file,
    `import cluster from 'node:cluster';
     if (cluster.isPrimary) cluster.fork();
     else {
       const { restartOn } = await import(${JSON.stringify(path.join(root, 'dist/lib/index.js'))});
       try { restartOn(); } catch (error) { console.log(error.code, error.message); }
       process.exit(0);
     }`,
  );

  const program = startProcess(t, file);

  await program.waitFor(/^ERR_FDPASS_SUPERVISED .*cluster worker.*primary/, { from: 0 });
});

test('started through a shell, the process that speaks is the one that is followed', async (t) => {
  const server = await startDriven(t);
  const script = `${FIXTURES}server.mjs`;

  const outcome = await askHandoff(server, { command: ['sh', '-c', `"${process.execPath}" "${script}"; exit $?`] });

  assert.equal(outcome.code, undefined, outcome.message);
  assert.equal(outcome.pid, server.newest);
  await server.gone(server.pid);
  assert.equal(await get(server.url), `${server.newest}\n`);
});

test('a successor behind a shell does not keep a predecessor that has handed over and drained', async (t) => {
  const root = path.resolve(FIXTURES, '../../..');
  const file = path.join(temporaryDirectory(t), 'no-exit.mjs');
  fs.writeFileSync(
    file,
    `import { drain, handoff, inheritListener, ready } from ${JSON.stringify(path.join(root, 'dist/lib/index.js'))};
     import http from 'node:http';
     const listener = await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 });
     listener.serve(http.createServer((request, response) => response.end(process.pid + '\\n')));
     const { generation } = await ready();
     console.log('listening on 127.0.0.1:' + listener.port + ', pid ' + process.pid + ', generation ' + generation);
     if (generation === 1) {
       await handoff({ command: ['sh', '-c', '"$0" "$1"; exit $?', process.execPath, process.argv[1]], probation: 50 });
       await drain();
     }`,
  );

  const server = await startServer(t, file);
  await server.waitFor(/generation 2$/, { from: 0 });

  await server.gone(server.pid); // though nobody called process.exit()
  assert.equal(await get(server.url), `${server.newest}\n`);
});
