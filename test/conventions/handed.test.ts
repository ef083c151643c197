/**
 * What only a process that really was handed something can show: the tables of sd_listen_fds(3), OpenFile=, the fd store, numbers of
 * other supervisors that name what was announced and is not there. One fresh process for each vector.
 */
import assert from 'node:assert/strict';
import { spawn as spawnOfNode } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { test, type TestContext } from 'node:test';

import { listen, type Listener, Notifications, notify, spawn } from '../../lib/index.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';
import { programOf, runProgram } from '../support/handed.js';
import { skipWithoutPython } from '../notify/support.js';

const LIBSYSTEMD = path.resolve(import.meta.dirname, '../../../test/conventions/fixtures/libsystemd.py');
const LIB = new URL('../../lib/index.js', import.meta.url).href;

const skipUnlessLinux = process.platform === 'linux' ? false : 'Linux alone';

interface Failure {
  code: string;
  message: string;
  variable?: string;
  value?: string;
  expected?: string;
  got?: string;
  fd?: number;
}

/** P stands for the pid of the process, as in ` P` and `Px`. */
interface Variables {
  pid?: string;
  fds?: string;
  names?: string;
}

/** Two listeners at 3 and 4, and what the process makes of the variables. */
const LOOK = `
  const result = await attempt(() => inheritedListeners().map(({ name }) => name));
  print(result);
  print(Object.keys(process.env).filter((name) => name.startsWith('LISTEN_')));
  print([3, 4].map((fd) => raw.describe(fd).socket.listening));
`;

/** Sets variables that have the pid in them, as a shell would that writes $$. */
function prelude(template: string | undefined): string {
  if (template === undefined || template === 'P') return '';
  return `process.env.LISTEN_PID = ${JSON.stringify(template)}.replace('P', process.pid);`;
}

async function look(t: TestContext, { pid, fds, names }: Variables): Promise<[unknown, string[], boolean[]]> {
  const [one, two] = await Promise.all([0, 0].map((port) => listen({ host: '127.0.0.1', port })));
  t.after(() => {
    one?.close();
    two?.close();
  });
  assert.ok(one !== undefined && two !== undefined);
  const variables = {
    ...(fds === undefined ? {} : { LISTEN_FDS: fds }),
    ...(names === undefined ? {} : { LISTEN_FDNAMES: names }),
  };
  return (await runProgram(prelude(pid) + LOOK, {
    fds: [one, two],
    variables,
    pidVariables: pid === 'P' ? ['LISTEN_PID'] : [],
  })) as [unknown, string[], boolean[]];
}

// As libsystemd answers sd_listen_fds_with_names(1), where two listeners are open at 3 and 4.
const LISTED: [variables: Variables, names: string[]][] = [
  [{ pid: 'P', fds: '2' }, ['unknown', 'unknown']],
  [{ pid: 'P', fds: '2', names: 'http:admin' }, ['http', 'admin']],
  [{ pid: 'P', fds: '2', names: 'a:a' }, ['a', 'a']],
  [{ pid: 'P', fds: '1', names: '' }, ['']],
  [{ pid: 'P', fds: '2', names: ':' }, ['', '']],
  [{ pid: 'P', fds: '2', names: 'a:' }, ['a', '']],
  [{ pid: 'P', fds: '2', names: "'a b':c" }, ["'a b'", 'c']],
  [{ pid: 'P', fds: '2', names: '"a:b"' }, ['"a', 'b"']],
  [{ pid: 'P', fds: '2', names: ' a : b ' }, [' a ', ' b ']],
  [{ pid: 'P', fds: '2', names: 'a\\:b:c' }, ['a:b', 'c']],
  [{ pid: 'P', fds: '2', names: 'a\\nb:c' }, ['anb', 'c']],
  [{ pid: 'P', fds: '2', names: `a\u0001:${'x'.repeat(300)}` }, ['a\u0001', 'x'.repeat(300)]], // who receives does not validate
  [{ pid: 'P', fds: '02' }, ['unknown', 'unknown']],
  [{ pid: 'P' }, []],
  [{ pid: '1', fds: '2' }, []],
];
for (const [variables, names] of LISTED) {
  test(`${JSON.stringify(variables).slice(0, 70)} lists ${JSON.stringify(names).slice(0, 40)}, and no variable is left`, async (t) => {
    const [found, left, listening] = await look(t, variables);

    assert.deepEqual(found, names);
    assert.deepEqual(left, []);
    assert.deepEqual(listening, [true, true]);
  });
}

