/**
 * Foreign programs at the other end: Python's socket.send_fds and recv_fds, C, Go, without framing; and both with frames, written from
 * docs/protocol.md alone. Both ways.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { describe, test, type TestContext } from 'node:test';

import { Channel, type ChannelOptions } from '../../lib/channel.js';
import * as raw from '../../lib/raw.js';
import { skipUnlessLinux } from '../raw/support.js';
import {
  closing,
  compileC,
  Program,
  python,
  skipWithoutC,
  skipWithoutGo,
  skipWithoutPython,
  temporaryDirectory,
  watchTable,
} from './support.js';

/** A channel, and the other end as a number that blocks, for a foreign program to have as 3. */
function half(t: TestContext, options: ChannelOptions = {}): { channel: Channel; theirs: number; given: () => void } {
  const [ours, theirs] = raw.socketPair(options.type ?? 'stream');
  raw.setNonBlocking(theirs, false);
  const channel = Channel.from(ours, options);
  closing(t, channel);
  return { channel, theirs, given: () => raw.close(theirs) };
}

const plain: ChannelOptions = { framing: 'plain' };

describe('Python, without framing', { skip: skipWithoutPython }, () => {
  test('socket.send_fds arrives as a message', async (t) => {
    const { check } = watchTable();
    const { channel, theirs, given } = half(t, plain);
    const program = python(
      t,
      `
s = given()
r, w = os.pipe()
os.write(w, b'in the pipe')
socket.send_fds(s, [b'take ', b'this'], [r])
socket.send_fds(s, [b'x'], [r] * 253)
`,
      [theirs],
    );
    given();

    const message = await channel.receive();
    assert.deepEqual([message?.bytes.toString(), message?.fds.length], ['take this', 1]);
    const handle = await message?.fds[0]?.asFileHandle();
    assert.equal((await handle?.read(Buffer.alloc(20), 0, 11))?.buffer.toString('latin1', 0, 11), 'in the pipe');
    await handle?.close();
    const many = await channel.receive();
    assert.equal(many?.fds.length, 253);
    many.close();
    assert.equal(await channel.receive(), undefined);
    channel.close();
    await program.ends();
    await check();
  });

  test('socket.recv_fds takes what send sends: 0, 1 and 253 descriptors, and they are what they were', async (t) => {
    const { check } = watchTable();
    const { channel, theirs, given } = half(t, plain);
    const program = python(
      t,
      `
s = given()
for _ in range(3):
    data, fds, flags, address = socket.recv_fds(s, 1000, 253)
    say(data.decode(), len(fds), flags & socket.MSG_CTRUNC, *{os.readlink('/proc/self/fd/%d' % fd) for fd in fds})
    for fd in fds: os.close(fd)
say(s.recv(10))
`,
      [theirs],
    );
    given();
    const file = fs.openSync('/dev/null', 'r');

    for (const count of [0, 1, 253]) {
      await channel.send(`${count}`, Array<number>(count).fill(file));
      assert.equal(await program.line(), `${count} ${count} 0${count > 0 ? ' /dev/null' : ''}`);
    }
    await assert.rejects(channel.send('x', Array<number>(254).fill(file)), {
      code: 'ERR_FDPASS_LIMIT',
      message: /254.*at most 253/,
    });
    await assert.rejects(channel.send('', file), { code: 'ERR_OUT_OF_RANGE' });
    channel.close();
    assert.equal(await program.line(), "b''");
    await program.ends();
    fs.closeSync(file);
    await check();
  });

  test('bytes before a descriptor may come with it, those behind it come later: nothing is lost or moved', async (t) => {
    const { channel, theirs, given } = half(t, plain);
    const program = python(
      t,
      `
s = given()
s.sendall(b'AA'); socket.send_fds(s, [b'BB'], [0]); s.sendall(b'CC'); socket.send_fds(s, [b'DD'], [0, 0]); s.sendall(b'EE')
`,
      [theirs],
    );
    given();
    await program.ends();

    const seen: string[] = [];
    for await (const message of channel) {
      seen.push(`${message.bytes.toString()} ${message.fds.length}`);
      message.close();
    }

    assert.deepEqual(seen, ['AABB 1', 'CCDD 2', 'EE 0']);
  });

  for (const type of ['seqpacket', 'dgram'] as const) {
    test(`${type}: each packet is a message, an empty one too`, { skip: skipUnlessLinux }, async (t) => {
      const { channel, theirs, given } = half(t, { type, framing: 'plain' });
      const program = python(
        t,
        `
s = given(3, socket.SOCK_${type.toUpperCase()})
for data, fds in ((b'one', [0]), (b'', [0, 1]), (b'', []), (b'x' * 100000, [])): send(s, data, fds)
data, fds, flags, address = socket.recv_fds(s, 1000, 10)
say(data.decode(), len(fds))
`,
        [theirs],
      );
      given();

      for (const [length, count] of [
        [3, 1],
        [0, 2],
        [0, 0],
        [100_000, 0],
      ]) {
        const message = await channel.receive();
        assert.deepEqual([message?.bytes.length, message?.fds.length], [length, count]);
        assert.equal(message?.credentials?.pid, program.child.pid);
        message?.close();
      }
      await channel.send('back', 0);
      assert.equal(await program.line(), 'back 1');
      await program.ends();
      if (type === 'seqpacket') assert.equal(await channel.receive(), undefined);
    });
  }

  test('connects to a path and to an abstract name, and is known by its pid', { skip: skipUnlessLinux }, async (t) => {
    for (const name of [path.join(temporaryDirectory(t), 's'), `@fdpass-python-${process.pid}`]) {
      const server = await Channel.listen(name, { framing: 'plain' });
      const program = python(
        t,
        `
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1].replace('@', '\\0', 1))
socket.send_fds(s, [b'from afar'], [0])
say(s.recv(100).decode())
`,
        [],
        [name],
      );
      const channel = await server.accept();
      closing(t, channel);
      assert.equal(channel.peer.pid, program.child.pid);
      const message = await channel.receive();
      assert.deepEqual([message?.bytes.toString(), message?.fds.length], ['from afar', 1]);
      message?.close();
      await channel.send('and back');
      assert.equal(await program.line(), 'and back');
      await program.ends();
      server.close();
    }
  });
});

