/**
 * What a child finds that reads its own convention as strictly as the program that the convention is of: fixtures/reader.py, which
 * follows the sources of those and knows nothing of fdpass. libsystemd answers for systemd where it is installed.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { text } from 'node:stream/consumers';
import { test } from 'node:test';

import { formatAddress } from '../../lib/address.js';
import { listen, type Listener, spawn, type SpawnConvention, type SpawnOptions } from '../../lib/index.js';
import { Cleanup, temporaryDirectory } from '../support/fixture.js';
import { runProgram } from '../support/handed.js';
import { skipWithoutPython } from '../notify/support.js';

const READER = path.resolve(import.meta.dirname, '../../../test/conventions/fixtures/reader.py');

interface Told {
  pid: number;
  found: { fd: number; name: string; address: string | [string, number]; listening: boolean; closeOnExec: boolean }[];
  /** Above 2. */
  opened: number[];
  environment: Record<string, string>;
}

/** Starts the reader, and gives what it found. */
async function tell(reader: string, options: SpawnOptions, args: readonly string[] = []): Promise<Told> {
  const child = spawn('python3', [READER, reader, ...args], { stdio: ['ignore', 'pipe', 'inherit'], ...options });
  assert.ok(child.stdout);
  const [said, status] = await Promise.all([text(child.stdout), child.exited]);
  assert.deepEqual(status, { exitCode: 0, signal: null }, said);
  const told = JSON.parse(said) as Told;
  assert.equal(told.pid, child.pid);
  return told;
}

/** As the child sees a listener. */
function seen({ address }: Listener): string | [string, number] {
  return address.family === 'unix' ? address.path : [address.address, address.port];
}

/** Variables that speak of descriptors. */
function spoken({ environment }: Told): string[] {
  const mark =
    /^(LISTEN_|SERVER_STARTER_|EINHORN_|NGINX$|GUNICORN_|UNICORN_|PUMA_|FPM_|TABLEFLIP_|FDPASS_|NODE_CHANNEL_|NODE_UNIQUE_)/;
  return Object.keys(environment).filter((name) => mark.test(name));
}

/** Three kinds of listener, and names that systemd can carry and a shell could not. */
async function three(t: Cleanup): Promise<Listener[]> {
  const listeners = [
    await listen({ name: 'web', host: '127.0.0.1', port: 0 }),
    await listen({ name: "it's $& {fd}", host: '::1', port: 0 }),
    await listen({ name: '', path: path.join(temporaryDirectory(t), 'a b.sock') }),
  ];
  t.after(() => {
    for (const listener of listeners) listener.close();
  });
  return listeners;
}

interface Case {
  convention: SpawnConvention | readonly SpawnConvention[];
  reader: string;
  /** The number of the first. Default 3. */
  first?: number;
  /** What the child knows of a listener besides its number. Default: nothing. */
  name?: (listener: Listener) => string;
  /** The variables that it is told by. */
  variables: (count: number) => string[];
  args?: (listeners: readonly Listener[]) => string[];
}

const where = (listener: Listener): string => formatAddress(listener.address);
const numbered = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, index) => `${prefix}${index}`);

const SYSTEMD = ['LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_PID'];
const STARTER = ['SERVER_STARTER_PORT', 'SERVER_STARTER_GENERATION'];
const einhornOf = (count: number): string[] => [
  ...['EINHORN_MASTER_PID', 'EINHORN_FD_COUNT', 'EINHORN_FDS', 'EINHORN_CHILD_INDEX'],
  ...numbered('EINHORN_FD_', count),
];
const ALL: SpawnConvention[] = ['systemd', 'einhorn', { type: 'server-starter', generation: 3 }];
const allOf = (count: number): string[] => [...(count > 0 ? SYSTEMD : []), ...STARTER, ...einhornOf(count)];