// libsystemd says -EINVAL, -ERANGE or -EBADF.
const REFUSED: [variables: Variables, code: string, detail: Partial<Failure>][] = [
  ...['http', 'a:b:c', '', 'a\\'].map((names): [Variables, string, Partial<Failure>] => [
    { pid: 'P', fds: '2', names },
    'ERR_FDPASS_NAMES',
    { variable: 'LISTEN_FDNAMES', value: names },
  ]),
  ...['abc', 'Px', 'P ', '0', '-1', '99999999999'].map((pid): [Variables, string, Partial<Failure>] => [
    { pid, fds: '2' },
    'ERR_FDPASS_ENV',
    { variable: 'LISTEN_PID' },
  ]),
  // libsystemd takes these two, and the last four of LISTEN_FDS; nobody writes them
  ...[' P', '+P'].map((pid): [Variables, string, Partial<Failure>] => [
    { pid, fds: '2' },
    'ERR_FDPASS_ENV',
    { variable: 'LISTEN_PID' },
  ]),
  ...['0', '-1', '', 'x', '2x', '2147483647', '99999999999', ' 2', '+2', '0x2', '0b10'].map(
    (fds): [Variables, string, Partial<Failure>] => [
      { pid: 'P', fds },
      'ERR_FDPASS_ENV',
      { variable: 'LISTEN_FDS', value: fds },
    ],
  ),
  [{ pid: 'P', fds: '3' }, 'ERR_FDPASS_BADFD', { fd: 5 }],
  [{ pid: 'P', fds: '2147483644' }, 'ERR_FDPASS_BADFD', { fd: 5 }], // at once: nothing is allocated by that number
];
for (const [variables, code, detail] of REFUSED) {
  test(`${JSON.stringify(variables)} is ${code}: nothing is adopted or closed, and no variable is left`, async (t) => {
    const [failure, left, listening] = (await look(t, variables)) as [Failure, string[], boolean[]];

    assert.equal(failure.code, code, failure.message);
    for (const [key, value] of Object.entries(detail)) assert.equal(failure[key as keyof Failure], value);
    assert.deepEqual(left, []);
    assert.deepEqual(listening, [true, true]);
  });
}

/** What libsystemd takes besides. */
const LENIENT = [' P', '+P', ' 2', '+2', '0x2', '0b10'];

