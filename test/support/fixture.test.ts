/** The helpers of the tests, tested: what they start they follow and end, and what they audit is what is there. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import test, { type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';

import {
  allProcesses,
  auditDescriptors,
  compareDescriptors,
  inheritableDescriptors,
  isAlive,
  isZombie,
  markedProcesses,
  openSockets,
  type ProcessEntry,
  readProcess,
  zombiesOf,
} from './audit.js';
import { Connection, get } from './client.js';
import { type Family, type Scope, startProcess, startProgram, startServer, temporaryDirectory } from './fixture.js';

/**
 * Stands in for a server that restarts: hands its listening descriptor to a detached child on SIGUSR2 and leaves once that one serves.
 * By Node's own means, so it takes no care of connections.
 */
const RESTARTS = `
import http from 'node:http';
import { spawn } from 'node:child_process';
const generation = Number(process.env.GENERATION ?? 1);
const server = http.createServer((request, response) => response.end(process.pid + '\\n'));
const served = () => {
  console.log('listening on 127.0.0.1:%d, pid %d, generation %d', server.address().port, process.pid, generation);
  process.send?.('serves');
  process.disconnect?.();
};
if (generation > 1) server.listen({ fd: 4 }, served);
else server.listen(Number(process.env.PORT), '127.0.0.1', served);
process.on('SIGUSR2', () => {
  const env = { ...process.env, GENERATION: generation + 1 };
  const stdio = ['ignore', 'inherit', 'inherit', 'ipc', server._handle.fd];
  const child = spawn(process.execPath, process.argv.slice(1), { env, stdio, detached: true });
  child.once('message', () => process.exit(0));
});
process.on('SIGTERM', () => process.exit(0));
`;

function script(t: Scope, text: string): string {
  const file = path.join(temporaryDirectory(t), 'script.mjs');
  writeFileSync(file, text);
  return file;
}

/** A scope that ends when the test says so. */
class Early implements Scope {
  readonly actions: (() => void | Promise<void>)[] = [];
  after(action: () => void | Promise<void>): void {
    this.actions.push(action);
  }
  async end(): Promise<void> {
    for (const action of this.actions) await action();
  }
}

test('a server is followed through its restarts: the newest pid, who has gone, who runs', async (t) => {
  const server = await startServer(t, script(t, RESTARTS));
  assert.equal(await get(server.url), `${server.pid}\n`);

  for (const generation of [2, 3]) {
    const old = server.newest;
    const next = await server.restart();
    await server.gone(old);

    assert.equal(next.generation, generation);
    assert.equal(server.newest, next.pid);
    assert.notEqual(next.pid, old);
    assert.equal(await get(server.url), `${next.pid}\n`);
    assert.deepEqual(
      server.running().map(({ pid }) => pid),
      [next.pid],
    );
  }
  assert.deepEqual(await server.exited, { code: 0, signal: null });
  await server.stop();
  assert.deepEqual(server.running(), []);
});

test('nothing outlives the test: not the newest generation, not an orphan without a line of its own', async (t) => {
  const scope = new Early();
  t.after(() => scope.end());
  const orphan = `
    import { spawn } from 'node:child_process';
    const child = spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' });
    console.log('orphan', child.pid);
    process.exit(0);
  `;
  const server = await startServer(scope, script(scope, RESTARTS));
  await server.restart();
  const parent = startProcess(scope, script(scope, orphan));
  const line = await parent.waitFor(/^orphan/, { from: 0 });
  const pid = Number(line.text.split(' ')[1]);
  await parent.exited;
  const entry = readProcess(pid);
  assert.ok(entry && isAlive(entry));
  assert.deepEqual(
    markedProcesses(parent.mark).map((found) => found.pid),
    [pid],
  );
  const newest = readProcess(server.newest);
  assert.ok(newest);

  await scope.end();

  assert.equal(isAlive(entry), false);
  assert.equal(isAlive(newest), false);
  assert.deepEqual(server.running(), []);
});