const CASES: Case[] = [
  {
    convention: 'systemd',
    reader: 'systemd',
    name: ({ name }) => name,
    variables: (count) => (count > 0 ? SYSTEMD : []),
  },
  {
    convention: { type: 'systemd', pid: 'omit' },
    reader: 'listenfd',
    variables: (count) => (count > 0 ? ['LISTEN_FDS', 'LISTEN_FDNAMES'] : []),
  },
  {
    convention: { type: 'systemd', pid: 'omit', first: 7 },
    reader: 'listenfd',
    first: 7,
    variables: (count) => (count > 0 ? ['LISTEN_FDS', 'LISTEN_FDNAMES', 'LISTEN_FDS_FIRST_FD'] : []),
  },
  {
    convention: [{ type: 'systemd', first: 9 }, 'server-starter'],
    reader: 'listenfd',
    first: 9,
    variables: (count) => [...(count > 0 ? [...SYSTEMD, 'LISTEN_FDS_FIRST_FD'] : []), ...STARTER],
  },
  { convention: 'server-starter', reader: 'server-starter', name: where, variables: () => STARTER },
  { convention: 'einhorn', reader: 'einhorn', variables: einhornOf },
  { convention: 'einhorn', reader: 'einhorn-legacy', variables: einhornOf },
  { convention: 'nginx', reader: 'nginx', variables: () => ['NGINX'] },
  {
    convention: 'gunicorn',
    reader: 'gunicorn',
    variables: (count) => (count > 0 ? ['GUNICORN_PID', 'GUNICORN_FD'] : []),
  },
  { convention: 'unicorn', reader: 'unicorn', variables: () => ['UNICORN_FD'] },
  {
    convention: 'puma',
    reader: 'puma',
    name: (listener) => `${listener.address.family === 'unix' ? 'unix' : 'tcp'}://${where(listener)}`,
    variables: (count) => numbered('PUMA_INHERIT_', count),
  },
  {
    convention: 'fpm',
    reader: 'fpm',
    name: where,
    variables: (count) => ['FPM_SOCKETS', ...(count > 128 ? ['FPM_SOCKETS_1', 'FPM_SOCKETS_2'] : [])],
  },
  {
    convention: 'tableflip',
    reader: 'tableflip',
    first: 5,
    name: (listener) => `listener ${listener.address.family === 'unix' ? 'unix' : 'tcp'} ${where(listener)}`,
    variables: () => ['TABLEFLIP_HAS_PARENT_7DIU3'],
  },
  {
    convention: 'argv',
    reader: 'argv',
    variables: () => [],
    args: (listeners) => listeners.map(({ name }) => `{fd:${name}}`),
  },
  { convention: ALL, reader: 'systemd', name: ({ name }) => name, variables: allOf },
  { convention: ALL, reader: 'einhorn', variables: allOf },
  { convention: ALL, reader: 'server-starter', name: where, variables: allOf },
];

/** The listeners of all tests of a number. */
async function many(t: Cleanup, count: number): Promise<Listener[]> {
  if (count === 3) return three(t);
  const listeners: Listener[] = [];
  t.after(() => {
    for (const listener of listeners) listener.close();
  });
  for (let index = 0; index < count; index++) {
    listeners.push(await listen({ name: `n${index}`, host: '127.0.0.1', port: 0 }));
  }
  return listeners;
}

for (const count of [0, 1, 3, 300]) {
  for (const { convention, reader, first = 3, name = () => '', variables, args = () => [] } of CASES) {
    if (count === 0 && reader === 'listenfd') continue; // without LISTEN_FDS it takes nothing, and has no word for it
    test(
      `${JSON.stringify(convention)}: the child finds ${count} by the rules of ${reader}, and nothing else is open or said`,
      { skip: skipWithoutPython },
      async (t) => {
        const cleanup = new Cleanup();
        t.after(() => cleanup.run());
        const fds = await many(cleanup, count);

        const told = await tell(reader, { fds, convention }, args(fds));

        assert.deepEqual(
          told.found,
          fds.map((listener, index) => ({
            fd: first + index,
            name: name(listener),
            address: seen(listener),
            listening: true,
            closeOnExec: false,
          })),
        );
        const numbers = fds.map((_, index) => first + index);
        assert.deepEqual(told.opened, reader === 'tableflip' ? [3, 4, ...numbers] : numbers);
        assert.deepEqual(spoken(told).sort(), variables(count).sort());
      },
    );
  }
}

test('stdin: the listener is 0, and nothing else is open or said', { skip: skipWithoutPython }, async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });

  const told = await tell('stdin', { fds: [web], convention: 'stdin' });

  assert.deepEqual(
    told.found.map(({ fd, address, listening }) => ({ fd, address, listening })),
    [{ fd: 0, address: ['127.0.0.1', web.port], listening: true }],
  );
  assert.deepEqual([told.opened, spoken(told)], [[], []]);
});

test(
  'systemd, pid omitted: a program that follows sd_listen_fds(3) takes nothing',
  { skip: skipWithoutPython },
  async () => {
    using web = await listen({ host: '127.0.0.1', port: 0 });

    const told = await tell('systemd', { fds: [web], convention: { type: 'systemd', pid: 'omit' } });

    assert.deepEqual(told.found, []);
  },
);