test(
  'the tables above are what libsystemd itself answers, where it is installed',
  { skip: skipWithoutPython },
  async (t) => {
    using one = await listen({ host: '127.0.0.1', port: 0 });
    using two = await listen({ host: '127.0.0.1', port: 0 });
    const vectors = [...LISTED, ...REFUSED].map(([variables]) => variables);

    const child = spawn('python3', [LIBSYSTEMD, JSON.stringify(vectors)], {
      fds: [one, two],
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    assert.ok(child.stdout);
    const [said] = await Promise.all([text(child.stdout), child.exited]);

    const answers = JSON.parse(said) as (string[] | number)[] | null;
    if (answers === null) {
      t.skip('libsystemd is not installed');
      return;
    }
    const ours = [
      ...LISTED.map(([, names]) => names),
      ...REFUSED.map(([{ pid = '', fds = '' }]) =>
        LENIENT.includes(pid) || LENIENT.includes(fds) ? ['unknown', 'unknown'] : 'an error',
      ),
    ];
    assert.deepEqual(
      answers.map((answer, index) => [vectors[index], typeof answer === 'number' ? 'an error' : answer]),
      ours.map((answer, index) => [vectors[index], answer]),
    );
  },
);

test('a name that nobody could be given again is given up when the listener is claimed: a handoff could not carry it', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [listed, listener, successor] = (await runProgram(
    `print(inheritedListeners()[0].name);
     const listener = await inheritListener();
     print(listener.name);
     listener.serve((await import('node:net')).createServer());
     await ready();
     const command = [process.execPath, '--input-type=module', '-e', "await (await import(" + JSON.stringify(${JSON.stringify(LIB)}) + ")).ready()"];
     print(await attempt(async () => (await fdpass.handoff({ command, probation: 20 })).generation));`,
    { fds: [web], variables: { LISTEN_FDS: '1', LISTEN_FDNAMES: 'a\\:b' }, pidVariables: ['LISTEN_PID'] },
  )) as [string, string, unknown];

  assert.deepEqual([listed, listener, successor], ['a:b', 'unknown', 2]);
});

test('unsetEnv: false leaves every variable where it was', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [found, left] = await runProgram(
    `print(inheritedListeners({ unsetEnv: false }).length);
     print(Object.keys(process.env).filter((name) => name.startsWith('LISTEN_')).sort());`,
    { fds: [web], convention: 'systemd' },
  );

  assert.deepEqual(found, 1);
  assert.deepEqual(left, ['LISTEN_FDNAMES', 'LISTEN_FDS', 'LISTEN_PID']);
});

/** Makes LISTEN_PIDFDID of the inode of the process's own pidfd; prints whether this kernel gives it a lasting one. */
const OWN_PIDFD = `
  const { statfsSync } = await import('node:fs');
  const pidfd = raw.pidfdOpen(process.pid);
  const lasts = statfsSync('/proc/self/fd/' + pidfd).type === 0x50494446;
  const own = raw.describe(pidfd).inode;
  raw.close(pidfd);
  print(lasts);
`;
const PIDFDID: [announced: string, isOurs: boolean | string][] = [
  ['own', true],
  ['own + 1n', false],
  ["'0' + own", true],
  ["own + 'x'", 'ERR_FDPASS_ENV'],
  ["''", 'ERR_FDPASS_ENV'],
];
for (const [announced, expected] of PIDFDID) {
  test(
    `LISTEN_PIDFDID that is ${announced}: ${typeof expected === 'string' ? expected : expected ? 'ours' : 'not ours'}`,
    { skip: skipUnlessLinux },
    async () => {
      using web = await listen({ host: '127.0.0.1', port: 0 });

      const [lasts, found, left, notes] = (await runProgram(
        `${OWN_PIDFD}
         process.env.LISTEN_PIDFDID = String(${announced});
         print(await attempt(() => inheritedListeners().length));
         print(Object.keys(process.env).filter((name) => name.startsWith('LISTEN_')));
         print(await attempt(() => inheritedFrom().notes.join()));`,
        { fds: [web], convention: 'systemd' },
      )) as [boolean, unknown, string[], unknown];

      assert.deepEqual(left, []);
      if (typeof expected === 'string') {
        assert.deepEqual([(found as Failure).code, (found as Failure).variable], [expected, 'LISTEN_PIDFDID']);
        return;
      }
      assert.equal(found, expected || !lasts ? 1 : 0); // a kernel before 6.9 cannot tell: then the pid alone must do
      if (found === 0) assert.match(String(notes), /LISTEN_PIDFDID is \d+, and this process is \d+/);
    },
  );
}

test('a listener that is called "connection" is a listener, and a connection has any name', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const [ours, theirs] = raw.socketPair('stream');

  const [listeners, others] = await runProgram(
    `print(inheritedListeners().map(({ name }) => name)); print(inheritedDescriptors().map(({ name }) => name));`,
    { fds: [web, theirs], names: ['connection', 'web'], convention: 'systemd' },
  );

  for (const fd of [ours, theirs]) raw.close(fd);
  assert.deepEqual([listeners, others], [['connection'], ['web']]);
});

