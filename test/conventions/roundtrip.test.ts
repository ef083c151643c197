/**
 * What spawn() writes and what a child finds, in real processes: each convention through our own reader, and what only the parent can see.
 */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

import { type Child, listen, spawn, type SpawnConvention } from '../../lib/index.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';
import { programOf, runProgram } from '../support/handed.js';

/** What a child that names the convention, or lets it be found, has taken. */
const TAKE = (convention: string | undefined): string => `
  const options = ${convention === undefined ? '{}' : JSON.stringify({ convention })};
  const found = inheritedListeners(options);
  print(inheritedFrom(options).convention);
  for (const { address } of found) {
    const where = address.family === 'unix' ? { path: address.path } : { host: address.address, port: address.port };
    const { origin, fd } = await inheritListener({ ...options, ...where });
    print({ origin, address, inode: String(raw.describe(fd).inode) });
  }
  print(Object.keys(process.env).filter((name) => /LISTEN_|SERVER_STARTER|EINHORN_FD|NGINX|FPM_|CORN_|PUMA|TABLEFLIP/.test(name)));
`;

const WRITTEN: [given: SpawnConvention, read: string | undefined, found: string, origin: string][] = [
  ['systemd', undefined, 'systemd', 'systemd'],
  [{ type: 'systemd', pid: 'omit' }, undefined, 'systemd-nopid', 'systemd'],
  [{ type: 'systemd', first: 7 }, undefined, 'systemd', 'systemd'],
  [{ type: 'systemd', pid: 'omit', first: 7 }, undefined, 'systemd-nopid', 'systemd'],
  ['server-starter', undefined, 'server-starter', 'supervisor'],
  ['einhorn', undefined, 'einhorn', 'supervisor'],
  ['nginx', 'nginx', 'nginx', 'supervisor'],
  ['fpm', 'fpm', 'fpm', 'supervisor'],
  ['gunicorn', 'gunicorn', 'gunicorn', 'supervisor'],
  ['unicorn', 'unicorn', 'unicorn', 'supervisor'],
  ['puma', 'puma', 'puma', 'supervisor'],
  ['tableflip', 'tableflip', 'tableflip', 'supervisor'],
];
for (const [given, read, found, origin] of WRITTEN) {
  test(`${JSON.stringify(given)} is written, and found as ${found}: the very sockets, and no variable left`, async (t) => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
    using admin = await listen({ name: 'admin', host: '::1', port: 0 });
    using local = await listen({ name: 'local', path: path.join(temporaryDirectory(t), 'app.sock') });
    const fds = [web, admin, local];
    const inodes = fds.map(({ fd }) => String(raw.describe(fd).inode));

    const [convention, ...rest] = await runProgram(TAKE(read), { fds, convention: given });

    const left = rest.pop();
    assert.equal(convention, found);
    assert.deepEqual(
      rest,
      fds.map(({ address }, index) => ({ origin, address, inode: inodes[index] })),
    );
    assert.deepEqual(left, []);
  });
}

test('systemd, einhorn and server-starter together: the child finds the first, and the others are reported', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [report, listener] = await runProgram(
    `print(inheritedFrom());
     print(show(await inheritListener('web')));`,
    { fds: [web], convention: ['systemd', 'einhorn', { type: 'server-starter', generation: 4 }] },
  );

  assert.deepEqual(report, {
    convention: 'systemd',
    ignored: [
      { convention: 'server-starter', variables: ['SERVER_STARTER_PORT', 'SERVER_STARTER_GENERATION'] },
      { convention: 'einhorn', variables: ['EINHORN_FD_COUNT', 'EINHORN_FD_0', 'EINHORN_FDS'] },
    ],
    notes: [],
    missing: [],
  });
  assert.equal((listener as { name: string }).name, 'web');
});

