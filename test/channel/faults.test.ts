/**
 * Hostile and unlucky peers, one fault a test: what the receiver is told, and that its table of descriptors is as it was before.
 * The peers are Python programs; where a limit of the process counts, the receiver is a process of its own.
 */
import assert from 'node:assert/strict';
import { describe, test, type TestContext } from 'node:test';

import { Channel, type ChannelOptions } from '../../lib/channel.js';
import * as raw from '../../lib/raw.js';
import { skipUnlessLinux } from '../raw/support.js';
import { closing, isRoot, node, python, skipWithoutPython, watchTable } from './support.js';

/** A channel whose other end a Python program has as 3; it may write at once, and stays until it has read a line. */
function peer(
  t: TestContext,
  source: string,
  options: ChannelOptions = {},
): { channel: Channel; program: ReturnType<typeof python> } {
  const type = options.type ?? 'stream';
  const [ours, theirs] = raw.socketPair(type);
  raw.setNonBlocking(theirs, false);
  const channel = Channel.from(ours, options);
  closing(t, channel);
  const program = python(t, `s = given(3, socket.SOCK_${type.toUpperCase()})\n${source}\nsys.stdin.readline()`, [
    theirs,
  ]);
  raw.close(theirs);
  return { channel, program };
}

interface Fault {
  name: string;
  /** What it does with the socket `s`. */
  does: string;
  says: RegExp;
  code?: 'ERR_FDPASS_LIMIT';
  options?: ChannelOptions;
  /** Messages that come whole before it. */
  before?: string[];
}

const faults: Fault[] = [
  { name: 'bytes that are no frame', does: `send(s, b'GET / HTTP/1.1', [0, 1])`, says: /do not begin with FDC/ },
  { name: 'a frame of a later layout', does: `send(s, b'FDC\\x02', [0])`, says: /layout 2, known is 1/ },
  { name: '1 GiB of length', does: `send(s, frame(b'x', 1, 0, 1 << 30), [0])`, says: /frame of 1073741824 bytes/ },
  { name: '254 descriptors in a frame', does: `send(s, frame(b'x', 254), [0] * 253)`, says: /names 254 descriptors/ },
  {
    name: 'a frame that claims more than came',
    does: `send(s, frame(b'x', 3), [0, 1])`,
    says: /names 3 descriptors and came with 2/,
  },
  {
    name: 'a frame that claims some and came with none',
    does: `send(s, frame(b'x', 1))`,
    says: /names 1 descriptor and came with 0/,
  },
  {
    name: 'a frame that claims fewer than came',
    does: `send(s, frame(b'x', 1), [0, 1, 2])`,
    says: /2 descriptors came that no frame names/,
    before: ['x 1'],
  },
  {
    name: 'unsolicited descriptors with a frame that names none',
    does: `send(s, frame(b'x'), [0] * 253)`,
    says: /253 descriptors came that no/,
    before: ['x 0'],
  },
  {
    name: 'unsolicited descriptors in the middle of a payload',
    does: `send(s, frame(b'abc', 1, 0, 9), [0]); send(s, b'def', [0, 1])`,
    says: /names 1 descriptor and came with 3/,
  },
  {
    name: 'descriptors without end while a payload trickles',
    does: `
send(s, frame(b'', 0, 0, 1000000))
try:
    while True: send(s, b'x', [0] * 253)
except OSError: pass`,
    says: /descriptors came|names 0 descriptors and came with/,
  },
  {
    name: 'half a header, then the end',
    does: `send(s, frame(b'x', 2)[:5], [0, 1]); s.close()`,
    says: /in the middle of a frame/,
  },
  {
    name: 'half a payload, then the end',
    does: `send(s, frame(b'abc', 2)[:13], [0, 1]); s.close()`,
    says: /in the middle of a frame/,
  },
  {
    name: 'half a message, then the end',
    does: `send(s, frame(b'abc', 2, 1), [0, 1]); s.close()`,
    says: /in the middle of a message/,
  },
  {
    name: 'a whole message, then garbage',
    does: `send(s, frame(b'good', 1) + b'bad', [0])`,
    says: /do not begin/,
    before: ['good 1'],
  },
  {
    name: 'a message that never ends, of empty frames',
    does: `send(s, frame(b'x', 1, 1), [0]); send(s, frame(b'', 0, 1) * 9)`,
    says: /nothing in it and MORE/,
  },
  {
    name: 'a message that never ends, of bytes',
    does: `
try:
    while True: send(s, frame(b'x' * 1000, 1, 1), [0])
except OSError: pass`,
    says: /more than 50000 bytes/,
    code: 'ERR_FDPASS_LIMIT',
    options: { maxBytes: 50_000 },
  },
  {
    name: 'a message that never ends, of descriptors',
    does: `
try:
    while True: send(s, frame(b'', 100, 1), [0] * 100)
except OSError: pass`,
    says: /more than 250 descriptors/,
    code: 'ERR_FDPASS_LIMIT',
    options: { maxDescriptors: 250 },
  },
  {
    name: 'seqpacket: half a frame',
    does: `send(s, frame(b'abc', 1)[:13], [0])`,
    says: /not exactly one frame/,
    options: { type: 'seqpacket' },
  },
  {
    name: 'seqpacket: two frames',
    does: `send(s, frame(b'a', 1) * 2, [0, 1])`,
    says: /not exactly one frame/,
    options: { type: 'seqpacket' },
  },
  {
    name: 'seqpacket: too many descriptors',
    does: `send(s, frame(b'a', 1), [0, 1])`,
    says: /no frame names/,
    options: { type: 'seqpacket' },
  },
  {
    name: 'seqpacket: a packet longer than any frame',
    does: `send(s, frame(b'a' * 100000, 1), [0])`,
    says: /longer than any frame/,
    options: { type: 'seqpacket' },
  },
  {
    name: 'seqpacket: descriptors in an empty packet',
    does: `send(s, b'', [0, 1])`,
    says: /not exactly one frame/,
    options: { type: 'seqpacket' },
  },
];