test('a socket unit and the fd store give one socket twice, among others of that name: it is adopted once', async () => {
  using one = await listen({ host: '127.0.0.1', port: 0 });
  using two = await listen({ host: '127.0.0.1', port: 0 });
  using three = await listen({ host: '127.0.0.1', port: 0 });

  const [names, open, taken] = (await runProgram(
    `print(inheritedListeners().map(({ name }) => name));
     print([3, 4, 5, 6].map((fd) => raw.openDescriptors().some((each) => each.fd === fd && /^socket/.test(each.target))));
     print(show(await inheritListener('dup')));`,
    { fds: [one, two, three, { fd: one.fd }], names: ['web', 'web', 'web', 'dup'], convention: 'systemd' },
  )) as [string[], boolean[], Listener];

  assert.deepEqual(names, ['web', 'web', 'web']);
  assert.deepEqual(open, [true, true, true, false]);
  assert.deepEqual([taken.name, taken.fd, taken.address], ['dup', 3, one.address]);
});

test('what the fd store gives that is not connected or not bound is no listener, and is claimed by its name', async () => {
  const bare = raw.socket('IPv4', 'stream');
  const bound = raw.socket('IPv4', 'stream');
  raw.bind(bound, { family: 'IPv4', address: '127.0.0.1', port: 0 });

  const [listeners, others, fd] = await runProgram(
    `print(inheritedListeners()); print(inheritedDescriptors().map(({ name, kind, socket }) => [name, kind, socket.listening]));
     print(inheritDescriptor('bound'));`,
    { fds: [bare, bound], names: ['bare', 'bound'], convention: 'systemd' },
  );

  for (const each of [bare, bound]) raw.close(each);
  assert.deepEqual(listeners, []);
  assert.deepEqual(others, [
    ['bare', 'socket', false],
    ['bound', 'socket', false],
  ]);
  assert.equal(fd, 4);
});

/** Where the manager of this process keeps these listeners for it, under these names: what it keeps when the process has served. */
async function keptAfter(t: TestContext, names: string[], claims: string): Promise<string[]> {
  const manager = new Notifications();
  t.after(() => {
    manager.close();
  });
  const listeners = await Promise.all(names.map(() => listen({ host: '127.0.0.1', port: 0 })));
  for (const [index, listener] of listeners.entries()) {
    await notify.storeDescriptors(names[index] ?? '', listener, { address: manager.path });
    listener.close();
    await manager.receive();
  }
  const fds = manager.stored.map(({ fd, name }) => ({ fd, name }));
  const heard: string[] = [];
  const reading = (async (): Promise<void> => {
    for await (const { lines } of manager) heard.push(...lines);
  })();

  // What it says last is heard last, and each barrier stands behind one more of them: the manager's queue may be short.
  const barriers = `for (let left = ${names.length}; left > 0; left--) await fdpass.notify.barrier();`;
  await runProgram(`${claims} await (await ready()).alone; ${barriers}`, {
    fds,
    convention: 'systemd',
    variables: manager.env(),
  });

  const kept = manager.stored.map(({ name }) => name);
  manager.close();
  await reading;
  assert.ok(heard.includes('READY=1'));
  return kept;
}

const FORSAKEN: [what: string, names: string[], claims: string, kept: string[]][] = [
  ['nobody claims it', ['web', 'old'], `await inheritListener('web');`, ['web']],
  ['one of two of the name is claimed', ['web', 'web'], `await inheritListener('web');`, ['web', 'web']],
  [
    'all are claimed',
    ['web', 'old'],
    `for (const name of ['web', 'old']) await inheritListener(name);`,
    ['old', 'web'],
  ],
  ['a hundred that nobody claims', Array.from({ length: 100 }, (_, index) => `old${index}`), '', []],
];
for (const [what, names, claims, kept] of FORSAKEN) {
  test(
    `the fd store: ${what}, and the manager keeps ${kept.join(', ') || 'nothing'}`,
    { skip: skipUnlessLinux },
    async (t) => {
      assert.deepEqual(await keptAfter(t, names, claims), kept);
    },
  );
}

