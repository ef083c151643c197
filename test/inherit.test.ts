import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { listen, type Listener, Notifications, raw, spawn } from '../lib/index.js';
import { temporaryDirectory } from './support/fixture.js';

const LIB = new URL('../lib/index.js', import.meta.url).href;
const PACKAGE = fileURLToPath(new URL('../..', import.meta.url));

interface Handed {
  fds?: (Listener | { fd: number })[];
  names?: string[];
  variables?: Record<string, string>;
}

/** Runs a module in a process that was handed these descriptors as systemd does; `print(value)` in it is a line of JSON. */
async function runHanded(code: string, { fds = [], names, variables = {} }: Handed = {}): Promise<unknown[]> {
  const program = `
    import * as fdpass from ${JSON.stringify(LIB)};
    const { inheritListener, inheritedListeners, ready, raw } = fdpass;
    const print = (value) => console.log(JSON.stringify(value));
    const attempt = async (action) => { try { return await action(); } catch (error) {
      const { code, message, variable, value } = error; return { code, message, variable, value }; } };
    const show = ({ name, address, origin }) => ({ name, address, origin });
    ${code}
    process.exit(0);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', program], {
    fds,
    ...(fds.length > 0 ? { convention: 'systemd', ...(names === undefined ? {} : { names }) } : {}),
    variables,
    cwd: PACKAGE,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout?.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const closed = child.stdout === null ? undefined : once(child.stdout, 'close');
  const { exitCode } = await child.exited;
  await closed;
  assert.equal(exitCode, 0, text);
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as unknown);
}

test('from a supervisor a name is enough, in any order, and each is claimed once', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  using admin = await listen({ name: 'admin', host: '127.0.0.1', port: 0 });

  const [before, second, first, again, left] = await runHanded(
    `print(inheritedListeners().map(({ name }) => name));
     print(show(await inheritListener('admin')));
     print(show(await inheritListener({ name: 'web', port: 9 })));
     print(await attempt(() => inheritListener('web')));
     print(inheritedListeners());`,
    { fds: [web, admin] },
  );

  assert.deepEqual(before, ['web', 'admin']);
  assert.deepEqual(second, { name: 'admin', address: admin.address, origin: 'systemd' });
  assert.deepEqual(first, { name: 'web', address: web.address, origin: 'systemd' });
  assert.equal((again as { code: string }).code, 'ERR_FDPASS_CLAIMED');
  assert.deepEqual(left, []);
});

test('without a name: by address; without either: the only one', async () => {
  using one = await listen({ name: 'one', host: '127.0.0.1', port: 0 });
  using two = await listen({ name: 'two', host: '127.0.0.1', port: 0 });

  const [byAddress, only] = await runHanded(
    `print(show(await inheritListener({ host: '127.0.0.1', port: ${two.port} })));
     print(show(await inheritListener()));`,
    { fds: [one, two] },
  );

  assert.deepEqual((byAddress as Listener).name, 'two');
  assert.equal((only as { code?: string }).code, undefined);
});

test('several and neither a name nor an address: an error that lists them', async () => {
  using one = await listen({ name: 'one', host: '127.0.0.1', port: 0 });
  using two = await listen({ name: 'two', host: '127.0.0.1', port: 0 });

  const [failure] = (await runHanded(`print(await attempt(() => inheritListener()));`, { fds: [one, two] })) as [
    { code: string; message: string },
  ];

  assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
  assert.match(failure.message, /"one".*"two"/);
});

test('several of one name are claimed one after the other', async () => {
  using one = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  using two = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [first, second, third] = (await runHanded(
    `for (let i = 0; i < 2; i++) print(show(await inheritListener('web')));
     print(await attempt(() => inheritListener('web')));`,
    { fds: [one, two] },
  )) as [Listener, Listener, { code: string }];

  assert.deepEqual([first.address, second.address], [one.address, two.address]);
  assert.equal(third.code, 'ERR_FDPASS_CLAIMED');
});

test('the same socket handed down twice is one listener', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [names] = await runHanded(`print(inheritedListeners().map(({ name }) => name));`, {
    fds: [web, { fd: web.fd }],
  });

  assert.deepEqual(names, ['web']);
});

test('nothing handed down: bound afresh where the options say how, else an error that says what was looked for', async () => {
  const [bound, failed, strict] = (await runHanded(
    `print(show(await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 })));
     print(await attempt(() => inheritListener('web')));
     print(await attempt(() => inheritListener({ name: 'web', port: 0, strict: true })));`,
  )) as [{ origin: string }, { code: string; message: string }, { code: string }];

  assert.equal(bound.origin, 'bound');
  assert.equal(failed.code, 'ERR_FDPASS_MISMATCH');
  assert.match(failed.message, /"web".*nothing was handed down.*LISTEN_FDS is not set/);
  assert.equal(strict.code, 'ERR_FDPASS_MISMATCH');
});

test('an address that the supervisor holds under another name is taken, and not bound over', async () => {
  using web = await listen({ name: 'my.socket', host: '127.0.0.1', port: 0 });

  const [taken] = (await runHanded(
    `print(show(await inheritListener({ name: 'web', host: '127.0.0.1', port: ${web.port} })));`,
    { fds: [web] },
  )) as [Listener];

  assert.equal(taken.name, 'my.socket');
});

test('what was handed down is close-on-exec at once, its variables are gone, and a child inherits none of it', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [flags, variables, child] = (await runHanded(
    `await inheritListener('web');
     print(raw.getCloseOnExec(3));
     print(Object.keys(process.env).filter((name) => /^(LISTEN|FDPASS)_/.test(name)));
     const { execFileSync } = await import('node:child_process');
     print(execFileSync('ls', ['-l', '/proc/self/fd']).toString().includes('socket:[' + raw.describe(3).inode + ']'));`,
    { fds: [web] },
  )) as [boolean, string[], boolean];

  assert.equal(flags, true);
  assert.deepEqual(variables, []);
  assert.equal(child, false);
});

test('what nobody claims is closed once this process serves alone, and named in a warning', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  using old = await listen({ name: 'old', host: '127.0.0.1', port: 0 });

  const [warning, open] = (await runHanded(
    `const { once } = await import('node:events');
     const warned = once(process, 'warning');
     await inheritListener('web');
     await ready();
     const [warning] = await warned;
     print({ code: warning.code, message: warning.message });
     print(raw.openDescriptors().some(({ fd }) => fd === 4 && raw.describe(4).socket?.listening));`,
    { fds: [web, old] },
  )) as [{ code: string; message: string }, boolean];

  assert.equal(warning.code, 'FDPASS_UNCLAIMED');
  assert.match(warning.message, new RegExp(`"old" \\(127\\.0\\.0\\.1:${old.port}\\)`));
  assert.equal(open, false);
});

test(
  'what nobody claims leaves the store of the manager too, but not a name under which this process has stored something itself',
  { skip: process.platform === 'linux' ? false : 'Linux alone' },
  async () => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
    using old = await listen({ name: 'old', host: '127.0.0.1', port: 0 });
    using state = await listen({ name: 'state', host: '127.0.0.1', port: 0 });
    using notifications = new Notifications();

    await runHanded(
      `const listener = await inheritListener('web');
       await fdpass.notify.storeDescriptors('state', listener);
       await ready();
       await new Promise(setImmediate);
       await fdpass.notify.status('the end');`,
      { fds: [web, old, state], variables: notifications.env() },
    );
    const removed: (string | undefined)[] = [];
    for (let isOver = false; !isOver;) {
      const message = await notifications.receive({ signal: AbortSignal.timeout(10_000) });
      if (message?.has('FDSTOREREMOVE=1') === true) removed.push(message.fields['FDNAME']);
      isOver = message?.has('STATUS=the end') ?? true;
    }

    assert.deepEqual(removed, ['old']);
    assert.deepEqual(
      notifications.stored.map(({ name }) => name),
      ['state'],
    );
  },
);

test('LISTEN_PID of another process: nothing is taken, and the message says whose it was', async () => {
  const [failure] = (await runHanded(`print(await attempt(() => inheritListener('web')));`, {
    variables: { LISTEN_FDS: '1', LISTEN_PID: '1' },
  })) as [{ message: string }];

  assert.match(failure.message, /LISTEN_PID is 1, and this process is \d+/);
});

const DAMAGED: [variables: Record<string, string>, code: string, variable: string | undefined][] = [
  [{ LISTEN_FDS: 'abc' }, 'ERR_FDPASS_ENV', 'LISTEN_FDS'],
  [{ LISTEN_FDS: '-1' }, 'ERR_FDPASS_ENV', 'LISTEN_FDS'],
  [{ LISTEN_FDS: '1000000000' }, 'ERR_FDPASS_NAMES', 'LISTEN_FDNAMES'],
  [{ LISTEN_FDS: '2', LISTEN_FDNAMES: 'web:admin' }, 'ERR_FDPASS_BADFD', undefined],
  [{ LISTEN_FDS: '1', LISTEN_FDNAMES: 'a:b' }, 'ERR_FDPASS_NAMES', 'LISTEN_FDNAMES'],
  [{ FDPASS_CHANNEL: 'x' }, 'ERR_FDPASS_ENV', 'FDPASS_CHANNEL'],
];
for (const [variables, code, variable] of DAMAGED) {
  test(`${JSON.stringify(variables)} is refused, nothing is adopted, and every later call says the same`, async () => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

    const [first, second, left] = (await runHanded(
      `print(await attempt(() => inheritListener({ name: 'web', port: 0 })));
       print(await attempt(() => inheritListener({ name: 'web', port: 0 })));
       print(Object.keys(process.env).filter((name) => /^LISTEN_/.test(name)));`,
      { fds: [web], variables },
    )) as [{ code: string; message: string; variable?: string }, unknown, string[]];

    assert.equal(first.code, code, first.message);
    assert.equal(first.variable, variable);
    assert.deepEqual(second, first);
    if (variable?.startsWith('LISTEN') === true) assert.deepEqual(left, []);
  });
}

test('a variable that names a channel which is not there is ignored: it was meant for a parent', async () => {
  const [listener] = (await runHanded(`print(show(await inheritListener({ host: '127.0.0.1', port: 0 })));`, {
    variables: { FDPASS_CHANNEL: '9:12345' },
  })) as [{ origin: string }];

  assert.equal(listener.origin, 'bound');
});

test('a file among the descriptors is not taken for a listener', async (t) => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const file = fs.openSync(path.join(temporaryDirectory(t), 'data'), 'w');
  t.after(() => {
    fs.closeSync(file);
  });

  const [names, failure] = (await runHanded(
    `print(inheritedListeners().map(({ name }) => name));
     print(await attempt(() => inheritListener('data')));`,
    { fds: [{ fd: file }, web], names: ['data', 'web'] },
  )) as [string[], { code: string }];

  assert.deepEqual(names, ['web']);
  assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
});

test('in a worker thread inheritListener is refused', async () => {
  const [failure] = (await runHanded(
    `const { Worker } = await import('node:worker_threads');
     const worker = new Worker(\`
       const { parentPort } = require('node:worker_threads');
       import(${JSON.stringify(LIB)}).then(({ inheritListener }) => inheritListener('web'))
         .catch(({ code }) => parentPort.postMessage({ code }));\`, { eval: true, execArgv: [] });
     const { once } = await import('node:events');
     print((await once(worker, 'message'))[0]);`,
  )) as [{ code: string }];

  assert.equal(failure.code, 'ERR_FDPASS_THREAD');
});

