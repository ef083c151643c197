/** Channel: messages and descriptors between two ends, in every kind of socket, with every number of descriptors. */
import assert from 'node:assert/strict';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test } from 'node:test';

import { Channel, ChannelListener } from '../../lib/channel.js';
import { listen } from '../../lib/listener.js';
import * as raw from '../../lib/raw.js';
import { isLinux, skipUnlessLinux } from '../raw/support.js';
import { closing, node, table, temporaryDirectory, watchTable } from './support.js';

const framed: ('stream' | 'seqpacket')[] = isLinux ? ['stream', 'seqpacket'] : ['stream'];
const many = ['sh', '-c', 'ulimit -n 12000; exec "$@"', 'sh'];
const canHaveMany = limitOfFiles() >= 12_000;

function limitOfFiles(): number {
  if (!isLinux) return 0;
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(fs.readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return hard === 'unlimited' ? Infinity : Number(hard);
}

for (const type of framed) {
  describe(`a ${type} channel`, () => {
    for (const count of [0, 1, 2, 252, 253, 254, 506, 507]) {
      test(`${count} descriptors arrive as one message, in order, close-on-exec, and the same files`, async (t) => {
        const [a, b] = Channel.pair({ type });
        closing(t, a, b);
        const { check } = watchTable();
        const fds = Array.from({ length: count }, (_, index) => (index % 3 === 0 ? a.fd : index % 3));

        const [message] = await Promise.all([b.receive(), a.send('take these', fds)]);

        assert.ok(message);
        assert.equal(message.bytes.toString(), 'take these');
        assert.equal(message.fds.length, count);
        for (const [index, descriptor] of message.fds.entries()) {
          assert.ok(raw.isSame(descriptor.fd, fds[index] ?? -1), `descriptor ${index}`);
          assert.ok(raw.getCloseOnExec(descriptor.fd));
        }
        message.close();
        await check();
      });
    }

    for (const count of [1000, 5000]) {
      const skip = canHaveMany ? false : 'this user may not have 12 000 open descriptors';
      test(`${count} descriptors arrive as one message`, { skip }, async (t) => {
        const program = node(
          t,
          `
          const [a, b] = Channel.pair({ type: '${type}' });
          await a.send('first'); (await b.receive()).close();
          const before = table();
          const [message] = await Promise.all([b.receive(), a.send('many', Array.from({ length: ${count} }, (_, i) => i % 3))]);
          const same = message.fds.every(({ fd }, i) => raw.isSame(fd, i % 3));
          say(message.bytes.toString(), message.fds.length, same);
          message.close();
          say(opened(before) === 'nothing');
          `,
          { prefix: many },
        );

        assert.equal(await program.line(), `many ${count} true`);
        assert.equal(await program.line(), 'true');
        await program.ends();
      });
    }

    for (const length of [0, 1, 16_371, 16_372, 16_373, 65_524, 65_536, 1_048_575, 1_048_576, 1_048_577, 5_000_000]) {
      test(`${length} bytes with descriptors arrive as one message`, async (t) => {
        const [a, b] = Channel.pair({ type });
        closing(t, a, b);
        const bytes = pattern(length);

        const sending = a.send(bytes, [0, 1]);
        const message = await b.receive();
        await sending;

        assert.ok(message);
        assert.ok(message.bytes.equals(bytes));
        assert.equal(message.fds.length, 2);
        message.close();
      });
    }

    test('messages keep their order and their own descriptors, whatever their sizes, in both directions at once', async (t) => {
      const [a, b] = Channel.pair({ type, highWater: { bytes: 1e9, descriptors: 1e6 } });
      closing(t, a, b);
      const { check } = watchTable();
      const random = randomOf(type.length);
      const plan = Array.from({ length: 300 }, (_, index) => {
        const roll = random(100);
        const size = roll < 70 ? random(40) : roll < 95 ? random(20_000) : random(300_000);
        const count = random(100) < 90 ? random(4) : random(300);
        return { bytes: Buffer.concat([Buffer.from(`${index}:`), pattern(size)]), count };
      });

      const sending = [a, b].map(async (channel) => {
        for (const { bytes, count } of plan) {
          const sent = channel.send(bytes, Array<number>(count).fill(1));
          if (random(2) === 0) await sent;
          else sent.catch(() => undefined);
        }
      });
      const receiving = [b, a].map(async (channel) => {
        for (const { bytes, count } of plan) {
          const message = await channel.receive();
          assert.ok(message);
          assert.ok(message.bytes.equals(bytes));
          assert.equal(message.fds.length, count);
          message.close();
        }
      });
      await Promise.all([...sending, ...receiving]);

      await check();
    });

    test('what was sent before the other side closed is received, then the end, again and again', async (t) => {
      const [a, b] = Channel.pair({ type });
      closing(t, a, b);
      await a.send('last words', 1);
      a.close();

      const message = await b.receive();

      assert.equal(message?.bytes.toString(), 'last words');
      message.close();
      assert.equal(await b.receive(), undefined);
      assert.equal(await b.receive(), undefined);
    });

    test('the end comes too where the other side has left something unread', async (t) => {
      const [a, b] = Channel.pair({ type });
      closing(t, a, b);
      await b.send('nobody reads this');
      a.close();

      assert.equal(await b.receive(), undefined);
      await assert.rejects(b.send('more'), { code: 'EPIPE' });
    });

    test('for await gives every message until the other side closes; leaving early does not close', async (t) => {
      const [a, b] = Channel.pair({ type });
      closing(t, a, b);
      for (const text of ['one', 'two', 'three', 'four']) await a.send(text);

      const seen: string[] = [];
      for await (const { bytes } of b) {
        seen.push(bytes.toString());
        if (seen.length === 2) break;
      }
      assert.equal(b.closed, false);
      a.close();
      for await (const { bytes } of b) seen.push(bytes.toString());

      assert.deepEqual(seen, ['one', 'two', 'three', 'four']);
    });

    test('for await ends, without an error, when this side is closed', async (t) => {
      const [a, b] = Channel.pair({ type });
      closing(t, a, b);
      await a.send('x');

      let count = 0;
      for await (const message of b) {
        message.close();
        count++;
        setImmediate(() => b.close());
      }

      assert.equal(count, 1);
    });

    test('receivers that wait together get one message each, in their order', async (t) => {
      const [a, b] = Channel.pair({ type });
      closing(t, a, b);
      const waiting = [b.receive(), b.receive(), b.receive()];

      for (const text of ['one', 'two', 'three']) await a.send(text);

      assert.deepEqual(
        (await Promise.all(waiting)).map((message) => message?.bytes.toString()),
        ['one', 'two', 'three'],
      );
    });

    test(
      'connect, listen and accept: peer, path, and the descriptors of both ends',
      { skip: skipUnlessLinux },
      async (t) => {
        const { check } = watchTable();
        const file = path.join(temporaryDirectory(t), 'channel.sock');
        const server = await Channel.listen(file, { type, mode: 0o600 });
        t.after(() => server.close());

        const [there, here] = await Promise.all([server.accept(), Channel.connect(file, { type })]);

        assert.equal(server.path, file);
        assert.equal(here.path, file);
        assert.equal(fs.statSync(file).mode & 0o777, 0o600);
        const { pid, uid, gid } = there.peer;
        assert.deepEqual({ pid, uid, gid }, { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() });
        const { pidfd } = there.peer;
        if (pidfd !== undefined) assert.equal(raw.describe(pidfd).closeOnExec, true);
        assert.equal(there.peer.pidfd, pidfd);
        for (const channel of [here, there]) {
          assert.equal(channel.type, type);
          assert.equal(raw.getNonBlocking(channel.fd), true);
          assert.equal(raw.getCloseOnExec(channel.fd), true);
        }
        here.close();
        there.close();
        await server[Symbol.asyncDispose]();
        assert.equal(fs.existsSync(file), false);
        await check();
      },
    );

    test('an abstract name works like a path, and leaves no file', { skip: skipUnlessLinux }, async (t) => {
      const name = `@fdpass-test-${process.pid}-${type}`;
      const server = await Channel.listen(name, { type });
      t.after(() => server.close());

      const here = await Channel.connect(name, { type });
      const there = await server.accept();
      closing(t, here, there);
      await here.send('abstract', 0);

      const message = await there.receive();
      assert.equal(message?.bytes.toString(), 'abstract');
      message.close();
    });
  });
}

describe('Channel.listen', () => {
  test('for await gives the channels that connect, until it is closed', async (t) => {
    const file = path.join(temporaryDirectory(t), 'a.sock');
    const server = await Channel.listen(file);
    const clients = await Promise.all([1, 2, 3].map(() => Channel.connect(file)));
    closing(t, ...clients);
    await Promise.all(clients.map((client, index) => client.send(String(index))));

    const said: string[] = [];
    for await (const channel of server) {
      closing(t, channel);
      said.push((await channel.receive())?.bytes.toString() ?? 'nothing');
      if (said.length === 3) server.close();
    }

    assert.deepEqual(said.sort(), ['0', '1', '2']);
    assert.equal(server.closed, true);
    await assert.rejects(server.accept(), { code: 'ERR_FDPASS_CLOSED' });
  });

  test('a path whose server lives is never stolen; that of a dead one is taken over', async (t) => {
    const file = path.join(temporaryDirectory(t), 'a.sock');
    const dead = raw.socket('unix', 'stream');
    raw.bind(dead, { family: 'unix', path: file });
    raw.listen(dead, 1);
    raw.close(dead);

    const server = await Channel.listen(file);
    t.after(() => server.close());

    await assert.rejects(Channel.listen(file), { code: 'EADDRINUSE' });
    const client = await Channel.connect(file);
    client.close();
  });

  test('it takes a Listener over, of the right kind alone', async (t) => {
    const file = path.join(temporaryDirectory(t), 'a.sock');
    const listener = await listen({ name: 'control', path: file });
    const tcp = await listen({ host: '127.0.0.1', port: 0 });
    t.after(() => tcp.close());

    const server = await Channel.listen(listener);
    assert.ok(server instanceof ChannelListener);
    const client = await Channel.connect(file);
    const accepted = await server.accept();
    closing(t, client, accepted);
    server.close();

    assert.equal(listener.closed, true);
    await assert.rejects(Channel.listen(tcp), { code: 'ERR_FDPASS_TYPE' });
    assert.equal(tcp.closed, false);
  });

  test('accept is aborted by its signal, and the connection waits for the next accept', async (t) => {
    const file = path.join(temporaryDirectory(t), 'a.sock');
    const server = await Channel.listen(file);
    t.after(() => server.close());
    const controller = new AbortController();
    const waiting = server.accept({ signal: controller.signal });

    controller.abort();

    await assert.rejects(waiting, { name: 'AbortError', code: 'ABORT_ERR' });
    await assert.rejects(server.accept({ signal: controller.signal }), { name: 'AbortError' });
    await assert.rejects(Channel.listen(file, { signal: controller.signal }), { name: 'AbortError' });
    const client = await Channel.connect(file);
    closing(t, client, await server.accept());
  });

  test('who waits when it is closed is told', async (t) => {
    const server = await Channel.listen(path.join(temporaryDirectory(t), 'a.sock'));
    const waiting = server.accept();
    server.close();
    await assert.rejects(waiting, { code: 'ERR_FDPASS_CLOSED' });
  });
});

describe('Channel.connect', () => {
  test(
    'nobody there is ENOENT, nobody any more ECONNREFUSED, another type EPROTOTYPE',
    { skip: skipUnlessLinux },
    async (t) => {
      const directory = temporaryDirectory(t);
      const dead = path.join(directory, 'dead.sock');
      const fd = raw.socket('unix', 'stream');
      raw.bind(fd, { family: 'unix', path: dead });
      raw.close(fd);
      const packets = path.join(directory, 'packets.sock');
      const server = await Channel.listen(packets, { type: 'seqpacket' });
      t.after(() => server.close());
      const { check } = watchTable();

      await assert.rejects(Channel.connect(path.join(directory, 'none')), { code: 'ENOENT' });
      await assert.rejects(Channel.connect(dead), { code: 'ECONNREFUSED' });
      await assert.rejects(Channel.connect(packets), { code: 'EPROTOTYPE' });
      await check();
    },
  );

  test(
    'a full queue is waited for: until there is room, the time is over, or the signal',
    { skip: skipUnlessLinux },
    async (t) => {
      const file = path.join(temporaryDirectory(t), 'a.sock');
      const server = await Channel.listen(file, { backlog: 1 });
      t.after(() => server.close());
      const queued = [await Channel.connect(file), await Channel.connect(file)]; // the kernel lets one more in than it was told
      closing(t, ...queued);

      await assert.rejects(Channel.connect(file, { connectTimeout: 30 }), { code: 'EAGAIN' });
      const controller = new AbortController();
      const aborted = Channel.connect(file, { signal: controller.signal });
      controller.abort();
      await assert.rejects(aborted, { name: 'AbortError', code: 'ABORT_ERR' });
      const late = Channel.connect(file);
      closing(t, await server.accept(), await server.accept());
      closing(t, await late, await server.accept());
    },
  );
});

describe('Channel.from', () => {
  test('takes over a connected socket, and makes it non-blocking and close-on-exec', (t) => {
    const [left, right] = raw.socketPair('stream');
    raw.setNonBlocking(left, false);
    raw.setCloseOnExec(left, false);

    const a = Channel.from(left);
    const b = Channel.from({ fd: right });
    closing(t, a, b);

    assert.deepEqual([a.fd, b.fd, raw.getNonBlocking(left), raw.getCloseOnExec(left)], [left, right, true, true]);
    a.close();
    assert.equal(a.fd, -1);
    assert.throws(() => raw.describe(left), { code: 'EBADF' });
  });

  test('takes a received descriptor: a channel can be sent over a channel', async (t) => {
    const [a, b] = Channel.pair();
    const [c, d] = Channel.pair();
    closing(t, a, b, c, d);
    await a.send('a channel', d);
    const message = await b.receive();
    const descriptor = message?.fds[0];
    assert.ok(descriptor);

    const sent = Channel.from(descriptor);
    closing(t, sent);
    assert.equal(descriptor.fd, -1);
    message.close(); // has nothing left

    await c.send('through both');
    const through = await sent.receive();
    assert.equal(through?.bytes.toString(), 'through both');
  });

  const wrong: [name: string, make: () => number, says: RegExp][] = [
    ['a file', () => fs.openSync('/dev/null', 'r'), /kind character/],
    ['a TCP socket', () => raw.socket('IPv4', 'stream'), /IPv4 socket/],
    ['a socket that is not connected', () => raw.socket('unix', 'stream'), /not connected/],
    ['a dgram socket that is not bound', () => raw.socket('unix', 'dgram'), /not connected/],
  ];
  for (const [name, make, says] of wrong) {
    test(`refuses ${name}, and leaves it to the caller`, () => {
      const fd = make();
      assert.throws(() => Channel.from(fd), { code: 'ERR_FDPASS_TYPE', message: says });
      raw.close(fd);
    });
  }

  test('refuses another type than was asked for, and what listens', async (t) => {
    const [left, right] = raw.socketPair('dgram');
    const listener = await listen({ path: path.join(temporaryDirectory(t), 'l') });
    t.after(() => listener.close());

    assert.throws(() => Channel.from(left, { type: 'stream' }), { code: 'ERR_FDPASS_TYPE', message: /a dgram socket/ });
    assert.throws(() => Channel.from(listener.fd), { code: 'ERR_FDPASS_TYPE', message: /listens/ });
    assert.throws(() => Channel.from(999_999), { code: 'EBADF' });
    raw.close(left);
    raw.close(right);
  });
});

describe('dgram', () => {
  test('a bound channel receives from anybody, knows from whom, and answers', { skip: skipUnlessLinux }, async (t) => {
    const directory = temporaryDirectory(t);
    const { check } = watchTable();
    const server = await Channel.listen(path.join(directory, 'server'), { type: 'dgram' });
    const client = await Channel.listen(path.join(directory, 'client'), { type: 'dgram' });
    const { path: to } = server;

    await client.send('question', [0], { to });
    const question = await server.receive();
    assert.ok(question);
    await server.send('answer', [1], { to: question.from });
    const answer = await client.receive();

    assert.deepEqual([question.bytes.toString(), question.from, question.fds.length], ['question', client.path, 1]);
    assert.equal(question.credentials?.pid, process.pid);
    assert.deepEqual([answer?.bytes.toString(), answer?.from], ['answer', server.path]);
    question.close();
    answer?.close();
    await assert.rejects(client.send('nowhere', []), { code: 'ERR_INVALID_ARG_TYPE', message: /options\.to/ });
    await assert.rejects(client.send('nobody', [], { to: path.join(directory, 'none') }), { code: 'ENOENT' });
    server.close();
    client.close();
    assert.deepEqual(fs.readdirSync(directory), []);
    await check();
  });

  test('each datagram is one message, an empty one too', async (t) => {
    const [a, b] = Channel.pair({ type: 'dgram' });
    closing(t, a, b);

    for (const text of ['one', '', 'three']) await a.send(text, 0);

    for (const text of ['one', '', 'three']) {
      const message = await b.receive();
      assert.deepEqual([message?.bytes.toString(), message?.fds.length], [text, 1]);
      message?.close();
    }
  });

  test('a receiver without room holds up what is for it, and nobody else', { skip: skipUnlessLinux }, async (t) => {
    const directory = temporaryDirectory(t);
    const bound = (name: string): Promise<Channel> => Channel.listen(path.join(directory, name), { type: 'dgram' });
    const [sender, deaf, alert] = [await bound('sender'), await bound('deaf'), await bound('alert')];
    closing(t, sender, deaf, alert);
    const stuck: Promise<void>[] = [];
    for (let index = 0; index < 40; index++) stuck.push(sender.send(String(index), [0], { to: deaf.path }));

    await sender.send('you', [1], { to: alert.path });
    const message = await alert.receive();
    assert.equal(message?.bytes.toString(), 'you');
    message.close();

    for (let index = 0; index < 40; index++) {
      const message = await deaf.receive();
      assert.equal(message?.bytes.toString(), String(index));
      message.close();
    }
    await Promise.all(stuck);
  });
});

describe('release', () => {
  test('gives the descriptor up, and the caller owns it', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    await a.send('before');
    assert.equal((await b.receive())?.bytes.toString(), 'before');

    const { fd: number } = a;
    const fd = a.release();

    assert.deepEqual([fd, a.closed], [number, true]);
    const again = Channel.from(fd);
    closing(t, again);
    await again.send('after');
    assert.equal((await b.receive())?.bytes.toString(), 'after');
  });

  test('refuses while something waits or was read and not taken: nothing would be lost in silence', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    const waiting = b.receive();
    assert.throws(() => b.release(), { code: 'ERR_FDPASS_UNREAD', message: /somebody waits/ });
    await a.send('one');
    await a.send('two');
    await waiting;
    assert.throws(() => b.release(), { code: 'ERR_FDPASS_UNREAD', message: /nobody has taken/ });
    const large = b.send(Buffer.alloc(4_000_000));
    assert.equal((await b.receive())?.bytes.toString(), 'two');
    assert.throws(() => b.release(), { code: 'ERR_FDPASS_UNREAD', message: /wait to be sent/ });
    const [message] = await Promise.all([a.receive(), large]);
    assert.equal(message?.bytes.length, 4_000_000);
    const before = table().length;
    raw.close(b.release());
    assert.equal(table().length, before - 1);
  });
});