/** A file with some text, opened as OpenFile= does. */
function openFile(t: TestContext, file: string, flags: string): number {
  const fd = fs.openSync(file, flags);
  t.after(() => {
    fs.closeSync(fd);
  });
  return fd;
}

test('OpenFile=: files and a connected Unix socket come mixed with listeners, each by its name and its kind', async (t) => {
  const directory = temporaryDirectory(t);
  const file = path.join(directory, 'data');
  fs.writeFileSync(file, 'content');
  using server = await listen({ path: path.join(directory, 'log.sock') });
  using web = await listen({ host: '127.0.0.1', port: 0 });
  using admin = await listen({ host: '127.0.0.1', port: 0 });
  // An AF_UNIX path is connected by the manager
  const log = raw.socket('unix', 'stream');
  raw.connect(log, { family: 'unix', path: path.join(directory, 'log.sock') });
  t.after(() => raw.close(log));
  const accepted = raw.accept(server.fd);
  assert.ok(accepted !== undefined);
  t.after(() => raw.close(accepted));
  const fds = [web, openFile(t, file, 'r'), openFile(t, file, 'a'), log, openFile(t, '/dev/null', 'r+'), admin];
  const names = ['web', 'data', 'append', 'log.sock', 'null', 'admin'];

  const [listeners, others, served, content, heard, unclaimed, left] = (await runProgram(
    `const fs = await import('node:fs');
     const { once } = await import('node:events');
     print(inheritedListeners().map(({ name }) => name));
     print(inheritedDescriptors().map(({ name, kind, fd, socket }) => [name, kind, fd, socket?.type ?? null]));
     const refusals = [];
     for (const options of ['data', 'log.sock', { fd: 4 }, { fd: 6 }, { name: 'append', strict: true, port: 0 }])
       refusals.push(await attempt(() => inheritListener(options)));
     print(refusals.map(({ code }) => code));
     fs.writeSync(inheritDescriptor('append'), ', more');
     print(fs.readFileSync(inheritDescriptor('data'), 'utf8'));
     const socket = inheritConnection('log.sock');
     socket.end('to the log');
     await once(socket, 'finish');
     print(socket.writableFinished);
     await inheritListener('web');
     const warned = once(process, 'warning');
     await ready();
     print((await warned)[0].message);
     print([3, 4, 5, 7, 8].map((fd) => raw.openDescriptors().some((each) => each.fd === fd && !/^anon_inode|^pipe/.test(each.target))));`,
    { fds, names, convention: 'systemd' },
  )) as [string[], unknown[], string[], string, boolean, string, boolean[]];

  assert.deepEqual(listeners, ['web', 'admin']);
  assert.deepEqual(others, [
    ['data', 'file', 4, null],
    ['append', 'file', 5, null],
    ['log.sock', 'socket', 6, 'stream'],
    ['null', 'character', 7, null],
  ]);
  assert.deepEqual(served, [
    ...['ERR_FDPASS_MISMATCH', 'ERR_FDPASS_MISMATCH', 'ERR_FDPASS_TYPE', 'ERR_FDPASS_TYPE', 'ERR_FDPASS_MISMATCH'],
  ]);
  assert.equal(content, 'content, more');
  assert.equal(heard, true);
  assert.equal(raw.receive(accepted, 100)?.bytes.toString(), 'to the log');
  assert.match(unclaimed, /closed: "admin" \(127\.0\.0\.1:\d+\), "null" \(descriptor 7\)$/);
  assert.deepEqual(left, [true, true, true, false, false]);
});

test(
  'OpenFile=: one path that is opened twice is two descriptions, and stays so',
  { skip: skipUnlessLinux },
  async (t) => {
    const file = path.join(temporaryDirectory(t), 'data');
    fs.writeFileSync(file, '');
    const one = openFile(t, file, 'r+');
    const other = openFile(t, file, 'r');
    raw.dup(one);

    const [names] = await runProgram(`print(inheritedDescriptors().map(({ name, fd }) => [name, fd]));`, {
      fds: [one, other, { fd: one }],
      names: ['one', 'other', 'same'],
      convention: 'systemd',
    });

    assert.deepEqual(names, [
      ['one', 3],
      ['other', 4],
    ]);
  },
);

