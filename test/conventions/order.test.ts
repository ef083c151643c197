/**
 * Which convention is read where several are there, or none fits: the order, what is never guessed, what is an error. In real processes.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { listen, type Listener } from '../../lib/index.js';
import * as raw from '../../lib/raw.js';
import { temporaryDirectory } from '../support/fixture.js';
import { runProgram } from '../support/handed.js';

interface Failure {
  code: string;
  message: string;
  variable?: string;
  value?: string;
  expected?: string;
  got?: string;
  fd?: number;
  listenPid?: number;
  pid?: number;
}

const REPORT =
  'const { convention, ignored } = inheritedFrom(); print([convention ?? null, ignored.map((each) => each.convention)]);';
const all = { SERVER_STARTER_PORT: '80=3', EINHORN_FDS: '3', LISTEN_FDS: '1', NGINX: '3;' };

const ORDER: [variables: Record<string, string>, expected: [string | null, string[]]][] = [
  [all, ['server-starter', ['einhorn', 'systemd-nopid', 'nginx']]],
  [{ EINHORN_FDS: '3', LISTEN_FDS: '1' }, ['einhorn', ['systemd-nopid']]],
  [{ LISTEN_FDS: '1' }, ['systemd-nopid', []]],
  [{ LISTEN_FDS: '1', LISTEN_PID: '' }, ['systemd-nopid', []]],
  [{ LISTEN_FD: '3' }, ['systemd-nopid', []]],
  [{ LISTEN_FDS: '1', LISTEN_PID: '1' }, [null, []]],
  [{ LISTEN_FDS: '1', LISTEN_PID: '1', SERVER_STARTER_PORT: '80=3' }, ['server-starter', []]],
  [{ EINHORN_MASTER_PID: '1', EINHORN_FDS: '3', LISTEN_FDS: '1' }, ['systemd-nopid', []]],
  [{ NGINX: '3;', GUNICORN_PID: '1', GUNICORN_FD: '3' }, [null, ['nginx', 'gunicorn']]],
  [{ LISTEN_FDS: 'x' }, [null, []]],
];
for (const [variables, expected] of ORDER) {
  test(`with ${JSON.stringify(variables)} it is ${expected[0] ?? 'none'}, and [${expected[1].join(', ')}] are ignored`, async () => {
    using web = await listen({ host: '127.0.0.1', port: 0 });

    const [report] = await runProgram(REPORT, { fds: [web], variables });

    assert.deepEqual(report, expected);
  });
}

test('systemd goes before all others, and takes its variables alone', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [report, left] = await runProgram(
    `${REPORT} print(Object.keys(process.env).filter((name) => /LISTEN_|SERVER_STARTER/.test(name)));`,
    { fds: [web], convention: 'systemd', variables: { SERVER_STARTER_PORT: '80=3' } },
  );

  assert.deepEqual(report, ['systemd', ['server-starter']]);
  assert.deepEqual(left, ['SERVER_STARTER_PORT']);
});

test('numbers without a pid are taken only where all are listeners', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const [end, other] = raw.socketPair('stream');

  const [report, failure] = (await runProgram(`${REPORT} print(await attempt(() => inheritListener()));`, {
    fds: [web, end],
    variables: { LISTEN_FDS: '2' },
  })) as [unknown, Failure];

  for (const fd of [end, other]) raw.close(fd);
  assert.deepEqual(report, [null, []]);
  assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
  assert.match(failure.message, /descriptor 4 is no listener, but a stream connection/);
});

test('strict believes no numbers without a pid and no descriptor 0, before and after somebody else did', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  for (const given of [{ variables: { LISTEN_FDS: '1' } }, { convention: 'stdin' as const }]) {
    const [first] = (await runProgram(`print(await attempt(() => inheritListener({ strict: true })));`, {
      fds: [web],
      ...given,
    })) as [Failure];
    const [seen, later] = (await runProgram(
      `print(inheritedListeners().length); print(inheritedListeners({ strict: true }).length);`,
      { fds: [web], ...given },
    )) as [number, number];

    assert.equal(first.code, 'ERR_FDPASS_MISMATCH');
    assert.deepEqual([seen, later], [1, 0]);
  }
});

test('strict does not even touch descriptor 0', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [found, kind] = await runProgram(
    `print(inheritedFrom({ strict: true }).convention ?? null); print(raw.describe(0).kind);`,
    { fds: [web], convention: 'stdin' },
  );

  assert.deepEqual([found, kind], [null, 'socket']);
});

test('a convention that is named restricts: another that is there is an error that names both', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const options = { fds: [web], variables: { SERVER_STARTER_PORT: '80=3' } };

  const [named, later] = (await runProgram(
    `print(await attempt(() => inheritListener({ port: 0, convention: 'einhorn' })));`,
    options,
  )) as [Failure, Failure];
  const [, afterwards] = (await runProgram(
    `print(inheritedListeners().length); print(await attempt(() => inheritListener({ port: 0, convention: 'einhorn' })));`,
    options,
  )) as [number, Failure];

  assert.equal(later, undefined);
  for (const failure of [named, afterwards]) {
    assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
    assert.deepEqual([failure.expected, failure.got], ['einhorn', 'server-starter']);
    assert.match(failure.message, /server-starter.*einhorn/);
  }
});

test('a list of conventions gives the order', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [report] = await runProgram(`print(inheritedFrom({ convention: ['nginx', 'server-starter'] }).convention);`, {
    fds: [web],
    variables: all,
  });

  assert.equal(report, 'nginx');
});

test('a named convention that is not there lets this process bind by itself', async () => {
  const [listener] = await runProgram(
    `print(show(await inheritListener({ convention: 'einhorn', host: '127.0.0.1', port: 0 })));`,
  );

  assert.equal((listener as Listener).origin, 'bound');
});

test('what is never looked for by itself can be named later, where nothing else was found', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [before, listener] = await runProgram(
    `print(inheritedListeners().length); print(show(await inheritListener({ convention: 'nginx' })));`,
    { fds: [web], variables: { NGINX: '3;' } },
  );

  assert.equal(before, 0);
  assert.deepEqual((listener as Listener).address, web.address);
});

const FOREIGN: [variables: Record<string, string>, convention: string, variable: string][] = [
  [{ LISTEN_FDS: '1', LISTEN_PID: '1' }, 'systemd', 'LISTEN_PID'],
  [{ LISTEN_FDS: '1', LISTEN_PID: '1' }, 'systemd-nopid', 'LISTEN_PID'],
  [{ EINHORN_MASTER_PID: '1', EINHORN_FD_COUNT: '0' }, 'einhorn', 'EINHORN_MASTER_PID'],
];
for (const [variables, convention, variable] of FOREIGN) {
  test(`${convention} is named, and ${variable} is another's: an error with both numbers, and nothing is bound`, async () => {
    const [failure] = (await runProgram(
      `print(await attempt(() => inheritListener({ port: 0, convention: ${JSON.stringify(convention)} })));`,
      { variables },
    )) as [Failure];

    assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
    assert.deepEqual([failure.variable, failure.got], [variable, '1']);
    assert.match(failure.expected ?? '', /^\d+$/);
    const pids = variable === 'LISTEN_PID' ? [1, Number(failure.expected)] : [undefined, undefined];
    assert.deepEqual([failure.listenPid, failure.pid], pids);
  });
}

const DAMAGED: [variables: Record<string, string>, code: string, detail: Partial<Failure>][] = [
  [{ SERVER_STARTER_PORT: '8080' }, 'ERR_FDPASS_ENV', { variable: 'SERVER_STARTER_PORT', value: '8080' }],
  [{ SERVER_STARTER_PORT: '8080=99' }, 'ERR_FDPASS_BADFD', { fd: 99 }],
  [{ SERVER_STARTER_PORT: 'x', LISTEN_FDS: '1' }, 'ERR_FDPASS_ENV', { variable: 'SERVER_STARTER_PORT' }],
  [{ LISTEN_FDS: '1', LISTEN_PID: 'abc', SERVER_STARTER_PORT: '80=3' }, 'ERR_FDPASS_ENV', { variable: 'LISTEN_PID' }],
  [{ LISTEN_FDS: '9', LISTEN_PID: '' }, 'ERR_FDPASS_ENV', { variable: 'LISTEN_PID', value: '' }],
  [{ LISTEN_FDS: 'x', LISTEN_PID: '' }, 'ERR_FDPASS_ENV', { variable: 'LISTEN_PID', value: '' }],
  [{ LISTEN_FDS: '1', LISTEN_PID: 'auto' }, 'ERR_FDPASS_ENV', { variable: 'LISTEN_PID', value: 'auto' }],
];
for (const [variables, code, detail] of DAMAGED) {
  test(`${JSON.stringify(variables)} is an error, whatever else is there, and nothing is bound`, async () => {
    using web = await listen({ host: '127.0.0.1', port: 0 });

    const [first, second] = (await runProgram(
      `print(await attempt(() => inheritListener({ port: 0 }))); print(await attempt(() => inheritListener({ port: 0 })));`,
      { fds: [web], variables },
    )) as [Failure, Failure];

    assert.equal(first.code, code, first.message);
    for (const [key, value] of Object.entries(detail)) assert.equal(first[key as keyof Failure], value);
    assert.deepEqual(second, first);
  });
}

test('two names for one socket: one listener, under either name, and one descriptor', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [count, open, listener] = (await runProgram(
    `print(inheritedListeners().length);
     print(raw.openDescriptors().filter(({ target }) => target === 'socket:[' + raw.describe(3).inode + ']').length);
     print(show(await inheritListener('stored')));`,
    { fds: [web, { fd: web.fd }], names: ['web', 'stored'], convention: 'systemd' },
  )) as [number, number, Listener];

  assert.deepEqual([count, open, listener.name], [1, 1, 'stored']);
});

test('one number twice is one listener, and stays open', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const [count, listening] = await runProgram(
    `print(inheritedListeners().length); print(raw.describe(3).socket.listening);`,
    { fds: [web], variables: { SERVER_STARTER_PORT: '80=3;81=3' } },
  );

  assert.deepEqual([count, listening], [1, true]);
});

test('where a supervisor gives no names a name does not matter, and an address must agree', async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const options = { fds: [web], convention: 'einhorn' as const };

  const [byName] = (await runProgram(`print(show(await inheritListener('web')));`, options)) as [Listener];
  const [other] = (await runProgram(
    `print(show(await inheritListener({ name: 'admin', host: '127.0.0.1', port: 0, type: 'dgram' })));`,
    options,
  )) as [Listener];
  const [elsewhere] = (await runProgram(
    `print(show(await inheritListener({ name: 'admin', host: '127.0.0.2', port: 0 })));`,
    options,
  )) as [Listener];

  assert.deepEqual(byName.address, web.address);
  assert.deepEqual([other.origin, elsewhere.origin], ['bound', 'bound']);
});

test('several without names and a name: an error that lists them, not the first that comes', async () => {
  using one = await listen({ host: '127.0.0.1', port: 0 });
  using two = await listen({ host: '127.0.0.1', port: 0 });

  const [failure] = (await runProgram(`print(await attempt(() => inheritListener('web')));`, {
    fds: [one, two],
    convention: 'server-starter',
  })) as [Failure];

  assert.equal(failure.code, 'ERR_FDPASS_MISMATCH');
  assert.match(failure.message, new RegExp(`several fit.*${one.port}.*${two.port}`));
});

test('a key of Server::Starter is a name too', async () => {
  using one = await listen({ host: '127.0.0.1', port: 0 });
  using two = await listen({ host: '127.0.0.1', port: 0 });

  const [taken] = (await runProgram(`print(show(await inheritListener(process.argv.at(-1))));`, {
    fds: [one, two],
    variables: { SERVER_STARTER_PORT: 'a=3;b=4' },
    args: ['b'],
  })) as [Listener];

  assert.deepEqual(taken.address, two.address);
});

const BAD_NUMBERS: [options: string, code: string, message: RegExp][] = [
  ["{ fd: 'x' }", 'ERR_INVALID_ARG_VALUE', /it is 'x'/],
  ['{ fd: -1 }', 'ERR_INVALID_ARG_VALUE', /it is -1/],
  ['{ fd: 3.5 }', 'ERR_INVALID_ARG_VALUE', /it is 3.5/],
  ['{ fd: 3, port: 80 }', 'ERR_INVALID_ARG_VALUE', /without a host, a port and a path/],
  ["{ convention: 'upstart' }", 'ERR_INVALID_ARG_VALUE', /it is upstart/],
  ['{ fd: 99 }', 'ERR_FDPASS_BADFD', /99/],
  ['{ fd: 1 }', 'ERR_FDPASS_TYPE', /Descriptor 1 is not a listener/],
  ["{ fd: 3, type: 'dgram' }", 'ERR_FDPASS_TYPE', /a dgram listener: it is a stream socket/],
];
for (const [options, code, message] of BAD_NUMBERS) {
  test(`inheritListener(${options}) is refused with ${code}`, async () => {
    using web = await listen({ host: '127.0.0.1', port: 0 });

    const [failure] = (await runProgram(`print(await attempt(() => inheritListener(${options})));`, {
      fds: [web],
    })) as [Failure];

    assert.equal(failure.code, code, failure.message);
    assert.match(failure.message, message);
  });
}

/** A connection of which the client is here, and the other end a bare descriptor. */
async function connection(): Promise<{ client: net.Socket; fd: number }> {
  using listener = await listen({ host: '127.0.0.1', port: 0 });
  const client = net.connect({ host: '127.0.0.1', port: listener.port ?? 0 });
  await once(client, 'connect');
  const fd = raw.accept(listener.fd);
  assert.ok(fd !== undefined);
  return { client, fd };
}

