/** Frames of a Channel: the layout of docs/protocol.md. Descriptors are plain numbers here: nothing is opened. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import {
  ChannelFrameReader,
  HEADER_LENGTH,
  MAX_PAYLOAD,
  MAX_RIGHTS,
  type ReadFailure,
  type ReadMessage,
  writeHeader,
} from '../../lib/channel/frames.js';
import { frame, header } from './support.js';

const MORE = 1;
const LIMITS = { maxBytes: 4 * MAX_PAYLOAD, maxDescriptors: 1_000 };

/** What a reader made of pieces that came one after the other. */
class Reading {
  readonly reader: ChannelFrameReader;
  readonly messages: ReadMessage[] = [];
  failure: ReadFailure | undefined;

  constructor(limits: { maxBytes: number; maxDescriptors: number } = LIMITS) {
    this.reader = new ChannelFrameReader(limits);
  }

  push(bytes: Buffer, fds: readonly number[] = []): this {
    for (const fd of fds) this.reader.queue(fd);
    this.failure ??= this.reader.push(bytes, 0, bytes.length, this.messages);
    return this;
  }

  packet(bytes: Buffer, fds: readonly number[] = []): this {
    for (const fd of fds) this.reader.queue(fd);
    this.failure ??= this.reader.pushPacket(bytes, 0, bytes.length, this.messages);
    return this;
  }

  settle(): this {
    this.failure ??= this.reader.settle();
    return this;
  }

  end(): this {
    this.failure ??= this.reader.end();
    return this;
  }

  get texts(): [text: string, fds: number[]][] {
    return this.messages.map(({ bytes, fds }) => [bytes.toString(), fds]);
  }
}

const numbers = (count: number, first = 3): number[] => Array.from({ length: count }, (_, index) => first + index);

describe('the layout', () => {
  test('as docs/protocol.md has it', () => {
    const bytes = Buffer.alloc(20, 0xff);
    writeHeader(bytes, 4, true, 253, 0x01020304);
    assert.equal(bytes.toString('hex'), 'ffffffff46444301' + '01fd0000' + '01020304' + 'ffffffff');
    writeHeader(bytes, 0, false, 0, 5);
    assert.equal(bytes.subarray(0, 12).toString('hex'), '464443010000000000000005');
  });
});

describe('what is right is read', () => {
  test('a message, its descriptors in order', () => {
    const reading = new Reading()
      .push(frame('hello', { rights: 2 }), [7, 5])
      .settle()
      .end();
    assert.deepEqual([reading.texts, reading.failure, reading.reader.isEmpty], [[['hello', [7, 5]]], undefined, true]);
  });

  test('a byte at a time', () => {
    const reading = new Reading();
    for (const [index, byte] of frame('hello', { rights: 2 }).entries()) {
      reading.push(Buffer.from([byte]), index === 0 ? [7, 5] : []).settle();
    }
    assert.deepEqual([reading.texts, reading.failure], [[['hello', [7, 5]]], undefined]);
  });

  test('a message of several frames, with descriptors in any of them', () => {
    const reading = new Reading()
      .push(frame('one ', { rights: 2, flags: MORE }), [3, 4])
      .settle()
      .push(frame('', { rights: 1, flags: MORE }), [5])
      .push(frame('two', { rights: 1 }), [6])
      .settle();
    assert.deepEqual([reading.texts, reading.failure], [[['one two', [3, 4, 5, 6]]], undefined]);
  });

  test('several frames in one sendmsg, the descriptors of all of them with its first byte', () => {
    const together = Buffer.concat([frame('a', { rights: 1 }), frame('b'), frame('c', { rights: 2 })]);
    const whole = new Reading().push(together, [3, 4, 5]).settle();
    const cut = new Reading().push(together.subarray(0, 20), [3, 4, 5]).push(together.subarray(20)).settle();
    for (const { texts, failure } of [whole, cut]) {
      assert.deepEqual(
        [texts, failure],
        [
          [
            ['a', [3]],
            ['b', []],
            ['c', [4, 5]],
          ],
          undefined,
        ],
      );
    }
  });

  test('the tail of a message and the next one in one piece', () => {
    const first = frame('x'.repeat(100), { rights: MAX_RIGHTS });
    const reading = new Reading()
      .push(first.subarray(0, 50), numbers(MAX_RIGHTS))
      .settle()
      .push(Buffer.concat([first.subarray(50), frame('y', { rights: MAX_RIGHTS })]), numbers(MAX_RIGHTS, 1_000))
      .settle();
    assert.equal(reading.failure, undefined);
    assert.deepEqual(reading.messages[0]?.fds, numbers(MAX_RIGHTS));
    assert.deepEqual(reading.messages[1]?.fds, numbers(MAX_RIGHTS, 1_000));
  });

  test('the largest payload, and as many frames as the limits allow', () => {
    const reading = new Reading();
    for (let index = 0; index < 4; index++)
      reading.push(frame(Buffer.alloc(MAX_PAYLOAD), { flags: index < 3 ? MORE : 0 }));
    assert.equal(reading.failure, undefined);
    assert.equal(reading.messages[0]?.bytes.length, 4 * MAX_PAYLOAD);
  });

  test('the bytes are copied: the memory they came in is used again', () => {
    const bytes = frame('mine');
    const reading = new Reading().push(bytes);
    bytes.fill(0);
    assert.deepEqual(reading.texts, [['mine', []]]);
  });
});