test('Server::Starter: each address has the type that its socket has, and the generation is told', async (t) => {
  using tcp = await listen({ host: '127.0.0.1', port: 0 });
  using six = await listen({ host: '::1', port: 0, ipv6Only: true });
  using udp = await listen({ host: '0.0.0.0', port: 0, type: 'dgram' });
  using local = await listen({ path: path.join(temporaryDirectory(t), 's.sock') });
  const socket = local.address as { path: string };
  const fds = [tcp, six, udp, local].map((listener, index) => ({ source: listener.fd, target: 4 + index }));
  // `--port u39105` has the key 39105 too
  const value = `127.0.0.1:${tcp.port}=4;[::1]:${six.port}=5;${udp.port}=6;${socket.path}=7`;

  const [found, report, taken, left] = (await runProgram(
    `print(inheritedListeners().map(({ name, type }) => [name, type]));
     const { convention, generation, missing } = inheritedFrom();
     print({ convention, generation, missing });
     print([show(await inheritListener({ port: ${udp.port}, host: '0.0.0.0', type: 'dgram' })),
            show(await inheritListener(${JSON.stringify(socket.path)}))].map(({ fd, type }) => [fd, type]));
     print(Object.keys(process.env).filter((name) => name.startsWith('SERVER_STARTER_')));`,
    { fds, variables: { SERVER_STARTER_PORT: value, SERVER_STARTER_GENERATION: '2' } },
  )) as [unknown, unknown, unknown, unknown];

  assert.deepEqual(found, [
    [`127.0.0.1:${tcp.port}`, 'stream'],
    [`[::1]:${six.port}`, 'stream'],
    [String(udp.port), 'dgram'],
    [socket.path, 'stream'],
  ]);
  assert.deepEqual(report, { convention: 'server-starter', generation: 2, missing: [] });
  assert.deepEqual(taken, [
    [6, 'dgram'],
    [7, 'stream'],
  ]);
  assert.deepEqual(left, []);
});

test('Server::Starter without a port: nothing is there, and this process binds by itself', async () => {
  const [report, listener] = (await runProgram(
    `const { convention, generation } = inheritedFrom(); print({ convention, generation });
     print(show(await inheritListener({ name: 'web', host: '127.0.0.1', port: 0 })));`,
    { variables: { SERVER_STARTER_PORT: '', SERVER_STARTER_GENERATION: '1' } },
  )) as [unknown, Listener];

  assert.deepEqual(report, { convention: 'server-starter', generation: 1 });
  assert.equal(listener.origin, 'bound');
});

test('Server::Starter with --port 80=0: the listener moves away from descriptor 0', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [listener, kind] = (await runProgram(`print(show(await inheritListener())); print(raw.describe(0).kind);`, {
    fds: [{ source: web.fd, target: 0 }],
    variables: { SERVER_STARTER_PORT: '80=0' },
  })) as [Listener, string];

  assert.deepEqual(listener.address, web.address);
  assert.ok(listener.fd > 2);
  assert.equal(kind, 'character');
});