describe('C, without framing', { skip: skipWithoutC }, () => {
  test('sendmsg arrives as a message', async (t) => {
    const program = compileC(t);
    for (const count of [0, 1, 253]) {
      const { channel, theirs, given } = half(t, plain);
      const sender = new Program(t, [program, 'send', String(count), 'from C'], [theirs]);
      given();

      const message = await channel.receive();

      assert.deepEqual([message?.bytes.toString(), message?.fds.length], ['from C', count]);
      message?.close();
      assert.equal(await channel.receive(), undefined);
      await sender.ends();
    }
  });

  test('recvmsg takes what send sends', async (t) => {
    const { channel, theirs, given } = half(t, plain);
    const receiver = new Program(t, [compileC(t), 'receive'], [theirs]);
    given();

    for (const count of [0, 1, 253]) {
      await channel.send('to C', Array<number>(count).fill(0));
      assert.equal(await receiver.line(), `4 ${count} to C`);
    }
    channel.close();
    assert.equal(await receiver.line(), 'end');
    await receiver.ends();
  });
});

describe('C, with frames', { skip: skipWithoutC }, () => {
  for (const count of [0, 1, 253, 254, 600]) {
    test(`${count} descriptors, both ways`, async (t) => {
      const program = compileC(t);
      const first = half(t);
      const sender = new Program(t, [program, 'frames', String(count), 'framed in C'], [first.theirs]);
      first.given();
      const message = await first.channel.receive();
      assert.deepEqual([message?.bytes.toString(), message?.fds.length], ['framed in C', count]);
      message?.close();
      assert.equal(await first.channel.receive(), undefined);
      await sender.ends();

      const second = half(t);
      const receiver = new Program(t, [program, 'read-frames'], [second.theirs]);
      second.given();
      await second.channel.send('framed in JavaScript', Array<number>(count).fill(0));
      assert.equal(await receiver.line(), `20 ${count} framed in JavaScript`);
      second.channel.close();
      assert.equal(await receiver.line(), 'end 0 0');
      await receiver.ends();
    });
  }

  test('messages that were put together into one sendmsg, and large ones, are read by a reader with a small buffer', async (t) => {
    const { channel, theirs, given } = half(t);
    const receiver = new Program(t, [compileC(t), 'read-frames'], [theirs]);
    given();

    const sent = Array.from({ length: 400 }, (_, index) =>
      channel.send(index % 50 === 7 ? 'x'.repeat(40_000) : `message ${index}`, Array<number>(index % 4).fill(0)),
    );
    await Promise.all(sent);

    for (let index = 0; index < 400; index++) {
      const text = index % 50 === 7 ? 'x'.repeat(40_000) : `message ${index}`;
      assert.equal(await receiver.line(), `${text.length} ${index % 4} ${text.slice(0, 40)}`);
    }
    channel.close();
    assert.equal(await receiver.line(), 'end 0 0');
  });
});