describe('a hostile peer', { skip: skipWithoutPython }, () => {
  for (const { name, does, says, code = 'ERR_FDPASS_PROTOCOL', options = {}, before = [] } of faults) {
    const skip = options.type === 'seqpacket' ? skipUnlessLinux : false;
    test(`${name}: the receiver is told, closes the channel, and keeps nothing`, { skip }, async (t) => {
      const { check } = watchTable();
      const { channel, program } = peer(t, does, options);

      const seen: string[] = [];
      const reading = (async () => {
        for await (const message of channel) {
          seen.push(`${message.bytes.toString()} ${message.fds.length}`);
          message.close();
        }
      })();

      await assert.rejects(reading, { code, message: says });
      // Whether what was right before it is a message depends on what came together: with the fault or before it.
      assert.ok(seen.length <= before.length);
      assert.deepEqual(seen, before.slice(0, seen.length));
      assert.equal(channel.closed, true);
      await assert.rejects(channel.receive(), { code: 'ERR_FDPASS_CLOSED' });
      await assert.rejects(channel.send('x'), { code: 'ERR_FDPASS_CLOSED' });
      program.tell('');
      await program.exited;
      await check();
    });
  }

  test('the messages that were whole before a fault can be received, and it is told but once', async (t) => {
    const { channel, program } = peer(t, `send(s, frame(b'one', 1) + frame(b'two', 1) + b'bad', [0, 0])`);
    const { check } = watchTable();
    const all = await Promise.allSettled([channel.receive(), channel.receive(), channel.receive(), channel.receive()]);

    const [one, two, bad, after] = all.map((each) =>
      each.status === 'fulfilled' ? each.value?.bytes.toString() : (each.reason as { code: string }).code,
    );
    assert.deepEqual([one, two, bad, after], ['one', 'two', 'ERR_FDPASS_PROTOCOL', 'ERR_FDPASS_CLOSED']);
    for (const each of all) if (each.status === 'fulfilled') each.value?.close();
    program.tell('');
    await check();
  });

  test(
    'descriptors of odd kinds arrive like any other, and are closed like any other',
    { skip: skipUnlessLinux },
    async (t) => {
      const { check } = watchTable();
      const { channel, program } = peer(
        t,
        `
import select
pipe = os.pipe()
odd = [os.pidfd_open(os.getpid()), os.memfd_create('odd'), select.epoll().fileno(), os.eventfd(0), os.open('/', os.O_PATH),
       os.open('.', os.O_RDONLY), pipe[0], s.fileno()]
keep = select.epoll(); keep.register(s.fileno(), select.EPOLLIN)
send(s, frame(b'odd', len(odd) + 1), odd + [keep.fileno()])
`.replace('select.epoll().fileno()', "globals().setdefault('e', select.epoll()).fileno()"),
      );

      const message = await channel.receive();

      assert.ok(message);
      assert.deepEqual(
        message.fds.map(({ kind }) => kind),
        ['anonymous', 'file', 'anonymous', 'anonymous', 'directory', 'directory', 'pipe', 'socket', 'anonymous'].map(
          (kind, index) => (index === 0 ? (message.fds[0]?.kind ?? kind) : kind), // a pidfd has a type of its own since Linux 6.9
        ),
      );
      for (const descriptor of message.fds) assert.equal(descriptor.describe().closeOnExec, true);
      message.close();
      program.tell('');
      channel.close();
      await check();
    },
  );
});