test('stdin: the listener is descriptor 0, is found without a word, and moves away from there', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [report, listener, stdin] = (await runProgram(
    `print(inheritedFrom().convention);
     print(show(await inheritListener({ host: '127.0.0.1', port: ${web.port} })));
     print(raw.describe(0).kind);`,
    { fds: [web], convention: 'stdin' },
  )) as [string, { fd: number; origin: string }, string];

  assert.equal(report, 'stdin');
  assert.equal(listener.origin, 'supervisor');
  assert.ok(listener.fd > 2, String(listener.fd));
  assert.equal(stdin, 'character');
});

test('argv: the number stands in the arguments, and { fd } takes it, once', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [listener, again] = (await runProgram(
    `print(show(await inheritListener({ name: 'web', fd: process.argv.at(-1) })));
     print(await attempt(() => inheritListener({ fd: Number(process.argv.at(-1)) })));`,
    { fds: [{ source: web.fd, target: 9 }], convention: 'argv', args: ['--', '--fd', '{fd}'] },
  )) as [object, { code: string; fd: number }];

  assert.deepEqual(listener, { name: 'web', address: web.address, origin: 'fd', fd: 9, type: 'stream' });
  assert.deepEqual([again.code, again.fd], ['ERR_FDPASS_CLAIMED', 9]);
});

test('the numbers are those that the child really has, where they are not 3, 4, ...', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  using admin = await listen({ name: 'admin', host: '127.0.0.1', port: 0 });
  const fds = [
    { source: web.fd, target: 9 },
    { source: admin.fd, target: 5 },
  ];

  for (const convention of ['server-starter', 'einhorn', 'nginx'] as const) {
    const [, ...found] = await runProgram(TAKE(convention), { fds, convention });
    assert.deepEqual(
      found.slice(0, 2).map((each) => (each as { address: unknown }).address),
      [web.address, admin.address],
    );
  }
});

test("names say of how many descriptors the convention speaks; what stands behind them is the child's in silence", async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  using other = await listen({ host: '127.0.0.1', port: 0 });

  const found = await runProgram(`print(inheritedListeners().length); print(raw.describe(4).socket.listening);`, {
    fds: [web, other],
    names: ['web'],
    convention: 'einhorn',
  });

  assert.deepEqual(found, [1, true]);
});

test("tableflip: ready of the Child resolves with the child's ready(), and the child sees the end of the parent", async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  // A parent in between, which ends as soon as its child is ready.
  const grandchild = programOf(
    `await inheritListener({ convention: 'tableflip' });
     const { alone } = await ready();
     const busy = setInterval(() => undefined, 1_000); // nothing is served here that would keep the process
     await alone;
     print('alone');`,
  );

  const lines = await runProgram(
    `const child = fdpass.spawn(process.execPath, ${JSON.stringify(grandchild)}, { fds: [{ fd: 3 }], convention: 'tableflip' });
     await child.ready;
     print('ready');
     child.unref();`,
    { fds: [web] },
  );

  assert.deepEqual(lines, ['ready', 'alone']);
});

test('tableflip: a child that ends without a word is a failure, and leaves nothing open here', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const before = raw.openDescriptors();
  const child = spawn('sleep', ['0'], { fds: [web], convention: 'tableflip' });

  await assert.rejects(child.ready ?? Promise.resolve(), { code: 'ERR_FDPASS_SUCCESSOR_EXITED' });

  await child.exited;
  assert.deepEqual(raw.openDescriptors(), before);
});

test('einhorn with ackServer: the line of the worker makes it ready; that of another pid does not', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const before = raw.openDescriptors();
  const program = (pid: string): Child =>
    spawn(
      process.execPath,
      [
        '-e',
        `const socket = require('node:net').connect(process.env.EINHORN_SOCK_PATH);
         socket.end(JSON.stringify({ command: 'worker:ack', pid: ${pid} }) + '\\n', () => process.exit(0));`,
      ],
      { fds: [web], convention: { type: 'einhorn', ackServer: true } },
    );
  const good = program('process.pid');
  const bad = program('1');

  await good.ready;
  await assert.rejects(bad.ready ?? Promise.resolve(), { code: 'ERR_FDPASS_SUCCESSOR_EXITED' });

  await Promise.all([good.exited, bad.exited]);
  assert.deepEqual(raw.openDescriptors(), before);
});