test('what this process was told itself is not passed on, in no convention', { skip: skipWithoutPython }, async () => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const env = {
    ...process.env,
    ...{ LISTEN_FDS: '9', LISTEN_PID: '1', LISTEN_PIDFDID: '7', LISTEN_FDS_FIRST_FD: '9', LISTEN_FD: '9' },
    ...{ EINHORN_FD_0: '9', EINHORN_SOCK_PATH: '/nonexistent', PUMA_INHERIT_0: '9:tcp://x', FPM_SOCKETS_1: 'x=9' },
    ...{ NODE_CHANNEL_FD: '9', FDPASS_CHANNEL: '9:9', GUNICORN_PID: '1', GUNICORN_FD: '9' },
  };

  for (const [convention, reader, variables] of [
    ['systemd', 'systemd', SYSTEMD],
    ['fpm', 'fpm', ['FPM_SOCKETS']],
    ['puma', 'puma', ['PUMA_INHERIT_0']],
    ['einhorn', 'einhorn', einhornOf(1)],
  ] as const) {
    const told = await tell(reader, { fds: [web], convention, env });

    assert.deepEqual(
      told.found.map(({ fd }) => fd),
      [3],
    );
    assert.deepEqual(spoken(told).sort(), [...variables].sort());
  }
});

for (const [convention, reader] of [
  [ALL, 'systemd'],
  ['server-starter', 'server-starter'],
  ['nginx', 'nginx'],
] as const) {
  test(
    `${reader}: numbers of this process that are other numbers of the child arrive as what they were`,
    { skip: skipWithoutPython },
    async () => {
      using one = await listen({ name: 'one', host: '127.0.0.1', port: 0 });
      using two = await listen({ name: 'two', host: '127.0.0.1', port: 0 });
      using three = await listen({ name: 'three', host: '127.0.0.1', port: 0 });

      // A process in between has them at 3, 4, 5, and gives them as 4, 5 and 3.
      const [told] = (await runProgram(
        `const { text } = await import('node:stream/consumers');
         const child = fdpass.spawn('python3', ${JSON.stringify([READER, reader])}, {
           fds: [4, 5, 3], convention: ${JSON.stringify(convention)}, stdio: ['ignore', 'pipe', 'inherit'],
         });
         print(JSON.parse(await text(child.stdout)));`,
        { fds: [one, two, three] },
      )) as [Told];

      assert.deepEqual(
        told.found.map(({ fd, address }) => [fd, address]),
        [two, three, one].map((listener, index) => [3 + index, seen(listener)]),
      );
      assert.deepEqual(told.opened, [3, 4, 5]);
    },
  );
}

test('numbers that do not follow each other are those that are said', { skip: skipWithoutPython }, async () => {
  using one = await listen({ host: '127.0.0.1', port: 0 });
  using two = await listen({ host: '127.0.0.1', port: 0 });
  // A swap: what is one's here is the other's there
  const fds = [
    { source: one.fd, target: two.fd },
    { source: two.fd, target: one.fd },
  ];

  for (const [convention, reader] of [
    ['server-starter', 'server-starter'],
    ['einhorn', 'einhorn'],
    ['nginx', 'nginx'],
    ['gunicorn', 'gunicorn'],
    ['unicorn', 'unicorn'],
    ['puma', 'puma'],
    ['fpm', 'fpm'],
  ] as const) {
    const told = await tell(reader, { fds, convention });

    assert.deepEqual(
      told.found.map(({ fd, address }) => [fd, address]),
      [
        [two.fd, seen(one)],
        [one.fd, seen(two)],
      ],
    );
  }
});

/** A name, or a path, that a convention cannot carry. */
const REFUSED: [convention: SpawnConvention, name: string, file: string][] = [
  ['systemd', 'a:b', 'a.sock'],
  ['systemd', 'a\\b', 'a.sock'],
  ['systemd', 'a\nb', 'a.sock'],
  [{ type: 'systemd', pid: 'omit' }, 'a:b', 'a.sock'],
  ['server-starter', 'web', 'a;b.sock'],
  ['server-starter', 'web', 'a=b.sock'],
  ['fpm', 'web', 'a=b.sock'],
  ['fpm', 'web', 'a,b.sock'],
];
for (const [convention, name, file] of REFUSED) {
  test(`${JSON.stringify(convention)} is refused the name ${JSON.stringify(name)} at ${file}: nothing is started`, async (t) => {
    using web = await listen({ path: path.join(temporaryDirectory(t), file) });
    const fds = [{ fd: web.fd, name }];

    assert.throws(() => spawn('/nonexistent/program', [], { fds, convention }), { code: 'ERR_FDPASS_NAMES' });
    if (name !== 'web') {
      const all = [convention, 'einhorn', 'server-starter'] as const;
      assert.throws(() => spawn('/nonexistent/program', [], { fds, convention: all }), { code: 'ERR_FDPASS_NAMES' });
    }
  });
}