describe('cycles', () => {
  test('a channel that is sent over itself, both ends, again and again, and never received, leaves nothing', async () => {
    const { check } = watchTable();
    for (let round = 0; round < 20; round++) {
      const [a, b] = Channel.pair();
      const [c, d] = Channel.pair();
      await a.send('the other end', b);
      await b.send('this end', [a, c]);
      await c.send('and across', [a, b, c, d]);
      await d.send('and back', [a, b, c, d]);
      for (const channel of [a, b, c, d]) channel.close();
    }
    await check();
  });

  test('a channel that is received over itself works', async (t) => {
    const { check } = watchTable();
    const [a, b] = Channel.pair();
    await a.send('you', b);
    const message = await b.receive();
    const [descriptor] = message?.fds ?? [];
    assert.ok(descriptor);
    const again = Channel.from(descriptor);
    closing(t, again);
    b.close();
    await a.send('still there');
    assert.equal((await again.receive())?.bytes.toString(), 'still there');
    again.close();
    a.close();
    await check();
  });
});

describe('no room for descriptors (EMFILE, MSG_CTRUNC)', () => {
  const few = ['sh', '-c', 'ulimit -n 60; exec "$@"', 'sh'];
  const many = `Array.from({ length: 100 }, (_, index) => index % 3)`;

  for (const type of ['stream', 'seqpacket'] as const) {
    test(
      `${type}: receive says which limit, the channel is closed, and the table is as before`,
      { skip: type === 'seqpacket' && skipUnlessLinux },
      async (t) => {
        const program = node(
          t,
          `
        const [a, b] = Channel.pair({ type: '${type}' });
        await a.send('first', 0); (await b.receive()).close();
        const before = table();
        await a.send('many', ${many});
        const error = await b.receive().catch((error) => error);
        say(error.code, /ulimit -n/.test(error.message), b.closed);
        const [c, d] = Channel.pair(); c.close(); d.close();
        say(opened(before));
        `,
          { prefix: few },
        );
        assert.equal(await program.line(), 'ERR_FDPASS_LIMIT true true');
        assert.equal(await program.line(), 'nothing');
        await program.ends();
      },
    );
  }

  test('without framing one message is lost, receive says so, and the next one is received', async (t) => {
    const program = node(
      t,
      `
      const [a, b] = Channel.pair({ framing: 'plain' });
      await a.send('first', 0); (await b.receive()).close();
      const before = table();
      await a.send('many', ${many});
      const error = await b.receive().catch((error) => error);
      say(error.code, b.closed, opened(before) === 'nothing');
      await a.send('few', [0, 1]);
      const message = await b.receive();
      say(message.bytes.toString(), message.fds.length);
      message.close();
      say(opened(before) === 'nothing');
      `,
      { prefix: few },
    );
    assert.equal(await program.line(), 'ERR_FDPASS_LIMIT false true');
    assert.equal(await program.line(), 'few 2');
    assert.equal(await program.line(), 'true');
    await program.ends();
  });

  test('no room for the duplicates of what must wait: nothing of it was sent, and the channel goes on', async (t) => {
    const program = node(
      t,
      `
      const [a, b] = Channel.pair();
      await a.send('first', 0); (await b.receive()).close();
      const large = a.send(Buffer.alloc(2_000_000));
      const before = table();
      const error = await a.send('many', ${many}).catch((error) => error);
      say(error.code, opened(before) === 'nothing');
      say((await b.receive()).bytes.length);
      await large;
      await a.send('next');
      say((await b.receive()).bytes.toString());
      `,
      { prefix: few },
    );
    assert.equal(await program.line(), 'EMFILE true');
    assert.equal(await program.line(), '2000000');
    assert.equal(await program.line(), 'next');
    await program.ends();
  });

  test('no room for the duplicates of a message of several frames: not even the first frame was sent', async (t) => {
    const program = node(
      t,
      `
      const [left, right] = raw.socketPair('stream');
      raw.setOption(left, 'sendBuffer', 1); // room for one frame and no more
      const [a, b] = [Channel.from(left), Channel.from(right)];
      await a.send('first', 0); (await b.receive()).close();
      const fill = []; try { for (;;) fill.push(raw.dup(0)); } catch {}
      raw.closeAll(fill.splice(0, 20));
      const error = await a.send('many', Array(300).fill(0)).catch((error) => error);
      raw.closeAll(fill);
      say(error.code, a.closed);
      const next = a.send('next', Array(300).fill(0));
      const message = await b.receive();
      await next;
      say(message.bytes.toString(), message.fds.length);
      message.close();
      `,
      { prefix: ['sh', '-c', 'ulimit -n 700; exec "$@"', 'sh'] },
    );
    assert.equal(await program.line(), 'EMFILE false');
    assert.equal(await program.line(), 'next 300');
    await program.ends();
  });

  test('no room for a connection: accept says EMFILE, and the next one gets it', async (t) => {
    const program = node(
      t,
      `
      const server = await Channel.listen('@fdpass-emfile-' + process.pid);
      const client = await Channel.connect(server.path);
      await client.send('hello');
      const fill = []; try { for (;;) fill.push(raw.dup(0)); } catch {}
      const error = await server.accept().catch((error) => error);
      say(error.code);
      fill.forEach((fd) => raw.close(fd));
      const channel = await server.accept();
      say((await channel.receive()).bytes.toString());
      server.close(); channel.close(); client.close();
      `,
      { prefix: few },
    );
    if (process.platform !== 'linux') return;
    assert.equal(await program.line(), 'EMFILE');
    assert.equal(await program.line(), 'hello');
    await program.ends();
  });
});