test('clients that waited in the queue of the handed-down socket are served', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const client = net.connect({ host: '127.0.0.1', port: web.port ?? 0 });
  await once(client, 'connect');
  const answered = once(client, 'data');

  await runHanded(
    `const net = await import('node:net');
     const { once } = await import('node:events');
     const server = net.createServer();
     (await inheritListener('web')).serve(server);
     const accepted = once(server, 'connection');
     await ready();
     const [socket] = await accepted;
     socket.end('served');
     await once(socket, 'close');`,
    { fds: [web] },
  );

  const [data] = (await answered) as [Buffer];
  assert.equal(data.toString(), 'served');
});

test('what cannot be bound because it was handed down to another process says so', async () => {
  using held = await listen({ name: 'held', host: '127.0.0.1', port: 0 });

  const [error] = await runHanded(
    `print(await attempt(() => inheritListener({ name: 'web', host: '127.0.0.1', port: ${held.port ?? 0} })));`,
    { variables: { LISTEN_FDS: '1', LISTEN_PID: '2' } },
  );

  const { code, message } = error as { code: string; message: string };
  assert.equal(code, 'EADDRINUSE');
  assert.match(message, /handed down, but not to this process: LISTEN_PID is 2, and this process is \d+.*shell or npm/);
});

test('what cannot be bound because it was handed down under another name and another host says what is there', async () => {
  using unit = await listen({ name: 'web.socket', host: '127.0.0.1', port: 0 });

  const [error] = await runHanded(
    `print(await attempt(() => inheritListener({ name: 'web', port: ${unit.port ?? 0} })));`,
    { fds: [unit] },
  );

  const { code, message } = error as { code: string; message: string };
  assert.equal(code, 'EADDRINUSE');
  assert.match(
    message,
    /Handed down, and claimed by nobody: "web.socket" \(stream, 127\.0\.0\.1:\d+\): claim it by that name/,
  );
});