test('a process that is ended in the middle of a test leaves nothing behind either', async (t) => {
  const fixture = path.join(path.dirname(fileURLToPath(import.meta.url)), 'fixture.js');
  const starter = startProcess(
    t,
    script(
      t,
      `import { startServer } from ${JSON.stringify(fixture)};
       const server = await startServer({ after() {} }, ${JSON.stringify(script(t, RESTARTS))});
       console.log('started', server.pid);
       setInterval(() => undefined, 1000);`,
    ),
  );
  const line = await starter.waitFor(/^started/, { from: 0 });
  const entry = readProcess(Number(line.text.split(' ')[1]));
  assert.ok(entry && isAlive(entry));

  starter.signal('SIGTERM');

  assert.deepEqual(await starter.exited, { code: null, signal: 'SIGTERM' });
  assert.equal(isAlive(entry), false);
});

test('a wait that is in vain says what was seen', async (t) => {
  const server = startProcess(
    t,
    script(t, `console.log('one'); console.error('two'); setInterval(() => undefined, 1000);`),
  );
  await server.waitFor('two', { from: 0 });

  await assert.rejects(
    server.waitFor(/three/, { deadline: 50, from: 0 }),
    new RegExp(`not within 50 ms: a line /three/; pid ${server.pid} runs; output so far \\(2 lines\\)\\s+one\\s+! two`),
  );
});

test('a wait ends at once when nobody is left who could write', async (t) => {
  const server = startProcess(t, script(t, `console.error('no such thing'); process.exit(3);`));

  await assert.rejects(
    server.waitFor(/listening/),
    /nobody is left to write it; pid \d+ exited with 3; .*no such thing/s,
  );
});

test('the environment of a fixture is without what the runner set for itself', async (t) => {
  process.env['NODE_V8_COVERAGE'] ??= '';
  const server = startProcess(t, script(t, `console.log(Object.keys(process.env).join(' '), process.env.ONE);`), {
    env: { ONE: 'yes', HOME: undefined },
  });

  const { text } = await server.waitFor(/yes/, { from: 0 });

  assert.doesNotMatch(text, /NODE_TEST_CONTEXT|NODE_V8_COVERAGE|NODE_OPTIONS|HOME\b/);
  assert.match(text, /PATH/);
});

test('descriptors are told with number, target and flags, and a leak is found', () => {
  const before = auditDescriptors();
  const fd = openSync('/dev/null', 'r'); // libuv opens it close-on-exec
  const after = auditDescriptors();

  assert.deepEqual(compareDescriptors(before, after), { opened: [`${fd} /dev/null r cloexec`], closed: [] });
  assert.deepEqual(compareDescriptors(before, after, /null/), { opened: [], closed: [] });
  closeSync(fd);
  assert.deepEqual(auditDescriptors(), before);
});