describe('too many descriptors on their way (ETOOMANYREFS)', { skip: skipUnlessLinux }, () => {
  // The kernel counts them by user, and lets root have as many as it likes.
  const unprivileged = isRoot ? 'process.setgroups([]); process.setgid(65_533); process.setuid(65_533);' : '';
  const few = ['sh', '-c', 'ulimit -n 100; exec "$@"', 'sh'];

  test('send waits, and goes on when they have arrived', async (t) => {
    const program = node(
      t,
      `
      ${unprivileged}
      const [a, b] = Channel.pair();
      const [c, d] = Channel.pair();
      const fds = Array(50).fill(0);
      let code; try { for (let i = 0; i < 9; i++) { raw.send(c.fd, Buffer.from('x'), fds); } } catch (error) { code = error.code; }
      say(code);
      let done = false;
      const sent = a.send('waits', [0, 1]).then(() => (done = true));
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
      say(done);
      for (let piece; (piece = raw.receive(d.fd, 1)) !== undefined; ) raw.closeAll(piece.fds);
      await sent;
      const message = await b.receive();
      say(message.bytes.toString(), message.fds.length);
      `,
      { prefix: few },
    );
    assert.equal(await program.line(), 'ETOOMANYREFS');
    assert.equal(await program.line(), 'false');
    assert.equal(await program.line(), 'waits 2');
    await program.ends();
  });

  test('after 5 s without progress it says so, nothing of it was sent, and the channel goes on', async (t) => {
    const program = node(
      t,
      `
      ${unprivileged}
      const [a, b] = Channel.pair();
      const [c, d] = Channel.pair();
      try { for (let i = 0; i < 9; i++) raw.send(c.fd, Buffer.from('x'), Array(50).fill(0)); } catch {}
      const before = table();
      const error = await a.send('never', [0, 1]).catch((error) => error);
      say(error.code, error.syscall, opened(before) === 'nothing');
      await a.send('bytes alone');
      say((await b.receive()).bytes.toString());
      `,
      { prefix: few },
    );
    assert.equal(await program.line(), 'ETOOMANYREFS sendmsg true');
    assert.equal(await program.line(), 'bytes alone');
    await program.ends();
  });
});

