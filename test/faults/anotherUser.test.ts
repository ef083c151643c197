// A takeover and another user: who is trusted, what one that is not is told, and the limits that belong to a user. Real processes.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { test, type TestContext } from 'node:test';

import { FIXTURES, startTaker, startTaking } from '../e2e/drive.js';
import { lasting, until } from '../examples/support.js';
import { get } from '../support/client.js';
import { type Family, temporaryDirectory } from '../support/fixture.js';
import { startLoad } from '../support/load.js';

const isRoot = process.geteuid?.() === 0 && process.platform === 'linux';
const needsRoot = { skip: !isRoot && 'only root can start a process of another user' };
/** Nobody's, so that no limit of a user's is shared with another program. */
const OTHER = 51_000 + (process.pid % 1_000);
const as = (uid: number, gid = uid): string[] => ['setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups'];

/** A directory of this user's in which others may look. */
function openDirectory(t: TestContext): string {
  const directory = temporaryDirectory(t);
  fs.chmodSync(directory, 0o755);
  return path.join(directory, 'takeover.sock');
}

async function startOpen(t: TestContext, file: string, options: object): Promise<Family> {
  return startTaking(t, file, { env: { OFFER_OPTIONS: JSON.stringify(options) } });
}

test('may not even connect by default: the newcomer says why', needsRoot, async (t) => {
  const file = openDirectory(t);
  const old = await startOpen(t, file, {});

  const young = startTaker(t, file, { through: as(OTHER), env: { TAKEOVER_OPTIONS: '{"uids":[0]}' } });

  assert.equal((await young.exited).code, 4);
  await young.waitFor(/takeover failed: ERR_FDPASS_REFUSED, .*EACCES/, { from: 0 });
  await young.waitFor('descriptors as before', { from: 0 });
  assert.equal(await get(old.url), `${old.pid}\n`);
});

test(
  'is refused before a byte of it is read, with a sentence that it prints; the old one says so, and serves on',
  needsRoot,
  async (t) => {
    const file = openDirectory(t);
    const old = await startOpen(t, file, { mode: 0o666 });

    const young = startTaker(t, file, { through: as(OTHER), env: { TAKEOVER_OPTIONS: '{"uids":[0]}' } });

    assert.equal((await young.exited).code, 4);
    await young.waitFor(new RegExp(`ERR_FDPASS_REFUSED, .*runs as uid ${OTHER}, gid ${OTHER}; trusted are uid 0$`), {
      from: 0,
    });
    await young.waitFor('descriptors as before', { from: 0 });
    await old.waitFor(new RegExp(`^refused uid ${OTHER}, pid ${young.pid}: `), { from: 0 });
    assert.equal(await get(old.url), `${old.pid}\n`);
  },
);

test('refuses the old one in its turn, where it does not trust it', needsRoot, async (t) => {
  const file = openDirectory(t);
  await startOpen(t, file, { uids: [OTHER] });

  const young = startTaker(t, file, { through: as(OTHER) });

  assert.equal((await young.exited).code, 4);
  await young.waitFor(/ERR_FDPASS_REFUSED, The process that offers a takeover .*runs as uid 0/, { from: 0 });
  await young.waitFor('descriptors as before', { from: 0 });
});

for (const [list, options] of [
  ['uids', { uids: [OTHER] }],
  ['gids', { gids: [OTHER] }],
] as [string, object][]) {
  test(
    `takes over where it is among options.${list}, and offers at the same path; the first user takes it back`,
    needsRoot,
    async (t) => {
      const file = openDirectory(t);
      const old = await startOpen(t, file, options);
      const trust = { TAKEOVER_OPTIONS: '{"uids":[0]}', OFFER_OPTIONS: '{"uids":[0]}' };

      const young = await startTaking(t, file, { through: as(OTHER), env: trust });
      await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
      await old.gone(old.pid);
      const third = await startTaking(t, file, { env: { TAKEOVER_OPTIONS: JSON.stringify({ uids: [OTHER] }) } });
      await third.waitFor(`pid ${third.pid} is alone`, { from: 0 });

      assert.equal(third.generations[0]?.generation, 3);
      assert.equal(await get(old.url), `${third.pid}\n`);
    },
  );
}

test('in an abstract name only the credentials protect: it is refused there as well', needsRoot, async (t) => {
  const name = `@${path.basename(temporaryDirectory(t))}`;
  await startOpen(t, name, {});

  const young = startTaker(t, name, { through: as(OTHER), env: { TAKEOVER_OPTIONS: '{"uids":[0]}' } });

  assert.equal((await young.exited).code, 4);
  await young.waitFor(/ERR_FDPASS_REFUSED, .*trusted are uid 0$/, { from: 0 });
});