const NUMBERS: [what: string, variables: Record<string, string>, target: number, convention?: string][] = [
  ['systemfd --no-pid, of which others have taken 3', { LISTEN_FDS: '1', LISTEN_FDS_FIRST_FD: '7' }, 7],
  ['systemfd, with the pid', { LISTEN_FDS: '1', LISTEN_FDS_FIRST_FD: '7', LISTEN_PID: 'P' }, 7],
  ['catflap', { LISTEN_FD: '5' }, 5],
  ['shellflip, which is named', { LISTEN_FDS: '1', LISTEN_PID: 'auto' }, 3, 'systemd-nopid'],
  ['socketmaster', { EINHORN_FDS: '3' }, 3],
];
for (const [what, variables, target, convention] of NUMBERS) {
  test(`${what}: ${JSON.stringify(variables)} gives the listener at ${target}, and no variable is left`, async () => {
    using web = await listen({ host: '127.0.0.1', port: 0 });

    const [listener, left] = (await runProgram(
      `${prelude(variables['LISTEN_PID'] === 'P' ? 'P' : undefined)}
       print(show(await inheritListener(${JSON.stringify({ convention })})));
       print(Object.keys(process.env).filter((name) => /^LISTEN_|^EINHORN_FD/.test(name)));`,
      {
        fds: [{ source: web.fd, target }],
        variables,
        pidVariables: variables['LISTEN_PID'] === 'P' ? ['LISTEN_PID'] : [],
      },
    )) as [Listener, string[]];

    assert.deepEqual([listener.fd, listener.address], [target, web.address]);
    assert.deepEqual(left, []);
  });
}

/** A child of child_process: the listener at 3, and Node's channel behind it. */
async function forked(t: TestContext, code: string, env: Record<string, string>): Promise<unknown[]> {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const child = spawnOfNode(process.execPath, programOf(`process.env.LISTEN_PID &&= String(process.pid);\n${code}`), {
    env: { ...process.env, ...env, NODE_TEST_CONTEXT: undefined },
    stdio: ['ignore', 'pipe', 'inherit', web.fd, 'ipc'],
  });
  t.after(() => child.kill('SIGKILL'));
  const messages: unknown[] = [];
  child.on('message', (message) => messages.push(message));
  assert.ok(child.stdout);
  const [said] = await Promise.all([text(child.stdout), once(child, 'close')]);
  assert.deepEqual(messages, ['the channel works']);
  return said
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as unknown);
}

const CHANNEL: [what: string, env: Record<string, string>, options: string, expected: unknown][] = [
  ['one', { LISTEN_FDS: '1' }, '{}', 1],
  ['one, with the pid', { LISTEN_FDS: '1', LISTEN_PID: 'P' }, '{}', 1],
  ['too many: no guess', { LISTEN_FDS: '2' }, '{}', 0],
  ['too many, and named', { LISTEN_FDS: '2' }, "{ convention: 'systemd-nopid' }", 'ERR_FDPASS_ENV'],
  ['too many, with the pid', { LISTEN_FDS: '2', LISTEN_PID: 'P' }, '{}', 'ERR_FDPASS_BADFD'],
  ['the channel itself', { SERVER_STARTER_PORT: '80=4' }, '{}', 'ERR_FDPASS_BADFD'],
];
for (const [what, env, options, expected] of CHANNEL) {
  test(`forked, ${JSON.stringify(env)} (${what}): ${String(expected)}, and Node's channel stays open`, async (t) => {
    const [found] = await forked(
      t,
      `print(await attempt(() => inheritedListeners(${options}).length));
       if (${typeof expected === 'number'}) await (await ready()).alone; // closes what nobody has claimed
       await new Promise((resolve) => process.send('the channel works', resolve));`,
      env,
    );

    if (typeof expected === 'number') assert.equal(found, expected);
    else assert.equal((found as Failure).code, expected);
  });
}

test('nginx: a number that is not open is an error, where nginx itself ends', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [failure] = (await runProgram(`print(await attempt(() => inheritListener({ convention: 'nginx' })));`, {
    fds: [web],
    variables: { NGINX: '3;4;' },
  })) as [Failure];

  assert.deepEqual([failure.code, failure.fd], ['ERR_FDPASS_BADFD', 4]);
});

test('inetd, wait udp: the socket at 0 is taken where the convention is named, and not guessed', async () => {
  using udp = await listen({ host: '127.0.0.1', port: 0, type: 'dgram' });

  const [guess, listener] = (await runProgram(
    `print(inheritedFrom().convention ?? null);
     print(show(await inheritListener({ convention: 'stdin', type: 'dgram' })));`,
    { fds: [{ source: udp.fd, target: 0 }] },
  )) as [unknown, Listener];

  assert.equal(guess, null);
  assert.deepEqual([listener.type, listener.address], ['dgram', udp.address]);
});