test('a descriptor that an exec would pass on is found', async (t) => {
  // Not Node: as it starts it marks close-on-exec what it has got (uv_disable_stdio_inheritance).
  const child = spawn('sh', ['-c', 'echo here; read nothing'], { stdio: ['pipe', 'pipe', 'ignore', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout as NodeJS.ReadableStream, 'data');

  const leaking = inheritableDescriptors(child.pid ?? 0);

  assert.equal(leaking.length, 1);
  assert.match(leaking[0] ?? '', /^3 socket:\[\d+\] rw$/);
});

test('the sockets of a server are listed with state and address', async (t) => {
  const server = await startServer(t, script(t, RESTARTS));
  using connection = await Connection.open({ port: server.port });
  await connection.request();

  const sockets = openSockets(server.pid).filter(({ protocol }) => protocol === 'tcp');

  assert.deepEqual(
    sockets.map(({ state, local, peer }) => ({ state, local, peer })),
    [
      { state: 'LISTEN', local: server.address, peer: '0.0.0.0:0' },
      { state: 'ESTABLISHED', local: server.address, peer: `127.0.0.1:${connection.socket.localPort}` },
    ],
  );
});

/** A test file: it starts a server, follows a process that no mark and no parent leads to, says both pids and goes on. */
function testFile(t: Scope): string {
  const fixture = path.join(path.dirname(fileURLToPath(import.meta.url)), 'fixture.js');
  return script(
    t,
    `import { spawn } from 'node:child_process';
     import { startServer } from ${JSON.stringify(fixture)};
     const server = await startServer({ after() {} }, ${JSON.stringify(script(t, RESTARTS))});
     const other = spawn('env', ['-i', 'sleep', '1000'], { detached: true, stdio: 'ignore' });
     server.follow(other.pid);
     console.log('started', process.pid, server.pid, other.pid);
     setInterval(() => undefined, 1000);`,
  );
}

async function started(family: Family): Promise<ProcessEntry[]> {
  const { text } = await family.waitFor(/^started/, { from: 0 });
  const entries = text
    .split(' ')
    .slice(1)
    .map((pid) => readProcess(Number(pid)));
  return entries.map((entry) => {
    assert.ok(entry && isAlive(entry));
    return entry;
  });
}

test('one that is killed leaves nothing behind: its guard ends what it has started, and what it followed', async (t) => {
  const starter = startProcess(t, testFile(t));
  const [, ...entries] = await started(starter);

  starter.signal('SIGKILL');

  assert.deepEqual(await starter.exited, { code: null, signal: 'SIGKILL' });
  assert.equal(entries.length, 2);
  await until(t, () => !entries.some(isAlive));
});

test('a test file whose runner is killed does not go on, nor does what it has started', async (t) => {
  const run = 'NODE_TEST_CONTEXT=child "$@" & wait';
  const runner = startProgram(t, 'sh', { args: ['-c', run, 'sh', process.execPath, testFile(t)] });
  const entries = await started(runner);

  runner.signal('SIGKILL', runner.pid);

  assert.equal(entries.length, 3);
  await until(t, () => !entries.some(isAlive));
});

test('a zombie is found with the parent that does not reap it, and does not count as alive', async (t) => {
  // It ends when the shell has become another program: a shell may reap it.
  const program = '(until grep -q sleep /proc/$$/comm; do :; done) & echo $!; exec sleep 1000';
  const shell = spawn('sh', ['-c', program], { stdio: ['ignore', 'pipe', 'ignore'] });
  t.after(() => shell.kill('SIGKILL'));
  const [bytes] = (await once(shell.stdout, 'data')) as [Buffer];
  const pid = Number(String(bytes));

  await until(t, () => zombiesOf(shell.pid ?? 0).length === 1);

  const zombie = readProcess(pid);
  assert.ok(zombie && isZombie(zombie));
  assert.equal(isAlive(zombie), false);
  assert.ok(allProcesses().some((entry) => entry.pid === pid));
});

test('a raw connection shows replies one by one, and how it ended', async (t) => {
  const server = await startServer(t, script(t, RESTARTS));
  using connection = await Connection.open({ port: server.port });

  connection.write('GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  const first = await connection.reply();
  const second = await connection.reply();

  assert.deepEqual([first.body, second.body], [`${server.pid}\n`, `${server.pid}\n`]);
  assert.equal(second.headers.get('connection'), 'close');
  assert.equal(await connection.ended(), 'eof');
  await assert.rejects(connection.reply(), /eof before a whole reply/);
});

async function until(t: TestContext, isSo: () => boolean): Promise<void> {
  const end = performance.now() + 10_000;
  while (!isSo()) {
    if (performance.now() > end) throw new Error(`not within 10 s: ${t.name}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test('a line that names the pid of somebody else makes nobody else of the family: it is not killed with it', async (t) => {
  const bystander = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)'], { stdio: 'ignore' });
  t.after(() => bystander.kill('SIGKILL'));
  await once(bystander, 'spawn');
  const says = (pid: number): string => `console.log('listening on 127.0.0.1:1, pid ${pid}, generation 1');`;
  const file = script(t, `${says(bystander.pid ?? 0)} ${says(1)} setInterval(() => {}, 1000);`);

  const family = startProcess(t, file);
  await family.waitFor(/pid 1,/, { from: 0 });
  await family.kill();

  assert.equal(bystander.exitCode, null);
  assert.equal(bystander.signalCode, null);
  assert.throws(() => family.follow(process.pid), /it is not of the family/);
});