for (const mode of [0o777, 0o1777, 0o770]) {
  const octal = mode.toString(8);
  test(`a directory that others can write to (${octal}) is refused on both sides`, async (t) => {
    const directory = temporaryDirectory(t);
    const file = path.join(directory, 'takeover.sock');
    const old = await startTaking(t, file);
    fs.chmodSync(directory, mode);

    const young = startTaker(t, file);
    const another = startTaker(t, path.join(directory, 'another.sock'));

    assert.equal((await young.exited).code, 4);
    await young.waitFor(new RegExp(`ERR_FDPASS_REFUSED, .*${directory}.*mode 0?${octal}`), { from: 0 });
    await another.exited;
    await another.waitFor(/ERR_FDPASS_REFUSED/, { from: 0 });
    assert.equal(await get(old.url), `${old.pid}\n`);
  });
}

test(
  'has as many descriptors on their way as it may (ETOOMANYREFS): the batch waits, and goes when there is room',
  needsRoot,
  async (t) => {
    const directory = temporaryDirectory(t);
    fs.chownSync(directory, OTHER, OTHER);
    const file = path.join(directory, 'takeover.sock');
    const crowd = await Crowd.start(t);
    const old = await startTaking(t, file, { through: [...as(OTHER), 'prlimit', '--nofile=100:100'] });
    const load = startLoad({ host: '127.0.0.1', port: old.port, newPerSecond: 30, keepAlive: 4, requestsPerSecond: 5 });
    t.after(() => load.stop());

    const young = startTaker(t, file, { through: as(OTHER) });
    await until('the newcomer waits', () => lasting(young.pid).some((line) => line.includes('socket:')));
    await crowd.leave();

    await young.waitFor(`pid ${young.pid} is alone`, { from: 0 });
    assert.deepEqual((await load.stop()).losses, []);
  },
);

test(
  'and where there never is room, the takeover ends with ERR_FDPASS_LIMIT, and the old one serves on',
  needsRoot,
  async (t) => {
    const directory = temporaryDirectory(t);
    fs.chownSync(directory, OTHER, OTHER);
    const file = path.join(directory, 'takeover.sock');
    const crowd = await Crowd.start(t);
    const old = await startTaking(t, file, { through: [...as(OTHER), 'prlimit', '--nofile=100:100'] });

    const young = startTaker(t, file, { through: as(OTHER), env: { TAKEOVER_OPTIONS: '{"orElse":"fail"}' } });

    await young.waitFor(/takeover failed: /, { from: 0, deadline: 15_000 });
    await young.waitFor('descriptors as before', { from: 0 });
    await old.waitFor(/goes on accepting \[ERR_FDPASS_LIMIT\]/, { from: 0 });
    assert.equal(await get(old.url), `${old.pid}\n`);
    await crowd.leave();
  },
);

/** A process of the other user that has sent descriptors to itself, more than that user's others may, and takes them when it is told. */
class Crowd {
  readonly #child: ReturnType<typeof spawn>;
  readonly #lines: AsyncIterator<string>;

  private constructor(child: ReturnType<typeof spawn>) {
    this.#child = child;
    if (child.stdout === null) throw new Error('unreachable: it is a pipe');
    this.#lines = readline.createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  }

  static async start(t: TestContext): Promise<Crowd> {
    const text = `
      import fs from 'node:fs';
      import { raw } from ${JSON.stringify(path.join(FIXTURES, '../../../dist/lib/index.js'))};
      const [a, b] = raw.socketPair('stream');
      const fds = Array(200).fill(fs.openSync('/dev/null'));
      for (let round = 0; round < 2; round++) raw.send(a, Buffer.from('x'), fds);
      console.log('full');
      process.stdin.once('data', () => {
        for (const fd of [a, b]) raw.close(fd);
        console.log('empty');
      });`;
    const [file, ...rest] = [...as(OTHER), process.execPath, '--input-type=module', '-e', text];
    const child = spawn(file, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
    t.after(() => void child.kill('SIGKILL'));
    const crowd = new Crowd(child);
    assert.equal((await crowd.#lines.next()).value, 'full');
    return crowd;
  }

  async leave(): Promise<void> {
    this.#child.stdin?.write('\n');
    assert.equal((await this.#lines.next()).value, 'empty');
    this.#child.stdin?.end();
    await once(this.#child, 'exit');
  }
}
