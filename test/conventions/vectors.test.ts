/**
 * Every convention but systemd's (systemd.test.ts), as tables: what each text says, what is refused, and what is written.
 * Pure: nothing is opened.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { writeArguments } from '../../lib/conventions/argv.js';
import type { Environment, GivenDescriptor } from '../../lib/conventions/convention.js';
import { isAcknowledgement, writeEinhorn } from '../../lib/conventions/einhorn.js';
import { writeFpm } from '../../lib/conventions/fpm.js';
import { decodeGob, encodeGob } from '../../lib/conventions/gob.js';
import { writeGunicorn } from '../../lib/conventions/gunicorn.js';
import { writeNginx } from '../../lib/conventions/nginx.js';
import { writePuma } from '../../lib/conventions/puma.js';
import { writeServerStarter } from '../../lib/conventions/serverStarter.js';
import { writeSystemd } from '../../lib/conventions/systemd.js';
import { conventionEntry, type SupervisorConvention } from '../../lib/conventions/table.js';
import { readTableflip, readTableflipNames, writeTableflip } from '../../lib/conventions/tableflip.js';
import { writeUnicorn } from '../../lib/conventions/unicorn.js';
import { FdpassError } from '../../lib/errors.js';

type Readable = Exclude<SupervisorConvention, 'tableflip'>;

const SELF = { pid: 4711, ppid: 42 };

function read(convention: Readable, environment: Environment, isNamed = false): [name: string, fd: number][] | string {
  const { descriptors, note } = conventionEntry(convention).read(environment, SELF, isNamed);
  return descriptors === undefined ? note : [...descriptors].map(({ name, fd }) => [name, fd]);
}

const unknown = (...fds: number[]): [string, number][] => fds.map((fd) => ['unknown', fd]);

const FOUND: [convention: Readable, environment: Record<string, string>, expected: [string, number][]][] = [
  ['server-starter', { SERVER_STARTER_PORT: '8080=4' }, [['8080', 4]]],
  ['server-starter', { SERVER_STARTER_PORT: '' }, []],
  ['server-starter', { SERVER_STARTER_PORT: '8080=4;' }, [['8080', 4]]],
  ['server-starter', { SERVER_STARTER_PORT: '80=0' }, [['80', 0]]],
  ['server-starter', { SERVER_STARTER_PORT: '/a=b=5' }, [['/a=b', 5]]],
  [
    'server-starter',
    { SERVER_STARTER_PORT: '127.0.0.1:39105=4;[::1]:39105=5;39105=6;/run/s.sock=7', SERVER_STARTER_GENERATION: '2' },
    [
      ['127.0.0.1:39105', 4],
      ['[::1]:39105', 5],
      ['39105', 6],
      ['/run/s.sock', 7],
    ],
  ],
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '2', EINHORN_FD_0: '6', EINHORN_FD_1: '7' }, unknown(6, 7)],
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '0' }, []],
  // -g: a connection for the acknowledgement stands below, and is none of them.
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '1', EINHORN_FD_0: '7', EINHORN_SOCK_FD: '5' }, unknown(7)],
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FDS: '6 7' }, unknown(6, 7)],
  ['einhorn', { EINHORN_FDS: '3' }, unknown(3)],
  // Both: the count has the word.
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '1', EINHORN_FD_0: '7', EINHORN_FDS: '9' }, unknown(7)],
  ['systemd-nopid', { LISTEN_FDS: '2' }, unknown(3, 4)],
  ['systemd-nopid', { LISTEN_FDS: '1', LISTEN_PID: '' }, unknown(3)],
  ['systemd-nopid', { LISTEN_FDS: '2', LISTEN_FDS_FIRST_FD: '7' }, unknown(7, 8)],
  [
    'systemd-nopid',
    { LISTEN_FDS: '2', LISTEN_FDNAMES: 'a:b' },
    [
      ['a', 3],
      ['b', 4],
    ],
  ],
  ['systemd-nopid', { LISTEN_FDS: '1', LISTEN_FDS_FIRST_FD: '' }, unknown(3)],
  ['systemd-nopid', { LISTEN_FD: '5' }, unknown(5)],
  ['systemd-nopid', { LISTEN_FD: '0', LISTEN_PID: '' }, unknown(0)],
  ['systemd-nopid', { LISTEN_FDS: '1', LISTEN_FD: '5' }, unknown(3)], // both: the count has the word
  ['systemd-nopid', { LISTEN_FDS: '1', NODE_CHANNEL_FD: '4' }, unknown(3)],
  ['nginx', { NGINX: '3;' }, unknown(3)],
  ['nginx', { NGINX: '7;' }, unknown(7)],
  ['nginx', { NGINX: '3;7;' }, unknown(3, 7)],
  ['nginx', { NGINX: '3:7;' }, unknown(3, 7)],
  ['nginx', { NGINX: '3:' }, unknown(3)],
  ['nginx', { NGINX: '' }, []],
  ['gunicorn', { GUNICORN_PID: '1', GUNICORN_FD: '5,6' }, unknown(5, 6)],
  ['unicorn', { UNICORN_FD: '5,6' }, unknown(5, 6)],
  ['puma', { PUMA_INHERIT_0: '5:tcp://127.0.0.1:9292' }, [['tcp://127.0.0.1:9292', 5]]],
  [
    'puma',
    { PUMA_INHERIT_10: '7:unix:///b', PUMA_INHERIT_2: '6:tcp://[::1]:80' },
    [
      ['tcp://[::1]:80', 6],
      ['unix:///b', 7],
    ],
  ],
  [
    'fpm',
    { FPM_SOCKETS: '127.0.0.1:9000=5,/run/a.sock=6' },
    [
      ['127.0.0.1:9000', 5],
      ['/run/a.sock', 6],
    ],
  ],
  [
    'fpm',
    { FPM_SOCKETS: '9000=5', FPM_SOCKETS_1: '9001=6', FPM_SOCKETS_2: '/run/a=b.sock=7', FPM_SOCKETS_4: '9004=9' },
    [
      ['9000', 5],
      ['9001', 6],
      ['/run/a=b.sock', 7],
    ],
  ],
  ['fpm', { FPM_SOCKETS: '' }, []],
];
for (const [convention, environment, expected] of FOUND) {
  test(`${convention}: ${JSON.stringify(environment)} is ${JSON.stringify(expected)}`, () => {
    assert.deepEqual(read(convention, environment), expected);
  });
}

const NOTHING: [convention: Readable, environment: Record<string, string>, note: RegExp][] = [
  ['server-starter', {}, /SERVER_STARTER_PORT is not set/],
  ['einhorn', {}, /EINHORN_FD_COUNT is not set/],
  ['einhorn', { EINHORN_MASTER_PID: '41', EINHORN_FD_COUNT: '1', EINHORN_FD_0: '6' }, /is 41, and the parent .* is 42/],
  ['einhorn', { EINHORN_FD_COUNT: '1', EINHORN_FD_0: '6' }, /without EINHORN_MASTER_PID/],
  ['systemd-nopid', {}, /LISTEN_FDS is not set/],
  ['systemd-nopid', { LISTEN_FDS: '1', LISTEN_PID: '4711' }, /LISTEN_PID is 4711/],
  ['systemd-nopid', { LISTEN_FDS: '1', LISTEN_PID: 'auto' }, /LISTEN_PID is auto/],
  ['nginx', {}, /NGINX is not set/],
  ['gunicorn', { GUNICORN_FD: '5' }, /GUNICORN_PID is not set/],
  ['unicorn', {}, /UNICORN_FD is not set/],
  ['puma', { PUMA_INHERIT_X: '5:tcp://a' }, /PUMA_INHERIT_0 is not set/],
  ['fpm', {}, /FPM_SOCKETS is not set/],
];
for (const [convention, environment, note] of NOTHING) {
  test(`${convention}: ${JSON.stringify(environment)} hands nothing down, and the note says why`, () => {
    const found = read(convention, environment);

    assert.ok(typeof found === 'string');
    assert.match(found, note);
  });
}

test('the generation of Server::Starter is told, and only where it says so', () => {
  const generationOf = (environment: Environment): number | undefined =>
    conventionEntry('server-starter').read(environment, SELF, false).generation;

  assert.equal(generationOf({ SERVER_STARTER_PORT: '80=4', SERVER_STARTER_GENERATION: '7' }), 7);
  assert.equal(generationOf({ SERVER_STARTER_PORT: '80=4' }), undefined);
  assert.equal(generationOf({ SERVER_STARTER_GENERATION: '7' }), undefined); // not under start_server
});

test('the channel to a parent of Node is not among them, though its variable is gone', () => {
  const entry = conventionEntry('systemd-nopid');

  assert.throws(() => entry.read({ LISTEN_FDS: '2' }, { ...SELF, channel: 4 }, true), { code: 'ERR_FDPASS_ENV' });
  for (const channel of [2, 5, undefined]) {
    assert.deepEqual([...(entry.read({ LISTEN_FDS: '2' }, { ...SELF, channel }, true).descriptors ?? [])].length, 2);
  }
});

test('LISTEN_PID=auto is for whoever reads it, where the convention is named', () => {
  assert.deepEqual(read('systemd-nopid', { LISTEN_FDS: '1', LISTEN_PID: 'auto' }, true), unknown(3));
});

const REFUSED: [convention: Readable, environment: Record<string, string>, variable: string][] = [
  ...['8080', '8080=x', '=4', '8080=', '8080=4;x', '8080=-1', '8080=99999999999'].map(
    (value): [Readable, Record<string, string>, string] => [
      'server-starter',
      { SERVER_STARTER_PORT: value },
      'SERVER_STARTER_PORT',
    ],
  ),
  ['server-starter', { SERVER_STARTER_PORT: '80=4', SERVER_STARTER_GENERATION: 'x' }, 'SERVER_STARTER_GENERATION'],
  ['server-starter', { SERVER_STARTER_PORT: '80=4', SERVER_STARTER_GENERATION: '' }, 'SERVER_STARTER_GENERATION'],
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '2', EINHORN_FD_0: '6' }, 'EINHORN_FD_1'],
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: 'x' }, 'EINHORN_FD_COUNT'],
  ['einhorn', { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '1', EINHORN_FD_0: 'x' }, 'EINHORN_FD_0'],
  ['einhorn', { EINHORN_MASTER_PID: 'x', EINHORN_FD_COUNT: '0' }, 'EINHORN_MASTER_PID'],
  ['einhorn', { EINHORN_FDS: '6 x' }, 'EINHORN_FDS'],
  ['systemd-nopid', { LISTEN_FDS: '0' }, 'LISTEN_FDS'],
  ['systemd-nopid', { LISTEN_FDS: '1', LISTEN_FDS_FIRST_FD: '2' }, 'LISTEN_FDS_FIRST_FD'],
  ['systemd-nopid', { LISTEN_FDS: '2', NODE_CHANNEL_FD: '4' }, 'LISTEN_FDS'],
  ['systemd-nopid', { LISTEN_FD: 'x' }, 'LISTEN_FD'],
  ['nginx', { NGINX: '3' }, 'NGINX'],
  ['nginx', { NGINX: 'x;' }, 'NGINX'],
  ['nginx', { NGINX: '3;;' }, 'NGINX'],
  ['gunicorn', { GUNICORN_PID: '1' }, 'GUNICORN_FD'],
  ['gunicorn', { GUNICORN_PID: '1', GUNICORN_FD: '5,x' }, 'GUNICORN_FD'],
  ['unicorn', { UNICORN_FD: '5;6' }, 'UNICORN_FD'],
  ['puma', { PUMA_INHERIT_0: 'tcp' }, 'PUMA_INHERIT_0'],
  ['puma', { PUMA_INHERIT_0: 'x:tcp://a' }, 'PUMA_INHERIT_0'],
  ['fpm', { FPM_SOCKETS: '9000' }, 'FPM_SOCKETS'],
  ['gunicorn', { GUNICORN_PID: '1', GUNICORN_FD: '' }, 'GUNICORN_FD'],
  ['fpm', { FPM_SOCKETS: '127.0.0.1:9000=x' }, 'FPM_SOCKETS'],
  ['fpm', { FPM_SOCKETS: '9000=5', FPM_SOCKETS_1: '9001' }, 'FPM_SOCKETS_1'],
];
for (const [convention, environment, variable] of REFUSED) {
  test(`${convention}: ${JSON.stringify(environment)} is refused, and the error names ${variable} and its value`, () => {
    assert.throws(
      () => read(convention, environment),
      (error) => {
        assert.ok(error instanceof FdpassError);
        assert.equal(error.code, 'ERR_FDPASS_ENV');
        assert.equal(error.variable, variable);
        assert.equal(error.value, environment[variable]);
        assert.ok(error.message.startsWith(`${variable}: `), error.message);
        return true;
      },
    );
  });
}

test('a count of 2147483647 descriptors of einhorn allocates nothing: the first that is missing ends it', () => {
  const environment = { EINHORN_MASTER_PID: '42', EINHORN_FD_COUNT: '2147483647', EINHORN_FD_0: '6' };

  assert.throws(() => read('einhorn', environment), { code: 'ERR_FDPASS_ENV', variable: 'EINHORN_FD_1' });
});

const GIVEN: GivenDescriptor[] = [
  { fd: 3, name: 'web', address: '127.0.0.1:8080' },
  { fd: 7, name: 'all', address: '0.0.0.0:81' },
  { fd: 8, name: 'local', address: '/run/app.sock' },
];

test('what is written is, letter by letter, what the programs themselves write', () => {
  assert.deepEqual(writeServerStarter(GIVEN, 3).variables, {
    SERVER_STARTER_PORT: '127.0.0.1:8080=3;81=7;/run/app.sock=8',
    SERVER_STARTER_GENERATION: '3',
  });
  assert.deepEqual(writeEinhorn(GIVEN, { pid: 42 }, '/run/e.sock').variables, {
    EINHORN_MASTER_PID: '42',
    EINHORN_FD_COUNT: '3',
    EINHORN_FD_0: '3',
    EINHORN_FD_1: '7',
    EINHORN_FD_2: '8',
    EINHORN_FDS: '3 7 8',
    EINHORN_CHILD_INDEX: '0',
    EINHORN_SOCK_PATH: '/run/e.sock',
  });
  assert.deepEqual(writeNginx(GIVEN).variables, { NGINX: '3;7;8;' });
  assert.deepEqual(writeFpm(GIVEN).variables, { FPM_SOCKETS: '127.0.0.1:8080=3,0.0.0.0:81=7,/run/app.sock=8' });
  assert.deepEqual(writeGunicorn(GIVEN, { pid: 42 }).variables, { GUNICORN_PID: '42', GUNICORN_FD: '3,7,8' });
  assert.deepEqual(writeUnicorn(GIVEN).variables, { UNICORN_FD: '3,7,8' });
  assert.deepEqual(writePuma(GIVEN).variables, {
    PUMA_INHERIT_0: '3:tcp://127.0.0.1:8080',
    PUMA_INHERIT_1: '7:tcp://0.0.0.0:81',
    PUMA_INHERIT_2: '8:unix:///run/app.sock',
  });
  assert.deepEqual(writePuma(GIVEN.slice(0, 1), ['tcp://localhost:8080']).variables, {
    PUMA_INHERIT_0: '3:tcp://localhost:8080',
  });
  assert.deepEqual(writeSystemd(['web'], { pid: 'omit' }), {
    variables: { LISTEN_FDS: '1', LISTEN_FDNAMES: 'web' },
    pidVariables: [],
  });
  assert.deepEqual(writeSystemd(['web'], { first: 7 }), {
    variables: { LISTEN_FDS: '1', LISTEN_FDNAMES: 'web', LISTEN_FDS_FIRST_FD: '7' },
    pidVariables: ['LISTEN_PID'],
  });
});

test('php-fpm has 128 sockets in a variable, and the others in the next ones', () => {
  const given = Array.from({ length: 300 }, (_, index) => ({ fd: 3 + index, name: '', address: `/run/${index}` }));
  const { variables } = writeFpm(given);

  assert.deepEqual(Object.keys(variables), ['FPM_SOCKETS', 'FPM_SOCKETS_1', 'FPM_SOCKETS_2']);
  assert.deepEqual(
    Object.values(variables).map((value) => value.split(',').length),
    [128, 128, 44],
  );
  assert.deepEqual(
    read('fpm', variables),
    given.map(({ address, fd }) => [address, fd]),
  );
});

test('no descriptors: what is written is what each program takes for none', () => {
  assert.deepEqual(writeServerStarter([], 1).variables, {
    SERVER_STARTER_PORT: '',
    SERVER_STARTER_GENERATION: '1',
  });
  assert.equal(writeEinhorn([], { pid: 42 }).variables['EINHORN_FD_COUNT'], '0');
  assert.deepEqual(writeFpm([]).variables, { FPM_SOCKETS: '' });
  assert.deepEqual(writeGunicorn([], { pid: 42 }).variables, {}); // an empty GUNICORN_FD ends it
  assert.deepEqual(writeUnicorn([]).variables, { UNICORN_FD: '' });
  assert.deepEqual(writePuma([]).variables, {});
  assert.deepEqual(writeNginx([]).variables, { NGINX: '' });
});

for (const address of ['/run/a;b', '/run/a=b', '']) {
  test(`Server::Starter cannot carry the address "${address}", and php-fpm no ","`, () => {
    assert.throws(() => writeServerStarter([{ fd: 3, name: 'web', address }], 1), {
      code: 'ERR_FDPASS_NAMES',
      value: address,
    });
    assert.throws(() => writeFpm([{ fd: 3, name: 'web', address: '/run/a,b' }]), { code: 'ERR_FDPASS_NAMES' });
  });
}

test('puma is refused another number of urls than of descriptors', () => {
  assert.throws(() => writePuma(GIVEN, ['tcp://a']), { code: 'ERR_FDPASS_NAMES' });
});

test('the acknowledgement of a worker is known in JSON and in YAML, and only of that worker', () => {
  const line = Buffer.from('7b22636f6d6d616e64223a22776f726b65723a61636b222c22706964223a34327d0a', 'hex').toString();

  assert.equal(isAcknowledgement(line.trim(), 42), true);
  assert.equal(isAcknowledgement('---%0Acommand: worker:ack%0Apid: 42%0A', 42), true);
  assert.equal(isAcknowledgement('---%0A:command: worker:ack%0A:pid: 42%0A', 42), true);
  assert.equal(isAcknowledgement(line, 43), false);
  assert.equal(isAcknowledgement('{"command":"worker:ping","pid":42}', 42), false);
  assert.equal(isAcknowledgement('', 42), false);
});

const TYPES = '0dff83020102ff840001ff8200000cff81020102ff8200010c0000';
const ONE = `${TYPES}21ff84000103086c697374656e6572037463700e3132372e302e302e313a38303830`;

test('tableflip: what is written is what Go writes', () => {
  const socket = { kind: 'listener', network: 'tcp', address: '127.0.0.1:8080', fd: 5, name: 'web' } as const;

  assert.equal(writeTableflip([socket]).names.toString('hex'), ONE);
  assert.equal(writeTableflip([]).names.toString('hex'), `${TYPES}04ff840000`);
  assert.deepEqual(writeTableflip([]).variables, { TABLEFLIP_HAS_PARENT_7DIU3: 'yes' });
});

test('tableflip: what Go writes is read, whole alone, and from any piece on', () => {
  const bytes = Buffer.from(ONE, 'hex');

  for (let length = 0; length < bytes.length; length++) {
    assert.equal(readTableflipNames(bytes.subarray(0, length)), undefined);
  }
  assert.deepEqual(readTableflipNames(bytes), [{ name: '127.0.0.1:8080', fd: 5 }]);
  const other = encodeGob([
    ['fd', 'data', ''],
    ['conn', 'tcp', 'peer'],
  ]);
  assert.deepEqual(readTableflipNames(other), [
    { name: 'data', fd: 5 },
    { name: 'peer', fd: 6 },
  ]);
});

test('tableflip: lists and texts of every length come back as they were', () => {
  const lists = [
    [],
    ['', 'ä', 'x'.repeat(127), 'y'.repeat(128), 'z'.repeat(70_000)],
    ...Array<string[]>(300).fill(['a', 'b', 'c']),
  ];

  assert.deepEqual(decodeGob(encodeGob(lists))?.value, lists);
});

const BROKEN: [what: string, hex: string][] = [
  ['another type', '0cff81020102ff8200010c000007ff820001026869'],
  ['another value', `${TYPES}04ff860000`],
  ['a count that is not there', `${TYPES}04ff840005`],
  ['a text that is longer than the value', `${TYPES}06ff8400010141`],
  ['a length of eight bytes', `${TYPES}f80000000000000001`],
  ['a value of 2 MiB', `${TYPES}fd200000`],
  ['bytes left over', `${TYPES}05ff84000041`],
  ['more than one value', `${ONE}00`],
];
for (const [what, hex] of BROKEN) {
  test(`tableflip: ${what} is refused`, () => {
    assert.throws(() => readTableflipNames(Buffer.from(hex, 'hex')), { code: 'ERR_FDPASS_PROTOCOL' });
  });
}

test('tableflip: the variable is "yes", absent, or damaged', () => {
  assert.equal(readTableflip({}), false);
  assert.equal(readTableflip({ TABLEFLIP_HAS_PARENT_7DIU3: 'yes' }), true);
  assert.throws(() => readTableflip({ TABLEFLIP_HAS_PARENT_7DIU3: '1' }), {
    code: 'ERR_FDPASS_ENV',
    variable: 'TABLEFLIP_HAS_PARENT_7DIU3',
    value: '1',
  });
});

const [web, all] = GIVEN as [GivenDescriptor, GivenDescriptor];
const ARGUMENTS: [args: string[], given: GivenDescriptor[], token: string | undefined, expected: string[]][] = [
  [['--fd', '{fd}'], [web], undefined, ['--fd', '3']],
  [['-b', 'fd://{fd:web}', 'fd@{fd:all}'], [web, all], undefined, ['-b', 'fd://3', 'fd@7']],
  [['--fd=$(circus.sockets.web)'], [web], '$(circus.sockets.web)', ['--fd=3']],
  [['$(circus.sockets.web),$(circus.sockets.all)'], [web, all], '$(circus.sockets.NAME)', ['3,7']],
  [['plain'], [], undefined, ['plain']],
  [
    ['{fd:$&}', "{fd:$'}"],
    [
      { ...web, name: '$&' },
      { ...all, name: "$'" },
    ],
    undefined,
    ['3', '7'],
  ],
];
for (const [args, given, token, expected] of ARGUMENTS) {
  test(`argv: ${JSON.stringify(args)} becomes ${JSON.stringify(expected)}`, () => {
    assert.deepEqual(writeArguments(args, given, token), expected);
  });
}

const BAD_ARGUMENTS: [args: string[], given: GivenDescriptor[], token: string | undefined, message: RegExp][] = [
  [['--fd', '3'], [web], undefined, /No argument has "\{fd:web\}" or "\{fd\}" in it/],
  [['{fd:web}'], [web, all], undefined, /"\{fd:all\}"/],
  [['{fd}'], [web, all], '{fd}', /put NAME in it/],
  [['x'], [web], '', /empty/],
];
for (const [args, given, token, message] of BAD_ARGUMENTS) {
  test(`argv: ${JSON.stringify(args)} with ${given.length} descriptor(s) is refused: ${message.source}`, () => {
    assert.throws(() => writeArguments(args, given, token), { code: 'ERR_FDPASS_NAMES', message });
  });
}
