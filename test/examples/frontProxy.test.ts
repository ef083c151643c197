/** examples/front-proxy: connections that another program has accepted, and read from, are served by Node. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import readline from 'node:readline';
import { after, before, test } from 'node:test';

import { auditDescriptors } from '../support/audit.js';
import { type Family, type Scope, startProcess, temporaryDirectory } from '../support/fixture.js';
import { example, until } from './support.js';

const CONNECTIONS = 10_000;
const AT_A_TIME = 100;
const DEADLINE = 30_000; // ms, of one of them: the machine may be busy

const program = path.join(temporaryDirectory({ after }), 'front');
const isLinux = process.platform === 'linux'; // SOCK_SEQPACKET, epoll
const hasCompiler = isLinux && spawnSync('cc', ['--version']).status === 0;
before(() => {
  if (!hasCompiler) return;
  const flags = ['-std=c11', '-O2', '-Wall', '-Wextra', '-Wpedantic', '-Werror'];
  const { status, stderr } = spawnSync('cc', [...flags, '-o', program, example('front-proxy/front.c')]);
  assert.equal(status, 0, String(stderr));
});

const PYTHON = ['python3', example('front-proxy/front.py')];
const fronts: { name: string; command: string[]; framing: string; skip: boolean }[] = [
  { name: 'Python', command: PYTHON, framing: 'plain', skip: !isLinux },
  { name: 'C', command: [program], framing: 'plain', skip: !hasCompiler },
  { name: 'C, in frames of the channel', command: [program, '-f'], framing: 'fdpass', skip: !hasCompiler },
];

for (const { name, command, framing, skip } of fronts) {
  const promise = `${CONNECTIONS} connections accepted in ${name} are served by Node, with what was read of them, and none is lost`;
  test(promise, { skip }, async (t) => {
    const socket = path.join(temporaryDirectory(t), 'front');
    const server = await startBehind(t, socket, framing);
    const descriptorsBefore = auditDescriptors(server.pid).length;
    const front = await startFront(t, command, socket);
    const held = (): number[] => [auditDescriptors(server.pid).length, auditDescriptors(front.pid).length];
    const before = [descriptorsBefore + 1, held()[1]]; // the channel

    const pids = await askAll(front.port, CONNECTIONS);

    assert.deepEqual(new Set(pids), new Set([server.pid]));
    await until('both hold what they held before', () => held().join() === before.join());
    server.signal('SIGTERM');
    assert.deepEqual(await server.exited, { code: 0, signal: null });
  });
}

for (const { name, command, framing, skip } of fronts.filter(({ framing }) => framing === 'plain')) {
  test(`a server behind a front in ${name} is replaced under load, and nothing is lost`, { skip }, async (t) => {
    const socket = path.join(temporaryDirectory(t), 'front');
    let server = await startBehind(t, socket, framing);
    const front = await startFront(t, command, socket);
    const served = [server.pid];
    const all = askAll(front.port, 4_000);

    for (let restart = 0; restart < 3; restart++) {
      const old = server;
      await Promise.all(Array.from({ length: 50 }, () => ask(front.port, 'between')));
      old.signal('SIGTERM');
      await old.waitFor(`${old.pid} stops`, { from: 0 });
      server = await startBehind(t, socket, framing);
      served.push(server.pid);
      assert.deepEqual(await old.exited, { code: 0, signal: null });
    }

    const pids = await all;
    assert.equal(pids.length, 4_000);
    assert.equal(await ask(front.port, 'last'), server.pid);
    assert.ok(new Set(pids).size > 1 && pids.every((pid) => served.includes(pid)));
  });
}

test('what is no connection is refused with a line, and the server serves on', { skip: !isLinux }, async (t) => {
  const socket = path.join(temporaryDirectory(t), 'front');
  const server = await startBehind(t, socket, 'plain');
  const hostile = `
import os, socket, sys
channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
channel.connect(sys.argv[1])
channel.send(b'nothing')
socket.send_fds(channel, [b'a file'], [os.open('/dev/null', os.O_RDONLY)] * 3)
socket.send_fds(channel, [b'itself'], [channel.fileno()])
`;
  const before = auditDescriptors(server.pid).length;

  const { status, stderr } = spawnSync('python3', ['-c', hostile, socket]);

  assert.equal(status, 0, String(stderr));
  await until('a line for each', () => server.lines.filter(({ text }) => text.startsWith('not a conn')).length === 3);
  await until('nothing of it is left', () => auditDescriptors(server.pid).length === before);
  const front = await startFront(t, PYTHON, socket);
  assert.equal(await ask(front.port, 'after'), server.pid);
});

async function startBehind(t: Scope, socket: string, framing: string): Promise<Family> {
  const env = { SOCKET: socket, FRAMING: framing };
  const server = startProcess(t, example('front-proxy/server.mjs'), { env });
  await server.waitFor('waiting at ', { from: 0 });
  return server;
}

async function startFront(
  t: Scope,
  [file = '', ...args]: string[],
  socket: string,
): Promise<{ pid: number; port: number }> {
  const child = spawn(file, [...args, socket, '0'], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => void child.kill('SIGKILL'));
  const lines = readline.createInterface({ input: child.stdout });
  const [line] = (await once(lines, 'line', { signal: AbortSignal.timeout(DEADLINE) })) as [string];
  const [, port, pid] = /^listening on 127\.0\.0\.1:(\d+), pid (\d+)$/.exec(line) ?? [];
  return { pid: Number(pid), port: Number(port) };
}

/** So many, each of which must be answered; some at a time. Returns who answered. */
async function askAll(port: number, count: number): Promise<number[]> {
  const pids: number[] = [];
  let next = 0;
  const one = async (): Promise<void> => {
    while (next < count) pids.push(await ask(port, String(next++)));
  };
  await Promise.all(Array.from({ length: AT_A_TIME }, one));
  return pids;
}

/**
 * One connection with one request, whose name comes back with the pid of who served it. Every third is written in two pieces: what the
 * front reads is a part of it, and the rest comes to Node.
 */
async function ask(port: number, name: string): Promise<number> {
  const request = `GET /${name} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`;
  const cut = Number(name) % 3 === 0 ? 9 : request.length;
  return await new Promise((resolve, reject) => {
    const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
    let reply = '';
    socket.setTimeout(DEADLINE, () => socket.destroy(new Error(`${name}: no end of the reply within ${DEADLINE} ms`)));
    socket.setEncoding('latin1');
    socket.on('error', reject);
    socket.on('data', (text) => (reply += String(text)));
    socket.on('end', () => {
      const [, pid, served] = /\r\n\r\n(?:\w+\r\n)?(\d+) \/(\w+)\n/.exec(reply) ?? [];
      if (reply.startsWith('HTTP/1.1 200 ') && served === name) resolve(Number(pid));
      else reject(new Error(`${name}: the reply is ${JSON.stringify(reply)}`));
    });
    socket.write(request.slice(0, cut));
    if (cut < request.length) setImmediate(() => socket.write(request.slice(cut)));
  });
}