describe('Python, with frames', { skip: skipWithoutPython }, () => {
  test('frames in every shape that the document allows', async (t) => {
    const { check } = watchTable();
    const { channel, theirs, given } = half(t);
    const program = python(
      t,
      `
s = given()
send(s, frame(b'plain'))
send(s, frame(b'with two', 2), [0, 1])
whole = frame(b'byte by byte', 1)
send(s, whole[:1], [0])
for byte in whole[1:]: s.sendall(bytes([byte]))
send(s, frame(b'in two ', 1, 1), [0]); send(s, frame(b'frames', 2), [0, 1])
send(s, frame(b'a', 1) + frame(b'b') + frame(b'c', 2), [0, 0, 1])
send(s, frame(b'', 253, 1), [0] * 253); send(s, frame(b'', 253, 1), [0] * 253); send(s, frame(b'many', 94), [0] * 94)
send(s, frame(b'', 0))
`,
      [theirs],
    );
    given();

    const seen: [string, number][] = [];
    for await (const message of channel) {
      seen.push([message.bytes.toString(), message.fds.length]);
      message.close();
    }

    assert.deepEqual(seen, [
      ['plain', 0],
      ['with two', 2],
      ['byte by byte', 1],
      ['in two frames', 3],
      ['a', 1],
      ['b', 0],
      ['c', 2],
      ['many', 600],
      ['', 0],
    ]);
    channel.close();
    await program.ends();
    await check();
  });

  test('seqpacket: one packet is one frame', { skip: skipUnlessLinux }, async (t) => {
    const { channel, theirs, given } = half(t, { type: 'seqpacket' });
    const program = python(
      t,
      `
s = given(3, socket.SOCK_SEQPACKET)
send(s, frame(b'one', 1), [0])
send(s, frame(b'two ', 1, 1), [0]); send(s, frame(b'packets', 1), [0])
while True:
    data, fds, flags, address = socket.recv_fds(s, 100000, 253)
    if not data: break
    say(data[:12].hex(), len(data), len(fds))
    for fd in fds: os.close(fd)
`,
      [theirs],
    );
    given();

    for (const [text, count] of [
      ['one', 1],
      ['two packets', 2],
    ]) {
      const message = await channel.receive();
      assert.deepEqual([message?.bytes.toString(), message?.fds.length], [text, count]);
      message?.close();
    }
    await channel.send('x', 0);
    await channel.send(Buffer.alloc(70_000), Array<number>(300).fill(0));
    channel.close();
    assert.equal(await program.line(), '464443010001000000000001 13 1');
    assert.equal(await program.line(), '4644430101fd000000010000 65548 253');
    assert.equal(await program.line(), '46444301002f000000001170 4476 47');
    await program.ends();
  });
});

describe('Go, without framing', { skip: skipWithoutGo }, () => {
  test('syscall.UnixRights, both ways', async (t) => {
    const directory = temporaryDirectory(t);
    fs.writeFileSync(
      path.join(directory, 'main.go'),
      `package main

import (
	"fmt"
	"os"
	"syscall"
)

func main() {
	if err := syscall.Sendmsg(3, []byte("from Go"), syscall.UnixRights(0, 1), nil, 0); err != nil {
		panic(err)
	}
	bytes, control := make([]byte, 100), make([]byte, syscall.CmsgSpace(4*253))
	n, length, _, _, err := syscall.Recvmsg(3, bytes, control, 0)
	if err != nil {
		panic(err)
	}
	messages, _ := syscall.ParseSocketControlMessage(control[:length])
	fds, _ := syscall.ParseUnixRights(&messages[0])
	fmt.Println(string(bytes[:n]), len(fds))
	os.Exit(0)
}
`,
    );
    const program = path.join(directory, 'main');
    execFileSync('go', ['build', '-o', program, 'main.go'], {
      cwd: directory,
      env: { ...process.env, GO111MODULE: 'off' },
    });
    const { channel, theirs, given } = half(t, plain);
    const peer = new Program(t, [program], [theirs]);
    given();

    const message = await channel.receive();
    assert.deepEqual([message?.bytes.toString(), message?.fds.length], ['from Go', 2]);
    message?.close();
    await channel.send('to Go', [0, 1, 2]);
    assert.equal(await peer.line(), 'to Go 3');
    await peer.ends();
  });
});
