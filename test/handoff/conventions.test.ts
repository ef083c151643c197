/**
 * handoff() to successors that know other conventions than fdpass's own: how they find their listeners, and how it is known that they
 * serve. Real processes; a successor here is a Node program that does not look at the channel, because there is none.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';

import { listen } from '../../lib/index.js';
import { programOf, runProgram } from '../support/handed.js';

/** A successor that finds its listener by this convention, serves, and says which generation Server::Starter calls it. */
const SUCCESSOR = (convention: string): string[] => [
  process.execPath,
  ...programOf(
    `const http = await import('node:http');
     const generation = process.env.SERVER_STARTER_GENERATION ?? '';
     const server = http.createServer((request, response) => {
       response.end('${convention}' + generation);
       setTimeout(() => process.exit(0), 50);
     });
     const listener = await inheritListener(${convention === 'argv' ? '{ fd: process.argv.at(-1) }' : JSON.stringify({ convention })});
     listener.serve(server);
     await ready();
     setTimeout(() => process.exit(5), 20_000); // nobody came
     await new Promise(() => undefined);`,
  ),
  ...(convention === 'argv' ? ['--', '{fd}'] : []),
];

/** A predecessor that hands over, and prints what became of it. */
const PREDECESSOR = (options: object, command: string[]): string => `
  const http = await import('node:http');
  const listener = await inheritListener('web');
  listener.serve(http.createServer((request, response) => response.end('old')));
  await ready();
  print(await attempt(async () => {
    const successor = await fdpass.handoff({ command: ${JSON.stringify(command)}, probation: 50, readyTimeout: 10_000, ...${JSON.stringify(options)} });
    return { generation: successor.generation, isAnother: successor.pid !== process.pid };
  }));
`;

const KINDS: [options: { convention: unknown; readiness?: unknown }, read: string, answer: string][] = [
  [{ convention: 'tableflip' }, 'tableflip', 'tableflip'],
  [{ convention: 'server-starter', readiness: 'connection' }, 'server-starter', 'server-starter2'],
  [{ convention: 'nginx', readiness: 'connection' }, 'nginx', 'nginx'],
  [{ convention: 'stdin', readiness: 'connection' }, 'stdin', 'stdin'],
  [{ convention: 'fpm', readiness: 'connection' }, 'fpm', 'fpm'],
  [{ convention: 'gunicorn', readiness: 'connection' }, 'gunicorn', 'gunicorn'],
  [{ convention: 'unicorn', readiness: { after: 500 } }, 'unicorn', 'unicorn'],
  [{ convention: 'puma', readiness: 'connection' }, 'puma', 'puma'],
  [{ convention: 'argv', readiness: 'connection' }, 'argv', 'argv'],
  [{ convention: { type: 'systemd', pid: 'omit' }, readiness: 'notify' }, 'systemd-nopid', 'systemd-nopid'],
  [{ convention: ['systemd', 'einhorn'], readiness: 'notify' }, 'einhorn', 'einhorn'],
  [{ convention: ['systemd', 'einhorn', 'server-starter'], readiness: 'notify' }, 'server-starter', 'server-starter2'],
  // Its acknowledgement is the word for its readiness
  [{ convention: { type: 'einhorn', ackServer: true } }, 'einhorn', 'einhorn'],
];
for (const [options, read, answer] of KINDS) {
  const label = JSON.stringify(options);
  test(`${label}: the successor finds its listener by it, and this process lets go when it serves`, async () => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

    const [outcome] = await runProgram(PREDECESSOR({ ...options, stdio: 'ignore' }, SUCCESSOR(read)), {
      fds: [web],
      convention: 'systemd',
    });

    assert.deepEqual(outcome, { generation: 2, isAnother: true });
    const response = await fetch(`http://127.0.0.1:${web.port}/`, { signal: AbortSignal.timeout(5_000) });
    assert.equal(await response.text(), answer);
  });
}

test('a listener that is closed while a successor of another kind starts is not missed there: the handoff goes on', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

  const [outcome] = await runProgram(
    `const http = await import('node:http');
     const server = () => http.createServer((request, response) => response.end());
     (await inheritListener('web')).serve(server());
     const other = await fdpass.listen({ name: 'other', host: '127.0.0.1', port: 0 });
     other.serve(server());
     await ready();
     const command = ['sh', '-c', 'exec sleep 20'];
     const options = { convention: 'systemd', readiness: { after: 500 }, probation: 50, readyTimeout: 10_000, stdio: 'ignore' };
     const over = fdpass.handoff({ command, ...options });
     setTimeout(() => other.close(), 100);
     const result = await attempt(async () => ({ pid: (await over).pid }));
     print(result);
     if (result.pid > 0) process.kill(result.pid, 'SIGKILL');`,
    { fds: [web], convention: 'systemd' },
  );

  assert.ok(Number((outcome as { pid?: number }).pid) > 0, JSON.stringify(outcome));
});

test('a tableflip successor that ends without a word costs nothing', async () => {
  using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
  const command = [process.execPath, '-e', 'process.exit(7)'];

  const [failure] = (await runProgram(PREDECESSOR({ convention: 'tableflip' }, command), {
    fds: [web],
    convention: 'systemd',
  })) as [{ code: string; message: string }];

  assert.equal(failure.code, 'ERR_FDPASS_SUCCESSOR_EXITED');
  assert.match(failure.message, /code 7/);
});

for (const convention of [
  'server-starter',
  'fdpass',
  { type: 'systemd', pid: 'omit' },
  { type: 'systemd', first: 9 },
]) {
  test(`${JSON.stringify(convention)} with the channel: a program that calls ready() is a successor as any other`, async () => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });
    const successor = programOf(`print(show(await inheritListener('web')).origin); await (await ready()).alone;`);

    const lines = await runProgram(PREDECESSOR({ convention }, [process.execPath, ...successor]), {
      fds: [web],
      convention: 'systemd',
    });

    assert.deepEqual(lines, ['systemd', { generation: 2, isAnother: true }]);
  });
}

const REFUSED: [options: object, message: RegExp][] = [
  [{ convention: 'upstart' }, /'upstart'/],
  [{ convention: 'none' }, /'none'/],
  [{ convention: 'tableflip', readiness: 'channel' }, /options.readiness .* tableflip/],
  [{ convention: 'stdin' }, /options.readiness .* stdin/],
  [{ convention: 'fdpass', readiness: 'notify' }, /'fdpass'/],
  [{ readiness: 'convention' }, /no word for it/],
  [{ blocking: true }, /options\.blocking must be left to spawn\(\), after listener\.pause\(\)/],
];
for (const [options, message] of REFUSED) {
  test(`handoff(${JSON.stringify(options)}) is refused before anything is started`, async () => {
    using web = await listen({ name: 'web', host: '127.0.0.1', port: 0 });

    const [failure] = (await runProgram(PREDECESSOR(options, ['true']), { fds: [web], convention: 'systemd' })) as [
      { code: string; message: string },
    ];

    assert.equal(failure.code, 'ERR_INVALID_ARG_VALUE');
    assert.match(failure.message, message);
  });
}