describe('what is wrong ends the reader, which gives every descriptor back', () => {
  const wrong: [name: string, read: () => Reading, says: RegExp, dropped: number[]][] = [
    ['another magic', () => new Reading().push(Buffer.from('GET / HTTP/1.1'), [9]), /do not begin with FDC/, [9]],
    ['garbage, with its first byte', () => new Reading().push(Buffer.from('x')), /do not begin with FDC/, []],
    ['another layout', () => new Reading().push(header({ layout: 2 }).subarray(0, 4)), /layout 2, known is 1/, []],
    ['an unknown flag', () => new Reading().push(header({ flags: 2 }).subarray(0, 5)), /flags of a frame: 2/, []],
    [
      '254 descriptors',
      () => new Reading().push(header({ rights: 254 }).subarray(0, 6)),
      /254 descriptors, at most 253/,
      [],
    ],
    ['reserved bits', () => new Reading().push(header({ reserved: 0x100 }).subarray(0, 7)), /reserved/, []],
    ['reserved bits', () => new Reading().push(header({ reserved: 1 }).subarray(0, 8)), /reserved/, []],
    [
      '1 GiB of length',
      () => new Reading().push(header({ length: 2 ** 30 })),
      /frame of 1073741824 bytes, at most/,
      [],
    ],
    ['a byte too much of length', () => new Reading().push(header({ length: MAX_PAYLOAD + 1 })), /at most 1048576/, []],
    ['an empty frame with MORE', () => new Reading().push(header({ flags: MORE })), /nothing in it and MORE/, []],
    [
      'fewer than named',
      () => new Reading().push(frame('x', { rights: 2 }), [5]),
      /names 2 descriptors and came with 1/,
      [5],
    ],
    [
      'fewer than named, where more come with the next frame',
      () => new Reading().push(frame('x', { rights: 1 })).push(frame('y'), [5]),
      /names 1 descriptor and came with 0/,
      [5],
    ],
    [
      'more than named',
      () => new Reading().push(frame('x', { rights: 1 }), [5, 6]).settle(),
      /1 descriptor came that no/,
      [6],
    ],
    [
      'fewer than the frame in progress names',
      () => new Reading().push(frame('abc', { rights: 2 }).subarray(0, 13), [5]).settle(),
      /names 2 descriptors and came with 1/,
      [5],
    ],
    [
      'descriptors in the middle of a frame',
      () =>
        new Reading()
          .push(header({ length: 9 }))
          .settle()
          .push(Buffer.from('abc'), [5])
          .settle(),
      /names 0 descriptors and came with 1/,
      [5],
    ],
    [
      'descriptors without end, while nothing was ever read empty',
      () => {
        const reading = new Reading().push(frame('x'.repeat(9), { rights: 3 }).subarray(0, 13), numbers(3));
        return reading.push(Buffer.from('y'), numbers(253, 100)).push(Buffer.from('y'), numbers(1, 900));
      },
      /257 descriptors came where the frame names 3/,
      [...numbers(3), ...numbers(253, 100), 900],
    ],
    [
      'half a header, then the end',
      () => new Reading().push(header().subarray(0, 3), [5]).end(),
      /middle of a frame/,
      [5],
    ],
    [
      'half a payload, then the end',
      () => new Reading().push(frame('abc').subarray(0, 14)).end(),
      /middle of a frame/,
      [],
    ],
    [
      'half a message, then the end',
      () => new Reading().push(frame('a', { rights: 1, flags: MORE }), [5]).end(),
      /middle of a message/,
      [5],
    ],
    [
      'unsolicited ones, then the end',
      () => new Reading().push(frame('a'), [5]).end(),
      /1 descriptor came that no/,
      [5],
    ],
  ];
  for (const [name, read, says, dropped] of wrong) {
    test(`${name}: ${String(says)}`, () => {
      const reading = read();

      assert.match(reading.failure?.message ?? 'no failure', says);
      assert.equal(reading.failure?.code, 'ERR_FDPASS_PROTOCOL');
      assert.deepEqual(reading.reader.drop(), dropped);
      assert.deepEqual(reading.reader.drop(), []);
    });
  }

  test('what was complete before it is kept', () => {
    const reading = new Reading().push(Buffer.concat([frame('good', { rights: 1 }), Buffer.from('bad')]), [5]);
    assert.deepEqual(reading.texts, [['good', [5]]]);
    assert.match(reading.failure?.message ?? '', /do not begin/);
  });

  test('nothing is read after it', () => {
    const reading = new Reading()
      .push(Buffer.from('x'))
      .push(frame('good', { rights: 1 }), [5])
      .settle()
      .end();
    assert.deepEqual(reading.texts, []);
    assert.deepEqual(reading.reader.drop(), [5]);
  });
});