describe('arguments', () => {
  const calls: [name: string, call: () => unknown, code: string, says: RegExp][] = [
    ['type', () => Channel.pair({ type: 'raw' as 'stream' }), 'ERR_INVALID_ARG_VALUE', /options\.type.*"raw"/],
    [
      'framing',
      () => Channel.pair({ framing: 'json' as 'plain' }),
      'ERR_INVALID_ARG_VALUE',
      /options\.framing.*"json"/,
    ],
    ['framing of dgram', () => Channel.pair({ type: 'dgram', framing: 'fdpass' }), 'ERR_INVALID_ARG_VALUE', /dgram/],
    ['maxBytes', () => Channel.pair({ maxBytes: -1 }), 'ERR_INVALID_ARG_VALUE', /maxBytes.*-1/],
    ['maxBytes', () => Channel.pair({ maxBytes: '1' as unknown as number }), 'ERR_INVALID_ARG_TYPE', /maxBytes.*"1"/],
    ['maxDescriptors', () => Channel.pair({ framing: 'plain', maxDescriptors: 254 }), 'ERR_INVALID_ARG_VALUE', /253/],
    ['highWater', () => Channel.pair({ highWater: { bytes: NaN } }), 'ERR_INVALID_ARG_VALUE', /highWater\.bytes.*NaN/],
  ];
  for (const [name, call, code, says] of calls) {
    test(`${name}: ${String(says)}`, () => {
      const before = table();
      assert.throws(call, { code, message: says });
      assert.deepEqual(table(), before);
    });
  }

  test('of connect and send, as rejections', async (t) => {
    const [a, b] = Channel.pair();
    closing(t, a, b);
    await assert.rejects(Channel.connect(''), { code: 'ERR_INVALID_ARG_VALUE' });
    await assert.rejects(Channel.connect(5 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE' });
    await assert.rejects(Channel.connect('/x', { connectTimeout: -1 }), { code: 'ERR_INVALID_ARG_VALUE' });
    await assert.rejects(a.send(5 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE', message: /bytes.*5/ });
    await assert.rejects(a.send('x', [], { to: '/y' }), { code: 'ERR_INVALID_ARG_TYPE', message: /options\.to/ });
  });
});

/** Bytes that differ from place to place. */
function pattern(length: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let index = 0; index < length; index++) bytes[index] = (index * 31 + (index >> 8)) & 0xff;
  return bytes;
}

/** Whole numbers below `limit`, the same for the same seed. */
function randomOf(seed: number): (limit: number) => number {
  let state = seed;
  return (limit) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * limit);
  };
}