test('blocking: true gives the sockets back as programs in other languages want them; a failed start changes nothing', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const fds = [web];
  assert.throws(() => spawn('/nonexistent/program', [], { fds, blocking: true }), { code: 'ENOENT' });
  assert.equal(raw.getNonBlocking(web.fd), true);

  const [blocking] = await runProgram('print(raw.getNonBlocking(3));', { fds, blocking: true });

  assert.equal(blocking, false);
  raw.setNonBlocking(web.fd, true);
});

const REFUSED: [what: string, convention: unknown, expected: { code: string; message: RegExp }][] = [
  ['an unknown convention', 'upstart', { code: 'ERR_INVALID_ARG_VALUE', message: /'upstart'/ }],
  ['two that do not go together', ['systemd', 'nginx'], { code: 'ERR_INVALID_ARG_VALUE', message: /go together/ }],
  ['one twice', ['systemd', 'systemd'], { code: 'ERR_INVALID_ARG_VALUE', message: /go together/ }],
  ['a wrong pid', { type: 'systemd', pid: 'none' }, { code: 'ERR_INVALID_ARG_VALUE', message: /'none'/ }],
  ['a first below 3', { type: 'systemd', first: 2 }, { code: 'ERR_INVALID_ARG_VALUE', message: /it is 2/ }],
  [
    'a first that is no number',
    { type: 'systemd', first: '7' },
    { code: 'ERR_INVALID_ARG_VALUE', message: /it is '7'/ },
  ],
  ['generation 0', { type: 'server-starter', generation: 0 }, { code: 'ERR_INVALID_ARG_VALUE', message: /it is 0/ }],
  ['two for stdin', 'stdin', { code: 'ERR_FDPASS_LIMIT', message: /there are 2/ }],
  ['an argument that is missing', 'argv', { code: 'ERR_FDPASS_NAMES', message: /No argument/ }],
  ['a url too few', { type: 'puma', urls: ['tcp://a'] }, { code: 'ERR_FDPASS_NAMES', message: /1 url/ }],
  ['an entry too few', { type: 'tableflip', listen: [] }, { code: 'ERR_FDPASS_NAMES', message: /0 entries/ }],
];
for (const [what, convention, expected] of REFUSED) {
  test(`spawn: ${what} is refused before anything is started, and leaves nothing open`, async () => {
    using one = await listen({ host: '127.0.0.1', port: 0 });
    using two = await listen({ host: '127.0.0.1', port: 0 });
    const before = raw.openDescriptors();

    assert.throws(() => spawn('true', [], { fds: [one, two], convention: convention as SpawnConvention }), expected);

    assert.deepEqual(raw.openDescriptors(), before);
  });
}

test('what a convention has opened is closed where another one, or the start, fails', async (t) => {
  using web = await listen({ path: path.join(temporaryDirectory(t), 'a;b') });
  const before = raw.openDescriptors();
  const both: SpawnConvention[] = [{ type: 'einhorn', ackServer: true }, 'server-starter'];

  assert.throws(() => spawn('true', [], { fds: [web], convention: both }), { code: 'ERR_FDPASS_NAMES' });
  assert.throws(() => spawn('/nonexistent/program', [], { fds: [web], convention: 'tableflip' }), { code: 'ENOENT' });

  assert.deepEqual(raw.openDescriptors(), before);
});

test('a convention that speaks of addresses refuses what has none', (t) => {
  const file = fs.openSync(path.join(temporaryDirectory(t), 'data'), 'w');
  t.after(() => {
    fs.closeSync(file);
  });

  for (const convention of ['server-starter', 'fpm', 'puma', 'tableflip'] as const) {
    assert.throws(() => spawn('true', [], { fds: [file], convention }), { code: 'ERR_FDPASS_TYPE', fd: file });
  }
});