/** What `partial` takes where 3 and 5 are listeners, and what it says of the others. */
const PARTIAL: [
  convention: string | undefined,
  variables: Record<string, string>,
  fds: number[],
  missing: [name: string, fd: number][],
][] = [
  // A mere count: what stands behind the first that is missing may be Node's own
  [undefined, { LISTEN_PID: 'P', LISTEN_FDS: '3', LISTEN_FDNAMES: 'a:b:c' }, [3], [['b', 4]]],
  [undefined, { LISTEN_PID: 'P', LISTEN_FDS: '2147483644' }, [3], [['unknown', 4]]],
  [undefined, { LISTEN_PID: 'P', LISTEN_FDS: '1' }, [3], []],
  ['systemd-nopid', { LISTEN_FDS: '3' }, [3], [['unknown', 4]]],
  // Numbers: each for itself
  [
    undefined,
    { SERVER_STARTER_PORT: 'x=99;a=3;y=4;b=5' },
    [3, 5],
    [
      ['x', 99],
      ['y', 4],
    ],
  ],
  ['nginx', { NGINX: '4;5;' }, [5], [['unknown', 4]]],
  ['nginx', { NGINX: '4;' }, [], [['unknown', 4]]],
];
for (const [convention, variables, fds, missing] of PARTIAL) {
  test(`partial, with ${JSON.stringify(variables)}: ${fds.join(', ') || 'none'} is taken, ${missing.map(([, fd]) => fd).join(', ') || 'none'} is missing`, async () => {
    using one = await listen({ host: '127.0.0.1', port: 0 });
    using two = await listen({ host: '127.0.0.1', port: 0 });

    const [whole, partial] = (await Promise.all(
      [false, true].map(async (isPartial) => {
        const options = JSON.stringify({ convention, partial: isPartial });
        return (
          await runProgram(
            `print(await attempt(async () => {
               const found = inheritedListeners(${options}).map(({ address }) => address.port);
               const { missing } = inheritedFrom(${options});
               return { found, missing };
             }));`,
            {
              fds: [
                { source: one.fd, target: 3 },
                { source: two.fd, target: 5 },
              ],
              variables,
              pidVariables: variables['LISTEN_PID'] === 'P' ? ['LISTEN_PID'] : [],
            },
          )
        )[0];
      }),
    )) as [unknown, unknown];

    assert.deepEqual(partial, {
      found: fds.map((fd) => (fd === 3 ? one : two).port),
      missing: missing.map(([name, fd]) => ({ name, fd })),
    });
    if (missing.length > 0) assert.equal((whole as Failure).code, 'ERR_FDPASS_BADFD');
    else assert.deepEqual(whole, partial);
  });
}

test('partial: a guess must still be whole, and a malformed variable is an error', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [guess] = await runProgram(`print(inheritedListeners({ partial: true }).length);`, {
    fds: [web],
    variables: { LISTEN_FDS: '2' },
  });
  const [failure] = (await runProgram(`print(await attempt(() => inheritedListeners({ partial: true })));`, {
    fds: [web],
    convention: 'systemd',
    variables: { LISTEN_FDNAMES: 'a:b' },
  })) as [Failure];

  assert.equal(guess, 0);
  assert.equal(failure.code, 'ERR_FDPASS_NAMES');
});

test('partial: the error of a listener that does not fit names what was announced and is not open', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [failure] = (await runProgram(`print(await attempt(() => inheritListener('admin', { partial: true })));`, {
    fds: [web],
    variables: { LISTEN_FDS: '2', LISTEN_FDNAMES: 'web:admin' },
    pidVariables: ['LISTEN_PID'],
  })) as [Failure];

  assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
  assert.match(failure.message, /there is: "web" .*Announced, and not open: "admin" \(descriptor 4\)/);
});