for (const convention of ['server-starter', 'nginx']) {
  test(`${convention}: a number at which something else stands by now is an error, and nothing is bound over it`, async () => {
    const [variable, value] =
      convention === 'nginx' ? ['NGINX', "fd + ';'"] : ['SERVER_STARTER_PORT', "'127.0.0.1:80=' + fd"];
    const wish = `{ name: 'web', host: '127.0.0.1', port: 0, convention: '${convention}' }`;

    const take = (more: string): Promise<unknown[]> =>
      runHanded(
        `const fd = (await import('node:fs')).openSync('package.json');
         process.env.${variable} = ${value};
         print(await attempt(async () => show(await inheritListener({ ...${wish} ${more} }))));`,
      );
    const [error] = await take('');
    const [partly] = await take(', partial: true');

    const { code, message } = error as { code: string; message: string };
    assert.equal(code, 'ERR_FDPASS_TYPE');
    assert.match(message, new RegExp(`Descriptor \\d+, which ${variable} announces.*is no socket, but a file.*npm`));
    assert.equal((partly as { origin?: string }).origin, 'bound');
  });
}

test('what is no listener is named where a listener was looked for', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const file = fs.openSync(fileURLToPath(import.meta.url), 'r');

  const [error] = await runHanded(`print(await attempt(() => inheritListener('other')));`, {
    fds: [web, { fd: file }],
    names: ['web', 'data'],
  });
  fs.closeSync(file);

  assert.match((error as { message: string }).message, /"web" \(stream, .*\); "data" \(descriptor \d+, a file\)/);
});