test(
  'a descriptor that the kernel does not send (an io_uring) is refused alone, among others that go together',
  { skip: skipUnlessLinux },
  async (t) => {
    const program = node(
      t,
      `
      import fs from 'node:fs/promises';
      await fs.readFile('/dev/null'); // where libuv has a ring, it has it now
      const ring = raw.openDescriptors().find(({ target }) => target.includes('io_uring'));
      const [a, b] = Channel.pair();
      const large = a.send(Buffer.alloc(1_000_000)); // those behind it go in one sendmsg
      const sent = [a.send('one', 0), a.send('two', [0, ring?.fd ?? 0]), a.send('three', [0, 1])];
      const settled = Promise.allSettled(sent);
      (await b.receive()).close();
      const one = await b.receive();
      const next = await b.receive();
      await large;
      const codes = (await settled).map(({ reason }) => reason?.code ?? 'sent');
      say(ring !== undefined && codes[1] !== 'sent', ...codes, String(one.bytes), one.fds.length, String(next.bytes), next.fds.length);
      `,
      { prefix: ['env', 'UV_USE_IO_URING=1'] },
    );
    const [isRefused, ...what] = (await program.line()).split(' ');
    if (isRefused !== 'true') {
      t.skip('no io_uring here, or a kernel that sends one');
      return;
    }
    assert.deepEqual(what.join(' '), 'sent EINVAL sent one 1 three 2');
    await program.ends();
  },
);

describe('the other side is gone', () => {
  test('send says EPIPE, also what waits, and what it had sent before can be received', async (t) => {
    const { check } = watchTable();
    const [a, b] = Channel.pair();
    closing(t, a, b);
    await b.send('farewell', 0);
    const waiting = [a.send(Buffer.alloc(2_000_000), 0), a.send('behind it', [0, 1])];
    const settled = Promise.allSettled(waiting);

    b.close();

    const codes = (await settled).map((each) =>
      each.status === 'rejected' ? (each.reason as { code: string }).code : 'sent',
    );
    assert.ok(
      codes.every((code) => code === 'EPIPE' || code === 'ECONNRESET'),
      String(codes),
    );
    await assert.rejects(a.send('more', 0), { code: 'EPIPE' });
    const message = await a.receive();
    assert.equal(message?.bytes.toString(), 'farewell');
    message.close();
    assert.equal(await a.receive(), undefined);
    a.close();
    await check();
  });

  test(
    'killed in the middle of a large message: the receiver is told, and keeps nothing',
    { skip: skipWithoutPython },
    async (t) => {
      const { check } = watchTable();
      const { channel, program } = peer(
        t,
        `
send(s, frame(b'x' * 1000, 2, 0, 900000), [0, 1])
say('sent')`,
      );
      const reading = channel.receive();
      await program.line();
      program.child.kill('SIGKILL');

      await assert.rejects(reading, { code: 'ERR_FDPASS_PROTOCOL', message: /in the middle of a frame/ });
      await program.exited;
      await check();
    },
  );
});

describe('the other side closes with mail of ours unread', () => {
  for (const [type, framing] of [
    ['stream', 'fdpass'],
    ['stream', 'plain'],
    ['seqpacket', 'fdpass'],
    ['seqpacket', 'plain'],
  ] as const) {
    // On packets the kernel tells ECONNRESET before what is still in the queue; on a stream after it.
    const skip = type === 'seqpacket' && skipUnlessLinux;
    test(`${type}, ${framing}: everything it had sent arrives, then the end`, { skip }, async () => {
      const { check } = watchTable();
      const [ours, theirs] = Channel.pair({ type, framing });
      await ours.send('never read');
      for (const text of ['one', 'two', 'three']) await theirs.send(text, 0);
      theirs.close();
      const received: string[] = [];
      let descriptors = 0;
      for await (const message of ours) {
        received.push(message.bytes.toString());
        descriptors += message.fds.length;
        message.close();
      }
      assert.deepEqual([received.join(''), descriptors], ['onetwothree', 3]);
      ours.close();
      await check();
    });
  }
});
