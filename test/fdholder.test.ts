/**
 * The client of s6-fdholder-daemon against a daemon of a few lines, byte for byte. The real one is for test/interop.
 */
import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';

import { FdHolder, listen } from '../lib/index.js';
import * as raw from '../lib/raw.js';
import { type Scope, temporaryDirectory } from './support/fixture.js';

interface Daemon {
  path: string;
  /** What came, in hexadecimal, and how many descriptors with it. */
  requests: [hex: string, fds: number][];
}

/** Answers each request with the next of these: bytes, descriptors; undefined ends the dialog. */
function daemon(t: Scope, answers: ([hex: string, fds?: number[]] | undefined)[]): Daemon {
  const file = path.join(temporaryDirectory(t), 'fdholder.sock');
  const fd = raw.socket('unix', 'stream');
  raw.bind(fd, { family: 'unix', path: file });
  raw.listen(fd, 5);
  const requests: [string, number][] = [];
  const closers: (() => void)[] = [];
  const watch = raw.watch(fd, { readable: true }, () => {
    const connection = raw.accept(fd);
    if (connection === undefined) return;
    let isOpen = true;
    const close = (): void => {
      if (!isOpen) return;
      isOpen = false;
      reading.close();
      raw.close(connection);
    };
    closers.push(close);
    const reading = raw.watch(connection, { readable: true }, () => {
      const message = raw.receive(connection, 65_536);
      if (message === undefined) return;
      for (const each of message.fds) raw.close(each);
      const answer = message.bytes.length === 0 ? undefined : answers.shift();
      if (message.bytes.length > 0) requests.push([message.bytes.toString('hex'), message.fds.length]);
      if (answer === undefined) close();
      else raw.send(connection, Buffer.from(answer[0], 'hex'), answer[1] ?? []);
    });
  });
  t.after(() => {
    watch.close();
    for (const close of closers) close();
    raw.close(fd);
  });
  return { path: file, requests };
}

const OK = '00000001000000';
const ID = '7463703a3132372e302e302e313a3830'; // tcp:127.0.0.1:80

test('store and retrieve are the bytes of s6', async (t) => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const { path: file, requests } = daemon(t, [[OK], ['00000001000100', [web.fd]]]);
  using holder = await FdHolder.connect(file);

  await holder.store('tcp:127.0.0.1:80', web, { until: new Date(1_700_000_000_000) });
  const fd = await holder.retrieve('tcp:127.0.0.1:80');

  assert.equal(raw.isSame(fd, web.fd), true);
  assert.equal(raw.getCloseOnExec(fd), true);
  assert.deepEqual(requests, [
    [`0000001f000153400000006553f10a0000000010${ID}00`, 1],
    [`000000140000520010${ID}00`, 0],
  ]);
  raw.close(fd);
});

test('a deadline that is yet to come counts the 27 leap seconds since 1970, as the clock of s6 does', async (t) => {
  using web = await listen({ host: '127.0.0.1', port: 0 });
  const { path: file, requests } = daemon(t, [[OK]]);
  using holder = await FdHolder.connect(file);

  await holder.store('a', web, { until: new Date(4_102_444_800_250) }); // 2100-01-01, and 250 ms

  const seconds = (2n ** 62n + 37n + 4_102_444_800n).toString(16);
  assert.deepEqual(requests, [[`00000010000153${seconds}${(250_000_000).toString(16).padStart(8, '0')}016100`, 1]]);
});

test('list: names that end in a null byte each', async (t) => {
  const { path: file, requests } = daemon(t, [['0000000900000000000002' + '61006200'], ['0000000500000000000000']]);
  using holder = await FdHolder.connect(file);

  assert.deepEqual(await holder.list(), ['a', 'b']);
  assert.deepEqual(await holder.list(), []);
  assert.deepEqual(requests[0], ['0000000100004c', 0]);
});

test('an errno of the daemon is an error with its code, and the dialog goes on', async (t) => {
  const { path: file } = daemon(t, [['00000001000002'], ['00000001000010'], ['00000001000001'], [OK]]);
  using web = await listen({ host: '127.0.0.1', port: 0 });
  using holder = await FdHolder.connect(file);

  await assert.rejects(holder.retrieve('a'), { code: 'ENOENT', errno: -2, message: /retrieve "a"/ });
  await assert.rejects(holder.store('a', web.fd), { code: 'EBUSY' });
  await assert.rejects(holder.remove('a'), { code: 'EPERM' });
  await holder.remove('a');
});

test('requests that are made at once are answered in their order', async (t) => {
  const { path: file, requests } = daemon(t, [[OK], ['00000001000002'], [OK]]);
  using holder = await FdHolder.connect(file);

  const results = await Promise.allSettled(['a', 'b', 'c'].map((id) => holder.remove(id)));

  assert.deepEqual(
    results.map(({ status }) => status),
    ['fulfilled', 'rejected', 'fulfilled'],
  );
  assert.deepEqual(
    requests.map(([hex]) => hex.slice(-4, -2)),
    ['61', '62', '63'],
  );
});

const BROKEN: [what: string, answer: [string, number] | undefined][] = [
  ['the end', undefined],
  ['an empty answer', ['000000000000', 0]],
  ['an answer of 4 GiB', ['ffffffff000000', 0]],
  ['a descriptor that is not announced', [OK, 1]],
  ['a success without a descriptor', [OK, 0]],
  ['two descriptors', ['00000001000200', 2]],
];
for (const [what, answer] of BROKEN) {
  test(`retrieve: ${what} is refused, what came is closed, and nothing more is asked`, async (t) => {
    using web = await listen({ host: '127.0.0.1', port: 0 });
    const rights = Array<number>(answer?.[1] ?? 0).fill(web.fd);
    const { path: file } = daemon(t, [answer === undefined ? undefined : [answer[0], rights]]);
    using holder = await FdHolder.connect(file);

    await assert.rejects(holder.retrieve('a'), { code: 'ERR_FDPASS_PROTOCOL' });

    const inode = raw.describe(web.fd).inode;
    const held = raw.openDescriptors().filter(({ target }) => target === `socket:[${inode}]`);
    assert.equal(held.length, 1);
    await assert.rejects(holder.retrieve('a'), { code: 'ERR_FDPASS_PROTOCOL' });
  });
}

for (const id of ['', 'x'.repeat(256), 'a\0b']) {
  test(`the id ${JSON.stringify(id.slice(0, 4))} of ${id.length} characters is refused before anything is sent`, async (t) => {
    const { path: file, requests } = daemon(t, []);
    using holder = await FdHolder.connect(file);

    await assert.rejects(holder.remove(id), { code: 'ERR_INVALID_ARG_VALUE' });

    assert.deepEqual(requests, []);
  });
}

test('no answer in time is an error, and so is a daemon that is not there', async (t) => {
  const file = path.join(temporaryDirectory(t), 'silent.sock');
  using silent = await listen({ path: file });
  using holder = await FdHolder.connect(file, { timeout: 50 });

  await assert.rejects(holder.list(), { code: 'ERR_FDPASS_LIMIT', message: /for 50 ms/ });
  await assert.rejects(FdHolder.connect(`${file}.none`), { code: 'ENOENT' });
  silent.close();
});