test('sockets at one address without names are taken one after the other; at two, several fit', async () => {
  using first = await listen({ name: 'a', host: '127.0.0.1', port: 0, reusePort: true });
  const at = { host: '127.0.0.1', port: first.port, reusePort: true };
  using second = await listen({ ...at, name: 'b' });
  using other = await listen({ name: 'c', host: '127.0.0.1', port: 0 });
  const take = `inheritListener({ host: '127.0.0.1', port: ${first.port ?? 0}, convention: 'nginx' })`;
  const fds = [first, second, other];

  const [a, b, c, left] = await runHanded(
    `const look = ({ name, port, fd }) => ({ name, port, inode: String(raw.describe(fd).inode) });
     print(look(await ${take}));
     print(look(await ${take}));
     print(await attempt(() => ${take}));
     print(look(await inheritListener({ convention: 'nginx' })));`,
    { fds, variables: { NGINX: '3;4;5;' } },
  );

  const inodes = [a, b].map((each) => (each as { inode: string }).inode).sort();
  assert.deepEqual(inodes, [first, second].map(({ fd }) => String(raw.describe(fd).inode)).sort());
  assert.equal((c as { code: string }).code, 'ERR_FDPASS_CLAIMED');
  assert.equal((left as { port: number }).port, other.port, 'the only one that is left');
});