test('Accept=yes: the connection comes as a socket, is no listener, and is claimed once', async (t) => {
  const { client, fd } = await connection();
  t.after(() => client.destroy());
  const said = once(client, 'data');

  const [seen, listeners, again] = (await runProgram(
    `print(inheritedDescriptors().map(({ name, kind, socket }) => [name, kind, socket.listening]));
     print(inheritedListeners());
     const socket = inheritConnection('connection');
     socket.end('served');
     print(await attempt(() => inheritConnection()));
     await (await import('node:events')).once(socket, 'close');`,
    { fds: [fd], names: ['connection'], convention: 'systemd' },
  )) as [unknown, unknown, Failure];

  raw.close(fd);
  assert.deepEqual(seen, [['connection', 'socket', false]]);
  assert.deepEqual(listeners, []);
  assert.equal(again.code, 'ERR_FDPASS_CLAIMED');
  assert.equal(String((await said)[0]), 'served');
});

test('a server takes the connection of Accept=yes', async (t) => {
  const { client, fd } = await connection();
  t.after(() => client.destroy());
  client.write('GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
  let text = '';
  client.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const closed = once(client, 'close');

  await runProgram(
    `const http = await import('node:http');
     const { once } = await import('node:events');
     const server = http.createServer((request, response) => response.end('by systemd'));
     const socket = inheritConnection();
     server.emit('connection', socket);
     await once(socket, 'close');`,
    { fds: [fd], names: ['connection'], convention: 'systemd' },
  );

  raw.close(fd);
  await closed;
  assert.match(text, /200 OK[^]*by systemd/);
});

test('inetd, nowait: the connection at 0 and 1 is taken only by its name, and ends when it is ended', async (t) => {
  const { client, fd } = await connection();
  t.after(() => client.destroy());
  let text = '';
  client.on('data', (chunk: Buffer) => (text += chunk.toString()));
  const closed = once(client, 'close');
  client.write('hello');

  await runProgram(
    `const { once } = await import('node:events');
     if (inheritedFrom().convention !== undefined) process.exit(3);
     const socket = inheritConnection({ convention: 'stdin' });
     const [data] = await once(socket, 'data');
     socket.end('heard ' + data);
     await once(socket, 'close');
     if (raw.describe(0).kind !== 'character' || raw.describe(1).kind !== 'character') process.exit(4);`,
    { stdio: [fd, fd, 'inherit'] },
  );

  raw.close(fd);
  await closed;
  assert.equal(text, 'heard hello');
});

test('OpenFile=: the file comes by its name as a bare descriptor; a FIFO too', async (t) => {
  const directory = temporaryDirectory(t);
  fs.writeFileSync(path.join(directory, 'data'), 'content');
  const file = fs.openSync(path.join(directory, 'data'), 'r');
  t.after(() => {
    fs.closeSync(file);
  });
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [kinds, text, again, none] = (await runProgram(
    `print(inheritedDescriptors().map(({ name, kind }) => [name, kind]));
     const fd = inheritDescriptor('data');
     print((await import('node:fs')).readFileSync(fd, 'utf8') + raw.getCloseOnExec(fd));
     print(await attempt(() => inheritDescriptor('data')));
     print(await attempt(() => inheritDescriptor('other')));`,
    { fds: [{ fd: file, name: 'data' }, web], convention: 'systemd' },
  )) as [unknown, string, Failure, Failure];

  assert.deepEqual(kinds, [['data', 'file']]);
  assert.equal(text, 'contenttrue');
  assert.equal(again.code, 'ERR_FDPASS_CLAIMED');
  assert.equal(none.code, 'ERR_FDPASS_MISMATCH');
  assert.match(none.message, /"data" \(a file, claimed\); "web" \(a listener, 127/);
});

test('inheritConnection refuses what is no stream, and says what there is', async () => {
  const [end, other] = raw.socketPair('seqpacket');

  const [failure, fd] = (await runProgram(
    `print(await attempt(() => inheritConnection())); print(inheritDescriptor());`,
    { fds: [end], names: ['peer'], convention: 'systemd' },
  )) as [Failure, number];

  for (const each of [end, other]) raw.close(each);
  assert.equal(failure.code, 'ERR_FDPASS_TYPE');
  assert.match(failure.message, /"peer" is no stream, but a seqpacket connection/);
  assert.equal(fd, 3);
});