describe('limits of a message', () => {
  const limits = { maxBytes: 10, maxDescriptors: 2 };

  test('exactly as much as is allowed', () => {
    const reading = new Reading(limits)
      .push(frame('12345', { rights: 1, flags: MORE }), [3])
      .push(frame('67890', { rights: 1 }), [4]);
    assert.deepEqual([reading.texts, reading.failure], [[['1234567890', [3, 4]]], undefined]);
  });

  for (const [name, bytes, more] of [
    ['one frame', header({ length: 11 }), false],
    ['all frames together', header({ length: 6 }), true],
    ['descriptors of one frame', header({ rights: 3 }), false],
    ['descriptors of all frames together', header({ rights: 2 }), true],
  ] as const) {
    test(`${name}: a byte or a descriptor more is refused when the header is there`, () => {
      const reading = new Reading(limits);
      if (more) reading.push(frame('12345', { rights: 1, flags: MORE }), [3]);
      reading.push(bytes);
      assert.equal(reading.failure?.code, 'ERR_FDPASS_LIMIT');
      assert.deepEqual(reading.reader.drop(), more ? [3] : []);
    });
  }

  test('the limits are those of one message, not of all', () => {
    const reading = new Reading(limits);
    for (let index = 0; index < 5; index++) reading.push(frame('1234567890', { rights: 2 }), [3, 4]);
    assert.deepEqual([reading.messages.length, reading.failure], [5, undefined]);
  });

  test('memory grows with what has come, not with what a header promises', () => {
    const large = new Reading({ maxBytes: 2 ** 30, maxDescriptors: 1 });
    const before = process.memoryUsage().arrayBuffers;
    large.push(header({ length: MAX_PAYLOAD }));
    for (let index = 0; index < 1_000; index++) large.push(Buffer.from('x'));
    assert.ok(process.memoryUsage().arrayBuffers - before < MAX_PAYLOAD / 2);
  });
});

describe('packets', () => {
  test('each is one frame, and MORE works the same', () => {
    const reading = new Reading()
      .packet(frame('a', { rights: 1, flags: MORE }), [3])
      .packet(frame('b', { rights: 1 }), [4]);
    assert.deepEqual([reading.texts, reading.failure], [[['ab', [3, 4]]], undefined]);
  });

  for (const [name, packet] of [
    ['half a frame', frame('abc').subarray(0, 13)],
    ['half a header', frame('abc').subarray(0, 5)],
    ['two frames', Buffer.concat([frame('a'), frame('b')])],
    ['a frame and a half', Buffer.concat([frame('a'), frame('b').subarray(0, HEADER_LENGTH)])],
    ['nothing', Buffer.alloc(0)],
  ] as const) {
    test(`${name} is refused`, () => {
      const reading = new Reading().packet(packet, [5]);
      assert.match(reading.failure?.message ?? '', /not exactly one frame|names 0 descriptors|no frame names/);
    });
  }

  test('more descriptors than the frame names', () => {
    const reading = new Reading().packet(frame('a', { rights: 1 }), [3, 4]);
    assert.match(reading.failure?.message ?? '', /1 descriptor came that no frame names/);
  });
});
